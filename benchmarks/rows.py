"""Rows of `records/`: how each benchmark keeps what it measured."""

import json
import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path


def append(record: Path, row: Mapping[str, object]) -> None:
    """Adds a row to a file of JSON lines; once this returns it is on the disk."""
    record.parent.mkdir(parents=True, exist_ok=True)
    with open(record, "ab+") as file:
        whole = file.tell() == 0 or (file.seek(-1, os.SEEK_END) >= 0 and file.read(1) == b"\n")
        file.write((("" if whole else "\n") + json.dumps(row) + "\n").encode())  # after a line that a kill cut short
        file.flush()
        os.fsync(file.fileno())


def summary(values: Sequence[float], digits: int) -> list[float]:
    """Median, smallest and largest."""
    return [round(f(values), digits) for f in (statistics.median, min, max)]

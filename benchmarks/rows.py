"""Rows of `records/`: how each benchmark keeps what it measured."""

import json
from collections.abc import Mapping
from pathlib import Path


def append(record: Path, row: Mapping[str, object]) -> None:
    """Adds a row to a file of JSON lines."""
    record.parent.mkdir(parents=True, exist_ok=True)
    with open(record, "a") as file:
        file.write(json.dumps(row) + "\n")

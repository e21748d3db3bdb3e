"""The record of judgements, `evaluation.json`."""

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..runs import write_json


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One judgement, as it stands in `evaluation.json`."""

    format: int = 1
    protocol: str
    top1: float
    """Share of the test images, in [0, 1]."""
    top5: float
    interval: tuple[float, float]
    """95 % bootstrap interval of `top1` over the test images."""
    settings: dict[str, object]
    """How the features were made, and the protocol's constants."""
    train_images: int
    test_images: int
    classes: int
    encoder_sha256: str
    data_fingerprint: str
    seed: int
    seconds: float
    """What judging took, the computing of the features not included."""
    date: str
    """When it ended, ISO 8601, UTC."""
    history: list[dict[str, float]]
    """How it came about. knn: `k`, `top1` and `top5`, for each k. linear: `lr`, its accuracy `held_out` and whether it
    was `chosen`, for each learning rate, then `step` and `loss` of the final training."""


def record(path: Path, entries: Iterable[Entry]) -> None:
    """Adds entries to an `evaluation.json`; the same protocol, settings, encoder and data replace the old entry.

    The contract of the file names protocol, settings and data alone. The encoder counts on purpose, too: a run that
    was trained on, or a file that several runs share (`--out`), keeps the judgements of each of its encoders.

    Raises:
        ValueError: the file that is there is no list of entries of format 1. It is left as it is.
    """
    rows = _read(path) if path.exists() else []
    for entry in entries:
        new = json.loads(json.dumps(dataclasses.asdict(entry), allow_nan=False))  # tuples become lists, as in the file
        rows = [row for row in rows if _identity(row) != _identity(new)] + [new]
    write_json(path, rows)


def _read(path: Path) -> list[dict[str, object]]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as e:
        raise ValueError(f"{path} is not JSON ({e}). It was left as it is; move it away to start a new one.") from e
    if not isinstance(rows, list) or not all(isinstance(row, dict) and row.get("format") == 1 for row in rows):
        raise ValueError(
            f"{path} is not a list of entries with format 1; it may come from a newer lookalike. "
            "It was left as it is; move it away to start a new one."
        )
    return rows


def _identity(row: dict[str, object]) -> list[object]:
    return [row.get(name) for name in ("protocol", "settings", "encoder_sha256", "data_fingerprint")]

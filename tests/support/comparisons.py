"""Comparisons through the command, on tiny networks."""

import json
from pathlib import Path
from typing import Any

import pytest

from lookalike import cli


def command(data: Path, *methods: str, labelled: Path, out: Path, more: tuple[str, ...] = ()) -> list[str]:
    return [
        "compare", str(data), *methods, "--train", str(labelled / "train"), "--test", str(labelled / "test"),
        "--backbone", "test_byobnet", "--image-size", "32", "--batch-size", "8", "--workers", "0", "--out", str(out),
        "--no-report", *more,
    ]  # fmt: skip


SHORT = ("--epochs", "1", "--seeds", "2", "--protocols", "knn")


def content_of(out: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((out / "compare.json").read_text())
    return content


def numbers(out: Path) -> list[tuple[object, ...]]:
    """All of a comparison that does not depend on the clock."""
    rows = content_of(out)["trainings"]
    names = ("method", "seed", "status", "error", "epochs", "steps", "gflops_per_image", "verdict", "why", "results")
    return [tuple(row[name] for name in names) for row in rows]


def run(capsys: pytest.CaptureFixture[str], argv: list[str], code: int) -> tuple[str, str]:
    capsys.readouterr()
    assert cli.main(argv) == code
    said = capsys.readouterr()
    assert "Traceback" not in said.out + said.err
    return said.out, said.err

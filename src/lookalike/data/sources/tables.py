"""Lists of images with columns: CSV, TSV and JSONL files."""

import csv
import json
import os
from collections.abc import Iterator, Sequence
from typing import Final

from torch import Tensor

from ...printing import printable
from ..labels import class_numbers, onto
from .files import relative

TABLES: Final = {".csv": ",", ".tsv": "\t", ".jsonl": ""}
"""Suffixes of such lists -> the separator of columns."""
PATH: Final = "path"
LABEL: Final = "label"
IMAGE: Final = "image"
"""The files themselves, in Parquet and Arrow files."""


def rows(path: str) -> tuple[list[str], list[str] | None]:
    """The paths and labels of a list, in file order; paths inside its folder are relative to it.

    Raises:
        ValueError: no column `path`, no rows, an empty path or label, or a row that cannot be read; with its line.
        FileNotFoundError: none of the first files exists.
    """
    paths: list[str] = []
    labels: list[str] = []
    has_labels = False
    for line, row in _rows(path):
        if not paths:
            has_labels = LABEL in row
        if PATH not in row:
            columns = ", ".join(printable(str(name)) for name in list(row)[:8])
            raise ValueError(
                f"{path} has no column {PATH} in line {line} (columns: {columns}). Name the column of image paths "
                f"{PATH}."
            )
        if not isinstance(row[PATH], str) or not row[PATH]:
            raise ValueError(f"{path} has no {PATH} in line {line}. Fill it in, or remove the line.")
        if has_labels:
            label = row.get(LABEL)
            if not isinstance(label, str | int) or isinstance(label, bool) or label == "":
                raise ValueError(f"{path} has no {LABEL} in line {line}. Fill it in, or remove the line.")
            labels.append(str(label))
        paths.append(os.path.normpath(str(row[PATH])))
    if not paths:
        raise ValueError(f"{path} lists no images. Give a list with one image per line.")
    return relative(paths, os.path.dirname(path), path), labels if has_labels else None


def _rows(path: str) -> Iterator[tuple[int, dict[str, object]]]:
    """The line number and columns of each row."""
    separator = TABLES[os.path.splitext(path)[1].lower()]
    try:
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            if separator:
                reader = csv.DictReader(file, delimiter=separator, strict=True)
                for row in reader:
                    yield reader.line_num, dict(row)
            else:
                for number, text in enumerate(file, 1):
                    if text.strip():
                        found = json.loads(text)
                        if not isinstance(found, dict):
                            raise csv.Error(f"line {number} is no object")
                        yield number, found
    except (csv.Error, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as a list of images ({error}). Correct it.") from None


def table_labels(labels: list[str], classes: Sequence[str] | None, where: str) -> tuple[Tensor, tuple[str, ...]]:
    """Labels of a list as indices into `classes`, by default the names found; whole numbers are sorted as numbers."""
    numbers, texts = class_numbers(labels, len(labels), where)
    assert texts is not None
    if classes is None and all(text.isdecimal() for text in texts):
        classes = sorted(texts, key=int)
    return onto(texts, numbers, None if classes is None else tuple(classes), where)

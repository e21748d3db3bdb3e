"""Lists of images with columns: CSV, TSV and JSONL files."""

import csv
import json
import os
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor

from ...columns import COLUMNS, Columns
from ...image_options import Pixels
from ...printing import composed, counted, printable, shown
from ..labels import class_numbers, onto
from .categorical import Categorical
from .files import Files, relative
from .frames import frames_of

TABLES: Final = {".csv": ",", ".tsv": "\t", ".jsonl": ""}
"""Suffixes of such lists -> the separator of columns."""
SEPARATOR: Final = ";"
"""Between the classes of an image, if it may have several."""
MOST_MARKS: Final = 2**32
"""Limit for images times classes, if an image may have several: its table has a byte for each."""


@dataclass(frozen=True)
class Table:
    """The columns of a list, in file order."""

    path: str
    paths: list[str]
    """Paths of the images; those inside the list's folder are relative to it."""
    columns: Columns
    lines: Sequence[int]
    """The line of each row."""
    values: Mapping[str, list[object]] = field(default_factory=dict)
    """Values as read, by field of `columns`: label, group, split; of the columns that the list has."""

    def texts(self, name: str) -> list[str] | None:
        """The texts of the column `label`, `group` or `split`; None if the list has no such column.

        Raises:
            ValueError: a value is missing, or neither a text nor a whole number; with its line.
        """
        values = self.values.get(name)
        if values is None:
            return None
        for value, line in zip(values, self.lines, strict=True):
            if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
                raise self._bad(vars(self.columns)[name], value, line)
        return [str(value) for value in values]

    def sets(self) -> list[tuple[str, ...]]:
        """The classes of each image, if an image may have several: `a;b`, in JSONL also ["a", "b"]; empty for none.

        Raises:
            ValueError: the list has no column of classes, or a value is neither a text nor a list of texts.
        """
        values, name = self.values.get("label"), self.columns.label
        if values is None:
            raise no_classes(self.path, name)
        found = []
        for value, line in zip(values, self.lines, strict=True):
            if (classes := classes_in(value)) is None:
                raise self._bad(name, value, line)
            found.append(classes)
        return found

    def categories(self, name: str) -> Categorical | None:
        """The column `group` or `split`; None if the list has no such column. Errors are those of `texts`."""
        texts = self.texts(name)
        return None if texts is None else Categorical.of(texts)

    def _bad(self, column: str, value: object, line: int) -> ValueError:
        if value is None or value == "":
            return ValueError(f"{self.path} has no {column} in line {line}. Fill it in, or remove the line.")
        return ValueError(
            f"{self.path} has the {column} {shown(value)} in line {line}; expected a text or a whole number. Correct "
            "it."
        )


def no_classes(path: str, column: str) -> ValueError:
    """The error for a list without the column of classes."""
    return ValueError(
        f"{path} has no column {column or 'of classes'}. Give each image its classes there, such as a;b, or name the "
        "column with --columns.label."
    )


def classes_in(value: object, names: Sequence[str] | None = None) -> tuple[str, ...] | None:
    """The classes of an image that may have several: `a;b`, or a list of texts or numbers; None for other values.

    Args:
        names: the classes that numbers in a list stand for.
    """
    parts = value if isinstance(value, list) else [] if value is None else [value]
    if any(isinstance(part, bool) or not isinstance(part, str | int) for part in parts):
        return None
    if names is not None and isinstance(value, list):
        if any(isinstance(part, int) and not 0 <= part < len(names) for part in parts):
            return None
        parts = [names[part] if isinstance(part, int) else part for part in parts]
    texts = [str(part) for part in parts]
    if not isinstance(value, list):
        texts = "".join(texts).split(SEPARATOR)
    return tuple(dict.fromkeys(text.strip() for text in texts if text.strip()))


def read_table(path: str, columns: Columns = COLUMNS) -> Table:
    """Reads a list of images.

    Raises:
        ValueError: a named column is missing, no rows, an empty path, or a row that cannot be read; with its line.
        FileNotFoundError: none of the first files exists.
    """
    names = {name: column for name, column in vars(columns).items() if column and name != "path"}
    paths: list[str] = []
    lines = array("q")
    values: dict[str, list[object]] = {name: [] for name in names}
    present: set[str] = set()
    header: list[str] = []
    for line, row in _rows(path):
        header = header or [printable(str(column)) for column in list(row)[:8]]
        if columns.path not in row:
            raise _missing(path, columns.path, line, header)
        if not isinstance(row[columns.path], str) or not row[columns.path]:
            raise ValueError(f"{path} has no {columns.path} in line {line}. Fill it in, or remove the line.")
        paths.append(os.path.normpath(str(row[columns.path])))
        lines.append(line)
        for name, column in names.items():
            if column in row:
                present.add(name)
            values[name].append(row.get(column))
    if not paths:
        raise ValueError(f"{path} lists no images. Give a list with one image per line.")
    for name, column in names.items():
        if name not in present and column != vars(COLUMNS)[name]:
            raise _missing(path, column, lines[0], header)
    found = {name: values[name] for name in names if name in present}
    return Table(path, relative(paths, os.path.dirname(path), path), columns, lines, found)


def open_table(
    path: str, pixels: Pixels, labelled: bool, classes: Sequence[str] | None, columns: Columns, multi_label: bool
) -> Files:  # fmt: skip
    """The images of a list; the arguments are those of `open_source`.

    A column that is not needed and cannot be used is left out; `unusable` has the reason.
    """
    table = read_table(path, columns)
    texts = table.texts("label") if labelled and not multi_label else None
    by_folder = labelled and not multi_label and texts is None
    each = frames_of(os.path.dirname(table.path), table.paths)
    source = Files(os.path.dirname(table.path), each.paths, pixels, by_folder, classes, notes=each.notes)
    rows = torch.tensor(each.rows)  # a file of several frames is several images
    if texts is not None:
        labels, source.classes = table_labels(texts, classes, table.path)
        source.labels = labels[rows]
    elif labelled and multi_label:
        label_sets, source.classes = table_label_sets(table.sets(), classes, table.path)
        source.label_sets = label_sets[rows]
    unusable: dict[str, str] = {}

    def column(name: str) -> Categorical | None:
        try:
            found = table.categories(name)
            return None if found is None else found.at(rows)
        except ValueError as error:
            unusable[f"{name}s"] = str(error)
            return None

    source.groups, source.splits = column("group"), column("split")
    if not labelled:
        try:
            table.texts("label")
        except ValueError as error:
            unusable["labels"] = str(error)
    source.unusable = unusable
    return source


def _missing(path: str, column: str, line: int, header: Sequence[str]) -> ValueError:
    return ValueError(
        f"{path} has no column {printable(column)} in line {line} (columns: {', '.join(header)}). Name the columns, "
        "such as --columns.path file."
    )


def _rows(path: str) -> Iterator[tuple[int, dict[str, object]]]:
    """The line number and columns of each row."""
    separator = TABLES[os.path.splitext(path)[1].lower()]
    try:
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            if separator:
                reader = csv.DictReader(file, delimiter=separator, strict=True)
                names = list(reader.fieldnames or ())
                if repeated := [name for name in names if names.count(name) > 1]:
                    raise csv.Error(f"its header has {shown(repeated[0])} twice")
                for row in reader:
                    if None in row:
                        raise csv.Error(f"line {reader.line_num} has more fields than the header; quote commas")
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


def table_label_sets(
    sets: Sequence[Sequence[str]], classes: Sequence[str] | None, where: str
) -> tuple[Tensor, tuple[str, ...]]:
    """The classes of each image, if it may have several, as (N, classes) bool, and the classes, as in `table_labels`.

    Raises:
        ValueError: no image has a class, there are too many classes, or one is not in `classes`.
    """
    numbers: dict[str, int] = {}
    images, marks = array("q"), array("q")
    for image, names in enumerate(sets):
        for name in names:
            images.append(image)
            marks.append(numbers.setdefault(composed(name), len(numbers)))
    texts = tuple(map(printable, numbers))
    if not texts and classes is None:
        raise ValueError(f"No image of {where} has a class. Give each image its classes, such as a;b.")
    if classes is None and texts and all(text.isdecimal() for text in texts):
        classes = sorted(texts, key=int)
    chosen, known = onto(texts, torch.arange(len(texts)), None if classes is None else tuple(classes), where)
    if len(sets) * len(known) > MOST_MARKS:
        raise ValueError(
            f"{where} has {counted(len(known), 'class', grouped=True)} for {counted(len(sets), 'image', grouped=True)}"
            ", too many for several classes per image. Leave --multi-label out, or use fewer classes."
        )
    found = torch.zeros(len(sets), len(known), dtype=torch.bool)
    found[torch.tensor(images, dtype=torch.int64), chosen.long()[torch.tensor(marks, dtype=torch.int64)]] = True
    return found, known

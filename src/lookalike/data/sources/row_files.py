"""Images in the rows of Parquet and Arrow files, read in place."""

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import torch

from ...columns import COLUMNS, Columns
from ...image_options import Pixels
from ...printing import brief, printable, shown, warn
from ...progress import counting
from ..errors import BrokenImage
from . import member_index
from .arrow import ArrowTable
from .categorical import Categorical
from .files import relative
from .members import Members, Unreadable
from .parquet import ParquetTable, Pieces
from .source import Source
from .table_columns import BYTES, IMAGE, PATH, Chosen, chosen_columns, class_of, names_in_lists
from .tables import classes_in, no_classes, table_label_sets

SUFFIXES_OF_ROWS: Final = (".parquet", ".arrow")


class Table(Protocol):
    """An open file of rows."""

    rows: int
    schema: Any

    def close(self) -> None: ...

    def batches(self, columns: Sequence[str]) -> Iterator[Any]: ...

    def value(self, column: str, row: int) -> object: ...

    def remark(self, column: str) -> str: ...


class Opened(NamedTuple):
    """An open file, and which of its columns are read."""

    table: Table
    columns: Chosen


def opened(path: str, pieces: Pieces, columns: Columns = COLUMNS) -> Opened:
    """Opens a Parquet or Arrow file.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is truncated or of another kind, or has no column of images.
    """
    import pyarrow

    is_parquet = path.lower().endswith(".parquet")
    try:
        table: Table = ParquetTable(path, pieces) if is_parquet else ArrowTable(path)
    except (pyarrow.ArrowException, ValueError, OSError, EOFError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        kind = "a Parquet" if is_parquet else "an Arrow"
        raise ValueError(f"{path} is not {kind} file, or is truncated ({_reason(error)}). Copy it again.") from None
    return Opened(table, chosen_columns(table.schema, path, columns))


def _reason(error: Exception) -> str:
    return brief(" ".join(str(error).split()) or type(error).__name__, 150).rstrip(".")


class Rows(Members[Opened]):
    """The images in the rows of one or several files, by their names, else by their numbers."""

    expected = "Give files with one image per row."
    add_label = f"Add a column {COLUMNS.label} of integers or texts, without nulls."

    def __init__(
        self, data: str, paths: Sequence[str], pixels: Pixels, labelled: bool, classes: Sequence[str] | None,
        columns: Columns = COLUMNS, multi_label: bool = False,
    ) -> None:  # fmt: skip
        has_sets = labelled and multi_label
        asked = columns
        if has_sets:  # the index has one label per image
            columns = dataclasses.replace(columns, label="")
        self._pieces, self._columns = Pieces(), columns
        variant = "" if columns == COLUMNS else f"{columns.path}\0{columns.label}"
        super().__init__(data, paths, pixels, labelled and not multi_label, classes, variant)
        names, starts = _named(self.paths, columns)
        rows = starts[self.index.archives] + self.index.offsets if names or has_sets else np.empty(0, np.int64)
        if names:
            take_names(self, {name: values[rows] for name, values in names.items()})
        if has_sets:
            found, known = table_label_sets(sets_in(self.paths, asked), classes, data)
            self.label_sets, self.classes = found[torch.from_numpy(rows)], known

    def _open(self, path: str) -> Opened:
        return opened(path, self._pieces, self._columns)

    def _close(self, handle: Opened) -> None:
        handle.table.close()

    def _search(self, path: str, alone: bool) -> member_index.Found:
        table, columns = opened(path, self._pieces, self._columns)
        if columns.image is None:
            raise ValueError(f"{path} has no column {IMAGE}, unlike other files of {self.data}. Give them alone.")
        found = member_index.Found(numbered=columns.numbered, classes=columns.classes)
        try:
            progress = counting(warn, "index: ", "rows", unit="rows")
            for row, (name, label) in enumerate(_names(table, columns, path)):
                if alone and not row % 65536:
                    progress(row, table.rows)
                found.add(name, row, 0, 0)
                if label is not None:
                    found.labels[row] = found.texts.setdefault(label, len(found.texts))
            remarks = [*columns.notes, table.remark(columns.image)]
            found.notes += [f"{os.path.basename(path)}: {remark}" for remark in remarks if remark]
        finally:
            table.close()
        return found

    def _image(self, number: int, row: int) -> bytes | str:
        """The content of an image's file, or its path.

        Raises:
            Unreadable: the row has no image, or cannot be decoded.
        """
        import pyarrow

        table, columns = self._opened(number)
        assert columns.image is not None
        try:
            value = table.value(columns.image, int(self.index.offsets[row]))
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            raise Unreadable(f"its row cannot be read ({_reason(error)})") from None
        content, path = (value.get(BYTES), value.get(PATH)) if isinstance(value, dict) else (value, None)
        if isinstance(content, bytes):
            return content
        if isinstance(path, str) and path:
            return os.path.join(os.path.dirname(self.paths[number]), path)
        raise Unreadable("its row has no image (null)")

    def _content(self, number: int, row: int, limit: int) -> bytes:
        image = self._image(number, row)
        if isinstance(image, bytes):
            return image[:limit]
        if not os.path.isfile(image):  # a pipe would block
            raise Unreadable(f"{printable(image)}: no such file")
        try:
            with open(image, "rb") as file:
                return file.read(limit)
        except OSError as error:
            raise Unreadable(f"{printable(image)}: {error.strerror or error}") from None

    def head(self, i: int, limit: int) -> tuple[int, bytes] | None:
        try:
            whole = self.content(i)
        except (BrokenImage, ValueError):
            return None
        return len(whole), whole[:limit]


def _names(table: Table, columns: Chosen, path: str) -> Iterator[tuple[str, str | None]]:
    """Name and class of each row; empty and None without them. Names inside the file's folder are relative to it.

    Raises:
        ValueError: a row without a path, or with an unusable one.
    """
    wanted = [name for name in (columns.names, columns.label) if name is not None]
    if not wanted:
        yield from (("", None) for _ in range(table.rows))
        return
    root, row = os.path.join(os.path.dirname(path), ""), 0
    for batch in table.batches(wanted):
        names = _entries(batch, columns.names, path) if columns.names else [None] * len(batch)
        labels = _entries(batch, columns.label, path) if columns.label else [None] * len(batch)
        for name, label in zip(names, labels):
            if isinstance(name, str) and name:
                if "\0" in name:
                    raise ValueError(f"{path} has a zero byte in the path of row {row}. Correct it.")
                name = os.path.normpath(name).removeprefix(root).replace(os.sep, "/")
            elif not columns.numbered:
                raise ValueError(f"{path} has no {columns.names} in row {row}. Fill it in, or remove the row.")
            yield str(name or ""), class_of(label, columns.classes)
            row += 1


def _entries(batch: Any, column: str, path: str) -> list[object]:
    """A column of a batch, or a field of one, as a list."""
    names = batch.schema.names
    outer, _, inner = (column, "", "") if column in names else column.partition(".")
    array = batch.column(names.index(outer))
    try:
        found: list[object] = (array.field(inner) if inner else array).to_pylist()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: column {column} has texts that are not UTF-8 ({error}). Correct them.") from None
    return found


class Listed(NamedTuple):
    """A list of image files: rows of paths, without the files themselves."""

    folder: str
    paths: list[str]
    labels: list[str] | None
    classes: tuple[str, ...] | None
    columns: dict[str, np.ndarray]
    """See `take_names`."""


def listed_rows(data: str, files: Sequence[str], labelled: bool, names: Columns = COLUMNS) -> Listed | None:
    """The paths in the rows of several files, in their order; None if the rows hold the images.

    Raises:
        ValueError: a row without a path, or with `labelled` without a label.
        FileNotFoundError: none of the first images exists.
    """
    folder, paths, labels = os.path.dirname(files[0]), list[str](), list[str]()
    classes, has_labels = None, False
    for number, file in enumerate(files):
        table, columns = opened(file, Pieces(), names)
        try:
            if columns.image is not None and not number:
                return None
            if columns.image is not None:
                raise ValueError(f"{file} has a column {IMAGE}, unlike other files of {data}. Give them alone.")
            has_labels = columns.label is not None if not number else has_labels
            classes = columns.classes
            for row, (name, label) in enumerate(_names(table, columns, file)):
                paths.append(os.path.normpath(os.path.join(os.path.dirname(file), name)))
                if has_labels and labelled:
                    if label is None:
                        raise ValueError(f"{file} has no {columns.label} in row {row}. Fill it in, or remove the row.")
                    labels.append(label)
        finally:
            table.close()
    if not paths:
        raise ValueError(f"{data} lists no images. Give files with one image per row.")
    return Listed(
        folder, relative(paths, folder, data), labels if has_labels else None, classes, _named(files, names)[0]
    )


def sets_in(files: Sequence[str], columns: Columns) -> list[tuple[str, ...]]:
    """The classes of all rows in file order, if an image may have several: `a;b`, or lists of texts or numbers.

    Raises:
        ValueError: a file has no such column, or a value is none of these.
    """
    label, others = columns.label, dataclasses.replace(columns, label="")
    found: list[tuple[str, ...]] = []
    for file in files:
        table, row = opened(file, Pieces(), others).table, 0
        try:
            if not label or label not in table.schema.names:
                raise no_classes(file, label)
            names = names_in_lists(table.schema, label)
            for batch in table.batches([label]):
                for value in _entries(batch, label, file):
                    if (classes := classes_in(value, names)) is None:
                        raise ValueError(
                            f"{file} has the {label} {shown(value)} in row {row}; expected a;b or a list. Correct it."
                        )
                    found.append(classes)
                    row += 1
        finally:
            table.close()
    return found


def _named(files: Sequence[str], columns: Columns) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The columns `group` and `split` of all rows, in file order, and the first row of each file.

    They are (N,) objects, without those that a file lacks; if the first file lacks both, no other one is opened.
    """
    found: dict[str, list[object]] = {"group": [], "split": []}
    counts = [0]
    for file in files:
        table = opened(file, Pieces(), columns).table
        counts.append(table.rows)
        for name in list(found):
            column = vars(columns)[name]
            if column in table.schema.names:
                found[name] += [each for batch in table.batches([column]) for each in _entries(batch, column, file)]
            else:
                del found[name]
        table.close()
        if not found:
            break
    return {name: np.fromiter(values, object, len(values)) for name, values in found.items()}, np.cumsum(counts)


def take_names(source: Source, columns: Mapping[str, np.ndarray]) -> None:
    """Gives a source its groups and splits, or the reason why a column cannot be used.

    Args:
        columns: the values of `group` and `split`, (N,) objects; without columns that are missing.
    """
    unusable = dict(source.unusable)
    for name, values in columns.items():
        bad = [row for row, value in enumerate(values) if isinstance(value, bool) or not isinstance(value, str | int)]
        if bad:
            unusable[f"{name}s"] = f"{source.name(bad[0])} has no usable {name}: {shown(values[bad[0]])}. Correct it."
            continue
        found = Categorical.of([str(value) for value in values])
        if name == "group":
            source.groups = found
        else:
            source.splits = found
    source.unusable = unusable

"""Rows of Parquet files: any row by its number, from row groups of which the last ones are in memory."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np

from ...printing import counted, size_of

CACHED: Final = 2**27
"""Bytes of decoded row groups that a process stores per source."""
_PIECE: Final = 2**26
"""Bytes: larger row groups are decoded in pieces, so that memory stays bounded."""
_SLOW: Final = 2**22
"""Bytes of images in a row group above which reading single images is slow (`benchmarks/sources.py`)."""


class Pieces:
    """The decoded parts of columns that were used last, up to `CACHED` bytes. Another process begins with none."""

    def __init__(self) -> None:
        self._found: OrderedDict[tuple[str, str, int], tuple[int, Any]] = OrderedDict()
        self._bytes = 0

    def __reduce__(self) -> tuple[type["Pieces"], tuple[()]]:
        return Pieces, ()

    def get(self, key: tuple[str, str, int], row: int) -> tuple[int, Any] | None:
        """The first row of a part and its array, if it contains a row."""
        found = self._found.get(key)
        if found is None or not 0 <= row - found[0] < len(found[1]):
            return None
        self._found.move_to_end(key)
        return found

    def put(self, key: tuple[str, str, int], first: int, array: Any) -> None:
        if key in self._found:
            self._bytes -= int(self._found.pop(key)[1].nbytes)
        self._found[key] = first, array
        self._bytes += int(array.nbytes)
        while self._bytes > CACHED and len(self._found) > 1:
            _, (_, oldest) = self._found.popitem(last=False)
            self._bytes -= int(oldest.nbytes)


class ParquetTable:
    """An open Parquet file."""

    def __init__(self, path: str, pieces: Pieces) -> None:
        """Reads the file's footer.

        Raises:
            OSError: it cannot be opened.
            ValueError: it is no Parquet file, or is truncated.
        """
        import pyarrow.parquet

        self.path = path
        self._pieces = pieces
        self._file = pyarrow.parquet.ParquetFile(path, buffer_size=2**20)
        about = self._file.metadata
        counts = [about.row_group(k).num_rows for k in range(about.num_row_groups)]
        self._starts = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
        self.rows = int(self._starts[-1])
        self.schema = self._file.schema_arrow
        self._reading: tuple[str, int, int, Iterator[Any]] | None = None
        """Column, row group, next row and remaining batches of a row group that is read in pieces."""

    def close(self) -> None:
        self._file.close()

    def batches(self, columns: Sequence[str]) -> Iterator[Any]:
        """All rows of some columns or fields, as record batches."""
        yield from self._file.iter_batches(batch_size=2**16, columns=list(columns), use_threads=False)

    def value(self, column: str, row: int) -> object:
        """An entry of a column."""
        group = int(np.searchsorted(self._starts, row, "right")) - 1
        within = row - int(self._starts[group])
        found = self._pieces.get((self.path, column, group), within)
        if found is None:
            found = self._read(column, group, within)
            self._pieces.put((self.path, column, group), *found)
        first, array = found
        return array[within - first].as_py()

    def _read(self, column: str, group: int, row: int) -> tuple[int, Any]:
        """The part of a row group that contains a row: its first row and its array."""
        count, size = int(self._starts[group + 1] - self._starts[group]), self._size(column, group)
        if size <= _PIECE:
            return 0, self._file.read_row_group(group, columns=[column], use_threads=False).column(0)
        at, batches = 0, iter(())  # type: tuple[int, Iterator[Any]]
        if self._reading is not None and self._reading[:2] == (column, group) and self._reading[2] <= row:
            *_, at, batches = self._reading
        else:
            rows = max(1, count * _PIECE // size)
            batches = self._file.iter_batches(rows, row_groups=[group], columns=[column], use_threads=False)
        for batch in batches:
            first, at = at, at + len(batch)
            if row < at:
                self._reading = column, group, at, batches
                return first, batch.column(0)
        raise ValueError(f"row group {group} ends before row {row}")

    def _size(self, column: str, group: int) -> int:
        """Bytes of a column in a row group, decompressed."""
        about = self._file.metadata.row_group(group)
        parts = (about.column(k) for k in range(about.num_columns))
        return sum(int(part.total_uncompressed_size) for part in parts if part.path_in_schema.split(".")[0] == column)

    def remark(self, column: str) -> str:
        """A note if row groups are so large that reading single images in random order is slow."""
        sizes = [self._size(column, group) for group in range(len(self._starts) - 1)]
        if not sizes or max(sizes) <= _SLOW or sum(sizes) <= CACHED:
            return ""
        largest = int(np.argmax(sizes))
        rows = int(self._starts[largest + 1] - self._starts[largest])
        return (
            f"row groups of up to {counted(rows, 'image')} ({size_of(max(sizes))}): reading one image decodes its row "
            "group, so images in random order are slow. Write the file with smaller ones, such as "
            "pyarrow.parquet.write_table(table, file, row_group_size=100), or as a tar archive"
        )

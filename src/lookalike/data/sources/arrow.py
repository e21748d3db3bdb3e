"""Rows of Arrow files, such as those of `save_to_disk` of Hugging Face's `datasets`: mapped, any row by its number."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from ...files import read_json
from ...printing import printable

_FILE: Final = b"ARROW1"
"""First bytes of the file format; files without them are streams."""
STATE: Final = "state.json"
"""What `save_to_disk` writes beside the rows of one split."""
_SPLITS: Final = "dataset_dict.json"
"""What it writes beside the folders of several splits."""


class ArrowTable:
    """An open Arrow file: its rows stay on the disk until they are used."""

    def __init__(self, path: str) -> None:
        """Maps the file and finds its batches of rows.

        Raises:
            OSError: it cannot be opened.
            ValueError: it is no Arrow file, is truncated or compressed.
        """
        import pyarrow

        self._map = pyarrow.memory_map(path)
        is_file = self._map.read(len(_FILE)) == _FILE
        self._map.seek(0)
        used = pyarrow.total_allocated_bytes()
        if is_file:
            reader = pyarrow.ipc.open_file(self._map)
            found = (reader.get_batch(k) for k in range(reader.num_record_batches))
        else:
            reader = found = pyarrow.ipc.open_stream(self._map)
        self.schema = reader.schema
        self._batches = []
        for batch in found:
            if pyarrow.total_allocated_bytes() - used > batch.nbytes // 2 + _SMALL:
                raise ValueError(_COMPRESSED)
            self._batches.append(batch)
        self._starts = np.concatenate(([0], np.cumsum([len(batch) for batch in self._batches]))).astype(np.int64)
        self.rows = int(self._starts[-1])

    def close(self) -> None:
        self._batches = []
        self._map.close()

    def batches(self, columns: Sequence[str]) -> Iterator[Any]:
        """All rows of some columns, or of fields of columns ("image.path"), as record batches."""
        import pyarrow

        for batch in self._batches:
            found = {}
            for name in columns:
                column, _, part = name.partition(".") if name not in batch.schema.names else (name, "", "")
                array = batch.column(column)
                found[column] = pyarrow.StructArray.from_arrays([array.field(part)], [part]) if part else array
            yield pyarrow.RecordBatch.from_pydict(found)

    def value(self, column: str, row: int) -> object:
        """An entry of a column."""
        k = int(np.searchsorted(self._starts, row, "right")) - 1
        return self._batches[k].column(column)[row - int(self._starts[k])].as_py()

    def remark(self, column: str) -> str:
        return ""


_SMALL: Final = 2**20
_COMPRESSED: Final = "its rows are compressed, so they cannot be read one by one. Write it without compression"


def saved_files(folder: str) -> list[str]:
    """The Arrow files of a folder that `save_to_disk` wrote, in the order of their rows; empty for other folders.

    Raises:
        ValueError: the folder holds several splits, or a file is missing.
    """
    root = Path(folder)
    if (root / _SPLITS).is_file():
        splits = sorted(each.name for each in root.iterdir() if (each / STATE).is_file())
        raise ValueError(
            f"{folder} holds the splits {', '.join(map(printable, splits)) or '(none)'}. Give one of them, such as "
            f"{root / (splits[0] if splits else 'train')}."
        )
    if not (root / STATE).is_file():
        return []
    about = read_json(root / STATE, dict)
    listed = about.get("_data_files")
    names = [each.get("filename") for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
    files = [os.path.join(folder, name) for name in names if isinstance(name, str) and os.path.basename(name) == name]
    if not files or len(files) != len(names) or about.get("_indices_data_files"):
        raise ValueError(
            f"{root / STATE} does not name the files of its rows, or was written by an old version of datasets. Save "
            "the data set again: datasets.load_from_disk(FOLDER).flatten_indices().save_to_disk(OTHER)."
        )
    for file in files:
        if not os.path.isfile(file):
            raise ValueError(f"{file} is missing; {root / STATE} names it. Copy the folder again.")
    return files

"""The index of the images in archives and tables: arrays in a file of the cache folder, mapped by all processes."""

import json
import mmap
import os
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from ...files import atomic
from ...printing import printable
from ...random import key_of

_MAGIC: Final = b"lookalike-members-1\n"
_COLUMNS: Final = ("keys", "offsets", "sizes", "storage", "archives", "labels")
"""The int64 arrays (N,) of a file, in this order; then `bounds` (N + 1,) and the bytes of all names."""


@dataclass
class Found:
    """The images of one file while it is indexed. Flat arrays: millions of Python objects would fill the memory."""

    names: bytearray = field(default_factory=bytearray)
    bounds: "array[int]" = field(default_factory=lambda: array("q", [0]))
    offsets: "array[int]" = field(default_factory=lambda: array("q"))
    sizes: "array[int]" = field(default_factory=lambda: array("q"))
    storage: "array[int]" = field(default_factory=lambda: array("q"))
    labels: "array[int]" = field(default_factory=lambda: array("q"))
    texts: dict[str, int] = field(default_factory=dict)
    """Label -> its index in `labels`."""
    classes: tuple[str, ...] | None = None
    """Class names in the order that a table states."""
    numbered: bool = False
    """Images without names, or with equal names, get numbers instead; otherwise equal names are an error."""
    notes: list[str] = field(default_factory=list)

    def add(self, name: str, offset: int, size: int, storage: int) -> None:
        self.names += os.fsencode(name)
        self.bounds.append(len(self.names))
        self.offsets.append(offset)
        self.sizes.append(size)
        self.storage.append(storage)
        self.labels.append(-1)

    def name(self, i: int) -> bytes:
        return bytes(self.names[self.bounds[i] : self.bounds[i + 1]])


class Index:
    """The images of several archives or tables, sorted by name; arrays are mapped, so processes share their memory.

    Numbered images are in the order of the rows, and their numbers are their keys.
    """

    def __init__(self, path: Path) -> None:
        """Maps the file at `path`.

        Raises:
            ValueError, OSError: it is missing or damaged.
        """
        self.path = path
        with open(path, "rb") as file:
            head = file.read(len(_MAGIC) + 16)
            if not head.startswith(_MAGIC) or len(head) < len(_MAGIC) + 16:
                raise ValueError(f"{path} is not an index of archive members.")
            count, length = np.frombuffer(head, np.int64, 2, len(_MAGIC)).tolist()
            about = json.loads(file.read(length))
            start = -(-file.tell() // 8) * 8
            whole = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)  # torch requires writable memory
        self.count: int = count
        self.texts: list[str] = about["labels"]
        self._notes: list[str] = about["notes"]
        self.notes: list[str] = self._notes + [about["repeated"]] * bool(about["repeated"])
        self.classes: list[str] | None = about["classes"]
        self._may_be_numbered: bool = about["may_be_numbered"]
        self.numbered: bool = about["numbered"]
        columns = np.frombuffer(whole, np.int64, count * len(_COLUMNS) + count + 1, start)
        self.keys, self.offsets, self.sizes, self.storage, self.archives, self.labels = columns[:-1][
            : count * len(_COLUMNS)
        ].reshape(len(_COLUMNS), count)
        self.bounds = columns[count * len(_COLUMNS) :]
        self._names = whole
        self._start = start + columns.nbytes
        if len(whole) != self._start + int(self.bounds[-1]):
            raise ValueError(f"{path} is truncated.")

    def __len__(self) -> int:
        return self.count

    def raw_name(self, i: int) -> bytes:
        return self._names[self._start + int(self.bounds[i]) : self._start + int(self.bounds[i + 1])]

    def name(self, i: int) -> str:
        return os.fsdecode(self.raw_name(i))

    def found(self) -> Found:
        """The content as it was before writing, with the archive's number dropped."""
        return Found(
            bytearray(self._names[self._start :]), array("q", self.bounds.tobytes()),
            array("q", self.offsets.tobytes()), array("q", self.sizes.tobytes()), array("q", self.storage.tobytes()),
            array("q", self.labels.tobytes()), {text: k for k, text in enumerate(self.texts)},
            None if self.classes is None else tuple(self.classes), self._may_be_numbered,
            self._notes,
        )  # fmt: skip


def write(path: Path, parts: Sequence[Found], archives: Sequence[str]) -> None:
    """Writes the images of several archives or tables, sorted by name, atomically.

    Args:
        parts: the images of each file; their arrays are emptied, so that they take no memory twice.
        archives: the paths of these files, for messages.

    Raises:
        ValueError: two images have the same name, and may not be numbered.
    """
    counts = [len(part.offsets) for part in parts]
    texts: dict[str, int] = {}
    archive = np.repeat(np.arange(len(parts)), counts)
    columns = np.empty((len(_COLUMNS), len(archive)), np.int64)
    start = 0
    for part, count in zip(parts, counts):
        rows = columns[:, start : start + count]
        rows[1], rows[2], rows[3], rows[5] = part.offsets, part.sizes, part.storage, part.labels
        numbers = np.array([texts.setdefault(text, len(texts)) for text in part.texts] + [-1], np.int64)
        rows[5] = numbers[rows[5]]  # -1 is the last
        start += count
    columns[4] = archive
    width = _longest(parts)
    for part in parts:
        part.offsets, part.sizes, part.storage, part.labels = (array("q") for _ in range(4))
    tables = []
    for part in parts:
        tables.append(_fixed(part, width))
        part.names, part.bounds = bytearray(), array("q", [0])
    names = tables[0] if len(tables) == 1 else np.concatenate(tables)
    del tables
    order = np.argsort(names, kind="stable")
    same = np.flatnonzero(names[order[1:]] == names[order[:-1]])
    numbered = len(order) > 0 and not names[order[0]]
    repeated = "some images have no name: images are identified by their row" if numbered and names[order[-1]] else ""
    if len(same) and not numbered:
        pair = order[same[0] : same[0] + 2].tolist()
        files, name = [archives[int(archive[row])] for row in pair], os.fsdecode(bytes(names[pair[0]]))
        if not all(part.numbered for part in parts):
            raise ValueError(_duplicate(name, *files))
        numbered = True
        both = ", ".join(f"row {int(columns[1, row])} of {os.path.basename(file)}" for row, file in zip(pair, files))
        repeated = f"{printable(name)} names several images ({both}): images are identified by their row"
    if numbered:
        order = np.lexsort((columns[1], archive))
    names = names[order]
    for k in range(len(columns)):
        columns[k] = columns[k][order]
    if numbered:
        columns[0] = np.arange(len(names))
    else:
        columns[0] = np.fromiter((key_of(os.fsdecode(bytes(name))) for name in names), np.int64, len(names))
    classes = parts[0].classes if all(part.classes == parts[0].classes for part in parts) else None
    bounds = np.concatenate(([0], np.cumsum(np.char.str_len(names) if len(names) else np.empty(0, np.int64))))
    about = json.dumps({
        "labels": list(texts), "classes": classes, "notes": [note for part in parts for note in part.notes],
        "may_be_numbered": all(part.numbered for part in parts), "numbered": bool(numbered), "repeated": repeated,
    }).encode()  # fmt: skip
    with atomic(path) as temporary, open(temporary, "wb") as file:
        file.write(_MAGIC + np.array([len(names), len(about)], np.int64).tobytes() + about)
        file.write(b"\0" * (-file.tell() % 8))
        for column in columns:
            file.write(np.ascontiguousarray(column).data)
        file.write(bounds.data)
        for start in range(0, len(names), 2**16):
            file.write(b"".join(map(bytes, names[start : start + 2**16])))


def _longest(parts: Sequence[Found]) -> int:
    """The largest length of a name, in bytes, at least 1."""
    return max([1, *(int(np.diff(part.bounds).max(initial=0)) for part in parts)])


def _fixed(part: Found, width: int) -> np.ndarray:
    """The names of an archive as an array of texts of `width` bytes, which NumPy sorts without Python objects."""
    count = len(part.bounds) - 1
    table = np.zeros((count, width), np.uint8)
    names, bounds = np.frombuffer(part.names, np.uint8), np.asarray(part.bounds)
    for start in range(0, count, 2**16):
        piece = bounds[start : start + 2**16 + 1]
        lengths = np.diff(piece)
        rows = np.repeat(np.arange(start, start + len(lengths)), lengths)
        columns = np.arange(piece[0], piece[-1]) - np.repeat(piece[:-1], lengths)
        table[rows, columns] = names[piece[0] : piece[-1]]
    return table.view(f"S{width}")[:, 0]


def _duplicate(name: str, first: str, second: str) -> str:
    if first == second:
        return f"{first} contains {name} twice. Images need different names: write the file again without one."
    return f"{first} and {second} both contain {name}. Images need different names: rename one of the two."

"""Images inside of larger files, such as archives, found by an index."""

import copy
import hashlib
import json
import os
import tempfile
from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Final, Generic, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from ...files import cache_folder, locked
from ...image_options import Pixels
from ...printing import counted, printable, warn
from ...progress import counting
from ...random import key_of
from .. import dicom, limits
from ..boxes import stated_size
from ..decoding import decode, kind_of_content
from ..errors import BrokenImage
from ..labels import folder_labels, onto
from . import member_index
from .source import Source, about

_FORMAT: Final = 3
"""Increase it whenever an index has other content, so that indices are rebuilt."""
RESTORE: Final = "Restore it; an interrupted run continues with --resume."
_MOST_OPEN: Final = 256
"""Limit for the open files of a process, below the usual limit of 1024."""


class Unreadable(ValueError):
    """An image inside of a file that cannot be read."""


def folder_of_indices() -> Path:
    return cache_folder() / "members"


H = TypeVar("H")
"""What a process holds of an open file."""


class Members(Source, Generic[H]):
    """The images in one or several files, by their names, in the order of these names.

    Images without a name of their own are numbered: they are in the order of the files, and their numbers are the keys.
    """

    expected: str
    """What to give if there are no images, and how to add a label, for messages."""
    add_label: str

    def __init__(
        self, data: str, paths: Sequence[str], pixels: Pixels, labelled: bool, classes: Sequence[str] | None,
        variant: str = "",
    ) -> None:  # fmt: skip
        """Opens files; `data` is how the user named them, for messages. Each `variant` has an index."""
        self.data = data
        self.paths = list(paths)
        self.pixels, self.channels = pixels, pixels.channels
        self._states = [_state(path) for path in self.paths]
        self._index_path = _indexed(self.paths, self._states, self._search, variant)
        self._rows: np.ndarray | None = None  # of a renamed copy
        self._listing = b""
        self._handles: dict[int, H] = {}
        self._process = 0
        if not len(self.index):
            raise ValueError(f"{data} contains no images{_but(self.index.notes)}. {self.expected}")
        if labelled:
            self.labels, self.classes = self._labels(classes)

    @abstractmethod
    def _search(self, path: str, alone: bool) -> member_index.Found:
        """Finds the images of a file; with `alone`, it reports its progress."""

    @abstractmethod
    def _open(self, path: str) -> H: ...

    @abstractmethod
    def _close(self, handle: H) -> None: ...

    @abstractmethod
    def _content(self, number: int, row: int, limit: int) -> bytes:
        """At most `limit` bytes of an image's file, by the number of its file and its row in the index.

        Raises:
            Unreadable: it is damaged; the message is the reason.
        """

    def _opened(self, number: int) -> H:
        """A file, opened once by each process.

        Raises:
            ValueError: it is missing, or has changed since it was indexed.
        """
        if self._process != os.getpid():
            self._handles, self._process = {}, os.getpid()
        if number not in self._handles:
            path = self.paths[number]
            while len(self._handles) >= _MOST_OPEN:
                self._close(self._handles.pop(next(iter(self._handles))))
            try:
                before, handle = _state(path), self._open(path)
                now = _state(path)
            except OSError as error:
                raise ValueError(f"{path} is no longer readable ({error.strerror or error}). {RESTORE}") from None
            if not before == now == self._states[number]:
                self._close(handle)
                raise ValueError(f"{path} has changed since it was indexed. {RESTORE}")
            self._handles[number] = handle
        return self._handles[number]

    @cached_property
    def index(self) -> member_index.Index:
        return member_index.Index(self._index_path)

    def __getstate__(self) -> dict[str, object]:
        """Without mapped arrays and open files, which another process opens itself."""
        dropped = ("index", "_keys", "_handles")
        return {name: value for name, value in vars(self).items() if name not in dropped} | {"_handles": {}}

    def __len__(self) -> int:
        return len(self.index) if self._rows is None else len(self._rows)

    def _row(self, i: int) -> int:
        return i if self._rows is None else int(self._rows[i])

    @property
    def keys(self) -> Tensor:
        return torch.from_numpy(self._keys)

    @cached_property
    def _keys(self) -> np.ndarray:
        if not self._listing:
            return self.index.keys
        names = os.fsdecode(self._listing).split("\0")
        return np.fromiter(map(key_of, names), np.int64, len(names))

    def name(self, i: int) -> str:
        row = self._row(i)
        return f"row {row}" if self.index.numbered else printable(self.index.name(row))

    def listing(self) -> bytes | None:
        if self.index.numbered:
            return None
        return self._listing or b"\0".join(self.index.raw_name(i) for i in range(len(self.index)))

    def called(self, names: Sequence[str], places: Sequence[int] | None = None) -> Self:
        if self.index.numbered:
            return self
        renamed = copy.copy(self)
        renamed._handles = {}
        vars(renamed).pop("_keys", None)
        if places is not None:
            rows = np.arange(len(self.index)) if self._rows is None else self._rows
            renamed._rows = rows[np.array(places, np.int64)]
            renamed.take_columns(self, torch.tensor(places, dtype=torch.int64))
        renamed._listing = os.fsencode("\0".join(names))
        return renamed

    def reading(self, pixels: Pixels) -> Self:
        other = copy.copy(self)
        other._handles = {}
        other.pixels, other.channels = pixels, pixels.channels
        return other

    def _labels(self, classes: Sequence[str] | None) -> tuple[Tensor, tuple[str, ...]]:
        """Labels beside the images; without any, the first folders of the names."""
        index = self.index
        if (index.labels < 0).all():
            if index.numbered:
                raise ValueError(f"{self.data} has no labels{_but(index.notes)}. {self.add_label}")
            return folder_labels(self.data, [index.name(i) for i in range(len(index))], classes)
        without = np.flatnonzero(index.labels < 0)
        if len(without):
            name = f"row {without[0]}" if index.numbered else printable(index.name(int(without[0])))
            raise ValueError(
                f"{self.data}: {len(without)} of {counted(len(index), 'image')} "
                f"{'has' if len(without) == 1 else 'have'} no label; the first is {name}. "
                + self.add_label.format(os.path.splitext(name)[0])
            )
        texts = tuple(map(printable, index.texts))
        if classes is None and index.classes is not None:
            classes = tuple(map(printable, index.classes))
        if classes is None and all(text.isdecimal() for text in texts):
            classes = sorted(texts, key=int)
        return onto(
            texts, torch.from_numpy(index.labels.copy()), None if classes is None else tuple(classes), self.data
        )

    def size(self, i: int) -> tuple[int, int] | None:
        try:
            return stated_size(self.content(i), self.pixels)
        except (BrokenImage, ValueError):
            return None

    def missing(self) -> str:
        for path in self.paths:
            if not os.path.exists(path):
                return f"{path} no longer exists. {RESTORE}"
        return ""

    def version(self) -> str:
        digest = hashlib.blake2b(self._listing, digest_size=16)
        digest.update(f"{self._index_path.name} {about(self.pixels)}".encode())
        digest.update(b"" if self._rows is None else self._rows.tobytes())
        return digest.hexdigest()

    def _frame(self, i: int) -> int | None:
        """The number of the frame in the name of a member, if it has one."""
        name = b"" if self.index.numbered else self.index.raw_name(self._row(i))
        return dicom.frame_of(os.fsdecode(name))[1] if b"#" in name else None

    def content(self, i: int, limit: int = limits.MAX_BYTES + 1) -> bytes:
        """The bytes of an image's file, at most `limit`.

        Raises:
            BrokenImage: it cannot be read.
        """
        row = self._row(i)
        try:
            return self._content(int(self.index.archives[row]), row, limit)
        except Unreadable as error:
            raise BrokenImage(self.name(i), str(error)) from None

    def read(self, i: int, decode_size: int | None) -> Tensor:
        content = self.content(i)
        key = int(self._keys[i])
        try:
            return decode(content, self.pixels, decode_size, key, self._frame(i))
        except BrokenImage as error:
            raise BrokenImage(self.name(i), error.reason) from error

    def kind(self, i: int) -> str:
        return kind_of_content(self.content(i), self.pixels, self._frame(i))

    def notes(self) -> list[str]:
        return self.index.notes


def _but(notes: Sequence[str]) -> str:
    return f" ({notes[0]})" if notes else ""


def _state(path: str) -> tuple[int, int]:
    """Size and modification time of a file."""
    found = os.stat(path)
    return found.st_size, found.st_mtime_ns


def _indexed(
    paths: Sequence[str],
    states: Sequence[tuple[int, int]],
    search: Callable[[str, bool], member_index.Found],
    variant: str,
) -> Path:
    """The index file of several files; built from the indices of each, which an interrupted search keeps."""
    names = [_digest([path], [state], variant) for path, state in zip(paths, states)]
    whole = names[0] if len(paths) == 1 else _digest(paths, states, variant)
    folder = folder_of_indices()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK | os.X_OK)
    except OSError:
        writable = False
    if not writable and not _is_index(folder / whole):
        folder = Path(tempfile.mkdtemp(prefix="lookalike-members-"))
    if _is_index(folder / whole):
        return folder / whole
    with locked(folder / f"{whole}.lock", wait=warn):
        if _is_index(folder / whole):
            return folder / whole
        progress = counting(warn, "index: ", "files", unit="files")
        for number, (path, name) in enumerate(zip(paths, names)):
            if not _is_index(folder / name):
                member_index.write(folder / name, [search(path, len(paths) == 1)], [path])
            if len(paths) > 1:
                progress(number + 1, len(paths))
        if len(paths) > 1:
            parts = [member_index.Index(folder / name).found() for name in names]
            member_index.write(folder / whole, parts, paths)
    return folder / whole


def _is_index(path: Path) -> bool:
    try:
        return member_index.Index(path) is not None
    except (OSError, ValueError):
        return False


def _digest(paths: Sequence[str], states: Sequence[tuple[int, int]], variant: str) -> str:
    about = json.dumps([_FORMAT, [os.path.realpath(path) for path in paths], list(states), variant])
    return f"{hashlib.blake2b(about.encode('utf-8', 'surrogateescape'), digest_size=16).hexdigest()}.members"

"""Images in tar and zip archives, read in place: nothing is unpacked to the disk."""

import copy
import hashlib
import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import IO, Final

import numpy as np
import torch
from torch import Tensor

from ...files import cache_folder, locked
from ...image_options import Alpha
from ...printing import counted, printable, warn
from ...progress import counting
from ...random import key_of
from .. import limits
from ..decoding import SUFFIXES, decode, kind_of_content
from ..errors import BrokenImage
from ..folders import Scanned, is_system_folder
from ..labels import folder_labels, onto
from . import member_index, tar_members, zip_members
from .source import Source

SUFFIXES_OF_ARCHIVES: Final = (".tar", ".zip")
_LABELS: Final = (".cls", ".json")
"""Suffixes of members beside an image that hold its label."""
_MAX_LABEL: Final = 2**16
_FORMAT: Final = 1
"""Increase it whenever an index has other content, so that indices are rebuilt."""


def folder_of_indices() -> Path:
    return cache_folder() / "members"


class Archives(Source):
    """The images in one or several archives, by their member names, in the order of these names."""

    def __init__(
        self, data: str, paths: Sequence[str], channels: int, labelled: bool, classes: Sequence[str] | None,
        alpha: Alpha,
    ) -> None:  # fmt: skip
        """Opens archives; `data` is how the user named them, for messages."""
        self.data = data
        self.paths = list(paths)
        self.channels = channels
        self.alpha = alpha
        self._states = [_state(path) for path in self.paths]
        self._index_path = _indexed(self.paths, self._states)
        self._rows: np.ndarray | None = None  # of a renamed copy
        self._listing = b""
        self._handles: dict[int, int] = {}
        if not len(self.index):
            raise ValueError(
                f"{data} contains no images{_but(self.index.notes)}. Give archives with images (.jpg, .png, .tif ...)."
            )
        if labelled:
            self.labels, self.classes = self._labels(classes)

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
        return printable(self.index.name(self._row(i)))

    def listing(self) -> bytes:
        return self._listing or b"\0".join(self.index.raw_name(i) for i in range(len(self.index)))

    def called(self, names: Sequence[str], places: Sequence[int] | None = None) -> "Archives":
        renamed = copy.copy(self)
        renamed._handles = {}
        vars(renamed).pop("_keys", None)
        if places is not None:
            rows = np.arange(len(self.index)) if self._rows is None else self._rows
            renamed._rows = rows[np.array(places, np.int64)]
            renamed.take_columns(self, torch.tensor(places, dtype=torch.int64))
        renamed._listing = os.fsencode("\0".join(names))
        return renamed

    def _labels(self, classes: Sequence[str] | None) -> tuple[Tensor, tuple[str, ...]]:
        """Labels in members KEY.cls and KEY.json; without any, the first folders of the names."""
        index = self.index
        if (index.labels < 0).all():
            return folder_labels(self.data, [index.name(i) for i in range(len(index))], classes)
        without = np.flatnonzero(index.labels < 0)
        if len(without):
            name = printable(index.name(int(without[0])))
            raise ValueError(
                f"{self.data}: {len(without)} of {counted(len(index), 'image')} "
                f"{'has' if len(without) == 1 else 'have'} no label; the first is {name}. "
                f"Add its class as {os.path.splitext(name)[0]}.cls."
            )
        texts = tuple(map(printable, index.texts))
        if classes is None and all(text.isdecimal() for text in texts):
            classes = sorted(texts, key=int)
        return onto(
            texts, torch.from_numpy(index.labels.copy()), None if classes is None else tuple(classes), self.data
        )

    def _pread(self, archive: int, offset: int, size: int) -> bytes:
        """Bytes of an archive; files are opened once per process.

        Raises:
            ValueError: the archive is missing, or has changed since it was indexed.
        """
        pid = os.getpid()
        if self._handles.get(-1) != pid:  # the offset of a handle is shared with the parent, but pread ignores it
            self._handles = {-1: pid}
        if archive not in self._handles:
            path = self.paths[archive]
            try:
                handle = os.open(path, os.O_RDONLY)
            except OSError as error:
                raise ValueError(f"{path} is no longer readable ({error.strerror}). {_RESTORE}") from None
            found = os.fstat(handle)
            if (found.st_size, found.st_mtime_ns) != self._states[archive]:
                os.close(handle)
                raise ValueError(f"{path} has changed since it was indexed. {_RESTORE}")
            self._handles[archive] = handle
        return os.pread(self._handles[archive], size, offset)

    def content(self, i: int, limit: int = limits.MAX_BYTES + 1) -> bytes:
        """The bytes of an image's file, at most `limit`.

        Raises:
            BrokenImage: it cannot be unpacked.
        """
        row, index = self._row(i), self.index
        archive, offset, size, storage = (
            int(column[row]) for column in (index.archives, index.offsets, index.sizes, index.storage)
        )
        if not storage:
            return self._pread(archive, offset, min(size, limit))
        try:
            return zip_members.content(lambda at, length: self._pread(archive, at, length), offset, size, storage)[
                :limit
            ]
        except zip_members.Damaged as error:
            raise BrokenImage(self.name(i), str(error)) from None

    def head(self, i: int, limit: int) -> tuple[int, bytes] | None:
        size = int(self.index.sizes[self._row(i)])
        try:
            if int(self.index.storage[self._row(i)]):
                whole = self.content(i)
                return len(whole), whole[:limit]
            return size, self.content(i, limit)
        except (BrokenImage, ValueError):
            return None

    def read(self, i: int, decode_size: int | None) -> Tensor:
        content = self.content(i)
        key = int(self._keys[i])
        try:
            return decode(content, self.channels, decode_size, key, self.alpha)
        except BrokenImage as error:
            raise BrokenImage(self.name(i), error.reason) from error

    def missing(self) -> str:
        for path in self.paths:
            if not os.path.exists(path):
                return f"{path} no longer exists. {_RESTORE}"
        return ""

    def version(self) -> str:
        digest = hashlib.blake2b(self._listing, digest_size=16)
        digest.update(f"{self._index_path.name} {self.alpha}".encode())
        digest.update(b"" if self._rows is None else self._rows.tobytes())
        return digest.hexdigest()

    def kind(self, i: int) -> str:
        return kind_of_content(self.content(i), self.channels, self.alpha)

    def notes(self) -> list[str]:
        return self.index.notes


_RESTORE: Final = "Restore it; an interrupted run continues with --resume."


def _but(notes: Sequence[str]) -> str:
    return f" ({notes[0]})" if notes else ""


def _state(path: str) -> tuple[int, int]:
    """Size and modification time of an archive."""
    found = os.stat(path)
    return found.st_size, found.st_mtime_ns


def _indexed(paths: Sequence[str], states: Sequence[tuple[int, int]]) -> Path:
    """The index file of archives; built from the indices of single archives, which an interrupted search keeps."""
    names = [_digest([path], [state]) for path, state in zip(paths, states)]
    whole = names[0] if len(paths) == 1 else _digest(paths, states)
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
        progress = counting(warn, "index: ", "archives", unit="archives")
        for number, (path, name) in enumerate(zip(paths, names)):
            if not _is_index(folder / name):
                member_index.write(folder / name, [_search(path, len(paths) == 1)], [path])
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


def _digest(paths: Sequence[str], states: Sequence[tuple[int, int]]) -> str:
    about = json.dumps([_FORMAT, [os.path.realpath(path) for path in paths], list(states)])
    return f"{hashlib.blake2b(about.encode('utf-8', 'surrogateescape'), digest_size=16).hexdigest()}.members"


def _search(path: str, alone: bool) -> member_index.Found:
    """Finds the images of an archive, and the labels beside them."""
    found, skipped = member_index.Found(), Scanned()
    outside: Counter[str] = Counter()
    label_of: dict[str, str] = {}
    size = max(1, os.path.getsize(path))
    progress = counting(warn, "index: ", "MiB", unit="MiB")
    with open(path, "rb") as file:
        each: Iterator[tar_members.Member]
        is_zip = path.lower().endswith(".zip")
        each = zip_members.members(file, path) if is_zip else tar_members.members(file, path)
        for number, (member, offset, length, storage) in enumerate(each):
            name = os.path.normpath(member).replace(os.sep, "/")
            if alone and not number % 4096:
                progress(min(offset, size) >> 20, size >> 20 or 1)
            parts = name.split("/")
            suffix = os.path.splitext(parts[-1])[1].lower()
            if member.startswith("/") or ".." in parts or "\0" in name:
                outside[name] += 1
            elif any(map(is_system_folder, parts[:-1])):
                skipped.systems[next(filter(is_system_folder, parts))] += 1
            elif any(part.startswith(".") for part in parts):
                skipped.hidden[parts[-1]] += 1
            elif suffix[1:] in SUFFIXES:
                found.add(name, offset, length, storage)
            elif suffix in _LABELS and length <= _MAX_LABEL:
                content = _label_content(file, is_zip, offset, length, storage)
                if (label := _label(suffix, content)) is not None and (suffix == ".cls" or name[:-5] not in label_of):
                    label_of[name.removesuffix(suffix)] = label
            else:
                skipped.others[suffix or "without suffix"] += 1
    for i in range(len(found.offsets)) if label_of else ():
        stem = os.path.splitext(os.fsdecode(found.name(i)))[0]
        if (text := label_of.get(stem)) is not None:
            found.labels[i] = found.texts.setdefault(text, len(found.texts))
    if skipped_text := skipped.skipped():
        found.notes.append(f"{os.path.basename(path)}: skipped: {skipped_text}")
    if outside:
        found.notes.append(
            f"{os.path.basename(path)}: skipped {counted(outside.total(), 'member')} whose name is absolute "
            f"or contains ..: {printable(next(iter(outside)))}"
        )
    return found


def _label_content(file: IO[bytes], is_zip: bool, offset: int, size: int, storage: int) -> bytes:
    read: Callable[[int, int], bytes] = lambda at, length: os.pread(file.fileno(), length, at)  # noqa: E731
    if not is_zip:
        return read(offset, size)
    try:
        return zip_members.content(read, offset, size, storage)
    except zip_members.Damaged:
        return b""


def _label(suffix: str, content: bytes) -> str | None:
    """The class in a member: the text of .cls, or the entry label, class or cls of .json."""
    text = content.decode("utf-8", "backslashreplace").strip()
    if suffix == ".cls":
        return text or None
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(entries, dict):
        for name in ("label", "class", "cls"):
            if isinstance(entries.get(name), str | int) and not isinstance(entries[name], bool):
                return str(entries[name])
    return None

"""Images in tar and zip archives, read in place: nothing is unpacked to the disk."""

import io
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Final

from ...image_options import Pixels
from ...printing import counted, printable, warn
from ...progress import counting
from .. import dicom
from ..decoding import SUFFIXES
from ..errors import BrokenImage
from ..folders import Scanned, is_system_folder
from . import member_index, tar_members, zip_members
from .members import Members, Unreadable

SUFFIXES_OF_ARCHIVES: Final = (".tar", ".zip")
_LABELS: Final = (".cls", ".json")
"""Suffixes of members beside an image that hold its label."""
_MAX_LABEL: Final = 2**16
_DICOM_HEAD: Final = 2**16
"""Bytes of a DICOM file that usually hold the number of its frames."""


class Archives(Members[int]):
    """The images in one or several archives, by their member names, in the order of these names."""

    expected = "Give archives with images (.jpg, .png, .tif ...)."
    add_label = "Add its class as {}.cls."

    def __init__(
        self, data: str, paths: Sequence[str], pixels: Pixels, labelled: bool, classes: Sequence[str] | None
    ) -> None:
        super().__init__(data, paths, pixels, labelled, classes, "frames" if dicom.is_installed() else "")

    def _search(self, path: str, alone: bool) -> member_index.Found:
        return _search(path, alone)

    def _open(self, path: str) -> int:
        return os.open(path, os.O_RDONLY)

    def _close(self, handle: int) -> None:
        os.close(handle)

    def _content(self, number: int, row: int, limit: int) -> bytes:
        index, file = self.index, self._opened(number)
        offset, size, storage = (int(column[row]) for column in (index.offsets, index.sizes, index.storage))
        if not storage:
            return os.pread(file, min(size, limit), offset)
        try:
            return zip_members.content(lambda at, length: os.pread(file, length, at), offset, size, storage)[:limit]
        except zip_members.Damaged as error:
            raise Unreadable(str(error)) from None

    def head(self, i: int, limit: int) -> tuple[int, bytes] | None:
        size = int(self.index.sizes[self._row(i)])
        try:
            if int(self.index.storage[self._row(i)]):
                whole = self.content(i)
                return len(whole), whole[:limit]
            return size, self.content(i, limit)
        except (BrokenImage, ValueError):
            return None


def _search(path: str, alone: bool) -> member_index.Found:
    """Finds the images of an archive, and the labels beside them."""
    found, skipped = member_index.Found(), Scanned()
    outside: Counter[str] = Counter()
    without: Counter[str] = Counter()
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
            elif suffix in dicom.SUFFIXES and dicom.is_installed():
                count = _frames(file, is_zip, offset, length, storage)
                if count is None:
                    without[name] += 1
                for frame in range(count or 0):
                    found.add(name if count == 1 else f"{name}#{frame + 1}", offset, length, storage)
            elif suffix[1:] in SUFFIXES:
                found.add(name, offset, length, storage)
            elif suffix in _LABELS and length <= _MAX_LABEL:
                content = _member(file, is_zip, offset, length, storage)
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
    if without:
        found.notes.append(
            f"{os.path.basename(path)}: skipped: {counted(without.total(), 'DICOM file')} without pixels, such as "
            f"{printable(next(iter(without)))}"
        )
    if outside:
        found.notes.append(
            f"{os.path.basename(path)}: skipped {counted(outside.total(), 'member')} whose name is absolute "
            f"or contains ..: {printable(next(iter(outside)))}"
        )
    return found


def _frames(file: IO[bytes], is_zip: bool, offset: int, size: int, storage: int) -> int | None:
    """The number of frames of a DICOM file; see `dicom.frames`. Its header is enough if it is not compressed."""
    short = min(size, _DICOM_HEAD)
    if not is_zip and (count := dicom.frames_in(io.BytesIO(_member(file, is_zip, offset, short, storage)))):
        return count
    return dicom.frames_in(io.BytesIO(_member(file, is_zip, offset, size, storage)))


def _member(file: IO[bytes], is_zip: bool, offset: int, size: int, storage: int) -> bytes:
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

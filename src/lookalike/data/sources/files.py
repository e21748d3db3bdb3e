"""Image files: from a folder, a text file with one path per line, or a list of paths."""

import copy
import hashlib
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ...image_options import Pixels
from ...printing import LONGEST_PATH, brief, composed, counted, printable
from ...random import key_of
from ..boxes import Box, read_box, stated_size
from ..decoding import SUFFIXES, decode, kind_of
from ..dicom import frame_of
from ..errors import BrokenImage
from ..folders import Scanned
from ..labels import folder_labels
from .source import Source, about

_DECODER = 3
"""Increase it whenever decoding gives different pixels, so that caches are rebuilt."""


class Files(Source):
    """Image files, by their paths relative to a folder, with / between the parts."""

    def __init__(
        self, root: str, paths: list[str], pixels: Pixels, labelled: bool, classes: Sequence[str] | None,
        scanned: Scanned | None = None, notes: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.root = root
        self.pixels, self.channels = pixels, pixels.channels
        self._notes = [*([] if scanned is None else scanned.notes()), *notes]
        self.system_folders = 0 if scanned is None else scanned.systems.total()
        self._listing = b""  # names that differ from the paths
        self._store(paths)
        if labelled:
            self.labels, self.classes = folder_labels(root, paths, classes)

    def _store(self, paths: Sequence[str]) -> None:
        """Stores paths as one block of bytes: forked workers would copy millions of strings page by page."""
        self._text = os.fsencode("\0".join(paths))
        ends = np.flatnonzero(np.frombuffer(self._text, np.uint8) == 0)
        self._bounds = np.concatenate(([-1], ends, [len(self._text)]))

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def _path(self, i: int) -> str:
        return os.fsdecode(self._text[self._bounds[i] + 1 : self._bounds[i + 1]])

    @cached_property
    def _keys(self) -> np.ndarray:
        return np.fromiter((key_of(self._path(i)) for i in range(len(self))), np.int64, len(self))

    @property
    def keys(self) -> Tensor:
        return torch.from_numpy(self._keys)

    def name(self, i: int) -> str:
        return printable(self._path(i))

    def file(self, i: int) -> str:
        return frame_of(self._located(i))[0]

    def _located(self, i: int) -> str:
        """The path, for a frame of a DICOM file with its number."""
        return os.path.join(self.root, self._path(i))

    def head(self, i: int, limit: int) -> tuple[int, bytes] | None:
        path = self.file(i)
        if not os.path.isfile(path):  # a pipe would block
            return None
        try:
            with open(path, "rb") as file:
                return os.fstat(file.fileno()).st_size, file.read(limit)
        except OSError:
            return None

    def listing(self) -> bytes:
        return self._listing or self._text

    def called(self, names: Sequence[str], places: Sequence[int] | None = None) -> "Files":
        renamed = copy.copy(self)
        if places is not None:
            renamed._store([self._path(i) for i in places])
            renamed.take_columns(self, torch.tensor(places, dtype=torch.int64))
        renamed._listing = os.fsencode("\0".join(names))
        renamed._keys = np.fromiter(map(key_of, names), np.int64, len(names))
        return renamed

    def seen_from(self, folder: str) -> list[str]:
        files = (os.path.normpath(self.file(i)) for i in range(len(self)))
        return [file.removeprefix(os.path.join(folder, "")).replace(os.sep, "/") for file in files]

    def read(self, i: int, decode_size: int | None) -> Tensor:
        try:
            return decode(self._located(i), self.pixels, decode_size, int(self._keys[i]))
        except BrokenImage as error:
            raise BrokenImage(self.name(i), error.reason) from error

    def size(self, i: int) -> tuple[int, int] | None:
        return stated_size(self._located(i), self.pixels)

    def read_box(self, i: int, box: Box) -> Tensor | None:
        try:
            return read_box(self._located(i), box, self.pixels)
        except BrokenImage as error:
            raise BrokenImage(self.name(i), error.reason) from error

    def missing(self) -> str:
        try:
            os.scandir(self.root).close()
        except OSError as error:
            return (
                f"{self.root} is no longer readable ({error.strerror}). Restore or remount it; an interrupted run "
                "continues with --resume."
            )
        return ""

    def version(self) -> str:
        digest = hashlib.blake2b(self._text, digest_size=16)
        digest.update(f"{_DECODER} {about(self.pixels)} ".encode())
        digest.update(os.fsencode(os.path.realpath(self.root)))
        for i in range(len(self)):
            with suppress(OSError):  # a missing file may exist next time
                found = os.stat(self.file(i))
                digest.update(f"{i} {found.st_ino} {found.st_size} {found.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def kind(self, i: int) -> str:
        return kind_of(self._located(i), self.pixels)

    def notes(self) -> list[str]:
        return self._notes


def refuse_two_classes(linked: Mapping[str, str]) -> None:
    """Raises ValueError if a link makes images belong to two class folders: they would have two labels."""
    for link, there in linked.items():
        if there and link.split("/")[0] != there.split("/")[0]:
            raise ValueError(f"{link} is the same folder as {there}: its images would have two classes. Remove one.")


def _as_on_disk(path: str, listings: dict[str, dict[str, str]]) -> str:
    """A path with the Unicode normalisation (NFC or NFD) of the names on this disk; unchanged if it does not exist.

    Args:
        path: absolute.
        listings: folder -> composed name -> name on disk, of the folders listed so far; extended here.
    """
    if path.isascii() or os.path.lexists(path):
        return path
    folder, name = os.path.split(path)
    folder = _as_on_disk(folder, listings)
    if folder not in listings:
        listings[folder] = {}
        with suppress(OSError):
            listings[folder] = {composed(each): each for each in os.listdir(folder)}
    return os.path.join(folder, listings[folder].get(composed(name), name))


def relative(paths: list[str], root: str, where: str) -> list[str]:
    """Makes paths inside `root` relative to it, with / between the parts.

    Raises:
        FileNotFoundError: none of the first 100 files exists.
    """
    listings: dict[str, dict[str, str]] = {}
    paths = [p if p.isascii() else _as_on_disk(os.path.join(root, p), listings) for p in paths]
    if not any(os.path.exists(os.path.join(root, p)) for p in paths[:100]):
        raise FileNotFoundError(
            f"None of the first {counted(min(100, len(paths)), 'file')} in {where} exists; the first is "
            f"{brief(os.path.join(root, paths[0]), LONGEST_PATH)}. Paths are absolute or relative to {root}."
        )
    return [p.removeprefix(os.path.join(root, "")).replace(os.sep, "/") for p in paths]


def listed(path: str) -> list[str]:
    """The paths in a text file, in file order; those inside its folder are relative to it."""
    with open(path, "rb") as file:
        content = file.read().removeprefix(b"\xef\xbb\xbf")
    if b"\0" in content or os.path.splitext(path)[1].lower()[1:] in SUFFIXES:
        raise ValueError(
            f"{path} is not a text file of paths. Give a folder of images, or a text file with one path per line."
        )
    root = os.path.dirname(path)
    # a name may end in a space, or contain characters at which splitlines() splits
    lines = (line.removesuffix("\r") for line in os.fsdecode(content).split("\n"))
    paths = [os.path.normpath(line) for line in lines if line.strip() and not line.startswith("#")]
    if not paths:
        raise ValueError(f"{path} lists no images. Give a text file with one path per line.")
    return relative(paths, root, path)

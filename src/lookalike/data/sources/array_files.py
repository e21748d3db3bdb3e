"""Arrays of images in HDF5 and Zarr files: `FILE.h5::images`, with labels in the array `labels` beside it."""

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final, Protocol

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from ...image_options import Pixels
from ...places import in_file, no_images
from ...printing import brief, counted, printable, size_of
from .datasets import Items
from .item_labels import item_labels
from .source import about

LABELS: Final = "labels"
"""Name of the array of labels, beside the one of images."""
_SLOW: Final = 2**24
"""Bytes of a chunk of several images above which reading single images is slow."""
_MOST_NAMES: Final = 8


class _Stored(Protocol):
    """An array on the disk."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: tuple[int, ...] | None

    def __getitem__(self, i: Any, /) -> Any: ...


class ArrayFile(Dataset[object]):
    """An array in a file, opened by each process when it reads its first item."""

    def __init__(self, file: str, name: str) -> None:
        """Checks the array.

        Raises:
            ValueError: the file is damaged, has no such array, or the array holds no images.
        """
        self.file, self.inner = file, name.strip("/")
        self.is_zarr = file.lower().endswith(".zarr")
        self._state = self._now()
        array = self.opened()
        self.shape, self.dtype = tuple(array.shape), np.dtype(array.dtype)
        self.chunks = tuple(array.chunks) if array.chunks else None
        where = f"{file}::{self.inner}"
        if self.dtype.kind not in "buif":
            raise ValueError(
                f"{where} has the type {self.dtype}; expected pixels of uint8, uint16 or float32. Store decoded images "
                "of one size, or write the image files into a tar archive."
            )
        if len(self.shape) not in (3, 4):
            raise ValueError(
                f"{where} has shape {self.shape}; expected (N, H, W), (N, H, W, C) or (N, C, H, W). Name the array of "
                "images."
            )
        if not self.shape[0]:
            raise ValueError(f"{where} is empty. Give an array of images.")

    def __getstate__(self) -> dict[str, object]:
        """Without the open file, which another process opens itself."""
        return {name: value for name, value in vars(self).items() if not name.startswith("_open")}

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, i: int) -> object:
        return np.asarray(self.opened()[i])

    def _now(self) -> tuple[int, int]:
        """Size and modification time; of a Zarr folder those of the file that describes the array."""
        path = self.file
        if self.is_zarr:
            folder = os.path.join(path, self.inner)
            described = [os.path.join(folder, name) for name in ("zarr.json", ".zarray", ".zgroup")]
            path = next((each for each in described if os.path.isfile(each)), path)
        found = os.stat(path)
        return found.st_size, found.st_mtime_ns

    def opened(self) -> _Stored:
        """The array, opened once by each process.

        Raises:
            ValueError: it is missing, or has changed since it was opened first.
        """
        if vars(self).get("_open_in") != os.getpid():
            try:
                if self._now() != self._state:
                    raise ValueError(f"{self.file} has changed since it was opened. {_RESTORE}")
            except OSError as error:
                raise ValueError(f"{self.file} is no longer readable ({error.strerror}). {_RESTORE}") from None
            self._open_file = _zarr(self.file) if self.is_zarr else _hdf5(self.file)
            self._open_array: _Stored = _member(self._open_file, self.inner, self.file)
            self._open_in = os.getpid()
        return self._open_array

    @property
    def targets(self) -> object | None:
        """The labels in the array `labels` of the same group; None without one."""
        self.opened()
        group = os.path.dirname(self.inner)
        name = f"{group}/{LABELS}" if group else LABELS
        if not self.inner or name not in _arrays(self._open_file):
            return None
        found = self._open_file[name]
        return np.asarray(found[()] if found.shape == () else found[:])


_RESTORE: Final = "Restore it; an interrupted run continues with --resume."


def _hdf5(file: str) -> Any:
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("Reading .h5 needs h5py: pip install 'lookalike[hdf5]'.") from error
    try:
        return h5py.File(file, "r")
    except OSError as error:
        reason = brief(" ".join(str(error).split()), 150)
        raise ValueError(f"{file} is not an HDF5 file, or is truncated ({reason}). Copy it again.") from None


def _zarr(file: str) -> Any:
    try:
        import zarr
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("Reading .zarr needs zarr: pip install 'lookalike[zarr]'.") from error
    try:
        return zarr.open(file, mode="r")
    except Exception as error:  # damaged metadata raise errors of any type
        reason = brief(" ".join(str(error).split()) or type(error).__name__, 150)
        raise ValueError(f"{file} is not a Zarr folder, or is incomplete ({reason}). Copy it again.") from None


def _member(opened: Any, name: str, file: str) -> Any:
    """An array in an open file; the file itself if it is one array."""
    if not name and hasattr(opened, "shape"):
        return opened
    found = None
    with suppress(KeyError):
        found = opened[name] if name and not hasattr(opened, "shape") else None
    if found is not None and hasattr(found, "shape"):
        return found
    names = _arrays(opened)
    listed = ", ".join(map(printable, names[:_MOST_NAMES])) + ", ..." * (len(names) > _MOST_NAMES)
    raise ValueError(
        f"{file} has no array {printable(name) or 'of that name'}; it has {listed or 'none'}. Name the array of "
        f"images: {file}::{printable(names[0]) if names else 'images'}."
    )


def _arrays(opened: Any, most: int = 100) -> list[str]:
    """The names of the arrays in an open file, at most `most`."""
    found: list[str] = []
    queue = [("", opened)]
    while queue and len(found) < most:
        prefix, group = queue.pop(0)
        if hasattr(group, "shape"):
            continue
        for name in sorted(group):
            with suppress(KeyError):  # a link to nothing
                each = group[name]
                if hasattr(each, "shape"):
                    found.append(f"{prefix}{name}")
                else:
                    queue.append((f"{prefix}{name}/", each))
    return found


class Arrays(Items):
    """The images in an array of an HDF5 or Zarr file; an image's key is its index."""

    dataset: ArrayFile

    def __init__(self, data: str, pixels: Pixels, labelled: bool, classes: Sequence[str] | None) -> None:
        file, name = in_file(data)
        if not os.path.exists(file):
            raise no_images(file)
        array = ArrayFile(file, name)
        super().__init__(array, pixels, False, None)
        if labelled:
            if array.targets is None:
                raise ValueError(f"{data} has no labels. Add an array {LABELS} (N,) beside it.")
            self.labels, self.classes = item_labels(array, len(self), classes, self._failed, name=f"{file}::{LABELS}")

    def name(self, i: int) -> str:
        return f"{printable(self.dataset.inner) or 'image'} {i}"

    def read(self, i: int, decode_size: int | None) -> Tensor:
        self.dataset.opened()  # a changed file ends the training, other errors replace the image
        return super().read(i, decode_size)

    def kind(self, i: int) -> str:
        library = "Zarr" if self.dataset.is_zarr else "HDF5"
        return f"{library} {self.dataset.dtype.name} {self.dataset.shape[1:]}"

    def missing(self) -> str:
        return "" if os.path.exists(self.dataset.file) else f"{self.dataset.file} no longer exists. {_RESTORE}"

    def version(self) -> str:
        if self.dataset.is_zarr:
            raise ValueError(
                f"A cache on disk is identified by one file, but {self.dataset.file} is a folder of chunks. Use "
                "--cache ram or none, and no --cache-teacher."
            )
        array = f"{os.path.realpath(self.dataset.file)}::{self.dataset.inner} {self.dataset._state}"
        return hashlib.blake2b(
            f"{array} {about(self.pixels)}".encode("utf-8", "surrogateescape"), digest_size=16
        ).hexdigest()

    def notes(self) -> list[str]:
        chunks, dtype = self.dataset.chunks, self.dataset.dtype
        if not chunks or chunks[0] < 2 or (size := int(np.prod(chunks)) * dtype.itemsize) <= _SLOW:
            return []
        return [
            f"chunks of {counted(chunks[0], 'image')} ({size_of(size)}): reading one image decodes its chunk, so "
            "images in random order are slow. Write the array with chunks of one image"
        ]

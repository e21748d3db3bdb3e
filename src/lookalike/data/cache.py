"""All images decoded once and kept: in memory, on the device, or in a file that later runs find again."""

import dataclasses
import os
import shutil
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import torch
from torch import Tensor

from ..devices import free_memory, moved
from ..files import atomic, becomes, cache_folder, check_writable, locked, named, sync, temporary_beside
from ..images import movable, promote, starts, widest
from ..printing import size_of, warn
from ..random import key_of
from .errors import BrokenImage
from .order import Order, Request
from .sources import Source
from .workers import Chunks, Read, read_request, stream

_CHUNK: Final = 64  # images that a worker sends at once
_SAMPLE: Final = 64  # images from which the size of all is estimated
_SHARE: Final = {"cpu": 0.8, "cuda": 0.5, "disk": 0.9}  # of the free room; a GPU needs the rest to train
_FORMAT: Final = 1  # of the files; another one makes them anew
_DTYPES: Final = {str(dtype): dtype for dtype in (torch.uint8, torch.uint16, torch.float32)}

Progress = Callable[[int, int], None]


class Resident:
    """Decodes a source into one flat buffer on `device`, or into a `kept` file; batches are picked from it.

    `check_room` tells before whether they fit.
    """

    def __init__(
        self, source: Source, order: Order, decode_size: int | None, device: torch.device, workers: int,
        progress: Progress | None, kept: "Kept | None" = None,
    ) -> None:  # fmt: skip
        self.order = order
        self.channels = source.channels
        if kept is None:
            found = _decode_all(source, decode_size, workers, progress, _InMemory())
        else:
            found = kept.images(workers, progress)
        self.broken = found.broken
        """The unreadable images' places, with their names and reasons."""
        self._slots = found.slots
        self._dtype = found.dtype
        self._sizes = torch.from_numpy(found.sizes)
        self._starts = starts(self.channels, self._sizes)
        self._buffer = movable(torch.from_numpy(found.pixels).view(found.dtype)).to(device)
        self._even = len(found.sizes) > 0 and bool((self._sizes == self._sizes[0]).all())

    def __getitem__(self, request: Request) -> Read:
        index, _, broken = read_request(self.order, request, self._take)
        slots = torch.from_numpy(self._slots[index])
        sizes = self._sizes[slots]
        if not index:
            buffer = self._buffer[:0]
        elif self._even:
            buffer = self._buffer.view(len(self._sizes), -1).index_select(0, moved(slots, self._buffer.device)).view(-1)
        else:
            lengths = self.channels * sizes.prod(1)
            spans = zip(self._starts[slots].tolist(), lengths.tolist(), strict=True)
            buffer = torch.cat([self._buffer[start : start + length] for start, length in spans])
        return Read(np.array(index, np.int64), sizes.numpy(), buffer.view(self._dtype), broken)

    def _take(self, i: int) -> None:
        if i in self.broken:
            raise BrokenImage(*self.broken[i])


@dataclass(frozen=True)
class _Decoded:
    """All readable images of a source, one after the other."""

    pixels: np.ndarray
    """Flat uint8: their bytes."""
    dtype: torch.dtype
    sizes: np.ndarray
    """(N, 2) int64, heights and widths of the readable ones."""
    slots: np.ndarray
    """(images,) int64: the place of each among the readable ones, or -1."""
    broken: dict[int, tuple[str, str]]


class _Store(Protocol):
    """Where bytes are appended."""

    def add(self, piece: np.ndarray) -> None: ...

    def widen(self, old: torch.dtype, new: torch.dtype) -> None: ...

    def whole(self) -> np.ndarray: ...


class _InMemory:
    def __init__(self) -> None:
        self.held = np.empty(0, np.uint8)

    def add(self, piece: np.ndarray) -> None:
        end = self.held.size
        self.held.resize(end + piece.size, refcheck=False)  # moves pages, not bytes: the data never lie there twice
        self.held[end:] = piece

    def widen(self, old: torch.dtype, new: torch.dtype) -> None:
        self.held = _bytes(promote(torch.from_numpy(self.held).view(old), new)).copy()

    def whole(self) -> np.ndarray:
        return self.held


class _InFile:
    def __init__(self, path: Path) -> None:
        self.path = path
        with named(path):
            self.file = open(path, "xb")  # noqa: SIM115 (`whole` closes it)

    def add(self, piece: np.ndarray) -> None:
        with named(self.path):
            self.file.write(piece.data)

    def widen(self, old: torch.dtype, new: torch.dtype) -> None:
        held = self.whole()
        wide = _InFile(self.path.with_name(f"{self.path.name}.wide"))
        try:
            step = 2**24 * old.itemsize
            for i in range(0, held.size, step):
                wide.add(_bytes(promote(torch.from_numpy(held[i : i + step].copy()).view(old), new)))
            wide.path.replace(self.path)
        except BaseException:
            wide.remove()
            raise
        self.file = wide.file

    def whole(self) -> np.ndarray:
        with named(self.path):
            self.file.close()
        return _mapped(self.path)

    def remove(self) -> None:
        with suppress(OSError):
            self.file.close()
        self.path.unlink(missing_ok=True)


def _decode_all(
    source: Source, decode_size: int | None, workers: int, progress: Progress | None, store: _Store
) -> _Decoded:
    broken: dict[int, tuple[str, str]] = {}
    slots = np.full(len(source), -1, np.int64)
    chunks = [range(i, min(i + _CHUNK, len(source))) for i in range(0, len(source), _CHUNK)]
    dtype, sizes, count = torch.uint8, [np.empty((0, 2), np.int64)], 0
    for chunk, read in zip(chunks, stream(Chunks(source, decode_size), chunks, workers), strict=True):
        broken.update(zip(sorted({*chunk}.difference(read.places.tolist())), read.broken, strict=True))
        if len(read.places):
            if (wide := widest((dtype, read.buffer.dtype))) != dtype:
                store.widen(dtype, wide)
                dtype = wide
            store.add(_bytes(promote(read.buffer, dtype)))
            slots[read.places] = np.arange(count, count + len(read.places))
            sizes.append(read.sizes)
            count += len(read.places)
        if progress:
            progress(chunk.stop, len(source))
    return _Decoded(store.whole(), dtype, np.concatenate(sizes), slots, broken)


class Kept:
    """The file that holds a source's decoded images, where a run made it before; it is made where it is missing.

    Raises:
        ValueError: the images are no files.
        OSError: the folder cannot be written to.
    """

    def __init__(self, source: Source, decode_size: int | None, folder: Path | None) -> None:
        self.source = source
        self.decode_size = decode_size
        self.folder = folder or cache_folder()
        name = key_of(source.version(), source.channels, decode_size or 0, _FORMAT) & (2**64 - 1)
        self.pixels, self.index, self.lock = (self.folder / f"{name:016x}.{kind}" for kind in ("pixels", "npz", "lock"))
        if not self.there():
            check_writable(self.pixels, "--cache-dir")

    def there(self) -> bool:
        return self.index.is_file() and self.pixels.is_file()

    def images(self, workers: int, progress: Progress | None) -> _Decoded:
        """Reads the file; where it is missing, damaged, or lacks an image that can be read now, makes it first.

        Processes that want the same file wait for the one that makes it.
        """
        if (found := self._read()) is not None:  # without the lock: the folder may be readable only
            return found
        with locked(self.lock, wait=warn) as held:
            if (found := self._read()) is not None:
                return found
            if held:  # nobody is at work on them
                for path in self.folder.iterdir():
                    if (becomes(path) or "").startswith(f"{self.pixels.stem}."):
                        path.unlink()
            return self._make(workers, progress)

    def _make(self, workers: int, progress: Progress | None) -> _Decoded:
        file = _InFile(temporary_beside(self.pixels))
        try:
            found = _decode_all(self.source, self.decode_size, workers, progress, file)
            self.index.unlink(missing_ok=True)  # an old one must not meet new pixels
            with named(self.pixels):
                sync(file.path)
                file.path.replace(self.pixels)
        finally:
            file.remove()
        places = np.array(list(found.broken), np.int64)
        words = np.array(list(found.broken.values()), np.str_).reshape(-1, 2)
        with atomic(self.index) as temporary, open(temporary, "wb") as index:
            np.savez(index, dtype=str(found.dtype), sizes=found.sizes, slots=found.slots, places=places, words=words)
        return dataclasses.replace(found, pixels=_mapped(self.pixels))

    def _read(self) -> _Decoded | None:
        if not self.there():
            return None
        try:
            with np.load(self.index, allow_pickle=False) as held:
                broken = {int(i): (str(a), str(b)) for i, (a, b) in zip(held["places"], held["words"], strict=True)}
                found = _Decoded(
                    _mapped(self.pixels), _DTYPES[str(held["dtype"])], held["sizes"], held["slots"], broken
                )
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            return None
        count = int(self.source.channels * found.sizes.prod(1).sum())
        if found.pixels.size != count * found.dtype.itemsize or len(found.slots) != len(self.source):
            return None
        for i in list(broken)[:_SAMPLE]:  # the disk may have failed, not the image
            with suppress(BrokenImage):
                self.source.read(i, self.decode_size)
                return None
        return found


def _mapped(path: Path) -> np.ndarray:
    """A file's bytes, read as they are used. (Copy on write: torch wants memory that could be written to.)"""
    return np.memmap(path, np.uint8, "c") if path.stat().st_size else np.empty(0, np.uint8)


def _bytes(x: Tensor) -> np.ndarray:
    return x.contiguous().view(torch.uint8).numpy()


def check_room(
    source: Source, decode_size: int | None, device: torch.device, world: int, kept: Kept | None = None
) -> None:
    """Raises ValueError if the images would not fit on `device`, or on the disk of a `kept` file that is not there."""
    if kept is not None and kept.there():
        return
    total = len(source)
    sizes = []
    for i in range(0, total, -(-total // _SAMPLE)):
        with suppress(BrokenImage):
            sizes.append(source.read(i, decode_size).nbytes)
    need = total * sum(sizes) // max(1, len(sizes))
    name, remedy = "this machine", "Leave them on disk with --cache none or disk, or use"
    if kept is not None:
        there = next(p for p in kept.folder.absolute().parents if p.exists())
        places = [("disk", shutil.disk_usage(there).free, need)]
        name, remedy = f"the disk of {kept.folder}", "Give another --cache-dir, use --cache none, or"
    elif device.type == "cuda":
        places = [(device.type, torch.cuda.mem_get_info(device)[0], need), ("cpu", free_memory(), need)]
    else:  # each process of a machine keeps its own copy
        places = [("cpu", free_memory(), need * int(os.environ.get("LOCAL_WORLD_SIZE", world)))]
    for kind, free, wanted in places:
        if wanted > _SHARE[kind] * free:
            raise ValueError(
                f"{total} decoded images take about {size_of(wanted)}, more than {_SHARE[kind]:.0%} of the "
                f"{size_of(free)} free on {'the GPU' if kind == 'cuda' else name}. "
                f"{remedy} a smaller --image-size."
            )

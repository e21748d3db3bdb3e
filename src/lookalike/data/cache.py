"""Cache of decoded images: in memory, on the device, or in a file that later runs reuse."""

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
_SAMPLE: Final = 64  # images from which the total size is estimated
_FRACTION: Final = {"cpu": 0.8, "cuda": 0.5, "disk": 0.9}  # of the free space; training needs the rest of a GPU
_FORMAT: Final = 1  # version of the file format; files of another version are rebuilt
_DTYPES: Final = {str(dtype): dtype for dtype in (torch.uint8, torch.uint16, torch.float32)}

Progress = Callable[[int, int], None]


class Resident:
    """Decodes a source into one flat buffer on `device`, or into a file, and takes batches from it.

    Call `check_room` first to find out whether the images fit.
    """

    def __init__(
        self, source: Source, order: Order, decode_size: int | None, device: torch.device, workers: int,
        progress: Progress | None, disk_cache: "DiskCache | None" = None,
    ) -> None:  # fmt: skip
        self.order = order
        self.channels = source.channels
        if disk_cache is None:
            decoded = _decode_all(source, decode_size, workers, progress, _InMemory())
        else:
            decoded = disk_cache.load(workers, progress)
        self.broken = decoded.broken
        """Index of each unreadable image -> its name and the reason."""
        self._slots = decoded.slots
        self._dtype = decoded.dtype
        self._sizes = torch.from_numpy(decoded.sizes)
        self._starts = starts(self.channels, self._sizes)
        self._buffer = movable(torch.from_numpy(decoded.pixels).view(decoded.dtype)).to(device)
        self._same_size = len(decoded.sizes) > 0 and bool((self._sizes == self._sizes[0]).all())

    def __getitem__(self, request: Request) -> Read:
        index, _, broken = read_request(self.order, request, self._take)
        slots = torch.from_numpy(self._slots[index])
        sizes = self._sizes[slots]
        if not index:
            buffer = self._buffer[:0]
        elif self._same_size:
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
    """All readable images of a source, concatenated."""

    pixels: np.ndarray
    """Flat uint8: the bytes of all readable images."""
    dtype: torch.dtype
    sizes: np.ndarray
    """(N, 2) int64, heights and widths of the readable images."""
    slots: np.ndarray
    """(images,) int64: index of each image among the readable ones, or -1."""
    broken: dict[int, tuple[str, str]]
    """Index of each unreadable image -> its name and the reason."""


class _Store(Protocol):
    """A growing buffer of bytes."""

    def add(self, piece: np.ndarray) -> None: ...

    def widen(self, old: torch.dtype, new: torch.dtype) -> None: ...

    def whole(self) -> np.ndarray: ...


class _InMemory:
    def __init__(self) -> None:
        self.held = np.empty(0, np.uint8)

    def add(self, piece: np.ndarray) -> None:
        end = self.held.size
        self.held.resize(end + piece.size, refcheck=False)  # remaps pages without a second copy of the data
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
        broken.update(zip(sorted({*chunk}.difference(read.indices.tolist())), read.broken, strict=True))
        if len(read.indices):
            if (wide := widest((dtype, read.buffer.dtype))) != dtype:
                store.widen(dtype, wide)
                dtype = wide
            store.add(_bytes(promote(read.buffer, dtype)))
            slots[read.indices] = np.arange(count, count + len(read.indices))
            sizes.append(read.sizes)
            count += len(read.indices)
        if progress:
            progress(chunk.stop, len(source))
    return _Decoded(store.whole(), dtype, np.concatenate(sizes), slots, broken)


class DiskCache:
    """The cache file of a source's decoded images: reused from an earlier run, otherwise written on first use.

    Raises:
        ValueError: the images are not files.
        OSError: the folder is not writable.
    """

    def __init__(self, source: Source, decode_size: int | None, folder: Path | None) -> None:
        self.source = source
        self.decode_size = decode_size
        self.folder = folder or cache_folder()
        name = key_of(source.version(), source.channels, decode_size or 0, _FORMAT) & (2**64 - 1)
        self.pixels, self.index, self.lock = (self.folder / f"{name:016x}.{kind}" for kind in ("pixels", "npz", "lock"))
        if not self.exists():
            check_writable(self.pixels, "--cache-dir")

    def exists(self) -> bool:
        return self.index.is_file() and self.pixels.is_file()

    def load(self, workers: int, progress: Progress | None) -> _Decoded:
        """Reads the file. Rebuilds it first if it is missing, damaged, or lacks an image that is readable now.

        Processes that need the same file wait for the one that builds it.
        """
        if (decoded := self._read()) is not None:  # without the lock: the folder may be read-only
            return decoded
        with locked(self.lock, wait=warn) as held:
            if (decoded := self._read()) is not None:
                return decoded
            if held:  # no other process is writing, so temporary files are leftovers
                for path in self.folder.iterdir():
                    if (becomes(path) or "").startswith(f"{self.pixels.stem}."):
                        path.unlink()
            return self._build(workers, progress)

    def _build(self, workers: int, progress: Progress | None) -> _Decoded:
        file = _InFile(temporary_beside(self.pixels))
        try:
            decoded = _decode_all(self.source, self.decode_size, workers, progress, file)
            self.index.unlink(missing_ok=True)  # an old index must not be paired with new pixels
            with named(self.pixels):
                sync(file.path)
                file.path.replace(self.pixels)
        finally:
            file.remove()
        indices = np.array(list(decoded.broken), np.int64)
        reasons = np.array(list(decoded.broken.values()), np.str_).reshape(-1, 2)
        with atomic(self.index) as temporary, open(temporary, "wb") as index:
            np.savez(
                index, dtype=str(decoded.dtype), sizes=decoded.sizes, slots=decoded.slots, places=indices, words=reasons
            )
        return dataclasses.replace(decoded, pixels=_mapped(self.pixels))

    def _read(self) -> _Decoded | None:
        if not self.exists():
            return None
        try:
            with np.load(self.index, allow_pickle=False) as held:
                broken = {int(i): (str(a), str(b)) for i, (a, b) in zip(held["places"], held["words"], strict=True)}
                decoded = _Decoded(
                    _mapped(self.pixels), _DTYPES[str(held["dtype"])], held["sizes"], held["slots"], broken
                )
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            return None
        count = int(self.source.channels * decoded.sizes.prod(1).sum())
        if decoded.pixels.size != count * decoded.dtype.itemsize or len(decoded.slots) != len(self.source):
            return None
        for i in list(broken)[:_SAMPLE]:  # the disk may have failed, not the image
            with suppress(BrokenImage):
                self.source.read(i, self.decode_size)
                return None
        return decoded


def _mapped(path: Path) -> np.ndarray:
    """A file's bytes, mapped lazily. (Copy on write: torch requires writable memory.)"""
    return np.memmap(path, np.uint8, "c") if path.stat().st_size else np.empty(0, np.uint8)


def _bytes(x: Tensor) -> np.ndarray:
    return x.contiguous().view(torch.uint8).numpy()


def check_room(
    source: Source, decode_size: int | None, device: torch.device, world: int, disk_cache: DiskCache | None = None
) -> None:
    """Raises ValueError if the images would not fit on `device`, or on the disk of a cache file not yet written."""
    if disk_cache is not None and disk_cache.exists():
        return
    total = len(source)
    sizes = []
    for i in range(0, total, -(-total // _SAMPLE)):
        with suppress(BrokenImage):
            sizes.append(source.read(i, decode_size).nbytes)
    total_bytes = total * sum(sizes) // max(1, len(sizes))
    name, remedy = "this machine", "Leave them on disk with --cache none or disk, or use"
    if disk_cache is not None:
        existing = next(p for p in disk_cache.folder.absolute().parents if p.exists())
        demands = [("disk", shutil.disk_usage(existing).free, total_bytes)]
        name, remedy = f"the disk of {disk_cache.folder}", "Give another --cache-dir, use --cache none, or"
    elif device.type == "cuda":
        demands = [(device.type, torch.cuda.mem_get_info(device)[0], total_bytes), ("cpu", free_memory(), total_bytes)]
    else:  # each process of a machine holds its own copy
        demands = [("cpu", free_memory(), total_bytes * int(os.environ.get("LOCAL_WORLD_SIZE", world)))]
    for kind, free, wanted in demands:
        if wanted > _FRACTION[kind] * free:
            raise ValueError(
                f"{total} decoded images take about {size_of(wanted)}, more than {_FRACTION[kind]:.0%} of the "
                f"{size_of(free)} free on {'the GPU' if kind == 'cuda' else name}. "
                f"{remedy} a smaller --image-size."
            )

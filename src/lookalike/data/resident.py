"""All images decoded once and kept in memory."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from .decoding import BrokenImage
from .images import movable, promote, starts, widest
from .order import Order, Request
from .reading import Chunks, Read, gather, stream
from .sources import Source

_CHUNK: Final = 64  # images that a worker sends at once
_SAMPLE: Final = 64  # images from which the size of all is estimated
_SHARE: Final = {"cpu": 0.8, "cuda": 0.5}  # of the free memory that images may take; a GPU needs the rest to train


class Resident:
    """Decodes a source into one flat buffer on `device`; batches are picked from it.

    `check_memory` tells before whether they fit.
    """

    def __init__(
        self, source: Source, order: Order, decode_size: int | None, device: torch.device, workers: int,
        progress: Callable[[int, int], None] | None,
    ) -> None:  # fmt: skip
        self.order = order
        self.channels = source.channels
        self.broken: dict[int, tuple[str, str]] = {}
        """The unreadable images' places, with their names and reasons."""
        self._slots = np.full(len(source), -1, np.int64)  # image -> its place in the buffer
        chunks = [range(i, min(i + _CHUNK, len(source))) for i in range(0, len(source), _CHUNK)]
        held, dtype, sizes, count = np.empty(0, np.uint8), torch.uint8, [], 0
        for chunk, read in zip(chunks, stream(Chunks(source, decode_size), chunks, workers), strict=True):
            self.broken.update(zip(sorted({*chunk}.difference(read.places.tolist())), read.broken, strict=True))
            if len(read.places):
                if (wide := widest((dtype, read.buffer.dtype))) != dtype:
                    held, dtype = _bytes(promote(torch.from_numpy(held).view(dtype), wide)).copy(), wide
                piece = _bytes(promote(read.buffer, dtype))
                end = held.size
                held.resize(end + piece.size, refcheck=False)  # moves pages, not bytes: the data never lie there twice
                held[end:] = piece
                self._slots[read.places] = np.arange(count, count + len(read.places))
                sizes.append(read.sizes)
                count += len(read.places)
            if progress:
                progress(chunk.stop, len(source))
        self._dtype = dtype
        self._sizes = torch.from_numpy(np.concatenate(sizes) if sizes else np.empty((0, 2), np.int64))
        self._starts = starts(self.channels, self._sizes)
        self._buffer = movable(torch.from_numpy(held).view(dtype)).to(device)
        self._even = count > 0 and bool((self._sizes == self._sizes[0]).all())

    def __getitem__(self, request: Request) -> Read:
        index, _, broken = gather(self.order, request, self._take)
        slots = torch.from_numpy(self._slots[index])
        sizes = self._sizes[slots]
        if not index:
            buffer = self._buffer[:0]
        elif self._even:
            buffer = self._buffer.view(len(self._sizes), -1).index_select(0, slots.to(self._buffer.device)).view(-1)
        else:
            lengths = self.channels * sizes.prod(1)
            spans = zip(self._starts[slots].tolist(), lengths.tolist(), strict=True)
            buffer = torch.cat([self._buffer[start : start + length] for start, length in spans])
        return Read(np.array(index, np.int64), sizes.numpy(), buffer.view(self._dtype), broken)

    def _take(self, i: int) -> None:
        if i in self.broken:
            raise BrokenImage(*self.broken[i])


def _bytes(x: Tensor) -> np.ndarray:
    return x.contiguous().view(torch.uint8).numpy()


def check_memory(source: Source, decode_size: int | None, device: torch.device, world: int) -> None:
    """Raises ValueError if the images would not fit on `device`, by an estimate from a sample."""
    total = len(source)
    sizes = []
    for i in range(0, total, -(-total // _SAMPLE)):
        with suppress(BrokenImage):
            sizes.append(source.read(i, decode_size).nbytes)
    need = total * sum(sizes) // max(1, len(sizes))
    if device.type == "cuda":
        places = [(device.type, torch.cuda.mem_get_info(device)[0], need), ("cpu", _free_memory(), need)]
    else:  # each process of a machine keeps its own copy
        places = [("cpu", _free_memory(), need * int(os.environ.get("LOCAL_WORLD_SIZE", world)))]
    for kind, free, wanted in places:
        if wanted > _SHARE[kind] * free:
            raise ValueError(
                f"{total} decoded images take about {wanted / 2**30:.2g} GiB, more than {_SHARE[kind]:.0%} of the "
                f"{free / 2**30:.2g} GiB free on {'the GPU' if kind == 'cuda' else 'this machine'}. "
                "Leave them on disk with --cache none, or use a smaller --image-size."
            )


def _free_memory() -> int:
    """Bytes that new data may take: what the kernel calls available, or else all memory; at most the container's."""
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    meminfo, container = Path("/proc/meminfo"), Path("/sys/fs/cgroup/memory.max")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024
    if container.exists() and (limit := container.read_text().strip()) != "max":
        free = min(free, int(limit))
    return free

"""The loader: micro-batches of one process, independent of the number of workers and reproducible after a resume."""

import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Final, Literal

import torch

from ..images import Images, starts
from ..printing import counted
from ..random import key_of, keys_of
from .cache import DiskCache, Resident, check_room
from .errors import remedy
from .order import Order
from .sources import Source
from .workers import Batches, Read, stream

_FEW_IMAGES: Final = 200  # below this number the fraction of broken images is not meaningful


class Loader:
    """Iterates over one epoch's micro-batches for one rank; the next `iter` continues from the current state.

    Images are decoded again for each batch (`cache="none"`), or once, when the first batch is requested: into memory
    ("ram"), onto `device` ("device"), or into a file in `cache_dir` (default ~/.cache/lookalike) that later runs on
    the same files reuse ("disk"). `Order` determines the images of a batch and the replacements of broken ones.

    Args:
        batch_size: images per optimizer step, over all ranks and micro-batches.
        accumulate: micro-batches per optimizer step.
        workers: number of decoding processes; with 0 this process decodes. With a cache they exit once it is full.
        decode_size: see `decode`.
        device: target device of the batches. They are yielded on the CPU, pinned for a GPU; with `cache="device"`
            their buffers are on the device already.
        repeats: number of epochs after which an image's views repeat; 0 for never.
        max_broken: largest allowed fraction of unreadable images among those read so far.
        progress: called with the number of images decoded so far and the total while a cache fills.

    Raises:
        ValueError: a batch larger than the data set, or not divisible by `world * accumulate`. While iterating: too
            many broken images, or images that do not fit in memory.
        RuntimeError: while iterating, a worker died or failed.
    """

    def __init__(
        self,
        source: Source,
        batch_size: int,
        seed: int,
        *,
        rank: int = 0,
        world: int = 1,
        accumulate: int = 1,
        workers: int = 0,
        decode_size: int | None = None,
        cache: Literal["none", "ram", "device", "disk"] = "none",
        cache_dir: Path | None = None,
        device: torch.device = torch.device("cpu"),  # noqa: B008
        repeats: int = 0,
        max_broken: float = 0.1,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        if cache not in ("none", "ram", "device", "disk"):
            raise ValueError(f"cache is {cache!r}; expected none, ram, device or disk.")
        cache_device = device if cache == "device" else torch.device("cpu")
        self._disk_cache = DiskCache(source, decode_size, cache_dir) if cache == "disk" else None
        if cache != "none":
            check_room(source, decode_size, cache_device, world, self._disk_cache)
        self.source = source
        # computed here, so that workers inherit the keys: hashing millions of names takes seconds
        self._keys = source.keys
        self.order = Order(len(source), batch_size, seed, rank, world, accumulate)
        self.workers = workers
        self.decode_size = decode_size
        self.cache = cache
        self._cache_device = cache_device
        self.device = device
        self.repeats = repeats
        self.max_broken = max_broken
        self.progress = progress
        self.broken: dict[str, str] = {}
        """Unreadable images found so far by this process: name -> reason."""
        self.waited = 0.0
        """Seconds spent waiting for batches."""
        self._epoch = 0
        self._consumed = 0
        self._seen = torch.zeros(len(source), dtype=torch.bool)
        self._resident: Resident | None = None
        self._stream: Iterator[Read] | None = None

    def __len__(self) -> int:
        """Micro-batches per epoch."""
        return len(self.order)

    @property
    def steps_per_epoch(self) -> int:
        return self.order.steps

    @property
    def epoch(self) -> int:
        """The epoch of the next micro-batch."""
        return self._epoch

    @property
    def _view_epoch(self) -> int:
        """The epoch number with which views are drawn."""
        return self._epoch % self.repeats if self.repeats else self._epoch

    def state_dict(self) -> dict[str, int]:
        """The epoch and the number of its micro-batches yielded so far, including the current one."""
        return {"epoch": self._epoch, "consumed": self._consumed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Sets the position of the next micro-batch."""
        if not 0 <= state["consumed"] < len(self):
            raise ValueError(
                f"The state has {state['consumed']} consumed micro-batches, but an epoch has {len(self)}. "
                "It belongs to a run with other data, batch size or accumulation."
            )
        self._epoch, self._consumed = state["epoch"], state["consumed"]
        self._stream = None

    def close(self) -> None:
        """Stops the workers, which would prefetch without end; the next `iter` starts new ones."""
        if isinstance(self._stream, Generator):
            self._stream.close()
        self._stream = None

    def __iter__(self) -> Iterator[Images]:
        epoch = self._epoch
        while self._epoch == epoch:
            begun = time.perf_counter()
            images = self._next()
            self.waited += time.perf_counter() - begun
            # before the yield: code after an epoch's last yield may never run
            self._consumed += 1
            if self._consumed == len(self):
                self._epoch, self._consumed = epoch + 1, 0
            yield images

    def survey(self) -> Iterator[Images]:
        """The micro-batches of an extra epoch, numbered -1; afterwards `iter` continues from the previous state."""
        state = self.state_dict()
        self.close()
        self._epoch, self._consumed = -1, 0
        try:
            yield from self
        finally:
            if self.state_dict() != state:  # otherwise the stream continues into epoch 0
                self.close()
                self.load_state_dict(state)

    def _next(self) -> Images:
        try:
            if self._stream is None:
                self._stream = self._start()
            read = next(self._stream)
            self._count(read)
        except BaseException:
            self._stream = None  # it may be ahead of the state
            raise
        index, sizes = torch.from_numpy(read.indices), torch.from_numpy(read.sizes)
        images = Images(
            buffer=read.buffer,
            offsets=starts(self.source.channels, sizes),
            sizes=sizes,
            channels=self.source.channels,
            index=index,
            keys=keys_of(key_of(self.order.seed, "views"), self._view_epoch, self._keys[index]),
            labels=None if self.source.labels is None else self.source.labels[index],
            broken=read.broken,
        )
        return images.pin_memory() if self.device.type == "cuda" else images

    def _start(self) -> Iterator[Read]:
        requests = self.order.requests(self._epoch, self._consumed)
        if self.cache == "none":
            batches = Batches(self.source, self.order, self.decode_size)
            return stream(batches, requests, self.workers, pin=self.device.type == "cuda")
        if self._resident is None:
            self._resident = Resident(
                self.source, self.order, self.decode_size, self._cache_device, self.workers, self.progress,
                self._disk_cache,
            )  # fmt: skip
        return map(self._resident.__getitem__, requests)

    def _first_broken(self) -> str:
        """The first broken images, one line each; a reason shared by all is printed once."""
        found = list(self.broken.items())
        if len(found) > 1 and len(set(self.broken.values())) == 1:
            return f"\n  {found[0][0]}: {found[0][1]}\n  and {len(found) - 1} others for the same reason"
        return "".join(f"\n  {name}: {reason}" for name, reason in found[:5])

    def _count(self, read: Read) -> None:
        """Counts the broken images and raises ValueError if they are too many."""
        self._seen[torch.from_numpy(read.indices)] = True
        self.broken.update(read.broken)
        if not read.broken:
            return
        first = self._first_broken()
        if not len(read.indices):
            raise ValueError(
                f"None of {counted(len(dict(read.broken)), 'image')} tried in turn could be read:{first}\n"
                + (self.source.missing() or f"{remedy([reason for _, reason in read.broken])}.")
            )
        tried = int(self._seen.sum()) + len(self.broken)
        few = min(_FEW_IMAGES, len(self.source) // 2)
        if len(self.broken) > self.max_broken * max(tried, few):
            raise ValueError(
                f"{len(self.broken)} of {counted(tried, 'image')} could not be read, more than the allowed fraction of "
                f"{self.max_broken:g}:{first}\n"
                + (
                    self.source.missing()
                    or f"{remedy([*self.broken.values()])}, or restore them (then continue a run that has started with "
                    "--resume), raise --max-broken, or remove them and start a new run."
                )
            )

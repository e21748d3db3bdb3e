"""The loader: one process's micro-batches, the same ones whatever the workers, and after every resume."""

import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Final, Literal

import torch

from ..images import Images, starts
from ..printing import counted
from ..random import key_of, keys_of
from .cache import Kept, Resident, check_room
from .errors import remedy
from .order import Order
from .sources import Source
from .workers import Batches, Read, stream

_FEW_IMAGES: Final = 200  # images below which a share of broken ones says little


class Loader:
    """Iterates over one epoch's micro-batches for one rank; the next `iter` goes on with the state it left.

    Images are decoded again for each batch (`cache="none"`), or once, when the first batch is asked for: into memory
    ("ram"), onto `device` ("device"), or into a file in `cache_dir` (without it ~/.cache/lookalike) that later runs on
    the same files find again ("disk"). `Order` says which images a batch holds and which one replaces a broken one.

    Args:
        batch_size: images per optimizer step, over all ranks and micro-batches.
        accumulate: micro-batches per optimizer step.
        workers: processes that decode; with 0 this one does. With a cache they end once it is full.
        decode_size: see `decode`.
        device: where the batches will go. They are yielded on the CPU, pinned for a GPU; with `cache="device"` their
            buffers are on the device already.
        repeats: epochs after which an image's views come again; 0 for never.
        max_broken: more than this share of unreadable images, among those looked at, is an error.
        progress: called with the images decoded so far and their number while a cache fills.

    Raises:
        ValueError: a batch larger than the data set, or not divisible by `world * accumulate`. While iterating: too
            many broken images, or images that do not fit into memory.
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
        place = device if cache == "device" else torch.device("cpu")
        self._kept = Kept(source, decode_size, cache_dir) if cache == "disk" else None
        if cache != "none":
            check_room(source, decode_size, place, world, self._kept)
        self.source = source
        self._keys = (
            source.keys
        )  # asked for here, so that workers inherit them: hashing millions of names takes seconds
        self.order = Order(len(source), batch_size, seed, rank, world, accumulate)
        self.workers = workers
        self.decode_size = decode_size
        self.cache = cache
        self._place = place
        self.device = device
        self.repeats = repeats
        self.max_broken = max_broken
        self.progress = progress
        self.broken: dict[str, str] = {}
        """Unreadable images found so far by this process: name to reason."""
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
        """The epoch that the next micro-batch belongs to."""
        return self._epoch

    @property
    def _turn(self) -> int:
        """The number that an image's views are drawn with."""
        return self._epoch % self.repeats if self.repeats else self._epoch

    def state_dict(self) -> dict[str, int]:
        """The epoch and how many of its micro-batches were yielded; the latest one counts while it is in use."""
        return {"epoch": self._epoch, "consumed": self._consumed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Sets the next micro-batch."""
        if not 0 <= state["consumed"] < len(self):
            raise ValueError(
                f"The state has {state['consumed']} micro-batches consumed, an epoch has {len(self)}. "
                "It belongs to other data, batch size or accumulation."
            )
        self._epoch, self._consumed = state["epoch"], state["consumed"]
        self._stream = None

    def close(self) -> None:
        """Ends the workers, which run ahead for ever; the next `iter` starts others."""
        if isinstance(self._stream, Generator):
            self._stream.close()
        self._stream = None

    def __iter__(self) -> Iterator[Images]:
        epoch = self._epoch
        while self._epoch == epoch:
            begun = time.perf_counter()
            images = self._next()
            self.waited += time.perf_counter() - begun
            # before the yield: what follows the last yield of an epoch does not run
            self._consumed += 1
            if self._consumed == len(self):
                self._epoch, self._consumed = epoch + 1, 0
            yield images

    def survey(self) -> Iterator[Images]:
        """The micro-batches of an epoch before the first, numbered -1; afterwards `iter` goes on where it was."""
        place = self.state_dict()
        self.close()
        self._epoch, self._consumed = -1, 0
        try:
            yield from self
        finally:
            if self.state_dict() != place:  # else the stream runs on into epoch 0
                self.close()
                self.load_state_dict(place)

    def _next(self) -> Images:
        try:
            if self._stream is None:
                self._stream = self._start()
            read = next(self._stream)
            self._count(read)
        except BaseException:
            self._stream = None  # it may have run ahead of the state
            raise
        index, sizes = torch.from_numpy(read.places), torch.from_numpy(read.sizes)
        images = Images(
            buffer=read.buffer,
            offsets=starts(self.source.channels, sizes),
            sizes=sizes,
            channels=self.source.channels,
            index=index,
            keys=keys_of(key_of(self.order.seed, "views"), self._turn, self._keys[index]),
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
                self.source, self.order, self.decode_size, self._place, self.workers, self.progress,
                self._kept,
            )  # fmt: skip
        return map(self._resident.__getitem__, requests)

    def _first_broken(self) -> str:
        """The first broken images, a line each; a reason that all of them share stands once."""
        found = list(self.broken.items())
        if len(found) > 1 and len(set(self.broken.values())) == 1:
            return f"\n  {found[0][0]}: {found[0][1]}\n  and {len(found) - 1} others for the same reason"
        return "".join(f"\n  {name}: {reason}" for name, reason in found[:5])

    def _count(self, read: Read) -> None:
        """Keeps account of the broken images, and stops when they are too many."""
        self._seen[torch.from_numpy(read.places)] = True
        self.broken.update(read.broken)
        if not read.broken:
            return
        first = self._first_broken()
        if not len(read.places):
            raise ValueError(
                f"None of {counted(len(dict(read.broken)), 'image')} tried in turn could be read:{first}\n"
                + (self.source.missing() or f"{remedy([reason for _, reason in read.broken])}.")
            )
        looked = int(self._seen.sum()) + len(self.broken)
        few = min(_FEW_IMAGES, len(self.source) // 2)
        if len(self.broken) > self.max_broken * max(looked, few):
            raise ValueError(
                f"{len(self.broken)} of {counted(looked, 'image')} could not be read, more than the share of "
                f"{self.max_broken:g} "
                f"that is allowed:{first}\n"
                + (
                    self.source.missing()
                    or f"{remedy([*self.broken.values()])}, or put them back (a run that has begun goes on with "
                    "--resume), raise --max-broken, or remove them and start a new run."
                )
            )

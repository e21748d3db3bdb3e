"""Which image stands where: the order of an epoch, its cut into batches, and who stands in for a broken image.

Everything is a function of the seed, the epoch and the place, so it is the same for any number of processes, workers
and micro-batches, and after any resume.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

from torch import Tensor

from .. import random
from ..printing import counted

MAX_STAND_INS: Final = 1000
"""So many broken images one after the other mean that the data set cannot be read."""


class Request(NamedTuple):
    """A micro-batch to be made by one process."""

    epoch: int
    micro: int
    rows: list[int]


@dataclass(frozen=True)
class Order:
    """Epochs of `images // batch_size` optimizer steps over a fresh permutation each; the rest is left out.

    Step s takes `permutation[s * batch_size : (s + 1) * batch_size]`, cut in equal parts into `accumulate`
    micro-batches and each of these into `world` ranks, so the joined batch of a step depends on neither.

    The stand-ins of a broken image in row p of step s are row p of step s + 1, s + 2, ... around the epoch. So two
    rows of a batch never get the same image. Only once these are used up (in an epoch of one step at once) come
    the other images, in the order of the permutation after the broken one, and then one may be twice in a batch.
    """

    images: int
    batch_size: int
    seed: int
    rank: int
    world: int
    accumulate: int

    def __post_init__(self) -> None:
        parts = self.world * self.accumulate
        if self.batch_size < 1 or self.batch_size > self.images:
            most = self.images // parts * parts
            few = max(2 * parts, self.images // 4 // parts * parts)
            advice = (
                f"Give a --batch-size of {most} or less, such as {few}, or leave it out: then it is fitted."
                if few <= most
                else "Give a smaller --accumulate, fewer --devices, or more images."
            )
            raise ValueError(
                f"A batch of {self.batch_size} cannot be taken from {counted(self.images, 'image')}. {advice}"
            )
        if self.batch_size % parts:
            raise ValueError(
                f"A batch of {self.batch_size} does not divide into {self.accumulate} micro-batches for each of "
                f"{self.world} processes. Give a multiple of {parts}."
            )
        if not 0 <= self.rank < self.world:
            raise ValueError(f"Rank {self.rank} is none of 0 to {self.world - 1}.")

    @property
    def steps(self) -> int:
        return self.images // self.batch_size

    def __len__(self) -> int:
        """Micro-batches per epoch."""
        return self.steps * self.accumulate

    @property
    def rows(self) -> int:
        """Images in a micro-batch of one rank."""
        return self.batch_size // self.accumulate // self.world

    def _start(self, micro: int) -> int:
        return (micro * self.world + self.rank) * self.rows

    def permutation(self, epoch: int) -> Tensor:
        return _permutation(self.images, self.seed, epoch)

    def request(self, epoch: int, micro: int) -> Request:
        start = self._start(micro)
        return Request(epoch, micro, self.permutation(epoch)[start : start + self.rows].tolist())

    def requests(self, epoch: int, micro: int) -> Iterator[Request]:
        """All requests from here on, epoch after epoch without end, so that workers never wait at an epoch's end."""
        while True:
            for m in range(micro, len(self)):
                yield self.request(epoch, m)
            epoch, micro = epoch + 1, 0

    def stand_ins(self, request: Request, row: int) -> Iterator[int]:
        """The images to try, in turn, in place of a broken one."""
        order = self.permutation(request.epoch)
        place = self._start(request.micro) + row
        ahead = min(self.steps - 1, MAX_STAND_INS)
        for k in range(1, ahead + 1):
            yield int(order[(place + k * self.batch_size) % (self.steps * self.batch_size)])
        for k in range(1, min(self.images, MAX_STAND_INS - ahead)):
            yield int(order[(place + k) % self.images])


@lru_cache(maxsize=2)
def _permutation(images: int, seed: int, epoch: int) -> Tensor:
    return random.permutation(images, seed, "order", epoch)

"""Sampling order: the permutation of an epoch, its division into batches, and replacements of broken images.

Everything is a function of the seed, the epoch and the position, so it is the same for any number of processes,
workers and micro-batches, and after any resume.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

from torch import Tensor

from .. import random
from ..printing import counted

MAX_STAND_INS: Final = 1000
"""Replacements to try for a broken image; if all of them are broken, the data set is unreadable."""


class Request(NamedTuple):
    """The images of one process's micro-batch."""

    epoch: int
    micro: int
    rows: list[int]


@dataclass(frozen=True)
class Order:
    """Epochs of `images // batch_size` optimizer steps, each over a new permutation; the remainder is dropped.

    Step s takes `permutation[s * batch_size : (s + 1) * batch_size]`, split evenly into `accumulate` micro-batches and
    each of these into `world` ranks, so the global batch of a step depends on neither.

    A broken image in row p of step s is replaced by row p of step s + 1, s + 2, ..., wrapping around the epoch. So two
    rows of a batch never get the same image. When these are exhausted (at once in an epoch of one step), the images
    after the broken one in the permutation follow, and an image may occur twice in a batch.
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
            largest = self.images // parts * parts
            small = max(2 * parts, self.images // 4 // parts * parts)
            advice = (
                f"Give a --batch-size of at most {largest}, such as {small}, or omit it to choose it automatically."
                if small <= largest
                else "Give a smaller --accumulate, fewer --devices, or more images."
            )
            raise ValueError(
                f"A batch of {self.batch_size} cannot be drawn from {counted(self.images, 'image')}. {advice}"
            )
        if self.batch_size % parts:
            raise ValueError(
                f"A batch of {self.batch_size} is not divisible into {self.accumulate} micro-batches for each of "
                f"{self.world} processes. Give a multiple of {parts}."
            )
        if not 0 <= self.rank < self.world:
            raise ValueError(f"Rank is {self.rank}; expected 0 to {self.world - 1}.")

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
        """All requests from this position on, over endless epochs, so that workers do not wait at an epoch's end."""
        while True:
            for m in range(micro, len(self)):
                yield self.request(epoch, m)
            epoch, micro = epoch + 1, 0

    def stand_ins(self, request: Request, row: int) -> Iterator[int]:
        """The replacements to try, in order, for a broken image."""
        order = self.permutation(request.epoch)
        position = self._start(request.micro) + row
        ahead = min(self.steps - 1, MAX_STAND_INS)
        for k in range(1, ahead + 1):
            yield int(order[(position + k * self.batch_size) % (self.steps * self.batch_size)])
        for k in range(1, min(self.images, MAX_STAND_INS - ahead)):
            yield int(order[(position + k) % self.images])


@lru_cache(maxsize=2)
def _permutation(images: int, seed: int, epoch: int) -> Tensor:
    return random.permutation(images, seed, "order", epoch)

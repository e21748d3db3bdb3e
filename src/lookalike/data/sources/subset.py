"""A subset of a source."""

import copy
import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from ...image_options import Pixels
from .source import Source


class Subset(Source):
    """Selected images of a source, by index."""

    def __init__(self, source: Source, places: Sequence[int]) -> None:
        self.source = source
        self.places = torch.tensor(places, dtype=torch.int64)
        self.pixels, self.channels = source.pixels, source.channels
        self.take_columns(source, self.places)

    def __len__(self) -> int:
        return len(self.places)

    @property
    def keys(self) -> Tensor:
        return self.source.keys[self.places]

    def name(self, i: int) -> str:
        return self.source.name(int(self.places[i]))

    def file(self, i: int) -> str | None:
        return self.source.file(int(self.places[i]))

    def head(self, i: int, limit: int) -> tuple[int, bytes] | None:
        return self.source.head(int(self.places[i]), limit)

    def read(self, i: int, decode_size: int | None) -> Tensor:
        return self.source.read(int(self.places[i]), decode_size)

    def reading(self, pixels: Pixels) -> "Subset":
        other = copy.copy(self)
        other.source, other.pixels, other.channels = self.source.reading(pixels), pixels, pixels.channels
        return other

    def missing(self) -> str:
        return self.source.missing()

    def version(self) -> str:
        places = hashlib.blake2b(self.places.numpy().tobytes(), digest_size=16).hexdigest()
        return f"{self.source.version()} {places}"

    def kind(self, i: int) -> str:
        return self.source.kind(int(self.places[i]))

    def notes(self) -> list[str]:
        return self.source.notes()

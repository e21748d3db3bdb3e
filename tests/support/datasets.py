"""A Dataset and a source that hold what they are given, and what a loader makes of them."""

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lookalike.data import BrokenImage, Images, Loader, Source


class Items(Dataset[object]):
    def __init__(self, items: list[object]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> object:
        item = self.items[i]
        if isinstance(item, Exception):
            raise item
        return item


class Numbers(Source):
    """Images of one pixel that show their place; some are broken. Small enough for Hypothesis."""

    def __init__(self, count: int, broken: frozenset[int] = frozenset()) -> None:
        self.count = count
        self.channels = 1
        self.bad = broken

    def __len__(self) -> int:
        return self.count

    @property
    def keys(self) -> Tensor:
        return torch.arange(self.count) * 7

    def name(self, i: int) -> str:
        return f"n{i}"

    def read(self, i: int, decode_size: int | None) -> Tensor:
        if i in self.bad:
            raise BrokenImage(self.name(i), "bad")
        return torch.tensor([[[i / 1000]]])


def epochs(loader: Loader, count: int) -> list[Images]:
    return [batch for _ in range(count) for batch in loader]

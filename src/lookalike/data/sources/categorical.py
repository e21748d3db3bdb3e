"""A column of names, such as the patient or the split of each image."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...printing import composed


@dataclass(frozen=True, eq=False)
class Categorical:
    """One name per image, as an index."""

    numbers: Tensor
    """(N,) int64, indices into `names`."""
    names: tuple[str, ...]
    """The names that occur, sorted."""
    are_frames: bool = False
    """Whether they are the frames of tiles, whose names are those within one data set, and not of a column."""

    @classmethod
    def of(cls, texts: Sequence[str]) -> "Categorical":
        """From the name of each image. Unicode forms of one name (NFC, NFD) are one."""
        forms = {text: composed(text) for text in set(texts)}
        index = {name: number for number, name in enumerate(sorted(set(forms.values())))}
        numbers = {text: index[name] for text, name in forms.items()}
        return cls(torch.tensor([numbers[text] for text in texts], dtype=torch.int64), tuple(index))

    def at(self, places: Tensor) -> "Categorical":
        """Those of the images at indices `places` (M,)."""
        return Categorical(self.numbers[places], self.names, self.are_frames)

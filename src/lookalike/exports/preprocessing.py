"""The test transform of `evaluation.features.crop`, and normalisation, as part of an exported graph."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..evaluation.features import MOST_ELONGATED, short_side
from .resampling import antialiased, length

MOST_BITS = 22
"""Most bits after the point of PyTorch's fixed-point weights."""
MIDDLE = 128
"""Subtracted from pixels, so that sums of products stay below 2**24 and are exact in float32."""


class Preprocessing(nn.Module):
    """uint8 images (B, H, W, C) of any size -> normalised images (B, C, S, S) in float32.

    Resizes in the fixed-point arithmetic of PyTorch (and Pillow), so that the pixels equal those of `embed`; in photos
    six times as large as S or more, single values may differ by one level.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, size: int, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[1:3]
        x = images.permute(0, 3, 1, 2).float() - MIDDLE
        across, offset, unit = self._weights(width, height)
        # columns first, then rows, each rounded to levels: as PyTorch does
        x = _levels(x @ across.mT + offset, unit)
        down, offset, unit = self._weights(height, width)
        x = (_levels(down @ x + offset[:, None], unit) + MIDDLE) / 255
        normalised: Tensor = (x - self.mean) / self.std
        return normalised

    def _weights(self, size: int, other: int) -> tuple[Tensor, Tensor, Tensor]:
        """For the centre crop of a resized side: integer weights (S, size), what to add to the sums (S,), and the unit.

        The unit is the integer that stands for a weight of 1.
        """
        whole, whole_other = length(size), length(other)
        old = torch.minimum(whole, MOST_ELONGATED * whole_other)
        old_other = torch.minimum(whole_other, MOST_ELONGATED * whole)
        short = short_side(self.size)
        new = torch.where(old <= old_other, length(short), torch.floor(short * old / old_other))
        columns = torch.arange(size, dtype=torch.float64) - torch.round((whole - old) / 2)
        crop = torch.arange(self.size, dtype=torch.float64)[:, None]
        rows = crop + torch.round((new - self.size) / 2)
        # the border has the largest weights, on which the precision depends
        weights = antialiased(torch.cat([rows, crop]), columns, old / new, old)
        unit = _unit(weights.max())
        scaled = weights[: self.size] * unit
        integers = torch.where(scaled < 0, torch.ceil(scaled - 0.5), torch.floor(scaled + 0.5))
        same = old == new
        unit = torch.where(same, torch.ones_like(unit), unit)
        integers = torch.where(same, (columns == rows).to(torch.float64), integers)
        offset = MIDDLE * (integers.sum(1) - unit)  # rounded weights do not sum to the unit
        return integers.float(), offset.float(), unit.float()


def _unit(largest: Tensor) -> Tensor:
    """PyTorch's unit of fixed-point weights: the largest power of 2 with which they fit into 16 bits."""
    units = 2.0 ** torch.arange(1, MOST_BITS + 1, dtype=torch.float64)
    return 2.0 ** (torch.floor(0.5 + largest * units) < 2**15).sum().to(torch.float64)


def _levels(sums: Tensor, unit: Tensor) -> Tensor:
    """Weighted sums as levels of pixels, less `MIDDLE`."""
    return torch.floor(sums / unit + 0.5).clamp(-MIDDLE, 255 - MIDDLE)

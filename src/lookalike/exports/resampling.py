"""Bicubic interpolation as a matrix, by operations that exporters can trace with sizes that are not known.

PyTorch's own interpolation turns a size into a constant when it is traced.
"""

import torch
from torch import Tensor

ANTIALIASED, SHARP = -0.5, -0.75
"""The kernel's parameter: Pillow's and PyTorch's with antialiasing, and PyTorch's without it."""


def length(size: int) -> Tensor:
    """A size, which may be symbolic, as a scalar tensor in float64."""
    return torch.full((), size, dtype=torch.float64)


def kernel(distance: Tensor, a: float) -> Tensor:
    """Keys' cubic kernel: 1 at distance 0, and 0 from distance 2 on."""
    d = distance.abs()
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((d - 5) * d + 8) * d * a - 4 * a
    return torch.where(d < 1, near, torch.where(d < 2, far, torch.zeros_like(d)))


def antialiased(rows: Tensor, columns: Tensor, scale: Tensor, old: Tensor) -> Tensor:
    """Weights as of `F.interpolate(mode="bicubic", antialias=True)`, (R, N) in float64; each row sums to 1.

    Args:
        rows: (R, 1), positions among the new values.
        columns: (N,), positions among the old values; those outside of 0 to `old` get weight 0.
        scale: number of old values per new one.
        old: number of old values.
    """
    wide = scale.clamp(min=1)
    centre = scale * (rows + 0.5)
    first = torch.floor(centre - 2 * wide + 0.5).clamp(min=0)
    last = torch.minimum(torch.floor(centre + 2 * wide + 0.5), old)
    weights = kernel((columns - centre + 0.5) / wide, ANTIALIASED)
    weights = torch.where((columns >= first) & (columns < last), weights, torch.zeros_like(weights))
    return weights / weights.sum(1, keepdim=True)


def sharp(rows: Tensor, columns: Tensor, scale: Tensor, old: Tensor) -> Tensor:
    """Weights as of `F.interpolate(mode="bicubic")` without antialiasing, (R, N) in float64; arguments as above."""
    at = scale * (rows + 0.5) - 0.5
    base = torch.floor(at)
    weights = torch.zeros_like(at * columns)
    for step in (-1, 0, 1, 2):
        neighbour = torch.minimum((base + step).clamp(min=0), old - 1)  # beyond the border the last value is repeated
        weights = weights + torch.where(neighbour == columns, kernel(at - (base + step), SHARP), 0.0)
    return weights

"""Masks of patches: blocks and single patches, drawn for a batch on its device.

Every draw is a function of an image's key, independent of the batch and the process. B images, H rows and W columns of
patches.
"""

import math

import torch
from torch import Tensor

from .random import uniform

_TRIES = 10
"""Consecutive failed draws of a block after which an image's mask is complete."""
_LOG_ASPECT = math.log(0.3)
"""Logarithm of a block's smallest aspect ratio; the largest is its inverse."""


def block_masks(keys: Tensor, counts: Tensor, rows: int, columns: int, smallest: int, largest: int | None) -> Tensor:
    """Block-wise masks: unions of rectangles.

    While fewer than `counts` patches of an image are masked, a rectangle is drawn: its area between `smallest` and the
    number of missing patches (at most `largest`), its aspect ratio from 0.3 to 1/0.3, its position. It is accepted if
    it masks new patches, at most as many as are missing. Ten rejections in a row complete the mask.

    Args:
        keys: (B,) int64, one per image.
        counts: (B,) number of patches to mask, an upper bound.
        rows, columns: numbers of patches.
        smallest: smallest area of a rectangle, in patches; if fewer are missing, areas lie between the two.
        largest: largest area, in patches; None: the number of missing patches.

    Returns:
        (B, rows, columns) bool. Bao et al. (BEiT), ICLR 2022, algorithm 1, as in iBOT's `loader.py` and DINOv2's
        `masking.py`.
    """
    device = keys.device
    mask = torch.zeros(len(keys), rows, columns, dtype=torch.bool, device=device)
    masked = torch.zeros(len(keys), device=device)
    failed = torch.zeros(len(keys), dtype=torch.int64, device=device)
    counts = counts.to(torch.float32)
    y = torch.arange(rows, device=device)[:, None]
    x = torch.arange(columns, device=device)
    turn = 0
    while bool((active := (masked < counts) & (failed < _TRIES)).any()):
        area, aspect, top, left = (uniform(keys, f"block {name} {turn}") for name in ("area", "aspect", "top", "left"))
        missing = counts - masked
        maximum = missing if largest is None else missing.clamp(max=largest)
        size = smallest + (maximum - smallest) * area
        ratio = torch.exp(_LOG_ASPECT * (1 - 2 * aspect))
        h, w = (size * ratio).sqrt().round().long(), (size / ratio).sqrt().round().long()
        fits = (h < rows) & (w < columns)
        top, left = ((u * (n - side + 1).clamp(min=1)).long() for u, n, side in ((top, rows, h), (left, columns, w)))
        first_row, first_column = top[:, None, None], left[:, None, None]
        inside = (y >= first_row) & (y < first_row + h[:, None, None])
        inside = inside & (x >= first_column) & (x < first_column + w[:, None, None])
        new = (inside & ~mask).sum((1, 2))
        accepted = active & fits & (new > 0) & (new <= maximum)
        mask |= inside & accepted[:, None, None]
        masked += torch.where(accepted, new, 0)
        failed = torch.where(accepted, 0, failed + 1)
        turn += 1
    return mask


def random_masks(keys: Tensor, counts: Tensor, rows: int, columns: int) -> Tensor:
    """Masks (B, rows, columns) of single random patches, `counts` (B,), rounded down, per image."""
    index = torch.arange(rows * columns, device=keys.device)
    order = uniform(keys[:, None], index).argsort(1).argsort(1)  # (B, rows x columns)
    return (order < counts.long()[:, None]).view(-1, rows, columns)

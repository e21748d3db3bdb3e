"""Which patches of an image are hidden from the student: blocks and single patches, drawn for a batch on its device.

Every draw is a function of an image's key, so that it does not depend on the batch or the process. B images, H rows
and W columns of patches.
"""

import math

import torch
from torch import Tensor

from .random import uniform

_TRIES = 10
"""A block is drawn so many times before an image is left with what it has."""
_LOG_ASPECT = math.log(0.3)
"""Blocks are at most so much wider than high, and the other way round."""


def block_masks(keys: Tensor, counts: Tensor, rows: int, columns: int, smallest: int, largest: int | None) -> Tensor:
    """Masks made of rectangles.

    As long as fewer than `counts` patches of an image are hidden, a rectangle is drawn: an area between `smallest` and
    what is still missing (`largest` at most), an aspect ratio from 0.3 to 1/0.3, a place. It is taken if it hides
    something new, but no more than is missing. Ten rectangles in a row that are not taken end the image.

    Args:
        keys: (B,) int64, one per image.
        counts: (B,) how many patches are to be hidden; never more are.
        rows, columns: of patches.
        smallest: the least area of a rectangle, unless less is missing: then areas are drawn in between the two.
        largest: the largest; None for what is missing.

    Returns:
        (B, rows, columns) bool. Bao et al. (BEiT), ICLR 2022, algorithm 1, as in iBOT's `loader.py` and DINOv2's
        `masking.py`.
    """
    device = keys.device
    mask = torch.zeros(len(keys), rows, columns, dtype=torch.bool, device=device)
    hidden = torch.zeros(len(keys), device=device)
    failed = torch.zeros(len(keys), dtype=torch.int64, device=device)
    counts = counts.to(torch.float32)
    y = torch.arange(rows, device=device)[:, None]
    x = torch.arange(columns, device=device)
    turn = 0
    while bool((active := (hidden < counts) & (failed < _TRIES)).any()):
        area, aspect, top, left = (uniform(keys, f"block {name} {turn}") for name in ("area", "aspect", "top", "left"))
        missing = counts - hidden
        most = missing if largest is None else missing.clamp(max=largest)
        size = smallest + (most - smallest) * area
        ratio = torch.exp(_LOG_ASPECT * (1 - 2 * aspect))
        h, w = (size * ratio).sqrt().round().long(), (size / ratio).sqrt().round().long()
        fits = (h < rows) & (w < columns)
        top, left = ((u * (n - side + 1).clamp(min=1)).long() for u, n, side in ((top, rows, h), (left, columns, w)))
        first_row, first_column = top[:, None, None], left[:, None, None]
        inside = (y >= first_row) & (y < first_row + h[:, None, None])
        inside = inside & (x >= first_column) & (x < first_column + w[:, None, None])
        new = (inside & ~mask).sum((1, 2))
        taken = active & fits & (new > 0) & (new <= most)
        mask |= inside & taken[:, None, None]
        hidden += torch.where(taken, new, 0)
        failed = torch.where(taken, 0, failed + 1)
        turn += 1
    return mask


def random_masks(keys: Tensor, counts: Tensor, rows: int, columns: int) -> Tensor:
    """Masks (B, rows, columns) of single patches; `counts` (B,), rounded down, of each image's are hidden."""
    places = torch.arange(rows * columns, device=keys.device)
    order = uniform(keys[:, None], places).argsort(1).argsort(1)
    return (order < counts.long()[:, None]).view(-1, rows, columns)

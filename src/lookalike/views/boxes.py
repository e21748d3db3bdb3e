"""Random boxes of crops and erased parts, from uniform numbers in [0, 1), distributed like those of torchvision.

B images, N tries.
"""

import math

import numpy as np
from numpy.typing import NDArray

ERASE_SCALE = (0.02, 0.33)
ERASE_RATIO = (0.3, 3.3)

Limits = tuple[float, float]
Sides = NDArray[np.int64]
Uniform = NDArray[np.float32]
Floats = NDArray[np.float64]


def random_crop(
    sizes: Sides,
    area: Uniform,
    aspect: Uniform,
    corner: Uniform,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> NDArray[np.int64]:
    """Boxes (B, 4) of top, left, height, width, drawn like torchvision's `RandomResizedCrop`.

    The first of N tries that fits is used; if none does, the largest centred box with the nearest allowed aspect ratio.
    `sizes` (B, 2) are heights and widths; `area` (B, N), `aspect` (B, N) and `corner` (B, 2) uniform numbers.
    """
    box, found = _first_fit(sizes, _areas(sizes, area, scale), _aspects(aspect, ratio), low=1)
    if found.all():
        start = _placed(sizes, box, corner)
    else:
        sides = np.rint(np.stack((sizes[:, 1] / ratio[0], sizes[:, 0] * ratio[1]), 1))
        centred = np.minimum(sizes, np.maximum(sides, 1))  # (B, 2)
        box = np.where(found, box, centred)
        start = np.where(found, _placed(sizes, box, corner), np.floor((sizes - box) / 2))
    return np.concatenate((start, box), 1).astype(np.int64)


def random_erase(sizes: Sides, area: Uniform, aspect: Uniform, corner: Uniform) -> NDArray[np.int64]:
    """Boxes (B, 4) of top, left, height, width, drawn like torchvision's `RandomErasing`.

    The arguments are those of `random_crop`. A box is smaller than the image on both axes, and empty if no try fits.
    """
    aspects = 1 / _aspects(aspect, ERASE_RATIO)  # here, torchvision's ratio is height over width
    box, found = _first_fit(sizes - 1, _areas(sizes, area, ERASE_SCALE), aspects, low=0)
    box = np.where(found, box, 0.0)
    return np.concatenate((_placed(sizes, box, corner), box), 1).astype(np.int64)


def _first_fit(sizes: Sides, areas: Floats, aspects: Floats, low: int) -> tuple[Floats, NDArray[np.bool_]]:
    """The first of N candidate boxes that fits, (B, 2) height and width, and whether one fits, (B, 1).

    `areas` are in pixels and `aspects` are width over height, both (B, N). Sides are `low` to `sizes` (B, 2). Float64,
    because the last bit of a float32 root or exponential depends on the machine and could move an edge by a pixel.
    """
    height, width = np.rint(np.sqrt(areas / aspects)), np.rint(np.sqrt(areas * aspects))  # (B, N)
    fits = (height >= low) & (height <= sizes[:, :1]) & (width >= low) & (width <= sizes[:, 1:])
    rows, first = np.arange(len(sizes)), fits.argmax(1)
    return np.stack((height[rows, first], width[rows, first]), 1), fits[rows, first][:, None]


def _areas(sizes: Sides, u: Uniform, scale: Limits) -> Floats:
    areas: Floats = (sizes[:, :1] * sizes[:, 1:]) * (scale[0] + (scale[1] - scale[0]) * u.astype(np.float64))
    return areas


def _aspects(u: Uniform, ratio: Limits) -> Floats:
    low, high = math.log(ratio[0]), math.log(ratio[1])
    return np.exp(low + (high - low) * u.astype(np.float64))


def _placed(sizes: Sides, box: Floats, corner: Uniform) -> Floats:
    """Top and left (B, 2), uniform over all positions where the box fits."""
    return np.floor(corner.astype(np.float64) * (sizes - box + 1))

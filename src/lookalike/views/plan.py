"""Draws the random parameters of views on the CPU: uniform numbers, and the resulting `Plan` for each image."""

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..random import key_of, uniform_table
from . import boxes
from .recipes import View

Numbers = NDArray[np.float32]

# Uniform numbers per parameter. The numbers of a name are unchanged when other names are added or removed.
_DRAWS = {
    "area": 10,
    "aspect": 10,
    "corner": 2,
    "hflip": 1,
    "vflip": 1,
    "rot90": 1,
    "quarters": 1,
    "jitter": 1,
    "order": 4,
    "brightness": 1,
    "contrast": 1,
    "saturation": 1,
    "hue": 1,
    "grayscale": 1,
    "blur": 1,
    "sigma": 1,
    "solarize": 1,
    "erase": 1,
    "erase_area": 10,
    "erase_aspect": 10,
    "erase_corner": 2,
}
_NAMES = np.array([key_of(name, i) for name, n in _DRAWS.items() for i in range(n)])
_EDGES = list(itertools.accumulate(_DRAWS.values(), initial=0))


def draw(keys: Tensor, view: int) -> dict[str, Numbers]:
    """All uniform numbers in [0, 1) of one view: (B,) each, or (B, n) for parameters that need several."""
    u = uniform_table(keys, view, _NAMES)
    return {
        name: u[:, low] if high == low + 1 else u[:, low:high]
        for name, (low, high) in zip(_DRAWS, itertools.pairwise(_EDGES), strict=True)
    }


def _factor(u: Numbers, strength: float) -> Numbers:
    low = max(0.0, 1 - strength)
    return low + (1 + strength - low) * u


@dataclass(frozen=True)
class Plan:
    """The parameters of one view of B images, on the CPU, so that drawing them does not synchronise with a device."""

    box: Tensor
    """(B, 4) int64: top, left, height, width of the crop."""
    flips: Tensor
    """(B, 3) bool: horizontal flip, vertical flip, and a final transposition."""
    steps: Tensor
    """(B, 4) int64: the colour operations in order, -1 for none."""
    factors: Tensor
    """(B, 4) float32: the parameter of each colour operation, indexed by operation (`ops.BRIGHTNESS` ...)."""
    grey: Tensor
    """(B,) bool: converted to greyscale."""
    sigma: Tensor
    """(B,) float32: standard deviation of the blur in pixels; 0 for none."""
    solarize: Tensor
    """(B,) bool."""
    erase: Tensor
    """(B, 4) int64: top, left, height, width of the erased box; none if its height is 0."""


def plan(view: View, sizes: Tensor, u: dict[str, Numbers], is_rgb: bool) -> Plan:
    """Computes a plan from uniform numbers; `is_rgb`: whether images are RGB.

    By NumPy, whose calls take a fraction of the time of torch's: with small views, this is a part that counts.
    """
    b, extent = len(sizes), sizes.numpy()
    flips = np.zeros((b, 3), np.bool_)
    flips[:, 0], flips[:, 1] = u["hflip"] < view.hflip, u["vflip"] < view.vflip
    if view.rot90:
        turns = np.where(u["rot90"] < view.rot90, 1 + (3 * u["quarters"]).astype(np.int64), 0)
        # a rotation by 90 degrees is a flip and a transposition, by 180 degrees two flips, which the resize does
        flips[:, 0] ^= (turns == 1) ^ (turns == 2)
        flips[:, 1] ^= (turns == 3) ^ (turns == 2)
        flips[:, 2] = turns % 2 == 1
    strengths = (view.brightness, view.contrast, view.saturation * is_rgb, view.hue * is_rgb)
    steps = np.full((b, 4), -1)
    factors = np.zeros((b, 4), np.float32)
    if view.jitter and any(strengths):
        wanted = np.array([strength > 0 for strength in strengths])
        order = u["order"].argsort(axis=1, kind="stable")
        steps = np.where((u["jitter"] < view.jitter)[:, None] & wanted[order], order, -1)
        for i, name in enumerate(("brightness", "contrast", "saturation")):
            factors[:, i] = _factor(u[name], vars(view)[name])
        factors[:, 3] = (2 * u["hue"] - 1) * view.hue
    erase = np.zeros((b, 4), np.int64)
    if view.erase:
        whole = np.full_like(extent, view.size)
        erase = boxes.random_erase(whole, u["erase_area"], u["erase_aspect"], u["erase_corner"])
        erase *= (u["erase"] < view.erase)[:, None]
    blur = view.sigma[0] + (view.sigma[1] - view.sigma[0]) * u["sigma"]
    found = {
        "box": boxes.random_crop(extent, u["area"], u["aspect"], u["corner"], view.scale, view.ratio),
        "flips": flips,
        "steps": steps,
        "factors": factors,
        "grey": u["grayscale"] < (view.grayscale if is_rgb else 0),
        "sigma": np.where(u["blur"] < view.blur, blur, np.float32(0)),
        "solarize": u["solarize"] < view.solarize,
        "erase": erase,
    }
    return Plan(**{name: torch.from_numpy(value) for name, value in found.items()})

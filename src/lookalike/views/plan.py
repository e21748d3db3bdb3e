"""Draws the random parameters of views on the CPU: uniform numbers, and the resulting `Plan` for each image."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..random import key_of, keys_of, uniform
from . import ops
from .recipes import View

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
_NAMES = torch.tensor([key_of(name, i) for name, n in _DRAWS.items() for i in range(n)])


def draw(keys: Tensor, view: int) -> dict[str, Tensor]:
    """All uniform numbers in [0, 1) of one view: (B,) each, or (B, n) for parameters that need several."""
    u = uniform(keys_of(keys, view)[:, None], _NAMES)
    return {name: x.squeeze(1) for name, x in zip(_DRAWS, torch.split(u, list(_DRAWS.values()), 1), strict=True)}


def _factor(u: Tensor, strength: float) -> Tensor:
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


def plan(view: View, sizes: Tensor, u: dict[str, Tensor], is_rgb: bool) -> Plan:
    """Computes a plan from uniform numbers; `is_rgb`: whether images are RGB."""
    none = torch.zeros(len(sizes), dtype=torch.bool)
    turns = torch.where(u["rot90"] < view.rot90, 1 + (3 * u["quarters"]).long(), 0) if view.rot90 else none.long()
    # A rotation by 90 degrees is a flip and a transposition, by 180 degrees two flips, which the resize does for free.
    hflip = (u["hflip"] < view.hflip) ^ (turns == 1) ^ (turns == 2)
    vflip = (u["vflip"] < view.vflip) ^ (turns == 3) ^ (turns == 2)
    strengths = (view.brightness, view.contrast, view.saturation * is_rgb, view.hue * is_rgb)
    steps = torch.full((len(sizes), 4), -1)
    factors = torch.zeros((len(sizes), 4), dtype=torch.float32)
    if view.jitter and any(strengths):
        wanted = torch.tensor([strength > 0 for strength in strengths])
        order = u["order"].argsort(dim=1, stable=True)
        steps = torch.where((u["jitter"] < view.jitter)[:, None] & wanted[order], order, -1)
        names = ("brightness", "contrast", "saturation")
        factors = torch.stack(
            [*(_factor(u[name], vars(view)[name]) for name in names), (2 * u["hue"] - 1) * view.hue], 1
        )
    erase = torch.zeros((len(sizes), 4), dtype=torch.int64)
    if view.erase:
        whole = torch.full_like(sizes, view.size)
        erase = ops.random_erase(whole, u["erase_area"], u["erase_aspect"], u["erase_corner"])
        erase *= (u["erase"] < view.erase)[:, None]
    return Plan(
        box=ops.random_crop(sizes, u["area"], u["aspect"], u["corner"], view.scale, view.ratio),
        flips=torch.stack((hflip, vflip, turns % 2 == 1), 1),
        steps=steps,
        factors=factors,
        grey=u["grayscale"] < view.grayscale if is_rgb else none,
        sigma=torch.where(u["blur"] < view.blur, view.sigma[0] + (view.sigma[1] - view.sigma[0]) * u["sigma"], 0.0),
        solarize=u["solarize"] < view.solarize,
        erase=erase,
    )

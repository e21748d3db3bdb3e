"""What is random of a view, decided on the CPU: uniform numbers, and a `Plan` of what happens to each image."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..random import key_of, keys_of, uniform
from . import ops
from .recipes import View

# How many uniform numbers each parameter takes. A name's numbers never change when others come or go.
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
    """All uniform numbers in [0, 1) of one view: (B,) each, or (B, n) where a parameter takes several."""
    u = uniform(keys_of(keys, view)[:, None], _NAMES)
    return {name: x.squeeze(1) for name, x in zip(_DRAWS, torch.split(u, list(_DRAWS.values()), 1), strict=True)}


def _factor(u: Tensor, strength: float) -> Tensor:
    low = max(0.0, 1 - strength)
    return low + (1 + strength - low) * u


@dataclass(frozen=True)
class Plan:
    """What one view does to each of B images; on the CPU, where nothing waits for a device that is at work."""

    box: Tensor
    """(B, 4) int64: top, left, height, width of the cut."""
    flips: Tensor
    """(B, 3) bool: left and right; top and bottom; rows and columns, as the last."""
    steps: Tensor
    """(B, 4) int64: the colour operation of each turn, -1 for none."""
    factors: Tensor
    """(B, 4) float32: the parameters of the colour operations, in the order of their numbers (`ops.BRIGHTNESS` ...)."""
    grey: Tensor
    """(B,) bool."""
    sigma: Tensor
    """(B,) float32: of the blur; 0 for none."""
    solarize: Tensor
    """(B,) bool."""
    erase: Tensor
    """(B, 4) int64: the box that is blanked; without height none."""


def plan(view: View, sizes: Tensor, u: dict[str, Tensor], colour: bool) -> Plan:
    """Turns uniform numbers into what happens; `colour` says whether images are RGB."""
    none = torch.zeros(len(sizes), dtype=torch.bool)
    turns = torch.where(u["rot90"] < view.rot90, 1 + (3 * u["quarters"]).long(), 0) if view.rot90 else none.long()
    # A quarter turn is a mirroring and a transposition, a half turn two mirrorings: the matrices do them for nothing.
    hflip = (u["hflip"] < view.hflip) ^ (turns == 1) ^ (turns == 2)
    vflip = (u["vflip"] < view.vflip) ^ (turns == 3) ^ (turns == 2)
    strengths = (view.brightness, view.contrast, view.saturation * colour, view.hue * colour)
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
        grey=u["grayscale"] < view.grayscale if colour else none,
        sigma=torch.where(u["blur"] < view.blur, view.sigma[0] + (view.sigma[1] - view.sigma[0]) * u["sigma"], 0.0),
        solarize=u["solarize"] < view.solarize,
        erase=erase,
    )

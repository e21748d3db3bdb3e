"""mixup and CutMix: images and labels mixed in pairs, by the rules of timm's `Mixup` in mode "batch".

Zhang et al., ICLR 2018, https://arxiv.org/abs/1710.09412, and Yun et al., ICCV 2019, https://arxiv.org/abs/1905.04899.
timm draws from NumPy's generator, which checkpoints do not hold. Here torch's generator draws, re-seeded in each step.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Mixing:
    """Mixup parameters; image i is mixed with image B-1-i (the flipped batch, as in timm)."""

    weight: float
    """Weight of the image itself and of its label, in [0, 1]; the other image has 1 - weight."""
    box: tuple[int, int, int, int] | None = None
    """Top, bottom, left and right of the box pasted from the other image (CutMix), in pixels; None: mixup."""

    def images(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape; not in place."""
        other = x.flip(0)
        if self.box is None:
            return self.weight * x + (1 - self.weight) * other
        top, bottom, left, right = self.box
        mixed = x.clone()
        mixed[:, :, top:bottom, left:right] = other[:, :, top:bottom, left:right]
        return mixed

    def targets(self, labels: Tensor, classes: int) -> Tensor:
        """Labels (B,) -> float32 class probabilities (B, C), rows sum to 1."""
        own = F.one_hot(labels, classes).float()
        return self.weight * own + (1 - self.weight) * own.flip(0)


WHOLE = Mixing(1.0)
"""No mixing."""


def drawn(mixup: float, cutmix: float, height: int, width: int) -> Mixing:
    """Draws the mixup parameters of a batch, from torch's global generator.

    Args:
        mixup: alpha of the weight's distribution, Beta(alpha, alpha); 0 switches mixup off.
        cutmix: the same for CutMix. If both are above 0, each has a probability of 0.5.
        height: of the images, in pixels.
        width: of the images, in pixels.
    """
    if not mixup and not cutmix:
        return WHOLE
    cuts = bool(cutmix) and (not mixup or float(torch.rand(())) < 0.5)
    alpha = cutmix if cuts else mixup
    weight = float(torch.distributions.Beta(alpha, alpha).sample())
    if not cuts:
        return Mixing(weight)
    centre = int(torch.randint(height, ())), int(torch.randint(width, ()))
    return cut(weight, centre, height, width)


def cut(weight: float, centre: tuple[int, int], height: int, width: int) -> Mixing:
    """CutMix with a box of 1 - `weight` of the area around `centre` (row, column), clipped at the border.

    The result's weight is the fraction of the image that the clipped box leaves.
    """
    sides = []
    for size, at in zip((height, width), centre):
        length = int(size * math.sqrt(1 - weight))
        sides += [max(at - length // 2, 0), min(at + (length + 1) // 2, size)]
    top, bottom, left, right = sides
    return Mixing(1 - (bottom - top) * (right - left) / (height * width), (top, bottom, left, right))

"""Images and labels mixed in pairs: mixup and CutMix, by the rules of timm's `Mixup` in its mode "batch".

Zhang et al., ICLR 2018, https://arxiv.org/abs/1710.09412, and Yun et al., ICCV 2019, https://arxiv.org/abs/1905.04899.
timm draws from NumPy's generator, which no checkpoint holds; here torch's draws, which training re-seeds in each step.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Mixing:
    """How each image of a batch is mixed with the one that is as far from the batch's end as it is from its start."""

    share: float
    """Of the image itself and its label, in [0, 1]; the other one has the rest."""
    box: tuple[int, int, int, int] | None = None
    """Top, bottom, left and right of what the other image covers (CutMix); None adds them up (mixup)."""

    def images(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape; the given images stay as they are."""
        other = x.flip(0)
        if self.box is None:
            return self.share * x + (1 - self.share) * other
        top, bottom, left, right = self.box
        mixed = x.clone()
        mixed[:, :, top:bottom, left:right] = other[:, :, top:bottom, left:right]
        return mixed

    def targets(self, labels: Tensor, classes: int) -> Tensor:
        """Labels (B,) -> float32 shares of the classes (B, C), which sum to 1."""
        own = F.one_hot(labels, classes).float()
        return self.share * own + (1 - self.share) * own.flip(0)


WHOLE = Mixing(1.0)
"""Nothing is mixed."""


def drawn(mixup: float, cutmix: float, height: int, width: int) -> Mixing:
    """Draws how a batch of images is mixed, from torch's global generator.

    Args:
        mixup: alpha of the share's distribution, Beta(alpha, alpha); 0 is never.
        cutmix: the same for CutMix. Where both are above 0 each has every second batch, by chance.
        height: of the images.
        width: of the images.
    """
    if not mixup and not cutmix:
        return WHOLE
    cuts = bool(cutmix) and (not mixup or float(torch.rand(())) < 0.5)
    alpha = cutmix if cuts else mixup
    share = float(torch.distributions.Beta(alpha, alpha).sample())
    if not cuts:
        return Mixing(share)
    middle = int(torch.randint(height, ())), int(torch.randint(width, ()))
    return cut(share, middle, height, width)


def cut(share: float, middle: tuple[int, int], height: int, width: int) -> Mixing:
    """CutMix with a box of 1 - `share` of the area about `middle` (row, column), less what lies beyond the border.

    The share becomes what is left of the image in truth.
    """
    sides = []
    for size, at in zip((height, width), middle):
        length = int(size * math.sqrt(1 - share))
        sides += [max(at - length // 2, 0), min(at + (length + 1) // 2, size)]
    top, bottom, left, right = sides
    return Mixing(1 - (bottom - top) * (right - left) / (height * width), (top, bottom, left, right))

"""What follows from the data and the number of steps: rates, a teacher's momentum and temperature, groups, widths.

The papers train for 30,000 steps and more. In some hundred their settings hardly leave their start, so short trainings
get their own. Between the two every number moves evenly with the logarithm of the steps, or of the images: no image
more makes a jump. `docs/fitting.md` has the values and what they rest on.
"""

import dataclasses
import math

from ..core import DataFacts
from ..optim import Optim
from ..schedules import Schedule

STEPS = 1_000, 30_000
"""Optimizer steps up to which a training is short, and from which on it has the paper's settings: SimCLR's, BYOL's and
MoCo v3's 100 epochs of ImageNet in batches of 4,096 are 31,000."""

IMAGES = 50_000, 500_000
"""Images up to which a set is like CIFAR-10, and from which on it is like ImageNet."""

IMAGES_PER_PROTOTYPE = 15
"""Methods with groups get one for so many images; 50,000 images have about the papers' 3,000."""

OF_VITS = Optim("adamw", lr=1.5e-4, weight_decay=Schedule(0.1), warmup_epochs=40, grid="open", exclude=False)
"""MoCo v3's optimizer for vision transformers (its section 4, 300 epochs of ImageNet)."""


def between(few: float, many: float, count: int, span: tuple[int, int]) -> float:
    """`few` up to the first count of the span, `many` from the second on, both exactly; geometrically between them."""
    low, high = span
    share = min(1.0, max(0.0, math.log(count / low) / math.log(high / low)))
    return float(few ** (1 - share) * many**share)


def paced(optim: Optim, short_lr: float, data: DataFacts, *, scaled: bool = False) -> Optim:
    """The same optimizer at `short_lr` in a short training, at its own rate in a long one.

    Args:
        short_lr: the learning rate whatever the batch size; if `scaled`, for a batch of `optim.base_batch` images.
    """
    few = short_lr if scaled else short_lr / optim.factor(data.batch_size)
    bias = None if optim.lr_bias is None else between(few, optim.lr_bias, data.steps, STEPS)
    return dataclasses.replace(optim, lr=between(few, optim.lr, data.steps, STEPS), lr_bias=bias)


def fitted(optim: Optim, short_lr: float, data: DataFacts) -> Optim:
    """`paced`; for a plain ViT MoCo v3's AdamW: with LARS images came to nearly one answer (`docs/fitting.md`)."""
    return paced(optim, short_lr, data) if data.patch_size is None else paced(OF_VITS, 1e-3, data)


def groups_for(images: int, most: int) -> int:
    """Groups of clustering for so many images: one for 15, two at least, `most` at most."""
    return min(most, max(2, images // IMAGES_PER_PROTOTYPE))


def prototypes_for(images: int, most: int) -> int:
    """Prototypes of self-distillation for so many images: a power of 2, one for 12 or so, from 1,024 to `most`.

    4,096 for 50,000 images is solo-learn's setting for CIFAR-10.
    """
    return min(most, 1 << max(10, round(math.log2(images / 12))))


def width_for(images: int, most: int) -> int:
    """The width of embeddings whose numbers are told apart: solo-learn's 2,048 for CIFAR-10, `most` for ImageNet."""
    return most if most <= 2048 else 256 * round(between(2048, most, images, IMAGES) / 256)


def narrowed(width: int, per_image: int, data: DataFacts) -> int:
    """`width`; in a short training at most so many numbers per image of a batch, which tell no more apart."""
    few = min(width, per_image * data.batch_size)
    return max(1, round(between(few, width, data.steps, STEPS) / 8)) * 8 if few < width else width


def momentum_for(count: int, momentum: float, span: tuple[int, int]) -> float:
    """A teacher's momentum: 0.99 for few steps or images, which a slower one would not follow."""
    return 1 - between(max(0.01, 1 - momentum), 1 - momentum, count, span)


def teacher_for(steps: int, momentum: Schedule) -> Schedule:
    """A teacher's momentum, whose start is `momentum_for` so many steps."""
    return dataclasses.replace(momentum, start=momentum_for(steps, momentum.start, STEPS))


def teacher_temp_for(steps: int, temperature: Schedule) -> Schedule:
    """A teacher's temperature: 0.02 throughout a short training, whose targets stay vague otherwise."""
    start, first = (
        between(min(0.02, value), value, steps, STEPS) if value else value
        for value in (temperature.start, temperature.warmup_start)
    )
    return dataclasses.replace(temperature, start=start, warmup_start=first)

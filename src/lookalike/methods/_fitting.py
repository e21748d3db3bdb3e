"""Settings that follow from the data and the number of steps: rates, EMA momentum, temperatures, clusters, widths.

The papers train for 30,000 steps and more. With their settings a few hundred steps change little, so short trainings
get their own. In between, each value is interpolated geometrically in the number of steps, or of images, so that it has
no jumps. `docs/fitting.md` has the values and their sources.
"""

import dataclasses
import math

from ..core import DataFacts
from ..optim import Optim
from ..schedules import Schedule

STEPS = 1_000, 30_000
"""A training is short up to the first number of optimizer steps, and has the paper's settings from the second on.
100 epochs of ImageNet in batches of 4,096 (SimCLR, BYOL, MoCo v3) are 31,000."""

IMAGES = 50_000, 500_000
"""A data set is treated like CIFAR-10 up to the first number of images, and like ImageNet from the second on."""

IMAGES_PER_PROTOTYPE = 15
"""Images per cluster, for methods that cluster; 50,000 images get about the papers' 3,000 clusters."""

OF_VITS = Optim("adamw", lr=1.5e-4, weight_decay=Schedule(0.1), warmup_epochs=40, grid="open", exclude=False)
"""MoCo v3's optimizer for vision transformers (its section 4, 300 epochs of ImageNet)."""


def between(few: float, many: float, count: int, span: tuple[int, int]) -> float:
    """Exactly `few` up to the first count of the span, `many` from the second on; geometric interpolation between."""
    low, high = span
    weight = min(1.0, max(0.0, math.log(count / low) / math.log(high / low)))
    return float(few ** (1 - weight) * many**weight)


def paced(optim: Optim, short_lr: float, data: DataFacts, *, scaled: bool = False) -> Optim:
    """The same optimizer with the learning rate `short_lr` in short trainings, and its own in long ones.

    Args:
        short_lr: independent of the batch size; if `scaled`, for a batch of `optim.base_batch` images.
    """
    few = short_lr if scaled else short_lr / optim.factor(data.batch_size)
    bias = None if optim.lr_bias is None else between(few, optim.lr_bias, data.steps, STEPS)
    return dataclasses.replace(optim, lr=between(few, optim.lr, data.steps, STEPS), lr_bias=bias)


def fitted(optim: Optim, short_lr: float, data: DataFacts) -> Optim:
    """`paced`; for a plain ViT MoCo v3's AdamW, since LARS nearly collapsed (`docs/fitting.md`)."""
    return paced(optim, short_lr, data) if data.patch_size is None else paced(OF_VITS, 1e-3, data)


def groups_for(images: int, maximum: int) -> int:
    """Number of clusters: one per 15 images, from 2 to `maximum`."""
    return min(maximum, max(2, images // IMAGES_PER_PROTOTYPE))


def prototypes_for(images: int, maximum: int) -> int:
    """Number of prototypes for self-distillation: a power of 2, about one per 12 images, from 1,024 to `maximum`.

    4,096 for 50,000 images is solo-learn's setting for CIFAR-10.
    """
    return min(maximum, 1 << max(10, round(math.log2(images / 12))))


def width_for(images: int, maximum: int) -> int:
    """Dimension of embeddings that are decorrelated: solo-learn's 2,048 for CIFAR-10, `maximum` for ImageNet."""
    return maximum if maximum <= 2048 else 256 * round(between(2048, maximum, images, IMAGES) / 256)


def narrowed(width: int, per_image: int, data: DataFacts) -> int:
    """`width`; in short trainings at most `per_image` dimensions for each image of a batch."""
    few = min(width, per_image * data.batch_size)
    return max(1, round(between(few, width, data.steps, STEPS) / 8)) * 8 if few < width else width


def momentum_for(count: int, momentum: float, span: tuple[int, int]) -> float:
    """EMA momentum of a teacher: 0.99 for few steps or images, where a higher one would lag too far behind."""
    return 1 - between(max(0.01, 1 - momentum), 1 - momentum, count, span)


def teacher_for(steps: int, momentum: Schedule) -> Schedule:
    """The EMA momentum schedule of a teacher; its start follows the number of steps by `momentum_for`."""
    return dataclasses.replace(momentum, start=momentum_for(steps, momentum.start, STEPS))


def teacher_temp_for(steps: int, temperature: Schedule) -> Schedule:
    """The temperature schedule of a teacher: 0.02 in short trainings, whose targets would otherwise stay too soft."""
    start, first = (
        between(min(0.02, value), value, steps, STEPS) if value else value
        for value in (temperature.start, temperature.warmup_start)
    )
    return dataclasses.replace(temperature, start=start, warmup_start=first)

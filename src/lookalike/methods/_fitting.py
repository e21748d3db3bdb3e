"""What follows from the number of images: groups, prototypes, a teacher's momentum and temperature."""

import dataclasses
import math

from ..optim import FEW
from ..schedules import Schedule

LIKE_IMAGENET = 500_000
"""So many images, or more, keep what the papers state for ImageNet's: widths, queues, prototypes, momentum."""

IMAGES_PER_PROTOTYPE = 15
"""On fewer images methods with groups get one for so many of them; 50,000 images have about the papers' 3,000."""


def groups_for(images: int, most: int) -> int:
    """Groups of clustering for so many images: one for 15, two at least; `most` at most, and for data like ImageNet."""
    return most if images >= LIKE_IMAGENET else min(most, max(2, images // IMAGES_PER_PROTOTYPE))


def prototypes_for(images: int, most: int) -> int:
    """Prototypes of self-distillation for so many images, `most` at most.

    A power of 2, one for 12 images or so, 1,024 at least; for data like ImageNet `most`. 4,096 for 50,000 images is
    solo-learn's setting for CIFAR-10.
    """
    return most if images >= LIKE_IMAGENET else min(most, 2 ** max(10, round(math.log2(images / 12))))


def momentum_for(images: int, momentum: Schedule) -> Schedule:
    """A teacher's momentum for so many images: 0.99 at first for few, whose trainings have few steps."""
    return momentum if images >= FEW else dataclasses.replace(momentum, start=min(momentum.start, 0.99))


def teacher_temp_for(images: int, temperature: Schedule) -> Schedule:
    """A teacher's temperature for so many images: 0.02 throughout for few, whose targets stay vague otherwise."""
    if images >= FEW:
        return temperature
    return dataclasses.replace(temperature, start=0.02, warmup_epochs=0.0, warmup_start=0.02)

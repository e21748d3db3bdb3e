"""Mean and standard deviation of each image channel."""

from contextlib import suppress

import torch

from ..images import moments
from ..printing import counted
from ..random import permutation
from .errors import BrokenImage
from .sources.source import Source


def statistics(source: Source, decode_size: int | None, images: int = 1000) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, of values in [0, 1], from a random sample of at most `images`.

    Raises:
        ValueError: no sampled image is readable, or a channel has the same value in all of them.
    """
    sampled = []
    for i in permutation(len(source), "statistics")[:images].tolist():
        with suppress(BrokenImage):
            sampled.append(moments(source.read(i, decode_size)))
    if not sampled:
        raise ValueError(
            f"None of {counted(min(images, len(source)), 'image')} could be read, so the channel means are unknown."
        )
    mean, square = torch.stack(sampled).mean(0)
    std = (square - mean**2).clamp(min=0).sqrt()
    if not bool((std > 0).all()):
        raise ValueError(f"Channel {int(std.argmin())} has the same value in all images. Remove this channel.")
    return mean.tolist(), std.tolist()

"""Mean and standard deviation of the channels of images."""

from contextlib import suppress

import torch

from ..images import moments
from ..printing import counted
from ..random import permutation
from .errors import BrokenImage
from .sources.source import Source


def statistics(source: Source, decode_size: int | None, images: int = 1000) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, of values in [0, 1], from at most `images` drawn images.

    Raises:
        ValueError: none of them can be read, or a channel has one value in all of them.
    """
    seen = []
    for i in permutation(len(source), "statistics")[:images].tolist():
        with suppress(BrokenImage):
            seen.append(moments(source.read(i, decode_size)))
    if not seen:
        raise ValueError(f"None of {counted(min(images, len(source)), 'image')} could be read, so they have no mean.")
    mean, square = torch.stack(seen).mean(0)
    std = (square - mean**2).clamp(min=0).sqrt()
    if not bool((std > 0).all()):
        raise ValueError(f"Channel {int(std.argmin())} has the same value in all images. Leave it out of them.")
    return mean.tolist(), std.tolist()

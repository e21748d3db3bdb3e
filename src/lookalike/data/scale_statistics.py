"""Measures percentiles of the values of each band, which become the ends of an encoder's input range."""

from contextlib import suppress
from typing import Final

import numpy as np

from ..image_options import Pixels, Scale
from ..printing import counted
from ..random import permutation
from .errors import BrokenImage
from .sources.source import Source

SAMPLE: Final = 200
"""Number of images that are measured."""
_VALUES: Final = 10_000
"""Values per band and image."""


def sampled_values(source: Source, images: int = SAMPLE) -> list[np.ndarray]:
    """Values of the files, unscaled: an array (C, N) of every sampled image that can be read.

    The sample is seeded, the same in every process.
    """
    raw = source.reading(Pixels(source.channels, source.pixels.alpha, source.pixels.bands, UNSCALED))
    found = []
    for i in permutation(len(source), "scale")[:images].tolist():
        with suppress(BrokenImage):
            values = raw.read(i, None).flatten(1)
            found.append(values[:, :: max(1, values.shape[1] // _VALUES)].numpy())
    return found


UNSCALED: Final = Scale("percentile", ((0.0, 100.0),))
"""With it, `decode` gives the values of a file."""


def measured(source: Source) -> Source:
    """The source with its scale in percentiles replaced by the range that they span on a sample, for each channel.

    Raises:
        ValueError: no sampled image is readable, or a channel has equal percentiles.
    """
    pixels = source.pixels
    if pixels.scale.kind != "percentile":
        return source
    values = sampled_values(source)
    if not values:
        raise ValueError(
            f"None of {counted(min(SAMPLE, len(source)), 'image')} could be read, so percentiles of the values are "
            "unknown. Give --scale range LOW HIGH."
        )
    limits = []
    for band, each in enumerate(np.concatenate(values, 1)):
        asked = pixels.scale.limits[band if len(pixels.scale.limits) > 1 else 0]
        low, high = (float(f"{value:.6g}") for value in np.percentile(each.astype(np.float64), asked))
        if not low < high:
            raise ValueError(
                f"Both percentiles of channel {band + 1} are {low:g}. Give percentiles that are further apart, or "
                "--scale range LOW HIGH."
            )
        limits.append((low, high))
    return source.reading(Pixels(pixels.channels, pixels.alpha, pixels.bands, Scale("range", tuple(limits))))


def measured_line(asked: Pixels, found: Pixels) -> list[str]:
    """The line about measured percentiles; empty if none were measured."""
    if asked.scale == found.scale:
        return []
    shown = ", ".join(f"{low:.6g} to {high:.6g}" for low, high in found.scale.limits[:8])
    more = ", ..." if len(found.scale.limits) > 8 else ""
    return [f"scale       {asked.scale} of {counted(SAMPLE, 'image')} at most: {shown}{more} become 0 to 1"]

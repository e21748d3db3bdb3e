"""Finds blank images, and files with the same stem: often masks stored next to the photographs."""

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Final

import numpy as np

from ..random import key_of
from .sources import Source

BLANK: Final = 2 / 255
"""Maximum standard deviation of a blank image's values."""
BLANK_RANGE: Final = 4 / 255
"""Maximum value range of a blank image's thumbnail: an image with a small spot on a uniform background is not blank."""
_MIN_PAIRS: Final = 5
"""Minimum number of common names of two related folders."""


def blank(moments: np.ndarray, ranges: np.ndarray, types: Sequence[str]) -> np.ndarray:
    """(N,) bool: constant or nearly constant images, relative to the brightest image of the same dtype.

    Args:
        moments: (N, 2, C) mean and mean square of each channel, of values in [0, 1].
        ranges: (N,) value ranges of their greyscale thumbnails.
        types: N names of dtypes. Relative limits, because 12-bit images stored as 16 bits are dark but not blank.
    """
    found = np.zeros(len(types), bool)
    spread = np.sqrt(np.maximum(moments[:, 1] - moments[:, 0] ** 2, 0)).max(1, initial=0)
    for kind in set(types):
        of_kind = np.array([each == kind for each in types])
        top = 1.0
        if kind != "uint8":
            top = min(1.0, float((moments[of_kind, 0].max(1) + 2 * spread[of_kind]).max()))
        found |= of_kind & (spread <= BLANK * top) & (ranges <= BLANK_RANGE * top)
    return found


def same_stems(source: Source) -> list[tuple[int, ...]]:
    """Groups of images whose files have the same stem and different suffixes, in the order of their first members.

    They are in one folder, or in two that have most names in common (photographs and masks).
    """
    if not len(source) or source.file(0) is None:
        return []
    folders: Counter[str] = Counter()
    keys = np.empty(len(source), np.int64)
    for i in range(len(source)):
        folder, stem, _ = _parts(source, i)
        folders[folder] += 1
        keys[i] = key_of(stem)
    order = np.argsort(keys, kind="stable")
    found, across = [], defaultdict(list)
    for group in np.split(order, np.flatnonzero(np.diff(keys[order])) + 1):
        here = defaultdict(list)
        for i in group.tolist() if len(group) > 1 else []:
            folder, _, suffix = _parts(source, i)
            here[folder].append((i, suffix))
        found += [tuple(i for i, _ in files) for files in here.values() if len(files) > 1]
        if len(here) == 2:  # a stem in more folders is probably a serial number
            (a, ((i, of_a), *_)), (b, ((j, of_b), *_)) = here.items()
            if of_a != of_b:
                across[a, b].append((i, j))
    for (a, b), pairs in across.items():
        if len(pairs) >= max(_MIN_PAIRS, min(folders[a], folders[b]) / 2):
            found += pairs
    return sorted(found)


def _parts(source: Source, i: int) -> tuple[str, str, str]:
    folder, name = os.path.split(source.name(i))
    return folder, *os.path.splitext(name)

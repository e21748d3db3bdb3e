"""Images that show nothing, and files that bear one name: often masks that lie beside the photographs."""

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Final

import numpy as np

from ..random import key_of
from .sources import Source

BLANK: Final = 2 / 255
"""Standard deviation of a blank image's values, at most, ..."""
BLANK_RANGE: Final = 4 / 255
"""... and what its thumbnail's brightest pixel has above its darkest: a small spot on even ground is no blank image."""
_FEW_PAIRS: Final = 5
"""Names that two folders have in common before they belong together."""


def blank(moments: np.ndarray, ranges: np.ndarray, types: Sequence[str]) -> np.ndarray:
    """(N,) bool: images that are constant or nearly so, as a share of what the brightest image of their type has.

    Args:
        moments: (N, 2, C) mean and mean square of each channel, of values in [0, 1].
        ranges: (N,) of their grey thumbnails.
        types: N names of dtypes. 12 bits stored as 16 are no blank images, though all are dark.
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
    """Images whose files have one name and several suffixes, in the order of the first ones.

    They lie in one folder, or in two that have most of their names in common (photographs and masks).
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
        if len(here) == 2:  # a name in many folders is a mere number
            (a, ((i, of_a), *_)), (b, ((j, of_b), *_)) = here.items()
            if of_a != of_b:
                across[a, b].append((i, j))
    for (a, b), pairs in across.items():
        if len(pairs) >= max(_FEW_PAIRS, min(folders[a], folders[b]) / 2):
            found += pairs
    return sorted(found)


def _parts(source: Source, i: int) -> tuple[str, str, str]:
    folder, name = os.path.split(source.name(i))
    return folder, *os.path.splitext(name)

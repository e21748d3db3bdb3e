"""The images that `check` proposes to keep: those that can be read, are not blank, and are no exact copy."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from ..data.chosen import FORMAT, KEEP
from ..data.sources import Source
from ..printing import counted
from .check import Checked


@dataclass(frozen=True)
class Kept:
    """The images to keep, and the reasons for the others."""

    source: Source
    keep: list[int]
    """Indices of the images to keep."""
    left_out: dict[int, str]
    """The others, with the reason: broken, blank, copy or test."""

    def content(self) -> dict[str, object]:
        """The entries for JSON that `only_chosen` reads."""
        return {
            "format": FORMAT,
            KEEP: [self.source.name(i) for i in self.keep],
            "left_out": [[self.source.name(i), reason] for i, reason in sorted(self.left_out.items())],
        }

    def line(self, path: str | None) -> str:
        """The proposal in a line; `path` is its file, if it is written."""
        counts = Counter(self.left_out.values())
        nouns = {
            "broken": "broken image",
            "blank": "blank image",
            "copy": "exact copy",
            "test": "image of the test set",
        }
        parts = [_counted(counts[reason], noun) for reason, noun in nouns.items() if counts[reason]]
        images = counted(len(self.keep), "image")
        if not parts:
            return f"keep        all {images}"
        how = f"--only {path}" if path else "--out FILE.json writes their names, and --only FILE.json"
        return f"keep        {images}; left out: {', '.join(parts)}. {how} trains on them"


def _counted(count: int, noun: str) -> str:
    first, space, rest = noun.partition(" of ")
    return f"{counted(count, first)}{space}{rest}"


def kept_of(found: Checked) -> Kept:
    """The proposal: of exact copies the first image, and none that is also a test image. Near pairs are kept."""
    split, source = found.train, found.train.source
    left_out: dict[int, str] = dict.fromkeys(range(len(source)), "broken")
    for i in split.indices.tolist():
        del left_out[i]
    for row in np.flatnonzero(split.blank).tolist():
        left_out[int(split.indices[row])] = "blank"
    for _, row in found.within.exact:
        left_out.setdefault(int(split.indices[row]), "copy")
    for row, _ in found.across.exact if found.across is not None else ():
        left_out.setdefault(int(split.indices[row]), "test")
    return Kept(source, [i for i in range(len(source)) if i not in left_out], left_out)

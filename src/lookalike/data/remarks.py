"""What is said of images before they are used: what is left out of them, and which options would suit them better."""

import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from typing import Final

import numpy as np

from ..images import Levels, levels
from ..printing import are, counted
from ..random import permutation
from .errors import UNSUPPORTED, BrokenImage
from .pillow import ANIMATED, LEFT_OUT, PAGES
from .sources import Source

ALL: Final = frozenset({"alpha", "channels", "normalize"})
"""The options that a remark may name. "scale" stands for files that can be scaled, and is none."""
_SAMPLE: Final = 64
"""Images that are looked at before they are used, ..."""
_SECONDS: Final = 2.0
"""... and the time for it."""
_LITTLE: Final = 0.25
"""The part of the range of values that images use at least, or little."""
_TOPS: Final = {"uint8": 255, "uint16": 65535, "float32": 1}


def remarks(source: Source, options: Set[str] = frozenset()) -> list[str]:
    """What was passed over, and the `warnings_about` the images, a line each."""
    return [*source.notes(), *warnings_about(source, options)]


def warnings_about(source: Source, options: Set[str] = frozenset()) -> list[str]:
    """Lines about what is left out of some images, spread over all of the source, and what would suit them better.

    Args:
        source: of which few images are looked at, for 2 seconds at most.
        options: those of `ALL` that whoever reads the lines can choose. Without any, images are not decoded.
    """
    kinds: Counter[str] = Counter()
    found: list[tuple[str, Levels]] = []
    refused: list[str] = []
    began = time.monotonic()
    for i in permutation(len(source), "remarks")[:_SAMPLE].tolist():
        kind = ""
        with suppress(Exception):  # who reads the image says why it cannot be read
            kind = source.kind(i)
            kinds[kind] += 1
        if options:
            try:  # a JPEG file is shrunk while it is decoded
                image = source.read(i, 64 if kind.startswith(("JPEG ", "MPO ")) else None)
                found.append((str(image.dtype).removeprefix("torch."), levels(image)))
            except BrokenImage as error:
                refused += [str(error)] if error.reason.startswith(UNSUPPORTED) else []
            except Exception:  # the loader will raise it
                break
        if time.monotonic() - began > _SECONDS:
            break
    lines = [*left_out(kinds, options), *unused(kinds, found, source.channels, options)]
    if refused:
        lines.append(
            f"{len(refused)} of {counted(len(found) + len(refused), 'image')} looked at {are(len(refused))} whole, but "
            f"cannot be used as {'it is' if len(refused) == 1 else 'they are'}. The first is {refused[0]}"
        )
    return lines


def left_out(kinds: Mapping[str, int], options: Set[str]) -> list[str]:
    """Lines about channels and pages that are left out, from what `Source.kind` said of images and how often."""
    total, lines = sum(kinds.values()), []
    last = {kind.removesuffix(f", {LEFT_OUT}"): n for kind, n in kinds.items() if kind.endswith(LEFT_OUT)}
    bands = {kind: n for kind, n in last.items() if " bands" in kind}
    alpha = {kind: n for kind, n in last.items() if kind not in bands}
    if alpha:
        lines.append(
            f"{sum(alpha.values())} of {counted(total, 'image')} looked at ({', '.join(alpha)}) "
            f"{'has' if sum(alpha.values()) == 1 else 'have'} a last channel that may be no transparency "
            "(near infrared, a height, a mask): it is left out, and colours stay as they are."
        )
        if "alpha" in options:
            lines[-1] += (
                " --alpha white lays such images on white, --alpha drop leaves the channel out of all; pretraining "
                "with --channels 4 keeps it."
            )
    if bands:
        counts = sorted({int(n) for kind in bands for n in re.findall(r" of (\d+) bands", kind)})
        lines.append(
            f"{sum(bands.values())} of {counted(total, 'image')} looked at ({', '.join(bands)}) "
            f"{'has' if sum(bands.values()) == 1 else 'have'} further bands behind the colours, which are left out. "
            f"Pretraining with --channels {counts[0]} reads them from .npy files of shape ({counts[0]}, H, W)."
        )
    for part, words in (
        (PAGES, ("has several pages; the first", "have several pages; the first")),
        (ANIMATED, ("is animated; the first frame", "are animated; the first frame")),
    ):
        if several := sum(n for kind, n in kinds.items() if part in kind.split(", ")):
            lines.append(f"{several} of {counted(total, 'file')} looked at {words[several > 1]} is used.")
            if part == PAGES and "channels" in options:
                lines[-1] += " Pages that are channels are read from .npy files of shape (C, H, W), with --channels C."
    return lines


def _is_grey(kind: str) -> bool:
    """Whether `Source.kind` says that an image has one channel, or one and transparency."""
    if kind.startswith("npy "):
        return kind.count(",") == 1 or "(1, " in kind or ", 1)" in kind
    words = kind.split(",")[0].split(" ")
    return len(words) > 1 and words[1] in {"L", "I", "I;16", "I;16B", "F", "1", "LA"}


def unused(
    kinds: Mapping[str, int], found: Sequence[tuple[str, Levels]], channels: int, options: Set[str]
) -> list[str]:
    """Lines about images that are grey in three channels, and about those that use little of the range of values.

    Args:
        kinds: what `Source.kind` said of images, and how often.
        found: their types and levels.
        channels: that they were brought to.
        options: those that can be chosen.
    """
    lines = []
    if "channels" in options and channels == 3 and len(found) > 1 and all(own.grey for _, own in found):
        stored = "grey" if kinds and all(map(_is_grey, kinds)) else "grey stored as RGB"
        lines.append(f"All channels are equal in {counted(len(found), 'image')} looked at: {stored}; use --channels 1.")
    for kind, top in _TOPS.items():
        own = [levels for name, levels in found if name == kind and levels.high > levels.low]  # blank ones have none
        if not own or options.isdisjoint({"normalize", "scale"}):
            continue
        lows, highs = [each.low for each in own], [each.high for each in own]
        # a few images with dead pixels or a bright spot change nothing
        low, high = np.quantile(lows, 0.1, method="lower"), np.quantile(highs, 0.9, method="higher")
        if high - low >= _LITTLE:
            continue
        all_of_it = max(highs) - min(lows) < _LITTLE
        smallest, largest = (
            f"{value:.3g}" if top == 1 else f"{round(value * top):,}"
            for value in ((min(lows), max(highs)) if all_of_it else (float(low), float(high)))
        )
        lines.append(
            f"{counted(len(own), 'image')} of {kind} {'uses' if len(own) == 1 else 'use'} little of the range of "
            "values: the largest "
            + (
                f"value seen is {largest} of {top:,}, the smallest {smallest}. "
                if all_of_it
                else f"value of nine in ten is at most {largest} of {top:,}, the smallest at least {smallest}. "
            )
            + ("Train with --normalize data, or scale" if "normalize" in options else "Scale")
            + " all files alike to the whole range."
        )
    return lines

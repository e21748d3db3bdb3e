"""Remarks on a set of images before it is used: discarded channels and pages, and more suitable options."""

import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from typing import Final

import numpy as np

from ..image_options import Scale
from ..images import Levels, levels
from ..printing import are, counted
from ..random import permutation
from .errors import UNSUPPORTED, BrokenImage
from .pillow import ANIMATED, LEFT_OUT, PAGES
from .sources import Source

ALL: Final = frozenset({"alpha", "channels", "normalize"})
"""The options that a remark may name; "scale" alone is for weights that fix the normalisation."""
_SAMPLE: Final = 64
"""Maximum number of images to inspect."""
_SECONDS: Final = 2.0
"""Maximum time for the inspection."""
_MIN_RANGE: Final = 0.25
"""Fraction of the value range below which a remark is printed."""
_TOPS: Final = {"uint8": 255, "uint16": 65535, "float32": 1}


def remarks(source: Source, options: Set[str] = frozenset()) -> list[str]:
    """What was skipped, and the `warnings_about` the images, one line each."""
    return [*source.notes(), *warnings_about(source, options)]


def warnings_about(source: Source, options: Set[str] = frozenset()) -> list[str]:
    """Lines about discarded channels and pages, and about better options, from a random sample of the images.

    Args:
        source: at most 64 of its images are inspected, for at most 2 seconds.
        options: those of `ALL` that the reader of the lines can choose. If empty, images are not decoded.
    """
    kinds: Counter[str] = Counter()
    found: list[tuple[str, Levels]] = []
    unsupported: list[str] = []
    started = time.monotonic()
    for i in permutation(len(source), "remarks")[:_SAMPLE].tolist():
        kind = ""
        with suppress(Exception):  # reading the image reports the reason
            kind = source.kind(i)
            kinds[kind] += 1
        if options:
            try:  # JPEG files are downscaled while decoding, which is faster
                image = source.read(i, 64 if kind.startswith(("JPEG ", "MPO ")) else None)
                found.append((str(image.dtype).removeprefix("torch."), levels(image)))
            except BrokenImage as error:
                unsupported += [str(error)] if error.reason.startswith(UNSUPPORTED) else []
            except Exception:  # the loader will raise it
                break
        if time.monotonic() - started > _SECONDS:
            break
    lines = [*left_out(kinds, options), *unused(kinds, found, source.channels, options)]
    if unsupported:
        lines.append(
            f"{len(unsupported)} of {counted(len(found) + len(unsupported), 'inspected image')} "
            f"{are(len(unsupported))} intact but in an unsupported form. The first is {unsupported[0]}"
        )
    return lines


def left_out(kinds: Mapping[str, int], options: Set[str]) -> list[str]:
    """Lines about discarded channels and pages, from the counts of `Source.kind`."""
    total, lines = sum(kinds.values()), []
    last = {kind.removesuffix(f", {LEFT_OUT}"): n for kind, n in kinds.items() if kind.endswith(LEFT_OUT)}
    bands = {kind: n for kind, n in last.items() if " bands" in kind}
    alpha = {kind: n for kind, n in last.items() if kind not in bands}
    if alpha:
        lines.append(
            f"{sum(alpha.values())} of {counted(total, 'inspected image')} ({', '.join(alpha)}) "
            f"{'has' if sum(alpha.values()) == 1 else 'have'} a last channel that may not be transparency "
            "(near infrared, a height, a mask): it is discarded, and colours are unchanged."
        )
        if "alpha" in options:
            lines[-1] += (
                " --alpha white composites such images on white, --alpha drop discards the channel of all images; "
                "pretraining with --channels 4 keeps it."
            )
    if bands:
        counts = sorted({int(n) for kind in bands for n in re.findall(r" of (\d+) bands", kind)})
        lines.append(
            f"{sum(bands.values())} of {counted(total, 'inspected image')} ({', '.join(bands)}) "
            f"{'has' if sum(bands.values()) == 1 else 'have'} extra bands after the colours, which are discarded. "
            f"Pretraining with --bands 1 2 3 ... chooses bands, --channels {counts[0]} reads all."
        )
    for part, forms in (
        (PAGES, ("has several pages; only the first", "have several pages; only the first")),
        (ANIMATED, ("is animated; only the first frame", "are animated; only the first frame")),
    ):
        if several := sum(n for kind, n in kinds.items() if part in kind.split(", ")):
            lines.append(f"{several} of {counted(total, 'inspected file')} {forms[several > 1]} is used.")
            if part == PAGES and "channels" in options:
                lines[-1] += " If pages are channels, --bands 1 2 3 ... reads those with these numbers."
    return lines


def _is_gray(kind: str) -> bool:
    """Whether a `Source.kind` has a single channel, with or without transparency."""
    if kind.startswith("npy "):
        return kind.count(",") == 1 or "(1, " in kind or ", 1)" in kind
    parts = kind.split(",")[0].split(" ")
    return len(parts) > 1 and parts[1] in {"L", "I", "I;16", "I;16B", "F", "1", "LA"}


def unused(
    kinds: Mapping[str, int], found: Sequence[tuple[str, Levels]], channels: int, options: Set[str]
) -> list[str]:
    """Lines about greyscale images read as three channels, and about images that use a small part of the value range.

    Args:
        kinds: counts of `Source.kind`.
        found: dtype and levels of each decoded image.
        channels: number of channels to which images were converted.
        options: those that can be chosen.
    """
    lines = []
    if "channels" in options and channels == 3 and len(found) > 1 and all(own.grey for _, own in found):
        stored = "greyscale" if kinds and all(map(_is_gray, kinds)) else "greyscale stored as RGB"
        lines.append(f"All channels are equal in {counted(len(found), 'inspected image')}: {stored}; use --channels 1.")
    for kind, top in _TOPS.items():
        own = [levels for name, levels in found if name == kind and levels.high > levels.low]  # without blank images
        if not own or options.isdisjoint({"normalize", "scale"}):
            continue
        lows, highs = [each.low for each in own], [each.high for each in own]
        low, high = _typical(own)
        if high - low >= _MIN_RANGE:
            continue
        is_all = max(highs) - min(lows) < _MIN_RANGE
        smallest, largest = (
            f"{value:.3g}" if top == 1 else f"{round(value * top):,}"
            for value in ((min(lows), max(highs)) if is_all else (float(low), float(high)))
        )
        lines.append(
            f"{counted(len(own), f'{kind} image')} {'uses' if len(own) == 1 else 'use'} a small part of the value "
            "range: "
            + (
                f"the largest value is {largest} of {top:,}, the smallest {smallest}. "
                if is_all
                else f"in 90% the largest value is at most {largest} of {top:,}, the smallest at least {smallest}. "
            )
            + f"Train with --scale {_range(kind, low, high)}"
            + (", or with --normalize data." if "normalize" in options else ".")
        )
    return lines


def proposed_scale(found: Sequence[tuple[str, Levels]]) -> Scale | None:
    """A scale for images of one type that use a small part of its range; None if they use more, or have several types.

    Args:
        found: dtype and levels of each decoded image.
    """
    kinds = {kind for kind, _ in found}
    own = [levels for _, levels in found if levels.high > levels.low]
    if len(kinds) != 1 or not own:
        return None
    (own_kind,) = kinds
    low, high = _typical(own)
    return None if high - low >= _MIN_RANGE else _range(own_kind, low, high)


def _typical(own: Sequence[Levels]) -> tuple[float, float]:
    """The range of values of most images; a few with dead pixels or a bright spot do not matter."""
    lows, highs = [each.low for each in own], [each.high for each in own]
    return float(np.quantile(lows, 0.1, method="lower")), float(np.quantile(highs, 0.9, method="higher"))


def _range(kind: str, low: float, high: float) -> Scale:
    """A range of values of the files, at the next limits of 10, 12 or 14 bits if these are near."""
    if kind == "float32":
        return Scale("range", ((float(f"{low:.3g}"), float(f"{high:.3g}")),))
    bottom, top = round(low * _TOPS[kind]), max(1, round(high * _TOPS[kind]))
    full = 2 ** top.bit_length() - 1
    if kind == "uint16" and full in (1023, 4095, 16383):
        top = full
    return Scale("range", ((0.0 if bottom < top / 4 else float(bottom), float(top)),))


def range_line(values: Sequence[np.ndarray]) -> str:
    """The range of values (C, N) of files that are not read without a scale, with a proposal; "" without values."""
    if not values:
        return ""
    flat = np.concatenate([each.ravel() for each in values])
    low, high = float(flat.min()), float(flat.max())
    if not low < high:
        return ""
    return (
        f"in files of other types, values are from {low:g} to {high:g}: give --scale percentile 1 99, or "
        f"--scale range {low:g} {high:g}"
    )

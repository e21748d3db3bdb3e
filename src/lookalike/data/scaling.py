"""Chooses bands of an image and scales its values; see `image_options.Pixels`."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..image_options import Scale
from ..printing import counted, printable
from .errors import Unsupported

_LEVELS = 65535


def chosen_bands(bands: Sequence[str], count: int, names: Sequence[str] = ()) -> list[int]:
    """Indices of the chosen bands among the `count` bands of a file, by number from 1 or by name (in any case).

    Args:
        bands: what was asked for.
        names: the names of the file's bands; empty if it has none.

    Raises:
        Unsupported: a band is missing.
    """
    known = {name.lower(): i for i, name in reversed([*enumerate(names)])}
    found = []
    for band in bands:
        if band.lower() in known:
            found.append(known[band.lower()])
        elif band.isdecimal() and 1 <= int(band) <= count:
            found.append(int(band) - 1)
        else:
            have = f" named {', '.join(map(printable, names[:20]))}" if any(names) else ""
            raise Unsupported(f"has {counted(count, 'band')}{have}, but no band {printable(band)} (--bands)")
    return found


def scaled(image: Tensor, scale: Scale) -> Tensor:
    """Values of a file (C, H, W) as pixels: uint16 for integers, float32 for floats. Values beyond the limits are cut.

    For a scale that is not measured yet, the values themselves as float32.

    Raises:
        ValueError: a band has values that are not finite.
    """
    if image.is_complex():
        raise Unsupported("complex values; expected real ones")
    if image.dtype.is_floating_point:
        for band, finite in enumerate(image.isfinite().flatten(1).all(1).tolist(), 1):
            if not finite:
                of = f" of {len(image)}" if len(image) > 1 else ""
                raise ValueError(f"band {band}{of} has values that are not finite (NaN or infinite)")
    if scale.kind == "percentile":
        return image.to(torch.float32)
    is_float = image.dtype.is_floating_point
    top = 1.0 if is_float else float(_LEVELS)
    out = torch.empty(image.shape, dtype=torch.float32 if is_float else torch.uint16)
    wide = torch.float64 if image.dtype in (torch.float64, torch.int64, torch.int32, torch.uint32) else torch.float32
    for i, channel in enumerate(image):
        low, high = scale.limits[i if len(scale.limits) > 1 else 0]
        values = ((channel.to(wide) - low) * (top / (high - low))).clamp_(0, top)
        out[i] = values if is_float else values.round_().to(torch.int32).to(torch.uint16)
    return out


def check_unit(image: Tensor, advice: str) -> None:
    """Raises ValueError if floats are not finite, or not between 0 and 1; `advice` is the remedy."""
    low, high = image.min().item(), image.max().item()
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"float values from {low:g} to {high:g}, not all of them finite; expected 0 to 1")
    if not (low >= -0.01 and high <= 1.01):
        raise Unsupported(f"float values from {low:g} to {high:g}; expected 0 to 1. {advice}")

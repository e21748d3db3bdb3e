"""Metadata of an encoder's weights, and their validation."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypedDict, get_args

from ..backbones import Interpolation, Stem
from ..files import FORMAT
from ..image_options import LARGEST_IMAGE, MOST_CHANNELS, Alpha, Pixels, Scale
from ..printing import printable, shown


@dataclass(frozen=True)
class Card:
    """Contents of `encoder.json` and of the header of `encoder.safetensors`: everything needed to use the weights."""

    format: int
    backbone: str
    """A timm name, torchvision/NAME, or <module.Class> for a user's own."""
    stem: str
    interpolation: str
    dim: int
    """Dimension of the encoder's output."""
    image_size: int
    channels: int
    dtype: str
    """Of the training images: uint8, uint16 or float32."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    method: str
    epochs: float
    """Finished epochs."""
    alpha: Alpha = "white"
    """Handling of alpha channels; missing in files of version 0.1, which composited them on white."""
    bands: tuple[str, ...] | None = None
    """Bands that are read, numbers from 1 or names; null for all."""
    scale: tuple[str | float, ...] = ("dtype",)
    """dtype, or range with LOW and HIGH, once or once per channel: values of a file that become 0 and 1. Values
    beyond them are cut."""


class ReadAs(TypedDict):
    """The entries of a card about the reading of pixels."""

    alpha: Alpha
    bands: tuple[str, ...] | None
    scale: tuple[str | float, ...]


def read_as(pixels: Pixels) -> ReadAs:
    """The entries of a card about the reading of pixels."""
    numbers = (value for pair in pixels.scale.limits for value in pair)
    return {"alpha": pixels.alpha, "bands": pixels.bands, "scale": (pixels.scale.kind, *numbers)}


def pixels_of(card: Mapping[str, Any]) -> Pixels:
    """How the pixels are read, from a valid card."""
    bands = card.get("bands")
    return Pixels(
        card["channels"], card.get("alpha", "white"), None if bands is None else tuple(bands),
        Scale.of(card.get("scale", ("dtype",))),
    )  # fmt: skip


DTYPES = ("uint8", "uint16", "float32")
"""Supported dtypes of images."""


def checked(card: object, where: object) -> dict[str, Any]:
    """Validates a card read from the file `where`.

    Raises:
        ValueError: a later format, a missing key, or an invalid value; the message names it.
    """
    if not isinstance(card, dict):
        raise ValueError(f"{where} does not describe an encoder: {shown(card)} is not a mapping.")
    if card.get("format", FORMAT) != FORMAT:
        raise ValueError(
            f"{where} has format {shown(card['format'])}, this version reads format {FORMAT}. Update lookalike."
        )
    if missing := [f.name for f in dataclasses.fields(Card) if f.name not in card and f.default is dataclasses.MISSING]:
        raise ValueError(f"{where} does not describe an encoder: it lacks {', '.join(missing)}.")

    def is_count(highest: int) -> Callable[[object], bool]:
        return lambda v: isinstance(v, int) and not isinstance(v, bool) and 1 <= v <= highest

    channels = card["channels"]
    rules: dict[str, tuple[str, Callable[[object], bool]]] = {
        "backbone": ("a name", lambda v: isinstance(v, str) and bool(v)),
        "stem": (" or ".join(get_args(Stem)), lambda v: v in get_args(Stem)),
        "interpolation": (" or ".join(get_args(Interpolation)),
                          lambda v: v in get_args(Interpolation)),
        "dim": ("an integer of at least 1", is_count(2**31)),
        "image_size": (f"an integer from 1 to {LARGEST_IMAGE}", is_count(LARGEST_IMAGE)),
        "channels": (f"an integer from 1 to {MOST_CHANNELS}", is_count(MOST_CHANNELS)),
        "dtype": (", ".join(DTYPES), lambda v: v in DTYPES),
        "mean": ("a number for each channel", lambda v: are_numbers(v, channels)),
        "std": ("a number above 0 for each channel", lambda v: are_numbers(v, channels, LEAST_STD)),
        "method": ("a name", lambda v: isinstance(v, str)),
        "epochs": ("a number of at least 0", lambda v: _real(v) >= 0),
        "alpha": (", ".join(get_args(Alpha)), lambda v: v in get_args(Alpha)),
        "bands": ("null, or a name for each channel", lambda v: v is None or _are_bands(v, channels)),
        "scale": ("dtype, or range and its limits", lambda v: _is_scale(v, channels)),
        "classes": ("a list of unique names", _are_classes),
    }  # fmt: skip
    for name, (expected, is_valid) in rules.items():
        if name in card and not is_valid(card[name]):
            raise ValueError(f"{where} has {name} {shown(card[name])}; expected {expected}. Copy the file again.")
    if "classes" in card:
        card = {**card, "classes": [printable(name) for name in card["classes"]]}
    return card


LEAST_STD = 1e-8
"""Minimum standard deviation, by which images are divided."""


def _real(value: object) -> float:
    """The value as a float if it is a finite number, otherwise NaN, for which every comparison is false."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    return float(value) if abs(value) < 1e30 else math.nan


def are_numbers(value: object, count: object, above: float = -math.inf) -> bool:
    return isinstance(value, list | tuple) and len(value) == count and all(_real(x) > above for x in value)


def _are_bands(value: object, channels: object) -> bool:
    return isinstance(value, list | tuple) and len(value) == channels and all(isinstance(v, str) and v for v in value)


def _is_scale(value: object, channels: object) -> bool:
    if not isinstance(value, list | tuple) or not all(isinstance(v, str | int | float) for v in value):
        return False
    try:
        found = Scale.of(value)
    except ValueError:
        return False
    return found.kind != "percentile" and len(found.limits) in (0, 1, channels)


def _are_classes(value: object) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(v, str) for v in value)
        and len({*value}) == len(value)
    )

"""What stands beside an encoder's weights, and what of it is believed."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

from ..backbones import Interpolation, Stem
from ..files import FORMAT
from ..image_options import LARGEST_IMAGE, MOST_CHANNELS, Alpha
from ..printing import printable, shown


@dataclass(frozen=True)
class Card:
    """What stands in `encoder.json` and in the head of `encoder.safetensors`: all that is needed to use the weights."""

    format: int
    backbone: str
    """A timm name, torchvision/NAME, or <module.Class> for a user's own."""
    stem: str
    interpolation: str
    dim: int
    """Numbers per image in the encoder's output."""
    image_size: int
    channels: int
    dtype: str
    """Of the images that were trained on: uint8, uint16 or float32."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    method: str
    epochs: float
    """Finished epochs."""
    alpha: Alpha = "white"
    """What became of alpha channels; version 0.1, which did not write it, laid them on white."""


DTYPES = ("uint8", "uint16", "float32")
"""Of images."""


def checked(card: object, where: object) -> dict[str, Any]:
    """A card as it was read from a file that `where` names, once all in it is what an encoder can have.

    Raises:
        ValueError: a later format, a key that is missing, or a value that is none; the message names it.
    """
    if not isinstance(card, dict):
        raise ValueError(f"{where} describes no encoder: {shown(card)} is no mapping.")
    if card.get("format", FORMAT) != FORMAT:
        raise ValueError(
            f"{where} has format {shown(card['format'])}, this version reads format {FORMAT}. Update lookalike."
        )
    if missing := [f.name for f in dataclasses.fields(Card) if f.name not in card and f.default is dataclasses.MISSING]:
        raise ValueError(f"{where} describes no encoder: it does not say {', '.join(missing)}.")

    def whole(most: int) -> Callable[[object], bool]:
        return lambda v: isinstance(v, int) and not isinstance(v, bool) and 1 <= v <= most

    channels = card["channels"]
    rules: dict[str, tuple[str, Callable[[object], bool]]] = {
        "backbone": ("a name", lambda v: isinstance(v, str) and bool(v)),
        "stem": (" or ".join(get_args(Stem)), lambda v: v in get_args(Stem)),
        "interpolation": (" or ".join(get_args(Interpolation)),
                          lambda v: v in get_args(Interpolation)),
        "dim": ("a whole number from 1", whole(2**31)),
        "image_size": (f"a whole number from 1 to {LARGEST_IMAGE}", whole(LARGEST_IMAGE)),
        "channels": (f"a whole number from 1 to {MOST_CHANNELS}", whole(MOST_CHANNELS)),
        "dtype": (", ".join(DTYPES), lambda v: v in DTYPES),
        "mean": ("a number for each channel", lambda v: are_numbers(v, channels)),
        "std": ("a number above 0 for each channel", lambda v: are_numbers(v, channels, LEAST_STD)),
        "method": ("a name", lambda v: isinstance(v, str)),
        "epochs": ("a number from 0", lambda v: _real(v) >= 0),
        "alpha": (", ".join(get_args(Alpha)), lambda v: v in get_args(Alpha)),
        "classes": ("a list of different names", _are_classes),
    }  # fmt: skip
    for name, (expected, is_right) in rules.items():
        if name in card and not is_right(card[name]):
            raise ValueError(
                f"{where} says that {name} is {shown(card[name])}; expected {expected}. Copy the file anew."
            )
    if "classes" in card:
        card = {**card, "classes": [printable(name) for name in card["classes"]]}
    return card


LEAST_STD = 1e-8
"""Images are divided by it."""


def _real(value: object) -> float:
    """A number that is finite, or NaN, which compares with none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    return float(value) if abs(value) < 1e30 else math.nan


def are_numbers(value: object, count: object, above: float = -math.inf) -> bool:
    return isinstance(value, list | tuple) and len(value) == count and all(_real(x) > above for x in value)


def _are_classes(value: object) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(v, str) for v in value)
        and len({*value}) == len(value)
    )

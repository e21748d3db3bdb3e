"""Image settings of options and saved encoders: limits, and how pixels are read."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

Alpha = Literal["auto", "white", "drop"]
Scaling = Literal["dtype", "range", "percentile"]
LARGEST_IMAGE = 16_384
"""Maximum side of a network's input, in pixels."""
MOST_CHANNELS = 10_000
"""Maximum number of channels of an image."""
_COLORS = (("red", "green", "blue"), ("r", "g", "b"))


@dataclass(frozen=True)
class Scale:
    """Which values of a file become 0 and 1, the ends of an encoder's input range."""

    kind: Scaling = "dtype"
    """`dtype`: those of the type (0 to 255, 0 to 65535; floats have to lie between 0 and 1). `range`: `limits` in
    values of the file. `percentile`: not measured yet, `limits` in percent."""
    limits: tuple[tuple[float, float], ...] = ()
    """Pairs (low, high): one for all bands, or one per band."""

    @staticmethod
    def of(words: Sequence[str | float]) -> "Scale":
        """From the words of an option or a file, such as ("range", "0", "4095"); several pairs are one per band.

        Raises:
            ValueError: they have another form.
        """
        kind, *rest = (words.split() if isinstance(words, str) else [*words]) or [""]
        try:
            numbers = [float(value) for value in rest]
        except ValueError:
            numbers = [math.nan]
        pairs = tuple(zip(numbers[::2], numbers[1::2]))
        is_valid = all(math.isfinite(low) and math.isfinite(high) and low < high for low, high in pairs)
        is_valid &= kind != "percentile" or all(low >= 0 and high <= 100 for low, high in pairs)
        if kind == "dtype" and not rest:
            return Scale()
        for name in get_args(Scaling)[1:]:
            if kind == name and pairs and len(numbers) % 2 == 0 and is_valid:
                return Scale(name, pairs)
        raise ValueError(
            f"scale is {' '.join(map(str, words))!r}; expected dtype, range LOW HIGH in values of the files, or "
            "percentile LOW HIGH in percent from 0 to 100, with LOW below HIGH (or LOW HIGH once per band). Give for "
            "instance --scale range 0 4095."
        )

    def words(self) -> tuple[str, ...]:
        """The form of options and files."""
        return (self.kind, *(_number(value) for pair in self.limits for value in pair))

    def __str__(self) -> str:
        return " ".join(self.words())


def _number(value: float) -> str:
    """The shortest text of the same float, whole numbers without a point."""
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)


@dataclass(frozen=True)
class Tiling:
    """Tiles of large frames."""

    size: int
    """Side of a tile in pixels."""
    stride: int
    """Distance between the beginnings of two tiles in pixels."""

    def __post_init__(self) -> None:
        if not 1 <= self.stride <= self.size:
            raise ValueError(
                f"The tiles have {self.size} pixels and a stride of {self.stride}; expected a stride from 1 to the "
                "size of a tile, so that no pixel is left out. Give another --stride."
            )

    @staticmethod
    def of(tile: int | None, stride: int | None) -> "Tiling | None":
        """From two options; the default stride is the size of a tile.

        Raises:
            ValueError: a stride without a tile, or larger than it.
        """
        if tile is None:
            if stride is not None:
                raise ValueError(f"stride is {stride}, but no tile is given. Give --tile, too.")
            return None
        return Tiling(tile, tile if stride is None else stride)

    def __str__(self) -> str:
        return f"--tile {self.size} --stride {self.stride}"


def tiling_of(run: Mapping[str, object]) -> Tiling | None:
    """The tiles that a run was trained on, by its run.yaml; None for images."""
    tile, stride = run.get("tile"), run.get("stride")
    return Tiling.of(tile, stride) if isinstance(tile, int) and isinstance(stride, int | None) else None


@dataclass(frozen=True)
class Pixels:
    """How the pixels of images are read; the same for a training and for everything that uses its encoder."""

    channels: int = 3
    """Number of channels to which images are converted."""
    alpha: Alpha = "auto"
    """How an alpha channel is handled; see `lookalike.data.decode`."""
    bands: tuple[str, ...] | None = None
    """Bands that are read, in this order: numbers from 1, or names. None: all."""
    scale: Scale = Scale()

    def __post_init__(self) -> None:
        if self.channels < 1:
            raise ValueError(f"channels is {self.channels}; images have at least 1.")
        if self.bands is not None and len(self.bands) != self.channels:
            raise ValueError(
                f"The number of bands is {len(self.bands)}, but channels is {self.channels}. Give as many --bands as "
                "--channels, or leave --channels out."
            )
        if len(self.scale.limits) not in (0, 1, self.channels):
            raise ValueError(
                f"The number of limits LOW HIGH of scale is {len(self.scale.limits)}, but channels is {self.channels}. "
                "Give LOW HIGH once, or once per channel."
            )

    @staticmethod
    def of(pixels: "Pixels | int") -> "Pixels":
        """The settings themselves, or the default settings for a number of channels."""
        return Pixels(pixels) if isinstance(pixels, int) else pixels

    @property
    def is_plain(self) -> bool:
        """Whether files are read as pictures: no bands are chosen, and values keep the range of their type."""
        return self.bands is None and self.scale.kind == "dtype"

    @property
    def is_color(self) -> bool:
        """Whether the channels are red, green and blue: those of a picture, or chosen by these names."""
        if self.bands is None:
            return self.channels == 3
        return tuple(name.lower() for name in self.bands) in _COLORS

    @property
    def shown(self) -> tuple[int, ...]:
        """The channels that a picture shows: red, green and blue if there are bands of these names, else the first."""
        lower = [name.lower() for name in self.bands or ()]
        for names in _COLORS:
            if all(name in lower for name in names):
                return tuple(map(lower.index, names))
        return (0, 1, 2) if self.channels >= 3 else (0,)

    def __str__(self) -> str:
        """What differs from pictures, as options; empty for pictures."""
        parts = [] if self.bands is None else [f"--bands {' '.join(self.bands)}"]
        return " ".join([*parts, *([] if self.scale.kind == "dtype" else [f"--scale {self.scale}"])])

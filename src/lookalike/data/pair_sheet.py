"""Pairs of images side by side, for eyes to judge: a sheet of duplicates."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..images import promote
from .errors import BrokenImage
from .sources import Source

MOST: Final = 60
"""Pairs on a sheet."""
_SIDE: Final = 160
_COLUMNS: Final = 3
_GAP: Final = 12
_LINE: Final = 16


@dataclass(frozen=True)
class Twins:
    """Two images that are said to show the same."""

    first: tuple[Source, int]
    second: tuple[Source, int]
    detail: float
    """How much they correlate; 1 for exact copies."""
    classes: tuple[str, str] | None = None
    """Where they differ."""

    @property
    def names(self) -> tuple[str, str]:
        (a, i), (b, j) = self.first, self.second
        return a.name(i), b.name(j)


def pair_sheet(pairs: Sequence[Twins]) -> Image.Image:
    """A picture of MOST pairs, the most doubtful: of different classes, then those that correlate least."""
    title = f"{min(len(pairs), MOST)} of {len(pairs)} pairs: those of different classes, then the least alike"
    shown = sorted(pairs, key=lambda pair: (pair.classes is None, pair.detail))[:MOST]
    columns, wide = min(_COLUMNS, max(1, len(shown))), 2 * _SIDE + 2 * _GAP
    high = _SIDE + 3 * _LINE + 2 * _GAP
    font = ImageFont.load_default(12)
    width = max(columns * wide + _GAP, round(font.getlength(title)) + 2 * _GAP)
    sheet = Image.new("RGB", (width, 3 * _LINE + -(-len(shown) // columns) * high), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((_GAP, _LINE), title, "black", font)
    for n, pair in enumerate(shown):
        x, y = _GAP + n % columns * wide, 3 * _LINE + n // columns * high
        sheet.paste(_tile(*pair.first), (x, y))
        sheet.paste(_tile(*pair.second), (x + _SIDE + 1, y))
        verdict = f"correlation {pair.detail:.3f}"
        colour = "black"
        if pair.classes is not None:
            verdict, colour = f"{verdict}, {pair.classes[0]} and {pair.classes[1]}", "#b00020"
        for k, (line, fill) in enumerate([(pair.names[0], "black"), (pair.names[1], "black"), (verdict, colour)]):
            draw.text((x, y + _SIDE + 2 + k * _LINE), _fitting(line, font, wide - _GAP), fill, font)
    return sheet


def _fitting(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The text without its middle, if it is too long: names differ at their ends."""
    left = text
    while len(left) > 8 and font.getlength(left) > width:
        half = (len(left) - 4) // 2
        left = f"{left[:half]}...{left[-half:]}"
    return left


def _tile(source: Source, place: int) -> Image.Image:
    """The whole image in a grey square."""
    tile = Image.new("RGB", (_SIDE, _SIDE), "#888888")
    try:
        image = source.read(place, _SIDE)
    except BrokenImage:  # it went away since it was looked at
        return tile
    shown = _visible(image)
    scale = _SIDE / max(shown.size)
    size = (max(1, round(shown.width * scale)), max(1, round(shown.height * scale)))
    shown = shown.resize(size, Image.Resampling.BICUBIC if scale < 1 else Image.Resampling.NEAREST)
    tile.paste(shown, ((_SIDE - size[0]) // 2, (_SIDE - size[1]) // 2))
    return tile


def _visible(image: Tensor) -> Image.Image:
    """An image (C, H, W) in its first three channels, or the first of fewer; more than 8 bits are stretched."""
    planes = promote(image[: 3 if len(image) >= 3 else 1], torch.float32)
    if image.dtype != torch.uint8:
        planes = (planes - planes.min()) / (planes.max() - planes.min()).clamp(min=1e-12)
    pixels = (planes * 255).round().clamp(0, 255).to(torch.uint8).movedim(0, -1).expand(-1, -1, 3)
    return Image.fromarray(pixels.contiguous().numpy())

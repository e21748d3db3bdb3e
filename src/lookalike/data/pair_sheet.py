"""A contact sheet of duplicate pairs, side by side, for visual inspection."""

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
"""Maximum number of pairs on a sheet."""
_SIDE: Final = 160
_COLUMNS: Final = 3
_GAP: Final = 12
_LINE: Final = 16


@dataclass(frozen=True)
class Twins:
    """Two images reported as duplicates."""

    first: tuple[Source, int]
    second: tuple[Source, int]
    detail: float
    """Correlation of their details; 1 for exact copies."""
    classes: tuple[str, str] | None = None
    """Their classes, if these differ."""

    @property
    def names(self) -> tuple[str, str]:
        (a, i), (b, j) = self.first, self.second
        return a.name(i), b.name(j)


def pair_sheet(pairs: Sequence[Twins]) -> Image.Image:
    """A picture of the MOST least certain pairs: those of different classes, then those with the lowest correlation."""
    title = f"{min(len(pairs), MOST)} of {len(pairs)} pairs: different classes first, then lowest correlation"
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
        caption, color = f"correlation {pair.detail:.3f}", "black"
        if pair.classes is not None:
            caption, color = f"{caption}, {pair.classes[0]} and {pair.classes[1]}", "#b00020"
        for k, (line, fill) in enumerate([(pair.names[0], "black"), (pair.names[1], "black"), (caption, color)]):
            draw.text((x, y + _SIDE + 2 + k * _LINE), _fitting(line, font, wide - _GAP), fill, font)
    return sheet


def _fitting(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The text, with its middle replaced by "..." if it is too long: names differ at their ends."""
    short = text
    while len(short) > 8 and font.getlength(short) > width:
        half = (len(short) - 4) // 2
        short = f"{short[:half]}...{short[-half:]}"
    return short


def _tile(source: Source, index: int) -> Image.Image:
    """The whole image in a grey square."""
    tile = Image.new("RGB", (_SIDE, _SIDE), "#888888")
    try:
        image = source.read(index, _SIDE)
    except BrokenImage:  # it has become unreadable since the comparison
        return tile
    shown = _visible(image)
    scale = _SIDE / max(shown.size)
    size = (max(1, round(shown.width * scale)), max(1, round(shown.height * scale)))
    shown = shown.resize(size, Image.Resampling.BICUBIC if scale < 1 else Image.Resampling.NEAREST)
    tile.paste(shown, ((_SIDE - size[0]) // 2, (_SIDE - size[1]) // 2))
    return tile


def _visible(image: Tensor) -> Image.Image:
    """The first three channels of an image (C, H, W), or the first of fewer; more than 8 bits are stretched."""
    planes = promote(image[: 3 if len(image) >= 3 else 1], torch.float32)
    if image.dtype != torch.uint8:
        planes = (planes - planes.min()) / (planes.max() - planes.min()).clamp(min=1e-12)
    pixels = (planes * 255).round().clamp(0, 255).to(torch.uint8).movedim(0, -1).expand(-1, -1, 3)
    return Image.fromarray(pixels.contiguous().numpy())

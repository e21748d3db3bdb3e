"""Handles alpha channels: composited on white if certainly transparency, otherwise discarded; see `decode`."""

from typing import Final, Literal

import numpy as np
from PIL import Image, TiffImagePlugin

from ..image_options import Alpha
from ..printing import counted
from .errors import Unsupported

MODES: Final = {1: "L", 3: "RGB", 4: "RGBA"}
"""Pillow's 8-bit modes, by number of channels."""
PREMULTIPLIED: Final = (
    "its colours are marked as premultiplied by a last channel that may not be transparency. Save it with "
    "colours that are not premultiplied, or give --alpha white"
)
Ground = Literal["white", "drop", ""]


def unnamed_bands(image: Image.Image) -> int:
    """Number of extra channels of a TIFF file that are not marked as alpha and that Pillow ignores."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return 0
    return max(0, int(image.tag_v2.get(277, 1)) - len(image.getbands()))


def scale_key(image: Image.Image, raw_mode: str) -> None:
    """Scales the transparent grey value of a 2-bit or 4-bit PNG file to 8 bits, as Pillow scales the pixels."""
    scale = {"L;2": 85, "L;4": 17}.get(raw_mode)
    if scale and image.format == "PNG" and isinstance(key := image.info.get("transparency"), int):
        image.info["transparency"] = key * scale


def ground_of(image: Image.Image, channels: int, alpha: Alpha) -> Ground:
    """How to remove an image's transparency; empty if it has none or keeps it."""
    if channels == 4 or not image.has_transparency_data:
        return ""
    if alpha == "auto" and image.mode not in ("RGBA", "RGBa", "LA", "La"):
        return "white"  # a colour or palette entries marked as transparent
    if is_opaque(image):
        return "drop"
    if alpha != "white" and not (alpha == "auto" and _is_transparency(image)):
        if isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(338, (0,))[0] == 1:
            raise Unsupported(PREMULTIPLIED)
        return "drop"
    return "white"


def is_opaque(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA") and image.getchannel("A").getextrema() == (255, 255)


def _is_transparency(image: Image.Image) -> bool:
    """Whether an alpha channel is certainly transparency: visible pixels mostly opaque, no content where alpha is 0."""
    image = image.convert({"La": "LA", "RGBa": "RGBA"}.get(image.mode, image.mode))
    alpha = image.getchannel("A")
    counts = alpha.histogram()
    clear, opaque, between = counts[0], counts[255], sum(counts[1:255])
    if not opaque or between > opaque:
        return False
    if not clear or image.format in ("WEBP", "AVIF"):  # these formats do not store invisible colours
        return True
    hidden = image.histogram(alpha.point([255] + [0] * 255))
    bands = [np.flatnonzero(hidden[at : at + 256]) for at in range(0, len(hidden) - 256, 256)]
    return all(np.ptp(values) <= (16 if image.format == "JPEG2000" else 0) for values in bands)


def in_mode(image: Image.Image, channels: int, ground: Ground) -> Image.Image:
    """Converts to L, RGB or RGBA."""
    if channels not in MODES:
        raise Unsupported(f"has {counted(len(image.getbands()), 'channel')}, which cannot be converted to {channels}")
    if channels == 4:
        if not image.has_transparency_data:
            raise Unsupported(f"has no transparency (mode {image.mode}), so it cannot be converted to 4 channels")
        return image.convert("RGBA")
    if ground == "white":
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image.convert("RGBA"))
        image = white
    elif image.mode in ("La", "RGBa"):
        image = image.convert({"La": "LA"}.get(image.mode, "RGBA"))
    return image if image.mode == MODES[channels] else image.convert(MODES[channels])


def deep_in_mode(pixels: np.ndarray, keyed: bool, channels: int, alpha: Alpha) -> np.ndarray:
    """Pixels (H, W, bands) uint16 without transparency, or with it if 4 channels are requested."""
    bands = pixels.shape[2]
    if bands == 3 or channels == 4:
        return pixels if bands != 2 else pixels[..., [0, 0, 0, 1]]
    if alpha == "white" or (alpha == "auto" and (keyed or is_deep_transparency(pixels))):
        part = pixels[..., -1] < 65535
        opacity = pixels[part][:, -1:] / 65535
        pixels[part, :-1] = np.round(pixels[part][:, :-1] * opacity + 65535 * (1 - opacity)).astype(np.uint16)
    return pixels[..., :-1]


def straight(pixels: np.ndarray) -> np.ndarray:
    """Pixels (H, W, bands) uint16 whose colours were multiplied by the last band, divided by it."""
    opacity = np.maximum(pixels[..., -1:], 1).astype(np.float64) / 65535
    colors = np.minimum(np.round(pixels[..., :-1] / opacity), 65535).astype(np.uint16)
    return np.concatenate([colors, pixels[..., -1:]], axis=2)


def is_deep_transparency(pixels: np.ndarray) -> bool:
    """`_is_transparency` for pixels (H, W, bands) uint16; also true for an opaque image."""
    clear, opaque = pixels[..., -1] == 0, pixels[..., -1] == 65535
    visible, solid = int((~clear).sum()), int(opaque.sum())
    return solid > 0 and visible <= 2 * solid and (not clear.any() or not np.ptp(pixels[clear][:, :-1], axis=0).any())

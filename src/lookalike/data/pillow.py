"""Converts images opened by Pillow to tensors; rejects those that Pillow would alter silently."""

import ctypes
import logging
import warnings
from contextlib import suppress
from importlib.util import find_spec
from typing import IO, Final

import numpy as np
import torch
from PIL import Image, ImageFile, TiffImagePlugin
from torch import Tensor

from ..image_options import Alpha, Pixels
from ..printing import counted
from . import limits, png, tiff
from .errors import Unsupported
from .limits import aspect_window, check_size, shrink_factor
from .tensors import ALIKE, from_tensor, upright
from .transparency import deep_in_mode, ground_of, in_mode, is_deep_transparency, is_opaque, scale_key, unnamed_bands

# Pillow's warnings are redundant: an unreadable image is reported with its reason
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").addHandler(logging.NullHandler())  # otherwise unconfigured logging prints its errors
if (_core := find_spec("PIL._imaging")) is not None:
    with suppress(OSError, AttributeError):  # if Pillow's libtiff is out of reach, libtiff prints its errors
        ctypes.CDLL(_core.origin).TIFFSetErrorHandler(None)


LEFT_OUT: Final = "last channel left out"
"""Suffix of `kind_of` for a file with an extra channel that is not certainly transparency."""
PAGES: Final = "several pages"
"""Part of `kind_of` for a TIFF file with several pictures."""
ANIMATED: Final = "animated"
"""Part of `kind_of` for other files with several pictures."""
_PIECE: Final = 2**21  # pixels converted at once: converting a whole image would take too much memory
_SAVE: Final = "Save it as 8-bit RGB, or as .npy of shape (C, H, W)"


def pillow_kind(image: Image.Image, pixels: Pixels) -> str:
    """`kind_of` for an image opened by Pillow."""
    kind = f"{image.format or 'PIL'} {image.mode}" + (" of 16 bits" if _is_deep_color(image) else "")
    bands = unnamed_bands(image)
    if bands and (image.mode, bands) != ("RGB", 1):  # RGB and one band are read with channels=4
        kind += f" of {counted(bands + len(image.getbands()), 'band')}"
    with suppress(Exception):  # a later frame may be damaged
        kind += _several(image)
    may_leave_out = pixels.alpha == "auto" and pixels.bands is None
    return f"{kind}, {LEFT_OUT}" if may_leave_out and _leaves_out(image, pixels.channels) else kind


def _several(image: Image.Image) -> str:
    """The part of a kind for a file with several pictures. (A camera's MPO has a preview, which does not count.)"""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return f", {PAGES}" if image.fp is not None and tiff.has_pages(image.fp) else ""
    return f", {ANIMATED}" if image.format != "MPO" and getattr(image, "is_animated", False) else ""


def from_pillow(image: Image.Image, pixels: Pixels | int, decode_size: int | None, key: int) -> Tensor:
    """`decode` for an image opened by Pillow. Raises ValueError if it cannot be converted to the requested channels."""
    asked = Pixels.of(pixels)
    channels, alpha = asked.channels, asked.alpha
    _check_faithful(image)
    if asked.bands is None:
        _check_channels(image, channels)
    deep_color = _is_deep_color(image)
    _check_room(image, channels, deep_color)
    if not asked.is_plain:
        values = _values(image, asked, deep_color)
        return upright(from_tensor(values, asked, decode_size, key), _orientation(image))
    if deep_color:
        deep, keyed = _deep_color(image)
        turn = _orientation(image)
        deep = deep_in_mode(deep, keyed, channels, alpha)
        return upright(from_tensor(torch.from_numpy(deep).permute(2, 0, 1), channels, decode_size, key), turn)
    scale_key(image, _raw_mode(image))
    factor = shrink_factor(min(image.size), decode_size)
    # only the JPEG decoder downscales, by 8 at most
    if decode_size and image.draft(None, (decode_size, decode_size)) is not None:
        factor = max(1, factor // 8)
    image.load()
    _check_room(image, channels, deep_color)  # again: the size of an icon is known only after loading
    turn, bands, size = _orientation(image), unnamed_bands(image), image.size
    top, left, height, width = aspect_window(*size[::-1], key) if decode_size else (0, 0, *size[::-1])
    box = (left, top, left + width, top + height)
    if image.mode.startswith("I") or image.mode == "F":
        image = _deep_gray(image, alpha)
        image = image if box == (0, 0, *size) else image.crop(box)
        gray = _deep_pixels(image.reduce(factor) if factor > 1 else image)
        return upright(from_tensor(gray, channels, None, key), turn)
    if channels == 4 and image.mode == "RGB" and bands == 1:  # Pillow stores the fourth band where others have alpha
        image = Image.frombytes("RGBA", size, image.tobytes("raw", "RGBX"))
    ground = ground_of(image, channels, alpha)
    rows = max(1, _PIECE // width // factor) * factor
    out = np.empty((channels, -(-height // factor), -(-width // factor)), np.uint8)
    for y in range(0, height, rows):
        part = (left, top + y, left + width, top + min(y + rows, height))
        piece = in_mode(image if part == (0, 0, *size) else image.crop(part), channels, ground)
        rows_of = _pixels(piece.reduce(factor) if factor > 1 else piece)
        out[:, y // factor : y // factor + rows_of.shape[1]] = rows_of
    return upright(torch.from_numpy(out), turn)


def _values(image: Image.Image, asked: Pixels, deep_color: bool) -> Tensor:
    """The values of a file (C, H, W), in their own range: all bands if some are chosen, else without transparency."""
    if deep_color:
        array, keyed = _deep_color(image)
        array = array if asked.bands is not None else deep_in_mode(array, keyed, asked.channels, asked.alpha)
        return torch.from_numpy(np.ascontiguousarray(array)).permute(2, 0, 1)
    scale_key(image, _raw_mode(image))
    image.load()
    _check_room(image, asked.channels, deep_color)
    if image.mode.startswith("I") or image.mode == "F":
        array = np.array(_deep_gray(image, asked.alpha))
        fits = array.dtype.kind == "i" and array.min() >= 0 and array.max() <= 65535
        return torch.from_numpy(array.astype(np.uint16) if fits else array)[None]
    if asked.bands is None:
        image = in_mode(image, asked.channels, ground_of(image, asked.channels, asked.alpha))
    elif image.mode == "RGB" and unnamed_bands(image) == 1:
        image = Image.frombytes("RGBA", image.size, image.tobytes("raw", "RGBX"))
    elif image.mode in ("1", "P", "PA"):
        image = image.convert("L" if image.mode == "1" else "RGBA" if image.has_transparency_data else "RGB")
    return torch.from_numpy(np.array(image).reshape(image.height, image.width, -1)).permute(2, 0, 1)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 by default. (Pillow itself rotates TIFFs upright.)"""
    if image.info.keys().isdisjoint(("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")):
        return 1
    try:
        return int(image.getexif().get(0x0112, 1))
    except Exception:  # corrupt metadata do not make the image unusable
        return 1


def _check_room(image: Image.Image, channels: int, deep_color: bool) -> None:
    """Raises ValueError if the pixels would take too much memory."""
    deep = 4 if image.mode in ("I", "F") else 2 if deep_color or image.mode.startswith("I;") else 1
    check_size(*image.size, max(channels, len(image.getbands())) * deep)


def _raw_mode(image: Image.Image) -> str:
    """The sample layout of a file opened but not yet read by Pillow; otherwise empty."""
    if not isinstance(image, ImageFile.ImageFile) or not image.tile:
        return ""
    args = image.tile[0].args
    return str(args[0] if isinstance(args, tuple) and args else args or "")


def _is_deep_color(image: Image.Image) -> bool:
    """Whether Pillow would discard the low byte of a file's samples."""
    return ";16" in _raw_mode(image) and image.mode in ("LA", "RGB", "RGBA", "CMYK")


def _check_faithful(image: Image.Image) -> None:
    """Raises ValueError if Pillow would alter an opened file's pixels."""
    if not isinstance(image, ImageFile.ImageFile) or not image.tile or image.fp is None:
        return
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        tiff.check(image.fp)
    elif image.format == "PPM" and image.mode == "RGB" and max(_numbers(image.tile[0].args), default=0) > 255:
        raise Unsupported(f"a PPM file of 16-bit colour, which would be cut to 8 bits. {_SAVE}, or as 16-bit PNG")
    elif image.format == "JPEG2000":
        bits = _jpeg2000_bits(image.fp)
        if bits != [16] and max(bits) > 8:
            raise Unsupported(f"JPEG 2000 of {len(bits)} x {max(bits)} bits; use 8 bits, or 16-bit greyscale. {_SAVE}")


def _check_channels(image: Image.Image, channels: int) -> None:
    """Raises Unsupported if the requested channels are in bands or pages of a TIFF that are not read."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile) or image.fp is None or channels in (1, 3):
        return
    if (bands := unnamed_bands(image)) and (channels, image.mode, bands) != (4, "RGB", 1):
        raise tiff.unread(tiff.read_tags(image.fp, limits.MAX_BYTES))
    if tiff.samples(tiff.read_tags(image.fp, limits.MAX_BYTES)) == 1 and tiff.has_pages(image.fp):
        raise Unsupported(
            "a TIFF with several pages, of which only the first is read, and it cannot be converted to "
            f"{counted(channels, 'channel')}. {tiff.EXTRA}"
        )


def _numbers(args: object) -> list[int]:
    return [x for x in args if isinstance(x, int)] if isinstance(args, tuple) else []


def _jpeg2000_bits(file: IO[bytes]) -> list[int]:
    """Bits of each channel; 99 for signed ones."""
    before = file.tell()
    file.seek(0)
    content = file.read(limits.MAX_BYTES)
    file.seek(before)
    at = content.find(b"\xff\x4f\xff\x51") + 42  # component descriptions in the SIZ segment
    if at < 42 or at > len(content) or not (count := int.from_bytes(content[at - 2 : at], "big")):
        raise ValueError("JPEG 2000 file is truncated or damaged")
    sizes = content[at : at + 3 * count : 3]
    return [99 if size & 0x80 else size + 1 for size in sizes]


def _deep_color(image: Image.Image) -> tuple[np.ndarray, bool]:
    """Pixels (H, W, bands) uint16 of a PNG file of 16-bit colour; see `png.read_deep`."""
    assert isinstance(image, ImageFile.ImageFile)
    if image.format != "PNG" or image.fp is None:
        raise Unsupported(f"{image.format} of 16-bit colour, which would be cut to 8 bits. {_SAVE}, or as 16-bit PNG")
    image.fp.seek(0)
    content = image.fp.read(limits.MAX_BYTES)
    if png.turns(content):  # the orientation may follow the pixels
        image.load()
    return png.read_deep(content)


def _leaves_out(image: Image.Image, channels: int) -> bool:
    """Whether `alpha="auto"` discards a channel that may not be transparency; reads the pixels if necessary."""
    if channels == 4:
        return False
    if _is_deep_color(image):
        pixels, keyed = _deep_color(image)
        return pixels.shape[2] in (2, 4) and not keyed and not is_deep_transparency(pixels)
    if unnamed_bands(image):
        return True
    if not image.has_transparency_data and image.format != "ICO":  # the mode of an icon is known only after loading
        return False
    image.load()
    return image.has_transparency_data and ground_of(image, channels, "auto") == "drop" and not is_opaque(image)


def _deep_gray(image: Image.Image, alpha: Alpha) -> Image.Image:
    """An image of more than 8 bits in mode I or F, with black at 0 and a transparent grey replaced by white."""
    if image.mode == "F":
        return image
    begins_white = isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(262) == 0
    if isinstance(image, TiffImagePlugin.TiffImageFile) and tiff.is_unsigned_32(image.tag_v2):
        low, _ = image.getextrema()
        if isinstance(low, int | float) and low < 0:  # Pillow reads them as signed
            raise Unsupported(f"a TIFF of integers above {2**31 - 1}. {tiff.EXTRA}")
    key = image.info.get("transparency") if alpha != "drop" else None
    image = image.convert("I") if image.mode != "I" else image
    if begins_white or isinstance(key, int):
        values = np.array(image)
        values = 65535 - values if begins_white else np.where(values == key, 65535, values)
        image = Image.fromarray(values.astype(np.int32))
    return image


def _pixels(image: Image.Image) -> np.ndarray:
    """(C, H, W) uint8 of an image in mode L, RGB or RGBA."""
    if image.mode == "RGB":  # planar within each row, so that the final copy moves whole rows
        rows = np.frombuffer(image.tobytes("raw", "RGB;L"), np.uint8).reshape(image.height, 3, image.width)
        return rows.transpose(1, 0, 2)
    return np.asarray(image).reshape(image.height, image.width, -1).transpose(2, 0, 1)


def _deep_pixels(image: Image.Image) -> Tensor:
    """(1, H, W) uint16 or float32 of an image in mode I or F."""
    array = np.array(image)
    if image.mode == "F":
        return torch.from_numpy(array)[None]
    if array.min() < 0 or array.max() > 65535:
        raise Unsupported(f"integers from {array.min()} to {array.max()}; expected 0 to 65535. {ALIKE}")
    return torch.from_numpy(array.astype(np.uint16))[None]

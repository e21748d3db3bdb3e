"""One image file or array to a tensor (C, H, W) of uint8, uint16 or float32, or to a `BrokenImage`.

Values: uint8 spans 0 to 255, uint16 0 to 65535, float32 0 to 1. Eight-bit files give uint8; 16-bit grey files and PNG
files of 16-bit colour uint16; float TIFFs float32. `.npy` files keep their dtype. What Pillow would change without a
word (16-bit colour elsewhere, bands that it has no mode for, uncompressed YCbCr) is refused.
"""

import ctypes
import io
import logging
import math
import os
import stat
import struct
import warnings
from collections.abc import Callable
from contextlib import nullcontext, suppress
from functools import lru_cache
from importlib.util import find_spec
from typing import IO, Final, TypeVar

import numpy as np
import torch
from PIL import Image, ImageFile, TiffImagePlugin, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional as F

from ..image_options import Alpha
from ..printing import brief, counted, printable
from ..random import key_of
from . import png, tiff
from .errors import UNSUPPORTED, Unsupported
from .transparency import (
    deep_in_mode,
    ground_of,
    in_mode,
    is_deep_transparency,
    is_opaque,
    scale_key,
    unnamed_bands,
)

try:
    import simplejpeg
except ImportError:  # Pillow reads all that it reads
    simplejpeg = None

# what a file lacks is no news: an image that cannot be read is named, with the reason
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").addHandler(logging.NullHandler())  # else its errors are printed where nobody set up logging
if (_core := find_spec("PIL._imaging")) is not None:
    with suppress(OSError, AttributeError):  # where Pillow's libtiff cannot be reached, it prints what it finds wrong
        ctypes.CDLL(_core.origin).TIFFSetErrorHandler(None)

T = TypeVar("T")

SUFFIXES: Final = frozenset(
    "jpg jpeg jpe jfif mpo png apng bmp dib webp tif tiff gif ppm pgm pbm pnm pfm".split()  # noqa: SIM905
    + "jp2 j2k jpx jpc avif tga ico npy".split()  # noqa: SIM905
)
"""What the name of an image ends with, in lower case."""
FORMATS: Final = tuple("JPEG MPO PNG BMP DIB WEBP TIFF GIF PPM JPEG2000 AVIF ICO TGA".split())  # noqa: SIM905
"""Pillow's other formats are not images in pixels, or run programs to be read (EPS)."""
MAX_PIXELS: Final = 2**27
"""Larger images count as decompression bombs: this many pixels take 400 MB, and no common camera makes more."""
MAX_BYTES: Final = 4 * MAX_PIXELS
"""What the decoded pixels of one image, and a file that is read whole, may take."""
MAX_ASPECT: Final = 4
"""The longer side is cut to so many times the shorter one."""
LEFT_OUT: Final = "last channel left out"
"""How `kind_of` ends where a file has more channels than its colours, and the last is not certainly transparency."""
PAGES: Final = "several pages"
"""Stands in `kind_of` of a TIFF file with more than one picture."""
ANIMATED: Final = "animated"
"""Stands in `kind_of` of other files with more than one picture."""

_HEAD: Final = 2**16  # bytes in which a JPEG file's segments before its pixels are looked for
_PIECE: Final = 2**21  # pixels that are converted at once: an image and all of its conversions would take too much
_SMALLER: Final = "Cut it into tiles, or shrink it; docs/quickstart.md has a script for both"
_TOO_MUCH: Final = f"more than the limit of {MAX_BYTES // 2**20} MiB. {_SMALLER}"
_SAVE: Final = "Save it as RGB of 8 bits, or as .npy of shape (C, H, W)"
_ALIKE: Final = "Scale all images alike"  # image by image would change what they show
_HELD: Final = {  # what begins so is no image in pixels
    b"%!PS": "EPS", b"\xc5\xd0\xd3\xc6": "EPS", b"%PDF": "PDF", b"8BPS": "PSD", b"gimp xcf": "XCF",
    b"PK\x03\x04": "zip", b"\x1f\x8b": "gzip",
    b"<svg": "SVG", b"<?xml": "XML or SVG", b"<!DOCTYPE": "HTML", b"<html": "HTML",
    b"\xff\x0a": "JPEG XL", b"\0\0\0\x0cJXL ": "JPEG XL", b"II\xbc": "JPEG XR",
    b"\x89HDF": "HDF5", b"SIMPLE  =": "FITS",
    b"version https://git-lfs": "a pointer of Git LFS (git lfs pull fetches the image)",
}  # fmt: skip
_TURNS: Final = {  # EXIF orientation -> what undoes it: whether to swap the axes, and which of (H, W) to flip then
    2: (False, (2,)),
    3: (False, (1, 2)),
    4: (False, (1,)),
    5: (True, ()),
    6: (True, (2,)),
    7: (True, (1, 2)),
    8: (True, (1,)),
}


class BrokenImage(Exception):
    """An image that cannot be used, with its name and the reason. A Dataset may raise it for an item to be replaced."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = printable(str(name))
        self.reason = brief(str(reason))

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


def decode(
    image: str | os.PathLike[str] | bytes,
    channels: int,
    decode_size: int | None = None,
    key: int = 0,
    alpha: Alpha = "auto",
) -> Tensor:
    """Reads an image file, given by its path or content.

    Args:
        channels: 1 (colour becomes luma), 3 (grey is repeated), 4 (RGBA of images that have transparency, or the four
            bands of a TIFF file), or any number that a `.npy` file of shape (C, H, W) or (H, W, C) has.
        decode_size: the image is shrunk by a power of two (a JPEG at most by 8 while it is decoded) as long as its
            shorter side stays at or above this, and what is longer than 4 times its width is cut. None, for judging,
            keeps all of it.
        key: the image's key; it places the window that stays of an image longer than 4 times its width.
        alpha: what becomes of an alpha channel where fewer than 4 channels are asked for. "white" lays the image on
            white, "drop" leaves the channel out. "auto" lays it on white where that is certainly meant (a colour or
            palette entries marked as transparent; a channel that is mostly opaque and hides nothing where it is 0)
            and leaves out what may be near infrared, a height or a mask.

    Returns:
        (C, H, W), contiguous, upright after its EXIF orientation; an animation's first frame.

    Raises:
        BrokenImage: missing, empty, truncated, not an image, too large, or without a way to `channels` channels.
    """
    try:
        if isinstance(image, bytes):
            return _decoded(io.BytesIO(image), len(image), None, channels, decode_size, key, alpha)
        size = _file_size(image)
        with open(image, "rb") as file:
            return _decoded(file, size, image, channels, decode_size, key, alpha)
    except Exception as error:  # a malformed file makes decoders stumble in every way there is
        raise BrokenImage("(bytes)" if isinstance(image, bytes) else os.fspath(image), reason_of(error)) from error


def _file_size(path: str | os.PathLike[str]) -> int:
    """Looks before a file is opened: a pipe would wait for ever, and to open a device may set it going."""
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("not a regular file")
    return found.st_size


def _decoded(
    file: IO[bytes], size: int, path: str | os.PathLike[str] | None, channels: int, decode_size: int | None, key: int,
    alpha: Alpha,
) -> Tensor:  # fmt: skip
    """`decode` for an open file of `size` bytes, which has a path or lies in memory."""
    if not size:  # as the endless files of /proc say of themselves
        raise ValueError("empty file")
    head = file.read(_HEAD)
    if head.startswith(b"\x93NUMPY"):
        file.seek(0)
        return from_tensor(_read_npy(file, size, channels), channels, decode_size, key)
    if head.startswith(tiff.MAGIC):
        _check_tiff(file)
    elif size > MAX_BYTES:
        raise ValueError(f"a file of {size / 2**20:.0f} MiB, {_TOO_MUCH}")
    if channels == 3 and simplejpeg is not None and _is_plain(head):
        content = head + file.read()
        if (pixels := _from_jpeg(content, decode_size)) is not None:
            return pixels
        file, path = io.BytesIO(content), None
    source = file if path is None else path  # with a path Pillow maps what is not packed
    return _by_pillow(source, lambda image: from_pillow(image, channels, decode_size, key, alpha))


def _by_pillow(source: str | os.PathLike[str] | IO[bytes], use: Callable[[Image.Image], T]) -> T:
    """Opens an image and uses it; where that fails, once more without the metadata."""
    try:
        with Image.open(source, formats=_formats()) as opened:
            return use(opened)
    except Exception as error:
        with open(source, "rb") if isinstance(source, str | os.PathLike) else nullcontext(source) as file:
            file.seek(0)
            head = file.read(_HEAD)
            for content in _without_metadata(head, file):
                with suppress(Exception), Image.open(io.BytesIO(content), formats=_formats()) as opened:
                    return use(opened)  # else the first error says what is wrong
            if isinstance(error, UnidentifiedImageError):
                raise _unidentified(head, file) from error
        raise


@lru_cache(1)
def _formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this Pillow was built with; it tries no others."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _unidentified(head: bytes, file: IO[bytes]) -> ValueError:
    """What a file holds that Pillow opens as nothing."""
    if head.startswith(tiff.MAGIC):
        return _unread_tiff(tiff.read_tags(file, MAX_BYTES))
    held = next((name for begin, name in _HELD.items() if head.lstrip().startswith(begin)), None)
    if head[4:8] == b"ftyp" and held is None:
        held = "HEIC" if head[8:11] in (b"hei", b"hev", b"mif", b"msf") else "a video"
    if head[128:132] == b"DICM":
        held = "DICOM"
    return ValueError(
        "not an image of a known format" + (f": it holds {held}. Convert it to PNG or TIFF" if held else "")
    )


def _without_metadata(head: bytes, file: IO[bytes]) -> list[bytes]:
    """The content of a JPEG, PNG or TIFF file without metadata: first with an orientation, then without."""
    if head.startswith(png.SIGNATURE):
        make = png.bare
    elif head.startswith(b"\xff\xd8\xff"):
        make = _bare_jpeg
    elif head.startswith(tiff.MAGIC):
        make = tiff.bare
    else:
        return []
    content = head + file.read(MAX_BYTES)
    made = [make(content, True), make(content, False)]
    return [each for i, each in enumerate(made) if each != content and each not in made[:i]]


def _bare_jpeg(content: bytes, oriented: bool) -> bytes:
    """A JPEG file without comments and without the segments of applications, but for JFIF, Adobe and perhaps Exif."""
    kept, at = [content[:2]], 2
    while at + 4 <= len(content) and content[at] == 0xFF and content[at + 1] != 0xDA:
        marker, end = content[at + 1], at + 2 + int.from_bytes(content[at + 2 : at + 4], "big")
        metadata = 0xE1 <= marker <= 0xED or marker in (0xEF, 0xFE) or (marker == 0xEE and end - at < 16)
        if not metadata or (oriented and marker == 0xE1):
            kept.append(content[at:end])
        at = end
    return b"".join([*kept, content[at:]])


def kind_of(path: str | os.PathLike[str], channels: int = 3, alpha: Alpha = "auto") -> str:
    """Format and mode of a file that can be decoded, from its head; see `Source.kind`."""
    size = _file_size(path)
    with open(path, "rb") as file:
        if (head := file.read(6)).startswith(tiff.MAGIC):
            _check_tiff(file)  # Pillow would log what it cannot read
        elif head == b"\x93NUMPY":
            file.seek(0)
            shape, _, dtype = _npy_head(file, size)
            return f"npy {dtype.name} {shape}"
    return _by_pillow(path, lambda image: pillow_kind(image, channels, alpha))


def pillow_kind(image: Image.Image, channels: int, alpha: Alpha) -> str:
    """`kind_of` for an image that Pillow has opened."""
    kind = f"{image.format or 'PIL'} {image.mode}" + (" of 16 bits" if _is_deep_colour(image) else "")
    bands = unnamed_bands(image)
    if bands and (image.mode, bands) != ("RGB", 1):  # which 4 channels hold
        kind += f" of {counted(bands + len(image.getbands()), 'band')}"
    with suppress(Exception):  # a later frame may be damaged
        kind += _several(image)
    return f"{kind}, {LEFT_OUT}" if alpha == "auto" and _leaves_out(image, channels) else kind


def _several(image: Image.Image) -> str:
    """The part of a kind that says that a file holds more than its first picture. (A camera's MPO has a preview.)"""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return f", {PAGES}" if image.fp is not None and tiff.has_pages(image.fp) else ""
    return f", {ANIMATED}" if image.format != "MPO" and getattr(image, "is_animated", False) else ""


def from_pillow(image: Image.Image, channels: int, decode_size: int | None, key: int, alpha: Alpha = "auto") -> Tensor:
    """`decode` for an image that Pillow has opened. Raises ValueError where `channels` cannot be made."""
    _check_faithful(image)
    _check_channels(image, channels)
    deep_colour = _is_deep_colour(image)
    _check_room(image, channels, deep_colour)
    if deep_colour:
        pixels, keyed = _deep_colour(image)
        turn = _orientation(image)
        pixels = deep_in_mode(pixels, keyed, channels, alpha)
        return _upright(from_tensor(torch.from_numpy(pixels).permute(2, 0, 1), channels, decode_size, key), turn)
    scale_key(image, _raw_mode(image))
    factor = _factor(min(image.size), decode_size)
    # only JPEG's decoder can, and shrinks by 8 at most
    if decode_size and image.draft(None, (decode_size, decode_size)) is not None:
        factor = max(1, factor // 8)
    image.load()
    _check_room(image, channels, deep_colour)  # the size of an icon is known only now
    turn, bands, size = _orientation(image), unnamed_bands(image), image.size
    top, left, height, width = _window(*size[::-1], key) if decode_size else (0, 0, *size[::-1])
    box = (left, top, left + width, top + height)
    if image.mode.startswith("I") or image.mode == "F":
        image = _deep_grey(image, alpha)
        image = image if box == (0, 0, *size) else image.crop(box)
        deep = _deep_pixels(image.reduce(factor) if factor > 1 else image)
        return _upright(from_tensor(deep, channels, None, key), turn)
    if channels == 4 and image.mode == "RGB" and bands == 1:  # Pillow holds the fourth where others have alpha
        image = Image.frombytes("RGBA", size, image.tobytes("raw", "RGBX"))
    ground = ground_of(image, channels, alpha)
    rows = max(1, _PIECE // width // factor) * factor
    out = np.empty((channels, -(-height // factor), -(-width // factor)), np.uint8)
    for y in range(0, height, rows):
        part = (left, top + y, left + width, top + min(y + rows, height))
        piece = in_mode(image if part == (0, 0, *size) else image.crop(part), channels, ground)
        pixels = _pixels(piece.reduce(factor) if factor > 1 else piece)
        out[:, y // factor : y // factor + pixels.shape[1]] = pixels
    return _upright(torch.from_numpy(out), turn)


def from_tensor(image: Tensor, channels: int, decode_size: int | None, key: int) -> Tensor:
    """`decode` for an array (C, H, W). Raises ValueError for other dtypes or ranges, or without a way to `channels`."""
    if image.ndim != 3 or not image.numel():
        raise ValueError(f"an array of shape {tuple(image.shape)}; expected (C, H, W) with pixels in it")
    image = image.detach()
    width = {torch.bool: 1, torch.uint8: 1, torch.uint16: 2}.get(image.dtype, 4)
    _check_size(image.shape[2], image.shape[1], max(channels, image.shape[0]) * width)
    if image.dtype == torch.bool:
        image = image.to(torch.uint8) * 255
    elif image.dtype.is_floating_point:
        low, high = image.min().item(), image.max().item()
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError(f"float values from {low:g} to {high:g}, not all of them finite; expected 0 to 1")
        if not (low >= -0.01 and high <= 1.01):
            raise Unsupported(f"float values from {low:g} to {high:g}; expected 0 to 1. {_ALIKE}")
        image = image.to(torch.float32)
    elif image.dtype not in (torch.uint8, torch.uint16):
        raise Unsupported(
            f"values of type {str(image.dtype).removeprefix('torch.')}; expected uint8, uint16 or float32"
        )
    if decode_size:
        top, left, height, width = _window(image.shape[1], image.shape[2], key)
        image = image[:, top : top + height, left : left + width]
    if (factor := _factor(min(image.shape[1:]), decode_size)) > 1:
        mean = F.avg_pool2d(image.to(torch.float32), factor, ceil_mode=True, count_include_pad=False)
        image = mean if image.dtype == torch.float32 else mean.round().to(image.dtype)
    return _with_channels(image, channels).contiguous()


def _is_plain(head: bytes) -> bool:
    """Whether a JPEG file's pixels begin within `head`, and no Exif or XMP segment lies before them."""
    if not head.startswith(b"\xff\xd8\xff"):
        return False
    at = 2
    while at + 4 <= len(head) and head[at] == 0xFF:
        marker = head[at + 1]
        if marker == 0xDA:
            return True
        if marker == 0xE1:
            return False
        at += 2 + int.from_bytes(head[at + 2 : at + 4], "big")
    return False


def _from_jpeg(content: bytes, decode_size: int | None) -> Tensor | None:
    """Several times as fast as Pillow for small files, with the same pixels; None where Pillow has to decide."""
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(content)
        if space not in ("YCbCr", "Gray") or height * width > MAX_PIXELS:
            return None
        factor = _factor(min(height, width), decode_size)
        if factor > 8 or (decode_size and max(height, width) > MAX_ASPECT * min(height, width)):
            return None
        if factor > 1 and min(height, width) < 8:  # 3/8 of 3 pixels are as many as 1/2, and it would take those
            return None
        least = (-(-height // factor), -(-width // factor)) if factor > 1 else (0, 0)
        pixels = simplejpeg.decode_jpeg(content, "RGB", min_height=least[0], min_width=least[1], min_factor=1)
    except ValueError:  # damaged, or only odd
        return None
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def _channels_first(array: np.ndarray, channels: int) -> Tensor:
    """(H, W), (C, H, W) or (H, W, C) to (C, H, W); the channel axis has `channels` entries, else 1 or 3."""
    array = array.astype(array.dtype.newbyteorder("="), copy=not array.flags.writeable)
    if array.ndim == 2:
        return torch.from_numpy(array)[None]
    if array.ndim == 3:
        for count in (channels, 1, 3):
            if array.shape[0] == count:
                return torch.from_numpy(array)
            if array.shape[2] == count:
                return torch.from_numpy(array).permute(2, 0, 1)
    raise Unsupported(f"an array of shape {array.shape}; expected (H, W), (C, H, W) or (H, W, C) with C = {channels}")


def _npy_head(file: IO[bytes], size: int) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, order and type of a `.npy` file of `size` bytes, read up to its values.

    Raises:
        ValueError: no array of numbers, more of them than the file holds, or too many.
    """
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"a .npy file of version {version[0]}.{version[1]}; expected 1.0 or 2.0, as numpy.save writes")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("an array of Python objects; expected uint8, uint16 or float32")
    if dtype.kind not in "buif" or dtype.itemsize > 8:
        raise Unsupported(f"values of type {dtype.name}; expected uint8, uint16 or float32")
    if min(shape, default=0) < 0:
        raise ValueError(f"an array of shape {shape}; expected (H, W), (C, H, W) or (H, W, C)")
    taken = math.prod(shape) * dtype.itemsize
    if taken > MAX_BYTES:
        raise Unsupported(f"an array of shape {shape} takes {taken / 2**20:.0f} MiB, {_TOO_MUCH}")
    if file.tell() + taken > size:
        raise ValueError(f"the file is truncated: {size - file.tell()} of {taken} bytes of its values are there")
    return shape, fortran, dtype


def _read_npy(file: IO[bytes], size: int, channels: int) -> Tensor:
    shape, fortran, dtype = _npy_head(file, size)
    values = np.frombuffer(bytearray(file.read(math.prod(shape) * dtype.itemsize)), dtype)
    return _channels_first(values.reshape(shape, order="F" if fortran else "C"), channels)


def _window(height: int, width: int, key: int) -> tuple[int, int, int, int]:
    """Top, left, height and width of what stays of an image under the limit of its aspect."""
    short = MAX_ASPECT * min(height, width)
    if max(height, width) <= short:
        return 0, 0, height, width
    start = key_of(key, "window") % (max(height, width) - short + 1)
    return (start, 0, short, width) if height > width else (0, start, height, short)


def _factor(shorter: int, decode_size: int | None) -> int:
    """The largest power of two by which the shorter side can be divided and stay at or above `decode_size`."""
    return 1 << max(0, (shorter // decode_size).bit_length() - 1) if decode_size else 1


def _orientation(image: Image.Image) -> int:
    """EXIF's number, 1 where there is none. (Pillow itself turns TIFFs upright.)"""
    if image.info.keys().isdisjoint(("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")):
        return 1
    try:
        return int(image.getexif().get(0x0112, 1))
    except Exception:  # corrupt metadata do not make a good image bad
        return 1


def _upright(pixels: Tensor, orientation: int) -> Tensor:
    """Undoes an EXIF orientation of pixels (C, H, W)."""
    if orientation not in _TURNS:
        return pixels
    swapped, flipped = _TURNS[orientation]
    return (pixels.transpose(1, 2) if swapped else pixels).flip(flipped).contiguous()


def _check_size(width: int, height: int, pixel_bytes: int) -> None:
    if width * height > MAX_PIXELS:
        raise Unsupported(f"{width} x {height} pixels are above the limit of {MAX_PIXELS}. {_SMALLER}")
    if width * height * pixel_bytes > MAX_BYTES:
        taken = f"{width} x {height} pixels of {pixel_bytes} bytes take {width * height * pixel_bytes / 2**20:.0f} MiB"
        raise Unsupported(f"{taken}, {_TOO_MUCH}")


def _check_room(image: Image.Image, channels: int, deep_colour: bool) -> None:
    """Raises ValueError where the pixels would take too much memory."""
    deep = 4 if image.mode in ("I", "F") else 2 if deep_colour or image.mode.startswith("I;") else 1
    _check_size(*image.size, max(channels, len(image.getbands())) * deep)


def _raw_mode(image: Image.Image) -> str:
    """How samples lie in a file that Pillow has opened and not yet read; else empty."""
    if not isinstance(image, ImageFile.ImageFile) or not image.tile:
        return ""
    args = image.tile[0].args
    return str(args[0] if isinstance(args, tuple) and args else args or "")


def _is_deep_colour(image: Image.Image) -> bool:
    """Whether Pillow would drop the low byte of a file's samples."""
    return ";16" in _raw_mode(image) and image.mode in ("LA", "RGB", "RGBA", "CMYK")


def _check_faithful(image: Image.Image) -> None:
    """Raises ValueError where Pillow would read an opened file's pixels as others."""
    if not isinstance(image, ImageFile.ImageFile) or not image.tile or image.fp is None:
        return
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        _check_tiff(image.fp)
    elif image.format == "PPM" and image.mode == "RGB" and max(_numbers(image.tile[0].args), default=0) > 255:
        raise Unsupported(f"a PPM file of 16-bit colour, which would be cut to 8 bits. {_SAVE}, or as 16-bit PNG")
    elif image.format == "JPEG2000":
        bits = _jpeg2000_bits(image.fp)
        if bits != [16] and max(bits) > 8:
            raise Unsupported(f"JPEG 2000 of {len(bits)} x {max(bits)} bits; read are 8 bits, and grey of 16. {_SAVE}")


def _check_channels(image: Image.Image, channels: int) -> None:
    """Raises Unsupported where the channels that are asked for lie in bands or pages of a TIFF that stay unread."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile) or image.fp is None or channels in (1, 3):
        return
    if (bands := unnamed_bands(image)) and (channels, image.mode, bands) != (4, "RGB", 1):
        raise _unread_tiff(tiff.read_tags(image.fp, MAX_BYTES))
    if tiff.samples(tiff.read_tags(image.fp, MAX_BYTES)) == 1 and tiff.has_pages(image.fp):
        raise Unsupported(
            "a TIFF with several pages, of which the first alone is read, and "
            f"{counted(channels, 'channel')} cannot be made of it. Save pages that are channels as .npy of shape "
            f"({channels}, H, W)"
        )


def _numbers(args: object) -> list[int]:
    return [x for x in args if isinstance(x, int)] if isinstance(args, tuple) else []


def _check_tiff(file: IO[bytes]) -> None:
    tags = tiff.read_tags(file, MAX_BYTES)
    if tiff.tile_bytes(tags) > MAX_BYTES:
        raise Unsupported(f"a TIFF of tiles that take {tiff.tile_bytes(tags) / 2**20:.0f} MiB, {_TOO_MUCH}")
    if not tiff.is_plain(tags):
        raise _unread_tiff(tags)


def _unread_tiff(tags: tiff.Tags) -> Unsupported:
    return Unsupported(f"a TIFF of {tiff.described(tags)}. {tiff.remedy(tags)}")


def _jpeg2000_bits(file: IO[bytes]) -> list[int]:
    """Bits of each channel; 99 where they are signed."""
    before = file.tell()
    file.seek(0)
    content = file.read(MAX_BYTES)
    file.seek(before)
    at = content.find(b"\xff\x4f\xff\x51") + 42  # where the channels are described
    if at < 42 or at > len(content) or not (count := int.from_bytes(content[at - 2 : at], "big")):
        raise ValueError("JPEG 2000 file is truncated or damaged")
    sizes = content[at : at + 3 * count : 3]
    return [99 if size & 0x80 else size + 1 for size in sizes]


def _deep_colour(image: Image.Image) -> tuple[np.ndarray, bool]:
    """Pixels (H, W, bands) uint16 of a PNG file of 16-bit colour; see `png.read_deep`."""
    assert isinstance(image, ImageFile.ImageFile)
    if image.format != "PNG" or image.fp is None:
        raise Unsupported(f"{image.format} of 16-bit colour, which would be cut to 8 bits. {_SAVE}, or as 16-bit PNG")
    image.fp.seek(0)
    content = image.fp.read(MAX_BYTES)
    if png.turns(content):  # perhaps behind the pixels
        image.load()
    return png.read_deep(content)


def _leaves_out(image: Image.Image, channels: int) -> bool:
    """Whether a channel that may be no transparency is left out by `alpha="auto"`; reads the pixels to tell."""
    if channels == 4:
        return False
    if _is_deep_colour(image):
        pixels, keyed = _deep_colour(image)
        return pixels.shape[2] in (2, 4) and not keyed and not is_deep_transparency(pixels)
    if unnamed_bands(image):
        return True
    if not image.has_transparency_data and image.format != "ICO":  # whose mode is known only once it is read
        return False
    image.load()
    return image.has_transparency_data and ground_of(image, channels, "auto") == "drop" and not is_opaque(image)


def _deep_grey(image: Image.Image, alpha: Alpha) -> Image.Image:
    """An image of more than 8 bits in mode I or F, with black at 0 and a transparent grey laid on white."""
    if image.mode == "F":
        return image
    begins_white = isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(262) == 0
    key = image.info.get("transparency") if alpha != "drop" else None
    image = image.convert("I") if image.mode != "I" else image
    if begins_white or isinstance(key, int):
        values = np.array(image)
        values = 65535 - values if begins_white else np.where(values == key, 65535, values)
        image = Image.fromarray(values.astype(np.int32))
    return image


def _pixels(image: Image.Image) -> np.ndarray:
    """(C, H, W) uint8 of an image in mode L, RGB or RGBA."""
    if image.mode == "RGB":  # Pillow writes row by row and channel by channel, so that whole rows are copied after it
        rows = np.frombuffer(image.tobytes("raw", "RGB;L"), np.uint8).reshape(image.height, 3, image.width)
        return rows.transpose(1, 0, 2)
    return np.asarray(image).reshape(image.height, image.width, -1).transpose(2, 0, 1)


def _deep_pixels(image: Image.Image) -> Tensor:
    """(1, H, W) uint16 or float32 of an image in mode I or F."""
    array = np.array(image)
    if image.mode == "F":
        return torch.from_numpy(array)[None]
    if array.min() < 0 or array.max() > 65535:
        raise Unsupported(f"integers from {array.min()} to {array.max()}; expected 0 to 65535. {_ALIKE}")
    return torch.from_numpy(array.astype(np.uint16))[None]


def _with_channels(image: Tensor, channels: int) -> Tensor:
    if image.shape[0] == channels:
        return image
    if image.shape[0] == 1 and channels == 3:
        return image.expand(3, -1, -1)
    if image.shape[0] == 3 and channels == 1:  # ITU-R 601-2, as Pillow does
        luma = torch.einsum("chw,c->hw", image.to(torch.float32), torch.tensor((0.299, 0.587, 0.114)))[None]
        return luma if image.dtype == torch.float32 else luma.round().to(image.dtype)
    raise Unsupported(f"has {counted(image.shape[0], 'channel')}, and {channels} cannot be made of them")


def reason_of(error: Exception) -> str:
    """Why an image cannot be used, in one line."""
    if isinstance(error, Unsupported):
        return f"{UNSUPPORTED}{error}"
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, MemoryError):
        return "takes more memory than there is"
    if isinstance(error, Image.DecompressionBombError):
        return f"{UNSUPPORTED}more pixels than the limit of {MAX_PIXELS}. {_SMALLER}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, OSError) and str(error).startswith(
        ("decoder error", "broken data stream", "unrecognized data")
    ):
        return "its pixels are damaged"  # Pillow's numbers say no more
    if isinstance(error, (ValueError, OSError, SyntaxError, struct.error)) and str(error):
        return str(error)
    return f"{type(error).__name__}: {error}"

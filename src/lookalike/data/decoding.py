"""One image file or array to a tensor (C, H, W) of uint8, uint16 or float32, or to a `BrokenImage`.

Values: uint8 spans 0 to 255, uint16 0 to 65535, float32 0 to 1. Eight-bit files give uint8; 16-bit grey ones uint16;
float TIFFs float32. (Pillow reads 16-bit colour as 8-bit.) `.npy` files keep their dtype.
"""

import io
import os
import stat
import struct
from typing import Final

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional as F

from ..printing import brief, printable
from ..random import key_of

try:
    import simplejpeg
except ImportError:  # Pillow reads all that it reads
    simplejpeg = None

SUFFIXES: Final = frozenset(
    "jpg jpeg jpe jfif mpo png apng bmp dib webp tif tiff gif ppm pgm pbm pnm pfm".split()  # noqa: SIM905
    + "jp2 j2k jpx jpc avif tga ico npy".split()  # noqa: SIM905
)
"""What the name of an image ends with, in lower case."""
FORMATS: Final = frozenset("JPEG MPO PNG BMP DIB WEBP TIFF GIF PPM JPEG2000 AVIF TGA ICO".split())  # noqa: SIM905
"""Pillow's other formats are not images in pixels, or run programs to be read (EPS)."""
MAX_PIXELS: Final = 2**27
"""Larger images count as decompression bombs: this many pixels take 400 MB, and no common camera makes more."""
MAX_ASPECT: Final = 4
"""The longer side is cut to so many times the shorter one."""

_MODES: Final = {1: "L", 3: "RGB", 4: "RGBA"}
_HEAD: Final = 2**16  # bytes in which a JPEG file's segments before its pixels are looked for
_TURNS: Final = {  # EXIF orientation -> what undoes it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
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
    image: str | os.PathLike[str] | bytes, channels: int, decode_size: int | None = None, key: int = 0
) -> Tensor:
    """Reads an image file, given by its path or content.

    Args:
        channels: 1 (colour becomes luma), 3 (grey is repeated; transparency is laid on white), 4 (RGBA of images that
            have transparency), or any number that a `.npy` file of shape (C, H, W) or (H, W, C) has.
        decode_size: the image is shrunk by a power of two (a JPEG at most by 8 while it is decoded) as long as its
            shorter side stays at or above this, and what is longer than 4 times its width is cut. None, for judging,
            keeps all of it.
        key: the image's key; it places the window that stays of an image longer than 4 times its width.

    Returns:
        (C, H, W), contiguous, upright after its EXIF orientation; an animation's first frame.

    Raises:
        BrokenImage: missing, empty, truncated, not an image, too large, or without a way to `channels` channels.
    """
    # to open a pipe would wait for ever
    if not isinstance(image, bytes) and os.path.exists(image) and not stat.S_ISREG(os.stat(image).st_mode):
        raise BrokenImage(os.fspath(image), "not a regular file")
    try:
        if _is_npy(image):
            return from_tensor(_read_npy(image, channels), channels, decode_size, key)
        if channels == 3 and (content := _plain_jpeg(image)) is not None:
            if (pixels := _from_jpeg(content, decode_size)) is not None:
                return pixels
            image = content
        with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as opened:
            if opened.format not in FORMATS:
                raise ValueError(f"a {opened.format} file; convert it to PNG, JPEG or TIFF")
            return from_pillow(opened, channels, decode_size, key)
    except Exception as error:  # a malformed file makes decoders stumble in every way there is
        raise BrokenImage("(bytes)" if isinstance(image, bytes) else os.fspath(image), _reason(error, image)) from error


def kind_of(path: str | os.PathLike[str]) -> str:
    """Format and mode of a file that can be decoded, from its head; see `Source.kind`."""
    if _is_npy(path):
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        return f"npy {array.dtype.name} {array.shape}"
    with Image.open(path) as opened:
        try:
            frames = getattr(opened, "n_frames", 1)
        except Exception:  # a later frame may be damaged
            frames = 1
        return f"{opened.format} {opened.mode}" + (", animated" if frames > 1 else "")


def from_pillow(image: Image.Image, channels: int, decode_size: int | None, key: int) -> Tensor:
    """`decode` for an image that Pillow has opened. Raises ValueError where `channels` cannot be made."""
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"{image.width} x {image.height} pixels are above the limit of {MAX_PIXELS}")
    factor = _factor(min(image.size), decode_size)
    # only JPEG's decoder can, and shrinks by 8 at most
    if decode_size and image.draft(None, (decode_size, decode_size)) is not None:
        factor = max(1, factor // 8)
    image.load()
    turn = _TURNS.get(_orientation(image))
    if decode_size and max(image.size) > MAX_ASPECT * min(image.size):
        top, left, height, width = _window(image.height, image.width, key)
        image = image.crop((left, top, left + width, top + height))
    image = _in_mode(image, channels)
    if factor > 1:
        image = image.reduce(factor)
    if turn is not None:
        image = image.transpose(turn)
    if image.mode in _MODES.values():
        return _pixels(image)
    return from_tensor(_deep_pixels(image), channels, None, key)


def from_tensor(image: Tensor, channels: int, decode_size: int | None, key: int) -> Tensor:
    """`decode` for an array (C, H, W). Raises ValueError for other dtypes or ranges, or without a way to `channels`."""
    if image.ndim != 3 or not image.numel():
        raise ValueError(f"an array of shape {tuple(image.shape)}; expected (C, H, W) with pixels in it")
    if image.shape[1] * image.shape[2] > MAX_PIXELS:
        raise ValueError(f"{image.shape[2]} x {image.shape[1]} pixels are above the limit of {MAX_PIXELS}")
    if image.dtype == torch.bool:
        image = image.to(torch.uint8) * 255
    elif image.dtype.is_floating_point:
        low, high = image.min().item(), image.max().item()
        if not (low >= -0.01 and high <= 1.01):  # also true for NaN
            raise ValueError(f"float values from {low:g} to {high:g}; expected 0 to 1")
        image = image.to(torch.float32)
    elif image.dtype not in (torch.uint8, torch.uint16):
        raise ValueError(f"values of type {str(image.dtype).removeprefix('torch.')}; expected uint8, uint16 or float32")
    if decode_size:
        top, left, height, width = _window(image.shape[1], image.shape[2], key)
        image = image[:, top : top + height, left : left + width]
    if (factor := _factor(min(image.shape[1:]), decode_size)) > 1:
        mean = F.avg_pool2d(image.to(torch.float32), factor, ceil_mode=True, count_include_pad=False)
        image = mean if image.dtype == torch.float32 else mean.round().to(image.dtype)
    return _with_channels(image, channels).contiguous()


def _plain_jpeg(image: str | os.PathLike[str] | bytes) -> bytes | None:
    """The content of a JPEG file that has no metadata which may turn it; None for all others."""
    if simplejpeg is None:
        return None
    if isinstance(image, bytes):
        return image if _is_plain(image[:_HEAD]) else None
    with open(image, "rb") as file:
        head = file.read(_HEAD)
        return head + file.read() if _is_plain(head) else None


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


def _is_npy(image: str | os.PathLike[str] | bytes) -> bool:
    """Whether a file, by its name, or its content holds a NumPy array."""
    return image.startswith(b"\x93NUMPY") if isinstance(image, bytes) else os.fspath(image).lower().endswith(".npy")


def _channels_first(array: np.ndarray, channels: int) -> Tensor:
    """(H, W), (C, H, W) or (H, W, C) to (C, H, W); the channel axis has `channels` entries, else 1 or 3."""
    array = array.astype(array.dtype.newbyteorder("="), copy=True)
    if array.ndim == 2:
        return torch.from_numpy(array)[None]
    if array.ndim == 3:
        for count in (channels, 1, 3):
            if array.shape[0] == count:
                return torch.from_numpy(array)
            if array.shape[2] == count:
                return torch.from_numpy(array).permute(2, 0, 1)
    raise ValueError(f"an array of shape {array.shape}; expected (H, W), (C, H, W) or (H, W, C) with C = {channels}")


def _read_npy(image: str | os.PathLike[str] | bytes, channels: int) -> Tensor:
    # mapped, a file whose header promises more than it holds fails before anything is allocated
    source, mode = (io.BytesIO(image), None) if isinstance(image, bytes) else (image, "r")
    return _channels_first(np.load(source, mmap_mode=mode, allow_pickle=False), channels)  # type: ignore[arg-type]


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


def _in_mode(image: Image.Image, channels: int) -> Image.Image:
    """Converts to L, RGB or RGBA; images of more than 8 bits to I or F."""
    if image.mode.startswith("I") or image.mode == "F":
        return image.convert("I") if image.mode.startswith("I;") else image
    if channels not in _MODES:
        raise ValueError(f"has {len(image.getbands())} channels, and {channels} cannot be made of them")
    if channels == 4:
        if not image.has_transparency_data:
            raise ValueError(f"has no transparency (mode {image.mode}), so 4 channels cannot be made of it")
        return image.convert("RGBA")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image.convert("RGBA"))
        image = white
    return image if image.mode == _MODES[channels] else image.convert(_MODES[channels])


def _pixels(image: Image.Image) -> Tensor:
    """(C, H, W) uint8 of an image in mode L, RGB or RGBA."""
    if image.mode == "RGB":  # Pillow writes row by row and channel by channel, so that whole rows are copied after it
        rows = np.frombuffer(image.tobytes("raw", "RGB;L"), np.uint8).reshape(image.height, 3, image.width)
        return torch.from_numpy(np.array(rows.transpose(1, 0, 2), order="C"))
    array = np.asarray(image).reshape(image.height, image.width, -1)
    return torch.from_numpy(np.array(array.transpose(2, 0, 1), order="C"))


def _deep_pixels(image: Image.Image) -> Tensor:
    """(1, H, W) uint16 or float32 of an image in mode I or F."""
    array = np.array(image)
    if image.mode == "F":
        return torch.from_numpy(array)[None]
    if array.min() < 0 or array.max() > 65535:
        raise ValueError(f"integers from {array.min()} to {array.max()}; expected 0 to 65535")
    return torch.from_numpy(array.astype(np.uint16))[None]


def _with_channels(image: Tensor, channels: int) -> Tensor:
    if image.shape[0] == channels:
        return image
    if image.shape[0] == 1 and channels == 3:
        return image.expand(3, -1, -1)
    if image.shape[0] == 3 and channels == 1:  # ITU-R 601-2, as Pillow does
        luma = torch.einsum("chw,c->hw", image.to(torch.float32), torch.tensor((0.299, 0.587, 0.114)))[None]
        return luma if image.dtype == torch.float32 else luma.round().to(image.dtype)
    raise ValueError(f"has {image.shape[0]} channels, and {channels} cannot be made of them")


def _reason(error: Exception, image: str | os.PathLike[str] | bytes) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if not (len(image) if isinstance(image, bytes) else os.path.exists(image) and os.path.getsize(image)):
        return "empty file"
    if isinstance(error, UnidentifiedImageError):
        return "not an image of a known format"
    if isinstance(error, Image.DecompressionBombError):
        return f"more pixels than the limit of {MAX_PIXELS}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, (ValueError, OSError, SyntaxError, struct.error)) and str(error):
        return str(error)
    return f"{type(error).__name__}: {error}"

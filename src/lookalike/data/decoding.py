"""One image file or array to a tensor (C, H, W) of uint8, uint16 or float32, or to a `BrokenImage`.

Values: uint8 spans 0 to 255, uint16 0 to 65535, float32 0 to 1. Eight-bit files give uint8; 16-bit grey files and PNG
files of 16-bit colour uint16; float TIFFs float32. `.npy` files keep their dtype. What Pillow would change without a
word (16-bit colour elsewhere, bands that it has no mode for, uncompressed YCbCr) is refused.
"""

import io
import os
import stat
import struct
from collections.abc import Callable
from contextlib import nullcontext, suppress
from functools import lru_cache
from typing import IO, Final, TypeVar

from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ..image_options import Alpha
from . import jpeg, limits, npy, png, tiff
from .errors import UNSUPPORTED, BrokenImage, Unsupported
from .limits import SMALLER, TOO_MUCH
from .pillow import from_pillow, pillow_kind
from .tensors import from_tensor

T = TypeVar("T")
SUFFIXES: Final = frozenset(
    "jpg jpeg jpe jfif mpo png apng bmp dib webp tif tiff gif ppm pgm pbm pnm pfm".split()  # noqa: SIM905
    + "jp2 j2k jpx jpc avif tga ico npy".split()  # noqa: SIM905
)
"""What the name of an image ends with, in lower case."""
FORMATS: Final = tuple("JPEG MPO PNG BMP DIB WEBP TIFF GIF PPM JPEG2000 AVIF ICO TGA".split())  # noqa: SIM905
"""Pillow's other formats are not images in pixels, or run programs to be read (EPS)."""
_HEAD: Final = 2**16  # bytes in which a JPEG file's segments before its pixels are looked for
_HELD: Final = {  # what begins so is no image in pixels
    b"%!PS": "EPS", b"\xc5\xd0\xd3\xc6": "EPS", b"%PDF": "PDF", b"8BPS": "PSD", b"gimp xcf": "XCF",
    b"PK\x03\x04": "zip", b"\x1f\x8b": "gzip",
    b"<svg": "SVG", b"<?xml": "XML or SVG", b"<!DOCTYPE": "HTML", b"<html": "HTML",
    b"\xff\x0a": "JPEG XL", b"\0\0\0\x0cJXL ": "JPEG XL", b"II\xbc": "JPEG XR",
    b"\x89HDF": "HDF5", b"SIMPLE  =": "FITS",
    b"version https://git-lfs": "a pointer of Git LFS (git lfs pull fetches the image)",
}  # fmt: skip


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
        return from_tensor(npy.read(file, size, channels), channels, decode_size, key)
    if head.startswith(tiff.MAGIC):
        tiff.check(file)
    elif size > limits.MAX_BYTES:
        raise ValueError(f"a file of {size / 2**20:.0f} MiB, {TOO_MUCH}")
    if channels == 3 and jpeg.is_fast() and jpeg.is_plain(head):
        content = head + file.read()
        if (pixels := jpeg.read(content, decode_size)) is not None:
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
        return tiff.unread(tiff.read_tags(file, limits.MAX_BYTES))
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
        make = jpeg.bare
    elif head.startswith(tiff.MAGIC):
        make = tiff.bare
    else:
        return []
    content = head + file.read(limits.MAX_BYTES)
    made = [make(content, True), make(content, False)]
    return [each for i, each in enumerate(made) if each != content and each not in made[:i]]


def kind_of(path: str | os.PathLike[str], channels: int = 3, alpha: Alpha = "auto") -> str:
    """Format and mode of a file that can be decoded, from its head; see `Source.kind`."""
    size = _file_size(path)
    with open(path, "rb") as file:
        if (head := file.read(6)).startswith(tiff.MAGIC):
            tiff.check(file)  # Pillow would log what it cannot read
        elif head == b"\x93NUMPY":
            file.seek(0)
            shape, _, dtype = npy.read_head(file, size)
            return f"npy {dtype.name} {shape}"
    return _by_pillow(path, lambda image: pillow_kind(image, channels, alpha))


def reason_of(error: Exception) -> str:
    """Why an image cannot be used, in one line."""
    if isinstance(error, Unsupported):
        return f"{UNSUPPORTED}{error}"
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, MemoryError):
        return "takes more memory than there is"
    if isinstance(error, Image.DecompressionBombError):
        return f"{UNSUPPORTED}more pixels than the limit of {limits.MAX_PIXELS}. {SMALLER}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, OSError) and str(error).startswith(
        ("decoder error", "broken data stream", "unrecognized data")
    ):
        return "its pixels are damaged"  # Pillow's numbers say no more
    if isinstance(error, (ValueError, OSError, SyntaxError, struct.error)) and str(error):
        return str(error)
    return f"{type(error).__name__}: {error}"

"""Decodes one image file or array to a tensor (C, H, W) of uint8, uint16 or float32, or raises `BrokenImage`.

Value ranges: uint8 0 to 255, uint16 0 to 65535, float32 0 to 1. 8-bit files give uint8; 16-bit greyscale files and
16-bit colour PNG files give uint16; float TIFFs give float32. `.npy` files keep their dtype. With other limits
(`Pixels.scale`) integers give uint16 and floats float32. TIFF files that Pillow would alter silently (many bands,
16-bit colour) are read by tifffile (extra `tiff`); others (16-bit colour in other formats, uncompressed YCbCr) are
rejected.
"""

import io
import math
import os
import stat
import struct
from collections.abc import Callable
from contextlib import nullcontext, suppress
from typing import IO, Final, TypeVar

from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ..image_options import Pixels
from . import dicom, jpeg, limits, npy, plugins, png, tiff, tiff_bands
from .errors import UNSUPPORTED, BrokenImage, Unsupported
from .limits import SMALLER, TOO_MUCH
from .pillow import PAGES, from_pillow, pillow_kind
from .tensors import from_tensor

T = TypeVar("T")
SUFFIXES: Final = frozenset(
    "jpg jpeg jpe jfif mpo png apng bmp dib webp tif tiff gif ppm pgm pbm pnm pfm".split()  # noqa: SIM905
    + "jp2 j2k jpx jpc avif tga ico npy".split()  # noqa: SIM905
    + list(plugins.SUFFIXES)
)
"""Suffixes of image files that this installation reads, in lower case."""
FORMATS: Final = tuple("JPEG MPO PNG BMP DIB WEBP TIFF GIF PPM JPEG2000 AVIF HEIF ICO TGA".split())  # noqa: SIM905
"""Pillow's other formats are not raster images, or need an external program (EPS)."""
_HEAD: Final = 2**16  # bytes searched for the segments that precede a JPEG file's pixels
_NOT_IMAGES: Final = {  # first bytes of files that are not raster images
    b"%!PS": "EPS", b"\xc5\xd0\xd3\xc6": "EPS", b"%PDF": "PDF", b"8BPS": "PSD", b"gimp xcf": "XCF",
    b"PK\x03\x04": "zip", b"\x1f\x8b": "gzip",
    b"<svg": "SVG", b"<?xml": "XML or SVG", b"<!DOCTYPE": "HTML", b"<html": "HTML",
    b"\xff\x0a": "JPEG XL", b"\0\0\0\x0cJXL ": "JPEG XL", b"II\xbc": "JPEG XR",
    b"\x89HDF": "HDF5", b"SIMPLE  =": "FITS",
    b"version https://git-lfs": "a pointer of Git LFS (git lfs pull fetches the image)",
}  # fmt: skip


def decode(
    image: str | os.PathLike[str] | bytes,
    pixels: Pixels | int = 3,
    decode_size: int | None = None,
    key: int = 0,
    frame: int | None = None,
) -> Tensor:
    """Reads an image file, given by its path or content.

    Args:
        image: the path, for a frame of a DICOM file with its number from 1 (`scan.dcm#3`), or the file's content.
        pixels: how pixels are read, or only the number of channels. Channels: 1 (colour is converted to luma), 3
            (greyscale is repeated), 4 (RGBA for images with transparency, or the four bands of a TIFF file), or the
            channel count of a `.npy` file of shape (C, H, W) or (H, W, C), or of a TIFF file. Alpha: how an alpha
            channel is handled if fewer than 4 channels are requested. "white" composites the image on white, "drop"
            discards the channel. "auto" composites on white if the channel is certainly transparency (a colour or
            palette entries marked as transparent; a channel that is mostly opaque and hides nothing where it is 0), and
            discards a channel that may be near infrared, a height or a mask. Bands: those of the file, or its pages.
            Scale: values of the file that become 0 and 1; a scale in percentiles gives unscaled values in float32.
        decode_size: the image is downscaled by the largest power of two (at most 8 for a JPEG, while decoding) that
            leaves the shorter side at or above this size, and cropped to an aspect ratio of at most 4. None, for
            evaluation, decodes the whole image at full size.
        key: the image's key; it determines the position of that crop.
        frame: of the content of a DICOM file with several frames, from 1.

    Returns:
        (C, H, W), contiguous, rotated by its EXIF orientation; the first frame of an animation.

    Raises:
        BrokenImage: missing, empty, truncated, not an image, too large, or not convertible to the channels.
    """
    pixels = Pixels.of(pixels)
    try:
        if isinstance(image, bytes):
            return _decoded(io.BytesIO(image), len(image), None, pixels, decode_size, key, frame)
        path, frame = dicom.frame_of(image)
        size = _file_size(path)
        with open(path, "rb") as file:
            return _decoded(file, size, path, pixels, decode_size, key, frame)
    except Exception as error:  # malformed files make decoders raise errors of any type
        raise BrokenImage("(bytes)" if isinstance(image, bytes) else os.fspath(image), reason_of(error)) from error


def _file_size(path: str | os.PathLike[str]) -> int:
    """Checks the type before opening: a pipe would block for ever, and opening a device may start it."""
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("not a regular file")
    return found.st_size


def _decoded(
    file: IO[bytes], size: int, path: str | os.PathLike[str] | None, pixels: Pixels, decode_size: int | None, key: int,
    frame: int | None = None,
) -> Tensor:  # fmt: skip
    """`decode` for an open file of `size` bytes, on disk (with a path) or in memory."""
    if not size:  # also reported by the endless files of /proc
        raise ValueError("empty file")
    head = file.read(_HEAD)
    if head.startswith(b"\x93NUMPY"):
        file.seek(0)
        return from_tensor(npy.read(file, size, pixels), pixels, decode_size, key)
    if dicom.is_dicom(head, path):
        return dicom.read(file, size, frame or 1, pixels, decode_size, key)
    if frame is not None:
        raise ValueError("frames of files other than DICOM have no numbers")
    if head.startswith(tiff.MAGIC):
        if _uses_tifffile(file, pixels):
            return tiff_bands.read(file if path is None else path, pixels, decode_size, key)
        tiff.check(file)
    elif size > limits.MAX_BYTES:
        raise ValueError(f"a file of {size / 2**20:.0f} MiB, {TOO_MUCH}")
    if pixels.channels == 3 and pixels.is_plain and jpeg.is_fast() and jpeg.is_plain(head):
        content = head + file.read()
        if (plain := jpeg.read(content, decode_size)) is not None:
            return plain
        file, path = io.BytesIO(content), None
    plugins.register_for(head)
    source = file if path is None else path  # Pillow memory-maps uncompressed files given by path
    return _by_pillow(source, lambda image: from_pillow(image, pixels, decode_size, key))


def _uses_tifffile(file: IO[bytes], pixels: Pixels) -> bool:
    """Whether a TIFF file is read by tifffile: bands are chosen or missing in what Pillow reads, or it alters values.

    Raises:
        Unsupported: it has to be, but tifffile is not installed.
    """
    tags = tiff.read_tags(file, limits.MAX_BYTES)
    if tiff.tile_bytes(tags) > limits.MAX_BYTES:
        return False  # `tiff.check` reports it
    is_plain, samples = tiff.is_plain(tags), tiff.samples(tags)
    if pixels.bands is not None:
        wanted = True
    elif not is_plain:
        wanted = tiff.has_values(tags)
    else:  # extra samples that Pillow ignores, and pages that are channels
        has_pages = samples == 1 and pixels.channels not in (1, 3) and tiff.has_pages(file)
        wanted = has_pages or (samples == pixels.channels and samples not in (1, 3, 4))
        if not wanted and tiff.is_unsigned_32(tags):
            return tiff.is_installed()
        wanted |= tiff.has_few_bits(tags) and pixels.scale.kind != "dtype"
    if wanted and not tiff.is_installed():
        if is_plain and samples in (1, 3) and not tiff.has_pages(file) and not tiff.has_few_bits(tags):
            return False
        raise tiff.unread(tags)
    return wanted


def _by_pillow(source: str | os.PathLike[str] | IO[bytes], use: Callable[[Image.Image], T]) -> T:
    """Opens an image and calls `use` on it; if that fails, retries without the metadata."""
    try:
        with Image.open(source, formats=open_formats()) as opened:
            return use(opened)
    except Exception as error:
        with open(source, "rb") if isinstance(source, str | os.PathLike) else nullcontext(source) as file:
            file.seek(0)
            head = file.read(_HEAD)
            for content in _without_metadata(head, file):
                with suppress(Exception), Image.open(io.BytesIO(content), formats=open_formats()) as opened:
                    return use(opened)  # otherwise the first error is raised, which names the cause
            if isinstance(error, UnidentifiedImageError):
                raise _unidentified(head, file) from error
        raise


def open_formats() -> tuple[str, ...]:
    """The formats of `FORMATS` that this build of Pillow and its plugins support."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _unidentified(head: bytes, file: IO[bytes]) -> ValueError:
    """The error for a file that Pillow cannot identify, naming its actual format if known."""
    if head.startswith(tiff.MAGIC):
        return tiff.unread(tiff.read_tags(file, limits.MAX_BYTES))
    content = next((name for begin, name in _NOT_IMAGES.items() if head.lstrip().startswith(begin)), None)
    if head[4:8] == b"ftyp" and content is None:
        if needed := plugins.needed(head):
            return Unsupported(needed)
        content = "a video"
    return ValueError(
        "not an image of a known format" + (f": it contains {content}. Convert it to PNG or TIFF" if content else "")
    )


def _without_metadata(head: bytes, file: IO[bytes]) -> list[bytes]:
    """A JPEG, PNG or TIFF file's content without metadata: one version with its orientation, one without."""
    if head.startswith(png.SIGNATURE):
        strip = png.bare
    elif head.startswith(b"\xff\xd8\xff"):
        strip = jpeg.bare
    elif head.startswith(tiff.MAGIC):
        strip = tiff.bare
    else:
        return []
    content = head + file.read(limits.MAX_BYTES)
    stripped = [strip(content, True), strip(content, False)]
    return [each for i, each in enumerate(stripped) if each != content and each not in stripped[:i]]


def kind_of(path: str | os.PathLike[str], pixels: Pixels | int = 3) -> str:
    """Format and mode of a decodable file, from its header; see `Source.kind`."""
    path, frame = dicom.frame_of(path)
    size = _file_size(path)
    with open(path, "rb") as file:
        found = _kind_from_head(file, size, Pixels.of(pixels), path, frame)
    return found or _by_pillow(path, lambda image: pillow_kind(image, Pixels.of(pixels)))


def kind_of_content(content: bytes, pixels: Pixels | int = 3, frame: int | None = None) -> str:
    """`kind_of` for the content of a file."""
    file = io.BytesIO(content)
    found = _kind_from_head(file, len(content), Pixels.of(pixels), None, frame)
    return found or _by_pillow(file, lambda image: pillow_kind(image, Pixels.of(pixels)))


def _kind_from_head(
    file: IO[bytes], size: int, pixels: Pixels, path: str | None = None, frame: int | None = None
) -> str:
    """The kind of a file that Pillow does not read; empty for others. Checks a TIFF file before Pillow logs errors."""
    if (head := file.read(_HEAD)).startswith(tiff.MAGIC):
        if _uses_tifffile(file, pixels):
            return f"TIFF {tiff.described(tiff.read_tags(file, limits.MAX_BYTES))}"
        tiff.check(file)
    elif head.startswith(b"\x93NUMPY"):
        file.seek(0)
        shape, _, dtype = npy.read_head(file, size)
        return f"npy {dtype.name} {shape}"
    elif dicom.is_dicom(head, path):
        file.seek(0)
        return dicom.kind(file) + (f", {PAGES}" if frame is None and dicom.count(file) > 1 else "")
    plugins.register_for(head)
    file.seek(0)
    return ""


def pixels_stated(content: bytes) -> int:
    """Width times height of an image by the header of its file, without decoding it.

    0 if the header cannot be read: `decode` says why. Of a `.npy` file the values of all channels count.
    """
    file = io.BytesIO(content)
    try:
        if content.startswith(b"\x93NUMPY"):
            return math.prod(npy.read_head(file, len(content))[0])
        if content.startswith(tiff.MAGIC):
            tags = tiff.read_tags(file, limits.MAX_BYTES)
            return tags[256][0] * tags[257][0]
        if dicom.is_dicom(content[:_HEAD]):
            return dicom.pixels_stated(file)
        plugins.register_for(content[:_HEAD])
        with Image.open(file, formats=open_formats()) as opened:
            return opened.width * opened.height
    except Image.DecompressionBombError:
        return limits.MAX_PIXELS + 1
    except Exception:  # malformed files make decoders raise errors of any type
        return 0


def reason_of(error: Exception) -> str:
    """Why an image cannot be used, in one line."""
    if isinstance(error, Unsupported):
        return f"{UNSUPPORTED}{error}"
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, MemoryError):
        return "does not fit in memory"
    if isinstance(error, Image.DecompressionBombError):
        return f"{UNSUPPORTED}more pixels than the limit of {limits.MAX_PIXELS}. {SMALLER}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, OSError) and str(error).startswith(
        ("decoder error", "broken data stream", "unrecognized data")
    ):
        return "its pixels are damaged"  # Pillow's error numbers add no information
    if isinstance(error, (ValueError, OSError, SyntaxError, struct.error)) and str(error):
        return str(error)
    return f"{type(error).__name__}: {error}"

"""The size of an image by its header, and a part of it without decoding the rest, where the format allows it."""

import io
import itertools
import os
from contextlib import suppress
from typing import IO, Any, Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..image_options import Pixels
from . import dicom, limits, npy, plugins, tiff, tiff_bands
from .decoding import open_formats, reason_of
from .errors import BrokenImage
from .tensors import from_tensor

Box = tuple[int, int, int, int]
"""Top, left, height and width."""
_TRANSPOSED: Final = (5, 6, 7, 8)
"""EXIF orientations that swap height and width."""
_HEAD: Final = 2**16


def stated_size(image: str | os.PathLike[str] | bytes, pixels: Pixels) -> tuple[int, int] | None:
    """Height and width of a decoded image by the header of its file; None if it cannot be read."""
    with suppress(Exception):  # `decode` reports why
        if isinstance(image, bytes):
            return _stated(io.BytesIO(image), len(image), pixels)
        path, _ = dicom.frame_of(image)
        with open(path, "rb") as file:
            return _stated(file, os.stat(path).st_size, pixels, path)
    return None


def _stated(file: IO[bytes], size: int, pixels: Pixels, path: str | None = None) -> tuple[int, int]:
    head = file.read(_HEAD)
    file.seek(0)
    if head.startswith(b"\x93NUMPY"):
        shape, _, _ = npy.read_head(file, size, limited=False)
        axis = npy.channel_axis(shape, pixels)
        height, width = (side for i, side in enumerate(shape) if i != axis)
        return height, width
    if head.startswith(tiff.MAGIC):
        tags = tiff.read_tags(file, limits.MAX_BYTES)
        height, width = tags[257][0], tags[256][0]
        return (width, height) if tags.get(tiff.ORIENTATION, (1,))[0] in _TRANSPOSED else (height, width)
    if dicom.is_dicom(head, path):
        return dicom.stated_size(file)
    plugins.register_for(head)
    with Image.open(file, formats=open_formats()) as opened:
        turned = False
        with suppress(Exception):  # corrupt metadata
            turned = opened.getexif().get(0x0112, 1) in _TRANSPOSED
        width, height = opened.size
        return (width, height) if turned else (height, width)


def read_box(path: str, box: Box, pixels: Pixels) -> Tensor | None:
    """A part of an image file, equal to that part of the decoded image; None if the image has to be decoded.

    Raises:
        BrokenImage: the part cannot be read.
    """
    if dicom.frame_of(path)[1] is not None:
        return None
    try:
        with open(path, "rb") as file:
            head = file.read(len(tiff.MAGIC[0]) + 4)
            if head.startswith(b"\x93NUMPY"):
                return _of_npy(file, os.stat(path).st_size, box, pixels)
            if head.startswith(tiff.MAGIC) and tiff.is_installed():
                return _of_tiff(file, box, pixels)
    except Exception as error:  # malformed files make decoders raise errors of any type
        raise BrokenImage(path, reason_of(error)) from error
    return None


def _of_npy(file: IO[bytes], size: int, box: Box, pixels: Pixels) -> Tensor:
    file.seek(0)
    shape, fortran, dtype = npy.read_head(file, size, limited=False)
    whole = np.memmap(file, dtype, "r", file.tell(), shape, "F" if fortran else "C")
    axis = npy.channel_axis(shape, pixels)
    planes = whole[None] if axis is None else np.moveaxis(whole, axis, 0)
    top, left, height, width = box
    part = planes[:, top : top + height, left : left + width]
    return from_tensor(torch.from_numpy(part.astype(dtype.newbyteorder("="))), pixels, None, 0)


def _of_tiff(file: IO[bytes], box: Box, pixels: Pixels) -> Tensor | None:
    """Decodes the tiles or strips that a box touches; None for files that need more than their own values."""
    from tifffile import TiffFile

    tags = tiff.read_tags(file, limits.MAX_BYTES)
    samples = tiff.samples(tags)
    is_upright = tags.get(tiff.ORIENTATION, (1,))[0] == 1
    kept_alpha = pixels.bands is not None or len(tags.get(338, ())) == 0
    if not (tiff.has_values(tags) and is_upright and kept_alpha and tags.get(262, (1,))[0] != 0):
        return None
    if samples == 1 and (pixels.bands is not None or pixels.channels not in (1, 3)):  # pages may be bands
        return None
    file.seek(0)
    with TiffFile(file) as opened:
        page: Any = opened.pages.first
        if page.imagedepth > 1 or page.bitspersample < 8 or page.dtype is None or page.dtype.kind not in "uif":
            return None
        rows = page.tilelength if page.is_tiled else page.rowsperstrip
        columns = page.tilewidth if page.is_tiled else page.imagewidth
        is_whole = not page.is_tiled and rows >= page.imagelength  # a decoded frame serves several tiles
        if is_whole or rows * columns * samples * page.dtype.itemsize > limits.MAX_BYTES:
            return None
        with tiff_bands.readable(page):
            array = tile_of(page, box)
        return from_tensor(torch.from_numpy(array), pixels, None, 0, tiff_bands.names_in(opened, samples))


def tile_of(page: Any, box: Box) -> np.ndarray:
    """A part (C, H, W) of a page, from the tiles or strips that it touches."""
    top, left, height, width = box
    down, across = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
    rows, columns = -(-page.imagelength // down), -(-page.imagewidth // across)
    planes = page.samplesperpixel if int(page.planarconfig) == 2 else 1
    out = np.zeros((page.samplesperpixel, height, width), page.dtype.newbyteorder("="))
    touched = itertools.product(
        range(planes),
        range(top // down, -(-(top + height) // down)),
        range(left // across, -(-(left + width) // across)),
    )
    for plane, row, column in touched:
        index = plane * rows * columns + row * columns + column
        page.parent.filehandle.seek(page.dataoffsets[index])
        data = page.parent.filehandle.read(page.databytecounts[index]) or None
        segment, (_, _, y, x, _), shape = page.decode(data, index, jpegtables=page.jpegtables)
        if segment is None:  # a tile without content
            continue
        values = np.moveaxis(segment[0, : shape[1], : shape[2]], 2, 0)
        first, last = max(top, y), min(top + height, y + shape[1])
        begin, end = max(left, x), min(left + width, x + shape[2])
        part = values[:, first - y : last - y, begin - x : end - x]
        bands = slice(plane, plane + 1) if planes > 1 else slice(None)
        out[bands, first - top : last - top, begin - left : end - left] = part
    return out

"""TIFF files with many bands, many bits or pages as channels, by tifffile (extra `tiff`), with the names of bands."""

import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch import Tensor

from ..image_options import Pixels
from ..printing import brief, counted
from .errors import Unsupported
from .limits import check_size
from .tensors import ALIKE, from_tensor, upright
from .tiff import EXTRA, ORIENTATION, is_installed
from .transparency import PREMULTIPLIED, deep_in_mode, is_deep_transparency, straight

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # an unreadable image is reported with its reason

_PREMULTIPLIED: Final = 1  # of the tag ExtraSamples
_GDAL_METADATA: Final = 42112
_PAGE_NAME: Final = 285
_MOST_PAGES: Final = 4096
_MOST_XML: Final = 2**20
_RAW: Final = (0, 1, 2, 32803)  # colour spaces whose samples are values: grey, inverted grey, RGB, filter array
_ITEM: Final = re.compile(r'<Item\s+name="DESCRIPTION"\s+sample="(\d{1,4})"[^>]*>([^<]*)</Item>')
_CHANNEL: Final = re.compile(r"<(?:\w+:)?Channel\b[^>]*?\bName=\"([^\"]*)\"")


def read(file: str | os.PathLike[str] | IO[bytes], pixels: Pixels, decode_size: int | None, key: int) -> Tensor:
    """`decode` for a TIFF file: its samples are the bands, or its pages if they have one sample each.

    Raises:
        Unsupported: another colour space or layout, or bands that it does not have.
        ValueError: damaged.
    """
    from tifffile import TiffFile

    with TiffFile(file) as opened:
        array, names = _array(opened, pixels)
        turn = opened.pages.first.tags.valueof(ORIENTATION, 1)
    if pixels.scale.kind == "dtype" and array.dtype.kind in "iu" and array.dtype not in (np.uint8, np.uint16):
        array = _in_16_bits(array)
    if array.dtype == np.uint64:  # torch computes with signed ones
        if array.max() > np.iinfo(np.int64).max:
            raise Unsupported(
                f"integers from {array.min()} to {array.max()}; expected at most {np.iinfo(np.int64).max}. Save it as "
                "float64"
            )
        array = array.astype(np.int64)
    return upright(from_tensor(torch.from_numpy(array), pixels, decode_size, key, names), turn)


def _in_16_bits(array: np.ndarray) -> np.ndarray:
    """Integers of another type as uint16."""
    if array.itemsize < 2:  # no range of values fits its type
        raise Unsupported(
            f"integers from {array.min()} to {array.max()} of type {array.dtype.name}; expected uint8 or uint16. "
            f"{ALIKE}"
        )
    if array.min() < 0 or array.max() > 65535:
        raise Unsupported(f"integers from {array.min()} to {array.max()}; expected 0 to 65535. {ALIKE}")
    return array.astype(np.uint16)


def names_of(file: str | os.PathLike[str] | IO[bytes]) -> list[str]:
    """The names of the bands of a TIFF file; empty without names, or without the extra `tiff`."""
    if not is_installed():
        return []
    from tifffile import TiffFile

    with suppress(Exception), TiffFile(file) as opened:
        page = opened.pages.first
        count = page.samplesperpixel if page.samplesperpixel > 1 else len(_pages(opened))
        return names_in(opened, count)
    return []


def _pages(opened: "TiffFile") -> list[Any]:
    """The pages of a file that are as large as the first: without thumbnails and masks."""
    pages = []
    for i in range(min(len(opened.pages), _MOST_PAGES)):
        page: Any = opened.pages[i]
        page = page.aspage() if hasattr(page, "aspage") else page
        if page.shape == opened.pages.first.shape and not int(page.subfiletype) & 5:
            pages.append(page)
    return pages


def _array(opened: "TiffFile", pixels: Pixels) -> tuple[np.ndarray, list[str]]:
    """The values (C, H, W) of a file, in its own range, and the names of its bands."""
    page: Any = opened.pages.first
    kind, samples = int(page.photometric), page.samplesperpixel
    if kind not in _RAW:
        raise Unsupported(f"a TIFF in the colour space {page.photometric.name}. Save it as RGB")
    if page.dtype is None or page.dtype.kind not in "buif":
        raise Unsupported(f"a TIFF of {page.dtype or 'unknown values'}; expected integers or floats")
    if page.imagedepth > 1:
        raise Unsupported(f"a TIFF volume of {page.imagedepth} slices. Save each slice as an image")
    pages = [page] if samples > 1 else _pages(opened)
    is_stack = samples == 1 and len(pages) > 1 and (pixels.bands is not None or pixels.channels == len(pages))
    if samples == 1 and len(pages) > 1 and not is_stack and pixels.channels not in (1, 3):
        raise Unsupported(
            f"a TIFF with {counted(len(pages), 'page')}, which cannot be converted to "
            f"{counted(pixels.channels, 'channel')}. Give --channels {len(pages)}, or choose pages with --bands"
        )
    count = samples if samples > 1 else len(pages) if is_stack else 1
    check_size(page.imagewidth, page.imagelength, max(count, pixels.channels) * page.dtype.itemsize)
    names = names_in(opened, count)
    if is_stack:
        return np.stack([_values(each) for each in pages]), names
    array = _values(page)
    if array.ndim == 2:
        return array[None], names
    array = array if page.axes == "SYX" else np.moveaxis(array, 2, 0)
    has_alpha = pixels.bands is None and samples in (2, 4) and bool(page.extrasamples)
    if has_alpha and array.dtype == np.uint16 and kind in (1, 2) and pixels.channels in (1, 3, 4):
        array = np.moveaxis(_without_alpha(np.moveaxis(array, 0, 2).copy(), page, pixels), 2, 0)
    return np.ascontiguousarray(array), names


def _without_alpha(array: np.ndarray, page: "TiffPage", pixels: Pixels) -> np.ndarray:
    """Pixels (H, W, bands) uint16 without their last band, or with it if 4 channels are requested."""
    is_kept = pixels.channels >= array.shape[2]
    if int(page.extrasamples[0]) == _PREMULTIPLIED and (array[..., -1] < 65535).any():
        may_be_other = pixels.alpha == "drop" or (pixels.alpha == "auto" and not is_deep_transparency(array))
        if may_be_other and not is_kept:
            raise Unsupported(PREMULTIPLIED)
        array = straight(array)
    return array if is_kept else deep_in_mode(array, False, array.shape[2] - 1, pixels.alpha)


@contextmanager
def readable(page: "TiffPage") -> Iterator[None]:
    """Raises Unsupported if the codec of a page is missing, and ValueError if its content is damaged."""
    try:
        yield
    except Exception as error:  # malformed files make codecs raise errors of any type
        if isinstance(error, ImportError) or "imagecodecs" in str(error):
            raise Unsupported(f"a TIFF compressed with {page.compression.name}. {EXTRA}") from None
        raise ValueError(f"TIFF file is truncated or damaged ({brief(str(error))})") from error


def _values(page: "TiffPage") -> np.ndarray:
    """The values of a page; black is 0."""
    with readable(page):
        array = page.asarray()
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if int(page.photometric) == 0:
        if array.dtype.kind != "u":
            raise Unsupported(f"inverted greyscale of {array.dtype.name}. Save it with black at 0")
        array = (
            np.iinfo(array.dtype).max - array
            if page.bitspersample == array.dtype.itemsize * 8
            else (np.array(2**page.bitspersample - 1, array.dtype) - array)
        )
    return np.ascontiguousarray(array)


def names_in(opened: "TiffFile", count: int) -> list[str]:
    """The names of `count` bands from GDAL's metadata, OME-XML, or the names of pages; empty without names."""
    tags = opened.pages.first.tags
    found = [""] * count
    if (tag := tags.get(_GDAL_METADATA)) is not None and isinstance(tag.value, str):
        for number, name in _ITEM.findall(tag.value[:_MOST_XML]):
            if int(number) < count:
                found[int(number)] = name.strip()
    elif opened.is_ome and isinstance(opened.ome_metadata, str):
        listed = _CHANNEL.findall(opened.ome_metadata[:_MOST_XML])
        found = listed if len(listed) == count else found
    elif count == len(opened.pages):
        found = [_page_name(page) for page in _pages(opened)]
    return _unique(found) if any(found) else []


def _page_name(page: Any) -> str:
    tag = page.tags.get(_PAGE_NAME)
    return tag.value.strip() if tag is not None and isinstance(tag.value, str) else ""


def _unique(names: Sequence[str]) -> list[str]:
    """The names; those that occur twice become empty, since they choose no band."""
    lower = [name.lower() for name in names]
    return [name if lower.count(name.lower()) == 1 else "" for name in names]


def described(names: Sequence[str], count: int) -> str:
    """The bands of a file as text: `13 bands (B01, B02, ...)`."""
    shown = ", ".join(brief(name or str(i)) for i, name in enumerate(names[:20], 1))
    return counted(count, "band") + (f" ({shown}{', ...' if len(names) > 20 else ''})" if names else "")

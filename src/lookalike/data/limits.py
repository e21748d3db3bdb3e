"""Limits of image size, and the crop and downscaling applied when decoding."""

from typing import Final

from ..random import key_of
from .errors import Unsupported

MAX_PIXELS: Final = 2**27
"""Larger images count as decompression bombs: 2**27 RGB pixels take 400 MB, more than any common camera produces."""
MAX_BYTES: Final = 4 * MAX_PIXELS
"""Limit for the decoded pixels of one image, and for a file that is read into memory."""
MAX_ASPECT: Final = 4
"""The longer side is cropped to at most 4 times the shorter one."""
SMALLER: Final = "Cut it into tiles, or downscale it; docs/quickstart.md has a script for both"
TOO_MUCH: Final = f"more than the limit of {MAX_BYTES // 2**20} MiB. {SMALLER}"


def aspect_window(height: int, width: int, key: int) -> tuple[int, int, int, int]:
    """Top, left, height and width of the crop that limits the aspect ratio; `key` determines its position."""
    short = MAX_ASPECT * min(height, width)
    if max(height, width) <= short:
        return 0, 0, height, width
    start = key_of(key, "window") % (max(height, width) - short + 1)
    return (start, 0, short, width) if height > width else (0, start, height, short)


def shrink_factor(shorter: int, decode_size: int | None) -> int:
    """The largest power of two by which the shorter side can be divided without falling below `decode_size`."""
    return 1 << max(0, (shorter // decode_size).bit_length() - 1) if decode_size else 1


def check_size(width: int, height: int, pixel_bytes: int) -> None:
    if width * height > MAX_PIXELS:
        raise Unsupported(f"{width} x {height} pixels exceed the limit of {MAX_PIXELS}. {SMALLER}")
    if width * height * pixel_bytes > MAX_BYTES:
        size = f"{width} x {height} pixels of {pixel_bytes} bytes take {width * height * pixel_bytes / 2**20:.0f} MiB"
        raise Unsupported(f"{size}, {TOO_MUCH}")

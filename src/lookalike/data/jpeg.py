"""JPEG files: decoded by simplejpeg where it is installed and gives the same pixels as Pillow."""

import torch
from torch import Tensor

from . import limits
from .limits import shrink_factor

try:
    import simplejpeg
except ImportError:  # optional: Pillow reads the same files
    simplejpeg = None


def is_fast() -> bool:
    """Whether simplejpeg is installed."""
    return simplejpeg is not None


def bare(content: bytes, oriented: bool) -> bytes:
    """A JPEG file without comments and application segments, except JFIF, Adobe and, with `oriented`, Exif."""
    kept, at = [content[:2]], 2
    while at + 4 <= len(content) and content[at] == 0xFF and content[at + 1] != 0xDA:
        marker, end = content[at + 1], at + 2 + int.from_bytes(content[at + 2 : at + 4], "big")
        metadata = 0xE1 <= marker <= 0xED or marker in (0xEF, 0xFE) or (marker == 0xEE and end - at < 16)
        if not metadata or (oriented and marker == 0xE1):
            kept.append(content[at:end])
        at = end
    return b"".join([*kept, content[at:]])


def is_plain(head: bytes) -> bool:
    """Whether a JPEG file's pixels begin within `head`, without an Exif or XMP segment before them."""
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


def read(content: bytes, decode_size: int | None) -> Tensor | None:
    """Decodes a JPEG; for small files several times as fast as Pillow, with the same pixels.

    Returns None for files that Pillow has to handle.
    """
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(content)
        if space not in ("YCbCr", "Gray") or height * width > limits.MAX_PIXELS:
            return None
        factor = shrink_factor(min(height, width), decode_size)
        if factor > 8 or (decode_size and max(height, width) > limits.MAX_ASPECT * min(height, width)):
            return None
        if factor > 1 and min(height, width) < 8:  # it may choose another scale: 3/8 and 1/2 of 3 pixels round equally
            return None
        smallest = (-(-height // factor), -(-width // factor)) if factor > 1 else (0, 0)
        pixels = simplejpeg.decode_jpeg(content, "RGB", min_height=smallest[0], min_width=smallest[1], min_factor=1)
    except ValueError:  # damaged or unusual
        return None
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()

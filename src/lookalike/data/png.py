"""PNG files that Pillow does not handle: 16-bit colour, which it cuts to 8 bits, and metadata that it fails on."""

import struct
import zlib
from collections.abc import Iterator

import numpy as np

from ..numba_cache import compiled, first_call

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_TURNS = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")  # keywords of texts that may contain an orientation
_BANDS = {2: 3, 4: 2, 6: 4}  # colour type -> samples per pixel
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""The passes of Adam7: first column and row, and the steps between columns and rows."""


def _chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Type, start and end of each chunk, including its length and checksum."""
    at = len(SIGNATURE)
    while at + 8 <= len(content):
        end = at + 12 + int.from_bytes(content[at : at + 4], "big")
        yield content[at + 4 : at + 8], at, end
        at = end


def turns(content: bytes) -> bool:
    """Whether the metadata may contain an orientation."""
    return any(_may_turn(content, kind, at) for kind, at, _ in _chunks(content))


def _may_turn(content: bytes, kind: bytes, at: int) -> bool:
    return kind == b"eXIf" or (kind in _TEXTS and content[at + 8 : at + 32].startswith(_TURNS))


def bare(content: bytes, oriented: bool) -> bytes:
    """The file with its pixels only and, with `oriented`, its orientation. (For an animation the still image.)"""
    kept = [
        content[at:end]
        for kind, at, end in _chunks(content)
        if kind in _PIXELS or (oriented and _may_turn(content, kind, at))
    ]
    return b"".join([SIGNATURE, *kept])


def read_deep(content: bytes) -> tuple[np.ndarray, bool]:
    """Pixels (H, W, bands) uint16 of a 16-bit colour file, and whether the last band was computed from a colour key.

    Raises:
        ValueError: truncated or damaged.
    """
    width, height, _, color_type, _, _, interlaced = struct.unpack(">IIBBBBB", content[16:29])
    bands = _BANDS[color_type]
    passes = _PASSES if interlaced else ((0, 0, 1, 1),)
    shapes = [(len(range(top, height, down)), len(range(left, width, right))) for left, top, right, down in passes]
    lengths = [rows * (1 + 2 * bands * columns) if columns else 0 for rows, columns in shapes]
    parts, key = [], b""
    for kind, at, end in _chunks(content):
        if kind in (b"IDAT", b"tRNS"):
            if zlib.crc32(content[at + 4 : end - 4]) != int.from_bytes(content[end - 4 : end], "big"):
                raise ValueError("PNG file is truncated or damaged")
            if kind == b"IDAT":
                parts.append(content[at + 8 : end - 4])
            else:
                key = content[at + 8 : end - 4]
    packed = zlib.decompressobj().decompress(b"".join(parts), sum(lengths))
    if len(packed) < sum(lengths):
        raise ValueError("PNG file is truncated")
    flat, begin = np.frombuffer(packed, np.uint8).copy(), 0
    pixels = np.empty((height, width, bands), np.uint16)
    for (left, top, right, down), (rows, columns), length in zip(passes, shapes, lengths, strict=True):
        if length:
            lines = flat[begin : begin + length].reshape(rows, -1)
            if not first_call(_unfilter, lines, 2 * bands):
                raise ValueError("PNG file is damaged: unknown filter type")
            samples = np.ascontiguousarray(lines[:, 1:]).view(">u2").reshape(rows, columns, bands)
            pixels[top::down, left::right] = samples
            begin += length
    if color_type != 2 or len(key) != 6:
        return pixels, False
    opaque = (pixels != np.frombuffer(key, ">u2")).any(2)
    return np.dstack([pixels, np.where(opaque, 65535, 0).astype(np.uint16)]), True


@compiled
def _unfilter(lines, step):  # type: ignore[no-untyped-def]
    """Reverses the filters of `lines` (H, 1 + bytes), whose first column is the type; `step`: bytes per pixel."""
    for y in range(len(lines)):
        kind = lines[y, 0]
        if kind > 4:
            return False
        for x in range(1, lines.shape[1]):
            left = np.int32(lines[y, x - step]) if x > step else np.int32(0)
            up = np.int32(lines[y - 1, x]) if y > 0 else np.int32(0)
            corner = np.int32(lines[y - 1, x - step]) if y > 0 and x > step else np.int32(0)
            guess = np.int32(0)
            if kind == 1:
                guess = left
            elif kind == 2:
                guess = up
            elif kind == 3:
                guess = (left + up) // 2
            elif kind == 4:
                by_left, by_up, by_corner = abs(up - corner), abs(left - corner), abs(left + up - 2 * corner)
                if by_left <= by_up and by_left <= by_corner:
                    guess = left
                elif by_up <= by_corner:
                    guess = up
                else:
                    guess = corner
            lines[y, x] = np.uint8((np.int32(lines[y, x]) + guess) & 255)
    return True

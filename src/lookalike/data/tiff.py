"""The pixel format of a TIFF file, from its first directory, and whether Pillow reads it unchanged."""

import struct
from collections.abc import Mapping
from importlib.util import find_spec
from typing import IO, Any, Final

from . import limits
from .errors import Unsupported
from .limits import TOO_MUCH

MAGIC: Final = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_WIDTHS: Final = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Bytes of a value, by field type."""
_CODES: Final = {1: "B", 3: "H", 4: "I", 16: "Q"}
_OFFSETS: Final = (273, 279, 324, 325)  # of strips and tiles; their number grows with the image
_WANTED: Final = (256, 257, 258, 259, 262, 266, 274, 277, 284, 322, 323, 332, 338, 339, 32997)
ORIENTATION: Final = 274
_MAX_VALUES: Final = 4096
_PHOTOMETRIC: Final = {
    0: "inverted greyscale",
    1: "greyscale",
    2: "RGB",
    3: "palette",
    4: "mask",
    5: "CMYK",
    6: "YCbCr",
    8: "LAB",
    9: "ICCLAB",
    32803: "camera mosaic",
    32844: "LogL",
    32845: "LogLuv",
    34892: "linear raw",
    51177: "depth",
}
_FORMATS: Final = {
    1: "unsigned integers",
    2: "signed integers",
    3: "floats",
    5: "complex integers",
    6: "complex floats",
}

_PIXELS: Final = frozenset(
    (*_WANTED, *_OFFSETS, 274, 278, 317, 320, 347, *range(512, 522), 529, 530, 531)
)  # tags required for decoding; 274 is the orientation

_BY_PILLOW: Final = (*range(1, 9), 32773, 32946, 34925, 50000)
"""Compressions that Pillow reads in its usual builds."""

EXTRA: Final = "pip install 'lookalike[tiff]' reads it"
Tags = dict[int, tuple[int, ...]]
_BIG_ENDIAN: Final = 0
"""Key for the byte order; not a TIFF tag."""
_BIG: Final = 1
"""Key for files of BigTIFF; not a TIFF tag."""


def read_tags(file: IO[bytes], limit: int) -> Tags:
    """The tags of the first directory that describe how its pixels are stored.

    Raises:
        ValueError: no directory, or more than `limit` bytes of metadata.
    """
    file.seek(0)
    head = file.read(16)
    order, big = ("<" if head[:1] == b"I" else ">"), 43 in head[2:4]
    width, entry, number = (20, "HHQ", "Q") if big else (12, "HHI", "I")
    inline = 8 if big else 4
    try:
        file.seek(*struct.unpack(order + number, head[8:16] if big else head[4:8]))
        count = int(struct.unpack(order + ("Q" if big else "H"), file.read(8 if big else 2))[0])
        if count > 2**16:
            raise ValueError(f"a TIFF directory of {count} entries")
        entries = file.read(count * width)
        found: Tags = {_BIG_ENDIAN: (int(order == ">"),), _BIG: (int(big),)}
        total = 0
        for at in range(0, len(entries) - width + 1, width):
            tag, kind, values = struct.unpack_from(order + entry, entries, at)
            size = values * _WIDTHS.get(kind, 1)
            total += size if size > inline and tag not in _OFFSETS else 0
            if tag not in _WANTED or kind not in _CODES or not 0 < values <= _MAX_VALUES:
                continue
            start = at + width - inline
            data = entries[start : start + size]
            if size > inline:
                file.seek(*struct.unpack_from(order + number, entries, start))
                data = file.read(size)
            found[tag] = struct.unpack(f"{order}{values}{_CODES[kind]}", data)
    except (struct.error, OverflowError, OSError) as error:
        raise ValueError("TIFF file is truncated or damaged") from error
    finally:
        file.seek(0)
    if total > limit:
        raise ValueError(f"{total} bytes of metadata exceed the limit of {limit}. Save the image without metadata")
    if 256 not in found or 257 not in found:
        raise ValueError("a TIFF file without width and height")
    return found


def bare(content: bytes, oriented: bool) -> bytes:
    """The file with only the tags of its first directory that decoding requires; with `oriented`, also orientation."""
    order, big = ("<" if content[:1] == b"I" else ">"), 43 in content[2:4]
    width, number = (20, "Q") if big else (12, "H")
    try:
        (at,) = struct.unpack_from(order + ("Q" if big else "I"), content, 8 if big else 4)
        (count,) = struct.unpack_from(order + number, content, at)
    except struct.error:
        return content
    first = at + struct.calcsize(order + number)
    entries = [content[i : i + width] for i in range(first, min(first + count * width, len(content)), width)]
    kept = [e for e in entries if (tag := int.from_bytes(e[:2], "little" if order == "<" else "big")) in _PIXELS
            and (oriented or tag != 274)]  # fmt: skip
    directory = struct.pack(order + number, len(kept)) + b"".join(kept) + bytes(8)  # 0: no further directory
    return content[:at] + directory + content[at + len(directory) :] if len(kept) < len(entries) else content


def has_pages(file: IO[bytes]) -> bool:
    """Whether a file has several independent pictures: thumbnails and masks of the first do not count.

    The file position is restored.
    """
    before = file.tell()
    file.seek(0)
    head = file.read(16)
    order, big = ("<" if head[:1] == b"I" else ">"), 43 in head[2:4]
    width, number, count_of = (20, "Q", "Q") if big else (12, "I", "H")
    found, seen = 0, set[int]()
    try:
        (at,) = struct.unpack(order + number, head[8:16] if big else head[4:8])
        while at and at not in seen and len(seen) < _MAX_VALUES and found < 2:
            seen.add(at)
            file.seek(at)
            (count,) = struct.unpack(order + count_of, file.read(struct.calcsize(order + count_of)))
            entries = file.read(count * width)
            found += len(seen) == 1 or not _is_dependent(entries, order, width)
            (at,) = struct.unpack(order + number, file.read(struct.calcsize(order + number)))
    except (struct.error, OverflowError, OSError):
        pass  # truncated: no further page
    finally:
        file.seek(before)
    return found > 1


def _is_dependent(entries: bytes, order: str, width: int) -> bool:
    """Whether a directory is a reduced version or a mask of another page."""
    for at in range(0, len(entries) - width + 1, width):
        tag, kind = struct.unpack_from(order + "HH", entries, at)
        if tag in (254, 255) and kind in (3, 4):
            value = int(struct.unpack_from(order + _CODES[kind], entries, at + (12 if width == 20 else 8))[0])
            return bool(value & 5) if tag == 254 else value == 2
    return False


def is_installed() -> bool:
    """Whether tifffile is installed, which reads what Pillow would alter."""
    return find_spec("tifffile") is not None


def samples(tags: Tags) -> int:
    """Number of samples per pixel."""
    return tags.get(277, (1,))[0]


def described(tags: Tags) -> str:
    """Bands, bits and colour space, as text."""
    bits, kind, photometric = tags.get(258, (1,)), tags.get(339, (1,))[0], tags.get(262, (-1,))[0]
    depth = f"{bits[0]} bits" if len(set(bits)) == 1 else "unequal bits"
    color = _PHOTOMETRIC.get(photometric, "unknown colour space")
    planes = ", planar" if tags.get(284) == (2,) and samples(tags) > 1 else ""
    ends = ", big endian" if tags[_BIG_ENDIAN] == (1,) else ""
    packed = "" if (method := _compression(tags)) in _BY_PILLOW else f", compression {method}"
    return f"{samples(tags)} x {depth} ({_FORMATS.get(kind, 'undefined numbers')}, {color}{planes}{ends}{packed})"


def remedy(tags: Tags) -> str:
    """How to store an unsupported image instead."""
    bands, photometric = samples(tags), tags.get(262, (-1,))[0]
    if has_values(tags):
        return f"Give --channels {bands}, or choose some with --bands" if is_installed() else EXTRA
    if bands == 1:
        return "Save it with 8 or 16 bits, or as floats from 0 to 1"
    if bands == 3 or photometric in (5, 6, 8):
        return "Save it as 8-bit RGB, or as .npy of shape (3, H, W)"
    return f"Save it as .npy of shape ({bands}, H, W) and train with --channels {bands}"


def has_values(tags: Tags) -> bool:
    """Whether the samples are values, which tifffile reads: integers or floats of one type, grey, RGB or bands."""
    bits, kinds = tags.get(258, (1,)), tags.get(339, (1,))
    one_type = len(set(bits)) == 1 and len(set(kinds)) == 1 and kinds[0] in (1, 2, 3)
    return one_type and tags.get(262, (-1,))[0] in (0, 1, 2)


def _compression(tags: Tags) -> int:
    return tags.get(259, (1,))[0]


def is_unsigned_32(tags: Mapping[int, Any]) -> bool:
    """Whether a file has one band of 32-bit unsigned integers, the upper half of which Pillow reads as negative."""
    bits, kind = tags.get(258, (1,)), tags.get(339, (1,))
    return tuple(bits) == (32,) and tuple(kind) == (1,)


def has_few_bits(tags: Tags) -> bool:
    """Whether samples of fewer than 8 bits are values, which Pillow stretches to 8 bits."""
    return has_values(tags) and tags.get(258, (1,))[0] < 8


def is_plain(tags: Tags) -> bool:
    """Whether Pillow reads the pixels unchanged; in other files it drops bits, bands or signs, or swaps bytes."""
    if _compression(tags) not in _BY_PILLOW or tags[_BIG_ENDIAN] == tags[_BIG] == (1,) or tags.get(32997, (1,)) != (1,):
        return False
    bands, photometric, extra = samples(tags), tags.get(262, (-1,))[0], len(tags.get(338, ()))
    bits, kinds = tags.get(258, (1,)), tags.get(339, (1,))
    planes, packed, in_order = tags.get(284) == (2,), _compression(tags) != 1, tags.get(266, (1,)) == (1,)
    if len(set(bits)) > 1 or len(bits) not in (1, bands) or len(set(kinds)) > 1:
        return False
    number = (_FORMATS.get(kinds[0], "")[:1], bits[0])  # u8, s16, f32
    if bands == 1:
        if number in (("u", 1), ("u", 2), ("u", 4), ("u", 8)):
            return photometric in (0, 1, 3)
        if number == ("u", 16):
            return in_order and photometric in (0, 1)
        wide = number in (("s", 16), ("u", 32), ("s", 32), ("f", 32))  # decompressed ones must be in native byte order
        return wide and in_order and photometric == 1 and not (packed and tags[_BIG_ENDIAN] == (1,))
    if number != ("u", 8):
        return False
    match photometric:
        case 1:  # with alpha or another extra band
            return bands == 2 and extra == 1 and not planes
        case 2:
            return bands == 3 + extra <= 6 or (bands == 4 and extra == 0)
        case 5:
            return bands == 4 and extra == 0 and tags.get(332, (1,)) == (1,)
        case 6:  # Pillow does not support the subsampling of uncompressed ones
            return bands == 3 and packed and not planes
    return False


def tile_bytes(tags: Tags) -> int:
    """Bytes of one decompressed tile; 0 in a file of strips."""
    return tags.get(322, (0,))[0] * tags.get(323, (0,))[0] * samples(tags) * tags.get(258, (1,))[0] // 8


def check(file: IO[bytes]) -> None:
    """Raises Unsupported if Pillow would alter the pixels, or a tile would take too much memory."""
    tags = read_tags(file, limits.MAX_BYTES)
    if tile_bytes(tags) > limits.MAX_BYTES:
        raise Unsupported(f"a TIFF with tiles of {tile_bytes(tags) / 2**20:.0f} MiB, {TOO_MUCH}")
    if not is_plain(tags):
        raise unread(tags)


def unread(tags: Tags) -> Unsupported:
    """The error for an unsupported file."""
    return Unsupported(f"a TIFF of {described(tags)}. {remedy(tags)}")

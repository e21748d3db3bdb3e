"""PNG and TIFF files written by hand: what Pillow cannot write, and what no sound program would."""

import struct
import zlib
from collections.abc import Sequence

import numpy as np

PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    array: np.ndarray, colour: int | None = None, *, bits: int | None = None, before: bytes = b"", after: bytes = b"",
    interlaced: bool = False, filters: Sequence[int] = (0, 1, 2, 3, 4),
) -> bytes:  # fmt: skip
    """A PNG file of (H, W) or (H, W, C) integers, its rows filtered in turn.

    Args:
        colour: PNG's colour type; without it the one of C channels.
        bits: of a sample; without it those of the array. Fewer than 8 are packed.
        before, after: chunks around the pixels.
    """
    array = array[..., None] if array.ndim == 2 else array
    bits = bits or 8 * array.dtype.itemsize
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[array.shape[2]] if colour is None else colour
    step = max(1, array.shape[2] * bits // 8)
    parts = [array[y::dy, x::dx] for x, y, dx, dy in PASSES] if interlaced else [array]
    lines = b"".join(_filtered(part, bits, step, filters) for part in parts if part.size)
    head = struct.pack(">IIBBBBB", array.shape[1], array.shape[0], bits, colour, 0, 0, interlaced)
    body = chunk(b"IHDR", head) + before + chunk(b"IDAT", zlib.compress(lines)) + after + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def _filtered(array: np.ndarray, bits: int, step: int, filters: Sequence[int]) -> bytes:
    rows = np.zeros((1, 0), np.int64)
    out = []
    for y, row in enumerate(array):
        now = np.frombuffer(_packed(row.reshape(-1), bits), np.uint8).astype(np.int64)
        up = rows[-1] if rows.shape[1] else np.zeros_like(now)
        left, corner = (np.concatenate([np.zeros(step, np.int64), x])[: len(now)] for x in (now, up))
        nearest = np.stack([left, up, corner])
        paeth = nearest[np.abs(nearest - (left + up - corner)).argmin(0), np.arange(len(now))]
        kind = filters[y % len(filters)]
        guess = (np.zeros_like(now), left, up, (left + up) // 2, paeth)[kind]
        out.append(bytes([kind]) + ((now - guess) % 256).astype(np.uint8).tobytes())
        rows = now[None]
    return b"".join(out)


def _packed(samples: np.ndarray, bits: int) -> bytes:
    """Samples one after the other, most significant bits first, up to a whole byte."""
    if bits >= 8:
        return samples.astype(f">u{bits // 8}").tobytes()
    places = (samples[:, None] >> np.arange(bits)[::-1]) & 1
    return np.packbits(places.astype(np.uint8).reshape(-1)).tobytes()


def tiff(
    array: np.ndarray, photometric: int = 1, *, extra: Sequence[int] = (), bits: int | None = None, order: str = "<",
    planar: bool = False, tile: int = 0, packed: bool = False, more: Sequence[tuple[int, int, Sequence[int]]] = (),
    big: bool = False,
) -> bytes:  # fmt: skip
    """A TIFF file of an array (H, W, C), its tags as they are told.

    Args:
        extra: what the ExtraSamples tag says; no tag without it.
        bits: of a sample; without it those of the array.
        order: < for little endian, > for big endian.
        planar: a plane per channel.
        tile: pixels a side of a tile; strips of 5 rows without it.
        packed: deflated.
        more: further tags: number, type (3 for short, 4 for long) and values.
        big: BigTIFF.
    """
    height, width, channels = array.shape
    bits = bits or 8 * array.dtype.itemsize
    kind = {"u": 1, "i": 2, "f": 3, "b": 1, "c": 6}[array.dtype.kind]
    parts = []
    for plane in np.split(array, channels, axis=2) if planar else [array]:
        if tile:
            down, right = -height % tile, -width % tile
            whole = np.pad(plane, ((0, down), (0, right), (0, 0)))
            pieces = [whole[y : y + tile, x : x + tile] for y in range(0, height, tile) for x in range(0, width, tile)]
        else:
            pieces = [plane[y : y + 5] for y in range(0, height, 5)]
        for piece in pieces:
            if bits < 8 or bits == 12:
                data = b"".join(_packed_any(row.reshape(-1), bits) for row in piece)
            else:
                data = piece.astype(array.dtype.newbyteorder(order)).tobytes()  # type: ignore[arg-type]
            parts.append(zlib.compress(data) if packed else data)
    tags: list[tuple[int, int, Sequence[int]]] = [
        (256, 4, [width]), (257, 4, [height]), (258, 3, [bits] * channels), (259, 3, [8 if packed else 1]),
        (262, 3, [photometric]), (277, 3, [channels]), (284, 3, [2 if planar else 1]), (339, 3, [kind] * channels),
    ]  # fmt: skip
    tags += [(338, 3, extra)] if extra else []
    tags += [(322, 4, [tile]), (323, 4, [tile])] if tile else [(278, 4, [5])]
    places, sizes = (324, 325) if tile else (273, 279)
    tags += [(places, 4, [0] * len(parts)), (sizes, 4, [len(part) for part in parts]), *more]
    return _tiff(sorted({tag[0]: tag for tag in tags}.values()), parts, places, order, big)


def _packed_any(samples: np.ndarray, bits: int) -> bytes:
    places = (samples.astype(np.int64)[:, None] >> np.arange(bits)[::-1]) & 1
    return np.packbits(places.astype(np.uint8).reshape(-1)).tobytes()


def _tiff(
    tags: Sequence[tuple[int, int, Sequence[int]]], parts: Sequence[bytes], places: int, order: str, big: bool
) -> bytes:
    number, inline = ("Q", 8) if big else ("I", 4)
    start = 16 if big else 8
    end = start + (8 if big else 2) + len(tags) * (20 if big else 12) + inline
    codes = {3: "H", 4: "I", 7: "B"}

    def values(tag: int, kind: int, data: Sequence[int], first: int) -> bytes:
        if tag == places:
            data = [first + sum(len(part) for part in parts[:i]) for i in range(len(parts))]
        return struct.pack(f"{order}{len(data)}{codes[kind]}", *data)

    lengths = [len(values(*tag, 0)) for tag in tags]
    first = end + sum(length for length in lengths if length > inline)
    entries, blobs = b"", b""
    for tag, kind, data in tags:
        raw = values(tag, kind, data, first)
        place = raw.ljust(inline, b"\0") if len(raw) <= inline else struct.pack(order + number, end + len(blobs))
        blobs += raw if len(raw) > inline else b""
        entries += struct.pack(f"{order}HH{number}", tag, kind, len(data)) + place
    mark = b"II" if order == "<" else b"MM"
    head = struct.pack(order + "HHHQ", 43, 8, 0, start) if big else struct.pack(order + "HI", 42, start)
    count = struct.pack(order + ("Q" if big else "H"), len(tags))
    return mark + head + count + entries + bytes(inline) + blobs + b"".join(parts)

"""Odd inputs, written from a seed: image files, folders, lists, Datasets, weights files and folders of runs.

A case is a function of its kind and its number alone. Each kind deals its ingredients like cards: as many cases as a
round takes hold each ingredient once, in an order that the round draws, beside whatever else chance adds.
"""

import io
import os
import pickle
import socket
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.utils.data import Dataset, IterableDataset

T = TypeVar("T")
Rng = np.random.Generator
Fate = Literal["used", "broken", "either"]
"""What becomes of an image: it is seen as it is, it is named with a reason, or its decoder may choose between both."""

WAITING: tuple[str, ...] = ()
"""Ingredients that are not dealt."""

WHITE = 255.0


def drawn(*key: object) -> Rng:
    """A generator that depends on the key alone."""
    return np.random.default_rng([zlib.crc32(str(part).encode()) for part in key])


def dealt(pool: Sequence[T], kind: str, index: int, hand: int) -> list[T]:
    """The ingredients of a case."""
    pool = [each for each in pool if name_of(each) not in WAITING]
    turns = -(-len(pool) // hand)
    order = drawn("deck", kind, index // turns).permutation(len(pool))
    return [pool[i] for i in order[index % turns * hand :][:hand]]


def name_of(ingredient: object) -> str:
    return ingredient[0] if isinstance(ingredient, tuple) else getattr(ingredient, "__name__", str(ingredient))


# ---------------------------------------------------------------- image files


@dataclass(frozen=True)
class Picture:
    """The content of an image file, and what is seen in it."""

    content: bytes
    suffix: str
    fate: Fate = "used"
    look: np.ndarray | None = None
    """(H, W, 3) in [0, 1], where it is known; it holds for every image that is read, whatever its fate."""
    near: float = 0.02
    """Mean deviation from `look` that is allowed."""
    about: str = ""


def scene(rng: Rng, *, most: int = 5000) -> np.ndarray:
    """Smooth colours and stripes (H, W, 3) uint8; now and then of one pixel, a thread of pixels, or large."""
    height, width = (int(side) for side in rng.integers(6, 41, 2))
    match rng.integers(0, 16):
        case 0:
            height, width = 1, 1
        case 1:
            height, width = 1, most
        case 2:
            height, width = most, 1
        case 3:
            height, width = (int(side) for side in rng.integers(150, 250, 2))
    y, x = np.mgrid[:height, :width]
    pixels = 128 + 70 * np.sin(x[..., None] * rng.uniform(0.02, 0.3, 3) + rng.uniform(0, 6, 3))
    pixels = pixels + 40 * np.sin(y[..., None] * rng.uniform(0.02, 0.3, 3) + rng.uniform(0, 6, 3))
    return pixels.clip(0, 255).astype(np.uint8)


def luma(rgb: np.ndarray) -> np.ndarray:
    """(H, W, 3) -> (H, W), of the same dtype."""
    return (rgb @ np.array([0.299, 0.587, 0.114])).astype(rgb.dtype)


def coloured(grey: np.ndarray) -> np.ndarray:
    """(H, W) in [0, 1] -> (H, W, 3)."""
    return np.repeat(grey[..., None], 3, 2).astype(np.float64)


def on_white(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """uint8 colours laid on white, in [0, 1]."""
    share = alpha[..., None] / 255
    return (rgb * share + WHITE * (1 - share)) / 255


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)  # type: ignore[arg-type]
    return file.getvalue()


def _of(
    image: Image.Image, kind: str, look: np.ndarray, near: float = 0.02, suffix: str = "", **options: object
) -> Picture:
    return Picture(saved(image, kind, **options), suffix or f".{kind.lower()}", look=look, near=near)


def jpeg(rng: Rng) -> Picture:
    a = scene(rng)
    return _of(Image.fromarray(a), "JPEG", a / 255, 0.03, ".jpg", quality=95)


def jpeg_grey(rng: Rng) -> Picture:
    a = luma(scene(rng))
    return _of(Image.fromarray(a), "JPEG", coloured(a / 255), 0.03, quality=95)


def jpeg_progressive(rng: Rng) -> Picture:
    a = scene(rng)
    return _of(Image.fromarray(a), "JPEG", a / 255, 0.03, ".jpe", quality=95, progressive=True)


def jpeg_cmyk(rng: Rng) -> Picture:
    a = scene(rng)
    cmyk = np.dstack([255 - a, np.zeros_like(a[..., :1])])
    return _of(Image.fromarray(cmyk, "CMYK"), "JPEG", a / 255, 0.04, quality=97)


def jpeg_turned(rng: Rng) -> Picture:
    a, turn = scene(rng), int(rng.integers(2, 9))
    exif = Image.Exif()
    exif[0x0112] = turn
    upright = [a[:, ::-1], a[::-1, ::-1], a[::-1], a.transpose(1, 0, 2), np.rot90(a, -1), a[::-1, ::-1].transpose(1, 0, 2),
               np.rot90(a)][turn - 2]  # fmt: skip
    return _of(Image.fromarray(a), "JPEG", upright / 255, 0.03, ".jfif", quality=95, exif=exif)


def jpeg_huge_profile(rng: Rng) -> Picture:
    a = scene(rng)
    return _of(Image.fromarray(a), "JPEG", a / 255, 0.03, quality=95, icc_profile=rng.bytes(2 << 20))


def jpeg_odd_metadata(rng: Rng) -> Picture:
    a = scene(rng)
    exif = b"Exif\0\0II*\0\x08\0\0\0\x30\0" + rng.bytes(40)  # promises 48 entries
    return _of(Image.fromarray(a), "JPEG", a / 255, 0.03, quality=95, exif=exif)


def jpeg_and_more(rng: Rng) -> Picture:
    """Cameras and downloads leave bytes behind the picture."""
    made = jpeg(rng)
    return replace(made, content=made.content + rng.bytes(500))


def jpeg_of_two(rng: Rng) -> Picture:
    a = scene(rng)
    return _of(Image.fromarray(a), "MPO", a / 255, 0.04, save_all=True, append_images=[Image.fromarray(a[::-1].copy())])


def png(rng: Rng) -> Picture:
    a = scene(rng)
    return _of(Image.fromarray(a), "PNG", a / 255, 0.001)


def png_grey(rng: Rng) -> Picture:
    a = luma(scene(rng))
    return _of(Image.fromarray(a), "PNG", coloured(a / 255), 0.001)


def png_bit(rng: Rng) -> Picture:
    a = luma(scene(rng)) > 128
    return _of(Image.fromarray(a), "PNG", coloured(a.astype(float)), 0.001)


def png_palette(rng: Rng) -> Picture:
    colours, places = _palette(rng)
    return _of(_with_palette(colours, places), "PNG", colours[places] / 255, 0.001)


def png_palette_transparent(rng: Rng) -> Picture:
    """Entries of a palette are transparent, or nearly so."""
    colours, places = _palette(rng)
    alpha = rng.integers(0, 256, len(colours), dtype=np.uint8)
    look = on_white(colours[places], alpha[places])
    return _of(_with_palette(colours, places), "PNG", look, 0.01, transparency=alpha.tobytes())


def png_cut_out(rng: Rng) -> Picture:
    """Transparent around what it shows, with soft edges, and nothing hidden."""
    a, alpha = _cut_out(scene(rng))
    return _of(Image.fromarray(np.dstack([a, alpha]), "RGBA"), "PNG", on_white(a, alpha), 0.01)


def png_grey_cut_out(rng: Rng) -> Picture:
    a, alpha = _cut_out(np.repeat(luma(scene(rng))[..., None], 3, 2))
    return _of(Image.fromarray(np.dstack([a[..., 0], alpha]), "LA"), "PNG", on_white(a, alpha), 0.01)


def png_with_a_map(rng: Rng) -> Picture:
    """A map of heights where others have transparency."""
    a = scene(rng)
    return _of(Image.fromarray(np.dstack([a, a[..., 0] // 2]), "RGBA"), "PNG", a / 255, 0.001)


def png_grey16(rng: Rng) -> Picture:
    a = luma(scene(rng)).astype(np.uint16) * 16 + 3  # 12 bits, the low ones set
    return _of(Image.fromarray(a), "PNG", coloured(a / 65535), 0.0002)


def png_colour16(rng: Rng) -> Picture:
    a = scene(rng).astype(np.uint16) * 16 + 3
    return Picture(_png(a), ".png", look=a / 65535, near=0.0002, fate="either")


def png_huge_profile(rng: Rng) -> Picture:
    a = scene(rng)
    return _of(Image.fromarray(a), "PNG", a / 255, 0.001, icc_profile=rng.bytes(2 << 20))


def png_huge_text(rng: Rng) -> Picture:
    """A comment that unpacks to 80 MB."""
    a = scene(rng)
    text = b"Comment\0\0" + zlib.compress(bytes(80 << 20), 1)
    return Picture(_png(a, (b"zTXt", text)), ".png", look=a / 255, near=0.001)


def png_damaged_comment(rng: Rng) -> Picture:
    a = scene(rng)
    content = bytearray(_png(a, (b"tEXt", b"Comment\0hello")))
    content[content.index(b"hello")] ^= 1  # its checksum does not hold any more
    return Picture(bytes(content), ".png", "either", a / 255, 0.001)


def png_animated(rng: Rng) -> Picture:
    a = scene(rng)
    return _of(Image.fromarray(a), "PNG", a / 255, 0.001, ".apng", save_all=True, append_images=_frames(a))


def webp(rng: Rng) -> Picture:
    a = scene(rng)
    return _of(Image.fromarray(a), "WEBP", a / 255, 0.04, quality=95)


def webp_cut_out(rng: Rng) -> Picture:
    a, alpha = _cut_out(scene(rng))
    return _of(
        Image.fromarray(np.dstack([a, alpha]), "RGBA"), "WEBP", on_white(a, alpha), 0.01, lossless=True, exact=True
    )


def webp_animated(rng: Rng) -> Picture:
    a = scene(rng)
    return _of(Image.fromarray(a), "WEBP", a / 255, 0.04, lossless=True, save_all=True, append_images=_frames(a))


def gif(rng: Rng) -> Picture:
    colours, places = _palette(rng)
    return _of(_with_palette(colours, places), "GIF", colours[places] / 255, 0.001)


def gif_transparent(rng: Rng) -> Picture:
    colours, places = _palette(rng)
    look = np.where((places == 1)[..., None], 1.0, colours[places] / 255)
    return _of(_with_palette(colours, places), "GIF", look, 0.001, transparency=1, optimize=False)


def gif_animated(rng: Rng) -> Picture:
    colours, places = _palette(rng)
    frames = [_with_palette(colours, np.roll(places, shift, 1)) for shift in (0, 1, 2)]
    return _of(frames[0], "GIF", colours[places] / 255, 0.001, save_all=True, append_images=frames[1:])


def bmp(rng: Rng) -> Picture:
    a = scene(rng)
    return _of(Image.fromarray(a), "BMP", a / 255, 0.001)


def bmp_bit(rng: Rng) -> Picture:
    a = luma(scene(rng)) > 128
    return _of(Image.fromarray(a), "BMP", coloured(a.astype(float)), 0.001, ".dib")


def tiff(rng: Rng) -> Picture:
    a = scene(rng)
    return _of(Image.fromarray(a), "TIFF", a / 255, 0.001)


def tiff_packed(rng: Rng) -> Picture:
    a = scene(rng)
    how = str(rng.choice(["tiff_lzw", "tiff_deflate", "packbits", "zstd"]))
    return _of(Image.fromarray(a), "TIFF", a / 255, 0.001, ".tif", compression=how)


def tiff_jpeg(rng: Rng) -> Picture:
    a = scene(rng)
    return _of(Image.fromarray(a), "TIFF", a / 255, 0.05, compression="jpeg", quality=95)


def tiff_fax(rng: Rng) -> Picture:
    a = luma(scene(rng)) > 128
    return _of(Image.fromarray(a), "TIFF", coloured(a.astype(float)), 0.001, ".tif", compression="group4")


def tiff_grey16(rng: Rng) -> Picture:
    a = luma(scene(rng)).astype(np.uint16) * 16 + 3
    return _of(Image.fromarray(a), "TIFF", coloured(a / 65535), 0.0002, ".tif")


def tiff_float(rng: Rng) -> Picture:
    a = luma(scene(rng)).astype(np.float32) / 255
    return _of(Image.fromarray(a), "TIFF", coloured(a), 0.001, ".tif")


def tiff_cmyk(rng: Rng) -> Picture:
    a = scene(rng)
    return _of(Image.fromarray(np.dstack([255 - a, a[..., :1] * 0]), "CMYK"), "TIFF", a / 255, 0.02, ".tif")


def tiff_pages(rng: Rng) -> Picture:
    a = scene(rng)
    return _of(Image.fromarray(a), "TIFF", a / 255, 0.001, ".tif", save_all=True, append_images=_frames(a))


def tiff_circle(rng: Rng) -> Picture:
    """The page after the first is the first."""
    a = scene(rng)
    return Picture(_tiff(a, after=8), ".tif", look=a / 255, near=0.001)


def tiff_cut_out(rng: Rng) -> Picture:
    a, alpha = _cut_out(scene(rng))
    return Picture(_tiff(np.dstack([a, alpha]), extra=2), ".tif", look=on_white(a, alpha), near=0.01)


def tiff_infrared(rng: Rng) -> Picture:
    """A fourth band as aerial images have it, which some programs call transparency."""
    a = scene(rng)
    return Picture(
        _tiff(np.dstack([a, a[..., 0] // 8]), extra=int(rng.choice([0, 2]))), ".tif", look=a / 255, near=0.001
    )


def tiff_colour16(rng: Rng) -> Picture:
    a = scene(rng).astype(np.uint16) * 16 + 3
    return Picture(_tiff(a, apart=bool(rng.integers(2))), ".tif", "either", a / 65535, 0.0002)


def tiff_bands(rng: Rng) -> Picture:
    bands = int(rng.choice([2, 5, 8, 13]))
    a = np.dstack([luma(scene(rng, most=50))] * bands).astype(rng.choice([np.uint8, np.uint16]))
    return Picture(_tiff(a), ".tif", "either")


def tiff_odd_numbers(rng: Rng) -> Picture:
    a = luma(scene(rng)).astype([np.int16, np.int32, np.uint32, np.float64][rng.integers(4)])
    return Picture(_tiff(a[..., None]), ".tif", "either")


def ppm(rng: Rng) -> Picture:
    a = scene(rng)
    return _of(Image.fromarray(a), "PPM", a / 255, 0.001)


def pgm16(rng: Rng) -> Picture:
    a = luma(scene(rng)).astype(np.uint16) * 16 + 3
    head = f"P5\n# a comment\n{a.shape[1]} {a.shape[0]}\n65535\n".encode()
    return Picture(head + a.astype(">u2").tobytes(), ".pgm", look=coloured(a / 65535), near=0.0002)


def pbm_text(rng: Rng) -> Picture:
    a = luma(scene(rng, most=300)) > 128
    text = "\n".join(" ".join("01"[not bit] for bit in row) for row in a)
    return Picture(
        f"P1\n{a.shape[1]} {a.shape[0]}\n{text}\n".encode(), ".pbm", look=coloured(a.astype(float)), near=0.001
    )


def tga(rng: Rng) -> Picture:
    a = scene(rng)
    return _of(Image.fromarray(a), "TGA", a / 255, 0.001, rle=bool(rng.integers(2)))


def ico(rng: Rng) -> Picture:
    a = scene(rng, most=200)
    return _of(Image.fromarray(a), "ICO", a / 255, 0.001, sizes=[(a.shape[1], a.shape[0])])


def jpeg2000(rng: Rng) -> Picture:
    a = scene(rng, most=500)
    return _of(Image.fromarray(a), "JPEG2000", a / 255, 0.02, ".jp2")


def avif(rng: Rng) -> Picture:
    a = scene(rng, most=500)
    return _of(Image.fromarray(a), "AVIF", a / 255, 0.05, quality=95)


def npy(rng: Rng) -> Picture:
    a = scene(rng)
    return Picture(_npy(a), ".npy", look=a / 255, near=0.001)


def npy_planes(rng: Rng) -> Picture:
    a = scene(rng)
    a = a if 3 not in a.shape[:2] else a[:1]
    return Picture(_npy(np.ascontiguousarray(a.transpose(2, 0, 1))), ".npy", look=a / 255, near=0.001)


def npy_grey16(rng: Rng) -> Picture:
    a = luma(scene(rng)).astype(">u2" if rng.integers(2) else "<u2") * 16
    return Picture(_npy(a), ".npy", look=coloured(a / 65535), near=0.0002)


def npy_float(rng: Rng) -> Picture:
    a = (scene(rng) / 255).astype(rng.choice([np.float16, np.float32, np.float64]))
    return Picture(_npy(np.asfortranarray(a)), ".npy", look=a.astype(float), near=0.001)


def npy_bool(rng: Rng) -> Picture:
    a = luma(scene(rng)) > 128
    return Picture(_npy(a), ".npy", look=coloured(a.astype(float)), near=0.001)


GOOD: tuple[Callable[[Rng], Picture], ...] = (
    jpeg, jpeg_grey, jpeg_progressive, jpeg_cmyk, jpeg_turned, jpeg_huge_profile, jpeg_odd_metadata, jpeg_and_more,
    jpeg_of_two, png, png_grey, png_bit, png_palette, png_palette_transparent, png_cut_out, png_grey_cut_out, png_with_a_map,
    png_grey16, png_colour16, png_huge_profile, png_huge_text, png_damaged_comment, png_animated, webp,
    webp_cut_out, webp_animated, gif, gif_transparent, gif_animated, bmp, bmp_bit, tiff, tiff_packed, tiff_jpeg,
    tiff_fax, tiff_grey16, tiff_float, tiff_cmyk, tiff_pages, tiff_circle, tiff_cut_out, tiff_infrared,
    tiff_colour16, tiff_bands, tiff_odd_numbers, ppm, pgm16, pbm_text, tga, ico, jpeg2000, avif, npy, npy_planes,
    npy_grey16, npy_float, npy_bool,
)  # fmt: skip
"""Image files that are whole."""


def _palette(rng: Rng) -> tuple[np.ndarray, np.ndarray]:
    """Four colours, and which of them each pixel has."""
    colours = rng.integers(0, 256, (4, 3), dtype=np.uint8)
    return colours, scene(rng)[..., 0] // 64


def _with_palette(colours: np.ndarray, places: np.ndarray) -> Image.Image:
    image = Image.fromarray(places)
    image.putpalette(colours.tobytes())  # which makes it one of mode P
    return image


def _cut_out(a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Colours that are black where nothing is to be seen, and their transparency."""
    alpha = np.full(a.shape[:2], 255, np.uint8)
    if a.shape[1] > 7:
        alpha[:, : a.shape[1] // 4] = 0
        alpha[:, a.shape[1] // 4] = 128
    return np.where((alpha > 0)[..., None], a, 0).astype(np.uint8), alpha


def _frames(a: np.ndarray) -> list[Image.Image]:
    return [Image.fromarray(np.roll(a, shift, 1)) for shift in (1, 2)]


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _png(a: np.ndarray, *chunks: tuple[bytes, bytes]) -> bytes:
    """RGB of 8 or 16 bits: Pillow writes no colour of 16."""
    bits = 8 * a.dtype.itemsize
    rows = b"".join(b"\0" + row.astype(f">u{bits // 8}").tobytes() for row in a)
    head = struct.pack(">IIBBBBB", a.shape[1], a.shape[0], bits, 2, 0, 0, 0)
    parts = [(b"IHDR", head), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*part) for part in parts)


def _tiff(a: np.ndarray, *, extra: int = 0, apart: bool = False, after: int = 0) -> bytes:
    """(H, W, bands) of any number type; the bands side by side or one `apart` from the other.

    `extra` says what bands beyond the colours are (0 nothing, 2 transparency), `after` where the next page begins.
    """
    height, width, bands = a.shape
    bits, colours = 8 * a.dtype.itemsize, 3 if bands in (3, 4) else 1
    data = (a.transpose(2, 0, 1) if apart else a).astype(a.dtype.newbyteorder("<")).tobytes()
    strips = bands if apart else 1
    tags: list[tuple[int, str, list[int]]] = [
        (256, "I", [width]), (257, "I", [height]), (258, "H", [bits] * bands), (259, "H", [1]),
        (262, "H", [2 if colours == 3 else 1]), (273, "I", [0] * strips), (277, "H", [bands]), (278, "I", [height]),
        (279, "I", [len(data) // strips] * strips), (284, "H", [2 if apart else 1]),
        *([(338, "H", [extra] * (bands - colours))] if bands > colours else []),
        (339, "H", [{"u": 1, "i": 2, "f": 3}[a.dtype.kind]] * bands),
    ]  # fmt: skip
    size = {"H": 2, "I": 4}
    far = 8 + 2 + 12 * len(tags) + 4
    start = far + sum(size[t] * len(values) for _, t, values in tags if size[t] * len(values) > 4)
    entries, blobs = b"", b""
    for tag, t, values in tags:
        if tag == 273:
            values = [start + i * (len(data) // strips) for i in range(strips)]
        packed = struct.pack(f"<{len(values)}{t}", *values)
        entries += struct.pack("<HHI", tag, 3 if t == "H" else 4, len(values))
        if len(packed) > 4:
            entries += struct.pack("<I", far + len(blobs))
            blobs += packed
        else:
            entries += packed.ljust(4, b"\0")
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", after) + blobs + data


def _npy(a: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, a)
    return file.getvalue()


# ---------------------------------------------------------------- files that are no images, or none any more


class Trap:
    """Something that writes a file when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("TRAPPED",)


def not_an_image(rng: Rng) -> Picture:
    texts = (
        b"<html><body>404 Not Found</body></html>", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.4\n1 0 obj\n", b"\x1f\x8b\x08\0" + bytes(60),
        "{\"a\": 1}".encode("utf-16"), b"\0" * 500, b"\xff" * 500, b"\n", b"RIFF\x10\0\0\0WEBPVP8 ", b"GIF89a", b"BM",
        b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"II*\0", b"P6\n3 3\n255\n", b"8BPS\0\1" + bytes(60), rng.bytes(300),
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n{} loop\n",
    )  # fmt: skip
    suffixes = (".jpg", ".jpeg", ".png", ".gif", ".tif", ".webp", ".bmp", ".ppm", ".ico", ".avif", ".jp2", ".npy")
    return Picture(texts[rng.integers(len(texts))], str(rng.choice(suffixes)), "broken")


def empty(rng: Rng) -> Picture:
    return Picture(b"", str(rng.choice([".jpg", ".png", ".npy", ".tif"])), "broken")


def png_of_too_many_pixels(rng: Rng) -> Picture:
    side = int(rng.choice([13_000, 60_000, 2**31 - 1]))
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1 << 20))
    content = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")
    return Picture(content, ".png", "broken")


def gif_of_too_many_pixels(rng: Rng) -> Picture:
    content = bytearray(gif(rng).content)
    content[6:10] = b"\xff\xff\xff\xff"
    return Picture(bytes(content), ".gif", "broken")


def jpeg_without_height(rng: Rng) -> Picture:
    content = bytearray(jpeg(rng).content)
    at = content.index(b"\xff\xc0") + 5
    content[at : at + 2] = b"\0\0"
    return Picture(bytes(content), ".jpg", "broken")


def npy_of_objects(rng: Rng) -> Picture:
    file = io.BytesIO()
    np.save(file, np.array([Trap(), 1], dtype=object), allow_pickle=True)
    content = file.getvalue() if rng.integers(2) else pickle.dumps(Trap())
    return Picture(content, ".npy", "broken")


def npy_odd(rng: Rng) -> Picture:
    arrays: tuple[Callable[[], np.ndarray], ...] = (
        lambda: np.zeros((4, 4), complex), lambda: np.zeros((4, 4), np.int64), lambda: np.zeros((2, 3, 4, 4), np.uint8),
        lambda: np.zeros((0, 4, 3), np.uint8), lambda: np.full((4, 4), np.nan, np.float32), lambda: np.zeros(5, np.uint8),
        lambda: np.full((4, 4), 200.0, np.float32), lambda: np.zeros((4, 4, 7), np.uint8), lambda: np.array(3, np.uint8),
        lambda: np.zeros((4, 4), [("r", "u1"), ("g", "u1")]), lambda: np.zeros((4, 4), "M8[s]"),
        lambda: np.full((4, 4), "text"),
    )  # fmt: skip
    return Picture(_npy(arrays[rng.integers(len(arrays))]()), ".npy", "broken")


def npy_with_a_lying_head(rng: Rng) -> Picture:
    """Its head promises more than the file, or the machine, holds."""
    shape = ["(1000000, 1000000, 3)", "(99999999999, 3)", "(40, 40, 3)", "(-1, 4)", "(4, 4", "()"][rng.integers(6)]
    head = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return Picture(b"\x93NUMPY\1\0" + struct.pack("<H", len(head)) + head.encode() + bytes(30), ".npy", "broken")


def zip_named_npy(rng: Rng) -> Picture:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.npy", npy(rng).content)
    return Picture(file.getvalue(), ".npy", "broken")


def truncated(rng: Rng) -> Picture:
    """The first part of a good file. What is left may be all that is needed only where it is nearly all."""
    made = GOOD[rng.integers(len(GOOD))](rng)
    at = int(len(made.content) * rng.uniform(0.02, 0.95))
    return replace(made, content=made.content[:at], fate="either", about=f"{at} bytes of")


def flipped(rng: Rng) -> Picture:
    """A good file with some wrong bits."""
    made = GOOD[rng.integers(len(GOOD))](rng)
    content = bytearray(made.content)
    reach = len(content) if rng.integers(2) else min(len(content), 200)  # heads decide most
    for at in rng.integers(0, reach, int(rng.integers(1, 12))):
        content[at] ^= 1 << int(rng.integers(8))
    return replace(made, content=bytes(content), fate="either", look=None, about="flipped bits in")


def zeroed(rng: Rng) -> Picture:
    """The end of a good file never reached the disk."""
    made = GOOD[rng.integers(len(GOOD))](rng)
    at = int(len(made.content) * rng.uniform(0.02, 0.95))
    zeros = bytes(len(made.content) - at)
    return replace(made, content=made.content[:at] + zeros, fate="either", look=None, about="zeros at the end of")


def joined(rng: Rng) -> Picture:
    """The beginning of one file and the end of another."""
    a, b = (GOOD[i](rng) for i in rng.integers(len(GOOD), size=2))
    content = a.content[: len(a.content) // 2] + b.content[len(b.content) // 2 :]
    return replace(a, content=content, fate="either", look=None, about="half of another file in")


BAD: tuple[Callable[[Rng], Picture], ...] = (
    not_an_image, not_an_image, not_an_image, empty, png_of_too_many_pixels, gif_of_too_many_pixels,
    jpeg_without_height, npy_of_objects, npy_odd, npy_odd, npy_with_a_lying_head, zip_named_npy,
    *[truncated, flipped, flipped, zeroed, joined] * 3,
)  # fmt: skip
"""Files with the name of an image that hold none, or a damaged one."""

# ---------------------------------------------------------------- names

FORGED = "FORGED"
"""What stands behind a line break in a name. No line of the console may begin with it."""

NAMES: tuple[tuple[str, str], ...] = (
    ("plain", "photo"),
    ("spaces", "my  holiday photo"),
    ("leading and trailing space", " photo "),
    ("composed", "Ärzte caf\u00e9"),
    ("decomposed", "A\u0308rzte cafe\u0301"),
    ("chinese", "照片"),
    ("emoji", "👩‍🔬🏳️‍🌈"),
    ("right to left", "photo\u202egpj.exe"),
    ("newline", f"a\n{FORGED} error: the disk is full"),
    ("carriage return", f"a\r{FORGED} Verdict: learning"),
    ("next line", f"a\x85{FORGED}"),
    ("line separator", f"a\u2028{FORGED}"),
    ("escape: title", "a\x1b]0;owned\x07"),
    ("escape: colours and clear", "a\x1b[31m\x1b[2Jred"),
    ("escape: 8 bit", "a\x9b31m"),
    ("backspaces", "a\b\b\b\bsafe"),
    ("tab", "a\tb"),
    ("bell", "a\x07"),
    ("delete", "a\x7f"),
    ("no text", os.fsdecode(b"a\xff\xfe\x80")),
    ("half a character", os.fsdecode("ä".encode()[:1] + b"x")),
    ("long", "n" * 230),
    ("option", "-x"),
    ("long option", "--out"),
    ("help", "--help"),
    ("quotes", 'it\'s "quoted" `here`'),
    ("shell", "$(touch TRAPPED); touch TRAPPED & # |>"),
    ("format", "%s %d {0} {name} %(asctime)s"),
    ("markup", "[bold]b[/bold] [/] [link=x]"),
    ("spreadsheet", "=1+1"),
    ("at", "@SUM(1)"),
    ("comment", "#comment"),
    ("pattern", "[a-z]*?"),
    ("backslash", "a\\b\\n"),
    ("dots", "a..b..."),
    ("yaml", "null: {a: &b [*b]}"),
    ("windows", "CON"),
    ("number", "007"),
    ("formula", "$x_{$ $y^$ \\frac{"),
    ("underscore", "_hidden_"),
    ("comma", 'a,b;c"d'),
    ("html", "<script>alert(1)</script>&amp;"),
)


# ---------------------------------------------------------------- folders


@dataclass(frozen=True)
class File:
    """One file of a case that stands for an image."""

    name: str
    """Its path below the data, with what Python puts in the place of bytes that are no text."""
    fate: Fate
    about: str
    look: np.ndarray | None = None
    near: float = 0.02


@dataclass
class Case:
    """What was written, and what is to become of it."""

    kind: str
    index: int
    data: Path
    files: list[File] = field(default_factory=list)
    """In any order."""
    channels: int = 3
    passed: int = 0
    """Files that are none of the images."""
    test: Path | None = None
    test_files: list[File] = field(default_factory=list)
    labels: Literal["good", "refused", "none"] = "none"
    """Whether the first folders can be taken for labels."""
    refused: bool = False
    """Whether nothing can be read from it at all."""
    about: list[str] = field(default_factory=list)
    written: int = 0

    def __str__(self) -> str:
        found = [f"{self.kind} {self.index}", *self.about]
        return "\n  ".join(
            [*found, *(f"{ascii(f.name)}: {f.fate}, {f.about}" for f in [*self.files, *self.test_files])]
        )


def folder_case(place: Path, index: int) -> Case:
    """Images of all kinds, whole and damaged, under odd names, among what else lies in folders."""
    rng = drawn("folder", index)
    case = Case("folder", index, place / "photos", channels=1 if rng.integers(5) == 0 else 3)
    case.data.mkdir()
    below = ["", "", "", f"{_odd(rng)}/", "deep/er/est/"]
    for make in [*dealt(GOOD, "good", index, 9), *dealt(BAD, "bad", index, 4)]:
        _write(case, str(rng.choice(below)), make, rng)
    for special in dealt(SPECIAL, "special", index, 3):
        case.about.append(name_of(special))
        special(case, rng)
    return case


def _odd(rng: Rng, of: Sequence[tuple[str, str]] = NAMES) -> str:
    return of[rng.integers(len(of))][1] if rng.random() < 0.5 else "photo"


def _write(case: Case, below: str, make: Callable[[Rng], Picture], rng: Rng, name: str | None = None) -> File:
    """Writes one image file under a name of its own; now and then with another format's suffix, or in capitals."""
    made = make(rng)
    suffix = made.suffix
    if suffix != ".npy" and rng.random() < 0.15:
        suffix = str(rng.choice([".jpg", ".png", ".tif", ".JPEG", ".WebP"]))
    if rng.random() < 0.15:
        suffix = suffix.upper()
    stem = _odd(rng) if name is None else name
    number, case.written = case.written, case.written + 1
    file = File(f"{below}{number}{stem}{suffix}" if stem == "photo" or rng.integers(2) else f"{below}{stem}{number}{suffix}",
                made.fate, f"{made.about} {make.__name__}".strip(), made.look, made.near)  # fmt: skip
    path = case.data / file.name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(made.content)
    case.files.append(file)
    return file


def hidden_files(case: Case, rng: Rng) -> None:
    for name in (".hidden.jpg", ".DS_Store", "._photo.jpg", ".cache/photo.jpg", ".jpg"):
        path = case.data / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(jpeg(rng).content)
        case.passed += 1


def other_files(case: Case, rng: Rng) -> None:
    names = ("notes.txt", "README", "Thumbs.db", "labels.csv", "scan.heic", "slide.dcm", "photo.jpg.part", "photo.jpg~",
             "photo.jpg ", "jpg", "archive.zip", "photo.jpg.", "a.jpg\n", "IMG_1.CR2", "movie.mp4")  # fmt: skip
    for name in rng.choice(names, 4, replace=False):
        (case.data / str(name)).write_bytes(jpeg(rng).content)
        case.passed += 1


def folder_of_a_run(case: Case, rng: Rng) -> None:
    run = case.data / "runs" / "last"
    (run / "checkpoints").mkdir(parents=True)
    (run / "run.yaml").write_text("format: 1\nmethod: simclr\n")
    for name in ("views.png", "show/pca.png"):
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_bytes(png(rng).content)
    case.passed += 3


def pipe(case: Case, rng: Rng) -> None:
    os.mkfifo(case.data / "pipe.jpg")
    case.files.append(File("pipe.jpg", "broken", "a pipe"))


def a_socket(case: Case, rng: Rng) -> None:
    bound = socket.socket(socket.AF_UNIX)
    before = os.getcwd()
    os.chdir(case.data)  # the path of a socket has 108 bytes at most
    try:
        bound.bind("socket.png")
    finally:
        os.chdir(before)
        bound.close()
    case.files.append(File("socket.png", "broken", "a socket"))


def device(case: Case, rng: Rng) -> None:
    os.symlink("/dev/zero", case.data / "zero.png")
    case.files.append(File("zero.png", "broken", "a link to a device without end"))


def dangling_link(case: Case, rng: Rng) -> None:
    os.symlink("nowhere.jpg", case.data / "dangling.jpg")
    os.symlink("nowhere", case.data / "dangling")
    case.passed += 1
    case.files.append(File("dangling.jpg", "broken", "a link that leads nowhere"))


def looped_link(case: Case, rng: Rng) -> None:
    os.symlink("loop.jpg", case.data / "loop.jpg")
    case.files.append(File("loop.jpg", "broken", "a link to itself"))


def link_to_parent(case: Case, rng: Rng) -> None:
    (case.data / "below").mkdir(exist_ok=True)
    os.symlink("..", case.data / "below" / "up")
    os.symlink(".", case.data / "here")
    os.symlink(case.data.absolute(), case.data / "round")


def linked_folder(case: Case, rng: Rng) -> None:
    """A folder outside, linked once."""
    outside = case.data.parent / "outside"
    outside.mkdir()
    made = png(rng)
    (outside / "photo.png").write_bytes(made.content)
    os.symlink(outside, case.data / "linked")
    case.files.append(File("linked/photo.png", "used", "an image in a linked folder", made.look, made.near))


def link_to_a_file(case: Case, rng: Rng) -> None:
    made = png(rng)
    (case.data.parent / "elsewhere").write_bytes(made.content)
    os.symlink("../elsewhere", case.data / "link.png")
    case.files.append(File("link.png", "used", "a link to an image", made.look, made.near))


def folders_linked_to_each_other(case: Case, rng: Rng) -> None:
    """As many ways as there are orders; each folder counts once."""
    for name in "abcdefg":
        (case.data / "each" / name).mkdir(parents=True)
    for name in "abcdefg":
        for other in "abcdefg":
            os.symlink(f"../{other}", case.data / "each" / name / f"to {other}")
    made = png(rng)
    (case.data / "each" / "a" / "one.png").write_bytes(made.content)
    case.files.append(File("each/a/one.png", "used", "an image that many ways lead to", made.look, made.near))


def folder_named_as_an_image(case: Case, rng: Rng) -> None:
    (case.data / "empty.jpg").mkdir()
    _write(case, "album.png/", png, rng)


def empty_folders(case: Case, rng: Rng) -> None:
    (case.data / "empty" / "empty").mkdir(parents=True)


def hard_link(case: Case, rng: Rng) -> None:
    file = _write(case, "", png, rng, "first")
    os.link(case.data / file.name, case.data / "second.png")
    case.files.append(replace(file, name="second.png"))


def deep_folder(case: Case, rng: Rng) -> None:
    _write(case, "d" * 20 + "/" + "deeper/" * 60, png, rng)


def very_odd_names(case: Case, rng: Rng) -> None:
    for _, name in NAMES[:: int(rng.integers(2, 5))]:
        _write(case, "", png, rng, name)


SPECIAL: tuple[Callable[[Case, Rng], None], ...] = (
    hidden_files, other_files, folder_of_a_run, pipe, a_socket, device, dangling_link, looped_link, link_to_parent,
    linked_folder, link_to_a_file, folders_linked_to_each_other, folder_named_as_an_image, empty_folders, hard_link,
    deep_folder, very_odd_names,
)  # fmt: skip
"""What else lies in folders."""


# ---------------------------------------------------------------- lists


def list_case(place: Path, index: int) -> Case:
    """A text file of paths, in the ways that programs of all systems write one."""
    rng = drawn("list", index)
    case = Case("list", index, place / "photos")
    case.data.mkdir()
    makes = [*dealt(GOOD, "listed good", index, 7), *dealt(BAD, "listed bad", index, 2)]
    for make in makes:
        stem = _odd(rng, [(name, text) for name, text in NAMES if "\n" not in text and "\r" not in text])
        _write(case, str(rng.choice(["", "sub folder/"])), make, rng, stem)
    lines, files = [], list[File]()
    for file in case.files:
        path = str(case.data / file.name)
        relative = f"photos/{file.name}"
        ways = [relative, f"./{relative}", f"photos/../{relative}", path, path.replace("/photos/", "/./photos//")]
        lines.append(ways[rng.integers(len(ways))])
        files.append(replace(file, name=relative))
    for special in dealt(LISTED, "listed", index, 3):
        case.about.append(name_of(special))
        special(case, lines, files, rng)
    ending = str(rng.choice(["\n", "\r\n"]))
    case.about.append(repr(ending))
    content = os.fsencode(ending.join(lines)) + (ending.encode() if rng.integers(2) else b"")
    if rng.integers(3) == 0:
        content = b"\xef\xbb\xbf" + content
        case.about.append("with a byte order mark")
    case.data = place / str(rng.choice(["images.txt", "list", "a list.csv", "-list.txt"]))
    case.data.write_bytes(content)
    case.files = files
    return case


def blank_lines(case: Case, lines: list[str], files: list[File], rng: Rng) -> None:
    lines[2:2] = ["", "   ", "\t"]
    lines.append("")


def comments(case: Case, lines: list[str], files: list[File], rng: Rng) -> None:
    lines[1:1] = ["# a comment", "#photos/0photo.jpg"]


def twice_the_same(case: Case, lines: list[str], files: list[File], rng: Rng) -> None:
    files.append(files[0])
    lines.append(lines[0])


def missing_files(case: Case, lines: list[str], files: list[File], rng: Rng) -> None:
    for name in ("photos/gone.jpg", "/nowhere/gone.jpg", "C:\\photos\\gone.jpg", "https://example.com/gone.jpg"):
        lines.append(name)
        files.append(File(name, "broken", "a missing file"))


def quoted_lines(case: Case, lines: list[str], files: list[File], rng: Rng) -> None:
    made = png(rng)
    (case.data / "quoted.png").write_bytes(made.content)
    for line in ('"photos/quoted.png"', "photos/quoted.png\t3", "photos/quoted.png,cat", " photos/quoted.png"):
        lines.append(line)
        files.append(File(line, "broken", "a line that is more than a path"))


def listed_folder(case: Case, lines: list[str], files: list[File], rng: Rng) -> None:
    lines.append("photos")
    files.append(File("photos", "broken", "a folder"))


def listed_pipe(case: Case, lines: list[str], files: list[File], rng: Rng) -> None:
    os.mkfifo(case.data / "pipe.jpg")
    for name in ("photos/pipe.jpg", "/dev/zero"):
        lines.append(name)
        files.append(File(name, "broken", "no regular file"))


def other_suffixes(case: Case, lines: list[str], files: list[File], rng: Rng) -> None:
    """What a list names is read whatever it is called."""
    made = jpeg(rng)
    for name in ("noted.txt", "without", ".hidden"):
        (case.data / name).write_bytes(made.content)
        lines.append(f"photos/{name}")
        files.append(File(f"photos/{name}", "used", "an image without its suffix", made.look, made.near))


def above_the_list(case: Case, lines: list[str], files: list[File], rng: Rng) -> None:
    made = png(rng)
    place = case.data.parent.parent / f"{case.data.parent.name} beside.png"
    place.write_bytes(made.content)
    lines.append(f"../{place.name}")
    files.append(File(f"../{place.name}", "used", "an image above the list", made.look, made.near))


def the_list_itself(case: Case, lines: list[str], files: list[File], rng: Rng) -> None:
    for name in ("images.txt", "list", "a list.csv"):
        lines.append(name)
        files.append(File(name, "broken", "the list, or nothing"))


def very_long_line(case: Case, lines: list[str], files: list[File], rng: Rng) -> None:
    lines.append("x" * 100_000)
    files.append(File("x" * 100_000, "broken", "a line that is longer than paths may be"))


LISTED: tuple[Callable[[Case, list[str], list[File], Rng], None], ...] = (
    blank_lines, comments, twice_the_same, missing_files, quoted_lines, listed_folder, listed_pipe, other_suffixes,
    above_the_list, the_list_itself, very_long_line,
)  # fmt: skip


# ---------------------------------------------------------------- data from which nothing can be read


def refused_case(place: Path, index: int) -> Case:
    """A folder, list or other thing that holds no images."""
    case = Case("refused", index, place / "images.txt", refused=True)
    (spoil,) = dealt(SPOILED, "spoiled", index, 1)
    case.about.append(name_of(spoil))
    spoil(case, drawn("refused", index))
    return case


def empty_list(case: Case, rng: Rng) -> None:
    case.data.write_bytes(b"")


def only_comments(case: Case, rng: Rng) -> None:
    case.data.write_bytes(b"# nothing\n\n#\r\n")


def all_missing(case: Case, rng: Rng) -> None:
    case.data.write_bytes(os.fsencode("\n".join(f"{name}.jpg" for _, name in NAMES)))


def binary_list(case: Case, rng: Rng) -> None:
    case.data.write_bytes(rng.bytes(4000))


def utf16_list(case: Case, rng: Rng) -> None:
    case.data.write_bytes("photos/a.jpg\n".encode("utf-16"))


def image_as_a_list(case: Case, rng: Rng) -> None:
    case.data = case.data.with_name("image.png")
    case.data.write_bytes(png(rng).content)


def table_as_a_list(case: Case, rng: Rng) -> None:
    case.data = case.data.with_name("labels.csv")
    case.data.write_text("file,label\nphotos/a.jpg,cat\nphotos/b.jpg,dog\n")


def nothing_there(case: Case, rng: Rng) -> None:
    case.data = case.data.with_name(f"nowhere\n{FORGED}\x1b[31m")


def too_long_a_name(case: Case, rng: Rng) -> None:
    case.data = case.data.with_name("x" * 3000)


def pipe_as_a_list(case: Case, rng: Rng) -> None:
    case.data = case.data.with_name("pipe")
    os.mkfifo(case.data)


def endless_list(case: Case, rng: Rng) -> None:
    case.data = Path("/dev/zero")


def empty_folder(case: Case, rng: Rng) -> None:
    case.data = case.data.with_name(_odd(rng))
    case.data.mkdir()


def folder_without_images(case: Case, rng: Rng) -> None:
    case.data = case.data.with_name("others")
    case.data.mkdir()
    for name in ("a.txt", "b\x1b[31m.heic", f"c.\n{FORGED}", "d", f"e.{'x' * 200}"):
        (case.data / name).write_bytes(b"x")


def dangling_list(case: Case, rng: Rng) -> None:
    case.data = case.data.with_name("dangling")
    os.symlink("nowhere", case.data)


def looped_folder(case: Case, rng: Rng) -> None:
    case.data = case.data.with_name("loop")
    os.symlink("loop", case.data)


SPOILED: tuple[Callable[[Case, Rng], None], ...] = (
    empty_list, only_comments, all_missing, binary_list, utf16_list, image_as_a_list, table_as_a_list, nothing_there,
    too_long_a_name, pipe_as_a_list, endless_list, empty_folder, folder_without_images, dangling_list, looped_folder,
)  # fmt: skip


# ---------------------------------------------------------------- labelled folders


def labelled_case(place: Path, index: int) -> Case:
    """Two folders of classes."""
    rng = drawn("labelled", index)
    case = Case("labelled", index, place / "train", test=place / "test", labels="good")
    odd = [name for _, name in NAMES]
    classes = [f"class {i}" for i in range(int(rng.integers(2, 4)))] + [str(rng.choice(odd))] * int(rng.integers(2))
    pool = dealt(GOOD, "labelled good", index, 12)
    for count, split in ((3, "train"), (2, "test")):
        root, files = case.data, case.files
        if split == "test":
            assert case.test is not None
            case.data, case.files = case.test, case.test_files
        for k, name in enumerate(classes):
            for i in range(count):
                _write(case, f"{name}/", png if i == 0 else pool[(k + 3 * i) % len(pool)], rng, "photo")
        case.data, case.files = root, files
    for special in dealt(LABELLED, "labels", index, 2):
        case.about.append(name_of(special))
        special(case, rng)
    return case


def one_class(case: Case, rng: Rng) -> None:
    _only(case, {f.name.split("/")[0] for f in case.files if f.name.split("/")[0] != "class 0"})
    case.labels = "refused"


def one_image_in_a_class(case: Case, rng: Rng) -> None:
    for file in [f for f in case.files if f.name.startswith("class 1/")][1:]:
        (case.data / file.name).unlink()
        case.files.remove(file)


def many_of_one_class(case: Case, rng: Rng) -> None:
    for _ in range(15):
        _write(case, "class 0/", jpeg, rng, "photo")


def class_without_test_images(case: Case, rng: Rng) -> None:
    for _ in range(2):
        _write(case, "only to train on/", png, rng, "photo")


def class_of_the_test_alone(case: Case, rng: Rng) -> None:
    assert case.test is not None
    if case.test_files is case.files:
        return
    folder = case.test / f"unknown\x1b[31m\n{FORGED}"
    folder.mkdir()
    (folder / "a.png").write_bytes(png(rng).content)
    case.test_files.append(File(f"{folder.name}/a.png", "used", "an image of a class of the test alone"))
    case.labels = "refused"


def image_outside_the_classes(case: Case, rng: Rng) -> None:
    _write(case, "", png, rng, f"\n{FORGED}")
    case.labels = "refused"


def empty_class(case: Case, rng: Rng) -> None:
    (case.data / "nobody").mkdir()
    (case.data / "others").mkdir()
    (case.data / "others" / "a.txt").write_text("x")
    case.passed += 1


def class_of_broken_images(case: Case, rng: Rng) -> None:
    for make in (not_an_image, empty, npy_of_objects):
        _write(case, "broken/", make, rng, "photo")


def nested_classes(case: Case, rng: Rng) -> None:
    _write(case, "class 0/class 1/class 2/", png, rng, "photo")


def test_is_a_link(case: Case, rng: Rng) -> None:
    """TEST is TRAIN by another name."""
    case.test = case.data.parent / "linked test"
    os.symlink(case.data.name, case.test)
    case.test_files = case.files


def class_is_a_link(case: Case, rng: Rng) -> None:
    outside = case.data.parent / "outside"
    outside.mkdir()
    made = png(rng)
    (outside / "a.png").write_bytes(made.content)
    os.symlink(outside, case.data / "linked class")
    case.files.append(File("linked class/a.png", "used", "an image of a linked class", made.look, made.near))


def numbered_classes(case: Case, rng: Rng) -> None:
    for name in ("10", "9", "-1", "1.5"):
        _write(case, f"{name}/", png, rng, "photo")


def no_test_images(case: Case, rng: Rng) -> None:
    assert case.test is not None
    case.test = case.test.with_name("empty test")
    case.test.mkdir()
    case.test_files = []
    case.labels = "refused"


def only_broken_test_images(case: Case, rng: Rng) -> None:
    assert case.test is not None
    if case.test_files is case.files:
        return
    for file in case.test_files:
        (case.test / file.name).write_bytes(b"")
    case.test_files = [replace(f, fate="broken", look=None) for f in case.test_files]
    case.labels = "refused"


def _only(case: Case, others: Iterable[str]) -> None:
    for name in others:
        for file in [f for f in case.files if f.name.startswith(f"{name}/")]:
            (case.data / file.name).unlink()
            case.files.remove(file)


LABELLED: tuple[Callable[[Case, Rng], None], ...] = (
    one_class, one_image_in_a_class, many_of_one_class, class_without_test_images, class_of_the_test_alone,
    image_outside_the_classes, empty_class, class_of_broken_images, nested_classes, test_is_a_link, class_is_a_link,
    numbered_classes, no_test_images, only_broken_test_images,
)  # fmt: skip


# ---------------------------------------------------------------- Datasets

Item = tuple[str, Fate, Callable[[Rng], object]]


class _Unreadable(Exception):
    """As another library raises it, with a text that is not for a terminal."""


def _raises(error: BaseException) -> Callable[[Rng], object]:
    def item(rng: Rng) -> object:
        raise error

    return item


def _pil(mode: str) -> Callable[[Rng], object]:
    return lambda rng: Image.fromarray(scene(rng, most=300)).convert(mode)


def _array(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Rng], object]:
    return lambda rng: change(scene(rng, most=300))


ITEMS: tuple[Item, ...] = (
    *((f"PIL {mode}", "used", _pil(mode)) for mode in ("RGB", "L", "1", "P", "CMYK", "RGBA", "YCbCr", "HSV", "LAB")),
    ("PIL LA", "used", lambda rng: Image.fromarray(scene(rng)[..., :2].copy(), "LA")),
    ("PIL I", "used", lambda rng: Image.fromarray(luma(scene(rng)).astype(np.int32))),
    ("PIL I;16", "used", lambda rng: Image.fromarray(luma(scene(rng)).astype(np.uint16))),
    ("PIL F", "used", lambda rng: Image.fromarray(luma(scene(rng)).astype(np.float32) / 255)),
    ("PIL F of 0 to 255", "broken", lambda rng: Image.fromarray(luma(scene(rng)).astype(np.float32) + 2)),
    ("PIL without pixels", "broken", lambda rng: Image.new("RGB", (0, 5))),
    ("PIL of a file cut short", "broken", lambda rng: Image.open(io.BytesIO(png(rng).content[:-40]))),
    ("array", "used", _array(lambda a: a)),
    ("grey array", "used", _array(luma)),
    ("array with one channel", "used", _array(lambda a: luma(a)[..., None])),
    ("array turned round", "used", _array(lambda a: a[::-1, ::-1])),
    ("array of another byte order", "used", _array(lambda a: a.astype(">u2"))),
    ("float array", "used", _array(lambda a: (a / 255).astype(np.float32))),
    ("double array", "used", _array(lambda a: a / 255)),
    ("read-only array", "used", _array(lambda a: np.broadcast_to(a[:1], a.shape))),
    ("array of booleans", "used", _array(lambda a: luma(a) > 128)),
    ("array of int64", "broken", _array(lambda a: a.astype(np.int64))),
    ("array of 0.0 to 255.0", "broken", _array(lambda a: a.astype(np.float32) + 2)),
    ("array of NaN", "broken", _array(lambda a: a * np.float32(np.nan))),
    ("array of objects", "either", _array(lambda a: a.astype(object))),
    ("array of texts", "broken", _array(lambda a: a.astype(str))),
    ("array without pixels", "broken", _array(lambda a: a[:0])),
    ("array of 4 dimensions", "broken", _array(lambda a: a[None])),
    ("number", "either", lambda rng: np.uint8(3)),
    ("tensor", "used", lambda rng: torch.from_numpy(scene(rng, most=300)).permute(2, 0, 1)),
    ("grey tensor", "used", lambda rng: torch.from_numpy(luma(scene(rng, most=300)))),
    ("half tensor", "used", lambda rng: torch.rand(3, 9, 7).half()),
    ("bfloat16 tensor", "used", lambda rng: torch.rand(3, 9, 7).bfloat16()),
    ("tensor with a gradient", "used", lambda rng: torch.rand(3, 9, 7, requires_grad=True)),
    ("normalised tensor", "broken", lambda rng: torch.randn(3, 40, 40)),
    ("complex tensor", "broken", lambda rng: torch.zeros(3, 4, 4, dtype=torch.complex64)),
    ("sparse tensor", "broken", lambda rng: torch.zeros(3, 4, 4).to_sparse()),
    ("tensor without storage", "broken", lambda rng: torch.zeros(3, 4, 4, device="meta")),
    ("OSError", "broken", _raises(OSError("cannot identify image file"))),
    ("ValueError", "broken", _raises(ValueError(f"a\x1b[31m\n{FORGED}"))),
    ("KeyError", "broken", _raises(KeyError("path"))),
    ("IndexError", "broken", _raises(IndexError("list index out of range"))),
    ("RuntimeError", "broken", _raises(RuntimeError("[libjpeg] Premature end of JPEG file"))),
    ("StopIteration", "broken", _raises(StopIteration())),
    ("MemoryError", "either", _raises(MemoryError())),
    ("an error of its own", "broken", _raises(_Unreadable("x" * 100_000))),
    ("None", "either", lambda rng: None),
    ("path", "either", lambda rng: "photo.jpg"),
    ("bytes", "either", lambda rng: png(rng).content),
    ("dict", "either", lambda rng: {"image": scene(rng), "label": 3}),
    ("empty tuple", "either", lambda rng: ()),
    ("list of lists", "either", lambda rng: [[0, 1], [2, 3]]),
)  # fmt: skip
"""Items of a Dataset: what each is, and what becomes of it."""


class Items(Dataset[object]):
    """Items that are made anew each time they are asked for."""

    def __init__(self, items: Sequence[Item], index: int, around: Callable[[object, int], object]) -> None:
        self.items, self.index, self.around = items, index, around

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> object:
        return self.around(self.items[i][2](drawn("item", self.index, i)), i)


class Endless(IterableDataset[object]):
    """No Dataset with places."""

    def __iter__(self) -> Iterator[object]:
        while True:
            yield Image.new("RGB", (4, 4))


class NoLength(Dataset[object]):
    def __getitem__(self, i: int) -> object:
        return Image.new("RGB", (4, 4))


class LyingLength(Items):
    def __len__(self) -> int:
        return len(self.items) + 3


AROUND: tuple[tuple[str, Callable[[object, int], object]], ...] = (
    ("alone", lambda image, i: image),
    ("with a label", lambda image, i: (image, i % 2)),
    ("with more", lambda image, i: [image, i % 2, {"name": f"{i}"}]),
    ("with a text", lambda image, i: (image, "ab"[i % 2])),
    ("with a tensor", lambda image, i: (image, torch.tensor(i % 2))),
    ("with several labels", lambda image, i: (image, [i % 2, 1])),
    ("with None", lambda image, i: (image, None)),
    ("with a dict", lambda image, i: (image, {"label": i % 2})),
)

TARGETS: tuple[tuple[str, Callable[[int], object]], ...] = (
    ("integers", lambda n: [i % 2 for i in range(n)]),
    ("a tensor", lambda n: torch.arange(n) % 2),
    ("an array", lambda n: np.arange(n) % 3),
    ("dicts", lambda n: [{"label": i} for i in range(n)]),
    ("texts", lambda n: ["ab"[i % 2] for i in range(n)]),
    ("too few", lambda n: [0] * (n - 1)),
    ("negative", lambda n: [-1] * n),
    ("floats", lambda n: [0.5] * n),
    ("huge", lambda n: [10**12] * n),
    ("None", lambda n: None),
    ("ragged", lambda n: [[0] * (i % 3) for i in range(n)]),
    ("of several columns", lambda n: np.eye(n, 3)),
)


def dataset_case(place: Path, index: int) -> tuple[Dataset[object], Case]:
    """A torch Dataset with whole and odd items, labelled in one way or another."""
    rng = drawn("dataset", index)
    case = Case("dataset", index, place)
    items = [*dealt([i for i in ITEMS if i[1] == "used"], "items", index, 6),
             *dealt([i for i in ITEMS if i[1] != "used"], "odd items", index, 2)]  # fmt: skip
    if index % 4 == 3:
        items = [item for item in items if item[1] == "used"]
    (way, around), (kind, targets) = AROUND[index % len(AROUND)], TARGETS[index % len(TARGETS)]
    dataset: Dataset[object] = Items(items, index, around)
    case.about = [f"items {way}"]
    if rng.integers(2):
        dataset.targets = targets(len(items))  # type: ignore[attr-defined]
        case.about.append(f"targets are {kind}")
    case.files = [File(f"item {i}", fate, name) for i, (name, fate, _) in enumerate(items)]
    match index % 12:
        case 5:
            dataset, case.refused, case.about = Items([], index, around), True, ["empty"]
        case 7:
            dataset, case.about = Items(items[:1], index, around), ["a single item"]
            case.files = case.files[:1]
        case 9:
            dataset, case.refused, case.about = (Endless if index // 12 % 2 else NoLength)(), True, ["without places"]
        case 11:
            dataset, case.about = LyingLength(items, index, around), ["a length that is too large"]
            case.files += [File(f"item {len(items) + i}", "broken", "an item that is not there") for i in range(3)]
    return dataset, case


# ---------------------------------------------------------------- weights files

Says = Literal["same", "refused", "either"]
"""What `--init` makes of a file: the network that was saved, a refusal, or either of them. Never another network."""
State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Weights:
    name: str
    content: bytes | None
    """None where nothing is written: a name that leads nowhere."""
    says: Says


def _pth(content: object, name: str = "weights.pth", says: Says = "either") -> Weights:
    file = io.BytesIO()
    torch.save(content, file)
    return Weights(name, file.getvalue(), says)


def _safetensors(state: State, metadata: dict[str, str] | None = None, says: Says = "either") -> Weights:
    from safetensors.torch import save

    return Weights("weights.safetensors", save({k: v.contiguous() for k, v in state.items()}, metadata), says)


class _Saved:
    """What a folder of a run holds of its encoder."""

    def __init__(self, run: Path) -> None:
        from safetensors import safe_open

        self.path = run / "encoder.safetensors"
        self.bytes = self.path.read_bytes()
        self.state: State = load_file(self.path)
        with safe_open(self.path, "pt") as file:
            self.head: dict[str, str] = dict(file.metadata())

    def renamed(self, prefix: str) -> State:
        return {prefix + name: value for name, value in self.state.items()}


def plain_state(saved: _Saved, rng: Rng) -> Weights:
    return _pth(saved.state, str(rng.choice(["weights.pth", "weights.ckpt", "weights.bin", "weights"])), "same")


def own_file(saved: _Saved, rng: Rng) -> Weights:
    return Weights("encoder.safetensors", saved.bytes, "same")


def own_file_renamed(saved: _Saved, rng: Rng) -> Weights:
    return Weights("encoder.pth", saved.bytes, "either")


def prefixed(saved: _Saved, rng: Rng) -> Weights:
    prefixes = ("module.", "backbone.", "model.", "net.", "encoder.", "_orig_mod.", "module.backbone.", "model.net.",
                "student.backbone.", "teacher.", "module._orig_mod.", "a.b.c.d.")  # fmt: skip
    state = saved.renamed(str(rng.choice(prefixes)))
    return _pth(state) if rng.integers(2) else _safetensors(state)


def nested(saved: _Saved, rng: Rng) -> Weights:
    key = str(rng.choice(["state_dict", "model", "teacher", "student", "model_state_dict", "ema", "net", "weights"]))
    content: dict[str, object] = {key: saved.state, "epoch": 3, "optimizer": {"state": {}, "param_groups": []}}
    return _pth(content if rng.integers(2) else {"checkpoint": content})


def two_in_one(saved: _Saved, rng: Rng) -> Weights:
    """Two branches, of which one is random."""
    other = {name: torch.randn(value.shape).to(value.dtype) for name, value in saved.state.items()}
    first, second = (saved.state, other) if rng.integers(2) else (other, saved.state)
    branches = [{f"a.{k}": v for k, v in first.items()} | {f"b.{k}": v for k, v in second.items()},
                {"encoder_q": first, "encoder_k": second}]  # fmt: skip
    return _pth(branches[rng.integers(2)], says="refused")


def with_a_head(saved: _Saved, rng: Rng) -> Weights:
    head = {"fc.weight": torch.randn(10, 16), "fc.bias": torch.zeros(10), "optimizer.step": torch.tensor(3)}
    return _pth(saved.state | head)


def with_objects(saved: _Saved, rng: Rng) -> Weights:
    import argparse

    objects = [argparse.Namespace(lr=0.1), Path("photos"), np.float64(0.3), saved.path, Case("a", 1, Path("b"))]
    return _pth({"state_dict": saved.state, "args": objects[rng.integers(len(objects))]})


def trap(saved: _Saved, rng: Rng) -> Weights:
    if rng.integers(2):
        return Weights("weights.pth", pickle.dumps({"state_dict": Trap()}), "refused")
    return _pth({"state_dict": saved.state, "x": Trap()}, says="refused")


def whole_module(saved: _Saved, rng: Rng) -> Weights:
    return _pth(torch.nn.Linear(3, 4), says="refused")


def another_network(saved: _Saved, rng: Rng) -> Weights:
    import timm

    return _pth(timm.create_model(str(rng.choice(["test_resnet", "test_vit", "test_efficientnet"]))).state_dict(),
                says="refused")  # fmt: skip


def other_shapes(saved: _Saved, rng: Rng) -> Weights:
    return _pth({name: torch.cat([value, value]) if value.ndim else value for name, value in saved.state.items()},
                says="refused")  # fmt: skip


def part_of_it(saved: _Saved, rng: Rng) -> Weights:
    names = sorted(saved.state)
    return _pth({name: saved.state[name] for name in names[: len(names) // 5]}, says="refused")


def of_a_larger_one(saved: _Saved, rng: Rng) -> Weights:
    """All tensors fit, and as many more have no place."""
    more = {name.replace("stages.", "stages.9"): value for name, value in saved.state.items() if "stages." in name}
    return _pth(saved.state | more, says="refused")


def other_numbers(saved: _Saved, rng: Rng) -> Weights:
    dtype = [torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.complex64][rng.integers(5)]
    return _pth({k: v.to(dtype) if v.is_floating_point() else v for k, v in saved.state.items()})


def not_finite(saved: _Saved, rng: Rng) -> Weights:
    state = {k: v * float("nan") if v.is_floating_point() else v for k, v in saved.state.items()}
    return _pth(state, says="refused")


def odd_content(saved: _Saved, rng: Rng) -> Weights:
    odd: tuple[object, ...] = ({}, [], None, 3, torch.zeros(3), [saved.state], {1: torch.zeros(3)}, {"state_dict": {}},
                               {"state_dict": None}, "text", {"lookalike": 3}, {"lookalike": {"format": 1}},
                               {"lookalike": {"backbone": 3}, **saved.state})  # fmt: skip
    return _pth(odd[rng.integers(len(odd))])


def sparse_weights(saved: _Saved, rng: Rng) -> Weights:
    return _pth({k: v.to_sparse() if v.ndim > 1 else v for k, v in saved.state.items()})


def cut_off(saved: _Saved, rng: Rng) -> Weights:
    whole = Weights("weights.safetensors", saved.bytes, "refused") if rng.integers(2) else _pth(saved.state)
    content = whole.content or b""
    return Weights(whole.name, content[: int(len(content) * rng.uniform(0, 0.99))], "refused")


def flipped_bits(saved: _Saved, rng: Rng) -> Weights:
    whole = Weights("weights.safetensors", saved.bytes, "refused") if rng.integers(2) else _pth(saved.state)
    content = bytearray(whole.content or b"")
    reach = len(content) if rng.integers(2) else min(3000, len(content))
    for at in rng.integers(0, reach, 5):
        content[at] ^= 1 << int(rng.integers(8))
    return Weights(whole.name, bytes(content), "refused")


def text_weights(saved: _Saved, rng: Rng) -> Weights:
    text = (b"version https://git-lfs.github.com/spec/v1\n", b"<html>404</html>", b"", b"\0" * 8, b"{}", rng.bytes(200))
    suffix = str(rng.choice([".safetensors", ".pth", ".ckpt", ".onnx", ".h5", ""]))
    return Weights(f"weights{suffix}", text[rng.integers(len(text))], "refused")


def odd_safetensors(saved: _Saved, rng: Rng) -> Weights:
    heads = (
        b"\xff" * 8,
        struct.pack("<Q", 2**40),
        struct.pack("<Q", 2) + b"{}",
        struct.pack("<Q", 4) + b"null",
        struct.pack("<Q", 50_000) + b"[" * 50_000,
        struct.pack("<Q", 70) + b'{"a":{"dtype":"F32","shape":[99999999999],"data_offsets":[0,9]}}'.ljust(70),
        struct.pack("<Q", 60) + b'{"a":{"dtype":"F99","shape":[1],"data_offsets":[0,4]}}'.ljust(60) + bytes(4),
    )
    return Weights("weights.safetensors", heads[rng.integers(len(heads))], "refused")


def lying_card(saved: _Saved, rng: Rng) -> Weights:
    """One of ours by its head, which says what cannot be."""
    card = yaml.safe_load(saved.head["lookalike"])
    changes: tuple[dict[str, object], ...] = (
        {"format": 99}, {"format": None}, {"backbone": "resnet18"}, {"backbone": "no_such_network"}, {"backbone": 3},
        {"backbone": "../../etc/passwd"}, {"backbone": f"<a.B>\x1b[31m\n{FORGED}"}, {"channels": 4}, {"channels": -1},
        {"image_size": 10**6}, {"image_size": "large"}, {"mean": [0.5]}, {"std": [0.0, 0.0, 0.0]}, {"mean": None},
        {"std": [float("nan")] * 3}, {"dim": 5}, {"stem": "huge"}, {"interpolation": 7}, {"dtype": "text"},
    )  # fmt: skip
    change = changes[rng.integers(len(changes))]
    import json

    text = json.dumps(card | change)
    if rng.integers(6) == 0:
        text = str(rng.choice(["", "{", "null", "[]", "[" * 20_000, "3"]))
    return _safetensors(saved.state, saved.head | {"lookalike": text})


def no_such_thing(saved: _Saved, rng: Rng) -> Weights:
    names = (
        "gone.pth",
        "timm/no_such_network",
        "torchvision/no_such",
        "torchhub/no_such",
        f"gone\n{FORGED}\x1b[2J",
        "",
        " ",
        "timm/",
        "hf-hub:x/y",
        "https://example.com/x.pth",
        "~",
        "x" * 5000,
        "../..",
        "runs/last",
    )
    return Weights(names[rng.integers(len(names))], None, "refused")


def device_as_weights(saved: _Saved, rng: Rng) -> Weights:
    return Weights(str(rng.choice(["/dev/zero", "/dev/null", "/dev", "/proc/self/mem"])), None, "refused")


WEIGHTS: tuple[Callable[[_Saved, Rng], Weights], ...] = (
    plain_state, own_file, own_file_renamed, prefixed, nested, two_in_one, with_a_head, with_objects, trap,
    whole_module, another_network, other_shapes, part_of_it, of_a_larger_one, other_numbers, not_finite, odd_content,
    sparse_weights, cut_off, flipped_bits, text_weights, odd_safetensors, lying_card, no_such_thing, device_as_weights,
)  # fmt: skip


def weights_case(place: Path, index: int, run: Path) -> tuple[str, Case, Says]:
    """A file that was to hold the encoder of a run, which is one of `run`'s network."""
    rng = drawn("weights", index)
    case = Case("weights", index, place)
    (make,) = dealt(WEIGHTS, "weights", index, 1)
    made = make(_Saved(run), rng)
    case.about = [make.__name__, ascii(made.name)[:200], made.says]
    if made.content is None:
        return made.name, case, made.says
    name = made.name if rng.integers(2) else f"{_odd(rng)}{made.name}"
    (place / name).write_bytes(made.content)
    return f"./{name}", case, made.says


# ---------------------------------------------------------------- folders of runs


def run_case(place: Path, index: int, run: Path) -> tuple[Path, Case]:
    """A copy of a run that something happened to. `place / "treasure"` holds what no command may touch."""
    import shutil

    rng = drawn("run", index)
    case = Case("run", index, place)
    copy = place / (_odd(rng) + " run")
    shutil.copytree(run, copy)
    treasure = place / "treasure"
    treasure.mkdir()
    for name in ("a.safetensors", "last.ckpt", "notes.txt", "run.yaml"):
        (treasure / name).write_bytes(rng.bytes(500))
    for damage in dealt(DAMAGES, "damages", index, 2):
        case.about.append(damage.__name__)
        said = damage(copy, treasure, rng)
        case.about.append(f"  {said}")
    return copy, case


FILES = ("run.yaml", "metrics.jsonl", "encoder.json", "encoder.safetensors", "evaluation.json", "log.txt",
         "checkpoints/last.ckpt", "checkpoints/last.before.ckpt", "checkpoints/epoch=2.ckpt", "features", "checkpoints",
         "views.png", "report.html")  # fmt: skip


def _some_file(run: Path, rng: Rng) -> Path:
    there = [run / name for name in FILES if (run / name).is_file()]
    return there[rng.integers(len(there))] if there else run / "run.yaml"


def _gone(path: Path) -> None:
    import shutil

    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path)


def file_removed(run: Path, treasure: Path, rng: Rng) -> str:
    path = run / FILES[rng.integers(len(FILES))]
    _gone(path)
    return path.name


def file_emptied(run: Path, treasure: Path, rng: Rng) -> str:
    path = _some_file(run, rng)
    path.write_bytes(b"")
    return path.name


def file_cut(run: Path, treasure: Path, rng: Rng) -> str:
    path = _some_file(run, rng)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * rng.uniform(0, 1))])
    return path.name


def bits_flipped(run: Path, treasure: Path, rng: Rng) -> str:
    path = _some_file(run, rng)
    content = bytearray(path.read_bytes()) or bytearray(1)
    for at in rng.integers(0, len(content), 3):
        content[at] ^= 1 << int(rng.integers(8))
    path.write_bytes(content)
    return path.name


def file_of_noise(run: Path, treasure: Path, rng: Rng) -> str:
    path = _some_file(run, rng)
    path.write_bytes(rng.bytes(300))
    return path.name


def folder_in_its_place(run: Path, treasure: Path, rng: Rng) -> str:
    path = _some_file(run, rng)
    _gone(path)
    path.mkdir(parents=True)
    return path.name


def file_in_a_folders_place(run: Path, treasure: Path, rng: Rng) -> str:
    path = run / ["checkpoints", "features"][rng.integers(2)]
    _gone(path)
    path.write_bytes(b"x")
    return path.name


def pipe_in_its_place(run: Path, treasure: Path, rng: Rng) -> str:
    path = _some_file(run, rng)
    _gone(path)
    os.mkfifo(path)
    return path.name


def dangling_link_in_its_place(run: Path, treasure: Path, rng: Rng) -> str:
    path = run / FILES[rng.integers(len(FILES))]
    _gone(path)
    path.symlink_to(["nowhere", path.name, "/dev/zero", treasure / "new"][rng.integers(4)])
    return f"{path.name} -> {os.readlink(path)}"


def link_to_the_treasure(run: Path, treasure: Path, rng: Rng) -> str:
    """A run from a stranger that would have us write, or remove, elsewhere."""
    path = run / FILES[rng.integers(len(FILES))]
    is_folder = path.name in ("features", "checkpoints")
    _gone(path)
    path.symlink_to(treasure if is_folder else treasure / "notes.txt")
    return f"{path.name} -> {os.readlink(path)}"


def temporary_links(run: Path, treasure: Path, rng: Rng) -> str:
    """Names that could be foretold, linked elsewhere."""
    for name in ("encoder", "run", "metrics", "evaluation", "report", "last", "views", "log"):
        for suffix in (".safetensors", ".yaml", ".json", ".jsonl", ".html", ".ckpt", ".png", ".txt"):
            for folder in (run, run / "checkpoints"):
                if folder.is_dir() and not folder.is_symlink():
                    (folder / f".{name}.{os.getpid()}.tmp{suffix}").symlink_to(treasure / "notes.txt")
    return "of this process"


def foreign_files(run: Path, treasure: Path, rng: Rng) -> str:
    """What somebody else put there: it is left as it is."""
    for name in ("notes.txt", "features/mine.safetensors", "checkpoints/mine.ckpt", "checkpoints/notes.corrupt", "mine/x",
                 "checkpoints/epoch=x.ckpt", "tensorboard/mine.txt", ".mine.tmp"):  # fmt: skip
        path = run / name
        if not path.parent.is_symlink() and (path.parent.is_dir() or not path.parent.exists()):
            path.parent.mkdir(exist_ok=True)
            path.write_text("MINE")
    return "beside"


def odd_yaml(run: Path, treasure: Path, rng: Rng) -> str:
    lines = (
        "epochs: many", "epochs: 10000000000000000000000", "seed: 2020-01-01", "unknown: 3", "method: evil:Class",
        "method: 3", "data: 3", "data: [a, b]", f'data: "gone\\e[31m\\n{FORGED}"', "probe: 3", "probe: [a]",
        "out: /elsewhere", "format: 99", "format: x", "channels: 0", "batch_size: -1", "backbone: no_such_network",
        "optim: 3", "optim: {lr: .nan}", "optim: {lr: 1e400}", "views: 3", "views: []", "image_size: 1000000000",
        "temperature: text", "x: !!python/object/apply:os.mkdir [TRAPPED]", "made: 3", "made: {versions: 3}",
        "made: {machine: [1]}", "x: &a [*a]", "{", "\t", "workers: 10000", "precision: fp7", "devices: 64",
        "a: &a [1,1,1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,"
        "*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nepochs: [*e,*e,*e,*e,*e,*e,*e,*e,*e]",
        "x: " + "[" * 5000, "? [a, b]\n: c", "1: 2", "null: null", "init: /dev/zero", "logger: evil", "given: 3",
        "teacher: x", "max_broken: .inf", "hidden_dim: 100000000000", "accumulate: 999", "save_every: 0",
    )  # fmt: skip
    return _lines(run / "run.yaml", [lines[i] for i in rng.integers(0, len(lines), 1)], rng)


def odd_rows(run: Path, treasure: Path, rng: Rng) -> str:
    lines = (
        '{"epoch": 1, "loss": 3}', '{"step": "x"}', '{"step": null, "loss": 1}', '{"step": -5, "loss": 1}', "[1, 2]",
        '{"step": 1', "NaN", '{"step": NaN, "loss": Infinity}', "null", '{"step": 1e400}', '{"step": 3, "loss": "x"}',
        '{"step": 2, "verdict": 3, "why": [], "remedy": {}}', f'{{"step": 2, "verdict": "\\u001b[31m\\n{FORGED}"}}',
        "[" * 100_000, '{"a":' * 50_000, '{"step": 99999999999999999999999999, "loss": 1}', "\x1b[31m", "\ufeff{}",
        '{"step": 1, "epoch": true, "images_per_s": []}', '{"step": 1, "\\u001b[31m": 3}', "x" * 100_000,
        '{"step": ' + "9" * 5000 + "}",
    )  # fmt: skip
    return _lines(run / "metrics.jsonl", [lines[i] for i in rng.integers(0, len(lines), 2)], rng)


def _lines(path: Path, lines: Sequence[str], rng: Rng) -> str:
    """Puts lines between those of a file."""
    if not path.is_file() or path.is_symlink():
        return "not there any more"
    there = path.read_text(errors="replace").splitlines()
    at = int(rng.integers(0, len(there) + 1)) if path.suffix == ".jsonl" else len(there)
    path.write_text("\n".join([*there[:at], *lines, *there[at:]]) + "\n", errors="replace")
    return ascii([line[:80] for line in lines])


ODD_VALUES: tuple[object, ...] = (
    None, 3, -1, 0, 10**30, 0.5, float("nan"), float("inf"), "text", "", f"\x1b[31m\n{FORGED}", [], {}, [3], [0.0, 0.0, 0.0],
    [[]], {"a": 1}, True, "x" * 10_000, [None], ["a", "b", "c"], [10**400], "../../../etc/passwd",
)  # fmt: skip


def odd_json(run: Path, treasure: Path, rng: Rng) -> str:
    import json

    path = run / ["encoder.json", "evaluation.json", "evaluation.json", "encoder.json"][rng.integers(4)]
    if not path.is_file() or path.is_symlink():
        return "not there any more"
    if rng.integers(4) == 0:
        whole = ("", "{", "[]", "null", "3", '"x"', "[" * 100_000, '{"a":' * 50_000, "[3, null, []]", "NaN", "[{}]",
                 '[{"format": 1}]', "\ufeff[]", "9" * 5000)  # fmt: skip
        text = whole[rng.integers(len(whole))]
    else:
        content = json.loads(path.read_text(errors="replace"))
        for _ in range(2):
            entry = content[0] if isinstance(content, list) and content else content
            if isinstance(entry, dict) and entry:
                key = sorted(entry)[rng.integers(len(entry))]
                if rng.integers(4):
                    entry[key] = ODD_VALUES[rng.integers(len(ODD_VALUES))]
                else:
                    del entry[key]
        text = json.dumps(content)
    path.write_text(text)
    return f"{path.name}: {ascii(text)[:300]}"


def trapped_checkpoint(run: Path, treasure: Path, rng: Rng) -> str:
    path = run / "checkpoints" / "last.ckpt"
    if not path.is_file() or path.is_symlink():
        return "not there any more"
    content: object = [Trap(), {"lookalike": Trap()}, {}, [], {"lookalike": {}}, {"lookalike": {"format": 99}},
                       {"lookalike": {"format": 1, "data": 3}, "global_step": "x"}][rng.integers(7)]  # fmt: skip
    path.unlink()  # it may have a second name
    torch.save(content, path)
    return ascii(content)[:100]


def trapped_encoder(run: Path, treasure: Path, rng: Rng) -> str:
    """Weights of another network, or none, under the run's card."""
    path = run / "encoder.safetensors"
    if not path.is_file() or path.is_symlink():
        return "not there any more"
    path.unlink()
    if rng.integers(2):
        path.write_bytes(pickle.dumps(Trap()))
        return "a pickle"
    save_file({"a": torch.zeros(3)}, path)
    return "another network"


def only_the_encoder(run: Path, treasure: Path, rng: Rng) -> str:
    for path in run.iterdir():
        if path.name not in ("encoder.safetensors", "encoder.json"):
            _gone(path)
    return "is left"


DAMAGES: tuple[Callable[[Path, Path, Rng], str], ...] = (
    file_removed, file_emptied, file_cut, bits_flipped, file_of_noise, folder_in_its_place, file_in_a_folders_place,
    pipe_in_its_place, dangling_link_in_its_place, link_to_the_treasure, temporary_links, foreign_files, odd_yaml,
    odd_yaml, odd_yaml, odd_rows, odd_rows, odd_json, odd_json, odd_json, trapped_checkpoint, trapped_encoder,
    only_the_encoder, link_to_the_treasure,
)  # fmt: skip

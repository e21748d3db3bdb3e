"""Odd image files and odd names, each drawn from a generator of random numbers."""

import io
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from PIL import Image

from .files import chunk
from .files import png as png_of
from .files import tiff as tiff_of

Rng = np.random.Generator
Fate = Literal["used", "broken", "either"]
"""What becomes of an image: it is seen as it is, it is named with a reason, or its decoder may choose between both."""

WHITE = 255.0


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
    across = a[::-1, ::-1]
    upright = [a[:, ::-1], across, a[::-1], a.transpose(1, 0, 2), np.rot90(a, -1), across.transpose(1, 0, 2),
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
    return Picture(png_of(a), ".png", look=a / 65535, near=0.0002, fate="either")


def png_huge_profile(rng: Rng) -> Picture:
    a = scene(rng)
    return _of(Image.fromarray(a), "PNG", a / 255, 0.001, icc_profile=rng.bytes(2 << 20))


def png_huge_text(rng: Rng) -> Picture:
    """A comment that unpacks to 80 MB."""
    a = scene(rng)
    text = b"Comment\0\0" + zlib.compress(bytes(80 << 20), 1)
    return Picture(png_of(a, before=chunk(b"zTXt", text)), ".png", look=a / 255, near=0.001)


def png_damaged_comment(rng: Rng) -> Picture:
    a = scene(rng)
    content = bytearray(png_of(a, before=chunk(b"tEXt", b"Comment\0hello")))
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
    content = bytearray(tiff_of(a, 2))
    (entries,) = struct.unpack("<H", content[8:10])
    struct.pack_into("<I", content, 10 + 12 * entries, 8)
    return Picture(bytes(content), ".tif", look=a / 255, near=0.001)


def tiff_cut_out(rng: Rng) -> Picture:
    a, alpha = _cut_out(scene(rng))
    return Picture(tiff_of(np.dstack([a, alpha]), 2, extra=[2]), ".tif", look=on_white(a, alpha), near=0.01)


def tiff_infrared(rng: Rng) -> Picture:
    """A fourth band as aerial images have it, which some programs call transparency."""
    a = scene(rng)
    return Picture(
        tiff_of(np.dstack([a, a[..., 0] // 8]), 2, extra=[int(rng.choice([0, 2]))]), ".tif", look=a / 255, near=0.001
    )


def tiff_colour16(rng: Rng) -> Picture:
    a = scene(rng).astype(np.uint16) * 16 + 3
    return Picture(tiff_of(a, 2, planar=bool(rng.integers(2))), ".tif", "either", a / 65535, 0.0002)


def tiff_bands(rng: Rng) -> Picture:
    bands = int(rng.choice([2, 5, 8, 13]))
    a = np.dstack([luma(scene(rng, most=50))] * bands).astype(rng.choice([np.uint8, np.uint16]))
    return Picture(tiff_of(a, extra=[0] * (bands - 1)), ".tif", "either")


def tiff_odd_numbers(rng: Rng) -> Picture:
    a = luma(scene(rng)).astype([np.int16, np.int32, np.uint32, np.float64][rng.integers(4)])
    return Picture(tiff_of(a[..., None]), ".tif", "either")


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


def _tells_its_channels(a: np.ndarray) -> bool:
    """Whether a shape (H, W, C) cannot be meant as (C, H, W)."""
    return min(a.shape[:2]) > 4


def npy(rng: Rng) -> Picture:
    a = scene(rng)
    return Picture(_npy(a), ".npy", look=a / 255 if _tells_its_channels(a) else None, near=0.001)


def npy_planes(rng: Rng) -> Picture:
    a = scene(rng)
    a = a if 3 not in a.shape[:2] else a[:1]
    return Picture(_npy(np.ascontiguousarray(a.transpose(2, 0, 1))), ".npy", look=a / 255, near=0.001)


def npy_grey16(rng: Rng) -> Picture:
    a = luma(scene(rng)).astype(">u2" if rng.integers(2) else "<u2") * 16
    return Picture(_npy(a), ".npy", look=coloured(a / 65535), near=0.0002)


def npy_float(rng: Rng) -> Picture:
    a = (scene(rng) / 255).astype(rng.choice([np.float16, np.float32, np.float64]))
    look = a.astype(float) if _tells_its_channels(a) else None
    return Picture(_npy(np.asfortranarray(a)), ".npy", look=look, near=0.001)


def npy_bool(rng: Rng) -> Picture:
    a = luma(scene(rng)) > 128
    return Picture(_npy(a), ".npy", look=coloured(a.astype(float)), near=0.001)


GOOD: tuple[Callable[[Rng], Picture], ...] = (
    jpeg, jpeg_grey, jpeg_progressive, jpeg_cmyk, jpeg_turned, jpeg_huge_profile, jpeg_odd_metadata, jpeg_and_more,
    jpeg_of_two, png, png_grey, png_bit, png_palette, png_palette_transparent, png_cut_out, png_grey_cut_out,
    png_with_a_map, png_grey16, png_colour16, png_huge_profile, png_huge_text, png_damaged_comment, png_animated, webp,
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
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
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
        lambda: np.zeros((0, 4, 3), np.uint8), lambda: np.full((4, 4), np.nan, np.float32),
        lambda: np.zeros(5, np.uint8), lambda: np.full((4, 4), 200.0, np.float32),
        lambda: np.zeros((4, 4, 7), np.uint8), lambda: np.array(3, np.uint8),
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

"""What files may hold: each kind of samples, of transparency and of metadata is read as it is meant, or refused."""

import io
import os
import socket
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.files import chunk, png, tiff
from torch import Tensor

from lookalike.data.decoding import MAX_BYTES, BrokenImage, decode, kind_of

RNG = np.random.default_rng(0)


def integers(top: int, *shape: int, dtype: str = "u1") -> np.ndarray:
    return RNG.integers(0, top + 1, shape).astype(dtype)


def chw(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray((array[..., None] if array.ndim == 2 else array).transpose(2, 0, 1))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)  # type: ignore[arg-type]
    return file.getvalue()


def assert_holds(image: Tensor, values: np.ndarray) -> None:
    assert image.shape == values.shape
    assert np.array_equal(image.numpy().astype(np.float64), values.astype(np.float64))


# ---------------------------------------------------------------- samples


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (13, 17)])
def test_png_files_of_16_bits_keep_every_bit(shape: tuple[int, int], channels: int, interlaced: bool) -> None:
    array = integers(65535, *shape, channels, dtype="u2")
    image = decode(png(array, interlaced=interlaced), channels)
    assert image.dtype == torch.uint16
    assert_holds(image, chw(array))


@pytest.mark.parametrize("interlaced", [False, True])
def test_a_12_bit_ramp_in_a_colour_png_keeps_its_levels(interlaced: bool, tmp_path: Path) -> None:
    array = np.repeat(np.arange(4096, dtype=np.uint16).reshape(64, 64, 1), 3, axis=2)
    path = tmp_path / "ramp.png"
    path.write_bytes(png(array, interlaced=interlaced))
    assert_holds(decode(path, 3), chw(array))
    assert len(decode(path, 3, 32).unique()) > 900  # and where it is shrunk
    assert kind_of(path) == "PNG RGB of 16 bits"


@pytest.mark.parametrize("cut", [200, 60, 14, 13])
def test_png_files_of_16_bits_that_are_damaged_are_refused(cut: int, capfd: pytest.CaptureFixture[str]) -> None:
    whole = png(integers(65535, 13, 17, 3, dtype="u2"))
    for content in (
        whole[:-cut],
        whole[:90] + b"\0\1\2\3" + whole[94:],
        whole[:60] + bytes([whole[60] ^ 255]) + whole[61:],
    ):
        with pytest.raises(BrokenImage, match="truncated|damaged|broken"):
            decode(content, 3)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_png_files_of_few_bits(bits: int) -> None:
    top = 2**bits - 1
    grey = integers(top, 9, 11)
    assert_holds(decode(png(grey, bits=bits), 1), chw(grey.astype(int) * 255 // top))
    colours = integers(255, top + 1, 3)
    assert_holds(decode(png(grey, 3, bits=bits, before=chunk(b"PLTE", colours.tobytes())), 3), chw(colours[grey]))


def of(dtype: str, channels: int = 1, low: int = 0) -> np.ndarray:
    """(13, 17, channels) of values from `low` to the largest that can be read: 1 for floats, 16 bits for integers."""
    if dtype[0] in "fc":
        return RNG.random((13, 17, channels)).astype(dtype)
    return RNG.integers(low, min(np.iinfo(dtype).max, 65535) + 1, (13, 17, channels)).astype(dtype)


KINDS: dict[str, tuple[np.ndarray, int, dict[str, object]]] = {
    "grey of 8 bits": (of("u1"), 1, {}),
    "grey of 8 bits, white first": (of("u1"), 0, {}),
    "grey of 16 bits": (of("u2"), 1, {}),
    "grey of 16 bits, white first": (of("u2"), 0, {}),
    "signed 16 bits": (of("i2"), 1, {}),
    "signed 16 bits below 0": (of("i2", low=-9), 1, {}),
    "32 bits": (of("u4"), 1, {}),
    "32 bits, large": (of("u4") << 15, 1, {}),
    "signed 32 bits": (of("i4"), 1, {}),
    "signed 8 bits": (of("i1", low=-128), 1, {}),
    "float32": (of("f4"), 1, {}),
    "float32, white first": (of("f4"), 0, {}),
    "float16": (of("f2"), 1, {}),
    "float64": (of("f8"), 1, {}),
    "complex": (of("c8"), 1, {}),
    "RGB": (of("u1", 3), 2, {}),
    "RGB in planes": (of("u1", 3), 2, {"planar": True}),
    "RGB of 16 bits": (of("u2", 3), 2, {}),
    "RGB of 16 bits in planes": (of("u2", 3), 2, {"planar": True}),
    "RGBA of 16 bits": (of("u2", 4), 2, {"extra": [2]}),
    "RGB of float32": (of("f4", 3), 2, {}),
    "signed RGB": (of("i1", 3, -128), 2, {}),
    "RGB and one": (of("u1", 4), 2, {"extra": [0]}),
    "RGB and one in planes": (of("u1", 4), 2, {"extra": [0], "planar": True}),
    "RGB and three": (of("u1", 6), 2, {"extra": [0, 0, 0]}),
    "RGB and two without a name": (of("u1", 5), 2, {}),
    "grey and one": (of("u1", 2), 1, {"extra": [0]}),
    "three greys": (of("u1", 3), 1, {"extra": [0, 0]}),
    "13 bands of 16 bits": (of("u2", 13), 1, {"extra": [0] * 12}),
    "CMYK of 16 bits": (of("u2", 4), 5, {}),
    "four inks": (of("u1", 4), 5, {"more": [(332, 3, [2])]}),
    "YCbCr": (of("u1", 3), 6, {"more": [(530, 3, [2, 2])]}),
    "LAB": (of("u1", 3), 8, {}),
    "a camera's mosaic": (of("u1"), 32803, {}),
}
READ = ("grey of", "signed 16 bits", "32 bits", "float32", "RGB", "RGB in planes", "RGB and one", "grey and one")
"""What is read, of kinds that little endian files have; of all others the values are right or the file is refused."""


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("tile", [0, 16])
@pytest.mark.parametrize("order", ["<", ">"])
def test_a_tiff_file_gives_its_values_or_says_what_it_holds(
    order: str, tile: int, packed: bool, big: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, (array, photometric, options) in KINDS.items():
        content = tiff(array, photometric, order=order, tile=tile, packed=packed, big=big, **options)  # type: ignore[arg-type]
        if photometric == 6 and packed:
            continue  # libtiff converts it
        try:
            image = decode(content, min(3, array.shape[2]) if array.shape[2] != 2 else 1)
        except BrokenImage as error:
            assert any(word in error.reason for word in ("TIFF of", "integers from")), (name, error.reason)
            assert len(error.reason) < 250
            assert not (order == "<" and name in READ), (name, error.reason)
        else:
            assert photometric in (0, 1, 2), name
            top = {"u": 2 ** (8 * array.dtype.itemsize) - 1}.get(array.dtype.kind, 1)
            values = top - array.astype(np.float64) if photometric == 0 else array.astype(np.float64)
            assert_holds(image, chw(values)[: image.shape[0]])
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("bits", [1, 2, 4, 12])
def test_tiff_files_of_odd_bits(bits: int) -> None:
    top = 2**bits - 1
    array = integers(top, 13, 17, 1, dtype="u2")
    for photometric in (0, 1):
        content = tiff(array, photometric, bits=bits)
        if bits == 12:
            with pytest.raises(BrokenImage, match="1 x 12 bits"):
                decode(content, 1)
        else:
            values = array.astype(int) * 255 // top
            assert_holds(decode(content, 1), chw(255 - values if photometric == 0 else values))


def test_a_portable_pixmap_of_16_bits_is_not_cut_to_8() -> None:
    grey, colour = integers(4095, 5, 7, dtype="u2"), integers(65535, 5, 7, 3, dtype="u2")
    image = decode(b"P5 7 5 4095\n" + grey.astype(">u2").tobytes(), 1)
    assert_holds(image, chw(np.round(grey / 4095 * 65535)))
    assert_holds(decode(b"P5 7 5 65535\n" + grey.astype(">u2").tobytes(), 1), chw(grey))
    for top in (4095, 65535):
        for head, body in ((b"P6", colour.astype(">u2").tobytes()), (b"P3", " ".join(map(str, colour.flat)).encode())):
            with pytest.raises(BrokenImage, match="16-bit colour"):
                decode(head + f" 7 5 {top}\n".encode() + body, 3)
    small = integers(31, 5, 7, 3)
    assert_holds(decode(b"P6 7 5 31\n" + small.tobytes(), 3), chw(np.round(small / 31 * 255)))


def test_jpeg_2000_of_more_than_8_bits() -> None:
    grey = integers(65535, 33, 40, dtype="u2")
    lossless = encoded(Image.fromarray(grey), "JPEG2000", irreversible=False)
    assert_holds(decode(lossless, 1), chw(grey))
    colour = integers(255, 33, 40, 3)
    content = encoded(Image.fromarray(colour), "JPEG2000", irreversible=False)
    assert_holds(decode(content, 3), chw(colour))
    at = content.index(b"\xff\x4f\xff\x51") + 42
    for size in (11, 15, 0x87):
        with pytest.raises(BrokenImage, match="JPEG 2000 of 3 x"):
            decode(content[:at] + bytes([size, 1, 1] * 3) + content[at + 9 :], 3)

"""What files may hold: each kind of samples, of transparency and of metadata is read as it is meant, or refused."""

import io
import json
import logging
import os
import socket
import struct
import subprocess
import sys
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from PIL.GifImagePlugin import GifImageFile
from support.files import chunk, png, tiff
from torch import Tensor

import lookalike
from lookalike import cli
from lookalike.data import BrokenImage, decode
from lookalike.data.decoding import kind_of
from lookalike.images import moments

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
        with pytest.raises(BrokenImage, match=r"truncated|damaged|broken"):
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
        image: Tensor | str
        try:
            image = decode(content, min(3, array.shape[2]) if array.shape[2] != 2 else 1)
        except BrokenImage as error:
            image = error.reason
        if isinstance(image, str):
            assert any(word in image for word in ("TIFF of", "integers from")), (name, image)
            assert len(image) < 250
            assert not (order == "<" and name in READ), (name, image)
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


# ---------------------------------------------------------------- transparency

RGB = np.stack(np.meshgrid(np.arange(40), np.arange(30)), -1)  # colours that vary everywhere
RGB = np.dstack([RGB * 3, np.full((30, 40), 95)]).astype(np.uint8)
LEFT = np.s_[:, :20]


def with_alpha(alpha: np.ndarray | int, hidden: bool = False) -> np.ndarray:
    """The colours, cleared where alpha is 0 unless they stay hidden there."""
    array = np.dstack([RGB, np.broadcast_to(np.uint8(alpha), RGB.shape[:2])])
    if not hidden:
        array[array[..., 3] == 0] = 0
    return array


def cut_out() -> np.ndarray:
    alpha = np.full(RGB.shape[:2], 255, np.uint8)
    alpha[LEFT] = 0
    alpha[:, 20] = 128
    return alpha


def on_white(array: np.ndarray) -> np.ndarray:
    white = Image.new("RGBA", array.shape[1::-1], "white")
    white.alpha_composite(Image.fromarray(array))
    return np.asarray(white.convert("RGB"))


def as_tiff(array: np.ndarray, extra: list[int]) -> bytes:
    return tiff(array, 2, extra=extra)


@pytest.mark.parametrize("make", [
    lambda a: encoded(Image.fromarray(a), "PNG"), lambda a: encoded(Image.fromarray(a), "TGA"),
    lambda a: encoded(Image.fromarray(a), "TIFF"), lambda a: as_tiff(a, []),
    lambda a: encoded(Image.fromarray(a), "WEBP", lossless=True, exact=True),
    lambda a: encoded(Image.fromarray(a), "JPEG2000", irreversible=False),
])  # fmt: skip
def test_certain_transparency_is_laid_on_white_and_other_channels_are_left_out(make, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    infrared = RNG.integers(0, 256, RGB.shape[:2])
    mask = np.where(np.add.outer(np.arange(30), np.arange(40)) % 7, 255, 0)
    for array, certain in (
        (with_alpha(cut_out()), True),
        (with_alpha(255), True),
        (with_alpha(5), False),  # near infrared of a shadow
        (with_alpha(0, hidden=True), False),  # nobody filled the channel in
        (with_alpha(infrared, hidden=True), False),
        (with_alpha(np.arange(40) * 6), False),  # a height
        *([(with_alpha(mask, hidden=True), False)] if make(RGB[..., [0, 1, 2, 2]])[8:12] != b"WEBP" else []),
    ):
        content = make(array)
        path = tmp_path / "image"
        path.write_bytes(content)
        assert_holds(decode(content, 3), chw(on_white(array) if certain else array[..., :3]))
        assert_holds(decode(content, 3, alpha="white"), chw(on_white(array)))
        assert_holds(decode(content, 3, alpha="drop"), chw(array[..., :3]))
        if array[..., 3].min() < 255:  # else some formats have no such channel
            assert_holds(decode(content, 4), chw(array))
        assert kind_of(path).endswith("last channel left out") != certain
        assert not kind_of(path, alpha="white").endswith("left out")
        assert torch.equal(decode(content, 3, 8), decode(content, 3, 8))


def test_a_fourth_band_that_tiff_does_not_call_alpha_is_one_of_four_channels(tmp_path: Path) -> None:
    array = with_alpha(cut_out())
    for options in ({}, {"tile": 16}, {"packed": True}, {"order": ">"}):
        path = tmp_path / "bands.tif"
        path.write_bytes(tiff(array, 2, extra=[0], **options))  # type: ignore[arg-type]
        assert_holds(decode(path, 3), chw(RGB * (array[..., 3:] > 0)))
        assert_holds(decode(path, 4), chw(array))
        assert kind_of(path).endswith("last channel left out")
    with pytest.raises(BrokenImage, match=r"4 channels cannot be made|a plane each"):
        decode(tiff(array, 2, extra=[0], planar=True), 4)


def test_colours_that_are_multiplied_with_a_doubtful_channel_are_refused() -> None:
    with pytest.raises(BrokenImage, match="--alpha white"):
        decode(tiff(with_alpha(5), 2, extra=[1]), 3)
    cut = with_alpha(np.where(cut_out() == 128, 255, cut_out()))
    assert_holds(decode(tiff(cut, 2, extra=[1]), 3), chw(on_white(cut)))


def test_grey_with_alpha_follows_the_same_rule() -> None:
    grey = RGB[..., 0]
    for alpha, certain in ((cut_out(), True), (np.full_like(grey, 7), False)):
        array = np.dstack([np.where(alpha == 0, 0, grey), alpha]).astype(np.uint8)
        for channels in (1, 3):
            image = decode(encoded(Image.fromarray(array), "PNG"), channels)
            white = np.round(array[..., 0] * (alpha / 255) + 255 - alpha) if certain else array[..., 0]
            assert np.abs(image.numpy().astype(int) - np.broadcast_to(white, image.shape)).max() <= 1


@pytest.mark.parametrize("channels", [2, 4])
def test_transparency_of_16_bits_follows_the_same_rule(channels: int) -> None:
    wide = RGB[..., : channels - 1].astype(np.uint16) * 257 + 3
    for alpha, certain in ((cut_out().astype(np.uint16) * 257, True), (np.full((30, 40), 1285, np.uint16), False)):
        array = np.dstack([np.where(alpha[..., None] == 0, 0, wide), alpha]).astype(np.uint16)
        share = alpha[..., None] / 65535
        white = np.round(array[..., :-1] * share + 65535 * (1 - share))
        content = png(array)
        assert_holds(decode(content, channels - 1), chw(white if certain else array[..., :-1]))
        assert_holds(decode(content, channels - 1, alpha="white"), chw(white))
        assert_holds(decode(content, channels - 1, alpha="drop"), chw(array[..., :-1]))
    assert decode(png(array), 4).shape[0] == 4


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_a_colour_that_png_marks_as_transparent_is_white(bits: int) -> None:
    top = 2**bits - 1
    for colour, channels in ((0, 1), (2, 3)) if bits >= 8 else ((0, 1),):
        array = integers(top, 9, 11, channels, dtype="u2" if bits == 16 else "u1")
        key = array[0, 0].astype(">u2").tobytes()
        content = png(array, colour, bits=bits, before=chunk(b"tRNS", key))
        full = array.astype(int) if bits == 16 else array.astype(int) * 255 // top
        marked = (array == array[0, 0]).all(2, keepdims=True)
        assert_holds(decode(content, channels), chw(np.where(marked, 65535 if bits == 16 else 255, full)))
        assert_holds(decode(content, channels, alpha="drop"), chw(full))


# ---------------------------------------------------------------- metadata


def pixels_of_png() -> tuple[np.ndarray, list[tuple[str, bytes]]]:
    array = integers(255, 9, 11, 3)
    noise = bytes(RNG.integers(0, 256, 2 << 20, np.uint8))
    bomb = zlib.compress(bytes(80 << 20))
    turned = b"XML:com.adobe.xmp\0\0\0\0\0" + b'<x tiff:Orientation="3"/>'
    extras = {
        "a large profile": chunk(b"iCCP", b"x\0\0" + zlib.compress(noise, 0)),
        "a profile's bomb": chunk(b"iCCP", b"x\0\0" + bomb),
        "an unknown compression": chunk(b"iCCP", b"x\0\7abc"),
        "a text's bomb": chunk(b"zTXt", b"x\0\0" + bomb),
        "many texts": chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(1 << 20))) * 70,
        "another text's bomb": chunk(b"iTXt", b"x\0\1\0\0\0" + bomb),
        "a wrong checksum": chunk(b"tEXt", b"a\0b")[:-4] + b"\0\0\0\0",
        "short chunks": chunk(b"gAMA", b"1") + chunk(b"pHYs", b"2") + chunk(b"sRGB", b"") + chunk(b"cHRM", b"3"),
        "absurd Exif": chunk(b"eXIf", b"MM\0*\xff\xff\xff\xff" + noise[:999]),
        "a broken animation": chunk(b"acTL", b"\0") + chunk(b"fcTL", b"\0"),
        "a profile and an orientation": chunk(b"iCCP", b"x\0\0" + bomb) + chunk(b"iTXt", turned),
    }
    return array, [
        (name, png(array, **{where: extra})) for name, extra in extras.items() for where in ("before", "after")
    ]


def test_metadata_of_a_png_file_never_make_it_bad(tmp_path: Path) -> None:
    array, files = pixels_of_png()
    path = tmp_path / "image.png"
    for name, content in files:
        path.write_bytes(content)
        values = array[::-1, ::-1] if "orientation" in name else array
        for image in (content, path):
            assert_holds(decode(image, 3), chw(values))
        assert kind_of(path).startswith("PNG RGB"), name
    wide = array.astype(np.uint16) * 201
    assert_holds(decode(png(wide, before=chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(5 << 20)))), 3), chw(wide))


def segment(marker: int, data: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


def test_metadata_of_a_jpeg_file_never_make_it_bad(tmp_path: Path) -> None:
    plain = encoded(Image.fromarray(np.repeat(RGB, 2, 1)), "JPEG")
    noise = bytes(RNG.integers(0, 256, 60000, np.uint8))
    path = tmp_path / "image.jpg"
    for data in (
        segment(0xE1, b"Exif\0\0" + noise[:5000]),
        segment(0xE1, b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + noise[:999]),
        segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\x0c\0\xff\xff\xff\xff" + noise[:99]),
        segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + noise),
        segment(0xE2, b"MPF\0" + noise[:999]),
        segment(0xE2, b"MPF\0MM\0*\0\0\0\x08\0\1\xb0\0\0\7\0\0\0\4\0\0\0\0"),
        segment(0xEE, b"Adobe"),
        segment(0xFE, noise),
        segment(0xE2, b"ICC_PROFILE\0\1\2" + noise) * 40,
        segment(0xED, b"Photoshop 3.0\0" + b"8BIM\3\xed\xff" + noise[:20]),
    ):
        path.write_bytes(plain[:2] + data + plain[2:])
        assert torch.equal(decode(path, 3), decode(plain, 3))
        assert kind_of(path).split(",")[0].split()[-1] == "RGB"


def test_metadata_of_a_tiff_file_never_make_it_bad(tmp_path: Path) -> None:
    array = integers(255, 9, 11, 3)
    noise = RNG.integers(0, 256, 5000).tolist()
    path = tmp_path / "image.tif"
    for more in (
        [(700, 7, noise)], [(34675, 7, noise)], [(33723, 4, noise[:7])], [(34377, 7, noise)], [(34665, 4, [4000000])],
        [(34665, 4, [8])], [(34853, 4, [1])], [(40965, 4, [2**32 - 1])], [(270, 7, noise)], [(305, 3, noise[:9])],
        [(282, 3, [0]), (283, 3, [0])], [(274, 3, [77])], [(700, 3, [1, 2, 3])], [(281, 3, [1, 2, 3])],
    ):  # fmt: skip
        for options in ({}, {"packed": True}, {"big": True}, {"order": ">"}):
            path.write_bytes(tiff(array, 2, more=more, **options))  # type: ignore[arg-type]
            assert_holds(decode(path, 3), chw(array))
            assert kind_of(path) == "TIFF RGB", more


# ---------------------------------------------------------------- hostile files


def test_what_is_no_regular_file_is_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "device.jpg").symlink_to("/dev/zero")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "endless.jpg").symlink_to("/proc/self/pagemap")
    here = os.getcwd()
    os.chdir(tmp_path)  # a socket's path is short
    try:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind("socket.jpg")
            for name in ("pipe.jpg", "device.jpg", "folder.jpg", "endless.jpg", "socket.jpg"):
                for function in (lambda p: decode(p, 3), lambda p: decode(p, 1)):
                    with pytest.raises(BrokenImage, match=r"not a regular file|empty file"):
                        function(tmp_path / name)
    finally:
        os.chdir(here)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "bmp"])
def test_a_file_with_a_hole_is_not_read_whole(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(RGB).save(path)
    os.truncate(path, 3 << 30)
    with pytest.raises(BrokenImage, match="a file of 3072 MiB, more than the limit of 512 MiB"):
        decode(path, 3)


def npy(shape: str, dtype: str = "'|u1'", version: int = 1, fortran: bool = False, body: int = 100) -> bytes:
    head = f"{{'descr': {dtype}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n".encode()
    length = struct.pack("<H" if version == 1 else "<I", len(head))
    return b"\x93NUMPY" + bytes([version, 0]) + length + head + bytes(body)


def test_headers_of_npy_files_are_checked_before_their_values_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    for content, reason in (
        (npy("(3, 32768, 32768)"), "takes 3072 MiB, more than the limit of 512 MiB"),
        (npy("(4294967296, 4294967296, 3)"), "more than the limit"),
        (npy("(-3, -5)"), "shape"), (npy("(-1,)"), "shape"), (npy("(5, 50)"), "truncated: 100 of 250"),
        (npy("(5, 5)", "'|O'"), "Python objects"), (npy("(5, 5)", "[('a', '<f8')]"), "expected uint8"),
        (npy("(5, 5)", "'<U9'"), "expected uint8"), (npy("(5, 5)", "'<M8[s]'"), "expected uint8"),
        (npy("(2, 3)", "'<c16'"), "expected uint8"), (npy("(2, 3)", "'<f16'"), "expected uint8"),
        (npy("()"), "shape"), (npy("(0, 5)"), "shape"), (npy("(5, 5)", version=9), "version"), (npy("'a'"), "."),
        (npy("(1,) * 99999999"), "."), (b"\x93NUMPY", "."), (b"PK\3\4 an archive", "not an image .*: it holds zip"),
    ):  # fmt: skip
        path.write_bytes(content)
        for image in (path, content):
            with pytest.raises(BrokenImage, match=reason):
                decode(image, 3)
    array = np.asfortranarray(integers(255, 5, 6, 3))
    np.save(path, array)
    assert_holds(decode(path, 3), chw(array))


def test_the_limit_counts_the_bytes_that_decoding_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lookalike.data.limits.MAX_BYTES", 4000)
    grey = integers(65535, 30, 30, dtype="u2")
    assert decode(encoded(Image.fromarray(grey), "PNG"), 1).shape == (1, 30, 30)
    for content in (
        encoded(Image.fromarray(grey), "PNG"),
        png(np.dstack([grey] * 3)),
        tiff(grey[..., None] / np.float32(65535)),
    ):
        with pytest.raises(BrokenImage, match=r"30 x 30 pixels of .* bytes take|more than the limit"):
            decode(content, 3)
    bomb = tiff(integers(255, 9, 9, 1), more=[(322, 4, [1 << 15]), (323, 4, [1 << 15])])
    with pytest.raises(BrokenImage, match="tiles that take 1024 MiB"):
        decode(bomb, 1)


def test_large_images_take_little_more_than_their_pixels_and_print_nothing(tmp_path: Path) -> None:
    """In a process of its own, whose largest size tells. In 0.1 it was 4.3 times the pixels, and 16 for `check`."""
    side = 4000
    image = Image.new("P", (side, side), 1)
    image.putpalette([9, 8, 7, 200, 100, 50])
    image.save(tmp_path / "large.png", transparency=0, compress_level=1)
    image.crop((0, 0, 99, 99)).save(tmp_path / "small.png", transparency=0)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 12_000, 8_000, 8, 0, 0, 0, 0))  # above Pillow's limit, below ours
    content = png(np.zeros((1, 1), np.uint8))
    (tmp_path / "larger.png").write_bytes(content[:8] + head + content[33:])
    script = """
from pathlib import Path
from lookalike.commands.check import _look
from lookalike.data import BrokenImage, decode
from lookalike.images import levels, moments

def bytes_of(what):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(what))

def grown(function):
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before = bytes_of("VmRSS")
    image = function()
    return image, (bytes_of("VmHWM") - before) / image.nbytes

def look(image):
    _look(image), moments(image), levels(image)
    return image

look(decode("small.png", 3))
image, decoding = grown(lambda: decode("large.png", 3))
print(decoding, grown(lambda: look(image))[1])
try:
    decode("larger.png", 3)
except BrokenImage as error:
    print(error.reason)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.stderr == ""
    decoding, looking, reason = done.stdout.split(maxsplit=2)
    assert float(decoding) < 3.5
    assert float(looking) < 5
    assert "limit" not in reason


def test_a_file_of_another_kind_says_what_it_holds(tmp_path: Path) -> None:
    for content, held in (
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 5\n%%EndComments\n%%EOF\n", "EPS"),
        (b"8BPS\0\1" + bytes(40), "PSD"),
        (b"%PDF-1.7\n", "PDF"),
        (b"<svg></svg>", "SVG"),
        (b"<!DOCTYPE html>", "HTML"),
        (bytes(128) + b"DICM", "DICOM"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (b"\xff\x0a" + bytes(9), "JPEG XL"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
    ):
        path = tmp_path / "image.jpg"
        path.write_bytes(content)
        with pytest.raises(BrokenImage, match=f"not an image of a known format: it holds .*{held}"):
            decode(path, 3)


def test_pillow_tries_no_format_that_is_not_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Other plugins are never asked: some run programs, some looped for ever."""
    asked: list[str] = []
    Image.init()
    for name, (factory, _) in list(Image.OPEN.items()):

        def accept(prefix: bytes, name: str = name) -> bool:
            asked.append(name)
            return False

        monkeypatch.setitem(Image.OPEN, name, (factory, accept))  # fmt: skip
    path = tmp_path / "image.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n")
    for function in (lambda: decode(path, 3), lambda: decode(path.read_bytes(), 1), lambda: kind_of(path)):
        with pytest.raises((BrokenImage, ValueError)):
            function()
    assert len(asked) > 20
    assert not {"EPS", "PSD", "WMF", "PCD", "FLI", "MPEG", "HDF5"} & set(asked)
    sources = "".join(p.read_text() for p in (Path(__file__).parents[1] / "src").rglob("*.py"))
    assert sources.count("Image.open(") == sources.count("formats=")


def test_the_heads_of_animations_are_not_walked_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [Image.new("L", (4, 4), i % 256) for i in range(50)]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    seen: list[int] = []
    whole = GifImageFile._seek
    monkeypatch.setattr(
        GifImageFile, "_seek", lambda self, frame, *rest: (seen.append(frame), whole(self, frame, *rest))
    )
    assert kind_of(tmp_path / "x.gif").endswith("animated")
    assert max(seen) < 3


def test_moments_of_a_large_image_are_those_of_all_its_pixels() -> None:
    image = torch.from_numpy(integers(255, 3, 600, 700))
    whole = image.flatten(1).double() / 255
    assert torch.allclose(moments(image), torch.stack([whole.mean(1), whole.square().mean(1)]), rtol=1e-6)
    deep = torch.from_numpy(integers(65535, 1, 600, 700, dtype="u2"))
    assert moments(deep)[0].item() == pytest.approx(deep.numpy().mean() / 65535, rel=1e-6)


# ---------------------------------------------------------------- through the commands

SMALL = ["--backbone", "test_byobnet", "--image-size", "32", "--workers", "0"]
TRAIN = ["--epochs", "1", "--batch-size", "8", "--no-report", *SMALL]


def test_near_infrared_is_left_out_said_and_remembered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Through check, pretrain and embed: as plain colours give the same features."""
    for i in range(12):
        rgb = RNG.integers(0, 256, (32, 32, 3), np.uint8)
        for folder, pixels in (("four", np.dstack([rgb, np.full((32, 32), 5, np.uint8)])), ("three", rgb)):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / folder / f"{i}.tif")
    four, three, out = (str(tmp_path / name) for name in ("four", "three", "run"))
    line = "12 of 12 images looked at (TIFF RGBA) have a last channel that may be no transparency"
    assert cli.main(["check", four, "--workers", "0", "--no-timing"]) == 0
    assert line in (shown := capsys.readouterr().out)
    assert "--alpha white" in shown
    assert cli.main(["check", four, "--alpha", "drop", "--workers", "0", "--no-timing"]) == 0
    assert "transparency" not in capsys.readouterr().out
    assert cli.main(["pretrain", "simclr", four, "--out", out, *TRAIN]) == 0
    assert f"WARNING     {line}" in capsys.readouterr().out
    assert json.loads((tmp_path / "run/encoder.json").read_text())["alpha"] == "auto"
    assert lookalike.load(out).alpha == "auto"
    assert cli.main(["embed", out, four, "--out", f"{out}/4.npz", "--workers", "0"]) == 0
    assert line in (shown := capsys.readouterr().out)
    assert "--alpha" not in shown  # there is nothing to choose: as in the training
    assert cli.main(["embed", out, three, "--out", f"{out}/3.npz", "--workers", "0"]) == 0
    assert np.array_equal(*(np.load(f"{out}/{n}.npz")["features"] for n in (3, 4)))
    assert cli.main(["pretrain", "simclr", four, "--alpha", "white", "--out", out, "--overwrite", *TRAIN]) == 0
    assert "may be no transparency" not in capsys.readouterr().out
    assert lookalike.load(out).alpha == "white"
    assert cli.main(["pretrain", "simclr", four, "--channels", "4", "--out", out, "--overwrite", *TRAIN]) == 0
    assert lookalike.load(out).channels == 4
    card = json.loads((tmp_path / "run/encoder.json").read_text())
    assert card["alpha"] == "auto"


def test_what_misled_0_1_goes_through_check_and_a_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "photos"
    (root / "a").mkdir(parents=True)
    (root / "b").symlink_to(root / "a")
    (root / "a/up").symlink_to(root)
    for i in range(16):
        Image.fromarray(integers(255, 32, 32, 3)).save(root / f"a/{i:02}.jpg")
    Image.fromarray(integers(255, 32, 32, 3)).save(root / "a/profile.png", icc_profile=RNG.bytes(2 << 20))
    (root / "a/deep.png").write_bytes(png(integers(4095, 32, 32, 3, dtype="u2")))
    broken = {
        "deep.tif": tiff(integers(4095, 32, 32, 3, dtype="u2"), 2),
        "bands.tif": tiff(integers(255, 32, 32, 8), extra=[0] * 7),
        "large.npy": npy("(3, 32768, 32768)"),
        "eps.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n",
    }
    for name, content in broken.items():
        (root / "a" / name).write_bytes(content)
    os.truncate(root / "a/eps.jpg", 3 << 30)
    os.mkfifo(root / "a/pipe.jpg")
    table = tmp_path / "check.json"
    assert cli.main(["check", str(root), "--workers", "0", "--no-timing", "--out", str(table)]) == 0
    shown = capsys.readouterr()
    assert "23, of which 2 cannot be read, and 3 are whole but cannot be used as they are" in shown.out
    assert "2 linked folders lead to folders that are read already" in shown.out
    assert "1 PNG RGB of 16 bits" in shown.out
    assert shown.err == ""
    content = json.loads(table.read_text())["images"]
    assert {Path(name).name for name, _ in content["broken"]} == {*broken, "pipe.jpg"}
    out = tmp_path / "run"
    assert cli.main(["pretrain", "simclr", str(root), "--out", str(out), "--max-broken", "0.5", *TRAIN]) == 0
    assert "2 linked folders" in capsys.readouterr().out
    assert "a/deep.tif: not supported: a TIFF of 3 x 16 bits" in (out / "log.txt").read_text()


class Decoding(torch.utils.data.Dataset[tuple[Tensor, dict[str, int]]]):
    """As users of torchvision.io write it, for detection."""

    def __init__(self, root: Path) -> None:
        self.files = sorted(root.iterdir())
        self.targets = [{"boxes": i} for i in range(len(self.files))]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> tuple[Tensor, dict[str, int]]:
        return torchvision.io.decode_jpeg(torchvision.io.read_file(str(self.files[i]))), self.targets[i]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_dataset_that_decodes_by_itself_is_trained_on_and_embedded(workers: int, tmp_path: Path) -> None:
    root = tmp_path / "photos"
    root.mkdir()
    for i in range(36):
        Image.fromarray(integers(255, 32, 32, 3)).save(root / f"{i:02}.jpg")
    cut = root / "07.jpg"
    cut.write_bytes(cut.read_bytes()[:100])
    method = lookalike.methods.get_method("simclr").Config()
    lookalike.pretrain(
        lookalike.Run(
            data=Decoding(root), method=method, backbone="test_byobnet", image_size=32, epochs=1, batch_size=18,
            workers=workers, out=str(tmp_path / "run"),
        )
    )  # fmt: skip
    assert "item 7: RuntimeError: " in (tmp_path / "run/log.txt").read_text()
    found = lookalike.embed(tmp_path / "run", Decoding(root), workers=workers)
    assert (len(found.features), found.labels) == (35, None)
    assert found.broken[0][1].startswith("RuntimeError: ")


def test_no_library_prints_what_is_wrong_with_a_file(capfd: pytest.CaptureFixture[str]) -> None:
    """libtiff writes to the terminal by itself, Pillow's loggers where nobody set up logging."""
    file = io.BytesIO()
    Image.fromarray(integers(255, 40, 40, 3, dtype="u1")).save(file, "TIFF", compression="tiff_lzw")
    whole = file.getvalue()
    for at in range(len(whole) // 2, len(whole), 7):
        with suppress(BrokenImage):
            decode(whole[:at] + bytes(len(whole) - at), 3)
    handlers = logging.getLogger("PIL").handlers
    assert any(isinstance(handler, logging.NullHandler) for handler in handlers)
    assert capfd.readouterr() == ("", "")

"""What files may hold: each kind of samples, of transparency and of metadata is read as it is meant, or refused."""

import ast
import io
import json
import logging
import os
import struct
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
from support.images import encoded
from support.samples import RGB, RNG, assert_holds, chw, integers, npy
from torch import Tensor

import lookalike
from lookalike import cli
from lookalike.data import BrokenImage, decode
from lookalike.data.decoding import kind_of
from lookalike.image_options import Pixels, Scale
from lookalike.images import moments

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
            assert any(word in image for word in ("TIFF of", "TIFF in", "integers from", "cannot be conv", "inverted"))
            assert len(image) < 250
            assert not (order == "<" and name in READ), (name, image)
        else:
            assert photometric in (0, 1, 2), name
            top = {"u": 2 ** (8 * array.dtype.itemsize) - 1}.get(array.dtype.kind, 1)
            values = top - array.astype(np.float64) if photometric == 0 else array.astype(np.float64)
            values = values.astype("f4") if array.dtype.kind == "f" else values  # float64 is read as float32
            assert_holds(image, chw(values)[: image.shape[0]])
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("bits", [1, 2, 4, 12])
def test_tiff_files_of_odd_bits(bits: int) -> None:
    top = 2**bits - 1
    array = integers(top, 13, 17, 1, dtype="u2")
    for photometric in (0, 1):
        content = tiff(array, photometric, bits=bits)
        if bits == 12:
            assert_holds(decode(content, 1), chw(top - array if photometric == 0 else array))
            limits = Pixels(1, scale=Scale.of("range 0 4095"))
            expected = np.round((top - array.astype(int) if photometric == 0 else array) / top * 65535)
            assert_holds(decode(content, limits), chw(expected))
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


# ---------------------------------------------------------------- kinds of files


def test_a_file_of_another_kind_says_what_it_holds(tmp_path: Path) -> None:
    for content, held in (
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 5\n%%EndComments\n%%EOF\n", "EPS"),
        (b"8BPS\0\1" + bytes(40), "PSD"),
        (b"%PDF-1.7\n", "PDF"),
        (b"<svg></svg>", "SVG"),
        (b"<!DOCTYPE html>", "HTML"),
        (b"\xff\x0a" + bytes(9), "JPEG XL"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
    ):
        path = tmp_path / "image.jpg"
        path.write_bytes(content)
        with pytest.raises(BrokenImage, match=f"not an image of a known format: it contains .*{held}"):
            decode(path, 3)
    path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0")
    with pytest.raises(BrokenImage, match="not supported: HEIC"):
        decode(path, 3)
    path.write_bytes(bytes(128) + b"DICM")
    with pytest.raises(BrokenImage, match=r"not supported: .*DICOM"):
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
    calls = [
        node
        for path in (Path(__file__).parents[1] / "src").rglob("*.py")
        if path.parts[-2:] != ("triton", "client.py")  # a script for users, on their own files
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Image.open"
    ]
    assert len(calls) > 3
    assert all("formats" in {each.arg for each in node.keywords} for node in calls)


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
    line = "12 of 12 inspected images (TIFF RGBA) have a last channel that may not be transparency"
    assert cli.main(["check", four, "--workers", "0", "--no-timing"]) == 0
    assert line in (shown := capsys.readouterr().out)
    assert "--alpha white" in shown
    assert cli.main(["check", four, "--alpha", "drop", "--workers", "0", "--no-timing"]) == 0
    assert "transparency" not in capsys.readouterr().out
    assert cli.main(["pretrain", "simclr", four, "--out", out, *TRAIN]) == 0
    assert f"WARNING     {line}" in capsys.readouterr().out
    assert json.loads((tmp_path / "run/encoder.json").read_text())["alpha"] == "auto"
    assert lookalike.load(out).pixels.alpha == "auto"
    assert cli.main(["embed", out, four, "--out", f"{out}/4.npz", "--workers", "0"]) == 0
    assert line in (shown := capsys.readouterr().out)
    assert "--alpha" not in shown  # there is nothing to choose: as in the training
    assert cli.main(["embed", out, three, "--out", f"{out}/3.npz", "--workers", "0"]) == 0
    assert np.array_equal(*(np.load(f"{out}/{n}.npz")["features"] for n in (3, 4)))
    assert cli.main(["pretrain", "simclr", four, "--alpha", "white", "--out", out, "--overwrite", *TRAIN]) == 0
    assert "may not be transparency" not in capsys.readouterr().out
    assert lookalike.load(out).pixels.alpha == "white"
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
    (root / "a/deep.tif").write_bytes(tiff(integers(4095, 32, 32, 3, dtype="u2"), 2))
    broken = {
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
    assert "23, of which 2 cannot be read, and 2 are valid but not supported" in shown.out
    assert "2 linked folders were skipped because their targets are read already" in shown.out
    assert "1 PNG RGB of 16 bits" in shown.out
    assert shown.err == ""
    content = json.loads(table.read_text())["images"]
    assert {Path(name).name for name, _ in content["broken"]} == {*broken, "pipe.jpg"}
    out = tmp_path / "run"
    assert cli.main(["pretrain", "simclr", str(root), "--out", str(out), "--max-broken", "0.5", *TRAIN]) == 0
    assert "2 linked folders" in capsys.readouterr().out
    assert "a/bands.tif: not supported: has 8 channels" in (out / "log.txt").read_text()


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

"""What becomes of a file: sizes, channels, transparency, orientation, and why one is broken."""

import io
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from support.datasets import Items
from support.images import RNG, chw, encoded, noise, ramp

from lookalike.data import BrokenImage, decode, jpeg, limits, open_source


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "TGA", "GIF", "WEBP", "JPEG2000", "JPEG"])
def test_formats_of_colour(kind: str) -> None:
    array = ramp(20, 30)
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95}}.get(kind, {})
    image = decode(encoded(Image.fromarray(array), kind, **options), 3)
    assert image.dtype == torch.uint8
    assert image.is_contiguous()
    limit = {"JPEG": 12, "GIF": 30}.get(kind, 0)
    assert int((image.int() - chw(array).int()).abs().max()) <= limit


def test_modes_become_the_asked_channels() -> None:
    array, grey = noise(5, 7, 3), noise(5, 7)
    colour = Image.fromarray(array)
    luma = chw(np.asarray(colour.convert("L")))
    assert torch.equal(decode(encoded(colour, "PNG"), 1), luma)
    assert torch.equal(decode(encoded(Image.fromarray(grey), "PNG"), 3), chw(grey).expand(3, -1, -1))
    bits = Image.fromarray(grey).point(lambda v: 255 * (v > 99), mode="1")
    assert torch.equal(decode(encoded(bits, "PNG"), 1), chw(np.where(grey > 99, 255, 0).astype(np.uint8)))
    palette = colour.quantize(16)
    assert torch.equal(decode(encoded(palette, "PNG"), 3), chw(np.asarray(palette.convert("RGB"))))
    cmyk = Image.new("CMYK", (6, 4), (0, 255, 255, 0))
    assert decode(encoded(cmyk, "TIFF"), 3)[:, 0, 0].tolist() == [255, 0, 0]
    assert decode(encoded(cmyk, "JPEG"), 3)[0].float().mean() > 240
    assert decode(encoded(cmyk, "TIFF"), 1).shape == (1, 4, 6)


def test_transparency_is_laid_on_white_or_kept() -> None:
    rgba = np.zeros((2, 3, 4), np.uint8)
    rgba[0] = (10, 20, 30, 255)
    rgba[1] = (10, 20, 30, 0)
    on_white = torch.tensor([[[v] * 3, [255] * 3] for v in (10, 20, 30)], dtype=torch.uint8)
    image = Image.fromarray(rgba)
    assert torch.equal(decode(encoded(image, "PNG"), 3), on_white)
    assert torch.equal(decode(encoded(image, "PNG"), 4), chw(rgba))
    assert decode(encoded(image.convert("LA"), "PNG"), 1)[0, 1].tolist() == [255] * 3
    palette = Image.new("P", (3, 2), 1)
    palette.putpalette([0, 0, 0, 200, 0, 0])
    assert decode(encoded(palette, "GIF", transparency=1), 3).unique().tolist() == [255]
    with pytest.raises(BrokenImage, match="no transparency"):
        decode(encoded(image.convert("RGB"), "PNG"), 4)
    with pytest.raises(BrokenImage, match="has 4 channels, which cannot be converted to 5"):
        decode(encoded(image, "PNG"), 5)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits(kind: str) -> None:
    array = noise(5, 7, dtype=np.uint16)
    file = encoded(Image.fromarray(array), kind)
    for channels in (1, 3):
        image = decode(file, channels)
        assert image.dtype == torch.uint16
        assert torch.equal(image.int(), chw(array.astype(np.int32)).expand(channels, -1, -1))


def test_floats() -> None:
    array = RNG.random((5, 7), np.float32)
    assert torch.equal(decode(encoded(Image.fromarray(array), "TIFF"), 1), chw(array))
    for bad in (array * 300, np.full_like(array, np.nan)):
        with pytest.raises(BrokenImage, match=r"float values from .*; expected 0 to 1"):
            decode(encoded(Image.fromarray(bad), "TIFF"), 1)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation(kind: str, orientation: int) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    file = encoded(Image.fromarray(ramp(16, 24)), kind, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(file))).convert("RGB")
    assert torch.equal(decode(file, 3), chw(np.asarray(upright)))
    assert decode(file, 3).shape == ((3, 16, 24) if orientation < 5 else (3, 24, 16))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_corrupt_exif_does_not_break_a_good_image() -> None:
    assert decode(encoded(Image.fromarray(ramp(8, 8)), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff"), 3).shape == (
        3,
        8,
        8,
    )


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (5, 4), colour) for colour in ("red", "blue")]
    for kind in ("GIF", "WEBP", "PNG", "TIFF"):
        file = encoded(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
        assert decode(file, 3)[:, 0, 0].tolist() == pytest.approx([255, 0, 0], abs=1), kind


@given(
    height=st.integers(1, 300), width=st.integers(1, 300), size=st.one_of(st.none(), st.integers(1, 150)),
    kind=st.sampled_from(["JPEG", "PNG", "array", "16-bit PNG"]), key=st.integers(),
)  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_sizes_follow_the_rules(height: int, width: int, size: int | None, kind: str, key: int) -> None:
    grey = ramp(height, width)[..., 1]
    if kind == "array":
        file = io.BytesIO()
        np.save(file, grey)
        content = file.getvalue()
    elif kind == "16-bit PNG":
        content = encoded(Image.fromarray(grey.astype(np.uint16) * 257), "PNG")
    else:
        content = encoded(Image.fromarray(grey), kind)
    image = decode(content, 1, size, key)
    assert torch.equal(image.int(), decode(content, 1, size, key).int())
    if size is None:  # judging sees all of it
        assert tuple(image.shape) == (1, height, width)
        return
    factor = 1
    while min(height, width) // (2 * factor) >= size:
        factor *= 2
    short, long = -(-min(height, width) // factor), max(image.shape)
    if kind == "JPEG" and max(height, width) > 4 * min(height, width):  # it is shrunk before it is cut
        assert min(image.shape[1:]) >= short
        assert long <= 4 * min(image.shape[1:])
        return
    cut = min(max(height, width), 4 * min(height, width))
    assert sorted(image.shape[1:]) == [short, -(-cut // factor)]
    assert (image.shape[1] >= image.shape[2]) == (height >= width) or image.shape[1] == image.shape[2]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "array"])
def test_shrinking_keeps_the_picture(kind: str) -> None:
    array = ramp(96, 128)
    if kind == "array":
        source = open_source(Items([array]))
        image = source.read(0, 24)
    else:
        image = decode(encoded(Image.fromarray(array), kind), 3, 24)
    mean = chw(array).float().unfold(1, 4, 4).unfold(2, 4, 4).mean((3, 4))
    assert image.shape == (3, 24, 32)
    assert (image.float() - mean).abs().max() < 6


def test_the_window_of_a_long_image_depends_on_its_key() -> None:
    array = np.broadcast_to(np.arange(200, dtype=np.uint8)[:, None], (200, 10)).copy()
    file = encoded(Image.fromarray(array), "PNG")
    tops = {int(decode(file, 1, 10, key)[0, 0, 0]) for key in range(60)}
    assert len(tops) > 30
    assert 0 <= min(tops) < 20
    assert 140 < max(tops) <= 160
    image = decode(file, 1, 10, 5)
    assert torch.equal(image[0, :, 0], torch.arange(40, dtype=torch.uint8) + image[0, 0, 0])
    assert decode(file, 1, None, 5).shape == (1, 200, 10)  # judging sees all of it


@pytest.mark.parametrize("shape", [(6, 7), (3, 6, 7), (6, 7, 3), (1, 6, 7)])
@pytest.mark.parametrize("dtype", [">u2", np.uint8, np.float64, np.bool_])
def test_npy_files(tmp_path: Path, shape: tuple[int, ...], dtype: str | type) -> None:
    array = (RNG.random(shape) > 0.5).astype(dtype)
    np.save(tmp_path / "x.npy", array)
    image = decode(tmp_path / "x.npy", 3)
    assert image.shape == (3, 6, 7)
    assert image.dtype == {">u2": torch.uint16, np.float64: torch.float32}.get(dtype, torch.uint8)
    plane = array if array.ndim == 2 else array[..., 0] if array.shape[-1] == 3 else array[0]
    scale = 255 if dtype is np.bool_ else 1
    assert np.array_equal(image[0].to(torch.float64).numpy(), plane.astype(np.float64) * scale)


def test_npy_files_that_are_no_image(tmp_path: Path) -> None:
    for name, array, reason in (
        ("objects", np.array([{}], dtype=object), "Python objects"),
        ("integers", noise(4, 4, dtype=np.int32), "values of type int32; expected uint8"),
        ("axes", noise(4, 5, 6, 3), "shape .4, 5, 6, 3.; expected"),
        ("none", noise(0, 5), "empty file|shape .1, 0, 5."),
    ):
        np.save(tmp_path / f"{name}.npy", array, allow_pickle=True)
        with pytest.raises(BrokenImage, match=reason):
            decode(tmp_path / f"{name}.npy", 3)
    header = (tmp_path / "integers.npy").read_bytes().replace(b"(4, 4)", b"(9999999999, 4)").replace(b" " * 9, b"", 1)
    (tmp_path / "lies.npy").write_bytes(header)
    with pytest.raises(BrokenImage):
        decode(tmp_path / "lies.npy", 3)


def test_broken_files_say_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = encoded(Image.fromarray(noise(40, 40, 3)), "PNG")
    jpeg = encoded(Image.fromarray(noise(40, 40, 3)), "JPEG")
    flat = good[:16] + struct.pack(">II", 0, 0) + good[24:]
    for content, reason in (
        (b"", "empty file"),
        (b"hello", "not an image of a known format"),
        (good[: len(good) // 2], "truncated"),
        (jpeg[: len(jpeg) // 2], "truncated"),
        (good[:60] + b"\0" * 40 + good[100:], "."),
        (flat, "."),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 5\n%%EndComments\n%%EOF\n", "a EPS file|not an image"),
    ):
        path = tmp_path / "image.png"
        path.write_bytes(content)
        for image in (content, path):
            with pytest.raises(BrokenImage, match=reason):
                decode(image, 3)
    with pytest.raises(BrokenImage, match="no such file"):
        decode(tmp_path / "nowhere.png", 3)
    monkeypatch.setattr(limits, "MAX_PIXELS", 1000)
    with pytest.raises(BrokenImage, match="40 x 40 pixels exceed the limit of 1000"):
        decode(good, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(BrokenImage, match="more pixels than the limit"):
        decode(good, 3)


def test_a_broken_image_travels_between_processes() -> None:
    error = pickle.loads(pickle.dumps(BrokenImage("a", "b")))
    assert (error.name, error.reason, str(error)) == ("a", "b", "a: b")


@given(
    st.integers(1, 70), st.integers(1, 70), st.sampled_from([None, 1, 9, 16, 33]), st.integers(30, 100),
    st.sampled_from(["4:4:4", "4:2:2", "4:2:0"]), st.booleans(), st.sampled_from(["RGB", "L"]),
)  # fmt: skip
@settings(deadline=None, max_examples=150)
@example(3, 3, 1, 30, "4:4:4", False, "RGB")
def test_the_fast_decoder_gives_pillows_pixels(width, height, decode_size, quality, subsampling, progressive, mode):
    picture = Image.fromarray(ramp(height, width)[:, :, [0, 2, 1]]).rotate(30).convert(mode)
    file = encoded(picture, "JPEG", quality=quality, subsampling=subsampling, progressive=progressive)
    fast = jpeg.read(file, decode_size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jpeg, "simplejpeg", None)
        pillows = decode(file, 3, decode_size)
    # what is long, shrunk by more than 8, or tiny and shrunk, is left to Pillow
    factor = limits.shrink_factor(min(width, height), decode_size)
    long = decode_size is not None and max(width, height) > 4 * min(width, height)
    assert (fast is None) == (factor > 8 or long or (factor > 1 and min(width, height) < 8))
    assert fast is None or torch.equal(fast, pillows)
    assert torch.equal(decode(file, 3, decode_size), pillows)


def test_odd_jpegs_are_left_to_pillow():
    picture, exif = Image.fromarray(noise(20, 30, 3)), Image.Exif()
    exif[0x0112] = 6
    turned = encoded(picture, "JPEG", exif=exif)
    assert not jpeg.is_plain(turned)
    long = b"\xff\xe2" + (65000).to_bytes(2, "big") + bytes(64998)
    late = turned[:2] + long + long + turned[2:]  # the metadata begin after 64 KiB
    assert decode(late, 3).shape == (3, 30, 20)
    assert decode(turned, 3).shape == (3, 30, 20)
    inks = encoded(picture.convert("CMYK"), "JPEG")
    assert jpeg.read(inks, None) is None
    assert decode(inks, 3).shape == (3, 20, 30)
    cut = encoded(picture, "JPEG")[:-200]
    assert jpeg.read(cut, None) is None
    with pytest.raises(BrokenImage, match="truncated"):
        decode(cut, 3)

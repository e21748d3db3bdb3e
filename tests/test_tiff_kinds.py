"""TIFF files of every kind that tifffile writes, and scikit-image's samples: read right or refused by name."""

import importlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import skimage
import tifffile
from PIL import Image

from lookalike.data import BrokenImage, Pixels, Scale, decode, open_source
from lookalike.image_options import Tiling

RNG = np.random.default_rng(0)
H, W = 32, 48
BANDS = {"B02": 0, "B03": 1, "B04": 2, "B08": 3}


def values(dtype: str, *shape: int, top: int | None = None) -> np.ndarray:
    """Values over the whole range of a type, or from 0 to `top`; floats from 0 to 1."""
    if dtype[0] in "fc":
        return RNG.random(shape).astype(dtype)
    about = np.iinfo(dtype)
    return RNG.integers(about.min if top is None else 0, top or about.max, shape, dtype, endpoint=True)


def written(array: np.ndarray, **options: object) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, array, **options)  # type: ignore[arg-type]
    return file.getvalue()


def planes(array: np.ndarray) -> np.ndarray:
    """(H, W) or (H, W, C) -> (C, H, W)."""
    return array[None] if array.ndim == 2 else np.moveaxis(array, 2, 0)


GREY, DEEP, FLOAT = values("u1", H, W), values("u2", H, W), values("f4", H, W)
RGB, DEEP_RGB, FIVE = values("u1", H, W, 3), values("u2", H, W, 3), values("u2", 5, H, W)
Case = tuple[bytes, Pixels | int, np.ndarray | str]
"""A file, how it is read, and its values (C, H, W), or the reason why it is refused."""


def compressions() -> Iterator[tuple[str, Case]]:
    """All lossless ones, for every type that they know."""
    arrays = {"grey": GREY, "16 bits": DEEP, "RGB": RGB, "RGB of 16 bits": DEEP_RGB, "float32": FLOAT}
    codecs = {name: {*arrays} for name in ("zlib", "lzw", "packbits", "lzma", "zstd", "lerc", "jpegxl")}
    codecs |= {name: {*arrays} - {"float32"} for name in ("png", "jpeg2000", "jpegxr")} | {"webp": {"RGB"}}
    for codec, known in codecs.items():
        for name in sorted(known):
            array, kind = arrays[name], "rgb" if arrays[name].ndim == 3 else "minisblack"
            lossless = {"compressionargs": {"lossless": True}} if codec == "webp" else {}
            for tile in (None, (16, 16)):
                content = written(array, compression=codec, photometric=kind, tile=tile, **lossless)
                yield f"{codec}, {name}, tile {tile}", (content, planes(array).shape[0], planes(array))
        if codec != "webp":
            bands = written(FIVE, compression=codec, photometric="minisblack", planarconfig="separate")
            yield f"{codec}, five bands", (bands, 5, FIVE)
    for codec in ("lzw", "zlib"):
        for name in ("16 bits", "RGB of 16 bits", "float32"):
            array, kind = arrays[name], "rgb" if arrays[name].ndim == 3 else "minisblack"
            content = written(array, compression=codec, predictor=True, photometric=kind)
            yield f"{codec} with a predictor, {name}", (content, len(planes(array)), planes(array))


def layouts() -> Iterator[tuple[str, Case]]:
    for order in "<>":
        for big in (False, True):
            options = {"byteorder": order, "bigtiff": big}
            name = f"{'BigTIFF' if big else 'TIFF'} {order}"
            yield f"{name} grey", (written(DEEP, photometric="minisblack", **options), 1, DEEP[None])
            yield f"{name} RGB", (written(RGB, photometric="rgb", **options), 3, planes(RGB))
            packed = written(DEEP_RGB, photometric="rgb", compression="lzw", predictor=True, **options)
            yield f"{name} packed", (packed, 3, planes(DEEP_RGB))
    for array in (RGB, DEEP_RGB):
        apart = planes(array).copy()
        for more in ({}, {"tile": (16, 16)}, {"compression": "lzw"}, {"rowsperstrip": 5}):
            content = written(apart, photometric="rgb", planarconfig="separate", **more)
            yield f"planes of {array.dtype} {more}", (content, 3, apart)
    for count in (2, 4, 5, 13):
        bands = values("u2", count, H, W)
        for planar, form in (("separate", bands), ("contig", np.moveaxis(bands, 0, 2).copy())):
            yield (
                f"{count} bands, {planar}",
                (written(form, photometric="minisblack", planarconfig=planar), count, bands),
            )
        yield f"{count} pages", (written(bands, photometric="minisblack"), count, bands)
        yield f"the first of {count} pages", (written(bands, photometric="minisblack"), 1, bands[:1])
    yield "an ImageJ stack", (written(FIVE, imagej=True), 5, FIVE)
    hyper = values("u2", 3, 4, H, W)
    yield "an ImageJ hyperstack", (written(hyper, imagej=True, metadata={"axes": "ZCYX"}), 12, hyper.reshape(12, H, W))
    four, by_name = values("u2", 4, H, W), Pixels(2, bands=("B08", "B03"))
    ome = {"ome": True, "photometric": "minisblack", "metadata": {"axes": "CYX", "Channel": {"Name": [*BANDS]}}}
    yield "OME pages by name", (written(four, **ome), by_name, four[[3, 1]])
    items = "".join(f'<Item name="DESCRIPTION" sample="{i}">{name}</Item>' for name, i in BANDS.items())
    geo = [
        (33550, "d", 3, (10.0, 10.0, 0.0), True), (33922, "d", 6, (0.0, 0.0, 0.0, 1.0, 1.0, 0.0), True),
        (34735, "H", 4, (1, 1, 0, 0), True), (42112, "s", 0, f"<GDALMetadata>{items}</GDALMetadata>", True),
        (42113, "s", 0, "-9999", True),
    ]  # fmt: skip
    content = written(np.moveaxis(four, 0, 2).copy(), photometric="minisblack", planarconfig="contig", extratags=geo)
    yield "GeoTIFF by name", (content, by_name, four[[3, 1]])
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as pyramid:
        pyramid.write(RGB, photometric="rgb", subifds=1, tile=(16, 16))
        pyramid.write(RGB[::2, ::2], photometric="rgb", subfiletype=1, tile=(16, 16))
    yield "a pyramid", (file.getvalue(), 3, planes(RGB))
    volume = written(values("u2", 8, H, W), volumetric=True, photometric="minisblack", tile=(8, 16, 16))
    yield "a volume", (volume, 1, "a TIFF volume of 8 slices")
    for turn, upright in ((3, lambda x: x[:, ::-1, ::-1]), (6, lambda x: x.transpose(0, 2, 1)[:, :, ::-1])):
        for array in (RGB, DEEP_RGB, DEEP, FLOAT):
            kind = "rgb" if array.ndim == 3 else "minisblack"
            content = written(array, photometric=kind, extratags=[(274, "H", 1, turn, True)])
            yield f"turned {turn} {array.dtype} {kind}", (content, len(planes(array)), upright(planes(array)))


def types() -> Iterator[tuple[str, Case]]:
    for dtype in ("u1", "u2", "f2", "f4", "f8"):
        array = values(dtype, H, W, 3)
        read = planes(array.astype("f4") if dtype == "f8" else array)
        yield f"RGB of {dtype}", (written(array, photometric="rgb"), 3, read)
    for dtype in ("i1", "i2", "i4", "i8", "u4", "u8"):
        array = values(dtype, H, W)
        reason = f"integers from {array.min()} to {array.max()}"
        yield f"all values of {dtype}", (written(array, photometric="minisblack"), 1, reason)
        small, limits = values(dtype, H, W, top=100), Pixels(1, scale=Scale.of("range 0 100"))
        if dtype != "i1":
            yield f"small values of {dtype}", (written(small, photometric="minisblack"), 1, small[None])
        expected = np.round(small[None] / 100 * 65535)
        yield f"{dtype} with limits", (written(small, photometric="minisblack"), limits, expected)
    large = values("u4", H, W)
    half = Pixels(1, scale=Scale.of(f"range 0 {2**32 - 1}"))
    scaled = np.round(large[None] * (65535 / (2**32 - 1)))
    yield "all values of u4 with limits", (written(large, photometric="minisblack"), half, scaled)
    yield (
        "all values of u8 with limits",
        (written(values("u8", H, W), photometric="minisblack"), half, "expected at most"),
    )
    for dtype in ("c8", "c16"):
        yield dtype, (written(values(dtype, H, W), photometric="minisblack"), 1, "complex floats")
    missing = np.where(values("u1", H, W) < 9, np.nan, FLOAT).astype("f4")
    yield "NaN", (written(missing, photometric="minisblack"), 1, "not all of them finite")
    yield "no data", (written(FLOAT * 0 - 9999, photometric="minisblack"), 1, "float values from -9999 to -9999")
    for dtype in ("u1", "u2"):
        array = values(dtype, H, W)
        yield f"white first, {dtype}", (written(array, photometric="miniswhite"), 1, np.iinfo(dtype).max - array[None])
    yield "white first, f4", (written(FLOAT, photometric="miniswhite"), 1, "inverted greyscale of float32")


def few_bits() -> Iterator[tuple[str, Case]]:
    for bits in range(1, 16):
        top = 2**bits - 1
        array = values("u1" if bits <= 8 else "u2", H, W, top=top)
        content = written(array, photometric="minisblack", bitspersample=bits)
        limits = Pixels(1, scale=Scale.of(f"range 0 {top}"))
        if bits != 8:
            read = 255 * (array > 0) if bits == 1 else np.round(array / top * 65535)
            expected = read * 257 if bits == 1 else read
            yield f"{bits} bits with limits", (content, limits, expected[None])
        colour = values(array.dtype.str[1:], H, W, 3, top=top)
        if bits > 1:
            yield f"RGB of {bits} bits", (written(colour, photometric="rgb", bitspersample=bits), 3, planes(colour))
    bilevel = values("u1", H, W, top=1).astype(bool)
    for white, kind in ((True, "minisblack"), (False, "miniswhite")):
        yield f"bilevel, {kind}", (written(bilevel, photometric=kind), 1, np.where(bilevel == white, 255, 0)[None])


def colours() -> Iterator[tuple[str, Case]]:
    table = values("u2", 3, 256)
    palette = written(GREY, photometric="palette", colormap=table)
    yield "palette", (palette, 3, (table >> 8)[:, GREY])
    wide = written(DEEP, photometric="palette", colormap=values("u2", 3, 65536))
    yield "palette of 16 bits", (wide, 3, "1 x 16 bits (unsigned integers, palette)")
    ink = written(values("u1", H, W, 4), photometric="separated")
    with Image.open(io.BytesIO(ink)) as opened:
        yield "CMYK", (ink, 3, planes(np.asarray(opened.convert("RGB"))))
    yield "CMYK of 16 bits", (written(values("u2", H, W, 4), photometric="separated"), 3, "4 x 16 bits")
    for kind in ("rgb", "ycbcr"):
        packed = written(RGB, photometric=kind, compression="jpeg", tile=(16, 16))
        with tifffile.TiffFile(io.BytesIO(packed)) as file:
            expected = planes(file.asarray())
        yield f"JPEG of {kind}", (packed, 3, expected)
    yield "JPEG of 12 bits", (written(DEEP_RGB >> 4, photometric="rgb", compression="jpeg"), 3, "3 x 12 bits")
    for kind, name in (("ycbcr", "YCbCr"), ("cielab", "LAB"), ("icclab", "ICCLAB"), ("linear_raw", "linear raw")):
        yield kind, (written(RGB, photometric=kind), 3, f"3 x 8 bits (unsigned integers, {name})")
    for kind, name in (("cfa", "camera mosaic"), ("depth_map", "depth")):
        yield kind, (written(DEEP, photometric=kind), 1, f"1 x 16 bits (unsigned integers, {name})")
    mosaic = written(DEEP, photometric="cfa", extratags=[(33421, "H", 2, (2, 2), True)])
    yield "a mosaic as a band", (mosaic, Pixels(1, bands=("1",)), DEEP[None])
    clear = np.zeros((H, W, 4), "u2")
    clear[:20], clear[20:24] = (60000, 2000, 0, 65535), (30000, 1000, 0, 32768)  # half of the colour above, and none
    for name, kind in (("premultiplied", "assocalpha"), ("straight", "unassalpha")):
        content = written(clear, photometric="rgb", extrasamples=[kind])
        colour = np.array([60000, 2000, 0]) if kind == "assocalpha" else np.array([30000, 1000, 0])
        part = np.round(colour * (32768 / 65535) + 65535 - 32768)
        on_white = np.full((H, W, 3), 65535.0)
        on_white[:20], on_white[20:24] = (60000, 2000, 0), part
        yield f"{name} on white", (content, 3, planes(on_white))
    other = values("u2", H, W, 4)
    yield "a premultiplied band", (written(other, photometric="rgb", extrasamples=["assocalpha"]), 3, "premultiplied")
    yield "a band beside", (written(other, photometric="rgb", extrasamples=["unspecified"]), 3, planes(other)[:3])


KINDS = (compressions, layouts, types, few_bits, colours)


@pytest.mark.parametrize("kind", KINDS, ids=[kind.__name__ for kind in KINDS])
def test_files_of_every_kind_are_read_right_or_refused_by_name(
    kind: Callable[[], Iterator[tuple[str, Case]]], capfd: pytest.CaptureFixture[str]
) -> None:
    for name, (content, pixels, expected) in kind():
        if isinstance(expected, str):
            with pytest.raises(BrokenImage) as found:
                decode(content, pixels)
            assert expected in found.value.reason, name
            continue
        image = decode(content, pixels).numpy()
        assert image.shape == expected.shape, name
        near = 1 if "limits" in name or "on white" in name else 0
        assert np.abs(image.astype("f8") - expected.astype("f8")).max() <= near, name
    assert capfd.readouterr().err == ""


def test_a_missing_codec_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.tif").write_bytes(written(DEEP_RGB, photometric="rgb", compression="zstd", tile=(16, 16)))
    (tmp_path / "y.tif").write_bytes(written(RGB, photometric="rgb", compression="jpegxl"))
    monkeypatch.setattr(tifffile.tifffile, "imagecodecs", importlib.import_module("tifffile._imagecodecs"))
    decompressors = tifffile.TIFF.DECOMPRESSORS
    monkeypatch.setattr(tifffile.TIFF, "DECOMPRESSORS", type(decompressors)(encode=False))
    expected = r"a TIFF compressed with (ZSTD|JPEGXL)\. pip install 'lookalike\[tiff\]' reads it"
    for name in ("x.tif", "y.tif"):
        with pytest.raises(BrokenImage, match=expected):
            decode(tmp_path / name)
    source = open_source(tmp_path, tiling=Tiling(16, 16))
    with pytest.raises(BrokenImage, match=expected):
        source.read(0, None)


SAMPLES = sorted(path for path in (Path(skimage.__file__).parent / "data").iterdir() if path.suffix[1:] in
                 ("png", "jpg", "tif", "gif"))  # fmt: skip
"""The images in scikit-image's package; others would be downloaded."""


@pytest.mark.parametrize("channels", [1, 3])
def test_scikit_images_samples_are_those_that_pillow_reads(channels: int) -> None:
    assert len(SAMPLES) >= 25
    for path in SAMPLES:
        if path.name == "logo.png":  # its transparency is composited on white
            continue
        if path.name == "multipage_rgb.tif":  # float64, which Pillow does not read
            assert np.allclose(decode(path).numpy(), tifffile.imread(path)[0])
            continue
        with Image.open(path) as opened:
            expected = np.asarray(opened.convert({1: "L", 3: "RGB"}[channels]))
        near = 4 if path.suffix == ".jpg" else 1  # another decoder of JPEG, luma rounded elsewhere
        image = decode(path, channels).numpy()
        image = image >> 8 if image.dtype == np.uint16 else image  # Pillow gives the upper byte
        assert image.shape == planes(expected).shape, path.name
        assert np.abs(image.astype(int) - planes(expected)).max() <= near, path.name

"""Bit depth, bands and ranges of values: read, scaled, stored with the encoder and applied by every command."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from support.files import png, tiff
from support.runs import tiny_config
from support.scans import geotiff

import lookalike
from lookalike import Run, cli
from lookalike.data import BrokenImage, Pixels, Scale, decode, measured, open_source
from lookalike.encoders.card import checked, pixels_of
from lookalike.evaluation.features import features
from lookalike.runs import Folder
from lookalike.views import View, make_views

RNG = np.random.default_rng(0)
SMALL = ["--backbone", "test_byobnet", "--image-size", "32", "--workers", "0"]
TRAIN = ["--epochs", "1", "--batch-size", "8", "--no-report", *SMALL]


def noise(*shape: int, low: int = 0, high: int = 255, dtype: str = "u1") -> np.ndarray:
    return RNG.integers(low, high + 1, shape).astype(dtype)


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    "words",
    [("range",), ("range", "5"), ("range", "5", "5"), ("range", "a", "b"), ("percentile", "-1", "50"), ("dtype", "1"),
     ("percentile", "1", "101"), (), ("levels", "0", "1"), ("range", "0", "nan"), ("range", "0", "1", "2")],
)  # fmt: skip
def test_a_scale_of_another_form_is_refused(words: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="expected dtype, range LOW HIGH"):
        Scale.of(words)


@pytest.mark.parametrize("words", ["dtype", "range 0 4095", "range -1024 3071.5", "percentile 1 99", "range 0 1 0 2"])
def test_a_scale_survives_its_words(words: str) -> None:
    scale = Scale.of(words)
    assert str(scale) == words
    assert Scale.of(scale.words()) == scale


def test_bands_determine_the_channels() -> None:
    method = tiny_config()
    run = Run(data="x", method=method, bands=(4, "nir"), scale="range 0 10000")  # type: ignore[arg-type]
    assert (run.channels, run.bands, run.scale) == (2, ("4", "nir"), ("range", "0", "10000"))
    assert run.pixels == Pixels(2, "auto", ("4", "nir"), Scale.of("range 0 10000"))
    with pytest.raises(ValueError, match="bands is 2, but channels is 5"):
        Run(data="x", method=method, bands=("1", "2"), channels=5)
    with pytest.raises(ValueError, match="scale is 2, but channels is 3"):
        Run(data="x", method=method, scale=("range", "0", "1", "0", "2"))
    with pytest.raises(ValueError, match="bands is '432'"):
        Run(data="x", method=method, bands="432")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("bands", "channels", "color"),
    [(None, 3, True), (None, 1, False), (None, 13, False), (("3", "2", "1"), 3, False), (("R", "G", "B"), 3, True),
     (("red", "green", "blue"), 3, True), (("blue", "green", "red"), 3, False)],
)  # fmt: skip
def test_colour_is_known_by_pictures_and_names(bands: tuple[str, ...] | None, channels: int, color: bool) -> None:
    assert Pixels(channels, bands=bands).is_color is color


# ---------------------------------------------------------------- values


def test_integers_are_scaled_to_16_bits_and_floats_to_1(tmp_path: Path) -> None:
    values = noise(9, 7, low=-500, high=4500, dtype="i2")
    expected = np.clip(values / 4095, 0, 1)
    for dtype in ("i2", "i4", "i8", "f4", "f8"):
        np.save(tmp_path / "x.npy", values.astype(dtype))
        found = decode(tmp_path / "x.npy", Pixels(1, scale=Scale.of("range 0 4095")))
        assert found.dtype == (torch.float32 if dtype[0] == "f" else torch.uint16)
        top = 1 if dtype[0] == "f" else 65535
        assert np.abs(found.numpy().astype("f8")[0] / top - expected).max() <= 0.51 / 65535


def test_the_full_range_of_8_bits_is_unchanged_by_its_own_limits() -> None:
    for content in (png(noise(9, 7, 3), 2), png(noise(9, 7)), tiff(noise(9, 7, 3), 2)):
        plain = decode(content, 3)
        found = decode(content, Pixels(3, scale=Scale.of("range 0 255")))
        assert np.array_equal(found.numpy(), plain.numpy().astype("u2") * 257)


@pytest.mark.parametrize("kind", ["grey png", "rgb png", "grey tiff", "rgb tiff"])
def test_12_bits_in_files_of_16_keep_their_contrast(kind: str) -> None:
    array = noise(9, 7, 3 if "rgb" in kind else 1, high=4095, dtype="u2")
    if "png" in kind:
        content = png(array if "rgb" in kind else array[..., 0], 2 if "rgb" in kind else 0)
    else:
        content = tiff(array, 2 if "rgb" in kind else 1)
    found = decode(content, Pixels(array.shape[2], scale=Scale.of("range 0 4095"))).numpy()
    expected = array.transpose(2, 0, 1).astype("f8") / 4095 * 65535
    assert np.abs(found - expected).max() <= 0.51
    assert found.max() > 60_000


def test_limits_per_band_scale_each_band(tmp_path: Path) -> None:
    array = np.stack([np.full((4, 4), 10), np.full((4, 4), 10)]).astype("u2")
    np.save(tmp_path / "x.npy", array)
    found = decode(tmp_path / "x.npy", Pixels(2, scale=Scale.of("range 0 10 0 20"))).numpy()
    assert found[0].tolist() == [[65535] * 4] * 4
    assert found[1].tolist() == [[32768] * 4] * 4


def test_percentiles_are_measured_per_band_on_a_seeded_sample(tmp_path: Path) -> None:
    for i in range(12):
        array = np.stack([noise(16, 16, high=1000, dtype="u2"), noise(16, 16, low=500, high=9000, dtype="u2")])
        np.save(tmp_path / f"{i}.npy", array)
    (tmp_path / "broken.npy").write_bytes(b"x")
    source = open_source(tmp_path, Pixels(2, scale=Scale.of("percentile 5 95")))
    found = measured(source).pixels.scale
    every = np.stack([np.load(tmp_path / f"{i}.npy") for i in range(12)], 1).reshape(2, -1)
    assert np.allclose(found.limits, np.percentile(every, (5, 95), axis=1).T, rtol=1e-5)
    assert measured(source).pixels.scale == found
    assert measured(measured(source)).pixels.scale == found


def test_percentiles_that_cannot_be_measured_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.full((2, 8, 8), 7, "u2"))
    with pytest.raises(ValueError, match="Both percentiles of channel 1 are 7"):
        measured(open_source(tmp_path, Pixels(2, scale=Scale.of("percentile 1 99"))))
    (tmp_path / "x.npy").write_bytes(b"x")
    with pytest.raises(ValueError, match="None of 1 image could be read, so percentiles"):
        measured(open_source(tmp_path, Pixels(2, scale=Scale.of("percentile 1 99"))))
    source = open_source(tmp_path, Pixels(2, scale=Scale.of("range 0 10")))  # as both advise
    assert measured(source) is source


def test_check_proposes_a_scale_for_other_types(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(4):
        np.save(tmp_path / f"{i}.npy", noise(40, 40, low=-1000, high=3000, dtype="i2"))
    argv = ["check", str(tmp_path), "--channels", "1", "--workers", "0", "--no-timing"]
    assert cli.main(argv) == 0
    shown = capsys.readouterr().out
    found = re.search(r"give --scale (percentile 1 99), or --scale (range -\d+ \d+)", shown)
    assert found is not None
    assert "4 are valid but not supported" in shown
    for scale in found.groups():
        assert cli.main([*argv, "--scale", *scale.split()]) == 0
        shown = capsys.readouterr().out
        assert "of which 0 cannot be read\n" in shown
        assert f"--scale {scale} " in shown.splitlines()[-1]


def test_a_band_that_is_not_finite_breaks_the_image(tmp_path: Path) -> None:
    array = RNG.random((3, 8, 8)).astype("f4")
    array[1, 2, 2] = np.nan
    np.save(tmp_path / "x.npy", array)
    for pixels in (Pixels(3, scale=Scale.of("range 0 1")), Pixels(3)):
        with pytest.raises(BrokenImage, match=r"x\.npy: .*not (all of them )?finite"):
            decode(tmp_path / "x.npy", pixels)
    with pytest.raises(BrokenImage, match="band 2 of 3"):
        decode(tmp_path / "x.npy", Pixels(3, scale=Scale.of("range 0 1")))
    assert decode(tmp_path / "x.npy", Pixels(2, bands=("1", "3"))).shape == (2, 8, 8)


# ---------------------------------------------------------------- bands


@pytest.mark.parametrize("options", [{}, {"tile": (16, 16)}, {"compression": "deflate"}, {"compression": "lzw"}])
def test_bands_are_chosen_by_number_and_by_name(options: dict[str, object], tmp_path: Path) -> None:
    array = noise(4, 20, 24, high=9999, dtype="u2")
    geotiff(tmp_path / "x.tif", array, ("blue", "green", "red", "nir"), **options)
    assert np.array_equal(decode(tmp_path / "x.tif", 4).numpy(), array)
    for bands in (("3", "2", "1"), ("red", "green", "blue"), ("RED", "2", "Blue")):
        found = decode(tmp_path / "x.tif", Pixels(3, bands=bands))
        assert np.array_equal(found.numpy(), array[[2, 1, 0]])
    for band in ("5", "0", "swir", "-1", "1.5"):
        with pytest.raises(BrokenImage, match=r"has 4 bands named blue, green, red, nir, but no band"):
            decode(tmp_path / "x.tif", Pixels(1, bands=(band,)))


def test_pages_are_bands_and_keep_their_names(tmp_path: Path) -> None:
    array = noise(3, 9, 7, dtype="u2")
    with tifffile.TiffWriter(tmp_path / "x.tif") as writer:
        for page, name in zip(array, ("dapi", "gfp", "mcherry"), strict=True):
            writer.write(page, photometric="minisblack", metadata=None, extratags=[(285, "s", 0, name, True)])
    assert np.array_equal(decode(tmp_path / "x.tif", Pixels(2, bands=("mcherry", "1"))).numpy(), array[[2, 0]])
    assert np.array_equal(decode(tmp_path / "x.tif", 1).numpy(), array[:1])  # without bands, the first page


@pytest.mark.parametrize("first", [True, False])
def test_bands_of_arrays_are_on_the_shorter_side(first: bool, tmp_path: Path) -> None:
    array = noise(13, 20, 24, dtype="u2")
    np.save(tmp_path / "x.npy", array if first else array.transpose(1, 2, 0))
    pixels = Pixels(2, bands=("13", "1"))
    assert np.array_equal(decode(tmp_path / "x.npy", pixels).numpy(), array[[12, 0]])
    source = open_source([array if first else np.ascontiguousarray(array.transpose(1, 2, 0))], pixels)
    assert np.array_equal(source.read(0, None).numpy(), array[[12, 0]])


def test_bands_of_pictures_are_chosen_too() -> None:
    array = noise(9, 7, 3)
    assert np.array_equal(decode(png(array, 2), Pixels(2, bands=("3", "1"))).numpy(), array.transpose(2, 0, 1)[[2, 0]])


def test_files_with_other_numbers_of_bands_are_replaced_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for i in range(24):
        np.save(data / f"{i:02}.npy", noise(5, 40, 40))
    np.save(data / "four.npy", noise(4, 40, 40))
    np.save(data / "nan.npy", np.full((5, 40, 40), np.nan, "f4"))
    out = tmp_path / "run"
    assert cli.main(["pretrain", "simclr", str(data), "--channels", "5", "--out", str(out), *TRAIN]) == 0
    capsys.readouterr()
    rows = [json.loads(line) for line in Folder(out).metrics.read_text().splitlines()]
    assert rows
    log = Folder(out).log.read_text()
    assert "four.npy: not supported: an array of shape (4, 40, 40)" in log
    assert "nan.npy: float values from nan to nan" in log


# ---------------------------------------------------------------- views


def test_colour_operations_need_colour() -> None:
    images = torch.from_numpy(noise(4, 3, 40, 40))
    view = View(size=24, jitter=1.0, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.2, grayscale=0.5)
    without = View(size=24, jitter=1.0, brightness=0.4, contrast=0.4)
    plain, other = (make_views(images, [each], 7, color=False)[0] for each in (view, without))
    assert torch.equal(plain, other)
    assert not torch.equal(plain, make_views(images, [view], 7)[0])
    assert torch.equal(make_views(images, [view], 7)[0], make_views(images, [view], 7, color=True)[0])
    with pytest.raises(ValueError, match="color=True"):
        make_views(torch.from_numpy(noise(4, 5, 40, 40)), [view], 7, color=True)


def test_a_16_bit_copy_of_8_bit_images_has_the_same_views_and_neighbours(tmp_path: Path) -> None:
    for folder in ("eight", "sixteen", "twelve"):
        for name in ("a", "b"):
            (tmp_path / folder / name).mkdir(parents=True)
    for i in range(24):
        array = noise(40, 44, 3) // (1 + i % 2)
        place = f"{'ab'[i % 2]}/{i}"
        Image.fromarray(array).save(tmp_path / "eight" / f"{place}.png")
        (tmp_path / "sixteen" / f"{place}.png").write_bytes(png(array.astype("u2") * 257, 2))
        tifffile.imwrite(tmp_path / "twelve" / f"{place}.tif", array.astype("u2") * 16, photometric="rgb")
    pixels = {"eight": Pixels(), "sixteen": Pixels(), "twelve": Pixels(scale=Scale.of(f"range 0 {255 * 16}"))}
    sources = {name: open_source(tmp_path / name, each, labelled=True) for name, each in pixels.items()}
    model = lookalike.backbones.create("test_byobnet", image_size=32).eval()
    view = View(size=24, scale=(0.2, 1.0), jitter=1.0, brightness=0.4, hue=0.1, saturation=0.4)
    views, near = {}, {}
    for name, source in sources.items():
        images = torch.stack([source.read(i, None).to(torch.int32) for i in range(len(source))])
        images = images.to(torch.uint16) if name != "eight" else images.to(torch.uint8)
        views[name] = make_views(images, [view], torch.arange(len(source)))[0]
        found = features(model, source, image_size=32, mean=model.mean, std=model.std)
        unit = torch.nn.functional.normalize(found.features)
        near[name] = (unit @ unit.T).fill_diagonal_(-1).argmax(1)
    for name in ("sixteen", "twelve"):
        assert (views[name] - views["eight"]).abs().max() < 2e-5
        assert torch.equal(near[name], near["eight"])


# ---------------------------------------------------------------- stored and applied


def satellite(folder: Path, images: int = 16) -> np.ndarray:
    """GeoTIFFs of 13 named bands of 16 bits, in two class folders; returns all values (N, C, H, W)."""
    names = "".join(f'<Item name="DESCRIPTION" sample="{i}" role="description">B{i + 1:02}</Item>' for i in range(13))
    arrays = []
    for i in range(images):
        (folder / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        array = noise(13, 40, 40, low=100 * (i % 2), high=3000, dtype="u2")
        tifffile.imwrite(
            folder / "ab"[i % 2] / f"{i:02}.tif", array, photometric="minisblack", planarconfig="separate",
            metadata=None, extratags=[(42112, "s", 0, f"<GDALMetadata>{names}</GDALMetadata>", True)],
        )  # fmt: skip
        arrays.append(array)
    return np.stack(arrays)


def test_13_bands_are_trained_evaluated_embedded_and_exported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Percentiles are measured once, and every command uses the stored range."""
    train, test, out = tmp_path / "train", tmp_path / "test", tmp_path / "run"
    values = satellite(train)
    satellite(test, 8)
    assert cli.main(["check", str(train), "--workers", "0", "--no-timing"]) == 0
    assert "Give --channels 13, or choose some with --bands" in capsys.readouterr().out
    assert cli.main(["check", str(train), "--channels", "13", "--workers", "0", "--no-timing"]) == 0
    assert "13 bands (B01, B02, B03" in (shown := capsys.readouterr().out)
    assert "--scale range 0 " in shown.splitlines()[-1]
    argv = ["pretrain", "simclr", str(train), "--channels", "13", "--scale", "percentile", "1", "99"]
    assert cli.main([*argv, "--normalize", "data", "--out", str(out), *TRAIN]) == 0
    shown = capsys.readouterr().out
    assert "scale       percentile 1 99 of " in shown
    assert "without saturation, hue, grayscale: 3 channels are needed" in shown
    card = json.loads(Folder(out).card.read_text())
    kind, *limits = card["scale"]
    assert kind == "range"
    expected = np.percentile(values.transpose(1, 0, 2, 3).reshape(13, -1), (1, 99), axis=1).T
    assert np.allclose(np.reshape(limits, (13, 2)), expected, rtol=0.05)
    assert pixels_of(checked(card, "x")).scale.limits == lookalike.load(out).pixels.scale.limits
    assert len(card["mean"]) == 13
    assert abs(np.mean(card["mean"]) - 0.5) < 0.1  # of scaled values
    again = cli.main([*argv, "--normalize", "data", "--out", str(out), "--resume", *TRAIN, "--epochs", "2"])
    assert again == 0
    capsys.readouterr()
    assert cli.main(["embed", str(out), str(test), "--out", str(tmp_path / "e.npz"), "--workers", "0"]) == 0
    assert cli.main(["evaluate", str(out), str(train), str(test), "--protocols", "knn", "--workers", "0"]) == 0
    assert cli.main(["show", str(out), str(test), "--out", str(tmp_path / "show"), "--workers", "0"]) == 0
    assert Image.open(tmp_path / "show/neighbours.png", formats=["PNG"]).getextrema()[0][1] > 200
    own = np.load(tmp_path / "e.npz")["features"]
    model = lookalike.load(out)
    source = open_source(test, Pixels(13, scale=model.pixels.scale))
    found = features(model, source, image_size=32, mean=model.mean, std=model.std).features
    assert np.allclose(own, found.numpy(), atol=1e-5)
    flat = features(model, open_source(test, 13), image_size=32, mean=model.mean, std=model.std).features
    assert not np.allclose(own, flat.numpy(), atol=1e-3)
    finetuned = tmp_path / "finetuned"
    argv = ["finetune", str(out), str(train), str(test), "--out", str(finetuned), "--epochs", "1", "--workers", "0"]
    assert cli.main([*argv, "--batch-size", "8", "--no-report"]) == 0
    assert lookalike.load(finetuned).pixels == model.pixels
    assert cli.main(["predict", str(finetuned), str(test), "--out", str(tmp_path / "p.csv"), "--workers", "0"]) == 0


def test_chosen_bands_are_stored_and_colours_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = tmp_path / "data", tmp_path / "run"
    satellite(data)
    argv = ["pretrain", "simclr", str(data), "--bands", "B04", "B03", "B02", "--scale", "range", "0", "3000"]
    assert cli.main([*argv, "--out", str(out), *TRAIN]) == 0
    shown = capsys.readouterr().out
    assert "bands B04 B03 B02; values 0 to 3000 of the files become 0 to 1" in shown
    assert "without saturation, hue, grayscale: the bands are not named red, green and blue" in shown
    card = json.loads(Folder(out).card.read_text())
    assert (card["channels"], card["bands"], card["scale"]) == (3, ["B04", "B03", "B02"], ["range", 0.0, 3000.0])
    assert cli.main(["embed", str(out), str(data), "--out", str(tmp_path / "e.npz"), "--workers", "0"]) == 0
    assert len(np.load(tmp_path / "e.npz")["features"]) == 16
    other = [*argv[:-1], "2000", "--out", str(out), "--resume", *TRAIN]
    assert cli.main(other) == 1
    assert "scale" in capsys.readouterr().err


def test_a_scale_that_an_export_cannot_hold_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = tmp_path / "data", tmp_path / "run"
    satellite(data)
    argv = ["pretrain", "simclr", str(data), "--channels", "13", "--scale", "range", "0", "3000"]
    assert cli.main([*argv, "--out", str(out), *TRAIN]) == 0
    capsys.readouterr()
    assert cli.main(["export", str(out), "--format", "timm"]) == 1
    assert "--scale range 0 3000, which the settings of timm cannot state" in capsys.readouterr().err
    assert cli.main(["export", str(out), "--format", "pt2", "--with-preprocessing"]) == 1
    assert "takes images of 8 bits and divides them by 255" in capsys.readouterr().err
    assert cli.main(["export", str(out), "--format", "pt2", "--out", str(tmp_path / "export")]) == 0
    text = (tmp_path / "export/README.md").read_text()
    assert "clip((pixels - 0) / (3000 - 0), 0, 1)" in text


def test_a_card_without_bands_and_scale_reads_pictures(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert cli.main(["pretrain", "simclr", str(photos), "--out", str(out), *TRAIN]) == 0
    card = json.loads(Folder(out).card.read_text())
    assert (card.pop("bands"), card.pop("scale")) == (None, ["dtype"])
    assert pixels_of(checked(card, "x")) == Pixels()
    for name, value in (("bands", ["1"]), ("bands", 3), ("scale", ["range", 1, 0]), ("scale", ["percentile", 1, 99]),
                        ("scale", "dtype"), ("scale", ["range", 0, 1, 0, 1])):  # fmt: skip
        with pytest.raises(ValueError, match=f"has {name} "):
            checked({**card, name: value}, "x")

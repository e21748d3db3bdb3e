"""Tiles of large frames: positions, names, labels and pixels, in every command that takes images."""

import csv
import pickle
import random
import tarfile
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from support.runs import interrupt_after

from lookalike import cli
from lookalike.data import BrokenImage, Pixels, Scale, Source, Tiling, boxes, limits, open_source
from lookalike.data.sources.tiles import Tiles, positions
from lookalike.data.splits import open_split, shared_groups
from lookalike.runs import Folder, read_yaml

RNG = np.random.default_rng(0)
TRAIN = ["--backbone", "test_byobnet", "--image-size", "32", "--workers", "0", "--epochs", "1", "--batch-size", "8"]


def noise(*shape: int, dtype: str = "u1") -> np.ndarray:
    return RNG.integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)


@pytest.mark.parametrize(
    ("side", "size", "stride", "expected"),
    [(100, 40, 40, [0, 40, 60]), (80, 40, 40, [0, 40]), (100, 40, 20, [0, 20, 40, 60]), (40, 40, 10, [0]),
     (30, 40, 40, [0]), (41, 40, 40, [0, 1]), (1, 1, 1, [0])],
)  # fmt: skip
def test_the_last_tile_ends_at_the_border(side: int, size: int, stride: int, expected: list[int]) -> None:
    assert list(positions(side, Tiling(size, stride))) == expected


def test_a_stride_leaves_nothing_out() -> None:
    for tile, stride in ((40, 41), (40, 0), (0, 0)):
        with pytest.raises(ValueError, match="Give another --stride"):
            Tiling(tile, stride)
    with pytest.raises(ValueError, match="no tile is given"):
        Tiling.of(None, 5)
    assert Tiling.of(40, None) == Tiling(40, 40)
    assert Tiling.of(None, None) is None


KINDS = ["png", "jpg", "npy", "strips.tif", "tiles.tif", "deflate.tif", "lzw.tif", "planes.tif", "pillow.tif"]


def save(path: Path, array: np.ndarray, kind: str) -> None:
    """(H, W, 3) in a format; all but JPEG without loss."""
    options: dict[str, dict[str, object]] = {
        "strips.tif": {"rowsperstrip": 7}, "tiles.tif": {"tile": (32, 16)},
        "deflate.tif": {"tile": (32, 32), "compression": "deflate", "predictor": True},
        "lzw.tif": {"rowsperstrip": 9, "compression": "lzw"},
    }  # fmt: skip
    if kind == "npy":
        np.save(path, array)
    elif kind == "planes.tif":
        tifffile.imwrite(path, array.transpose(2, 0, 1), photometric="rgb", planarconfig="separate", tile=(16, 32))
    elif kind in options:
        tifffile.imwrite(path, array, photometric="rgb", **options[kind])
    else:
        Image.fromarray(array).save(path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_tile_equals_that_part_of_its_frame(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"x.{kind}"
    array = noise(100, 83, 3)
    save(path, array, kind)
    frames = open_source(tmp_path)
    whole = frames.read(0, None)
    if kind != "jpg":
        assert np.array_equal(whole.numpy(), array.transpose(2, 0, 1))
    source = open_source(tmp_path, tiling=Tiling(40, 25))
    assert isinstance(source, Tiles)
    assert len(source) == 4 * 3  # 0, 25, 50, 60 and 0, 25, 43
    assert [source.name(i) for i in (0, 1, 2, 11)] == [f"x.{kind}@{at}" for at in ("0,0", "0,25", "0,43", "60,43")]
    assert len(set(source.keys.tolist())) == 12
    for i in random.Random(0).sample(range(12), 12):
        top, left, height, width = source.box(i)
        assert (height, width) == (40, 40)
        assert torch.equal(source.read(i, None), whole[:, top : top + 40, left : left + 40])
    assert source.read(3, 20).shape == (3, 20, 20)  # downscaled as other images are


@pytest.mark.parametrize("kind", ["npy", "tiles.tif", "strips.tif", "deflate.tif", "planes.tif"])
def test_a_tile_is_read_without_its_frame(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / f"x.{kind}", noise(100, 83, 3), kind)
    source = open_source(tmp_path, tiling=Tiling(40, 40))
    assert isinstance(source, Tiles)
    monkeypatch.setattr(source.frames, "read", lambda *_: pytest.fail("the whole frame was decoded"))
    assert [source.read(i, None).shape for i in range(len(source))] == [(3, 40, 40)] * 9


def test_only_the_touched_parts_of_a_file_are_decoded(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "x.tif", noise(128, 128, dtype="u2"), photometric="minisblack", tile=(32, 32))
    with tifffile.TiffFile(tmp_path / "x.tif") as opened:
        page = opened.pages.first
        calls = []
        decode = page.decode
        page.__dict__["decode"] = lambda data, index, **options: calls.append(index) or decode(data, index, **options)
        boxes.tile_of(page, (30, 40, 20, 20))
    assert calls == [1, 5]


def test_frames_beyond_the_limit_of_images_are_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = noise(100, 83, 3)
    save(tmp_path / "x.npy", array, "npy")
    save(tmp_path / "y.tif", array, "tiles.tif")
    monkeypatch.setattr(limits, "MAX_BYTES", 40 * 40 * 3)
    for i in range(2):
        with pytest.raises(BrokenImage, match="more than the limit"):
            open_source(tmp_path).read(i, None)
    source = open_source(tmp_path, tiling=Tiling(32, 32))
    assert [source.read(i, None).shape for i in range(len(source))] == [(3, 32, 32)] * 2 * 4 * 3


def test_bands_and_scale_apply_to_tiles(tmp_path: Path) -> None:
    array = noise(5, 50, 60, dtype="u2")
    tifffile.imwrite(tmp_path / "x.tif", array, photometric="minisblack", planarconfig="separate", tile=(16, 16))
    pixels = Pixels(2, bands=("5", "1"), scale=Scale.of("range 0 30000"))
    source = open_source(tmp_path, pixels, tiling=Tiling(32, 32))
    whole = open_source(tmp_path, pixels).read(0, None).to(torch.int32)
    assert torch.equal(source.read(3, None).to(torch.int32), whole[:, 18:50, 28:60])


def test_a_frame_smaller_than_a_tile_is_one(tmp_path: Path) -> None:
    Image.fromarray(noise(30, 100, 3)).save(tmp_path / "flat.png")
    source = open_source(tmp_path, tiling=Tiling(40, 40))
    assert [source.read(i, None).shape for i in range(len(source))] == [(3, 30, 40)] * 3


def test_turned_photos_are_cut_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise(40, 100, 3)).save(tmp_path / "x.jpg", exif=exif)
    source = open_source(tmp_path, tiling=Tiling(40, 40))
    whole = open_source(tmp_path).read(0, None)
    assert whole.shape == (3, 100, 40)
    assert [source.name(i) for i in range(len(source))] == ["x.jpg@0,0", "x.jpg@40,0", "x.jpg@60,0"]
    assert torch.equal(source.read(2, None), whole[:, 60:])


def test_labels_are_those_of_the_frame_and_tiles_of_one_frame_are_a_group(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.fromarray(noise(80, 80, 3)).save(tmp_path / name / "x.png")
    source = open_source(tmp_path, labelled=True, tiling=Tiling(40, 40))
    assert isinstance(source, Tiles)
    assert source.labels is not None
    assert source.labels.tolist() == [0] * 4 + [1] * 4
    assert source.groups is not None
    assert source.groups.numbers.tolist() == [0] * 4 + [1] * 4
    assert source.groups.names == ("a/x.png", "b/x.png")
    assert not shared_groups(source, open_source(tmp_path, labelled=True, tiling=Tiling(40, 40)))  # of another folder
    split = open_split(tmp_path, tiling=Tiling(40, 40), holdout=0.5)
    names = [{part.name(i).split("@")[0] for i in range(len(part))} for part in (split.train, split.test)]
    assert not names[0] & names[1]


def test_other_sources_are_cut_too(tmp_path: Path) -> None:
    array = noise(3, 80, 60, 3)
    source = open_source(array, tiling=Tiling(40, 40))
    assert len(source) == 3 * 4
    assert source.name(5) == "item 1@0,20"
    assert np.array_equal(source.read(5, None).numpy(), array[1, :40, 20:60].transpose(2, 0, 1))
    copied: Source = pickle.loads(pickle.dumps(source))
    assert torch.equal(copied.read(5, None), source.read(5, None))
    assert torch.equal(copied.keys, source.keys)


def test_broken_frames_are_broken_by_name(tmp_path: Path) -> None:
    Image.fromarray(noise(80, 80, 3)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"x")
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "c.png").write_bytes(content[: len(content) // 2])
    source = open_source(tmp_path, tiling=Tiling(40, 40))
    assert len(source) == 4 + 1 + 4
    for i in range(4, 9):
        with pytest.raises(BrokenImage, match=r"^[bc]\.png@\d+,\d+: "):
            source.read(i, None)


def test_every_command_takes_tiles(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("train/a", "train/b", "test/a", "test/b"):
        (tmp_path / name).mkdir(parents=True)
        for i in range(2):
            bright = 1 if name.endswith("a") else 3
            Image.fromarray(noise(96, 96, 3) // bright).save(tmp_path / name / f"{i}.png")
    train, test, out = (str(tmp_path / name) for name in ("train", "test", "run"))
    tiles = ["--tile", "48", "--stride", "24"]
    assert cli.main(["check", train, "--workers", "0", "--no-timing", *tiles]) == 0
    shown = capsys.readouterr().out
    assert "36 tiles of 4 frames (--tile 48 --stride 24)" in shown
    assert "all 48 x 48 pixels" in shown
    assert "--tile 48 --stride 24" in shown.splitlines()[-1]
    assert cli.main(["views", "simclr", train, *tiles, "--out", str(tmp_path / "v.png")]) == 0
    assert cli.main(["pretrain", "simclr", train, *tiles, "--out", out, *TRAIN, "--probe", train, test]) == 0
    assert "36 images in" in capsys.readouterr().out
    run = read_yaml(Folder(out).run)
    assert (run["tile"], run["stride"]) == (48, 24)
    assert cli.main(["embed", out, test, *tiles, "--out", str(tmp_path / "e.npz"), "--workers", "0"]) == 0
    assert "a/0.png@0,24" in np.load(tmp_path / "e.npz")["names"].tolist()
    assert cli.main(["evaluate", out, train, test, *tiles, "--protocols", "knn", "--workers", "0"]) == 0
    assert cli.main(["show", out, test, *tiles, "--out", str(tmp_path / "show"), "--workers", "0"]) == 0
    found = tmp_path / "finetuned"
    argv = ["finetune", out, train, test, *tiles, "--out", str(found), "--epochs", "1", "--workers", "0"]
    assert cli.main([*argv, "--batch-size", "8", "--no-report"]) == 0
    table = tmp_path / "p.csv"
    assert cli.main(["predict", str(found), test, *tiles, "--out", str(table), "--workers", "0"]) == 0
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 36
    assert rows[1]["file"] == "a/0.png@0,24"
    assert cli.main(["pretrain", "simclr", train, "--stride", "24", "--out", out, "--overwrite", *TRAIN]) == 2
    assert "no tile is given" in capsys.readouterr().err


def test_a_training_on_tiles_resumes_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.torch import load_file

    for i in range(3):
        np.save(tmp_path / f"{i}.npy", noise(96, 80, 3))
    data, tiles = str(tmp_path), ["--tile", "48", "--stride", "16", "--no-report"]
    base = ["pretrain", "simclr", data, *tiles, *TRAIN]
    assert cli.main([*base, "--epochs", "2", "--out", str(tmp_path / "whole")]) == 0
    with monkeypatch.context() as patch:
        interrupt_after(patch, 4)
        assert cli.main([*base, "--epochs", "2", "--out", str(tmp_path / "again")]) == 130
    assert cli.main(["pretrain", "simclr", "--resume", "--out", str(tmp_path / "again"), "--workers", "2"]) == 0
    a, b = (load_file(Folder(tmp_path / name).weights) for name in ("whole", "again"))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_an_export_is_verified_on_the_tiles_of_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run's own images as in its training; others by the options. Data in several files are found again, too."""
    from lookalike.commands import export_files

    frames, seen = tmp_path / "frames", list[tuple[int, str]]()
    frames.mkdir()
    for i in range(3):
        Image.fromarray(noise(96, 96, 3)).save(frames / f"{i}.png")
        with tarfile.open(tmp_path / f"{i}.tar", "w") as file:
            file.add(frames / f"{i}.png", f"{i}.png")
    data, out = str(tmp_path / "{0..2}.tar"), str(tmp_path / "run")
    assert cli.main(["pretrain", "simclr", data, "--tile", "48", "--out", out, "--no-report", *TRAIN]) == 0

    def sampled(source: Source, *others: object) -> None:
        seen.append((len(source), source.name(1)))
        raise KeyboardInterrupt

    monkeypatch.setattr(export_files, "sample", sampled)
    assert cli.main(["export", out]) == 130
    assert cli.main(["export", out, "--check", str(frames), "--tile", "48", "--stride", "24"]) == 130
    assert cli.main(["export", out, "--check", str(frames)]) == 130
    assert seen == [(12, "0.png@0,48"), (27, "0.png@0,24"), (3, "1.png")]

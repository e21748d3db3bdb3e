"""`check`: what it counts, the copies it finds, and odd images through every command that reads images."""

import csv
import json
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lookalike import cli
from lookalike.commands.check import check, duplicates, groups, look
from lookalike.data import open_source
from lookalike.evaluation.feature_files import load_features
from lookalike.evaluation.linear import Settings
from lookalike.printing import printable
from lookalike.runs import Folder


def scene(seed: int, side: int = 48) -> Image.Image:
    """A smooth picture of its own, as photographs are."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
    return coarse.resize((side, side), Image.Resampling.BICUBIC)


@pytest.fixture
def splits(tmp_path: Path) -> Path:
    """train/ and test/ with two classes, among them an exact, a re-encoded, a resized and a shared image."""
    for i in range(12):
        path = tmp_path / "train" / "ab"[i % 2] / f"patient{i // 4}_{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        scene(i).save(path)
    scene(0).save(tmp_path / "train/b/copy.png", compress_level=1)  # other bytes, the same pixels
    scene(1).save(tmp_path / "train/a/encoded.jpg", quality=80)
    scene(2, 96).save(tmp_path / "train/a/larger.png")
    (tmp_path / "train/a/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    for i in range(20, 24):
        path = tmp_path / "test" / "ab"[i % 2] / f"patient{i // 4}_{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        scene(i).save(path)
    scene(3).save(tmp_path / "test/a/patient0_seen.png")
    return tmp_path


def test_copies_are_found_and_nothing_else(splits: Path) -> None:
    train, test = (look(open_source(splits / name)) for name in ("train", "test"))
    within, across = duplicates(train), duplicates(train, test)
    exact, near = ({frozenset((train.name(i), train.name(j))) for i, j in p} for p in (within.exact, within.near))
    assert exact == {frozenset(("a/patient0_0.png", "b/copy.png"))}
    assert near == {
        frozenset(("b/patient0_1.png", "a/encoded.jpg")), frozenset(("a/patient0_2.png", "a/larger.png"))
    }  # fmt: skip
    assert [(train.name(i), test.name(j)) for i, j in across.exact] == [("b/patient0_3.png", "a/patient0_seen.png")]
    assert across.near == []


def test_the_figures_are_those_of_the_pixels(splits: Path) -> None:
    found = check(open_source(splits / "test", labelled=True), say=lambda _: None)
    images = [np.asarray(Image.open(p), np.float64) / 255 for p in sorted((splits / "test").rglob("*.png"))]
    pixels = np.stack(images).reshape(-1, 3)
    assert found.train.mean == pytest.approx(pixels.mean(0).tolist())
    assert found.train.std == pytest.approx(pixels.std(0).tolist())
    assert found.train.classes == {"a": 3, "b": 2}
    assert found.train.kinds == {"PNG RGB": 5}
    assert found.train.sizes.tolist() == [[48, 48]] * 5


def test_groups(splits: Path) -> None:
    found = groups(open_source(splits / "train"), r"(patient\d+)_")
    assert found.images == {"patient0": 4, "patient1": 4, "patient2": 4}
    assert sorted(found.without) == ["a/broken.png", "a/encoded.jpg", "a/larger.png", "b/copy.png"]
    for wrong, message in (("(", "not a valid regular expression"), ("scan", "matches none of 16 names")):
        with pytest.raises(ValueError, match=message):
            groups(open_source(splits / "train"), wrong)


def test_the_command(splits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "check.json"
    argv = ["check", str(splits / "train"), "--test", str(splits / "test"), "--groups", r"patient\d+"]
    argv += ["--image-size", "32", "--workers", "1", "--no-timing", "--out", str(out)]
    assert cli.main(argv) == 0
    text = capsys.readouterr().out
    for words in (
        "16, of which 1 cannot be read",
        "a/broken.png: ",
        "classes     2",
        "within the images: 1 exact pair, 2 near pairs",
        "between images and test: 1 exact pair, 0 near pairs",
        "1 GROUP IS IN BOTH SPLITS: patient0",
        f"Wrote {out}",
        "Next: lookalike pretrain lejepa",
    ):
        assert words in text, words
    content = json.loads(out.read_text())
    assert content["images"]["broken"][0][0] == "a/broken.png"
    assert content["duplicates_between"]["exact"] == [["b/patient0_3.png", "a/patient0_seen.png"]]
    assert content["groups_in_both"] == ["patient0"]
    assert cli.main(argv) == 1
    assert "exists" in capsys.readouterr().err


# ---------------------------------------------------------------- odd images


def png_of(width: int, height: int) -> bytes:
    """A PNG whose head promises so many pixels, with next to no data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def corpus(root: Path) -> tuple[set[str], set[str]]:
    """Makes images as they are found in the wild: names that can be read, names that cannot."""
    root.mkdir()
    photo = scene(0, 40)
    grey, alpha = photo.convert("L"), photo.convert("RGBA")
    alpha.putalpha(grey)
    wide = Image.fromarray(np.asarray(grey, np.uint16) * 257)
    exif = photo.getexif()
    exif[0x0112] = 6
    good = {
        "plain.jpg": lambda p: photo.save(p),
        "progressive.jpg": lambda p: photo.save(p, progressive=True),
        "UPPER.JPG": lambda p: photo.save(p, "JPEG"),
        "grey.jpg": lambda p: grey.save(p),
        "cmyk.jpg": lambda p: photo.convert("CMYK").save(p),
        "rotated.jpg": lambda p: photo.save(p, exif=exif),
        "plain.png": lambda p: photo.save(p),
        "palette.png": lambda p: photo.convert("P").save(p),
        "palette with hole.png": lambda p: photo.convert("P").save(p, transparency=3),
        "one bit.png": lambda p: photo.convert("1").save(p),
        "alpha.png": lambda p: alpha.save(p),
        "grey and alpha.png": lambda p: alpha.convert("LA").save(p),
        "sixteen.png": lambda p: wide.save(p),
        "sixteen.tif": lambda p: wide.save(p),
        "float.tif": lambda p: Image.fromarray(np.asarray(grey, np.float32) / 255).save(p),
        "lzw.tif": lambda p: photo.save(p, compression="tiff_lzw"),
        "cmyk.tif": lambda p: photo.convert("CMYK").save(p),
        "pages.tif": lambda p: photo.save(p, save_all=True, append_images=[photo]),
        "animated.gif": lambda p: photo.save(p, save_all=True, append_images=[scene(1, 40)]),
        "still.gif": lambda p: photo.save(p),
        "animated.webp": lambda p: photo.save(p, save_all=True, append_images=[scene(1, 40)]),
        "lossless.webp": lambda p: alpha.save(p, lossless=True),
        "old.bmp": lambda p: photo.save(p),
        "old.tga": lambda p: photo.save(p),
        "raw.ppm": lambda p: photo.save(p),
        "raw.pgm": lambda p: grey.save(p),
        "camera.mpo": lambda p: photo.save(p, "MPO", save_all=True, append_images=[photo]),
        "array.npy": lambda p: np.save(p, np.asarray(photo)),
        "array first.npy": lambda p: np.save(p, np.asarray(photo).transpose(2, 0, 1)),
        "png inside.jpg": lambda p: photo.save(p, "PNG"),
        "jpeg inside.png": lambda p: photo.save(p, "JPEG"),
        "one pixel.png": lambda p: photo.resize((1, 1)).save(p),
        "strip.png": lambda p: photo.resize((20000, 1)).save(p),
        "tower.png": lambda p: photo.resize((1, 3000)).save(p),
        "日本語の写真.jpg": lambda p: photo.save(p),
        "صورة.png": lambda p: photo.save(p),
        "emoji 🐈.png": lambda p: photo.save(p),
        "with\nnewline.png": lambda p: photo.save(p),
        " spaces at both ends .png": lambda p: photo.save(p),
        "quote'and\"more.png": lambda p: photo.save(p),
        "a" * 200 + ".png": lambda p: photo.save(p),
    }
    for name, save in good.items():
        save(root / name)
    whole = (root / "plain.jpg").read_bytes()
    bad = {
        "truncated.jpg": whole[: len(whole) // 2],
        "truncated.png": (root / "plain.png").read_bytes()[:200],
        "zero.jpg": b"",
        "zeros.jpg": bytes(500),
        "text.jpg": b"<html>404 not found</html>",
        "head only.jpg": whole[:20],
        "bomb.png": png_of(100_000, 100_000),
        "promised.png": png_of(300, 300),
        "postscript.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
        "cut.npy": (root / "array.npy").read_bytes()[:300],
        "vector.svg.png": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    }
    for name, content in bad.items():
        (root / name).write_bytes(content)
    np.save(root / "words.npy", np.array([["a", "b"]]))
    np.save(root / "objects.npy", np.array([[{}]], object), allow_pickle=True)
    np.save(root / "nan.npy", np.full((8, 8), np.nan, np.float32))
    (root / "loop.png").symlink_to(root / "loop.png")
    (root / "nowhere.png").symlink_to(root / "gone.png")
    os.mkfifo(root / "pipe.png")
    (root / "a folder.png").mkdir()
    (root / "circle").symlink_to(root)
    return set(good), {*bad, "words.npy", "objects.npy", "nan.npy", "loop.png", "nowhere.png", "pipe.png"}


def test_odd_images_go_through_every_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = tmp_path / "photos"
    good, bad = ({printable(name) for name in names} for names in corpus(photos))
    assert len(good | bad) >= 40
    source = open_source(photos)
    assert {source.name(i) for i in range(len(source))} == good | bad

    found = tmp_path / "check.json"
    assert (
        cli.main(["check", str(photos), "--image-size", "32", "--workers", "1", "--no-timing", "--out", str(found)])
        == 0
    )
    content = json.loads(found.read_text())
    assert {name for name, _ in content["images"]["broken"]} == bad
    assert all(reason and "\n" not in reason for _, reason in content["images"]["broken"])

    small = ["--backbone", "test_byobnet", "--image-size", "32", "--workers", "1"]
    run = [
        "pretrain",
        "simclr",
        str(photos),
        "--epochs",
        "2",
        "--batch-size",
        "16",
        "--out",
        str(tmp_path / "run"),
        *small,
    ]
    assert cli.main(run) == 1
    assert "--max-broken" in capsys.readouterr().err
    assert cli.main([*run, "--max-broken", "0.5", "--overwrite"]) == 0
    assert "images could not be read and were replaced" in capsys.readouterr().out
    log = Folder(tmp_path / "run").log.read_text()
    assert "broken image zero.jpg: empty file" in log

    table = tmp_path / "e.npz"
    assert cli.main(["embed", str(tmp_path / "run"), str(photos), "--out", str(table), "--workers", "1"]) == 0
    names = set(np.load(table, allow_pickle=False)["names"].tolist())
    assert names == good


# ---------------------------------------------------------------- names that act on terminals and spreadsheets


ACTING = ("\x1b]0;title\x07", "a\nerror: forged", "photo\u202egnp.exe", "=1+1", "@SUM(A1)", "bytes \udcff")
"""Of folders and of files."""


@pytest.fixture
def acting(tmp_path: Path) -> Path:
    """train/ and test/ with such class folders, and such files in them, one of which is broken."""
    for split, count in (("train", 4), ("test", 2)):
        for k, name in enumerate(ACTING):
            for i in range(count):
                path = tmp_path / split / name / f"{ACTING[(k + i) % len(ACTING)]}{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                scene(10 * k + i).save(path)
        (tmp_path / split / ACTING[1] / f"broken{ACTING[0]}\n.png").write_bytes(b"no image")
    return tmp_path


def test_no_command_lets_a_name_act_on_the_terminal_the_log_or_a_spreadsheet(
    acting: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lookalike.evaluation.protocols.DINOV2", Settings(least_steps=20, epochs=1))
    train, test, run = str(acting / "train"), str(acting / "test"), str(acting / "run")
    small = ["--image-size", "32", "--batch-size", "8", "--epochs", "1", "--workers", "0", "--max-broken", "0.5"]
    for argv in (
        ["check", train, "--test", test, "--workers", "0", "--no-timing", "--out", f"{acting}/check.json"],
        ["pretrain", "simclr", train, "--out", run, "--backbone", "test_byobnet", "--hidden-dim", "16", *small],
        ["evaluate", run, train, test, "--protocols", "knn", "--workers", "0"],
        ["embed", run, train, "--out", f"{acting}/e.csv", "--workers", "0"],
        ["embed", run, train, "--out", f"{acting}/e.npz", "--workers", "0"],
        ["evaluate", "--features", f"{acting}/e.csv", f"{acting}/e.npz", "--protocols", "knn"],
        ["show", run, train, "--what", "neighbours", "--out", f"{acting}/show", "--workers", "0"],
        ["finetune", run, train, test, "--out", f"{acting}/tuned", *small],
        ["predict", f"{acting}/tuned", test, "--out", f"{acting}/p.csv", "--workers", "0"],
    ):
        assert cli.main(argv) == 0, capsys.readouterr().err
        said = capsys.readouterr()
        assert all(c.isprintable() or c == "\n" for c in said.out + said.err), argv[0]
        assert not [line for line in (said.out + said.err).splitlines() if line.startswith("error: forged")]
    for folder in (Folder(run), Folder(f"{acting}/tuned")):
        log = folder.log.read_text()
        assert all(c.isprintable() or c == "\n" for c in log)
        assert "error: forged" not in [line[:13] for line in log.splitlines()]
        assert "broken\\x1b" in log
    written = {}
    for name in ("e.csv", "p.csv", "show/neighbours.csv"):
        with open(acting / name, newline="") as file:
            written[name] = list(csv.reader(file))
        for cell in (cell for row in written[name][1:] for cell in row):
            assert cell.isprintable()
            assert not cell.startswith(("=", "@"))
    assert "'=1+1" in {row[2] for row in written["e.csv"][1:]}
    assert "'=1+1" in {label for row in written["p.csv"][1:] for label in row}
    # read back, they are what they were
    guarded, plain = load_features(acting / "e.csv"), load_features(acting / "e.npz")
    assert (guarded.names, guarded.classes) == (plain.names, plain.classes)
    assert "=1+1" in guarded.classes


def test_class_folders_that_are_written_alike_are_refused(tmp_path: Path) -> None:
    for i, name in enumerate(("a\x07", "a\\x07", "b")):
        (tmp_path / name).mkdir()
        scene(i).save(tmp_path / name / "0.png")
    with pytest.raises(ValueError, match="several folders that are all written"):
        open_source(tmp_path, labelled=True)


def test_arguments_do_not_act_on_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = str(tmp_path / "x\x1b]0;t\x07\nerror: forged")
    for argv, code in (
        (["check", name], 1),
        (["check", str(tmp_path), f"--\x1b[31m{name}"], 2),
        (["check", "--workers", name, name], 2),
        ([name], 2),
        (["pretrain", name, name], 2),
        (["report", name], 1),
        (["embed", name, name], 1),
        (["pretrain", "simclr", name], 1),
        (["pretrain", "--resume", "--out", name], 1),
        (["pretrain", "--from", name], 1),
    ):
        assert cli.main(argv) == code
        said = capsys.readouterr()
        assert all(c.isprintable() or c == "\n" for c in said.out + said.err), argv
        assert not [line for line in (said.out + said.err).splitlines() if line.startswith("error: forged")], argv
    Path(name).mkdir()
    scene(0).save(Path(name) / "a.png")
    assert cli.main(["check", name, "--workers", "0", "--no-timing"]) == 0
    assert not [line for line in capsys.readouterr().out.splitlines() if line.startswith("error: forged")]

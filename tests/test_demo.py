"""The demo: what it places, what it leaves behind, and (slow) that what it promises comes true."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from lookalike import cli, load
from lookalike.commands import digits
from lookalike.commands.demo import demo
from lookalike.evaluation.linear import Settings
from lookalike.runs import Folder

pytestmark = pytest.mark.page


def test_a_digit_is_placed_whole_on_black() -> None:
    digit = load_digits().images[0]
    images = [np.asarray(digits.place(digit, key), np.int64) for key in range(200)]
    assert all(image.shape == (32, 32) for image in images)
    assert (np.stack(images) == np.asarray(digits.place(digit, 0))).all((1, 2)).sum() == 1  # each key places otherwise
    # the background says nothing: most of every canvas is exactly black
    assert all((image == 0).mean() > 0.4 for image in images)
    # nothing is cut off: what is drawn is in proportion to the digit's area
    areas = [(image.sum() / digit.sum() * 16 / 255) for image in images]
    assert 0.95 * (10 / 8) ** 2 < min(areas) < 2.2
    assert 5.5 < max(areas) < 1.1 * (22 / 8) ** 2
    centres = np.array([[(i * np.mgrid[:32, :32][axis]).sum() / i.sum() for axis in (0, 1)] for i in images])
    assert (centres.std(0) > 2.5).all()


def test_the_images_of_training_and_test_are_of_other_digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits, "PLACINGS", 2)
    digits.write_images(tmp_path / "digits", 0)
    numbers = {
        part: sorted(int(p.stem.split("-")[0]) for p in (tmp_path / "digits" / part).rglob("*.png"))
        for part in ("unlabelled", "train", "test")
    }
    assert numbers["train"] == list(range(1297))
    assert numbers["unlabelled"] == sorted([*range(1297)] * 2)
    assert numbers["test"] == list(range(1297, 1797))
    assert "1297 images" in (tmp_path / "digits/README.txt").read_text()
    placed = [np.asarray(Image.open(tmp_path / f"digits/{name}.png")) for name in ("unlabelled/0000-0", "train/0/0000")]
    assert not np.array_equal(*placed)  # the judges' images are placed anew
    assert not list(tmp_path.glob(".*"))


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(digits, "PLACINGS", 1)
    monkeypatch.setattr("lookalike.evaluation.protocols.DINOV2", Settings(least_steps=40, epochs=1))
    out = tmp_path / "demo"
    assert cli.main(["demo", "--out", str(out), "--epochs", "1"]) == 0
    printed = capsys.readouterr().out
    for words in (
        "real, from scikit-learn", "drawn by this demo", "raw pixels", "untrained encoder", "trained encoder",
        "1 % of the labels: 10 of 1297 images", f"Next: lookalike evaluate {out} {out}-digits/train",
    ):  # fmt: skip
        assert words in printed
    assert "trained encoder" in Folder(out).log.read_text()
    assert Image.open(out / "result.png").size[0] > 600
    assert Image.open(out / "views.png").size[1] > 200
    entries = json.loads((out / "evaluation.json").read_text())
    assert [e["protocol"] for e in entries] == ["knn", "linear", "semi"]
    assert f"{entries[0]['top1']:.1%}" in printed
    assert load(out).channels == 1
    # the next command that it names gives the same figure
    assert cli.main(["evaluate", str(out), f"{out}-digits/train", f"{out}-digits/test", "--protocols", "knn"]) == 0
    again = json.loads((out / "evaluation.json").read_text())
    assert [e["top1"] for e in again if e["protocol"] == "knn"] == [entries[0]["top1"]]
    capsys.readouterr()
    assert cli.main(["demo", "--out", str(out)]) == 1
    assert "holds a run" in capsys.readouterr().err


def test_what_is_there_is_not_replaced_unasked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = tmp_path / "demo-digits/mine.png"
    own.parent.mkdir()
    own.write_bytes(b"mine")
    for more in ([], ["--overwrite"]):
        assert cli.main(["demo", "--out", str(tmp_path / "demo"), *more]) == 1
        assert "not written by this demo. Give another --out" in capsys.readouterr().err
        assert own.read_bytes() == b"mine"
    own.unlink()
    (own.parent / "README.txt").write_text("Written by `lookalike demo` (seed 0)")
    assert cli.main(["demo", "--out", str(tmp_path / "demo")]) == 1
    assert "Use --overwrite" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", ["mine/0001.png", "train/mine/0001.png", "test/3/notes.txt", "mine", "train/3/1234.png/"]
)
def test_images_of_an_earlier_demo_are_replaced_where_nothing_else_lies_among_them(tmp_path: Path, name: str) -> None:
    images = tmp_path / "demo-digits"
    for own in ("unlabelled/0001-3.png", "train/3/0001.png", "test/3/0002.png"):
        (images / own).parent.mkdir(parents=True, exist_ok=True)
        (images / own).touch()
    (images / "README.txt").write_text("Written by `lookalike demo` (seed 0)")
    foreign = images / name
    foreign.parent.mkdir(parents=True, exist_ok=True)
    if "." in foreign.name and not name.endswith("/"):
        foreign.touch()
    else:
        foreign.mkdir()
    with pytest.raises(FileExistsError, match="not written by this demo"):
        digits._check_replaceable(images, overwrite=True)
    assert foreign.exists()
    shutil.rmtree(foreign) if foreign.is_dir() else foreign.unlink()
    if foreign.parent.name == "mine":
        foreign.parent.rmdir()
    digits._check_replaceable(images, overwrite=True)


@pytest.mark.slow
def test_it_keeps_its_promise(tmp_path: Path) -> None:
    """The sketch that the demo grew from had 77 % linear and 29 % with one label per class."""
    result, (pixels, untrained, trained) = demo(out=tmp_path / "demo")
    assert result.verdict == "learning"
    assert trained.linear > 0.77 > max(pixels.linear, untrained.linear) + 0.2
    assert trained.few > 0.28 > max(pixels.few, untrained.few) + 0.1
    assert trained.knn > 0.75


def test_a_demo_that_cannot_begin_leaves_the_earlier_one_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(digits, "PLACINGS", 1)
    out, images = tmp_path / "demo", tmp_path / "demo-digits"
    digits.write_images(images, 0)
    out.mkdir()
    (out / "run.yaml").write_text(f"method: simclr\ndata: {images / 'unlabelled'}\n")
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}

    def fails(*args: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr("lookalike.training.pretrain", fails)
    argv = ["demo", "--out", str(out), "--seed", "1"]
    assert cli.main([*argv, "--overwrite"]) == 1
    assert "error: out of memory" in capsys.readouterr().err
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    # one that was killed meanwhile: the earlier images are put back
    images.rename(tmp_path / ".demo-digits.before")
    digits.write_images(images, 1)
    assert cli.main([*argv, "--overwrite"]) == 1
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    assert cli.main(["demo", "--out", str(tmp_path / "new")]) == 1
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before

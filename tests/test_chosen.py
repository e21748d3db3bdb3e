"""`check --out` proposes the images to keep, and `--only` uses these: training, resuming, embedding, evaluation."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support import tiny
from support.images import draw, save
from support.networks import saved_vit

from lookalike import cli
from lookalike.data import Subset, image_set, only_chosen, open_source
from lookalike.data.chosen import FORMAT, names_to_keep, taken
from lookalike.evaluation import embed
from lookalike.runs import Folder, read_run

LEFT_OUT = {"a/blank.png": "blank", "a/broken.jpg": "broken", "b/copy.jpg": "copy", "b/tested.jpg": "test"}


@pytest.fixture(scope="module")
def untidy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """photos/ with 16 good images of two classes, and one of each that is left out; test/ with one of them."""
    root = tmp_path_factory.mktemp("untidy")
    for i in range(16):
        draw(root / "photos" / "ab"[i % 2] / f"{i:02d}.jpg", i % 2, i)
    shutil.copy(root / "photos/a/00.jpg", root / "photos/b/copy.jpg")
    draw(root / "photos/b/tested.jpg", 1, 99)
    for kind in "ab":
        (root / "test" / kind).mkdir(parents=True)
        draw(root / "test" / kind / "x.jpg", 0, 200 + ord(kind))
    shutil.copy(root / "photos/b/tested.jpg", root / "test/b/seen.jpg")
    (root / "photos/a/broken.jpg").write_bytes(b"no image")
    save(root / "photos/a/blank.png", np.zeros((40, 40, 3), np.uint8))
    return root


@pytest.fixture(scope="module")
def checked(untidy: Path) -> Path:
    path = untidy / "check.json"
    argv = ["check", str(untidy / "photos"), "--test", str(untidy / "test"), "--workers", "0", "--no-timing"]
    assert cli.main([*argv, "--out", str(path)]) == 0
    return path


def good(untidy: Path) -> list[str]:
    names = sorted(path.relative_to(untidy / "photos").as_posix() for path in (untidy / "photos").rglob("*.*"))
    return [name for name in names if name not in LEFT_OUT]


def pretrained(data: Path, out: Path, *more: str) -> bytes:
    argv = ["pretrain", "simclr", str(data), "--backbone", tiny.CNN, "--image-size", "32", "--batch-size", "8"]
    assert cli.main([*argv, "--epochs", "2", "--workers", "0", "--no-report", "--out", str(out), *more]) == 0
    return Folder(out).weights.read_bytes()


def test_the_file_has_what_to_keep_and_why_not_the_others(untidy: Path, checked: Path) -> None:
    content = json.loads(checked.read_text())
    assert content["format"] == FORMAT == 1
    assert content["keep"] == good(untidy)
    assert dict(content["left_out"]) == LEFT_OUT
    assert content["first_command"]["command"].count(f"--only {checked}") == 1
    assert names_to_keep(checked) == good(untidy)


def test_check_says_it_in_a_line(untidy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["check", str(untidy / "photos"), "--workers", "0", "--no-timing"]
    assert cli.main(argv) == 0
    said = capsys.readouterr().out
    line = "keep        17 images; left out: 1 broken image, 1 blank image, 1 exact copy. --out FILE.json writes their"
    assert line in said
    assert "--only" not in said.split("Next: ")[1]
    assert cli.main([*argv, "--out", str(tmp_path / "c.json")]) == 0
    said = capsys.readouterr().out
    assert f"1 exact copy. --only {tmp_path / 'c.json'} trains on them" in said
    assert said.count(f"--only {tmp_path / 'c.json'}") == 3  # this line, the views, the training
    assert cli.main(["check", str(untidy / "test"), "--workers", "0", "--no-timing"]) == 0
    assert "keep        all 3 images" in capsys.readouterr().out


def test_training_on_them_equals_a_list_of_them_and_resumes(untidy: Path, checked: Path, tmp_path: Path) -> None:
    photos = untidy / "photos"
    lines = photos / "list.txt"
    lines.write_text("".join(f"{name}\n" for name in good(untidy)))
    chosen, listed = tmp_path / "only", tmp_path / "list"
    try:
        begun = pretrained(photos, chosen, "--only", str(checked), "--epochs", "1")
        assert pretrained(lines, listed, "--epochs", "1") == begun
        assert read_run(chosen / "run.yaml").only == str(checked)
        assert pretrained(photos, chosen, "--resume") == pretrained(lines, listed, "--resume")  # run.yaml has --only
    finally:
        lines.unlink()
    assert json.loads((chosen / "start.json").read_text())["images"] == 16
    assert pretrained(photos, tmp_path / "all", "--max-broken", "1", "--epochs", "1") != begun


def test_a_resumed_run_refuses_another_list_and_finds_a_moved_one(
    untidy: Path, checked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, own = untidy / "photos", tmp_path / "own.json"
    shutil.copy(checked, own)
    pretrained(photos, tmp_path / "run", "--only", str(own), "--epochs", "1")
    content = json.loads(own.read_text())
    own.write_text(json.dumps(content | {"keep": content["keep"][1:]}))
    resume = ["pretrain", "--resume", "--epochs", "2", "--no-report", "--out", str(tmp_path / "run")]
    assert cli.main(resume) == 1
    assert "holds other images than when" in capsys.readouterr().err
    own.unlink()
    assert cli.main(resume) == 1
    assert f"{own} does not exist. Write it with `lookalike check DATA --out FILE`." in capsys.readouterr().err
    assert cli.main([*resume, "--only", str(checked)]) == 0


def test_other_commands_take_it(untidy: Path, checked: Path, tmp_path: Path) -> None:
    photos, test = str(untidy / "photos"), str(untidy / "test")
    run, only = saved_vit(tmp_path / "run"), ["--only", str(checked), "--workers", "0"]
    assert cli.main(["embed", str(run), photos, *only, "--out", str(tmp_path / "e.npz")]) == 0
    assert np.load(tmp_path / "e.npz")["names"].tolist() == good(untidy)
    assert embed(run, photos, only=checked).names == good(untidy)
    assert cli.main(["evaluate", str(run), photos, test, *only, "--protocols", "knn"]) == 0
    assert cli.main(["evaluate", str(run), photos, *only, "--holdout", "0.25", "--protocols", "knn"]) == 0
    rows = json.loads((run / "evaluation.json").read_text())
    assert [(row["train_images"], row["test_images"]) for row in rows] == [(16, 3), (12, 4)]
    tuned = ["finetune", str(run), photos, test, *only, "--out", str(tmp_path / "tuned"), "--epochs", "1"]
    assert cli.main([*tuned, "--batch-size", "8", "--no-report"]) == 0
    assert json.loads((tmp_path / "tuned" / "evaluation.json").read_text())[0]["train_images"] == 16
    views = ["views", "simclr", photos, "--only", str(checked), "--out", str(tmp_path / "views.png")]
    assert cli.main([*views, "--image-size", "32", "--backbone", tiny.CNN]) == 0
    with Image.open(tmp_path / "views.png", formats=["PNG"]) as sheet:
        assert sheet.height > 32


def test_every_kind_of_source_gives_the_same_images(untidy: Path, checked: Path) -> None:
    from lookalike.data.sources import open_maybe_labelled

    photos = untidy / "photos"
    folder = only_chosen(open_source(photos, labelled=True), checked)
    assert [folder.name(i) for i in range(len(folder))] == good(untidy)
    assert folder.listing() == "\0".join(good(untidy)).encode()
    assert folder.labels is not None
    assert folder.labels.tolist() == [0] * 8 + [1] * 8
    archive = Path(shutil.make_archive(str(untidy / "photos"), "tar", photos))
    try:
        packed = only_chosen(open_maybe_labelled(archive), checked)
        assert image_set(packed) == image_set(folder)
        assert torch.equal(packed.read(3, None), folder.read(3, None))
    finally:
        archive.unlink()
    arrays = open_source([np.full((8, 8, 3), i, np.uint8) for i in range(5)])
    part = taken(arrays, [4, 1])
    assert isinstance(part, Subset)
    assert [part.name(i) for i in range(2)] == ["item 4", "item 1"]
    assert taken(arrays, range(5)) is arrays


def test_an_image_that_is_listed_twice_is_kept_once(untidy: Path, tmp_path: Path) -> None:
    photos = untidy / "photos"
    lines = photos / "list.txt"
    names = good(untidy)[:4]
    lines.write_text("".join(f"{name}\n" for name in [*names, names[0]]))
    try:
        argv = ["check", str(lines), "--workers", "0", "--no-timing", "--out", str(tmp_path / "c.json")]
        assert cli.main(argv) == 0
        assert names_to_keep(tmp_path / "c.json") == names
        source = only_chosen(open_source(lines), tmp_path / "c.json")
        assert [source.name(i) for i in range(len(source))] == names
    finally:
        lines.unlink()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "is not JSON"),
        ("[]", "holds no object"),
        ('{"keep": ["a"]}', r"has no format. Write it again with `lookalike check DATA --out FILE --overwrite`"),
        ('{"format": true, "keep": ["a"]}', "has no format"),
        ('{"format": 2, "keep": ["a"]}', r"has format 2, this version reads format 1. Update lookalike"),
        ('{"format": 1}', r"has no list keep of names \(found: None\). Write it again with"),
        ('{"format": 1, "keep": "a"}', "has no list keep of names"),
        ('{"format": 1, "keep": [1]}', "has no list keep of names"),
        ('{"format": 1, "keep": []}', r"proposes to keep no image. Give other images"),
        ('{"format": 1, "keep": ["a/00.jpg", "a/no.jpg", "b/no.jpg"]}',
         r"names 2 images that DATA does not have: a/no.jpg, b/no.jpg. Check the same DATA again, or restore them"),
        ('{"format": 1, "keep": ["a/00.jpg", "a/00.jpg"]}', r"names 1 image that DATA does not have: a/00.jpg"),
    ],
)  # fmt: skip
def test_other_files_are_refused(content: str, reason: str, untidy: Path, tmp_path: Path) -> None:
    path = tmp_path / "check.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=reason):
        only_chosen(open_source(untidy / "photos"), path)
    with pytest.raises(FileNotFoundError, match=r"does not exist\. Write it with"):
        names_to_keep(tmp_path / "none.json")


def test_a_missing_file_is_said_before_anything_is_imported(
    untidy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, photos, none = saved_vit(tmp_path / "run"), str(untidy / "photos"), str(tmp_path / "none.json")
    compare = ["compare", photos, "simclr", "--train", photos, "--test", photos, "--out", str(tmp_path / "c")]
    for argv in (["pretrain", "simclr", photos], ["embed", str(run), photos],
                 ["evaluate", str(run), photos, photos], compare):  # fmt: skip
        assert cli.main([*argv, "--only", none]) == 1
        assert f"{none} does not exist. Write it with `lookalike check DATA --out FILE`." in capsys.readouterr().err

"""Runs whose images, probe, test, teacher or project lie elsewhere when they are resumed, or are no longer the same."""

import json
import re
import shlex
import shutil
import unicodedata
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.tiny import CNN

from lookalike import cli
from lookalike.runs import Folder, inputs, read_run

TINY = ["--backbone", CNN, "--image-size", "32", "--batch-size", "8", "--workers", "0", "--no-report"]
Say = pytest.CaptureFixture[str]


@pytest.fixture
def place(photos: Path, labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory to work in, with a copy of the images under relative paths."""
    there = tmp_path / "place"
    shutil.copytree(photos, there / "photos")
    shutil.copytree(labelled, there / "labelled")
    monkeypatch.chdir(there)
    return there


def done(capsys: Say, *argv: str) -> str:
    capsys.readouterr()
    code = cli.main(list(argv))
    said = capsys.readouterr()
    assert code == 0, said.err
    return said.out


def refused(capsys: Say, *argv: str) -> str:
    capsys.readouterr()
    assert cli.main(list(argv)) == 1
    return capsys.readouterr().err


def losses(run: str) -> dict[int, float]:
    return {row["step"]: row["loss"] for row in Folder(run).rows() if "loss" in row}


def weights(run: str) -> bytes:
    return Folder(run).weights.read_bytes()


def test_a_run_goes_on_from_another_directory_by_its_relative_paths(
    place: Path, tmp_path: Path, capsys: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = ["pretrain", "simclr", "photos", "--probe", "labelled/train", "labelled/test", *TINY, "--epochs", "1"]
    done(capsys, *begin, "--out", "whole")
    shutil.copytree("whole", "r")
    began = yaml.safe_load(Path("r/run.yaml").read_text())
    assert (began["data"], began["made"]["directory"]) == ("photos", str(place))
    monkeypatch.chdir(tmp_path)
    resume = ["pretrain", "--resume", "--out", str(place / "r"), "--epochs", "2", "--no-report"]
    assert "k-NN" in done(capsys, *resume)
    assert sorted(losses(str(place / "r"))) == [5, 10]
    now = yaml.safe_load((place / "r/run.yaml").read_text())
    assert (now["data"], now["made"]["directory"]) == (str(place / "photos"), str(tmp_path))
    assert read_run(place / "whole/run.yaml").data == str(place / "photos")
    again = done(capsys, "pretrain", "--from", str(place / "whole/run.yaml"), "--out", "copy", "--no-report")
    assert f"40 images in {place / 'photos'}" in again
    assert weights("copy") == weights(str(place / "whole"))  # bit by bit, and so the file's digest


def test_a_project_that_moved_as_a_whole_goes_on(
    place: Path, tmp_path: Path, capsys: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    done(capsys, "pretrain", "simclr", "photos", *TINY, "--epochs", "1", "--out", "r")
    monkeypatch.chdir(tmp_path)
    place.rename(tmp_path / "new")
    monkeypatch.chdir(tmp_path / "new")
    done(capsys, "pretrain", "--resume", "--out", "r", "--epochs", "2", "--no-report")
    assert sorted(losses("r")) == [5, 10]


@pytest.mark.parametrize("notes", [True, False])
def test_images_that_are_nowhere_are_named_with_the_command_that_names_another_place(
    notes: bool, place: Path, tmp_path: Path, capsys: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    done(capsys, "pretrain", "simclr", "photos", *TINY, "--epochs", "1", "--out", "a run")
    if not notes:  # as 0.1 wrote it
        lines = Path("a run/run.yaml").read_text().splitlines(keepends=True)
        Path("a run/run.yaml").write_text("".join(line for line in lines if "  directory:" not in line))
        Path("a run/inputs.zip").unlink()
    (place / "photos").rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    run = str(place / "a run")
    resume = ["pretrain", "--resume", "--out", run, "--epochs", "2"]
    said = refused(capsys, *resume)
    where = f"relative to {place}, where the run was started" if notes else "was started, which lookalike 0.1 did not"
    assert where in said
    assert f"To use another path: lookalike pretrain DATA --resume --out '{run}'" in said
    done(capsys, "pretrain", "moved", *resume[1:], "--no-report")
    assert sorted(losses(run)) == [5, 10]


def test_a_probe_that_moved_is_taken_one_that_is_gone_is_left_out_another_is_refused(
    place: Path, tmp_path: Path, capsys: Say
) -> None:
    probe = ["--probe", "labelled/train", "labelled/test"]
    done(capsys, "pretrain", "simclr", "photos", *probe, *TINY, "--epochs", "1", "--out", "r")
    resume = ["pretrain", "--resume", "--out", "r", "--no-report"]
    (place / "labelled").rename(place / "elsewhere")
    said = done(capsys, *resume, "--epochs", "2")
    assert "WARNING     labelled/train, of the probe, is not there: the k-NN is left out" in said
    assert "lookalike pretrain --resume --out r --probe TRAIN TEST" in said
    moved = ["--probe", "elsewhere/train", "elsewhere/test"]
    assert "k-NN" in done(capsys, *resume, *moved, "--epochs", "3")
    shutil.copytree("elsewhere", "other")
    Path("other/train/class0/0.jpg").rename("other/train/class0/new.jpg")
    said = refused(capsys, *resume, "--probe", "other/train", "other/test", "--epochs", "4")
    assert "other/train holds other images than when r was begun: 1 is missing (class0/0.jpg) and 1 is new" in said
    Path("elsewhere/test/class1/0.jpg").unlink()
    said = done(capsys, *resume, "--epochs", "4")  # at the same place it is said
    assert "WARNING     elsewhere/test holds other images than when r was begun: 1 is missing (class1/0.jpg)" in said
    done(capsys, *resume, "--probe", "None", "--epochs", "5")
    assert ["knn_top1" in row for row in Folder("r").rows() if row["step"] in (5, 10, 15, 20, 25)] == [
        True, False, True, True, False
    ]  # fmt: skip
    assert "probe-train" not in inputs.read(Folder("r").inputs)


def test_the_first_image_that_is_missing_or_new_is_named(place: Path, capsys: Say) -> None:
    done(capsys, "pretrain", "simclr", "photos", *TINY, "--epochs", "1", "--out", "r")
    shutil.copy("photos/image 0.jpg", "photos/added.jpg")
    resume = ["pretrain", "--resume", "--out", "r", "--epochs", "2", "--no-report"]
    assert "photos holds other images than when r was begun: 1 is new (added.jpg)." in refused(capsys, *resume)
    Path("photos/added.jpg").unlink()
    for i in (1, 2):
        Path(f"photos/nested/deeper/image {i}.jpg").unlink()
    assert "begun: 2 are missing (the first is nested/deeper/image 1.jpg)." in refused(capsys, *resume)


def test_other_images_of_the_same_names_are_refused_elsewhere_and_said_at_the_same_place(
    place: Path, capsys: Say
) -> None:
    probe = ["--probe", "labelled/train", "labelled/test"]
    done(capsys, "pretrain", "simclr", "photos", *probe, *TINY, "--epochs", "1", "--out", "r")
    shutil.copytree("photos", "others")
    shutil.copy("photos/image 3.jpg", "others/image 0.jpg")
    resume = ["--resume", "--out", "r", "--no-report", "--epochs"]
    said = refused(capsys, "pretrain", "others", *resume, "2")
    assert "others holds other images than when r was begun: image 0.jpg is another image. Going on" in said
    shutil.copytree("labelled", "relabelled")
    shutil.copy("labelled/test/class0/1.jpg", "relabelled/test/class0/0.jpg")
    said = refused(capsys, "pretrain", *resume, "2", "--probe", "relabelled/train", "relabelled/test")
    assert "relabelled/test holds other images than when r was begun: class0/0.jpg is another image" in said
    shutil.copy("photos/image 3.jpg", "photos/image 0.jpg")
    said = done(capsys, "pretrain", "./photos/", *resume, "2", "--probe", "labelled/train/", "labelled/test")
    assert "WARNING     ./photos/ holds other images than when r was begun: image 0.jpg is another image." in said


@pytest.mark.parametrize("moves", ["list", "images"])
@pytest.mark.parametrize("old", [False, True])
def test_a_list_of_absolute_paths_may_be_copied_and_its_images_may_move(
    moves: str, old: bool, place: Path, tmp_path: Path, capsys: Say
) -> None:
    """An image's random numbers come from its name, which a list says relative to its own folder."""
    images = sorted((place / "photos").rglob("*.jpg"))[::-1]
    Path("list.txt").write_text("\n".join(map(str, images)))
    done(capsys, "pretrain", "simclr", "list.txt", *TINY, "--epochs", "1", "--out", "r")
    shutil.copytree("r", "same")
    done(capsys, "pretrain", "--resume", "--out", "same", "--epochs", "2", "--no-report")
    if old:  # as 0.1 left it
        Folder("r").inputs.unlink()
    if moves == "images":
        (place / "photos").rename(tmp_path / "away")
        images = [tmp_path / "away" / image.relative_to(place / "photos") for image in images]
    (tmp_path / "lists").mkdir()
    new = tmp_path / "lists/copy.txt"
    new.write_text("\n".join(map(str, images)))
    resume = ["pretrain", str(new), "--resume", "--out", "r", "--epochs", "2", "--no-report"]
    if old and moves == "images":  # it kept no names that could tell
        assert "holds other images than when r was begun: 40 now" in refused(capsys, *resume)
        return
    done(capsys, *resume)
    assert weights("r") == weights("same")
    if not old:
        new.write_text("\n".join(map(str, images[::-1])))
        assert "the same images stand in another order" in refused(capsys, *resume, "--epochs", "3")


def test_the_test_and_the_encoder_of_a_finetuned_run_may_move(place: Path, capsys: Say) -> None:
    done(capsys, "pretrain", "simclr", "photos", *TINY, "--epochs", "1", "--out", "e")
    few = ["--batch-size", "8", "--workers", "0", "--no-report"]
    done(capsys, "finetune", "e", "labelled/train", "labelled/test", *few, "--epochs", "1", "--out", "f")
    (place / "labelled").rename(place / "elsewhere")
    Path("e").rename("encoder")
    argv = ["finetune", "encoder", "elsewhere/train", "elsewhere/test", "--resume", "--out", "f", "--no-report"]
    said = refused(capsys, "finetune", "--resume", "--out", "f", "--epochs", "2")
    assert "lookalike finetune ENCODER TRAIN TEST --resume --out f" in said
    done(capsys, *argv, "--epochs", "2")
    assert read_run("f/run.yaml").method.test == "elsewhere/test"
    Path("elsewhere/test/class0/0.jpg").rename("elsewhere/test/class0/new.jpg")
    shutil.copytree("elsewhere/test", "other")
    argv[3] = "other"
    said = refused(capsys, *argv, "--epochs", "3")
    assert "other holds other images than when f was begun: 1 is missing (class0/0.jpg) and 1 is new" in said


def test_the_teacher_of_a_distilled_run_may_move_and_may_be_no_other(place: Path, capsys: Say) -> None:
    for seed, name in ((0, "t"), (1, "u")):
        done(capsys, "pretrain", "simclr", "photos", *TINY, "--epochs", "1", "--out", name, "--seed", str(seed))
    taught = ["--patch-weight", "0", *TINY, "--epochs", "1", "--out", "d"]
    done(capsys, "distill", "photos", "--teacher", "t", *taught)
    Path("t").rename("teacher")
    resume = ["distill", "--resume", "--out", "d", "--epochs", "2", "--no-report"]
    assert "lookalike distill --teacher TEACHER --resume --out d" in refused(capsys, *resume)
    assert "another teacher" in refused(capsys, *resume, "--teacher", "u")
    done(capsys, *resume, "--teacher", "teacher")
    assert sorted(losses("d")) == [5, 10]


def test_what_a_run_keeps_of_its_images_is_the_same_every_time(place: Path) -> None:
    listings = {"data": b"a/x.jpg\0b/y.jpg", "test": b"c"}
    content = inputs.packed(listings)
    assert content == inputs.packed(dict(reversed(listings.items())))
    Path("inputs.zip").write_bytes(content)
    assert inputs.read(Path("inputs.zip")) == listings
    for damaged in (content[:-5], content.replace(b"y.jpg", b"z.jpg"), content[:40] + b"\xff" * 9 + content[49:], b""):
        Path("inputs.zip").write_bytes(damaged)
        assert inputs.read(Path("inputs.zip")) in ({}, listings)
    assert inputs.read(Path("none.zip")) == {}
    with zipfile.ZipFile("inputs.zip", "w") as archive:
        archive.writestr("data", "x" * 10**6)
    assert len(inputs.read(Path("inputs.zip"))["data"]) == 10**6


@pytest.mark.parametrize(
    ("then", "now", "said"),
    [
        (["p/a", "p/b"], ["q/a", "q/b"], ""),
        (["/x/p/a", "/x/p/b"], ["p/a", "p/b"], ""),
        (["a", "b"], ["b", "a"], "the same images stand in another order"),
        (["a/1", "a/2", "b"], ["a/1", "a/2"], "1 is missing (b)"),
        (["a/1", "a/2"], ["a/1", "a/2", "b", "c"], "2 are new (the first is b)"),
        (["a", "b"], ["a", "c"], "1 is missing (b) and 1 is new (c)"),
    ],
)
def test_names_are_compared_from_where_they_part(then: list[str], now: list[str], said: str) -> None:
    def listing(names: list[str]) -> bytes:
        return "\0".join(names).encode()

    assert inputs.difference(listing(now), listing(then)) == said
    found = inputs.renamed(listing(now), listing(then))
    assert found == ((then, [*range(len(then))]) if not said else None)


def test_names_that_unicode_writes_in_another_way_are_the_same() -> None:
    """A copy by a Mac composes names in another way, and so sorts them in another order."""
    then = ["Koch/ö1", "Koch/ö2", "Ärztin/1", "Übung/1"]
    now = sorted(unicodedata.normalize("NFD", name) for name in then)
    packed_now, packed_then = ("\0".join(names).encode() for names in (now, then))
    assert packed_now != packed_then
    assert inputs.difference(packed_now, packed_then) == ""
    found = inputs.renamed(packed_now, packed_then)
    assert found is not None
    assert found[0] == then
    assert [unicodedata.normalize("NFC", now[i]) for i in found[1]] == then
    lost = "\0".join(now[1:]).encode()
    assert inputs.difference(lost, packed_then) == "1 is missing (Ärztin/1)"


def content_of(page: Path, element: str = "report") -> Any:
    """What the scripts of a page read."""
    found = re.search(rf'<script type="application/json" id="{element}">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found
    return json.loads(found[1])


@pytest.mark.parametrize("probed", [True, False])
def test_a_page_that_is_written_in_the_runs_own_folder_finds_its_images(
    probed: bool, place: Path, capsys: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = ["--probe", "labelled/train", "labelled/test"] if probed else []
    done(capsys, "pretrain", "simclr", "photos", *probe, *TINY, "--epochs", "1", "--out", "a run")
    monkeypatch.chdir(place / "a run")
    done(capsys, "report", ".", "--workers", "0")
    (shown,) = content_of(Path("report.html"))["runs"]
    (images,) = content_of(Path("report.html"), "maps")["sets"]
    assert (images["of"], images["all"]) == (
        (str(place / "labelled/test"), 16) if probed else (str(place / "photos"), 40)
    )
    monkeypatch.chdir(place.parent)  # the lines to paste lead there from everywhere
    for line in shown["use"]["shell"].splitlines():
        words = shlex.split(line)
        assert Path(words[2]) == place / "a run"
        assert all(Path(word).exists() for word in words[2 : 5 if probed and words[1] == "evaluate" else 3])
        assert words[1] == "evaluate" or words[3] == str(place / "photos")


def test_a_page_finds_the_images_that_a_run_was_judged_on(
    place: Path, capsys: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    done(capsys, "pretrain", "simclr", "photos", *TINY, "--epochs", "1", "--out", "r")
    few = ["--batch-size", "8", "--workers", "0", "--no-report", "--epochs", "1"]
    done(capsys, "finetune", "r", "labelled/train", "labelled/test", *few, "--out", "f")
    monkeypatch.chdir(place / "f")
    done(capsys, "report", ".", "--workers", "0")
    page = Path("report.html")
    (images,) = content_of(page, "maps")["sets"]
    assert images["of"] == str(place / "labelled/test")
    (shown,) = content_of(page)["runs"]
    assert (shown["verdict"], shown["classifies"]) == (None, True)  # no box says that it is too short
    monkeypatch.chdir(place)
    done(capsys, "report", "r", "--workers", "0")
    assert not content_of(Path("r/report.html"))["runs"][0]["classifies"]


def test_a_run_goes_on_where_a_copy_has_composed_the_names_anew(place: Path, capsys: Say) -> None:
    """As copies by a Mac do: names look the same, and lie in another order."""
    old = sorted(Path("labelled/train").iterdir())
    for folder, name in zip(old, ("Ärztin", "Koch", "Übung")):
        folder.rename(folder.with_name(unicodedata.normalize("NFC", name)))
    begin = ["pretrain", "simclr", "labelled/train", *TINY]
    done(capsys, *begin, "--epochs", "1", "--out", "r")
    done(capsys, "pretrain", "--resume", "--out", shutil.copytree("r", "whole"), "--epochs", "2", "--no-report")
    for folder in list(Path("labelled/train").iterdir()):
        folder.rename(folder.with_name(unicodedata.normalize("NFD", folder.name)))
    done(capsys, "pretrain", "--resume", "--out", "r", "--epochs", "2", "--no-report")
    assert weights("r") == weights("whole")

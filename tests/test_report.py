"""`lookalike report` and `plot`: what is gathered, what is written, and what a page must never do."""

import base64
import json
import math
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from support.images import draw
from support.pages import HOSTILE, comparison, content_of, made_run

import lookalike
from lookalike import cli, marks
from lookalike.commands.report import page, report, run_data
from lookalike.commands.report.html import finite
from lookalike.runs import Folder

pytestmark = pytest.mark.page


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_run(tmp_path_factory.mktemp("report"))


def array(text: str, kind: type) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), kind)


def test_the_command_writes_a_page_with_everything(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", str(run), "--workers", "0"]) == 0
    said = capsys.readouterr().out
    assert f"Wrote {run / 'report.html'}" in said
    assert "Next: open it in a browser" in said
    page = content_of(run / "report.html")
    (shown,) = page["runs"]
    assert page["title"].startswith("SimCLR on ")
    assert "Chen, Kornblith" in shown["paper"]
    facts = {fact["label"]: fact["value"] for fact in shown["facts"]}
    assert facts["Images"].startswith("18 images in ")
    assert facts["Epochs"] == "2 of 2"
    assert facts["Image size"] == "96 x 96 pixels, 3 channels"
    assert {"loss", "lr", "knn_top1", "images_per_s"} <= set(shown["curves"]["series"])
    assert [e["protocol"] for e in shown["evaluations"]] == ["knn", "linear"]
    assert [p["name"] for p in shown["pictures"]] == ["views", "attention", "pca"]
    assert str(run) in shown["use"]["python"]
    drawn = content_of(run / "report.html", "maps")
    (images,), (made,) = drawn["sets"], drawn["maps"]
    assert len(images["names"]) == 13  # of the probe's test images
    assert sorted(images["classes"]) == [HOSTILE, "cats", "dogs"]
    assert array(made["xy"], np.float32).reshape(-1, 2).shape == (13, 2)
    assert array(made["near"], np.uint32).max() < 13


def test_the_facts_are_those_of_the_start_and_of_where_values_come_from(run: Path, tmp_path: Path) -> None:
    """Of runs of 0.1, which have no `start.json`, those of `run.yaml` stay."""
    moved = tmp_path / "run"
    shutil.copytree(run, moved, ignore=shutil.ignore_patterns("checkpoints", "encoder.safetensors"))
    start = json.loads((moved / "start.json").read_text())
    (moved / "log.txt").unlink()
    facts = {each["label"]: each["value"] for each in content_of(lookalike.report(moved, points=4))["runs"][0]["facts"]}
    assert facts["Images"] == f"{start['images']} images in {start['data']}"
    assert facts["Steps"].startswith(f"{start['steps']} = ")
    assert facts["Initial weights"] == "random"
    assert "backbone" in facts["Options set by you"].split(", ")
    assert "precision" in facts["Options fitted to the data"].split(", ")
    (moved / "start.json").unlink()
    (shown,) = content_of(lookalike.report(moved, points=4, overwrite=True))["runs"]
    assert not shown["problems"]
    old = {each["label"]: each["value"] for each in shown["facts"]}
    assert old.keys() == facts.keys() - {"Initial weights", "Views", "Device"}


def test_a_page_passes_over_damaged_rows_and_believes_the_weights(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A row of junk, and `encoder.json` of the checkpoint before, as a kill between two files leaves it."""
    twin = shutil.copytree(run, tmp_path / "twin")
    folder = Folder(twin)
    first, *rest = folder.metrics.read_text().splitlines(keepends=True)
    folder.metrics.write_text("".join([first, "junk\n", '{"loss": 1}\n', *rest]))
    card = json.loads(folder.card.read_text())
    folder.card.write_text(json.dumps(card | {"epochs": 1.0, "sha256": "0" * 64}))
    found = run_data.run_content(twin, "twin")
    assert "metrics.jsonl holds 2 damaged rows, which are left out." in capsys.readouterr().err
    assert found["curves"] == run_data.run_content(run, "run")["curves"]
    assert {fact["label"]: fact["value"] for fact in found["facts"]}["Epochs"] == "2 of 2"


def test_a_page_of_a_comparison_shows_no_folder_outside_of_it(run: Path, tmp_path: Path) -> None:
    """`compare.json` may be a stranger's."""
    shutil.copytree(run, tmp_path / "mine-seed0")
    (tmp_path / "compared").mkdir()
    for method, named in (("mine", "../mine-seed0"), ("../mine", None), ("mine", str(tmp_path / "mine-seed0"))):
        found = {"trainings": [{"method": method, "seed": 0, "folder": named}]}
        assert page._trainings(tmp_path / "compared", found) == {}


def test_a_page_asks_nothing_of_a_network(run: Path, tmp_path: Path) -> None:
    page = lookalike.report(run, out=tmp_path / "page.html").read_text()
    assert "default-src 'none'" in page
    assert re.search(r"script-src 'sha256-[\w+/=]+'", page)
    style_and_scripts = re.sub(r'<script type="application/json".*?</script>', "", page, flags=re.DOTALL)
    assert not re.search(r"<link|<script src|@import|url\(|fetch\(|XMLHttpRequest|<img", style_and_scripts)
    assert page.count("<script>") == 1


def test_the_page_of_a_run_is_replaced_and_other_files_are_not(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = ["--points", "4", "--workers", "0"]
    for _ in range(2):
        assert cli.main(["report", str(run), *quick]) == 0
    other = tmp_path / "mine.html"
    other.write_text("mine")
    assert cli.main(["report", str(run), "--out", str(other), *quick]) == 1
    assert "mine.html exists. Give another --out, or --overwrite." in capsys.readouterr().err
    assert other.read_text() == "mine"
    assert cli.main(["report", str(run), "--out", str(other), "--overwrite", *quick]) == 0
    monkeypatch.chdir(tmp_path)
    twin = tmp_path / "twin" / "run"
    shutil.copytree(run, twin)
    assert cli.main(["report", str(run), str(twin), *quick]) == 0
    assert [r["name"] for r in content_of(tmp_path / "report.html")["runs"]] == [str(run), str(twin)]
    drawn = content_of(tmp_path / "report.html", "maps")
    assert [len(drawn["sets"]), [m["images"] for m in drawn["maps"]]] == [1, [0, 0]]  # thumbnails are shared
    assert len(drawn["sets"][0]["names"]) == 2  # the points, too
    assert cli.main(["report", str(run), str(twin), *quick]) == 1
    assert "report.html exists" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["report"], 2, "No run was given: lookalike report RUN... [options]"),
        (["report", "nowhere"], 1, "nowhere is not a folder. Give the folder of a run or of a comparison."),
        (["report", "."], 1, "holds no run (no run.yaml)"),
        (["report", "RUN", "--points", "0"], 1, "points is 0; it must be at least 1 image."),
        (["report", "RUN", "--out", "."], 1, "is a folder. Give a file, such as"),
        (["plot", "RUN", "--out", "a.gif"], 1, "expected .png, .pdf or .svg"),
        (["plot", ".", "--out", "a.png"], 1, "has no metrics.jsonl and no linear probe"),
    ],
)
def test_what_cannot_be_reported(
    argv: list[str], code: int, words: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert cli.main([str(run) if a == "RUN" else a for a in argv]) == code
    captured = capsys.readouterr()
    assert words in (captured.out + captured.err if code == 2 else captured.err)
    assert [*tmp_path.iterdir()] == []


def test_images_that_went_away_leave_a_page_without_a_map(run: Path, tmp_path: Path) -> None:
    moved = tmp_path / "run"
    shutil.copytree(run, moved)
    text = (moved / "run.yaml").read_text().replace(str(run.parent), str(tmp_path / "gone"))
    gone = marks.mark(tmp_path / "gone/test")
    (moved / "run.yaml").write_text(text.replace("  named_here:", f"  named_here:\n  - {gone}"))
    page = lookalike.report(moved)
    assert content_of(page, "maps") == {"sets": [], "maps": []}
    (note,) = content_of(page)["mapNotes"]
    assert "gone/test does not exist" in note
    assert "relative" not in note
    assert content_of(page)["runs"][0]["pictures"][0]["name"] == "views"
    given = content_of(lookalike.report(moved, images=run.parent / "train"), "maps")
    assert len(given["sets"][0]["names"]) == 18


def test_files_that_cannot_be_read_are_named_and_left_out(run: Path, tmp_path: Path) -> None:
    broken = tmp_path / "run"
    shutil.copytree(run, broken)
    (broken / "evaluation.json").write_text("{")
    (broken / "encoder.json").write_text("no JSON")
    with (broken / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "lo')
    page = content_of(lookalike.report(broken, points=4))
    assert len(page["runs"][0]["problems"]) == 2
    assert page["runs"][0]["evaluations"] == []
    assert page["runs"][0]["curves"]["series"]["loss"]["x"]


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("evaluation.json", '"ece": 0.08', '"ece": NaN', ""),
        ("evaluation.json", None, "null", ""),
        ("encoder.json", None, "[]", "encoder.json is not a JSON object"),
        ("start.json", None, "[]", "start.json is not a JSON object"),
        ("start.json", '"images"', '"pictures"', "start.json could not be read: KeyError: 'images'"),
        ("start.json", '"parameters": {', '"parameters": 5, "was": {', "start.json could not be read: AttributeError"),
        ("run.yaml", "  lr: ", "  lr: x", ""),
        ("run.yaml", "made:", "made: 5\nwas:", "The facts could not be shown: AttributeError"),
        ("run.yaml", None, "5", "run.yaml holds no options"),
        ("metrics.jsonl", None, "\udcff\udcfe", ""),
        ("metrics.jsonl", None, '5\n{"step": 1, "loss": 2.0}\n{"step": "x", "loss": 2, "images_per_s": "x"}\n', ""),
    ],
)
def test_one_odd_value_leaves_the_rest_of_the_page(
    file: str, old: str | None, new: str, said: str, run: Path, tmp_path: Path
) -> None:
    odd = tmp_path / "run"
    shutil.copytree(run, odd, ignore=shutil.ignore_patterns("checkpoints", "encoder.safetensors"))
    text = (odd / file).read_text()
    assert old is None or old in text
    content = new if old is None else text.replace(old, new)
    (odd / file).write_bytes(content.encode(errors="surrogateescape"))
    page = content_of(lookalike.report(odd, points=4))
    (shown,) = page["runs"]
    assert [problem for problem in shown["problems"] if said in problem] == shown["problems"]
    assert bool(shown["problems"]) == bool(said)
    assert shown["use"]["python"]
    assert shown["evaluations"] or file == "evaluation.json"
    assert shown["curves"]["series"] or file == "metrics.jsonl"
    if 'loss": 2.0' in new:
        assert shown["curves"]["series"]["loss"] == {"x": [1], "y": [2.0]}


def test_what_is_not_finite_becomes_null() -> None:
    assert finite({"a": [math.nan, (1.5, -math.inf)], "b": "NaN"}) == {"a": [None, [1.5, None]], "b": "NaN"}


def test_images_of_a_relative_path_say_where_it_counts_from(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = tmp_path / "run"
    shutil.copytree(run, moved, ignore=shutil.ignore_patterns("checkpoints"))
    (moved / "run.yaml").write_text((moved / "run.yaml").read_text().replace(str(run.parent), "images"))
    (moved / "evaluation.json").unlink()
    monkeypatch.chdir(tmp_path)
    (note,) = content_of(lookalike.report(moved))["mapNotes"]
    assert "is relative to the folder in which the training was started" in note


def test_write_never_raises(tmp_path: Path, run: Path) -> None:
    said: list[str] = []
    assert report.write(tmp_path / "none", say=said.append) is None
    assert "WARNING     the report could not be written (FileNotFoundError" in said[0]
    assert report.write(run, say=said.append) == run / "report.html"
    assert said[1].startswith(f"Wrote {run / 'report.html'}")


def test_trainings_end_with_a_page_unless_told_not_to(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = ["pretrain", "simclr", str(photos), "--backbone", "test_byobnet", "--image-size", "32", "--epochs", "1"]
    argv += ["--batch-size", "20", "--workers", "0", "--hidden-dim", "16", "--out"]
    assert cli.main([*argv, str(tmp_path / "a")]) == 0
    assert f"Wrote {tmp_path / 'a' / 'report.html'}" in capsys.readouterr().out
    assert "report.html" in (tmp_path / "a" / "log.txt").read_text()
    assert cli.main([*argv, str(tmp_path / "b"), "--no-report"]) == 0
    assert not (tmp_path / "b" / "report.html").exists()

    def fails(*args: object, **options: object) -> None:
        raise RuntimeError("no page today")

    monkeypatch.setattr(report, "report", fails)
    assert cli.main([*argv, str(tmp_path / "c")]) == 0
    assert "the report could not be written (RuntimeError: no page today)" in capsys.readouterr().out


# ---------------------------------------------------------------- files that came from a stranger


@pytest.fixture
def private(tmp_path: Path) -> Path:
    """Images of this machine that nobody named to lookalike."""
    for i in range(4):
        draw(tmp_path / "private/class" / f"secret {i}.jpg", i, i)
        draw(tmp_path / "private/other" / f"secret {i}.jpg", i, 9 + i)
    return tmp_path / "private"


@pytest.fixture
def strangers(run: Path, tmp_path: Path) -> Path:
    out = tmp_path / "from elsewhere"
    shutil.copytree(run, out, ignore=shutil.ignore_patterns("checkpoints", "features", "views.png"))
    (out / "evaluation.json").unlink()
    return out


def unread(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    """Lets nobody look into a folder."""
    scan = os.scandir

    def guarded(path: Any = ".") -> Any:
        assert not os.path.realpath(path).startswith(os.path.realpath(place)), path
        return scan(path)

    monkeypatch.setattr(os, "scandir", guarded)


@pytest.mark.parametrize("by", ["data", "probe", "evaluation"])
def test_images_that_only_a_strangers_files_name_are_named_and_left_out(
    by: str, run: Path, strangers: Path, private: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    content = yaml.safe_load((strangers / "run.yaml").read_text())
    content |= {"data": str(private), "probe": None}
    if by == "probe":
        content |= {"probe": [str(private), str(private)]}
    if by == "evaluation":
        entries = json.loads((run / "evaluation.json").read_text())
        (strangers / "evaluation.json").write_text(json.dumps([e | {"test": str(private)} for e in entries]))
    (strangers / "run.yaml").write_text(yaml.safe_dump(content))
    with monkeypatch.context() as patch:
        unread(patch, private)
        assert cli.main(["report", str(strangers), "--workers", "0"]) == 0
    page = content_of(strangers / "report.html")
    assert content_of(strangers / "report.html", "maps") == {"sets": [], "maps": []}
    assert "secret" not in (strangers / "report.html").read_text()
    assert page["runs"][0]["pictures"] == []
    (note,) = page["mapNotes"]
    assert f"its files name the images {private}, which you have not used in a command on this machine" in note
    assert f"--images {private}" in note
    assert note in capsys.readouterr().out
    # a user who names them has confirmed them
    assert cli.main(["report", str(strangers), "--images", str(private), "--workers", "0"]) == 0
    (shown,) = content_of(strangers / "report.html", "maps")["sets"]
    assert len(shown["names"]) == 8


def test_a_strangers_file_that_names_the_whole_disk_scans_none_of_it(
    strangers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for data in ("/", "\0", "~", "..", "https://example.org/x"):
        content = yaml.safe_load((strangers / "run.yaml").read_text()) | {"data": data, "probe": None}
        (strangers / "run.yaml").write_text(yaml.safe_dump(content))
        with monkeypatch.context() as patch:
            unread(patch, Path("/"))
            page = lookalike.report(strangers, points=4)
        assert content_of(page, "maps") == {"sets": [], "maps": []}
        assert len(content_of(page)["mapNotes"]) == 1


def test_marks_are_of_this_user_and_of_one_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    own = marks.mark(tmp_path / "photos")
    assert (tmp_path / "cache/lookalike/key").stat().st_mode & 0o777 == 0o600
    assert marks.is_marked(tmp_path / "photos", [own])
    assert marks.is_marked(tmp_path / "x/../photos", ["", 5, "ü", own])
    for images, known in ((tmp_path, [own]), (tmp_path / "photos", own), (tmp_path / "photos", None), ("\0", [own])):
        assert not marks.is_marked(images, known)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "of another user"))
    assert not marks.is_marked(tmp_path / "photos", [own])
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))  # no key can be kept
    assert marks.is_marked(tmp_path / "photos", [marks.mark(tmp_path / "photos")])


def test_links_out_of_a_strangers_folder_are_not_followed(strangers: Path, private: Path) -> None:
    secret = private / "secret.json"
    secret.write_text('{"password": "hunter2"}')
    (private / "rows.jsonl").write_text('{"step": 1, "loss": 77.5}')
    (private / "log.txt").write_text("data        hunter2")
    (strangers / "views.png").symlink_to(private / "class/secret 0.jpg")
    (strangers / "show").symlink_to(private)
    shutil.copy(private / "class/secret 0.jpg", private / "pca.png")
    for name, target in (
        ("distillation.json", secret), ("encoder.json", secret), ("evaluation.json", secret),
        ("metrics.jsonl", private / "rows.jsonl"), ("log.txt", private / "log.txt"),
    ):  # fmt: skip
        (strangers / name).unlink(missing_ok=True)
        (strangers / name).symlink_to(target)
    (strangers / "run.yaml").write_text("data: x")
    page = lookalike.report(strangers, points=4)
    (shown,) = content_of(page)["runs"]
    assert shown["pictures"] == []
    assert shown["distillation"] is None
    assert shown["curves"]["series"] == {}
    assert len(shown["problems"]) == 4
    assert "is a link to a file outside of the run's folder" in shown["problems"][0]
    assert "hunter2" not in page.read_text()


def test_a_comparison_shows_no_folder_outside_of_its_own(run: Path, strangers: Path, tmp_path: Path) -> None:
    folder = comparison(tmp_path / "compare", run)
    shutil.rmtree(folder / "simclr-seed0")
    (folder / "simclr-seed0").symlink_to(strangers)
    content = json.loads((folder / "compare.json").read_text())
    content["trainings"][0]["folder"] = str(strangers)
    content["trainings"].append({"method": "dino", "seed": 0, "folder": f"../{strangers.name}"})
    (folder / "compare.json").write_text(json.dumps(content))
    runs = content_of(lookalike.report(folder, points=4))["runs"]
    assert [Path(shown["folder"]) for shown in runs] == [folder / "byol-seed0"]  # whatever its file names


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 900 + "1" + "}" * 900, "\udcff", "1" * 5000, "[1" + "0" * 4000 + "]"]
)
def test_files_nested_without_end_leave_a_page(
    text: str, strangers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("evaluation.json", "distillation.json", "encoder.json", "metrics.jsonl", "log.txt"):
        (strangers / name).write_bytes(text.encode(errors="surrogateescape"))
    (strangers / "run.yaml").write_text("data: " + "[" * 100_000)
    for argv in (["report", str(strangers)], ["report", str(strangers), "--out", str(tmp_path / "page.html")]):
        assert cli.main([*argv, "--workers", "0"]) == 0
    assert cli.main(["plot", str(strangers), "--out", str(tmp_path / "a.png")]) == 1
    said = capsys.readouterr()
    assert "Traceback" not in said.out + said.err
    (shown,) = content_of(tmp_path / "page.html")["runs"]
    assert "run.yaml is nested deeper" in shown["problems"][0] or "nested deeper" in shown["problems"][0]
    (strangers / "compare.json").write_text(text, errors="surrogateescape")
    assert cli.main(["report", str(strangers), "--out", str(tmp_path / "page.html"), "--overwrite"]) == 1
    assert "is not a comparison of format 1" in capsys.readouterr().err


def test_names_that_act_on_a_page_are_written_out(strangers: Path, tmp_path: Path) -> None:
    hostile = strangers.rename(strangers.with_name("run\x1b]0;x\x07\u202e\nline"))
    draw(tmp_path / "images/class/a\u202egpj.jpg", 0, 0)
    draw(tmp_path / "images/class/b.jpg", 0, 1)
    page = lookalike.report(hostile, images=tmp_path / "images", out=tmp_path / "page.html")
    title = re.search("<title>(.*?)</title>", page.read_text(), re.DOTALL)
    for text in (str(content_of(page)), str(content_of(page, "maps")["sets"][0]["names"]), str(title)):
        assert not re.search(r"(?<!\\)\\(x1b|x07|u202e)", text)  # repr writes them with one backslash
    assert "a\\u202egpj.jpg" in content_of(page, "maps")["sets"][0]["names"][0]


def test_a_comparison_brings_its_trainings_and_the_best_ones_map(run: Path, tmp_path: Path) -> None:
    folder = comparison(tmp_path / "compare", run)
    page = lookalike.report(folder, points=8)
    assert page == folder / "report.html"
    content = content_of(page)
    assert [r["name"] for r in content["runs"]] == ["byol-seed0", "simclr-seed0"]
    assert [m["run"] for m in content_of(page, "maps")["maps"]] == ["byol-seed0"]
    assert content["comparisons"][0]["ranking"][0]["method"] == "byol"
    assert [bool(r["evaluations"][0]["per_class"]) for r in content["runs"]] == [True, False]  # details of the best
    (folder / "compare.json").write_text('{"format": 2}')
    with pytest.raises(ValueError, match="not a comparison of format 1"):
        lookalike.report(folder)


def test_a_comparison_shows_its_own_trainings_wherever_the_command_runs(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, other = comparison(tmp_path / "here", run), comparison(tmp_path / "other", run)
    monkeypatch.chdir(here)
    content = content_of(lookalike.report(other, points=4))
    assert [r["folder"] for r in content["runs"]] == [str(other / f"{m}-seed0") for m in ("byol", "simclr")]
    both = content_of(lookalike.report([here, other], points=4, out=tmp_path / "both.html"))
    assert [g["name"] for g in both["groups"]] == ["byol, here", "simclr, here", "byol, other", "simclr, other"]
    assert [r["group"] for r in both["runs"]] == [0, 1, 2, 3]


def test_odd_trainings_and_rankings_of_a_comparison_leave_a_page(run: Path, tmp_path: Path) -> None:
    folder = comparison(tmp_path / "odd", run)
    content = json.loads((folder / "compare.json").read_text())
    content["trainings"] += [5, {}, {"method": "dino", "seed": "x"}]
    content["ranking"] = [None, *content["ranking"]]
    (folder / "compare.json").write_text(json.dumps(content))
    assert len(content_of(lookalike.report(folder, points=4))["runs"]) == 2


def test_plot_draws_two_runs(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "curves.png"
    other = tmp_path / "other"
    shutil.copytree(run, other)
    argv = ["plot", str(run), str(other), "--out", str(out)]
    assert cli.main(argv) == 0
    assert f"Wrote {out}" in capsys.readouterr().out
    pixels = np.asarray(Image.open(out).convert("RGB"))
    assert pixels.shape[1] > 1000
    colours = {tuple(c) for c in pixels.reshape(-1, 3)[::7].tolist()}
    assert {(0, 114, 178), (213, 94, 0)} <= colours  # a series each
    assert cli.main(argv) == 1
    assert "curves.png exists" in capsys.readouterr().err
    (other / "evaluation.json").unlink()
    assert cli.main([*argv, "--overwrite"]) == 0
    assert lookalike.plot(other, out=tmp_path / "one.svg").read_text().startswith("<?xml")


@pytest.mark.parametrize("name", ["$x_{$ and $y^$", "_hidden", "照片", "a\tb"])
def test_plot_shows_the_names_of_runs_as_they_are(
    name: str, run: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    pytest.importorskip("matplotlib")
    shutil.copytree(run, tmp_path / name)
    one, both = tmp_path / "one.svg", tmp_path / "both.svg"
    lookalike.plot(tmp_path / name, out=one)
    lookalike.plot([run, tmp_path / name], out=both)
    assert not [str(w.message) for w in recwarn.list if w.category is UserWarning]
    assert 'id="legend_1"' in one.read_text()


def test_plot_draws_entries_of_before(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    old = tmp_path / "old"
    old.mkdir()
    (old / "evaluation.json").write_text('[{"protocol": "linear", "top1": 0.5}]')
    assert lookalike.plot([run, old], out=tmp_path / "old.png").is_file()

"""Comparisons from nothing: what is trained, within which budget, and what is refused or fails."""

import dataclasses
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from support.comparisons import SHORT, command, content_of, numbers, run

from lookalike import backbones, encoders, training
from lookalike.commands.compare import baseline, runner
from lookalike.core import Method
from lookalike.methods import DINO, IBOT, SimCLR
from lookalike.printing import counted
from lookalike.runs import Diverged, Folder, Run
from lookalike.training import timing

pytestmark = [pytest.mark.long(9), pytest.mark.usefixtures("short_probe")]


def test_all_methods_of_a_seed_begin_with_the_same_network_which_is_the_untrained_one() -> None:
    source = cast(Any, SimpleNamespace())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(baseline, "with_statistics", lambda encoder, *parts, **options: encoder)
        for backbone in ("test_byobnet", "test_vit"):
            run = Run(
                data="", method=SimCLR.Config(), backbone=backbone, image_size=32, batch_size=8, workers=0, seed=3
            )
            kept = baseline.untrained_encoder(run, source).net.state_dict()
            methods: list[type[Method]] = [SimCLR, DINO, *([IBOT] if backbone == "test_vit" else [])]
            for method in methods:
                settled, _ = training.resolve(dataclasses.replace(run, method=method.Config()), 40)  # type: ignore[call-arg]
                begun = training.build(settled).backbone.net.state_dict()
                assert all(torch.equal(value, begun[name]) for name, value in kept.items())


def test_test_images_are_not_to_be_learnt_from(
    classed: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    more = ("--epochs", "1", "--seeds", "1", "--protocols", "knn", "retrieval", "label-free")
    argv = command(labelled / "test", "simclr", "supcon", labelled=labelled, out=out, more=more)
    said, _ = run(capsys, argv, 0)
    assert f"WARNING: 16 images of the test {labelled / 'test'} are also in the training images" in said
    assert "supcon cannot be trained: SupCon learns from labels, and 16 images of the test" in said
    assert "retrieval recall@1 %  label-free recall@1 %" in said
    content = content_of(out)
    assert [row["status"] for row in content["trainings"]] == ["done", "failed"]
    assert content["shared_images"] == {str(labelled / "test"): 16}
    assert "16 images of the test" in content["recommendation"]


def test_init_from_another_network_ends_a_comparison_before_it_trains(
    classed: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(backbones.create("test_vit", image_size=32).export_state(), tmp_path / "vit.pth")
    more = (*SHORT, "--init", str(tmp_path / "vit.pth"))
    _, error = run(capsys, command(classed, "simclr", labelled=labelled, out=tmp_path / "out", more=more), 1)
    assert "unexpected: cls_token" in error
    assert not (tmp_path / "out" / "simclr-seed0").exists()


def test_trainings_that_ran_apart_are_ranked_as_those_of_one_command(
    classed: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    apart, whole = (
        command(classed, "simclr", "byol", labelled=labelled, out=tmp_path / name, more=(*SHORT[:3], "1", *SHORT[4:]))
        for name in ("apart", "whole")
    )
    said, _ = run(capsys, [*apart, "--training", "byol-seed0"], 0)
    assert "The same command without --training evaluates and ranks all trainings." in said
    rows = content_of(tmp_path / "apart")["trainings"]
    assert [(row["folder"], row["status"], row["seconds"] is None) for row in rows] == [
        ("simclr-seed0", "waiting", True), ("byol-seed0", "waiting", False),
    ]  # fmt: skip
    before = (tmp_path / "apart/byol-seed0/metrics.jsonl").read_bytes()
    run(capsys, [*apart, "--training", "simclr-seed0"], 0)
    assert "is trained already: nothing to do." in run(capsys, [*apart, "--training", "simclr-seed0"], 0)[0]
    said, _ = run(capsys, apart, 0)
    assert "[1/2]" not in said
    assert (tmp_path / "apart/byol-seed0/metrics.jsonl").read_bytes() == before
    run(capsys, whole, 0)
    assert numbers(tmp_path / "apart") == numbers(tmp_path / "whole")


def test_a_training_apart_fails_alone(
    classed: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = command(classed, "simclr", "byol", labelled=labelled, out=tmp_path / "out", more=SHORT)
    with monkeypatch.context() as patch:
        patch.setattr(training, "pretrain", fails)
        _, error = run(capsys, [*argv, "--training", "byol-seed1"], 1)
    assert error == "error: it cannot\n"
    rows = {row["folder"]: row for row in content_of(tmp_path / "out")["trainings"]}
    assert (rows["byol-seed1"]["status"], rows["byol-seed1"]["error"]) == ("failed", "it cannot")
    assert rows["byol-seed0"]["status"] == "waiting"


def fails(*arguments: object) -> None:
    raise RuntimeError("it cannot")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--training", "byol-seed0", *SHORT), "training is 'byol-seed0', none of the comparison."),
        (("--training", "simclr-seed2", *SHORT), "Did you mean simclr-seed1 or simclr-seed0?"),
        (
            ("--training", "simclr-seed0", "--budget", "1s"),
            "Give --epochs instead of --budget, or leave --training out.",
        ),
        (("--training", "simclr-seed0", "--overwrite", *SHORT), "overwrite would replace the other trainings."),
    ],
)
def test_what_cannot_run_apart_is_refused(
    classed: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...],
    message: str,
) -> None:  # fmt: skip
    argv = command(classed, "simclr", labelled=labelled, out=tmp_path / "out", more=more)
    _, error = run(capsys, argv, 2)
    assert message in " ".join(error.split())
    assert not (tmp_path / "out").exists()


def test_a_budget_of_time(
    classed: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    more = ("--budget", "0.3s", "--seeds", "2", "--protocols", "knn", "--cache", "ram")
    argv = command(classed, "moco_v2", labelled=labelled, out=out, more=more)
    monkeypatch.setattr(timing, "TIMED_STEPS", 2)
    with monkeypatch.context() as patch:
        patch.setattr(runner, "spent", interrupted)
        said, _ = run(capsys, argv, 130)
    assert said.startswith("Plan: 1 method x 2 seeds x 0.3 s = 0.6 s of training, then evaluation on 1 test\n")
    assert "Measuring the speed of moco_v2" in said
    epochs = content_of(out)["trainings"][0]["epochs"]
    assert epochs >= 1
    assert f"{counted(epochs, 'epoch')} in 0.3s" in said
    assert not (out / runner.SPEED).exists()
    said, _ = run(capsys, argv, 0)
    assert "Measuring" not in said  # all trainings of a method have the same epochs
    content = content_of(out)
    assert content["budget"] == {"minutes": 0.3 / 60}
    assert [row["epochs"] for row in content["trainings"]] == [epochs, epochs]
    assert all(row["seconds"] > 0 for row in content["trainings"])
    monkeypatch.setattr(timing, "WARM_STEPS", 1)
    tiny = ("--budget", "0.001s", "--seeds", "1", "--protocols", "knn", "--overwrite")
    (out / runner.SPEED).mkdir()
    (out / runner.SPEED / "mine.txt").write_text("mine")
    killed = shutil.copytree(out / "moco_v2-seed0", out / f"{runner.SPEED}-killed")
    text = Folder(killed).run.read_text()
    Folder(killed).run.write_text(text.replace(f"\nepochs: {epochs}\n", f"\nepochs: {runner.MANY_EPOCHS}\n"))
    said, _ = run(capsys, command(classed, "moco_v2", labelled=labelled, out=out, more=tiny), 0)
    assert "WARNING: one epoch of moco_v2 takes longer than the budget of 0.001s" in said
    assert [path.name for path in out.rglob("*") if runner.SPEED in str(path)] == [runner.SPEED, "mine.txt"]
    assert content_of(out)["trainings"][0]["epochs"] == 1
    assert "one epoch takes" in content_of(out)["ranking"][0]["remark"]


def interrupted(*parts: object) -> None:
    raise KeyboardInterrupt


def test_several_tests_and_a_teacher(
    classed: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = tmp_path / "teacher"
    encoders.save(Folder(teacher), backbones.create("test_vit", image_size=32), method="none", epochs=0,
                  dtype=torch.uint8)  # fmt: skip
    out = tmp_path / "out"
    more = ("--train", str(classed), "--test", str(labelled / "train"), "--teacher", str(teacher), "--epochs", "1",
            "--seeds", "1", "--protocols", "knn", "linear")  # fmt: skip
    said, _ = run(capsys, command(classed, "distill", labelled=labelled, out=out, more=more), 0)
    content = content_of(out)
    assert content["train"] == [str(labelled / "train"), str(classed)]
    tests = [str(labelled / "test"), str(labelled / "train")]
    assert content["tests"] == tests
    (row,) = content["ranking"]
    assert {p: list(found) for p, found in row["results"].items()} == {"knn": tests, "linear": tests}
    assert row["score"] == pytest.approx(sum(row["results"]["knn"][t]["mean"] for t in tests) / 2)
    assert list(content["untrained"]["linear"]) == tests
    assert f"knn on {tests[1]}: distill" in said
    assert "the mean over 2 tests" in content["recommendation"]
    assert f"teacher: {teacher}" in Folder(out / "distill-seed0").run.read_text()


def test_what_cannot_be_is_found_before_anything_is_trained(
    photos: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    said, error = run(capsys, command(photos, "supcon", "ibot", labelled=labelled, out=out, more=SHORT), 1)
    assert "supcon cannot be trained: SupCon learns from labels" in said
    assert "No method could be trained and evaluated" in error
    content = content_of(out)
    assert [row["status"] for row in content["trainings"]] == ["failed"] * 4
    assert content["ranking"] == []
    assert content["recommendation"].startswith(
        "No method could be trained and evaluated. supcon failed: SupCon learns"
    )
    assert {p.name for p in out.iterdir()} - {".lock"} == {"compare.json"}


def test_a_method_that_diverges_does_not_stop_the_others(
    classed: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, tried, pretrain = tmp_path / "out", [], training.pretrain

    def failing(run: Run, callbacks: Any = ()) -> Any:
        if runner.SPEED not in run.out:
            tried.append(Path(run.out).name)
        if run.out.endswith("byol-seed0"):
            raise Diverged("The gradients were not finite.")
        if run.out.endswith("simsiam-seed0"):
            raise OSError("The disk is full.")
        return pretrain(run, callbacks)

    monkeypatch.setattr(training, "pretrain", failing)
    more = ("--epochs", "1", "--seeds", "1", "--protocols", "knn")
    argv = command(classed, "byol", "simsiam", "moco_v2", labelled=labelled, out=out, more=more)
    said, _ = run(capsys, argv, 0)
    assert tried == ["byol-seed0", "simsiam-seed0", "moco_v2-seed0"]
    assert "byol failed: The gradients were not finite." in said
    rows = content_of(out)["trainings"]
    assert [(row["status"], row["verdict"]) for row in rows[:2]] == [("failed", "diverged"), ("failed", None)]
    tried.clear()
    run(capsys, argv, 0)
    assert tried == ["simsiam-seed0"]  # a divergence would come again, a full disk need not


def test_the_command_refuses_with_one_message(
    classed: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    usual = command(classed, "simclr", labelled=labelled, out=out, more=SHORT)
    for change, code, words in (
        (["--budget", "2h"], 2, "exclude each other"),
        (["--seeds", "0"], 2, "seeds is 0"),
        (["--protocols", "nn"], 1, "no protocol 'nn'"),
        (["--resume"], 1, "to resume. Leave --resume out"),
        (["--batch-size", "4000"], 1, "4000"),
        (["--test", str(classed / "class0")], 1, ""),
    ):
        _, error = run(capsys, [*usual, *change], code)
        assert any(word in error for word in words.split("|")), error
    assert "Did you mean simclr" in run(capsys, command(classed, "simcrl", labelled=labelled, out=out), 2)[1]
    nowhere = run(capsys, command(tmp_path / "none", "simclr", labelled=labelled, out=out, more=SHORT), 1)[1]
    assert "does not exist" in nowhere
    assert not out.exists()
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    assert "not empty" in run(capsys, usual, 1)[1]
    Folder(out).run.write_text("method: simclr")
    assert "contains a run" in run(capsys, usual, 1)[1]
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "compare.json").write_text("{")
    broken = command(classed, "simclr", labelled=labelled, out=tmp_path / "broken", more=SHORT)
    assert "is not JSON" in run(capsys, broken, 1)[1]
    shown = run(capsys, ["compare", "--help"], 0)[0]
    assert "lookalike compare DATA METHOD" in shown
    assert "Passes over the images" in shown

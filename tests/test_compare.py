"""A comparison that is there: what it holds, asked again, extended, stopped, replaced and not replaced."""

import json
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from support.comparisons import SHORT, command, content_of, numbers, run

import lookalike
from lookalike import cli, places, training
from lookalike.commands.compare import earlier_runs, record, runner
from lookalike.commands.compare.spec import Comparison
from lookalike.evaluation import evaluate
from lookalike.runs import Folder, Run

pytestmark = [pytest.mark.long(8), pytest.mark.page, pytest.mark.usefixtures("short_probe")]


@pytest.fixture(scope="module")
def compared(classed: Path, labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a comparison of two methods that can be trained and one that cannot."""
    out = tmp_path_factory.mktemp("compared") / "out"
    argv = command(classed, "simclr", "ibot", "supcon", labelled=labelled, out=out, more=SHORT)
    assert cli.main([a for a in argv if a != "--no-report"]) == 0
    assert (out / "report.html").is_file()
    return out


def test_what_a_comparison_leaves_behind(compared: Path, labelled: Path) -> None:
    content = content_of(compared)
    assert content["format"] == 1
    assert content["budget"] == {"epochs": 1}
    assert (content["seeds"], content["image_size"], content["batch_size"]) == ([0, 1], 32, 8)
    assert content["versions"].keys() >= {"lookalike", "torch"}
    test = str(labelled / "test")
    assert content["untrained"]["knn"][test].keys() >= {"top1", "top5", "interval"}
    rows = {(t["method"], t["seed"]): t for t in content["trainings"]}
    assert list(rows) == [(m, s) for s in (0, 1) for m in ("simclr", "ibot", "supcon")]  # all methods once, then again
    for (method, seed), row in rows.items():
        if method == "ibot":
            assert row["status"] == "failed"
            assert "does not support masks" in row["error"]
            continue
        assert (row["status"], row["epochs"], row["steps"], row["error"]) == ("done", 1, 5, None)
        assert row["images_per_s"] == pytest.approx(40 / row["seconds"], rel=0.01)
        assert row["gflops_per_image"] > 0
        if not torch.cuda.is_available():
            assert row["energy_kj"] is None
        own = json.loads(Folder(compared / row["folder"]).evaluation.read_text())
        assert row["results"]["knn"][test]["top1"] == own[0]["top1"]
        assert lookalike.load(compared / row["folder"]).dim > 0
        kept = lookalike.runs.read_run(Folder(compared / row["folder"]).run)
        assert (kept.seed, kept.image_size, kept.batch_size, kept.backbone) == (seed, 32, 8, "test_byobnet")
    assert {r["method"] for r in content["ranking"]} == {"simclr", "supcon"}
    assert content["ranking"][0]["results"]["knn"][test].keys() == {"mean", "deviation"}
    assert content["recommendation"].startswith("No method is significantly better than the untrained network, 100.0%")
    assert "supcon learns from labels, which the other methods do not use." in content["recommendation"]
    assert content["device"] == content["question"]["device"]
    assert not (compared / runner.SPEED).exists()


def test_the_same_question_does_nothing_twice(
    compared: Path, classed: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    out = shutil.copytree(compared, tmp_path / "out")
    before, asked = numbers(out), content_of(out)["question"]

    def refused(*parts: object, **options: object) -> None:
        raise AssertionError("trained or judged again")

    monkeypatch.setattr(training, "pretrain", refused)
    monkeypatch.setattr(runner, "evaluate", refused)
    argv = command(classed, "simclr", "ibot", "supcon", labelled=labelled, out=out, more=SHORT)
    said, _ = run(capsys, argv, 0)
    assert "ibot failed: test_byobnet does not support masks" in said
    assert "untrained" in said
    assert f"Wrote {out / 'compare.json'}" in said
    assert "Next: lookalike embed" in said
    assert numbers(out) == before
    run(capsys, [*argv, "--resume"], 0)
    _, error = run(capsys, [*argv, "--epochs", "2", "--batch-size", "10"], 1)
    assert "budget.epochs: 1 stored, 2 requested" in error
    assert "batch_size: 8 stored, 10 requested" in error
    assert "--overwrite" in error
    _, error = run(capsys, [*argv[:3], *argv[4:]], 1)
    assert "methods" in error
    with monkeypatch.context() as patch:
        patch.setattr(runner, "device_name", lambda: "another")
        _, error = run(capsys, argv, 1)
        assert f"device: {asked['device']} stored, another requested" in error
    _, error = run(capsys, [*argv, "--precision", "fp64"], 1)
    assert f"precision: {asked['precision']} stored, fp64 requested" in error
    run(capsys, [*argv, "--precision", asked["precision"]], 0)  # what it is without the option
    assert numbers(out) == before


def test_a_finished_comparison_of_0_1_is_ranked_anew(
    compared: Path, classed: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = shutil.copytree(compared, tmp_path / "out")
    new = content_of(out)
    old = {k: v for k, v in new.items() if k not in ("error_rate", "untrained_range")}
    old["ranking"] = [r | {"low": 0.0, "high": 0.1, "remark": "not told apart from the best"} for r in new["ranking"]]
    (out / "compare.json").write_text(json.dumps(old | {"recommendation": "b cannot be told apart from it."}))
    argv = command(classed, "simclr", "ibot", "supcon", labelled=labelled, out=out, more=SHORT)
    run(capsys, argv, 0)
    again = content_of(out)
    for name in ("error_rate", "untrained_range", "ranking", "recommendation", "trainings"):
        assert again[name] == new[name]
    assert new["error_rate"] == 0.05
    assert 0 <= new["untrained_range"][0] <= new["untrained_range"][1] <= 1


def test_more_seeds_and_methods_extend_it(
    compared: Path, classed: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    out, trained, pretrain = shutil.copytree(compared, tmp_path / "out"), [], training.pretrain
    before = {row[:2]: row for row in numbers(out)}

    def noting(run: Run, callbacks: Any = ()) -> Any:
        if runner.SPEED not in run.out:
            trained.append(Path(run.out).name)
        if "vicreg" in run.out:
            raise OSError("The disk is full.")  # saves the time
        return pretrain(run, callbacks)

    monkeypatch.setattr(training, "pretrain", noting)
    more = ("--epochs", "1", "--seeds", "3", "--protocols", "knn")
    argv = command(classed, "vicreg", "simclr", "ibot", "supcon", labelled=labelled, out=out, more=more)
    said, _ = run(capsys, argv, 0)
    assert "contains 6 of these trainings; 6 are new" in said
    assert trained == ["vicreg-seed0", "vicreg-seed1", "vicreg-seed2", "simclr-seed2", "supcon-seed2"]
    after = {row[:2]: row for row in numbers(out)}
    assert len(after) == 12
    assert {key: after[key] for key in before} == before
    content = content_of(out)
    assert content["seeds"] == [0, 1, 2]
    assert list(content["untrained_by_seed"]) == ["0", "1", "2"]
    assert {r["method"]: r["seeds"] for r in content["ranking"]} == {"simclr": 3, "supcon": 3}
    trained.clear()
    assert "of these trainings" not in run(capsys, argv, 0)[0]
    assert trained == ["vicreg-seed0", "vicreg-seed1", "vicreg-seed2"]  # what failed


def test_an_error_does_not_outlive_its_cause(
    compared: Path, classed: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    out = shutil.copytree(compared, tmp_path / "out")
    argv = command(classed, "simclr", "ibot", "supcon", labelled=labelled, out=out, more=SHORT)
    content = content_of(out)
    content["trainings"][0]["results"] = {}
    content["trainings"][0]["status"] = "waiting"
    (out / "compare.json").write_text(json.dumps(content))

    def broken(*parts: object, **options: object) -> None:
        raise RuntimeError("a judging that fails once")

    with monkeypatch.context() as patch:
        patch.setattr(runner, "evaluate", broken)
        run(capsys, argv, 0)
    assert content_of(out)["trainings"][0]["error"] == "a judging that fails once"
    run(capsys, argv, 0)
    assert numbers(out) == numbers(compared)


def test_overwrite_replaces_it(
    compared: Path, classed: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = shutil.copytree(compared, tmp_path / "out")
    (out / "supcon-seed0" / "mine.txt").write_text("not the comparison's")
    more = ("--epochs", "2", "--seeds", "1", "--protocols", "knn", "--overwrite")
    run(capsys, command(classed, "simclr", labelled=labelled, out=out, more=more), 0)
    assert [row[:5] for row in numbers(out)] == [("simclr", 0, "done", None, 2)]
    page = {"report.html", "log.txt"}
    assert {p.name for p in out.iterdir()} - {".lock"} - page == {"compare.json", "simclr-seed0", "supcon-seed0"}
    assert [p.name for p in (out / "supcon-seed0").iterdir()] == ["mine.txt"]
    assert Folder(out / "simclr-seed0").rows()[-1]["epoch"] == 2


def test_foreign_files_in_the_folders_of_trainings_stay_and_the_trainings_begin(
    compared: Path, classed: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = shutil.copytree(compared, tmp_path / "out")
    (out / "byol-seed0").mkdir()  # of a comparison that was replaced
    for name in ("simclr-seed0", "byol-seed0"):
        (out / name / "notes.txt").write_text("mine")
    more = ("--epochs", "1", "--seeds", "1", "--protocols", "knn", "--overwrite")
    run(capsys, command(classed, "simclr", "byol", labelled=labelled, out=out, more=more), 0)
    assert [row[:4] for row in numbers(out)] == [("simclr", 0, "done", None), ("byol", 0, "done", None)]
    assert all((out / name / "notes.txt").read_text() == "mine" for name in ("simclr-seed0", "byol-seed0"))
    shutil.rmtree(out / "byol-seed0")
    (out / "byol-seed0").mkdir()
    (out / "byol-seed0" / "log.txt").write_text("mine")  # called as a run's own would be
    more = ("--epochs", "1", "--seeds", "1", "--protocols", "knn", "--overwrite")
    run(capsys, command(classed, "byol", labelled=labelled, out=out, more=more), 1)
    assert (out / "byol-seed0" / "log.txt").read_text() == "mine"


def test_images_and_tests_may_lie_elsewhere_when_the_question_is_asked_again(
    compared: Path, classed: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = shutil.copytree(compared, tmp_path / "out")
    data, judged = shutil.copytree(classed, tmp_path / "data"), shutil.copytree(labelled, tmp_path / "judged")
    argv = command(data, "simclr", "ibot", "supcon", labelled=judged, out=out, more=SHORT)
    said, _ = run(capsys, argv, 0)
    assert "epoch 1/1" not in said  # nothing is trained again
    now, then = content_of(out), content_of(compared)
    assert now["tests"] == now["question"]["test"] == [str(judged / "test")]
    assert now["ranking"][0]["method"] == then["ranking"][0]["method"]
    results = [row["results"] for row in now["trainings"] if row["status"] == "done"]
    assert results
    assert all(list(tests) == [str(judged / "test")] for found in results for tests in found.values())
    (data / "class0" / "0.jpg").unlink()
    _, error = run(capsys, argv, 1)
    assert "with other settings:\n  images: " in error


@pytest.mark.parametrize("named", ["../mine", "simclr-seed9", ".", "/tmp/mine"])
def test_a_comparison_touches_no_folder_that_it_does_not_make(compared: Path, tmp_path: Path, named: str) -> None:
    """`compare.json` may be a stranger's: the folders that it names are not believed."""
    mine = shutil.copytree(compared / "simclr-seed0", tmp_path / "mine")
    out = shutil.copytree(compared, tmp_path / "out")
    content = content_of(out)
    content["trainings"][0]["folder"] = named
    (out / "compare.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"names the folder .*, which no comparison creates"):
        record.read(out / "compare.json")
    assert Folder(mine).weights.is_file()


def test_a_training_that_is_replaced_takes_nothing_of_others_with_it(compared: Path, tmp_path: Path) -> None:
    trained = compared / "simclr-seed0"
    mine = shutil.copytree(trained, tmp_path / "mine")
    (tmp_path / "linked").symlink_to(mine)
    earlier_runs.remove(tmp_path / "linked")
    assert Folder(mine).last.is_file()
    notes = tmp_path / "simclr-seed0"  # no run, but files of a run's names
    notes.mkdir()
    (notes / "log.txt").write_text("mine")
    earlier_runs.remove(notes)
    assert (notes / "log.txt").read_text() == "mine"
    earlier_runs.remove(mine)
    assert not mine.exists()


def test_a_training_is_not_written_into_a_linked_folder(
    compared: Path, classed: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = shutil.copytree(compared, tmp_path / "out")
    shutil.rmtree(out / "simclr-seed0")
    outside = shutil.copytree(compared / "supcon-seed0", tmp_path / "outside")
    before = Folder(outside).last.read_bytes()
    (out / "simclr-seed0").symlink_to(outside)
    more = ("--epochs", "2", "--seeds", "1", "--protocols", "knn", "--overwrite")
    _, said = run(capsys, command(classed, "simclr", labelled=labelled, out=out, more=more), 1)
    assert "No method could be trained" in said
    assert "simclr-seed0 is a link" in said
    assert content_of(out) == content_of(compared)  # the old one stays where nothing of the new one began
    assert Folder(outside).last.read_bytes() == before


def test_overwrite_given_again_goes_on(
    compared: Path, classed: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A complete comparison is replaced; the one that replaces it, once begun, is not."""
    out = shutil.copytree(compared, tmp_path / "out")
    old = Folder(out / "simclr-seed0").last.stat().st_mtime_ns
    argv = command(classed, "simclr", "ibot", "supcon", labelled=labelled, out=out, more=(*SHORT, "--overwrite"))
    stop, pretrain = ["supcon-seed0"], training.pretrain

    def stopped(run: Run, callbacks: Any = ()) -> Any:
        if Path(run.out).name in stop:
            raise KeyboardInterrupt
        return pretrain(run, callbacks)

    monkeypatch.setattr(training, "pretrain", stopped)
    assert "nothing is replaced" not in run(capsys, argv, 130)[0]
    assert [row["status"] for row in content_of(out)["trainings"]][:3] == ["done", "failed", "waiting"]
    made = Folder(out / "simclr-seed0").last.stat().st_mtime_ns
    assert made != old
    stop[:] = ["simclr-seed1"]
    said, _ = run(capsys, argv, 130)
    assert "contains this comparison, unfinished: it is resumed, nothing is replaced" in said
    assert Folder(out / "simclr-seed0").last.stat().st_mtime_ns == made
    assert numbers(out)[:3] == numbers(compared)[:3]
    assert content_of(out)["recommendation"].startswith("Unfinished: 2 of 6 trainings are done, 2 failed.")


class Interrupting(Callback):
    """Ctrl-C in the middle of a training."""

    def __init__(self, name: str, step: int) -> None:
        self.name = name
        self.step = step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if Path(trainer.default_root_dir).name == self.name and trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGINT)


def test_a_comparison_that_was_stopped_goes_on(
    compared: Path, classed: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Between training and judging, then in the middle of a training: in the end the numbers of one never stopped."""
    out = tmp_path / "out"
    argv = command(classed, "simclr", "ibot", "supcon", labelled=labelled, out=out, more=SHORT)

    def stopped(encoder: Any, *parts: Any, **options: Any) -> Any:
        if isinstance(encoder, Path):
            raise KeyboardInterrupt
        return evaluate(encoder, *parts, **options)

    with monkeypatch.context() as patch:
        patch.setattr(runner, "evaluate", stopped)
        said, _ = run(capsys, argv, 130)
    assert "repeat the command to resume" in said
    first = content_of(out)["trainings"][0]
    assert (first["status"], first["results"]) == ("waiting", {})
    assert first["seconds"] > 0
    written = Folder(out / "simclr-seed0").last.stat().st_mtime_ns

    asked = Comparison(
        data=str(classed), methods=("simclr", "ibot", "supcon"), train=(str(labelled / "train"),),
        test=(str(labelled / "test"),), backbone="test_byobnet", image_size=32, batch_size=8, workers=0, epochs=1,
        seeds=2, protocols=("knn",), out=str(out),
    )  # fmt: skip
    capsys.readouterr()
    with pytest.raises(KeyboardInterrupt):
        lookalike.compare(asked, [Interrupting("supcon-seed0", 2)])
    said = capsys.readouterr().out
    assert "Stopped after step 2 of 5; the state is saved.\n" in said
    assert "Resume with" not in said + Folder(out / "supcon-seed0").log.read_text()  # one instruction alone:
    assert said.endswith(f"Stopped. Finished work is saved in {out}; repeat the command to resume.\n")
    assert re.search(r"^Plan: 3 of 4 trainings left: (simclr 1|supcon 2) x .* of training, then evaluation on 1 test$",
                     said, re.MULTILINE)  # fmt: skip
    rows = content_of(out)["trainings"]
    assert [row["status"] for row in rows] == ["done", "failed", "waiting", "waiting", "failed", "waiting"]
    assert rows[2]["epochs"] == 1
    assert rows[2]["seconds"] is None
    assert content_of(out)["ranking"][0]["method"] == "simclr"  # what is known so far

    said, _ = run(capsys, argv, 0)
    assert Folder(out / "simclr-seed0").last.stat().st_mtime_ns == written
    assert "[3/6] supcon, seed 0" in said
    assert "weights     step 2 of" in said
    assert numbers(out) == numbers(compared)
    assert Folder(out / "supcon-seed0").rows()[-1]["loss"] == Folder(compared / "supcon-seed0").rows()[-1]["loss"]


def files(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file() and p.name != ".lock"}


@pytest.mark.parametrize("error", [OSError("no key for the logger"), KeyboardInterrupt()], ids=["fails", "stopped"])
def test_a_comparison_is_not_replaced_before_a_training_of_the_new_one_has_made_a_step(
    error: BaseException, compared: Path, classed: Path, labelled: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    out = shutil.copytree(compared, tmp_path / "out")
    before = files(out)

    def fails(run: Run, callbacks: Any = ()) -> Any:
        raise error

    monkeypatch.setattr(training, "pretrain", fails)
    more = ("--epochs", "2", "--seeds", "1", "--protocols", "knn", "--overwrite")
    argv = command(classed, "simclr", labelled=labelled, out=out, more=more)
    said, failed = run(capsys, argv, 1 if isinstance(error, OSError) else 130)
    assert files(out) == before
    assert ("no key for the logger. The previous comparison is unchanged." in failed) == isinstance(error, OSError)
    assert ("The previous comparison in" in said) != isinstance(error, OSError)
    monkeypatch.setattr(places, "find_spec", lambda name: None)
    _, failed = run(capsys, [*argv, "--logger", "wandb"], 1)
    assert "pip install 'lookalike[wandb]'" in failed
    assert files(out) == before


@pytest.mark.parametrize("name", ["../victim", "..", "", "VICTIM", "linked", 5, None])
def test_a_comparison_names_no_folder_outside_of_its_own(
    name: object, compared: Path, classed: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    victim = shutil.copytree(compared / "simclr-seed0", tmp_path / "victim")
    out = shutil.copytree(compared, tmp_path / "out")
    (out / "linked").symlink_to(victim)
    content = content_of(out)
    for row in content["trainings"]:
        row["folder"] = str(victim) if name == "VICTIM" else name
    (out / "compare.json").write_text(json.dumps(content))
    before = files(victim)
    more = ("--epochs", "2", "--seeds", "1", "--protocols", "knn", "--overwrite")
    argv = command(classed, "simclr", labelled=labelled, out=out, more=more)
    _, failed = run(capsys, argv, 1)
    assert files(victim) == before
    assert "Move it away, or give another --out." in failed
    assert "which no comparison creates" in failed


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"format": 1}', '{"format": 1, "trainings": 5, "untrained_by_seed": {}}', "[]"]
)
def test_a_comparisons_file_that_is_none_is_refused_in_a_sentence(
    text: str, compared: Path, classed: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/compare.json").write_text(text)
    argv = command(classed, "simclr", labelled=labelled, out=tmp_path / "out", more=SHORT)
    for more in ([], ["--overwrite"]):
        _, failed = run(capsys, [*argv, *more], 1)
        assert "Move it away, or give another --out." in failed
        assert len(failed) < 500
    assert (tmp_path / "out/compare.json").read_text() == text


def test_a_comparison_is_not_replaced_by_one_that_starts_from_its_weights(
    classed: Path, labelled: Path, compared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = shutil.copytree(compared, tmp_path / "compared")
    weights = next(path for path in sorted(out.iterdir()) if (path / "encoder.safetensors").is_file())
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.name != ".lock"}
    more = ("--epochs", "2", "--seeds", "1", "--protocols", "knn", "--overwrite", "--init", str(weights))
    _, said = run(capsys, command(classed, "simclr", labelled=labelled, out=out, more=more), 1)
    assert "is inside the comparison that --overwrite replaces. Copy it, or give another --out." in said
    assert {path: path.read_bytes() for path in before} == before

"""Trainings that cannot begin: what is named, and that an old run stays as it was."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers.logger import DummyLogger
from support.runs import Recorder, assert_equal, state, tiny_run
from torch import Tensor

from lookalike import cli, places, training
from lookalike.core import Batch
from lookalike.methods import get_method
from lookalike.methods.simclr import SimCLR
from lookalike.optim import Optim
from lookalike.runs import Folder, read_run
from lookalike.training import trainer

pytestmark = pytest.mark.long(12)


def test_an_existing_run_is_kept_unless_overwritten(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    training.pretrain(tiny_run(photos, out, epochs=2))
    with pytest.raises(FileExistsError, match="--resume to continue it, --overwrite to replace it"):
        training.pretrain(tiny_run(photos, out, epochs=1))
    result = training.pretrain(tiny_run(photos, out, epochs=1, overwrite=True))
    assert [r["step"] for r in result.metrics] == [5]
    assert not (out / "checkpoints/epoch=2.ckpt").exists()
    assert not read_run(out / "run.yaml", SimCLR).overwrite
    assert [r["step"] for r in training.pretrain(tiny_run(photos, out, epochs=2, resume=True)).metrics] == [5, 10]
    assert not read_run(out / "run.yaml", SimCLR).resume


def test_a_run_is_not_replaced_by_one_that_cannot_begin(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    training.pretrain(tiny_run(photos, out, epochs=1))
    before = state(out)
    (tmp_path / "broken").mkdir()
    for i in range(20):
        (tmp_path / f"broken/{i}.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match="could be read"):
        training.pretrain(tiny_run(tmp_path / "broken", out, epochs=1, overwrite=True))
    monkeypatch.setattr("lookalike.data.cache.free_memory", lambda: 1000)
    with pytest.raises(ValueError, match="--cache none"):
        training.pretrain(tiny_run(photos, out, epochs=1, overwrite=True, cache="ram"))
    assert_equal(state(out), before)
    assert Folder(out).weights.is_file()


def test_a_start_that_fails_leaves_no_run(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Failing(Recorder):
        @dataclasses.dataclass(frozen=True)
        class Config(Recorder.Config):
            pass

        def forward(self, batch: Batch) -> dict[str, Tensor]:
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        training.pretrain(tiny_run(photos, tmp_path / "run", method=Failing.Config()))
    assert not (tmp_path / "run").exists()


def test_a_launch_of_another_size_is_named(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ValueError, match=r"process 0 of 2 launched ones.*--devices 1"):
        training.pretrain(tiny_run(photos, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "missing"}, "missing"),
        ({"batch_size": 41}, "41"),
        ({"backbone": "resnet19"}, "resnet18"),
        ({"backbone": "torchvision/alexnet", "image_size": 16}, "nearest size that works"),
        ({"accumulate": 3}, "3"),
        ({"accumulate": 8}, "1 image per micro-batch"),
        ({"nodes": 2}, "must be started on every node"),
        ({"data": ""}, "DATA is empty"),
        ({"init": ""}, "init is empty"),
        ({"method": SimCLR.Config(optim=Optim("larz", lr=1.0))}, "The nearest names: lars"),
        ({"precision": "fp16"}, "needs a GPU"),
        ({"logger": "wandb"}, "pip install 'lookalike[wandb]'"),
        ({"init": "nowhere.pt"}, "No weights at nowhere.pt"),
        ({"checkpoint_activations": True}, "has BatchNorm, which activation checkpointing"),
        (
            {"checkpoint_activations": True, "backbone": "torchvision/alexnet", "image_size": 64},
            "does not support activation checkpointing",
        ),
    ],
)
def test_bad_input_is_named_and_leaves_no_folder(
    photos: Path, tmp_path: Path, changes: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "find_spec", lambda name: None)  # as where no logger's extra is installed
    with pytest.raises((ValueError, FileNotFoundError, ModuleNotFoundError)) as caught:
        training.pretrain(tiny_run(photos, tmp_path / "run", **changes))
    assert message in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_one_image_is_not_enough(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one/a.jpg").write_bytes((photos / "image 0.jpg").read_bytes())
    with pytest.raises(ValueError, match="holds 1 image"):
        training.pretrain(tiny_run(tmp_path / "one", tmp_path / "run"))


# ---------------------------------------------------------------- what fails before the first step


class Keyless(DummyLogger):
    """A logger that fails when it is first used, after it has written something."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    @property
    def experiment(self) -> Any:
        (self.folder / "wandb/run-1").mkdir(parents=True, exist_ok=True)
        (self.folder / "wandb/run-1/log").write_text("half")
        raise ValueError("No API key configured.")


def fails(*args: Any, **options: Any) -> Any:
    raise RuntimeError("out of memory")


class FailingAtStart(Callback):
    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        fails()


def contents(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file() and p.name != ".lock"}


@pytest.mark.parametrize("new", ["overwrite", "resume", "fresh"])
@pytest.mark.parametrize("moment", ["logger", "tensorboard", "probe", "first step"])
def test_what_fails_before_the_first_step_leaves_an_old_run_as_it_was_and_nothing_of_a_new_one(
    moment: str, new: str, finished: Callable[[int], Path], photos: Path, labelled: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    out = tmp_path / "run"
    if new != "fresh":
        shutil.copytree(finished(1), out)
        (out / "tensorboard").mkdir()
        (out / "tensorboard/events.out.tfevents.1.old").write_bytes(b"old")
        (out / "notes.txt").write_text("mine")
        before = contents(out)
    run = tiny_run(photos, out, epochs=4, **({} if new == "fresh" else {new: True}))
    callbacks: list[Callback] = []
    match moment:
        case "logger":
            run = dataclasses.replace(run, logger="wandb")
            monkeypatch.setattr(trainer, "_loggers", lambda run, folder: [Keyless(folder.path)])
        case "tensorboard":  # its files are there when the training fails
            run = dataclasses.replace(run, logger="tensorboard")
            callbacks = [FailingAtStart()]
        case "probe":
            run = dataclasses.replace(run, probe=(str(labelled / "train"), str(tmp_path / "gone")))
        case "first step":
            monkeypatch.setattr(SimCLR, "forward", fails)
    with pytest.raises((ValueError, RuntimeError, FileNotFoundError)):
        training.pretrain(run, callbacks)
    if new == "fresh":
        return assert_nothing(out)
    after = contents(out)
    if new == "resume":  # its log says what happened
        before["log.txt"] = after["log.txt"]
    assert after == before
    assert not (out / "wandb").exists()


def assert_nothing(out: Path) -> None:
    assert not out.exists(), list(out.rglob("*"))


def test_a_logger_without_a_key_leaves_the_old_run_to_the_command(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    argv = ["pretrain", "simclr", str(photos), "--out", str(out), "--backbone", "test_byobnet", "--image-size", "32"]
    argv += ["--batch-size", "20", "--workers", "0", "--epochs", "1", "--hidden-dim", "16"]
    assert cli.main(argv) == 0
    before = contents(out)
    monkeypatch.setattr(places, "find_spec", lambda name: name)
    monkeypatch.setattr(trainer, "WandbLogger", lambda save_dir, **options: Keyless(save_dir))
    assert cli.main([*argv, "--overwrite", "--logger", "wandb"]) == 1
    assert "error: No API key configured." in capsys.readouterr().err
    assert contents(out) == before


def test_a_run_is_not_replaced_by_one_that_starts_from_its_own_weights(
    finished: Callable[[int], Path], photos: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(finished(1), tmp_path / "run")
    before = contents(out)
    for weights in (out, Folder(out).weights, Folder(out).last):
        with pytest.raises(ValueError, match=r"is the folder of --init .* Give another --out"):
            training.pretrain(tiny_run(photos, out, overwrite=True, backbone="test_byobnet", init=str(weights)))
    taught = get_method("distill").Config(teacher=str(out))  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="is the folder of --teacher"):
        training.pretrain(tiny_run(photos, out, overwrite=True, backbone="test_byobnet", method=taught))
    assert contents(out) == before


def test_a_logger_of_a_run_that_replaces_another_keeps_its_own_files(
    finished: Callable[[int], Path], photos: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(finished(1), tmp_path / "run")
    (out / "tensorboard").mkdir()
    old = out / "tensorboard/events.out.tfevents.1.old"
    old.write_bytes(b"images_per_s data_wait")  # as an earlier run's
    training.pretrain(tiny_run(photos, out, epochs=1, overwrite=True, logger="tensorboard"))
    assert not old.exists()
    assert [p.stat().st_size > 100 for p in (out / "tensorboard").glob("events*")] == [True]

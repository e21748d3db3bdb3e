"""What others add to Lightning's trainer, from packages, the environment and Slurm."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, Trainer
from support.runs import assert_same_run, state, tiny_run

from lookalike import cli, training
from lookalike.runs import Folder


def test_slurm_does_not_requeue_behind_our_back(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NTASKS", "PROCID", "LOCALID", "NODEID", "NNODES", "NTASKS_PER_NODE", "JOB_ID"):
        monkeypatch.setenv(f"SLURM_{name}", "1" if "N" in name[:1] and name != "NODEID" else "0")
    before = signal.getsignal(signal.SIGUSR1)
    seen = []
    watch = type("Watch", (Callback,), {"on_train_start": lambda *_: seen.append(signal.getsignal(signal.SIGUSR1))})()
    training.pretrain(tiny_run(photos, tmp_path / "run", epochs=1), callbacks=[watch])
    assert seen == [before]


def test_a_callback_of_the_users_own_may_stop_the_training(photos: Path, tmp_path: Path) -> None:
    class Stop(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: object, *_: object) -> None:
            trainer.should_stop = trainer.global_step == 3

    result = training.pretrain(tiny_run(photos, tmp_path / "run"), callbacks=[Stop()])
    assert state(result.folder)["global_step"] == 3
    assert Folder(result.folder).weights.is_file()


def installed(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that puts a callback into every trainer of Lightning's, and does something when it is imported."""
    (place / "nosy-1.0.dist-info").mkdir(parents=True)
    (place / "nosy-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: nosy-package\nVersion: 1.0\n")
    (place / "nosy-1.0.dist-info/entry_points.txt").write_text(
        "[lightning.pytorch.callbacks_factory]\nnosy = nosy:factory\n"
    )
    (place / "nosy.py").write_text(f"open({str(place / 'imported')!r}, 'w').close()\nfactory = None\n")
    monkeypatch.syspath_prepend(place)
    return place / "imported"


def test_only_our_callbacks_and_the_users_run_in_lightnings_trainer(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    imported = installed(tmp_path / "site", monkeypatch)
    argv = ["pretrain", "simclr", str(photos), "--out", str(tmp_path / "run"), "--backbone", "test_byobnet"]
    argv += ["--image-size", "32", "--batch-size", "20", "--workers", "0", "--epochs", "1", "--hidden-dim", "16"]
    assert cli.main(argv) == 0
    assert not imported.exists()
    lines = [line for line in (tmp_path / "run/log.txt").read_text().splitlines() if "nosy" in line]
    assert lines == ["ignored     additions of others to Lightning's trainer: nosy-package (nosy:factory)"]
    assert lines[0] in capsys.readouterr().out
    seen: list[str] = []

    class Own(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
            seen.extend(type(c).__module__.split(".")[0] for c in trainer.callbacks)  # type: ignore[attr-defined]

    training.pretrain(tiny_run(photos, tmp_path / "own", epochs=1), [Own()])
    assert set(seen) == {"lookalike", __name__}
    assert not imported.exists()


def test_the_environment_adds_nothing_to_lightnings_trainer(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("MAX_STEPS", "1"), ("FAST_DEV_RUN", "1"), ("GRADIENT_CLIP_VAL", "1e-9"), ("MAX_EPOCHS", "7")):
        monkeypatch.setenv(f"PL_TRAINER_{name}", value)
    result = training.pretrain(tiny_run(photos, tmp_path / "run", epochs=1))
    assert [row["step"] for row in result.metrics] == [5]
    assert os.environ["PL_TRAINER_MAX_STEPS"] == "1"
    said = (tmp_path / "run/log.txt").read_text()
    assert "PL_TRAINER_FAST_DEV_RUN, PL_TRAINER_MAX_EPOCHS, PL_TRAINER_MAX_STEPS, PL_TRAINER_GRADIENT_CLIP_VAL" in said
    monkeypatch.undo()
    training.pretrain(tiny_run(photos, tmp_path / "other", epochs=1))
    assert_same_run(tmp_path / "run", tmp_path / "other")

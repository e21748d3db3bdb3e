"""Checkpoints: when they are written, what a damaged one does, and steps that are not finite."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.runs import Recorder, assert_same_run, interrupt_after, record, state, tiny_run

from lookalike import training
from lookalike.runs import Diverged, Folder
from lookalike.training import checkpoints

pytestmark = pytest.mark.long(11)


def test_rows_are_on_the_disk_before_a_checkpoint_is(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power cut a checkpoint must find the rows of the steps before it."""
    fsync, replace = os.fsync, os.replace
    happened: list[tuple[str, int]] = []

    def synced(handle: int) -> None:
        happened.append((Path(f"/proc/self/fd/{handle}").resolve().name, os.fstat(handle).st_size))
        fsync(handle)

    def renamed(old: Any, new: Any) -> None:
        happened.append((f"renamed to {Path(new).name}", 0))
        replace(old, new)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    training.pretrain(tiny_run(photos, tmp_path / "run", epochs=2))
    sizes = [sum(map(len, Folder(tmp_path / "run").metrics.read_bytes().splitlines(True)[:n])) for n in (1, 2)]
    for size, name in zip(sizes, ("epoch=1.ckpt", "epoch=2.ckpt")):
        flushed = happened.index(("metrics.jsonl", size))
        assert flushed < happened.index((f"renamed to {name}", 0))


def test_a_second_damaged_checkpoint_does_not_replace_the_first_that_was_put_aside(
    photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    training.pretrain(tiny_run(photos, out, epochs=1))
    for epochs, content in ((2, b"first"), (3, b"second")):
        Folder(out).last.unlink()  # its content has another name, too
        Folder(out).last.write_bytes(content)
        training.pretrain(tiny_run(photos, out, epochs=epochs, resume=True))
    kept = [Folder(out).checkpoints / name for name in ("last.corrupt", "last.corrupt.2")]
    assert [path.read_bytes() for path in kept] == [b"first", b"second"]


def test_a_checkpoint_that_no_run_names_is_not_resumed_from(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    training.pretrain(tiny_run(photos, out, epochs=1))
    mine = Folder(out).checkpoints / "epoch=1-mine.ckpt"
    shutil.copy(Folder(out).last, mine)
    training.pretrain(tiny_run(photos, out, epochs=1, overwrite=True))
    assert mine.is_file()
    for path in (Folder(out).last, Folder(out).before, Folder(out).checkpoints / "epoch=1.ckpt"):
        path.unlink(missing_ok=True)
    result = training.pretrain(tiny_run(photos, out, epochs=1, resume=True))
    assert "NO CHECKPOINT to resume from" in Folder(out).log.read_text()
    assert [row["step"] for row in result.metrics] == [5]


def test_a_corrupt_checkpoint_falls_back_to_the_one_before(
    finished: Callable[[int], Path],
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupt_after(patch, 12)
        with pytest.raises(KeyboardInterrupt):
            training.pretrain(tiny_run(photos, out))
    last = Folder(out).last
    content = last.read_bytes()
    last.write_bytes(content[: len(content) // 2])
    training.pretrain(tiny_run(photos, out, resume=True))
    printed = capsys.readouterr().out
    assert "cannot be read; trying the previous one" in printed
    assert "last.before.ckpt" in printed
    assert_same_run(out, finished(1))


def test_no_readable_checkpoint_is_an_error(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    training.pretrain(tiny_run(photos, out, epochs=1))
    for path in Folder(out).checkpoints.iterdir():
        path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="No checkpoint of the run can be read"):
        training.pretrain(tiny_run(photos, out, epochs=2, resume=True))


@pytest.mark.parametrize("lacks", ["lookalike", "format", "data", "mean", "global_step"])
def test_a_checkpoint_without_a_part_counts_as_damaged(lacks: str, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    training.pretrain(tiny_run(photos, out, epochs=1))
    for path in Folder(out).kept():
        path.unlink()
    content = torch.load(Folder(out).last, weights_only=True)
    (content if lacks in content else content["lookalike"]).pop(lacks)
    torch.save(content, Folder(out).last)
    with pytest.raises(
        ValueError, match=r"last\.ckpt is not a checkpoint of a training\.\nStart again with --overwrite"
    ):
        training.pretrain(tiny_run(photos, out, epochs=2, resume=True))


def test_a_damaged_checkpoint_is_noticed_and_put_aside(
    finished: Callable[[int], Path], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few changed bytes among the weights; torch.load would not see them."""
    out = tmp_path / "run"
    for step in (7, 9):
        with monkeypatch.context() as patch:
            interrupt_after(patch, step)
            with pytest.raises(KeyboardInterrupt):
                training.pretrain(tiny_run(photos, out, resume=step == 9))
    last, before = Folder(out).last, Folder(out).before
    content = bytearray(last.read_bytes())
    weight = torch.load(last, weights_only=True)["state_dict"]["method.projector.0.weight"]
    place = content.find(weight.numpy().tobytes()[:16])
    content[place + 3] ^= 0x10
    last.write_bytes(content)
    assert torch.load(last, weights_only=True)["global_step"] == 9
    with monkeypatch.context() as patch:
        interrupt_after(patch, 8)
        with pytest.raises(KeyboardInterrupt):
            training.pretrain(tiny_run(photos, out, resume=True))
    assert last.with_suffix(".corrupt").exists()
    assert torch.load(before, weights_only=True)["global_step"] == 7
    training.pretrain(tiny_run(photos, out, resume=True))
    assert_same_run(out, finished(1))


def test_a_checkpoint_that_cannot_be_written(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    save = torch.save
    calls = 0

    def full(*args: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise OSError(28, "No space left on device")
        save(*args)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(
        RuntimeError, match=r"step 15 could not be written.*MiB are free: .*No space left.*last\.ckpt is intact"
    ):
        training.pretrain(tiny_run(photos, out))
    assert state(out)["global_step"] == 10
    assert "No space left" in Folder(out).log.read_text()
    assert not list(out.rglob(".*tmp*"))


# ---------------------------------------------------------------- steps that are not finite


def test_a_first_step_that_is_dropped_is_no_end(photos: Path, tmp_path: Path) -> None:
    """As with fp16, whose scaler begins too high; with one step per epoch it is looked at before there is a loss."""
    run = tiny_run(photos, tmp_path / "run", epochs=4, batch_size=40, method=Recorder.Config(poison=(0,)))
    result = training.pretrain(run)
    assert [row["skipped"] for row in result.metrics] == [1] * 4
    assert "verdict" not in result.metrics[0]


def test_no_finite_step_at_all_is_a_failure(photos: Path, tmp_path: Path) -> None:
    run = tiny_run(photos, tmp_path / "run", epochs=1, method=Recorder.Config(poison=tuple(range(99))))
    with pytest.raises(Diverged, match="None of the 5 steps"):
        training.pretrain(run)


def test_fp64_skips_restore_the_statistics_too(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Moving to float64 replaces BatchNorm's buffers: those that are restored must be the new ones."""
    run = tiny_run(photos, tmp_path / "run", epochs=1, precision="fp64", method=Recorder.Config(poison=(4,)))
    method = record(run, monkeypatch)
    assert method.state_dict()["backbone.net.layers.1.running_mean"].dtype == torch.float64
    assert int(method.state_dict()["backbone.net.layers.1.num_batches_tracked"]) == 4


@pytest.mark.parametrize("accumulate", [1, 4])
def test_hooks_run_on_real_steps_only(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accumulate: int
) -> None:
    run = tiny_run(photos, tmp_path / "run", epochs=1, accumulate=accumulate, method=Recorder.Config())
    method = record(run, monkeypatch)
    assert method.calls == [(name, step) for step in range(5) for name in ("before", "after")]
    assert method.seen == [(step, 8 // accumulate) for step in range(5) for _ in range(accumulate)]


def test_a_step_that_is_not_finite_changes_nothing(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tiny_run(photos, tmp_path / "poisoned", epochs=1, method=Recorder.Config(poison=(4,)))
    method = record(run, monkeypatch)
    assert [c for c in method.calls if c[0] == "after"] == [("after", s) for s in range(4)]
    (row,) = Folder(run.out).rows()
    assert row["skipped"] == 1
    assert row["grad_norm"] is None
    assert 0 < row["loss"] < 1e3
    assert all(torch.isfinite(v).all() for v in method.state_dict().values())
    statistics = method.state_dict()["backbone.net.layers.1.num_batches_tracked"]
    assert int(statistics) == 4


def test_repeated_skips_stop_the_run_and_keep_the_batch(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "MOST_SKIPPED", 3)
    run = tiny_run(photos, tmp_path / "run", epochs=3, method=Recorder.Config(poison=tuple(range(2, 99))))
    with pytest.raises(Diverged, match="no finite gradients"):
        training.pretrain(run)
    (path,) = (tmp_path / "run/checkpoints").glob("nonfinite-*.safetensors")
    assert load_file(path)["views.0"].shape == (8, 3, 16, 16)
    assert not Folder(run.out).last.exists()  # there was no checkpoint before step 2
    assert "no finite gradients" in Folder(run.out).log.read_text()


def test_ruined_weights_do_not_take_the_place_of_good_ones(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "MOST_SKIPPED", 8)
    run = tiny_run(photos, tmp_path / "run", epochs=3, method=Recorder.Config(poison=tuple(range(6, 99))))
    with pytest.raises(Diverged, match="checkpoints are of earlier steps"):
        training.pretrain(run)
    assert state(tmp_path / "run")["global_step"] == 5

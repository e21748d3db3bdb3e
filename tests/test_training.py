"""Training: what a run leaves behind, that it resumes bit for bit from any moment, and what it refuses."""

import dataclasses
import json
import multiprocessing
import os
import shutil
import signal
import warnings
from collections.abc import Callable, Collection, Sequence
from multiprocessing.context import ForkServerContext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers.logger import DummyLogger
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

import lookalike
from lookalike import cli, core, encoders, places, progress, training
from lookalike.backbones import Backbone
from lookalike.core import Batch, Method, Outputs, Progress
from lookalike.data import open_source
from lookalike.files import file_sha256
from lookalike.methods import get_method
from lookalike.methods.simclr import SimCLR
from lookalike.optim import Optim
from lookalike.runs import Diverged, Folder, Run, by_user, differences, flat, read_run
from lookalike.schedules import Schedule
from lookalike.training import checkpoints, module, stages, trainer
from lookalike.training.looks import Health
from lookalike.training.monitor import Monitor, Probe
from lookalike.views import View, dino_views, larger


class TinyNet(nn.Module):
    """A small encoder with BatchNorm: its statistics are a part of the state that must be resumed."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 12, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.layers(x)
        return features


def tiny_config(**changes: Any) -> SimCLR.Config:
    view = View(size=16, count=2, scale=(0.3, 1.0), hflip=0.5, jitter=0.8, brightness=0.4, hue=0.1)
    optim = Optim("sgd", lr=0.2, weight_decay=Schedule(1e-4), warmup_epochs=0.5)
    return SimCLR.Config(hidden_dim=16, out_dim=8, views=(view,), optim=optim, **changes)


def tiny_run(photos: Path, out: Path, **changes: Any) -> Run:
    torch.manual_seed(1)  # the weights of the user's own module
    options: dict[str, Any] = {
        "epochs": 3, "batch_size": 8, "workers": 0, "save_every": 1, "backbone": TinyNet(), "method": tiny_config(),
    }  # fmt: skip
    return Run(**({"data": photos, "out": str(out)} | options | changes))


def state(out: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(Folder(out).last, weights_only=True)
    content["lookalike"].pop("run")  # where it lies, and how many workers it had
    return {k: content[k] for k in ("state_dict", "optimizer_states", "global_step", "lookalike")}


def assert_equal(a: Any, b: Any, at: str = "") -> None:
    if isinstance(a, Tensor):
        assert torch.equal(a, b), at
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), at
        for k in a:
            assert_equal(a[k], b[k], f"{at}.{k}")
    elif isinstance(a, list):
        assert len(a) == len(b), at
        for i, (x, y) in enumerate(zip(a, b)):
            assert_equal(x, y, f"{at}.{i}")
    else:
        assert a == b, at


def losses(out: Path) -> list[tuple[float, float]]:
    return [(row["step"], row["loss"]) for row in Folder(out).rows()]


def assert_same_run(a: Path, b: Path) -> None:
    assert_equal(state(a), state(b))
    assert losses(a) == losses(b)
    assert_equal(load_file(Folder(a).weights), load_file(Folder(b).weights))


@pytest.fixture(scope="module")
def finished(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """An uninterrupted run of 3 epochs of 5 steps, for one accumulation."""
    made: dict[int, Path] = {}

    def run(accumulate: int) -> Path:
        if accumulate not in made:
            made[accumulate] = tmp_path_factory.mktemp("whole") / "run"
            training.pretrain(tiny_run(photos, made[accumulate], accumulate=accumulate))
        return made[accumulate]

    return run


def test_the_folder_holds_what_the_contract_names(finished: Callable[[int], Path]) -> None:
    out = finished(1)
    found = {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()}
    assert found == {
        "run.yaml", "start.json", "metrics.jsonl", "log.txt", "views.png", "inputs.zip", "encoder.safetensors",
        "encoder.json", ".lock", "checkpoints/last.ckpt", "checkpoints/last.before.ckpt", "checkpoints/epoch=1.ckpt",
        "checkpoints/epoch=2.ckpt", "checkpoints/epoch=3.ckpt",
    }  # fmt: skip
    rows = Folder(out).rows()
    assert [(r["step"], r["epoch"]) for r in rows] == [(5, 1), (10, 2), (15, 3)]
    assert {"loss", "lr", "images_per_s", "data_wait"} <= rows[0].keys()
    assert all(0 <= r["data_wait"] <= 1 for r in rows)
    card = json.loads((out / "encoder.json").read_text())
    assert {k: card[k] for k in ("format", "dim", "image_size", "channels", "dtype", "method", "epochs")} == {
        "format": 1, "dim": 12, "image_size": 16, "channels": 3, "dtype": "uint8", "method": "simclr", "epochs": 3.0,
    }  # fmt: skip
    log = (out / "log.txt").read_text()
    for words in (
        "40 images",
        "15 = 3 epochs x 5 of 8 images",
        "learning rate",
        "2 x 16 px",
        "Next: lookalike evaluate",
    ):
        assert words in log


def test_the_learning_rate_of_the_rows_is_the_one_that_was_used(finished: Callable[[int], Path]) -> None:
    cfg = tiny_config()
    peak = 0.2 * 8 / 256
    schedule = Schedule(peak, 0.0, "cosine", warmup_epochs=0.3)  # the warm-up is fitted to a tenth of 3 epochs
    assert cfg.optim.grid == "closed"
    rows = Folder(finished(1)).rows()
    assert [r["lr"] for r in rows] == pytest.approx([schedule(Progress(int(r["step"]) - 1, 15, 5)) for r in rows])


def interrupt_after(monkeypatch: pytest.MonkeyPatch, step: int, number: int = signal.SIGINT) -> None:
    def after_step(self: Method, at: Progress, outputs: Sequence[Outputs]) -> None:
        if at.step + 1 == step:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(SimCLR, "after_step", after_step)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("step", [1, 3, 5, 6, 14])
def test_ctrl_c_saves_and_resumes_bit_for_bit(
    finished: Callable[[int], Path],
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: int,
    accumulate: int,
) -> None:
    """Stopped after the first, a middle and the last batch of an epoch."""
    out = tmp_path / "run"
    run = tiny_run(photos, out, accumulate=accumulate)
    with monkeypatch.context() as patch:
        interrupt_after(patch, step)
        with pytest.raises(KeyboardInterrupt):
            training.pretrain(run)
    assert state(out)["global_step"] == step
    resumed = dataclasses.replace(tiny_run(photos, out, accumulate=accumulate), resume=True)
    training.pretrain(resumed)
    assert_same_run(out, finished(accumulate))


def test_sigterm_exits_143_and_resumes_with_workers(
    finished: Callable[[int], Path], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupt_after(patch, 7, signal.SIGTERM)
        with pytest.raises(SystemExit) as stopped:
            training.pretrain(tiny_run(photos, out, workers=1))
    assert stopped.value.code == 143
    assert state(out)["global_step"] == 7
    training.pretrain(tiny_run(photos, out, workers=2, resume=True))
    assert_same_run(out, finished(1))


@pytest.mark.parametrize(
    ("hook", "number"),
    [
        ("setup", signal.SIGINT),  # SIGTERM ends the process, as it should: nothing is there to save
        ("on_fit_start", signal.SIGINT),
        *((hook, number) for hook in ("on_train_start", "on_train_end") for number in (signal.SIGINT, signal.SIGTERM)),
    ],
)
def test_a_signal_before_the_first_step_and_after_the_last(
    finished: Callable[[int], Path], photos: Path, tmp_path: Path, hook: str, number: int
) -> None:
    """Lightning would end with exit code 0 or 1, and say nothing."""
    out = tmp_path / "run"

    def send(*_: object, **__: object) -> None:
        os.kill(os.getpid(), number)

    sender = type("Sender", (Callback,), {hook: send})()
    if hook == "on_train_end":  # all is done and saved: nothing is left to stop
        training.pretrain(tiny_run(photos, out), callbacks=[sender])
        return assert_same_run(out, finished(1))
    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else SystemExit) as stopped:
        training.pretrain(tiny_run(photos, out), callbacks=[sender])
    assert number == signal.SIGINT or stopped.value.code == 143
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert Folder(out).last.exists() is (hook == "on_train_start")
    training.pretrain(tiny_run(photos, out, resume=True))
    assert_same_run(out, finished(1))


def _killed(photos: Path, out: Path, call: int | None, step: int | None, accumulate: int) -> None:
    """A process of its own: dies by SIGKILL at the n-th rename or flush of a file, or in the middle of a step."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    calls = 0

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def replacement(*args: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args)

        return replacement

    os.fsync = counted(os.fsync)
    os.rename = os.replace = counted(os.replace)
    Path.replace = lambda self, target: os.replace(self, target)  # type: ignore[method-assign,assignment]

    def after_step(self: Method, at: Progress, outputs: Sequence[Outputs]) -> None:
        if at.step + 1 == step:
            os.kill(os.getpid(), signal.SIGKILL)

    SimCLR.after_step = after_step  # type: ignore[method-assign]
    training.pretrain(tiny_run(photos, out, accumulate=accumulate))


def forkserver() -> ForkServerContext:
    """Starts processes that have imported already, which takes seconds, what a training imports."""
    context = multiprocessing.get_context("forkserver")
    libraries = ["timm", "torchvision", "tyro", "pytest"]
    context.set_forkserver_preload(
        ["lookalike.training", "lookalike.methods.simclr", "lookalike.views.cpu", *libraries]
    )
    return context


def test_kill_9_at_any_moment_of_writing_resumes_bit_for_bit(
    finished: Callable[[int], Path], photos: Path, tmp_path: Path
) -> None:
    context = forkserver()
    survived = 0
    # flushes and renames of the first files and of each checkpoint; the first, a middle and the last step of an epoch
    moments = [(call, None, 1) for call in (1, 4, 8, 11, 13, 19, 31)]
    moments += [(None, step, accumulate) for step, accumulate in ((1, 1), (7, 2), (10, 1), (10, 2))]
    for call, step, accumulate in moments:
        out = tmp_path / f"{call}-{step}-{accumulate}"
        process = context.Process(target=_killed, args=(photos, out, call, step, accumulate))
        process.start()
        process.join(120)
        if process.exitcode == 0:
            continue
        assert process.exitcode == -signal.SIGKILL
        survived += 1
        resume = Folder(out).run.is_file()
        training.pretrain(tiny_run(photos, out, resume=resume, accumulate=accumulate))
        assert_same_run(out, finished(accumulate))
        assert not list(out.rglob(".*tmp*"))
    assert survived >= 9


def _killed_between(photos: Path, out: Path, moment: str) -> None:
    """A process of its own: dies by SIGKILL before `encoder.json` is written the second time, or before the
    new `run.yaml` takes the place of the old one."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)

    def die(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if moment == "encoder.json":
        write_json, cards = encoders.saved.write_json, []

        def second(path: Path, content: object) -> None:
            cards.append(path)
            (die if len(cards) == 2 else write_json)(path, content)

        encoders.saved.write_json = second  # type: ignore[assignment]
    else:
        clear = Folder._clear

        def cleared(folder: Folder, keep: Collection[Path] = ()) -> None:
            clear(folder, keep)
            die()

        Folder._clear = cleared  # type: ignore[method-assign]
    training.pretrain(tiny_run(photos, out, overwrite=moment == "run.yaml"))


def killed_between(photos: Path, out: Path, moment: str) -> None:
    process = forkserver().Process(target=_killed_between, args=(photos, out, moment))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL


def test_a_kill_between_the_weights_and_encoder_json_is_noticed_and_mended(
    finished: Callable[[int], Path], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    killed_between(photos, out, "encoder.json")
    folder = Folder(out)
    assert json.loads(folder.card.read_text())["epochs"] == 1.0
    assert encoders.read_card(folder).epochs == 2.0
    old, twin = folder.card.read_text(), Folder(shutil.copytree(out, tmp_path / "twin"))
    lookalike.load(out, TinyNet())
    card = json.loads(folder.card.read_text())
    assert (card["epochs"], card["sha256"]) == (2.0, file_sha256(folder.weights))
    assert "encoder.json was not of" in folder.log.read_text()
    changed = folder.card.stat().st_mtime_ns
    lookalike.load(out, TinyNet())
    assert folder.card.stat().st_mtime_ns == changed
    # a file that somebody wrote to, of these very weights, stays
    folder.card.write_text(json.dumps(card | {"epochs": 7.0, "note": "mine"}))
    lookalike.load(out, TinyNet())
    assert json.loads(folder.card.read_text())["note"] == "mine"
    # nothing is written where there is no run
    alone = Folder(tmp_path / "alone")
    alone.path.mkdir()
    shutil.copy(twin.weights, alone.weights)
    alone.card.write_text(old)
    lookalike.load(alone.path, TinyNet())
    assert alone.card.read_text() == old
    capsys.readouterr()
    training.pretrain(tiny_run(photos, twin.path, resume=True))
    assert "encoder.json was not of" in capsys.readouterr().out
    assert_same_run(twin.path, finished(1))


def test_a_kill_while_a_run_is_replaced_can_be_made_good(
    finished: Callable[[int], Path], photos: Path, tmp_path: Path
) -> None:
    out = Folder(shutil.copytree(finished(1), tmp_path / "run"))
    out.features.mkdir()
    foreign = [out.path / "thesis.tex", out.features / "mine.safetensors"]
    for path in foreign:
        path.write_text("mine")
    killed_between(photos, out.path, "run.yaml")
    assert not out.weights.exists()
    training.pretrain(tiny_run(photos, out.path, overwrite=True))
    assert_same_run(out.path, finished(1))
    assert [path.read_text() for path in foreign] == ["mine"] * 2


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
    assert "NO CHECKPOINT is there" in Folder(out).log.read_text()
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
    assert "cannot be read; trying the one before it" in printed
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
    with pytest.raises(ValueError, match=r"last\.ckpt is no checkpoint of a training\.\nStart again with --overwrite"):
        training.pretrain(tiny_run(photos, out, epochs=2, resume=True))


def test_a_finished_run_is_left_alone_and_goes_on_with_more_epochs(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    training.pretrain(tiny_run(photos, out, epochs=1))
    before = state(out)
    result = training.pretrain(tiny_run(photos, out, epochs=1, resume=True))
    assert "nothing to resume" in capsys.readouterr().out
    assert_equal(state(out), before)
    assert [r["step"] for r in result.metrics] == [5]
    result = training.pretrain(tiny_run(photos, out, epochs=3, resume=True))
    assert "1 became 3" in capsys.readouterr().out
    assert [r["step"] for r in result.metrics] == [5, 10, 15]
    assert read_run(out / "run.yaml", SimCLR).epochs == 3


def test_resume_refuses_another_configuration_and_other_images(photos: Path, labelled: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    training.pretrain(tiny_run(photos, out, epochs=1))
    with pytest.raises(ValueError, match=r"temperature: 0.5 in the run, 0.3 now"):
        training.pretrain(tiny_run(photos, out, epochs=2, resume=True, method=tiny_config(temperature=0.3)))
    (photos / "new.jpg").write_bytes((photos / "image 0.jpg").read_bytes())
    try:
        with pytest.raises(ValueError, match="other images than when"):
            training.pretrain(tiny_run(photos, out, epochs=2, resume=True))
    finally:
        (photos / "new.jpg").unlink()
    with pytest.raises(FileNotFoundError, match="holds no run to resume"):
        training.pretrain(tiny_run(photos, tmp_path / "nowhere", resume=True))


def test_an_existing_run_is_kept_unless_overwritten(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    training.pretrain(tiny_run(photos, out, epochs=2))
    with pytest.raises(FileExistsError, match="--resume to go on with it, --overwrite to replace it"):
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


def test_a_run_inside_its_data_can_be_resumed(photos: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(photos, data)
    training.pretrain(tiny_run(data, data / "run", epochs=1))
    assert len(open_source(data)) == 40
    training.pretrain(tiny_run(data, data / "run", epochs=2, resume=True))


def test_a_cache_says_how_far_it_is(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "SECONDS", 0)
    training.pretrain(tiny_run(photos, tmp_path / "run", epochs=1, cache="ram"))
    assert "cache       40 of 40 images decoded" in capsys.readouterr().out


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


def test_a_first_step_that_is_dropped_is_no_end(photos: Path, tmp_path: Path) -> None:
    """As with fp16, whose scaler begins too high; with one step per epoch it is looked at before there is a loss."""
    run = tiny_run(photos, tmp_path / "run", epochs=4, batch_size=40, method=Recorder.Config(poison=(0,)))
    result = training.pretrain(run)
    assert [row["skipped"] for row in result.metrics] == [1] * 4
    assert "verdict" not in result.metrics[0]


def test_a_run_leaves_no_process_behind(photos: Path, tmp_path: Path) -> None:
    before = set(multiprocessing.active_children())
    training.pretrain(tiny_run(photos, tmp_path / "run", epochs=1, workers=2))
    assert set(multiprocessing.active_children()) <= before


def test_no_finite_step_at_all_is_a_failure(photos: Path, tmp_path: Path) -> None:
    run = tiny_run(photos, tmp_path / "run", epochs=1, method=Recorder.Config(poison=tuple(range(99))))
    with pytest.raises(Diverged, match="None of the 5 steps"):
        training.pretrain(run)


def test_files_can_be_read_by_others(finished: Callable[[int], Path]) -> None:
    modes = {path.name: path.stat().st_mode & 0o777 for path in finished(1).rglob("*") if path.is_file()}
    assert set(modes.values()) == {modes["log.txt"]}


def test_an_edited_run_is_not_resumed(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    training.pretrain(tiny_run(photos, out, epochs=1))
    file = Folder(out).run
    file.write_text(file.read_text().replace("temperature: 0.5", "temperature: 0.4"))
    run = dataclasses.replace(read_run(file), epochs=2, resume=True, backbone=TinyNet())
    with pytest.raises(ValueError, match=r"temperature: 0\.5 in the run, 0\.4 now"):
        training.pretrain(run)


def test_the_features_are_looked_at(finished: Callable[[int], Path], photos: Path, tmp_path: Path) -> None:
    rows = Folder(finished(1)).rows()
    # after the last epoch only: images to look at are dear for so small a training
    assert ["spread" in row for row in rows] == [False, False, True]
    assert 0 < rows[-1]["spread"] <= 1
    assert 1 <= rows[-1]["effective_rank"] <= 12
    assert 0 <= rows[-1]["alignment"] <= 4
    run, _ = training.resolve(tiny_run(photos, tmp_path / "run"), 40)
    encoder = training.build(run).encoder.train()
    health = Health(open_source(photos), run, encoder)
    assert health.views.shape == (80, 3, 16, 16)
    # forward passes of views, in and beside steps: a look takes two, of which one is for BatchNorm's statistics
    assert 0.009 < 2 * len(health.views) / (3 * 16 * health.every) <= 0.01
    again = Health(open_source(photos), run, encoder)
    assert torch.equal(health.views, again.views)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    healthy = health(encoder).figures
    assert encoder.training
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    with torch.no_grad():
        convolution = encoder.net.layers[3]  # type: ignore[index]
        convolution.weight.zero_()
        convolution.bias.fill_(1)
    collapsed = health(encoder).figures
    assert collapsed["spread"] < 1e-3 < 0.01 < healthy["spread"]
    assert collapsed["effective_rank"] == pytest.approx(1, abs=0.01)


def test_the_looks_do_not_depend_on_where_a_run_was_resumed() -> None:
    monitor = SimpleNamespace(_per_epoch=7, _steps=500, _early={25, 50, 75})
    rows = [s for s in range(1, 501) if s % 10 == 0 or s % 7 == 0 or s in (25, 75, 500)]
    looks = [s for s in rows if Monitor._looks(monitor, s, 33)]  # type: ignore[arg-type]
    assert len(looks) == 500 // 33 + 4
    assert looks[:4] == [25, 35, 50, 70]
    assert all(min(r for r in rows if r >= 33 * n) in looks for n in range(1, 500 // 33 + 1))


def test_the_online_knn_sees_the_last_epoch() -> None:
    for epochs in (1, 3, 20, 21, 50, 100, 200):
        monitor = SimpleNamespace(run=SimpleNamespace(epochs=epochs))
        seen = [e for e in range(1, epochs + 1) if Monitor._probes(monitor, e)]  # type: ignore[arg-type]
        assert len(seen) == min(epochs, 20)
        assert seen[-1] == epochs


def test_slurm_does_not_requeue_behind_our_back(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NTASKS", "PROCID", "LOCALID", "NODEID", "NNODES", "NTASKS_PER_NODE", "JOB_ID"):
        monkeypatch.setenv(f"SLURM_{name}", "1" if "N" in name[:1] and name != "NODEID" else "0")
    before = signal.getsignal(signal.SIGUSR1)
    seen = []
    watch = type("Watch", (Callback,), {"on_train_start": lambda *_: seen.append(signal.getsignal(signal.SIGUSR1))})()
    training.pretrain(tiny_run(photos, tmp_path / "run", epochs=1), callbacks=[watch])
    assert seen == [before]


def test_a_launch_of_another_size_is_named(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ValueError, match=r"process 0 of 2 that were launched.*--devices 1"):
        training.pretrain(tiny_run(photos, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


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
    with pytest.raises(RuntimeError, match=r"step 15 could not.*MiB are free: .*No space left.*last\.ckpt is whole"):
        training.pretrain(tiny_run(photos, out))
    assert state(out)["global_step"] == 10
    assert "No space left" in Folder(out).log.read_text()
    assert not list(out.rglob(".*tmp*"))


class Recorder(Method):
    """Counts real steps; its loss can be made NaN at given steps."""

    @dataclasses.dataclass(frozen=True)
    class Config(core.Config):
        poison: tuple[int, ...] = ()
        views: tuple[View, ...] = (View(size=16, count=2),)
        optim: Optim = Optim("sgd", lr=0.1)

    cfg: Config

    def __init__(self, cfg: Config, backbone: Backbone) -> None:
        super().__init__(cfg, backbone)
        self.register_buffer("ema_steps", torch.zeros((), dtype=torch.long))
        self.calls: list[tuple[str, int]] = []
        self.seen: list[tuple[int, int]] = []

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        self.seen.append((batch.progress.step, len(batch.index)))
        loss = self.backbone(torch.cat(batch.views)).square().mean()
        return {"loss": loss * float("nan") if batch.progress.step in self.cfg.poison else loss}

    def before_step(self, at: Progress) -> None:
        self.calls.append(("before", at.step))
        assert all(p.grad is not None for p in self.parameters())

    def after_step(self, at: Progress, outputs: Sequence[Outputs]) -> None:
        self.calls.append(("after", at.step))
        self.ema_steps += 1


def record(run: Run, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    kept: list[Recorder] = []
    build = training.build

    def keep(run: Run) -> Method:
        kept.append(build(run))  # type: ignore[arg-type]
        return kept[-1]

    monkeypatch.setattr(stages, "build", keep)
    training.pretrain(run)
    return kept[-1]


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
    with pytest.raises(Diverged, match="checkpoints are of steps before them"):
        training.pretrain(run)
    assert state(tmp_path / "run")["global_step"] == 5


def test_fitting_leaves_stated_fields_alone(photos: Path, tmp_path: Path) -> None:
    run = tiny_run(photos, tmp_path / "run", method=SimCLR.Config(), image_size=32, epochs=20)
    fitted, changes = training.resolve(run, 40)
    assert fitted.method.views[0].blur == 0
    assert fitted.method.optim.warmup_epochs == 2
    assert "views.0.blur 0.5 -> 0.0" in changes
    kept, _ = training.resolve(dataclasses.replace(run, origins=by_user(["views.0.blur", "optim.warmup_epochs"])), 40)
    assert kept.method.views[0].blur == 0.5
    assert kept.method.optim.warmup_epochs == 10
    assert kept.method.views[0].hue == fitted.method.views[0].hue
    assert training.resolve(fitted, 40) == (fitted, [])
    paper, _ = training.resolve(dataclasses.replace(run, fit=False), 40)
    assert paper.method.views[0].blur == 0.5


def test_init_starts_from_weights(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    training.pretrain(tiny_run(photos, tmp_path / "first", epochs=1))
    still = Optim("sgd", lr=0.0)
    training.pretrain(
        tiny_run(photos, tmp_path / "second", epochs=1, init=str(tmp_path / "first"),
                 method=dataclasses.replace(tiny_config(), optim=still))
    )  # fmt: skip
    assert "tensors" in capsys.readouterr().out
    a, b = (load_file(tmp_path / name / "encoder.safetensors") for name in ("first", "second"))
    for name in a:
        if "running" not in name and "num_batches" not in name:
            assert torch.equal(a[name], b[name])


def kept_at_step(out: Path, step: int) -> dict[str, Tensor]:
    content = torch.load(Folder(out).checkpoints / f"epoch={step}.ckpt", weights_only=True)["state_dict"]
    return {name: value for name, value in content.items() if "running" not in name and "num_batches" not in name}


def test_the_encoder_stays_as_init_gave_it_while_the_head_learns(photos: Path, tmp_path: Path) -> None:
    training.pretrain(tiny_run(photos, tmp_path / "first", epochs=1))
    first = load_file(Folder(tmp_path / "first").weights)
    second = tiny_run(photos, tmp_path / "second", init=str(tmp_path / "first"), frozen_epochs=2.0)
    training.pretrain(second)
    for epoch in (1, 2, 3):
        now = kept_at_step(tmp_path / "second", epoch)
        if epoch < 3:
            whole = torch.load(Folder(tmp_path / "second").checkpoints / f"epoch={epoch}.ckpt", weights_only=True)
            backbone = {k.removeprefix("method.backbone.net."): v for k, v in whole["state_dict"].items()}
            assert all(torch.equal(v, backbone[k]) for k, v in first.items())  # BatchNorm's statistics, too
        same = [
            torch.equal(v, first[k.removeprefix("method.backbone.net.")]) for k, v in now.items() if "backbone" in k
        ]
        assert len(same) >= 4
        assert all(same) if epoch < 3 else not any(same)
    a, b = (kept_at_step(tmp_path / "second", epoch) for epoch in (1, 2))
    assert not torch.equal(a["method.projector.0.weight"], b["method.projector.0.weight"])
    assert "the encoder stays as it is for 2 epochs" in Folder(tmp_path / "second").log.read_text()
    # stopped in the frozen time, and resumed
    out = tmp_path / "stopped"
    part = tiny_run(photos, out, init=str(tmp_path / "first"), frozen_epochs=2.0)

    class Stop(Callback):
        def on_train_batch_end(self, trainer: Trainer, *args: object) -> None:
            trainer.should_stop = trainer.global_step == 7

    training.pretrain(part, callbacks=[Stop()])
    # the frozen time is that of the run as it was begun
    training.pretrain(tiny_run(photos, out, init=str(tmp_path / "first"), resume=True))
    assert_same_run(out, tmp_path / "second")


def test_a_tenth_of_the_epochs_is_frozen_with_init_alone(photos: Path, tmp_path: Path) -> None:
    for init, stated, settled in ((None, None, None), ("x", None, 2.0), ("x", 0.0, 0.0), ("x", 0.5, 0.5)):
        run = tiny_run(photos, tmp_path / "run", epochs=20, init=init, frozen_epochs=stated)
        assert training.resolve(run, 40)[0].frozen_epochs == (settled or 0.0)
    with pytest.raises(ValueError, match=r"frozen_epochs is 1\.0 without init"):
        tiny_run(photos, tmp_path / "run", frozen_epochs=1.0)
    with pytest.raises(ValueError, match="frozen_epochs is 3 of 3 epochs: the encoder would never learn"):
        tiny_run(photos, tmp_path / "run", init="x", frozen_epochs=3.0)
    with pytest.raises(ValueError, match="frozen_epochs is -1"):
        tiny_run(photos, tmp_path / "run", init="x", frozen_epochs=-1)


def test_forgetting_is_said(labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """k-NN before and after: a wild learning rate spoils what the weights knew."""
    told = iter([torch.arange(16) < 14, torch.arange(16) < 6])
    monkeypatch.setattr(Probe, "__call__", lambda self, encoder: next(told))
    training.pretrain(tiny_run(labelled, tmp_path / "first", epochs=1))
    probe = (str(labelled / "train"), str(labelled / "test"))
    training.pretrain(
        tiny_run(labelled, tmp_path / "second", epochs=1, init=str(tmp_path / "first"), probe=probe, save_every=9)
    )
    said = Folder(tmp_path / "second").log.read_text()
    assert "k-NN before training: 87.5%" in said
    assert "k-NN top-1: 87.5% before training, 37.5% now" in said
    assert "Verdict: getting worse: the k-NN went from 87.5% before training to 37.5%" in said
    assert "the encoder forgets what --init knew. Try --optim.lr" in said


@pytest.mark.parametrize("method", ["simclr", "dinov2"])
def test_activations_computed_twice_change_nothing(method: str, photos: Path, tmp_path: Path) -> None:
    views = (View(size=32, scale=(0.4, 1.0)), View(size=32, scale=(0.4, 1.0)))
    sizes: dict[str, Any] = {"hidden_dim": 16, "views": views}
    if method == "dinov2":
        sizes |= {"bottleneck_dim": 8, "prototypes": 16, "drop_path": 0.5}
    cfg = get_method(method).Config(**sizes)
    for name, asked in (("a", False), ("b", True)):
        run = tiny_run(
            photos, tmp_path / name, method=cfg, backbone="test_vit", epochs=1, fit=False, checkpoint_activations=asked
        )
        training.pretrain(run)
    for a, b in zip(losses(tmp_path / "a"), losses(tmp_path / "b"), strict=True):
        assert a == b
    assert_equal(state(tmp_path / "a")["state_dict"], state(tmp_path / "b")["state_dict"])


def test_activations_are_computed_again_in_the_student_alone(photos: Path, tmp_path: Path) -> None:
    cfg = get_method("dino").Config(prototypes=16)
    run = tiny_run(photos, tmp_path, method=cfg, backbone="test_vit", image_size=32, checkpoint_activations=True)
    method = training.build(training.resolve(run, 40)[0])
    assert method.backbone.net.grad_checkpointing
    assert not method.teacher[0].net.grad_checkpointing


def test_init_from_a_checkpoint_takes_its_normalisation(photos: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    training.pretrain(tiny_run(photos, first, epochs=1, normalise="data"))
    training.pretrain(tiny_run(photos, second, epochs=1, init=str(Folder(first).last)))
    a, b = (json.loads((out / "encoder.json").read_text()) for out in (first, second))
    assert a["mean"] == b["mean"] != [0.485, 0.456, 0.406]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "missing"}, "missing"),
        ({"batch_size": 41}, "41"),
        ({"backbone": "resnet19"}, "resnet18"),
        ({"backbone": "torchvision/alexnet", "image_size": 16}, "nearest size that works"),
        ({"accumulate": 3}, "3"),
        ({"accumulate": 8}, "1 image at a time"),
        ({"nodes": 2}, "must be started on every node"),
        ({"data": ""}, "DATA is empty"),
        ({"init": ""}, "init is empty"),
        ({"method": SimCLR.Config(optim=Optim("larz", lr=1.0))}, "Near names: lars"),
        ({"precision": "fp16"}, "needs a GPU"),
        ({"logger": "wandb"}, "pip install 'lookalike[wandb]'"),
        ({"init": "nowhere.pt"}, "No weights at nowhere.pt"),
        ({"checkpoint_activations": True}, "has BatchNorm, which computing twice"),
        ({"checkpoint_activations": True, "backbone": "torchvision/alexnet", "image_size": 64}, "cannot compute its"),
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


def test_the_datas_own_mean_and_deviation(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    training.pretrain(tiny_run(photos, out, epochs=1, normalise="data"))
    pixels = [np.asarray(Image.open(p), np.float64).reshape(-1, 3) / 255 for p in photos.rglob("*.jpg")]
    card = json.loads((out / "encoder.json").read_text())
    assert card["mean"] == pytest.approx(np.concatenate(pixels).mean(0).tolist(), abs=1e-4)
    assert card["std"] == pytest.approx(np.concatenate(pixels).std(0).tolist(), abs=1e-4)
    training.pretrain(tiny_run(photos, out, epochs=2, normalise="data", resume=True))
    assert json.loads((out / "encoder.json").read_text())["mean"] == card["mean"]
    with pytest.raises(ValueError, match="normalise: data in the run, imagenet now"):
        training.pretrain(tiny_run(photos, out, epochs=3, resume=True, origins=by_user(["normalise"])))
    training.pretrain(tiny_run(photos, out, epochs=3, resume=True))  # what was not stated is as it was
    assert json.loads((out / "encoder.json").read_text())["mean"] == card["mean"]


def test_one_image_is_not_enough(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one/a.jpg").write_bytes((photos / "image 0.jpg").read_bytes())
    with pytest.raises(ValueError, match="holds 1 image"):
        training.pretrain(tiny_run(tmp_path / "one", tmp_path / "run"))


def test_the_global_generator_is_left_alone(photos: Path, tmp_path: Path) -> None:
    run = tiny_run(photos, tmp_path / "run", epochs=1)
    resolved, _ = training.resolve(run, 40)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    training.build(resolved)
    assert torch.equal(torch.rand(3), expected)


def test_a_callback_of_the_users_own_may_stop_the_training(photos: Path, tmp_path: Path) -> None:
    class Stop(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: object, *_: object) -> None:
            trainer.should_stop = trainer.global_step == 3

    result = training.pretrain(tiny_run(photos, tmp_path / "run"), callbacks=[Stop()])
    assert state(result.folder)["global_step"] == 3
    assert Folder(result.folder).weights.is_file()


def large_run(photos: Path, out: Path, **changes: Any) -> Run:
    """DINOv2 on test_vit at 32 pixels, the last epoch and a half at 48."""
    cfg = get_method("dinov2").Config(
        hidden_dim=16,
        bottleneck_dim=8,
        prototypes=16,
        large_epochs=1.5,
        large_size=48,
        views=dino_views(0.32, local=1)[:2],
    )
    options: dict[str, Any] = {"method": cfg, "backbone": "test_vit", "image_size": 32, "epochs": 3} | changes
    return tiny_run(photos, out, **options)


def test_the_last_epochs_may_have_larger_views(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DINOv2's stage of high resolution: global views grow, positions are interpolated, and it resumes inside."""
    out, seen = tmp_path / "whole", []
    make = module.make_views

    def watched(images: Any, views: tuple[View, ...], *args: Any, **options: Any) -> list[Tensor]:
        made = make(images, views, *args, **options)
        seen.append([v.shape[-1] for v in made])
        return made

    with monkeypatch.context() as patch:
        patch.setattr(module, "make_views", watched)
        training.pretrain(large_run(photos, out))
    assert seen[-15:-8] == [[32, 32]] * 7  # half of the second epoch has 7.5 steps before it
    assert seen[-7:] == [[48, 48]] * 7
    assert read_run(Folder(out).run).decode_size == 96
    assert "1 x 32 px, 1 x 32 px (at the end 1 x 48 px, 1 x 48 px)" in Folder(out).log.read_text()
    assert json.loads(Folder(out).card.read_text())["image_size"] == 32

    class Stop(Callback):
        def on_train_batch_end(self, trainer: Trainer, *args: object) -> None:
            trainer.should_stop = trainer.global_step == 12

    training.pretrain(large_run(photos, tmp_path / "stopped"), callbacks=[Stop()])
    training.pretrain(large_run(photos, tmp_path / "stopped", resume=True))
    assert_same_run(tmp_path / "stopped", out)


def test_larger_views_must_fit_the_patches(photos: Path, tmp_path: Path) -> None:
    cfg = get_method("dinov2").Config(prototypes=16, large_epochs=1.0)
    assert training.resolve(large_run(photos, tmp_path, method=cfg), 40)[0].method.large_size == 512
    cfg = dataclasses.replace(cfg, large_size=24)
    with pytest.raises(ValueError, match="--large-size 24 is no larger than the global views of 32 pixels"):
        training.resolve(large_run(photos, tmp_path, method=cfg), 40)
    cfg = dataclasses.replace(cfg, large_size=50)
    with pytest.raises(ValueError, match="cuts images into patches of 16 pixels and cannot take 50 x 50"):
        training.pretrain(tiny_run(photos, tmp_path / "run", method=cfg, backbone="test_vit", image_size=32))
    with pytest.raises(ValueError, match="large_epochs is -1"):
        get_method("dinov2").Config(large_epochs=-1.0)


def test_larger_views_keep_their_blur_in_proportion() -> None:
    first, second, local = larger(dino_views(0.32, local=8), 448)
    assert (first.size, first.kernel, first.sigma) == (448, 45, (0.2, 4.0))
    assert (second.size, local) == (448, dino_views(0.32, local=8)[2])


def test_a_run_that_goes_on_keeps_what_fitting_chose_and_refuses_what_was_changed(tmp_path: Path) -> None:
    def asked(method: SimCLR.Config, epochs: int) -> Run:
        return Run(data="", method=method, backbone="test_resnet", image_size=32, epochs=epochs, out=str(tmp_path))

    first, _ = training.resolve(asked(SimCLR.Config(), 20), 1000)
    begun = flat(first)
    assert first.method.optim.warmup_epochs == 2  # a tenth of the epochs
    longer, _ = training.resolve(asked(SimCLR.Config(), 50), 1000, begun)
    assert longer.method == first.method
    again, _ = training.resolve(asked(SimCLR.Config(), 50), 1000, flat(longer))  # fitted to 20, and has 50 by now
    assert again.method == first.method
    own, _ = training.resolve(asked(SimCLR.Config(out_dim=64), 20), 1000)
    stated = dataclasses.replace(asked(SimCLR.Config(), 20), origins=by_user(["out_dim"]))
    other, _ = training.resolve(stated, 1000, flat(own))
    assert differences(flat(own), flat(other)) == ["out_dim: 64 in the run, 128 now"]
    other, _ = training.resolve(asked(SimCLR.Config(), 20), 1000, flat(own))
    assert other.method == own.method  # what was not stated is as it was
    adam = SimCLR.Config(optim=Optim("adamw", lr=1e-4))
    own, _ = training.resolve(asked(adam, 20), 1000)
    other, _ = training.resolve(asked(SimCLR.Config(), 20), 1000, flat(own))
    assert other.method == own.method  # fitting chooses optimizers: the run goes on with the one that it has
    stated = dataclasses.replace(asked(SimCLR.Config(optim=Optim("sgd", lr=1e-4)), 20), origins=by_user(["optim.name"]))
    other, _ = training.resolve(stated, 1000, flat(own))
    assert any(line.startswith("optim.name: adamw in the run") for line in differences(flat(own), flat(other)))


# ---------------------------------------------------------------- what others add to Lightning's trainer


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
    assert lines == ["left out    what others add to Lightning's trainer: nosy-package (nosy:factory)"]
    assert lines[0] in capsys.readouterr().out
    seen: list[str] = []

    class Own(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
            seen.extend(type(c).__module__.split(".")[0] for c in trainer.callbacks)  # type: ignore[attr-defined]

    training.pretrain(tiny_run(photos, tmp_path / "own", epochs=1), [Own()])
    assert set(seen) == {"lookalike", "test_training"}
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

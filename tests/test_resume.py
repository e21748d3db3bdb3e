"""A run resumes bit for bit from any moment, after Ctrl-C, SIGTERM and SIGKILL, and refuses what is not the same."""

import dataclasses
import json
import os
import shutil
import signal
import warnings
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from support.runs import (
    TinyNet,
    assert_equal,
    assert_same_run,
    forkserver,
    interrupt_after,
    state,
    tiny_config,
    tiny_run,
)

import lookalike
from lookalike import encoders, training
from lookalike.core import Method, Outputs, Progress
from lookalike.data import open_source
from lookalike.files import file_sha256
from lookalike.methods.simclr import SimCLR
from lookalike.runs import Folder, read_run

pytestmark = pytest.mark.long(7)


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


@pytest.mark.parametrize("before", [True, False])
def test_a_time_limit_during_a_checkpoint_loses_nothing(
    finished: Callable[[int], Path], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    """SIGTERM before the first bytes of the second checkpoint, and between its encoder and its state."""
    out, saved, save = tmp_path / "run", [], encoders.save

    def send_and_save(*args: Any, **options: Any) -> None:
        saved.append(1)
        if len(saved) == 2 and before:
            os.kill(os.getpid(), signal.SIGTERM)
        save(*args, **options)
        if len(saved) == 2 and not before:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(encoders, "save", send_and_save)
        with pytest.raises(SystemExit) as stopped:
            training.pretrain(tiny_run(photos, out))
    assert stopped.value.code == 143
    assert state(out)["global_step"] == 11  # the checkpoint of step 10 is complete, and then the next step ends
    training.pretrain(tiny_run(photos, out, resume=True))
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
    assert "encoder.json did not match" in folder.log.read_text()
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
    assert "encoder.json did not match" in capsys.readouterr().out
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
    assert "changed from 1 to 3" in capsys.readouterr().out
    assert [r["step"] for r in result.metrics] == [5, 10, 15]
    assert read_run(out / "run.yaml", SimCLR).epochs == 3


def test_resume_refuses_another_configuration_and_other_images(photos: Path, tmp_path: Path) -> None:
    out, data = tmp_path / "run", shutil.copytree(photos, tmp_path / "photos")
    training.pretrain(tiny_run(data, out, epochs=1))
    with pytest.raises(ValueError, match=r"temperature: 0.5 in the run, 0.3 now"):
        training.pretrain(tiny_run(data, out, epochs=2, resume=True, method=tiny_config(temperature=0.3)))
    shutil.copy(data / "image 0.jpg", data / "new.jpg")
    with pytest.raises(ValueError, match="other images than when"):
        training.pretrain(tiny_run(data, out, epochs=2, resume=True))
    with pytest.raises(FileNotFoundError, match="holds no run to resume"):
        training.pretrain(tiny_run(photos, tmp_path / "nowhere", resume=True))


def test_a_run_inside_its_data_can_be_resumed(photos: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(photos, data)
    training.pretrain(tiny_run(data, data / "run", epochs=1))
    assert len(open_source(data)) == 40
    training.pretrain(tiny_run(data, data / "run", epochs=2, resume=True))


def test_an_edited_run_is_not_resumed(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    training.pretrain(tiny_run(photos, out, epochs=1))
    file = Folder(out).run
    file.write_text(file.read_text().replace("temperature: 0.5", "temperature: 0.4"))
    run = dataclasses.replace(read_run(file), epochs=2, resume=True, backbone=TinyNet())
    with pytest.raises(ValueError, match=r"temperature: 0\.5 in the run, 0\.4 now"):
        training.pretrain(run)

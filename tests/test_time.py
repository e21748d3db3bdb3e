"""`--time`: how times are read, the epochs that fit into them, and trainings that stop and schedule by them."""

import dataclasses
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import support.tiny as tiny
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from support.gloo import as_torchrun
from support.two_processes import train_all
from torch import nn

from lookalike import backbones, cli, training
from lookalike.cli.run_parsing import parse_run
from lookalike.commands import finetune
from lookalike.commands.compare.spec import Comparison
from lookalike.core import Progress
from lookalike.durations import epochs_that_fit, seconds_of, spoken
from lookalike.events import to_console
from lookalike.methods import FineTune, SimCLR
from lookalike.runs import Folder, Row, Run, read_run, read_yaml
from lookalike.training import stages, timed, timing

SMALL = ("--backbone", tiny.CNN, "--image-size", "32", "--workers", "0", "--batch-size", "8")
SPEED = 4.0, 2.0
"""Seconds of the untimed first steps together, and of a later one, by the clock of `steady`."""


# ---------------------------------------------------------------- times and epochs


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("10min", 600), ("2h", 7200), ("1.5h", 5400), ("0.5s", 0.5), ("1h30min", 5400), ("2min30s", 150)],
)
def test_times_are_read(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize(
    "text", ["10", "10 min", "10m", "min", "-1s", "0s", "0.0h", "30min1h", "1h1h", "1e3s", "", "10MIN", "400000h",
             f"{'9' * 400}h"],
)  # fmt: skip
def test_times_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"time is .*expected a time above 0.*Give 90s, 10min, 2h or 1h30min"):
        seconds_of(text)


def test_whole_epochs_that_fit() -> None:
    assert epochs_that_fit(600, 0, 60) == 10
    assert epochs_that_fit(600, 0, 61) == 9
    assert epochs_that_fit(600, 60, 60) == 9  # a survey of the images counts
    assert epochs_that_fit(0.3, 0, 0.1) == 3  # not 2, by rounding
    assert epochs_that_fit(600, 0, 601) == 1  # at least one, for a whole schedule
    assert epochs_that_fit(600, 700, 60) == 1


@pytest.mark.parametrize("probe", [0.0, 0.5, 3.0, 40.0])
def test_a_probe_takes_its_part_of_the_time(probe: float) -> None:
    """As many epochs as fit, and not one more: with a look after each, or after 20 of many."""
    for seconds in (10.0, 100.0, 1000.0):
        found = epochs_that_fit(seconds, 3.0, 2.0, probe, 20)
        took = [3 + 2 * epochs + min(epochs, 20) * probe for epochs in (found, found + 1)]
        assert took[0] <= seconds or found == 1
        assert took[1] > seconds


def test_the_speed_knows_what_a_probe_takes() -> None:
    speed = timing.Speed(100.0)
    speed.start, speed.step, speed.steps_per_epoch, speed.probe = 5.0, 0.5, 4, 1.0
    assert speed.epochs_in(100.0) == 37  # 5 + 37 x 2 + 20
    assert speed.seconds(37) == 99.0
    assert speed.seconds(10) == 35.0


# ---------------------------------------------------------------- what is asked


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["pretrain", "simclr", "PHOTOS", "--time", "soon"], 2, "time is 'soon'; expected a time above 0"),
        (["pretrain", "simclr", "PHOTOS", "--time=30"], 2, "time is '30'"),
        (["pretrain", "simclr", "PHOTOS", "--time", "30min", "--epochs", "5"], 2, "--time and --epochs exclude"),
        (["distill", "PHOTOS", "--teacher", "timm/x", "--time", "0s"], 2, "time is '0s'"),
        (["finetune", "timm/x", "PHOTOS", "PHOTOS", "--time", "-1s"], 2, ""),
        (["pretrain", "--resume", "--out", "RUN", "--time", "2h"], 1,
         "RUN was started with --time 30min, and a resumed run keeps its number of steps. Leave --time out, or ask for "
         "more with --epochs"),
        (["compare", "PHOTOS", "simclr", "--train", "x", "--test", "x", "--time", "1h"], 2,
         "Unrecognized options: --time"),
    ],
)  # fmt: skip
def test_wrong_times_are_told_before_torch_is_imported(
    argv: list[str], code: int, message: str, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "run.yaml").write_text(f"method: simclr\ndata: {photos}\nepochs: 3\ntime: 30min\n")
    places = {"PHOTOS": str(photos), "RUN": str(tmp_path)}
    argv = [places.get(word, word) for word in argv]
    script = f"import sys; from lookalike import cli; code = cli.main({argv!r}); assert 'torch' not in sys.modules; "
    ended = subprocess.run([sys.executable, "-c", script + "sys.exit(code)"], capture_output=True, text=True)
    assert ended.returncode == code, ended.stderr
    assert message.replace("RUN", str(tmp_path)) in ended.stderr


def parsed(tmp_path: Path, photos: Path, content: str, *options: str) -> Run:
    file = tmp_path / "asked.yaml"
    file.write_text(f"method: simclr\ndata: {photos}\n{content}")
    return parse_run("pretrain", ["--from", str(file), "--out", str(tmp_path / "new"), *options])


def test_what_is_typed_takes_the_place_of_what_a_file_says(tmp_path: Path, photos: Path) -> None:
    whole = "epochs: 3\ntime: 30min\n"
    assert parsed(tmp_path, photos, "time: 30min\n").to_be_timed
    as_it_was = parsed(tmp_path, photos, whole)
    assert (as_it_was.epochs, as_it_was.to_be_timed) == (3, False)  # what a run did is done again
    for content in (whole, "epochs: 3\n"):
        anew = parsed(tmp_path, photos, content, "--time", "1h")
        assert (anew.time, anew.epochs, anew.to_be_timed) == ("1h", Run.epochs, True)
    counted = parsed(tmp_path, photos, whole, "--epochs", "7")
    assert (counted.time, counted.epochs) == (None, 7)


def test_a_time_and_epochs_exclude_each_other_in_python(photos: Path, tmp_path: Path) -> None:
    run = Run(data=str(photos), method=SimCLR.Config(), backbone=tiny.CNN, time="1h", epochs=3, out=str(tmp_path / "a"))
    with pytest.raises(ValueError, match="time is 1h and epochs 3: they exclude each other"):
        training.pretrain(run)
    assert not (tmp_path / "a").exists()


def test_frozen_epochs_are_compared_with_what_the_time_comes_to(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steady(monkeypatch)
    run = asked(photos, tmp_path / "run", time="50s", init="x", frozen_epochs=200.0)
    with pytest.raises(ValueError, match="frozen_epochs is 200 of 4 epochs"):
        timed.planned(run, to_console, stages.measure)
    longer = timed.planned(dataclasses.replace(run, time="1h"), to_console, stages.measure)
    assert longer.run.epochs == 359
    assert longer.seconds == pytest.approx(4 + 359 * 10)


def test_an_encoder_that_rests_at_first_cannot_be_timed(tmp_path: Path) -> None:
    run = Run(data="x", method=FineTune.Config(unfreeze_after=1), init="x", time="1h", out=str(tmp_path / "run"))
    with pytest.raises(ValueError, match="Give --epochs instead of --time"):
        finetune.prepared(run, "x")


def test_a_comparison_takes_no_time() -> None:
    with pytest.raises(ValueError, match="Give --budget"):
        Comparison(data="x", methods=("simclr",), train=("x",), test=("x",), time="1h")


# ---------------------------------------------------------------- trainings


def asked(photos: Path, out: Path, **more: Any) -> Run:
    return Run(
        data=str(photos), method=SimCLR.Config(), out=str(out), image_size=32, workers=0, batch_size=8,
        **({"backbone": tiny.CNN} | more),
    )  # fmt: skip


def steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts a speed that is always the same in the place of one that is measured: 2 s a step, 5 steps an epoch."""

    def measure(run: Run, speed: timing.Speed) -> None:
        Path(run.out).rmdir()
        speed.start, speed.step = SPEED
        speed.steps_per_epoch, speed.batch_size = 5, 8

    monkeypatch.setattr(stages, "measure", measure)


def lasting(rows: list[Row]) -> list[dict[str, object]]:
    """All of the rows that does not depend on the clock."""
    return [{k: v for k, v in row.items() if k not in ("images_per_s", "data_wait")} for row in rows]


def test_a_training_stops_and_schedules_by_time(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A real one, by a real clock; it is, bit for bit, the training of as many epochs."""
    out, plain = tmp_path / "timed", tmp_path / "counted"
    began = time.perf_counter()
    assert cli.main(["pretrain", "simclr", str(photos), "--time", "1s", "--out", str(out), *SMALL]) == 0
    seconds = time.perf_counter() - began
    said = capsys.readouterr().out
    content = read_yaml(out / "run.yaml")
    epochs, rows = cast(int, content["epochs"]), Folder(out).rows()
    assert content["time"] == "1s"
    assert said.startswith("Measuring the speed of simclr, for 1s of training ...\n")
    assert f"= {epochs} epoch" in said
    assert " in about 1s (measured before the first step)" in Folder(out).log.read_text()
    assert " of 1s\n" in said  # what is left
    assert rows[-1]["step"] == 5 * epochs
    assert 5 * epochs / seconds < 1000  # steps of this network take milliseconds, not less
    # the learning rate has come down as far as in a training of so many steps, not as in one of 100 epochs
    last = Progress(5 * epochs - 1, 5 * epochs, 5)
    optim = read_run(out / "run.yaml").method.optim
    assert rows[-1]["lr"] == optim.schedule(optim.lr * optim.factor(8))(last)
    if epochs > 1:  # on a machine that is busy the time may be enough for one
        assert rows[-1]["lr"] < max(row["lr"] for row in rows)
    assert cli.main(["pretrain", "simclr", str(photos), "--epochs", str(epochs), "--out", str(plain), *SMALL]) == 0
    assert lasting(rows) == lasting(Folder(plain).rows())
    assert Folder(out).weights.read_bytes() == Folder(plain).weights.read_bytes()


class Ends(Callback):
    """Ends a training with an error, as a machine does that fails."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *parts: object) -> None:
        if trainer.global_step == self.step:
            raise RuntimeError("the machine is gone")


def test_a_killed_training_goes_on_with_the_same_number_of_steps(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By --resume alone, and by the same command with --resume; another time is refused, more epochs are not."""
    steady(monkeypatch)
    out, whole = tmp_path / "run", tmp_path / "whole"
    training.pretrain(asked(photos, whole, epochs=4))
    with pytest.raises(RuntimeError, match="the machine is gone"):
        training.pretrain(asked(photos, out, time="50s", save_every=1), [Ends(12)])
    assert read_yaml(out / "run.yaml")["epochs"] == 4  # 4 + 4 x 5 x 2 s
    monkeypatch.setattr(stages, "measure", None)  # it is not measured once more
    with pytest.raises(ValueError, match="was started with --time 50s"):
        training.pretrain(asked(photos, out, time="2h", save_every=1, resume=True))
    with pytest.raises(RuntimeError, match="the machine is gone"):
        training.pretrain(asked(photos, out, time="50s", save_every=1, resume=True), [Ends(17)])
    capsys.readouterr()
    assert cli.main(["pretrain", "--resume", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    line = "time        4 epochs: the number that fitted into 50s at the run's start"
    assert f"steps       20 = 4 epochs x 5 of 8 images\n{line}\n" in said
    assert lasting(Folder(out).rows()) == lasting(Folder(whole).rows())
    assert Folder(out).weights.read_bytes() == Folder(whole).weights.read_bytes()
    assert cli.main(["pretrain", "--resume", "--out", str(out), "--epochs", "5"]) == 0
    assert "time  " not in capsys.readouterr().out
    content = read_yaml(out / "run.yaml")
    assert (content["epochs"], content["time"]) == (5, None)


def test_a_run_without_a_time_gets_none_by_a_resume(photos: Path, tmp_path: Path) -> None:
    training.pretrain(asked(photos, tmp_path / "run", epochs=1))
    with pytest.raises(ValueError, match="was started without --time"):
        training.pretrain(asked(photos, tmp_path / "run", time="50s", resume=True))


def test_a_file_of_a_run_gives_the_same_run_and_says_how_to_measure_anew(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    steady(monkeypatch)
    training.pretrain(asked(photos, tmp_path / "a", time="15s"))
    argv = ["pretrain", "--from", str(tmp_path / "a/run.yaml"), "--out", str(tmp_path / "b")]
    capsys.readouterr()
    assert cli.main(argv) == 0
    assert (
        "1 epoch: the number that fitted into 15s at the run's start. --time 15s measures the current speed"
        in capsys.readouterr().out
    )
    assert Folder(tmp_path / "a").weights.read_bytes() == Folder(tmp_path / "b").weights.read_bytes()
    assert cli.main([*argv, "--time", "30s", "--overwrite"]) == 0
    assert read_yaml(tmp_path / "b/run.yaml")["epochs"] == 2


def test_a_time_that_is_shorter_than_an_epoch_gives_one_and_says_so(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    steady(monkeypatch)
    training.pretrain(asked(photos, tmp_path / "run", time="9s"))
    said = capsys.readouterr().out
    assert "4 images/s, 10 s per epoch: 1 epoch in about 9s" in said
    assert "WARNING     one epoch takes about 14 s, longer than --time 9s. It will be completed" in said


@pytest.mark.parametrize(("factor", "label"), [(3.0, "WARNING  "), (0.4, "time     "), (1.1, "")])
def test_a_speed_that_was_wrong_is_said_and_changes_no_schedule(
    factor: float, label: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """24 s are planned for 2 epochs of 5 steps of 2 s, which take `factor` times as long."""
    steady(monkeypatch)
    now = [0.0]
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    class Slow(Callback):
        def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            now[0] += SPEED[0]

        def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: object) -> None:
            now[0] += factor * SPEED[1]

    training.pretrain(asked(photos, tmp_path / "run", time="24s"), [Slow()])
    log = Folder(tmp_path / "run").log.read_text()
    assert ("this training takes about" in log) == bool(label)
    if label:
        assert (
            f"\n{label}   this training takes about {spoken(4 + 20 * factor)}, not 24 s as expected. It keeps its "
            in log
        )
    assert Folder(tmp_path / "run").rows()[-1]["step"] == 10


def test_to_be_measured_changes_nothing_of_the_users(photos: Path, labelled: Path, tmp_path: Path) -> None:
    """A module of one's own is measured as a copy, in a folder that goes; a look by the probe is timed, too."""
    net = backbones.create("test_byobnet", image_size=32).net
    before = {name: value.clone() for name, value in net.state_dict().items()}
    out = tmp_path / "measured"
    speed = timing.Speed(0.01)
    probe = str(labelled / "train"), str(labelled / "test")
    stages.measure(asked(photos, out, backbone=cast(nn.Module, net), time="1s", probe=probe), speed)
    assert not out.exists()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert (speed.steps_per_epoch, speed.batch_size) == (5, 8)
    assert 0 < speed.step < 10
    assert 0 < speed.probe < speed.start


def test_a_stop_while_the_speed_is_measured_leaves_nothing(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(run: Run, speed: timing.Speed) -> None:
        Path(run.out).rmdir()
        raise KeyboardInterrupt

    monkeypatch.setattr(stages, "measure", stopped)
    out = tmp_path / "run"
    assert cli.main(["pretrain", "simclr", str(photos), "--time", "1h", "--out", str(out), *SMALL]) == 130
    assert "Stopped while the speed was measured, before the training." in capsys.readouterr().out
    assert not out.exists()


def test_two_processes_agree_on_the_epochs(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    size = ["--backbone", "test_byobnet", "--image-size", "32", "--batch-size", "8", "--workers", "0"]
    command = ["pretrain", "simclr", str(photos), "--devices", "2", *size, "--time", "1s", "--out", str(out)]
    as_torchrun(train_all, [command])
    epochs = cast(int, read_yaml(out / "run.yaml")["epochs"])
    rows = Folder(out).rows()
    assert rows[-1]["epoch"] == epochs
    assert f"{epochs} epoch" in Folder(out).log.read_text()
    assert not [row for row in rows if row["epoch"] > epochs]

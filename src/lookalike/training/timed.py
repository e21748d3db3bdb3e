"""Trainings with a time limit: the number of epochs that fit, measured by a short separate training."""

import copy
import dataclasses
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lightning.pytorch import Callback
from torch import nn

from ..durations import seconds_of, spoken
from ..events import Report
from ..printing import counted, pasteable
from ..runs import Diverged, Folder, Options, Result, Run, check_same_time, method_name
from .timing import MANY_EPOCHS, Measured, Speed

Train = Callable[[Run, Sequence[Callback]], Result]


@dataclass(frozen=True)
class Planned:
    """A run with a known number of epochs."""

    run: Run
    seconds: float | None
    """The planned duration; None without a time limit."""
    lines: list[str]
    """Lines about it for the start of the run."""


def measured(run: Run, speed: Speed, train: Train) -> None:
    """Times the first steps of a run, by a separate training in the folder `run.out`, which is removed afterwards.

    The run itself stays untouched: its folder, and all modules of the user.

    Raises:
        Exception: any error of the training before its speed is known.
    """
    backbone = copy.deepcopy(run.backbone) if isinstance(run.backbone, nn.Module) else run.backbone
    alone = dataclasses.replace(
        run, backbone=backbone, epochs=MANY_EPOCHS, time=None, save_every=MANY_EPOCHS, logger="none", resume=False,
        overwrite=False,
    )  # fmt: skip
    try:
        train(alone, [speed])
    except Measured:
        pass
    finally:
        shutil.rmtree(run.out, ignore_errors=True)


def time_as_begun(run: Run, asked: str | None, folder: Folder, before: Mapping[str, object]) -> Run:
    """A resumed run; its time limit is dropped if it has other epochs than at its start.

    Args:
        run: with the earlier options, except those that the user stated.
        asked: the time limit that the user stated.

    Raises:
        ValueError: it is not the time limit that the run started with.
    """
    check_same_time(folder.path, before.get("time"), asked)
    same = run.epochs == before.get("epochs", run.epochs)
    return run if same else dataclasses.replace(run, time=None)


def planned(run: Run, report: Report, measure: Callable[[Run, Speed], None]) -> Planned:
    """Computes the number of epochs of a run with a time limit from its speed."""
    if run.time is None:
        return Planned(run, None, [])
    seconds = seconds_of(run.time)
    if not run.to_be_timed:
        line = f"time        {counted(run.epochs, 'epoch')}: the number that fitted into {run.time} at the run's start"
        again = "" if run.resume else f". {pasteable('--time', run.time)} measures the current speed"
        return Planned(run, seconds, [line + again])
    if run.epochs != Options.epochs:
        raise ValueError(
            f"time is {run.time} and epochs {run.epochs}: they exclude each other. Give the time of the training, or "
            "its epochs."
        )
    speed = _speed(run, seconds, report, measure)
    epochs = speed.epochs_in(seconds)
    run = dataclasses.replace(run, epochs=epochs, origins={**run.origins, "epochs": "fitted"})
    run.check_frozen()
    lines = [f"time        {speed.words(epochs, f'about {run.time}')} (measured before the first step)"]
    if (one := speed.seconds(1)) > seconds:
        lines.append(
            f"WARNING     one epoch takes about {spoken(one)}, longer than --time {run.time}. It will be completed, so "
            "that every schedule reaches its end. Give a longer --time, or fewer images."
        )
    return Planned(run, speed.seconds(epochs), lines)


def _speed(run: Run, seconds: float, report: Report, measure: Callable[[Run, Speed], None]) -> Speed:
    report(f"Measuring the speed of {method_name(run.method)}, for {run.time} of training ...", "progress")
    speed = Speed(seconds)
    try:
        measure(dataclasses.replace(run, out=tempfile.mkdtemp(prefix="lookalike-speed-")), speed)
    except (KeyboardInterrupt, SystemExit):
        report("Stopped while the speed was measured, before the training.", "warning")
        raise
    except Diverged as error:
        raise Diverged(
            "The first steps, by which the speed is measured, had no finite gradients: the training did not start. "
            "Try a lower --optim.lr, or give --epochs instead of --time to save the batches that led to it."
        ) from error
    return speed

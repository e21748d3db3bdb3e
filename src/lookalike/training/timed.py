"""Trainings that a time is given for: the epochs that it comes to, by a short training of their own."""

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
    """A run whose epochs are known."""

    run: Run
    seconds: float | None
    """What it is to take; None where no time was given."""
    lines: list[str]
    """What is said of it."""


def measured(run: Run, speed: Speed, train: Train) -> None:
    """Times the first steps of a run, by a training of its own in the folder `run.out`, which is removed then.

    Of the run itself nothing is touched: not its folder, and no module of the user's.

    Raises:
        Exception: what its training would raise before it is measured.
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
    """A resumed run: with more epochs than it began with its time says nothing any more.

    Args:
        run: with the options of before, where the user did not state them.
        asked: the time that the user stated.

    Raises:
        ValueError: another time is asked for than the run began with.
    """
    check_same_time(folder.path, before.get("time"), asked)
    same = run.epochs == before.get("epochs", run.epochs)
    return run if same else dataclasses.replace(run, time=None)


def planned(run: Run, report: Report, measure: Callable[[Run, Speed], None]) -> Planned:
    """Settles the epochs of a run that has a time, by its speed."""
    if run.time is None:
        return Planned(run, None, [])
    seconds = seconds_of(run.time)
    if not run.to_be_timed:
        words = f"time        {counted(run.epochs, 'epoch')}: what {run.time} came to when the run began"
        again = "" if run.resume else f". {pasteable('--time', run.time)} measures the speed of now"
        return Planned(run, seconds, [words + again])
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
            f"WARNING     one epoch takes about {spoken(one)}, longer than --time {run.time}. It is made whole, so "
            "that every schedule comes to its end. Give a longer --time, or fewer images."
        )
    return Planned(run, speed.seconds(epochs), lines)


def _speed(run: Run, seconds: float, report: Report, measure: Callable[[Run, Speed], None]) -> Speed:
    report(f"Measuring the speed of {method_name(run.method)}, for {run.time} of training ...", "progress")
    speed = Speed(seconds)
    try:
        measure(dataclasses.replace(run, out=tempfile.mkdtemp(prefix="lookalike-speed-")), speed)
    except (KeyboardInterrupt, SystemExit):
        report("Stopped while the speed was measured: the training had not begun.", "warning")
        raise
    except Diverged as error:
        raise Diverged(
            "The first steps, which the speed is measured by, had no finite gradients: the training was not begun. "
            "Try a lower --optim.lr, or give --epochs in the place of --time to keep what led to it."
        ) from error
    return speed

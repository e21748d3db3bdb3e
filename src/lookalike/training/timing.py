"""The duration of a training, measured over its first steps, and compared with the plan while it runs."""

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from lightning.pytorch import Callback, LightningModule, Trainer

from .. import distributed
from ..durations import epochs_that_fit
from ..printing import counted
from .monitor import PROBES

if TYPE_CHECKING:
    from .module import Pretraining

MANY_EPOCHS = 10**6
"""Epochs of a training that is only timed; it ends earlier, by `Measured`."""
WARM_STEPS = 3
"""Warm-up steps before the measurement."""
TIMED_STEPS = 5
"""The measurement covers at least this many steps."""
TIMED_SECONDS = 10.0
"""The measurement covers at least this many seconds, unless the budget is short."""
TIMED_FRACTION = 0.05
"""Fraction of the budget that the measurement may use after `TIMED_STEPS` steps."""


class Measured(Exception):
    """Raised to end a training that is only timed, once its speed is known."""


class Speed(Callback):
    """Times a training's first steps after a warm-up, and ends it by raising `Measured`."""

    def __init__(self, budget: float | None, epochs: int = 0, within: float = math.inf) -> None:
        """For a training with a budget in seconds or, if that is None, with `epochs`.

        Args:
            within: seconds after which one warm-up step and one timed step are enough; for a single process.
        """
        self.budget = budget
        self.epochs = epochs
        self.within = within
        self.start = 0.0
        """Seconds before the first step, without filling a cache, plus the extra time of the first steps: compiling,
        choosing kernels."""
        self.step = math.nan
        """Seconds per step."""
        self.probe = 0.0
        """Seconds per evaluation of the probe; 0 without one."""
        self.steps_per_epoch = 0
        self.batch_size = 0
        """Images per step."""
        self._fit = math.nan
        self._first = math.nan
        self._timed = math.nan
        self._warm = WARM_STEPS
        """Number of steps before the timed ones."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._fit = time.perf_counter()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        module = cast("Pretraining", pl_module)
        if batch_idx == 0:
            self.steps_per_epoch, self.batch_size = module.steps_per_epoch, module.run.batch_size
            filling = 0.0 if module.run.cache == "none" else module.loader.waited
            self._first = time.perf_counter()
            self.start = self._first - self._fit - filling
            self.probe = module.probe_seconds

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        module, now = cast("Pretraining", pl_module), time.perf_counter()
        if (batch_idx + 1) % module.run.loss_batches:
            return
        gone = now - self._first
        if math.isnan(self._timed):
            if module.done_steps < WARM_STEPS and gone < self.within / 2:
                return
            self._timed, self._warm = now, module.done_steps
        timed = module.done_steps - self._warm
        if timed < (TIMED_STEPS if gone < self.within else 1):
            return
        taken = now - self._timed
        (enough,) = distributed.agree(taken >= self._enough(taken / timed) or gone >= self.within)
        if enough:
            step = taken / timed
            start = self.start + max(0.0, self._timed - self._first - self._warm * step)
            self.start, self.step, self.probe = distributed.of_first(start, step, self.probe)
            raise Measured

    def _enough(self, step: float) -> float:
        """Seconds to measure, given those per step: a small part of the training."""
        whole = self.epochs * self.steps_per_epoch * step if self.budget is None else self.budget
        return min(TIMED_SECONDS, TIMED_FRACTION * whole)

    @property
    def epoch(self) -> float:
        """Seconds per epoch."""
        return self.steps_per_epoch * self.step

    def seconds(self, epochs: int) -> float:
        """Seconds of a training of `epochs` epochs."""
        return self.start + epochs * self.epoch + min(epochs, PROBES) * self.probe

    def epochs_in(self, seconds: float) -> int:
        """The whole epochs that fit into a time, at least 1."""
        return epochs_that_fit(seconds, self.start, self.epoch, self.probe, PROBES if self.probe else 0)

    def words(self, epochs: int, time: str) -> str:
        """The speed, and the epochs that fit into the stated time, for the log."""
        return (
            f"{self.batch_size / self.step:.3g} images/s, {self.epoch:.3g} s per epoch: {counted(epochs, 'epoch')} in "
            f"{time}"
        )


CHECKS = (0.1, 0.3, 0.6)
"""Fractions of a training after which its pace is compared with the plan."""
OFF_PLAN = 0.2
"""A larger relative deviation of the duration corrects the plan."""


class Pace(Callback):
    """Compares the pace of a training with the plan, and corrects the measurement made before it.

    Args:
        planned: seconds of the training; None if unknown.
        correct: called with the expected seconds if they deviate from the plan.
    """

    def __init__(self, planned: float | None, correct: Callable[[float], None]) -> None:
        self.planned = planned
        self.correct = correct
        self._begun = self._warm = math.nan
        self._done: int | None = None
        self._checked = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begun = time.perf_counter()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        if self._done is None:
            module = cast("Pretraining", pl_module)
            self._done = module.done_steps
            filling = 0.0 if module.run.cache == "none" else module.loader.waited
            self._begun += filling  # costs are counted without it, too

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        module = cast("Pretraining", pl_module)
        steps = module.done_steps - (self._done or 0)
        now = time.perf_counter()
        # the first steps are slower, and include writing the run's first files
        if steps == WARM_STEPS and math.isnan(self._warm):
            self._warm = now
        if (
            self._checked == len(CHECKS)
            or steps <= WARM_STEPS
            or module.done_steps < CHECKS[self._checked] * module.steps
        ):
            return
        self._checked = sum(module.done_steps >= part * module.steps for part in CHECKS)
        step = (now - self._warm) / (steps - WARM_STEPS)
        start = max(0.0, self._warm - self._begun - WARM_STEPS * step)
        whole = start + step * module.steps
        if self.planned is None or abs(whole / self.planned - 1) > OFF_PLAN:
            self.planned = whole
            self.correct(whole)

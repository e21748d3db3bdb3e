"""Progress of a training, and values that change with it: learning rates, weight decay, momentum, temperatures."""

import math
from dataclasses import dataclass
from typing import Literal

Shape = Literal["constant", "linear", "cosine"]
Every = Literal["step", "epoch"]
Grid = Literal["closed", "open", "dino"]


@dataclass(frozen=True)
class Progress:
    """Progress of a training; the same throughout one optimizer step."""

    step: int
    """The current optimizer step, from 0 to `steps` - 1."""
    steps: int
    steps_per_epoch: int
    seed: int = 0
    """Seed of the run. All that a method draws at random is a function of it."""

    @property
    def share(self) -> float:
        """Fraction of the training that is done, in [0, 1]."""
        return self.step / self.steps

    @property
    def epoch(self) -> float:
        """Finished epochs, with the fraction of the current one."""
        return self.step / self.steps_per_epoch


@dataclass(frozen=True)
class Schedule:
    """A value as a function of the training's progress: 0 while frozen, then a linear warm-up, then a decay.

    Sources of the grids: facebookresearch dino `utils.py` and dinov2 `utils/utils.py` ("dino"); moco-v3 `main_moco.py`,
    barlowtwins and simsiam ("open"); lightly `utils/scheduler.py` ("closed").
    """

    start: float
    """The value after the warm-up."""
    end: float | None = None
    """The value at the end of the decay; required by "linear" and "cosine", and only by them."""
    shape: Shape = "constant"
    """How the value goes from `start` to `end`."""
    warmup_epochs: float = 0
    """Epochs in which the value rises linearly from `warmup_start` to `start`; at most the whole training."""
    warmup_start: float = 0
    """The value at the start of the warm-up."""
    freeze_epochs: float = 0
    """Epochs at the start in which the value is 0; warm-up and decay follow."""
    every: Every = "step"
    """Update the value in each optimizer step or once per epoch."""
    grid: Grid = "closed"
    """Which ends are reached. "closed": the warm-up ends at `start` and the last step has `end`. "open": the warm-up
    begins at `warmup_start` and the decay would reach `end` one step after the last. "dino": the warm-up includes both
    ends, the decay is as in "open"."""

    def __post_init__(self) -> None:
        if self.shape == "constant" and self.end is not None:
            raise ValueError(f"A constant schedule has no end, but end={self.end}. Set shape to linear or cosine.")
        if self.shape != "constant" and self.end is None:
            raise ValueError(f"A {self.shape} schedule needs an end. Set end, or shape to constant.")
        if self.warmup_epochs < 0 or self.freeze_epochs < 0:
            raise ValueError(
                f"warmup_epochs={self.warmup_epochs} and freeze_epochs={self.freeze_epochs} must not be negative."
            )

    def __call__(self, at: Progress) -> float:
        """The value for the step `at`; after the end of the training, the final value."""
        end = self.start if self.end is None else self.end
        if at.step >= at.steps:
            return end
        if self.every == "step":
            per_epoch, i, n = at.steps_per_epoch, at.step, at.steps
        else:
            per_epoch, i, n = 1, at.step // at.steps_per_epoch, math.ceil(at.steps / at.steps_per_epoch)
        frozen = round(self.freeze_epochs * per_epoch)
        if i < frozen:
            return 0.0
        i, n = i - frozen, n - frozen
        warmup = min(round(self.warmup_epochs * per_epoch), n)
        if i < warmup:
            return self.warmup_start + (self.start - self.warmup_start) * self._warmed(i, warmup)
        done = self._decayed(i - warmup, n - warmup)
        if self.shape == "cosine":
            return end + (self.start - end) * (1 + math.cos(math.pi * done)) / 2
        return self.start + (end - self.start) * done

    def _warmed(self, i: int, n: int) -> float:
        """Fraction of the warm-up done in step i of n, in [0, 1]."""
        if self.grid == "closed":
            return (i + 1) / n
        return i / n if self.grid == "open" else i / max(n - 1, 1)

    def _decayed(self, i: int, n: int) -> float:
        """Fraction of the decay done in step i of n, in [0, 1]."""
        if self.grid == "closed":
            return i / (n - 1) if n > 1 else 1.0
        return i / n

"""Where a training is, and values that change on its way: learning rates, weight decay, momentum, temperatures."""

import math
from dataclasses import dataclass
from typing import Literal

Shape = Literal["constant", "linear", "cosine"]
Every = Literal["step", "epoch"]
Grid = Literal["closed", "open", "dino"]


@dataclass(frozen=True)
class Progress:
    """Where a training is. All that happens within one optimizer step sees the same `Progress`."""

    step: int
    """The optimizer step being made, from 0 to `steps` - 1."""
    steps: int
    steps_per_epoch: int
    seed: int = 0
    """Of the run: whatever a method draws itself is a function of it, so that other seeds are other trainings."""

    @property
    def share(self) -> float:
        """Share of the training that is done, in [0, 1]."""
        return self.step / self.steps

    @property
    def epoch(self) -> float:
        """Finished epochs, with the fraction of the current one."""
        return self.step / self.steps_per_epoch


@dataclass(frozen=True)
class Schedule:
    """A number as a function of the training's progress: zero while frozen, then a linear warm-up, then a decay.

    Sources of the grids: facebookresearch dino `utils.py` and dinov2 `utils/utils.py` ("dino"); moco-v3 `main_moco.py`,
    barlowtwins and simsiam ("open"); lightly `utils/scheduler.py` ("closed").
    """

    start: float
    """The value after the warm-up."""
    end: float | None = None
    """The value that the decay leads to; needed by "linear" and "cosine", and only by them."""
    shape: Shape = "constant"
    """How the value goes from `start` to `end`."""
    warmup_epochs: float = 0
    """Epochs in which the value rises linearly from `warmup_start` to `start`; capped at the end of the training."""
    warmup_start: float = 0
    """The value that the warm-up leaves from."""
    freeze_epochs: float = 0
    """Epochs at the very start in which the value is 0; warm-up and decay share the rest."""
    every: Every = "step"
    """Whether the value moves with each optimizer step or once per epoch."""
    grid: Grid = "closed"
    """Which ends are reached. "closed": the warm-up ends on `start` and the last step has `end`. "open": the warm-up
    begins at `warmup_start` and the decay would reach `end` one step after the last. "dino": a warm-up that has both
    its ends, then as "open"."""

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
        """The value for the step `at`; from the end of the training on, the value that the schedule leads to."""
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
        """Share of the warm-up that step i of n has made, in [0, 1]."""
        if self.grid == "closed":
            return (i + 1) / n
        return i / n if self.grid == "open" else i / max(n - 1, 1)

    def _decayed(self, i: int, n: int) -> float:
        """Share of the decay that step i of n has made, in [0, 1]."""
        if self.grid == "closed":
            return i / (n - 1) if n > 1 else 1.0
        return i / n

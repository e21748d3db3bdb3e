"""Small callbacks: the first step, and how long compiling took."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import timedelta
from typing import Self

from lightning.pytorch import Callback, LightningModule, Trainer

from ..allocator import LASTING_STEPS, reusing_memory
from ..devices import default_device, free_for_state, peak_bytes
from ..runs import Folder


class FirstStep(Callback):
    """Calls a function once, after this process's first optimizer step, when the run's first files are written.

    Args:
        part: whether the training is part of a larger job, which prints how to resume.
    """

    def __init__(self, begin: Callable[[], None], part: bool = False) -> None:
        self.begin: Callable[[], None] | None = begin
        self.part = part

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if trainer.global_step and self.begin is not None:
            begin, self.begin = self.begin, None
            begin()


LOOK_EVERY = 50
"""Steps between two looks at the memory that is free."""


class Reusing(Callback):
    """Memory that a step releases is reused within its context, from the step after `LASTING_STEPS` on.

    Gaps between blocks take memory, too. So it begins only where more memory is free than the process has used at its
    peak, and ends where less than a quarter of that is left.

    Args:
        devices: processes of this machine that share its memory.
    """

    def __init__(self, devices: int) -> None:
        self._devices = devices
        self._stack = ExitStack()
        self._steps: int | None = None
        """The step after which it begins, or looks again at what is free."""
        self._least: float | None = None
        """Bytes that must stay free once it has begun."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._steps = trainer.global_step + LASTING_STEPS

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if self._steps is None or trainer.global_step < self._steps:
            return
        self._steps = None
        if default_device().type != "cpu":
            return
        free = free_for_state(0, self._devices)
        if self._least is None:
            peak = peak_bytes() or 0
            if free <= peak:
                return
            self._least = peak / 4
            self._stack.enter_context(reusing_memory())
        elif free < self._least:
            self._stack.close()
            return
        self._steps = trainer.global_step + LOOK_EVERY


class Compiling(Callback):
    """Reports before the first step that networks are compiled, and after it how long that took."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self._began: float | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._began = time.perf_counter()
        if trainer.is_global_zero:
            self.folder.say("compiling   backbone and heads for the first step (--compile): minutes on a CPU ...")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if self._began is not None and trainer.is_global_zero:
            seconds, self._began = time.perf_counter() - self._began, None
            self.folder.say(f"compiled    in {timedelta(seconds=round(seconds))}, with the first batch")

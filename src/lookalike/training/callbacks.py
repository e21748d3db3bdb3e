"""Small callbacks: the first step, and how long compiling took."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import timedelta
from typing import Self

from lightning.pytorch import Callback, LightningModule, Trainer

from ..allocator import LASTING_STEPS, reusing_memory
from ..devices import default_device
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


class Reusing(Callback):
    """Memory that a step releases is reused within its context, from the step after `LASTING_STEPS` on."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._steps: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._steps = trainer.global_step + LASTING_STEPS

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if self._steps is not None and trainer.global_step >= self._steps and default_device().type == "cpu":
            self._steps = None
            self._stack.enter_context(reusing_memory())


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

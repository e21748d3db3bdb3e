"""Ctrl-C and SIGTERM, handled at the end of a step."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from lightning.pytorch import Callback, LightningModule, Trainer

from .. import processes


class Signals(Callback):
    """Records Ctrl-C and SIGTERM while training, to handle them after the next optimizer step."""

    def __init__(self, watch: processes.Watch) -> None:
        self.watch = watch
        self.caught: int | None = None

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Restores the previous handlers at the end, whatever this class and Lightning set."""
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            if threading.current_thread() is threading.main_thread():
                for number, handler in before.items():
                    if handler is not None:  # None if it was not set from Python
                        signal.signal(number, handler)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # not earlier: before there is nothing to save
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self._note)
        self.watch.begun = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.watch.over = True

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.caught is not None and number == signal.SIGINT:
            processes.end(130)
        self.caught = number
        os.write(2, b"\nStopping after this step; press Ctrl-C again to stop at once.\n")

"""Ctrl-C and SIGTERM, answered at the end of a step."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from lightning.pytorch import Callback, LightningModule, Trainer

from .. import processes


class Signals(Callback):
    """Ctrl-C and SIGTERM: noted while training, to be answered at the next optimizer step."""

    def __init__(self, watch: processes.Watch) -> None:
        self.watch = watch
        self.caught: int | None = None

    @contextmanager
    def put_back(self) -> Iterator[None]:
        """Leaves the handlers as they were, whatever this class and Lightning do to them."""
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            if threading.current_thread() is threading.main_thread():
                for number, handler in before.items():
                    if handler is not None:  # one that was not set from Python
                        signal.signal(number, handler)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # only now: until here there is nothing to save
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
        os.write(2, b"\nStopping after this step; Ctrl-C again ends at once.\n")

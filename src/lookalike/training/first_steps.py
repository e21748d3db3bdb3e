"""What the first real steps of a training needed: their memory by parts, and the time of an epoch."""

import math
import time
from typing import TYPE_CHECKING

from ..devices import free_for_state, held_bytes, peak_bytes, used_bytes
from ..durations import spoken
from ..printing import counted, size_of
from ..runs import Resolved
from .memory import bytes_of, lasting
from .out_of_memory import SPARE, rows_of

if TYPE_CHECKING:
    from .module import Pretraining

MEMORY_STEP = 2
"""The step whose peak is reported: the first one in which the optimizer's state is there."""
WARM_STEPS = 3
"""Steps that may be slower than all others."""
TIMED_STEPS, TIMED_SECONDS = 5, 10.0
"""That many steps are timed; if they are long, at least two that take that long."""


class FirstSteps:
    """Observes a process in its first steps: it runs nothing of its own, and resets no counter."""

    def __init__(self, run: Resolved, images: int) -> None:
        """For a run on `images` images."""
        self.run = run
        self.images = images
        self._begun_at = 0
        self._timed_from: tuple[int, float] | None = None
        self._has_time = False

    def begin(self, module: "Pretraining") -> None:
        """To be called before the first step of this process."""
        self._begun_at, self._steps = module.done_steps, module.steps
        self._used, self._peak = used_bytes(), peak_bytes() or 0
        self._optimizer = lasting(module.method, module.rates.optimizer)["optimizer"]

    def memory(self, module: "Pretraining") -> str:
        """The line about memory, after the step whose peak it is; empty after all others."""
        if module.done_steps - self._begun_at != min(MEMORY_STEP, self._steps - self._begun_at):
            return ""
        parts, peak = lasting(module.method, module.rates.optimizer), peak_bytes() or 0
        fixed, views = sum(parts.values()), bytes_of(module.micro_batch)
        new = peak - self._used - parts["gradients"] - (parts["optimizer"] - self._optimizer) - views
        if peak <= self._peak or new <= 0:  # more was in use before
            head = f"at most {size_of(peak)} in the first steps" if peak else "peak unknown"
            return f"memory      {head}: {_listed(parts | {'views': views})}"
        rest = max(0, peak - fixed - views - new)
        listed = parts | {"views": views, "activations": new, "all else": rest}
        return f"memory      {size_of(peak)} at the peak of a step: {_listed(listed)}; {self._room(peak, views + new)}"

    def _room(self, peak: int, growing: int) -> str:
        """What is free, and the batch that it suffices for, if all that a batch needs grows like its size.

        Args:
            peak: bytes in use at the peak.
            growing: what views and activations are of it.
        """
        free = max(0, free_for_state(0, self.run.devices) + held_bytes() - peak)
        at_once = self.run.loss_batches * self.run.devices * self.run.nodes
        rows = math.floor(rows_of(self.run) * ((1 - SPARE) * (free + peak) - peak + growing) / growing)
        batch = max(self.run.batch_size, rows * at_once)
        most = f"enough for batches of about {counted(_rounded(batch), 'image')}"
        return f"{size_of(free)} more are free, {most if batch < self.images else 'enough for all images in one batch'}"

    def time(self, module: "Pretraining") -> str:
        """The line about time, once steps after the slow first ones were timed; empty otherwise."""
        done = module.done_steps - self._begun_at
        if self._has_time or done < WARM_STEPS:
            return ""
        if self._timed_from is None or done == WARM_STEPS:
            self.restart(module)
        assert self._timed_from is not None
        (first, since), step, now = self._timed_from, module.done_steps, time.perf_counter()
        if step - first < TIMED_STEPS and (step - first < 2 or now - since < TIMED_SECONDS):
            return ""
        self._has_time = True
        each = (now - since) / (step - first)
        return (
            f"time        {spoken(each * module.steps_per_epoch)} per epoch, {spoken((self._steps - step) * each)} for "
            f"the rest (from steps {first + 1} to {step})"
        )

    def restart(self, module: "Pretraining") -> None:
        """Times steps from now on: other work was done between two steps."""
        self._timed_from = module.done_steps, time.perf_counter()


def _listed(parts: dict[str, int]) -> str:
    return ", ".join(f"{name} {size_of(size)}" for name, size in parts.items() if size)


def _rounded(count: int) -> int:
    """A count with two digits."""
    unit: int = 10 ** max(0, len(str(count)) - 2)
    return count // unit * unit

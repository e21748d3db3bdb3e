"""The command `estimate`: the memory and the time of a training, before it starts."""

import dataclasses
import tempfile
from collections.abc import Callable
from dataclasses import dataclass

from ..devices import default_device, free_for_state
from ..durations import spoken
from ..printing import counted, size_of
from ..runs import Resolved, Run, method_name
from ..training.inputs import open_images
from ..training.memory import footprint
from ..training.out_of_memory import SPARE, advice, rows_of
from ..training.resolved import resolve
from ..training.stages import measure
from ..training.timing import Speed
from ..training.trial import Trial, can_be_tried, step

MEASURED_SECONDS = 30.0
"""Seconds after which one measured step is enough."""

FIRST_BATCH = 8
"""Images in the first step that `--find-batch-size` tries."""


@dataclass(frozen=True)
class Estimate:
    """What a training needs on each device; sizes in bytes."""

    parts: dict[str, int]
    """Memory at the peak of a step: parameters, gradients, optimizer, "bank, queue", views, activations."""
    peak: int
    free: int
    largest_batch: int
    """The largest batch size whose estimate fits, with 10 % to spare; 0 if none does."""
    step_seconds: float | None
    """Seconds per optimizer step; None if they were not measured."""
    epoch_seconds: float | None
    found_batch: int | None
    """The largest batch size whose real step fitted; None if it was not asked for."""


def estimate(run: Run, *, find_batch_size: bool = False, say: Callable[[str], object] = print) -> Estimate:
    """Estimates the memory and measures the time of a training.

    Memory is the sum of all tensors at the peak of a step, from a step of a few images; the time is measured in the
    first steps of the real training, if its estimate fits into the free memory.

    Args:
        run: the training.
        find_batch_size: also find the largest batch size by real steps, each in a process of its own.
        say: called with each line of the result.

    Raises:
        ValueError: invalid data, method, backbone or sizes.
    """
    source = open_images(run)
    settled, _ = resolve(run, len(source))
    free, rows = free_for_state(0, settled.devices), rows_of(settled)
    for line in _first_lines(settled):
        say(line)
    use = footprint(settled)
    peak, parts = use.peak(rows), use.parts(rows)
    say(f"memory      about {size_of(peak)} at the peak of a step, of {size_of(free)} that are free")
    for name, size in parts.items():
        say(f"            {name:<12} {size_of(size)}")
    fits = peak <= (1 - SPARE) * free
    if not fits:
        for line in advice(settled, free).lines(1)[1:]:
            say(line)
    speed = _speed(run, settled, fits, say)
    per_rows = settled.loss_batches * settled.devices * settled.nodes
    largest = use.largest(round((1 - SPARE) * free), settled.accumulate // settled.loss_batches) * per_rows
    say(f"batch       about {counted(largest, 'image')} at most, by the estimate")
    found = _found_batch(settled, len(source), say) if find_batch_size else None
    return Estimate(
        parts, peak, free, largest, None if speed is None else speed.step, None if speed is None else speed.epoch, found
    )  # fmt: skip


def _first_lines(run: Resolved) -> list[str]:
    micro = f" in {run.accumulate} micro-batches" if run.accumulate > 1 else ""
    joint = " with a joint loss" if run.joint_loss else ""
    return [
        f"training    {method_name(run.method)}, {run.backbone if isinstance(run.backbone, str) else 'your module'}, "
        f"{run.image_size} px, batches of {counted(run.batch_size, 'image')}{micro}{joint}",
        f"device      {run.devices * run.nodes} x {default_device().type}, {run.precision}",
    ]


def _speed(run: Run, settled: Resolved, fits: bool, say: Callable[[str], object]) -> Speed | None:
    """The measured speed of the first steps; None if they do not fit, or need several processes."""
    if not fits or settled.devices * settled.nodes > 1:
        why = "a step does not fit into the free memory" if not fits else "that takes several processes"
        say(f"time        not measured: {why}")
        return None
    speed = Speed(None, settled.epochs, within=MEASURED_SECONDS)
    measure(dataclasses.replace(run, out=tempfile.mkdtemp(prefix="lookalike-speed-")), speed)
    say(
        f"time        {spoken(speed.step)} per step, {spoken(speed.epoch)} per epoch of "
        f"{counted(speed.steps_per_epoch, 'step')}, {spoken(speed.seconds(settled.epochs))} for "
        f"{counted(settled.epochs, 'epoch')} (from measured steps)"
    )
    return speed


# ---------------------------------------------------------------- find the batch size


def _found_batch(run: Resolved, images: int, say: Callable[[str], object]) -> int:
    """The largest batch size whose real step fits: powers of two, then bisection. 0 if none does."""
    if not can_be_tried(run):
        raise ValueError(
            "--find-batch-size runs steps in other processes, which cannot build your own modules and methods. Use "
            "the largest batch of the estimate."
        )
    multiple = run.accumulate * run.devices * run.nodes
    least = -(-max(FIRST_BATCH, 2 * multiple) // multiple) * multiple
    fits, fails = 0, 0
    batch = least
    while batch <= images and not fails:
        if _tried(run, batch, say).fits:
            fits, batch = batch, 2 * batch
        else:
            fails = batch
    while fails and fits and fails - fits > max(multiple, fits // 16):
        middle = (fits + fails) // 2 // multiple * multiple
        if middle in (fits, fails):
            break
        fits, fails = (middle, fails) if _tried(run, middle, say).fits else (fits, middle)
    limit = f"{counted(fails, 'image')} do not fit" if fails else f"there are {counted(images, 'image')}"
    say(f"batch       {counted(fits, 'image')} at most, by real steps: {limit}")
    return fits


def _tried(run: Resolved, batch: int, say: Callable[[str], object]) -> Trial:
    found = step(dataclasses.replace(run, batch_size=batch))
    if found.fits:
        result = f"fits, {size_of(found.peak)} at the peak, {spoken(found.seconds)} per micro-batch"
        if run.loss_batches == 1:
            result = result.replace("micro-batch", "step")
    else:
        result = f"does not fit into {size_of(found.free)}: {found.error}"
    say(f"            {counted(batch, 'image')}: {result}")
    return found

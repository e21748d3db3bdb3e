"""A training that runs out of memory: what a step needs, what is free, and the changes that would fit."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from ..printing import counted, size_of
from ..runs import Resolved
from .memory import Footprint, footprint

SPARE = 0.1
"""Fraction of the free memory that is left for the buffers of operations, which a footprint does not see."""

MOST_PARTS = 16
"""The largest factor by which micro-batches are reduced."""

MOST_CHANGES = 3

REFUSED = ("not enough memory", "can't allocate memory", "Cannot allocate memory", "std::bad_alloc", "unable to mmap")
"""Parts of the errors of torch's CPU allocator, and of libraries that it calls."""


class OutOfMemory(torch.OutOfMemoryError):
    """A training's memory did not suffice; the message says what would fit."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that the device, the machine or a limit of this process has no more memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError | OSError) and any(part in str(error) for part in REFUSED)


@dataclass(frozen=True)
class Change:
    """A change of the options with which a step would fit."""

    options: dict[str, Any]
    cost: str
    resumes: bool
    """Whether the run that ran out of memory can be resumed with it."""
    peak: int = 0

    @property
    def arguments(self) -> list[str]:
        """The options as arguments of the command line."""
        found = []
        for name, value in self.options.items():
            found += [f"--{name.replace('_', '-')}"] + ([] if value is True else [str(value)])
        return found


@dataclass(frozen=True)
class Advice:
    """The memory that a step needs, and what would fit."""

    needed: int
    parts: dict[str, int]
    free: int
    changes: list[Change]

    def lines(self, step: int) -> list[str]:
        """The message of a run that ran out of memory in an optimizer step, counted from 1."""
        few = ", ".join(f"{name} {size_of(size)}" for name, size in self.parts.items() if size > self.needed / 100)
        head = (
            f"Out of memory in step {step}: a step needs about {size_of(self.needed)} ({few}), and "
            f"{size_of(self.free)} are free."
        )
        if not self.changes:
            return [f"{head} Give a smaller --image-size or --backbone."]
        width = max(len(" ".join(change.arguments)) for change in self.changes)
        return [
            f"{head} Each of these fits, the cheapest first:",
            *(
                f"  {' '.join(change.arguments):<{width}}  {size_of(change.peak)}; {change.cost}"
                for change in self.changes
            ),
        ]


def advice(run: Resolved, free: int) -> Advice:
    """Finds the changes with which a run's step fits into `free` bytes."""
    use = footprint(run)
    rows = rows_of(run)
    found: list[Change] = []
    for change in _changes(run, use, free):
        found.append(change)
        if len(found) == MOST_CHANGES:
            break
    return Advice(use.peak(rows), use.parts(rows), free, found)


def rows_of(run: Resolved) -> int:
    """Images that a loss gets at a time, on one device."""
    return run.batch_size // (run.loss_batches * run.devices * run.nodes)


def _changes(run: Resolved, use: Footprint, free: int) -> Iterator[Change]:
    """The changes that fit, the cheapest first."""
    limit, couples = round((1 - SPARE) * free), run.method.needs.couples_batch
    third = "about a third more time"
    if not couples or run.joint_loss:
        yield from _divided(run, limit, "the same gradients, about the same time", {})
    recomputed = {"checkpoint_activations": True}
    if not run.checkpoint_activations:
        yield from _first_fit(run, limit, [recomputed], f"the same result, {third}")
    if couples and not run.joint_loss:
        yield from _divided(run, limit, f"the same loss, {third}", {"joint_loss": True})
        cost = "about the same time, but each loss compares {} only"
        yield from _divided(run, limit, cost, {})
    elif not run.checkpoint_activations:
        yield from _divided(run, limit, f"the same gradients, {third}", recomputed)
    if largest := use.largest(limit, 2 * run.accumulate // run.loss_batches):
        batch = largest * run.loss_batches * run.devices * run.nodes
        if batch < run.batch_size:
            yield Change({"batch_size": batch}, "another training, which starts anew", False, use.peak(largest))


def _divided(run: Resolved, limit: int, cost: str, more: dict[str, Any]) -> Iterator[Change]:
    """More micro-batches, as few as fit."""
    options, parts = [], 2
    while parts <= MOST_PARTS:
        count = parts * run.accumulate
        own, rest = divmod(run.batch_size, count * run.devices * run.nodes)
        if not rest and own >= 2:
            options.append({"accumulate": count} | more)
        parts *= 2
    yield from _first_fit(run, limit, options, cost)


def _first_fit(run: Resolved, limit: int, options: list[dict[str, Any]], cost: str) -> Iterator[Change]:
    """The first of the changes that fits, if there is one."""
    known: Footprint | None = None
    for change in options:
        own = dataclasses.replace(run, **change)
        try:
            if known is None or own.joint_loss:  # without a joint loss only the size of a micro-batch changes
                known = footprint(own)
        except ValueError:  # the networks do not support it
            return
        if (peak := known.peak(rows_of(own))) <= limit:
            images = counted(run.batch_size // own.accumulate, "image")
            yield Change(change, cost.format(images), True, peak)
            return

"""`start.json`: the facts of a run before its first step, which console, `log.txt` and report show."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..files import FORMAT
from ..printing import counted


@dataclass(frozen=True)
class Start:
    """The facts of a run's start; of a resumed run those of the last start."""

    lookalike: str
    """The version of this package."""
    command: str
    data: str
    images: int
    notes: list[str]
    """Decisions made when the images were found."""
    method: str
    backbone: str
    stem: str
    """The stem of a ResNet that was created by name; else empty."""
    parameters: dict[str, int]
    """Number of parameters of each part that has any."""
    weights: str
    """A description of the initial weights."""
    views: list[tuple[int, int]]
    """(count, size in pixels) for each recipe."""
    last_views: list[tuple[int, int]]
    """The same at the end of the training."""
    channels: int
    mean: list[float]
    std: list[float]
    steps: int
    epochs: int
    steps_per_epoch: int
    batch_size: int
    accumulate: int
    joint_loss: bool
    optimizer: str
    learning_rate: float
    """The peak learning rate, scaled by the batch size."""
    warmup_epochs: float
    devices: int
    device: str
    precision: str
    workers: int
    cache: str
    fitted: list[str]
    """A line per field of the method that was fitted to the data."""
    warnings: list[str]

    def content(self) -> dict[str, Any]:
        """The content of the file."""
        return {"format": FORMAT, **dataclasses.asdict(self)}

    def lines(self) -> dict[str, str]:
        """The facts as lines of text, by their labels."""
        return words(dataclasses.asdict(self))


def words(facts: Mapping[str, Any]) -> dict[str, str]:
    """The facts in `start.json` as lines of text, by their labels.

    Raises:
        KeyError, TypeError, ValueError: a fact is missing, or of another type.
    """
    parts = ", ".join(f"{name} {count / 1e6:.2f} M" for name, count in facts["parameters"].items() if count)
    stem = f" ({facts['stem']} stem)" if facts["stem"] else ""
    # earlier versions stored no joint loss
    over = "one loss over all" if facts.get("joint_loss") else "the loss is computed per micro-batch"
    micro = f" ({facts['accumulate']} micro-batches; {over})"
    return {
        "data": f"{counted(facts['images'], 'image')} in {facts['data']}",
        "model": f"{facts['method']}, {facts['backbone']}{stem}, parameters: {parts}",
        "weights": str(facts["weights"]),
        "views": f"{_views(facts)} of {counted(facts['channels'], 'channel')}, mean {_numbers(facts['mean'])}, "
        f"std {_numbers(facts['std'])}",
        "steps": f"{facts['steps']} = {counted(facts['epochs'], 'epoch')} x {facts['steps_per_epoch']} of "
        f"{counted(facts['batch_size'], 'image')}{micro if facts['accumulate'] > 1 else ''}",
        "optimizer": f"{facts['optimizer']}, learning rate {facts['learning_rate']:.4g}"
        f" after {counted(facts['warmup_epochs'], 'epoch')} of warm-up",
        "device": f"{facts['devices']} x {facts['device']}, {facts['precision']}, {facts['workers']} workers, "
        f"cache {facts['cache']}",
    }


def _views(facts: Mapping[str, Any]) -> str:
    first, last = (", ".join(f"{n} x {size} px" for n, size in facts[name]) for name in ("views", "last_views"))
    return first if last == first else f"{first} (at the end {last})"


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{v:.3f}" for v in values[:4]) + (" ..." if len(values) > 4 else "")

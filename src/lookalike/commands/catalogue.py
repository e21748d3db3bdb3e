"""What backbones cost: parameters, operations and feature dimension, from a table that ships with the package.

benchmarks/backbone_table.py makes the table. Reading it imports nothing heavy; `training_speed` does.
"""

import csv
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from ..printing import counted, first_of

TABLE = Path(__file__).with_name("backbones.csv")
PIXELS = 224
"""A side of the images whose operations the table counts."""
SMALL_PARAMETERS, SMALL_GFLOP = 12e6, 4.0
"""What a small backbone has at most: a ResNet-18 is small (11.2 million, 3.6), a ResNet-34 and a ViT-S are not."""
MEASURED = 20
"""Backbones that are timed at once, at most."""
MEASURED_SECONDS = 2.0
"""That each is timed for, or one step."""

Order = Literal["name", "parameters", "gflop", "dim"]


@dataclass(frozen=True)
class Cost:
    """One backbone without its classifier; None where the table does not have it."""

    name: str
    parameters: int | None = None
    """At `PIXELS`: those of positions depend on the image size."""
    gflop: float | None = None
    """10^9 operations of a forward pass of one image of `PIXELS`; a multiplication and an addition are two."""
    dim: int | None = None
    """Of its features."""

    @property
    def small(self) -> bool:
        """Whether a CPU can train it in reasonable time."""
        known = self.parameters is not None and self.gflop is not None
        return known and self.parameters <= SMALL_PARAMETERS and self.gflop <= SMALL_GFLOP  # type: ignore[operator]


def installed() -> str:
    """The versions that decide which backbones there are, as they stand in the table's first line."""
    return ", ".join(f"{name} {version(name).partition('+')[0]}" for name in ("timm", "torchvision"))


def table(path: Path = TABLE) -> tuple[str, dict[str, Cost]]:
    """The versions that a table was made with, and its rows by name."""
    with open(path, newline="", encoding="utf-8") as file:
        versions = file.readline().lstrip("# ").strip()
        rows = {
            row["name"]: Cost(
                row["name"],
                int(row["parameters"]) if row["parameters"] else None,
                float(row["gflop"]) if row["gflop"] else None,
                int(row["dim"]) if row["dim"] else None,
            )
            for row in csv.DictReader(file)
        }
    return versions, rows


def catalogue(path: Path = TABLE) -> list[Cost]:
    """All backbones that `lookalike.backbones.create` takes by name; those that the table lacks have no numbers."""
    versions, rows = table(path)
    if versions == installed():
        return list(rows.values())
    from ..backbones import names  # another timm has other names

    return [rows.get(name, Cost(name)) for name in names()]


def chosen(found: Sequence[Cost], *, pattern: str = "", small: bool = False, order: Order = "name") -> list[Cost]:
    """Those whose name contains a text, in small letters or large, in order; what has no number comes last.

    Args:
        small: only those that a CPU can train.
    """
    text = pattern.lower().removeprefix("timm/")
    some = [cost for cost in found if text in cost.name.lower() and (cost.small or not small)]
    if order == "name":
        return some
    return sorted(some, key=lambda cost: (vars(cost)[order] is None, vars(cost)[order] or 0))


def lines(found: Sequence[Cost]) -> list[str]:
    """A head, and a line for each."""
    width = max(len("backbone"), *(len(cost.name) for cost in found))
    head = f"{'backbone':<{width}}  {'parameters':>12}  {f'GFLOP at {PIXELS} px':>15}  {'features':>8}"
    return [head, *(f"{cost.name:<{width}}  {_numbers(cost)}".rstrip() for cost in found)]


def _numbers(cost: Cost) -> str:
    parameters = "" if cost.parameters is None else f"{cost.parameters / 1e6:,.2f} M"
    gflop = "" if cost.gflop is None else f"{cost.gflop:,.2f}"
    return f"{parameters:>12}  {gflop:>15}  {'' if cost.dim is None else cost.dim:>8}"


def measure(found: Sequence[Cost], image_size: int, say: Callable[[str], None]) -> None:
    """Times a training step of each backbone on this machine, and says a line of each when it is known.

    Raises:
        ValueError: there are too many.
    """
    if len(found) > MEASURED:
        raise ValueError(
            f"{counted(len(found), 'backbone')} would take long to measure; at most {MEASURED} are. Narrow the PATTERN"
            f": it finds {first_of([cost.name for cost in found], 3)}."
        )
    import torch

    from ..devices import default_device

    device = default_device().type
    where = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {counted(torch.get_num_threads(), 'thread')}"
    head, *rows = lines(found)
    say(f"{head}  {'images/s here':>13}")
    for cost, row in zip(found, rows):
        try:
            speed = f"{training_speed(cost.name, image_size, device):,.1f}"
        except (ValueError, torch.cuda.OutOfMemoryError) as error:
            speed = f"  {error}"
        say(f"{row:<{len(head)}}  {speed:>13}")
    say(
        f"images/s: a training step, which is a forward and a backward pass of one view and SGD, in batches of {BATCH} "
        f"at {image_size} px, in float32 ({where}). A method with two views takes twice the time."
    )


BATCH = 16
"""Images of a step that is timed."""


def training_speed(name: str, image_size: int, device: str = "cpu") -> float:
    """Images per second of training steps of one view each.

    Raises:
        ValueError: an unknown name, or a backbone that does not take images of this size.
    """
    import torch

    from .. import backbones

    with torch.random.fork_rng():
        model = backbones.create(name, image_size=image_size).to(device).train()
        x = torch.randn(BATCH, 3, image_size, image_size, device=device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)

    def step() -> None:
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    step()  # warms up
    steps, begun = 0, time.perf_counter()
    while steps == 0 or time.perf_counter() - begun < MEASURED_SECONDS:
        step()
        steps += 1
    return BATCH * steps / (time.perf_counter() - begun)

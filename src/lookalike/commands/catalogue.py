"""Cost of backbones: parameters, operations and feature dimension, from a table shipped with the package.

benchmarks/backbone_table.py writes the table. Reading it imports nothing heavy; `training_speed` does.
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
"""Side of the images for which the table counts operations."""
SMALL_PARAMETERS, SMALL_GFLOP = 12e6, 4.0
"""Upper limits of a small backbone: a ResNet-18 is small (11.2 million, 3.6), a ResNet-34 and a ViT-S are not."""
MEASURED = 20
"""Maximum number of backbones that one command times."""
MEASURED_SECONDS = 2.0
"""Timing duration per backbone; at least one step."""

Order = Literal["name", "parameters", "gflop", "dim"]


@dataclass(frozen=True)
class Cost:
    """One backbone without its classifier; None if the table lacks the value."""

    name: str
    parameters: int | None = None
    """At `PIXELS`: the number of position embeddings depends on the image size."""
    gflop: float | None = None
    """10^9 operations of a forward pass of one image of `PIXELS`; a multiply-add counts as two."""
    dim: int | None = None
    """Dimension of its features."""

    @property
    def small(self) -> bool:
        """Whether a CPU can train it in reasonable time."""
        known = self.parameters is not None and self.gflop is not None
        return known and self.parameters <= SMALL_PARAMETERS and self.gflop <= SMALL_GFLOP  # type: ignore[operator]


def installed() -> str:
    """The versions that determine the available backbones, in the format of the table's first line."""
    return ", ".join(f"{name} {version(name).partition('+')[0]}" for name in ("timm", "torchvision"))


def table(path: Path = TABLE) -> tuple[str, dict[str, Cost]]:
    """The versions that a table was created with, and its rows by name."""
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
    """All backbones that `lookalike.backbones.create` accepts by name; those missing in the table have no cost."""
    versions, rows = table(path)
    if versions == installed():
        return list(rows.values())
    from ..backbones import names  # other versions of timm have other names

    return [rows.get(name, Cost(name)) for name in names()]


def chosen(found: Sequence[Cost], *, pattern: str = "", small: bool = False, order: Order = "name") -> list[Cost]:
    """The backbones whose name contains `pattern`, ignoring case, sorted; missing values come last.

    Args:
        small: only backbones that a CPU can train.
    """
    text = pattern.lower().removeprefix("timm/")
    matches = [cost for cost in found if text in cost.name.lower() and (cost.small or not small)]
    if order == "name":
        return matches
    return sorted(matches, key=lambda cost: (vars(cost)[order] is None, vars(cost)[order] or 0))


def lines(found: Sequence[Cost]) -> list[str]:
    """A header, and a line per backbone."""
    width = max(len("backbone"), *(len(cost.name) for cost in found))
    head = f"{'backbone':<{width}}  {'parameters':>12}  {f'GFLOP at {PIXELS} px':>15}  {'features':>8}"
    return [head, *(f"{cost.name:<{width}}  {_numbers(cost)}".rstrip() for cost in found)]


def _numbers(cost: Cost) -> str:
    parameters = "" if cost.parameters is None else f"{cost.parameters / 1e6:,.2f} M"
    gflop = "" if cost.gflop is None else f"{cost.gflop:,.2f}"
    return f"{parameters:>12}  {gflop:>15}  {'' if cost.dim is None else cost.dim:>8}"


def measure(found: Sequence[Cost], image_size: int, say: Callable[[str], None]) -> None:
    """Times a training step of each backbone on this machine, and reports a line as soon as one is timed.

    Raises:
        ValueError: there are more than `MEASURED` backbones.
    """
    if len(found) > MEASURED:
        raise ValueError(
            f"{counted(len(found), 'backbone')} would take long to measure; at most {MEASURED} are allowed. Narrow the "
            f"PATTERN: it matches {first_of([cost.name for cost in found], 3)}."
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
        f"images/s: training steps of SGD with a forward and a backward pass of one view, batch size {BATCH}, "
        f"{image_size} px, float32 ({where}). A method with two views takes twice as long."
    )


BATCH = 16
"""Images per timed step."""


def training_speed(name: str, image_size: int, device: str = "cpu") -> float:
    """Training speed in images per second, with one view per image.

    Raises:
        ValueError: the name is unknown, or the backbone does not accept this image size.
    """
    import torch

    from .. import backbones

    with torch.random.fork_rng():
        model = backbones.create(name, image_size=image_size).to(device).train()
        x = torch.randn(BATCH, 3, image_size, image_size, device=device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)

    def step() -> None:
        optimizer.zero_grad()
        torch.autograd.backward(model(x).square().mean())
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    step()  # warms up
    steps, begun = 0, time.perf_counter()
    while steps == 0 or time.perf_counter() - begun < MEASURED_SECONDS:
        step()
        steps += 1
    return BATCH * steps / (time.perf_counter() - begun)

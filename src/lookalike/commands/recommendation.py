"""The first command for a set of images on this machine: method, network, sizes, and the expected duration.

`recommended` is a pure function of facts, using `RULES` and `SIZES`; `timed` measures the step time of its result.
"""

import dataclasses
import math
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import torch

from ..columns import COLUMNS, Columns
from ..data import Source
from ..data.remarks import proposed_scale
from ..data.remarks import unused as remarks_about
from ..devices import free_for_state
from ..durations import seconds_of, spoken
from ..files import unused
from ..image_options import Alpha
from ..methods import get_method
from ..printing import are, counted, pasteable
from ..runs import Options, Run, by_user
from .check import Split

if TYPE_CHECKING:
    from ..training.timing import Speed

METHOD: Final = "lejepa"
"""The method of a first training: with VICReg the best of all after few steps, and it has a single weight to choose."""


@dataclass(frozen=True)
class Rule:
    """The first training for a type of machine."""

    gpu: bool
    cores: int
    """Minimum."""
    gib: float
    """Minimum free memory in GiB, of the GPU if there is one."""
    images: int
    """Minimum."""
    backbone: str
    pixels: int
    """Maximum size of the largest view."""
    batch_size: int
    """Maximum."""
    steps: int
    """Minimum number of optimizer steps."""
    reason: str


RULES: Final = (
    Rule(True, 0, 0, 100_000, "resnet50", 224, 256, 2000, "a rule of thumb: a ResNet-50 from 100,000 images on"),
    Rule(True, 0, 0, 0, "resnet18", 224, 256, 2000, "a rule of thumb: a ResNet-18 for fewer than 100,000 images"),
    Rule(False, 8, 4, 0, "mobilenetv3_small_100", 128, 64, 500, "more cores, so twice the width and larger images"),
    Rule(False, 0, 4, 0, "mobilenetv3_small_050", 96, 64, 500, "the fewest operations of `list backbones --small`"),
    Rule(False, 0, 0, 0, "mobilenetv3_small_050", 64, 32, 500, "little memory, so two views of each image, not eight"),
)
"""The first rule that the machine and the images meet applies."""
SIZES: Final = 32, 64, 96, 128, 224
"""Candidate image sizes. The largest that most images have is chosen: enlarging them costs time and adds nothing."""
PART_OF_IMAGES: Final = 8
"""Minimum number of batches per epoch: with fewer, shuffling has little effect."""
LEAST_BATCH: Final = 16
"""Minimum batch size: the loss of `METHOD` estimates the feature distribution from a batch."""
LEAST_EPOCHS: Final = 10
"""Minimum number of epochs, regardless of the number of images."""
MOST_EPOCHS: Final = Options.epochs
"""Maximum number of epochs, which is the default of --epochs."""
LONGEST: Final = "30min"
"""Maximum duration of a first training, if at least one epoch fits into it."""
FEW_IMAGES: Final = 200
"""Below this number of images, starting from published weights is recommended."""
MEASURED_SECONDS: Final = 6.0
"""Maximum duration of timing, unless two steps take longer."""
OUT: Final = "runs/first"


@dataclass(frozen=True)
class Facts:
    """Facts that determine the recommendation."""

    images: int
    pixels: int
    """Median of the images' shorter sides."""
    channels: int
    """Number of channels to train with: 1 if all images are grey."""
    normalize: Literal["imagenet", "data"]
    gpu: str
    """Name of the GPU; empty without one."""
    cores: int
    memory: int
    """Free bytes, of the GPU if there is one."""
    image_size: int | None = None
    """Size of the largest view in pixels, if the user chose it."""
    scale: tuple[str, ...] = Options.scale
    """A scale for images that use a small part of the range of values."""

    @property
    def machine(self) -> str:
        """The GPU, or the number of cores."""
        return self.gpu or counted(self.cores, "core")


@dataclass(frozen=True)
class Given:
    """The user's options about the images, which the command repeats."""

    data: str
    alpha: Alpha = Options.alpha
    workers: int | None = None
    only: str | None = None
    """The file of `check` that names the images to train on."""
    columns: Columns = COLUMNS
    bands: tuple[str, ...] | None = None
    scale: tuple[str, ...] = Options.scale
    tile: int | None = None
    stride: int | None = None


@dataclass(frozen=True)
class Recommendation:
    """A first training."""

    facts: Facts
    given: Given
    method: str
    backbone: str
    image_size: int
    batch_size: int
    epochs: int
    """With `time`, the number of epochs that fit into it."""
    reason: str
    """Reason for the backbone."""
    out: str = OUT
    time: str | None = None
    """Training time instead of epochs, in the format of --time."""
    step: float | None = None
    """Measured seconds per optimizer step; None before the measurement."""
    start: float = 0.0
    """Seconds before the first step, plus the additional time of the first steps."""

    @property
    def steps_per_epoch(self) -> int:
        return self.facts.images // self.batch_size

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        return self.epochs * self.steps_per_epoch

    @property
    def seconds(self) -> float | None:
        """Expected duration; None if no step was timed."""
        return None if self.step is None else self.start + self.steps * self.step

    @property
    def command(self) -> str:
        """The shell command, for the current directory."""
        return pasteable("lookalike", "pretrain", self.method, self.given.data, *_typed(self._options()))

    def _options(self) -> dict[str, object]:
        sizes = {"backbone": self.backbone, "image_size": self.image_size, "batch_size": self.batch_size}
        length = {"epochs": self.epochs} if self.time is None else {"time": self.time}
        workers = {} if self.given.workers is None else {"workers": self.given.workers}
        return {**sizes, **length, **self._image_options(), **workers, "out": self.out}

    @property
    def views(self) -> str:
        """The command that draws the views of the training."""
        options = {"image_size": self.image_size, **self._image_options()}
        return pasteable("lookalike", "views", self.method, self.given.data, *_typed(options))

    def _image_options(self) -> dict[str, object]:
        """Options for reading images that differ from the defaults."""
        own = {
            "channels": self.facts.channels, "alpha": self.given.alpha, "bands": self.given.bands,
            "scale": self.scale, "tile": self.given.tile, "stride": self.given.stride,
            "normalize": self.facts.normalize, "only": self.given.only,
        }  # fmt: skip
        if self.given.bands is not None:
            del own["channels"]
        found = {name: value for name, value in own.items() if value != vars(Options)[name]}
        names = {f"columns.{name}": value for name, value in vars(self.given.columns).items()}
        return found | {name: value for name, value in names.items() if value != vars(COLUMNS)[name.partition(".")[2]]}

    @property
    def scale(self) -> tuple[str, ...]:
        """The user's scale, or that of images which use a small part of the range of values."""
        return self.facts.scale if self.given.scale == Options.scale else self.given.scale

    def run(self, data: str | Source, out: str) -> Run:
        """The training that the command runs.

        Args:
            data: the images of `Given.data`.
            out: run folder.
        """
        method = get_method(self.method).Config()  # type: ignore[call-arg]
        return Run(
            data=data, method=method, out=out, backbone=self.backbone,
            image_size=self.image_size, batch_size=self.batch_size, channels=self.facts.channels,
            epochs=Options.epochs if self.time else self.epochs, time=self.time, alpha=self.given.alpha,
            bands=self.given.bands, scale=self.scale, tile=self.given.tile, stride=self.given.stride,
            normalize=self.facts.normalize, workers=self.given.workers, columns=self.given.columns,
            origins=by_user(self._options()),
        )  # fmt: skip

    def lines(self) -> list[str]:
        """Facts, expected duration, advice, and the command as the last line."""
        size, images = counted(self.image_size, "pixel"), counted(self.facts.images, "image", grouped=True)
        lines = [f"{images} at {size}, {self.facts.machine}: {self._duration()}"]
        if self.facts.images < FEW_IMAGES:
            lines.append(
                f"            {images} {are(self.facts.images)} few for a training. Add similar images, or start from "
                f"published weights, which are downloaded: --init timm/{self.backbone}"
            )
        if self.seconds is not None and self.seconds > seconds_of(LONGEST):
            lines.append(
                f"            One epoch takes longer than {LONGEST}. For a first training give a text file of fewer "
                "paths as DATA"
            )
        about = "" if self.seconds is None else f"   # about {spoken(self.seconds)}"
        return [*lines, f"To draw its views: {self.views}", f"Next: {self.command}{about}"]

    def _duration(self) -> str:
        epochs = counted(self.epochs, "epoch")
        if self.seconds is None or self.step is None:
            return f"{epochs}, {counted(self.steps, 'step')}; duration not measured"
        return (
            f"about {spoken(self.seconds)} for {epochs}, from a measured {spoken(self.step)} per step and "
            f"{counted(self.steps, 'step')}"
        )

    def content(self) -> dict[str, object]:
        """The recommendation for JSON."""
        return {
            "command": self.command,
            "method": self.method,
            "backbone": self.backbone,
            "image_size": self.image_size,
            "batch_size": self.batch_size,
            "channels": self.facts.channels,
            "epochs": self.epochs,
            "time": self.time,
            "steps": self.steps,
            "machine": self.facts.machine,
            "reason": self.reason,
            "step_seconds": self.step,
            "seconds": self.seconds,
        }


def _typed(options: Mapping[str, object]) -> list[object]:
    """Options as command-line arguments."""
    words: list[object] = []
    for name, value in options.items():
        words += [f"--{name.replace('_', '-')}", *(value if isinstance(value, tuple) else (value,))]
    return words


def facts_of(split: Split, image_size: int | None = None) -> Facts:
    """Facts about the images and this machine.

    Args:
        split: the measurements of `check`.
        image_size: size of the largest view in pixels, if the user chose it.

    Raises:
        ValueError: the images cannot be trained on; the message states the reason and the remedy.
    """
    images, unread = len(split.source), len(split.broken)
    if images - unread < 2:
        raise ValueError(f"Only {counted(images - unread, 'image')} can be read; a training needs at least 2.")
    if unread > Options.max_broken * images:
        raise ValueError(
            f"{unread} of {counted(images, 'image')} cannot be read or used, but a training allows at most "
            f"{Options.max_broken:.0%}. Give a list of the others as DATA, or train with --max-broken 1."
        )
    channels = split.source.channels
    grey = bool(remarks_about(split.kinds, split.levels, channels, {"channels"}))
    dark = bool(remarks_about(split.kinds, split.levels, channels, {"normalize"}))
    return Facts(
        images=images,
        pixels=int(np.median(split.sizes.min(1))),
        channels=1 if grey else channels,
        normalize="data" if dark else "imagenet",
        gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else "",
        cores=_cores(),
        memory=free_for_state(0, 1),
        image_size=image_size,
        scale=Options.scale if (scale := proposed_scale(split.levels)) is None else scale.words(),
    )


def _cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def recommended(facts: Facts, given: Given, max_batch: int | None = None) -> Recommendation:
    """The first training for the images and the machine, by the rules above. Pure.

    Args:
        max_batch: maximum batch size, if a larger one did not fit into memory.
    """
    rule = next(
        row for row in RULES
        if row.gpu == bool(facts.gpu) and facts.cores >= row.cores and facts.memory >= row.gib * 2**30
        and facts.images >= row.images
    )  # fmt: skip
    size = max((each for each in SIZES if each <= min(facts.pixels, rule.pixels)), default=SIZES[0])
    suited = max(LEAST_BATCH, 2 ** int(math.log2(max(1, facts.images // PART_OF_IMAGES))))
    batch = min(rule.batch_size, suited, facts.images, *(() if max_batch is None else (max_batch,)))
    epochs = max(LEAST_EPOCHS, math.ceil(rule.steps / (facts.images // batch)))
    return Recommendation(
        facts=facts, given=given, method=METHOD, backbone=rule.backbone, image_size=facts.image_size or size,
        batch_size=batch, epochs=min(epochs, MOST_EPOCHS), reason=rule.reason,
    )  # fmt: skip


def at_speed(plan: Recommendation, speed: "Speed") -> Recommendation:
    """The recommendation with its measured time, shortened to `LONGEST` if it takes longer. Pure."""
    plan = dataclasses.replace(plan, step=speed.step, start=speed.start)
    limit = seconds_of(LONGEST)
    if speed.seconds(plan.epochs) <= limit:
        return plan
    if speed.seconds(1) > limit:  # one full epoch, without a time limit
        return dataclasses.replace(plan, epochs=1)
    return dataclasses.replace(plan, epochs=speed.epochs_in(limit), time=LONGEST)


def timed(plan: Recommendation, source: Source) -> Recommendation:
    """Times some steps of a recommended training on the images, and adds its expected duration.

    The batch size is halved until a batch fits into GPU memory.

    Args:
        source: the opened images.

    Raises:
        Exception: any error that the training would raise.
    """
    from ..training.stages import measure
    from ..training.timing import Speed  # imports Lightning, which takes seconds and which the rules do not need

    speed = Speed(None, plan.epochs, within=MEASURED_SECONDS)
    data = source if source.channels == plan.facts.channels else plan.given.data
    if isinstance(data, Source) and plan.scale != plan.given.scale:
        data = data.reading(plan.run("", tempfile.gettempdir()).pixels)
    try:
        measure(plan.run(data, tempfile.mkdtemp(prefix="lookalike-speed-")), speed)
    except torch.cuda.OutOfMemoryError:
        if plan.batch_size <= LEAST_BATCH:
            raise
        smaller = recommended(plan.facts, plan.given, plan.batch_size // 2)
    else:
        return at_speed(plan, speed)
    torch.cuda.empty_cache()
    return timed(dataclasses.replace(smaller, out=plan.out), source)


def free_place(out: str = OUT) -> str:
    """A run folder that does not exist: `out`, or the first free one of `out.2`, `out.3`, ..."""
    return str(unused(Path(out)))

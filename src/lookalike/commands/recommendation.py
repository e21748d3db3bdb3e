"""The first command for some images on this machine: method, network, sizes, and how long it takes, by a measured step.

`recommended` is a pure function of facts, by the rules of `RULES` and `SIZES`; `timed` measures what it gives.
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

from ..data import Source
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
"""The method of a first training: with VICReg the best start of all in few steps, and with one weight to choose."""


@dataclass(frozen=True)
class Rule:
    """What a kind of machine trains first."""

    gpu: bool
    cores: int
    """At least."""
    gib: float
    """Of free memory, the GPU's where there is one: at least."""
    images: int
    """At least."""
    backbone: str
    pixels: int
    """Of the largest view, at most."""
    batch_size: int
    """Images of a step, at most."""
    steps: int
    """Optimizer steps, at least."""
    reason: str


RULES: Final = (
    Rule(True, 0, 0, 100_000, "resnet50", 224, 256, 2000, "a rule of thumb: a ResNet-50 from 100,000 images on"),
    Rule(True, 0, 0, 0, "resnet18", 224, 256, 2000, "a rule of thumb: a ResNet-18 for fewer than 100,000 images"),
    Rule(False, 8, 4, 0, "mobilenetv3_small_100", 128, 64, 500, "more cores, so twice the width and larger images"),
    Rule(False, 0, 4, 0, "mobilenetv3_small_050", 96, 64, 500, "the fewest operations of `list backbones --small`"),
    Rule(False, 0, 0, 0, "mobilenetv3_small_050", 64, 32, 500, "little memory, so two views of each image, not eight"),
)
"""The first one that a machine and its images reach is taken."""
SIZES: Final = 32, 64, 96, 128, 224
"""Image sizes to choose from: the largest that most images have, for enlarging them adds nothing and takes time."""
PART_OF_IMAGES: Final = 8
"""A batch is at most one part in so many of the images: an epoch of fewer steps hardly shuffles them."""
LEAST_BATCH: Final = 16
"""Of a smaller batch the loss of `METHOD` knows too little of how all images lie."""
LEAST_EPOCHS: Final = 10
"""An image should be seen so often, however many there are."""
MOST_EPOCHS: Final = Options.epochs
"""Few images are not repeated more often than in a training without --epochs."""
LONGEST: Final = "30min"
"""A first training takes no longer where an epoch fits into it."""
FEW_IMAGES: Final = 200
"""Fewer images teach little without published weights to begin from."""
MEASURED_SECONDS: Final = 6.0
"""That steps are timed for at most, if two steps take no longer."""
OUT: Final = "runs/first"


@dataclass(frozen=True)
class Facts:
    """What the choice depends on."""

    images: int
    pixels: int
    """The median of the images' shorter sides."""
    channels: int
    """Those to train with: 1 where all images are grey."""
    normalize: Literal["imagenet", "data"]
    gpu: str
    """Its name; empty without one."""
    cores: int
    memory: int
    """Bytes that are free, the GPU's where there is one."""
    image_size: int | None = None
    """Pixels of the largest view that the user wants."""

    @property
    def machine(self) -> str:
        """The GPU, or the number of cores."""
        return self.gpu or counted(self.cores, "core")


@dataclass(frozen=True)
class Given:
    """What the user says of the images, which the command repeats."""

    data: str
    alpha: Alpha = Options.alpha
    workers: int | None = None


@dataclass(frozen=True)
class Recommendation:
    """The training to begin with."""

    facts: Facts
    given: Given
    method: str
    backbone: str
    image_size: int
    batch_size: int
    epochs: int
    """Of a training with a `time`: those that fit into it."""
    reason: str
    """Of the network."""
    out: str = OUT
    time: str | None = None
    """What the training is given in the place of epochs, as --time takes it."""
    step: float | None = None
    """Seconds of an optimizer step, measured; None before."""
    start: float = 0.0
    """Seconds before the first step, and what the first steps took longer than later ones."""

    @property
    def steps_per_epoch(self) -> int:
        return self.facts.images // self.batch_size

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        return self.epochs * self.steps_per_epoch

    @property
    def seconds(self) -> float | None:
        """What the training takes; None where no step was timed."""
        return None if self.step is None else self.start + self.steps * self.step

    @property
    def command(self) -> str:
        """The command for a shell, in the directory in which DATA was named."""
        return pasteable("lookalike", "pretrain", self.method, self.given.data, *_typed(self._options()))

    def _options(self) -> dict[str, object]:
        sizes = {"backbone": self.backbone, "image_size": self.image_size, "batch_size": self.batch_size}
        length = {"epochs": self.epochs} if self.time is None else {"time": self.time}
        workers = {} if self.given.workers is None else {"workers": self.given.workers}
        return {**sizes, **length, **self._of_images(), **workers, "out": self.out}

    @property
    def views(self) -> str:
        """The command that draws what the training sees."""
        options = {"image_size": self.image_size, **self._of_images()}
        return pasteable("lookalike", "views", self.method, self.given.data, *_typed(options))

    def _of_images(self) -> dict[str, object]:
        """Options that say how images are read, where they are not the default."""
        own = {"channels": self.facts.channels, "alpha": self.given.alpha, "normalize": self.facts.normalize}
        return {name: value for name, value in own.items() if value != vars(Options)[name]}

    def run(self, data: str | Source, out: str) -> Run:
        """The training of the command.

        Args:
            data: the images that `Given.data` names.
            out: its folder.
        """
        method = get_method(self.method).Config()  # type: ignore[call-arg]
        return Run(
            data=data, method=method, out=out, backbone=self.backbone,
            image_size=self.image_size, batch_size=self.batch_size, channels=self.facts.channels,
            epochs=Options.epochs if self.time else self.epochs, time=self.time, alpha=self.given.alpha,
            normalize=self.facts.normalize, workers=self.given.workers, origins=by_user(self._options()),
        )  # fmt: skip

    def lines(self) -> list[str]:
        """Facts and expected time, what else is to be known, and in the end the command."""
        size, images = counted(self.image_size, "pixel"), counted(self.facts.images, "image", grouped=True)
        lines = [f"{images} at {size}, {self.facts.machine}: {self._duration()}"]
        if self.facts.images < FEW_IMAGES:
            lines.append(
                f"            {images} {are(self.facts.images)} few to learn from. Find more that are alike, or begin "
                f"from published weights, which are downloaded: --init timm/{self.backbone}"
            )
        if self.seconds is not None and self.seconds > seconds_of(LONGEST):
            lines.append(
                f"            All images once take longer than {LONGEST}. For a first look give a text file of fewer "
                "paths as DATA"
            )
        about = "" if self.seconds is None else f"   # about {spoken(self.seconds)}"
        return [*lines, f"Its views: {self.views}", f"Next: {self.command}{about}"]

    def _duration(self) -> str:
        epochs = counted(self.epochs, "epoch")
        if self.seconds is None or self.step is None:
            return f"{epochs}, {counted(self.steps, 'step')}; how long they take was not measured"
        return (
            f"about {spoken(self.seconds)} for {epochs}, by a measured {spoken(self.step)} for each of "
            f"{counted(self.steps, 'step')}"
        )

    def content(self) -> dict[str, object]:
        """All of it, for JSON."""
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
    """Options as they are typed."""
    return [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value)]


def facts_of(split: Split, image_size: int | None = None) -> Facts:
    """What can be known of images, and of this machine.

    Args:
        split: the images, as `check` saw them.
        image_size: pixels of the largest view, where the user wants so many.

    Raises:
        ValueError: no training of them can begin; the message says why, and what to do.
    """
    images, unread = len(split.source), len(split.broken)
    if images - unread < 2:
        raise ValueError(f"{counted(images - unread, 'image')} can be read: at least 2 are needed to learn from.")
    if unread > Options.max_broken * images:
        raise ValueError(
            f"{unread} of {counted(images, 'image')} cannot be read or used, and a training stops above "
            f"{Options.max_broken:.0%} of them. Give a list of the others as DATA, or train with --max-broken 1."
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
    )


def _cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def recommended(facts: Facts, given: Given, most: int | None = None) -> Recommendation:
    """The first training for some images and a machine, by the rules above. Pure.

    Args:
        most: images of a step at most, where a larger batch did not fit into memory.
    """
    rule = next(
        row for row in RULES
        if row.gpu == bool(facts.gpu) and facts.cores >= row.cores and facts.memory >= row.gib * 2**30
        and facts.images >= row.images
    )  # fmt: skip
    size = max((each for each in SIZES if each <= min(facts.pixels, rule.pixels)), default=SIZES[0])
    few = max(LEAST_BATCH, 2 ** int(math.log2(max(1, facts.images // PART_OF_IMAGES))))
    batch = min(rule.batch_size, few, facts.images, *(() if most is None else (most,)))
    epochs = max(LEAST_EPOCHS, math.ceil(rule.steps / (facts.images // batch)))
    return Recommendation(
        facts=facts, given=given, method=METHOD, backbone=rule.backbone, image_size=facts.image_size or size,
        batch_size=batch, epochs=min(epochs, MOST_EPOCHS), reason=rule.reason,
    )  # fmt: skip


def at_speed(plan: Recommendation, speed: "Speed") -> Recommendation:
    """A recommendation with its measured time; of a longer training than `LONGEST` what fits into that. Pure."""
    plan = dataclasses.replace(plan, step=speed.step, start=speed.start)
    most = seconds_of(LONGEST)
    if speed.seconds(plan.epochs) <= most:
        return plan
    if speed.seconds(1) > most:  # one that is whole all the same, and no time is promised
        return dataclasses.replace(plan, epochs=1)
    return dataclasses.replace(plan, epochs=speed.epochs_in(most), time=LONGEST)


def timed(plan: Recommendation, source: Source) -> Recommendation:
    """Times some steps of a recommended training, real ones on the images, and says how long all of it takes.

    A batch that does not fit into the GPU's memory is halved until it does.

    Args:
        source: the images, open.

    Raises:
        Exception: what the training would raise.
    """
    from ..training.stages import measure
    from ..training.timing import Speed  # with Lightning, seconds of importing that the rules alone do not need

    speed = Speed(None, plan.epochs, within=MEASURED_SECONDS)
    data = source if source.channels == plan.facts.channels else plan.given.data
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
    """A folder for a run that is not there yet: `out`, or the first of `out.2`, `out.3`, ... that is free."""
    return str(unused(Path(out)))

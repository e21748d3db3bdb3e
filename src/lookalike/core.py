"""The contract between a method and everything around it: `Config`, `Batch`, `Progress` and `Method`.

A method knows no trainer, logger, data set or rank. `examples/bare_loop.py` trains one in plain PyTorch.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from .backbones import Backbone, Interpolation, Stem
from .optim import FEW, Group, Optim
from .printing import counted
from .schedules import Schedule
from .views import View


@dataclass(frozen=True)
class Progress:
    """Where a training is. All that happens within one optimizer step sees the same `Progress`."""

    step: int
    """The optimizer step being made, from 0 to `steps` - 1."""
    steps: int
    steps_per_epoch: int
    seed: int = 0
    """Of the run: whatever a method draws itself is a function of it, so that other seeds are other trainings."""

    @property
    def share(self) -> float:
        """Share of the training that is done, in [0, 1]."""
        return self.step / self.steps

    @property
    def epoch(self) -> float:
        """Finished epochs, with the fraction of the current one."""
        return self.step / self.steps_per_epoch


@dataclass
class Batch:
    """What a method sees of one (micro-)batch."""

    views: list[Tensor]
    """One tensor (B, C, H, W) per view, normalised, in the order of the configuration, with `count` expanded."""
    index: Tensor
    """(B,) int64, the images' places in the data set."""
    progress: Progress
    labels: Tensor | None = None
    """(B,) int64, or None where the data has none."""
    places: Tensor | None = None
    """`index` on the CPU, where to read it waits for no device; None where only `index` is at hand."""


@dataclass(frozen=True)
class Config:
    """What every method's configuration holds; a method's own `Config` gives these two their paper's values."""

    method: ClassVar[type["Method"]]
    views: tuple[View, ...]
    """The augmented views of each image, in the order in which the method reads them."""
    optim: Optim


LIKE_IMAGENET = 500_000
"""So many images, or more, keep what the papers state for ImageNet's: widths, queues, prototypes, momentum."""

IMAGES_PER_PROTOTYPE = 15
"""On fewer images methods with groups get one for so many of them; 50,000 images have about the papers' 3,000."""


def check_positive(cfg: Config, *names: str) -> None:
    """Raises ValueError where one of these fields is not above zero."""
    for name in names:
        if not vars(cfg)[name] > 0:
            raise ValueError(f"{name} is {vars(cfg)[name]}; it must be above 0.")


def check_momentum(**values: float | Schedule) -> None:
    """Raises ValueError where a momentum is no share at any time; names are those of the options."""
    for name, value in values.items():
        ends = (
            {f"{name}.start": value.start, f"{name}.end": value.end} if isinstance(value, Schedule) else {name: value}
        )
        for end, share in ends.items():
            if share is not None and not 0 <= share <= 1:
                raise ValueError(
                    f"{end} is {share}; it is a share from 0 (the student itself) to 1 (a teacher at rest)."
                )


def too_fast(momentum: float, option: str) -> str:
    """The cause to name where a teacher follows so fast that it is hardly another network; else nothing."""
    if momentum >= 0.9:
        return ""
    return f"With a momentum of {momentum:g} the teacher runs after the student. Give {option} 0.9 to 0.999."


def check_crops(cfg: Config, *, joined: bool = False) -> None:
    """Raises ValueError where the recipes are not two global views, first, and then none or some that are no larger.

    `joined` says that the global views must have one size.
    """
    name = type(cfg).__qualname__.split(".")[0]
    sizes = [view.size for view in cfg.views for _ in range(view.count)]
    if len(sizes) < 2:
        raise ValueError(f"{name} compares 2 global views of each image or more, and views make {len(sizes)}.")
    if joined and sizes[0] != sizes[1]:
        raise ValueError(
            f"{name} passes the first two views, the global ones, through the network together, and they have "
            f"{sizes[0]} and {sizes[1]} pixels. Give them one size."
        )
    if max(sizes[2:], default=0) > min(sizes[:2]):
        raise ValueError(
            f"{name} takes the first two views for the global ones ({sizes[0]} and {sizes[1]} pixels), and another has "
            f"{max(sizes[2:])}. Give local views a smaller size than global ones, and put them last."
        )


def check_not_negative(cfg: Config, *names: str) -> None:
    """Raises ValueError where one of these fields is below zero."""
    for name in names:
        if vars(cfg)[name] < 0:
            raise ValueError(f"{name} is {vars(cfg)[name]}; it must not be negative.")


def check_drop_path(drop_path: float) -> None:
    """Raises ValueError where the probability to skip a block is none, or certainty."""
    if not 0 <= drop_path < 1:
        raise ValueError(f"drop_path is {drop_path}; it is a probability from 0 to below 1.")


def check_queue(queue: int, batch_size: int) -> None:
    """Raises ValueError where a queue does not hold whole batches."""
    if queue % batch_size:
        near = max(1, round(queue / batch_size)) * batch_size
        raise ValueError(
            f"--queue {queue} is no multiple of --batch-size {batch_size}: a batch takes the place of the oldest as a "
            f"whole. Give --queue {near}."
        )


def too_few_for(out_dim: int, batch_size: int) -> str:
    """The warning of methods that estimate correlations, where batches have fewer images than embeddings numbers."""
    if batch_size >= out_dim:
        return ""
    return (
        f"batches of {batch_size} for embeddings of {counted(out_dim, 'number')}: their correlations are those "
        f"of {counted(batch_size, 'image')}, whose rank is {batch_size - 1} at most, and chance alone makes "
        f"them {batch_size**-0.5:.2g} or so. "
        "A larger --batch-size or a smaller --out-dim estimates them better."
    )


def check_prototypes(prototypes: int, images: int) -> None:
    """Raises ValueError where there are more prototypes than images."""
    if prototypes > images:
        raise ValueError(
            f"--prototypes {prototypes} for {counted(images, 'image')}: groups of less than one image say "
            "nothing. Give "
            f"--prototypes {max(1, images // IMAGES_PER_PROTOTYPE)} or so, or more images."
        )


def groups_for(images: int, most: int) -> int:
    """Groups of clustering for so many images: one for 15, two at least; `most` at most, and for data like ImageNet."""
    return most if images >= LIKE_IMAGENET else min(most, max(2, images // IMAGES_PER_PROTOTYPE))


def prototypes_for(images: int, most: int) -> int:
    """Prototypes of self-distillation for so many images, `most` at most.

    A power of 2, one for 12 images or so, 1,024 at least; for data like ImageNet `most`. 4,096 for 50,000 images is
    solo-learn's setting for CIFAR-10.
    """
    return most if images >= LIKE_IMAGENET else min(most, 2 ** max(10, round(math.log2(images / 12))))


def momentum_for(images: int, momentum: Schedule) -> Schedule:
    """A teacher's momentum for so many images: 0.99 at first for few, whose trainings have few steps."""
    return momentum if images >= FEW else dataclasses.replace(momentum, start=min(momentum.start, 0.99))


def teacher_temp_for(images: int, temperature: Schedule) -> Schedule:
    """A teacher's temperature for so many images: 0.02 throughout for few, whose targets stay vague otherwise."""
    if images >= FEW:
        return temperature
    return dataclasses.replace(temperature, start=0.02, warmup_epochs=0.0, warmup_start=0.02)


def check_temperature(**schedules: Schedule) -> None:
    """Raises ValueError where a temperature is not above zero at any time; names are those of the options."""
    for name, schedule in schedules.items():
        lowest = min(x for x in (schedule.start, schedule.end) if x is not None)
        if schedule.warmup_epochs:
            lowest = min(lowest, schedule.warmup_start)
        if lowest <= 0 or schedule.freeze_epochs:
            raise ValueError(f"{name} goes down to {min(lowest, 0.0):g}; it must be above 0 from the first step on.")


def unbalanced(teacher_temp: Schedule, student_temp: float, centering: bool) -> str:
    """The cause to name where a teacher's targets are not centred, or no sharper than what tells them; else nothing."""
    if not centering:
        return "Without centring one prototype takes all images. Leave --no-centering out."
    if teacher_temp.start < student_temp:
        return ""
    return (
        f"With --teacher-temp.start {teacher_temp.start:g} and --student-temp {student_temp:g} targets are no sharper "
        "than what tells them, and become the same for all images. Give --teacher-temp.start "
        f"{min(0.04, 0.4 * student_temp):.2g}."
    )


def check_views(cfg: Config, expected: int) -> None:
    """Raises ValueError where the recipes do not make `expected` views of each image."""
    if (count := sum(view.count for view in cfg.views)) != expected:
        name = type(cfg).__qualname__.split(".")[0]
        raise ValueError(
            f"{name} compares {expected} views of each image, and views make {count}. Set the views' count."
        )


class Memory(Protocol):
    """What a method said of images, kept for the epochs and runs to come."""

    def recall(
        self, index: Tensor, turn: int, ask: Callable[[Tensor], Tensor], device: torch.device | None = None
    ) -> Tensor:
        """The rows (B, W) of images, by their places in the data set (B,), in one of their repeated views.

        They come on `device`, or else that of `index`.

        Where one is not known yet, `ask` is called with the rows (B,) of the whole batch; of its answer (B, W) what was
        not known is kept.
        """


_Config = Config  # inside `Method` the name Config means the subclass's own


class Method(nn.Module):
    """A self-supervised method: modules, a loss, and the paper's hyperparameters.

    A subclass defines its own frozen dataclass `Config(core.Config)` and `forward`.
    """

    Config: ClassVar[type[_Config]] = _Config
    needs_labels: ClassVar[bool] = False
    """Whether `Batch.labels` must be there: the names of the class folders."""
    sync_batchnorm: ClassVar[bool] = True
    """Whether BatchNorm sees the joined batch of all processes."""

    watches_heads: ClassVar[bool] = True
    """Whether heads that make the same of all images mean a collapse; not where what is common is taken off later."""
    needs_mask_token: ClassVar[bool] = False
    """Whether patches are masked: only plain ViTs can do that."""
    watches_features: ClassVar[bool] = True
    """Whether images that become alike mean a collapse; not where those of a class are to."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        own = cls.__dict__.get("Config")
        if not (isinstance(own, type) and issubclass(own, _Config) and dataclasses.is_dataclass(own)):
            raise TypeError(
                f"{cls.__name__} has no Config of its own. "
                "Write inside it: @dataclass(frozen=True) class Config(core.Config)."
            )
        own.method = cls

    def __init__(self, cfg: _Config, backbone: Backbone) -> None:
        super().__init__()
        self.cfg = cfg
        self.backbone = backbone
        self.memory: Memory | None = None
        """Set before training, where the views repeat and `memory_name` says so."""

    @property
    def encoder(self) -> Backbone:
        """What is evaluated and exported."""
        return self.backbone

    @classmethod
    def fit_to(
        cls, cfg: _Config, images: int, image_size: int, batch_size: int = 256, patch_size: int | None = None
    ) -> _Config:
        """Adapts the configuration to a data set of `images` images seen at `image_size` pixels.

        `patch_size` is that of a plain vision transformer, None for all other backbones.
        """
        return cfg

    @classmethod
    def views(cls, cfg: _Config, at: Progress) -> tuple[View, ...]:
        """The views of a step: those of the configuration, unless a method changes them on its way."""
        return cfg.views

    @classmethod
    def sizes(cls, cfg: _Config, views: tuple[View, ...]) -> set[int]:
        """Pixels of the images that the backbone gets, where the training makes these views."""
        return {view.size for view in views}

    @classmethod
    def repeats(cls, cfg: _Config) -> int:
        """After how many epochs an image's views come again; 0 where they never do."""
        return 0

    @classmethod
    def drop_path(cls, cfg: _Config) -> float:
        """Probability that the student's last residual block is skipped, in [0, 1); less for the blocks before."""
        return 0.0

    @classmethod
    def known_classes(cls, cfg: _Config) -> tuple[str, ...] | None:
        """The names of the classes that the data may have, in their order; None where any will do."""
        return None

    @classmethod
    def learns_in_turns(cls, cfg: _Config) -> bool:
        """Whether some parameters that learn get no gradient in some steps."""
        return False

    @classmethod
    def stem(cls, cfg: _Config) -> Stem | None:
        """A ResNet's first layers; None leaves them to the size of the images. See `backbones.create`."""
        return None

    @classmethod
    def interpolation(cls, cfg: _Config) -> Interpolation:
        """How a plain ViT resizes its position embedding."""
        return "official"

    @classmethod
    def check(cls, cfg: _Config, batch_size: int, images: int) -> None:
        """Raises ValueError, saying what to change, where the configuration does not fit the global batch or the data.

        `images` is the number of images of the data set.
        """

    @classmethod
    def bank_numbers(cls, cfg: _Config) -> int:
        """How many numbers a memory bank holds, which must fit beside the training; 0 without one."""
        return 0

    @classmethod
    def warning(cls, cfg: _Config, batch_size: int) -> str:
        """What a user should know before training with losses of `batch_size` images at a time, and why; or ""."""
        return ""

    def memory_name(self) -> str:
        """What the rows in `memory` depend on beside the images; "" where none is wanted."""
        return ""

    def memory_width(self) -> int:
        """Numbers in a row of `memory`."""
        return 0

    def words(self) -> list[str]:
        """Lines about the method for the start of a run."""
        return []

    def before_training(self) -> None:
        """Runs once the backbone has the weights that the training starts from: the place to copy them to a teacher."""

    def survey(self, batches: Iterable[Batch]) -> None:
        """Runs before the first step, without gradients: the place to begin a memory bank.

        `batches` shows the images once, as an epoch does. It is lazy: what is not looked at is not made.
        """

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the scalar "loss" and its named parts; changes no state but BatchNorm's statistics."""
        raise NotImplementedError

    def figures(self) -> dict[str, float]:
        """Figures of the method's own that tell its health, such as an entropy: they join the rows of `metrics.jsonl`.

        Called now and then, after a step, on one process only: it must not communicate or change anything.
        """
        return {}

    def groups(self) -> list[Group]:
        """Parameter groups with a schedule or decay of their own; all other parameters need none."""
        return []

    def cause(self) -> str:
        """What in the configuration explains a training that collapses or stands still, and what to change; or ""."""
        return ""

    def before_step(self, at: Progress) -> None:
        """Runs after the backward pass and before clipping: the place to freeze a layer by dropping its gradient."""

    def after_step(self, at: Progress) -> None:
        """Runs after each real optimizer step: the place to move a teacher, a centre, a queue or a bank."""

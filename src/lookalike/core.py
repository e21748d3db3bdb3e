"""The contract between a method and everything around it: `Config`, `Batch`, `Progress` and `Method`.

A method knows no trainer, logger, data set or rank. `examples/bare_loop.py` trains one in plain PyTorch.
"""

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from .backbones.base import Backbone, Interpolation, Stem
from .optim import Group, Optim
from .schedules import Progress as Progress
from .views import View


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


@dataclass(frozen=True)
class DataFacts:
    """What a configuration is fitted to: the data, and how long a training sees them."""

    images: int
    """In the data set."""
    image_size: int
    """Pixels of the largest view's sides."""
    batch_size: int = 256
    """Images of an optimizer step, over all processes and micro-batches."""
    epochs: int = 100
    patch_size: int | None = None
    """Pixels of a patch's sides, of a plain vision transformer; None for all other backbones."""

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole training, 1 or more."""
        return max(1, self.images // self.batch_size) * self.epochs


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
    def fit_to(cls, cfg: _Config, data: DataFacts) -> _Config:
        """Adapts the configuration to the data and the length of the training."""
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

"""The contract between a method and everything around it: `Batch`, `Config`, `Needs` and `Method`.

A method knows no trainer, logger, data set or rank. `examples/bare_loop.py` trains one in plain PyTorch.
"""

import dataclasses
import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from torch import Tensor, nn

from .backbones.base import Backbone, Interpolation, Stem
from .optim import Group, Optim
from .schedules import Progress as Progress
from .views import View


@dataclass
class Batch:
    """The input of a method: one (micro-)batch."""

    views: list[Tensor]
    """One tensor (B, C, H, W) per view, normalised, in the order of the configuration, with `count` expanded."""
    index: Tensor
    """(B,) int64, the images' indices in the data set."""
    progress: Progress
    labels: Tensor | None = None
    """(B,) int64, or None if the data has no labels."""
    cpu_index: Tensor | None = None
    """`index` on the CPU, readable without synchronising the device; None if there is only `index`."""


Outputs = Mapping[str, Tensor]
"""Result of `Method.forward` for a (micro-)batch: "loss", its named parts, and tensors with one axis or more."""


@dataclass(frozen=True)
class DataFacts:
    """The facts that a configuration is fitted to: data, backbone and length of the training."""

    images: int
    """Number of images in the data set."""
    image_size: int
    """Side of the largest view, in pixels."""
    batch_size: int = 256
    """Images per optimizer step, over all processes and micro-batches."""
    epochs: int = 100
    patch_size: int | None = None
    """Side of a plain vision transformer's patches, in pixels; None for all other backbones."""
    accumulate: int = 1
    """Batches per optimizer step that the loss gets one at a time; 1 with a joint loss."""

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole training, at least 1."""
        return max(1, self.images // self.batch_size) * self.epochs


@dataclass(frozen=True)
class Needs:
    """A method's requirements on data, backbone and training; the defaults suit most methods."""

    labels: bool = False
    """`Batch.labels` is required: one class per image, from the class folders."""
    classes: tuple[str, ...] | None = None
    """Names of the classes that the data must have, in order; None for any."""
    mask_token: bool = False
    """Patches are masked, which only plain ViTs support."""
    drop_path: float = 0.0
    """Stochastic depth: probability of skipping the backbone's last block, in [0, 1); falls to 0 at the first."""
    stem: Stem | None = None
    """A ResNet's first layers; None chooses them by the image size. See `backbones.create`."""
    interpolation: Interpolation = "official"
    """How a plain ViT resizes its position embedding."""
    sync_batchnorm: bool = True
    """BatchNorm statistics are over the joint batch of all processes."""
    partial_gradients: bool = False
    """Some trainable parameters get no gradient in some steps."""
    couples_batch: bool = True
    """The loss of an image depends on the other images of its batch, so micro-batches differ from their joint batch."""
    memory_bank: int = 0
    """Values in a memory bank, which needs memory besides the training; 0 without one."""
    repeated_views: int = 0
    """Epochs after which an image's views repeat; 0 if they never do."""
    handed_over: tuple[str, ...] = ()
    """Names of outputs that `after_step` gets from all micro-batches."""
    watch_features: bool = True
    """Report a collapse if features of all images become similar; off if features of a class are meant to."""
    watch_heads: bool = True
    """Report a collapse if a head's outputs become similar; off if a common part is subtracted later."""


@dataclass(frozen=True)
class Config:
    """Base of every method's configuration; a method's own `Config` gives these two fields the paper's values.

    All that follows from hyperparameters alone is a method of the configuration.
    """

    method: ClassVar[type["Method"]]
    views: tuple[View, ...]
    """The augmented views of each image, in the order in which the method reads them."""
    optim: Optim

    @property
    def needs(self) -> Needs:
        return Needs()

    def fit_to(self, data: DataFacts) -> Self:
        """The configuration, adapted to the data and the length of the training."""
        return self

    def check(self, data: DataFacts) -> None:
        """Raises ValueError, with what to change, if the configuration does not fit the data or the batch."""

    def warnings(self, data: DataFacts) -> list[str]:
        """Warnings for the start of a run, with reasons."""
        return []

    def views_at(self, at: Progress) -> tuple[View, ...]:
        """The views of a step: those of the configuration, unless a method changes them during the training."""
        return self.views

    def input_sizes(self, views: tuple[View, ...]) -> set[int]:
        """Sides of the backbone's inputs, in pixels, for these views."""
        return {view.size for view in views}


_Config = Config  # inside `Method`, Config is the subclass's own
_HOOKS_OF_0_1 = {
    "words": "describe", "cause": "diagnose", "figures": "metrics", "survey": "initialize_bank",
    "fit_to": "Config.fit_to", "check": "Config.check", "warning": "Config.warnings", "views": "Config.views_at",
    "drop_path": "Config.needs", "needs_labels": "Config.needs", "needs_mask_token": "Config.needs",
    "sync_batchnorm": "Config.needs", "watches_heads": "Config.needs", "watches_features": "Config.needs",
    "known_classes": "Config.needs", "learns_in_turns": "Config.needs", "stem": "Config.needs",
    "interpolation": "Config.needs", "bank_numbers": "Config.needs", "repeats": "Config.needs",
    "sizes": "Config.input_sizes",
}  # fmt: skip


class Method(nn.Module):
    """A self-supervised method: modules, a loss, and the paper's hyperparameters.

    A subclass defines its own frozen dataclass `Config(core.Config)` and `forward`; all other hooks are optional.
    """

    Config: ClassVar[type[_Config]] = _Config

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        own = cls.__dict__.get("Config")
        if not (isinstance(own, type) and issubclass(own, _Config) and dataclasses.is_dataclass(own)):
            raise TypeError(
                f"{cls.__name__} has no Config of its own. "
                "Write inside it: @dataclass(frozen=True) class Config(core.Config)."
            )
        if old := sorted(_HOOKS_OF_0_1.keys() & cls.__dict__.keys()):
            raise TypeError(f"{cls.__name__}.{old[0]} is {cls.__name__}.{_HOOKS_OF_0_1[old[0]]} since version 0.2.")
        if len(inspect.signature(cls.after_step).parameters) != 3:
            raise TypeError(f"{cls.__name__}.after_step takes (self, at, outputs) since version 0.2.")
        own.method = cls

    def __init__(self, cfg: _Config, backbone: Backbone) -> None:
        super().__init__()
        self.cfg = cfg
        self.backbone = backbone

    @property
    def encoder(self) -> Backbone:
        """The part that is evaluated and exported."""
        return self.backbone

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the scalar "loss", its named parts, and the tensors for `after_step` and `metrics`.

        It may change BatchNorm's running statistics and nothing else.
        """
        raise NotImplementedError

    def groups(self) -> list[Group]:
        """Parameter groups with their own schedule or weight decay; all other parameters have the configured ones."""
        return []

    def before_training(self) -> None:
        """Runs once the backbone has its initial weights. Copy them to a teacher here."""

    def initialize_bank(self, batches: Iterable[Batch]) -> None:
        """Runs before the first step, without gradients. Fill a memory bank here.

        `batches` has each image once, as in an epoch. It is lazy: batches that are not consumed are not computed.
        """

    def before_step(self, at: Progress) -> None:
        """Runs after the backward pass and before clipping. Freeze a layer here by dropping its gradient."""

    def after_step(self, at: Progress, outputs: Sequence[Outputs]) -> None:
        """Runs after each real optimizer step. Update a teacher, a centre, a queue or a bank here.

        `outputs` has one mapping per micro-batch of the step on this process, detached, with the names in
        `Needs.handed_over`; `layers.joined` joins them over micro-batches and processes.
        """

    def metrics(self, outputs: Outputs) -> dict[str, float]:
        """The method's own health metrics, such as an entropy, for the rows of `metrics.jsonl`.

        Called after some steps, on one process only, with the detached outputs of the last micro-batch: it must not
        communicate or change anything.
        """
        return {}

    def diagnose(self) -> str:
        """The part of the configuration that explains a collapse or a stalled training, with a remedy, or ""."""
        return ""

    def describe(self) -> list[str]:
        """Lines about the method, printed at the start of a run."""
        return []

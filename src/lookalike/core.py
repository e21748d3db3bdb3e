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
    """What a method sees of one (micro-)batch."""

    views: list[Tensor]
    """One tensor (B, C, H, W) per view, normalised, in the order of the configuration, with `count` expanded."""
    index: Tensor
    """(B,) int64, the images' places in the data set."""
    progress: Progress
    labels: Tensor | None = None
    """(B,) int64, or None where the data has none."""
    cpu_index: Tensor | None = None
    """`index` on the CPU, where to read it waits for no device; None where only `index` is at hand."""


Outputs = Mapping[str, Tensor]
"""What `Method.forward` returns for a (micro-)batch: "loss", its named parts, and tensors with one axis or more."""


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
    accumulate: int = 1
    """Micro-batches of a step; the loss sees one at a time."""

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole training, 1 or more."""
        return max(1, self.images // self.batch_size) * self.epochs


@dataclass(frozen=True)
class Needs:
    """What a method asks of its surroundings, as far as it is not what most methods ask."""

    labels: bool = False
    """`Batch.labels` must be there: the names of the class folders."""
    classes: tuple[str, ...] | None = None
    """The names of the classes that the data may have, in their order; None where any will do."""
    mask_token: bool = False
    """Patches are masked: only plain ViTs can do that."""
    drop_path: float = 0.0
    """Probability that the backbone's last residual block is skipped, in [0, 1); less for the blocks before."""
    stem: Stem | None = None
    """A ResNet's first layers; None leaves them to the size of the images. See `backbones.create`."""
    interpolation: Interpolation = "official"
    """How a plain ViT resizes its position embedding."""
    sync_batchnorm: bool = True
    """BatchNorm sees the joined batch of all processes."""
    partial_gradients: bool = False
    """Some trainable parameters get no gradient in some steps."""
    memory_bank: int = 0
    """Numbers in a memory bank, which must fit beside the training; 0 without one."""
    repeated_views: int = 0
    """Epochs after which an image's views come again; 0 where they never do."""
    handed_over: tuple[str, ...] = ()
    """Names of outputs that `after_step` takes of all micro-batches."""
    watch_features: bool = True
    """Images that become alike mean a collapse; not where those of a class are to."""
    watch_heads: bool = True
    """Heads that make the same of all images mean a collapse; not where what is common is taken off later."""


@dataclass(frozen=True)
class Config:
    """What every method's configuration holds; a method's own `Config` gives these two their paper's values.

    What follows from hyperparameters alone is a method of the configuration.
    """

    method: ClassVar[type["Method"]]
    views: tuple[View, ...]
    """The augmented views of each image, in the order in which the method reads them."""
    optim: Optim

    @property
    def needs(self) -> Needs:
        return Needs()

    def fit_to(self, data: DataFacts) -> Self:
        """The configuration adapted to the data and the length of the training."""
        return self

    def check(self, data: DataFacts) -> None:
        """Raises ValueError, saying what to change, where the configuration does not fit the data or the batch."""

    def warnings(self, data: DataFacts) -> list[str]:
        """What a user should know before the training, and why."""
        return []

    def views_at(self, at: Progress) -> tuple[View, ...]:
        """The views of a step: those of the configuration, unless a method changes them on its way."""
        return self.views

    def input_sizes(self, views: tuple[View, ...]) -> set[int]:
        """Pixels of the images that the backbone gets, where the training makes these views."""
        return {view.size for view in views}


_Config = Config  # inside `Method` the name Config means the subclass's own
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
        """What is evaluated and exported."""
        return self.backbone

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the scalar "loss", its named parts, and what `after_step` and `metrics` are to have.

        It changes nothing but BatchNorm's statistics.
        """
        raise NotImplementedError

    def groups(self) -> list[Group]:
        """Parameter groups with a schedule or decay of their own; all other parameters need none."""
        return []

    def before_training(self) -> None:
        """Runs once the backbone has the weights that the training starts from: the place to copy them to a teacher."""

    def initialize_bank(self, batches: Iterable[Batch]) -> None:
        """Runs before the first step, without gradients: the place to fill a memory bank.

        `batches` shows the images once, as an epoch does. It is lazy: what is not looked at is not made.
        """

    def before_step(self, at: Progress) -> None:
        """Runs after the backward pass and before clipping: the place to freeze a layer by dropping its gradient."""

    def after_step(self, at: Progress, outputs: Sequence[Outputs]) -> None:
        """Runs after each real optimizer step: the place to move a teacher, a centre, a queue or a bank.

        `outputs` are those of the step's micro-batches on this process, detached, as far as `Needs.handed_over` names
        them; `layers.joined` joins them over micro-batches and processes.
        """

    def metrics(self, outputs: Outputs) -> dict[str, float]:
        """The method's own metrics of its health, such as an entropy: they join the rows of `metrics.jsonl`.

        Called now and then, after a step, on one process only, with the detached outputs of the last micro-batch: it
        must not communicate or change anything.
        """
        return {}

    def diagnose(self) -> str:
        """What in the configuration explains a training that collapses or stands still, and what to change; or ""."""
        return ""

    def describe(self) -> list[str]:
        """Lines about the method for the start of a run."""
        return []

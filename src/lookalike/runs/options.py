"""What is asked of a training: `Run`, with the options that every training command takes."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Literal

from ..durations import seconds_of
from ..image_options import LARGEST_IMAGE, MOST_CHANNELS, Alpha
from ..printing import counted
from .origins import Origin

if TYPE_CHECKING:
    from torch import nn

    from ..core import Config
    from ..data import Data

Precision = Literal["fp32", "bf16", "fp16", "fp64"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options that every training command takes."""

    out: str = "runs/last"
    """Folder of the run. An existing run is an error unless `--resume` or `--overwrite`."""
    backbone: str = "resnet50"
    """Any timm model, or torchvision/NAME."""
    epochs: int = 100
    """Passes over the images."""
    time: str | None = None
    """Train for so long, such as 30min, 1h30min or 90s, in the place of `--epochs`: the speed is measured before the
    first step, the whole epochs that fit are made, one at least, and every schedule ends with them. It counts from the
    first preparation (compiling, a survey of the images) to the last step, the probe included; start-up, measuring,
    filling a cache and judging at the end come on top."""
    batch_size: int = 256
    """Images per optimizer step, over all devices and accumulated micro-batches together. Without it a quarter of the
    images where there are fewer than 256."""
    image_size: int | None = None
    """Pixels of the largest view; all views follow in proportion. Without it the method's own sizes."""
    channels: int = 3
    """Channels of an image: grey and colour files are converted."""
    alpha: Alpha = "auto"
    """Lay images with an alpha channel on white, or drop the channel. auto lays them on white where it is certainly
    transparency, and drops what may be near infrared, a height or a mask. With `--channels 4` it is kept."""
    normalize: Literal["imagenet", "data"] = "imagenet"
    """Whose mean and standard deviation images are normalised with: ImageNet's, or those of 1,000 of the images. With
    `--init` it is the weights' own."""
    devices: int = 1
    """Devices per node."""
    nodes: int = 1
    strategy: Literal["ddp"] = "ddp"
    """How several devices share the work: each holds the whole model and a part of the batch."""
    precision: Precision | None = None
    """Without it bf16 on a GPU that has it, and fp32 elsewhere."""
    accumulate: int = 1
    """Micro-batches per optimizer step. Losses that couple the batch see micro-batches."""
    workers: int | None = None
    """Processes that decode images. Without it one per free core, 8 at most."""
    cache: Literal["none", "ram", "device", "disk"] = "none"
    """Decode in every epoch, or keep all images in memory, on the device, or decoded and shrunken on a disk."""
    cache_dir: str | None = None
    """Folder of `--cache disk`, which later runs on the same files use again. Without it ~/.cache/lookalike."""
    decode_size: int | None = None
    """JPEG files are decoded at 1/2, 1/4 or 1/8 while their shorter side stays at or above it. Without it twice the
    largest view."""
    max_broken: float = 0.1
    """Stop when more than this share of the images cannot be read."""
    seed: int = 0
    resume: bool = False
    """Go on with the run in `--out`."""
    overwrite: bool = False
    """Replace the run in `--out`."""
    init: str | None = None
    """Start the encoder from weights: a run, a weights file, timm/NAME or torchvision/NAME."""
    frozen_epochs: float | None = None
    """Epochs in which the encoder stays as `--init` gave it, and only heads learn. Without it a tenth of the epochs."""
    probe: tuple[str, str] | None = None
    """Labelled folders TRAIN TEST for a k-NN that is shown during training."""
    save_every: int = 10
    """Keep a checkpoint every so many epochs. The last two states are always kept."""
    keep_checkpoints: int | None = None
    """How many of these to keep, the newest. Without it all. `--resume` needs the last two states alone."""
    on_collapse: Literal["warn", "stop"] = "warn"
    """What to do when all images get one feature: say so, or stop with exit code 1."""
    logger: Literal["none", "tensorboard", "wandb"] = "none"
    """A logger beside `metrics.jsonl`."""
    checkpoint_activations: bool = False
    """Keep the input of each block alone and compute the rest once more for the backward pass: less memory for another
    forward pass. Not for networks with BatchNorm."""
    compile: bool = False
    """Compile backbone and heads with torch.compile."""
    fit: bool = True
    """Adapt the method to the number and size of the images."""

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 1), ("devices", 1), ("nodes", 1), ("accumulate", 1),
                            ("channels", 1), ("save_every", 1)):  # fmt: skip
            if (found := getattr(self, name)) < least:
                raise ValueError(f"{name} is {found}; it must be at least {least}.")
        for name, most in (("image_size", LARGEST_IMAGE), ("channels", MOST_CHANNELS)):
            if (found := getattr(self, name)) is not None and found > most:
                raise ValueError(f"{name} is {found}; it must be at most {most}.")
        for name, least in (("image_size", 1), ("workers", 0), ("decode_size", 1), ("keep_checkpoints", 0)):
            if (found := getattr(self, name)) is not None and found < least:
                raise ValueError(f"{name} is {found}; it must be at least {least}.")
        for name in ("out", "init"):  # such as of a variable of the shell that is not set
            if getattr(self, name) == "":
                raise ValueError(f"{name} is empty. Give --{name} a name, or leave it out.")
        if not 0 <= self.max_broken <= 1:
            raise ValueError(f"max_broken is {self.max_broken}; it is a share between 0 and 1.")
        if self.frozen_epochs is not None and self.frozen_epochs < 0:
            raise ValueError(f"frozen_epochs is {self.frozen_epochs}; it must be at least 0.")
        if self.frozen_epochs and self.init is None:
            raise ValueError(
                f"frozen_epochs is {self.frozen_epochs} without init: the encoder would stay as random as it is. Give "
                "--init the weights to start from."
            )
        if self.time is None:
            self.check_frozen()
        else:  # which says how many epochs there are
            seconds_of(self.time)
        if self.resume and self.overwrite:
            raise ValueError("resume and overwrite exclude each other: one goes on with the run, one replaces it.")

    def check_frozen(self) -> None:
        """Refuses an encoder that stays as it is to the end."""
        if self.frozen_epochs and self.frozen_epochs >= self.epochs:
            raise ValueError(
                f"frozen_epochs is {self.frozen_epochs:g} of {counted(self.epochs, 'epoch')}: the encoder would "
                "never learn. Give "
                f"--frozen-epochs {self.epochs / 10:g} or so."
            )


@dataclass(frozen=True, kw_only=True)
class Run(Options):
    """A training: the data, the method with its configuration, and the options."""

    data: "Data"
    """A folder (scanned recursively), a text file of paths, a list or array of images, a torch or Hugging Face Dataset,
    or an open source."""
    method: "Config"
    """The method's configuration, for instance `SimCLR.Config(temperature=0.2)`."""
    backbone: "str | nn.Module" = Options.backbone  # type: ignore[assignment]
    """A name, a module of your own, or a loaded encoder, whose weights the training then starts from."""
    teacher: "nn.Module | None" = None
    """For distillation: a pretrained module of your own, (B, C, H, W) to (B, D) or (B, D, H, W), in the place of the
    teacher that the method names. It gets images normalised as the student does."""
    origins: Mapping[str, Origin] = field(default_factory=dict)
    """Where values come from, by dotted names of options and of the method's fields, as far as it was said: what stood
    on a command line or in a file is the user's, and fitting leaves it alone. Of all others, values that are not the
    default are the user's. `epochs` are fitted where `time` came to them."""

    @property
    def to_be_timed(self) -> bool:
        """Whether `time` is yet to say how many epochs there are."""
        return self.time is not None and not self.resume and self.origins.get("epochs") != "fitted"


@dataclass(frozen=True, kw_only=True)
class Resolved(Run):
    """What will be done: a run whose values are all known. None means none, such as no time or no probe."""

    image_size: int
    precision: Precision
    workers: int
    decode_size: int
    frozen_epochs: float

    @staticmethod
    def of(run: Run) -> "Resolved":
        """A run that was resolved once, such as one that `run.yaml` holds.

        Raises:
            ValueError: a value is missing.
        """
        values = {f.name: vars(run)[f.name] for f in fields(Run)}
        values["frozen_epochs"] = values["frozen_epochs"] or 0.0  # None in runs of before this option
        missing = [name for name in ("image_size", "precision", "workers", "decode_size") if values[name] is None]
        if missing:
            raise ValueError(f"{missing[0]} is not known: resolve the run first (lookalike.training.resolve).")
        return Resolved(**values)

"""The options of a training: `Run`, with `Options`, which every training command takes."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Literal

from ..columns import COLUMNS, Columns
from ..durations import seconds_of
from ..image_options import LARGEST_IMAGE, MOST_CHANNELS, Alpha, Pixels, Scale, Tiling
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
    """Folder of the run. An existing run is an error without `--resume` or `--overwrite`."""
    backbone: str = "resnet50"
    """Any timm model, or torchvision/NAME."""
    epochs: int = 100
    """Passes over the images."""
    time: str | None = None
    """Duration of the training, such as 30min, 1h30min or 90s, instead of `--epochs`. The speed is measured before the
    first step; as many whole epochs as fit are trained, at least one, and every schedule ends with them. The duration
    includes preparation (compiling, initialising a memory bank) and the probe; start-up, the measurement, filling a
    cache and a final evaluation are added."""
    batch_size: int = 256
    """Images per optimizer step, in total over all devices and accumulated micro-batches. The default is a quarter of
    the images if there are fewer than 256."""
    image_size: int | None = None
    """Size of the largest view in pixels; all views scale in proportion. The default is the method's own sizes."""
    channels: int = 3
    """Number of channels; grey and colour files are converted."""
    alpha: Alpha = "auto"
    """Composite images with an alpha channel on white, or drop the channel. auto composites on white if it is certainly
    transparency, and drops what may be near infrared, a height or a mask. `--channels 4` reads it as a channel."""
    bands: tuple[str, ...] | None = None
    """Bands to read, in this order: numbers from 1, as in `--bands 4 3 2`, or names that the files state. Pages of a
    TIFF file are bands, too. The default is all bands; `--channels` is then their number."""
    scale: tuple[str, ...] = ("dtype",)
    """Values of the files that become 0 and 1: dtype, those of the type (0 to 255, 0 to 65535; floats from 0 to 1);
    range LOW HIGH, such as range 0 4095 for 12 bits in files of 16; or percentile LOW HIGH, measured per band on 200 of
    the images and stored as a range. Values beyond them are cut."""
    tile: int | None = None
    """Train on tiles of this many pixels instead of images, which may be larger than the limits of images. The name of
    a tile has its position, as in `frame.tif@112,224`: top and left. The last tiles end at the border of a frame."""
    stride: int | None = None
    """Distance between the beginnings of two tiles in pixels, at most `--tile`, which is the default."""
    normalize: Literal["imagenet", "data"] = "imagenet"
    """Mean and standard deviation for the normalisation: ImageNet's, or those of 1,000 of the images. `--init` uses the
    weights' own."""
    devices: int = 1
    """Devices per node."""
    nodes: int = 1
    strategy: Literal["ddp"] = "ddp"
    """Parallelism over several devices: each has the whole model and a part of the batch."""
    precision: Precision | None = None
    """The default is bf16 where it is faster, else fp32: on a GPU that supports it, and on a CPU with AVX512_BF16 for
    convolutional networks without depthwise convolutions, and for transformers with a width of at least 128."""
    accumulate: int = 1
    """Micro-batches per optimizer step. Losses over a batch are computed per micro-batch, unless `--joint-loss`."""
    joint_loss: bool = False
    """With `--accumulate`: heads and loss get the joint batch, as on a larger device; only the backbone computes it in
    micro-batches, twice. For methods whose loss compares the images of a batch."""
    workers: int | None = None
    """Processes that decode images. The default is one per free core, at most 8."""
    cache: Literal["none", "ram", "device", "disk"] = "none"
    """Decode in every epoch, or cache all images in memory, on the device, or decoded and downscaled on a disk."""
    cache_dir: str | None = None
    """Folder of `--cache disk`, which later runs on the same files reuse. The default is ~/.cache/lookalike."""
    decode_size: int | None = None
    """JPEG files are decoded at 1/2, 1/4 or 1/8 of their size if the shorter side keeps at least this many pixels. The
    default is twice the largest view."""
    max_broken: float = 0.1
    """Stop if more than this fraction of the images cannot be read."""
    seed: int = 0
    resume: bool = False
    """Resume the run in `--out`."""
    overwrite: bool = False
    """Replace the run in `--out`."""
    init: str | None = None
    """Start the encoder from weights: a run, a weights file, timm/NAME or torchvision/NAME."""
    frozen_epochs: float | None = None
    """Epochs with a frozen encoder after `--init`: only heads are trained. The default is a tenth of the epochs."""
    probe: tuple[str, str] | None = None
    """Labelled folders TRAIN TEST for the k-NN accuracy during training."""
    save_every: int = 10
    """Number of epochs between saved checkpoints. The last two states are always saved."""
    keep_checkpoints: int | None = None
    """Number of these checkpoints to keep, the newest. The default is all. `--resume` needs only the last two."""
    on_collapse: Literal["warn", "stop"] = "warn"
    """On a collapse, when all images get the same feature: print a warning, or stop with exit code 1."""
    logger: Literal["none", "tensorboard", "wandb"] = "none"
    """A logger in addition to `metrics.jsonl`."""
    checkpoint_activations: bool = False
    """Store only the input of each block and recompute the rest in the backward pass: less memory for an additional
    forward pass. Not for networks with BatchNorm."""
    compile: bool = False
    """Compile backbone and heads with torch.compile."""
    fit: bool = True
    """Adapt the method to the number and size of the images."""
    only: str | None = None
    """A file of `lookalike check DATA --out FILE`: train on the images that it proposes to keep."""
    columns: Columns = COLUMNS
    """Names of the columns of lists (.csv, .tsv, .jsonl)."""

    def __post_init__(self) -> None:
        self._read_words()
        for name, minimum in (("epochs", 1), ("batch_size", 1), ("devices", 1), ("nodes", 1), ("accumulate", 1),
                            ("channels", 1), ("save_every", 1)):  # fmt: skip
            if (found := getattr(self, name)) < minimum:
                raise ValueError(f"{name} is {found}; it must be at least {minimum}.")
        for name, maximum in (("image_size", LARGEST_IMAGE), ("channels", MOST_CHANNELS)):
            if (found := getattr(self, name)) is not None and found > maximum:
                raise ValueError(f"{name} is {found}; it must be at most {maximum}.")
        for name, minimum in (
            ("image_size", 1),
            ("workers", 0),
            ("decode_size", 1),
            ("keep_checkpoints", 0),
            ("tile", 1),
            ("stride", 1),
        ):
            if (found := getattr(self, name)) is not None and found < minimum:
                raise ValueError(f"{name} is {found}; it must be at least {minimum}.")
        for name in ("out", "init", "only"):  # such as from an unset shell variable
            if getattr(self, name) == "":
                raise ValueError(f"{name} is empty. Give --{name} a name, or leave it out.")
        if self.joint_loss and self.accumulate == 1:
            raise ValueError(
                "joint_loss needs micro-batches, and accumulate is 1: the loss gets the joint batch in any case. Give "
                "--accumulate 2 or more, or leave --joint-loss out."
            )
        _ = self.pixels, self.tiling  # raise errors for settings that do not fit each other
        if not 0 <= self.max_broken <= 1:
            raise ValueError(f"max_broken is {self.max_broken}; it is a fraction between 0 and 1.")
        if self.frozen_epochs is not None and self.frozen_epochs < 0:
            raise ValueError(f"frozen_epochs is {self.frozen_epochs}; it must be at least 0.")
        if self.frozen_epochs and self.init is None:
            raise ValueError(
                f"frozen_epochs is {self.frozen_epochs} without init: the encoder would stay random. Give "
                "--init the weights to start from."
            )
        if self.time is None:
            self.check_frozen()
        else:  # it determines the number of epochs
            seconds_of(self.time)
        if self.resume and self.overwrite:
            raise ValueError("resume and overwrite exclude each other: one continues the run, the other replaces it.")

    @property
    def loss_batches(self) -> int:
        """Batches per optimizer step that the loss gets one at a time: 1 with a joint loss."""
        return 1 if self.joint_loss else self.accumulate

    def _read_words(self) -> None:
        """Makes texts of the numbers in `bands` and `scale`, and of the chosen bands the channels."""
        bands: object = self.bands
        if isinstance(bands, str):
            raise ValueError(f"bands is {self.bands!r}; expected several names or numbers. Give for instance "
                             "bands=(4, 3, 2).")  # fmt: skip
        object.__setattr__(self, "scale", Scale.of(self.scale).words())
        if self.bands is not None:
            object.__setattr__(self, "bands", tuple(map(str, self.bands)))
            if self.channels == Options.channels:
                object.__setattr__(self, "channels", max(1, len(self.bands or ())))

    @property
    def pixels(self) -> Pixels:
        """How the pixels of images are read."""
        return Pixels(self.channels, self.alpha, self.bands, Scale.of(self.scale))

    @property
    def tiling(self) -> Tiling | None:
        """The tiles that replace images."""
        return Tiling.of(self.tile, self.stride)

    def check_frozen(self) -> None:
        """Refuses an encoder that is frozen to the end."""
        if self.frozen_epochs and self.frozen_epochs >= self.epochs:
            raise ValueError(
                f"frozen_epochs is {self.frozen_epochs:g} of {counted(self.epochs, 'epoch')}: the encoder would "
                "never be trained. Give "
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
    """For distillation: a pretrained module of your own, (B, C, H, W) to (B, D) or (B, D, H, W), instead of the
    teacher that the method names. It gets images with the student's normalisation."""
    origins: Mapping[str, Origin] = field(default_factory=dict)
    """Origins of values, by dotted names of options and of the method's fields, as far as known. Values from a command
    line or a file are the user's, and fitting does not change them. Of all others, values that are not the default are
    the user's. `epochs` are fitted if `time` determined them."""

    @property
    def to_be_timed(self) -> bool:
        """Whether `time` has yet to determine the number of epochs."""
        return self.time is not None and not self.resume and self.origins.get("epochs") != "fitted"


@dataclass(frozen=True, kw_only=True)
class Resolved(Run):
    """A run with all values known. None means none, such as no time limit or no probe."""

    image_size: int
    precision: Precision
    workers: int
    decode_size: int
    frozen_epochs: float

    @staticmethod
    def of(run: Run) -> "Resolved":
        """A run that was resolved before, such as one read from `run.yaml`.

        Raises:
            ValueError: a value is missing.
        """
        values = {f.name: vars(run)[f.name] for f in fields(Run)}
        values["frozen_epochs"] = values["frozen_epochs"] or 0.0  # None in runs older than this option
        missing = [name for name in ("image_size", "precision", "workers", "decode_size") if values[name] is None]
        if missing:
            raise ValueError(f"{missing[0]} is not known: resolve the run first (lookalike.training.resolve).")
        return Resolved(**values)

"""The command line: one sub-command per verb, one per method under `pretrain`. Nothing else imports tyro.

Heavy libraries are imported by the verb that needs them: help and lists answer within half a second.
"""

import dataclasses
import json
import os
import re
import signal
import sys
import threading
import typing
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Literal, TypeVar, cast

import tyro
from tyro.conf import Positional, Suppress, UseAppendAction

from . import processes
from .commands.compare.spec import Comparison
from .files import check_writable, nearest_folder, read_json
from .foreign import is_tag
from .image_options import Alpha
from .methods import METHODS, SELF_SUPERVISED, get_method
from .names import nearest
from .outlines import outline
from .places import (
    PLOTTED,
    PREDICTED,
    check_backbones,
    check_images,
    check_logger,
    check_optimizer,
    check_suffix,
    no_features,
    no_list,
    refuse_folder,
)
from .printing import are, brief, counted, cut, pasteable, printable, say, shown, typed
from .runs import (
    LOCATIONS,
    Folder,
    Options,
    Run,
    by_user,
    check_same_time,
    directory_of,
    dotted,
    from_mapping,
    method_name,
    plain,
    read_whole_yaml,
    read_yaml,
)
from .runs.lookup import check_encoder, classifier_of, holds_run, no_run

T = TypeVar("T")

LONGEST_MESSAGE = 20_000
"""Characters of an error's message."""

Protocol = Literal[
    "knn", "linear", "logistic", "semi", "retrieval", "label-free", "linear-augmented", "semi-finetune", "finetune"
]
"""Names of `evaluation.PROTOCOLS`, which help must not import."""

OVERVIEW = """\
lookalike: self-supervised learning of image representations

  lookalike demo                               no data needed: train on digits and judge, in a minute or two
  lookalike pretrain METHOD DATA [options]     train an encoder on a folder of unlabelled images
  lookalike distill DATA --teacher T [options] train a small encoder to say what a pretrained one says
  lookalike finetune ENCODER TRAIN TEST        turn it into a classifier, and judge that
  lookalike predict RUN DATA --out FILE        the classes of images by such a classifier, to .csv or .parquet
  lookalike evaluate ENCODER TRAIN TEST        judge it on labelled folders: k-NN and linear probe
  lookalike compare DATA METHOD... [options]   train methods at equal cost, judge all, and rank them
  lookalike embed ENCODER DATA --out FILE      one feature vector per image, to .npz, .parquet or .csv
  lookalike show ENCODER DATA --out FOLDER     pictures of where it looks, what it parts, what it takes for alike
  lookalike report RUN...                      one HTML page: verdict, curves, evaluations, a map of the embedding
  lookalike plot RUN... --out FILE.png         the curves of pretraining and of the linear probe as a picture
  lookalike thin RUN...                        remove checkpoints that a finished run does not need
  lookalike check DATA                         what is in it, and the command to begin with for this machine
  lookalike views METHOD DATA                  a sheet of augmented views, to look at before training
  lookalike list methods|backbones [PATTERN]
  lookalike doctor                             versions, devices, extras and known problems, for a bug report

ENCODER is a run's folder, an encoder.safetensors, an official weights file of DINO or DINOv2, timm/NAME,
torchvision/NAME or torchhub/NAME.
DATA is a folder (scanned recursively, no labels needed) or a text file of paths.
`lookalike VERB --help` shows a verb's options; --debug shows where an error came from."""

PRETRAIN = """\
lookalike pretrain METHOD DATA [options]
lookalike pretrain --from run.yaml [options]     the file gives METHOD, DATA and every default; options override it
lookalike pretrain --resume --out RUN            go on with a run that was stopped

methods
{methods}

At the end report.html is written into the run's folder; --no-report leaves it out.

`lookalike pretrain METHOD --help` shows the method's own options beside these:
"""


DISTILL = """\
lookalike distill DATA --teacher TEACHER --backbone STUDENT [options]
lookalike distill --from run.yaml [options]      the file gives DATA and every default; options override it
lookalike distill --resume --out RUN             go on with a run that was stopped

TEACHER is a run's folder, a weights file, timm/NAME, torchvision/NAME or torchhub/NAME, such as
timm/vit_base_patch14_dinov2.lvd142m. With --probe TRAIN TEST (labelled folders) both are judged at the end.
Then report.html is written into the run's folder; --no-report leaves it out.
"""

FINETUNE = """\
lookalike finetune ENCODER TRAIN TEST [options]
lookalike finetune --from run.yaml [options]     the file gives ENCODER, TRAIN, TEST and every default
lookalike finetune --resume --out RUN            go on with a run that was stopped

ENCODER is a run's folder, a weights file, timm/NAME, torchvision/NAME or torchhub/NAME; a copy of it is trained. TRAIN
and TEST are folders with one sub-folder per class. TEST is judged once, after the last epoch.
Without --image-size images have the pixels that the encoder was made for.
--frozen trains a linear probe with crops and flips; --unfreeze-after N lets the head learn alone for N epochs.
Then report.html is written into the run's folder; --no-report leaves it out.
"""

NOT_OF_FINETUNE = {
    "options": ("backbone", "channels", "normalise", "init", "frozen_epochs", "on_collapse"),
    "method": ("test", "classes", "encoder_stem", "encoder_interpolation"),
}
"""What the encoder, TRAIN and TEST say."""

PLACES = {
    "data": "A folder (scanned recursively) or a text file of paths.",
    "encoder": "A run's folder, a weights file, timm/NAME, torchvision/NAME or torchhub/NAME.",
    "train": "Folder with one sub-folder of images per class.",
    "test": "Folder with the same classes and other images: judged once, at the end.",
}
"""What the commands of trainings take in their first places."""

NOT_OF_PRETRAIN = {
    "distill": "learns from a teacher: lookalike distill DATA --teacher TEACHER",
    "finetune": "learns classes from labels: lookalike finetune ENCODER TRAIN TEST",
}
"""How methods are called that learn from more than images."""

COMPARE = """\
lookalike compare DATA METHOD... --train T --test T [--budget 10min | --epochs N] [--seeds 3] --out DIR

Trains each METHOD with the same network, images and budget, judges all encoders and the untrained one on labelled
folders, and ranks them. The same command goes on where it was stopped. METHOD is a name of `lookalike list methods`, or
distill with --teacher TEACHER. Several tests: --train T1 --test T1 --train T2 --test T2, or one --train for all.
--budget is the time of each training, --epochs in its place the passes over the images (100 without either). More
methods or seeds, all else the same, extend the comparison that DIR holds; --overwrite replaces one that is complete or
asked something else. Then report.html is written into the folder; --no-report leaves it out.
"""

VIEWS = """\
lookalike views METHOD DATA [--out FILE.png] [options of pretrain METHOD]

Draws the first images and their augmented views, exactly as `pretrain` with the same options makes them.
FILE is views.png without --out; --overwrite replaces it."""


class UsageError(Exception):
    """The command line cannot be understood: exit code 2."""


@dataclass(frozen=True)
class Demo:
    """Train SimCLR on scikit-learn's handwritten digits and judge it: no data needed, a minute or two on two cores."""

    out: str = "runs/demo"
    """Folder of the run; the images go beside it, to OUT-digits."""
    epochs: int = 20
    seed: int = 0
    overwrite: bool = False
    """Replace an earlier demo in these folders."""
    report: bool = True
    """Write report.html at the end."""


@dataclass(frozen=True)
class Evaluate:
    """Judge an encoder on labelled images by the field's reference protocols; a run's folder keeps evaluation.json."""

    encoder: Annotated[Positional[str], tyro.conf.arg(metavar="ENCODER")] = ""
    """A run's folder, a file of weights, timm/NAME, torchvision/NAME or torchhub/NAME."""
    train: Annotated[Positional[str], tyro.conf.arg(metavar="TRAIN")] = ""
    """Folder with one sub-folder of images per class."""
    test: Annotated[Positional[str], tyro.conf.arg(metavar="TEST")] = ""
    """Folder with the same classes and other images."""
    protocols: tuple[Protocol, ...] = ("knn", "linear")
    """knn: weighted votes of the 20 nearest training images. linear: a classifier by SGD, its learning rate chosen on a
    held-out tenth. logistic: logistic regression by L-BFGS. semi: the same with few of the labels, drawn ten times.
    retrieval: recall and mAP of test images that look for training images of their class. label-free: scores that need
    no labels; of them recognition, how often a view is nearer to its image's other view than to another image's, orders
    short trainings most as k-NN does. These train on the images, for hours where there are many: linear-augmented: a
    classifier of the frozen encoder, on crops and flips. semi-finetune, finetune: all of the network, with few and with
    all labels."""
    also: tuple[tuple[str, str], ...] = ()
    """Further pairs TRAIN TEST, with classes of their own."""
    features: tuple[str, ...] = ()
    """Files of `lookalike embed` in the place of ENCODER TRAIN TEST: those to train on and to test on, or one, of which
    a fifth is the test."""
    image_size: int | None = None
    """Pixels of the test crop. Without it the size that the encoder was trained or published at."""
    pool: Literal["pooled", "average", "class+average", "last4"] = "pooled"
    """What stands for an image: what the encoder gives (a ViT's class token, a CNN's pooled map), the average of the
    patches, both, or the class tokens of a ViT's last four blocks."""
    batch_size: int = 256
    workers: int | None = None
    """Processes that decode images. Without it one per free core, 8 at most."""
    seed: int = 0
    seeds: int = 1
    """How often what is trained is trained, from --seed on; with several the interval covers them."""
    shares: tuple[float, ...] = (0.01, 0.1)
    """Of each class's labels, for the protocols semi and semi-finetune."""
    labels: str | None = None
    """Text file of the images of TRAIN that keep their labels for these, in the place of --shares: a name per line,
    such as the published lists of ImageNet."""
    epochs: int = 100
    """Of the protocols that train on the images."""
    encoder_backbone: str | None = None
    """Name of the architecture, where ENCODER is a file of weights that does not say it."""
    baseline: bool = False
    """Judge the same network untrained as well, and show both, as 43.0 -> 78.0 %. It takes as long again."""
    keep: bool = True
    """Keep the features in the run's folder, where ENCODER is one, and use them again."""
    out: str | None = None
    """File for the results. Without it evaluation.json in the run's folder, where ENCODER is one."""


@dataclass(frozen=True, kw_only=True)
class Compare(Comparison):
    """Train methods at equal cost, judge all, and rank them."""

    data: Annotated[Positional[str], tyro.conf.arg(metavar="DATA")]
    """A folder of images (scanned recursively) or a text file of paths, which all methods learn from."""
    methods: Annotated[Positional[tuple[str, ...]], tyro.conf.arg(metavar="METHOD...")]
    """Names of `lookalike list methods`, and distill where there is a teacher."""
    train: UseAppendAction[tuple[str, ...]]
    """Labelled folder to judge with: one, or one for each --test, in their order."""
    test: UseAppendAction[tuple[str, ...]]
    """Labelled folder whose images are classified, with the classes of its --train."""
    probe: Suppress[tuple[str, str] | None] = None
    time: Suppress[str | None] = None
    nodes: Suppress[int] = 1
    strategy: Suppress[Literal["ddp"]] = "ddp"
    origins: Suppress[dict[str, Literal["default", "user", "fitted"]]] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Predict:
    """Tell the classes of images by a classifier that `finetune` trained."""

    classifier: Annotated[Positional[str], tyro.conf.arg(metavar="RUN")]
    """The folder of a finetune run, or its classifier.safetensors."""
    data: Annotated[Positional[str], tyro.conf.arg(metavar="DATA")]
    """A folder (scanned recursively, labels are not looked at) or a text file of paths."""
    out: str = "predictions.csv"
    """.csv or .parquet (needs the extra 'tables'): file, label, probability, and the next four."""
    image_size: int | None = None
    """Pixels of the centre crop. Without it the size that the classifier was trained at."""
    batch_size: int = 256
    workers: int | None = None
    """Processes that decode images. Without it one per free core, 8 at most."""
    overwrite: bool = False
    """Replace the file if it exists."""


@dataclass(frozen=True)
class Embed:
    """Write one feature vector per image, with the file's name."""

    encoder: Annotated[Positional[str], tyro.conf.arg(metavar="ENCODER")]
    """A run's folder, a file of weights, timm/NAME, torchvision/NAME or torchhub/NAME."""
    data: Annotated[Positional[str], tyro.conf.arg(metavar="DATA")]
    """A folder (scanned recursively) or a text file of paths. Labels are written where all lie in class folders."""
    out: str = "embeddings.npz"
    """.npz, .parquet (needs the extra 'tables') or .csv"""
    image_size: int | None = None
    """Pixels of the test crop. Without it the size that the encoder was trained or published at."""
    pool: Literal["pooled", "average", "class+average", "last4"] = "pooled"
    """What stands for an image, as for `evaluate`."""
    encoder_backbone: str | None = None
    """Name of the architecture, where ENCODER is a file of weights that does not say it."""
    batch_size: int = 256
    workers: int | None = None
    """Processes that decode images. Without it one per free core, 8 at most."""
    keep: bool = True
    """Keep the features in the run's folder, where ENCODER is one, and use them again."""
    overwrite: bool = False
    """Replace the file if it exists."""


@dataclass(frozen=True)
class Show:
    """Draw what an encoder sees: its attention, its patches as colours, the nearest neighbours of some images."""

    encoder: Annotated[Positional[str], tyro.conf.arg(metavar="ENCODER")]
    """A run's folder, a file of weights, timm/NAME, torchvision/NAME or torchhub/NAME."""
    data: Annotated[Positional[str], tyro.conf.arg(metavar="DATA")]
    """A folder (scanned recursively) or a text file of paths."""
    what: tuple[Literal["attention", "pca", "neighbours"], ...] = ()
    """The pictures. Without it all that the encoder has: attention takes a plain ViT with a class token."""
    out: str = "show"
    """Folder of the pictures."""
    count: int = 8
    """Images per picture, drawn by the seed."""
    image_size: int | None = None
    """Pixels that the encoder sees: larger ones make finer maps. Without it those it was trained or published at."""
    encoder_backbone: str | None = None
    """Name of the architecture, where ENCODER is a file of weights that does not say it."""
    workers: int | None = None
    """Processes that decode images. Without it one per free core, 8 at most."""
    seed: int = 0
    overwrite: bool = False
    """Replace pictures that are there."""


@dataclass(frozen=True)
class Report:
    """Write one HTML page about runs: verdict, curves, evaluations, a map of the embedding; it needs no network."""

    runs: Annotated[Positional[tuple[str, ...]], tyro.conf.arg(metavar="RUN...")]
    """Folders of runs, or of a comparison."""
    images: str | None = None
    """Images of the map, with labels where each class has a folder. Without it the test images of the run's probe, or
    else of its newest evaluation whose folder is still there, or else its data."""
    out: str | None = None
    """The file. Without it report.html, in the run's folder where there is one run."""
    points: int = 5000
    """Images on all maps together, drawn at random; 20,000 stay smooth."""
    workers: int | None = None
    """Processes that decode images. Without it one per free core, 8 at most."""
    overwrite: bool = False
    """Replace the file if it exists. (The page in a run's own folder is always replaced.)"""


@dataclass(frozen=True)
class Plot:
    """Draw the curves of runs as one picture: pretraining, and the linear probe where there was one."""

    runs: Annotated[Positional[tuple[str, ...]], tyro.conf.arg(metavar="RUN...")]
    """Folders of runs; each is one series."""
    out: str
    """.png, .pdf or .svg"""
    overwrite: bool = False
    """Replace the file if it exists."""


@dataclass(frozen=True)
class Thin:
    """Remove the checkpoints of single epochs; the encoder, the last state and all else stay, and --resume works."""

    runs: Annotated[Positional[tuple[str, ...]], tyro.conf.arg(metavar="RUN...")]
    """Folders of runs, or of a comparison, whose trainings are thinned."""
    keep_checkpoints: int = 0
    """How many of them to leave, the newest."""

    def __post_init__(self) -> None:
        if self.keep_checkpoints < 0:
            raise ValueError(f"keep_checkpoints is {self.keep_checkpoints}; it must be at least 0.")


@dataclass(frozen=True)
class Check:
    """Say what a set of images holds: sizes, kinds, values, classes, duplicates, broken files; and how to begin."""

    data: Annotated[Positional[str], tyro.conf.arg(metavar="DATA")]
    """A folder (scanned recursively) or a text file of paths."""
    test: str | None = None
    """Images to judge with: duplicates and groups that are in both are reported."""
    groups: str | None = None
    """Regular expression that finds an image's group (a patient, a scene, a video) in its name, such as '^([^/]+)/'."""
    channels: int = 3
    alpha: Alpha = Options.alpha
    """Lay images with an alpha channel on white, or drop the channel; auto decides by each image, as in training."""
    image_size: int | None = None
    """Pixels that a training would see. Without it those that suit the images and this machine."""
    workers: int | None = None
    """Processes that decode images. Without it one per free core, 8 at most."""
    timing: bool = True
    """Train for some ten seconds in the end, in a folder that is removed, to say how long the command to begin with
    takes."""
    out: str | None = None
    """JSON file for all of it, every broken file and pair of duplicates by name."""
    sheet: str | None = None
    """Picture (.png, .jpg) of the near duplicates side by side, the doubtful ones first: different classes, then the
    least alike."""
    overwrite: bool = False
    """Replace the files if they exist."""


@dataclass(frozen=True)
class List:
    """Names that the other commands take."""

    what: Positional[Literal["methods", "backbones"]]
    pattern: Positional[str] = ""
    """Only names that contain this text."""
    small: bool = False
    """Only backbones that a CPU can train: at most 12 million parameters and 4 GFLOP at 224 pixels."""
    sort: Literal["name", "parameters", "gflop", "dim"] = "name"
    """Order of the backbones; dim is the dimension of their features."""
    measure: bool = False
    """Time a training step of each backbone here: a forward and a backward pass of one view. At most 20 of them."""
    image_size: int = 224
    """Pixels of the images for --measure."""


@dataclass(frozen=True)
class Doctor:
    """Report versions, devices, memory, disks, extras and known problems, for a bug report. It sends nothing."""

    json: bool = False
    """Print all of it as JSON."""


def entry() -> None:
    """The console script."""
    processes.follow_starter()
    # an interrupted import of torch ends in a crash or a traceback; each verb hands Ctrl-C back once it has imported
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, processes.end_at_once)
    sys.exit(main())


def _imported() -> None:
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns its exit code: 0, 1 (failure), 2 (usage), 130 (Ctrl-C), 143 (SIGTERM)."""
    argv = list(sys.argv[1:] if argv is None else argv)
    typed(argv)
    debug = "--debug" in argv
    argv = [a for a in argv if a != "--debug"]
    verbs = {
        "demo": demo,
        "pretrain": pretrain,
        "distill": distill,
        "finetune": finetune,
        "predict": predict,
        "evaluate": evaluate,
        "compare": compare,
        "embed": embed,
        "show": show,
        "report": report,
        "plot": plot,
        "thin": thin,
        "views": views,
        "check": check,
        "list": show_list,
        "doctor": doctor,
    }
    try:
        if not argv or argv[0] in ("--help", "-h", "help"):
            print(OVERVIEW)
            return 0
        if argv[0] == "--version":
            from .runs import version

            print(version())
            return 0
        if argv[0] not in verbs:
            raise UsageError(f"No command is called {shown(argv[0])}. {nearest(argv[0], list(verbs))}")
        verbs[argv[0]](argv[1:])
        return 0
    except SystemExit as stop:  # tyro's help (0) and usage errors (2); SIGTERM (143)
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `lookalike list backbones | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except UsageError as error:
        say(f"error: {cut(str(error), LONGEST_MESSAGE)}", sys.stderr)
        return 2
    except Exception as error:
        if debug:
            raise
        say(f"error: {cut(_message(error), LONGEST_MESSAGE)}", sys.stderr)
        return 1


def _message(error: Exception) -> str:
    """What the user reads: our own messages as they are, anything unexpected with its kind."""
    expected = (ValueError, FileNotFoundError, FileExistsError, ModuleNotFoundError, PermissionError, RuntimeError)
    if isinstance(error, MemoryError):
        return "There is not enough memory. Take fewer --workers, smaller images, or a smaller --batch-size."
    if isinstance(error, OSError):
        if not error.errno and str(error):  # our own words
            return str(error)
        if error.filename is not None and error.strerror:
            denied = isinstance(error, PermissionError)
            advice = " Give this user the permission (ls -ld shows who has it), or name another." if denied else ""
            return f"{printable(os.fsdecode(error.filename))}: {error.strerror}.{advice}"
    return str(error) if isinstance(error, expected) and str(error) else f"{type(error).__name__}: {error}"


_LEAST = {
    "image_size": 1,
    "batch_size": 1,
    "workers": 0,
    "seeds": 1,
    "epochs": 1,
    "count": 1,
    "points": 1,
    "channels": 1,
}
"""The lowest values of numbers that commands share."""


def _parse(cls: type[T], argv: list[str], prog: str, description: str | None = None) -> T:
    options = _parsed(cls, argv, prog, description)
    for name, least in _LEAST.items():
        if (found := vars(options).get(name)) is not None and found < least:
            of_images = name in ("count", "points")
            what = "is a number of images, 1 or more" if of_images else f"must be at least {least}"
            raise ValueError(f"{name} is {found}; it {what}.")
    return options


def _parsed(cls: type[T], argv: list[str], prog: str, description: str | None) -> T:
    try:
        if (written := [printable(a) for a in argv]) != argv:  # tyro prints what it does not understand as it is
            try:
                return tyro.cli(
                    cls, args=argv, prog=f"lookalike {prog}", description=description, console_outputs=False
                )
            except SystemExit:
                argv = written
        return tyro.cli(cls, args=argv, prog=f"lookalike {prog}", description=description)
    except ValueError as error:  # a dataclass refused a value
        raise UsageError(str(error)) from None


def _workers(asked: int | None) -> int:
    return max(1, min(8, (os.cpu_count() or 1) - 1)) if asked is None else asked


# ---------------------------------------------------------------- pretrain and views


def _take(argv: list[str], option: str) -> tuple[str | None, list[str]]:
    """Takes `--option VALUE` or `--option=VALUE` out of the arguments."""
    for i, argument in enumerate(argv):
        if argument == option:
            if i + 1 == len(argv):
                raise UsageError(f"{option} needs a file.")
            return argv[i + 1], argv[:i] + argv[i + 2 :]
        if argument.startswith(f"{option}="):
            return argument.split("=", 1)[1], argv[:i] + argv[i + 1 :]
    return None, argv


def _take_flag(argv: list[str], flag: str) -> tuple[bool, list[str]]:
    """Takes `--no-...` out of the arguments; False where it was there."""
    return flag not in argv, [a for a in argv if a != flag]


@dataclass(frozen=True)
class _Asked:
    """What a command line of a training says before its options are looked at."""

    verb: str
    method: str
    file: str | None
    """What --from or --resume reads."""
    content: dict[str, object]
    """The options in it."""
    whole: dict[str, object]
    """All that stands in it, as it stands there."""
    options: list[str]

    @property
    def classifies(self) -> bool:
        return METHODS[self.method].verb == "finetune" and self.verb != "views"

    @property
    def typed(self) -> set[str]:
        """Options that stand on the command line, as names of fields."""
        return {a[2:].split("=")[0].replace("-", "_") for a in self.options if a.startswith("--")}


def _asked(verb: str, argv: list[str]) -> _Asked:
    """Finds METHOD: the first argument, or in the file that --from or --resume reads."""
    file, argv = _take(argv, "--from")
    if file is None and verb in ("pretrain", "distill", "finetune") and "--resume" in argv:
        out, _ = _take(argv, "--out")
        folder = Folder(out or Options.out)
        folder.check(resume=True, overwrite=False)
        file = str(folder.run)
    content = read_yaml(file) if file is not None else {}
    whole = read_whole_yaml(Path(file)) if file is not None else {}
    named = content.pop("method", None)
    first = argv[0] if argv and not argv[0].startswith("-") else None
    if verb == "pretrain" and first in METHODS and first not in SELF_SUPERVISED:
        raise UsageError(f"{first} {NOT_OF_PRETRAIN[METHODS[first].verb]}.")
    known = METHODS if verb == "views" else SELF_SUPERVISED
    if first in METHODS:
        if named is not None and first != named:
            raise UsageError(f"{file} is a run of {brief(named)}, and {first} was asked for. Leave one of them out.")
        name, argv = first, argv[1:]
    elif named is None or (first is not None and len(argv) > 1 and not argv[1].startswith("-")):
        if first is None:
            raise UsageError(
                f"The method comes first: lookalike {verb} METHOD DATA [options]. Methods: {', '.join(known)}."
            )
        first_words = f"No method is called {shown(first)}. {nearest(first, list(known))}"
        is_data = " The method comes before the data." if os.path.exists(first) else ""
        raise UsageError(first_words + is_data)
    elif not isinstance(named, str) or named not in METHODS:
        raise ValueError(
            f"{file} asks for {brief(named)}, which is not one of ours: run it from Python, lookalike.pretrain(...)."
        )
    else:
        name = named
    if file is not None and not isinstance(content.setdefault("data", ""), str):
        raise ValueError(f"{file}: data is {shown(content['data'])}; give a path, in quotes where it is a number.")
    return _Asked(verb, name, file, content, whole, argv)


def _parse_run(verb: str, argv: list[str]) -> Run:
    asked = _asked(verb, argv)
    if "--probe" in asked.options:
        pair = asked.options[asked.options.index("--probe") + 1 :][:2]
        if pair[:1] != ["None"] and (len(pair) < 2 or any(folder.startswith("--") for folder in pair)):
            raise UsageError("--probe needs two labelled folders: --probe TRAIN TEST.")
    if {"time", "epochs"} <= asked.typed:
        raise UsageError("--time and --epochs exclude each other: give the time of the training, or its epochs.")
    checked = False
    if "torch" not in sys.modules and not {"--help", "-h"} & set(asked.options):
        listed = asked.content.get("views")
        places = [int(found[1]) + 1 for found in re.finditer(r"--views\.(\d{1,2})\.", " ".join(asked.options))]
        outlined = outline(asked.method, max([1, *places, len(listed) if isinstance(listed, list) else 0]))
        if outlined is not None:
            _check_places(asked, _parse_options(asked, SimpleNamespace(Config=outlined)))
            checked = True
    method = get_method(asked.method)
    parsed = _parse_options(asked, method)
    if not checked:
        _check_places(asked, parsed)
    cfg, base = parsed.base.method, parsed.base
    fields = dotted(plain(cfg))
    options = [f.name for f in dataclasses.fields(Options)]
    typed_names = {_field_of(name, [*fields, *options]) for name in asked.typed}
    stated = [f for f in fields if any(f == g or f.startswith(f"{g}.") for g in typed_names)]
    chosen = {f.name: vars(parsed.options)[f.name] for f in dataclasses.fields(Options)}
    # what a file derived from the sizes that it had does not hold for others
    sized = any(re.fullmatch(r"views\.\d+\.size", name) for name in asked.typed)
    if sized and "image_size" not in asked.typed:
        chosen["image_size"] = None
    if (sized or "image_size" in asked.typed) and "decode_size" not in asked.typed and not parsed.options.resume:
        chosen["decode_size"] = None
    origins = dict(base.origins) | by_user(
        [*stated, *(f.name for f in dataclasses.fields(Options) if f.name in typed_names)]
    )
    if not parsed.options.resume:  # what is typed takes the place of the other in a file
        if "time" in asked.typed and chosen["time"] is not None:
            origins.pop("epochs", None)
            chosen["epochs"] = Options.epochs
        elif "epochs" in asked.typed:
            chosen["time"] = None
    own = {f.name: vars(parsed.method)[f.name] for f in dataclasses.fields(cfg)}
    if asked.classifies:
        chosen["init"], own["test"] = parsed.encoder, parsed.test
    return Run(
        **chosen, data=parsed.data, method=type(cfg)(**own), origins=origins,
    )  # fmt: skip


def _field_of(option: str, known: Collection[str]) -> str:
    """The field that an option sets; `--no-norm` sets `norm`."""
    path, dot, last = option.rpartition(".")
    positive = f"{path}{dot}{last.removeprefix('no_')}"
    return positive if option not in known and positive in known else option


@dataclass(frozen=True)
class _Parsed:
    """The values of a command line of a training, defaults from a file included."""

    base: Run
    """The defaults."""
    options: Options
    method: Any
    """The method's own fields, in the type that its help was shown with."""
    data: str
    encoder: str
    test: str


def _parse_options(asked: _Asked, method: Any) -> _Parsed:
    """Reads all options by tyro. `method` is the class of a method, or what has its `Config` alone."""
    if asked.file is None:
        base = Run(data="", method=method.Config())
    else:
        base = from_mapping(asked.content, method, asked.file)
    cfg, line = base.method, f"{getattr(method, '__doc__', '')} ({METHODS[asked.method].line})"
    places = {"data": cast(str, base.data)}
    if asked.classifies:
        places = {"encoder": base.init or "", "train": places["data"], "test": vars(cfg)["test"]}
    hidden = NOT_OF_FINETUNE if asked.classifies else {}
    options = Options(**{f.name: vars(base)[f.name] for f in dataclasses.fields(Options)})
    command = dataclasses.make_dataclass(
        "Command",
        [
            *(
                (
                    place,
                    Annotated[Positional[str], tyro.conf.arg(metavar=place.upper(), help=PLACES[place])],
                    default or tyro.MISSING,
                )
                for place, default in places.items()
            ),
            *(
                (part, Annotated[type(shown), tyro.conf.arg(name="")], shown)
                for part, shown in (
                    ("options", _without(options, hidden.get("options", ()))),
                    ("method", _without(cfg, hidden.get("method", ()))),
                )
            ),
        ],
        frozen=True,
    )
    prog = asked.verb if asked.verb == asked.method else f"{asked.verb} {asked.method}"
    found: Any = _parse(command, asked.options, prog, description=line)
    return _Parsed(
        base, found.options, found.method, found.train if asked.classifies else found.data,
        found.encoder if asked.classifies else "", found.test if asked.classifies else "",
    )  # fmt: skip


_RANKS = {"RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"}
"""Variables that tell a process which of several it is: the folder is the first one's to look at."""


def _check_places(asked: _Asked, parsed: _Parsed) -> None:
    """Refuses what cannot be found, before anything heavy is imported.

    Raises:
        FileNotFoundError, FileExistsError, PermissionError, ModuleNotFoundError, ValueError: the first of it.
    """
    options, resumes = parsed.options, parsed.options.resume
    check_logger(options.logger)
    if options.cache_dir is not None:
        nearest_folder(Path(options.cache_dir), "--cache-dir")
    if resumes:
        check_same_time(Path(options.out), asked.content.get("time"), options.time)
    if asked.verb != "views" and not _RANKS & os.environ.keys():
        Folder(options.out).check(resume=resumes, overwrite=options.overwrite)
    own = vars(parsed.method)
    for what, value in (("data", parsed.data), ("backbone", options.backbone), ("test", parsed.test)):
        if is_tag(value) and value == asked.content.get(what):  # see `flat`
            other = " and resume=True." if resumes else f", or name another {what} on the command line."
            raise ValueError(
                f"{asked.file} names somebody's own {what}, {value}, which no command can make. Go on from Python, "
                f"with the same call{other}"
            )
    if not asked.classifies:
        check_backbones(options.backbone)
    check_backbones(*(own.get(name) for name in ("encoder_backbone", "teacher_backbone")))
    if name := own["optim"].name:  # empty where the method's own is not known yet
        check_optimizer(name)
    start = parsed.encoder if asked.classifies else options.init
    if start and not (resumes and start == asked.content.get("init")):  # a resumed run has its weights
        with _from_file(asked, start):
            check_encoder(start, "encoder" if asked.classifies else "weights")
    named = "teacher" in asked.typed or "teacher" in asked.content  # else it is the method's own, or stands for it
    if named and not is_tag(teacher := own["teacher"]):
        with _from_file(asked, teacher):
            check_encoder(teacher)
    probed = options.probe or () if "probe" in asked.typed or not resumes else ()  # else the training leaves it out
    for place in (parsed.data, *([parsed.test] if asked.classifies else []), *probed):
        with _from_file(asked, place):
            check_images(place)


@contextmanager
def _from_file(asked: _Asked, place: str) -> Iterator[None]:
    """Lets an error about a place that a run's file names say so, and how to name another one."""
    try:
        yield
    except FileNotFoundError as error:
        named = [asked.content.get(name) for name in LOCATIONS]
        if place not in (each for value in named for each in (value if isinstance(value, list) else [value])):
            raise
        raise FileNotFoundError(f"{error} {_whence(asked, place)}") from None


def _whence(asked: _Asked, place: str) -> str:
    """Which file names a place, where its relative paths count from, and how to name another one."""
    words, is_run = [f"{asked.file} names it."], "made" in asked.whole
    if is_run and not os.path.isabs(place):
        began = directory_of(asked.whole)
        words.append(
            f"The path is relative to {began}, where the run began, and it is not there either."
            if began is not None
            else "The path is relative to the directory in which the run began, which lookalike 0.1 did not note: run "
            "the command there."
        )
    which = ["--teacher", "TEACHER"] if place == asked.content.get("teacher") else ["DATA"]
    which = ["ENCODER", "TRAIN", "TEST"] if asked.classifies else which
    if place in cast(list[object], asked.content.get("probe") or []):
        which = ["--probe", "TRAIN", "TEST"]
    out, _ = _take(asked.options, "--out")
    goes_on = ["--resume", "--out", out or Options.out] if "--resume" in asked.options else ["--from", str(asked.file)]
    words.append(f"To name another place: {pasteable('lookalike', asked.verb, *which, *goes_on)}")
    return " ".join(words)


def _without(content: T, names: Sequence[str]) -> T:
    """The same dataclass, of a type whose help leaves these fields out."""
    if not names:
        return content
    cls = cast(Any, type(content))
    hints = typing.get_type_hints(cls)
    fields = [(name, Annotated[hints[name], tyro.conf.Suppress], dataclasses.field(default=None)) for name in names]
    shown = dataclasses.make_dataclass(cls.__name__, fields, bases=(cls,), frozen=True, kw_only=True)
    return cast(T, shown(**vars(content)))


def pretrain(argv: list[str]) -> None:
    if not argv or argv[0] in ("--help", "-h"):
        lines = "\n".join(f"  {name:<14} {METHODS[name].line}" for name in SELF_SUPERVISED)
        print(PRETRAIN.format(methods=lines))
        _parse(Options, ["--help"], "pretrain METHOD DATA", description="")
    with_report, argv = _take_flag(argv, "--no-report")
    _train(_parse_run("pretrain", argv), with_report)


def distill(argv: list[str]) -> None:
    if not argv or argv[0] in ("--help", "-h"):
        print(DISTILL)
        argv = ["--help"]
    with_report, argv = _take_flag(argv, "--no-report")
    _train(_parse_run("distill", ["distill", *argv]), with_report)


def finetune(argv: list[str]) -> None:
    if not argv or argv[0] in ("--help", "-h"):
        print(FINETUNE)
        argv = ["--help"]
    with_report, argv = _take_flag(argv, "--no-report")
    _train(_parse_run("finetune", ["finetune", *argv]), with_report)


def _train(run: Run, with_report: bool) -> None:
    verb = METHODS[method_name(run.method)].verb
    train: Callable[[Run], object]
    if verb == "distill":
        from .commands.distill import distill as train
    elif verb == "finetune":
        from .commands.finetune import train_and_evaluate as train
    else:
        from .training import pretrain as train

    from .training.launch import launched_rank

    _imported()

    train(run)
    if with_report and launched_rank(run) == 0:
        _write_report(run.out, _workers(run.workers))


def _write_report(folder: str, workers: int) -> None:
    from .commands.report.report import write

    write(folder, workers=workers, say=Folder(folder).say)


def predict(argv: list[str]) -> None:
    options = _parse(Predict, argv, "predict")
    path = Path(options.out)
    if path.exists() and not options.overwrite:
        raise FileExistsError(f"{path} exists. Give another --out, or --overwrite.")
    check_writable(path)
    check_suffix(path, PREDICTED)
    classifier_of(options.classifier)
    check_images(options.data)
    from .commands.predict import predict as tell

    _imported()

    found = tell(
        options.classifier, options.data, out=path, image_size=options.image_size, batch_size=options.batch_size,
        workers=_workers(options.workers), say=say,
    )  # fmt: skip
    say(f"Wrote {path}: {counted(len(found.names), 'image')}; {found.counts()}")
    if found.broken:
        name, reason = found.broken[0]
        say(
            f"{counted(len(found.broken), 'image')} could not be read and {are(len(found.broken))} left out; "
            f"the first is {name}: {reason}"
        )
    more = [] if options.image_size is None else ["--image-size", options.image_size]
    command = pasteable("lookalike", "show", options.classifier, options.data, *more, "--out", "show")
    say(f"Next: {command}   # where the encoder looks")


def views(argv: list[str]) -> None:
    if not argv or argv[0] in ("--help", "-h"):
        print(VIEWS)
        return
    out, rest = _take(argv, "--out")
    path = Path(out or "views.png")
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise UsageError(f"--out {path} is neither .png nor .jpg.")
    check_writable(path)
    run = _parse_run("views", rest)
    if path.exists() and not run.overwrite:
        raise FileExistsError(f"{path} exists. Give another --out, or --overwrite.")
    from .training.model import draw_views

    _imported()

    draw_views(run, path)
    verb = METHODS[method_name(run.method)].verb
    words = [a for a in rest if a != "--overwrite"]
    if words[:1] == [verb]:
        words = words[1:]
    if verb == "finetune":
        words = ["ENCODER", str(run.data), "TEST", *(word for word in words if word != run.data)]
    if Folder(run.out).run.is_file():  # the run that the options are of, or whose folder nobody named
        words += [
            "--out",
            next(f"{run.out}-{i}" for i in range(2, sys.maxsize) if not os.path.exists(f"{run.out}-{i}")),
        ]
    command = pasteable("lookalike", verb, *words)
    say(f"Wrote {path}: one row per image, the whole image first.\nNext: {command}")


# ---------------------------------------------------------------- the other verbs


def demo(argv: list[str]) -> None:
    options = _parse(Demo, argv, "demo")
    from .commands.demo import demo as show

    _imported()

    show(options.out, epochs=options.epochs, seed=options.seed, overwrite=options.overwrite)
    if options.report:
        _write_report(options.out, 0)


def evaluate(argv: list[str]) -> None:
    options = _parse(Evaluate, argv, "evaluate")
    _check_question(options)
    is_run = bool(options.encoder) and Path(options.encoder).is_dir()
    target = options.out or (Folder(options.encoder).evaluation if is_run else None)
    if target is not None:
        refuse_folder(Path(target), "evaluation.json")
        check_writable(Path(target))
        if Path(target).is_file():  # it is added to
            open(target, "rb").close()
    from .commands.evaluate import evaluate as judge
    from .commands.evaluate_features import evaluate_features

    _imported()

    if options.features:
        evaluate_features(
            *options.features, protocols=options.protocols, seed=options.seed, seeds=options.seeds,
            shares=options.shares, labels=options.labels, out=options.out, say=say,
        )  # fmt: skip
    else:
        judge(
            options.encoder, options.train, options.test, also=options.also, protocols=options.protocols,
            image_size=options.image_size, pool=options.pool, batch_size=options.batch_size,
            workers=_workers(options.workers), seed=options.seed, seeds=options.seeds, shares=options.shares,
            labels=options.labels, epochs=options.epochs, keep=options.keep, out=options.out,
            encoder_backbone=options.encoder_backbone, baseline=options.baseline, say=say,
        )  # fmt: skip
    say(f"Wrote {target}" if target else "Nothing was written; --out FILE keeps the results.")
    more = [*_of_encoder(options), *([] if options.pool == "pooled" else ["--pool", options.pool])]
    command = pasteable("lookalike", "embed", options.encoder or "ENCODER", "DATA", *more, "--out", "embeddings.npz")
    say(f"Next: {command}")


def _of_encoder(options: Evaluate | Show) -> list[object]:
    """The options that the next command on the same encoder must have, too."""
    chosen = [("--encoder-backbone", options.encoder_backbone), ("--image-size", options.image_size)]
    return [word for option, value in chosen if value is not None for word in (option, value)]


def _check_question(options: Evaluate) -> None:
    given = [part for part in (options.encoder, options.train, options.test) if part]
    if options.features:
        if given or options.also:
            raise UsageError("--features takes the place of ENCODER TRAIN TEST and --also. Leave them out.")
        for name in ("image_size", "pool", "batch_size", "workers", "epochs", "keep", "encoder_backbone", "baseline"):
            if vars(options)[name] != vars(Evaluate())[name]:
                raise UsageError(f"--{name.replace('_', '-')} is of encoders, and --features gives none. Leave it out.")
        if len(options.features) > 2:
            raise UsageError(f"--features takes one or two files, and {len(options.features)} were given.")
    elif len(given) < 3:
        raise UsageError("Give an encoder and two labelled folders: lookalike evaluate ENCODER TRAIN TEST.")
    else:
        check_encoder(options.encoder)
        check_backbones(options.encoder_backbone)
        check_images(options.train, options.test, *(place for pair in options.also for place in pair))
    if not options.shares or not all(0 < share <= 1 for share in options.shares):
        raise ValueError(f"shares are {list(options.shares)}; give one or more above 0, up to 1.")
    for file in options.features:
        if not os.path.isfile(file):
            raise no_features(file)
    if options.labels is not None and not os.path.isfile(options.labels):
        raise no_list(options.labels)


def compare(argv: list[str]) -> None:
    if not argv or argv[0] in ("--help", "-h"):
        print(COMPARE)
        argv = ["--help"]
    with_report, argv = _take_flag(argv, "--no-report")
    asked = _parse(Compare, argv, "compare")
    given = {a.split("=")[0].replace("_", "-") for a in argv}
    if "--batch-size" in given:
        asked = dataclasses.replace(asked, origins={"batch_size": "user"})
    if {"--budget", "--epochs"} <= given:
        raise UsageError("--budget and --epochs exclude each other: give the time of a training, or its epochs.")
    if unknown := [p for p in asked.protocols if p not in typing.get_args(Protocol)]:
        raise ValueError(f"There is no protocol {shown(unknown[0])}. {nearest(unknown[0], typing.get_args(Protocol))}")
    check_logger(asked.logger)
    check_writable(Path(asked.out) / "compare.json")
    if asked.cache_dir is not None:
        nearest_folder(Path(asked.cache_dir), "--cache-dir")
    check_images(asked.data, *asked.train, *asked.test)
    check_backbones(asked.backbone, asked.teacher_backbone)
    for weights in (asked.init, asked.teacher):
        if weights is not None:
            check_encoder(weights)
    from .commands.compare.record import FILE
    from .commands.compare.runner import compare as rank

    _imported()

    found = rank(asked)
    folder, best = found.folder, found.ranking[0].method
    first = next(t.folder for t in found.trainings if t.method == best and t.status == "done")
    if with_report:
        _write_report(str(folder), _workers(asked.workers))
    say(f"Wrote {folder / FILE}, and in {folder} a run's folder for each training.")
    say(f"Next: {pasteable('lookalike', 'embed', folder / first, 'DATA', '--out', 'embeddings.npz')}")


def embed(argv: list[str]) -> None:
    options = _parse(Embed, argv, "embed")
    path = Path(options.out)
    if path.exists() and not options.overwrite:
        raise FileExistsError(f"{path} exists. Give another --out, or --overwrite.")
    check_writable(path)
    check_suffix(path)
    check_encoder(options.encoder)
    check_backbones(options.encoder_backbone)
    check_images(options.data)
    from .commands.embed import embed as write

    _imported()

    found = write(
        options.encoder, options.data, out=path, image_size=options.image_size, pool=options.pool,
        batch_size=options.batch_size, workers=_workers(options.workers), keep=options.keep,
        encoder_backbone=options.encoder_backbone, say=say,
    )  # fmt: skip
    count, width = found.features.shape
    say(f"Wrote {path}: {counted(count, 'image')} x {counted(width, 'number')}, with file names.")
    if found.broken:
        name, reason = found.broken[0]
        say(
            f"{counted(len(found.broken), 'image')} could not be read and {are(len(found.broken))} left out; "
            f"the first is {name}: {reason}"
        )
    if path.suffix == ".npz":
        say(f"Next: numpy.load({str(path)!r}) gives the arrays features and names")


def show(argv: list[str]) -> None:
    options = _parse(Show, argv, "show")
    check_encoder(options.encoder)
    check_backbones(options.encoder_backbone)
    check_images(options.data)
    check_writable(Path(options.out) / "neighbours.csv")
    from .commands.show import show as draw

    _imported()

    files = draw(
        options.encoder, options.data, out=options.out, what=options.what, count=options.count,
        image_size=options.image_size, workers=_workers(options.workers), seed=options.seed,
        overwrite=options.overwrite, encoder_backbone=options.encoder_backbone, say=say,
    )  # fmt: skip
    say(f"Wrote {', '.join(map(str, files))}")
    command = pasteable("lookalike", "evaluate", options.encoder, "TRAIN", "TEST", *_of_encoder(options))
    say(f"Next: {command}   # folders with one sub-folder per class")


def report(argv: list[str]) -> None:
    options = _parse(Report, argv, "report")
    if not options.runs:
        raise UsageError("The runs come first: lookalike report RUN... [options].")
    for folder in map(Path, options.runs):
        if not holds_run(folder) and not (folder / "compare.json").is_file():
            raise no_run(folder)
    check_images(*([] if options.images is None else [options.images]))
    from .commands.report.report import report as write

    _imported()

    path = write(
        options.runs, images=options.images, out=options.out, points=options.points, overwrite=options.overwrite,
        workers=_workers(options.workers), say=say,
    )  # fmt: skip
    say(f"Wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")
    say("Next: open it in a browser; it holds all that it shows, and can be sent as it is")


def _check_runs(folders: Sequence[str]) -> None:
    """Refuses the first that is no folder; what is in it is looked at later."""
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise no_run(folder)


def plot(argv: list[str]) -> None:
    options = _parse(Plot, argv, "plot")
    if not options.runs:
        raise UsageError("The runs come first: lookalike plot RUN... --out FILE.png.")
    _check_runs(options.runs)
    check_suffix(options.out, PLOTTED)
    from .commands.plot import plot as draw

    _imported()

    path = draw(options.runs, out=options.out, overwrite=options.overwrite)
    say(f"Wrote {path}: loss and learning rate, and the linear probe where evaluation.json has one")
    command = pasteable("lookalike", "report", *options.runs)
    say(f"Next: {command}   # all curves, and a map of the embedding")


def thin(argv: list[str]) -> None:
    options = _parse(Thin, argv, "thin")
    if not options.runs:
        raise UsageError("The runs come first: lookalike thin RUN...")
    _check_runs(options.runs)
    for place in map(Path, options.runs):
        compares = (place / "compare.json").is_file()
        folders = _trainings_in(place) if compares else [Folder(place)]
        if not folders:
            say(f"{place}: none of its trainings has begun.")
        for folder in folders:
            if not folder.run.is_file():
                raise no_run(folder.path)
            with folder.held():
                folder.check_own()
                before = folder.checkpoint_bytes()
                gone, free = folder.thin(options.keep_checkpoints), before - folder.checkpoint_bytes()
            say(
                f"{folder.path}: removed {counted(len(gone), 'checkpoint')} of single epochs, {free / 1e6:.1f} MB; "
                f"{folder.checkpoint_bytes() / 1e6:.1f} MB of checkpoints stay."
            )


def _trainings_in(comparison: Path) -> list[Folder]:
    """The trainings of a comparison that have begun; other runs that lie in its folder are somebody's own."""
    rows = read_json(comparison / "compare.json", dict).get("trainings")
    named = [row.get("folder") for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    return [Folder(path.parent) for path in sorted(comparison.glob("*/run.yaml")) if path.parent.name in named]


def check(argv: list[str]) -> None:
    options = _parse(Check, argv, "check")
    if options.sheet is not None and Path(options.sheet).suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise UsageError(f"--sheet {options.sheet} is neither .png nor .jpg.")
    for name, file in (("--out", options.out), ("--sheet", options.sheet)):
        if file is not None and Path(file).exists() and not options.overwrite:
            raise FileExistsError(f"{file} exists. Give another {name}, or --overwrite.")
        if file is not None:
            check_writable(Path(file), name)
    check_images(options.data, *([] if options.test is None else [options.test]))
    from .commands import recommendation
    from .commands.check import check as look
    from .data import open_maybe_labelled
    from .files import atomic, write_json

    _imported()

    sources = [
        open_maybe_labelled(path, options.channels, options.alpha)
        for path in (options.data, options.test)
        if path is not None
    ]
    found = look(*sources, pattern=options.groups, workers=_workers(options.workers), say=say)
    first, why = None, ""
    try:
        facts = recommendation.facts_of(found.train, options.image_size)
        given = recommendation.Given(options.data, options.alpha, options.workers)
        first = dataclasses.replace(recommendation.recommended(facts, given), out=recommendation.free_place())
    except ValueError as error:
        why = str(error)
    size = first.image_size if first else options.image_size
    say("\n".join(dataclasses.replace(found, image_size=size or found.image_size).lines()))
    if options.sheet is not None:
        with atomic(options.sheet) as temporary:
            found.sheet().save(temporary)
        say(f"Wrote {options.sheet}: near duplicates side by side, the doubtful ones first")
    if options.out is not None:
        write_json(Path(options.out), found.content() | {"first_command": first and first.content()})
    say(f"Wrote {options.out}" if options.out else "No list was written; --out FILE.json keeps all of it.")
    if first is None:
        say(f"No command to begin with yet: {why}")
        return
    if options.timing:
        say(f"Timing a step of {first.method} with {first.backbone} at {counted(first.image_size, 'pixel')} ...")
        try:
            first = recommendation.timed(first, sources[0])
        except Exception as error:  # what was found holds all the same
            say(f"It could not be timed: {cut(_message(error), LONGEST_MESSAGE)}")
        if options.out is not None:
            write_json(Path(options.out), found.content() | {"first_command": first.content()})
    say("\n".join(first.lines()))


def doctor(argv: list[str]) -> None:
    options = _parse(Doctor, argv, "doctor")
    from .commands.doctor import doctor as examine

    found = examine()
    say(json.dumps(found.content(), indent=1) if options.json else "\n".join(found.lines()))


def show_list(argv: list[str]) -> None:
    options = _parse(List, argv, "list")
    if options.what == "methods":
        for option in ("small", "sort", "measure", "image_size"):
            if vars(options)[option] != vars(List("methods"))[option]:
                raise UsageError(f"--{option.replace('_', '-')} is of backbones. Leave it out.")
        methods = [name for name in SELF_SUPERVISED if options.pattern.lower() in name]
        if not methods:
            names = [*SELF_SUPERVISED]
            raise ValueError(f"No method's name contains {shown(options.pattern)}. {nearest(options.pattern, names)}")
        for name in methods:
            say(f"{name:<14} {METHODS[name].line}")
        return
    from .commands.catalogue import catalogue, chosen, installed, lines, measure, table

    known = catalogue()
    found = chosen(known, pattern=options.pattern, small=options.small, order=options.sort)
    if not found:
        names = [cost.name for cost in known]
        if chosen(known, pattern=options.pattern):
            raise ValueError(f"No backbone whose name contains {shown(options.pattern)} is small. Leave --small out.")
        raise ValueError(f"No backbone's name contains {shown(options.pattern)}. {nearest(options.pattern, names)}")
    if options.measure:
        measure(found, options.image_size, say)
    else:
        say("\n".join(lines(found)))
    if (versions := table()[0]) != installed():
        say(f"The numbers are those of {versions}, and here is {installed()}: some may be missing or differ.")

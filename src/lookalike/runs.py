"""A run: what is asked (`Run`), its file `run.yaml`, and its folder, written so that a crash loses nothing.

`run.yaml` is as flat as the command line: the options, the method's own fields beside them, and under `made` the
versions and the machine, which reading ignores.
"""

import dataclasses
import difflib
import errno
import hashlib
import itertools
import json
import math
import os
import platform
import re
import secrets
import shutil
import stat
import subprocess
import sys
import threading
import time
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from . import marks
from .documents import parse_json, read_text
from .durations import seconds_of
from .printing import LONGEST_VALUE, brief, counted, cut, lines_of, pasteable, printable, say, shown

if TYPE_CHECKING:
    from torch import nn

    from .backbones import Backbone
    from .core import Config, Method
    from .data import Data

Alpha = Literal["auto", "white", "drop"]
FORMAT = 1
"""Written into every file that a later version must be able to read."""
LARGEST_IMAGE = 16_384
"""Pixels a side of what a network sees, at most."""
MOST_CHANNELS = 10_000
"""Of an image."""


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
    normalise: Literal["imagenet", "data"] = "imagenet"
    """Whose mean and standard deviation images are normalised with: ImageNet's, or those of 1,000 of the images. With
    `--init` it is the weights' own."""
    devices: int = 1
    """Devices per node."""
    nodes: int = 1
    strategy: Literal["ddp"] = "ddp"
    """How several devices share the work: each holds the whole model and a part of the batch."""
    precision: Literal["fp32", "bf16", "fp16", "fp64"] | None = None
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
    given: tuple[str, ...] = ()
    """Dotted names of the method's fields that the user stated, and `batch_size`: fitting leaves them alone. `epochs`
    where they stand in a file: there they are what `time` came to."""

    @property
    def to_be_timed(self) -> bool:
        """Whether `time` is yet to say how many epochs there are."""
        return self.time is not None and not self.resume and "epochs" not in self.given


Row = dict[str, Any]
"""A row of `metrics.jsonl`: numbers (None where one was not finite), and `verdict`, `why` and `remedy` in words."""


@dataclass(frozen=True)
class Result:
    """What a training left behind."""

    folder: Path
    metrics: list[Row]
    """The rows of `metrics.jsonl`."""

    @property
    def verdict(self) -> str:
        """One of learning, not learning, collapsed and diverged; unknown for a run too short to be judged."""
        return str(self._judged().get("verdict", "unknown"))

    @property
    def why(self) -> str:
        """What the verdict rests on, and what to try."""
        row = self._judged()
        return " ".join(str(row[name]) for name in ("why", "remedy") if name in row)

    def _judged(self) -> Row:
        return next((row for row in reversed(self.metrics) if "verdict" in row), {})

    def encoder(self) -> "Backbone":
        """Loads the trained encoder."""
        from . import load

        return load(self.folder)


class Diverged(RuntimeError):
    """The loss or its gradients stopped being finite, again and again."""


class Collapsed(RuntimeError):
    """All images get one feature, and the run was to stop then."""


# ---------------------------------------------------------------- files


def sync(path: Path) -> None:
    """Flushes a file or folder to the disk, so that a power cut cannot undo a rename."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


_REMEDIES = {
    errno.ENOSPC: "Make room there.",
    errno.EDQUOT: "Make room there.",
    errno.EACCES: "Make it and its folder writable for this user.",
    errno.EPERM: "Make it and its folder writable for this user.",
    errno.EROFS: "Make the file system writable; the system turns it read-only after a fault of the disk.",
    errno.EIO: "Look at the disk.",
    errno.ENOENT: "Its folder was moved or removed.",
    errno.ELOOP: "It is a link, and nothing is written through links: put the file itself in its place.",
}
"""What to do where the system refuses to write."""


@contextmanager
def named(path: Path, then: Callable[[], str] = str) -> Iterator[None]:
    """Lets an error of the system while `path` is written say so, and why, in place of what the writing library says.

    `then` tells what to do once the cause is gone.
    """
    try:
        yield
    except Exception as error:
        if (cause := _of_the_system(error)) is None:
            raise
        number = cause.errno or 0
        reason = os.strerror(number) + (f", {_room(path)}" if number == errno.ENOSPC else "")
        remedy = _REMEDIES.get(number, "")
        raise type(cause)(f"{path} could not be written ({reason}). {remedy}{then()}".strip()) from error


def _of_the_system(error: BaseException | None) -> OSError | None:
    """The system's error behind an error of torch, which raises another one after it, or of safetensors, in words."""
    while error is not None:
        if isinstance(error, OSError) and error.errno:
            return error
        if number := re.search(r"\(os error (\d+)\)", str(error)):
            return OSError(int(number[1]), os.strerror(int(number[1])))
        error = error.__cause__ or error.__context__
    return None


def _room(path: Path) -> str:
    """How much more a full disk takes."""
    try:
        disk = os.statvfs(path.parent)
    except OSError:
        return "the disk is gone"
    if disk.f_files and not disk.f_favail:
        return "no more files can be made"
    return f"{disk.f_bavail * disk.f_frsize / 2**20:.0f} MiB are free"


def nearest_folder(path: Path, option: str) -> Path:
    """The folder at `path`, or else the nearest one above it: where it would be made.

    Args:
        option: that names it, for the message.

    Raises:
        FileExistsError: it is a file, or lies in one.
    """
    there = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    if not there.is_dir():
        raise FileExistsError(f"{there} is a file. Give {option} another folder.")
    return there


def check_writable(path: Path, option: str = "--out") -> None:
    """Refuses a file that could not be written, before there is work to be lost; changes nothing.

    Args:
        path: of the file.
        option: that names it or its folder, for the message.

    Raises:
        FileExistsError, PermissionError: it is a folder, its folder is a file, or nothing may be written there.
    """
    if path.is_dir():
        raise FileExistsError(f"{path} is a folder. Give {option} a file.")
    there = next(p for p in path.absolute().parents if p.exists())
    if not there.is_dir():
        raise FileExistsError(f"{path} cannot be written: {there} is a file. Give another {option}.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(f"{path} cannot be written: {there} is read-only for this user. Give another {option}.")


def not_through_links(path: str | os.PathLike[str], flags: int) -> int:
    """For `open(..., opener=)`: opens a file that is written to under its own name, and no link in its place."""
    if sys.platform == "win32":
        return os.open(path, flags, 0o666)
    handle = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)  # a pipe would wait for a reader
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise FileExistsError(errno.EEXIST, "no regular file is there", os.fspath(path))
    return handle


def temporary_beside(path: Path) -> Path:
    """A name to write `path` under first: nobody can foretell it, and no host that shares the folder takes it, too."""
    host = re.sub(r"[^A-Za-z0-9-]", "-", platform.node())[:32]
    return path.with_name(f".{path.stem[:40]}.{host}.{secrets.token_hex(8)}.tmp{path.suffix}")


_TEMPORARY = re.compile(r"\.(.+?)\.(?:[A-Za-z0-9-]*\.[0-9a-f]{16}|\d+)\.tmp((?:\.\w+)*)")
"""Names that `temporary_beside` gives, and those of 0.1, which held the process number alone."""


def becomes(path: Path) -> str | None:
    """The name of the file that a temporary one of ours was to become; None of any other file."""
    found = _TEMPORARY.fullmatch(path.name)
    return f"{found[1]}{found[2]}" if found and path.is_file() and not path.is_symlink() else None


@contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a new, empty file beside `path` to write to; on success it is flushed and renamed, else removed.

    Raises:
        OSError: it could not be written; the message says which file, why, and what to do.
    """
    path = Path(path)
    temporary = temporary_beside(path)
    try:
        with named(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "xb") as file:
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            yield temporary
            with suppress(PermissionError):  # not all file systems know modes
                temporary.chmod(mode)  # safetensors puts a file for the owner alone in its place
            sync(temporary)
            temporary.replace(path)
            sync(path.parent)
    finally:
        with suppress(OSError):  # where nothing may be written, nothing may be removed
            temporary.unlink()


@contextmanager
def locked(path: Path, *, wait: bool) -> Iterator[bool]:
    """Holds a lock that ends with the process, however it ends; yields False where the system knows no locks.

    Raises:
        BlockingIOError: another process holds it, and there is no time to `wait`.
    """
    if sys.platform == "win32":
        path.parent.mkdir(parents=True, exist_ok=True)
        yield False
        return
    import fcntl

    said, began = False, time.monotonic()
    while True:
        with named(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            # what is raised while it is held is not this file's fault
            file = open(path, "a", opener=not_through_links)  # noqa: SIM115
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not flock: workers would inherit and keep it
            held = True
        except BlockingIOError:
            file.close()
            if not wait:
                raise BlockingIOError(
                    f"Another process is working in {path.parent}. Wait for it, stop it, or name another folder."
                ) from None
            if not said and time.monotonic() - began > 1:
                say(f"Waiting for another process that holds {path}", sys.stderr)
                said = True
            time.sleep(0.05)
            continue
        except OSError:  # a file system without locks
            held = False
        same = False
        with suppress(FileNotFoundError):  # its last holder removed it
            same = os.path.samestat(os.fstat(file.fileno()), os.stat(path))
        if same or not held:
            break
        file.close()
    with file:
        yield held


_CHANGING = threading.Lock()  # the system's locks are between processes


@contextmanager
def changing(path: Path) -> Iterator[None]:
    """Lets one process at a time read a file, change it and write it back; its lock lies beside it for so long."""
    lock = _lock_of(path)
    with _CHANGING, locked(lock, wait=True) as held:
        try:
            for other in path.parent.iterdir() if held else ():
                if becomes(other) == path.name:  # of a process that was killed
                    other.unlink(missing_ok=True)
            yield
        finally:
            if is_lock(lock):
                lock.unlink(missing_ok=True)


def _lock_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


def is_lock(path: Path) -> bool:
    """Whether a file may be a lock of ours: they are empty."""
    return path.is_file() and not path.is_symlink() and not path.stat().st_size


def second_name(file: Path, name: Path) -> None:
    """A hard link, or a copy where the file system has none; `name` is not there yet."""
    try:
        os.link(file, name)
    except FileExistsError:
        raise
    except OSError:
        with open(file, "rb") as old, open(name, "xb") as new:
            shutil.copyfileobj(old, new)
        sync(name)


def unused(path: Path) -> Path:
    """`path`, or where that is taken the first of `path.2`, `path.3`, ... that is not."""
    names = (path if i == 1 else path.with_name(f"{path.name}.{i}") for i in itertools.count(1))
    return next(name for name in names if not os.path.lexists(name))


def write_json(path: Path, content: object) -> None:
    """Writes JSON atomically."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")


# ---------------------------------------------------------------- run.yaml


MOST_YAML = 2**21
"""Bytes of a run's file: twenty thousand names of classes take a quarter of a megabyte."""
MOST_VALUES = 100_000
"""In it, once its aliases are written out: a few lines of aliases stand for any number."""


class _Loader(yaml.SafeLoader):
    """YAML 1.2's floats: PyYAML reads 1e-6 as a text. Aliases stand for so many values and no more."""

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None and (found := _values(node, {})) > MOST_VALUES:
            how_many = "values without end" if math.isinf(found) else f"more than {MOST_VALUES} values"
            raise yaml.composer.ComposerError(None, None, f"its aliases stand for {how_many}", node.start_mark)
        return node


def _values(node: yaml.Node, known: dict[int, float]) -> float:
    """How many values a node holds; infinitely many if it holds itself."""
    if id(node) not in known:
        known[id(node)] = math.inf  # until it is counted
        parts = node.value if isinstance(node, yaml.SequenceNode | yaml.MappingNode) else []
        nodes = [part for pair in parts for part in (pair if isinstance(pair, tuple) else (pair,))]
        known[id(node)] = 1 + sum(_values(each, known) for each in nodes)
    return known[id(node)]


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d[\d_]*)(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)

_MAY_CHANGE = frozenset(
    {
        "epochs",
        "time",
        "workers",
        "cache_dir",
        "devices",
        "nodes",
        "strategy",
        "logger",
        "save_every",
        "keep_checkpoints",
        "out",
        "fit",
        "max_broken",
        "data",
        "probe",
        "test",
        "teacher",
        "on_collapse",
    }
)
"""Options that `--resume` may give another value. (Of places what is in them is compared: names of images, weights.)"""


def nearest(name: str, known: Sequence[str]) -> str:
    """A sentence that names the known names nearest to `name`, or all of them where none is near."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"Did you mean {' or '.join(near)}?" if near else f"Known: {', '.join(sorted(known)[:20])}."


def method_name(cfg: "Config") -> str:
    """`dino` for a method of ours, `package.module:Class` for a user's own."""
    from .methods import METHODS

    owner = cfg.method
    for name, entry in METHODS.items():
        if (entry.module, entry.cls) == (owner.__module__, owner.__qualname__):
            return name
    return f"{owner.__module__}:{owner.__qualname__}"


def plain(value: object) -> object:
    """Dataclasses, tuples and paths as mappings, lists and texts, in the order of their fields."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        content = {f: plain(vars(value)[f.name]) for f in dataclasses.fields(value)}
        # 0 in a field of floats is 0.0, before and after a round trip
        return {f.name: float(v) if f.type is float and isinstance(v, int) else v for f, v in content.items()}
    if isinstance(value, tuple | list):
        return [plain(v) for v in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def flat(run: Run) -> dict[str, object]:
    """The run as `run.yaml` holds it: the method's fields beside the options."""
    content: dict[str, object] = {"method": method_name(run.method)}
    content["data"] = plain(run.data) if isinstance(run.data, str | os.PathLike) else f"<{type(run.data).__qualname__}>"
    for f in dataclasses.fields(Options):
        if f.name in ("resume", "overwrite"):
            continue  # they say what to do with the folder once, not what the run is
        value = getattr(run, f.name)
        content[f.name] = plain(value) if f.name != "backbone" or isinstance(value, str) else module_name(value)
    return content | typing.cast(dict[str, object], plain(run.method))


def module_name(module: object) -> str:
    """What stands in files for a module of the user's; an encoder that `load` gave has a name."""
    from .backbones import Backbone

    if isinstance(module, Backbone):
        return module.name
    return f"<{type(module).__module__}.{type(module).__qualname__}>"


def run_text(run: Run, begun: Mapping[str, object] | None = None) -> str:
    """What stands in `run.yaml`: the run, with the versions, the commit and the machine that made it.

    Args:
        begun: all of the file of a run that is resumed. What made it stays, and its places of images are marked as the
            user's own only where they were, or where this command named others.
    """
    before = begun or {}
    known = {
        place
        for content in (before, located(before))
        for place in (*typing.cast(list[object], content.get("probe") or ()), content.get("data"))
    }
    own = [place for place in (run.data, *(run.probe or ())) if isinstance(place, str | os.PathLike)]
    named_here = [marks.mark(place) for place in own if plain(place) not in known]
    by = dict(typing.cast(Mapping[str, object], m)) if isinstance(m := before.get("made"), dict) else made()
    by["directory"] = here()  # from where the paths of this run count
    marked = by.get("named_here")
    by["named_here"] = list(dict.fromkeys([*(marked if isinstance(marked, list) else ()), *named_here]))
    content = {"format": FORMAT} | flat(run) | {"made": by}
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)


def check_same_time(path: Path, then: object, now: str | None) -> None:
    """Refuses another time for a run that is resumed: its schedule was made for the one that it began with.

    Args:
        path: the run's folder.
        then: the time in its `run.yaml`.
        now: the one that is asked for.
    """
    if now is not None and (not isinstance(then, str) or seconds_of(then) != seconds_of(now)):
        raise ValueError(
            f"{path} was begun {f'with --time {brief(then)}' if then else 'without --time'}, and a resumed run keeps "
            "its number of steps. Leave --time out, or ask for more with --epochs."
        )


def write_run(run: Run, path: Path) -> None:
    """Writes `run.yaml`."""
    with atomic(path) as temporary:
        temporary.write_text(run_text(run), encoding="utf-8")


def made() -> dict[str, object]:
    """When, where, by which versions and commit, and on which machine something is made."""
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "directory": here(),
        "versions": {p: version(p) for p in ("lookalike", "torch", "torchvision", "timm", "lightning")}
        | {"python": platform.python_version()},
        "commit": commit(),
        "machine": {"system": platform.platform(), "processor": platform.machine(), "cores": os.cpu_count()},
    }


def here() -> str | None:
    """The current directory; None where it was removed."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None


LOCATIONS = ("data", "init", "teacher", "test", "probe", "cache_dir")
"""Fields of a run that may name a place on a disk."""


def directory_of(content: Mapping[str, object]) -> str | None:
    """The directory in which a run began, by the whole of its `run.yaml`; None where it does not say so, as in 0.1."""
    by = content.get("made")
    found = by.get("directory") if isinstance(by, dict) else None
    return found if isinstance(found, str) and os.path.isabs(found) else None


def located(content: Mapping[str, object]) -> dict[str, object]:
    """The whole of a `run.yaml` with relative paths that lead from where the run began to what is there, made absolute.

    What is not there stays as it is written, and counts from the current directory: a project may have moved.
    """
    began = directory_of(content)
    if began is None or began == here():
        return dict(content)

    def place(value: object) -> object:
        if isinstance(value, list):
            return [place(each) for each in value]
        if not isinstance(value, str) or not value or value.startswith("<") or os.path.isabs(value):
            return value
        there = os.path.normpath(os.path.join(began, value))
        return there if os.path.exists(there) else value

    return {name: place(value) if name in LOCATIONS else value for name, value in content.items()}


def version(package: str = "lookalike") -> str:
    """Of an installed package; "not installed" of a source tree that is used as it lies."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def commit() -> str | None:
    """The commit of a source checkout of lookalike, with + where it was changed."""
    here = Path(__file__).parents[2]
    if not (here / ".git").exists():
        return None
    try:
        out = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--dirty=+", "--abbrev=12"],
            capture_output=True, text=True, timeout=10,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return out.stdout.strip() or None


def read_yaml(path: str | os.PathLike[str]) -> dict[str, object]:
    """Reads a run's file to a mapping, its paths from where the run began; see `located`.

    Raises:
        FileNotFoundError, ValueError: it is missing, is no YAML, or is of a later format.
    """
    content = located(read_whole_yaml(Path(path)))
    if "made" in content:
        content.setdefault("alpha", "white")  # as version 0.1 did
    content.pop("made", None)
    return content


def read_whole_yaml(path: Path) -> dict[str, object]:
    """`read_yaml`, with what it was `made` by."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file. Give the run.yaml of a run, or one that you wrote.")
    content = parse_yaml(path)
    found = content.pop("format", FORMAT)
    if found != FORMAT:
        raise ValueError(f"{path} has format {shown(found)}, this version reads format {FORMAT}. Update lookalike.")
    return content


def written_by(begun: Mapping[str, object]) -> str:
    """The version of this package that began a run, by the whole of its `run.yaml`; "" where it does not say so."""
    made = begun.get("made")
    versions = made.get("versions") if isinstance(made, dict) else None
    return str(versions.get("lookalike", "")) if isinstance(versions, dict) else ""


def parse_yaml(path: Path) -> dict[str, object]:
    """All that a YAML file holds.

    Raises:
        ValueError: it is no YAML, holds no mapping of names, or more than a run's file ever does.
    """
    text = read_text(path, MOST_YAML)
    try:
        content = yaml.load(text, _Loader)
    except RecursionError:
        raise ValueError(f"{path} is nested deeper than options ever are.") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(
            f"{path} is not valid YAML; mend it, or take the file of another run. {cut(str(error), 500)}."
        ) from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no options; lines like 'epochs: 100' are expected.")
    for name in content:
        if not isinstance(name, str):
            raise ValueError(f"{path}: {shown(name)} is no name of an option; put it in quotes.")
    return content


def read_run(path: str | os.PathLike[str], method: "type[Method] | None" = None) -> Run:
    """Reads a `Run` from YAML. What the file leaves out has its default; `method` is needed for a user's own class.

    Raises:
        ValueError: a key that nothing knows (with the nearest name), a value of another type, no method.
    """
    from .methods import METHODS, get_method

    content = read_yaml(path)
    name = content.pop("method", None)
    if method is None:
        if not isinstance(name, str):
            raise ValueError(f"{path} names no method. Add a line like 'method: simclr'.")
        if name not in METHODS and ":" in name:
            raise ValueError(
                f"{path} asks for {shown(name)}, your own class: pass it from Python, read_run(path, method=...)."
            )
        method = get_method(name)
    if not isinstance(content.get("data"), str):
        raise ValueError(f"{path} names no data. Add a line like 'data: photos/'.")
    return from_mapping(content, method, str(path))


def from_mapping(content: Mapping[str, object], method: "type[Method]", where: str) -> Run:
    """Builds a `Run` from flat options and method fields. `where` names the source in messages."""
    from cattrs import Converter, transform_error

    defaults = method.Config()  # type: ignore[call-arg]
    options = [f.name for f in dataclasses.fields(Options)]
    fields = [f.name for f in dataclasses.fields(defaults)]
    rest = {k: v for k, v in content.items() if k != "data"}
    for key in rest:
        if key not in options and key not in fields:
            raise _no_key(where, "", key, [*options, *fields, "data"])
    stated = {k: v for k, v in rest.items() if k in fields}
    _check_keys(stated, method.Config, where, "")
    converter = Converter()
    converter.register_structure_hook(float, _to_float)
    converter.register_structure_hook(int, _to_int)
    converter.register_structure_hook(bool, _to_bool)
    converter.register_structure_hook(str, _to_str)
    merged = _merged(typing.cast(dict[str, object], plain(defaults)), stated)
    try:
        cfg = converter.structure(merged, method.Config)
        chosen = converter.structure({k: v for k, v in rest.items() if k in options}, Options)
    except Exception as error:
        causes = [str(error)]
        if isinstance(error, ExceptionGroup):
            causes = transform_error(error, "", format_exception=_why)
        told = cut("; ".join(map(_cause, causes)), 2000)
        raise ValueError(f"{where}: {told}. Correct it, or leave that option out.") from None
    values = {f.name: getattr(chosen, f.name) for f in dataclasses.fields(Options)}
    given = (*dotted(stated), *(name for name in ("batch_size", "epochs") if name in rest))
    return Run(**values, data=typing.cast(str, content["data"]), method=cfg, given=given)


def _why(error: BaseException, kind: object) -> str:
    """Our own words on a value, or what was expected where a library stumbled over it."""
    if isinstance(error, ValueError) or kind is None:
        return str(error)
    return f"expected {kind.__name__ if isinstance(kind, type) else str(kind).replace('typing.', '')}"


def _cause(text: str) -> str:
    """What cattrs says of a value, and where it is, without all of the value."""
    said, at, place = text.rstrip(" @").rpartition(" @ .")
    said, place = (cut(printable(part), 2 * LONGEST_VALUE) for part in (said, place))
    return f"{said}, at {place}" if at else place


def _to_float(value: object, _: type) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{shown(value)} is not a number")
    return float(value)


def _to_int(value: object, _: type) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{shown(value)} is not a whole number")
    return value


def _to_bool(value: object, _: type) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{shown(value)} is neither true nor false")
    return value


def _to_str(value: object, _: type) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{shown(value)} is not a text")
    return value


def _merged(defaults: Mapping[str, object], stated: Mapping[str, object]) -> dict[str, object]:
    """Lays stated values over the defaults; a list replaces a list as a whole."""
    merged = dict(defaults)
    for key, value in stated.items():
        old = merged.get(key)
        merged[key] = _merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def _check_keys(content: object, cls: type, where: str, at: str) -> None:
    """Refuses keys that the dataclass does not have, at any depth."""
    if not isinstance(content, Mapping):
        return
    hints = typing.get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls)]
    for key, value in content.items():
        if key not in names:
            raise _no_key(where, at, str(key), names)
        kind = hints[key]
        if dataclasses.is_dataclass(kind):
            _check_keys(value, typing.cast(type, kind), where, f"{at}{key}.")
        elif typing.get_origin(kind) is tuple and dataclasses.is_dataclass(typing.get_args(kind)[0]):
            for i, item in enumerate(value if isinstance(value, list) else ()):
                _check_keys(item, typing.get_args(kind)[0], where, f"{at}{key}.{i}.")


def _no_key(where: str, at: str, key: str, known: Sequence[str]) -> ValueError:
    """What is raised of a key that is not `known` below the path `at`: the keys that it may be a slip of, or all."""
    near = difflib.get_close_matches(key, known, n=3, cutoff=0.7)
    if near:
        advice = f"Did you mean {' or '.join(f'{at}{name}' for name in near)}?"
    else:
        advice = f"Known{f' in {at[:-1]}' if at else ''}: {', '.join(sorted(known)[:20])}."
    return ValueError(f"{where}: nothing is called {shown(f'{at}{key}')}. {advice}")


def dotted(content: object, at: str = "") -> dict[str, object]:
    """A nested mapping as one level of dotted names: {"views.0.blur": 0.5}."""
    if isinstance(content, Mapping):
        items: Iterator[tuple[object, object]] = iter(content.items())
    elif isinstance(content, list) and any(isinstance(v, Mapping) for v in content):
        items = iter(enumerate(content))
    else:
        return {at: content}
    return {k: v for key, value in items for k, v in dotted(value, f"{at}.{key}" if at else str(key)).items()}


def differences(old: Mapping[str, object], new: Mapping[str, object]) -> list[str]:
    """What keeps a run from being resumed: one line per option that may not change and did."""
    a, b = dotted(dict(old)), dotted(dict(new))
    lines = []
    for key in dict.fromkeys([*a, *b]):
        if key.split(".")[0] not in _MAY_CHANGE and a.get(key) != b.get(key):
            lines.append(f"{brief(key)}: {brief(a.get(key))} in the run, {brief(b.get(key))} now")
    before, now = old.get("epochs"), new.get("epochs")
    if isinstance(before, int) and isinstance(now, int) and now < before:
        lines.append(f"epochs: {before} in the run, {now} now (more are allowed, fewer are not)")
    return lines


# ---------------------------------------------------------------- the folder


MOST_METRICS = 2**31
"""Bytes of a `metrics.jsonl` that are read."""
_CHECKPOINT = re.compile(r"(last|last\.before|epoch=\d+)\.(ckpt|corrupt(\.\d+)?)|nonfinite-\d+-rank\d+\.safetensors")
_KEPT = re.compile(r"epoch=\d+\.ckpt")


class Folder:
    """The files of a run, by name. The folder may be a link; folders in it, and files that grow, may not."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.run = self.path / "run.yaml"
        self.metrics = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.last = self.checkpoints / "last.ckpt"
        self.before = self.checkpoints / "last.before.ckpt"
        self.weights = self.path / "encoder.safetensors"
        self.card = self.path / "encoder.json"
        self.views = self.path / "views.png"
        self.evaluation = self.path / "evaluation.json"
        self.classifier = self.path / "classifier.safetensors"
        self.classes = self.path / "classes.json"
        self.distillation = self.path / "distillation.json"
        self.features = self.path / "features"
        self.tensorboard = self.path / "tensorboard"
        self.log = self.path / "log.txt"
        self.inputs = self.path / "inputs.zip"
        self.report = self.path / "report.html"
        self.lock = self.path / ".lock"
        self._waiting: dict[Path, str] = {}
        """Lines for files that are not to be touched yet."""

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keeps other processes from training into this folder, until it ends, however it ends.

        Raises:
            BlockingIOError: another process trains into it.
        """
        made = not self.path.exists()
        with locked(self.lock, wait=False):
            try:
                yield
            finally:
                with suppress(OSError):  # the folder may be gone
                    if [self.lock] == [*self.path.iterdir()] and is_lock(self.lock):  # nothing was begun
                        self.lock.unlink()
                        if made:
                            self.path.rmdir()

    def check(self, *, resume: bool, overwrite: bool) -> None:
        """Refuses a folder that a training must not write to; changes nothing.

        Raises:
            FileExistsError: a run, or files that are no run, are there and neither `resume` nor `overwrite` was asked;
                or something that may lead out of the folder lies in it.
            FileNotFoundError: `resume`, and no run is there.
        """
        there = nearest_folder(self.path, "--out")
        if not os.access(there, os.W_OK | os.X_OK):
            raise PermissionError(f"{there} cannot be written to. Give --out another folder.")
        self.check_own()
        for path in (self.checkpoints, self.log):
            if path.exists() and not os.access(path, os.W_OK | (os.X_OK if path.is_dir() else 0)):
                raise PermissionError(f"{path} cannot be written to. Make it writable, or give --out another folder.")
        if resume:
            if not self.run.is_file():
                raise FileNotFoundError(
                    f"{self.path} holds no run to resume (no run.yaml). Leave --resume out to start one."
                )
        elif self.run.is_file():
            if not overwrite:
                raise FileExistsError(
                    f"{self.path} holds a run. "
                    "Use --resume to go on with it, --overwrite to replace it, or another --out."
                )
        elif self.path.is_dir() and not self.is_left_over():
            raise FileExistsError(f"{self.path} is not empty and holds no run. Give --out another folder.")

    def check_own(self) -> None:
        """Refuses what lies in the place of the run's own files and folders and may lead elsewhere.

        Raises:
            FileExistsError: a link that would be written through, or something that is no file.
        """
        for path in (*self._folders, self.path / "wandb", self.lock, self.log, self.metrics):
            if path.is_symlink():
                raise FileExistsError(
                    f"{path} is a link, and a run writes to its own folder only. Put what it leads to in its place; "
                    f"the whole folder {self.path} may be a link."
                )
        for path in (*self._files, self.lock):
            if path.exists() and not path.is_file():
                raise FileExistsError(f"{path} is no file. Move it away, or give another --out.")

    def abandon(self) -> None:
        """Removes a run; its folder goes with the lock, where nothing else is in it."""
        self._clear()
        self.run.unlink(missing_ok=True)
        for own in self._folders:
            if own.is_dir() and not own.is_symlink() and not any(own.iterdir()):
                own.rmdir()

    def is_left_over(self) -> bool:
        """Whether the folder is empty, but for what killed runs left behind."""
        return all(map(self._is_leftover, self.path.iterdir()))

    def is_of_others(self) -> bool:
        """Whether only files are there that no run would take for its own."""
        return not any(path in (*self._files, *self._folders) or self._is_own(path) for path in self.path.iterdir())

    def _is_leftover(self, path: Path) -> bool:
        """Whether a run that was killed before its first word, or while it was replaced, left this behind."""
        if path in self._folders:
            return path.is_dir() and not path.is_symlink() and not any(path.iterdir())
        return (path in (self.lock, _lock_of(self.evaluation)) and is_lock(path)) or self._is_temporary(path)

    def wait(self, *paths: Path) -> None:
        """Keeps what is added to these files until the folder is claimed."""
        self._waiting = dict.fromkeys(paths, "")

    def claim(self, *, resume: bool, files: Mapping[Path, bytes] | None = None, keep: Collection[Path] = ()) -> None:
        """Makes a checked folder a run's: a replaced run's files are removed, a resumed run's are kept.

        Nothing is removed or replaced before all `files`, and the lines that waited, are on the disk under other names:
        `run.yaml` among them is the first to get its own, so that the folder holds a run at every moment. Files to
        `keep` are not the replaced run's.
        """
        self.check_own()
        waited = self._waiting
        first = dict(files or {})
        if not resume:
            first |= {path: text.encode("utf-8", "backslashreplace") for path, text in waited.items() if text}
        staged = {path: temporary_beside(path) for path in first}
        try:
            for path, content in first.items():
                with named(path), open(staged[path], "xb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
            self.checkpoints.mkdir(parents=True, exist_ok=True)
        except BaseException:
            for path in staged.values():
                path.unlink(missing_ok=True)
            raise
        self._waiting = {}
        if not resume:
            self._clear({*keep, *staged.values()})
            if self.run not in first:
                self.run.unlink(missing_ok=True)
        for path, new in staged.items():
            new.replace(path)
        sync(self.path)
        for path, text in waited.items() if resume else ():
            self._add(path, text)
        for path in (*self.path.iterdir(), *self.checkpoints.iterdir()):
            # the record of judgements and the page are written by other processes, too
            if self._is_temporary(path) and becomes(path) not in (self.evaluation.name, self.report.name):
                path.unlink()

    @property
    def _files(self) -> tuple[Path, ...]:
        """The files of a run that lie in its folder itself."""
        return (self.run, self.metrics, self.weights, self.card, self.views, self.evaluation, self.distillation,
                self.log, self.inputs, self.classifier, self.classes, self.report)  # fmt: skip

    @property
    def _folders(self) -> tuple[Path, ...]:
        return self.checkpoints, self.features, self.tensorboard

    def _is_temporary(self, path: Path) -> bool:
        """Whether a killed process left this behind, half written, of a file of the run."""
        name = becomes(path)
        if name is None:
            return re.fullmatch(r"\.tmp\w{6}", path.name) is not None and _is_ours(path)
        if path.parent == self.path:
            return name in ("compare.json", *(own.name for own in self._files))
        return _CHECKPOINT.fullmatch(name) is not None or re.fullmatch(r"[0-9a-f]{32}\.safetensors", name) is not None

    def _is_own(self, path: Path) -> bool:
        """Whether a run wrote a file: its name says so; of features and of events, what is in it."""
        if path.parent == self.checkpoints:
            own = _CHECKPOINT.fullmatch(path.name) is not None
        elif path.parent == self.features:
            own = features_made_by(path) is not None
        elif path.parent == self.tensorboard:
            own = _is_of_tensorboard(path)
        else:
            own = path in self._files or re.fullmatch(r"metrics\.jsonl\.corrupt(\.\d+)?", path.name) is not None
        return own or self._is_temporary(path)

    def _clear(self, keep: Collection[Path] = ()) -> None:
        """Removes the files of a run but `run.yaml` and those to keep, and nothing that somebody else put there."""
        for folder in (*self._folders, self.path):  # what is left goes on with no half of it
            for path in folder.iterdir() if folder.is_dir() and not folder.is_symlink() else ():
                if path != self.run and path not in keep and not path.is_dir() and self._is_own(path):
                    path.unlink()

    def kept(self) -> list[Path]:
        """The checkpoints of single epochs, the newest first."""
        found = [
            path for path in self.checkpoints.glob("epoch=*.ckpt") if _KEPT.fullmatch(path.name) and path.is_file()
        ]
        return sorted(
            found, key=lambda path: (path.stat().st_mtime, int(path.stem.removeprefix("epoch="))), reverse=True
        )

    def thin(self, keep: int) -> list[Path]:
        """Removes the checkpoints of single epochs but the newest ones, and returns those that went.

        The newest stays where there is no other to go on from.
        """
        gone = self.kept()[keep if self.last.is_file() or self.before.is_file() else max(1, keep) :]
        for path in gone:
            path.unlink(missing_ok=True)
        return gone

    def checkpoint_bytes(self, of_epochs: bool = True) -> int:
        """What the run's checkpoints take on the disk, with those of single epochs or without; two names count once."""
        own = [self.last, self.before, *(self.kept() if of_epochs else [])]
        found = [path.stat() for path in own if path.is_file() and not path.is_symlink()]
        return sum({(each.st_dev, each.st_ino): each.st_size for each in found}.values())

    def rows(self) -> list[Row]:
        """The rows of `metrics.jsonl`; what is damaged is left out, and its number said on stderr."""
        rows, damaged = self.read_metrics()
        if damaged:
            left = "which is left out" if damaged == 1 else "which are left out"
            say(f"{self.metrics} holds {_damaged(damaged)}, {left}.", sys.stderr)
        return rows

    def read_metrics(self) -> tuple[list[Row], int]:
        """The rows of `metrics.jsonl`, and how many lines are none, or do not say of which step they are.

        A last line that a crash cut short is not counted: its step is done again.
        """
        if not self.metrics.is_file():
            return [], 0
        if (size := self.metrics.stat().st_size) > MOST_METRICS:
            raise ValueError(
                f"{self.metrics} has {size / 2**30:.3g} GiB, more than rows of a run ever take. Move it away."
            )
        *lines, last = self.metrics.read_text(encoding="utf-8", errors="replace").split("\n")
        found = [_row(line) for line in lines if line.strip()]
        rows = [row for row in (*found, _row(last)) if row is not None]
        return rows, found.count(None)

    def cut_metrics(self, step: int) -> None:
        """Drops the rows after `step`: a resumed run writes them again. Of a damaged file the whole is kept, too."""
        if self.metrics.is_file():
            rows, damaged = self.read_metrics()
            if damaged:
                aside = unused(self.path / f"{self.metrics.name}.corrupt")
                second_name(self.metrics, aside)
                self.say(
                    f"{self.metrics} held {_damaged(damaged)}. The others are kept, and the file as it was as {aside}."
                )
            with atomic(self.metrics) as temporary:
                temporary.write_text("".join(json.dumps(row) + "\n" for row in rows if row["step"] <= step))

    def append(self, row: Row) -> None:
        """Adds one row to `metrics.jsonl`; what is not finite becomes null, which JSON knows."""
        finite = {name: v if isinstance(v, str) or math.isfinite(v) else None for name, v in row.items()}
        self._add(self.metrics, json.dumps(finite) + "\n")

    def flush(self) -> None:
        """Flushes the rows to the disk: no checkpoint may outlive those of the steps before it."""
        if self.metrics.is_file():
            with named(self.metrics):
                sync(self.metrics)

    def say(self, text: str) -> None:
        """Prints to the console and to `log.txt`, as `printing.say` does."""
        say(text)
        self.note(text)

    def note(self, text: str) -> None:
        """Adds lines to `log.txt` alone."""
        self._add(self.log, lines_of(text) + "\n")

    def _add(self, path: Path, text: str) -> None:
        if path in self._waiting:
            self._waiting[path] += text
            return
        with (
            named(path, self.then),
            open(path, "a", encoding="utf-8", errors="backslashreplace", opener=not_through_links) as file,
        ):
            file.write(text)

    def then(self) -> str:
        """How to go on after what is written now failed."""
        whole = next((path for path in (self.last, self.before) if path.is_file()), None)
        return f" {whole} is whole: go on with {self.resume_command()}" if whole else ""

    def resume_command(self) -> str:
        """What goes on with the run: its verb's command, or its own call where no file says all that it was given."""
        content = self._content()
        given = [content.get(field) for field in ("data", "backbone", "teacher", "test")]
        words = self.resume_words()
        if not words or any(str(value).startswith("<") for value in given):  # see `flat`
            return "the same call and resume=True"
        return pasteable(*words)

    def resume_words(self) -> list[str]:
        """The words of the command that goes on with the run; none for a method of the user's own."""
        from .methods import METHODS

        name = str(self._content()["method"])
        return ["lookalike", METHODS[name].verb, "--resume", "--out", str(self.path)] if name in METHODS else []

    def _content(self) -> dict[str, object]:
        """What is in `run.yaml`, as far as it can be read."""
        content: dict[str, object] = {"method": "simclr"}
        with suppress(OSError, ValueError):  # what failed before must stay the error
            content |= read_yaml(self.run)
        return content


def _row(line: str) -> Row | None:
    """A row of `metrics.jsonl`; None where the line is no object, or its step no whole number."""
    try:
        row = parse_json(line, "metrics.jsonl", dict)
    except ValueError:
        return None
    step = row.get("step")
    if isinstance(step, bool) or not isinstance(step, int | float) or not 0 <= step < 2**63 or step != int(step):
        return None
    return {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in row.items()}


def _damaged(count: int) -> str:
    return f"{count} damaged row{'' if count == 1 else 's'}"


def features_made_by(path: Path) -> str | None:
    """The sha256 of the encoder whose features a file holds; None of a file that `evaluation.keeping` did not write.

    Its name is a hash of what the features depend on, which stands in its head.
    """
    from safetensors import SafetensorError, safe_open

    if path.is_symlink() or not path.is_file():
        return None
    try:
        with safe_open(path, "np") as file:
            head, names = file.metadata() or {}, set(file.keys())
    except (OSError, SafetensorError):
        return None
    ours = names == {"features", "index"} and path.name == features_name(head.get("about", ""))
    return head.get("encoder") if ours else None


def features_name(about: str) -> str:
    """What a file of features is called, by what they depend on."""
    return f"{hashlib.sha256(about.encode()).hexdigest()[:32]}.safetensors"


def _is_of_tensorboard(path: Path) -> bool:
    """Whether the logger of a run wrote a file: its events have our columns, its hyperparameters are empty."""
    if path.is_symlink() or not path.is_file():
        return False
    if path.name.startswith("events.out.tfevents."):
        content = path.read_bytes()
        return b"images_per_s" in content and b"data_wait" in content
    return path.name == "hparams.yaml" and path.read_bytes().strip() == b"{}"


def _is_ours(path: Path) -> bool:
    """Whether what safetensors had begun to write was an encoder, a classifier or features: their heads say so."""
    if path.is_symlink() or not path.is_file():
        return False
    with open(path, "rb") as file:
        head = file.read(4096)
    return head[8:].startswith(b'{"__metadata__":') and (b'"lookalike":' in head or b'"about":' in head)


def command_line() -> str:
    """The command that the user typed, for `log.txt`."""
    program = Path(sys.argv[0])
    of_module = (program.parent.name, program.name) == ("lookalike", "__main__.py")  # python -m lookalike
    return printable(pasteable("lookalike" if of_module else program.name, *sys.argv[1:]))

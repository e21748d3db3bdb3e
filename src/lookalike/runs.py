"""A run: what is asked (`Run`), its file `run.yaml`, and its folder, written so that a crash loses nothing.

`run.yaml` is as flat as the command line: the options, the method's own fields beside them, and under `made` the
versions and the machine, which reading ignores.
"""

import dataclasses
import difflib
import errno
import json
import math
import os
import platform
import re
import subprocess
import sys
import time
import typing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

if TYPE_CHECKING:
    from torch import nn
    from torch.utils.data import Dataset

    from .backbones import Backbone
    from .core import Config, Method
    from .data import Source

FORMAT = 1
"""Written into every file that a later version must be able to read."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options that every training command takes."""

    out: str = "runs/last"
    """Folder of the run. An existing run is an error unless `--resume` or `--overwrite`."""
    backbone: str = "resnet50"
    """Any timm model, or torchvision/NAME."""
    epochs: int = 100
    """Passes over the images."""
    batch_size: int = 256
    """Images per optimizer step, over all devices and accumulated micro-batches together."""
    image_size: int | None = None
    """Pixels of the largest view; all views follow in proportion. Without it the method's own sizes."""
    channels: int = 3
    """Channels of an image: grey and colour files are converted."""
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
        for name, least in (("image_size", 1), ("workers", 0), ("decode_size", 1)):
            if (found := getattr(self, name)) is not None and found < least:
                raise ValueError(f"{name} is {found}; it must be at least {least}.")
        if not 0 <= self.max_broken <= 1:
            raise ValueError(f"max_broken is {self.max_broken}; it is a share between 0 and 1.")
        if self.frozen_epochs is not None and self.frozen_epochs < 0:
            raise ValueError(f"frozen_epochs is {self.frozen_epochs}; it must be at least 0.")
        if self.frozen_epochs and self.init is None:
            raise ValueError(
                f"frozen_epochs is {self.frozen_epochs} without init: the encoder would stay as random as it is. Give "
                "--init the weights to start from."
            )
        if self.frozen_epochs and self.frozen_epochs >= self.epochs:
            raise ValueError(
                f"frozen_epochs is {self.frozen_epochs:g} of {self.epochs} epochs: the encoder would never learn. Give "
                f"--frozen-epochs {self.epochs / 10:g} or so."
            )
        if self.resume and self.overwrite:
            raise ValueError("resume and overwrite exclude each other: one goes on with the run, one replaces it.")


@dataclass(frozen=True, kw_only=True)
class Run(Options):
    """A training: the data, the method with its configuration, and the options."""

    data: "str | os.PathLike[str] | Dataset[object] | Source"
    """A folder (scanned recursively), a text file of paths, any torch Dataset of images, or an open source."""
    method: "Config"
    """The method's configuration, for instance `SimCLR.Config(temperature=0.2)`."""
    backbone: "str | nn.Module" = Options.backbone  # type: ignore[assignment]
    """A name, a module of your own, or a loaded encoder, whose weights the training then starts from."""
    teacher: "nn.Module | None" = None
    """For distillation: a pretrained module of your own, (B, C, H, W) to (B, D) or (B, D, H, W), in the place of the
    teacher that the method names. It gets images normalised as the student does."""
    given: tuple[str, ...] = ()
    """Dotted names of the method's fields that the user stated: fitting leaves them alone."""


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


_UMASK = os.umask(0)
os.umask(_UMASK)


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
}
"""What to do where the system refuses to write."""


@contextmanager
def named(path: Path, then: str = "") -> Iterator[None]:
    """Lets an error of the system while `path` is written say so, and why, in place of what the writing library says.

    `then` is what to do once the cause is gone.
    """
    try:
        yield
    except Exception as error:
        if (cause := _of_the_system(error)) is None:
            raise
        number = cause.errno or 0
        reason = os.strerror(number) + (f", {_room(path)}" if number == errno.ENOSPC else "")
        remedy = _REMEDIES.get(number, "")
        raise type(cause)(f"{path} could not be written ({reason}). {remedy}{then}".strip()) from error


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


def check_writable(path: Path) -> None:
    """Refuses a file that could not be written, before there is work to be lost; changes nothing.

    Raises:
        FileExistsError, PermissionError: its folder is a file, or nothing may be written there.
    """
    there = next(p for p in path.absolute().parents if p.exists())
    if not there.is_dir():
        raise FileExistsError(f"{path} cannot be written: {there} is a file. Give another --out.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(f"{path} cannot be written: {there} is read-only for this user. Give another --out.")


@contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary name beside `path` to write to; on success it is flushed and renamed, else removed.

    Raises:
        OSError: it could not be written; the message says which file, why, and what to do.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        with named(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            with suppress(PermissionError):  # not all file systems know modes
                temporary.chmod(0o666 & ~_UMASK)  # safetensors makes its files for the owner alone
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

    said = False
    while True:
        with named(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = open(path, "a")  # noqa: SIM115 (what is raised while it is held is not this file's fault)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not flock: workers would inherit and keep it
            held = True
        except BlockingIOError:
            file.close()
            if not wait:
                raise BlockingIOError(
                    f"Another process is working in {path.parent}. Wait for it, stop it, or name another folder."
                ) from None
            if not said:
                print(f"Waiting for another process that holds {path}", file=sys.stderr, flush=True)
                said = True
            time.sleep(0.2)
            continue
        except OSError:  # a file system without locks
            held = False
        if not held or (path.exists() and os.path.samestat(os.fstat(file.fileno()), os.stat(path))):
            break
        file.close()  # its last holder removed it
    with file:
        yield held


def write_json(path: Path, content: object) -> None:
    """Writes JSON atomically."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")


# ---------------------------------------------------------------- run.yaml


class _Loader(yaml.SafeLoader):
    """YAML 1.2's floats: PyYAML reads 1e-6 as a text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d[\d_]*)(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)

_MAY_CHANGE = frozenset(
    {
        "epochs",
        "workers",
        "cache_dir",
        "devices",
        "nodes",
        "strategy",
        "logger",
        "save_every",
        "out",
        "fit",
        "max_broken",
        "data",
        "on_collapse",
    }
)
"""Options that `--resume` may give another value. (Whether the data hold the same images is checked by their keys.)"""


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


def write_run(run: Run, path: Path) -> None:
    """Writes `run.yaml`, with the versions, the commit and the machine that made it."""
    content = {"format": FORMAT} | flat(run) | {"made": made()}
    with atomic(path) as temporary:
        temporary.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100))


def made() -> dict[str, object]:
    """When, by which versions and commit, and on which machine something is made."""
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": {p: version(p) for p in ("lookalike", "torch", "torchvision", "timm", "lightning")}
        | {"python": platform.python_version()},
        "commit": commit(),
        "machine": {"system": platform.platform(), "processor": platform.machine(), "cores": os.cpu_count()},
    }


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
    """Reads a run's file to a mapping; says where a file is missing, is no YAML, or is of a later format."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file. Give the run.yaml of a run, or one that you wrote.")
    try:
        content = yaml.load(path.read_text(), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no options; lines like 'epochs: 100' are expected.")
    found = content.pop("format", FORMAT)
    if found != FORMAT:
        raise ValueError(f"{path} has format {found}, this version reads format {FORMAT}. Update lookalike.")
    content.pop("made", None)
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
                f"{path} asks for {name}, your own class: pass it from Python, read_run(path, method=...)."
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
            raise ValueError(f"{where}: nothing is called '{key}'. {nearest(key, [*options, *fields, 'data'])}")
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
            causes = transform_error(error, "", format_exception=lambda e, _: str(e))
        raise ValueError(f"{where}: " + "; ".join(c.rstrip(" @").replace(" @ .", ", at ") for c in causes)) from None
    values = {f.name: getattr(chosen, f.name) for f in dataclasses.fields(Options)}
    return Run(**values, data=typing.cast(str, content["data"]), method=cfg, given=tuple(dotted(stated)))


def _to_float(value: object, _: type) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{value!r} is not a number")
    return float(value)


def _to_int(value: object, _: type) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{value!r} is not a whole number")
    return value


def _to_bool(value: object, _: type) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} is neither true nor false")
    return value


def _to_str(value: object, _: type) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a text")
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
            raise ValueError(f"{where}: nothing is called '{at}{key}'. {nearest(str(key), names)}")
        kind = hints[key]
        if dataclasses.is_dataclass(kind):
            _check_keys(value, typing.cast(type, kind), where, f"{at}{key}.")
        elif typing.get_origin(kind) is tuple and dataclasses.is_dataclass(typing.get_args(kind)[0]):
            for i, item in enumerate(value if isinstance(value, list) else ()):
                _check_keys(item, typing.get_args(kind)[0], where, f"{at}{key}.{i}.")


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
            lines.append(f"{key}: {a.get(key)} in the run, {b.get(key)} now")
    before, now = old.get("epochs"), new.get("epochs")
    if isinstance(before, int) and isinstance(now, int) and now < before:
        lines.append(f"epochs: {before} in the run, {now} now (more are allowed, fewer are not)")
    return lines


# ---------------------------------------------------------------- the folder


class Folder:
    """The files of a run, by name."""

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
        self.log = self.path / "log.txt"
        self.report = self.path / "report.html"
        self.lock = self.path / ".lock"

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
                    if [self.lock] == [*self.path.iterdir()]:  # nothing was begun
                        self.lock.unlink()
                        if made:
                            self.path.rmdir()

    def check(self, *, resume: bool, overwrite: bool) -> None:
        """Refuses a folder that a training must not write to; changes nothing.

        Raises:
            FileExistsError: a run, or files that are no run, are there and neither `resume` nor `overwrite` was asked.
            FileNotFoundError: `resume`, and no run is there.
        """
        there = next(p for p in (self.path.absolute(), *self.path.absolute().parents) if p.exists())
        if not there.is_dir():
            raise FileExistsError(f"{there} is a file. Give --out another folder.")
        if not os.access(there, os.W_OK | os.X_OK):
            raise PermissionError(f"{there} cannot be written to. Give --out another folder.")
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
        elif self.path.is_dir() and not all(map(self._is_leftover, self.path.iterdir())):
            raise FileExistsError(f"{self.path} is not empty and holds no run. Give --out another folder.")

    def abandon(self) -> None:
        """Removes a run; its folder goes with the lock, where nothing else is in it."""
        self._clear()
        for own in (self.checkpoints, self.features):
            if own.is_dir() and not any(own.iterdir()):
                own.rmdir()

    def _is_leftover(self, path: Path) -> bool:
        """Whether a run that was killed before its first word left this behind."""
        return (
            path == self.lock
            or (path.name.startswith(".") and ".tmp" in path.name)
            or (path == self.checkpoints and not any(path.iterdir()))
        )

    def claim(self, *, resume: bool) -> None:
        """Makes a checked folder ready: a replaced run's files are removed, a resumed run's are kept."""
        if not resume:
            self._clear()
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        for stale in (*self.path.glob(".*.tmp*"), *self.checkpoints.glob(".*.tmp*")):
            stale.unlink()

    def _clear(self) -> None:
        """Removes the files of a run, and nothing that somebody else put there."""
        events = (self.path / "tensorboard").glob("events.out.tfevents.*")
        own = [self.metrics, self.weights, self.card, self.views, self.evaluation, self.distillation, self.log]
        own += [self.classifier, self.classes, self.report]
        for path in [
            *own,
            *events,
            *self.checkpoints.glob("*.ckpt"),
            *self.checkpoints.glob("*.corrupt"),
            *self.checkpoints.glob("nonfinite-*.safetensors"),
            *self.features.glob("*.safetensors"),
            self.run,
        ]:
            path.unlink(missing_ok=True)

    def rows(self) -> list[Row]:
        """The rows of `metrics.jsonl`; a last line that a crash cut short, and lines that are no rows, are left out."""
        rows = []
        if self.metrics.is_file():
            for line in self.metrics.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    row = json.loads(line)
                except json.JSONDecodeError:
                    break
                if isinstance(row, dict):
                    rows.append(row)
        return rows

    def cut_metrics(self, step: int) -> None:
        """Drops the rows after `step`: a resumed run writes them again."""
        if self.metrics.is_file():
            kept = [row for row in self.rows() if row["step"] <= step]
            with atomic(self.metrics) as temporary:
                temporary.write_text("".join(json.dumps(row) + "\n" for row in kept))

    def append(self, row: Row) -> None:
        """Adds one row to `metrics.jsonl`; what is not finite becomes null, which JSON knows."""
        finite = {name: v if isinstance(v, str) or math.isfinite(v) else None for name, v in row.items()}
        with named(self.metrics, self.then()), open(self.metrics, "a") as file:
            file.write(json.dumps(finite) + "\n")

    def say(self, text: str) -> None:
        """Prints to the console and to `log.txt`; what is no text is escaped."""
        text = text.encode("utf-8", "backslashreplace").decode()
        print(text, flush=True)
        self.note(text)

    def note(self, text: str) -> None:
        """Adds lines to `log.txt` alone."""
        with named(self.log, self.then()), open(self.log, "a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text + "\n")

    def then(self) -> str:
        """How to go on after what is written now failed."""
        whole = next((path for path in (self.last, self.before) if path.is_file()), None)
        return f" {whole} is whole: go on with lookalike pretrain --resume --out {self.path}" if whole else ""


def command_line() -> str:
    """The command that the user typed, for `log.txt`."""
    return " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])

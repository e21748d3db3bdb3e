"""The folder of a run: its files by name, written so that a crash loses nothing."""

import hashlib
import json
import math
import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..events import Kind, Report, to_console
from ..files import (
    atomic,
    becomes,
    is_lock,
    lock_of,
    locked,
    named,
    nearest_folder,
    not_through_links,
    parse_json,
    second_name,
    sync,
    temporary_beside,
    unused,
)
from ..foreign import is_tag
from ..methods.table import METHODS
from ..metric_names import with_current_names
from ..printing import lines_of, pasteable, warn
from .yaml import read_yaml

Row = dict[str, Any]
"""A row of `metrics.jsonl`: numbers (None if not finite), and `verdict`, `why` and `remedy` as text."""

MOST_METRICS = 2**31
"""Largest `metrics.jsonl` that is read, in bytes."""
_CHECKPOINT = re.compile(r"(last|last\.before|epoch=\d+)\.(ckpt|corrupt(\.\d+)?)|nonfinite-\d+-rank\d+\.safetensors")
_KEPT = re.compile(r"epoch=\d+\.ckpt")


class Folder:
    """The files of a run, by name. The folder may be a link; folders in it, and files that grow, may not."""

    def __init__(self, path: str | os.PathLike[str], report: Report = to_console) -> None:
        self.path = Path(path)
        self.reports_to = report
        """Receives what `say` reports, in addition to `log.txt`."""
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
        self.start = self.path / "start.json"
        self.memory = self.path / "out-of-memory.json"
        """Written when the run has run out of memory: it may then be resumed with other micro-batches."""
        self.report = self.path / "report.html"
        self.lock = self.path / ".lock"
        self._waiting: dict[Path, str] = {}
        """Lines for files that must not be changed yet."""

    @contextmanager
    def held(self) -> Iterator[None]:
        """Locks the folder against trainings of other processes, until the context ends in any way.

        Raises:
            BlockingIOError: another process trains into it.
        """
        is_new = not self.path.exists()
        with locked(self.lock, wait=None):
            try:
                yield
            finally:
                with suppress(OSError):  # the folder may be gone
                    if [self.lock] == [*self.path.iterdir()] and is_lock(self.lock):  # no run was started
                        self.lock.unlink()
                        if is_new:
                            self.path.rmdir()

    def check(self, *, resume: bool, overwrite: bool) -> None:
        """Checks that a training may write to the folder; changes nothing.

        Raises:
            FileExistsError: the folder holds a run, or other files, and neither `resume` nor `overwrite` is set; or it
                holds a link that may lead elsewhere.
            FileNotFoundError: `resume` without a run in the folder.
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
                    "Use --resume to continue it, --overwrite to replace it, or another --out."
                )
        elif self.path.is_dir() and not self.is_left_over():
            raise FileExistsError(f"{self.path} is not empty and holds no run. Give --out another folder.")

    def check_own(self) -> None:
        """Checks that the run's own files and folders are no links or other objects that may lead elsewhere.

        Raises:
            FileExistsError: one is a link that would be followed, or is not a regular file.
        """
        for path in (*self._folders, self.path / "wandb", self.lock, self.log, self.metrics):
            if path.is_symlink():
                raise FileExistsError(
                    f"{path} is a link, but a run writes only to its own folder. Replace the link by its target; "
                    f"the whole folder {self.path} may be a link."
                )
        for path in (*self._files, self.lock):
            if path.exists() and not path.is_file():
                raise FileExistsError(f"{path} is not a regular file. Move it away, or give another --out.")

    def abandon(self) -> None:
        """Removes a run; an empty folder is removed with the lock."""
        self._clear()
        self.run.unlink(missing_ok=True)
        for own in self._folders:
            if own.is_dir() and not own.is_symlink() and not any(own.iterdir()):
                own.rmdir()

    def is_left_over(self) -> bool:
        """Whether the folder is empty, except for leftovers of killed runs."""
        return all(map(self._is_leftover, self.path.iterdir()))

    def is_of_others(self) -> bool:
        """Whether the folder holds only files that do not belong to a run."""
        return not any(path in (*self._files, *self._folders) or self._is_own(path) for path in self.path.iterdir())

    def _is_leftover(self, path: Path) -> bool:
        """Whether a path is a leftover of a run that was killed before its first line, or while it was replaced."""
        if path in self._folders:
            return path.is_dir() and not path.is_symlink() and not any(path.iterdir())
        return (path in (self.lock, lock_of(self.evaluation)) and is_lock(path)) or self._is_temporary(path)

    def wait(self, *paths: Path) -> None:
        """Holds back lines for these files until the folder is claimed."""
        self._waiting = dict.fromkeys(paths, "")

    def claim(self, *, resume: bool, files: Mapping[Path, bytes] | None = None, keep: Collection[Path] = ()) -> None:
        """Claims a checked folder for a run: files of a replaced run are removed, those of a resumed run stay.

        Nothing is removed or replaced before all `files`, and the lines held back, are on disk under temporary names:
        `run.yaml` is the first to be renamed, so that the folder holds a run at every moment. Files to `keep` do not
        belong to the replaced run.
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
            # other processes write evaluations and the report, too
            if self._is_temporary(path) and becomes(path) not in (self.evaluation.name, self.report.name):
                path.unlink()

    @property
    def _files(self) -> tuple[Path, ...]:
        """The files of a run at the top level of its folder."""
        return (self.run, self.metrics, self.weights, self.card, self.views, self.evaluation, self.distillation,
                self.log, self.inputs, self.start, self.memory, self.classifier, self.classes, self.report)  # fmt: skip

    @property
    def _folders(self) -> tuple[Path, ...]:
        return self.checkpoints, self.features, self.tensorboard

    def _is_temporary(self, path: Path) -> bool:
        """Whether a path is a partly written file of the run, left by a killed process."""
        name = becomes(path)
        if name is None:
            return re.fullmatch(r"\.tmp\w{6}", path.name) is not None and _is_ours(path)
        if path.parent == self.path:
            return name in ("compare.json", *(own.name for own in self._files))
        return _CHECKPOINT.fullmatch(name) is not None or re.fullmatch(r"[0-9a-f]{32}\.safetensors", name) is not None

    def _is_own(self, path: Path) -> bool:
        """Whether a run wrote a file: by its name, and by its content for features and events."""
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
        """Removes the files of a run except `run.yaml` and those to keep; files of others stay."""
        for folder in (*self._folders, self.path):  # after a kill in between the rest is no complete run
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
        """Removes the checkpoints of single epochs except the newest `keep`, and returns the removed ones.

        The newest stays if there is no other checkpoint to resume from.
        """
        removed = self.kept()[keep if self.last.is_file() or self.before.is_file() else max(1, keep) :]
        for path in removed:
            path.unlink(missing_ok=True)
        return removed

    def checkpoint_bytes(self, of_epochs: bool = True) -> int:
        """Size of the run's checkpoints on disk, with or without those of single epochs; hard links count once."""
        own = [self.last, self.before, *(self.kept() if of_epochs else [])]
        found = [path.stat() for path in own if path.is_file() and not path.is_symlink()]
        return sum({(each.st_dev, each.st_ino): each.st_size for each in found}.values())

    def rows(self) -> list[Row]:
        """The rows of `metrics.jsonl`, without damaged ones, whose number is printed to stderr."""
        rows, damaged = self.read_metrics()
        if damaged:
            left = "which is left out" if damaged == 1 else "which are left out"
            warn(f"{self.metrics} holds {_damaged(damaged)}, {left}.")
        return rows

    def read_metrics(self) -> tuple[list[Row], int]:
        """The rows of `metrics.jsonl`, and the number of damaged lines: no JSON object, or no step.

        A last line that a crash truncated does not count: its step is repeated.
        """
        if not self.metrics.is_file():
            return [], 0
        if (size := self.metrics.stat().st_size) > MOST_METRICS:
            raise ValueError(f"{self.metrics} has {size / 2**30:.3g} GiB, more than any run writes. Move it away.")
        *lines, last = self.metrics.read_text(encoding="utf-8", errors="replace").split("\n")
        found = [_row(line) for line in lines if line.strip()]
        rows = [row for row in (*found, _row(last)) if row is not None]
        return rows, found.count(None)

    def cut_metrics(self, step: int) -> None:
        """Removes the rows after `step`, which a resumed run writes again. A damaged file is also saved as a whole."""
        if self.metrics.is_file():
            rows, damaged = self.read_metrics()
            if damaged:
                aside = unused(self.path / f"{self.metrics.name}.corrupt")
                second_name(self.metrics, aside)
                self.say(
                    f"{self.metrics} held {_damaged(damaged)}. The other rows stay, and the original file is {aside}."
                )
            with atomic(self.metrics) as temporary:
                temporary.write_text("".join(json.dumps(row) + "\n" for row in rows if row["step"] <= step))

    def append(self, row: Row) -> None:
        """Adds one row to `metrics.jsonl`; values that are not finite become null, as JSON requires."""
        finite = {name: v if isinstance(v, str) or math.isfinite(v) else None for name, v in row.items()}
        self._add(self.metrics, json.dumps(finite) + "\n")

    def flush(self) -> None:
        """Flushes the rows to disk: a checkpoint must not survive without the rows before it."""
        if self.metrics.is_file():
            with named(self.metrics):
                sync(self.metrics)

    def say(self, text: str, kind: Kind = "fact") -> None:
        """Reports an event, by default to the console, and adds it to `log.txt`."""
        self.reports_to(text, kind)
        self.note(text)

    def say_progress(self, text: str) -> None:
        """Reports progress, and adds it to `log.txt`."""
        self.say(text, "progress")

    def note(self, text: str) -> None:
        """Adds lines to `log.txt` only."""
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
        """How to resume if the current write fails; empty without a checkpoint."""
        intact = next((path for path in (self.last, self.before) if path.is_file()), None)
        return f" {intact} is intact: resume with {self.resume_command()}" if intact else ""

    def resume_command(self) -> str:
        """What resumes the run: a command, or the same call from Python if `run.yaml` does not hold all arguments."""
        content = self._content()
        arguments = [content.get(field) for field in ("data", "backbone", "teacher", "test")]
        words = self.resume_words()
        if not words or any(is_tag(str(value)) for value in arguments):  # see `flat`
            return "the same call and resume=True"
        return pasteable(*words)

    def resume_words(self) -> list[str]:
        """The words of the command that resumes the run; empty for a user's own method."""
        name = str(self._content()["method"])
        return ["lookalike", METHODS[name].verb, "--resume", "--out", str(self.path)] if name in METHODS else []

    def _content(self) -> dict[str, object]:
        """The content of `run.yaml`, as far as it can be read."""
        content: dict[str, object] = {"method": "simclr"}
        with suppress(OSError, ValueError):  # an earlier error must stay the error
            content |= read_yaml(self.run)
        return content


def _row(line: str) -> Row | None:
    """A row of `metrics.jsonl`; None if the line is not a JSON object, or its step not a whole number."""
    try:
        row = parse_json(line, "metrics.jsonl", dict)
    except ValueError:
        return None
    step = row.get("step")
    if isinstance(step, bool) or not isinstance(step, int | float) or not 0 <= step < 2**63 or step != int(step):
        return None
    row = with_current_names(row)
    return {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in row.items()}


def _damaged(count: int) -> str:
    return f"{count} damaged row{'' if count == 1 else 's'}"


def features_made_by(path: Path) -> str | None:
    """The SHA-256 of the encoder whose features a file holds; None if a `FeatureCache` did not write it.

    The file's name is a hash of all that the features depend on, which its header holds.
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
    """The name of a file of features, from everything that they depend on."""
    return f"{hashlib.sha256(about.encode()).hexdigest()[:32]}.safetensors"


def _is_of_tensorboard(path: Path) -> bool:
    """Whether a run's logger wrote a file: its events have our columns, its hyperparameters are empty."""
    if path.is_symlink() or not path.is_file():
        return False
    if path.name.startswith("events.out.tfevents."):
        content = path.read_bytes()
        return b"images_per_s" in content and b"data_wait" in content
    return path.name == "hparams.yaml" and path.read_bytes().strip() == b"{}"


def _is_ours(path: Path) -> bool:
    """Whether a partly written safetensors file is an encoder, a classifier or features, by its header."""
    if path.is_symlink() or not path.is_file():
        return False
    with open(path, "rb") as file:
        head = file.read(4096)
    return head[8:].startswith(b'{"__metadata__":') and (b'"lookalike":' in head or b'"about":' in head)

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
"""A row of `metrics.jsonl`: numbers (None where one was not finite), and `verdict`, `why` and `remedy` in words."""

MOST_METRICS = 2**31
"""Bytes of a `metrics.jsonl` that are read."""
_CHECKPOINT = re.compile(r"(last|last\.before|epoch=\d+)\.(ckpt|corrupt(\.\d+)?)|nonfinite-\d+-rank\d+\.safetensors")
_KEPT = re.compile(r"epoch=\d+\.ckpt")


class Folder:
    """The files of a run, by name. The folder may be a link; folders in it, and files that grow, may not."""

    def __init__(self, path: str | os.PathLike[str], report: Report = to_console) -> None:
        self.path = Path(path)
        self.reports_to = report
        """Where `say` goes beside `log.txt`."""
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
        with locked(self.lock, wait=None):
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
        return (path in (self.lock, lock_of(self.evaluation)) and is_lock(path)) or self._is_temporary(path)

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
                self.log, self.inputs, self.start, self.classifier, self.classes, self.report)  # fmt: skip

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
            warn(f"{self.metrics} holds {_damaged(damaged)}, {left}.")
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

    def say(self, text: str, kind: Kind = "fact") -> None:
        """Reports an event, to the console unless asked otherwise, and adds it to `log.txt`."""
        self.reports_to(text, kind)
        self.note(text)

    def say_progress(self, text: str) -> None:
        """Reports how far the work is, and adds it to `log.txt`."""
        self.say(text, "progress")

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
        if not words or any(is_tag(str(value)) for value in given):  # see `flat`
            return "the same call and resume=True"
        return pasteable(*words)

    def resume_words(self) -> list[str]:
        """The words of the command that goes on with the run; none for a method of the user's own."""
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
    row = with_current_names(row)
    return {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in row.items()}


def _damaged(count: int) -> str:
    return f"{count} damaged row{'' if count == 1 else 's'}"


def features_made_by(path: Path) -> str | None:
    """The sha256 of the encoder whose features a file holds; None of a file that a `FeatureCache` did not write.

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

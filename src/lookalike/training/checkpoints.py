"""Checkpoints: when they are written, and the one that a run resumes from."""

import dataclasses
import os
import shutil
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.io import CheckpointIO
from torch import nn

from .. import distributed, encoders, processes
from ..core import Method
from ..data import Source, image_set
from ..files import FORMAT, atomic, file_sha256, second_name, sync
from ..runs import (
    OF_MEMORY,
    Collapsed,
    Folder,
    Resolved,
    Run,
    differences,
    flat,
    from_mapping,
    inputs,
    method_name,
    read_run,
    renamed,
)
from .health import RUINED
from .model import build
from .module import Pretraining
from .signals import Signals

SAVE_SECONDS = 600
"""`last.ckpt` is at most this many seconds old, however long an epoch is."""


SETTLE_SECONDS = 30
"""With epochs shorter than this many seconds not every epoch writes `last.ckpt`."""


NOTHING = " Nothing was saved before."
"""Printed if `Folder.then` is empty."""


MOST_SKIPPED = 20
"""This many consecutive optimizer steps without finite gradients end the run."""


class TorchFile(CheckpointIO):
    """Checkpoints of tensors and plain types: streamed to a temporary name, flushed, renamed; the previous stays."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: object = None) -> None:
        path = Path(path)
        with processes.alone("it writes a checkpoint"), atomic(path) as temporary:
            with open(temporary, "wb") as file:  # given a path, torch does not report a full disk
                torch.save(checkpoint, file)
            sync(temporary)
            if path.name == "last.ckpt":
                _keep_last(Folder(path.parents[1]))

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        loaded: dict[str, Any] = torch.load(path, map_location=map_location or "cpu", weights_only=True)
        return loaded

    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink(missing_ok=True)


def _keep_last(folder: Folder) -> None:
    """Renames `last.ckpt` to `last.before.ckpt`; the new one is already on disk and is renamed next."""
    if folder.last.exists():
        folder.last.replace(folder.before)


class Checkpoints(Callback):
    """Saves after optimizer steps: at the end of an epoch, every ten minutes, and on a signal to stop."""

    def __init__(self, folder: Folder, run: Resolved, signals: Signals) -> None:
        self.folder = folder
        self.run = run
        self.signals = signals
        self._saved = time.monotonic()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._saved = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, Pretraining)
        if (batch_idx + 1) % self.run.loss_batches:
            return
        step, age = pl_module.done_steps, time.monotonic() - self._saved
        epoch = step // pl_module.steps_per_epoch if step % pl_module.steps_per_epoch == 0 else None
        keep = epoch is not None and (epoch % self.run.save_every == 0 or epoch == self.run.epochs)
        due = age > SAVE_SECONDS or (epoch is not None and age > SETTLE_SECONDS)
        caught = self.signals.caught
        # a user's callback may have requested a stop, too; a signal may have reached one process only
        collapsed = pl_module.collapsed and self.run.on_collapse == "stop"
        wanted = caught == signal.SIGINT, caught == signal.SIGTERM, trainer.should_stop, keep or due, collapsed
        interrupted, terminated, stop, due, collapsed = distributed.agree(*wanted)
        if collapsed:  # nothing is saved: the earlier checkpoints are worth more
            raise Collapsed(
                f"The training collapsed and was stopped at step {step} of {pl_module.steps} (--on-collapse stop). "
                f"{self.folder.log} has the metrics and what to try."
            )
        if interrupted or terminated:
            self.signals.caught, stop = signal.SIGTERM if terminated else signal.SIGINT, True
        # weights without finite gradients must not replace good ones
        diverged = pl_module.skipped_in_a_row >= MOST_SKIPPED
        ruined = diverged or (pl_module.skipped_in_a_row >= RUINED and step < pl_module.steps)
        if stop or (due and not ruined):
            self.save(trainer, pl_module, epoch if keep else None)
        if diverged:
            pl_module.give_up()
        trainer.should_stop = stop

    def save(self, trainer: Trainer, pl_module: Pretraining, epoch: int | None) -> None:
        """Writes the encoder, a kept epoch's checkpoint and, last, `last.ckpt`: a crash in between repeats all."""
        try:
            self._save(trainer, pl_module, epoch)
        except Exception as error:
            reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
            free = ""
            with suppress(OSError):  # the folder may be gone
                free = f", where {shutil.disk_usage(self.folder.path).free / 2**20:.0f} MiB are free"
            raise RuntimeError(
                f"The checkpoint of step {pl_module.done_steps} could not be written to {self.folder.path}{free}: "
                f"{reason}.{self.folder.then() or NOTHING}"
            ) from error
        self._saved = time.monotonic()

    def _save(self, trainer: Trainer, pl_module: Pretraining, epoch: int | None) -> None:
        if trainer.is_global_zero:
            self.folder.flush()
            encoders.save(
                self.folder,
                pl_module.method.encoder,
                method=method_name(self.run.method),
                epochs=pl_module.done_steps / pl_module.steps_per_epoch,
                dtype=pl_module.image_dtype,
            )
        if epoch is None:
            trainer.save_checkpoint(self.folder.last)
        else:
            kept = self.folder.checkpoints / f"epoch={epoch}.ckpt"
            trainer.save_checkpoint(kept)
            if trainer.is_global_zero:
                with atomic(self.folder.last) as temporary:
                    temporary.unlink()  # a link needs an unused name
                    second_name(kept, temporary)
                    _keep_last(self.folder)
                if self.run.keep_checkpoints is not None:
                    self.folder.thin(self.run.keep_checkpoints)


def weights_digest(place: str) -> str | None:
    """SHA-256 of weights in a file or a run's folder; None for names of models and missing files."""
    path = Path(place)
    path = Folder(path).weights if path.is_dir() else path
    return file_sha256(path) if path.is_file() else None


def restored(run: Run) -> tuple[Method, Resolved]:
    """The method of a run's last checkpoint, with its heads and frozen parts, and the resolved run."""
    folder = Folder(run.out)
    settled = read_run(folder.run, run.method.method)
    settled = dataclasses.replace(settled, data=run.data, teacher=run.teacher)
    if isinstance(run.backbone, nn.Module):
        settled = dataclasses.replace(settled, backbone=run.backbone)
    whole = Resolved.of(settled)
    method = build(whole)
    content = torch.load(folder.last, map_location="cpu", weights_only=True)
    state = {k.removeprefix("method."): v for k, v in content["state_dict"].items() if k.startswith("method.")}
    method.backbone.mean, method.backbone.std = (tuple(content["lookalike"][name]) for name in ("mean", "std"))
    method.before_training()
    method.load_state_dict(state)  # last, because it includes a teacher's weights
    return method, whole


@dataclass(frozen=True)
class Found:
    """A readable checkpoint."""

    path: Path
    step: int
    """Number of optimizer steps done."""
    epochs: int
    """Number of epochs that its run had planned."""
    mean: tuple[float, ...]
    """Mean (and below standard deviation) of the images' normalisation."""
    std: tuple[float, ...]
    world: int
    """Number of processes that wrote it."""
    unreadable: tuple[Path, ...]
    """Newer checkpoints that cannot be read."""


def find_checkpoint(
    folder: Folder, run: Resolved, before: Mapping[str, object], source: Source, begun: Mapping[str, bytes]
) -> Found | None:
    """The newest readable checkpoint of a run, or None if it has not written one yet.

    Raises:
        ValueError: the run had another configuration or other images; or no checkpoint of it can be read.
    """
    _refuse_changes(folder, before, run, begun)
    candidates = [p for p in (folder.last, folder.before, *folder.kept()) if p.is_file()]
    broken: dict[Path, str] = {}
    for path in candidates:
        unreadable = tuple(p for p in broken if p in (folder.last, folder.before))
        try:
            content = encoders.unpickled(path)
            own = content["lookalike"]
            if own["format"] == FORMAT:
                then = own.get("run", before)
                found = Found(
                    path, int(content["global_step"]), int(str(before["epochs"])), tuple(own["mean"]),
                    tuple(own["std"]), int(str(then.get("devices", 1))) * int(str(then.get("nodes", 1))), unreadable,
                )  # fmt: skip
                images = own["data"]
        except PermissionError:
            raise  # the file may be fine
        except Exception as error:
            broken[path] = str(error) if isinstance(error, ValueError) else f"{path} is not a checkpoint of a training."
            folder.say(f"The checkpoint {path} cannot be read; trying the previous one.")
            continue
        if own["format"] != FORMAT:
            raise ValueError(
                f"{path} has format {own['format']}, this version reads format {FORMAT}. Update lookalike."
            )
        if "run" in own:  # what was trained, even if run.yaml was edited since
            _refuse_changes(folder, renamed(own["run"]), run, begun)
        if images != image_set(source):
            now, then = source.listing(), begun.get("data")
            change = f"{len(source)} now"
            if now is not None and then is not None:
                change = inputs.difference(now, then)
            raise ValueError(
                f"{run.data} holds other images than when {folder.path} started: {change}. A resumed run needs the "
                "same images. Restore them, or start a new run with --init."
            )
        _check_content(folder, run, before, source, begun)
        return found
    if broken:
        raise ValueError(
            "No checkpoint of the run can be read:\n  "
            + "\n  ".join(broken.values())
            + "\nStart again with --overwrite, or a new run from the encoder with --init."
        )
    folder.say("NO CHECKPOINT to resume from: starting from the beginning.")
    return None


def _check_content(
    folder: Folder, run: Resolved, before: Mapping[str, object], source: Source, begun: Mapping[str, bytes]
) -> None:
    """Compares the content of images with unchanged names: a change in the same folder gives a warning.

    Raises:
        ValueError: the images lie in another folder, and one of them differs.
    """
    then, listing = before.get("data"), source.listing()
    if listing is None or not isinstance(then, str) or not isinstance(run.data, str | os.PathLike):
        return
    now = inputs.of("data", listing, source.head, len(source))
    if not (change := inputs.changed("data", now, begun)):
        return
    text = f"{run.data} holds other images than when {folder.path} started: {change}"
    if os.path.realpath(then) != os.path.realpath(run.data):
        raise ValueError(f"{text}. A resumed run needs the same images. Restore them, or start a new run with --init.")
    if distributed.rank() == 0:
        folder.say(f"WARNING     {text}.", "warning")


def _refuse_changes(folder: Folder, before: Mapping[str, object], run: Resolved, begun: Mapping[str, bytes]) -> None:
    asked = {"alpha": "white"} | {
        name: value for name, value in before.items() if name != "method"
    }  # version 0.1 had no other
    # through a Run, so that options that are newer than the run have their defaults
    settled = from_mapping(asked, run.method.method, str(folder.run))
    old = flat(settled) | {"method": before.get("method"), "frozen_epochs": settled.frozen_epochs or 0.0}
    if isinstance(old["init"], str) and run.init and (now := weights_digest(run.init)):
        then = begun["init"].decode(errors="replace") if "init" in begun else weights_digest(old["init"])
        if then in (now, None):  # moved; version 0.1 stored no digest, so missing weights cannot be compared
            old["init"] = run.init
    if lines := differences(old, flat(run), OF_MEMORY if folder.memory.is_file() else ()):
        raise ValueError(
            f"{folder.path} cannot be resumed with another configuration:\n  "
            + "\n  ".join(lines)
            + "\nLeave these options out, or give --out another folder."
        )

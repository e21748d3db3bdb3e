"""Training: `pretrain(run)`. Lightning drives devices, precision and checkpoints, here and in `monitor.py` only.

Lightning sees the whole training as one epoch of `epochs x micro-batches`: a resume then has one case, the middle of an
epoch, and our own `Progress` counts the epochs.
"""

import copy
import dataclasses
import hashlib
import inspect
import io
import logging
import math
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress
from dataclasses import dataclass
from datetime import timedelta
from importlib.metadata import entry_points
from pathlib import Path
from types import FrameType
from typing import Any, Literal, cast

import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.fabric.utilities.distributed import _set_num_threads_if_needed
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.plugins.io import CheckpointIO
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from lightning.pytorch.trainer.connectors import callback_connector
from PIL.Image import Image
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import get_total_norm

from . import backbones, distributed, encoders, optimizers, processes
from .backbones.factory import patch_size, remade
from .core import Batch, Config, DataFacts, Method, Progress
from .data import Answers, Images, Loader, Source, lost, open_source, statistics, warnings_about
from .devices import default_device, free_for_state, moved
from .durations import seconds_of, spoken
from .files import FORMAT, atomic, cache_folder, file_sha256, nearest_folder, second_name, sync, unused
from .foreign import is_tag
from .health import RUINED, Remedies, ruined
from .image_options import Alpha
from .layers import Teacher
from .looks import Health
from .methods.distill import Distill
from .monitor import Monitor, Probe
from .optim import Optim
from .places import check_logger
from .printing import LONGEST_PATH, are, brief, counted, pasteable, printable, say, size_of, spanned
from .progress import counting
from .random import key_of
from .runs import (
    Collapsed,
    Diverged,
    Folder,
    Options,
    Result,
    Run,
    check_same_time,
    command_line,
    differences,
    dotted,
    flat,
    from_mapping,
    inputs,
    method_name,
    module_name,
    plain,
    read_run,
    read_whole_yaml,
    read_yaml,
    run_text,
    version,
    written_by,
)
from .schedules import Schedule
from .tensor_file import write_tensors
from .timing import MANY_EPOCHS, Measured, Pace, Speed
from .views import View, make_views, resized, sheet

SAVE_SECONDS = 600
"""`last.ckpt` is at most this old, however long an epoch is."""
SETTLE_SECONDS = 30
"""Epochs shorter than this do not each write `last.ckpt`."""
EPOCH_SHARES = {"freeze_epochs": 0.1, "queue_starts": 0.1}
"""Fields of methods that count epochs, and what share of the training they may take at most."""
MANY = 10_000
"""So many images are decoded into a cache by several processes."""
DRAWN_ANEW = {
    "moco_v2": "the order in which several processes compute keys",
    "lejepa": "directions",
    "deepcluster_v2": "the first centroids of groups",
    "ibot": "masks",
    "dinov2": "masks",
}
"""What methods draw otherwise than in 0.1, which did so without the run's seed."""
NOTHING = " Nothing was saved before."
"""Said in the place of `Folder.then`."""
SOMEBODY = "Another process of this training is gone; its own message, or that of what started it, tells why."
"""Said where this process did not start the others."""
MOST_SKIPPED = 20
"""So many optimizer steps without finite gradients, one after the other, end the run."""


_PRECISIONS: dict[str, Literal["32-true", "bf16-mixed", "16-mixed", "64-true"]] = {
    "fp32": "32-true",
    "bf16": "bf16-mixed",
    "fp16": "16-mixed",
    "fp64": "64-true",
}


class Stream:
    """All micro-batches of a training, epoch after epoch, for Lightning to iterate over once."""

    def __init__(self, loader: Loader, epochs: int) -> None:
        self.loader = loader
        self.epochs = epochs

    def __len__(self) -> int:
        return self.epochs * len(self.loader)

    def __iter__(self) -> Iterator[Images]:
        while self.loader.epoch < self.epochs:
            yield from self.loader

    def state_dict(self) -> dict[str, int]:
        return self.loader.state_dict()

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.loader.load_state_dict(state)


class Pretraining(LightningModule):
    """A method under Lightning's loop: makes the views, applies the schedules, skips what is not finite."""

    def __init__(
        self, method: Method, run: Run, loader: Loader, folder: Folder | None = None,
        begin: Callable[[], None] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.folder = folder or Folder(run.out)
        self.begin = begin
        """Called once, when the first optimizer step is done."""
        self.method = method
        self.run = run
        self.loader = loader
        self.steps_per_epoch = loader.steps_per_epoch
        self.steps = run.epochs * loader.steps_per_epoch
        self.parts: dict[str, Tensor] = {}
        """The loss and its parts in the last micro-batch, detached."""
        self.outputs: dict[str, Tensor] = {}
        """What else the method returned for the last micro-batch, detached."""
        self._handed: list[dict[str, Tensor]] = []
        """What the step's micro-batches hand to `Method.after_step`."""
        self.image_dtype = torch.uint8
        """Of the images of the last batch."""
        self.grad_norm = math.nan
        self.skipped = 0
        """Optimizer steps dropped because their gradients were not finite."""
        self.skipped_in_a_row = 0
        self.dropped = False
        """Whether the last optimizer step was dropped."""
        self._statistics: list[Tensor] = []
        self._kept: list[Tensor] = []
        """BatchNorm's statistics as they were before the step."""
        self._still: list[tuple[Tensor, Tensor]] = []
        """Of these the encoder's, and as they were."""
        self._channels_last = any(isinstance(m, nn.Conv2d) and m.kernel_size != m.stride for m in method.modules())
        self.micro_batch: list[Tensor] = []
        """The last micro-batch's views."""
        self.collapsed = False
        """Whether the last verdict said so."""
        self.probe_seconds = 0.0
        """What the probe's look at the encoder took before the first step."""

    @property
    def done_steps(self) -> int:
        """Optimizer steps that are done."""
        return int(self.trainer.global_step)

    @property
    def at(self) -> Progress:
        return Progress(min(self.done_steps, self.steps - 1), self.steps, self.steps_per_epoch, self.run.seed)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        # the scaler of fp16 cannot hand unscaled gradients to a fused optimizer, and we clip them
        fused = self.run.precision != "fp16"
        # and torch's fused SGD fails on parameters that take their first step later than others
        late = bool(self.run.frozen_epochs) or self.run.method.needs.partial_gradients
        fused = fused and not (late and self.run.method.optim.name == "sgd")
        self.rates = optimizers.build(self.method, self.run.method.optim, self.run.batch_size, fused=fused)
        return self.rates.optimizer

    def transfer_batch_to_device(self, batch: Images, device: torch.device, dataloader_idx: int) -> Images:
        return batch.to(device, non_blocking=True)

    def on_after_batch_transfer(self, batch: Images, dataloader_idx: int) -> Batch:
        backbone = self.method.backbone
        if batch.buffer.is_floating_point():
            batch.buffer = batch.buffer.float()  # Lightning widens them for fp64; views are made in float32
        self.image_dtype = batch.buffer.dtype
        layout = torch.channels_last if self._channels_last else torch.contiguous_format
        with torch.profiler.record_function("lookalike.views"), torch.no_grad():
            views = make_views(
                batch,
                self.run.method.views_at(self.at),
                batch.keys,
                mean=backbone.mean,
                std=backbone.std,
                memory_format=layout,
            )
            views = [v.to(self.dtype, memory_format=layout) for v in views]
        index = moved(batch.index, views[0].device)
        return Batch(views=views, index=index, progress=self.at, labels=batch.labels, cpu_index=batch.index)

    def setup(self, stage: str) -> None:
        order = self.loader.order
        if (order.rank, order.world) != (self.trainer.global_rank, self.trainer.world_size):
            raise RuntimeError(
                f"This process loads data as rank {order.rank} of {order.world}, but trains as rank "
                f"{self.trainer.global_rank} of {self.trainer.world_size}. Use one of torchrun, srun and --devices."
            )

    def on_train_start(self) -> None:
        self.method.train()  # a loaded encoder arrives in eval mode, and Lightning keeps it so
        # only now: moving to a device or to float64 puts other tensors in the buffers' place
        self._statistics = _statistics(self.method)
        self._kept = [b.clone() for b in self._statistics]
        encoder = {id(b) for part in (self.method.backbone, self.method.encoder) for b in _statistics(part)}
        self._still = [(b, kept) for b, kept in zip(self._statistics, self._kept) if id(b) in encoder]

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        micro = batch_idx % self.run.accumulate
        torch.manual_seed(key_of(self.run.seed, "step", self.done_steps, micro, distributed.rank()))
        if micro == 0:
            self._handed = []
            if self._kept:
                torch._foreach_copy_(self._kept, self._statistics)
        self.micro_batch = batch.views

    def on_fit_start(self) -> None:
        if self.trainer.ckpt_path is None:  # a resumed run has what it saw
            self.method.train()
            torch.manual_seed(key_of(self.run.seed, "survey", distributed.rank()))
            with torch.no_grad(), self.trainer.precision_plugin.forward_context():
                self.method.initialize_bank(self._epoch_before())

    def _epoch_before(self) -> Iterator[Batch]:
        """An epoch of batches for `Method.initialize_bank`.

        What is not finite in one leaves BatchNorm's statistics alone.
        """
        say = counting(self.folder.say, f"{'survey':<12}", "images seen")
        statistics = _statistics(self.method)
        kept = [b.clone() for b in statistics]
        for i, images in enumerate(self.loader.survey(), 1):
            if distributed.rank() == 0:
                say(i * self.loader.order.rows * distributed.world(), len(self.loader.source))
            yield self.on_after_batch_transfer(self.transfer_batch_to_device(images, self.device, 0), 0)
            good = all(bool(b.isfinite().all()) for b in statistics)
            for a, b in zip(kept, statistics) if good else zip(statistics, kept):
                a.copy_(b)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        outputs = self.method(batch)
        detached = {name: value.detach() for name, value in outputs.items()}
        self.parts = {name: value for name, value in detached.items() if value.ndim == 0}
        self.outputs = {name: value for name, value in detached.items() if value.ndim}
        self._handed.append({name: self.outputs[name] for name in self.run.method.needs.handed_over})
        loss: Tensor = outputs["loss"]
        return loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        gradients = [p.grad for p in self.method.parameters() if p.grad is not None]
        self.grad_norm = float(get_total_norm(gradients)) if gradients else 0.0
        self.dropped = not math.isfinite(self.grad_norm)
        if self.dropped:
            for p in self.method.parameters():
                p.grad = None  # optimizers pass over parameters without a gradient
            return
        if self._is_frozen(self.at):
            for p in self.method.backbone.net.parameters():  # a mask token is no part of most weights
                p.grad = None
        self.method.before_step(self.at)
        optimizers.clip(self.method, self.run.method.optim)

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        at = self.at
        self.rates.apply(at)
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        if self.dropped:
            for buffer, kept in zip(self._statistics, self._kept):
                buffer.copy_(kept)
            self.skipped += 1
            self.skipped_in_a_row += 1
        else:
            self.skipped_in_a_row = 0
            if self._is_frozen(at):
                for buffer, kept in self._still:
                    buffer.copy_(kept)
            if not self.run.method.needs.sync_batchnorm:
                distributed.average(self._statistics)
            self.method.after_step(at, self._handed)
        if self.begin is not None:
            self.begin()
            self.begin = None

    def _is_frozen(self, at: Progress) -> bool:
        """Whether the encoder stays as `--init` gave it."""
        return at.epoch < (self.run.frozen_epochs or 0)

    def give_up(self) -> None:
        """Saves the last batch's views and raises Diverged."""
        path = self.folder.checkpoints / f"nonfinite-{self.done_steps}-rank{distributed.rank()}.safetensors"
        with atomic(path) as temporary:
            write_tensors(temporary, {f"views.{i}": v for i, v in enumerate(self.micro_batch)}, {})
        found = ruined(self.skipped_in_a_row, float(self.parts["loss"]), self.micro_batch)
        raise Diverged(
            f"At step {self.done_steps} of {self.steps}, {found.why} The checkpoints are of steps before them, {path} "
            f"holds the last views. {found.remedy}"
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["lookalike"] = {
            "format": FORMAT,
            "skipped": self.skipped,
            "skipped_in_a_row": self.skipped_in_a_row,
            "run": flat(self.run),
            "data": image_set(self.loader.source),
            # with --init they are those of the weights that the run began from
            "mean": list(self.method.backbone.mean),
            "std": list(self.method.backbone.std),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        own = checkpoint["lookalike"]
        self.skipped, self.skipped_in_a_row = own["skipped"], own["skipped_in_a_row"]
        self.method.backbone.mean, self.method.backbone.std = tuple(own["mean"]), tuple(own["std"])
        if checkpoint["global_step"] < self.steps:
            # a finished run that gets more epochs: its last batch is no longer the last
            checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"] = False


def _statistics(method: nn.Module) -> list[Tensor]:
    """BatchNorm's running statistics."""
    return [b for m in method.modules() if isinstance(m, _BatchNorm) for b in m.buffers(recurse=False)]


class TorchFile(CheckpointIO):
    """Checkpoints of tensors and plain types: streamed to a temporary name, flushed, renamed; the last one is kept."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: object = None) -> None:
        path = Path(path)
        with atomic(path) as temporary:
            with open(temporary, "wb") as file:  # given a path, torch does not say that the disk is full
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
    """Gives `last.ckpt` the name of the one before; the new one is on the disk already and is renamed next."""
    if folder.last.exists():
        folder.last.replace(folder.before)


class Signals(Callback):
    """Ctrl-C and SIGTERM: noted while training, to be answered at the next optimizer step."""

    def __init__(self, watch: processes.Watch) -> None:
        self.watch = watch
        self.caught: int | None = None

    @contextmanager
    def put_back(self) -> Iterator[None]:
        """Leaves the handlers as they were, whatever this class and Lightning do to them."""
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            if threading.current_thread() is threading.main_thread():
                for number, handler in before.items():
                    if handler is not None:  # one that was not set from Python
                        signal.signal(number, handler)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # only now: until here there is nothing to save
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self._note)
        self.watch.begun = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.watch.over = True

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.caught is not None and number == signal.SIGINT:
            processes.end(130)
        self.caught = number
        os.write(2, b"\nStopping after this step; Ctrl-C again ends at once.\n")


class FirstStep(Callback):
    """Calls something once, when this process has made an optimizer step and the run's first files are there.

    Args:
        part: whether the training is a part of something that says by itself how to go on.
    """

    def __init__(self, begin: Callable[[], None], part: bool = False) -> None:
        self.begin: Callable[[], None] | None = begin
        self.part = part

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if trainer.global_step and self.begin is not None:
            begin, self.begin = self.begin, None
            begin()


class Compiling(Callback):
    """Says before the first step that networks are compiled, and after it how long that took."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self._began: float | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._began = time.perf_counter()
        if trainer.is_global_zero:
            self.folder.say("compiling   backbone and heads for the first step (--compile): minutes on a CPU ...")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if self._began is not None and trainer.is_global_zero:
            seconds, self._began = time.perf_counter() - self._began, None
            self.folder.say(f"compiled    in {timedelta(seconds=round(seconds))}, with the first batch")


class Checkpoints(Callback):
    """Saves at optimizer steps: each epoch, every ten minutes, and when a signal asks to stop."""

    def __init__(self, folder: Folder, run: Run, signals: Signals) -> None:
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
        if (batch_idx + 1) % self.run.accumulate:
            return
        step, age = pl_module.done_steps, time.monotonic() - self._saved
        epoch = step // pl_module.steps_per_epoch if step % pl_module.steps_per_epoch == 0 else None
        keep = epoch is not None and (epoch % self.run.save_every == 0 or epoch == self.run.epochs)
        due = age > SAVE_SECONDS or (epoch is not None and age > SETTLE_SECONDS)
        caught = self.signals.caught
        # a callback of the user's may have asked to stop, too; a signal may have reached one process only
        collapsed = pl_module.collapsed and self.run.on_collapse == "stop"
        wanted = caught == signal.SIGINT, caught == signal.SIGTERM, trainer.should_stop, keep or due, collapsed
        interrupted, terminated, stop, due, collapsed = distributed.agree(*wanted)
        if collapsed:  # nothing is saved: the checkpoints of before are worth more
            raise Collapsed(
                f"The training collapsed and was stopped at step {step} of {pl_module.steps} (--on-collapse stop). "
                f"{self.folder.log} says what was seen and what to try."
            )
        if interrupted or terminated:
            self.signals.caught, stop = signal.SIGTERM if terminated else signal.SIGINT, True
        # weights from which no gradient is finite must not take the place of good ones
        diverged = pl_module.skipped_in_a_row >= MOST_SKIPPED
        ruined = diverged or (pl_module.skipped_in_a_row >= RUINED and step < pl_module.steps)
        if stop or (due and not ruined):
            self.save(trainer, pl_module, epoch if keep else None)
        if diverged:
            pl_module.give_up()
        trainer.should_stop = stop

    def save(self, trainer: Trainer, pl_module: Pretraining, epoch: int | None) -> None:
        """Writes the encoder, a kept epoch's checkpoint, and `last.ckpt` in the end: a crash in between repeats all."""
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
                    temporary.unlink()  # a link takes no name that is there
                    second_name(kept, temporary)
                    _keep_last(self.folder)
                if self.run.keep_checkpoints is not None:
                    self.folder.thin(self.run.keep_checkpoints)


def image_set(source: Source) -> str:
    """Names the set of images: a resumed run must see the same ones, in the same order."""
    return f"{len(source)}-{hashlib.blake2b(source.keys.numpy().tobytes(), digest_size=16).hexdigest()}"


# ---------------------------------------------------------------- pretrain


def pretrain(run: Run, callbacks: Sequence[Callback] = ()) -> Result:
    """Trains an encoder on unlabelled images and writes the run's folder.

    Args:
        run: the data, the method and the options.
        callbacks: Lightning callbacks of your own, which see a `Pretraining`.

    Raises:
        FileExistsError: the folder holds a run and neither `resume` nor `overwrite` was asked.
        FileNotFoundError, ValueError: data, method, backbone or sizes that cannot be; the message says what to do.
        Diverged: the gradients were not finite for many steps; the weights keep their last good values.
        Collapsed: all images get one feature, and `run.on_collapse` is "stop".
        KeyboardInterrupt, SystemExit: after Ctrl-C and SIGTERM, once the state is saved.
    """
    processes.follow_starter()
    if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun's processes go on without it where it is killed
        processes.follow(os.getppid())
    folder, rank, world = Folder(run.out), launched_rank(run), run.devices * run.nodes
    launched = int(os.environ.get("WORLD_SIZE", world))
    if launched != world or rank >= world:
        raise ValueError(
            f"This is process {rank} of {max(launched, rank + 1)} that were launched, but --devices {run.devices} and "
            f"--nodes {run.nodes} make {world}. Give --devices (per node) and --nodes as they were launched."
        )
    if rank == 0:
        folder.check(resume=run.resume, overwrite=run.overwrite)
    if run.cache_dir is not None:
        nearest_folder(Path(run.cache_dir), "--cache-dir")
    teacher = vars(run.method).get("teacher")
    for option, weights in (("init", run.init), ("teacher", teacher if run.teacher is None else None)):
        if not run.resume and isinstance(weights, str) and os.path.realpath(run.out) in encoders.places(weights):
            raise ValueError(
                f"--out {run.out} is the folder of --{option} {weights}, and its weights would go. Give another --out."
            )
    if run.nodes > 1 and not {"MASTER_ADDR", "WORLD_SIZE", "SLURM_NTASKS"} & os.environ.keys():
        raise ValueError(
            f"--nodes {run.nodes} must be started on every node, by torchrun --nnodes {run.nodes} ... or srun: no "
            "MASTER_ADDR says where the first one is."
        )
    with folder.held() if rank == 0 else nullcontext():
        return _pretrain(run, callbacks, folder, rank, world)


def _pretrain(run: Run, callbacks: Sequence[Callback], folder: Folder, rank: int, world: int) -> Result:
    """`pretrain`, once the folder is this process's alone."""
    if rank == 0:  # once more: another process may have had it in between
        folder.check(resume=run.resume, overwrite=run.overwrite)
    # a run that is there stays as it is until this one has made a step: much can fail before
    later = rank == 0 and folder.run.is_file()
    if later:
        folder.wait(folder.metrics, *(() if run.resume else (folder.log,)))
    before = read_yaml(folder.run) if run.resume else {}
    if run.resume and run.alpha == "auto":  # as the run was begun
        run = dataclasses.replace(run, alpha=cast(Alpha, before.get("alpha", run.alpha)))
    run = _time_as_begun(run, folder, before)
    source = open_images(run)
    if run.resume:
        source = _with_system_folders(folder, run, source)
    if len(source) < 2:
        raise ValueError(
            f"{brief(flat(run)['data'], LONGEST_PATH)} holds {len(source)} image; at least 2 are needed, and "
            "thousands to learn something."
        )
    as_begun = read_whole_yaml(folder.run) if run.resume else {}
    begun = inputs.read(folder.inputs) if run.resume else {}
    source = _as_begun(source, run, folder, before, begun)
    asked = run.batch_size
    run, planned, timed = _in_time(run, rank)
    fits = run.fit
    run, changes = resolve(run, len(source), before)
    filling = counting(folder.say, f"{'cache':<12}", "images decoded") if rank == 0 else None
    loader = _loader(run, source, run.batch_size, rank, world, filling)
    if run.batch_size // run.accumulate < 2:
        raise ValueError(
            f"--batch-size {run.batch_size} in {run.accumulate} micro-batches is {run.batch_size // run.accumulate} "
            "image at a time; nothing can be learnt without others to compare with. Give at least 2."
        )
    _check_bank(run, rank)
    method = build(run)
    own = run.batch_size // run.accumulate // world
    if not run.method.needs.sync_batchnorm and own < 2 and any(isinstance(m, _BatchNorm) for m in method.modules()):
        raise ValueError(
            f"--batch-size {run.batch_size} leaves {own} image at a time to each of {world} processes, and in "
            f"{method_name(run.method)} BatchNorm sees those alone. Give --batch-size {2 * world * run.accumulate} or "
            "more, or fewer --devices."
        )
    optimizers.build(
        method, run.method.optim, run.batch_size, fused=False
    )  # whatever is wrong with it, before a file is made
    found = _find_checkpoint(folder, run, before, source, begun) if run.resume else None
    if run.resume and rank == 0:
        encoders.mend_card(folder, folder.say)
    opened = _of_loggers(folder, run)

    def begin() -> None:
        """Writes the first files, where an old run's were."""
        for path in found.unreadable if found else ():
            path.replace(unused(path.with_suffix(".corrupt")))  # else it would become the one before
        if run.resume:
            folder.cut_metrics(found.step if found else -1)
        files = {folder.run: run_text(run, as_begun).encode()}
        if picture is not None:
            files[folder.views] = _png(picture)
        if listings:
            files[folder.inputs] = inputs.packed(listings)
        folder.claim(resume=run.resume, files=files, keep=_of_loggers(folder, run) - opened)

    module = Pretraining(method, run, loader, folder, begin if later else None)
    if found is not None and found.step >= module.steps:
        folder.say(
            f"All {counted(run.epochs, 'epoch')} {are(run.epochs)} done: nothing to resume. Ask for more with --epochs."
        )
        return Result(folder.path, folder.rows())
    if found is None:
        normalise(method.backbone, run, source)
    else:
        method.backbone.mean, method.backbone.std = found.mean, found.std
    origin = _start(method.backbone, run) if found is None else ""
    method.before_training()
    if isinstance(method, Distill):
        method.memory = _memory(run, source, method)
    probe, listings = None, dict[str, bytes]()
    if rank == 0:
        probe = _probe_of(run, folder, before, begun)
        listings = _listings(run, folder, before, begun, source, probe, found is not None)

    def clear_loggers() -> None:
        """Removes what loggers wrote where no step was made."""
        if module.begin is not None or (rank == 0 and trainer.global_step == 0):
            for path in sorted(_of_loggers(folder, run) - opened, reverse=True):
                with suppress(OSError):
                    path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()

    def give_up(error: Exception) -> None:
        """Notes an error, and removes a run that did not begin."""
        clear_loggers()
        if rank == 0:
            with suppress(OSError):  # it must not hide the error itself
                if folder.run.is_file():
                    folder.note(f"error: {error}")
            with suppress(OSError):
                if trainer.global_step == 0 and not later:
                    folder.abandon()

    def alone(ended: processes.Ended) -> None:
        """Ends this process without its main thread, which waits for another one that is gone."""
        error = RuntimeError(f"{ended}{folder.then() or NOTHING}")
        if ended.stopped:
            folder.say(str(error))
            processes.end(ended.stopped)
        give_up(error)
        say(f"error: {error}", sys.stderr)
        processes.end(1)

    watch = processes.Watch(rank, world, alone)
    signals = Signals(watch)
    saver = Checkpoints(folder, run, signals)
    health = Health(source, run, method.backbone) if rank == 0 and run.method.needs.watch_features else None
    remedies = Remedies.of(run, _own_settings(run, len(source), fits), method.diagnose(), fits)
    monitor = Monitor(folder, run, loader, probe, health, remedies, quiet=rank != 0)

    def correct(seconds: float) -> None:
        """Says that a training with a time takes another one."""
        if rank == 0:
            label = "WARNING" if planned is not None and seconds > planned else "time"
            folder.say(
                f"{label:<12}this training takes about {spoken(seconds)}, not {spoken(planned or 0)} as was expected. "
                f"It keeps its {counted(run.epochs, 'epoch')}, so that every schedule comes to its end."
            )

    with _quiet_lightning(), _undisturbed():
        timers: list[Callback] = [Compiling(folder)] if run.compile else []
        if planned is not None:
            timers.append(Pace(planned, correct))
        trainer = _trainer(run, folder, [signals, *timers, *callbacks, monitor, saver])
    picture = view_sheet(run, source, method.backbone) if rank == 0 and found is None else None
    if rank == 0 and not later:  # all that can be known to fail has been tried
        begin()
    try:
        if rank == 0:
            batch = [*timed, *batch_words(asked, run.batch_size, len(source))]
            _say_start(folder, run, source, module, origin, changes, found, batch)
            if found is not None and (line := _other_version(written_by(as_begun), run)):
                folder.say(line)
        if world > 1 and run.method.needs.sync_batchnorm:
            distributed.convert(method)
        if run.compile:
            compile_parts(method)
        with _quiet_lightning(), signals.put_back(), watch if world > 1 else nullcontext():
            trainer.fit(module, Stream(loader, run.epochs), ckpt_path=str(found.path) if found else None)
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):  # so Lightning answers it
            raise KeyboardInterrupt from None
        raise
    except Exception as error:
        if world > 1 and _is_disconnection(error):
            ended = watch.ended(processes.GRACE_SECONDS)
            if ended is None and processes.started_by_another():
                time.sleep(2 * processes.GRACE_SECONDS)  # process 0 knows more, says it, and takes this one with it
            gone = RuntimeError(f"{ended or SOMEBODY}{folder.then() or NOTHING}")
            if ended is not None and ended.stopped:
                folder.say(str(gone))
                raise (KeyboardInterrupt if ended.stopped == 130 else SystemExit(143)) from None
            give_up(gone)
            raise gone from error
        give_up(error)
        if str(error).startswith("DataLoader worker"):  # torch raises it wherever the main process is
            raise lost(error, loader.workers) from error
        raise
    finally:
        loader.close()
        clear_loggers()
    is_part = any(isinstance(each, FirstStep) and each.part for each in callbacks)
    if signals.caught is not None and module.done_steps < module.steps:
        if rank != 0:
            raise SystemExit(0)  # rank 0 tells how it ended
        folder.say(
            f"Stopped after step {module.done_steps} of {module.steps}; all is saved."
            + ("" if is_part else f"\nGo on with: {folder.resume_command()}")
        )
        if signals.caught == signal.SIGTERM:
            raise SystemExit(143)
        raise KeyboardInterrupt
    if module.skipped_in_a_row and module.skipped_in_a_row == module.done_steps:
        raise Diverged(
            f"None of the {counted(module.done_steps, 'step')} had finite gradients: nothing was learnt. Look "
            "at the images "
            "(lookalike check), and try a lower --optim.lr or the method's own settings."
        )
    if rank == 0:
        _say_end(folder, loader, monitor.summary(module), method, is_part)
        if monitor.verdict is not None and monitor.verdict.word == "diverged":
            raise Diverged(f"{folder.path}: the training diverged. {monitor.verdict.why} {monitor.verdict.remedy}")
    return Result(folder.path, folder.rows())


def measure(run: Run, speed: Speed) -> None:
    """Times the first steps of a run, by a training of its own in the folder `run.out`, which is removed then.

    Of the run itself nothing is touched: not its folder, and no module of the user's.

    Raises:
        Exception: what its training would raise before it is measured.
    """
    backbone = copy.deepcopy(run.backbone) if isinstance(run.backbone, nn.Module) else run.backbone
    alone = dataclasses.replace(
        run, backbone=backbone, epochs=MANY_EPOCHS, time=None, save_every=MANY_EPOCHS, logger="none", resume=False,
        overwrite=False,
    )  # fmt: skip
    try:
        with redirect_stdout(io.StringIO()):
            pretrain(alone, [speed])
    except Measured:
        pass
    finally:
        shutil.rmtree(run.out, ignore_errors=True)


def _time_as_begun(run: Run, folder: Folder, before: Mapping[str, object]) -> Run:
    """A resumed run with the epochs that its time came to; with more epochs its time says nothing any more.

    Raises:
        ValueError: another time is asked for than the run began with.
    """
    if not run.resume:
        return run
    then, epochs = before.get("time"), cast("int", before.get("epochs", run.epochs))
    check_same_time(folder.path, then, run.time)
    if run.time is not None and "epochs" not in run.given and run.epochs == Options.epochs:
        run = dataclasses.replace(run, epochs=epochs)
    return dataclasses.replace(run, time=cast("str | None", then) if run.epochs == epochs else None)


def _in_time(run: Run, rank: int) -> tuple[Run, float | None, list[str]]:
    """Settles the epochs of a run that has a time, by its speed.

    Returns the run, the seconds that it is to take, and lines that say so.
    """
    if run.time is None:
        return run, None, []
    seconds = seconds_of(run.time)
    if not run.to_be_timed:
        words = f"time        {counted(run.epochs, 'epoch')}: what {run.time} came to when the run began"
        again = "" if run.resume else f". {pasteable('--time', run.time)} measures the speed of now"
        return run, seconds, [words + again]
    if run.epochs != Options.epochs:
        raise ValueError(
            f"time is {run.time} and epochs {run.epochs}: they exclude each other. Give the time of the training, or "
            "its epochs."
        )
    if rank == 0:
        say(f"Measuring the speed of {method_name(run.method)}, for {run.time} of training ...")
    speed = Speed(seconds)
    try:
        measure(dataclasses.replace(run, out=tempfile.mkdtemp(prefix="lookalike-speed-")), speed)
    except (KeyboardInterrupt, SystemExit):
        if rank == 0:
            say("Stopped while the speed was measured: the training had not begun.")
        raise
    except Diverged as error:
        raise Diverged(
            "The first steps, which the speed is measured by, had no finite gradients: the training was not begun. "
            "Try a lower --optim.lr, or give --epochs in the place of --time to keep what led to it."
        ) from error
    epochs = speed.epochs_in(seconds)
    run = dataclasses.replace(run, epochs=epochs, given=(*run.given, "epochs"))
    run.check_frozen()
    lines = [f"time        {speed.words(epochs, f'about {run.time}')} (measured before the first step)"]
    if (one := speed.seconds(1)) > seconds:
        lines.append(
            f"WARNING     one epoch takes about {spoken(one)}, longer than --time {run.time}. It is made whole, so "
            "that every schedule comes to its end. Give a longer --time, or fewer images."
        )
    return run, speed.seconds(epochs), lines


def _of_loggers(folder: Folder, run: Run) -> set[Path]:
    """The files and folders that a run's logger made in its folder."""
    root = folder.path / run.logger
    if run.logger == "none" or root.is_symlink() or not root.is_dir():
        return set()
    made = root.rglob("*") if run.logger == "wandb" else (*root.glob("events.out.tfevents.*"), root / "hparams.yaml")
    return {root, *(path for path in made if path.exists())}


def _png(picture: Image) -> bytes:
    content = io.BytesIO()
    picture.save(content, "PNG")
    return content.getvalue()


def _is_disconnection(error: BaseException | None) -> bool:
    """Whether gloo, NCCL or torch's store failed as they do when another process is gone, or this is the cause."""
    if isinstance(error, torch.distributed.DistError):
        gone = re.search("closed|reset|Broken pipe|remote process", str(error)) is not None
    else:
        gone = isinstance(error, RuntimeError) and "gloo/" in str(error)  # the file of the line that failed
    return gone or (error is not None and _is_disconnection(error.__cause__))


def _as_begun(
    source: Source, run: Run, folder: Folder, before: Mapping[str, object], begun: Mapping[str, bytes]
) -> Source:
    """The images under the names that they had when a run began, wherever they lie now."""
    now, then, old = source.listing(), begun.get("data"), before.get("data")
    if now is None:
        return source
    if then is not None:
        found = inputs.renamed(now, then)
        return source if found is None or now == then else source.called(*found)
    if isinstance(old, str) and isinstance(run.data, str | os.PathLike) and os.path.isfile(run.data):
        # 0.1 kept no names: those in a list count from the list's own folder
        seen = source.called(source.seen_from(os.path.dirname(os.path.abspath(old))))
        for path in (folder.last, folder.before):
            with suppress(Exception):  # `_find_checkpoint` says what is wrong
                if encoders.unpickled(path)["lookalike"]["data"] == image_set(seen):
                    return seen
    return source


def _probe_of(run: Run, folder: Folder, before: Mapping[str, object], begun: Mapping[str, bytes]) -> Probe | None:
    """The probe of a run. One that a resumed run had and that is gone is said, and left out.

    Raises:
        ValueError: the run that is resumed had other images.
    """
    if run.probe is None:
        return None
    stays = list(run.probe) == before.get("probe")
    if stays and (gone := [place for place in run.probe if not os.path.exists(place)]):
        command = pasteable(*folder.resume_words(), "--probe", "TRAIN", "TEST")
        folder.say(
            f"WARNING     {gone[0]}, of the probe, is not there: the k-NN is left out of what follows. Where it was "
            f"moved to, it can be named: {command}"
        )
        return None
    probe = Probe(*run.probe, run)
    old = before.get("probe")
    olds = old if isinstance(old, list) and len(old) == 2 else [None, None]
    for part, place, then in zip(("probe-train", "probe-test"), run.probe, olds):
        _check_same(folder, run, part, place, then, probe.listings, begun, "--probe None leaves it out")
    return probe


def _check_same(
    folder: Folder, run: Run, part: str, place: str, then: object, now: Mapping[str, bytes],
    begun: Mapping[str, bytes], choice: str,
) -> None:  # fmt: skip
    """Compares labelled images with those that a run began with: others at the same place are said, elsewhere refused.

    Args:
        part: how `inputs.zip` calls them.
        place, now: where they are, and what is known of them.
        then, begun: where they were, and what the run kept.
        choice: what else can be done.
    """
    if part not in now or not isinstance(then, str):
        return
    old = {name: content for name, content in begun.items() if name in inputs.names_of(part)}
    elsewhere = os.path.realpath(then) != os.path.realpath(place)
    if part not in old and elsewhere:  # 0.1 kept no names
        with suppress(OSError, ValueError):
            source = open_source(then, channels=run.channels, alpha=run.alpha, labelled=True)
            old = inputs.of(part, source.listing(), source.file, len(source))
    if part not in old or not (said := inputs.difference(now[part], old[part]) or inputs.changed(part, now, old)):
        return
    text = f"{place} holds other images than when {folder.path} was begun: {said}"
    if elsewhere:
        raise ValueError(f"{text}. Give the same images; {choice}.")
    folder.say(f"WARNING     {text}: what is measured on them cannot be compared with what was.")


def _listings(
    run: Run, folder: Folder, before: Mapping[str, object], begun: Mapping[str, bytes], source: Source,
    probe: Probe | None, goes_on: bool,
) -> dict[str, bytes]:  # fmt: skip
    """What is kept of a run's images and of its first weights; of one that `goes_on` what was kept.

    Raises:
        ValueError: the run that is resumed had another test.
    """
    test = vars(run.method).get("test")
    found = inputs.of("data", source.listing(), source.file, len(source)) | (probe.listings if probe else {})
    if isinstance(test, str) and test:
        judged = open_source(test, channels=run.channels, alpha=run.alpha, labelled=True)
        found |= inputs.of("test", judged.listing(), judged.file, len(judged))
        _check_same(folder, run, "test", test, before.get("test"), found, begun, "another test takes a new run")
    if run.init and (digest := _weights_digest(run.init)):
        found["init"] = digest.encode()
    if goes_on:
        found |= {name: listing for name, listing in begun.items() if run.probe or not name.startswith("probe-")}
    return found


def _weights_digest(place: str) -> str | None:
    """SHA-256 of weights in a file or a run's folder; None of names and of what is not there."""
    path = Path(place)
    path = Folder(path).weights if path.is_dir() else path
    return file_sha256(path) if path.is_file() else None


def open_images(run: Run, system_folders: bool = False) -> Source:
    """The images of a run, with labels where the method learns from them; see `open_source`."""
    method, needs = run.method.method, run.method.needs
    if not needs.labels:
        return open_source(run.data, channels=run.channels, alpha=run.alpha, system_folders=system_folders)
    try:
        source = open_source(
            run.data, channels=run.channels, alpha=run.alpha, labelled=True, classes=needs.classes,
            system_folders=system_folders,
        )  # fmt: skip
    except ValueError as error:
        raise ValueError(f"{method.__name__} learns from labels. {error}") from None
    if source.labels is not None and int(source.labels.min()) == int(source.labels.max()):
        raise ValueError(
            f"{method.__name__} learns from labels, and all images of {brief(flat(run)['data'], LONGEST_PATH)} are of "
            "one class. Give a folder with a sub-folder per class, or choose a method without labels."
        )
    return source


def _with_system_folders(folder: Folder, run: Run, source: Source) -> Source:
    """The images of a run that is resumed: 0.1 took those in folders of systems, such as @eaDir, for data, too."""
    if not source.system_folders:
        return source
    every = open_images(run, system_folders=True)
    for path in (folder.last, folder.before, *folder.kept()):
        with suppress(Exception):  # what is wrong with it is said where it is read to go on from
            return every if encoders.unpickled(path)["lookalike"]["data"] == image_set(every) else source
    return source


def _classes(source: Source, views: int) -> list[str]:
    """A line about the labels, and one about the classes of a single image, where views are compared."""
    if source.labels is None or source.classes is None:
        return []
    counts = source.labels.bincount(minlength=len(source.classes))
    names = f": {', '.join(source.classes)}" if len(source.classes) <= 10 else ""
    lines = [
        f"labels      {counted(len(counts), 'class')} of "
        f"{spanned(int(counts.min()), int(counts.max()), 'image')}{names}"
    ]
    alone = [name for name, count in zip(source.classes, counts.tolist()) if count == 1]
    if alone and views > 1:
        few = ", ".join(alone[:5]) + (", ..." if len(alone) > 5 else "")
        lines.append(
            f"WARNING     {len(alone)} of the classes have one image ({few}): nothing but its own other view is like "
            "it. Add images, or leave such classes out."
        )
    return lines


def launched_rank(run: Run) -> int:
    """This process's rank before torch.distributed runs, as torchrun, Lightning's launcher or Slurm tell it."""
    told = os.environ
    if "RANK" in told:
        return int(told["RANK"])
    if "LOCAL_RANK" in told or "NODE_RANK" in told:
        return int(told.get("NODE_RANK", 0)) * run.devices + int(told.get("LOCAL_RANK", 0))
    return int(told.get("SLURM_PROCID", 0))


def resolve(run: Run, images: int, begun: Mapping[str, object] | None = None) -> tuple[Run, list[str]]:
    """Settles all that depends on the data and the machine, so that `run.yaml` says what was done.

    `begun` is the `run.yaml` of a run that is resumed: it was fitted to its epochs then.
    Returns the run, and one line per field of the method that was adapted to the data.
    """
    world = run.devices * run.nodes
    if begun and run.batch_size == Options.batch_size:  # on as many devices as then it would be the same
        world = cast("int", begun.get("devices", run.devices)) * cast("int", begun.get("nodes", run.nodes))
    run = dataclasses.replace(run, batch_size=batch_for(run, images, world, "batch_size" in run.given))
    cfg, patch = run.method, patch_size(run.backbone)
    if run.teacher is not None:
        cfg = _taught_by(run)
    stated = [name for name in run.given if name not in ("batch_size", "epochs")]
    given = (*stated, *_stated(cfg))
    cfg = dataclasses.replace(cfg, views=resized(cfg.views, run.image_size or max(v.size for v in cfg.views), patch))
    size = max(v.size for v in cfg.views)
    # a stated optimizer is kept whole: no other one's learning rate and decay suit it
    whole = "optim.name" in given or (not stated and cfg.optim != cfg.method.Config().optim)  # type: ignore[call-arg]

    def fitted_to(epochs: int) -> Config:
        made = fit_to(cfg, DataFacts(images, size, run.batch_size, epochs, patch))
        if whole:
            made = dataclasses.replace(made, optim=_shortened(cfg.optim, epochs))
        kept: Config = _keep_given(cfg, made, given)
        return kept

    fitted = cfg
    if run.fit and begun:
        content = {name: value for name, value in begun.items() if name != "method"} | {"data": ""}
        then = from_mapping(content, cfg.method, f"{run.out}/run.yaml").method
        # a single epoch shows all that depends on epochs: the run may have had fewer when it was fitted
        made = [fitted_to(cast("int", begun.get("epochs", run.epochs))), fitted_to(1)]
        fitted = _as_fitted(cfg, then, made)
        if any(each.optim != cfg.optim for each in made):  # earlier versions fitted other optimizers
            fitted = dataclasses.replace(fitted, optim=_keep_given(cfg.optim, then.optim, given, "optim"))
    elif run.fit:
        fitted = fitted_to(run.epochs)
    fitted.check(DataFacts(images, size, run.batch_size, run.epochs, patch))
    old, new = (dotted(plain(c)) for c in (cfg, fitted))
    changes = [f"{name} {old.get(name)} -> {new[name]}" for name in new if old.get(name) != new[name]]
    precision = precision_of(run)
    workers = run.workers
    if workers is None:
        filled_at_once = run.cache != "none" and images < MANY  # starting processes would take longer
        workers = 0 if filled_at_once else max(1, min(8, (os.cpu_count() or 1) - 1))
    frozen = run.frozen_epochs
    if frozen is None and begun:  # None for one of before this option
        frozen = cast("float | None", begun.get("frozen_epochs"))
    elif frozen is None and run.init:
        frozen = run.epochs / 10
    settled = dataclasses.replace(
        run, method=fitted, image_size=size, precision=precision, workers=workers, fit=False,
        decode_size=run.decode_size or 2 * max(v.size for v in _all_views(fitted, run.epochs)),
        frozen_epochs=frozen,
    )  # fmt: skip
    return settled, changes


def batch_for(options: Options, images: int, world: int, stated: bool) -> int:
    """The images per step: those asked for, or of fewer images than the default batch a quarter, for steps to be made.

    Args:
        options: of a training or a comparison.
        images: in the data.
        world: processes.
        stated: whether the user chose the batch size; one that is not the default is always chosen.
    """
    if stated or options.batch_size != Options.batch_size or images >= options.batch_size:
        return options.batch_size
    least = world * options.accumulate
    return max(2 * least, images // 4 // least * least)


def batch_words(before: int, after: int, images: int) -> list[str]:
    """A line about a batch that was fitted to few images."""
    if before == after:
        return []
    return [
        f"batch       {counted(after, 'image')}: {images} are fewer than a batch of {before}, the default. "
        "--batch-size takes another number"
    ]


def precision_of(options: Options) -> Literal["fp32", "bf16", "fp16", "fp64"]:
    """The precision that is trained with here: the one asked for, or else this device's usual one.

    Raises:
        ValueError: it is fp16, and there is no GPU.
    """
    if options.precision == "fp16" and default_device().type != "cuda":
        raise ValueError("--precision fp16 needs a GPU. Use bf16 or fp32.")
    if options.precision is not None:
        return options.precision
    return "bf16" if default_device().type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"


def _own_settings(run: Run, images: int, fits: bool) -> Config | None:
    """The method's configuration for a settled run, had nobody stated anything; None where something must be.

    `fits` says whether the run was fitted to its images. A teacher belongs to the question.
    """
    asked = {name: vars(run.method)[name] for name in ("teacher", "teacher_backbone") if name in vars(run.method)}
    try:
        fresh = run.method.method.Config(**asked)
        return resolve(dataclasses.replace(run, method=fresh, fit=fits, given=()), images)[0].method
    except (TypeError, ValueError):
        return None


def _taught_by(run: Run) -> Config:
    """The method's configuration with a module of the user's as the teacher, at the size that it was made for."""
    assert run.teacher is not None
    if "teacher" not in vars(run.method):
        raise ValueError(
            f"Run has a teacher, and {method_name(run.method)} takes none. Give method=Distill.Config(...)."
        )
    cfg: Config = dataclasses.replace(run.method, teacher=module_name(run.teacher))  # type: ignore[call-arg]
    if run.fit and isinstance(run.teacher, backbones.Backbone) and vars(cfg)["teacher_size"] is None:
        cfg = dataclasses.replace(cfg, teacher_size=run.teacher.image_size)  # type: ignore[call-arg]
    return cfg


def fit_to(cfg: Config, data: DataFacts) -> Config:
    """Adapts a configuration to data and budget: the method's own `fit_to`, and a warm-up of a tenth at most.

    Other schedules of the method's warm up for three tenths of the epochs at most: DINOv2's share of its 100. Fields
    that count epochs are cut to `EPOCH_SHARES`.
    """
    cfg, epochs = cfg.fit_to(data), data.epochs
    schedules: dict[str, Any] = {
        name: dataclasses.replace(value, warmup_epochs=min(value.warmup_epochs, 3 * epochs / 10))
        for name, value in vars(cfg).items()
        if isinstance(value, Schedule)
    }
    limits = {name: epochs * share for name, share in EPOCH_SHARES.items() if name in vars(cfg)}
    epoch_counts = {name: min(vars(cfg)[name], most) for name, most in limits.items()}
    return dataclasses.replace(cfg, optim=_shortened(cfg.optim, epochs), **schedules, **epoch_counts)


def _facts(run: Run, images: int) -> DataFacts:
    """What a settled run is fitted to."""
    assert run.image_size is not None
    patch = patch_size(run.backbone)
    return DataFacts(images, run.image_size, run.batch_size, run.epochs, patch, run.accumulate)


def _shortened(cfg: Optim, epochs: int) -> Optim:
    """The same optimizer with a warm-up of a tenth of the epochs at most."""
    return dataclasses.replace(cfg, warmup_epochs=min(cfg.warmup_epochs, epochs / 10))


def _stated(cfg: Config) -> list[str]:
    """Dotted names of the fields that differ from the method's defaults: somebody chose them."""
    default, own = dotted(plain(cfg.method.Config())), dotted(plain(cfg))  # type: ignore[call-arg]
    return [name for name, value in own.items() if name not in default or default[name] != value]


def _keep_given(before: Any, after: Any, given: Sequence[str], at: str = "") -> Any:
    """`after`, but with `before`'s values where the user stated them."""
    if at in given:
        return before
    if dataclasses.is_dataclass(after) and not isinstance(after, type) and type(before) is type(after):
        names = [f.name for f in dataclasses.fields(after)]
        kept = {n: _keep_given(vars(before)[n], vars(after)[n], given, f"{at}.{n}".lstrip(".")) for n in names}
        return dataclasses.replace(after, **kept)
    if isinstance(after, tuple) and isinstance(before, tuple):
        if len(after) == len(before):
            return tuple(_keep_given(b, a, given, f"{at}.{i}") for i, (b, a) in enumerate(zip(before, after)))
        if any(name.startswith(f"{at}.") for name in given):  # places mean nothing among others
            return before
    return after


def _as_fitted(asked: Any, then: Any, fits: Sequence[Any]) -> Any:
    """`asked`, but with the values of `then` wherever one of the fits is another."""
    if all(type(x) is type(asked) for x in (then, *fits)):
        if dataclasses.is_dataclass(asked) and not isinstance(asked, type):
            names = [f.name for f in dataclasses.fields(asked)]
            return dataclasses.replace(
                asked, **{n: _as_fitted(vars(asked)[n], vars(then)[n], [vars(x)[n] for x in fits]) for n in names}
            )
        if isinstance(asked, tuple) and {len(x) for x in (then, *fits)} == {len(asked)}:
            return tuple(_as_fitted(a, b, list(x)) for a, b, *x in zip(asked, then, *fits))
    return then if any(x != asked for x in fits) else asked


def build(run: Run) -> Method:
    """The method of a resolved run, with seeded weights; the global generator is left as it was."""
    assert run.image_size is not None
    with torch.random.fork_rng():
        torch.manual_seed(key_of(run.seed, "weights"))
        needs = run.method.needs
        if isinstance(run.backbone, backbones.Backbone):
            backbone = remade(
                run.backbone, image_size=run.image_size, drop_path=needs.drop_path, mask_token=needs.mask_token
            )
        else:
            backbone = backbones.create(
                run.backbone, channels=run.channels, image_size=run.image_size,
                drop_path=needs.drop_path if isinstance(run.backbone, str) else 0.0, mask_token=needs.mask_token,
                stem=needs.stem, interpolation=needs.interpolation,
            )  # fmt: skip
        backbone.alpha = run.alpha
        if not vars(run.method).get("frozen"):
            backbone.check_trainable()
        for size in sorted(run.method.input_sizes(_all_views(run.method, run.epochs))):
            backbone.check_size(size)
        own = () if run.teacher is None else (run.teacher,)
        method = run.method.method(run.method, backbone, *own)
        if run.checkpoint_activations:  # after the teacher was copied, which keeps none
            backbone.checkpoint_activations()
    return method.to(memory_format=torch.channels_last)


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a line of torch's says more than that there is no GPU, which the first lines of a run say."""
    return not str(record.msg).startswith("No CUDA runtime is found")


def compile_parts(method: Method) -> None:
    """Compiles the backbone and the heads, and those of a teacher, by torch.compile."""
    logging.getLogger("torch.utils.cpp_extension").addFilter(_is_news)  # it is imported while the first step compiles
    for part in method.children():
        for each in part if isinstance(part, Teacher) else (part,):
            each.compile()


def restored(run: Run) -> tuple[Method, Run]:
    """The method of a run's last checkpoint, with its heads and what is frozen in it, and the run as it was settled."""
    folder = Folder(run.out)
    settled = read_run(folder.run, run.method.method)
    settled = dataclasses.replace(settled, data=run.data, teacher=run.teacher)
    if isinstance(run.backbone, nn.Module):
        settled = dataclasses.replace(settled, backbone=run.backbone)
    method = build(settled)
    content = torch.load(folder.last, map_location="cpu", weights_only=True)
    state = {k.removeprefix("method."): v for k, v in content["state_dict"].items() if k.startswith("method.")}
    method.backbone.mean, method.backbone.std = (tuple(content["lookalike"][name]) for name in ("mean", "std"))
    method.before_training()
    method.load_state_dict(state)  # in the end: a teacher's weights are in it, too
    return method, settled


def _all_views(cfg: Config, epochs: int) -> tuple[View, ...]:
    """The views of a training's first step and of its last, which may be others."""
    many = 10**6  # steps of an epoch: the last one is its very end
    ends = (Progress(step, many * epochs, many) for step in (0, many * epochs - 1))
    return tuple(view for at in ends for view in cfg.views_at(at))


def normalise(backbone: backbones.Backbone, run: Run, source: Source) -> None:
    """Gives a backbone without weights the images' own mean and deviation, where the run asks for them."""
    if run.normalise == "data":
        mean, std = statistics(source, run.decode_size)
        backbone.mean, backbone.std = tuple(mean), tuple(std)


def _start(backbone: backbones.Backbone, run: Run) -> str:
    """Gives the backbone the weights that a training starts from, and says whose they are."""
    if isinstance(run.backbone, backbones.Backbone):
        remark = f", {run.backbone.remark}" if run.backbone.remark else ""
        tensors = counted(len(backbone.export_state()), "tensor")
        return f"those of {run.init or run.backbone.name}, all {tensors}{remark}"
    return encoders.start_from(backbone, run.init) if run.init else "random"


def _check_bank(run: Run, rank: int) -> None:
    """Refuses a memory bank that leaves no room to train."""
    need = run.method.needs.memory_bank * (8 if run.precision == "fp64" else 4)
    free = free_for_state(rank % run.devices, run.devices) if need else 0
    if need > free / 2:
        raise ValueError(
            f"The memory bank of {method_name(run.method)} takes {size_of(need)}, more than half of the "
            f"{size_of(free)} that are free for it, and training needs the rest. Give a smaller --out-dim, or "
            "choose a method without a bank, such as swav."
        )


def _memory(run: Run, source: Source, method: Distill) -> Answers | None:
    """Where the answers of a teacher are kept, whose views repeat."""
    turns, name = run.method.needs.repeated_views, method.memory_name()
    if not turns or not name:
        return None
    if run.nodes > 1:
        raise ValueError(
            "--cache-teacher is a file that the processes of one machine share. Leave it out with --nodes."
        )
    half = run.precision in ("bf16", "fp16")
    name = f"{name} {source.version()} {run.channels} {run.seed} {run.decode_size} {run.precision}"
    folder = Path(run.cache_dir) if run.cache_dir else cache_folder()
    dtype = torch.float16 if half else torch.float32
    return Answers(folder, name, len(source), turns, method.memory_width(), dtype)


def _loader(
    run: Run, source: Source, batch_size: int, rank: int = 0, world: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Loader:  # fmt: skip
    return Loader(
        source, batch_size, run.seed, rank=rank, world=world, accumulate=run.accumulate, workers=run.workers or 0,
        decode_size=run.decode_size, cache=run.cache, max_broken=run.max_broken,
        cache_dir=Path(run.cache_dir) if run.cache_dir else None, repeats=run.method.needs.repeated_views,
        device=default_device(rank % run.devices),
        progress=progress,
    )  # fmt: skip


def view_sheet(run: Run, source: Source, backbone: backbones.Backbone, images: int = 8) -> Image:
    """The picture of the first images and their views, exactly as a training of this resolved run makes them."""
    first = dataclasses.replace(run, cache="none", workers=0, accumulate=1)
    batch = next(iter(_loader(first, source, min(images, len(source)))))
    views = make_views(batch, run.method.views_at(Progress(0, 1, 1)), batch.keys, mean=backbone.mean, std=backbone.std)
    return sheet(views, backbone.mean, backbone.std, images, sources=batch.padded(), sizes=batch.sizes)


def draw_views(run: Run, path: Path) -> None:
    """Writes the picture of a run's first images and their views, without a run."""
    source = open_source(run.data, channels=run.channels, alpha=run.alpha)
    run, _ = resolve(run, len(source))
    backbone = backbones.create(run.backbone, channels=run.channels, image_size=run.image_size or 0)
    normalise(backbone, run, source)
    with atomic(path) as temporary:
        view_sheet(run, source, backbone).save(temporary)


@dataclass(frozen=True)
class Found:
    """A checkpoint that can be read."""

    path: Path
    step: int
    """Optimizer steps that it holds."""
    epochs: int
    """Epochs that its run was to have."""
    mean: tuple[float, ...]
    """What images were normalised with."""
    std: tuple[float, ...]
    unreadable: tuple[Path, ...]
    """Newer ones that cannot be read."""


def _find_checkpoint(
    folder: Folder, run: Run, before: Mapping[str, object], source: Source, begun: Mapping[str, bytes]
) -> Found | None:
    """The newest checkpoint of a run that can be read, or None where the run wrote none yet.

    Raises:
        ValueError: the run had another configuration or other images; or checkpoints are there and none can be read.
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
                found = Found(
                    path, int(content["global_step"]), int(str(before["epochs"])), tuple(own["mean"]),
                    tuple(own["std"]), unreadable,
                )  # fmt: skip
                images = own["data"]
        except PermissionError:
            raise  # nothing is wrong with the file
        except Exception as error:
            broken[path] = str(error) if isinstance(error, ValueError) else f"{path} is no checkpoint of a training."
            folder.say(f"The checkpoint {path} cannot be read; trying the one before it.")
            continue
        if own["format"] != FORMAT:
            raise ValueError(
                f"{path} has format {own['format']}, this version reads format {FORMAT}. Update lookalike."
            )
        if "run" in own:  # what was trained, even where run.yaml was edited since
            _refuse_changes(folder, own["run"], run, begun)
        if images != image_set(source):
            now, then = source.listing(), begun.get("data")
            said = inputs.difference(now, then) if now is not None and then is not None else f"{len(source)} now"
            raise ValueError(
                f"{run.data} holds other images than when {folder.path} was begun: {said}. Going on would be another "
                "run. Put the images back, or start a new run with --init."
            )
        _check_content(folder, run, before, source, begun)
        return found
    if broken:
        raise ValueError(
            "No checkpoint of the run can be read:\n  "
            + "\n  ".join(broken.values())
            + "\nStart again with --overwrite, or a new run from the encoder with --init."
        )
    folder.say("NO CHECKPOINT is there to go on from: starting from the beginning.")
    return None


def _check_content(
    folder: Folder, run: Run, before: Mapping[str, object], source: Source, begun: Mapping[str, bytes]
) -> None:
    """Compares the files of images that have the names they had: others at the same place are said, elsewhere refused.

    Raises:
        ValueError: they lie elsewhere, and one is another image.
    """
    then, listing = before.get("data"), source.listing()
    if listing is None or not isinstance(then, str) or not isinstance(run.data, str | os.PathLike):
        return
    now = inputs.of("data", listing, source.file, len(source))
    if not (said := inputs.changed("data", now, begun)):
        return
    text = f"{run.data} holds other images than when {folder.path} was begun: {said}"
    if os.path.realpath(then) != os.path.realpath(run.data):
        raise ValueError(f"{text}. Going on would be another run. Put the images back, or start a new run with --init.")
    if distributed.rank() == 0:
        folder.say(f"WARNING     {text}.")


def _refuse_changes(folder: Folder, before: Mapping[str, object], run: Run, begun: Mapping[str, bytes]) -> None:
    asked = {"alpha": "white"} | {name: value for name, value in before.items() if name != "method"}  # 0.1 had no other
    # through a Run, so that options that came after the run was begun have their defaults
    old = flat(from_mapping(asked, run.method.method, str(folder.run))) | {"method": before.get("method")}
    if isinstance(old["init"], str) and run.init and (now := _weights_digest(run.init)):
        then = begun["init"].decode(errors="replace") if "init" in begun else _weights_digest(old["init"])
        if then in (now, None):  # moved; of 0.1, which kept no digest, what is gone cannot be compared
            old["init"] = run.init
    if lines := differences(old, flat(run)):
        raise ValueError(
            f"{folder.path} cannot be resumed with another configuration:\n  "
            + "\n  ".join(lines)
            + "\nLeave these options out, or give --out another folder."
        )


def _trainer(run: Run, folder: Folder, callbacks: list[Callback]) -> Trainer:
    precision = _PRECISIONS[run.precision or "fp32"]
    device = default_device().type
    if device == "cuda" and run.devices > torch.cuda.device_count():
        raise ValueError(f"--devices {run.devices}, but this machine has {torch.cuda.device_count()} GPU.")
    world = run.devices * run.nodes
    slurm = SLURMEnvironment.detect() and not TorchElasticEnvironment.detect()
    trainer = Trainer(
        accelerator=device,
        devices=run.devices,
        num_nodes=run.nodes,
        # buffers are equal on all ranks by construction (SyncBatchNorm, gathered statistics): nothing to broadcast
        strategy=_Together(
            broadcast_buffers=False,
            gradient_as_bucket_view=True,
            find_unused_parameters=run.method.needs.partial_gradients,
        )
        if world > 1
        else "auto",
        precision=precision,
        max_epochs=1,
        accumulate_grad_batches=run.accumulate,
        callbacks=callbacks,
        # Lightning's requeueing would save in the middle of a step, and start from that file unasked
        plugins=[TorchFile(), *([SLURMEnvironment(auto_requeue=False)] if slurm else [])],
        logger=_loggers(run, folder),
        default_root_dir=folder.path,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
    )
    # its answer to SIGTERM is a message to the other processes, which need not be listening: `Signals` answers
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    return trainer


class _Launcher(_SubprocessScriptLauncher):
    """Starts the other processes, which end with this one. `Watch` observes them: Lightning would kill this one."""

    def launch(self, function: Callable[..., Any], *args: Any, trainer: Trainer | None = None, **kwargs: Any) -> Any:
        self.cluster_environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        if not self.cluster_environment.creates_processes_externally:
            with processes.followed():
                self._call_children_scripts()
            processes.launched.extend(self.procs)
        _set_num_threads_if_needed(num_processes=self.num_processes)
        return function(*args, **kwargs)


class _Together(DDPStrategy):
    """DDP by processes that end together."""

    def _configure_launcher(self) -> None:
        assert self.cluster_environment is not None
        self._launcher = _Launcher(self.cluster_environment, self.num_processes, self.num_nodes)


CALLBACKS = "lightning.pytorch.callbacks_factory"
"""Entry points of installed packages that Lightning takes callbacks from, for every trainer."""


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Lets neither an installed package nor the environment add to a trainer; no such package is even imported."""
    there, name = vars(callback_connector), "_load_external_callbacks"
    load = there.get(name)
    there[name] = lambda group: []
    hidden = {variable: os.environ.pop(variable) for variable in _variables()}
    try:
        yield
    finally:
        there[name] = load
        os.environ.update(hidden)


def _variables() -> list[str]:
    """The variables of the environment from which Lightning's trainer would take what it is not told."""
    return [name for p in inspect.signature(Trainer).parameters if (name := f"PL_TRAINER_{p.upper()}") in os.environ]


def _not_taken() -> list[str]:
    """Says what this machine would add to a trainer, and what has no say here."""
    found = [f"{e.dist.name if e.dist else 'a package'} ({e.value})" for e in entry_points(group=CALLBACKS)]
    found += _variables()
    return [f"left out    what others add to Lightning's trainer: {', '.join(found)}"] if found else []


def _loggers(run: Run, folder: Folder) -> list[Logger]:
    if run.logger == "none":
        return []
    check_logger(run.logger)
    if run.logger == "tensorboard":
        return [TensorBoardLogger(folder.path, name="", version="tensorboard")]
    return [WandbLogger(name=folder.path.name, save_dir=folder.path, project="lookalike", config=flat(run))]


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Hides Lightning's words about devices, loaders and itself: this package says what matters."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning\.")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels):
                logger.setLevel(level)


def _say_start(
    folder: Folder, run: Run, source: Source, module: Pretraining, origin: str, changes: list[str],
    found: Found | None, batch: list[str],
) -> None:  # fmt: skip
    method, cfg = module.method, run.method
    parameters = {name: sum(p.numel() for p in part.parameters()) for name, part in method.named_children()}
    parts = ", ".join(f"{name} {count / 1e6:.2f} M" for name, count in parameters.items() if count)
    both = _all_views(cfg, run.epochs)
    first, last = both[: len(cfg.views)], both[len(cfg.views) :]
    views = ", ".join(f"{v.count} x {v.size} px" for v in first)
    if last != first:
        views += f" (at the end {', '.join(f'{v.count} x {v.size} px' for v in last)})"
    stem = f" ({method.backbone.stem} stem)" if isinstance(run.backbone, str) else ""
    lines = [
        f"lookalike {version()}  {command_line()}",
        f"data        {counted(len(source), 'image')} in {brief(flat(run)['data'], LONGEST_PATH)}",
        *(f"            {line}" for line in source.notes()),
        f"model       {method_name(cfg)}, {method.backbone.name}{stem}, parameters: {parts}",
        f"weights     {f'step {found.step} of {found.path}' if found else printable(origin)}",
        f"views       {views} of {counted(run.channels, 'channel')}, mean {_numbers(method.backbone.mean)}, "
        f"std {_numbers(method.backbone.std)}",
        *method.describe(),
        *_left_out(run),
        *_classes(source, sum(view.count for view in first)),
        *(f"WARNING     {line}" for line in warnings_about(source, _choices(run, method.backbone))),
        *(f"WARNING     {line}" for line in cfg.warnings(_facts(run, len(source)))),
        f"steps       {module.steps} = {counted(run.epochs, 'epoch')} x {module.steps_per_epoch} of "
        f"{counted(run.batch_size, 'image')}"
        + (f" ({run.accumulate} micro-batches, which the loss sees one at a time)" if run.accumulate > 1 else ""),
        *batch,
        *_frozen(run),
        *_not_taken(),
        f"optimizer   {cfg.optim.name}, learning rate {cfg.optim.lr * cfg.optim.factor(run.batch_size):.4g}"
        f" after {counted(cfg.optim.warmup_epochs, 'epoch')} of warm-up",
        f"device      {run.devices * run.nodes} x {default_device().type}, {run.precision}, "
        f"{run.workers} workers, cache {run.cache}",
    ]
    if changes:
        lines.append("fitted      " + "\n            ".join(changes) + "  (--no-fit keeps the paper's values)")
    if found is not None and found.epochs != run.epochs:
        lines.append(
            f"EPOCHS      {found.epochs} became {run.epochs}: every schedule now ends later, and jumps at this step. "
            "A run of so many epochs from the start would differ."
        )
    for line in lines:
        folder.say(line)


def _choices(run: Run, backbone: backbones.Backbone) -> set[str]:
    """The options of a run that its images may ask for; see `warnings_about`."""
    if run.init is None and isinstance(run.backbone, str):
        return {"alpha", "channels"} | ({"normalise"} if run.normalise == "imagenet" else set())
    # the weights say how many channels, and what is normalised with: perhaps images of another brightness
    return {"alpha", "scale"} if max(backbone.mean) > 0.25 else {"alpha"}


def _other_version(before: str, run: Run) -> str:
    """A line for a run that was begun by another version; else ""."""
    now = version()
    if before in ("", now):
        return ""
    new = DRAWN_ANEW.get(method_name(run.method)) if before.startswith("0.1.") else None
    return (
        f"VERSION     begun with lookalike {before:.20}, this is {now}: it continues, bits may differ from an "
        f"uninterrupted run{f' (drawn anew: {new})' if new else ''}"
    )


def _frozen(run: Run) -> list[str]:
    """Says how long the encoder stays as it is, and what of it."""
    if not run.frozen_epochs:
        return []
    return [
        f"frozen      the encoder stays as it is for {counted(run.frozen_epochs, 'epoch')}, what is random of it, too "
        "(--frozen-epochs 0 lets it learn from the start)"
    ]


def _left_out(run: Run) -> list[str]:
    """Says which steps of the views need colour where there is none, and what does not reach a module of one's own."""
    lines = []
    own = isinstance(run.backbone, nn.Module) and (
        not isinstance(run.backbone, backbones.Backbone) or is_tag(run.backbone.name)
    )
    if own and (drop_path := run.method.needs.drop_path):
        lines = [f"            drop path {drop_path:g} does not reach a module of your own: it keeps what it has"]
    if run.channels == 3:
        return lines
    wanted = {
        "saturation": any(v.jitter and v.saturation for v in run.method.views),
        "hue": any(v.jitter and v.hue for v in run.method.views),
        "grayscale": any(v.grayscale for v in run.method.views),
    }
    names = [name for name, is_wanted in wanted.items() if is_wanted]
    return [*lines, *([f"            without {', '.join(names)}, which need 3 channels"] if names else [])]


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{v:.3f}" for v in values[:4]) + (" ..." if len(values) > 4 else "")


def _say_end(folder: Folder, loader: Loader, summary: str, method: Method, is_part: bool) -> None:
    folder.say(summary)
    if loader.broken:
        were = "was" if len(loader.broken) == 1 else "were"
        folder.say(
            f"{counted(len(loader.broken), 'image')} could not be read and {were} replaced; {folder.log} lists them."
        )
    folder.say(
        f"Wrote {folder.path}: encoder.safetensors and encoder.json (the encoder), run.yaml, metrics.jsonl, views.png, "
        "checkpoints/, log.txt"
    )
    if line := checkpoint_words(folder):
        folder.say(line)
    if method.cfg.needs.watch_features and not is_part:  # others are judged by who trains them
        command = pasteable("lookalike", "evaluate", folder.path, "TRAIN", "TEST")
        folder.say(f"Next: {command}   # folders with one sub-folder per class")


def checkpoint_words(folder: Folder) -> str:
    """What a run's checkpoints take, and how to remove those that nothing needs; empty where that frees nothing."""
    whole, needed = folder.checkpoint_bytes(), folder.checkpoint_bytes(of_epochs=False)
    if whole == needed or not needed:
        return ""
    return (
        f"Checkpoints take {whole / 1e6:.1f} MB, {(whole - needed) / 1e6:.1f} MB of them those of single epochs, which "
        f"--resume does not need. To remove them: {pasteable('lookalike', 'thin', folder.path)}"
    )

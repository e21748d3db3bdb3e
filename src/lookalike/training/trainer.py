"""Lightning's Trainer, without any part that was not requested."""

import inspect
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.fabric.utilities.distributed import _set_num_threads_if_needed
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from lightning.pytorch.trainer.connectors import callback_connector

from .. import processes
from ..devices import default_device
from ..places import check_logger
from ..runs import Folder, Resolved, flat
from .checkpoints import TorchFile
from .launch import in_slurm_step
from .watchdog import Watchdog

PRECISIONS: dict[str, Literal["32-true", "bf16-mixed", "16-mixed", "64-true"]] = {
    "fp32": "32-true",
    "bf16": "bf16-mixed",
    "fp16": "16-mixed",
    "fp64": "64-true",
}


def of_loggers(folder: Folder, run: Resolved) -> set[Path]:
    """The files and folders that a run's logger created in its folder."""
    root = folder.path / run.logger
    if run.logger == "none" or root.is_symlink() or not root.is_dir():
        return set()
    found = root.rglob("*") if run.logger == "wandb" else (*root.glob("events.out.tfevents.*"), root / "hparams.yaml")
    return {root, *(path for path in found if path.exists())}


def make_trainer(run: Resolved, folder: Folder, callbacks: list[Callback], watchdog: Watchdog | None = None) -> Trainer:
    """The trainer of a run; several processes need a watchdog."""
    precision = PRECISIONS[run.precision]
    device = default_device().type
    if device == "cuda" and run.devices > torch.cuda.device_count():
        raise ValueError(f"--devices {run.devices}, but this machine has {torch.cuda.device_count()} GPU.")
    trainer = Trainer(
        accelerator=device,
        devices=run.devices,
        num_nodes=run.nodes,
        # buffers are equal on all ranks by construction (SyncBatchNorm, gathered statistics): nothing to broadcast
        strategy=_Together(
            watchdog,
            broadcast_buffers=False,
            gradient_as_bucket_view=True,
            find_unused_parameters=run.method.needs.partial_gradients,
        )
        if watchdog is not None
        else "auto",
        precision=precision,
        max_epochs=1,
        accumulate_grad_batches=run.loss_batches,
        callbacks=callbacks,
        plugins=[TorchFile(), *_environment()],
        logger=_loggers(run, folder),
        default_root_dir=folder.path,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
    )
    # on SIGTERM it sends a message to the other processes, which may not receive it: `Signals` handles it instead
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    return trainer


def _environment() -> list[SLURMEnvironment | LightningEnvironment]:
    """How the processes find each other, where Lightning would take any process of a job for one that srun started."""
    if TorchElasticEnvironment.detect() or "SLURM_JOB_ID" not in os.environ:
        return []
    # Lightning's requeueing would save in the middle of a step, and start from that file by default
    return [SLURMEnvironment(auto_requeue=False) if in_slurm_step() else LightningEnvironment()]


class _Launcher(_SubprocessScriptLauncher):
    """Starts the other processes, which end with this one. `Watch` monitors them: Lightning would kill this one."""

    def launch(self, function: Callable[..., Any], *args: Any, trainer: Trainer | None = None, **kwargs: Any) -> Any:
        self.cluster_environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        if not self.cluster_environment.creates_processes_externally:
            with processes.followed():
                self._call_children_scripts()
            processes.launched.extend(self.procs)
        _set_num_threads_if_needed(num_processes=self.num_processes)
        return function(*args, **kwargs)


class _Together(DDPStrategy):
    """DDP with processes that end together."""

    def __init__(
        self, watchdog: Watchdog, broadcast_buffers: bool, gradient_as_bucket_view: bool, find_unused_parameters: bool
    ) -> None:
        super().__init__(
            timeout=timedelta(seconds=watchdog.longest + 300),  # torch's own limit is the last resort: it names none
            broadcast_buffers=broadcast_buffers,
            gradient_as_bucket_view=gradient_as_bucket_view,
            find_unused_parameters=find_unused_parameters,
        )
        self._watchdog = watchdog

    def setup_distributed(self) -> None:
        try:
            super().setup_distributed()
        except torch.distributed.DistNetworkError as error:
            if "EADDRINUSE" not in str(error):
                raise
            raise RuntimeError(
                f"Port {os.environ['MASTER_PORT']} of this machine is in use, so the processes cannot meet there. Give "
                "the environment variable MASTER_PORT a free one; without it --devices and lookalike slurm choose one."
            ) from None
        self._watchdog.meet()

    def _configure_launcher(self) -> None:
        assert self.cluster_environment is not None
        self._launcher = _Launcher(self.cluster_environment, self.num_processes, self.num_nodes)


CALLBACKS = "lightning.pytorch.callbacks_factory"
"""Entry points of installed packages from which Lightning adds callbacks to every trainer."""


@contextmanager
def undisturbed() -> Iterator[None]:
    """Keeps installed packages and the environment from changing a trainer; no such package is imported."""
    connector, name = vars(callback_connector), "_load_external_callbacks"
    load = connector.get(name)
    connector[name] = lambda group: []
    hidden = {variable: os.environ.pop(variable) for variable in _variables()}
    try:
        yield
    finally:
        connector[name] = load
        os.environ.update(hidden)


def _variables() -> list[str]:
    """The environment variables from which Lightning's trainer would take missing arguments."""
    return [name for p in inspect.signature(Trainer).parameters if (name := f"PL_TRAINER_{p.upper()}") in os.environ]


def not_taken() -> list[str]:
    """The line about callbacks and variables of this machine that are ignored; empty if there are none."""
    found = [f"{e.dist.name if e.dist else 'a package'} ({e.value})" for e in entry_points(group=CALLBACKS)]
    found += _variables()
    return [f"ignored     additions of others to Lightning's trainer: {', '.join(found)}"] if found else []


def _loggers(run: Resolved, folder: Folder) -> list[Logger]:
    if run.logger == "none":
        return []
    check_logger(run.logger)
    if run.logger == "tensorboard":
        return [TensorBoardLogger(folder.path, name="", version="tensorboard")]
    return [WandbLogger(name=folder.path.name, save_dir=folder.path, project="lookalike", config=flat(run))]


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Hides Lightning's messages about devices, loaders and itself: this package reports what matters."""
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

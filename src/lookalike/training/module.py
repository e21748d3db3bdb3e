"""A method in Lightning's loop: views, schedules, steps, and non-finite gradients."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import get_total_norm

from .. import distributed, optimizers
from ..backbones.micro_batches import in_micro_batches
from ..core import Batch, Method, Progress
from ..data import Images, Loader, image_set
from ..devices import moved
from ..files import FORMAT, atomic
from ..progress import counting
from ..random import key_of
from ..runs import Diverged, Folder, Resolved, flat
from ..tensor_file import write_tensors
from ..views import make_views
from .health import ruined


class Stream:
    """All micro-batches of all epochs of a training, for Lightning to iterate over once."""

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
    """A method in Lightning's loop: creates the views, applies the schedules, skips steps with non-finite gradients."""

    def __init__(
        self, method: Method, run: Resolved, loader: Loader, folder: Folder | None = None,
        begin: Callable[[], None] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.folder = folder or Folder(run.out)
        self.begin = begin
        """Called once, after the first optimizer step."""
        self.method = method
        self.run = run
        self.loader = loader
        self.steps_per_epoch = loader.steps_per_epoch
        self.steps = run.epochs * loader.steps_per_epoch
        self.parts: dict[str, Tensor] = {}
        """The loss and its parts in the last micro-batch, detached."""
        self.outputs: dict[str, Tensor] = {}
        """The other outputs of the method for the last micro-batch, detached."""
        self._handed: list[dict[str, Tensor]] = []
        """The outputs of the step's micro-batches for `Method.after_step`."""
        self.image_dtype = torch.uint8
        """The type of the images of the last batch."""
        self.grad_norm = math.nan
        self.skipped = 0
        """Number of optimizer steps skipped for non-finite gradients."""
        self.skipped_in_a_row = 0
        self.dropped = False
        """Whether the last optimizer step was skipped."""
        self._statistics: list[Tensor] = []
        self._kept: list[Tensor] = []
        """BatchNorm's statistics before the step."""
        self._still: list[tuple[Tensor, Tensor]] = []
        """Of these the encoder's, each with its value before the step."""
        self._channels_last = any(isinstance(m, nn.Conv2d) and m.kernel_size != m.stride for m in method.modules())
        self.micro_batch: list[Tensor] = []
        """The last micro-batch's views."""
        self.collapsed = False
        """Whether the last verdict is a collapse."""
        self.probe_seconds = 0.0
        """Seconds of the probe's evaluation before the first step."""

    @property
    def done_steps(self) -> int:
        """Number of optimizer steps done."""
        return int(self.trainer.global_step)

    @property
    def at(self) -> Progress:
        return Progress(min(self.done_steps, self.steps - 1), self.steps, self.steps_per_epoch, self.run.seed)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        # the scaler of fp16 cannot hand unscaled gradients to a fused optimizer, and we clip them
        fused = self.run.precision != "fp16"
        # torch's fused SGD fails on parameters whose first step comes later than that of others
        late = bool(self.run.frozen_epochs) or self.run.method.needs.partial_gradients
        fused = fused and not (late and self.run.method.optim.name == "sgd")
        self.rates = optimizers.build(self.method, self.run.method.optim, self.run.batch_size, fused=fused)
        return self.rates.optimizer

    def transfer_batch_to_device(self, batch: Images, device: torch.device, dataloader_idx: int) -> Images:
        return batch.to(device, non_blocking=True)

    def on_after_batch_transfer(self, batch: Images, dataloader_idx: int) -> Batch:
        backbone = self.method.backbone
        if batch.buffer.is_floating_point():
            batch.buffer = (
                batch.buffer.float()
            )  # Lightning converts them to float64 for fp64; views are computed in float32
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
        self.method.train()  # a loaded encoder is in eval mode, and Lightning does not change it
        # not earlier: moving to a device or to float64 replaces the buffers
        self._statistics = _statistics(self.method)
        self._kept = [b.clone() for b in self._statistics]
        encoder = {id(b) for part in (self.method.backbone, self.method.encoder) for b in _statistics(part)}
        self._still = [(b, kept) for b, kept in zip(self._statistics, self._kept) if id(b) in encoder]

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        micro = batch_idx % self.run.loss_batches
        torch.manual_seed(key_of(self.run.seed, "step", self.done_steps, micro, distributed.rank()))
        if micro == 0:
            self._handed = []
            if self._kept:
                torch._foreach_copy_(self._kept, self._statistics)
        self.micro_batch = batch.views

    def on_fit_start(self) -> None:
        if self.trainer.ckpt_path is None:  # a resumed run has its bank
            self.method.train()
            torch.manual_seed(key_of(self.run.seed, "survey", distributed.rank()))
            with torch.no_grad(), self.trainer.precision_plugin.forward_context(), self._divided():
                self.method.initialize_bank(self._epoch_before())

    def _epoch_before(self) -> Iterator[Batch]:
        """An epoch of batches for `Method.initialize_bank`.

        A batch with non-finite values does not change BatchNorm's statistics.
        """
        report = counting(self.folder.say_progress, f"{'memory bank':<12}", "images encoded")
        statistics = _statistics(self.method)
        kept = [b.clone() for b in statistics]
        for i, images in enumerate(self.loader.survey(), 1):
            if distributed.rank() == 0:
                report(i * self.loader.order.rows * distributed.world(), len(self.loader.source))
            yield self.on_after_batch_transfer(self.transfer_batch_to_device(images, self.device, 0), 0)
            good = all(bool(b.isfinite().all()) for b in statistics)
            for a, b in zip(kept, statistics) if good else zip(statistics, kept):
                a.copy_(b)

    def _divided(self) -> AbstractContextManager[None]:
        """With a joint loss, backbones compute in micro-batches within this context."""
        return in_micro_batches(self.method, self.run.accumulate) if self.run.joint_loss else nullcontext()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        with self._divided():
            outputs = self.method(batch)
        detached = {name: value.detach() for name, value in outputs.items()}
        self.parts = {name: value for name, value in detached.items() if value.ndim == 0 or name == "loss"}
        self.outputs = {name: value for name, value in detached.items() if value.ndim and name != "loss"}
        if lost := set(self.run.method.needs.handed_over) - self.outputs.keys():
            raise ValueError(
                f"{type(self.method).__name__} names {min(lost)!r} in needs.handed_over, but forward returns no tensor "
                "of this name with at least one axis."
            )
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
            for p in self.method.backbone.net.parameters():  # most weights have no mask token: it is trained
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
        """Whether the encoder is frozen (`--frozen-epochs`)."""
        return at.epoch < self.run.frozen_epochs

    def give_up(self) -> None:
        """Saves the last batch's views and raises Diverged."""
        path = self.folder.checkpoints / f"nonfinite-{self.done_steps}-rank{distributed.rank()}.safetensors"
        with atomic(path) as temporary:
            write_tensors(temporary, {f"views.{i}": v for i, v in enumerate(self.micro_batch)}, {})
        found = ruined(self.skipped_in_a_row, float(self.parts["loss"]), self.micro_batch)
        raise Diverged(
            f"At step {self.done_steps} of {self.steps}, {found.why} The checkpoints are of earlier steps; {path} "
            f"holds the last views. {found.remedy}"
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["lookalike"] = {
            "format": FORMAT,
            "skipped": self.skipped,
            "skipped_in_a_row": self.skipped_in_a_row,
            "run": flat(self.run),
            "data": image_set(self.loader.source),
            # with --init they are those of the initial weights
            "mean": list(self.method.backbone.mean),
            "std": list(self.method.backbone.std),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        own = checkpoint["lookalike"]
        self.skipped, self.skipped_in_a_row = own["skipped"], own["skipped_in_a_row"]
        self.method.backbone.mean, self.method.backbone.std = tuple(own["mean"]), tuple(own["std"])
        before = own.get("run", {})  # other micro-batches, after the run ran out of memory
        parts = 1 if before.get("joint_loss") else int(before.get("accumulate", self.run.loss_batches))
        if parts != self.run.loss_batches:
            _rescale(checkpoint["loops"]["fit_loop"], parts, self.run.loss_batches)
        if checkpoint["global_step"] < self.steps:
            # a finished run with more epochs: its last batch is no longer the last
            checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"] = False


def _rescale(loop: dict[str, Any], before: int, now: int) -> None:
    """Converts the position in a checkpoint from `before` batches per optimizer step to `now`."""
    progress = loop["epoch_loop.batch_progress"]
    counts = [progress["total"], progress["current"], *loop["state_dict"]["combined_loader"]]
    for each in counts:
        for name in each.keys() - {"epoch"}:
            each[name] = each[name] * now // before


def _statistics(method: nn.Module) -> list[Tensor]:
    """BatchNorm's running statistics."""
    return [b for m in method.modules() if isinstance(m, _BatchNorm) for b in m.buffers(recurse=False)]

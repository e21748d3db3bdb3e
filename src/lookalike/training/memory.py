"""The memory of a training step, from all tensors that a step creates for two small batches, scaled to any batch.

An operation of a step creates the same tensors at every batch size. So the n-th tensor of one batch is compared with
the n-th of a batch twice as large: its size is constant (gradients), grows with the batch (activations), or with its
square (similarities between images). With these sizes the order of creation and release is replayed for another batch
size, and the highest sum of all living tensors is the peak of its step. Buffers inside of operations are not seen; on a
CPU an allowance is added for released memory that the C library keeps.
"""

import time
import weakref
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .. import optimizers
from ..backbones.micro_batches import in_micro_batches
from ..core import Batch, Method, Progress
from ..devices import default_device
from ..methods.deepcluster_v2 import DeepClusterV2
from ..runs import Resolved
from .model import build

ROWS = 4
"""Images in the smaller batch that is run."""

DRAWS = 3
"""Steps that are run of each batch, with other random numbers."""

KEPT, KEPT_ALWAYS = 0.1, 64 * 2**20
"""Memory that the C library keeps after its release, as a fraction of a step's tensors, and in bytes: measured."""

TYPES = {"fp64": torch.float64}
"""The type of parameters and views, by precision; float32 for all others."""


@dataclass(frozen=True)
class Tensors:
    """The tensors of a step: their bytes in the order of creation, and all creations and releases."""

    sizes: list[int]
    events: list[int]
    """k for the creation of tensor k, ~k for its release."""

    def peak(self, sizes: list[int]) -> int:
        """The highest sum of living tensors if they had other sizes."""
        now = most = 0
        for event in self.events:
            now += sizes[event] if event >= 0 else -sizes[~event]
            most = max(most, now)
        return most


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the storages that operations create, and when they are released."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sizes: list[int] = []
        self.events: list[int] = []
        self._living = {t.untyped_storage()._cdata for t in known}
        self._references: list[weakref.ref[Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            if isinstance(value, Tensor):
                self._note(value.untyped_storage())
        return out

    def _note(self, storage: torch.UntypedStorage) -> None:
        key, number = storage._cdata, len(self.sizes)
        if key in self._living:
            return
        self._living.add(key)
        self.sizes.append(storage.nbytes())
        self.events.append(number)

        def released(_: object) -> None:
            self._living.discard(key)
            self.events.append(~number)

        self._references.append(weakref.ref(storage, released))

    def tensors(self) -> Tensors:
        return Tensors(self.sizes, list(self.events))


@dataclass(frozen=True)
class Footprint:
    """The memory of a step on one device, in bytes, as a function of the images per batch that the loss gets."""

    parameters: int
    """Parameters and statistics of BatchNorm, also of a teacher."""
    gradients: int
    optimizer: int
    bank: int
    """Banks, queues and centres."""
    view: int
    """The views of one image."""
    rows: int
    """Images in the smaller batch that was run."""
    small: Tensors
    large: Tensors
    accumulates: bool
    """Whether gradients of earlier micro-batches live during a step."""
    is_resident: bool
    """Whether memory is that of a process: the C library keeps some that was released."""

    @property
    def fixed(self) -> int:
        """What lives all the time, at any batch size."""
        return self.parameters + self.optimizer + self.bank + (self.gradients if self.accumulates else 0)

    def peak(self, rows: int) -> int:
        """Bytes at the peak of a step with `rows` images."""
        ratio = rows / self.rows
        if len(self.small.sizes) == len(self.large.sizes):
            sizes = [_scaled(a, b, ratio) for a, b in zip(self.small.sizes, self.large.sizes)]
            own = self.small.peak(sizes)
        else:  # the number of operations depends on the images
            own = _scaled(self.small.peak(self.small.sizes), self.large.peak(self.large.sizes), ratio)
        return self.fixed + self.view * rows + own + self._kept(own)

    def _kept(self, own: int) -> int:
        return round(KEPT * own) + KEPT_ALWAYS if self.is_resident else 0

    def parts(self, rows: int) -> dict[str, int]:
        """The peak by parts."""
        views = self.view * rows
        rest = self.peak(rows) - self.parameters - self.optimizer - self.bank - self.gradients - views
        return {
            "parameters": self.parameters, "gradients": self.gradients, "optimizer": self.optimizer,
            "bank, queue": self.bank, "views": views, "activations": max(0, rest),
        }  # fmt: skip

    def largest(self, memory: int, multiple: int = 1) -> int:
        """The largest number of images, a multiple of `multiple`, whose step fits into `memory` bytes; 0 for none."""
        if self.peak(multiple) > memory:
            return 0
        low, high = 1, 2
        while self.peak(high * multiple) <= memory and high < 2**24:
            low, high = high, 2 * high
        while high - low > max(1, low // 64):
            middle = (low + high) // 2
            low, high = (middle, high) if self.peak(middle * multiple) <= memory else (low, middle)
        return low * multiple


def _scaled(small: int, large: int, ratio: float) -> int:
    """The bytes of a tensor for a batch `ratio` times the smaller one; `large` are those for twice the smaller one."""
    if large >= 3.5 * small:  # similarities between all images
        return round(small * ratio**2)
    return max(0, round(small + (large - small) * (ratio - 1)))


def footprint(run: Resolved) -> Footprint:
    """Builds a run's networks, runs some steps on few images of noise, and watches their tensors.

    Args:
        run: with a joint loss the small batches have at least one image in each micro-batch.

    Raises:
        ValueError: the networks cannot be built, such as with activation checkpointing that they do not support.
    """
    method, optimizer = _built(run)
    rows = max(ROWS, run.accumulate) if run.joint_loss else ROWS
    with torch.random.fork_rng():
        _step(method, run, optimizer, _noise(run, rows))  # creates the optimizer's state
        both = [_watched(method, run, optimizer, _noise(run, n)) for n in (rows, 2 * rows)]
    parts = lasting(method, optimizer)
    return Footprint(
        parameters=parts["parameters"], gradients=parts["gradients"], optimizer=parts["optimizer"],
        bank=parts["bank, queue"], view=bytes_of(_noise(run, 1).views), rows=rows, small=both[0], large=both[1],
        accumulates=run.loss_batches > 1, is_resident=default_device().type == "cpu",
    )  # fmt: skip


def lasting(method: Method, optimizer: torch.optim.Optimizer) -> dict[str, int]:
    """Bytes of what lives from step to step, and of gradients; the optimizer's after its first step."""
    norms = {id(b) for m in method.modules() if isinstance(m, _BatchNorm) for b in m.buffers(recurse=False)}
    return {
        "parameters": bytes_of(method.parameters()) + bytes_of(b for b in method.buffers() if id(b) in norms),
        "gradients": bytes_of(p for p in method.parameters() if p.requires_grad),
        "optimizer": bytes_of(_state(optimizer)),
        "bank, queue": bytes_of(b for b in method.buffers() if id(b) not in norms),
    }


def _state(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [t for each in optimizer.state.values() for t in each.values() if isinstance(t, Tensor)]


def timed_step(run: Resolved) -> float:
    """Seconds of a step of one device's part of the batch, after a first one that creates the optimizer's state."""
    method, optimizer = _built(run)
    batch = _noise(run, run.batch_size // (run.loss_batches * run.devices * run.nodes))
    for _ in range(2):
        began = time.perf_counter()
        _step(method, run, optimizer, batch)
        if batch.index.is_cuda:
            torch.cuda.synchronize()
        taken = time.perf_counter() - began
    return taken


def _built(run: Resolved) -> tuple[Method, torch.optim.Optimizer]:
    method = build(run).to(device=default_device(), dtype=TYPES.get(run.precision, torch.float32)).train()
    if isinstance(method, DeepClusterV2):
        method.clustered.fill_(0)  # it has no clusters, for which it would need as many images
    fused = run.precision != "fp16" and run.method.optim.name != "sgd"
    return method, optimizers.build(method, run.method.optim, run.batch_size, fused=fused).optimizer


def _watched(method: Method, run: Resolved, optimizer: torch.optim.Optimizer, batch: Batch) -> Tensors:
    """The tensors of the largest of a few steps, which differ where a method draws what it does, such as mixup."""
    found = []
    for seed in range(DRAWS):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            found.append(_tensors_of_step(method, run, optimizer, batch))
    return max(found, key=lambda tensors: tensors.peak(tensors.sizes))


def _tensors_of_step(method: Method, run: Resolved, optimizer: torch.optim.Optimizer, batch: Batch) -> Tensors:
    known = [*method.parameters(), *method.buffers(), *batch.views, batch.index]
    known += _state(optimizer)
    watch = _Watch(known)
    with watch:
        _step(method, run, optimizer, batch)
    return watch.tensors()


def _step(method: Method, run: Resolved, optimizer: torch.optim.Optimizer, batch: Batch) -> None:
    device, half = batch.index.device.type, {"bf16": torch.bfloat16, "fp16": torch.float16}.get(run.precision)
    divided = in_micro_batches(method, run.accumulate) if run.joint_loss else nullcontext()
    with divided, torch.autocast(device, half) if half is not None else nullcontext():
        loss = method(batch)["loss"]
    loss.backward()
    del loss
    optimizers.clip(method, run.method.optim)
    optimizer.step()
    optimizer.zero_grad()


def _noise(run: Resolved, rows: int) -> Batch:
    """A batch of noise like those of the training's first step."""
    device, at = default_device(), Progress(0, 1000, 100)
    sizes = [view.size for view in run.method.views_at(at) for _ in range(view.count)]
    dtype = TYPES.get(run.precision, torch.float32)
    views = [torch.randn(rows, run.channels, s, s, device=device, dtype=dtype) for s in sizes]
    views = [view.to(memory_format=torch.channels_last) for view in views]
    index = torch.arange(rows, device=device)
    return Batch(views, index, at, labels=index % 2)


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Bytes of the storages of tensors; shared ones count once."""
    found: Mapping[int, int] = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}
    return sum(found.values())

"""A backbone that computes a batch in micro-batches, and stores no activations between forward and backward pass.

This is gradient caching (Gao, Zhang, Han and Callan, RepL4NLP 2021, https://arxiv.org/abs/2101.06983): the features of
the batch are computed in micro-batches and without activations, the loss sees all of them, and the backward pass runs
the backbone again on one micro-batch at a time, with the same random state. The paper's three phases are a single
backward pass here: each micro-batch is one segment of activation checkpointing. So everything around the backbone
(heads, losses, gradient scaling, DistributedDataParallel's reducer) is as in an undivided batch.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from .base import Backbone, Parts

Output = Tensor | Parts
Run = Callable[..., Output]
"""A backbone's function of a batch, (B, ...) to its feature or parts."""


@contextmanager
def in_micro_batches(module: nn.Module, count: int) -> Iterator[None]:
    """Divides each batch of every backbone in `module` into `count` micro-batches.

    The backward pass may follow later. Micro-batch i has the rows i, i + count, ...: of images whose views were
    concatenated, all views of an image are in the same micro-batch. BatchNorm normalises each micro-batch by its own
    statistics; its running statistics move once per batch, to the mean over micro-batches.
    """
    backbones = [part for part in module.modules() if isinstance(part, Backbone)]
    before = [(part.divide, part.micro_batches) for part in backbones]
    for part in backbones:
        part.divide, part.micro_batches = _Divided(part, count), count
    try:
        yield
    finally:
        for part, (divide, earlier) in zip(backbones, before):
            part.divide, part.micro_batches = divide, earlier


class _Divided:
    """Runs a backbone's functions in micro-batches."""

    def __init__(self, backbone: nn.Module, count: int) -> None:
        self.backbone = backbone
        self.count = count

    def __call__(self, run: Run, x: Tensor, *more: Tensor) -> Output:
        """The output of `run` for images (B, C, H, W) and further tensors with B rows."""
        count = math.gcd(self.count, len(x))
        statistics = _statistics(self.backbone)
        before, sums = [b.clone() for b in statistics], [torch.zeros_like(b) for b in statistics]
        outputs: list[Output] = []
        for i in range(count):
            one = _MicroBatch(run, i, count, statistics)
            again: Callable[..., Any] = one
            if torch.is_grad_enabled():
                outputs.append(checkpoint(again, x, *more, use_reentrant=False))
            else:
                outputs.append(one(x, *more))
            for total, buffer, start in zip(sums, statistics, before):
                total.add_(buffer)
                if i < count - 1:
                    buffer.copy_(start)
        for total, buffer in zip(sums, statistics):
            if buffer.is_floating_point():  # a counter has moved by 1 in the last micro-batch
                buffer.copy_(total / count)
        return _joined(outputs)


class _MicroBatch:
    """One micro-batch; its first run moves BatchNorm's statistics, the repetition in the backward pass does not."""

    def __init__(self, run: Run, first: int, step: int, statistics: Sequence[Tensor]) -> None:
        self.run = run
        self.first, self.step = first, step
        self.statistics = statistics
        self.has_run = False

    def __call__(self, *inputs: Tensor) -> Output:
        own = [x[self.first :: self.step].contiguous(memory_format=_layout(x)) for x in inputs]
        if not self.has_run:
            self.has_run = True
            return self.run(*own)
        before = [b.clone() for b in self.statistics]
        try:
            return self.run(*own)
        finally:  # the repetition ends by an exception, once it has computed all that is needed
            for buffer, value in zip(self.statistics, before):
                buffer.copy_(value)


def _layout(x: Tensor) -> torch.memory_format:
    is_last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if is_last else torch.contiguous_format


def _statistics(backbone: nn.Module) -> list[Tensor]:
    """The running statistics that a pass moves."""
    norms = [m for m in backbone.modules() if isinstance(m, _BatchNorm) and m.training]
    return [b for m in norms for b in m.buffers(recurse=False)]


def _joined(outputs: Sequence[Output]) -> Output:
    """The outputs of all micro-batches in the order of the batch."""
    features = [output for output in outputs if isinstance(output, Tensor)]
    if features:
        return _interleaved(features)
    parts = [output for output in outputs if not isinstance(output, Tensor)]
    sequences = [sequence for _, sequence, _ in parts if sequence is not None]
    return _interleaved([part[0] for part in parts]), _interleaved(sequences) if sequences else None, parts[0][2]


def _interleaved(parts: Sequence[Tensor]) -> Tensor:
    """Rows of part i to the rows i, i + len(parts), ... of the result."""
    return torch.stack(tuple(parts), 1).flatten(0, 1)

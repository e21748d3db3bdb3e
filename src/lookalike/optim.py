"""Settings of optimizers: learning rates and their scaling, weight decay, clipping. `optimizers` builds from them."""

import importlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from torch import nn

from .schedules import Every, Grid, Schedule, Shape


@dataclass(frozen=True)
class Optim:
    """An optimizer with the schedules of its learning rate and weight decay."""

    name: str
    """adamw, adam or sgd (torch's); lars (Barlow Twins, VICReg, MoCo v3), lars_simclr (Google's), larc (SwAV);
    or any name in `timm.optim.list_optimizers()`."""
    lr: float
    """Peak learning rate, after the warm-up, for a global batch of `base_batch` images."""
    lr_bias: float | None = None
    """Peak learning rate of one-axis parameters (biases, norm scales); without it `lr`."""
    scaling: Literal["linear", "sqrt", "none"] = "linear"
    """How learning rates grow with batch size / `base_batch`."""
    base_batch: int = 256
    """Batch size that the learning rates are stated for."""
    weight_decay: Schedule = Schedule(0.0)
    """Weight decay; shape "constant" for a fixed value."""
    momentum: float = 0.9
    """Momentum of sgd, the three LARS, and timm's optimizers that have one."""
    nesterov: bool = False
    """Nesterov momentum, in sgd and the three LARS."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of the moments, in adam, adamw, and timm's optimizers that have two."""
    shape: Shape = "cosine"
    """How the learning rate decays from its peak to its final value."""
    every: Every = "step"
    """Update the learning rate in each step or once per epoch."""
    grid: Grid = "closed"
    """Which ends of warm-up and decay are reached; see `Schedule.grid`."""
    warmup_epochs: float = 0
    """Epochs in which the learning rate rises linearly from `warmup_lr` to its peak."""
    warmup_lr: float = 0
    """Learning rate at the start of the warm-up; not scaled by the batch size."""
    final_lr: float = 0
    """Final learning rate; not scaled by the batch size. `final_factor` times the peak is added."""
    final_factor: float = 0
    """Final learning rate as a fraction of the scaled peak."""
    layer_decay: float = 1.0
    """Factor on the learning rate per layer of the backbone, counted from the heads, in (0, 1]; 1 switches it off."""
    clip: float | None = None
    """Maximum norm of the gradient; without it there is no clipping."""
    clip_mode: Literal["global", "parameter", "module"] = "global"
    """Norm that is clipped: of all gradients, of each parameter (DINO), or of each part of the method (DINOv2)."""
    trust: float = 0.001
    """Trust coefficient of the three LARS."""
    exclude: bool = True
    """Exclude one-axis parameters from weight decay and from LARS's adaptation."""

    def __post_init__(self) -> None:
        if self.lr < 0 or self.base_batch < 1:
            raise ValueError(f"lr={self.lr} must not be negative and base_batch={self.base_batch} be at least 1.")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay={self.layer_decay} must be above 0 and at most 1; 1 switches it off.")
        if self.clip is not None and self.clip <= 0:
            raise ValueError(f"clip={self.clip} must be above 0. Leave it out to clip nothing.")
        if self.shape == "constant" and (self.final_lr or self.final_factor):
            raise ValueError("A constant learning rate has no final_lr or final_factor. Set shape to linear or cosine.")

    def factor(self, batch_size: int) -> float:
        """Factor on learning rates for a global batch of `batch_size` images."""
        ratio = batch_size / self.base_batch
        return {"linear": ratio, "sqrt": math.sqrt(ratio), "none": 1.0}[self.scaling]

    def schedule(self, lr: float) -> Schedule:
        """The schedule with the peak `lr`, which is already scaled."""
        end = None if self.shape == "constant" else self.final_lr + self.final_factor * lr
        return Schedule(lr, end, self.shape, self.warmup_epochs, self.warmup_lr, every=self.every, grid=self.grid)


@dataclass
class Group:
    """Parameters of a method with their own learning rate or weight decay; see `Method.groups`."""

    params: Iterable[nn.Parameter]
    lr: Schedule | None = None
    """Replaces the configured schedule. All its values are multiplied by `Optim.factor`."""
    lr_scale: float = 1
    weight_decay_scale: float = 1


_MOVED = {"LARS": "lars", "Rates": "build", "Rule": "lars", "build": "build", "clip": "build"}
"""Names that were here in 0.1, with their modules in `optimizers`."""


def __getattr__(name: str) -> object:
    if name in _MOVED:
        return importlib.import_module(f"lookalike.optimizers.{_MOVED[name]}").__dict__[name]
    raise AttributeError(f"module 'lookalike.optim' has no attribute '{name}'")

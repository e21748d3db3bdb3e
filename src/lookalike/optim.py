"""The settings of optimizers: learning rates and their scaling, decay, clipping. `optimizers` builds by them."""

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
    """Learning rate after the warm-up, for a global batch of `base_batch` images."""
    lr_bias: float | None = None
    """The same for one-axis parameters (biases, norm scales); without it they have `lr`."""
    scaling: Literal["linear", "sqrt", "none"] = "linear"
    """How learning rates grow with batch size / `base_batch`."""
    base_batch: int = 256
    """The batch size that learning rates are given for."""
    weight_decay: Schedule = Schedule(0.0)
    """Weight decay; "constant" shape for a fixed one."""
    momentum: float = 0.9
    """Momentum of sgd, the three LARS, and those of timm's that have one."""
    nesterov: bool = False
    """Nesterov's momentum, in sgd and the three LARS."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Moment decays of adam, adamw, and those of timm's that have two."""
    shape: Shape = "cosine"
    """How the learning rate goes from its peak to its end."""
    every: Every = "step"
    """Whether the learning rate moves with each step or once per epoch."""
    grid: Grid = "closed"
    """Which ends of warm-up and decay are reached; see `Schedule.grid`."""
    warmup_epochs: float = 0
    """Epochs in which the learning rate rises linearly from `warmup_lr`."""
    warmup_lr: float = 0
    """Learning rate that the warm-up leaves from, as it is: not scaled."""
    final_lr: float = 0
    """Learning rate at the end, as it is: not scaled; `final_factor`'s share is added."""
    final_factor: float = 0
    """Learning rate at the end as a share of the scaled peak."""
    layer_decay: float = 1.0
    """Factor on the learning rate for each layer of the backbone away from the heads, in (0, 1]."""
    clip: float | None = None
    """Largest norm of the gradient; without it nothing is clipped."""
    clip_mode: Literal["global", "parameter", "module"] = "global"
    """Whose norm is clipped: all gradients together, each parameter's (DINO), or each part's of the method (DINOv2)."""
    trust: float = 0.001
    """Trust coefficient of the three LARS."""
    exclude: bool = True
    """Whether one-axis parameters are left out of weight decay and of LARS's adaptation."""

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
        """What learning rates are multiplied by for a global batch of `batch_size` images."""
        ratio = batch_size / self.base_batch
        return {"linear": ratio, "sqrt": math.sqrt(ratio), "none": 1.0}[self.scaling]

    def schedule(self, lr: float) -> Schedule:
        """The schedule whose peak is `lr`, already scaled."""
        end = None if self.shape == "constant" else self.final_lr + self.final_factor * lr
        return Schedule(lr, end, self.shape, self.warmup_epochs, self.warmup_lr, every=self.every, grid=self.grid)


@dataclass
class Group:
    """Parameters of a method with a learning rate or decay of their own; see `Method.groups`."""

    params: Iterable[nn.Parameter]
    lr: Schedule | None = None
    """Takes the place of the configured schedule. All its values are multiplied by `Optim.factor`."""
    lr_scale: float = 1
    weight_decay_scale: float = 1


_MOVED = {"LARS": "lars", "Rates": "build", "Rule": "lars", "build": "build", "clip": "build"}
"""What 0.1 had here, and the module of `optimizers` that has it now."""


def __getattr__(name: str) -> object:
    if name in _MOVED:
        return importlib.import_module(f"lookalike.optimizers.{_MOVED[name]}").__dict__[name]
    raise AttributeError(f"module 'lookalike.optim' has no attribute '{name}'")

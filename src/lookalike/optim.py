"""The settings of optimizers: learning rates and their scaling, decay, clipping. `optimizers` builds by them."""

import dataclasses
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

    def for_images(self, images: int) -> "Optim":
        """For fewer images than `FEW` `FEW_IMAGES`, else itself."""
        return FEW_IMAGES if images < FEW else self

    def hastened(self, images: int) -> "Optim":
        """For fewer images than `FEW` with a learning rate of `FEW_LR`, else itself: AdamW's, for transformers."""
        return dataclasses.replace(self, lr=FEW_LR) if images < FEW else self

    def factor(self, batch_size: int) -> float:
        """What learning rates are multiplied by for a global batch of `batch_size` images."""
        ratio = batch_size / self.base_batch
        return {"linear": ratio, "sqrt": math.sqrt(ratio), "none": 1.0}[self.scaling]

    def schedule(self, lr: float) -> Schedule:
        """The schedule whose peak is `lr`, already scaled."""
        end = None if self.shape == "constant" else self.final_lr + self.final_factor * lr
        return Schedule(lr, end, self.shape, self.warmup_epochs, self.warmup_lr, every=self.every, grid=self.grid)


FEW = 20_000
"""Fewer images than so many make trainings of few steps, for which the papers' optimizers and teachers are too slow."""

FEW_IMAGES = Optim("lars", lr=2.0, scaling="none", weight_decay=Schedule(1e-6), warmup_epochs=10, grid="open")
"""For few images, whose trainings are short: the papers' optimizers, tuned for 100,000 steps and more, hardly leave
their start in some hundred. Measured on 1,500 and 3,000 CIFAR-10 images, batches of 64 and 128: `docs/results.md`."""

FEW_LR = 4e-3
"""AdamW's learning rate per 256 images for few images and transformers: `docs/results.md`."""


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

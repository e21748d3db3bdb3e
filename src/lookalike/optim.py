"""Optimizers: learning rates and their scaling, who gets decay, clipping, and the three LARS of the papers.

This module alone applies schedules, scales by the batch size and leaves one-axis parameters out.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, overload

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim.optimizer import ParamsT

from .places import no_optimizer
from .schedules import Every, Grid, Progress, Schedule, Shape

if TYPE_CHECKING:
    from .backbones import Backbone
    from .core import Method

Rule = Literal["lars", "lars_simclr", "larc"]


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


@dataclass(frozen=True)
class _Rate:
    """What the parameters of one torch group share."""

    lr: Schedule
    lr_scale: float
    weight_decay_scale: float
    adapt: bool


class Rates:
    """A method's optimizer and the schedules that drive it.

    The schedules are not in the optimizer's state dict: they follow from the configuration.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, rates: list[_Rate], lr: Schedule, weight_decay: Schedule
    ) -> None:
        self.optimizer = optimizer
        self.peak = lr.start
        """The learning rate after the warm-up, scaled by the batch size."""
        self.lr = lr.start
        """The learning rate now, of parameters without one of their own; the peak until `apply` is called."""
        self._rates = rates
        self._lr = lr
        self._weight_decay = weight_decay

    def apply(self, at: Progress) -> None:
        """Sets the learning rates and weight decays for the step `at`; call it before each optimizer step."""
        self.lr, weight_decay = self._lr(at), self._weight_decay(at)
        for rate, group in zip(self._rates, self.optimizer.param_groups):
            group["lr"] = rate.lr(at) * rate.lr_scale
            group["weight_decay"] = weight_decay * rate.weight_decay_scale


def build(method: "Method", cfg: Optim, batch_size: int, *, fused: bool) -> Rates:
    """Makes one optimizer for every parameter of `method` that requires a gradient.

    Args:
        method: the method; its own `groups()` may set some parameters apart.
        cfg: the optimizer's configuration.
        batch_size: global batch size, over all processes and accumulation.
        fused: whether torch's optimizers run as one kernel; their numbers then differ in the last digits.

    Raises:
        ValueError: if the optimizer's name is unknown, or a parameter is in two groups or foreign to the method.
    """
    factor = cfg.factor(batch_size)
    lr = cfg.schedule(cfg.lr * factor)
    lr_bias = lr if cfg.lr_bias is None else cfg.schedule(cfg.lr_bias * factor)
    apart = _apart(method)
    layer_scale = _layer_scales(method.backbone, cfg.layer_decay) if cfg.layer_decay != 1 else {}

    sets: dict[_Rate, list[nn.Parameter]] = {}
    for p in method.parameters():
        if not p.requires_grad:
            continue
        group = apart.get(p, Group([]))
        one_axis = p.ndim <= 1
        adapt = not (cfg.exclude and one_axis)
        rate = _Rate(
            lr=group.lr or (lr_bias if one_axis else lr),
            lr_scale=group.lr_scale * layer_scale.get(p, 1.0) * (factor if group.lr else 1.0),
            weight_decay_scale=group.weight_decay_scale if adapt else 0.0,
            adapt=adapt,
        )
        sets.setdefault(rate, []).append(p)
    params: ParamsT = [{"params": ps, "adapt": rate.adapt} for rate, ps in sets.items()]
    return Rates(_optimizer(params, cfg, lr.start, fused), list(sets), lr, cfg.weight_decay)


def clip(method: nn.Module, cfg: Optim) -> None:
    """Clips the gradients of `method` in place, as `cfg.clip` and `cfg.clip_mode` say."""
    if cfg.clip is None:
        return
    if cfg.clip_mode == "global":
        clip_grad_norm_(method.parameters(), cfg.clip)
    elif cfg.clip_mode == "module":
        for part in [list(child.parameters()) for child in method.children()] + [
            list(method.parameters(recurse=False))
        ]:
            if part:
                clip_grad_norm_(part, cfg.clip)
    elif gradients := [p.grad for p in method.parameters() if p.grad is not None]:
        norms = torch.stack(torch._foreach_norm(gradients))
        torch._foreach_mul_(gradients, (cfg.clip / (norms + 1e-6)).clamp(max=1).unbind())


def _apart(method: "Method") -> dict[nn.Parameter, Group]:
    """The parameters that `method.groups()` sets apart, each with its group."""
    names = {p: name for name, p in method.named_parameters()}
    apart: dict[nn.Parameter, Group] = {}
    for group in method.groups():
        for p in group.params:
            if p not in names:
                raise ValueError(
                    f"{type(method).__name__}.groups() holds a parameter of shape {tuple(p.shape)} that is not among "
                    "the method's own. Make its module an attribute of the method."
                )
            if p in apart:
                raise ValueError(f"{names[p]} is twice in {type(method).__name__}.groups(). Leave it in one group.")
            apart[p] = group
    return apart


def _layer_scales(backbone: "Backbone", decay: float) -> dict[nn.Parameter, float]:
    """Learning-rate factors of the backbone's parameters: the method's heads stand one layer above its last block.

    Layers are timm's own, or else the network's parts in order. What comes after timm's last block (norms, pooling)
    stands with the heads, and so do register tokens; other parameters that no layer holds (tokens, positions) count as
    the first, as in DINOv2's `param_groups.py`.
    """
    net = backbone.net
    of_timm = getattr(net, "group_matcher", None)
    matcher = None if of_timm is None else of_timm(coarse=False)
    if matcher is None:
        parts = _split(net, most=_size(net) // 2)
        layer = {p: i for i, part in enumerate(parts) for p in part.parameters()}
        heads = max(layer.values(), default=0) + 1
    else:
        from timm.models import group_parameters

        ids: dict[str, int] = group_parameters(net, matcher, reverse=True)
        named = matcher.get("blocks", []) if isinstance(matcher, dict) else []
        rules = [named] if isinstance(named, str) else [rule for rule, _ in named]
        numbered = [rule for rule in map(re.compile, rules) if rule.groups]  # the others are of single layers
        blocks = {name: i for name, i in ids.items() if any(rule.match(name) for rule in numbered)}
        heads = max((blocks or ids).values()) + 1
        after = {name for name, i in ids.items() if blocks and i >= heads - 1} - blocks.keys()
        after.add("reg_token")  # DINOv2's rule does not know register tokens
        held = {name: p for name, p in net.named_parameters() if "." in name or name in after}
        layer = {p: heads if name in after else ids[name] for name, p in held.items()}
    return {p: decay ** (heads - layer.get(p, 0)) for p in backbone.parameters()}


def _split(module: nn.Module, most: int) -> list[nn.Module]:
    """The parts of a network in order, each with at most `most` numbers unless it cannot be split."""
    children = [child for child in module.children() if _size(child)]
    if _size(module) <= most or not children:
        return [module]
    return [part for child in children for part in _split(child, most)]


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _optimizer(params: ParamsT, cfg: Optim, lr: float, fused: bool) -> torch.optim.Optimizer:
    fused_or_default = fused or None  # False would switch the foreach version off, too
    match cfg.name:
        case "lars" | "lars_simclr" | "larc":
            return LARS(params, cfg.name, lr, cfg.momentum, cfg.nesterov, cfg.trust)
        case "sgd":
            sgd = torch.optim.SGD(
                params, lr, momentum=cfg.momentum, nesterov=cfg.nesterov, weight_decay=0, fused=fused_or_default
            )
            if fused and cfg.momentum:  # the fused one fails on parameters whose first gradient comes late
                for p in (p for group in sgd.param_groups for p in group["params"]):
                    sgd.state[p]["momentum_buffer"] = torch.zeros_like(p)
            return sgd
        case "adam":
            return torch.optim.Adam(params, lr, betas=cfg.betas, weight_decay=0, fused=fused_or_default)
        case "adamw":
            return torch.optim.AdamW(params, lr, betas=cfg.betas, weight_decay=0, fused=fused_or_default)
        case _:
            return _timm(params, cfg, lr)


def _timm(params: ParamsT, cfg: Optim, lr: float) -> torch.optim.Optimizer:
    from timm.optim import create_optimizer_v2, get_optimizer_info, list_optimizers

    known: list[str] = list_optimizers()
    if cfg.name not in known:
        raise no_optimizer(cfg.name, known)
    betas = {"betas": cfg.betas} if get_optimizer_info(cfg.name).num_betas == 2 else {}
    optimizer: torch.optim.Optimizer = create_optimizer_v2(params, cfg.name, lr=lr, momentum=cfg.momentum, **betas)
    return optimizer


class LARS(torch.optim.Optimizer):
    """SGD with momentum whose step for each tensor is in proportion to the tensor's norm.

    With g the gradient, w the weights and d = g + weight_decay w, You et al., https://arxiv.org/abs/1708.03888, as in
    - "lars": facebookresearch barlowtwins, vicreg, moco-v3: d times trust |w| / |d|; the learning rate multiplies the
      momentum buffer.
    - "lars_simclr": google-research/simclr `lars_optimizer.py`: the same, but the learning rate goes into the momentum
      buffer, so that a change of it acts with delay.
    - "larc": NVIDIA Apex without its clipping, as SwAV uses it: d times trust |w| / (|g| + weight_decay |w| + 1e-8);
      no step, and no decay either, where the gradient is zero.

    Where a norm is zero the factor is 1. Groups with `adapt` false are not scaled at all.
    """

    def __init__(self, params: ParamsT, rule: Rule, lr: float, momentum: float, nesterov: bool, trust: float) -> None:
        # all of it among the defaults: nothing else survives a copy of torch's optimizers
        defaults: dict[str, object] = {"lr": lr, "weight_decay": 0.0, "adapt": True}
        defaults |= {"rule": rule, "momentum": momentum, "nesterov": nesterov, "trust": trust}
        super().__init__(params, defaults)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Makes one step; `closure`, where given, computes the loss and the gradients first."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                self._step(params, **{name: value for name, value in group.items() if name in self.defaults})
        return loss

    def _step(
        self, params: list[Tensor], lr: float, weight_decay: float, adapt: bool, rule: Rule, momentum: float,
        nesterov: bool, trust: float,
    ) -> None:  # fmt: skip
        gradients = [p.grad for p in params if p.grad is not None]
        steps = list(torch._foreach_add(gradients, params, alpha=weight_decay))
        if adapt:
            torch._foreach_mul_(steps, _ratios(params, gradients, steps, weight_decay, rule, trust))
        if rule == "lars_simclr":
            torch._foreach_mul_(steps, lr)
            lr = 1.0
        for p in params:
            if not self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        buffers = [self.state[p]["momentum_buffer"] for p in params]
        torch._foreach_mul_(buffers, momentum)
        torch._foreach_add_(buffers, steps)
        if nesterov:
            torch._foreach_add_(steps, buffers, alpha=momentum)
        torch._foreach_add_(params, steps if nesterov else buffers, alpha=-lr)


def _ratios(
    params: list[Tensor], gradients: list[Tensor], decayed: list[Tensor], weight_decay: float, rule: Rule, trust: float
) -> list[Tensor]:
    """The factor of each tensor's step, as 0-d tensors: nothing waits for the device."""
    w = torch.stack(torch._foreach_norm(params))
    if rule == "larc":
        g = torch.stack(torch._foreach_norm(gradients))
        ratio = trust * w / (g + weight_decay * w + 1e-8)
        ratio = torch.where(g > 0, ratio, 0.0)
    else:
        d = torch.stack(torch._foreach_norm(decayed))
        ratio = torch.where(d > 0, trust * w / d, 1.0)
    return list(torch.where(w > 0, ratio, 1.0).unbind())

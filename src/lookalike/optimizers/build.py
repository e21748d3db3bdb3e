"""Builds the optimizer of a method, with learning rate and weight decay per parameter group, and clips gradients.

Only this module applies schedules, scales by the batch size and excludes one-axis parameters.
"""

import re
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.optim.optimizer import ParamsT

from ..backbones.base import Backbone
from ..core import Method
from ..optim import Group, Optim
from ..places import no_optimizer
from ..schedules import Progress, Schedule
from .lars import LARS


@dataclass(frozen=True)
class _Rate:
    """Learning rate and weight decay of one parameter group."""

    lr: Schedule
    lr_scale: float
    weight_decay_scale: float
    adapt: bool


class Rates:
    """A method's optimizer and its schedules.

    The schedules are not in the optimizer's state dict: they follow from the configuration.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, rates: list[_Rate], lr: Schedule, weight_decay: Schedule
    ) -> None:
        self.optimizer = optimizer
        self.peak = lr.start
        """The learning rate after the warm-up, scaled by the batch size."""
        self.lr = lr.start
        """The current learning rate of parameters without their own one; the peak until `apply` is called."""
        self._rates = rates
        self._lr = lr
        self._weight_decay = weight_decay

    def apply(self, at: Progress) -> None:
        """Sets learning rates and weight decays for the step `at`; call it before each optimizer step."""
        self.lr, weight_decay = self._lr(at), self._weight_decay(at)
        for rate, group in zip(self._rates, self.optimizer.param_groups):
            group["lr"] = rate.lr(at) * rate.lr_scale
            group["weight_decay"] = weight_decay * rate.weight_decay_scale


def build(method: Method, cfg: Optim, batch_size: int, *, fused: bool) -> Rates:
    """Builds one optimizer for all trainable parameters of `method`.

    Args:
        method: the method; its `groups()` may give some parameters their own settings.
        cfg: the optimizer's configuration.
        batch_size: global batch size, over all processes and micro-batches.
        fused: use torch's fused kernels; results differ by rounding.

    Raises:
        ValueError: the optimizer's name is unknown, or a parameter is in two groups or not the method's.
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
    """Clips the gradients of `method` in place, by `cfg.clip` and `cfg.clip_mode`."""
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


def _apart(method: Method) -> dict[nn.Parameter, Group]:
    """The parameters in `method.groups()`, each with its group."""
    names = {p: name for name, p in method.named_parameters()}
    apart: dict[nn.Parameter, Group] = {}
    for group in method.groups():
        for p in group.params:
            if p not in names:
                raise ValueError(
                    f"{type(method).__name__}.groups() has a parameter of shape {tuple(p.shape)} that is not one of "
                    "the method's. Make its module an attribute of the method."
                )
            if p in apart:
                raise ValueError(f"{names[p]} is in {type(method).__name__}.groups() twice. Leave it in one group.")
            apart[p] = group
    return apart


def _layer_scales(backbone: Backbone, decay: float) -> dict[nn.Parameter, float]:
    """Learning-rate factors of the backbone's parameters; the method's heads are one layer above its last block.

    Layers are timm's, or else the network's parts in order. Parameters after timm's last block (norms, pooling) and
    register tokens count as the heads' layer; other parameters outside of layers (tokens, position embeddings) count as
    the first layer, as in DINOv2's `param_groups.py`.
    """
    net = backbone.net
    of_timm = getattr(net, "group_matcher", None)
    matcher = None if of_timm is None else of_timm(coarse=False)
    if matcher is None:
        parts = _split(net, maximum=_size(net) // 2)
        layer = {p: i for i, part in enumerate(parts) for p in part.parameters()}
        heads = max(layer.values(), default=0) + 1
    else:
        from timm.models import group_parameters

        ids: dict[str, int] = group_parameters(net, matcher, reverse=True)
        named = matcher.get("blocks", []) if isinstance(matcher, dict) else []
        rules = [named] if isinstance(named, str) else [rule for rule, _ in named]
        numbered = [rule for rule in map(re.compile, rules) if rule.groups]  # rules without groups are single layers
        blocks = {name: i for name, i in ids.items() if any(rule.match(name) for rule in numbered)}
        heads = max((blocks or ids).values()) + 1
        after = {name for name, i in ids.items() if blocks and i >= heads - 1} - blocks.keys()
        after.add("reg_token")  # register tokens are not in DINOv2's rule
        held = {name: p for name, p in net.named_parameters() if "." in name or name in after}
        layer = {p: heads if name in after else ids[name] for name, p in held.items()}
    return {p: decay ** (heads - layer.get(p, 0)) for p in backbone.parameters()}


def _split(module: nn.Module, maximum: int) -> list[nn.Module]:
    """The parts of a network in order, each with at most `maximum` parameters unless it cannot be split."""
    children = [child for child in module.children() if _size(child)]
    if _size(module) <= maximum or not children:
        return [module]
    return [part for child in children for part in _split(child, maximum)]


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _optimizer(params: ParamsT, cfg: Optim, lr: float, fused: bool) -> torch.optim.Optimizer:
    fused_or_default = fused or None  # False would also switch off the foreach implementation
    match cfg.name:
        case "lars" | "lars_simclr" | "larc":
            return LARS(params, cfg.name, lr, cfg.momentum, cfg.nesterov, cfg.trust)
        case "sgd":
            sgd = torch.optim.SGD(
                params, lr, momentum=cfg.momentum, nesterov=cfg.nesterov, weight_decay=0, fused=fused_or_default
            )
            if fused and cfg.momentum:  # the fused kernel fails on parameters that get their first gradient later
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

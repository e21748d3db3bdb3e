"""The three variants of LARS in the papers' codes."""

from collections.abc import Callable
from typing import Literal, overload

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

Rule = Literal["lars", "lars_simclr", "larc"]


class LARS(torch.optim.Optimizer):
    """SGD with momentum whose step for each tensor is proportional to the tensor's norm.

    With g the gradient, w the weights and d = g + weight_decay w, You et al., https://arxiv.org/abs/1708.03888, as in
    - "lars": facebookresearch barlowtwins, vicreg, moco-v3: d times trust |w| / |d|; the learning rate multiplies the
      momentum buffer.
    - "lars_simclr": google-research/simclr `lars_optimizer.py`: the same, but the momentum buffer accumulates steps
      that include the learning rate, so that a change of it acts with delay.
    - "larc": NVIDIA Apex without its clipping, as in SwAV: d times trust |w| / (|g| + weight_decay |w| + 1e-8); no step
      and no weight decay if the gradient is 0.

    If a norm is 0, the factor is 1. Groups with `adapt` false are not scaled.
    """

    def __init__(self, params: ParamsT, rule: Rule, lr: float, momentum: float, nesterov: bool, trust: float) -> None:
        # all settings are defaults: only those survive when torch copies an optimizer
        defaults: dict[str, object] = {"lr": lr, "weight_decay": 0.0, "adapt": True}
        defaults |= {"rule": rule, "momentum": momentum, "nesterov": nesterov, "trust": trust}
        super().__init__(params, defaults)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One optimizer step; an optional `closure` computes the loss and the gradients first."""
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
    """The factor on each tensor's step, as 0-d tensors, without synchronisation."""
    w = torch.stack(torch._foreach_norm(params))
    if rule == "larc":
        g = torch.stack(torch._foreach_norm(gradients))
        ratio = trust * w / (g + weight_decay * w + 1e-8)
        ratio = torch.where(g > 0, ratio, 0.0)
    else:
        d = torch.stack(torch._foreach_norm(decayed))
        ratio = torch.where(d > 0, trust * w / d, 1.0)
    return list(torch.where(w > 0, ratio, 1.0).unbind())

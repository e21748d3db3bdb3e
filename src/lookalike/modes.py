"""Modes of networks, whoever's they are: eval mode for a while, and train mode without anything random."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.dropout import _DropoutNd


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """In eval mode; afterwards every part of the module has its own mode back."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def without_chance(module: nn.Module, *, skips: bool = True) -> None:
    """Switches off what is random in train mode, in place: dropout and, with `skips`, skipped residual blocks."""
    from timm.layers import DropPath
    from torchvision.ops import StochasticDepth

    for part in module.modules():
        if isinstance(part, DropPath | StochasticDepth) and not skips:
            continue
        if isinstance(part, _DropoutNd | StochasticDepth):
            part.p = 0.0
        # the rates that a module gives to functions: drop_rate, attn_drop, dropout, drop_prob
        for name in [name for name, value in vars(part).items() if "drop" in name and isinstance(value, float)]:
            setattr(part, name, 0.0)

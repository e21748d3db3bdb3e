"""Modes of networks: temporary eval mode, and train mode without randomness."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.dropout import _DropoutNd


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode within the context; afterwards each submodule has its previous mode."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def without_chance(module: nn.Module, *, skips: bool = True) -> None:
    """Switches off randomness in train mode, in place: dropout and, with `skips`, stochastic depth."""
    from timm.layers import DropPath
    from torchvision.ops import StochasticDepth

    for part in module.modules():
        if isinstance(part, DropPath | StochasticDepth) and not skips:
            continue
        if isinstance(part, _DropoutNd | StochasticDepth):
            part.p = 0.0
        # rates that modules pass to functions: drop_rate, attn_drop, dropout, drop_prob
        for name in [name for name, value in vars(part).items() if "drop" in name and isinstance(value, float)]:
            setattr(part, name, 0.0)

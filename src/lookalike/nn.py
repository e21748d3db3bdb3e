"""Parts that several methods are built from."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn


def mlp(
    *widths: int, bias: bool = True, last_norm: Literal["none", "plain", "scale", "affine"] = "none"
) -> nn.Sequential:
    """A projector (B, widths[0]) -> (B, widths[-1]): linear, BatchNorm and ReLU per hidden width, then a linear layer.

    Args:
        widths: input, hidden and output widths; two or more.
        bias: whether the last linear layer has a bias. The hidden ones have none, BatchNorm shifts in their place.
        last_norm: BatchNorm after the last layer: "plain" only normalises (SimSiam), "scale" also learns a factor
            (Google's SimCLR), "affine" a factor and a shift.
    """
    if len(widths) < 2:
        raise ValueError(f"mlp got widths {widths}; it needs an input and an output width at least.")
    layers: list[nn.Module] = []
    for last, width in pairwise(widths[:-1]):
        layers += [nn.Linear(last, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(inplace=True)]
    layers.append(nn.Linear(widths[-2], widths[-1], bias=bias))
    if last_norm != "none":
        norm = nn.BatchNorm1d(widths[-1], affine=last_norm != "plain")
        if last_norm == "scale":
            norm.register_parameter("bias", None)
        layers.append(norm)
    return nn.Sequential(*layers)


def by_size(module: Callable[[Tensor], Tensor], views: Sequence[Tensor]) -> list[Tensor]:
    """Runs views of one size through `module` together: one pass per size.

    Args:
        module: maps (B, C, H, W) to a tensor whose first axis is B.
        views: V tensors (B, C, H, W) of any sizes.

    Returns:
        The V outputs, in the order of `views`.
    """
    sizes: dict[torch.Size, list[int]] = {}
    for i, view in enumerate(views):
        sizes.setdefault(view.shape[1:], []).append(i)
    outputs: dict[int, Tensor] = {}
    for same in sizes.values():
        joined = module(torch.cat([views[i] for i in same]))
        outputs |= zip(same, torch.split(joined, [len(views[i]) for i in same]))
    return [outputs[i] for i in range(len(views))]

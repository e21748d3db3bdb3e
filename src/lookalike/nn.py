"""Parts that several methods are built from."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
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


class Queue(nn.Module):
    """The last `size` keys of length 1, first in, first out (MoCo): a buffer, so that a resume goes on with it."""

    keys: Tensor
    """(D, K): one key per column."""
    place: Tensor
    """(1,) int64: the column that the next key takes."""

    def __init__(self, dim: int, size: int) -> None:
        super().__init__()
        self.register_buffer("keys", F.normalize(torch.randn(dim, size), dim=0))
        self.register_buffer("place", torch.zeros(1, dtype=torch.int64))

    @torch.no_grad()
    def add(self, keys: Tensor) -> None:
        """Puts keys (B, D), normalised here, in the place of the oldest. With several processes all add the same ones.

        Raises:
            ValueError: B does not divide the queue's size.
        """
        size = self.keys.shape[1]
        if size % len(keys):
            raise ValueError(
                f"A queue of {size} keys is not filled by batches of {len(keys)}. Give a multiple of the batch size."
            )
        columns = (self.place + torch.arange(len(keys), device=self.place.device)) % size
        self.keys[:, columns] = F.normalize(keys.to(self.keys.dtype), dim=1).T
        self.place.add_(len(keys)).remainder_(size)

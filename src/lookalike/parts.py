"""A sum over many rows in parts: one part at a time is in memory, in the forward pass and in the backward pass."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def summed_in_parts(function: Callable[..., Tensor], count: int, *rows: Tensor) -> Tensor:
    """The sum of `function` over `count` parts of the rows; each part is computed again in the backward pass.

    Args:
        function: gives a scalar for a part of each tensor in `rows`: a sum over its rows, or parts of such a sum.
        count: at least 1; parts differ by at most one row, and may be empty.
        rows: tensors with the same number of rows.
    """
    parts = zip(*(x.tensor_split(count) for x in rows), strict=True)
    return torch.stack([checkpoint(function, *part, use_reentrant=False) for part in parts]).sum()

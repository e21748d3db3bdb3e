"""Sinkhorn-Knopp -- Cuturi, NeurIPS 2013. https://arxiv.org/abs/1306.0895"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from . import distributed

if TYPE_CHECKING:
    from jaxtyping import Float


@torch.no_grad()
def sinkhorn(scores: Float[Tensor, "B K"], epsilon: float, iterations: int) -> Float[Tensor, "B K"]:
    """Shares each sample out among K prototypes, by its scores, so that all prototypes get about as much.

    The samples of all processes are shared out together; a process may hold more of them than another.
    Logarithms are scaled in the place of numbers, so that nothing overflows, and no prototype is lost to underflow.

    Args:
        scores: of this process's samples; higher is more alike.
        epsilon: lower follows the scores more sharply; above 0.
        iterations: how often prototypes, and then samples, are scaled; with 0 the softmax of each sample alone.

    Returns:
        Rows that sum to 1, in float32 or float64; the more iterations, the nearer the columns are to equal sums. Caron
        et al. (SwAV), NeurIPS 2020, equation 3, as in `distributed_sinkhorn` of the official code.
    """
    with torch.autocast(scores.device.type, enabled=False):
        log_q = scores.to(torch.promote_types(scores.dtype, torch.float32)) / epsilon
        for _ in range(iterations):
            own = log_q.logsumexp(0, keepdim=True)  # (1, K)
            log_q = log_q - distributed.gather(own).logsumexp(0)
            log_q = log_q - log_q.logsumexp(1, keepdim=True)
        return log_q.softmax(1)

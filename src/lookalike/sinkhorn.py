"""Sinkhorn-Knopp -- Cuturi, NeurIPS 2013. https://arxiv.org/abs/1306.0895"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from . import distributed

if TYPE_CHECKING:
    from jaxtyping import Float


@torch.no_grad()
def sinkhorn(scores: Float[Tensor, "B K"], epsilon: float, iterations: int) -> Float[Tensor, "B K"]:
    """Soft assignments of samples to K prototypes, by their scores, with about equal totals per prototype.

    They are balanced over the samples of all processes, whose numbers may differ. Computed in the log domain, without
    overflow or underflow.

    Args:
        scores: similarities of this process's samples with the prototypes.
        epsilon: divides the scores, above 0; lower values give sharper assignments.
        iterations: number of alternating scalings of prototypes and samples; 0 gives the softmax of each sample.

    Returns:
        Rows that sum to 1, in float32 or float64; with more iterations the column sums become more equal. Caron et al.
        (SwAV), NeurIPS 2020, equation 3, as in `distributed_sinkhorn` of the official code.
    """
    with torch.autocast(scores.device.type, enabled=False):
        log_q = _scaled(scores, epsilon)
        for _ in range(iterations):
            own = log_q.logsumexp(0, keepdim=True)  # (1, K)
            log_q = log_q - distributed.gather(own).logsumexp(0)  # (B, K)
            log_q = log_q - log_q.logsumexp(1, keepdim=True)
        return log_q.softmax(1)


@torch.no_grad()
def balance(parts: Callable[[], Iterable[Tensor]], epsilon: float, iterations: int) -> Float[Tensor, "K"]:
    """What `sinkhorn` subtracts from the scores of each prototype, for scores that are computed in parts.

    The assignments of samples are `assigned` to it. One part of the scores is in memory at a time.

    Args:
        parts: gives the scores (B, K) of all samples of this process, some at a time, anew with each call.
        epsilon: divides the scores, above 0.
        iterations: at least 1.
    """
    found: Tensor | None = None
    for _ in range(iterations):
        columns: Tensor | None = None
        for scores in parts():
            log_q = _scaled(scores, epsilon)
            if found is not None:
                log_q = (log_q - found).log_softmax(1)
            own = log_q.logsumexp(0)  # (K,)
            columns = own if columns is None else torch.logaddexp(columns, own)
        assert columns is not None
        total = distributed.gather(columns[None]).logsumexp(0)
        found = total if found is None else found + total
    assert found is not None
    return found


def assigned(scores: Float[Tensor, "B K"], epsilon: float, balance: Float[Tensor, "K"]) -> Float[Tensor, "B K"]:
    """The assignments of some samples by `balance`: those that `sinkhorn` gives for all samples at once."""
    return (_scaled(scores, epsilon) - balance).softmax(1)


def _scaled(scores: Tensor, epsilon: float) -> Tensor:
    return scores.to(torch.promote_types(scores.dtype, torch.float32)) / epsilon

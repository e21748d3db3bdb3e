"""Retrieval: each test image looks for the training images of its class, by cosine.

Recall@k as in Jegou et al., TPAMI 2011 and the metric-learning tables: the share of queries with at least one image of
their class among the k nearest. mAP is the mean over queries of the average precision over the whole ranking.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .features import check_finite, count_classes

RANKS = (1, 5, 10, 100)
"""k of the recalls."""
NUMBERS = 2**25
"""Cosines that are held at once."""


@dataclass(frozen=True)
class Retrieval:
    """What the queries find."""

    recall: dict[int, float]
    """Share of the queries with an image of their class among the k nearest, in [0, 1], by k."""
    mean_average_precision: float
    """In [0, 1]; the share of the query's class in the training images by chance."""
    alone: int
    """Queries whose class no training image has: they are left out of both."""


@torch.no_grad()
def retrieve(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    *,
    num_classes: int | None = None,
    device: torch.device | str | None = None,
) -> Retrieval:
    """Ranks all training images for each test image.

    Args:
        train_features: (N, D), raw: they are L2-normalised here, in float32, or in float64 where either side is.
        train_labels: (N,) integers 0 .. classes - 1.
        test_features: (M, D), raw.
        test_labels: (M,) integers 0 .. classes - 1.
        num_classes: without it one more than the largest label.
        device: where to compute; without it where the training features are.

    Raises:
        ValueError: shapes or labels do not fit together, a feature is not finite, or no query's class is there.
    """
    count_classes(train_features, train_labels, test_features, test_labels, num_classes)
    check_finite(train_features, test_features)
    dtype = torch.promote_types(torch.promote_types(train_features.dtype, test_features.dtype), torch.float32)
    device = torch.device(device or train_features.device)
    bank, queries = (F.normalize(x.to(device, dtype), dim=1) for x in (train_features, test_features))
    bank_labels, labels = train_labels.to(device), test_labels.to(device)
    firsts, precisions, alone = [], [], 0
    for some, own in zip(*(torch.split(x, max(1, NUMBERS // len(bank))) for x in (queries, labels))):
        order = (some @ bank.T).argsort(dim=1, descending=True, stable=True)
        hit = bank_labels[order] == own[:, None]  # (B, N), nearest first
        there = hit.any(1)
        alone += int((~there).sum())
        hit = hit[there]
        firsts.append(hit.int().argmax(1).cpu())
        place = torch.arange(1, len(bank) + 1, device=device)
        precision = hit.cumsum(1) / place
        precisions.append(((precision * hit).sum(1) / hit.sum(1)).double().cpu())
    first, precision = torch.cat(firsts), torch.cat(precisions)
    if not len(first):
        raise ValueError("No test image has a class that a training image has: nothing can be found.")
    recall = {k: float((first < k).double().mean()) for k in RANKS}
    return Retrieval(recall, float(precision.mean()), alone)

"""Retrieval: each test image is a query for training images of its class, by cosine similarity.

Recall@k as in Jegou et al., TPAMI 2011 and the metric-learning tables: the fraction of queries with at least one image
of their class among the k nearest. mAP is the mean over queries of the average precision over the whole ranking. Both
are averaged over all orders of tied training images.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .features import check_finite, count_classes
from .neighbours import tied

RANKS = (1, 5, 10, 100)
"""Values of k for recall@k."""
NUMBERS = 2**25
"""Cosines in memory at once."""
RANKED = 2**20
"""Cosines that are ranked at once, which fit into a processor's cache."""


@dataclass(frozen=True)
class Retrieval:
    """Retrieval metrics."""

    recall: dict[int, float]
    """Recall@k by k: the fraction of queries with an image of their class among the k nearest, in [0, 1]."""
    mean_average_precision: float
    """mAP, in [0, 1]; at chance level the fraction of training images that are of the query's class."""
    alone: int
    """Number of queries without a training image of their class; they are left out of both."""


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
        train_features: (N, D), not normalised; L2-normalised here, in float32, or in float64 if either side is.
        train_labels: (N,) integers 0 .. classes - 1.
        test_features: (M, D), not normalised.
        test_labels: (M,) integers 0 .. classes - 1.
        num_classes: without it the largest label plus 1.
        device: to compute on; without it that of the training features.

    Raises:
        ValueError: shapes or labels do not match, a feature is not finite, or no query has a training image.
    """
    count_classes(train_features, train_labels, test_features, test_labels, num_classes)
    check_finite(train_features, test_features)
    dtype = torch.promote_types(torch.promote_types(train_features.dtype, test_features.dtype), torch.float32)
    device = torch.device(device or train_features.device)
    bank, queries = (F.normalize(x.to(device, dtype), dim=1) for x in (train_features, test_features))
    bank_labels, labels = train_labels.to(device), test_labels.to(device)
    recalls, precisions, alone = list[Tensor](), list[Tensor](), 0
    rows, few = (max(1, numbers // len(bank)) for numbers in (NUMBERS, RANKED))
    with torch.autocast(device.type, enabled=False):
        for some, classes in zip(torch.split(queries, rows), torch.split(labels, rows)):
            for cosines, own in zip(torch.split(some @ bank.T, few), torch.split(classes, few)):
                near, order = cosines.sort(dim=1, descending=True, stable=True)
                hit = bank_labels[order] == own[:, None]  # (B, N), nearest first
                found_any = hit.any(1)
                alone += int((~found_any).sum())
                if bool(found_any.any()):
                    found, precision = _expected(hit[found_any], *tied(near[found_any]))
                    recalls.append(found.cpu())
                    precisions.append(precision.cpu())
    if not precisions:
        raise ValueError("TRAIN and TEST have no class in common: nothing can be retrieved.")
    recall = dict(zip(RANKS, torch.cat(recalls).mean(0).tolist()))
    return Retrieval(recall, float(torch.cat(precisions).mean()), alone)


def _expected(hit: Tensor, begin: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """Recalls (B, ranks) and average precision (B,) in float64, expected over all orders of tied images.

    Args:
        hit: (B, N), whether the image at each position is of the query's class; at least one is.
        begin, end: (B, N), the start and end of each position's tie.

    McSherry and Najork, ECIR 2008, "Computing information retrieval performance measures efficiently in the presence
    of tied scores".
    """
    upto = F.pad(hit.cumsum(1), (1, 0))  # (B, N + 1): hits before each position
    row, position = hit.nonzero(as_tuple=True)
    start, stop = begin[row, position], end[row, position]  # (hits,), of each hit's tie
    before, size = upto[row, start], stop - start
    right = upto[row, stop] - before
    # summed over the positions p of a tie: 1 / p gives h, and (p - first p) / p gives size - (start + 1) h
    harmonic = F.pad((1 / torch.arange(1, hit.shape[1] + 1, dtype=torch.float64, device=hit.device)).cumsum(0), (1, 0))
    h = harmonic[stop] - harmonic[start]
    # hits up to each position: the hit itself, all before the tie, and the expected number of the tie's other hits
    precision = ((before + 1) * h + (right - 1) / (size - 1).clamp(min=1) * (size - (start + 1) * h)) / size
    average = torch.segment_reduce(precision, "mean", lengths=upto[:, -1], axis=0)
    first = upto[:, -1].cumsum(0) - upto[:, -1]  # each query's nearest hit, among all of them
    start, right, size = (x[first, None].double() for x in (start, right, size))  # (B, 1)
    drawn = (torch.tensor(RANKS, device=hit.device) - start).clamp(min=0).minimum(size)  # (B, ranks), from the tie
    wrong = size - right
    none = (_log_factorial(wrong) - _log_factorial((wrong - drawn).clamp(min=0))) - (
        _log_factorial(size) - _log_factorial(size - drawn)
    )
    return torch.where(drawn > wrong, 1.0, 1 - none.exp()), average


def _log_factorial(n: Tensor) -> Tensor:
    return torch.lgamma(n + 1)

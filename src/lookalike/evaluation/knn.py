"""Weighted k-nearest-neighbour classification of frozen features.

Wu et al., CVPR 2018, https://arxiv.org/abs/1805.01978, with the constants of Caron et al. (DINO), ICCV 2021,
https://arxiv.org/abs/2104.14294; the numbers are those of the official `eval_knn.py`.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .features import count_classes
from .neighbours import BLOCK, TIE, near, nearest, tied


@dataclass(frozen=True)
class KNN:
    """What the neighbours say about each test image. All tensors lie on the CPU."""

    k: int
    temperature: float
    votes: Tensor
    """(M, classes), each class's sum of exp(cosine / temperature) over the k nearest neighbours that are of it."""
    predictions: Tensor
    """(M,) int64, the class with the most votes; of equal ones the lowest."""
    top1: float
    """Share of the test images whose own class has the most votes, in [0, 1]."""
    top5: float
    """The same for the min(5, k) classes with the most votes, as in the official code."""
    accuracies: dict[int, tuple[float, float]]
    """(top1, top5) for `k` and for each other k that was asked for, in rising order."""


@torch.no_grad()
def knn(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    k: int = 20,
    temperature: float = 0.07,
    num_classes: int | None = None,
    block: int = BLOCK,
    device: torch.device | str | None = None,
    *,
    also: tuple[int, ...] = (10, 100, 200),
    progress: Callable[[int, int], None] | None = None,
) -> KNN:
    """Lets the k training images of highest cosine similarity vote for their class, with exp(cosine / temperature).

    One search serves `k` and every k in `also`. Training and test images are taken in blocks, so beside the features
    and the votes it needs no memory that grows with them (see `nearest`). Where some of the training images that are
    equally near (see `tied`) would count and others not, each has the same share of a vote: their order says nothing.

    Args:
        train_features: (N, D), raw: they are L2-normalised here, in float32, or in float64 where either side is.
        train_labels: (N,) integers 0 .. classes - 1.
        test_features: (M, D), raw.
        test_labels: (M,) integers 0 .. classes - 1.
        k: neighbours that vote; all of them where there are fewer training images.
        temperature: divides the similarities.
        num_classes: without it one more than the largest label.
        block: images of either side that are compared at once, at most.
        device: where to compute; without it where the training features are.
        also: other k whose accuracies are reported too.
        progress: called with the number of test images that are done and of all, after each block.

    Raises:
        ValueError: shapes, labels or settings do not fit together, or a feature is not finite.
    """
    classes = count_classes(train_features, train_labels, test_features, test_labels, num_classes)
    dtype = torch.promote_types(torch.promote_types(train_features.dtype, test_features.dtype), torch.float32)
    if (least := min(k, block, *also)) < 1:
        raise ValueError(f"k, also or block holds {least}; each must be at least 1.")
    if not temperature > (lowest := 1 / math.log(torch.finfo(dtype).max)):
        raise ValueError(f"temperature is {temperature}; at {lowest:.4f} and below, exp(1 / temperature) overflows.")
    device = torch.device(device or train_features.device)

    ks = sorted({k, *also})
    votes = torch.empty(len(test_features), classes, dtype=dtype)
    ranks: dict[int, list[Tensor]] = {n: [] for n in ks}
    with torch.autocast(device.type, enabled=False):
        for start in range(0, len(test_features), block):
            rows = slice(start, start + block)
            queries, own = test_features[rows].to(device, dtype), test_labels[rows].to(device, torch.int64)
            for n, tally in _votes(queries, train_features, train_labels, ks, temperature, classes, block):
                ranks[n].append(rank(tally, own).cpu())
                if n == k:
                    votes[rows] = tally.cpu()
            if progress is not None:
                progress(min(start + block, len(test_features)), len(test_features))
    accuracies = {n: (share_below(torch.cat(r), 1), share_below(torch.cat(r), min(5, n))) for n, r in ranks.items()}
    return KNN(k, temperature, votes, votes.argmax(1), *accuracies[k], accuracies)


def _votes(
    queries: Tensor, features: Tensor, labels: Tensor, ks: Sequence[int], temperature: float, classes: int, block: int
) -> Iterator[tuple[int, Tensor]]:
    """Each k of `ks`, which rise, and what the k nearest neighbours vote: (B, classes), to be used before the next."""
    similarity, neighbour = nearest(queries, features, ks[-1] + 1, block)  # (B, k + 1)
    weight = (similarity / temperature).exp()
    voted = labels.to(queries.device, torch.int64)[neighbour]
    begin, end = tied(similarity)
    last = begin[:, -1:]  # (B, 1): the last tie may have more members than were asked for
    unseen = weight.new_zeros(len(queries), classes)
    torn = (last[:, 0] < ks[-1]).nonzero()[:, 0]
    if similarity.shape[1] < len(features) and len(torn):
        lowest_tied = similarity.gather(1, last)[torn, 0] - TIE
        every = near(queries[torn], features, lowest_tied, labels, classes, block)
        seen = torch.zeros_like(every).scatter_add_(1, voted[torn], torch.ones_like(weight[torn]))
        unseen[torn] = (every - seen).clamp(min=0)
        end = torch.where(begin == last, end + unseen.sum(1, keepdim=True).long(), end)
    tally, before = weight.new_zeros(len(queries), classes), torch.zeros_like(weight)
    for n in ks:
        share = ((n - begin).to(weight.dtype) / (end - begin)).clamp(0, 1)  # of each neighbour's vote
        tally.scatter_add_(1, voted, weight * (share - before))
        tally += unseen * (weight.gather(1, last) * (share - before)[:, -1:])
        yield n, tally
        before = share


def rank(scores: Tensor, labels: Tensor) -> Tensor:
    """How many classes stand before each row's own: (M, classes) and (M,) -> (M,) int64, 0 where the label wins.

    Of equal scores the lower class stands first. A score that is not a number stands before every label.
    """
    own = scores.gather(1, labels[:, None])
    before = ~(scores <= own)
    before |= (scores == own) & (torch.arange(scores.shape[1], device=scores.device) < labels[:, None])
    return before.sum(1)


def share_below(ranks: Tensor, n: int) -> float:
    """The share of ranks below n: the top-n accuracy, in [0, 1]."""
    return (ranks < n).double().mean().item()

"""Weighted k-nearest-neighbour classification of frozen features.

Wu et al., CVPR 2018, https://arxiv.org/abs/1805.01978, with the constants of Caron et al. (DINO), ICCV 2021,
https://arxiv.org/abs/2104.14294; results equal those of the official `eval_knn.py`.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .features import count_classes
from .neighbours import BLOCK, TIE, near, nearest, tied

MOST_VOTES = 2**25
"""Neighbours times classes of the queries that are counted at once, if images may have several classes."""


@dataclass(frozen=True)
class KNN:
    """Votes and accuracies of the nearest neighbours. All tensors are on the CPU."""

    k: int
    temperature: float
    votes: Tensor
    """(M, classes): the sum of exp(cosine / temperature) over those of the k nearest neighbours that are of a class."""
    predictions: Tensor
    """(M,) int64, the class with the most votes; the lowest of tied ones."""
    top1: float
    """Fraction of the test images whose own class has the most votes, in [0, 1]."""
    top5: float
    """The same for the min(5, k) classes with the most votes, as in the official code."""
    accuracies: dict[int, tuple[float, float]]
    """(top1, top5) for `k` and for each k in `also`, in rising order."""


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
    """The k training images of highest cosine similarity vote for their class, with weight exp(cosine / temperature).

    One search serves `k` and every k in `also`. It runs in blocks, so that besides features and votes its memory is
    constant (see `nearest`). If only some of tied training images (see `tied`) are among the k nearest, all of them get
    the same fraction of a vote, so that their order does not matter.

    Args:
        train_features: (N, D), not normalised; L2-normalised here, in float32, or in float64 if either side is.
        train_labels: (N,) integers 0 .. classes - 1.
        test_features: (M, D), not normalised.
        test_labels: (M,) integers 0 .. classes - 1.
        k: number of neighbours that vote; all training images if there are fewer.
        temperature: divides the similarities.
        num_classes: without it the largest label plus 1.
        block: maximum number of images of either side that are compared at once.
        device: to compute on; without it that of the training features.
        also: other values of k whose accuracies are reported, too.
        progress: called with the number of test images done and the total, after each block.

    Raises:
        ValueError: shapes, labels or settings do not match, or a feature is not finite.
    """
    classes = count_classes(train_features, train_labels, test_features, test_labels, num_classes)
    dtype = torch.promote_types(torch.promote_types(train_features.dtype, test_features.dtype), torch.float32)
    if (smallest := min(k, block, *also)) < 1:
        raise ValueError(f"k, also or block holds {smallest}; each must be at least 1.")
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
    """Yields each k of the rising `ks` with the votes (B, classes) of the k nearest, valid until the next iteration."""
    similarity, neighbour = nearest(queries, features, ks[-1] + 1, block)  # (B, k + 1)
    weight = (similarity / temperature).exp()
    voted = labels.to(queries.device, torch.int64)[neighbour]
    begin, end = tied(similarity)
    last = begin[:, -1:]  # (B, 1): the last tie may have more members than the k + 1 nearest
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
        fraction = ((n - begin).to(weight.dtype) / (end - begin)).clamp(0, 1)  # (B, k + 1), of each neighbour's vote
        tally.scatter_add_(1, voted, weight * (fraction - before))
        tally += unseen * (weight.gather(1, last) * (fraction - before)[:, -1:])
        yield n, tally
        before = fraction


@torch.no_grad()
def knn_sets(
    train_features: Tensor,
    train_sets: Tensor,
    test_features: Tensor,
    k: int = 20,
    temperature: float = 0.07,
    block: int = BLOCK,
    device: torch.device | str | None = None,
    *,
    also: tuple[int, ...] = (10, 100, 200),
    progress: Callable[[int, int], None] | None = None,
) -> dict[int, Tensor]:
    """`knn` for images that may have several classes: the score of a class is its share of the votes.

    Neighbours, weights and ties are those of `knn`. An image without a class votes, too: against every class.

    Args:
        train_features: (N, D), not normalised.
        train_sets: (N, classes) bool, whether an image has a class.
        test_features: (M, D).
        k, temperature, block, device, also, progress: as for `knn`.

    Returns:
        For `k` and each of `also`, in rising order: (M, classes) in [0, 1], the weights of those of the k nearest
        training images that have a class, divided by the weights of all k.

    Raises:
        ValueError: shapes do not match, or a feature is not finite.
    """
    if train_features.ndim != 2 or train_sets.ndim != 2 or len(train_sets) != len(train_features):
        raise ValueError(
            f"The training features are {tuple(train_features.shape)} and their labels {tuple(train_sets.shape)}; "
            "expected (N, D) and (N, classes)."
        )
    dtype = torch.promote_types(torch.promote_types(train_features.dtype, test_features.dtype), torch.float32)
    device = torch.device(device or train_features.device)
    every = torch.cat([train_sets.cpu().bool(), torch.ones(len(train_sets), 1, dtype=torch.bool)], 1)  # last: all votes
    ks = sorted({k, *also})
    found = {n: torch.empty(len(test_features), train_sets.shape[1], dtype=dtype) for n in ks}
    step = max(1, min(block, MOST_VOTES // ((ks[-1] + 1) * every.shape[1])))
    with torch.autocast(device.type, enabled=False):
        for start in range(0, len(test_features), step):
            rows = slice(start, start + step)
            queries = test_features[rows].to(device, dtype)
            for n, tally in _set_votes(queries, train_features, every, ks, temperature, block):
                found[n][rows] = (tally[:, :-1] / tally[:, -1:]).clamp(0, 1).cpu()
            if progress is not None:
                progress(min(start + step, len(test_features)), len(test_features))
    return found


def _set_votes(
    queries: Tensor, features: Tensor, sets: Tensor, ks: Sequence[int], temperature: float, block: int
) -> Iterator[tuple[int, Tensor]]:
    """As `_votes`, for labels (N, classes) bool whose last column is True."""
    similarity, neighbour = nearest(queries, features, ks[-1] + 1, block)  # (B, k + 1)
    weight = (similarity / temperature).exp()
    voted = sets[neighbour.cpu()].to(queries)  # (B, k + 1, classes)
    begin, end = tied(similarity)
    last = begin[:, -1:]
    unseen = weight.new_zeros(len(queries), sets.shape[1])
    torn = (last[:, 0] < ks[-1]).nonzero()[:, 0]
    if similarity.shape[1] < len(features) and len(torn):
        lowest_tied = similarity.gather(1, last)[torn, 0] - TIE
        every = near(queries[torn], features, lowest_tied, sets, sets.shape[1], block)
        unseen[torn] = (every - voted[torn].sum(1)).clamp(min=0)
        end = torch.where(begin == last, end + unseen[:, -1:].long(), end)
    for n in ks:
        fraction = ((n - begin).to(weight.dtype) / (end - begin)).clamp(0, 1)
        tally = torch.einsum("bk,bkc->bc", weight * fraction, voted)
        yield n, tally + unseen * (weight.gather(1, last) * fraction[:, -1:])


def rank(scores: Tensor, labels: Tensor) -> Tensor:
    """The rank of each row's own class: scores (M, classes) and labels (M,) -> (M,) int64, 0 for the highest score.

    Of equal scores the lower class ranks first. NaN ranks before every label.
    """
    own = scores.gather(1, labels[:, None])
    before = ~(scores <= own)
    before |= (scores == own) & (torch.arange(scores.shape[1], device=scores.device) < labels[:, None])
    return before.sum(1)


def share_below(ranks: Tensor, n: int) -> float:
    """The fraction of ranks below n: the top-n accuracy, in [0, 1]."""
    return (ranks < n).double().mean().item()

"""Metrics of a classifier's probabilities: accuracy, also per class, confusion matrix, calibration, intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..random import key_of
from .knn import rank, share_below

BINS = 15
"""Number of confidence bins, of equal width; Guo et al., ICML 2017, section 5, https://arxiv.org/abs/1706.04599"""
RESAMPLES = 10_000
FEW_HITS = 10
"""Number of hits or mistakes below which intervals are exact."""


@dataclass(frozen=True)
class Metrics:
    """Classification metrics."""

    top1: float
    """Accuracy, in [0, 1]."""
    top5: float
    per_class: list[float | None]
    """Top-1 accuracy of each class; None for a class without images."""
    confusion: list[list[int]]
    """[class, predicted, count] for counts above 0, sorted."""
    ece: float
    """Expected calibration error: the weighted mean of |confidence - accuracy| over the bins, in [0, 1]."""
    bins: list[list[float]]
    """[mean confidence, accuracy, count] of each bin with images, from low to high confidence."""


def classification_metrics(shares: Tensor, labels: Tensor) -> Metrics:
    """Metrics of a classifier, from probabilities (M, C), rows sum to 1, and labels (M,).

    Of equal probabilities the lower class is the prediction. Rows that are not finite count as wrong with confidence 1,
    and are left out of the confusion matrix.

    Raises:
        ValueError: shapes do not match, or a label is not one of the classes.
    """
    if shares.ndim != 2 or labels.shape != shares.shape[:1] or not len(shares):
        raise ValueError(
            f"Probabilities are {tuple(shares.shape)} and labels {tuple(labels.shape)}; expected (M, C), (M,)."
        )
    classes = shares.shape[1]
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise ValueError(f"Labels go from {int(labels.min())} to {int(labels.max())}; expected 0 to {classes - 1}.")
    ranks = rank(shares, labels)
    right = ranks == 0
    finite = shares.isfinite().all(1)
    best = shares.nan_to_num(-1.0).max(1)
    predicted = torch.where(right, labels, best.indices)
    counts = labels.bincount(minlength=classes).tolist()
    hits = labels[right].bincount(minlength=classes).tolist()
    pairs, times = torch.unique((labels * classes + predicted)[finite], return_counts=True)
    confidence = torch.where(finite, best.values, 1.0).double().clamp(0, 1)
    bin_of = (confidence * BINS).ceil().long().clamp(1, BINS) - 1  # bins are open below, closed above
    bins = []
    for n in sorted(set(bin_of.tolist())):
        own = bin_of == n
        bins.append([float(confidence[own].mean()), float(right[own].double().mean()), float(own.sum())])
    return Metrics(
        top1=share_below(ranks, 1),
        top5=share_below(ranks, 5),
        per_class=[hit / count if count else None for hit, count in zip(hits, counts)],
        confusion=[[p // classes, p % classes, n] for p, n in zip(pairs.tolist(), times.tolist())],
        ece=sum(abs(c - a) * n for c, a, n in bins) / len(labels),
        bins=bins,
    )


def interval(correct: float, images: int) -> tuple[float, float]:
    """The 95 % confidence interval of an accuracy `correct`, in [0, 1], over a number of test images: (low, high).

    Wilson's (1927); with fewer than 10 hits or mistakes that of Clopper and Pearson (1934), which is conservative.
    """
    from scipy.stats import binomtest

    hits = round(correct * images)
    method = "exact" if min(hits, images - hits) < FEW_HITS else "wilson"
    found = binomtest(hits, images).proportion_ci(0.95, method)
    return float(found.low), float(found.high)


def _exact(hits: float, mistakes: float, error: float) -> tuple[float, float]:
    """The Clopper-Pearson interval of a proportion, with confidence at least 1 - `error`: (low, high)."""
    from scipy.stats import beta

    low = float(beta.ppf(error / 2, hits, mistakes + 1)) if hits > 0.5 else 0.0
    high = float(beta.ppf(1 - error / 2, hits + 1, mistakes)) if mistakes > 0.5 else 1.0
    return low, high


def interval_of_change(before: Tensor, after: Tensor, error: float = 0.05) -> tuple[float, float]:
    """The confidence interval of the change of an accuracy on the same test images, in [-1, 1]: (low, high).

    Only images whose correctness changed count. The fraction of them that became correct has an exact interval, as in
    McNemar's test, which is narrower than the interval of a difference between accuracies on different images.

    Args:
        before, after: (M,) bool, whether each image is classified correctly.
        error: 1 minus the confidence level.
    """
    won, lost = int((after & ~before).sum()), int((before & ~after).sum())
    if not won + lost:
        return 0.0, 0.0
    low, high = ((won + lost) / len(before) * (2 * fraction - 1) for fraction in _exact(won, lost, error))
    return low, high


def interval_of_draws(accuracies: Sequence[float], images: int, seed: int) -> tuple[float, float]:
    """The 95 % confidence interval of the mean accuracy, in [0, 1], over draws or seeds: (low, high).

    It combines the error of the mean over trainings, by Student's t, with the sampling error of the test images. For a
    single training, or if all agree, it is that of the test images.
    """
    mean, n = float(np.mean(accuracies)), len(accuracies)
    if min(accuracies) == max(accuracies):
        return interval(accuracies[0], images)
    error = float(np.std(accuracies, ddof=1)) / n**0.5
    random = np.random.default_rng(key_of(seed, "draws") % 2**64)
    means = mean + error * random.standard_t(n - 1, RESAMPLES)
    noise = random.binomial(images, mean, RESAMPLES) / images - mean
    low, high = np.clip(np.quantile(means + noise, [0.025, 0.975]), 0, 1).tolist()
    return low, high


def pooled(found: Sequence[Metrics]) -> Metrics:
    """Metrics pooled over several trainings on the same test images: means of rates, sums of counts."""
    if len(found) == 1:
        return found[0]
    per_class: list[float | None] = []
    for values in zip(*(m.per_class for m in found)):
        known = [v for v in values if v is not None]
        per_class.append(float(np.mean(known)) if known else None)
    counts: dict[tuple[int, int], int] = {}
    for true, predicted, count in (row for m in found for row in m.confusion):
        counts[true, predicted] = counts.get((true, predicted), 0) + count
    rows = [row for m in found for row in m.bins]
    bin_of = [min(BINS, max(1, int(np.ceil(row[0] * BINS - 1e-9)))) for row in rows]
    bins = []
    for n in sorted(set(bin_of)):
        own = np.array([row for row, its_bin in zip(rows, bin_of) if its_bin == n])
        confidence, accuracy = np.average(own[:, :2], axis=0, weights=own[:, 2]).tolist()
        bins.append([confidence, accuracy, float(own[:, 2].sum())])
    return Metrics(
        top1=float(np.mean([m.top1 for m in found])),
        top5=float(np.mean([m.top5 for m in found])),
        per_class=per_class,
        confusion=[[*pair, counts[pair]] for pair in sorted(counts)],
        ece=float(np.mean([m.ece for m in found])),
        bins=bins,
    )

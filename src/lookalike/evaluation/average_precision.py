"""Metrics for images that may have several classes: exact average precision, micro F1, and bootstrap intervals."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from torch import Tensor

from ..random import key_of

THRESHOLD: Final = 0.5
"""Score from which on an image is predicted to have a class, for F1."""
MOST_RESAMPLES: Final = 1000
LEAST_RESAMPLES: Final = 100
_WORK: Final = 500_000_000
"""Images times classes times resamples up to which `MOST_RESAMPLES` are drawn."""
_AT_ONCE: Final = 2**22
"""Images times resamples that are processed together."""


@dataclass(frozen=True)
class SetMetrics:
    """Metrics of scores for images that may have several classes."""

    map: float
    """Mean of the average precision over the classes with test images (macro), in [0, 1]."""
    f1: float
    """F1 over all pairs of an image and a class (micro), in [0, 1]: 2 TP / (2 TP + FP + FN)."""
    per_class: list[float | None]
    """Average precision of each class; None for a class without test images."""


def set_metrics(scores: Tensor, sets: Tensor) -> SetMetrics:
    """Metrics of scores (M, C) in [0, 1] for labels (M, C) bool.

    Average precision is exact, the sum over all thresholds of precision times the increase of recall, as in
    scikit-learn's `average_precision_score`; images of equal score are one threshold. A score of `THRESHOLD` or more
    predicts the class. Scores that are not numbers rank last.

    Raises:
        ValueError: shapes do not match, or no image has a class.
    """
    ranked = _Ranked(scores, sets)
    once = np.ones((1, len(scores)))
    each = ranked.precisions(once)[:, 0]
    mean, f1 = ranked.summaries(once)
    return SetMetrics(float(mean[0]), float(f1[0]), [None if np.isnan(ap) else float(ap) for ap in each])


def resamples_of(images: int, classes: int, trainings: int = 1) -> int:
    """Number of resamples of the test images, so that the intervals take seconds."""
    return max(LEAST_RESAMPLES, min(MOST_RESAMPLES, _WORK // max(1, images * classes * trainings)))


def bootstrap(scores: Sequence[Tensor], sets: Tensor, seed: int) -> dict[str, tuple[float, float]]:
    """The 95 % intervals of `map` and `f1` over the test images: percentiles of resamples with replacement.

    Of several trainings, each resample takes the mean over them.

    Args:
        scores: (M, C) of each training.
        sets: (M, C) bool.
        seed: of the resamples.
    """
    images, classes = sets.shape
    ranked = [_Ranked(each, sets) for each in scores]
    random = np.random.default_rng(key_of(seed, "bootstrap") % 2**64)
    left, step = resamples_of(images, classes, len(scores)), max(1, _AT_ONCE // images)
    found: list[np.ndarray] = []
    while left:
        count = min(left, step)
        weights = random.multinomial(images, np.full(images, 1 / images), count).astype(np.float64)  # (R, M)
        found.append(np.mean([each.summaries(weights) for each in ranked], 0))  # (2, R)
        left -= count
    low, high = np.nanquantile(np.concatenate(found, 1), [0.025, 0.975], axis=1)
    return {name: (float(low[n]), float(high[n])) for n, name in enumerate(("map", "f1"))}


class _Ranked:
    """The images in the order of their scores, for each class."""

    def __init__(self, scores: Tensor, sets: Tensor) -> None:
        if scores.ndim != 2 or scores.shape != sets.shape or not len(scores):
            raise ValueError(f"Scores are {tuple(scores.shape)} and labels {tuple(sets.shape)}; expected (M, C) twice.")
        values, labels = scores.double().nan_to_num(-1.0).cpu().numpy(), sets.bool().cpu().numpy()
        if not labels.any():
            raise ValueError(
                "No test image has a class, so no average precision is defined. Give test images with some."
            )
        self.orders = np.argsort(-values, axis=0, kind="stable").T  # (C, M)
        self.hits = np.take_along_axis(labels.T, self.orders, 1)
        ordered = np.take_along_axis(values.T, self.orders, 1)
        self.lasts = [np.append(np.flatnonzero(np.diff(row)), len(row) - 1) for row in ordered]  # of equal scores
        predicted = values >= THRESHOLD
        pairs = (predicted & labels, predicted & ~labels, ~predicted & labels)
        self.counts = np.stack([each.sum(1) for each in pairs]).astype(np.float64)  # (3, M): TP, FP, FN

    def precisions(self, weights: np.ndarray) -> np.ndarray:
        """Average precision of each class (C, R), for weights of the images (R, M); NaN without images of a class."""
        found = np.full((len(self.orders), len(weights)), np.nan)
        for n, (order, hits, last) in enumerate(zip(self.orders, self.hits, self.lasts)):
            if not hits.any():
                continue
            own = weights[:, order]
            above = own.cumsum(1)[:, last]
            own *= hits
            true = own.cumsum(1)[:, last]
            gained = np.diff(true, axis=1, prepend=0)
            total = (gained * true / np.maximum(above, 1)).sum(1)  # above is a count, or true is 0 as well
            with np.errstate(invalid="ignore"):
                found[n] = total / true[:, -1]
        return found

    def summaries(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean average precision and micro F1, both (R,)."""
        each = self.precisions(weights)
        known = ~np.isnan(each)
        with np.errstate(invalid="ignore"):
            mean = np.where(known, each, 0).sum(0) / known.sum(0)
        true, false, missed = self.counts @ weights.T
        return mean, 2 * true / np.maximum(2 * true + false + missed, 1)

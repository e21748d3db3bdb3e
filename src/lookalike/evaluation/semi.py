"""Classification of frozen features from few labels, class-balanced draws of them, as in SimCLR's 1 % and 10 % tables.

Chen et al., ICML 2020, section 6 and table 7, https://arxiv.org/abs/2002.05709, take 1 % of each class's labels and
fine-tune; here a logistic regression is fitted to the frozen features, which needs no tuning. Penalties from 0.1 to
1000 were tried on the demo's digits: the accuracy changes by half a point.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..random import permutation
from .features import count_classes

INVERSE_PENALTY = 10.0
"""scikit-learn's C, on features of unit length."""


@dataclass(frozen=True)
class FewLabels:
    """Accuracies from several draws of the labelled images."""

    images: int
    """Labelled images per draw."""
    accuracies: tuple[float, ...]
    """Top-1 on all test images, one per draw, in [0, 1]."""

    @property
    def mean(self) -> float:
        return float(np.mean(self.accuracies))

    @property
    def deviation(self) -> float:
        """Standard deviation over the draws."""
        return float(np.std(self.accuracies, ddof=1)) if len(self.accuracies) > 1 else math.nan


def few_labels(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    *,
    share: float,
    draws: int = 10,
    seed: int = 0,
) -> FewLabels:
    """Fits a logistic regression (L-BFGS) to a share of each class's images, several times.

    Args:
        train_features: (N, D), raw: they are L2-normalised here.
        train_labels: (N,) integers 0 .. classes - 1.
        test_features: (M, D), raw.
        test_labels: (M,) integers 0 .. classes - 1.
        share: of the images of each class that keep their labels, in (0, 1]; at least one per class does.
        draws: how often they are drawn.
        seed: decides which ones.

    Raises:
        ValueError: shapes or labels do not fit together, or the share is none.
    """
    from sklearn.linear_model import LogisticRegression

    count_classes(train_features, train_labels, test_features, test_labels, None)
    if not 0 < share <= 1 or draws < 1:
        raise ValueError(f"share is {share} and draws {draws}; give a share above 0, up to 1, and at least 1 draw.")
    x, test = (F.normalize(f.double(), dim=1).numpy() for f in (train_features, test_features))
    y, truth = train_labels.numpy(), test_labels.numpy()
    accuracies = []
    for draw in range(draws):
        rows = drawn(train_labels, share, seed, draw).numpy()
        model = LogisticRegression(C=INVERSE_PENALTY, max_iter=1000).fit(x[rows], y[rows])
        accuracies.append(float((model.predict(test) == truth).mean()))
    return FewLabels(len(rows), tuple(accuracies))


def drawn(labels: Tensor, share: float, seed: int, draw: int) -> Tensor:
    """The places of a share of each class's images, one at least: labels (N,) -> (L,) int64, class after class."""
    kept = []
    for number, name in enumerate(sorted(set(labels.tolist()))):
        group = (labels == name).nonzero()[:, 0]
        kept.append(group[permutation(len(group), seed, "few", draw, number)[: max(1, round(share * len(group)))]])
    return torch.cat(kept)

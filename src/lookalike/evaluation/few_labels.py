"""Classification of frozen features with few labels, drawn class-balanced, as in SimCLR's 1 % and 10 % tables.

Chen et al., ICML 2020, section 6 and table 7, https://arxiv.org/abs/2002.05709, fine-tune on 1 % of each class's
labels. Here a logistic regression is fitted to the frozen features, which needs no tuning: on the demo's digits,
penalties from 0.1 to 1000 change the accuracy by 0.5 points.
"""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..places import no_list
from ..printing import composed, counted, shown
from ..random import permutation
from .features import check_finite, count_classes
from .logistic import regress
from .metrics import Metrics, classification_metrics

INVERSE_PENALTY = 10.0
"""scikit-learn's C, on features of unit length."""
DRAWS = 10
"""Number of draws of the labelled images."""


@dataclass(frozen=True)
class FewLabels:
    """Accuracies from several draws of the labelled images."""

    images: int
    """Labelled images per draw."""
    accuracies: tuple[float, ...]
    """Top-1 on all test images, one per draw, in [0, 1]."""
    measured: tuple[Metrics, ...] = field(default=(), compare=False, repr=False)
    """All metrics, one per draw."""

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
    share: float | None = None,
    rows: Tensor | None = None,
    num_classes: int | None = None,
    draws: int = DRAWS,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> FewLabels:
    """Fits a logistic regression (L-BFGS) to a fraction of each class's images, several times, or to given rows, once.

    Args:
        train_features: (N, D), not normalised; L2-normalised here.
        train_labels: (N,) integers 0 .. classes - 1.
        test_features: (M, D), not normalised.
        test_labels: (M,) integers 0 .. classes - 1.
        share: fraction of each class's images that keep their labels, in (0, 1]; at least one image per class.
        rows: indices (L,) of the images that keep their labels, instead of `share`.
        num_classes: without it the largest label plus 1.
        draws: number of draws; given rows are used once.
        seed: of the draws.
        progress: called with the number of fitted regressions and the total.

    Raises:
        ValueError: shapes or labels do not match, `share` is out of range, or not exactly one of share and rows given.
    """
    classes = count_classes(train_features, train_labels, test_features, test_labels, num_classes)
    if (share is None) == (rows is None):
        raise ValueError("Give either share, the fraction of the labels, or rows, the images that keep theirs.")
    if share is not None and (not 0 < share <= 1 or draws < 1):
        raise ValueError(f"share is {share} and draws {draws}; give a share above 0, up to 1, and at least 1 draw.")
    check_finite(train_features, test_features)
    test = F.normalize(test_features.double(), dim=1).numpy()
    found, few = [], torch.empty(0)
    for draw in range(1 if rows is not None else draws):
        few = rows if rows is not None else draw_rows(train_labels, share or 0, seed, draw)
        x = F.normalize(train_features[few].double(), dim=1).numpy()
        p = regress(x, train_labels[few].numpy(), test, classes, INVERSE_PENALTY)  # (M, classes)
        found.append(classification_metrics(torch.from_numpy(p), test_labels))
        if progress is not None:
            progress(draw + 1, 1 if rows is not None else draws)
    return FewLabels(len(few), tuple(m.top1 for m in found), tuple(found))


def draw_rows(labels: Tensor, share: float, seed: int, draw: int) -> Tensor:
    """Indices of a random fraction of each class's images, at least one: labels (N,) -> (L,) int64, sorted by class."""
    chosen = []
    for number, name in enumerate(sorted(set(labels.tolist()))):
        group = (labels == name).nonzero()[:, 0]
        chosen.append(group[permutation(len(group), seed, "few", draw, number)[: max(1, round(share * len(group)))]])
    return torch.cat(chosen)


def listed_rows(path: str | os.PathLike[str], names: Sequence[str]) -> Tensor:
    """Indices of the images that a text file lists, one per line, like the published lists of ImageNet.

    A line is a name as in `names`, its last part (`n01440764_10026.JPEG`), or a longer path that ends in it.

    Raises:
        ValueError, FileNotFoundError: a line names no image, or several; the file does not exist or is empty.
    """
    path = Path(path)
    if not path.is_file():
        raise no_list(path)
    names = [*map(composed, names)]
    by_last_part: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        by_last_part.setdefault(name.rpartition("/")[2], []).append(i)
    lines = [composed(line.strip()) for line in path.read_text(encoding="utf-8").splitlines()]
    found = []
    for line in filter(None, lines):
        alike = by_last_part.get(line.rpartition("/")[2], [])
        # either of the two may leave out leading folders
        here = [i for i in alike if names[i] == line]
        here = here or [i for i in alike if f"/{names[i]}".endswith(f"/{line}") or f"/{line}".endswith(f"/{names[i]}")]
        if len(here) != 1:
            what = counted(len(here), "image") if here else "no image"
            raise ValueError(
                f"{path}: {shown(line)} names {what} of TRAIN, such as {shown(names[0])}. It must name one."
            )
        found.append(here[0])
    if not found:
        raise ValueError(f"{path} names no image. Give the name of a labelled image per line.")
    return torch.tensor(sorted(set(found)))

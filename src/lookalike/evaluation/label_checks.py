"""Signs that labels are not those of the images: classes that are missing, names in another order, shuffled rows."""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from ..printing import counted, shown
from ..random import permutation
from .features import Features
from .knn import knn
from .metrics import classification_metrics
from .neighbours import others

QUERIES, BANK = 2000, 50_000
"""Images of a side whose labels are looked at, and those among which their neighbours are, at most."""
CHECKED_NEIGHBOURS = 10
LEAST = 10
"""Images per class, on average, below which a side's own neighbours say nothing."""
MOST_CLASSES = 2000
"""More are not matched with each other, which takes a square of numbers."""


def missing_classes(classes: Sequence[str], train_labels: Tensor, test_labels: Tensor) -> list[str]:
    """A line for each side that lacks classes of the other: labels (N,) and (M,) are places in `classes`."""
    lines = []
    for labels, side in ((train_labels, "TRAIN"), (test_labels, "TEST")):
        counts = labels.bincount(minlength=len(classes))
        if absent := [name for name, count in zip(classes, counts.tolist()) if not count]:
            few = ", ".join(absent[:5]) + (", ..." if len(absent) > 5 else "")
            lines.append(f"{side} has no image of {len(absent)} of the {counted(len(classes), 'class')}: {few}.")
    return lines


def label_warning(train: Features, test: Features) -> str:
    """Says what seems to be wrong with the labels of one of the sides, by the neighbours of some images; "" if nothing.

    Accuracies are means over the classes, so that large ones count no more than small ones.
    """
    if train.labels is None or test.labels is None:
        return ""
    known = torch.isin(test.labels, train.labels).nonzero()[:, 0]  # what TRAIN does not have it cannot tell
    if not len(known) or not all(bool(side.features.isfinite().all()) for side in (train, test)):
        return ""
    test = dataclasses.replace(test, features=test.features[known], labels=test.labels[known], index=test.index[known])
    assert test.labels is not None
    bank, queries = _some(train, BANK), _some(test, QUERIES)
    assert bank.labels is not None
    assert queries.labels is not None
    classes = int(max(train.labels.max(), test.labels.max())) + 1
    votes = knn(
        bank.features, bank.labels, queries.features, queries.labels, CHECKED_NEIGHBOURS, num_classes=classes, also=()
    )
    found = classification_metrics(votes.votes / votes.votes.sum(1, keepdim=True), queries.labels)
    names = list(test.classes or map(str, range(classes)))
    return swapped(found.confusion, names) or _shuffled(train, test, _mean(found.per_class))


def swapped(confusion: Sequence[Sequence[int]], names: Sequence[str]) -> str:
    """Says which classes are called by each other's names, by a classifier's [class, predicted, count]; "" if none.

    Names are exchanged for the best fit (Kuhn, 1955), in rings. A ring counts where most images of each of its classes
    are predicted as the next one, three times as many as are predicted as their own, and 10 images at least.
    """
    from scipy.optimize import linear_sum_assignment

    if len(names) > MOST_CLASSES:
        return ""
    counts = torch.zeros(len(names), len(names), dtype=torch.float64)
    for true, predicted, count in confusion:
        counts[true, predicted] = count
    rows, columns = linear_sum_assignment(-counts.numpy())
    following = dict(zip(rows.tolist(), columns.tolist()))
    total = counts.sum(1)
    pairs: list[tuple[int, int]] = []
    left = set(following)
    while left:
        ring = [left.pop()]
        while (after := following[ring[-1]]) != ring[0]:
            ring.append(after)
            left.remove(after)
        steps = [(a, following[a]) for a in ring]
        moved = all(counts[a, b] > max(0.5 * total[a], 3 * counts[a, a]) for a, b in steps)
        if len(ring) > 1 and moved and sum(float(counts[a, b]) for a, b in steps) >= 10:
            pairs += steps
    if not pairs:
        return ""
    said = ", ".join(f"{shown(names[a])} look like {shown(names[b])}" for a, b in sorted(pairs)[:5])
    more = ", ..." if len(pairs) > 5 else ""
    return (
        f"The labels of TRAIN and TEST seem to be in different orders: most test images called {said}{more}. Check "
        "the order of the classes."
    )


def _shuffled(train: Features, test: Features, across: float) -> str:
    """Says which side's labels do not go with its images, where the other's do; "" if none.

    `across` is the accuracy of TRAIN's neighbours on TEST.
    """
    own = [_own_neighbours(side) for side in (train, test)]
    if None in own:
        return ""
    of_train, of_test = (x or 0.0 for x in own)
    assert train.labels is not None
    chance = 1 / len(set(train.labels.tolist()))
    best, least = max(of_train, of_test), min(of_train, of_test)

    def poor(accuracy: float) -> bool:
        return accuracy <= chance + 0.25 * (best - chance)

    if best - chance < 0.2 or not poor(across):
        return ""
    if not poor(least):
        return (
            f"TRAIN and TEST do not fit together: neighbours within TRAIN tell {of_train:.0%} of its labels and within "
            f"TEST {of_test:.0%}, but TRAIN's tell {across:.0%} of TEST's. Check that both are images of one kind, and "
            "the order of their classes."
        )
    good, bad = ("TRAIN", "TEST") if of_train >= of_test else ("TEST", "TRAIN")
    return (
        f"The labels of {bad} do not go with its images: neighbours within {good} tell {best:.0%} of its labels, "
        f"within {bad} {least:.0%}, where {chance:.0%} is chance. Check the order of labels and images."
    )


def _own_neighbours(side: Features) -> float | None:
    """How often the nearest images of the same side, itself left out, name an image's class; None for few images."""
    assert side.labels is not None
    bank = _some(side, BANK)
    assert bank.labels is not None
    present = set(bank.labels.tolist())
    if len(present) < 2 or len(bank.labels) < LEAST * len(present):
        return None
    queries = torch.arange(min(QUERIES, len(bank.labels)))
    cosines, places = others(bank.features, queries, CHECKED_NEIGHBOURS)
    votes = torch.zeros(len(queries), int(bank.labels.max()) + 1)
    votes.scatter_add_(1, bank.labels[places], (cosines.float() / 0.07).exp())
    return _mean(classification_metrics(votes / votes.sum(1, keepdim=True), bank.labels[queries]).per_class)


def _some(side: Features, most: int) -> Features:
    """Some of the images, by chance, and always the same."""
    assert side.labels is not None
    rows = permutation(len(side.features), 0, "doubts")[:most]
    return Features(side.features[rows], side.labels[rows], [], side.index[rows], [], side.classes)


def _mean(per_class: Sequence[float | None]) -> float:
    there = [x for x in per_class if x is not None]
    return sum(there) / len(there)

"""Checks for wrong labels: missing classes, class names in another order, shuffled rows."""

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
"""Maximum number of images per side whose labels are checked, and of candidates for their neighbours."""
CHECKED_NEIGHBOURS = 10
LEAST = 10
"""Minimum number of images per class, on average, for a check by neighbours within a side."""
MOST_CLASSES = 2000
"""Maximum number of classes that are matched with each other, which takes a matrix of all pairs."""


def missing_classes(classes: Sequence[str], train_labels: Tensor, test_labels: Tensor) -> list[str]:
    """A line for each side that lacks classes of the other: labels (N,) and (M,) are indices into `classes`."""
    lines = []
    for labels, side in ((train_labels, "TRAIN"), (test_labels, "TEST")):
        counts = labels.bincount(minlength=len(classes))
        if absent := [name for name, count in zip(classes, counts.tolist()) if not count]:
            few = ", ".join(absent[:5]) + (", ..." if len(absent) > 5 else "")
            lines.append(f"{side} has no image of {len(absent)} of the {counted(len(classes), 'class')}: {few}.")
    return lines


def label_warning(train: Features, test: Features) -> str:
    """A warning if the labels of a side seem wrong, judging by the neighbours of a sample of images; otherwise "".

    Accuracies are means over classes, so that large and small classes count equally.
    """
    if train.labels is None or test.labels is None:
        return ""
    known = torch.isin(test.labels, train.labels).nonzero()[:, 0]  # classes without training images are not checked
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
    """A warning with the classes whose names are exchanged, from a confusion matrix [class, predicted, count]; or "".

    The best matching of names (Kuhn, 1955) is a permutation, made up of cycles. A cycle counts if most images of each
    of its classes are predicted as the next class, 3 times as many as are predicted correctly, and at least 10 images.
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
        cycle = [left.pop()]
        while (after := following[cycle[-1]]) != cycle[0]:
            cycle.append(after)
            left.remove(after)
        steps = [(a, following[a]) for a in cycle]
        moved = all(counts[a, b] > max(0.5 * total[a], 3 * counts[a, a]) for a, b in steps)
        if len(cycle) > 1 and moved and sum(float(counts[a, b]) for a, b in steps) >= 10:
            pairs += steps
    if not pairs:
        return ""
    listed = ", ".join(f"{shown(names[a])} look like {shown(names[b])}" for a, b in sorted(pairs)[:5])
    more = ", ..." if len(pairs) > 5 else ""
    return (
        f"The labels of TRAIN and TEST seem to be in different orders: most test images labelled {listed}{more}. Check "
        "the order of the classes."
    )


def _shuffled(train: Features, test: Features, across: float) -> str:
    """A warning if the labels of one side do not match its images, while the other side's do; otherwise "".

    `across` is the accuracy on TEST by neighbours in TRAIN.
    """
    own = [_own_neighbours(side) for side in (train, test)]
    if None in own:
        return ""
    of_train, of_test = (x or 0.0 for x in own)
    assert train.labels is not None
    chance = 1 / len(set(train.labels.tolist()))
    best, worst = max(of_train, of_test), min(of_train, of_test)

    def poor(accuracy: float) -> bool:
        return accuracy <= chance + 0.25 * (best - chance)

    if best - chance < 0.2 or not poor(across):
        return ""
    if not poor(worst):
        return (
            f"TRAIN and TEST do not match: neighbours within TRAIN predict {of_train:.0%} of its labels correctly, "
            f"within TEST {of_test:.0%}, but neighbours in TRAIN only {across:.0%} of TEST's. Check that both have the "
            "same kind of images, and the order of their classes."
        )
    good, bad = ("TRAIN", "TEST") if of_train >= of_test else ("TEST", "TRAIN")
    return (
        f"The labels of {bad} do not match its images: neighbours within {good} predict {best:.0%} of its labels "
        f"correctly, within {bad} {worst:.0%}; chance level is {chance:.0%}. Check the order of labels and images."
    )


def _own_neighbours(side: Features) -> float | None:
    """Accuracy of predicting an image's class from its nearest neighbours on the same side; None for few images."""
    assert side.labels is not None
    bank = _some(side, BANK)
    assert bank.labels is not None
    present = set(bank.labels.tolist())
    if len(present) < 2 or len(bank.labels) < LEAST * len(present):
        return None
    queries = torch.arange(min(QUERIES, len(bank.labels)))
    cosines, neighbours = others(bank.features, queries, CHECKED_NEIGHBOURS)
    votes = torch.zeros(len(queries), int(bank.labels.max()) + 1)
    votes.scatter_add_(1, bank.labels[neighbours], (cosines.float() / 0.07).exp())
    return _mean(classification_metrics(votes / votes.sum(1, keepdim=True), bank.labels[queries]).per_class)


def _some(side: Features, maximum: int) -> Features:
    """A random sample of the images, always the same."""
    assert side.labels is not None
    rows = permutation(len(side.features), 0, "doubts")[:maximum]
    return Features(side.features[rows], side.labels[rows], [], side.index[rows], [], side.classes)


def _mean(per_class: Sequence[float | None]) -> float:
    known = [x for x in per_class if x is not None]
    return sum(known) / len(known)

"""Signs that labels are not those of the images: classes that are missing, names in another order, shuffled rows."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .features import Features
from .neighbours import others

IMAGES = 2000
"""That are looked at, at most, of each side."""
NEIGHBOURS = 10


def missing_classes(train: Features, test: Features) -> list[str]:
    """A line for each side that lacks classes of the other."""
    if train.labels is None or test.labels is None or train.classes is None:
        return []
    names = train.classes
    lines = []
    for side, other in ((train, "TRAIN"), (test, "TEST")):
        assert side.labels is not None
        counts = side.labels.bincount(minlength=len(names))
        if absent := [name for name, count in zip(names, counts.tolist()) if not count]:
            few = ", ".join(absent[:5]) + (", ..." if len(absent) > 5 else "")
            lines.append(f"{other} has no image of {len(absent)} of the {len(names)} classes ({few}).")
    return lines


def swapped(confusion: Sequence[Sequence[int]], names: Sequence[str]) -> str:
    """Says which classes are called by each other's names, by a classifier's [class, predicted, count]; "" if none.

    Names are exchanged for the best fit (Kuhn, 1955). It counts where most images of the exchanged classes, 10 at
    least, are predicted as one other class, and at least three times as many as are predicted as their own.
    """
    from scipy.optimize import linear_sum_assignment

    counts = torch.zeros(len(names), len(names), dtype=torch.float64)
    for true, predicted, count in confusion:
        counts[true, predicted] = count
    rows, columns = (torch.from_numpy(x) for x in linear_sum_assignment(-counts.numpy()))
    total = counts.sum(1)
    moved = [
        (a, b)
        for a, b in zip(rows.tolist(), columns.tolist())
        if a != b and counts[a, b] > max(0.5 * total[a], 3 * counts[a, a])
    ]
    if not moved or sum(float(counts[a, b]) for a, b in moved) < 10:
        return ""
    # a class alone that looks like another is a hard class; names that change places are a mistake
    if {a for a, _ in moved} != {b for _, b in moved}:
        return ""
    pairs = ", ".join(f"{names[a]!r} look like {names[b]!r}" for a, b in moved[:5])
    more = ", ..." if len(moved) > 5 else ""
    return (
        f"The labels of TRAIN and TEST seem to be in different orders: most test images called {pairs}{more}. Check "
        "the order of the classes."
    )


def shuffled(train: Features, test: Features, top1: float) -> str:
    """Says which side's labels do not go with its images, where the other's do; "" if none.

    An image's label is compared with the votes of its own side's nearest images. `top1` is the accuracy on TEST.
    """
    if train.labels is None or test.labels is None:
        return ""
    chance = float(test.labels.bincount().max() / len(test.labels))
    own = [_own_neighbours(side) for side in (train, test)]
    best = max(own)
    if best - chance < 0.2 or top1 > chance + 0.25 * (best - chance):
        return ""
    (high, low), which = (own, "TEST") if own[0] >= own[1] else (own[::-1], "TRAIN")
    other = "TRAIN" if which == "TEST" else "TEST"
    if low > chance + 0.25 * (high - chance):
        return (
            f"TRAIN and TEST do not fit together: neighbours within TRAIN tell {own[0]:.0%} of its labels and within "
            f"TEST {own[1]:.0%}, but from TRAIN only {top1:.0%} of TEST are told. Check that both are images of one "
            "kind, and the order of their classes."
        )
    return (
        f"The labels of {which} do not go with its images: neighbours within {other} tell {high:.0%} of its labels, "
        f"within {which} {low:.0%}, where {chance:.0%} is chance. Check the order of labels and images."
    )


def _own_neighbours(side: Features) -> float:
    """The share of images whose label most of their nearest images of the same side have; itself left out."""
    assert side.labels is not None
    every = -(-len(side.features) // IMAGES)
    x, y = side.features[::every], side.labels[::every]
    k = min(NEIGHBOURS, len(x) - 1)
    if k < 1:
        return 0.0
    _, places = others(x, torch.arange(len(x)), k)
    voted: Tensor = y[places]
    votes = torch.zeros(len(x), int(y.max()) + 1).scatter_add_(1, voted, torch.ones(voted.shape))
    return float((votes.argmax(1) == y).double().mean())

"""A random part of the images for testing, by class, that separates no group."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..random import keys_of

if TYPE_CHECKING:
    from scipy.sparse import csr_array

ATTEMPTS = 8
"""Number of random orders of the groups that are tried; the split nearest to the fraction of each class is taken."""
FEW = 5000
"""Number of groups up to which several orders are tried."""


def held_out(units: Tensor, classes: Tensor, fraction: float, seed: int) -> Tensor:
    """Draws about a fraction of the images of each class; images of one unit are never separated.

    Units are added in random order while that brings the classes nearer to the fraction, by the chi-squared distance
    of their numbers of images. A class with at least two images gets at least one, if its units allow it, and never
    loses all. If every unit is a single image of one class, each class has exactly its rounded fraction.

    Args:
        units: (N,) int64, the key of the unit of each image: of its group, or its own. The draw is a function of these
            keys, the seed and the classes; the order of the images does not matter.
        classes: (N,) int64, or (N, C) bool if an image may have several.
        fraction: above 0 and below 1.
        seed: of the draw.

    Returns:
        (N,) bool, at least one True and one False.

    Raises:
        ValueError: there is only one unit.
    """
    keys, unit_of = torch.unique(units, return_inverse=True)
    if len(keys) < 2:
        raise ValueError("All images are of one group, which cannot be split. Give TEST, or images of several groups.")
    if classes.ndim == 1 and len(keys) == len(units):
        return _of_each_class(units, classes, fraction, seed)
    table = _counts(unit_of, classes, len(keys))
    total = np.asarray(table.sum(0)).astype(np.float64)
    target = np.minimum(np.maximum(fraction * total, 1), np.maximum(total - 1, 0))
    found = []
    for attempt in range(ATTEMPTS if len(keys) <= FEW else 1):
        order = _order(keys, seed, attempt).numpy()
        chosen, have = _greedy(order, table, total, target)
        found.append((float(((have - target) ** 2 / np.maximum(total, 1)).sum()), attempt, chosen))
    return torch.from_numpy(min(found)[2])[unit_of]


def _order(keys: Tensor, seed: int, attempt: int) -> Tensor:
    """A random order of distinct keys, as indices."""
    return keys_of(keys, seed, "holdout", attempt).argsort(stable=True)


def _of_each_class(keys: Tensor, classes: Tensor, fraction: float, seed: int) -> Tensor:
    """`held_out` for single images, without a loop over them."""
    order = _order(keys, seed, 0)
    order = order[classes[order].argsort(stable=True)]  # by class, in random order within
    counts = classes.bincount()
    rank = torch.arange(len(keys)) - (counts.cumsum(0) - counts)[classes[order]]
    target = torch.minimum((fraction * counts.double()).clamp(min=1), (counts - 1).clamp(min=0).double())
    found = torch.zeros(len(keys), dtype=torch.bool)
    found[order] = rank < (target - 0.5).ceil()[classes[order]]
    if not found.any():  # every class has a single image
        found[_order(keys, seed, 0)[0]] = True
    return found


def _counts(unit_of: Tensor, classes: Tensor, units: int) -> "csr_array":
    """Number of images per unit and class (U, C); images without a class count as a further class."""
    from scipy.sparse import coo_array

    if classes.ndim == 1:
        images, marks, count = torch.arange(len(classes)), classes, int(classes.max()) + 1
    else:
        count = classes.shape[1] + 1
        images, marks = torch.cat([classes, ~classes.any(1, keepdim=True)], 1).nonzero(as_tuple=True)
    ones = np.ones(len(images), np.int64)
    table = coo_array((ones, (unit_of[images].numpy(), marks.numpy())), (units, count)).tocsr()
    table.sum_duplicates()
    return table


def _greedy(
    order: np.ndarray, table: "csr_array", total: np.ndarray, target: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The chosen units (U,) bool, and their images per class (C,)."""
    chosen, have = np.zeros(len(order), bool), np.zeros(len(total))
    weight = 1 / np.maximum(total, 1)
    starts, columns, values = table.indptr, table.indices, table.data

    def change(unit: int) -> tuple[float, bool]:
        """The change of the distance by a unit, and whether each class keeps images on the other side."""
        at, n = columns[starts[unit] : starts[unit + 1]], values[starts[unit] : starts[unit + 1]]
        by = float((weight[at] * n * (2 * (have[at] - target[at]) + n)).sum())
        return by, bool((have[at] + n < total[at]).all())

    def add(unit: int) -> None:
        chosen[unit] = True
        have[columns[starts[unit] : starts[unit + 1]]] += values[starts[unit] : starts[unit + 1]]

    for unit in order.tolist():
        by, leaves = change(unit)
        if by < 0 and leaves:
            add(unit)
    if not chosen.any():  # every unit is too large
        found = [(not leaves, by, n, unit) for n, unit in enumerate(order.tolist()) for by, leaves in [change(unit)]]
        add(min(found)[3])
    return chosen, have

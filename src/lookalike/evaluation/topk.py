"""The k largest similarities, in one pass over each block, compiled for the CPU.

Each query has a min-heap of its k best. After a few blocks hardly any similarity exceeds the top, and a block costs
little more than reading it.
"""

import numpy as np

from ..numba_cache import compiled

_STEP = 64
"""Similarities that are compared with the top of the heap at once."""
_LONGEST = np.finfo(np.float32).max
_SHORTEST = 1e-12
"""Minimum length: a shorter vector has no direction, and similarity 0 to all."""


@compiled
def invert_lengths(rows, inverse):  # type: ignore[no-untyped-def]
    """Writes 1 / length of each of `rows` (B, D) to `inverse` (B,). Returns whether all are finite."""
    for i in range(len(rows)):
        row, total = rows[i], 0.0
        for d in range(len(row)):
            total += np.float64(row[d]) * row[d]
        length = np.sqrt(total)
        if not length <= _LONGEST:
            return False
        inverse[i] = 1 / max(length, _SHORTEST)
    return True


@compiled
def keep_largest(products, inverse, start, best, indices):  # type: ignore[no-untyped-def]
    """Inserts the values of products (Q, B) times inverse (B,) that are among the k largest so far into the heaps.

    `best` (Q, k) holds the heaps, `indices` (Q, k) the indices of their values; the first column has index `start`.
    """
    k, columns = best.shape[1], products.shape[1]
    for q in range(len(products)):
        heap, index = best[q], indices[q]
        for low in range(0, columns, _STEP):
            values, factors = products[q, low : low + _STEP], inverse[low : low + _STEP]
            smallest, larger = heap[0], np.int32(0)
            for j in range(len(values)):
                larger += np.int32(values[j] * factors[j] > smallest)
            if larger == 0:
                continue
            for j in range(len(values)):
                value = values[j] * factors[j]
                if value > heap[0]:
                    _replace_top(heap, index, k, value, start + low + j)


@compiled
def _replace_top(heap, index, k, value, at):  # type: ignore[no-untyped-def]
    """Replaces the top of the heap and sifts the new value down."""
    here, child = 0, 1
    while child < k:
        if child + 1 < k and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= value:
            break
        heap[here], index[here] = heap[child], index[child]
        here, child = child, 2 * child + 1
    heap[here], index[here] = value, at

"""Which of several mean scores differ: Tukey's studentized range over all methods at once, on NumPy arrays.

The best method is chosen by the data, so that a test of each against it by itself, or Dunnett's, would err more often.
"""

import functools
import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

ERROR_RATE = 0.05
"""Probability that, of methods that are equally good, one or more is called worse than the first."""
NORMAL = 1.959964
"""Standard errors to each side in a 95 % interval of a normal distribution."""


@functools.lru_cache
def studentized_range(methods: int, freedom: float, error_rate: float = ERROR_RATE) -> float:
    """Its quantile: the largest difference of so many equal means, in standard errors of one of them."""
    from scipy.stats import studentized_range as distribution  # takes a second

    return float(distribution.ppf(1 - error_rate, methods, freedom))


@dataclass(frozen=True)
class SeedNoise:
    """What another seed does to a score, pooled over the methods; for one comparison, or an array for many."""

    methods: int
    variance: Floats
    """Pooled over methods by their degrees of freedom, (..., 1)."""
    freedom: int
    """Degrees of freedom of `variance`; 0 where no method has two seeds."""
    error_rate: float = ERROR_RATE
    """Probability of one wrong difference or more."""

    @classmethod
    def of(cls, variances: ArrayLike, seeds: ArrayLike, pool: ArrayLike = True, error_rate: float = ERROR_RATE) -> Self:
        """Pools what several seeds of each method show.

        Args:
            variances: of the score over the seeds of each method, unbiased, (..., methods); 0 of one seed.
            seeds: of each method, (methods,).
            pool: (methods,), False of methods whose variance is not like the others'; if of all, all are pooled.
            error_rate: probability of one wrong difference or more.
        """
        found, counts = np.asarray(variances, np.float64), np.asarray(seeds, np.int64)
        weights = (counts - 1) * np.asarray(pool)
        weights = weights if weights.any() else counts - 1
        freedom = int(weights.sum())
        return cls(len(counts), (found * weights).sum(-1, keepdims=True) / max(freedom, 1), freedom, error_rate)

    def half_range(self, variances: ArrayLike, seeds: ArrayLike) -> Floats:
        """Half of what a mean must differ by from one of the same variance and number of seeds.

        The pooled variance counts, or a method's own where that is larger: one unstable method among many would else
        be called better or worse by chance.
        """
        if not self.freedom:
            return np.full(np.shape(variances), np.nan)
        quantile = studentized_range(max(2, self.methods), self.freedom, self.error_rate)
        half: Floats = quantile / 2 * np.sqrt(np.maximum(variances, self.variance) / np.asarray(seeds))
        return half

    def of_one_seed(self) -> float:
        """By how much 95 % intervals over test images are widened for a comparison of all methods at once."""
        return max(1.0, studentized_range(max(2, self.methods), math.inf, self.error_rate) / 2 / NORMAL)


def significant(difference: ArrayLike, below: ArrayLike, above: ArrayLike) -> Any:
    """Whether a score is higher than another by more than chance explains, elementwise.

    Args:
        difference: of the higher score from the other.
        below: half range of the higher score, towards the other.
        above: half range of the other, towards the higher one.

    After Kramer (1956), for ranges that differ: equal ones must not overlap, others must be a little further apart.
    """
    return np.asarray(difference) > math.sqrt(2) * np.hypot(below, above) + 1e-12

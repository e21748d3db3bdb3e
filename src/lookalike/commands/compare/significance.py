"""Which mean scores differ significantly: Tukey's studentized range over all methods at once, on NumPy arrays.

The best method is chosen by the same data, so pairwise tests against it, or Dunnett's test, would err more often.
"""

import functools
import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

ERROR_RATE = 0.05
"""Probability that at least one of several equally good methods is called worse than the first."""
NORMAL = 1.959964
"""Half width of a 95 % interval of a normal distribution, in standard errors."""


@functools.lru_cache
def studentized_range(methods: int, freedom: float, error_rate: float = ERROR_RATE) -> float:
    """Quantile of the range of `methods` equal means, in standard errors of one mean."""
    from scipy.stats import studentized_range as distribution  # the import takes a second

    return float(distribution.ppf(1 - error_rate, methods, freedom))


@dataclass(frozen=True)
class SeedNoise:
    """Variance of scores over seeds, pooled over the methods; of one comparison, or an array of many."""

    methods: int
    variance: Floats
    """Pooled over methods, weighted by their degrees of freedom, (..., 1)."""
    freedom: int
    """Degrees of freedom of `variance`; 0 if no method has two seeds."""
    error_rate: float = ERROR_RATE
    """Probability of at least one false difference."""

    @classmethod
    def of(cls, variances: ArrayLike, seeds: ArrayLike, pool: ArrayLike = True, error_rate: float = ERROR_RATE) -> Self:
        """Pools the variances of several methods.

        Args:
            variances: unbiased variance over the seeds of each method, (..., methods); 0 for one seed.
            seeds: number of seeds of each method, (methods,).
            pool: (methods,), False for methods to leave out of the pooled variance. If all are False, all are pooled.
            error_rate: probability of at least one false difference.
        """
        found, counts = np.asarray(variances, np.float64), np.asarray(seeds, np.int64)
        weights = (counts - 1) * np.asarray(pool)
        weights = weights if weights.any() else counts - 1
        freedom = int(weights.sum())
        return cls(len(counts), (found * weights).sum(-1, keepdims=True) / max(freedom, 1), freedom, error_rate)

    def half_range(self, variances: ArrayLike, seeds: ArrayLike) -> Floats:
        """Half of the significant difference between two means of the same variance and number of seeds.

        Uses the pooled variance, or the method's own if that is larger: otherwise one unstable method among many
        would be called better or worse by chance.
        """
        if not self.freedom:
            return np.full(np.shape(variances), np.nan)
        quantile = studentized_range(max(2, self.methods), self.freedom, self.error_rate)
        half: Floats = quantile / 2 * np.sqrt(np.maximum(variances, self.variance) / np.asarray(seeds))
        return half

    def of_one_seed(self) -> float:
        """The factor that widens 95 % intervals over test images for a comparison of all methods at once."""
        return max(1.0, studentized_range(max(2, self.methods), math.inf, self.error_rate) / 2 / NORMAL)


def significant(difference: ArrayLike, below: ArrayLike, above: ArrayLike) -> Any:
    """Whether a score is significantly higher than another, elementwise.

    Args:
        difference: the higher score minus the lower one.
        below: half range of the higher score, on its lower side.
        above: half range of the lower score, on its upper side.

    After Kramer (1956) for ranges of different width: equal ranges must not overlap, others must be slightly further
    apart.
    """
    return np.asarray(difference) > math.sqrt(2) * np.hypot(below, above) + 1e-12

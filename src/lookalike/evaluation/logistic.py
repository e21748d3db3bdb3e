"""Logistic regression on frozen features, fitted by L-BFGS until convergence, as in DINOv2's `log_regression.py`.

Oquab et al., TMLR 2024, https://arxiv.org/abs/2304.07193. As there, the penalty is chosen on a held-out tenth of the
training images, and the regression is then fitted to all. Four things differ: features have unit length, so that one
grid suits all encoders; the grid has steps of 10 instead of the official 45 values from 1e-6 to 1e5; the tenth is
class-balanced; and scikit-learn fits on the CPU, which takes days for millions of images: use `linear` for those.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .features import check_finite, count_classes
from .linear import hold_out

PENALTIES = (0.1, 1.0, 10.0, 100.0, 1000.0, 10_000.0)
"""scikit-learn's C, the inverse of the penalty on the weights, on features of unit length."""
HELD_OUT = 0.1
"""Fraction of each class's training images on which C is chosen."""
ITERATIONS = 1000
SMALL = 50_000_000
"""Multiplications per step below which one thread is used."""
TOLERANCE = 1e-12
"""Largest gradient component at convergence, the official value; scikit-learn's 1e-4 is too high for low penalties."""


@dataclass(frozen=True)
class Logistic:
    """The regression of the chosen penalty, fitted to all training images."""

    shares: Tensor
    """(M, classes) float64, the probability of each class for each test image."""
    inverse_penalty: float
    """The chosen member of `PENALTIES`; the smallest of tied ones, which has the highest penalty."""
    held_out: dict[float, float]
    """Accuracy on the held-out training images, for each member of `PENALTIES`."""


def logistic(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    *,
    num_classes: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Logistic:
    """Fits multinomial logistic regressions to frozen features, on the CPU, in float64.

    Args:
        train_features: (N, D), not normalised; L2-normalised here.
        train_labels: (N,) integers 0 .. classes - 1; at least two classes, one of them with two images.
        test_features: (M, D), not normalised.
        test_labels: (M,) integers 0 .. classes - 1. They are checked, but not used.
        num_classes: without it the largest label plus 1.
        seed: of the held-out part.
        progress: called with the number of fitted regressions and the total.

    Raises:
        ValueError: shapes or labels do not match, or all training images have the same class.
    """
    classes = count_classes(train_features, train_labels, test_features, test_labels, num_classes)
    check_finite(train_features, test_features)
    x, test = (F.normalize(f.double(), dim=1).numpy() for f in (train_features.cpu(), test_features.cpu()))
    y = train_labels.cpu().numpy()
    held = hold_out(train_labels.cpu().long(), HELD_OUT, seed).numpy()
    found = {}
    for done, c in enumerate(PENALTIES, 1):
        found[c] = float((regress(x[~held], y[~held], x[held], classes, c).argmax(1) == y[held]).mean())
        if progress is not None:
            progress(done, len(PENALTIES) + 1)
    best = max(found, key=lambda c: (found[c], -c))
    return Logistic(torch.from_numpy(regress(x, y, test, classes, best)), best, found)


def regress(x: np.ndarray, y: np.ndarray, test: np.ndarray, classes: int, inverse_penalty: float) -> np.ndarray:
    """Fits a regression to rows (N, D) and labels (N,); returns probabilities (M, classes) of test rows (M, D).

    Raises:
        ValueError: all labels are equal.
    """
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    if len(np.unique(y)) < 2:
        raise ValueError("All labelled images are of one class; a regression needs at least two.")
    # for small products, synchronising BLAS's threads costs more than it gains
    few = 1 if x.size * classes < SMALL else None
    with warnings.catch_warnings(), threadpool_limits(few, "blas"):
        # with almost no penalty it may not converge; one image per class looks like continuous targets to scikit-learn
        warnings.simplefilter("ignore", UserWarning)
        model = LogisticRegression(C=inverse_penalty, max_iter=ITERATIONS, tol=TOLERANCE).fit(x, y)
    p = np.zeros((len(test), classes))
    p[:, model.classes_] = model.predict_proba(test)
    return p

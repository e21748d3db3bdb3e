"""k-NN, few labels, logistic regression and the linear probe of one encoder against scikit-learn's own pipelines.

The images are scikit-learn's 1,797 handwritten digits, the encoder a tiny untrained transformer whose features overlap:
k-NN is right on five of six. Nothing of ours is used on scikit-learn's side but the draws of the training images.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import Normalizer
from threadpoolctl import threadpool_limits
from torch import Tensor

from lookalike.backbones import create
from lookalike.evaluation import few_labels, knn, linear, logistic
from lookalike.evaluation.linear import DINOV2, hold_out
from lookalike.evaluation.logistic import PENALTIES
from lookalike.random import permutation

Split = tuple[Tensor, Tensor, Tensor, Tensor]


@pytest.fixture(autouse=True)
def _one_thread_of_blas() -> Iterator[None]:
    with threadpool_limits(1, "blas"):
        yield


@pytest.fixture(scope="module")
def split() -> Split:
    """Features and labels of 1,200 training and 597 test images, float32 as an encoder gives them."""
    digits = load_digits()
    images = torch.from_numpy(digits.images).float()[:, None].expand(-1, 3, -1, -1) / 16
    torch.manual_seed(0)
    encoder = create("test_vit", image_size=32).eval()
    with torch.no_grad():
        x = encoder(torch.nn.functional.interpolate(images, (32, 32), mode="bilinear") - 0.5)
    y, order = torch.from_numpy(digits.target), permutation(len(x), 0, "split")
    a, b = order[:1200], order[1200:]
    return x[a], y[a], x[b], y[b]


def regression(inverse_penalty: float) -> LogisticRegression:
    return LogisticRegression(C=inverse_penalty, max_iter=1000, tol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("block", [8192, 256])
def test_knn_predicts_what_scikit_learns_does(split: Split, block: int, dtype: torch.dtype) -> None:
    x, y, a, b = split
    ours = knn(x.to(dtype), y, a.to(dtype), b, block=block)
    for k, (top1, _) in ours.accuracies.items():
        theirs = KNeighborsClassifier(k, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / 0.07))
        predictions = theirs.fit(x.double().numpy(), y.numpy()).predict(a.double().numpy())
        if k == ours.k:
            assert ours.predictions.tolist() == predictions.tolist()
        assert top1 == (predictions == b.numpy()).mean()
    assert 0.6 < ours.top1 < 0.98  # neither hopeless nor solved


@pytest.mark.parametrize("share", [0.01, 0.1])
def test_few_labels_are_as_right_as_scikit_learns_pipeline(split: Split, share: float) -> None:
    x, y, a, b = (v.double().numpy() if v.is_floating_point() else v.numpy() for v in split)
    ours = few_labels(*split, share=share, draws=4, seed=5)
    for draw, accuracy in enumerate(ours.accuracies):
        rows: list[int] = []
        for digit in range(10):
            members = [place for place, label in enumerate(y) if label == digit]
            kept = max(1, round(share * len(members)))
            rows += [members[at] for at in permutation(len(members), 5, "few", draw, digit)[:kept].tolist()]
        assert len(rows) == ours.images
        theirs = make_pipeline(Normalizer(), regression(10.0)).fit(x[rows], y[rows])
        assert accuracy == theirs.score(a, b)
        # another solver, to the end of the same problem
        exact = make_pipeline(Normalizer(), LogisticRegression(C=10.0, solver="newton-cg", tol=1e-8, max_iter=1000))
        assert accuracy == pytest.approx(exact.fit(x[rows], y[rows]).score(a, b), abs=0.005)


def test_logistic_regression_is_as_right_as_another_solver(split: Split) -> None:
    """Newton's method to the end of the same problem, at each penalty that is tried and at the chosen one."""
    x, y, a, b = (v.double().numpy() if v.is_floating_point() else v.numpy() for v in split)
    ours = logistic(*split, seed=3)
    held = hold_out(split[1], 0.1, 3).numpy()

    def exact(c: float) -> Pipeline:
        return make_pipeline(Normalizer(), LogisticRegression(C=c, solver="newton-cholesky", tol=1e-8))

    for c in PENALTIES:
        wanted = exact(c).fit(x[~held], y[~held]).score(x[held], y[held])
        assert ours.held_out[c] == pytest.approx(wanted, abs=1.5 / held.sum())  # one image on the border
    theirs = exact(ours.inverse_penalty).fit(x, y)
    predictions = ours.shares.argmax(1).numpy()
    assert (predictions == b).mean() == pytest.approx(theirs.score(a, b), abs=4 / len(b))  # four images on the border
    assert (predictions == theirs.predict(a)).mean() > 0.98  # with next to no penalty L-BFGS is cut off


def test_the_linear_probe_comes_within_two_points_of_logistic_regression(split: Split) -> None:
    """Rate and penalty are chosen on the same held-out tenth; features are standardised, so that SGD gets far."""
    mean, std = split[0].mean(0), split[0].std(0)
    x, y, a, b = (split[0] - mean) / std, split[1], (split[2] - mean) / std, split[3]
    ours = linear(x, y, a, b, settings=dataclasses.replace(DINOV2, least_steps=800, rates=DINOV2.rates[6:]))
    held = hold_out(y, 0.1, 0)

    def exact(c: float, rows: Tensor) -> LogisticRegression:
        return LogisticRegression(C=c, solver="newton-cholesky").fit(x[rows].numpy(), y[rows].numpy())

    best = max((0.01, 0.1, 1.0, 10.0), key=lambda c: float(exact(c, ~held).score(x[held].numpy(), y[held].numpy())))
    theirs = exact(best, torch.ones_like(held)).score(a.numpy(), b.numpy())
    assert ours.top1 == pytest.approx(theirs, abs=0.02)

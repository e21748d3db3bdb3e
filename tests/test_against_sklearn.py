"""k-NN, few labels, logistic regression and the linear probe of one encoder against scikit-learn's own pipelines.

The images are scikit-learn's 1,797 handwritten digits, the encoder a tiny untrained transformer whose features overlap:
k-NN is right on five of six. Nothing of ours is used on scikit-learn's side but the draws of the training images.
"""

import dataclasses
import importlib
import importlib.util

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer
from torch import Tensor

from lookalike.backbones import create
from lookalike.evaluation import few_labels, knn, linear
from lookalike.evaluation.linear import DINOV2, hold_out
from lookalike.random import permutation

Split = tuple[Tensor, Tensor, Tensor, Tensor]


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
    return LogisticRegression(C=inverse_penalty, max_iter=1000)


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


@pytest.mark.skipif(importlib.util.find_spec("lookalike.evaluation.logistic") is None, reason="no such protocol yet")
def test_logistic_regression_is_as_right_as_scikit_learns_pipeline(split: Split) -> None:
    """Exactly where L-BFGS comes to its end; with next to no penalty it is cut off, and rounding decides an image."""
    protocol = importlib.import_module("lookalike.evaluation.logistic")
    x, y, a, b = (v.double().numpy() if v.is_floating_point() else v.numpy() for v in split)
    ours = protocol.logistic(*split, seed=3)
    held = hold_out(split[1], 0.1, 3).numpy()
    found = {}
    for c in ours.held_out:
        found[c] = make_pipeline(Normalizer(), regression(c)).fit(x[~held], y[~held]).score(x[held], y[held])
        assert ours.held_out[c] == pytest.approx(found[c], abs=1e-12 if c <= 100 else 0.03)
    assert ours.held_out[ours.inverse_penalty] == max(ours.held_out.values())
    theirs = make_pipeline(Normalizer(), regression(ours.inverse_penalty)).fit(x, y)
    predictions = ours.shares.argmax(1).numpy()
    assert (predictions == b).mean() == pytest.approx(theirs.score(a, b), abs=0.005)
    assert (predictions == theirs.predict(a)).mean() > 0.98


def test_the_linear_probe_comes_within_two_points_of_logistic_regression(split: Split) -> None:
    """The rate and the penalty are chosen on the same held-out tenth; SGD stops early, where L-BFGS goes to the end.

    The steps are the protocol's: with a quarter of them SGD is six points behind on these features, which share most
    of their length.
    """
    x, y, a, b = (v.numpy() for v in split)
    ours = linear(*split, settings=dataclasses.replace(DINOV2, rates=DINOV2.rates[11:]))  # lower ones are never chosen
    held = hold_out(split[1], 0.1, 0).numpy()
    models = [regression(c).fit(x[~held], y[~held]) for c in (0.1, 1.0, 10.0, 100.0)]
    best = max(models, key=lambda model: model.score(x[held], y[held]))
    theirs = regression(best.C).fit(x, y).score(a, b)
    assert ours.top1 == pytest.approx(theirs, abs=0.02)

"""What is reported beside an accuracy: measures and intervals."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lookalike.evaluation import classification_metrics, interval, interval_of_draws
from lookalike.evaluation.metrics import pooled


def slow_measures(shares: list[list[float]], labels: list[int]) -> tuple[float, list[float | None], dict, float]:
    classes = len(shares[0])
    right, confusion = [], {}
    bins: dict[int, list[tuple[float, bool]]] = {}
    for row, label in zip(shares, labels):
        predicted = row.index(max(row))
        right.append(predicted == label)
        confusion[label, predicted] = confusion.get((label, predicted), 0) + 1
        place = next(b for b in range(15) if max(row) <= (b + 1) / 15 or b == 14)
        bins.setdefault(place, []).append((max(row), predicted == label))
    per_class = []
    for c in range(classes):
        own = [r for r, label in zip(right, labels) if label == c]
        per_class.append(sum(own) / len(own) if own else None)
    ece = 0.0
    for rows in bins.values():
        ece += abs(sum(c for c, _ in rows) - sum(r for _, r in rows)) / len(labels)
    return sum(right) / len(right), per_class, confusion, ece


@given(st.integers(1, 60), st.integers(2, 6), st.integers(0, 2**31))
@settings(max_examples=50, deadline=None)
def test_measures_meet_a_slow_loop(n: int, classes: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    shares = torch.randn(n, classes, generator=generator, dtype=torch.float64).mul(2).softmax(1)
    labels = torch.randint(classes, (n,), generator=generator)
    found = classification_metrics(shares, labels)
    top1, per_class, confusion, ece = slow_measures(shares.tolist(), labels.tolist())
    assert found.top1 == pytest.approx(top1)
    assert found.per_class == pytest.approx(per_class)
    assert {(a, b): n for a, b, n in found.confusion} == confusion
    assert found.ece == pytest.approx(ece, abs=1e-9)
    assert sum(n for _, _, n in found.bins) == n


def test_a_row_that_is_no_number_is_wrong() -> None:
    shares = torch.tensor([[0.9, 0.1], [float("nan"), 0.5]])
    found = classification_metrics(shares, torch.tensor([0, 0]))
    assert (found.top1, found.per_class, found.confusion) == (0.5, [0.5, None], [[0, 0, 1]])


@pytest.mark.parametrize("labels", [torch.tensor([0, 2]), torch.tensor([0, -1]), torch.tensor([0])])
def test_measures_refuse_labels_that_do_not_fit(labels: Tensor) -> None:
    with pytest.raises(ValueError, match="expected"):
        classification_metrics(torch.full((2, 2), 0.5), labels)


def test_several_draws_are_pooled() -> None:
    labels = torch.tensor([0, 0, 1])
    one = classification_metrics(torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]]), labels)
    two = classification_metrics(torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]]), labels)
    both = pooled([one, two])
    assert both.top1 == pytest.approx((1 + 1 / 3) / 2)
    assert both.per_class == [0.75, 0.5]
    assert both.confusion == [[0, 0, 3], [0, 1, 1], [1, 0, 1], [1, 1, 1]]
    assert sum(n for *_, n in both.bins) == 6
    assert pooled([one]) == one


def test_an_interval_covers_draws_and_images() -> None:
    assert interval_of_draws([0.7] * 5, 1000, 0) == interval(0.7, 1000)  # nothing but the images differs
    assert interval_of_draws([0.5], 100, 3) == interval(0.5, 100)
    low, high = interval_of_draws([0.6, 0.7, 0.8], 10**6, 0)
    # Student's t of two degrees of freedom, times 0.1 / sqrt(3)
    assert (high - low) / 2 == pytest.approx(4.303 * 0.1 / 3**0.5, rel=0.1)


@pytest.mark.parametrize("draws", [2, 3, 10])
def test_intervals_hold_the_truth_in_95_of_100_cases(draws: int) -> None:
    random = np.random.default_rng(draws)
    inside = 0
    for case in range(300):
        found = 0.6 + 0.02 * random.standard_normal(draws)
        low, high = interval_of_draws(found.tolist(), 10**7, case)
        inside += low <= 0.6 <= high
    assert 0.91 < inside / 300 < 0.985


def test_an_interval_of_no_mistakes_is_not_a_point() -> None:
    assert interval(1.0, 3) == (pytest.approx(0.2924, abs=1e-4), 1.0)  # Clopper and Pearson
    assert interval(0.0, 20) == (0.0, pytest.approx(0.1684, abs=1e-4))
    assert interval_of_draws([1.0, 1.0], 3, 0) == interval(1.0, 3)


def test_more_hits_never_have_a_lower_interval() -> None:
    for images in (50, 1000):
        lows, highs = zip(*(interval(hits / images, images) for hits in (0, 1, 2, 9, images - 2, images - 1, images)))
        assert list(lows) == sorted(lows)
        assert list(highs) == sorted(highs)


def test_interval_is_the_binomials():
    for correct, images in ((0.8, 400), (0.5, 100), (0.02, 5000)):
        low, high = interval(correct, images)
        half = 1.96 * math.sqrt(correct * (1 - correct) / images)
        assert (low, high) == pytest.approx((correct - half, correct + half), abs=0.15 * half + 1 / images)
    assert interval(0.8, 400) == interval(0.8, 400)
    assert interval(1.0, 50) == (pytest.approx(0.025 ** (1 / 50)), 1.0)
    assert interval(0.0, 50) == (0.0, pytest.approx(1 - 0.025 ** (1 / 50)))

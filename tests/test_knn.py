"""k-NN against a slow loop, and what it refuses."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lookalike.evaluation import knn, linear


def slow_knn(train, train_labels, test, k, temperature, classes):
    """Wu et al., Section 3.4: w_c = sum over the neighbours i of class c of exp(s_i / temperature)."""
    votes = []
    for query in test:
        similar = sorted(
            ((float(query @ row / query.norm() / row.norm()), int(y)) for row, y in zip(train, train_labels)),
            reverse=True,
        )
        votes.append([sum(math.exp(s / temperature) for s, y in similar[:k] if y == c) for c in range(classes)])
    return torch.tensor(votes, dtype=torch.float64)


def slow_top(votes, labels, n):
    best = [sorted(range(len(row)), key=lambda c: (-float(row[c]), c))[:n] for row in votes]
    return sum(int(y) in top for top, y in zip(best, labels)) / len(labels)


@given(
    train=st.integers(1, 40),
    test=st.integers(1, 12),
    dim=st.integers(2, 8),
    classes=st.integers(1, 9),
    k=st.integers(1, 50),
    block=st.integers(1, 17),
    temperature=st.sampled_from([0.03, 0.07, 1.0]),
    double=st.booleans(),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=60, deadline=None)
def test_knn_meets_a_slow_loop(train, test, dim, classes, k, block, temperature, double, seed):
    g = torch.Generator().manual_seed(seed)
    dtype = torch.float64 if double else torch.float32
    x, a = (torch.randn(n, dim, generator=g, dtype=dtype) * 3 for n in (train, test))
    y, b = (torch.randint(classes, (n,), generator=g) for n in (train, test))
    r = knn(x, y, a, b, k, temperature, classes, block, also=(1, 3))
    expected = slow_knn(x.double(), y, a.double(), k, temperature, classes)
    assert r.votes.dtype == dtype
    torch.testing.assert_close(r.votes.double(), expected, rtol=1e-10 if double else 2e-4, atol=0)
    assert list(r.accuracies) == sorted({1, 3, k})
    for n, (top1, top5) in r.accuracies.items():
        votes = slow_knn(x.double(), y, a.double(), n, temperature, classes)
        assert (top1, top5) == pytest.approx((slow_top(votes, b, 1), slow_top(votes, b, min(5, n))))
    assert (r.top1, r.top5) == r.accuracies[k]
    assert r.predictions.tolist() == r.votes.argmax(1).tolist()
    assert (r.predictions == b).double().mean().item() == pytest.approx(r.top1)


def test_knn_defaults_are_the_protocol():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(300, 4, generator=g), torch.randint(7, (300,), generator=g)
    r = knn(x, y, x[:9], y[:9])
    assert (r.k, r.temperature, tuple(r.accuracies)) == (20, 0.07, (10, 20, 100, 200))
    assert r.votes.shape == (9, 7)
    assert knn(x, y, x[:9], y[:9], num_classes=12).votes.shape == (9, 12)


def test_knn_normalises_and_reads_half_precision_in_float32():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(50, 16, generator=g), torch.arange(50) % 3
    scaled = x * torch.rand(50, 1, generator=g).mul(100).add(0.1)
    torch.testing.assert_close(knn(scaled, y, x[:5], y[:5]).votes, knn(x, y, x[:5], y[:5]).votes, rtol=1e-4, atol=0)
    half = x.half()
    assert torch.equal(knn(half, y, half[:5], y[:5]).votes, knn(half.float(), y, half[:5].float(), y[:5]).votes)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = knn(x, y, x[:5], y[:5]).votes
    assert torch.equal(mixed, knn(x, y, x[:5], y[:5]).votes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"train_features": torch.zeros(0, 4), "train_labels": torch.zeros(0, dtype=torch.int64)},
            "at least one image",
        ),
        ({"test_labels": torch.zeros(2, dtype=torch.int64)}, r"labels \(2,\)"),
        ({"test_features": torch.ones(3, 5)}, "same encoder"),
        ({"train_labels": torch.tensor([0, -1, 2, 0, 1, 2])}, "from -1 to 2"),
        ({"num_classes": 2}, "expected 0 to 1"),
        ({"train_labels": torch.zeros(6)}, "expected integers"),
        ({"train_features": torch.full((6, 4), math.nan)}, "not finite"),
        ({"test_features": torch.full((3, 4), math.inf)}, "not finite"),
    ],
)
@pytest.mark.parametrize("protocol", [knn, linear])
def test_what_does_not_fit_together_is_refused(protocol, change, message):
    good = {
        "train_features": torch.ones(6, 4),
        "train_labels": torch.arange(6) % 3,
        "test_features": torch.ones(3, 4),
        "test_labels": torch.arange(3),
    }
    with pytest.raises(ValueError, match=message):
        protocol(**(good | change))


def test_knn_refuses_senseless_settings():
    x, y = torch.ones(6, 4), torch.arange(6) % 3
    for change, message in (
        ({"k": 0}, "at least 1"),
        ({"temperature": 0.0}, "overflows"),
        ({"temperature": 0.01}, "overflows"),
    ):
        with pytest.raises(ValueError, match=message):
            knn(x, y, x, y, **change)
    assert knn(x.double(), y, x, y, temperature=0.01).votes.isfinite().all()

"""Sinkhorn and spherical k-means against slow transcriptions, and where numbers are odd. Two processes: elsewhere."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lookalike import kmeans
from lookalike.kmeans import spherical_kmeans
from lookalike.losses import unit
from lookalike.sinkhorn import sinkhorn


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def slow_sinkhorn(scores: Tensor, epsilon: float, iterations: int) -> list[list[float]]:
    """Algorithm 1 of SwAV's appendix, number by number: prototypes, then samples, get equal sums."""
    b, k = scores.shape
    q = [[math.exp(float(s) / epsilon) for s in row] for row in scores]
    for _ in range(iterations):
        for j in range(k):
            total = sum(q[i][j] for i in range(b))
            for i in range(b):
                q[i][j] /= total * k
        for i in range(b):
            total = sum(q[i])
            q[i] = [x / (total * b) for x in q[i]]
    return [[x / sum(row) for x in row] for row in q]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 8), st.integers(1, 6), st.floats(0.03, 1.0), st.integers(0, 5))
def test_sinkhorn_is_its_slow_self(seed: int, b: int, k: int, epsilon: float, iterations: int) -> None:
    scores = draw(seed, b, k).tanh()
    found = sinkhorn(scores, epsilon, iterations)
    wanted = torch.tensor(slow_sinkhorn(scores, epsilon, iterations), dtype=torch.float64)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


def test_many_iterations_fill_all_prototypes_alike() -> None:
    q = sinkhorn(draw(0, 24, 6), 0.5, 200)
    torch.testing.assert_close(q.sum(1), torch.ones(24, dtype=torch.float64))
    torch.testing.assert_close(q.sum(0), torch.full((6,), 4.0, dtype=torch.float64))
    every_one = sinkhorn(torch.tensor([[1.0, 0.0, 0.0]] * 9), 0.05, 3)  # all like the first prototype alike
    torch.testing.assert_close(every_one, torch.full((9, 3), 1 / 3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("size", [1.0, 1e4])
def test_sinkhorn_is_finite_whatever_the_scores(dtype: torch.dtype, size: float) -> None:
    """exp(1 / 0.01) overflows float32, and a prototype that no sample is near underflows."""
    scores = draw(0, 16, 5).to(dtype) * size
    scores[:, 4] = -size
    with torch.autocast("cpu", torch.bfloat16):
        q = sinkhorn(scores, 0.01, 3)
    assert q.dtype == torch.float32
    assert bool(q.isfinite().all())
    torch.testing.assert_close(q.sum(1), torch.ones(16))
    assert float(q.sum(0).min()) > 0.4


def slow_kmeans(x: Tensor, centroids: Tensor, iterations: int) -> tuple[Tensor, list[int]]:
    def nearest(row: Tensor) -> int:
        return max(range(len(centroids)), key=lambda k: float(row @ centroids[k]))

    for _ in range(iterations):
        groups = [nearest(row) for row in x]
        means = []
        for k in range(len(centroids)):
            own = [row for row, group in zip(x, groups) if group == k]
            mean = sum(own[1:], own[0]) / len(own) if own else centroids[k]
            means.append(mean / mean.norm())
        centroids = torch.stack(means)
    return centroids, [nearest(row) for row in x]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 20), st.integers(1, 5), st.integers(0, 6))
def test_kmeans_is_its_slow_self(seed: int, n: int, k: int, iterations: int) -> None:
    """Centroids that are drawn at random, and not among the rows, are without rows now and then."""
    x, first = unit(draw(seed, n, 3)), unit(draw(seed + 1, k, 3))
    centroids, groups = spherical_kmeans(x, first, iterations)
    wanted, assigned = slow_kmeans(x, first, iterations)
    torch.testing.assert_close(centroids, wanted, rtol=1e-10, atol=1e-12)
    assert groups.tolist() == assigned


def test_an_empty_cluster_keeps_its_centroid() -> None:
    x = unit(torch.tensor([[1.0, 0.1], [1.0, -0.1]]))
    first = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    centroids, groups = spherical_kmeans(x, first, 3)
    assert torch.equal(centroids[1], first[1])
    assert groups.tolist() == [0, 0]


def test_kmeans_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    x = unit(draw(0, 50, 4))
    whole = spherical_kmeans(x, x[:6], 4)
    monkeypatch.setattr(kmeans, "_CHUNK", 42)  # seven rows at a time
    parts = spherical_kmeans(x, x[:6], 4)
    assert all(torch.equal(a, b) for a, b in zip(whole, parts))


def test_kmeans_keeps_its_precision_under_autocast() -> None:
    x = unit(draw(0, 200, 16)).float()
    with torch.autocast("cpu", torch.bfloat16):
        centroids, groups = spherical_kmeans(x, x[:9], 5)
    exact, wanted = spherical_kmeans(x.double(), x[:9].double(), 5)
    assert centroids.dtype == torch.float32
    torch.testing.assert_close(centroids, exact.float(), rtol=1e-4, atol=1e-5)
    assert torch.equal(groups, wanted)

"""The label-free figures against slow transcriptions of the papers' equations, and at their known ends."""

import math
from pathlib import Path
from statistics import mean, stdev

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lookalike import backbones
from lookalike.evaluation import label_free
from lookalike.label_free import (
    alignment,
    effective_rank,
    lidar,
    of_targets,
    pair_auc,
    pair_auc_per_image,
    spread,
    uniformity,
    view_retrieval,
)


def features(images: int, dim: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(images, dim, generator=generator, dtype=torch.float64) + 0.5


def unit(row: Tensor) -> Tensor:
    return row / math.sqrt(sum(float(v) ** 2 for v in row))


@settings(deadline=None, max_examples=25)
@given(images=st.integers(2, 9), dim=st.integers(1, 7), seed=st.integers(0, 99))
def test_they_are_what_the_papers_say(images: int, dim: int, seed: int) -> None:
    x, y = features(images, dim, seed), features(images, dim, seed + 1000)
    z, w = [unit(row) for row in x], [unit(row) for row in y]

    means = [sum(float(row[d]) for row in z) / images for d in range(dim)]
    deviations = [math.sqrt(sum((float(row[d]) - means[d]) ** 2 for row in z) / images) for d in range(dim)]
    assert spread(x) == pytest.approx(sum(deviations) / dim * math.sqrt(dim), abs=1e-9)

    values = torch.linalg.eigvalsh(x.T @ x).clamp(min=0).sqrt()  # singular values, another way
    shares = [float(v / values.sum()) for v in values]
    assert effective_rank(x) == pytest.approx(math.exp(-sum(p * math.log(p) for p in shares if p > 0)), rel=1e-5)

    distances = [float((a - b).square().sum()) for a, b in zip(z, w)]
    assert alignment(x, y) == pytest.approx(sum(distances) / images)

    pairs = [math.exp(-2 * float((z[i] - z[j]).square().sum())) for i in range(images) for j in range(i)]
    assert uniformity(x) == pytest.approx(math.log(sum(pairs) / len(pairs)), abs=1e-9)


@settings(deadline=None, max_examples=25)
@given(images=st.integers(2, 9), dim=st.integers(1, 7), seed=st.integers(0, 99))
def test_pair_auc_and_view_retrieval_are_what_they_say(images: int, dim: int, seed: int) -> None:
    x, y = features(images, dim, seed), features(images, dim, seed + 1000)
    z, w = [unit(row) for row in x], [unit(row) for row in y]
    points, comparisons, hits = 0.0, 0, 0
    for one, other in ((z, w), (w, z)):
        for i in range(images):
            own = float(one[i] @ other[i])
            rest = [float(one[i] @ other[j]) for j in range(images) if j != i]
            points += sum(1.0 if own > r + 1e-12 else 0.5 if abs(own - r) <= 1e-12 else 0.0 for r in rest)
            comparisons += len(rest)
            hits += own > max(rest) + 1e-12
    if dim > 1:  # in one dimension all is a tie, of which rounding decides
        assert pair_auc(x, y) == pytest.approx(points / comparisons, abs=1e-6)
        assert view_retrieval(x, y) == pytest.approx(hits / (2 * images), abs=1e-6)


def test_pair_auc_at_its_ends() -> None:
    x = features(12, 6, 0)
    assert pair_auc(x, 3 * x) == view_retrieval(x, 3 * x) == 1
    assert pair_auc(torch.ones(12, 6), torch.ones(12, 6)) == 0.5


@pytest.mark.parametrize("images", [3, 4, 30])
def test_the_pair_auc_per_image_is_its_jackknife(images: int) -> None:
    a, b = features(images, 5, 0), features(images, 5, 1)
    shares, whole = pair_auc_per_image(a, b), pair_auc(a, b)
    assert float(shares.mean()) == pytest.approx(whole)
    for k in range(images):
        rest = [i for i in range(images) if i != k]
        assert float(shares[k]) == pytest.approx(images * whole - (images - 1) * pair_auc(a[rest], b[rest]))


def test_the_standard_errors_of_the_pair_auc_and_its_change_are_right() -> None:
    """Over 300 draws of 40 images, the same before and after a change of the encoder."""
    values, errors, changes, of_changes = [], [], [], []
    for seed in range(300):
        generator = torch.Generator().manual_seed(seed)
        image, own, other, more = (torch.randn(40, 8, generator=generator) for _ in range(4))
        before = pair_auc_per_image(image + own, image + other)
        after = pair_auc_per_image(image + own + 0.5 * more, image + other + 0.5 * more)
        values.append(float(before.mean()))
        errors.append(float(before.std()) / 40**0.5)
        changes.append(float((after - before).mean()))
        of_changes.append(float((after - before).std()) / 40**0.5)
    assert stdev(values) == pytest.approx(mean(errors), rel=0.15)
    assert stdev(changes) == pytest.approx(mean(of_changes), rel=0.15)
    assert mean(of_changes) < 0.8 * mean(errors)  # what pairs are for


def test_an_encoder_is_scored_without_labels(photos: Path) -> None:
    torch.manual_seed(0)
    encoder = backbones.create("test_resnet", image_size=32)
    found = label_free(encoder, photos)
    assert [*found] == [
        "pair_auc", "view_retrieval", "view_retrieval_of_5", "alignment", "uniformity", "spread", "effective_rank",
    ]  # fmt: skip
    assert 0 <= found["view_retrieval"] <= 1
    assert found == label_free(encoder, photos)
    assert found != label_free(encoder, photos, seed=1)
    with pytest.raises(ValueError, match="scores of 1 image are undefined"):
        label_free(encoder, photos, images=1)


@pytest.mark.parametrize("images", [2, 3, 12])
def test_pair_auc_of_an_encoder_meets_slow_loops_over_its_features(photos: Path, images: int) -> None:
    torch.manual_seed(0)
    pixels = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(48, 16))
    encoder = backbones.create(pixels, image_size=32)
    seen: list[Tensor] = []  # the features of the first views of all images, then those of their second views
    encoder.register_forward_hook(lambda module, inputs, output: seen.append(output.detach().double()))
    found = label_free(encoder, photos, images=images)
    first, second = ([unit(row) for row in side] for side in seen)
    assert len(first) == len(second) == images
    nearer = [
        float(one[i] @ other[i] > one[i] @ other[j])
        for one, other in ((first, second), (second, first))
        for i in range(images)
        for j in range(images)
        if i != j
    ]
    assert found["pair_auc"] == pytest.approx(mean(nearer))
    assert images < 12 or 0.5 < found["pair_auc"] < 1  # neither chance nor all: a wrong pairing shows


@settings(deadline=None, max_examples=25)
@given(images=st.integers(2, 8), views=st.integers(2, 4), dim=st.integers(1, 5), seed=st.integers(0, 99))
def test_lidar_is_what_the_paper_says(images: int, views: int, dim: int, seed: int) -> None:
    """Section 4: eigenvalues of W^-1/2 B W^-1/2, which are those of W^-1 B."""
    x = features(images * views, dim, seed).view(images, views, dim)
    means = [x[i].mean(0) for i in range(images)]
    whole = sum(means) / images
    between = sum(torch.outer(m - whole, m - whole) for m in means) / (images - 1)
    within = sum(torch.outer(x[i, v] - means[i], x[i, v] - means[i]) for i in range(images) for v in range(views))
    within = within / (images * (views - 1)) + 1e-4 * torch.eye(dim, dtype=x.dtype)
    values = torch.linalg.eigvals(torch.linalg.solve(within, between)).real.clamp(min=0)
    shares = [float(v / values.sum()) for v in values]
    assert lidar(x) == pytest.approx(math.exp(-sum(p * math.log(p) for p in shares if p > 1e-300)), rel=1e-4)


def test_one_feature_for_all_and_even_directions() -> None:
    same = torch.ones(32, 1) * torch.linspace(1, 2, 16)
    assert spread(same) == pytest.approx(0, abs=1e-6)
    assert effective_rank(same) == pytest.approx(1, abs=1e-3)
    assert uniformity(same) == pytest.approx(0, abs=1e-6)
    assert alignment(same, same) == 0
    even = torch.randn(4000, 64, generator=torch.Generator().manual_seed(0))
    assert spread(even) == pytest.approx(1, abs=0.01)
    assert effective_rank(even) > 60
    assert uniformity(even[:500]) == pytest.approx(-4, abs=0.15)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_reduced_precision_is_widened(dtype: torch.dtype) -> None:
    x = features(40, 8, 0)
    for figure in (spread, effective_rank, uniformity):
        assert figure(x.to(dtype)) == pytest.approx(figure(x), rel=0.02)


@pytest.mark.parametrize(
    ("targets", "told"),
    [
        (torch.eye(4).repeat(2, 1), 1.0),  # two images a prototype: all prototypes are told apart
        (torch.eye(16)[:8], 1.0),  # more prototypes than images
        (torch.eye(4)[:1].repeat(8, 1), 0.0),
        (torch.full((8, 6), 1 / 6), 0.0),
        (torch.eye(4)[[0, 0, 1, 1] * 2], 0.5),
    ],
)
def test_what_targets_say_about_their_images(targets: Tensor, told: float) -> None:
    assert "target_information" not in of_targets(targets[:7], torch.zeros_like(targets[:7]), 0.1)
    found = of_targets(targets, torch.zeros_like(targets), 0.1)
    assert found["target_information"] == pytest.approx(told, abs=1e-6)

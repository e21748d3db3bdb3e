"""Evaluation of frozen encoders: every protocol against a slow transcription, and the rules of its files."""

import csv
import dataclasses
import json
import math
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from lookalike import backbones
from lookalike.data import BrokenImage, open_source
from lookalike.evaluation import (
    About,
    Entry,
    Features,
    Settings,
    evaluate,
    features,
    fingerprint,
    interval,
    knn,
    linear,
    record,
    run_protocol,
    save_features,
    with_statistics,
)
from lookalike.evaluation.features import crop
from lookalike.evaluation.linear import DINOV2, hold_out

# ---------------------------------------------------------------- knn


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


# ---------------------------------------------------------------- linear

QUICK = Settings(least_steps=300, batch_size=128)


def clusters(n, dim=16, classes=4, spread=1.0, seed=0):
    """Overlapping Gaussian clusters around the same centres for every seed."""
    centres = torch.randn(classes, dim, generator=torch.Generator().manual_seed(99))
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=g)
    return centres[labels] + spread * torch.randn(n, dim, generator=g), labels


def test_linear_constants_are_dinov2s_with_higher_rates():
    official = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1)
    assert (
        Settings(
            rates=(*official, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0),
            batch_size=1024,
            epochs=10,
            least_steps=2500,
            momentum=0.9,
            deviation=0.01,
            held_out=0.1,
        )
        == DINOV2
    )
    assert DINOV2.steps(1_281_167) == 12_520  # the official 10 x 1,250, but for the last, partial batch of an epoch
    assert DINOV2.steps(10_000) == 2500


def test_linear_learns_from_small_features():
    """A CNN's pooled features may be far from unit size; the accuracy must not depend on it."""
    (x, y), (a, b) = clusters(300), clusters(200, seed=1)
    whole, small = (linear(x * s, y, a * s, b, settings=QUICK) for s in (1.0, 0.02))
    assert small.top1 == pytest.approx(whole.top1, abs=0.05)


def test_linear_meets_logistic_regression():
    from sklearn.linear_model import LogisticRegression

    (x, y), (a, b) = clusters(2000, 32, 10, 1.8), clusters(2000, 32, 10, 1.8, seed=1)
    r = linear(x, y, a, b, settings=Settings(least_steps=600, batch_size=256))
    best = max(LogisticRegression(C=c, max_iter=500).fit(x, y).score(a, b) for c in (0.01, 1.0))
    assert 0.5 < best < 0.95  # neither hopeless nor solved
    assert r.top1 == pytest.approx(best, abs=0.015)
    assert r.top1 < r.top5 <= 1


def test_linear_is_sgd_of_torch():
    """The batched classifier against torch's own optimizer, schedule and loss, one learning rate at a time."""
    from lookalike.evaluation.linear import _batches, _train

    x, y = (v.double() if v.is_floating_point() else v for v in clusters(150))
    rates, constants = (0.002, 0.1), Settings(batch_size=64, least_steps=40)
    weight, bias, history = _train(x, y, torch.arange(150), 4, rates, 3, constants)
    start = _train(x, y, torch.arange(150), 4, (0.0,), 3, constants)
    assert not start[1].any()
    losses = []
    for g, rate in enumerate(rates):
        layer = nn.Linear(16, 4, dtype=torch.float64)
        layer.load_state_dict({"weight": start[0][0], "bias": start[1][0]})
        optimizer = torch.optim.SGD(layer.parameters(), lr=rate * 64 / 256, momentum=0.9, weight_decay=0)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 40, eta_min=0)
        for batch in _batches(150, 64, 40, 3):
            loss = nn.functional.cross_entropy(layer(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        torch.testing.assert_close(weight[g], layer.weight.detach(), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(bias[g], layer.bias.detach(), rtol=1e-9, atol=1e-12)
    assert [step for step, _ in history] == list(range(1, 41))
    assert [loss for _, loss in history] == pytest.approx([(a + b) / 2 for a, b in zip(losses[:40], losses[40:])])


def test_linear_starts_from_small_weights():
    from lookalike.evaluation.linear import _train

    x, y = torch.zeros(8, 4000), torch.arange(8) % 2
    weight, _, _ = _train(x, y, torch.arange(8), 2, (0.0, 0.0), 0, Settings(least_steps=1))
    assert weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert torch.equal(weight[0], weight[1])  # the rates differ in nothing else


def test_batches_walk_through_permutations():
    from lookalike.evaluation.linear import _batches

    row = torch.cat(list(_batches(10, 4, 10, 0)))
    assert row.shape == (40,)
    epochs = row.view(4, 10)
    assert (epochs.sort(1).values == torch.arange(10)).all()
    assert not torch.equal(epochs[0], epochs[1])
    assert len(list(_batches(3, 8, 2, 0))[1]) == 8


def test_linear_depends_on_its_seed_alone():
    (x, y), (a, b) = clusters(300), clusters(100, seed=1)
    one = linear(x, y, a, b, settings=QUICK)
    torch.rand(3)  # moves the global generator
    two = linear(x, y, a, b, settings=QUICK)
    other = linear(x, y, a, b, settings=QUICK, seed=1)
    assert torch.equal(one.weight, two.weight)
    assert torch.equal(one.bias, two.bias)
    assert dataclasses.replace(one, weight=x, bias=x) == dataclasses.replace(two, weight=x, bias=x)
    assert not torch.equal(one.weight, other.weight)


def test_the_global_generator_is_not_drawn_from():
    (x, y), (a, b) = clusters(100), clusters(50, seed=1)
    before = torch.get_rng_state()
    linear(x, y, a, b, settings=dataclasses.replace(QUICK, least_steps=5))
    interval(0.5, 100)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_learning_rate_is_chosen_without_the_test_images():
    (x, y), (a, b) = clusters(300), clusters(100, seed=1)
    honest = linear(x, y, a, b, settings=QUICK)
    wrong = linear(x, y, -a, (b + 1) % 4, settings=QUICK)
    assert (honest.lr, honest.held_out) == (wrong.lr, wrong.held_out)
    assert torch.equal(honest.weight, wrong.weight)
    assert wrong.top1 != honest.top1
    assert tuple(honest.held_out) == QUICK.rates
    assert honest.held_out[honest.lr] == max(honest.held_out.values())


def test_equal_accuracies_are_decided_by_the_loss():
    (x, y), (a, b) = clusters(300, spread=0.1), clusters(100, spread=0.1, seed=1)
    r = linear(x, y, a, b, settings=QUICK)
    assert list(r.held_out.values()).count(1.0) > 3
    assert r.lr >= 0.1  # separable: the loss falls with every rate, until it is zero


def test_the_reported_accuracy_is_the_last_steps_on_the_test_images():
    (x, y), (a, b) = clusters(300), clusters(100, seed=1)
    r = linear(x, y, a, b, settings=QUICK)
    scores = a @ r.weight.T + r.bias
    assert r.top1 == pytest.approx((scores.argmax(1) == b).double().mean().item())
    assert r.top5 == 1.0  # four classes
    assert [r.history[0][0], r.history[-1][0]] == [6, 300]
    assert r.history[-1][1] < r.history[0][1]
    assert [step for step, *_ in r.curve] == [step for step, _ in r.history]
    assert r.curve[-1] == (300, r.top1, r.top5)


def test_a_classifier_that_diverged_is_never_right():
    from lookalike.evaluation.knn import rank

    scores = torch.tensor([[math.nan] * 3, [0.0, math.nan, 1.0], [2.0, 2.0, 1.0]])
    assert rank(scores, torch.tensor([1, 2, 1])).tolist() == [3, 1, 1]


@given(st.lists(st.integers(0, 6), min_size=1, max_size=80), st.integers(0, 2**31))
@settings(max_examples=80, deadline=None)
def test_held_out_part_is_balanced(labels, seed):
    y = torch.tensor(labels)
    counts = y.bincount()
    if counts.max() < 2:
        with pytest.raises(ValueError, match="two training images"):
            hold_out(y, 0.1, seed)
        return
    held = hold_out(y, 0.1, seed)
    for c, n in enumerate(counts.tolist()):
        wanted = 0 if n < 2 else max(1, round(n * 0.1))
        assert held[y == c].sum().item() == wanted
    assert torch.equal(held, hold_out(y, 0.1, seed))


def test_held_out_part_follows_the_seed():
    y = torch.arange(200) % 2
    assert not torch.equal(hold_out(y, 0.1, 0), hold_out(y, 0.1, 1))


def test_interval_is_the_binomials():
    for correct, images in ((0.8, 400), (0.5, 100), (0.02, 5000)):
        low, high = interval(correct, images)
        half = 1.96 * math.sqrt(correct * (1 - correct) / images)
        assert (low, high) == pytest.approx((correct - half, correct + half), abs=0.15 * half + 1 / images)
    assert interval(0.8, 400) == interval(0.8, 400)
    assert interval(1.0, 50) == (pytest.approx(0.025 ** (1 / 50)), 1.0)
    assert interval(0.0, 50) == (0.0, pytest.approx(1 - 0.025 ** (1 / 50)))


# ---------------------------------------------------------------- features


class Pictures:
    """A source of images in memory; None stands for a broken one."""

    def __init__(self, images: list[Tensor | None], labels: Tensor | None = None) -> None:
        self.images, self.labels = images, labels
        self.keys = torch.arange(len(images))
        self.classes = None if labels is None else ("a", "b")
        self.channels = next(len(image) for image in images if image is not None)

    def __len__(self) -> int:
        return len(self.images)

    def name(self, i: int) -> str:
        return f"{i}.png"

    def read(self, i: int, decode_size: int | None) -> Tensor:
        assert decode_size is None  # the reference protocol decodes in full
        if (image := self.images[i]) is None:
            raise BrokenImage(self.name(i), "it is truncated")
        return image


def picture(height, width, seed=0, channels=3):
    """Smooth shapes with some noise, uint8."""
    g = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, channels, 6, 6, generator=g)
    smooth = nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0]
    return (smooth * 230 + torch.rand(channels, height, width, generator=g) * 25).to(torch.uint8)


PLAIN = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
SIZES = [(60, 90), (90, 61), (37, 37), (20, 33), (300, 130), (32, 200)]


@pytest.mark.parametrize("size", [32, 56])
def test_features_meet_the_pipeline_of_torchvision(size):
    from torchvision import transforms as T

    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    reference = T.Compose(
        [
            T.Resize(round(size * 256 / 224), T.InterpolationMode.BICUBIC),
            T.CenterCrop(size),
            T.ToTensor(),
            T.Normalize(mean, std),
        ]
    )
    images = [picture(h, w, seed) for seed, (h, w) in enumerate(SIZES)]
    made = features(nn.Flatten(), Pictures(images), image_size=size, mean=mean, std=std)
    for row, image in zip(made.features, images):
        expected = reference(Image.fromarray(image.permute(1, 2, 0).numpy()))
        difference = (row.view(3, size, size) - expected).abs() * torch.tensor(std).view(3, 1, 1) * 255
        assert difference.max() < 1.01  # Pillow's and torch's fixed-point sums differ by one level at most
        assert difference.mean() < 0.25


def test_other_types_give_the_same_picture():
    image = picture(70, 50)
    wide = (image.to(torch.int32) * 257).to(torch.uint16)
    from_float, from_wide = crop(image.float() / 255, 32), crop(wide, 32)
    torch.testing.assert_close(from_wide, from_float)
    assert from_float.dtype == torch.float32
    assert (crop(image, 32).float() / 255 - from_float).abs().max() < 1.01 / 255
    made = features(nn.Flatten(), Pictures([image, wide, image.float() / 255]), image_size=32, **PLAIN)
    assert (made.features - made.features[0]).abs().max() < 1.01 / 255
    edge = torch.zeros(1, 40, 40)
    edge[..., 20:] = 1.0
    assert crop(edge, 32).min() == 0  # bicubic overshoots
    assert crop(edge, 32).max() == 1


@pytest.mark.parametrize("channels", [1, 4])
def test_any_number_of_channels(channels):
    source = Pictures([picture(40, 40, channels=channels)])
    made = features(nn.Flatten(), source, image_size=32, mean=(0.5,) * channels, std=(0.25,) * channels)
    assert made.features.shape == (1, channels * 32 * 32)
    with pytest.raises(ValueError, match=f"images have {channels} channels?, but mean has 3"):
        features(nn.Flatten(), source, image_size=32, **PLAIN)


def small_encoder():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.5),
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_features_do_not_depend_on_batch_size_or_workers(workers):
    source = Pictures([picture(40, 50, seed) for seed in range(11)], torch.arange(11) % 2)
    encoder = small_encoder()
    whole = features(encoder, source, image_size=32, **PLAIN)
    seen = []
    parts = features(
        encoder,
        source,
        image_size=32,
        batch_size=4,
        workers=workers,
        progress=lambda done, of: seen.append((done, of)),
        **PLAIN,
    )
    torch.testing.assert_close(parts.features, whole.features, rtol=1e-5, atol=1e-6)
    assert seen == [(4, 11), (8, 11), (11, 11)]
    assert whole.features.shape == (11, 8)
    assert whole.features.dtype == torch.float32
    assert torch.equal(parts.labels, source.labels)
    assert parts.names == [f"{i}.png" for i in range(11)]
    assert parts.index.tolist() == list(range(11))


def test_an_untrained_encoder_gets_the_statistics_of_the_images():
    source = Pictures([picture(40, 40, seed) for seed in range(40)])
    fresh = small_encoder()
    state = {name: value.clone() for name, value in fresh.state_dict().items()}
    ready = with_statistics(fresh, source, image_size=32, **PLAIN)
    assert all(torch.equal(value, state[name]) for name, value in fresh.state_dict().items())
    inputs = features(nn.Flatten(), source, image_size=32, **PLAIN).features.view(40, 3, 32, 32)
    maps = fresh[0](inputs).detach()
    torch.testing.assert_close(ready[1].running_mean, maps.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ready[1].running_var, maps.var((0, 2, 3)), rtol=1e-3, atol=1e-5)
    assert ready[1].momentum == fresh[1].momentum
    assert not any(module.training for module in ready.modules())
    without = with_statistics(nn.Sequential(nn.Flatten()), source, image_size=32, **PLAIN)
    assert isinstance(without[0], nn.Flatten)


def test_features_leave_encoder_and_generator_as_they_were():
    encoder = small_encoder().train()
    encoder[1].eval()
    state = {name: value.clone() for name, value in encoder.state_dict().items()}
    modes = [module.training for module in encoder.modules()]
    assert len(set(modes)) == 2
    before = torch.get_rng_state()
    made = features(encoder, Pictures([picture(40, 40)]), image_size=32, **PLAIN)
    assert torch.equal(torch.get_rng_state(), before)
    assert [module.training for module in encoder.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in encoder.state_dict().items())
    weight = torch.ones(8, requires_grad=True)
    (made.features @ weight).sum().backward()  # an inference tensor would refuse

    class Failing(nn.Module):
        def forward(self, x):
            raise RuntimeError("out of memory")

    failing = nn.Sequential(Failing()).train()
    with pytest.raises(RuntimeError, match="out of memory"):
        features(failing, Pictures([picture(40, 40)]), image_size=32, **PLAIN)
    assert failing.training


def test_broken_images_are_left_out_and_listed():
    images = [picture(40, 40, seed) for seed in range(6)]
    good = features(small_encoder(), Pictures(images), image_size=32, **PLAIN)
    holes = [None if i in (1, 2, 5) else image for i, image in enumerate(images)]
    source = Pictures(holes, torch.tensor([0, 1, 0, 1, 1, 0]))
    made = features(small_encoder(), source, image_size=32, batch_size=2, **PLAIN)
    torch.testing.assert_close(made.features, good.features[[0, 3, 4]], rtol=1e-5, atol=1e-6)
    assert made.labels.tolist() == [0, 1, 1]
    assert made.names == ["0.png", "3.png", "4.png"]
    assert made.index.tolist() == [0, 3, 4]
    assert made.broken == [(f"{i}.png", "it is truncated") for i in (1, 2, 5)]
    source.images = [None, None]
    with pytest.raises(ValueError, match=r"None of the 2 images could be read; the first is 0\.png: it is truncated"):
        features(small_encoder(), source, image_size=32, **PLAIN)


def test_an_encoder_must_give_vectors():
    with pytest.raises(ValueError, match=r"\(1, 8, 15, 15\); expected \(B, D\)"):
        features(small_encoder()[:1], Pictures([picture(40, 40)]), image_size=32, **PLAIN)


def photos(folder, change=None):
    """Forty photos in two class folders, one of them broken."""
    for i in range(40):
        path = folder / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        seed = i + 100 if change == "content" else i
        Image.fromarray(picture(40, 44, seed).permute(1, 2, 0).numpy()).save(path)
    (folder / "b/39.png").write_bytes(b"")
    if change == "name":
        (folder / "a/0.png").rename(folder / "a/zero.png")
    if change == "class":
        (folder / "a/0.png").rename(folder / "b/0.png")
    if change == "missing":
        (folder / "a/0.png").unlink()
    return folder


def test_features_of_a_folder(tmp_path):
    source = open_source(photos(tmp_path), labelled=True)
    made = features(small_encoder(), source, image_size=32, workers=2, batch_size=8, **PLAIN)
    assert len(made.features) == 39
    assert [source.classes[y] for y in made.labels] == [name[0] for name in made.names]
    assert [name for name, _ in made.broken] == ["b/39.png"]
    assert made.names == [source.name(i) for i in made.index.tolist()]


def test_fingerprint_notices_every_kind_of_change(tmp_path):
    def of(folder, change=None, labelled=True):
        return fingerprint(open_source(photos(tmp_path / folder, change), labelled=labelled))

    plain = of("plain")
    assert of("elsewhere") == plain
    assert len(plain) == 64
    others = {of(change, change) for change in ("name", "class", "missing", "content")} | {
        of("unlabelled", labelled=False)
    }
    assert len(others - {plain}) == 5
    one, two = (open_source(tmp_path / name, labelled=True) for name in ("plain", "name"))
    assert fingerprint(one, two) != fingerprint(two, one)


def test_fingerprint_does_not_depend_on_file_order(tmp_path):
    photos(tmp_path)
    names = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.png"))
    (tmp_path / "list.txt").write_text("\n".join(names))
    (tmp_path / "turned.txt").write_text("\n".join(reversed(names)))
    one, two, whole = (open_source(tmp_path / name, labelled=True) for name in ("list.txt", "turned.txt", ""))
    assert one.name(0) != two.name(0)
    assert fingerprint(one) == fingerprint(two) == fingerprint(whole)


# ---------------------------------------------------------------- files


def example(labelled=True, n=12, seed=0):
    x, y = clusters(n, 5, 3, 0.5, seed)
    names = [f"folder, with comma/{i} \u00e9.jpg" for i in range(n - 1)] + ["odd \udcff byte.jpg"]
    return Features(x, y if labelled else None, names, torch.arange(n), [])


@pytest.mark.parametrize("labelled", [True, False])
def test_npz_needs_no_pickle(tmp_path, labelled):
    made = example(labelled)
    save_features(tmp_path / "f.npz", made)
    with np.load(tmp_path / "f.npz", allow_pickle=False) as file:
        assert set(file) == {"features", "names"} | ({"labels"} if labelled else set())
        assert np.array_equal(file["features"], made.features.numpy())
        assert file["features"].dtype == np.float32
        assert file["names"].tolist() == made.names
        if labelled:
            assert file["labels"].tolist() == made.labels.tolist()
    assert [path.name for path in tmp_path.iterdir()] == ["f.npz"]


@pytest.mark.parametrize("labelled", [True, False])
def test_csv_gives_every_float_back(tmp_path, labelled):
    made = example(labelled)
    save_features(tmp_path / "f.csv", made)
    with open(tmp_path / "f.csv", newline="", encoding="utf-8", errors="surrogateescape") as file:
        head, *rows = csv.reader(file)
    assert head == ["file", "label", "f0", "f1", "f2", "f3", "f4"]
    assert [row[0] for row in rows] == made.names
    assert [row[1] for row in rows] == ([str(y) for y in made.labels.tolist()] if labelled else [""] * 12)
    values = np.array([row[2:] for row in rows], dtype=np.float64).astype(np.float32)
    assert np.array_equal(values, made.features.numpy())


@pytest.mark.parametrize("labelled", [True, False])
def test_parquet_holds_a_column_of_vectors(tmp_path, labelled):
    parquet = pytest.importorskip("pyarrow.parquet")
    made = example(labelled)
    save_features(tmp_path / "f.PARQUET", made)
    table = parquet.read_table(tmp_path / "f.PARQUET")
    assert table.column_names == ["file", "label", "features"]
    assert table["file"].to_pylist() == [*made.names[:-1], "odd \\udcff byte.jpg"]
    assert table["label"].to_pylist() == (made.labels.tolist() if labelled else [None] * 12)
    assert torch.equal(torch.tensor(table["features"].to_pylist()), made.features)


def test_parquet_without_pyarrow_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'lookalike\[tables\]'"):
        save_features(tmp_path / "f.parquet", example())
    assert not list(tmp_path.iterdir())


def test_an_unknown_suffix_names_the_three(tmp_path):
    with pytest.raises(ValueError, match=r"'\.pkl'; it is written as \.npz, \.parquet or \.csv"):
        save_features(tmp_path / "f.pkl", example())


# ---------------------------------------------------------------- evaluation.json


def test_judge_fills_an_entry():
    train, test = example(n=60), example(n=40, seed=1)
    made = {"image_size": 32}
    (entry,) = run_protocol("knn", train, test, None, 3, None, about=About(made, "abc", "def", "train/", "test/"))
    expected = knn(train.features, train.labels, test.features, test.labels)
    assert (entry.protocol, entry.top1, entry.top5) == ("knn", expected.top1, expected.top5)
    assert entry.interval == interval(expected.top1, 40)
    assert entry.settings == {"image_size": 32, "k": 20, "temperature": 0.07, "also": [10, 100, 200]}
    assert (entry.train_images, entry.test_images, entry.classes, entry.seed) == (60, 40, 3, 3)
    assert (entry.encoder_sha256, entry.data_fingerprint, entry.format) == ("abc", "def", 1)
    assert [row["k"] for row in entry.history] == [10, 20, 100, 200]
    assert entry.history[1]["top1"] == entry.top1
    assert entry.date.endswith("+00:00")
    assert entry.seconds >= 0
    json.dumps(dataclasses.asdict(entry), allow_nan=False)


def test_judge_linear_tells_how_the_rate_was_chosen(monkeypatch):
    monkeypatch.setattr("lookalike.evaluation.protocols.DINOV2", QUICK)
    train, test = example(n=60), example(n=40, seed=1)
    (entry,) = run_protocol("linear", train, test, 3, 0, None)
    expected = linear(train.features, train.labels, test.features, test.labels, settings=QUICK)
    assert (entry.top1, entry.top5, entry.classes) == (expected.top1, expected.top5, 3)
    assert entry.settings == dataclasses.asdict(QUICK)
    assert [row["lr"] for row in entry.history if row.get("chosen")] == [expected.lr]
    assert [row["loss"] for row in entry.history if "loss" in row] == [loss for _, loss in expected.history]
    assert (entry.history[-1]["top1"], entry.history[-1]["top5"]) == (expected.top1, expected.top5)
    json.dumps(dataclasses.asdict(entry), allow_nan=False)


def test_judge_refuses_what_it_cannot_judge():
    with pytest.raises(ValueError, match=r"'knm'\. Choose from knn, linear"):
        run_protocol("knm", example(), example(), None, 0, None)
    with pytest.raises(ValueError, match="test images have no labels"):
        run_protocol("knn", example(), example(labelled=False), None, 0, None)


def test_every_protocol_and_image_size_has_its_own_entry(tmp_path, labelled, monkeypatch):
    monkeypatch.setattr("lookalike.evaluation.protocols.DINOV2", QUICK)
    encoder = backbones.create("test_resnet", image_size=32)
    out = tmp_path / "evaluation.json"
    for size in (None, 64, 32):
        made = evaluate(encoder, labelled / "train", labelled / "test", image_size=size, out=out)
        assert [e.protocol for e in made] == ["knn", "linear"]
        assert all((e.settings["crop"], e.settings["features"]) == ("256/224 centre", "pooled") for e in made)
    found = [(row["protocol"], row["settings"]["image_size"]) for row in json.loads(out.read_text())]
    assert found == [("knn", 64), ("linear", 64), ("knn", 32), ("linear", 32)]


def entry(**change):
    plain = Entry(
        protocol="knn",
        top1=0.5,
        top5=0.9,
        interval=(0.4, 0.6),
        settings={"k": 20, "also": (10, 100)},
        train_images=10,
        test_images=5,
        classes=2,
        encoder_sha256="a",
        data_fingerprint="b",
        seed=0,
        seconds=1.0,
        date="2026-01-01T00:00:00+00:00",
        history=[],
    )
    return dataclasses.replace(plain, **change)


def test_the_same_judgement_replaces_its_entry_and_others_stay(tmp_path):
    path = tmp_path / "evaluation.json"
    others = [
        entry(protocol="linear"),
        entry(settings={"k": 10}),
        entry(encoder_sha256="other"),
        entry(data_fingerprint="other"),
    ]
    record(path, [entry(), *others])
    record(path, [entry(top1=0.75, seed=4, date="2026-02-02T00:00:00+00:00")])
    rows = json.loads(path.read_text())
    assert len(rows) == 5
    assert [row["top1"] for row in rows] == [0.5] * 4 + [0.75]
    assert rows[-1] == {
        "format": 1,
        "protocol": "knn",
        "top1": 0.75,
        "top5": 0.9,
        "interval": [0.4, 0.6],
        "settings": {"k": 20, "also": [10, 100]},
        "train_images": 10,
        "test_images": 5,
        "classes": 2,
        "encoder_sha256": "a",
        "data_fingerprint": "b",
        "seed": 4,
        "seconds": 1.0,
        "date": "2026-02-02T00:00:00+00:00",
        "history": [],
        "train": "",
        "test": "",
        "class_names": [],
        "per_class": [],
        "confusion": [],
        "calibration": None,
        "accuracies": [],
        "deviation": None,
        "measures": {},
        "baseline": None,
    }
    assert [child.name for child in tmp_path.iterdir()] == ["evaluation.json"]


@pytest.mark.parametrize("content", ["[{", "{}", '[{"format": 2}]', '["knn"]', '[{"protocol": "knn"}]'])
def test_a_file_that_is_not_ours_is_never_overwritten(tmp_path, content):
    path = tmp_path / "evaluation.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"evaluation\.json is not .* left as it is"):
        record(path, [entry()])
    assert path.read_text() == content


def test_a_number_that_json_does_not_know_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        record(tmp_path / "evaluation.json", [entry(top1=math.nan)])
    assert not list(tmp_path.iterdir())

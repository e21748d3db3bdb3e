"""The linear probe against torch's SGD and a logistic regression, and how it chooses its learning rate."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.features import QUICK, clusters
from torch import nn

from lookalike.evaluation import Settings, interval, linear
from lookalike.evaluation.linear import DINOV2, hold_out


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

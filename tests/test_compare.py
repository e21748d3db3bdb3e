"""Comparing methods: the budget, the order and its words as known answers, and the command, stopped and gone on."""

import dataclasses
import json
import os
import re
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

import lookalike
from lookalike import backbones, cli, encoders, places, training
from lookalike import core as contract
from lookalike.commands.compare import baseline, cost_meter, record, runner, summary
from lookalike.commands.compare.leakage import shared_images
from lookalike.commands.compare.plan import left_line, plan_line
from lookalike.commands.compare.ranking import (
    Accuracy,
    Training,
    differences,
    not_distinguishable,
    rank,
    score_range,
    training_of,
)
from lookalike.commands.compare.significance import SeedNoise, studentized_range
from lookalike.commands.compare.spec import Comparison, changes, extends
from lookalike.core import Batch, Method
from lookalike.data import open_source
from lookalike.durations import spoken
from lookalike.evaluation import evaluate, protocols
from lookalike.evaluation.linear import DINOV2
from lookalike.methods import DINO, IBOT, METHODS, Entry, SimCLR
from lookalike.optim import Optim
from lookalike.printing import counted
from lookalike.runs import Diverged, Folder, Run
from lookalike.training import timing
from lookalike.views import View

# ---------------------------------------------------------------- the budget


def test_the_speed_is_measured_after_a_warm_up_and_without_filling_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of 5 s at first and 2 s later; 3 s of preparation, and 7 s in which a cache was filled."""
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    module = SimpleNamespace(
        steps_per_epoch=50, done_steps=0, run=SimpleNamespace(cache="ram", accumulate=2, batch_size=8),
        probe_seconds=0.0, loader=SimpleNamespace(waited=7.0),
    )  # fmt: skip
    trainer, pl = cast(Trainer, None), cast(LightningModule, module)
    speed = timing.Speed(budget=600)
    speed.on_fit_start(trainer, pl)
    now[0] += 10

    def steps() -> None:
        for micro in range(100):
            speed.on_train_batch_start(trainer, pl, None, micro)
            now[0] += 2.5 if micro < 2 * timing.WARM_STEPS else 1.0
            module.done_steps += micro % 2
            speed.on_train_batch_end(trainer, pl, None, None, micro)

    with pytest.raises(timing.Measured):
        steps()
    assert module.done_steps == timing.WARM_STEPS + timing.TIMED_STEPS  # 10 s are timed
    assert speed.step == pytest.approx(2.0)
    assert speed.start == pytest.approx(3.0 + timing.WARM_STEPS * (5 - 2))  # what was slow at first is paid once
    assert speed.steps_per_epoch == 50


@pytest.mark.parametrize(
    ("seconds", "left", "expected"),
    [
        (dict.fromkeys("abc", 120.0), dict.fromkeys("abc", 3),
         "3 methods x 3 seeds x 2 min = 18 min of training, then evaluation on 1 test"),
        ({"a": 90.0, "b": 300.0}, {"a": 3, "b": 3},
         "2 methods x 3 seeds: a 3 x 1.5 min, b 3 x 5 min = 20 min of training, then evaluation on 1 test"),
        ({"a": 0.35}, {"a": 2}, "2 of 9 trainings left: a 2 x 0.35 s = 0.7 s of training, then evaluation on 1 test"),
        ({"a": 7200.0, "b": None}, {"a": 3, "b": 3},
         "2 methods x 3 seeds: a 3 x 2 h, b 3 x unknown = at least 6 h of training, then evaluation on 1 test"),
    ],
)  # fmt: skip
def test_the_plan_of_a_comparison(seconds: dict[str, float | None], left: dict[str, int], expected: str) -> None:
    trainings = 9 if len(left) in (1, 3) else 6
    assert plan_line(seconds, left, seeds=3, trainings=trainings, tests=1) == expected


def test_a_plan_of_one_is_no_plural() -> None:
    line = plan_line({"a": 61.0}, {"a": 1}, seeds=1, trainings=1, tests=2)
    assert line == "1 method x 1 seed x 1 min = 1 min of training, then evaluation on 2 tests"
    assert left_line({"a": 60.0, "b": 30.0}, {"a": 1, "b": 4}) == "about 3 min of training left in all"
    assert [spoken(x) for x in (0.0, 9.96, 59.4, 599, 3599, 9000)] == ["0 s", "10 s", "59 s", "10 min", "60 min",
                                                                       "2.5 h"]  # fmt: skip


def test_the_pace_of_a_training_corrects_what_was_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planned are 100 s for 100 steps; they take 2 s each, and 1 s from the 50th on."""
    now, corrected = [0.0], []
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    module = SimpleNamespace(
        done_steps=0, steps=100, run=SimpleNamespace(cache="none", accumulate=1), loader=SimpleNamespace(waited=0.0)
    )
    trainer, pl = cast(Trainer, None), cast(LightningModule, module)
    pace = timing.Pace(100.0, corrected.append)
    pace.on_fit_start(trainer, pl)
    now[0] += 5
    for step in range(100):
        pace.on_train_batch_start(trainer, pl, None, step)
        now[0] += 2.0 if step < 50 else 1.0
        module.done_steps += 1
        pace.on_train_batch_end(trainer, pl, None, None, step)
        if step == 9:
            assert corrected == [pytest.approx(205.0)]  # at a tenth
    assert len(corrected) == 1  # at 60 steps 188 s are expected: within a fifth
    quiet = timing.Pace(205.0, corrected.append)
    quiet.on_fit_start(trainer, pl)
    module.done_steps = 0
    for step in range(100):
        quiet.on_train_batch_start(trainer, pl, None, step)
        now[0] += 2.0
        module.done_steps += 1
        quiet.on_train_batch_end(trainer, pl, None, None, step)
    assert len(corrected) == 1


def test_slow_first_steps_are_no_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    now, corrected = [0.0], list[float]()
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    module = SimpleNamespace(
        done_steps=0, steps=20, run=SimpleNamespace(cache="none", accumulate=2), loader=SimpleNamespace(waited=0.0)
    )
    trainer, pl = cast(Trainer, None), cast(LightningModule, module)
    pace = timing.Pace(80.0, corrected.append)
    pace.on_fit_start(trainer, pl)
    for part in range(40):  # two micro-batches a step
        pace.on_train_batch_start(trainer, pl, None, part)
        now[0] += 10.0 if part < 4 else 1.0
        module.done_steps = (part + 1) // 2
        pace.on_train_batch_end(trainer, pl, None, None, part)
    assert corrected == []  # 76 s in all


def test_the_speed_for_a_number_of_epochs_is_measured_over_a_small_part_of_them() -> None:
    speed = timing.Speed(None, epochs=10)
    speed.steps_per_epoch = 50
    assert speed._enough(0.1) == pytest.approx(timing.TIMED_SHARE * 50)
    assert speed._enough(100.0) == timing.TIMED_SECONDS
    speed.start, speed.step = 3.0, 0.1
    assert speed.seconds(10) == pytest.approx(53.0)


def test_costs_are_carried_on_by_a_resume(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    joules = [1000.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(cost_meter, "energy", lambda: joules[0])
    monkeypatch.setattr(cost_meter, "peak_bytes", lambda: 5)
    monkeypatch.setattr(cost_meter, "reset_peak", lambda: True)
    run = SimpleNamespace(run=SimpleNamespace(cache="none"))
    trainer, pl = cast(Trainer, None), cast(LightningModule, run)
    first, second = cost_meter.Costs(), cost_meter.Costs()
    first.on_fit_start(trainer, pl)
    now[0], joules[0] = 10.0, 1500.0
    second.load_state_dict(first.state_dict() | {"peak": 9})
    now[0], joules[0] = 50.0, 9000.0  # nobody trains
    second.on_fit_start(trainer, pl)
    now[0], joules[0] = 53.0, 9100.0
    assert second.state_dict() == {"seconds": 13.0, "peak": 9, "joules": 600.0}
    monkeypatch.setattr(cost_meter, "energy", lambda: None)
    assert second.state_dict()["joules"] is None


def test_peak_memory_is_forgotten_and_found() -> None:
    if torch.cuda.is_available() or not cost_meter.reset_peak():
        pytest.skip("the peak of this process cannot be told from earlier ones")
    before = cost_meter.peak_bytes()
    block = torch.ones(25_000_000)
    after = cost_meter.peak_bytes()
    assert before is not None
    assert after is not None
    assert 90e6 < after - before < 250e6
    del block
    assert cost_meter.reset_peak()
    assert (cost_meter.peak_bytes() or 0) < after - 50e6


def test_operations_of_a_step_are_counted() -> None:
    """A 1x1 convolution of 3 to 8 channels over 16 x 16 places, then a layer of 8 to 5, for two views of each image.

    Backwards each layer costs once more for its weights, and once more for what it was given, the images excepted.
    """

    class Two(Method):
        """Two layers."""

        @dataclasses.dataclass(frozen=True)
        class Config(contract.Config):
            views: tuple[View, ...] = (View(size=16, count=2),)
            optim: Optim = Optim("sgd", lr=0.1)

        def __init__(self, cfg: Config, backbone: backbones.Backbone) -> None:
            super().__init__(cfg, backbone)
            self.head = nn.Linear(8, 5)

        def forward(self, batch: Batch) -> dict[str, Tensor]:
            return {"loss": torch.stack([self.head(self.backbone(v)).square().mean() for v in batch.views]).sum()}

    net = backbones.create(nn.Sequential(nn.Conv2d(3, 8, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()), image_size=16)
    method = Two(Two.Config(), net).train()
    state = torch.get_rng_state()
    found = cost_meter.gflops_per_image(method, Run(data="", method=Two.Config(), batch_size=4))
    conv, layer = 2 * 256 * 3 * 8, 2 * 8 * 5
    assert found == pytest.approx(2 * (2 * conv + 3 * layer) / 1e9)
    assert method.training
    assert all(p.grad is None for p in method.parameters())
    assert torch.equal(state, torch.get_rng_state())


# ---------------------------------------------------------------- the order


def judged(*top1: float, half: float = 0.02, protocols: tuple[str, ...] = ("knn",)) -> dict[str, dict[str, Accuracy]]:
    """Results on tests a, b, ... by each protocol, with intervals of the test images."""
    return {
        p: {"abcdef"[i]: Accuracy(x, 1.0, (x - half, x + half)) for i, x in enumerate(top1)} for p in protocols
    }  # fmt: skip


def trained(method: str, seed: int, *top1: float, seconds: float = 60.0, verdict: str = "learning") -> Training:
    return Training(
        method=method, seed=seed, folder=f"{method}-seed{seed}", status="done", epochs=10, steps=100, seconds=seconds,
        images_per_s=500.0, peak_memory_gib=1.0 + seed, gflops_per_image=0.1, verdict=verdict, results=judged(*top1),
    )  # fmt: skip


def test_methods_are_ordered_by_the_mean_over_tests_and_seeds() -> None:
    found = rank(
        [
            *(trained("byol", seed, x, 0.2) for seed, x in enumerate((0.30, 0.32, 0.34))),
            *(trained("simclr", seed, x, 0.4) for seed, x in enumerate((0.50, 0.51, 0.52))),
        ]
    )
    assert [r.method for r in found] == ["simclr", "byol"]
    best = found[0]
    assert best.score == pytest.approx((0.51 + 0.4) / 2)
    assert best.deviation == pytest.approx(0.005)  # of the means over the tests
    half = 3.9265 / 2  # Tukey's range of two methods, 4 degrees of freedom
    pooled = ((0.005**2 + 0.01**2) / 2) ** 0.5
    assert best.high - best.score == pytest.approx(half * pooled / 3**0.5, rel=1e-4)
    assert found[1].high - found[1].score == pytest.approx(half * 0.01 / 3**0.5, rel=1e-4)  # its own is larger
    assert best.results["knn"]["a"].mean == pytest.approx(0.51)
    assert best.results["knn"]["a"].deviation == pytest.approx(0.01)
    assert best.results["knn"]["b"].deviation == pytest.approx(0.0)
    assert (best.seeds, best.peak_memory_gib, best.stable, best.remark) == (3, 3.0, True, "")
    assert rank([]) == []


def test_one_seed_has_the_range_of_its_test_images() -> None:
    alone = SeedNoise.of([0.0, 0.0], [1, 1])
    assert score_range([judged(0.5)], alone) == pytest.approx((0.48, 0.52))
    assert score_range([judged(0.5, 0.7)], alone) == pytest.approx((0.6 - 0.02 / 2**0.5, 0.6 + 0.02 / 2**0.5))
    many = score_range([judged(0.5)], SeedNoise.of([0.0] * 14, [1] * 14))
    assert many[1] - 0.5 == pytest.approx(0.02 * 4.743 / 2 / 1.96, rel=1e-3)  # of 14 methods, one is far off by chance
    noise = SeedNoise.of([0.1**2, 0.0], [3, 1])
    half = studentized_range(2, 2) / 2 * 0.1
    assert score_range([judged(0.5)], noise) == pytest.approx((0.5 - half, 0.5 + half))  # what is left of several
    assert score_range([judged(0.99), judged(1.0)], noise)[1] == 1.0  # a share
    (one,) = rank([trained("simclr", 0, 0.5)])
    assert (one.deviation, one.results["knn"]["a"].deviation) == (None, None)


def test_one_seed_shows_no_method_to_be_better() -> None:
    rows = [trained("a", 0, 0.6), trained("b", 0, 0.5), trained("c", 0, 0.59)]
    words = summary.recommendation(rank(rows), rows, [])
    assert words.startswith("Highest score on these images: a")
    assert "c is not significantly different from it" in words
    assert "significantly worse" not in words
    assert "no method is shown to be better than another" in words


def test_seeds_that_agree_by_luck_are_not_taken_at_their_word() -> None:
    """A lucky method has the pooled deviation, a wild one its own."""
    scores = {"lucky": (0.5, 0.5), "usual": (0.40, 0.42), "wild": (0.1, 0.3)}
    found = {r.method: r for r in rank([trained(m, s, x) for m, xs in scores.items() for s, x in enumerate(xs)])}
    assert found["lucky"].deviation == 0
    pooled = ((0 + 0.0002 + 0.02) / 3) ** 0.5
    quantile = studentized_range(3, 3)
    halves = {m: max(r.high - r.score, r.score - r.low) for m, r in found.items()}  # one side of wild is cut at 0
    expected = {"lucky": pooled, "usual": pooled, "wild": 0.02**0.5}
    assert halves == pytest.approx({m: quantile / 2 * d / 2**0.5 for m, d in expected.items()})


def test_a_method_that_collapsed_does_not_widen_the_ranges_of_others() -> None:
    sound = [trained(m, s, x + s / 100) for m, x in (("a", 0.5), ("b", 0.3)) for s in range(3)]
    fallen = [trained("c", s, x, verdict="collapsed" if s else "learning") for s, x in enumerate((0.5, 0.1, 0.1))]
    found = {r.method: r for r in rank(sound + fallen)}
    assert [found[m].remark for m in "abc"] == ["", "", "not significantly different from the best; 2 of 3 collapsed"]
    assert found["a"].high - found["a"].score == pytest.approx(studentized_range(3, 4) / 2 * 0.01 / 3**0.5)


def test_seeds_that_all_agree_leave_the_range_of_the_test_images() -> None:
    rows = [trained(m, s, x) for m, x in (("a", 0.53), ("b", 0.51), ("c", 0.4)) for s in range(3)]
    found = rank(rows)
    assert [r.method for r in not_distinguishable(found)] == ["b"]
    assert found[0].high - found[0].low == pytest.approx(0.04)


def test_methods_that_are_not_significantly_different_are_named() -> None:
    """Three seeds a point apart, three methods: Tukey's range is 4.339 standard errors of 0.577 points."""
    rows = [trained("a", s, x) for s, x in enumerate((0.50, 0.51, 0.52))]
    rows += [trained("near", s, x - 0.0249) for s, x in enumerate((0.50, 0.51, 0.52))]
    rows += [trained("far", s, x - 0.0252) for s, x in enumerate((0.50, 0.51, 0.52))]
    found = rank(rows)
    assert [r.method for r in not_distinguishable(found)] == ["near"]
    assert [r.remark for r in found] == ["", "not significantly different from the best", ""]
    words = summary.recommendation(found, rows, [])
    assert "Best on these images: a, 51.0% by k-NN (49.7% to 52.3%), after 1.0 min of training." in words
    assert "near is not significantly different from it: choose among them by time, memory or stability." in words
    assert "With 3 seeds, differences below 2.5 points are not significant here" in words
    words = summary.recommendation(rank(rows[:3] + rows[6:]), rows[:3] + rows[6:], [])
    assert "All others are significantly worse." in words


def by_protocols(method: str, **of_seeds: tuple[float, ...]) -> list[Training]:
    """A training of each seed, with its score by each protocol."""
    rows = []
    for seed, scores in enumerate(zip(*of_seeds.values())):
        results = {p: judged(x, protocols=(p,))[p] for p, x in zip(of_seeds, scores)}
        rows.append(dataclasses.replace(trained(method, seed, scores[0]), results=results))
    return rows


def test_what_the_first_protocol_does_not_distinguish_others_may() -> None:
    """Equal by k-NN, while the ranges by logistic regression are far apart."""
    rows = by_protocols("a", knn=(0.50, 0.51, 0.52), logistic=(0.80, 0.81, 0.82), linear=(0.6, 0.61, 0.62))
    rows += by_protocols("b", knn=(0.49, 0.50, 0.51), logistic=(0.70, 0.71, 0.72), linear=(0.6, 0.61, 0.62))
    rows += by_protocols("c", knn=(0.49, 0.50, 0.51), logistic=(0.79, 0.80, 0.81), linear=(0.59, 0.6, 0.61))
    found = rank(rows)
    assert [r.remark for r in found] == [
        "",
        "not significantly different from the best by knn, worse by logistic",
        "not significantly different from the best",
    ]
    words = summary.recommendation(found, rows, [])
    assert "b and c are not significantly different from it by k-NN. By logistic b is significantly worse: " in words
    half = studentized_range(3, 6, 0.025) / 2 * 0.01 / 3**0.5
    assert f"b {0.71 - half:.1%} to {0.71 + half:.1%}, a " in words  # two other protocols share the error rate
    assert "Choose among a and c by time, memory or stability." in words
    assert "choose among them" not in words
    # where another protocol has another winner, neither is called the one to take
    rows = by_protocols("a", knn=(0.50, 0.51, 0.52), logistic=(0.70, 0.71, 0.72))
    rows += by_protocols("b", knn=(0.49, 0.50, 0.51), logistic=(0.80, 0.81, 0.82))
    words = summary.recommendation(rank(rows), rows, [])
    assert "By logistic b is significantly better: " in words
    assert "Choose by the protocol that is nearest to what the features are for." in words


def test_other_protocols_together_err_no_more_often_than_the_first() -> None:
    """Ten equal methods, three seeds, two further protocols: 5 % of comparisons may call one different, not 10 %."""
    random, wrong = np.random.default_rng(0), 0
    for _ in range(300):
        rows = []
        for method in range(10):
            scores = {p: tuple(0.5 + 0.01 * random.standard_normal(3)) for p in ("knn", "linear", "logistic")}
            rows += by_protocols(f"m{method}", **scores)
        wrong += bool(differences(rank(rows), rows))
    assert wrong / 300 < 0.08


def test_one_seed_says_nothing_by_other_protocols_either() -> None:
    rows = by_protocols("a", knn=(0.50,), logistic=(0.9,)) + by_protocols("b", knn=(0.49,), logistic=(0.1,))
    assert differences(rank(rows), rows) == {}


def test_equal_scores_are_ordered_by_time() -> None:
    found = rank([trained("slow", 0, 0.5, seconds=9), trained("quick", 0, 0.5, seconds=8)])
    assert [r.method for r in found] == ["quick", "slow"]


def test_what_went_wrong_is_told() -> None:
    rows = [
        trained("a", 0, 0.5),
        trained("a", 1, 0.1, verdict="collapsed"),
        Training(method="b", seed=0, folder="b-seed0", status="failed", error="It cannot be.", verdict="diverged"),
        trained("b", 1, 0.4, verdict="not learning"),
        Training(method="c", seed=0, folder="c-seed0", status="failed", error="No labels."),
        Training(method="c", seed=1, folder="c-seed1", status="failed", error="No labels."),
        trained("d", 0, 0.2),
    ]
    found = {r.method: r for r in rank(rows)}
    assert found.keys() == {"a", "b", "d"}
    assert "1 of 2 collapsed" in found["a"].remark
    assert "1 of 2 diverged; 1 of 2 not learning" in found["b"].remark
    assert [found[m].stable for m in "abd"] == [False, False, True]
    words = summary.recommendation(list(found.values()), rows, [])
    assert "Unstable: b (1 of 2 diverged, 1 of 2 not learning) and a (1 of 2 collapsed)." in words
    assert "c failed: No labels." in words
    assert "b came to its end in 1 of 2 seeds." in words
    assert "Give --seeds 3" not in words  # several were given
    assert words.startswith("Best on these images: b")
    rows = [trained("a", 0, 0.5), trained("b", 0, 0.4)]
    assert "Give --seeds 3 before you rely" in summary.recommendation(rank(rows), rows, [])
    rows = [Training(method="c", seed=s, folder=f"c-seed{s}", status="failed", error="No labels.") for s in (0, 1)]
    assert summary.recommendation([], rows, []) == "No method could be trained and judged. c failed: No labels."


@pytest.mark.parametrize(
    ("seconds", "epochs", "remark"),
    [(110, 5, ""), (79, 5, "took 79% of the budget"), (125, 5, "took 125% of the budget"),
     (300, 1, "one epoch takes 300% of the budget")],
)  # fmt: skip
def test_a_budget_that_was_not_met_is_told(seconds: float, epochs: int, remark: str) -> None:
    row = dataclasses.replace(trained("a", 0, 0.5, seconds=seconds), epochs=epochs)
    assert rank([row], budget_seconds=100)[0].remark == remark
    assert rank([row])[0].remark == ""


def test_the_untrained_network_is_the_measure() -> None:
    rows = [trained("good", s, 0.40 + s / 100, seconds=100) for s in range(3)]
    rows += [trained("quick", s, 0.30 + s / 100, seconds=10) for s in range(3)]
    rows += [trained("weak", s, 0.20 + s / 100) for s in range(3)]
    before = [judged(x) for x in (0.20, 0.21, 0.22)]
    words = summary.recommendation(rank(rows), rows, before)
    assert "The untrained network comes to 21.0% (19.7% to 22.3%)" in words
    assert "weak does not clearly beat it" in words
    assert "Most gain for the time: quick, 10.0 points in 10.0 s" in words
    timed = summary.recommendation(rank(rows), rows, before, timed=True)
    assert "Most gain" not in timed  # all had the same
    assert "by time, memory" not in timed
    only = rows[6:]
    words = summary.recommendation(rank(only), only, before)
    assert words.startswith(
        "No method clearly beats the untrained network, 21.0% (19.2% to 22.8%): give a larger budget"
    )
    assert "The highest score: weak, 21.0%" in words
    assert "Best" not in words
    worse = [trained("worse", s, 0.5 + s / 100) for s in range(3)]
    assert "give a larger budget" in summary.recommendation(rank(worse), worse, [judged(1.0)] * 3)
    easy = [trained("a", s, 1.0) for s in range(3)]
    assert "this test is too easy" in summary.recommendation(rank(easy), easy, [judged(1.0)] * 3)


def test_a_first_that_collapsed_is_not_called_the_best() -> None:
    rows = [trained("fallen", s, 0.50 + s / 100, verdict="collapsed" if s else "learning") for s in range(3)]
    rows += [trained("sound", s, 0.40 + s / 100) for s in range(3)]
    words = summary.recommendation(rank(rows), rows, [judged(0.1)] * 3)
    assert words.startswith("fallen has the highest score, but 2 of its 3 trainings collapsed: do not choose it.")
    assert "The first that did not collapse: sound, 41.0%" in words
    assert "Best" not in words
    assert "significantly worse" not in words


def test_an_unfinished_comparison_says_so_and_makes_no_claim() -> None:
    rows = [trained("a", s, 0.60 + s / 200) for s in range(3)]
    left = [Training(method="b", seed=s, folder=f"b-seed{s}") for s in range(3)]
    words = summary.recommendation(rank(rows + left), rows + left, [judged(0.1)])
    assert words.startswith("Unfinished: 3 of 6 trainings are done. The highest score so far: a, 60.5% by k-NN")
    assert "Best" not in words
    assert "significantly worse" not in words
    left[0] = dataclasses.replace(left[0], status="failed", error="It broke.")
    assert "3 of 6 trainings are done, 1 failed." in summary.recommendation(rank(rows + left), rows + left, [])
    left = [dataclasses.replace(t, status="failed", error="It broke.") for t in left]
    assert summary.recommendation(rank(rows + left), rows + left, []).startswith("Best on these images: a")


def test_who_learns_from_labels_is_told() -> None:
    rows = [dataclasses.replace(trained("supcon", s, 0.6 + s / 100), learns_from_labels=True) for s in range(3)]
    rows += [trained("simclr", s, 0.4 + s / 100) for s in range(3)]
    found = rank(rows)
    assert [r.remark for r in found] == ["learns from labels", ""]
    words = summary.recommendation(found, rows, [])
    assert "supcon learns from labels, which the others do not see. First without labels: simclr, 41.0%." in words
    assert "labels" not in summary.recommendation(rank(rows[3:]), rows[3:], [])


@pytest.mark.parametrize(
    ("seconds", "words"), [(45.04, "45.0 s"), (59.99, "1.0 min"), (580, "9.7 min"), (3599, "1.0 h"), (9000, "2.5 h")]
)
def test_times_are_written_with_their_unit(seconds: float, words: str) -> None:
    rows = [trained("a", 0, 0.5, seconds=seconds)]
    assert f"after {words} of training" in summary.recommendation(rank(rows), rows, [])


def test_what_is_no_accuracy_is_called_recall() -> None:
    names = ("knn", "retrieval", "label-free")
    rows = [dataclasses.replace(trained("a", 0, 0.5), results=judged(0.5, protocols=names))]
    head = summary.table(rank(rows), [], rows)[0]
    assert "knn %  retrieval recall@1 %  label-free recall@1 %" in head


def test_another_protocol_may_have_another_first() -> None:
    rows = [dataclasses.replace(trained(m, 0, 0.5), results=judged(x) | {"linear": judged(y)["knn"]})
            for m, x, y in (("a", 0.5, 0.6), ("b", 0.4, 0.7))]  # fmt: skip
    found = rank(rows)
    assert "By linear b is first." in summary.recommendation(found, rows, [])
    lines = summary.table(found, [judged(0.1, protocols=("knn", "linear"))], rows)
    assert lines[0].split()[:5] == ["method", "knn", "%", "linear", "%"]
    assert lines[1].split()[:4] == ["1", "a", "50.0", "60.0"]
    assert lines[3].split()[:3] == ["untrained", "10.0", "10.0"]


def test_shares_of_the_labels_are_told_apart_where_there_are_several() -> None:
    few, more = (
        SimpleNamespace(protocol="semi", settings={"share": share}, top1=share, top5=1.0, interval=(0.0, 1.0))
        for share in (0.01, 0.1)
    )
    found: dict[str, dict[str, Accuracy]] = {}
    record.add_results(found, "a", cast(Any, [few]))
    assert found == {"semi": {"a": Accuracy(0.01, 1.0, (0.0, 1.0))}}
    found = {}
    record.add_results(found, "a", cast(Any, [few, more]))
    assert list(found) == ["semi 1%", "semi 10%"]
    for entry in (few, more):
        entry.settings["how"] = "logistic"
    tuned = [
        SimpleNamespace(**vars(e) | {"settings": e.settings | {"how": "finetune"}, "top1": e.top1 + 0.5})
        for e in (few, more)
    ]
    found = {}
    record.add_results(found, "a", cast(Any, [few, more, *tuned]))
    assert {name: tests["a"].top1 for name, tests in found.items()} == pytest.approx(
        {"semi 1%": 0.01, "semi 10%": 0.1, "semi-finetune 1%": 0.51, "semi-finetune 10%": 0.6}
    )
    with pytest.raises(ValueError, match="judged twice by semi 1%"):
        record.add_results(found, "a", cast(Any, [few, more]))


def test_a_training_is_read_back_as_it_was_written() -> None:
    row = trained("a", 0, 0.5, 0.6)
    assert training_of(json.loads(json.dumps(dataclasses.asdict(row)))) == row


# ---------------------------------------------------------------- what is asked


ASKED: dict[str, Any] = {"data": "photos", "methods": ("simclr",), "train": ("a",), "test": ("b",)}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"methods": ("simcl",)}, "Did you mean simclr"),
        ({"methods": ()}, "methods names nothing"),
        ({"methods": ("byol", "simclr", "byol")}, "methods names byol twice"),
        ({"methods": ("distill",)}, "Give --teacher"),
        ({"teacher": "runs/big"}, "Add distill"),
        ({"train": ("a", "b")}, "train names 2 folders and test 1"),
        ({"train": ()}, "train names 0 folders"),
        ({"test": ("b", "b")}, "test names b twice"),
        ({"seeds": 0}, "seeds is 0"),
        ({"budget": "soon"}, "budget is 'soon'"),
        ({"devices": 2}, "one device"),
        ({"probe": ("a", "b")}, "probe would take time"),
        ({"protocols": ()}, "protocols names nothing"),
        ({"protocols": ("label-free", "knn")}, "Put another one before it"),
        ({"epochs": 0}, "epochs is 0"),
    ],
)
def test_questions_that_cannot_be(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Comparison(**ASKED | fields)


def test_what_learns_from_labels_alone_is_no_method_to_compare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "classify", Entry("lookalike.methods.simclr", "SimCLR", "labels", "finetune"))
    with pytest.raises(ValueError, match="classify learns no representation"):
        Comparison(**ASKED | {"methods": ("classify",)})


def test_pairs_and_what_changes_the_question() -> None:
    asked = Comparison(**ASKED | {"test": ("b", "c")})
    assert asked.pairs == (("a", "b"), ("a", "c"))
    assert Comparison(**ASKED | {"train": ("a", "d"), "test": ("b", "c")}).pairs == (("a", "b"), ("d", "c"))
    same = dataclasses.replace(asked, workers=3, out="elsewhere", save_every=1)
    assert changes(asked.question(), same.question()) == []
    other = dataclasses.replace(asked, epochs=7, batch_size=64)
    assert changes(asked.question(), other.question()) == [
        "batch_size: 256 there, 64 now", "budget.epochs: 100 there, 7 now"
    ]  # fmt: skip
    timed = dataclasses.replace(asked, budget="2h", epochs=7)
    assert timed.question()["budget"] == {"minutes": 120}
    assert timed.question() == dataclasses.replace(timed, epochs=8, budget="120min").question() | {
        "budget": {"minutes": 120}
    }


def test_questions_that_extend_another() -> None:
    def asked(**fields: Any) -> dict[str, object]:
        question: dict[str, object] = json.loads(json.dumps(Comparison(**ASKED | fields).question()))
        return question

    old = asked(methods=("byol", "simclr"), seeds=2)
    assert extends(old, asked(methods=("simclr", "vicreg", "byol"), seeds=3))
    assert extends(old, asked(methods=("simclr", "byol"), seeds=2))  # another order
    assert extends(old, asked(methods=("byol", "simclr", "distill"), seeds=2, teacher="timm/resnet18"))
    assert not extends(old, asked(methods=("byol", "simclr"), seeds=1))
    assert not extends(old, asked(methods=("byol", "vicreg"), seeds=2))
    assert not extends(old, asked(methods=("byol", "simclr"), seeds=3, batch_size=64))
    taught = asked(methods=("distill",), teacher="timm/resnet18")
    assert not extends(taught, asked(methods=("distill", "byol"), teacher="timm/resnet50"))


def test_test_images_among_those_to_learn_from_are_counted(classed: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(classed, data)
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "class0").symlink_to(data / "class0")
    (tmp_path / "test" / "class1").mkdir()
    (tmp_path / "test" / "class1" / "linked.jpg").symlink_to(data / "class1" / "1.jpg")
    shutil.copy(data / "class1" / "5.jpg", tmp_path / "test" / "class1" / "copy.jpg")
    tests = {"linked": open_source(str(tmp_path / "test")), "apart": open_source(str(classed))}
    assert shared_images(open_source(str(data)), tests) == {"linked": 11}


# ---------------------------------------------------------------- the command


def command(data: Path, *methods: str, labelled: Path, out: Path, more: tuple[str, ...] = ()) -> list[str]:
    return [
        "compare", str(data), *methods, "--train", str(labelled / "train"), "--test", str(labelled / "test"),
        "--backbone", "test_byobnet", "--image-size", "32", "--batch-size", "8", "--workers", "0", "--out", str(out),
        "--no-report", *more,
    ]  # fmt: skip


SHORT = ("--epochs", "1", "--seeds", "2", "--protocols", "knn")


@pytest.fixture(autouse=True)
def _short_probe(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    monkeypatch.setattr(protocols, "DINOV2", dataclasses.replace(DINOV2, least_steps=20))
    if "labelled" in request.fixturenames:  # trainings, whose speed is measured
        monkeypatch.setattr(timing, "WARM_STEPS", 1)
        monkeypatch.setattr(timing, "TIMED_STEPS", 1)


@pytest.fixture(scope="module")
def compared(classed: Path, labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a comparison of two methods that can be trained and one that cannot."""
    out = tmp_path_factory.mktemp("compared") / "out"
    argv = command(classed, "simclr", "ibot", "supcon", labelled=labelled, out=out, more=SHORT)
    assert cli.main([a for a in argv if a != "--no-report"]) == 0
    assert (out / "report.html").is_file()
    return out


def content_of(out: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((out / "compare.json").read_text())
    return content


def numbers(out: Path) -> list[tuple[object, ...]]:
    """All of a comparison that does not depend on the clock."""
    rows = content_of(out)["trainings"]
    names = ("method", "seed", "status", "error", "epochs", "steps", "gflops_per_image", "verdict", "why", "results")
    return [tuple(row[name] for name in names) for row in rows]


def run(capsys: pytest.CaptureFixture[str], argv: list[str], code: int) -> tuple[str, str]:
    capsys.readouterr()
    assert cli.main(argv) == code
    said = capsys.readouterr()
    assert "Traceback" not in said.out + said.err
    return said.out, said.err


def test_all_methods_of_a_seed_begin_with_the_same_network_which_is_the_untrained_one() -> None:
    source = cast(Any, SimpleNamespace())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(baseline, "with_statistics", lambda encoder, *parts, **options: encoder)
        for backbone in ("test_byobnet", "test_vit"):
            run = Run(
                data="", method=SimCLR.Config(), backbone=backbone, image_size=32, batch_size=8, workers=0, seed=3
            )
            kept = baseline.untrained_encoder(run, source).net.state_dict()
            methods: list[type[Method]] = [SimCLR, DINO, *([IBOT] if backbone == "test_vit" else [])]
            for method in methods:
                settled, _ = training.resolve(dataclasses.replace(run, method=method.Config()), 40)  # type: ignore[call-arg]
                begun = training.build(settled).backbone.net.state_dict()
                assert all(torch.equal(value, begun[name]) for name, value in kept.items())


def test_what_a_comparison_leaves_behind(compared: Path, labelled: Path) -> None:
    content = content_of(compared)
    assert content["format"] == 1
    assert content["budget"] == {"epochs": 1}
    assert (content["seeds"], content["image_size"], content["batch_size"]) == ([0, 1], 32, 8)
    assert content["versions"].keys() >= {"lookalike", "torch"}
    test = str(labelled / "test")
    assert content["untrained"]["knn"][test].keys() >= {"top1", "top5", "interval"}
    rows = {(t["method"], t["seed"]): t for t in content["trainings"]}
    assert list(rows) == [(m, s) for s in (0, 1) for m in ("simclr", "ibot", "supcon")]  # all methods once, then again
    for (method, seed), row in rows.items():
        if method == "ibot":
            assert row["status"] == "failed"
            assert "cannot mask patches" in row["error"]
            continue
        assert (row["status"], row["epochs"], row["steps"], row["error"]) == ("done", 1, 5, None)
        assert row["images_per_s"] == pytest.approx(40 / row["seconds"], rel=0.01)
        assert row["gflops_per_image"] > 0
        if not torch.cuda.is_available():
            assert row["energy_kj"] is None
        own = json.loads(Folder(compared / row["folder"]).evaluation.read_text())
        assert row["results"]["knn"][test]["top1"] == own[0]["top1"]
        assert lookalike.load(compared / row["folder"]).dim > 0
        kept = lookalike.runs.read_run(Folder(compared / row["folder"]).run)
        assert (kept.seed, kept.image_size, kept.batch_size, kept.backbone) == (seed, 32, 8, "test_byobnet")
    assert {r["method"] for r in content["ranking"]} == {"simclr", "supcon"}
    assert content["ranking"][0]["results"]["knn"][test].keys() == {"mean", "deviation"}
    assert content["recommendation"].startswith("No method clearly beats the untrained network, 100.0%")
    assert "supcon learns from labels, which the others do not see." in content["recommendation"]
    assert content["device"] == content["question"]["device"]
    assert not (compared / runner.SPEED).exists()


def test_the_same_question_does_nothing_twice(
    compared: Path, classed: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    out = shutil.copytree(compared, tmp_path / "out")
    before = numbers(out)

    def refused(*parts: object, **options: object) -> None:
        raise AssertionError("trained or judged again")

    monkeypatch.setattr(training, "pretrain", refused)
    monkeypatch.setattr(runner, "evaluate", refused)
    argv = command(classed, "simclr", "ibot", "supcon", labelled=labelled, out=out, more=SHORT)
    said, _ = run(capsys, argv, 0)
    assert "ibot failed: test_byobnet cannot mask patches" in said
    assert "untrained" in said
    assert f"Wrote {out / 'compare.json'}" in said
    assert "Next: lookalike embed" in said
    assert numbers(out) == before
    run(capsys, [*argv, "--resume"], 0)
    _, error = run(capsys, [*argv, "--epochs", "2", "--batch-size", "10"], 1)
    assert "budget.epochs: 1 there, 2 now" in error
    assert "batch_size: 8 there, 10 now" in error
    assert "--overwrite" in error
    _, error = run(capsys, [*argv[:3], *argv[4:]], 1)
    assert "methods" in error
    with monkeypatch.context() as patch:
        patch.setattr(runner, "device_name", lambda: "NVIDIA T4")
        _, error = run(capsys, argv, 1)
        assert "device: cpu" in error or torch.cuda.is_available()
        assert "there, NVIDIA T4 now" in error
    _, error = run(capsys, [*argv, "--precision", "fp64"], 1)
    assert "precision: fp32 there, fp64 now" in error or torch.cuda.is_available()
    if not torch.cuda.is_available():
        run(capsys, [*argv, "--precision", "fp32"], 0)  # what it is without the option
    assert numbers(out) == before


def test_a_finished_comparison_of_0_1_is_ranked_anew(
    compared: Path, classed: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = shutil.copytree(compared, tmp_path / "out")
    new = content_of(out)
    old = {k: v for k, v in new.items() if k not in ("error_rate", "untrained_range")}
    old["ranking"] = [r | {"low": 0.0, "high": 0.1, "remark": "not told apart from the best"} for r in new["ranking"]]
    (out / "compare.json").write_text(json.dumps(old | {"recommendation": "b cannot be told apart from it."}))
    argv = command(classed, "simclr", "ibot", "supcon", labelled=labelled, out=out, more=SHORT)
    run(capsys, argv, 0)
    again = content_of(out)
    for name in ("error_rate", "untrained_range", "ranking", "recommendation", "trainings"):
        assert again[name] == new[name]
    assert new["error_rate"] == 0.05
    assert 0 <= new["untrained_range"][0] <= new["untrained_range"][1] <= 1


def test_more_seeds_and_methods_extend_it(
    compared: Path, classed: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    out, trained, pretrain = shutil.copytree(compared, tmp_path / "out"), [], training.pretrain
    before = {row[:2]: row for row in numbers(out)}

    def noting(run: Run, callbacks: Any = ()) -> Any:
        if runner.SPEED not in run.out:
            trained.append(Path(run.out).name)
        if "vicreg" in run.out:
            raise OSError("The disk is full.")  # saves the time
        return pretrain(run, callbacks)

    monkeypatch.setattr(training, "pretrain", noting)
    more = ("--epochs", "1", "--seeds", "3", "--protocols", "knn")
    argv = command(classed, "vicreg", "simclr", "ibot", "supcon", labelled=labelled, out=out, more=more)
    said, _ = run(capsys, argv, 0)
    assert "holds 6 of these trainings: they are kept, 6 are new" in said
    assert trained == ["vicreg-seed0", "vicreg-seed1", "vicreg-seed2", "simclr-seed2", "supcon-seed2"]
    after = {row[:2]: row for row in numbers(out)}
    assert len(after) == 12
    assert {key: after[key] for key in before} == before
    content = content_of(out)
    assert content["seeds"] == [0, 1, 2]
    assert list(content["untrained_by_seed"]) == ["0", "1", "2"]
    assert {r["method"]: r["seeds"] for r in content["ranking"]} == {"simclr": 3, "supcon": 3}
    trained.clear()
    assert "of these trainings" not in run(capsys, argv, 0)[0]
    assert trained == ["vicreg-seed0", "vicreg-seed1", "vicreg-seed2"]  # what failed


def test_test_images_are_not_to_be_learnt_from(
    classed: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    more = ("--epochs", "1", "--seeds", "1", "--protocols", "knn", "retrieval", "label-free")
    argv = command(labelled / "test", "simclr", "supcon", labelled=labelled, out=out, more=more)
    said, _ = run(capsys, argv, 0)
    assert f"WARNING: 16 images of the test {labelled / 'test'} are among those to learn from" in said
    assert "supcon cannot be trained: SupCon learns from labels, and 16 images of the test" in said
    assert "retrieval recall@1 %  label-free recall@1 %" in said
    content = content_of(out)
    assert [row["status"] for row in content["trainings"]] == ["done", "failed"]
    assert content["shared_images"] == {str(labelled / "test"): 16}
    assert "16 images of the test" in content["recommendation"]


def test_init_from_another_network_ends_a_comparison_before_it_trains(
    classed: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(backbones.create("test_vit", image_size=32).export_state(), tmp_path / "vit.pth")
    more = (*SHORT, "--init", str(tmp_path / "vit.pth"))
    _, error = run(capsys, command(classed, "simclr", labelled=labelled, out=tmp_path / "out", more=more), 1)
    assert "have no place in the network: cls_token" in error
    assert not (tmp_path / "out" / "simclr-seed0").exists()


def test_an_error_does_not_outlive_its_cause(
    compared: Path, classed: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    out = shutil.copytree(compared, tmp_path / "out")
    argv = command(classed, "simclr", "ibot", "supcon", labelled=labelled, out=out, more=SHORT)
    content = content_of(out)
    content["trainings"][0]["results"] = {}
    content["trainings"][0]["status"] = "waiting"
    (out / "compare.json").write_text(json.dumps(content))

    def broken(*parts: object, **options: object) -> None:
        raise RuntimeError("a judging that fails once")

    with monkeypatch.context() as patch:
        patch.setattr(runner, "evaluate", broken)
        run(capsys, argv, 0)
    assert content_of(out)["trainings"][0]["error"] == "a judging that fails once"
    run(capsys, argv, 0)
    assert numbers(out) == numbers(compared)


def test_overwrite_replaces_it(
    compared: Path, classed: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = shutil.copytree(compared, tmp_path / "out")
    (out / "supcon-seed0" / "mine.txt").write_text("not the comparison's")
    more = ("--epochs", "2", "--seeds", "1", "--protocols", "knn", "--overwrite")
    run(capsys, command(classed, "simclr", labelled=labelled, out=out, more=more), 0)
    assert [row[:5] for row in numbers(out)] == [("simclr", 0, "done", None, 2)]
    page = {"report.html", "log.txt"}
    assert {p.name for p in out.iterdir()} - {".lock"} - page == {"compare.json", "simclr-seed0", "supcon-seed0"}
    assert [p.name for p in (out / "supcon-seed0").iterdir()] == ["mine.txt"]
    assert Folder(out / "simclr-seed0").rows()[-1]["epoch"] == 2


def test_foreign_files_in_the_folders_of_trainings_stay_and_the_trainings_begin(
    compared: Path, classed: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = shutil.copytree(compared, tmp_path / "out")
    (out / "byol-seed0").mkdir()  # of a comparison that was replaced
    for name in ("simclr-seed0", "byol-seed0"):
        (out / name / "notes.txt").write_text("mine")
    more = ("--epochs", "1", "--seeds", "1", "--protocols", "knn", "--overwrite")
    run(capsys, command(classed, "simclr", "byol", labelled=labelled, out=out, more=more), 0)
    assert [row[:4] for row in numbers(out)] == [("simclr", 0, "done", None), ("byol", 0, "done", None)]
    assert all((out / name / "notes.txt").read_text() == "mine" for name in ("simclr-seed0", "byol-seed0"))
    shutil.rmtree(out / "byol-seed0")
    (out / "byol-seed0").mkdir()
    (out / "byol-seed0" / "log.txt").write_text("mine")  # called as a run's own would be
    more = ("--epochs", "1", "--seeds", "1", "--protocols", "knn", "--overwrite")
    run(capsys, command(classed, "byol", labelled=labelled, out=out, more=more), 1)
    assert (out / "byol-seed0" / "log.txt").read_text() == "mine"


def test_images_and_tests_may_lie_elsewhere_when_the_question_is_asked_again(
    compared: Path, classed: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = shutil.copytree(compared, tmp_path / "out")
    data, judged = shutil.copytree(classed, tmp_path / "data"), shutil.copytree(labelled, tmp_path / "judged")
    argv = command(data, "simclr", "ibot", "supcon", labelled=judged, out=out, more=SHORT)
    said, _ = run(capsys, argv, 0)
    assert "epoch 1/1" not in said  # nothing is trained again
    now, then = content_of(out), content_of(compared)
    assert now["tests"] == now["question"]["test"] == [str(judged / "test")]
    assert now["ranking"][0]["method"] == then["ranking"][0]["method"]
    results = [row["results"] for row in now["trainings"] if row["status"] == "done"]
    assert results
    assert all(list(tests) == [str(judged / "test")] for found in results for tests in found.values())
    (data / "class0" / "0.jpg").unlink()
    _, error = run(capsys, argv, 1)
    assert "asked something else:\n  images: " in error


@pytest.mark.parametrize("named", ["../mine", "simclr-seed9", ".", "/tmp/mine"])
def test_a_comparison_touches_no_folder_that_it_does_not_make(compared: Path, tmp_path: Path, named: str) -> None:
    """`compare.json` may be a stranger's: the folders that it names are not believed."""
    mine = shutil.copytree(compared / "simclr-seed0", tmp_path / "mine")
    out = shutil.copytree(compared, tmp_path / "out")
    content = content_of(out)
    content["trainings"][0]["folder"] = named
    (out / "compare.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"names the folder .*, which no comparison makes"):
        record.read(out / "compare.json")
    assert Folder(mine).weights.is_file()


def test_a_training_that_is_replaced_takes_nothing_of_others_with_it(compared: Path, tmp_path: Path) -> None:
    trained = compared / "simclr-seed0"
    mine = shutil.copytree(trained, tmp_path / "mine")
    (tmp_path / "linked").symlink_to(mine)
    runner._remove(tmp_path / "linked")
    assert Folder(mine).last.is_file()
    notes = tmp_path / "simclr-seed0"  # no run, but files of a run's names
    notes.mkdir()
    (notes / "log.txt").write_text("mine")
    runner._remove(notes)
    assert (notes / "log.txt").read_text() == "mine"
    runner._remove(mine)
    assert not mine.exists()


def test_a_training_is_not_written_into_a_linked_folder(
    compared: Path, classed: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = shutil.copytree(compared, tmp_path / "out")
    shutil.rmtree(out / "simclr-seed0")
    outside = shutil.copytree(compared / "supcon-seed0", tmp_path / "outside")
    before = Folder(outside).last.read_bytes()
    (out / "simclr-seed0").symlink_to(outside)
    more = ("--epochs", "2", "--seeds", "1", "--protocols", "knn", "--overwrite")
    _, said = run(capsys, command(classed, "simclr", labelled=labelled, out=out, more=more), 1)
    assert "No method could be trained" in said
    assert "simclr-seed0 is a link" in said
    assert content_of(out) == content_of(compared)  # the old one stays where nothing of the new one began
    assert Folder(outside).last.read_bytes() == before


def test_overwrite_given_again_goes_on(
    compared: Path, classed: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A complete comparison is replaced; the one that replaces it, once begun, is not."""
    out = shutil.copytree(compared, tmp_path / "out")
    old = Folder(out / "simclr-seed0").last.stat().st_mtime_ns
    argv = command(classed, "simclr", "ibot", "supcon", labelled=labelled, out=out, more=(*SHORT, "--overwrite"))
    stop, pretrain = ["supcon-seed0"], training.pretrain

    def stopped(run: Run, callbacks: Any = ()) -> Any:
        if Path(run.out).name in stop:
            raise KeyboardInterrupt
        return pretrain(run, callbacks)

    monkeypatch.setattr(training, "pretrain", stopped)
    assert "nothing is replaced" not in run(capsys, argv, 130)[0]
    assert [row["status"] for row in content_of(out)["trainings"]][:3] == ["done", "failed", "waiting"]
    made = Folder(out / "simclr-seed0").last.stat().st_mtime_ns
    assert made != old
    stop[:] = ["simclr-seed1"]
    said, _ = run(capsys, argv, 130)
    assert "holds this comparison, unfinished: it goes on, nothing is replaced" in said
    assert Folder(out / "simclr-seed0").last.stat().st_mtime_ns == made
    assert numbers(out)[:3] == numbers(compared)[:3]
    assert content_of(out)["recommendation"].startswith("Unfinished: 2 of 6 trainings are done, 2 failed.")


class Interrupting(Callback):
    """Ctrl-C in the middle of a training."""

    def __init__(self, name: str, step: int) -> None:
        self.name = name
        self.step = step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if Path(trainer.default_root_dir).name == self.name and trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGINT)


def test_a_comparison_that_was_stopped_goes_on(
    compared: Path, classed: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Between training and judging, then in the middle of a training: in the end the numbers of one never stopped."""
    out = tmp_path / "out"
    argv = command(classed, "simclr", "ibot", "supcon", labelled=labelled, out=out, more=SHORT)

    def stopped(encoder: Any, *parts: Any, **options: Any) -> Any:
        if isinstance(encoder, Path):
            raise KeyboardInterrupt
        return evaluate(encoder, *parts, **options)

    with monkeypatch.context() as patch:
        patch.setattr(runner, "evaluate", stopped)
        said, _ = run(capsys, argv, 130)
    assert "the same command goes on with it" in said
    first = content_of(out)["trainings"][0]
    assert (first["status"], first["results"]) == ("waiting", {})
    assert first["seconds"] > 0
    written = Folder(out / "simclr-seed0").last.stat().st_mtime_ns

    asked = Comparison(
        data=str(classed), methods=("simclr", "ibot", "supcon"), train=(str(labelled / "train"),),
        test=(str(labelled / "test"),), backbone="test_byobnet", image_size=32, batch_size=8, workers=0, epochs=1,
        seeds=2, protocols=("knn",), out=str(out),
    )  # fmt: skip
    capsys.readouterr()
    with pytest.raises(KeyboardInterrupt):
        lookalike.compare(asked, [Interrupting("supcon-seed0", 2)])
    said = capsys.readouterr().out
    assert "Stopped after step 2 of 5; all is saved.\n" in said
    assert "Go on with" not in said + Folder(out / "supcon-seed0").log.read_text()  # one instruction alone:
    assert said.endswith(f"Stopped. {out} holds what was done; the same command goes on with it.\n")
    assert re.search(r"^Plan: 3 of 4 trainings left: (simclr 1|supcon 2) x .* of training, then evaluation on 1 test$",
                     said, re.MULTILINE)  # fmt: skip
    rows = content_of(out)["trainings"]
    assert [row["status"] for row in rows] == ["done", "failed", "waiting", "waiting", "failed", "waiting"]
    assert rows[2]["epochs"] == 1
    assert rows[2]["seconds"] is None
    assert content_of(out)["ranking"][0]["method"] == "simclr"  # what is known so far

    said, _ = run(capsys, argv, 0)
    assert Folder(out / "simclr-seed0").last.stat().st_mtime_ns == written
    assert "[3/6] supcon, seed 0" in said
    assert "weights     step 2 of" in said
    assert numbers(out) == numbers(compared)
    assert Folder(out / "supcon-seed0").rows()[-1]["loss"] == Folder(compared / "supcon-seed0").rows()[-1]["loss"]


def test_a_budget_of_time(
    classed: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    more = ("--budget", "0.3s", "--seeds", "2", "--protocols", "knn", "--cache", "ram")
    argv = command(classed, "moco_v2", labelled=labelled, out=out, more=more)
    monkeypatch.setattr(timing, "TIMED_STEPS", 2)
    with monkeypatch.context() as patch:
        patch.setattr(runner, "spent", interrupted)
        said, _ = run(capsys, argv, 130)
    assert said.startswith("Plan: 1 method x 2 seeds x 0.3 s = 0.6 s of training, then evaluation on 1 test\n")
    assert "Measuring the speed of moco_v2" in said
    epochs = content_of(out)["trainings"][0]["epochs"]
    assert epochs >= 1
    assert f"{counted(epochs, 'epoch')} in 0.3s" in said
    assert not (out / runner.SPEED).exists()
    said, _ = run(capsys, argv, 0)
    assert "Measuring" not in said  # all trainings of a method have the same epochs
    content = content_of(out)
    assert content["budget"] == {"minutes": 0.3 / 60}
    assert [row["epochs"] for row in content["trainings"]] == [epochs, epochs]
    assert all(row["seconds"] > 0 for row in content["trainings"])
    monkeypatch.setattr(timing, "WARM_STEPS", 1)
    tiny = ("--budget", "0.001s", "--seeds", "1", "--protocols", "knn", "--overwrite")
    (out / runner.SPEED).mkdir()
    (out / runner.SPEED / "mine.txt").write_text("mine")
    killed = shutil.copytree(out / "moco_v2-seed0", out / f"{runner.SPEED}-killed")
    text = Folder(killed).run.read_text()
    Folder(killed).run.write_text(text.replace(f"\nepochs: {epochs}\n", f"\nepochs: {runner.MANY_EPOCHS}\n"))
    said, _ = run(capsys, command(classed, "moco_v2", labelled=labelled, out=out, more=tiny), 0)
    assert "WARNING: one epoch of moco_v2 takes longer than the budget of 0.001s" in said
    assert [path.name for path in out.rglob("*") if runner.SPEED in str(path)] == [runner.SPEED, "mine.txt"]
    assert content_of(out)["trainings"][0]["epochs"] == 1
    assert "one epoch takes" in content_of(out)["ranking"][0]["remark"]


def interrupted(*parts: object) -> None:
    raise KeyboardInterrupt


def test_several_tests_and_a_teacher(
    classed: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = tmp_path / "teacher"
    encoders.save(Folder(teacher), backbones.create("test_vit", image_size=32), method="none", epochs=0,
                  dtype=torch.uint8)  # fmt: skip
    out = tmp_path / "out"
    more = ("--train", str(classed), "--test", str(labelled / "train"), "--teacher", str(teacher), "--epochs", "1",
            "--seeds", "1", "--protocols", "knn", "linear")  # fmt: skip
    said, _ = run(capsys, command(classed, "distill", labelled=labelled, out=out, more=more), 0)
    content = content_of(out)
    assert content["train"] == [str(labelled / "train"), str(classed)]
    tests = [str(labelled / "test"), str(labelled / "train")]
    assert content["tests"] == tests
    (row,) = content["ranking"]
    assert {p: list(found) for p, found in row["results"].items()} == {"knn": tests, "linear": tests}
    assert row["score"] == pytest.approx(sum(row["results"]["knn"][t]["mean"] for t in tests) / 2)
    assert list(content["untrained"]["linear"]) == tests
    assert f"knn on {tests[1]}: distill" in said
    assert "the mean over 2 tests" in content["recommendation"]
    assert f"teacher: {teacher}" in Folder(out / "distill-seed0").run.read_text()


def test_what_cannot_be_is_found_before_anything_is_trained(
    photos: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    said, error = run(capsys, command(photos, "supcon", "ibot", labelled=labelled, out=out, more=SHORT), 1)
    assert "supcon cannot be trained: SupCon learns from labels" in said
    assert "No method could be trained and judged" in error
    content = content_of(out)
    assert [row["status"] for row in content["trainings"]] == ["failed"] * 4
    assert content["ranking"] == []
    assert content["recommendation"].startswith("No method could be trained and judged. supcon failed: SupCon learns")
    assert {p.name for p in out.iterdir()} - {".lock"} == {"compare.json"}


def test_a_method_that_diverges_does_not_stop_the_others(
    classed: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, tried, pretrain = tmp_path / "out", [], training.pretrain

    def failing(run: Run, callbacks: Any = ()) -> Any:
        if runner.SPEED not in run.out:
            tried.append(Path(run.out).name)
        if run.out.endswith("byol-seed0"):
            raise Diverged("The gradients were not finite.")
        if run.out.endswith("simsiam-seed0"):
            raise OSError("The disk is full.")
        return pretrain(run, callbacks)

    monkeypatch.setattr(training, "pretrain", failing)
    more = ("--epochs", "1", "--seeds", "1", "--protocols", "knn")
    argv = command(classed, "byol", "simsiam", "moco_v2", labelled=labelled, out=out, more=more)
    said, _ = run(capsys, argv, 0)
    assert tried == ["byol-seed0", "simsiam-seed0", "moco_v2-seed0"]
    assert "byol failed: The gradients were not finite." in said
    rows = content_of(out)["trainings"]
    assert [(row["status"], row["verdict"]) for row in rows[:2]] == [("failed", "diverged"), ("failed", None)]
    tried.clear()
    run(capsys, argv, 0)
    assert tried == ["simsiam-seed0"]  # a divergence would come again, a full disk need not


def test_the_command_refuses_with_one_message(
    classed: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    usual = command(classed, "simclr", labelled=labelled, out=out, more=SHORT)
    for change, code, words in (
        (["--budget", "2h"], 2, "exclude each other"),
        (["--seeds", "0"], 2, "seeds is 0"),
        (["--protocols", "nn"], 1, "no protocol 'nn'"),
        (["--resume"], 1, "nothing to go on|to go on with"),
        (["--batch-size", "4000"], 1, "4000"),
        (["--test", str(classed / "class0")], 1, ""),
    ):
        _, error = run(capsys, [*usual, *change], code)
        assert any(word in error for word in words.split("|")), error
    assert "Did you mean simclr" in run(capsys, command(classed, "simcrl", labelled=labelled, out=out), 2)[1]
    nowhere = run(capsys, command(tmp_path / "none", "simclr", labelled=labelled, out=out, more=SHORT), 1)[1]
    assert "does not exist" in nowhere
    assert not out.exists()
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    assert "not empty" in run(capsys, usual, 1)[1]
    Folder(out).run.write_text("method: simclr")
    assert "holds a run" in run(capsys, usual, 1)[1]
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "compare.json").write_text("{")
    broken = command(classed, "simclr", labelled=labelled, out=tmp_path / "broken", more=SHORT)
    assert "is not JSON" in run(capsys, broken, 1)[1]
    shown = run(capsys, ["compare", "--help"], 0)[0]
    assert "lookalike compare DATA METHOD" in shown
    assert "Passes over the images" in shown


def files(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file() and p.name != ".lock"}


@pytest.mark.parametrize("error", [OSError("no key for the logger"), KeyboardInterrupt()], ids=["fails", "stopped"])
def test_a_comparison_is_not_replaced_before_a_training_of_the_new_one_has_made_a_step(
    error: BaseException, compared: Path, classed: Path, labelled: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    out = shutil.copytree(compared, tmp_path / "out")
    before = files(out)

    def fails(run: Run, callbacks: Any = ()) -> Any:
        raise error

    monkeypatch.setattr(training, "pretrain", fails)
    more = ("--epochs", "2", "--seeds", "1", "--protocols", "knn", "--overwrite")
    argv = command(classed, "simclr", labelled=labelled, out=out, more=more)
    said, failed = run(capsys, argv, 1 if isinstance(error, OSError) else 130)
    assert files(out) == before
    assert ("no key for the logger. The comparison that was there is as it was" in failed) == isinstance(error, OSError)
    assert ("holds the comparison that was to be replaced" in said) != isinstance(error, OSError)
    monkeypatch.setattr(places, "find_spec", lambda name: None)
    _, failed = run(capsys, [*argv, "--logger", "wandb"], 1)
    assert "pip install 'lookalike[wandb]'" in failed
    assert files(out) == before


@pytest.mark.parametrize("name", ["../victim", "..", "", "VICTIM", "linked", 5, None])
def test_a_comparison_names_no_folder_outside_of_its_own(
    name: object, compared: Path, classed: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    victim = shutil.copytree(compared / "simclr-seed0", tmp_path / "victim")
    out = shutil.copytree(compared, tmp_path / "out")
    (out / "linked").symlink_to(victim)
    content = content_of(out)
    for row in content["trainings"]:
        row["folder"] = str(victim) if name == "VICTIM" else name
    (out / "compare.json").write_text(json.dumps(content))
    before = files(victim)
    more = ("--epochs", "2", "--seeds", "1", "--protocols", "knn", "--overwrite")
    argv = command(classed, "simclr", labelled=labelled, out=out, more=more)
    _, failed = run(capsys, argv, 1)
    assert files(victim) == before
    assert "Move it away, or give another --out." in failed
    assert "which no comparison makes" in failed


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"format": 1}', '{"format": 1, "trainings": 5, "untrained_by_seed": {}}', "[]"]
)
def test_a_comparisons_file_that_is_none_is_refused_in_a_sentence(
    text: str, compared: Path, classed: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/compare.json").write_text(text)
    argv = command(classed, "simclr", labelled=labelled, out=tmp_path / "out", more=SHORT)
    for more in ([], ["--overwrite"]):
        _, failed = run(capsys, [*argv, *more], 1)
        assert "Move it away, or give another --out." in failed
        assert len(failed) < 500
    assert (tmp_path / "out/compare.json").read_text() == text


def test_a_comparison_is_not_replaced_by_one_that_starts_from_its_weights(
    classed: Path, labelled: Path, compared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = shutil.copytree(compared, tmp_path / "compared")
    weights = next(path for path in sorted(out.iterdir()) if (path / "encoder.safetensors").is_file())
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.name != ".lock"}
    more = ("--epochs", "2", "--seeds", "1", "--protocols", "knn", "--overwrite", "--init", str(weights))
    _, said = run(capsys, command(classed, "simclr", labelled=labelled, out=out, more=more), 1)
    assert "lies in the comparison that --overwrite replaces. Copy it, or give another --out." in said
    assert {path: path.read_bytes() for path in before} == before

"""`compare`'s claims about which method is worse: how often they are wrong, and what they find, by simulation.

All of it runs through the functions that make the ranking. Scores are those of methods over seeds.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lookalike.commands.compare import summary
from lookalike.commands.compare.ranking import Accuracy, Training, rank
from lookalike.commands.compare.significance import ERROR_RATE, Floats, SeedNoise, significant, studentized_range

COMPARISONS = 4000
CELLS = [(methods, seeds) for methods in (2, 3, 5, 10, 14) for seeds in (2, 3, 5)]


def at_most(rate: float) -> float:
    """What a rate stays below in so many comparisons, but once in 700."""
    return rate + 3 * (rate * (1 - rate) / COMPARISONS) ** 0.5


def drawn(methods: int, seeds: int) -> Floats:
    return np.random.default_rng(methods * 100 + seeds).standard_normal((COMPARISONS, methods, seeds))


def called_worse(scores: Floats, seeds: Any = None) -> Floats:
    """Whether each method is called worse than the first one: (comparisons, methods, seeds) -> (comparisons, methods).

    `seeds` says how many of each method came to their end, the first ones.
    """
    counts = np.full(scores.shape[1], scores.shape[2]) if seeds is None else np.asarray(seeds)
    kept = np.where(np.arange(scores.shape[2]) < counts[:, None], scores, np.nan)
    means = np.nanmean(kept, -1)
    variances = np.nansum((kept - means[..., None]) ** 2, -1) / np.maximum(counts - 1, 1)
    half = SeedNoise.of(variances, counts).half_range(variances, counts)
    best = means.argmax(-1)[:, None]
    found: Floats = significant(means.max(-1, keepdims=True) - means, np.take_along_axis(half, best, 1), half)
    return found


def errs(scores: Floats, seeds: Any = None) -> float:
    """How often at least one method is called worse, though all are equal."""
    return float(called_worse(scores, seeds).any(-1).mean())


@pytest.mark.parametrize(("methods", "seeds"), CELLS)
def test_of_equal_methods_one_is_called_worse_in_five_percent_of_comparisons_at_most(methods: int, seeds: int) -> None:
    assert ERROR_RATE == 0.05
    noise = drawn(methods, seeds)
    assert 0.02 < errs(noise) < at_most(0.05)
    # a seed decides initial weights and order for all methods: what they share does not tell them apart
    shared = np.random.default_rng(1).standard_normal((COMPARISONS, 1, seeds))
    assert errs((noise + shared) / 2**0.5) < 0.05
    noise[:, 0] -= 8  # a method that is worse does not make others differ
    assert called_worse(noise)[:, 1:].any(-1).mean() < at_most(0.05)


@pytest.mark.parametrize(("methods", "seeds"), CELLS)
def test_a_method_of_three_times_the_deviation_is_called_better_or_worse_in_eight_percent_at_most(
    methods: int, seeds: int
) -> None:
    """Tukey's range with the pooled deviation alone would err in 16 % of comparisons of 14 methods."""
    wild = drawn(methods, seeds) * np.where(np.arange(methods) == 0, 3, 1)[:, None]
    assert errs(wild) < at_most(0.082 if seeds == 2 else 0.06)


@pytest.mark.parametrize(("methods", "seeds"), [(2, 2), (2, 5), (3, 3), (5, 2), (14, 3)])
def test_a_method_that_failed_in_some_seeds_keeps_the_error_rate(methods: int, seeds: int) -> None:
    for left in {1, seeds - 1}:
        assert errs(drawn(methods, seeds), [left] + [seeds] * (methods - 1)) < at_most(0.05)


@pytest.mark.parametrize(("methods", "seeds"), [(2, 2), (2, 5), (5, 3), (14, 2)])
def test_accuracies_on_a_few_test_images_keep_the_error_rate(methods: int, seeds: int) -> None:
    """They are multiples of 1/100 then, and seeds agree by chance."""
    hits = np.random.default_rng(0).binomial(100, 0.7, (COMPARISONS, methods, seeds))
    assert errs(hits / 100) < at_most(0.05)


@pytest.mark.parametrize("methods", [2, 5, 14])
def test_with_one_seed_test_images_alone_call_a_method_worse_in_five_percent_at_most(methods: int) -> None:
    images = 500
    top1 = np.random.default_rng(0).binomial(images, 0.6, (COMPARISONS, methods)) / images
    half = SeedNoise.of([0.0] * methods, [1] * methods).of_one_seed() * 1.96 * np.sqrt(top1 * (1 - top1) / images)
    best = top1.argmax(-1)[:, None]
    found = significant(top1.max(-1, keepdims=True) - top1, np.take_along_axis(half, best, 1), half)
    assert found.any(-1).mean() < at_most(0.05)


@pytest.mark.parametrize(("methods", "seeds"), [(1, 3), (2, 2), (5, 3), (14, 2)])
def test_methods_that_learnt_nothing_beat_the_untrained_network_in_five_percent_at_most(
    methods: int, seeds: int
) -> None:
    scores = np.random.default_rng(3).standard_normal((COMPARISONS, methods + 1, seeds))
    counts = np.full(methods, seeds)
    means, variances = scores.mean(-1), scores.var(-1, ddof=1)
    noise = SeedNoise.of(variances[:, 1:], counts)
    half, before = noise.half_range(variances[:, 1:], counts), noise.half_range(variances[:, :1], seeds)
    assert significant(means[:, 1:] - means[:, :1], half, before).any(-1).mean() < at_most(0.05)


def trainings(scores: Floats, seeds: Any) -> list[Training]:
    """Of one comparison: (methods, seeds)."""
    return [
        Training(
            method=f"m{method:02}", seed=seed, folder="", status="done", seconds=1.0, images_per_s=1.0, epochs=1,
            results={"knn": {"test": Accuracy(float(top1), 1.0, (0.0, 1.0))}},
        )
        for method, of_seeds in enumerate(scores)
        for seed, top1 in enumerate(of_seeds[: seeds[method]])
    ]  # fmt: skip


def test_the_ranking_says_what_these_functions_say() -> None:
    """The simulations stand for `rank` and the recommendation, with one method that lacks a seed."""
    counts = [2, 3, 3, 3, 3]
    scores = 0.5 + drawn(5, 3)[:150] / 50 + np.linspace(0, 0.1, 5)[:, None]
    for of_one, worse in zip(scores, called_worse(scores, counts)):
        rows = trainings(of_one, counts)
        ranking = rank(rows)
        even = {r.method for r in ranking[1:] if r.remark == "not significantly different from the best"}
        assert even == {f"m{i:02}" for i in np.flatnonzero(~worse)} - {ranking[0].method}
        assert {r.method for r in ranking if r.high >= ranking[0].low} <= even | {ranking[0].method}
        words = summary.recommendation(ranking, rows, [])
        assert ("All other methods are significantly worse." in words) == (not even)


@pytest.mark.parametrize(
    ("methods", "freedom", "quantile"), [(2, 2, 6.085), (3, 10, 3.877), (5, 20, 4.232), (10, 30, 4.824)]
)
def test_the_quantiles_are_those_of_printed_tables(methods: int, freedom: int, quantile: float) -> None:
    assert studentized_range(methods, freedom) == pytest.approx(quantile, abs=1e-3)


def test_differences_of_the_table_in_the_docs_are_found_in_eighty_percent() -> None:
    text = (Path(__file__).parents[1] / "docs" / "comparing.md").read_text()
    table = text[text.index("| found in 80 %") :]
    head, _, *lines = table.split("\n\n")[0].splitlines()
    methods = [int(n) for n in re.findall(r"(\d+) methods", head)]
    checked = 0
    for line in lines:
        seeds, *cells = [float(n) for n in re.findall(r"[\d.]+", line)]
        for k, difference in zip(methods, cells, strict=True):
            scores = drawn(k, int(seeds))
            scores[:, 0] += difference
            assert called_worse(scores)[:, -1].mean() == pytest.approx(0.8, abs=0.03), (k, seeds)
            checked += 1
    assert checked == len(CELLS)

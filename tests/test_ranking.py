"""The order of a comparison's methods and its words, as known answers."""

import dataclasses
import json
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from lookalike.commands.compare import record, summary
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
    assert score_range([judged(0.99), judged(1.0)], noise)[1] == 1.0  # a fraction
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
    assert "With 3 seeds, differences below 2.5 points are not significant." in words
    words = summary.recommendation(rank(rows[:3] + rows[6:]), rows[:3] + rows[6:], [])
    assert "All other methods are significantly worse." in words


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
    assert "b and c are not significantly different from it by k-NN. By logistic, b is significantly worse: " in words
    half = studentized_range(3, 6, 0.025) / 2 * 0.01 / 3**0.5
    assert f"b {0.71 - half:.1%} to {0.71 + half:.1%}, a " in words  # two other protocols share the error rate
    assert "Choose among a and c by time, memory or stability." in words
    assert "choose among them" not in words
    # where another protocol has another winner, neither is called the one to take
    rows = by_protocols("a", knn=(0.50, 0.51, 0.52), logistic=(0.70, 0.71, 0.72))
    rows += by_protocols("b", knn=(0.49, 0.50, 0.51), logistic=(0.80, 0.81, 0.82))
    words = summary.recommendation(rank(rows), rows, [])
    assert "By logistic, b is significantly better: " in words
    assert "Choose by the protocol that is closest to your use of the features." in words


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
    assert "b finished in 1 of 2 seeds." in words
    assert "Give --seeds 3" not in words  # several were given
    assert words.startswith("Best on these images: b")
    rows = [trained("a", 0, 0.5), trained("b", 0, 0.4)]
    assert "Give --seeds 3 before you rely" in summary.recommendation(rank(rows), rows, [])
    rows = [Training(method="c", seed=s, folder=f"c-seed{s}", status="failed", error="No labels.") for s in (0, 1)]
    assert summary.recommendation([], rows, []) == "No method could be trained and evaluated. c failed: No labels."


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
    assert "The untrained network scores 21.0% (19.7% to 22.3%)." in words
    assert "weak is not significantly better than it." in words
    assert "Largest gain per training time: quick, 10.0 points in 10.0 s." in words
    timed = summary.recommendation(rank(rows), rows, before, timed=True)
    assert "Largest gain" not in timed  # all had the same
    assert "by time, memory" not in timed
    only = rows[6:]
    words = summary.recommendation(rank(only), only, before)
    assert words.startswith(
        "No method is significantly better than the untrained network, 21.0% (19.2% to 22.8%): give a larger budget"
    )
    assert "Highest score: weak, 21.0%" in words
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
    assert "Highest score without a collapse: sound, 41.0%" in words
    assert "Best" not in words
    assert "significantly worse" not in words


def test_an_unfinished_comparison_says_so_and_makes_no_claim() -> None:
    rows = [trained("a", s, 0.60 + s / 200) for s in range(3)]
    left = [Training(method="b", seed=s, folder=f"b-seed{s}") for s in range(3)]
    words = summary.recommendation(rank(rows + left), rows + left, [judged(0.1)])
    assert words.startswith("Unfinished: 3 of 6 trainings are done. Highest score so far: a, 60.5% by k-NN")
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
    assert "supcon learns from labels, which the other methods do not use." in words
    assert "Highest score without labels: simclr, 41.0%." in words
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
    assert "By linear, b ranks first." in summary.recommendation(found, rows, [])
    lines = summary.table(found, [judged(0.1, protocols=("knn", "linear"))], rows)
    assert lines[0].split()[:5] == ["method", "knn", "%", "linear", "%"]
    assert lines[1].split()[:4] == ["1", "a", "50.0", "60.0"]
    assert lines[3].split()[:3] == ["untrained", "10.0", "10.0"]


def test_results_of_several_label_fractions_are_named_by_them() -> None:
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
    with pytest.raises(ValueError, match="two results named semi 1%"):
        record.add_results(found, "a", cast(Any, [few, more]))


def test_a_training_is_read_back_as_it_was_written() -> None:
    row = trained("a", 0, 0.5, 0.6)
    assert training_of(json.loads(json.dumps(dataclasses.asdict(row)))) == row

"""The order of methods that were compared: pure functions of what their trainings came to."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, median, stdev
from typing import Any, Literal

ERRORS = 2.0
"""Standard errors to each side of a mean over seeds. Two means whose ranges just touch are 2.8 standard errors of their
difference apart: with three seeds chance alone does that about once in 20 pairs, with two about once in 10."""
OFF_BUDGET = 0.2
"""A training that took so much more or less than its budget, as a share of it, is reported."""


@dataclass(frozen=True)
class Accuracy:
    """How one encoder did on one test."""

    top1: float
    """Share of the test images, in [0, 1]."""
    top5: float
    interval: tuple[float, float]
    """95 % interval of `top1` over the test images."""


Results = Mapping[str, Mapping[str, Accuracy]]
"""By protocol, then by test."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """One training of a comparison, as it stands in `compare.json`."""

    method: str
    seed: int
    folder: str
    """Its run's folder, below that of the comparison."""
    learns_from_labels: bool = False
    """Whether the method is given the labels of the images that it learns from."""
    status: Literal["done", "failed", "waiting"] = "waiting"
    error: str | None = None
    final: bool = False
    """Whether a failure would only come again."""
    epochs: int | None = None
    """Set once the training has begun."""
    steps: int | None = None
    seconds: float | None = None
    """Set once the training is over; see `costs.Spent`."""
    images_per_s: float | None = None
    """Over all these seconds."""
    peak_memory_gib: float | None = None
    gflops_per_image: float | None = None
    """10^9 operations of a training step per image."""
    energy_kj: float | None = None
    verdict: str | None = None
    why: str | None = None
    results: Results = dataclasses.field(default_factory=dict)


def training_of(row: Mapping[str, Any]) -> Training:
    """A training as `compare.json` holds it."""
    results = {
        protocol: {test: Accuracy(a["top1"], a["top5"], tuple(a["interval"])) for test, a in tests.items()}
        for protocol, tests in row["results"].items()
    }
    return Training(**{**row, "results": results})


@dataclass(frozen=True)
class Mean:
    """Over seeds."""

    mean: float
    deviation: float | None
    """Standard deviation; None of one seed."""


@dataclass(frozen=True, kw_only=True)
class Rank:
    """One method's place."""

    method: str
    seeds: int
    """Trainings that came to their end."""
    score: float
    """Top-1 by the first protocol: the mean over the tests, then over the seeds; in [0, 1]."""
    low: float
    """The score's range goes from here ..."""
    high: float
    """... to here: two standard errors over the seeds (by the median of all methods' deviations where its own is less);
    of a single seed the 95 % interval over the test images, or two of these deviations where that is more."""
    deviation: float | None
    """Standard deviation of the score over the seeds."""
    results: Mapping[str, Mapping[str, Mean]]
    """By protocol, then by test."""
    epochs: int
    seconds: float
    """Mean of a training."""
    images_per_s: float
    peak_memory_gib: float | None
    """The largest."""
    gflops_per_image: float | None
    energy_kj: float | None
    """Mean of a training."""
    stable: bool
    """Whether no training failed, diverged or collapsed."""
    remark: str
    """What must be known beside the figures; may be empty."""


def score_of(results: Results) -> float:
    """Top-1 by the first protocol, the mean over its tests."""
    return mean(a.top1 for a in next(iter(results.values())).values())


def usual_deviation(deviations: Sequence[float | None]) -> float:
    """The median of the methods' deviations over seeds, 0 where there is none: two or three seeds may agree by luck."""
    return median(known) if (known := [d for d in deviations if d is not None]) else 0.0


def score_range(of_seeds: Sequence[Results], least: float) -> tuple[float, float]:
    """The range of a score over seeds, within [0, 1]; of one seed over the test images, which tests have of their own.

    A range says how far the mean over other seeds may be on these test images, or that of this seed on others. `least`
    is the deviation over seeds to reckon with at least, also of the one seed that came to its end.
    """
    scores = [score_of(results) for results in of_seeds]
    if len(scores) > 1:
        half = ERRORS * max(least, stdev(scores)) / math.sqrt(len(scores))
        return max(0.0, mean(scores) - half), min(1.0, mean(scores) + half)
    tests = list(next(iter(of_seeds[0].values())).values())
    below, above = (math.hypot(*(a.top1 - a.interval[side] for a in tests)) / len(tests) for side in (0, 1))
    below, above = (max(side, ERRORS * least) for side in (below, above))
    return max(0.0, scores[0] - below), min(1.0, scores[0] + above)


def rank(trainings: Sequence[Training], budget_seconds: float | None = None) -> list[Rank]:
    """Orders the methods that have a finished training by their score; equal ones by their time.

    Args:
        trainings: of all methods and seeds.
        budget_seconds: of each training, where time was the budget.
    """
    by_method: dict[str, list[Training]] = {}
    for t in trainings:
        by_method.setdefault(t.method, []).append(t)
    done = {method: [t for t in rows if t.status == "done"] for method, rows in by_method.items()}
    scores = [[score_of(t.results) for t in rows] for rows in done.values()]
    least = usual_deviation([stdev(of_seeds) for of_seeds in scores if len(of_seeds) > 1])
    found = [_rank(by_method[method], rows, least, budget_seconds) for method, rows in done.items() if rows]
    found.sort(key=lambda r: (-r.score, r.seconds, r.method))
    if not found:
        return []
    even = {r.method for r in not_told_apart(found)}
    return [
        dataclasses.replace(r, remark="; ".join(filter(None, ["not told apart from the best", r.remark])))
        if r.method in even
        else r
        for r in found
    ]


def _rank(of_method: Sequence[Training], done: Sequence[Training], least: float, budget: float | None) -> Rank:
    scores = [score_of(t.results) for t in done]
    low, high = score_range([t.results for t in done], least)
    seconds = mean(t.seconds or 0.0 for t in done)
    peaks = [t.peak_memory_gib for t in done if t.peak_memory_gib is not None]
    energies = [t.energy_kj for t in done if t.energy_kj is not None]
    remarks = [*(["learns from labels"] if done[0].learns_from_labels else []), *troubles(of_method)]
    epochs = done[0].epochs or 0
    if budget is not None and abs(seconds / budget - 1) > OFF_BUDGET:
        longer = "one epoch takes" if epochs == 1 and seconds > budget else "took"
        remarks.append(f"{longer} {seconds / budget:.0%} of the budget")
    return Rank(
        method=done[0].method,
        seeds=len(done),
        score=mean(scores),
        low=low,
        high=high,
        deviation=stdev(scores) if len(scores) > 1 else None,
        results={
            protocol: {test: _mean([t.results[protocol][test].top1 for t in done]) for test in tests}
            for protocol, tests in done[0].results.items()
        },
        epochs=epochs,
        seconds=seconds,
        images_per_s=mean(t.images_per_s or 0.0 for t in done),
        peak_memory_gib=max(peaks, default=None),
        gflops_per_image=done[0].gflops_per_image,
        energy_kj=mean(energies) if energies else None,
        stable=not any(t.status == "failed" or t.verdict in ("collapsed", "diverged") for t in of_method),
        remark="; ".join(remarks),
    )


def troubles(of_method: Sequence[Training]) -> list[str]:
    """What went wrong in how many of a method's trainings."""
    said = []
    for word in ("collapsed", "diverged", "not learning"):
        if count := sum(t.verdict == word for t in of_method):
            said.append(f"{count} of {len(of_method)} {word}")
    if count := sum(t.status == "failed" and t.verdict not in ("collapsed", "diverged") for t in of_method):
        said.append(f"{count} of {len(of_method)} failed")
    return said


def _mean(values: Sequence[float]) -> Mean:
    return Mean(mean(values), stdev(values) if len(values) > 1 else None)


def not_told_apart(ranking: Sequence[Rank]) -> list[Rank]:
    """The methods after the first whose ranges meet its own."""
    return [r for r in ranking[1:] if r.high >= ranking[0].low]

"""The ranking of compared methods: pure functions of the results of their trainings."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev, variance
from typing import Any, Literal, Protocol, cast

from .significance import ERROR_RATE, SeedNoise, significant

OFF_BUDGET = 0.2
"""Relative deviation from the budget above which a training is reported."""


@dataclass(frozen=True)
class Accuracy:
    """Accuracy of one encoder on one test."""

    top1: float
    """Fraction of the test images, in [0, 1]."""
    top5: float
    interval: tuple[float, float]
    """95 % interval of `top1` over the test images."""


Results = Mapping[str, Mapping[str, Accuracy]]
"""By protocol, then by test."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """One training of a comparison, as stored in `compare.json`."""

    method: str
    seed: int
    folder: str
    """The run's folder, inside that of the comparison."""
    learns_from_labels: bool = False
    """Whether the method uses the labels of its training images."""
    status: Literal["done", "failed", "waiting"] = "waiting"
    error: str | None = None
    final: bool = False
    """Whether a failed training must not be repeated."""
    epochs: int | None = None
    """Set when the training starts."""
    steps: int | None = None
    seconds: float | None = None
    """Set when the training is complete; see `cost_meter.Spent`."""
    images_per_s: float | None = None
    """Mean over `seconds`."""
    peak_memory_gib: float | None = None
    gflops_per_image: float | None = None
    """10^9 operations of a training step per image."""
    energy_kj: float | None = None
    verdict: str | None = None
    why: str | None = None
    results: Results = dataclasses.field(default_factory=dict)


def training_of(row: Mapping[str, Any]) -> Training:
    """A training from its row in `compare.json`."""
    results = {
        protocol: {test: Accuracy(a["top1"], a["top5"], tuple(a["interval"])) for test, a in tests.items()}
        for protocol, tests in row["results"].items()
    }
    return Training(**{**row, "results": results})


@dataclass(frozen=True)
class Mean:
    """Mean and standard deviation over seeds."""

    mean: float
    deviation: float | None
    """Standard deviation; None for one seed."""


class Scored(Protocol):
    """A score and its range."""

    @property
    def score(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...


@dataclass(frozen=True, kw_only=True)
class Rank:
    """One method's row of the ranking."""

    method: str
    seeds: int
    """Number of finished trainings."""
    score: float
    """Top-1 by the first protocol: the mean over the tests, then over the seeds; in [0, 1]."""
    low: float
    """Lower end of the score's range."""
    high: float
    """Upper end. Methods whose ranges overlap are not significantly different; see `score_range`."""
    deviation: float | None
    """Standard deviation of the score over the seeds."""
    results: Mapping[str, Mapping[str, Mean]]
    """By protocol, then by test."""
    epochs: int
    seconds: float
    """Mean over the trainings."""
    images_per_s: float
    peak_memory_gib: float | None
    """Maximum over the trainings."""
    gflops_per_image: float | None
    energy_kj: float | None
    """Mean over the trainings."""
    stable: bool
    """Whether no training failed, diverged or collapsed."""
    remark: str
    """Notes on the numbers; may be empty."""


def score_of(results: Results, protocol: str | None = None) -> float:
    """Top-1 by a protocol (default: the first one), mean over its tests."""
    return mean(a.top1 for a in _tests_of(results, protocol).values())


def _tests_of(results: Results, protocol: str | None) -> Mapping[str, Accuracy]:
    return next(iter(results.values())) if protocol is None else results[protocol]


def seed_noise(trainings: Sequence[Training], protocol: str | None = None, error_rate: float = ERROR_RATE) -> SeedNoise:
    """Variance of the methods' scores over seeds, by a protocol (default: the first one).

    Methods with a collapsed or diverged training are left out of the pooled variance: their scores vary far more than
    the others', or not at all.
    """
    done: dict[str, list[Training]] = {}
    for t in trainings:
        if t.status == "done":
            done.setdefault(t.method, []).append(t)
    return SeedNoise.of(
        [_variance([t.results for t in rows], protocol) for rows in done.values()],
        [len(rows) for rows in done.values()],
        [not any(t.verdict in ("collapsed", "diverged") for t in rows) for rows in done.values()],
        error_rate,
    )


def _variance(of_seeds: Sequence[Results], protocol: str | None = None) -> float:
    return variance(score_of(results, protocol) for results in of_seeds) if len(of_seeds) > 1 else 0.0


def score_range(of_seeds: Sequence[Results], noise: SeedNoise, protocol: str | None = None) -> tuple[float, float]:
    """The range of a score, within [0, 1], for a comparison of all methods at once.

    It covers the mean over other seeds on these test images. If the variance over seeds is unknown (one seed per
    method) or zero (all seeds agree), it covers these encoders' mean on other test images.
    """
    score = mean(score_of(results, protocol) for results in of_seeds)
    below = above = 0.0
    if noise.freedom:
        below = above = float(noise.half_range(_variance(of_seeds, protocol), len(of_seeds)).item())
    if not noise.variance.any():
        tests = [list(_tests_of(results, protocol).values()) for results in of_seeds]
        factor = noise.of_one_seed()
        sides = [
            factor * mean(math.hypot(*(a.top1 - a.interval[side] for a in own)) / len(own) for own in tests)
            for side in (0, 1)
        ]
        below, above = max(below, sides[0]), max(above, sides[1])
    return max(0.0, score - below), min(1.0, score + above)


def rank(trainings: Sequence[Training], budget_seconds: float | None = None) -> list[Rank]:
    """Ranks the methods with a finished training by score; equal scores by time.

    Args:
        trainings: of all methods and seeds.
        budget_seconds: of each training, if the budget was a time.
    """
    by_method: dict[str, list[Training]] = {}
    for t in trainings:
        by_method.setdefault(t.method, []).append(t)
    done = {method: [t for t in rows if t.status == "done"] for method, rows in by_method.items()}
    noise = seed_noise(trainings)
    found = [_rank(by_method[method], rows, noise, budget_seconds) for method, rows in done.items() if rows]
    found.sort(key=lambda r: (-r.score, r.seconds, r.method))
    tied = {r.method for r in not_distinguishable(found)}
    by_others = differences(found, trainings)

    def remark(r: Rank) -> str:
        first = next(iter(r.results))
        others = [f"{d.word} by {d.protocol}" for d in by_others.get(r.method, [])]
        detail = f" by {first}, {', '.join(others)}" if others else ""
        return "; ".join(filter(None, [f"not significantly different from the best{detail}", r.remark]))

    return [dataclasses.replace(r, remark=remark(r)) if r.method in tied else r for r in found]


@dataclass(frozen=True)
class Difference:
    """A significant difference between a method and the first one, by a protocol other than the ranking's."""

    protocol: str
    word: Literal["worse", "better"]
    own: tuple[float, float]
    """The range of the method's score."""
    best: tuple[float, float]
    """The range of the first method's score."""


def differences(ranking: Sequence[Rank], trainings: Sequence[Training]) -> dict[str, list[Difference]]:
    """Significant differences by the other protocols, of methods that the first protocol does not distinguish.

    The error rate is divided among the other protocols, so that together they err as often as the first one. One seed
    gives no differences; `label-free` is skipped, since it is not an accuracy.
    """
    tied = not_distinguishable(ranking)
    others = list(ranking[0].results)[1:] if tied else []
    protocols = [p for p in others if not p.startswith("label-free") and all(p in r.results for r in ranking)]
    found: dict[str, list[Difference]] = {}
    for protocol in protocols:
        noise = seed_noise(trainings, protocol, ERROR_RATE / len(protocols))
        if not noise.freedom:
            continue
        first = _by(protocol, ranking[0].method, trainings, noise)
        for rank in tied:
            own = _by(protocol, rank.method, trainings, noise)
            for word, (high, low) in (("worse", (first, own)), ("better", (own, first))):
                if significantly_above(high, low):
                    found.setdefault(rank.method, []).append(
                        Difference(protocol, cast(Any, word), (own.low, own.high), (first.low, first.high))
                    )
    return found


@dataclass(frozen=True)
class _Range:
    score: float
    low: float
    high: float


def _by(protocol: str, method: str, trainings: Sequence[Training], noise: SeedNoise) -> _Range:
    """A method's score by a protocol, and its range."""
    results = [t.results for t in trainings if t.method == method and t.status == "done"]
    return _Range(mean(score_of(r, protocol) for r in results), *score_range(results, noise, protocol))


def _rank(of_method: Sequence[Training], done: Sequence[Training], noise: SeedNoise, budget: float | None) -> Rank:
    scores = [score_of(t.results) for t in done]
    low, high = score_range([t.results for t in done], noise)
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
    """The problems of a method's trainings, each with its number of trainings."""
    lines = []
    for word in ("collapsed", "diverged", "not learning", "getting worse"):
        if count := sum(t.verdict == word for t in of_method):
            lines.append(f"{count} of {len(of_method)} {word}")
    if count := sum(t.status == "failed" and t.verdict not in ("collapsed", "diverged") for t in of_method):
        lines.append(f"{count} of {len(of_method)} failed")
    return lines


def _mean(values: Sequence[float]) -> Mean:
    return Mean(mean(values), stdev(values) if len(values) > 1 else None)


def significantly_above(better: Scored, other: Scored) -> bool:
    """Whether a score is significantly higher than another; see `score_range`."""
    differs = significant(better.score - other.score, better.score - better.low, other.high - other.score)
    return bool(differs) and better.low > other.high  # the ranges were clipped to [0, 1]


def not_distinguishable(ranking: Sequence[Rank]) -> list[Rank]:
    """The other methods that are not significantly different from the first one."""
    return [r for r in ranking[1:] if not significantly_above(ranking[0], r)]

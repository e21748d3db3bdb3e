"""The order of methods that were compared: pure functions of what their trainings came to."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev, variance
from typing import Any, Literal, Protocol, cast

from .significance import ERROR_RATE, SeedNoise, significant

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
    """One method's place."""

    method: str
    seeds: int
    """Trainings that came to their end."""
    score: float
    """Top-1 by the first protocol: the mean over the tests, then over the seeds; in [0, 1]."""
    low: float
    """The score's range goes from here ..."""
    high: float
    """... to here: methods whose ranges overlap are not significantly different; see `score_range`."""
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


def score_of(results: Results, protocol: str | None = None) -> float:
    """Top-1 by a protocol, the first one unless it is named: the mean over its tests."""
    return mean(a.top1 for a in _tests_of(results, protocol).values())


def _tests_of(results: Results, protocol: str | None) -> Mapping[str, Accuracy]:
    return next(iter(results.values())) if protocol is None else results[protocol]


def seed_noise(trainings: Sequence[Training], protocol: str | None = None, error_rate: float = ERROR_RATE) -> SeedNoise:
    """What a seed does to the score of these methods, by the first protocol unless one is named.

    A method with a training that collapsed or diverged is not asked: its scores vary far more than the others', or
    not at all.
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

    It says how far the mean over other seeds may be on these test images. Where nothing is known of seeds, because
    there is one of each method or all agree, it says how far these encoders' mean may be on other test images.
    """
    score = mean(score_of(results, protocol) for results in of_seeds)
    below = above = 0.0
    if noise.freedom:
        below = above = float(noise.half_range(_variance(of_seeds, protocol), len(of_seeds)).item())
    if not noise.variance.any():
        tests = [list(_tests_of(results, protocol).values()) for results in of_seeds]
        wide = noise.of_one_seed()
        sides = [
            wide * mean(math.hypot(*(a.top1 - a.interval[side] for a in own)) / len(own) for own in tests)
            for side in (0, 1)
        ]
        below, above = max(below, sides[0]), max(above, sides[1])
    return max(0.0, score - below), min(1.0, score + above)


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
    noise = seed_noise(trainings)
    found = [_rank(by_method[method], rows, noise, budget_seconds) for method, rows in done.items() if rows]
    found.sort(key=lambda r: (-r.score, r.seconds, r.method))
    even = {r.method for r in not_distinguishable(found)}
    other = differences(found, trainings)

    def remark(r: Rank) -> str:
        first = next(iter(r.results))
        by = [f"{d.word} by {d.protocol}" for d in other.get(r.method, [])]
        apart = f" by {first}, {', '.join(by)}" if by else ""
        return "; ".join(filter(None, [f"not significantly different from the best{apart}", r.remark]))

    return [dataclasses.replace(r, remark=remark(r)) if r.method in even else r for r in found]


@dataclass(frozen=True)
class Difference:
    """A significant difference of a method from the first one, by a protocol that does not decide the order."""

    protocol: str
    word: Literal["worse", "better"]
    own: tuple[float, float]
    """The range of the method's score."""
    best: tuple[float, float]
    """That of the first method's."""


def differences(ranking: Sequence[Rank], trainings: Sequence[Training]) -> dict[str, list[Difference]]:
    """How methods that the first protocol does not distinguish from the best one differ from it by the others.

    All other protocols together err as often as the first one does: each has its part of the error rate. Nothing is
    claimed from one seed, and `label-free` is no accuracy.
    """
    even = not_distinguishable(ranking)
    others = list(ranking[0].results)[1:] if even else []
    protocols = [p for p in others if not p.startswith("label-free") and all(p in r.results for r in ranking)]
    found: dict[str, list[Difference]] = {}
    for protocol in protocols:
        noise = seed_noise(trainings, protocol, ERROR_RATE / len(protocols))
        if not noise.freedom:
            continue
        first = _by(protocol, ranking[0].method, trainings, noise)
        for rank in even:
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
    """What went wrong in how many of a method's trainings."""
    said = []
    for word in ("collapsed", "diverged", "not learning", "getting worse"):
        if count := sum(t.verdict == word for t in of_method):
            said.append(f"{count} of {len(of_method)} {word}")
    if count := sum(t.status == "failed" and t.verdict not in ("collapsed", "diverged") for t in of_method):
        said.append(f"{count} of {len(of_method)} failed")
    return said


def _mean(values: Sequence[float]) -> Mean:
    return Mean(mean(values), stdev(values) if len(values) > 1 else None)


def significantly_above(better: Scored, other: Scored) -> bool:
    """Whether a score is higher than another by more than chance explains; see `score_range` for which."""
    apart = significant(better.score - other.score, better.score - better.low, other.high - other.score)
    return bool(apart) and better.low > other.high  # which were cut to [0, 1]


def not_distinguishable(ranking: Sequence[Rank]) -> list[Rank]:
    """The methods after the first that are not significantly different from it."""
    return [r for r in ranking[1:] if not significantly_above(ranking[0], r)]

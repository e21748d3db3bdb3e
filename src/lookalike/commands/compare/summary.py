"""The words about a ranking of methods: a table, and what it says for these data."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from ...printing import are, counted
from .ranking import (
    Difference,
    Rank,
    Results,
    Training,
    differences,
    not_distinguishable,
    score_of,
    score_range,
    seed_noise,
    significantly_above,
    troubles,
)


def recommendation(
    ranking: Sequence[Rank], trainings: Sequence[Training], untrained: Sequence[Results], *, timed: bool = False
) -> str:
    """What the ranking says for these data, and what it cannot say, in plain sentences.

    Args:
        ranking: of `rank`.
        trainings: all, for what failed and what is left to do.
        untrained: results of the untrained network of each seed; may be empty.
        timed: whether all trainings had the same time, and not the same epochs.
    """
    failed = _failures(ranking, trainings)
    waiting = sum(t.status == "waiting" for t in trainings)
    if not ranking and not waiting:
        return " ".join(["No method could be trained and judged.", *failed])
    before = _before(untrained, trainings)
    if waiting:
        return " ".join([*_so_far(ranking, trainings, before), *_unstable(ranking, trainings), *failed])
    beaten = [r for r in ranking if before is None or significantly_above(r, before)]
    fallen = {r.method for r in ranking if _collapses(r, trainings)}
    said = []
    if before is not None and not beaten:
        said += [f"No method clearly beats the untrained network, {before}: {before.remedy(ranking)}."]
        said += [f"The highest score: {_figures(ranking[0])}.", *_by_labels(ranking, trainings)]
    else:
        said += _first(ranking, trainings, fallen, timed)
        said += [] if before is None else _beside(before, ranking, beaten)
        said += _by_labels(ranking, trainings)
        if not timed and before is not None:
            said += _quickest(before, [r for r in beaten if r.method not in fallen], ranking)
        said += [f"By {_spoken(p)} {first} is first." for p, first in _other_firsts(ranking, ranking[0].method).items()]
    return " ".join([*said, *_unstable(ranking, trainings), *failed, *_limits(ranking, trainings)])


@dataclass(frozen=True)
class _Untrained:
    """The untrained network's score and its range."""

    score: float
    low: float
    high: float

    def remedy(self, ranking: Sequence[Rank]) -> str:
        """What to do where no method clearly beats it."""
        if self.high >= 1 and any(r.high >= self.low for r in ranking):
            return "this test is too easy to distinguish them, so do not choose by this table"
        return "give a larger budget, and do not choose by this table"

    def __str__(self) -> str:
        return f"{self.score:.1%} ({self.low:.1%} to {self.high:.1%})"


def _before(untrained: Sequence[Results], trainings: Sequence[Training]) -> _Untrained | None:
    if not untrained:
        return None
    return _Untrained(mean(map(score_of, untrained)), *score_range(untrained, seed_noise(trainings)))


def _figures(row: Rank) -> str:
    """A method, its score and its time."""
    protocol = next(iter(row.results))
    tests = len(row.results[protocol])
    over = f", the mean over {counted(tests, 'test')}" if tests > 1 else ""
    return (
        f"{row.method}, {row.score:.1%} by {_spoken(protocol)}{over} ({_range(row)}), after {_time(row.seconds)} of "
        "training"
    )


def _so_far(ranking: Sequence[Rank], trainings: Sequence[Training], before: _Untrained | None) -> list[str]:
    """What is known while trainings are left to do: no order yet."""
    done, failed = (sum(t.status == status for t in trainings) for status in ("done", "failed"))
    also = f", {failed} failed" if failed else ""
    said = [f"Unfinished: {done} of {counted(len(trainings), 'training')} {are(done)} done{also}."]
    if ranking:
        said.append(f"The highest score so far: {_figures(ranking[0])}. The order may change.")
    if before is not None:
        said.append(f"The untrained network comes to {before}.")
    return said


def _first(ranking: Sequence[Rank], trainings: Sequence[Training], fallen: Collection[str], timed: bool) -> list[str]:
    """The first method, and who is not significantly different; where it collapsed, the first that did not."""
    best, even = ranking[0], not_distinguishable(ranking)
    if best.method in fallen:
        count, of = _collapses(best, trainings), len(_of(best.method, trainings))
        said = [
            f"{best.method} has the highest score, but {count} of its {counted(of, 'training')} collapsed: do "
            "not choose it."
        ]
        said.append(f"Its score: {_figures(best)}.")
        if healthy := [r for r in ranking if r.method not in fallen]:
            said.append(f"The first that did not collapse: {_figures(healthy[0])}.")
        return said
    one_seed = all(r.seeds == 1 for r in ranking)
    said = [f"{'Highest score' if one_seed else 'Best'} on these images: {_figures(best)}."]
    if even:
        said += _even([r.method for r in even], best, differences(ranking, trainings), timed)
    elif len(ranking) > 1 and not one_seed:
        said.append("All others are significantly worse.")
    return said


def _even(even: Sequence[str], best: Rank, other: Mapping[str, Sequence[Difference]], timed: bool) -> list[str]:
    """Who the first protocol does not distinguish from the best, what the others say of them, and how to choose."""
    by = "memory or stability" if timed else "time, memory or stability"
    are = "is" if len(even) == 1 else "are"
    if not other:
        return [f"{_listed(even)} {are} not significantly different from it: choose among them by {by}."]
    said = [f"{_listed(even)} {are} not significantly different from it by {_spoken(next(iter(best.results)))}."]
    for protocol in dict.fromkeys(d.protocol for found in other.values() for d in found):
        for word in ("worse", "better"):
            of = {m: d for m, found in other.items() for d in found if (d.protocol, d.word) == (protocol, word)}
            if of:
                ranges = ", ".join(f"{m} {_between(*d.own)}" for m, d in of.items())
                against = _between(*next(iter(of.values())).best)
                verb = "is" if len(of) == 1 else "are"
                said.append(
                    f"By {_spoken(protocol)} {_listed([*of])} {verb} significantly {word}: {ranges}, {best.method} "
                    f"{against}."
                )
    if left := [m for m in even if m not in other]:
        said.append(f"Choose among {_listed([best.method, *left])} by {by}.")
    elif all(d.word == "worse" for found in other.values() for d in found):
        said.append(f"Choose {best.method}.")
    else:
        said.append("Choose by the protocol that is nearest to what the features are for.")
    return said


def _between(low: float, high: float) -> str:
    return f"{low:.1%} to {high:.1%}"


def _collapses(row: Rank, trainings: Sequence[Training]) -> int:
    return sum(t.verdict == "collapsed" for t in _of(row.method, trainings))


def _beside(before: _Untrained, ranking: Sequence[Rank], beaten: Sequence[Rank]) -> list[str]:
    """The untrained network, and who is not clearly better."""
    said = [f"The untrained network comes to {before}."]
    if weak := [r.method for r in ranking if r not in beaten]:
        said.append(f"{_listed(weak)} {'does' if len(weak) == 1 else 'do'} not clearly beat it.")
    return said


def _by_labels(ranking: Sequence[Rank], trainings: Sequence[Training]) -> list[str]:
    """Who learnt from labels, and the first of those that did not."""
    taught = [r.method for r in ranking if any(t.learns_from_labels for t in _of(r.method, trainings))]
    others = [r for r in ranking if r.method not in taught]
    if not taught:
        return []
    learns = "learns" if len(taught) == 1 else "learn"
    if not others:
        return [f"{_listed(taught)} {learns} from labels."]
    said = [f"{_listed(taught)} {learns} from labels, which the others do not see."]
    if ranking[0].method in taught:
        said.append(f"First without labels: {others[0].method}, {others[0].score:.1%}.")
    return said


def _quickest(before: _Untrained, beaten: Sequence[Rank], ranking: Sequence[Rank]) -> list[str]:
    """Which method gained most for its time, where that is not the first one."""
    if not beaten:
        return []
    quick = max(beaten, key=lambda r: (r.score - before.score) / max(r.seconds, 1e-9))
    if quick.method == ranking[0].method:
        return []
    gain = 100 * (quick.score - before.score)
    return [f"Most gain for the time: {quick.method}, {gain:.1f} points in {_time(quick.seconds)}."]


def _unstable(ranking: Sequence[Rank], trainings: Sequence[Training]) -> list[str]:
    shaky = [f"{r.method} ({', '.join(troubles(_of(r.method, trainings)))})" for r in ranking if not r.stable]
    return [f"Unstable: {_listed(shaky)}."] if shaky else []


def _limits(ranking: Sequence[Rank], trainings: Sequence[Training]) -> list[str]:
    """What so many seeds do not show."""
    asked = {r.method: len(_of(r.method, trainings)) for r in ranking}
    short = [r for r in ranking if r.seeds < asked[r.method]]
    said = [f"{r.method} came to its end in {r.seeds} of {counted(asked[r.method], 'seed')}." for r in short]
    if all(r.seeds == 1 for r in ranking):
        said.append(
            "One seed says nothing of how much another would change: ranges are those of the test images alone, and "
            "no method is shown to be better than another."
        )
        return [*said, *(["Give --seeds 3 before you rely on the order."] if max(asked.values()) == 1 else [])]
    least = min(2 * max(r.high - r.score, r.score - r.low) for r in ranking)
    return [
        *said,
        f"With {counted(max(asked.values()), 'seed')}, differences below {100 * least:.1f} points are not "
        "significant here, and "
        "the order holds for this budget: longer trainings may change it.",
    ]


def _other_firsts(ranking: Sequence[Rank], best: str) -> dict[str, str]:
    """By each other protocol the method that is first, where it is not the best one."""
    firsts = {}
    for protocol in list(ranking[0].results)[1:]:
        first = max(ranking, key=lambda r: _score_by(r, protocol))
        if first.method != best:
            firsts[protocol] = first.method
    return firsts


def _score_by(row: Rank, protocol: str) -> float:
    return mean(m.mean for m in row.results[protocol].values())


def _of(method: str, trainings: Sequence[Training]) -> list[Training]:
    return [t for t in trainings if t.method == method]


def _failures(ranking: Sequence[Rank], trainings: Sequence[Training]) -> list[str]:
    ranked = {r.method for r in ranking}
    said = []
    for method in dict.fromkeys(t.method for t in trainings if t.method not in ranked):
        errors = [t.error for t in _of(method, trainings) if t.error]
        if errors:
            said.append(f"{method} failed: {errors[0]}")
    return said


def table(ranking: Sequence[Rank], untrained: Sequence[Results], trainings: Sequence[Training]) -> list[str]:
    """The ranking as lines of text: accuracies in percent, the mean over the tests, deviations over seeds behind ±."""
    protocols = list(ranking[0].results) if ranking else []
    energy = any(r.energy_kj is not None for r in ranking)
    head = [
        "",
        "method",
        *(f"{_column(p)} %" for p in protocols),
        "range",
        "seeds",
        "epochs",
        "time",
        "images/s",
        "GiB",
    ]
    rows = [[*head, "GFLOP/image", *(["kJ"] if energy else []), "remark"]]
    for place, r in enumerate(ranking, 1):
        rows.append(
            [
                str(place), r.method, *(_percent(r, p) for p in protocols), _range(r), str(r.seeds), str(r.epochs),
                _time(r.seconds), f"{r.images_per_s:.{0 if r.images_per_s >= 10 else 1}f}", _number(r.peak_memory_gib),
                _number(r.gflops_per_image), *([_number(r.energy_kj)] if energy else []), r.remark,
            ]
        )  # fmt: skip
    if untrained and ranking:
        low, high = score_range(untrained, seed_noise(trainings))
        means = [f"{100 * mean(mean(a.top1 for a in u[p].values()) for u in untrained):.1f}" for p in protocols]
        blank = [""] * (len(rows[0]) - 4 - len(protocols))
        rows.append(["", "untrained", *means, f"{low:.1%} to {high:.1%}", str(len(untrained)), *blank])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    left = (1, len(rows[0]) - 1)
    lines = [
        "  ".join(x.ljust(w) if i in left else x.rjust(w) for i, (x, w) in enumerate(zip(row, widths))).rstrip()
        for row in rows
    ]
    return [*lines, *_by_test(ranking), *_failures(ranking, trainings)]


def _by_test(ranking: Sequence[Rank]) -> list[str]:
    """Where there are several tests, a line for each protocol and test."""
    if not ranking or len(next(iter(ranking[0].results.values()))) < 2:
        return []
    return [
        f"{_column(protocol)} on {test}: "
        + ", ".join(f"{r.method} {r.results[protocol][test].mean:.1%}" for r in ranking)
        for protocol, tests in ranking[0].results.items()
        for test in tests
    ]


def _percent(row: Rank, protocol: str) -> str:
    found = list(row.results[protocol].values())
    if protocol == next(iter(row.results)):
        deviation = row.deviation
    else:
        deviation = found[0].deviation if len(found) == 1 else None
    text = f"{100 * _score_by(row, protocol):.1f}"
    return text if deviation is None else f"{text} ± {100 * deviation:.1f}"


def _range(row: Rank) -> str:
    return _between(row.low, row.high)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _time(seconds: float) -> str:
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 59.95 * 60 else f"{seconds / 3600:.1f} h"


def _column(protocol: str) -> str:
    """A protocol's name, and what it measures where that is no accuracy."""
    return f"{protocol} recall@1" if protocol in ("retrieval", "label-free") else protocol


def _spoken(protocol: str) -> str:
    """A protocol's name in a sentence."""
    return "k-NN" if protocol == "knn" else _column(protocol)


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"

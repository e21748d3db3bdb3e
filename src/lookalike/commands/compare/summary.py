"""The text of a ranking: a table, and a recommendation."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import mean

from ...printing import are, counted
from .ranking import (
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
    """Which method to choose for these data, and the limits of this result, in plain sentences.

    Args:
        ranking: of `rank`.
        trainings: all trainings, including failed and unfinished ones.
        untrained: results of the untrained network of each seed; may be empty.
        timed: whether all trainings had the same time instead of the same number of epochs.
    """
    facts = _Facts(ranking, trainings, _untrained(untrained, trainings), timed)
    return " ".join(filter(None, (sentence(facts) for sentence in SENTENCES[facts.outcome])))


@dataclass(frozen=True)
class _Untrained:
    """The untrained network's score and its range."""

    score: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.score:.1%} ({_between(self.low, self.high)})"


def _untrained(results: Sequence[Results], trainings: Sequence[Training]) -> _Untrained | None:
    if not results:
        return None
    return _Untrained(mean(map(score_of, results)), *score_range(results, seed_noise(trainings)))


@dataclass(frozen=True)
class _Facts:
    """What the sentences are about."""

    ranking: Sequence[Rank]
    trainings: Sequence[Training]
    untrained: _Untrained | None
    timed: bool

    @property
    def outcome(self) -> str:
        """The key of `SENTENCES`."""
        if self.status("waiting"):
            return "unfinished"
        if not self.ranking:
            return "failed"
        if self.untrained is not None and not self.better:
            return "not better than untrained"
        return "best collapsed" if self.collapses(self.ranking[0]) else "ranked"

    @cached_property
    def better(self) -> list[Rank]:
        """The methods that are significantly better than the untrained network."""
        return [r for r in self.ranking if self.untrained is None or significantly_above(r, self.untrained)]

    @property
    def one_seed(self) -> bool:
        return all(r.seeds == 1 for r in self.ranking)

    def status(self, status: str) -> int:
        """The number of trainings with a status."""
        return sum(t.status == status for t in self.trainings)

    def of(self, method: str) -> list[Training]:
        return [t for t in self.trainings if t.method == method]

    def collapses(self, row: Rank) -> int:
        """The number of a method's collapsed trainings."""
        return sum(t.verdict == "collapsed" for t in self.of(row.method))


# ---------------------------------------------------------------- sentences, each empty if it does not apply


def _none_trained(facts: _Facts) -> str:
    return "No method could be trained and evaluated."


def _progress(facts: _Facts) -> str:
    done, failed = facts.status("done"), facts.status("failed")
    failures = f", {failed} failed" if failed else ""
    return f"Unfinished: {done} of {counted(len(facts.trainings), 'training')} {are(done)} done{failures}."


def _highest_so_far(facts: _Facts) -> str:
    return f"Highest score so far: {_numbers(facts.ranking[0])}. The order may change." if facts.ranking else ""


def _highest(facts: _Facts) -> str:
    return f"Highest score: {_numbers(facts.ranking[0])}."


def _none_better(facts: _Facts) -> str:
    untrained = facts.untrained
    assert untrained is not None
    if untrained.high >= 1 and any(r.high >= untrained.low for r in facts.ranking):
        advice = "this test is too easy to distinguish them, so do not choose by this table"
    else:
        advice = "give a larger budget, and do not choose by this table"
    return f"No method is significantly better than the untrained network, {untrained}: {advice}."


def _best(facts: _Facts) -> str:
    title = "Highest score" if facts.one_seed else "Best"
    return f"{title} on these images: {_numbers(facts.ranking[0])}."


def _best_collapsed(facts: _Facts) -> str:
    best = facts.ranking[0]
    trainings = counted(len(facts.of(best.method)), "training")
    return (
        f"{best.method} has the highest score, but {facts.collapses(best)} of its {trainings} collapsed: do not choose "
        f"it. Its score: {_numbers(best)}."
    )


def _best_without_collapse(facts: _Facts) -> str:
    row = next((r for r in facts.ranking if not facts.collapses(r)), None)
    return "" if row is None else f"Highest score without a collapse: {_numbers(row)}."


def _others(facts: _Facts) -> str:
    """The methods that the first protocol does not distinguish from the best, and how to choose among them."""
    best, tied = facts.ranking[0], [r.method for r in not_distinguishable(facts.ranking)]
    if not tied:
        several = len(facts.ranking) > 1 and not facts.one_seed
        return "All other methods are significantly worse." if several else ""
    costs = "memory or stability" if facts.timed else "time, memory or stability"
    found = differences(facts.ranking, facts.trainings)
    same = f"{_listed(tied)} {are(len(tied))} not significantly different from it"
    if not found:
        return f"{same}: choose among them by {costs}."
    lines = [f"{same} by {_spoken(next(iter(best.results)))}."]
    for protocol in dict.fromkeys(d.protocol for of_method in found.values() for d in of_method):
        for word in ("worse", "better"):
            of = {m: d for m, own in found.items() for d in own if (d.protocol, d.word) == (protocol, word)}
            if of:
                ranges = ", ".join(f"{m} {_between(*d.own)}" for m, d in of.items())
                against = _between(*next(iter(of.values())).best)
                lines.append(
                    f"By {_spoken(protocol)}, {_listed([*of])} {are(len(of))} significantly {word}: {ranges}, "
                    f"{best.method} {against}."
                )
    if left := [m for m in tied if m not in found]:
        lines.append(f"Choose among {_listed([best.method, *left])} by {costs}.")
    elif all(d.word == "worse" for own in found.values() for d in own):
        lines.append(f"Choose {best.method}.")
    else:
        lines.append("Choose by the protocol that is closest to your use of the features.")
    return " ".join(lines)


def _untrained_score(facts: _Facts) -> str:
    return "" if facts.untrained is None else f"The untrained network scores {facts.untrained}."


def _not_better(facts: _Facts) -> str:
    rest = [r.method for r in facts.ranking if r not in facts.better]
    return f"{_listed(rest)} {are(len(rest))} not significantly better than it." if rest else ""


def _labels(facts: _Facts) -> str:
    """The methods that learn from labels, and the first one that does not."""
    supervised = [r.method for r in facts.ranking if any(t.learns_from_labels for t in facts.of(r.method))]
    others = [r for r in facts.ranking if r.method not in supervised]
    if not supervised:
        return ""
    text = f"{_listed(supervised)} {'learns' if len(supervised) == 1 else 'learn'} from labels"
    if not others:
        return f"{text}."
    text += ", which the other methods do not use."
    if facts.ranking[0].method in supervised:
        text += f" Highest score without labels: {others[0].method}, {others[0].score:.1%}."
    return text


def _largest_gain(facts: _Facts) -> str:
    """The method with the largest gain per training time, if it is not the first one."""
    before, methods = facts.untrained, [r for r in facts.better if not facts.collapses(r)]
    if facts.timed or before is None or not methods:
        return ""
    fastest = max(methods, key=lambda r: (r.score - before.score) / max(r.seconds, 1e-9))
    if fastest.method == facts.ranking[0].method:
        return ""
    gain = 100 * (fastest.score - before.score)
    return f"Largest gain per training time: {fastest.method}, {gain:.1f} points in {_time(fastest.seconds)}."


def _other_winners(facts: _Facts) -> str:
    """The first method by each other protocol, if it is not the first one of the ranking."""
    lines = []
    for protocol in list(facts.ranking[0].results)[1:]:
        first = max(facts.ranking, key=lambda r: _score_by(r, protocol))
        if first.method != facts.ranking[0].method:
            lines.append(f"By {_spoken(protocol)}, {first.method} ranks first.")
    return " ".join(lines)


def _unstable(facts: _Facts) -> str:
    rows = [f"{r.method} ({', '.join(troubles(facts.of(r.method)))})" for r in facts.ranking if not r.stable]
    return f"Unstable: {_listed(rows)}." if rows else ""


def _failed(facts: _Facts) -> str:
    return " ".join(_failures(facts.ranking, facts.trainings))


def _limits(facts: _Facts) -> str:
    """What this number of seeds does not show."""
    planned = {r.method: len(facts.of(r.method)) for r in facts.ranking}
    lines = [
        f"{r.method} finished in {r.seeds} of {counted(planned[r.method], 'seed')}."
        for r in facts.ranking
        if r.seeds < planned[r.method]
    ]
    if facts.one_seed:
        lines.append(
            "With one seed, the variation between seeds is unknown: ranges cover the test images only, and no method "
            "is shown to be better than another."
        )
        if max(planned.values()) == 1:
            lines.append("Give --seeds 3 before you rely on the order.")
        return " ".join(lines)
    smallest = min(2 * max(r.high - r.score, r.score - r.low) for r in facts.ranking)
    lines.append(
        f"With {counted(max(planned.values()), 'seed')}, differences below {100 * smallest:.1f} points are not "
        "significant. The order holds for this budget: longer trainings may change it."
    )
    return " ".join(lines)


_CONTEXT = (_untrained_score, _not_better, _labels, _largest_gain, _other_winners, _unstable, _failed, _limits)
SENTENCES: Mapping[str, Sequence[Callable[[_Facts], str]]] = {
    "failed": (_none_trained, _failed),
    "unfinished": (_progress, _highest_so_far, _untrained_score, _unstable, _failed),
    "not better than untrained": (_none_better, _highest, _labels, _unstable, _failed, _limits),
    "best collapsed": (_best_collapsed, _best_without_collapse, *_CONTEXT),
    "ranked": (_best, _others, *_CONTEXT),
}
"""The sentences of a recommendation, by the outcome of the comparison."""


def _numbers(row: Rank) -> str:
    """A method, its score and its training time."""
    protocol = next(iter(row.results))
    tests = len(row.results[protocol])
    over = f", the mean over {counted(tests, 'test')}" if tests > 1 else ""
    return (
        f"{row.method}, {row.score:.1%} by {_spoken(protocol)}{over} ({_range(row)}), after {_time(row.seconds)} of "
        "training"
    )


def _between(low: float, high: float) -> str:
    return f"{low:.1%} to {high:.1%}"


def _score_by(row: Rank, protocol: str) -> float:
    return mean(m.mean for m in row.results[protocol].values())


# ---------------------------------------------------------------- the table


def _failures(ranking: Sequence[Rank], trainings: Sequence[Training]) -> list[str]:
    """The first error of each method without a finished training."""
    ranked, errors = {r.method for r in ranking}, dict[str, str]()
    for t in trainings:
        if t.error and t.method not in ranked:
            errors.setdefault(t.method, t.error)
    return [f"{method} failed: {error}" for method, error in errors.items()]


def table(ranking: Sequence[Rank], untrained: Sequence[Results], trainings: Sequence[Training]) -> list[str]:
    """The ranking as lines of text: accuracy in percent, mean over the tests, ± standard deviation over seeds."""
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
    for position, r in enumerate(ranking, 1):
        rows.append(
            [
                str(position), r.method, *(_percent(r, p) for p in protocols), _range(r), str(r.seeds), str(r.epochs),
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
    """One line for each protocol and test, if there are several tests."""
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
    """A protocol's name, with its metric if that is not an accuracy."""
    return f"{protocol} recall@1" if protocol in ("retrieval", "label-free") else protocol


def _spoken(protocol: str) -> str:
    """A protocol's name in a sentence."""
    return "k-NN" if protocol == "knn" else _column(protocol)


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"

"""The words about a ranking of methods: a table, and what it says for these data."""

from collections.abc import Sequence
from datetime import timedelta
from statistics import mean

from .ranking import Rank, Results, Training, not_told_apart, score_of, score_range, troubles, usual_deviation


def recommendation(ranking: Sequence[Rank], trainings: Sequence[Training], untrained: Sequence[Results]) -> str:
    """What the ranking says for these data, and what it cannot say, in plain sentences.

    Args:
        ranking: of `rank`.
        trainings: all, for what failed.
        untrained: results of the untrained network of each seed; may be empty.
    """
    failed = _failures(ranking, trainings)
    if not ranking:
        return " ".join(["No method could be trained and judged.", *failed])
    best, even = ranking[0], not_told_apart(ranking)
    protocol = next(iter(best.results))
    tests = len(best.results[protocol])
    over = f", the mean over {tests} tests" if tests > 1 else ""
    said = [
        f"Best on these images: {best.method}, {best.score:.1%} by {protocol}{over} ({_range(best)}), after "
        f"{_time(best.seconds)} of training."
    ]
    if even:
        names = _listed([r.method for r in even])
        said.append(f"{names} cannot be told apart from it: choose among them by time, memory or stability.")
    elif len(ranking) > 1:
        said.append("Its range is clear of the others'.")
    if untrained:
        said += _beside_untrained(ranking, untrained, best)
    said += [f"By {other} {first} is first." for other, first in _other_firsts(ranking, best.method).items()]
    shaky = [f"{r.method} ({', '.join(troubles(_of(r.method, trainings)))})" for r in ranking if not r.stable]
    if shaky:
        said.append(f"Unstable: {_listed(shaky)}.")
    said += failed
    seeds = min(r.seeds for r in ranking)
    if seeds == 1:
        said.append(
            "One seed says nothing of how much another would change: ranges are those of the test images alone. Give "
            "--seeds 3 before you rely on the order."
        )
    else:
        width = max(r.high - r.low for r in ranking)
        said.append(
            f"{seeds} seeds do not tell small differences apart (the widest range here is {100 * width:.1f} points), "
            "and the order holds for this budget: longer trainings may change it."
        )
    return " ".join(said)


def _beside_untrained(ranking: Sequence[Rank], untrained: Sequence[Results], best: Rank) -> list[str]:
    low, high = score_range(untrained, usual_deviation([r.deviation for r in ranking]))
    score = mean(map(score_of, untrained))
    said = [f"The untrained network comes to {score:.1%} ({low:.1%} to {high:.1%})."]
    if not (beaten := [r for r in ranking if r.low > high]):
        remedy = "this test is too easy to tell them apart" if high >= 1 else "give a larger budget"
        return [*said, f"No method clearly beats it: {remedy}, so do not choose by this table."]
    if weak := [r.method for r in ranking if r not in beaten]:
        said.append(f"{_listed(weak)} {'does' if len(weak) == 1 else 'do'} not clearly beat it.")
    quick = max(beaten, key=lambda r: (r.score - score) / max(r.seconds, 1e-9))
    if quick.method != best.method:
        gain = 100 * (quick.score - score)
        said.append(f"Most gain for the time: {quick.method}, {gain:.1f} points in {_time(quick.seconds)}.")
    return said


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
    head = ["", "method", *(f"{p} %" for p in protocols), "range", "seeds", "epochs", "time", "images/s", "GiB"]
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
        low, high = score_range(untrained, usual_deviation([r.deviation for r in ranking]))
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
        f"{protocol} on {test}: " + ", ".join(f"{r.method} {r.results[protocol][test].mean:.1%}" for r in ranking)
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
    return f"{row.low:.1%} to {row.high:.1%}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"

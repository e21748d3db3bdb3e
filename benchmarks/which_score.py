"""Which score without labels orders trainings as their k-NN does, over the rows of a study.

    python benchmarks/which_score.py ROWS.jsonl...

ROWS are files of `defaults.py`. Trainings are compared that differ in one thing alone: their seed (weights and images),
their setting, or their method. Per score it prints Spearman's correlation with k-NN within groups of three and more (95
% bootstrap interval over the groups), how many pairs it orders as k-NN does, how many of those whose k-NN differ by
more than their interval, and how many points of k-NN are lost by taking the best by the score. Below each table stands
how far `pair_auc` and `view_retrieval` differ in Spearman's correlation, group by group.
"""

import argparse
import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from defaults import top1
from resumable import Row, read
from scipy.stats import rankdata
from settings_tried import SAID
from verdict_matrix import latest


def scored(row: Row) -> dict[str, float] | None:
    """Scores of a finished encoder, the higher the better; None where one is not finite."""
    free, first = row["after"]["label_free"], row["before"]["label_free"]
    if any(value is None for value in free.values()) or row["losses"][-1][1] is None:
        return None
    found = {
        "pair_auc": free["pair_auc"],
        "view_retrieval": free["view_retrieval"],
        "effective rank": free["effective_rank"],
        "spread": free["spread"],
        "alignment": -free["alignment"],
        "uniformity": -free["uniformity"],
        "align + uniform": -free["alignment"] - free["uniformity"],
        "loss (one method)": -row["losses"][-1][1],
    }
    found["pair_auc, own views"] = row["wide_looks"][-1]["pair_auc"] if row.get("wide_looks") else math.nan
    found["pair_auc x rank"] = (free["pair_auc"] - 0.5) * math.log(free["effective_rank"])
    found["change of pair_auc"] = free["pair_auc"] - first["pair_auc"]
    return found


def groups(rows: Sequence[Row], what: str) -> list[list[Row]]:
    """Trainings that differ in seed, setting or method alone."""
    fixed: Mapping[str, tuple[str, ...]] = {
        "seeds": ("method", "network", "set", "setting", "stage"),
        "settings": ("method", "network", "set", "stage", "seed"),
        "methods": ("network", "set", "setting", "stage", "seed"),
    }
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        if what != "methods" or row["setting"] in (SAID, "adamw 1e-3"):
            found.setdefault(tuple(row[n] for n in fixed[what]), []).append(row)
    return [own for own in found.values() if len(own) > 1]


def spearman(x: Sequence[float], y: Sequence[float]) -> float:
    a, b = rankdata(x), rankdata(y)
    return float(np.corrcoef(a, b)[0, 1]) if np.ptp(a) and np.ptp(b) else math.nan


def ordered(x: Sequence[float], y: Sequence[float], least: float = 0.0) -> tuple[float, int]:
    """Pairs that x orders as y does, of those whose y differ by more than `least`, and how many these are."""
    right, pairs = 0.0, 0
    for i, j in itertools.combinations(range(len(x)), 2):
        if abs(y[i] - y[j]) > least:
            pairs += 1
            right += 0.5 if x[i] == x[j] else float((x[i] > x[j]) == (y[i] > y[j]))
    return right, pairs


def scores(rows: Sequence[Row]) -> list[str]:
    """The tables, for seeds, settings and methods."""
    usable = [row for row in rows if row["broken"] is None and row.get("after") and scored(row) is not None]
    lines = []
    for what in ("seeds", "settings", "methods"):
        found = groups(usable, what)
        if not found:
            lines.append(f"\nBetween {what}: no rows yet")
            continue
        trainings = sum(map(len, found))
        lines += [f"\nBetween {what}: {trainings} trainings in {len(found)} groups", ""]
        titles = ("score", "Spearman", "pairs as k-NN", "of clear pairs", "k-NN lost")
        lines += [f"| {' | '.join(titles)} |", "| --- " * len(titles) + "|"]
        for score in [*(scored(usable[0]) or {}), "(by chance)"]:
            if what == "methods" and score.startswith("loss"):
                continue
            lines.append(f"| {score} | {' | '.join(_cells(found, score))} |")
        lines += ["", f"pair_auc less view_retrieval, Spearman: {_with_interval(_ahead(found))}"]
    return lines


def _ahead(found: Sequence[Sequence[Row]]) -> list[float]:
    """Spearman of `pair_auc` less that of `view_retrieval`, of each group of three and more."""
    differences = []
    for own in found:
        if len(own) > 2:
            y = [top1(row) or 0.0 for row in own]
            first, second = (
                spearman([row["after"]["label_free"][score] for row in own], y)
                for score in ("pair_auc", "view_retrieval")
            )
            differences.append(first - second)
    return [d for d in differences if math.isfinite(d)]


def _cells(found: Sequence[Sequence[Row]], score: str) -> list[str]:
    """Mean Spearman of groups of three and more, pairs ordered as k-NN orders them, and points of k-NN lost."""
    correlations, right, pairs, clear_right, clear, lost = [], 0.0, 0, 0.0, 0, []
    for own in found:
        y = [top1(row) or 0.0 for row in own]
        if score == "(by chance)":
            lost.append(max(y) - statistics.fmean(y))
            continue
        x = [(scored(row) or {})[score] for row in own]
        if not all(map(math.isfinite, x)):
            continue
        if len(own) > 2:
            correlations.append(spearman(x, y))
        r, n = ordered(x, y)
        right, pairs = right + r, pairs + n
        least = max(row["after"]["interval"][1] - row["after"]["interval"][0] for row in own) / 2 * math.sqrt(2)
        r, n = ordered(x, y, least)
        clear_right, clear = clear_right + r, clear + n
        lost.append(max(y) - y[int(np.argmax(x))])
    points = f"{100 * statistics.fmean(lost):.1f}" if lost else ""
    if score == "(by chance)":
        return ["0", "50 %", "50 %", points]
    kept = [c for c in correlations if math.isfinite(c)]
    return [
        _with_interval(kept),
        f"{right / pairs:.0%} of {pairs}" if pairs else "",
        f"{clear_right / clear:.0%} of {clear}" if clear else "none",
        points,
    ]


def _with_interval(values: Sequence[float]) -> str:
    """A mean with its 95 % bootstrap interval over the groups."""
    if not values:
        return ""
    draws = np.random.default_rng(0).choice(np.array(values), (1000, len(values))).mean(1)
    low, high = np.quantile(draws, [0.025, 0.975])
    return f"{statistics.fmean(values):.2f} ({low:.2f} to {high:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path, nargs="+", help="files of rows of defaults.py")
    rows = latest(row for path in parser.parse_args().rows for row in read(path))
    print("\n".join(scores(rows)))


if __name__ == "__main__":
    main()

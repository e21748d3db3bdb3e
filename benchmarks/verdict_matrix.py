"""What the verdict says of the study's trainings, and whether its advice helps.

    python benchmarks/verdict_matrix.py ROWS.jsonl...
    python benchmarks/verdict_matrix.py ROWS.jsonl... --advice --work FOLDER --record ADVICE.jsonl [--hours 2]

ROWS are files of `defaults.py`: its core, side and broken grids. The verdict is replayed over the looks of each row by
the rules of `training.health`, so that a change of a rule is tried on all trainings without one being repeated. What a
training came to is told by its k-NN: healthy is above the untrained encoder's by more than the interval of their
difference, worse is below it by as much; broken trainings go by how they were broken.

Rows of before the looks had 256 images in pairs lack `pair_auc_change`. Of these the method's own figures and the
loss are replayed at every look; features and heads at the last one alone, at 256 images, with the usual standard error:
on the way BatchNorm's statistics lagged behind the weights. That images hold nothing is taken from the break's name.

--advice trains what the verdict advised for broken trainings and for healthy ones that it gave a false alarm.
"""

import argparse
import dataclasses
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import get_args

import defaults
import resumable
from defaults import Job, key
from resumable import Row, read
from scipy.stats import beta
from settings_tried import SAID

from lookalike.runs import commit
from lookalike.training.health import CLEARLY, SETTLED, Course, Remedies, Seen, Verdict, Word
from lookalike.training.looks import CHANGES, NAMES, Change

ERROR = 0.02
"""Standard error of a change of `pair_auc` of 256 images in pairs, for rows that lack it: 0.011 to 0.021 in those
that have it, once the features moved."""
SOON = 0.15
"""Share of the steps after which a broken training is to be named."""
KINDS = "healthy", "no gain", "worse"


# ---------------------------------------------------------------- what became of a training


def outcome(row: Row) -> str:
    """One of `KINDS`, by k-NN; "failed" where there is none."""
    if not row.get("after"):
        return "failed"
    (before, low, high), (after, bottom, top) = ((row[w]["knn"], *row[w]["interval"]) for w in ("before", "after"))
    chance = math.hypot((high - low) / 2, (top - bottom) / 2)  # half the interval of the difference
    return "healthy" if after - before > chance else "worse" if before - after > chance else "no gain"


def remedies(row: Row) -> Remedies:
    """What the monitor had to advise; of older rows as much as the break's name tells."""
    if "remedies" in row:
        return Remedies(**row["remedies"])
    what, rate = row.get("broken"), "--optim.lr" if str(row.get("broken")).startswith("rate") else ""
    causes = {
        "no predictor", "no stopped gradient", "no centring", "no sharpening", "lambda 0", "no normality", "no variance"
    }  # fmt: skip
    return Remedies(stated=rate, cause=f"{what}." if what in causes else "")


def lacking(row: Row) -> str:
    if "lacking" in row:
        return str(row["lacking"])
    return str(row["broken"]) if row["broken"] in ("shuffled pixels", "constant images") else ""


def looks(row: Row) -> list[tuple[int, dict[str, float], Change | None]]:
    """Step, figures and change of each look that can be replayed."""
    found = []
    steps = row["steps"]
    nan = dict.fromkeys(NAMES, math.nan)
    for given in row.get("looks", []):
        figures = {n: math.nan if v is None else v for n, v in given.items() if n not in ("step", "verdict")}
        change = None
        if "loss" not in figures or "pair_auc" not in figures:
            continue
        if CHANGES[0] in figures:
            change = Change(*(figures[name] for name in CHANGES))
        elif given["step"] >= steps and row.get("wide_looks"):
            wide = row["wide_looks"][-1]
            figures |= nan | {n: wide[n] for n in NAMES if wide[n] is not None}
            change = Change(wide["pair_auc"] - row["wide_first"]["pair_auc"], ERROR, math.inf) if all(
                wide[n] is not None for n in NAMES
            ) else None  # fmt: skip
        else:  # the lag of BatchNorm's statistics says nothing of the encoder
            figures |= {n: row["first"][n] for n in NAMES if math.isfinite(figures[n])}
        found.append((given["step"], figures, change))
    return found


def replay(row: Row) -> list[tuple[int, Verdict]]:
    """The verdict after each look, from the first on that knows one, with the optimizer step."""
    course, said = Course(), []
    first = dict(row["first"]) if "first" in row else {}
    wide = row.get("wide_first")
    paired = any(CHANGES[0] in look for look in row.get("looks", []))
    if wide and not paired:
        first |= {n: wide[n] for n in NAMES}
    for step, now, change in looks(row):
        seen = Seen(
            first=first, now=now, change=change, step=step, steps=row["steps"], lacking=lacking(row),
            remedies=remedies(row), labelled=row["method"] == "supcon",
        )  # fmt: skip
        if (verdict := course.see(seen)) is not None:
            said.append((step, verdict))
    if not said and row.get("error"):
        said = [(row.get("done", 0), Verdict("diverged", row["error"]))]
    return said


# ---------------------------------------------------------------- the matrix


@dataclasses.dataclass(frozen=True)
class Judged:
    """A row, what became of it, and what was said."""

    row: Row
    kind: str
    last: str
    """The last verdict; "" where there was none."""
    alarm: tuple[int, Verdict] | None
    """The first alarm and its step."""

    @property
    def in_time(self) -> bool:
        """Whether an alarm came within `SOON` of the steps, rounded up."""
        return self.alarm is not None and self.alarm[0] <= math.ceil(SOON * self.row["steps"])


def judged(row: Row) -> Judged:
    said = replay(row)
    alarm = next(((step, verdict) for step, verdict in said if verdict.is_alarm), None)
    return Judged(row, row["broken"] or outcome(row), said[-1][1].word if said else "", alarm)


def upper(count: int, of: int) -> float:
    """The upper end of the 95 % interval of a share (Clopper and Pearson)."""
    return float(beta.ppf(0.975, count + 1, of - count)) if count < of else 1.0


def matrix(all_judged: Sequence[Judged]) -> list[str]:
    """Rows: what became of trainings, or how they were broken. Columns: the last verdict, and alarms."""
    words = (*get_args(Word), "")
    lines = ["| training | number | " + " | ".join(w or "none" for w in words) + " | alarm, ever | within 15 % |"]
    lines.append("| --- " * (len(words) + 4) + "|")
    kinds = [k for k in KINDS if any(j.kind == k for j in all_judged)]
    kinds += sorted({j.kind for j in all_judged} - set(KINDS))
    for kind in kinds:
        own = [j for j in all_judged if j.kind == kind]
        counts = [str(sum(j.last == word for j in own) or "") for word in words]
        alarms, soon = sum(j.alarm is not None for j in own), sum(j.in_time for j in own)
        lines.append(f"| {kind} | {len(own)} | {' | '.join(counts)} | {alarms or ''} | {soon or ''} |")
    return lines


def summary(all_judged: Sequence[Judged]) -> list[str]:
    """False alarms, and how many broken trainings were named in time."""
    healthy = [j for j in all_judged if j.kind == "healthy" and not j.row["broken"]]
    broken = [j for j in all_judged if j.row["broken"]]
    lines = []
    if healthy:
        false = [j for j in healthy if j.alarm is not None]
        bound = upper(len(false), len(healthy))
        lines.append(f"False alarms: {len(false)} of {len(healthy)} healthy trainings; at most {bound:.1%} (95 %).")
        lines += [f"  {name(j.row)}: step {j.alarm[0]}, {j.alarm[1]}" for j in false if j.alarm is not None]
    if broken:
        soon = [j for j in broken if j.in_time]
        lines.append(f"Broken and named within {SOON:.0%} of the steps: {len(soon)} of {len(broken)}.")
        lines += [
            f"  not in time: {name(j.row)}, {outcome(j.row)}: "
            + (f"step {j.alarm[0]}, {j.alarm[1].word}" if j.alarm else f"never, {j.last or 'no verdict'}")
            for j in broken
            if j not in soon
        ]
    old = sum(not any(CHANGES[0] in look for look in j.row.get("looks", [])) for j in all_judged)
    lines.append(f"{len(all_judged)} trainings, of which {old} have no looks in pairs.")
    return lines


RATIOS = "spread", "effective_rank", "head_spread", "head_size", "embedding_deviation", "target_information"
"""Figures of a look that the verdict takes as shares of the first."""
FALLEN = {"head_spread": 1.0, "head_size": 1.0, "target_information": 1.0, "effective_rank": CLEARLY}
"""Of these, the ones that count where the pair AUC is that many standard errors below its first; at the end, any."""


def figures_of(row: Row) -> dict[str, list[float]]:
    """What the limits of `training.health` are compared with, of all looks after which something may be told."""
    first = row.get("wide_first") if not any(CHANGES[0] in look for look in row.get("looks", [])) else None
    first = row["first"] | {n: v for n, v in (first or {}).items() if n in NAMES}
    found: dict[str, list[float]] = {}
    for step, now, moved in looks(row):
        if step < SETTLED:
            continue
        for each in RATIOS:
            if first.get(each) and math.isfinite(now.get(each, math.nan)):
                share = now[each] / first[each]
                found.setdefault(f"{each}, share of the first", []).append(share)
                least = CLEARLY if each == "effective_rank" else 0.0 if step >= row["steps"] else FALLEN.get(each, 0.0)
                labelled = row["method"] == "supcon"  # of which it is not asked
                if each in FALLEN and not labelled and moved is not None and moved.away < -least:
                    found.setdefault(f"{each}, share of the first, where the pair AUC fell", []).append(share)
        if "update_ratio" in now and step <= math.ceil(SOON * row["steps"]):  # the rate decays later
            found.setdefault("update_ratio, early", []).append(now["update_ratio"])
        if math.isfinite(now.get("embedding_correlation", math.nan)):
            found.setdefault("embedding_correlation", []).append(now["embedding_correlation"])
        if moved is not None and math.isfinite(moved.moved):
            found.setdefault("moved", []).append(moved.moved)
            if step >= row["steps"]:
                share = moved.moved / max(1 - first["pair_auc"], 1e-9)
                found.setdefault("moved in the end, share of the first mistakes", []).append(share)
    return found


def limits(all_judged: Sequence[Judged]) -> list[str]:
    """Lowest and highest figures at any look, of healthy trainings and of broken ones."""
    groups = {
        "healthy": [j.row for j in all_judged if j.kind == "healthy"],
        "broken": [j.row for j in all_judged if j.row["broken"]],
    }
    found = {group: [figures_of(row) for row in rows] for group, rows in groups.items()}
    lines = ["| figure | healthy: trainings, lowest, highest | broken |", "| --- | --- | --- |"]
    for what in dict.fromkeys(what for each in found["healthy"] for what in each):
        cells = []
        for each in found.values():
            own = [figures[what] for figures in each if what in figures]
            low, high = min(map(min, own), default=math.nan), max(map(max, own), default=math.nan)
            cells.append(f"{len(own)}, {low:.2g}, {high:.2g}" if own else "none")
        lines.append(f"| {what} | {' | '.join(cells)} |")
    return lines


def name(row: Row) -> str:
    words = [row["method"], row["network"][:6], row["set"], row["setting"], f"{row['stage']} steps"]
    found = f", k-NN {row['before']['knn']:.1%} -> {row['after']['knn']:.1%}" if row.get("after") else ""
    return ", ".join([*words, f"seed {row['seed']}", *([row["broken"]] if row["broken"] else [])]) + found


def latest(rows: Iterable[Row]) -> list[Row]:
    """One row of each training: the last."""
    return [*{key(row): row for row in rows}.values()]


# ---------------------------------------------------------------- the advice


def advised(found: Judged) -> Job | None:
    """The training that the first alarm's remedy asks for; None where it asks for none."""
    if found.alarm is None:
        return None
    row = found.row
    job = Job(**{n: row[n] for n in defaults.FIELDS}, grid="advice")
    remedy = found.alarm[1].remedy
    if row["broken"] is not None:
        own = row["broken"].startswith("rate")  # "leave --optim.lr out" leaves the method's own setting
        return dataclasses.replace(job, broken=None, setting=SAID if own else job.setting)
    if remedy.startswith("Leave"):
        return dataclasses.replace(job, setting=SAID) if job.setting != SAID else None
    return dataclasses.replace(job, stage=2 * job.stage) if remedy.startswith("Train for longer") else None


def advice(all_judged: Sequence[Judged], done: Sequence[Row]) -> list[str]:
    """What following the advice brought, as far as it is measured."""
    known = {key(row): row for row in done}
    lines, better, compared = [], 0, 0
    for each in all_judged:
        job = advised(each)
        if job is None or each.row.get("after") is None:
            continue
        after = known.get(defaults.key_of_job(job))
        if after is None or not after.get("after"):
            continue
        then, now = (row["after"] for row in (each.row, after))
        gain = now["knn"] - then["knn"]
        chance = math.hypot(*((i[1] - i[0]) / 2 for i in (then["interval"], now["interval"])))
        word = "better" if gain > chance else "worse" if gain < -chance else "within chance"
        compared += bool(each.row["broken"])
        better += bool(each.row["broken"]) and gain > 0
        lines.append(f"  {name(each.row)} -> {now['knn']:.1%}: {word}")
    return [f"Advice followed: k-NN rose in {better} of {compared} broken trainings.", *lines]


def follow(args: argparse.Namespace, all_judged: Sequence[Judged], rows: Sequence[Row]) -> None:
    """Trains what was advised and has no row yet."""
    jobs = dict.fromkeys(job for each in all_judged if (job := advised(each)) is not None)
    resumable.make_sets(dict.fromkeys(job.set for job in jobs), args)
    code = commit()

    def left(done: Sequence[Row], busy: Sequence[Job]) -> list[Job]:
        known = {key(row) for row in (*rows, *done)}
        return [job for job in jobs if defaults.key_of_job(job) not in known and job not in busy]

    resumable.study(
        lambda: resumable.Worker(defaults.work, args.cifar10, args.clothes, args.work, code), left, defaults.failed,
        defaults.say, record=args.record, jobs=args.jobs, hours=args.hours,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path, nargs="+", help="files of rows of defaults.py")
    parser.add_argument("--advice", action="store_true", help="train what was advised")
    resumable.add_options(parser, Path("runs/defaults"), defaults.RECORD.with_name("verdict_advice.jsonl"))
    args = parser.parse_args()
    rows = latest(row for path in args.rows for row in read(path))
    all_judged = [judged(row) for row in rows if "looks" in row or row.get("error")]
    if args.advice and not args.summary:
        resumable.answer_signals()
        follow(args, all_judged, rows)
    followed = advice(all_judged, [*rows, *read(args.record)])
    print("\n".join([*matrix(all_judged), "", *summary(all_judged), "", *limits(all_judged), "", *followed]))


if __name__ == "__main__":
    main()

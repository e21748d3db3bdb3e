"""Whether an encoder should be distilled once it is trained, or trained for longer, at equal time on few images.

    python benchmarks/born_again.py --work FOLDER [--sets digits --seeds 0 --jobs 2 --hours 1]
    python benchmarks/born_again.py --summary

1,500 images of 64 pixels of each of the four sets of `unlike_sets.py`, batches of 64. A teacher is trained by LeJEPA
for 13 epochs (299 steps); half as much time is left then, and `ARMS` are the ways to spend it. Each has the epochs that
the time comes to: a step of distillation takes 0.37 of LeJEPA's, for either student (CPU time of a step, median of 20
in turns, on an AMD EPYC, 2026-11-30); rows have the seconds that it took.

k-NN: the images that were trained on are the bank, 1,000 others are classified. No training sees a label. A row goes to
--record as soon as it is measured, and is not made again; teachers are kept in --work, and trained again where they are
not there. Ctrl-C, SIGTERM and --hours drop what is under way.
"""

import argparse
import dataclasses
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import few_images
import resumable
import unlike_sets
from resumable import Row, read
from settings_tried import CNN, SAID, SETTINGS, configured

from lookalike.methods.distill import Distill
from lookalike.runs import Run, commit

IMAGES = 1500
SEEDS = 0, 1, 2
SMALL = "test_efficientnet"
"""0.10 million parameters beside the 0.57 million of `CNN`: a sixth."""
TEACHER_EPOCHS = 13
EXTRA = 0.5
"""Time after the teacher's training, as a share of it."""
STEP = 0.37
"""What a step of distillation takes, as a share of one of LeJEPA's."""
SECONDS = 0.19
"""Of a core's time, for a step of LeJEPA on an AMD EPYC; the rows know better once they are there."""
BESIDE_SECONDS = 6.0
"""What a training takes beside its steps: its start, and k-NN."""
RECORD = Path(__file__).parent / "records" / "born_again.jsonl"


@dataclass(frozen=True)
class Arm:
    """One way to spend the time."""

    what: str
    network: str
    epochs: int
    distilled: bool = False


LONGER = round(TEACHER_EPOCHS * (1 + EXTRA))
DISTILLED = int(TEACHER_EPOCHS * EXTRA / STEP)
ARMS = {
    "teacher": Arm("the teacher", CNN, TEACHER_EPOCHS),
    "longer": Arm("the teacher's training, planned for the whole time", CNN, LONGER),
    "born again": Arm("the same network, distilled", CNN, DISTILLED, True),
    "small": Arm("a sixth as large, distilled", SMALL, DISTILLED, True),
    "small alone": Arm("a sixth as large, trained for the whole time", SMALL, LONGER),
}
PAIRS = (
    ("teacher", "longer"), ("teacher", "born again"), ("longer", "born again"), ("teacher", "small"),
    ("longer", "small"), ("small alone", "small"),
)  # fmt: skip
"""What the summary compares: before and after."""


@dataclass(frozen=True)
class Job:
    """One training."""

    set: str
    arm: str
    seed: int
    setting: str = SAID
    """Of `SETTINGS`: LeJEPA's, for all its trainings."""


FIELDS = tuple(field.name for field in dataclasses.fields(Job))
"""What makes two rows the same measurement."""


def key(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in FIELDS)


def left(rows: Sequence[Row], sets: Sequence[str], seeds: Sequence[int], setting: str) -> list[Job]:
    """The trainings without a row, in the order of their measurement."""
    done = {key(row) for row in rows}
    jobs = [Job(name, arm, seed, setting) for seed in seeds for name in sets for arm in ARMS]
    return [job for job in jobs if dataclasses.astuple(job) not in done]


def ready(rows: Sequence[Row], jobs: Iterable[Job], busy: Sequence[Job]) -> list[Job]:
    """Those that can begin: they are not under way, and students have their teacher."""
    taught = {(row["set"], row["seed"], row["setting"]) for row in rows if row["arm"] == "teacher" and row.get("after")}
    return [
        job
        for job in jobs
        if job not in busy and (not ARMS[job.arm].distilled or (job.set, job.seed, job.setting) in taught)
    ]


def cost(jobs: Iterable[Job], rows: Iterable[Row]) -> float:
    """Core-hours that trainings will take, as the rows of the same arm tell."""
    known: dict[str, list[float]] = {}
    for row in rows:
        if row.get("after"):
            known.setdefault(row["arm"], []).append(row["all_cpu_seconds"])
    total = 0.0
    for job in jobs:
        arm = ARMS[job.arm]
        steps = arm.epochs * (IMAGES // few_images.BATCH) * (STEP if arm.distilled else 1)
        total += statistics.median(known.get(job.arm, [steps * SECONDS + BESIDE_SECONDS]))
    return total / 3600


# ---------------------------------------------------------------- one training


def run_of(job: Job, source: Any, teacher: str) -> Run:
    """The training of an arm; `teacher` is a weights file, for those that have one."""
    arm = ARMS[job.arm]
    if arm.distilled:
        return few_images.run_of(source, Distill.Config(teacher=teacher), arm.network, arm.epochs, job.seed)
    cfg, given = configured("lejepa", SETTINGS["lejepa", CNN][job.setting], arm.epochs)
    return few_images.run_of(source, cfg, arm.network, arm.epochs, job.seed, given)


def measured(job: Job, of: unlike_sets.Labelled, folder: Path) -> dict[str, Any]:
    """Trains, and says what came of it. Teachers are kept in `folder`."""
    cpu = time.process_time()
    train, test = unlike_sets.drawn(IMAGES, of, job.seed)
    kept = folder / f"{job.set}-{job.seed}-{job.setting.replace(' ', '-')}"
    if ARMS[job.arm].distilled and not kept.is_dir():
        few_images.trained(run_of(dataclasses.replace(job, arm="teacher"), train, ""), kept)
    run = run_of(job, train, few_images.weights(kept))
    before = few_images.untrained(run, train, test)
    found = few_images.trained(run, kept if job.arm == "teacher" else None)
    encoder = found.pop("encoder")
    return {
        "benchmark": "born_again",
        "date": time.strftime("%Y-%m-%dT%H:%M:%S"),
        **dataclasses.asdict(job),
        "network": ARMS[job.arm].network,
        "parameters": sum(p.numel() for p in encoder.parameters()),
        **found,
        "before": few_images.said(before),
        "after": few_images.said(few_images.hits(encoder, train, test)),
        "error": "",
        "all_cpu_seconds": round(time.process_time() - cpu, 2),
    }


def failed(job: Job, why: str) -> dict[str, Any]:
    """The row of a training that came to no end."""
    date = time.strftime("%Y-%m-%dT%H:%M:%S")
    return {"benchmark": "born_again", "date": date, **dataclasses.asdict(job), "after": None, "error": why}


def work(pipe: Connection, cifar: Path, clothing: Path, folder: Path, code: str) -> None:
    """Does the trainings that come through the pipe, one after the other, until it is closed."""
    make = unlike_sets.makers(cifar, clothing)

    def measure(job: Job) -> Row:
        return measured(job, unlike_sets.kept(job.set, make[job.set], folder / "sets"), folder / "teachers")

    resumable.serve(pipe, measure, failed, code)


def say(row: Row, todo: int) -> None:
    """A line about a training."""
    found = row["error"]
    if after := row["after"]:
        found = f"k-NN {row['before']['knn']:.1%} -> {after['knn']:.1%}, {row['cpu_seconds']:.0f} s, {row['verdict']}"
    print(f"{row['set']:8s} {row['arm']:12s} seed {row['seed']}: {found}  ({todo} known to be left)", flush=True)


# ---------------------------------------------------------------- what the rows say


def summary(rows: Sequence[Row], setting: str) -> list[str]:
    """Per set and seed the k-NN of each arm; then the changes, with their intervals on the same test images."""
    good = {(r["set"], r["seed"], r["arm"]): r for r in rows if r["setting"] == setting and r.get("after")}
    pairs = sorted({name[:2] for name in good}, key=lambda p: (p[1], unlike_sets.NAMES.index(p[0])))
    lines = [f"LeJEPA's setting: {setting}", f"{'set':8s} seed  untrained  " + "  ".join(f"{a:>11s}" for a in ARMS)]
    for name, seed in pairs:
        own = {arm: good[name, seed, arm] for arm in ARMS if (name, seed, arm) in good}
        first = next((own[a]["before"]["knn"] for a in ARMS if a in own and own[a]["network"] == CNN), None)
        cells = [f"{own[a]['after']['knn']:11.1%}" if a in own else f"{'':>11s}" for a in ARMS]
        lines.append(f"{name:8s} {seed:4d}  {'' if first is None else f'{first:.1%}':>9s}  " + "  ".join(cells))
    for a, b in PAIRS:
        both = [p for p in pairs if (*p, a) in good and (*p, b) in good]
        if not both:
            continue
        each = [([good[*p, a]["after"]], [good[*p, b]["after"]]) for p in both]
        lines.append(f"{b} beside {a}: {few_images.points(*map(list, map(_joined, zip(*each))))} points over all; ")
        lines[-1] += ", ".join(f"{s} {n}: {few_images.points(*two)}" for (s, n), two in zip(both, each))
    for arm in ARMS:
        if own_rows := [r for p, r in good.items() if p[2] == arm]:
            seconds = statistics.median(r["cpu_seconds"] for r in own_rows)
            size, steps = own_rows[0]["parameters"] / 1e6, own_rows[0]["steps"]
            lines.append(f"{arm:12s} {size:.2f} M parameters, {steps:4d} steps, {seconds:.0f} s (median of a core)")
    spent = sum(row.get("all_cpu_seconds", 0.0) for row in rows) / 3600
    wrong = sum(bool(row["error"]) for row in rows)
    lines.append(f"{len(rows)} trainings, {wrong} of them failed, {spent:.2f} core-hours.")
    return lines


def _joined(parts: Iterable[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    return [one for part in parts for one in part]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    resumable.add_options(parser, Path("runs/born_again"), RECORD)
    known = list(unlike_sets.NAMES)
    parser.add_argument("--sets", type=resumable.names, default=known, help="digits,textures: only these")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--setting", choices=SETTINGS["lejepa", CNN], default=SAID, help="LeJEPA's")
    args = parser.parse_args()
    if unknown := set(args.sets) - set(known):
        parser.error(f"there is no {min(unknown)!r}; choose from {', '.join(known)}")
    what = args.sets, args.seeds, args.setting
    if args.summary:
        print("\n".join(summary(read(args.record), args.setting)))
        return
    if args.left:
        todo = left(read(args.record), *what)
        print("\n".join(map(str, todo[:10])))
        print(f"{len(todo)} trainings are left; they take about {cost(todo, read(args.record)):.1f} core-hours.")
        return
    resumable.answer_signals()
    resumable.make_sets(args.sets, args)
    code = commit()
    resumable.study(
        lambda: resumable.Worker(work, args.cifar10, args.clothes, args.work, code),
        lambda rows, busy: ready(rows, left(rows, *what), busy),
        failed, say, record=args.record, jobs=args.jobs, hours=args.hours,
    )  # fmt: skip


if __name__ == "__main__":
    main()

"""A race of four libraries on two CPU cores: wall time from JPEG files to a level of k-NN accuracy.

    python -m venv lightly-env && lightly-env/bin/pip install lightly==1.6.0 timm
    python -m venv lightly-train-env && lightly-train-env/bin/pip install lightly-train==0.18.0 timm
    python -m venv spt-env && spt-env/bin/pip install stable-pretraining==0.1.8
    python benchmarks/race.py CIFAR10_ARCHIVE CLOTHES_ARCHIVE --python lightly=lightly-env/bin/python \\
        lightly-train=lightly-train-env/bin/python stable-pretraining=spt-env/bin/python
    python benchmarks/race.py --table --picture race.png

The archives hold train/ and test/ (and validation/) with one sub-folder per class. All libraries train the same network
from the same first weights by SimCLR, both views at once, with the same batch, size and recipe of views, head,
temperature, SGD, schedules and epochs. Free for each library are worker processes, threads, precision, cache, memory
layout, compilation and torch's fused optimizer. Before the race these options are tuned for each library, one option at
a time: a training of --trial-seconds per value, and the value with the shortest expected training is kept.

Not the same, because it is how a library works: ours decodes JPEG files at reduced size where that is at least twice
the views', keeps released memory, and ends its head with a BatchNorm without shift; lightly-train (albumentations) and
stable-pretraining in batches (kornia) do not antialias crops. Compiled code of all libraries is in their caches from
the trials: a first start takes longer.

Trainings run one at a time, interleaved, each in its own process on --cores cores. The clock starts with the process,
so imports, listing files and filling a cache count; it is paused while a snapshot of the network is saved after each
epoch. After the training our evaluation computes the accuracy of every snapshot: k-NN with the training images as the
bank and all test images as queries. The result is the time at which the line through the snapshots first reaches the
level; the line begins with the untrained network at the end of the first step. Rows go to --record, and trainings and
trials that have a row are skipped. `others` in a row is the number of cores that other processes used: about 0 on a
quiet machine.
"""

import argparse
import dataclasses
import itertools
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from race_task import MEAN, NETWORKS, SKIP, STD, Task
from resumable import answer_signals, read
from rows import append
from torch import nn
from unlike_sets import members

from lookalike.data import Source, open_source
from lookalike.evaluation import features, knn, with_statistics
from lookalike.files import atomic
from lookalike.random import permutation
from lookalike.runs import commit

HERE = Path(__file__).parent
Row = Mapping[str, Any]
Curve = Sequence[tuple[float, float]]
"""Seconds since the start of the process and k-NN accuracy in [0, 1], in the order of time."""


@dataclass(frozen=True)
class Contest:
    """A data set, what is trained on it, and the level that counts."""

    name: str
    level: float
    """k-NN accuracy, in [0, 1]."""
    images: int | None
    """As many are drawn from train/; None for all."""
    network: str
    image_size: int
    batch_size: int
    epochs: int
    lr: float
    momentum: float = 0.9
    weight_decay: float = 1e-4
    temperature: float = 0.2
    hidden_dim: int = 512
    out_dim: int = 128
    one_size: bool = False
    """All images have the size of the views, as transforms of whole batches need."""

    def settings(self) -> dict[str, Any]:
        """What makes two rows the same measurement."""
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in ("name", "level", "one_size")}

    def options(self, library: str) -> dict[str, list[Any]]:
        """The options of a library and their values."""
        return {k: v for k, v in OPTIONS[library].items() if self.one_size or k != "batched"}


CONTESTS = (
    Contest("cifar10", 0.45, 10_000, "strided", image_size=32, batch_size=64, epochs=14, lr=0.1, one_size=True),
    Contest("clothes", 0.36, None, "strided", image_size=64, batch_size=64, epochs=16, lr=0.1),
)

COMMON: dict[str, list[Any]] = {"threads": [2, 1], "precision": ["fp32", "bf16"], "compile": [False, True]}
OPTIONS: dict[str, dict[str, list[Any]]] = {
    "lookalike": {"workers": [1, 0, 2], "cache": ["none", "ram"], **COMMON},
    "lightly": {"workers": [1, 0, 2], "channels_last": [False, True], "fused": [False, True], **COMMON},
    "lightly-train": {"workers": [1, 0, 2], "channels_last": [False, True], **COMMON},
    "stable-pretraining": {
        "workers": [1, 0, 2], "batched": [False, True], "channels_last": [False, True], "fused": [False, True],
        **COMMON,
    },
}  # fmt: skip
"""The options that are tuned, in this order, with their values; tuning starts from the first ones."""
QUIET = 0.2
"""Cores that other processes may use during a trial; with more it is made again, up to `TRIES` times."""
TRIES = 3
PACKAGES = {"lightly": "lightly", "lightly-train": "lightly-train", "stable-pretraining": "stable-pretraining"}


# ---------------------------------------------------------------- images


def folders_of(contest: Contest, archive: Path, work: Path) -> tuple[Path, Path]:
    """The folders of the images to train on and of those for tests, which are made if they are not there."""
    place = work / "images" / f"{contest.name}-{contest.images or 'all'}"
    if not place.is_dir():
        found = sorted(members(archive), key=lambda m: m[:3])
        train = [m for m in found if m[0] == "train"]
        drawn = permutation(len(train), 0, "images")[: contest.images].tolist()
        making = place.with_name(f"{place.name}.part")
        for part, chosen in (("train", [train[i] for i in drawn]), ("test", [m for m in found if m[0] != "train"])):
            for split, label, name, content in chosen:
                file = making / part / label / f"{split}-{name}"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)
        making.replace(place)
    return place / "train", place / "test"


def first_weights(contest: Contest, seed: int, work: Path) -> tuple[nn.Module, Path]:
    """The network of a seed, and the file from which each library gets its weights."""
    torch.manual_seed(seed)
    network = NETWORKS[contest.network]()
    file = work / f"first-{contest.network}-{seed}.pt"
    with atomic(file) as temporary:
        torch.save(network.state_dict(), temporary)
    return network, file


class Accuracy:
    """k-NN of a network on the test images, with the training images as the bank."""

    def __init__(self, contest: Contest, train: Path, test: Path) -> None:
        self.size = contest.image_size
        self.train: Source = open_source(train, labelled=True)
        self.test: Source = open_source(test, labelled=True, classes=self.train.classes)

    def untrained(self, network: nn.Module) -> float:
        """With the images' own statistics in place of those that BatchNorm begins with."""
        return self(with_statistics(network, self.train, image_size=self.size, mean=MEAN, std=STD))

    def __call__(self, network: nn.Module) -> float:
        bank, queries = (
            features(network, source, image_size=self.size, mean=MEAN, std=STD) for source in (self.train, self.test)
        )
        assert bank.labels is not None
        assert queries.labels is not None
        return knn(bank.features, bank.labels, queries.features, queries.labels, k=20).top1


# ---------------------------------------------------------------- trainings


class Failed(Exception):
    """A training ended without its times."""


def train(library: str, task: Task, python: str, limit: float) -> dict[str, Any]:
    """Runs an entrant; the content of its times.json.

    Raises:
        Failed: it ended, or was ended after `limit` seconds, without its times.
    """
    out = Path(task.out)
    if out.is_dir():
        shutil.rmtree(out)
    out.mkdir(parents=True)
    times, log, script = out / "times.json", out / "log.txt", HERE / f"race_{library.replace('-', '_')}.py"
    threads = str(task.options["threads"])
    environment = os.environ | {
        "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "LIGHTLY_TRAIN_EVENTS_DISABLED": "1",
        "HF_HUB_OFFLINE": "1", "TORCHINDUCTOR_CACHE_DIR": str(out.parent / "compiled" / library),
    }  # fmt: skip
    with open(log, "w") as written:
        task = dataclasses.replace(task, started=time.monotonic())
        (out / "task.json").write_text(json.dumps(dataclasses.asdict(task)))
        process = subprocess.Popen(
            [python, str(script), str(out / "task.json")], stdout=written, stderr=written, env=environment,
            start_new_session=True,
        )  # fmt: skip
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            written.write(f"\nEnded after {limit:.0f} s.\n")
        finally:
            with suppress(ProcessLookupError):  # its workers, too
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if not times.is_file():
        raise Failed(f"{library} ended with exit code {process.returncode}: {log.read_text()[-2000:]}")
    return dict(json.loads(times.read_text()))


def task_of(contest: Contest, seed: int, options: Mapping[str, Any], images: Path, weights: Path, out: Path) -> Task:
    count = sum(1 for _ in images.glob("*/*"))
    return Task(
        images=str(images.absolute()), network=contest.network, weights=str(weights.absolute()),
        image_size=contest.image_size, batch_size=contest.batch_size, epochs=contest.epochs,
        steps_per_epoch=count // contest.batch_size, lr=contest.lr, momentum=contest.momentum,
        weight_decay=contest.weight_decay, temperature=contest.temperature, hidden_dim=contest.hidden_dim,
        out_dim=contest.out_dim, seed=seed, options=dict(options), out=str(out.absolute()), started=0.0,
    )  # fmt: skip


# ---------------------------------------------------------------- tuning


def expected(ends: Sequence[float], steps: int) -> float:
    """Seconds from the start of the process to the end of all steps, by the times at which the first ones ended."""
    first = min(SKIP, len(ends) - 1)
    each = (ends[-1] - ends[first - 1]) / (len(ends) - first)
    return ends[-1] + each * (steps - len(ends))


Try = Callable[[Mapping[str, Any]], float | None]
"""Seconds that a training with these options would take; None if it fails."""


def chosen(space: Mapping[str, Sequence[Any]], attempt: Try) -> dict[str, Any]:
    """The best options: each in turn gets the value with which the training is fastest, the others as they are then."""
    best = {name: values[0] for name, values in space.items()}
    for name, values in space.items():
        seconds = {value: attempt({**best, name: value}) for value in values}
        if known := {value: s for value, s in seconds.items() if s is not None}:
            best[name] = min(known, key=lambda value: known[value])
    return best


# ---------------------------------------------------------------- results


def reached(curve: Curve, level: float) -> float | None:
    """The time at which the line through the points first reaches the level; None if it does not, or has no points."""
    for (before, low), (after, high) in itertools.pairwise(curve):
        if low >= level:
            return before
        if high >= level:
            return before + (after - before) * (level - low) / (high - low)
    return curve[0][0] if len(curve) == 1 and curve[0][1] >= level else None


def seconds_of(row: Row, level: float, since: str = "process") -> float | None:
    """Seconds to the level since the start of the process, or since the end of the first step."""
    at = reached([(seconds, accuracy) for seconds, accuracy in row["curve"]], level)
    return at if at is None or since == "process" else at - row["curve"][0][0]


def summary(values: Sequence[float | None], digits: int = 0) -> str:
    """Median (smallest to largest), if all are known."""
    known = [v for v in values if v is not None]
    if len(known) < len(values):
        return f"not reached by {len(values) - len(known)} of {len(values)}"
    if not known:
        return ""
    return f"{statistics.median(known):.{digits}f} ({min(known):.{digits}f} to {max(known):.{digits}f})"


def table(rows: Sequence[Row], contests: Sequence[Contest]) -> Iterator[str]:
    """Lines of Markdown: what each library needed to the level."""
    yield "| images | level | library | seeds | seconds since the process began | since the first step | to ours |"
    yield "| -- | -- | -- | -- | -- | -- | -- |"
    for contest in contests:
        own = {r["seed"]: seconds_of(r, contest.level) for r in found(rows, contest, "lookalike")}
        for library in OPTIONS:
            theirs = sorted(found(rows, contest, library), key=lambda r: r["seed"])
            if not theirs:
                continue
            both = [(seconds_of(row, contest.level), own.get(row["seed"])) for row in theirs]
            ratios = [None if theirs_at is None else theirs_at / ours_at for theirs_at, ours_at in both if ours_at]
            columns = [summary([seconds_of(r, contest.level, since) for r in theirs]) for since in ("process", "step")]
            relative = "1" if library == "lookalike" else summary(ratios, 2)
            first = f"| {contest.name} | {contest.level:.0%} | {library} | {len(theirs)}"
            yield f"{first} | {' | '.join(columns)} | {relative} |"
    yield ""
    for library in OPTIONS:
        made = [row for contest in contests for row in found(rows, contest, library) if row.get("versions")]
        kinds = {", ".join(f"{n} {v}" for n, v in row["versions"][library].items()) for row in made}
        commits = {row["lookalike"] for row in made} if library == "lookalike" else set()
        for kind in sorted(kinds):
            yield f"{library}: {kind}{''.join(f', commit {c}' for c in sorted(commits))}"


def found(rows: Sequence[Row], contest: Contest, library: str) -> list[Row]:
    """The last training of each seed of a library in a contest; without a curve if it failed."""
    wanted = {"benchmark": "race", "images_of": contest.name, "library": library, "settings": contest.settings()}
    return list({row["seed"]: row for row in rows if wanted.items() <= row.items()}.values())


COLOURS = {
    "lookalike": "#0072b2", "lightly": "#d55e00", "lightly-train": "#008f68", "stable-pretraining": "#b8568f",
}  # fmt: skip
"""Of a palette for colour-blind readers (after Okabe and Ito)."""


def draw(rows: Sequence[Row], contests: Sequence[Contest], file: Path) -> None:
    """A picture of k-NN accuracy over wall time: a line per training, a dot where it reaches the level.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6 * len(contests), 3.6), layout="constrained")
    parts = figure.subplots(1, len(contests), squeeze=False)[0]
    for axes, contest in zip(parts, contests):
        for library, colour in COLOURS.items():
            theirs = found(rows, contest, library)
            for number, row in enumerate(row for row in theirs if row["curve"]):
                minutes, accuracies = [s / 60 for s, _ in row["curve"]], [100 * a for _, a in row["curve"]]
                axes.plot(
                    minutes, accuracies, color=colour, linewidth=1.3, alpha=0.8, label=library if number == 0 else None
                )
                if (at := seconds_of(row, contest.level)) is not None:
                    axes.plot([at / 60], [100 * contest.level], "o", color=colour, markersize=5)
        axes.axhline(100 * contest.level, color="#6b6f73", linewidth=0.8, linestyle="--")
        axes.set_title(TITLES[contest.name], fontsize=10)
        axes.set_xlabel("minutes on two CPU cores, from the start of the process")
        axes.set_xlim(left=0)
        axes.spines[["top", "right"]].set_visible(False)
    parts[0].set_ylabel("k-NN accuracy (%)")
    parts[0].legend(frameon=False, fontsize=9, loc="lower right")
    with atomic(file) as temporary:
        figure.savefig(temporary, dpi=150, format=file.suffix.lstrip("."))


TITLES = {
    "cifar10": "CIFAR-10, 10,000 images of 32 pixels",
    "clothes": "clothes, 3,068 photographs, views of 64 pixels",
}


# ---------------------------------------------------------------- the race


class Race:
    """All trainings of a call."""

    def __init__(self, args: argparse.Namespace, contests: Sequence[Contest]) -> None:
        self.args, self.contests = args, contests
        self.pythons = dict.fromkeys(OPTIONS, sys.executable) | dict(p.split("=", 1) for p in args.python)
        self.facts = {
            "cores": args.cores, "processor": processor(), "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "lookalike": commit(), "versions": versions(self.pythons, args.libraries),
        }  # fmt: skip

    @property
    def rows(self) -> list[dict[str, Any]]:
        return read(self.args.record)

    def keep(self, row: dict[str, Any]) -> None:
        append(self.args.record, {**row, **self.facts, "date": time.strftime("%Y-%m-%dT%H:%M:%S")})

    def options(self, contest: Contest, library: str, images: Path, weights: Path) -> dict[str, Any]:
        """The tuned options of a library; trials that have a row are skipped."""
        args = self.args
        if not args.trial_seconds:
            return {name: values[0] for name, values in contest.options(library).items()}

        def attempt(options: Mapping[str, Any]) -> float | None:
            wanted = {
                "benchmark": "race trial", "images_of": contest.name, "library": library, "options": dict(options),
                "settings": contest.settings(), "trial_seconds": args.trial_seconds,
            }  # fmt: skip
            row = next((row for row in self.rows if wanted.items() <= row.items()), None)
            if row is None:
                task = task_of(contest, 0, options, images, weights, args.work / "trial")
                result = self.trial(library, dataclasses.replace(task, trial_seconds=args.trial_seconds))
                row = {**wanted, **result}
                self.keep(row)
                said = result.get("error", "").strip().split("\n")[-1] or f"{result['expected_seconds']} s expected"
                print(f"{contest.name}  {library}  {options}: {said}", flush=True)
            seconds: float | None = row["expected_seconds"]
            return seconds

        return chosen(contest.options(library), attempt)

    def trial(self, library: str, task: Task) -> dict[str, Any]:
        """How long the training would take; again where other processes took much of the machine."""
        args, result = self.args, {}
        for _ in range(TRIES):
            try:
                times = train(library, task, self.pythons[library], args.trial_seconds + args.start_limit)
            except Failed as problem:
                return {"expected_seconds": None, "error": str(problem)[-400:]}
            result = {
                "expected_seconds": round(expected(times["ends"], task.steps), 1), "others": times["others"],
                "first_step": round(times["ends"][0], 2), "steps": len(times["ends"]),
            }  # fmt: skip
            if times["others"] <= QUIET:
                break
        return result

    def one(self, contest: Contest, library: str, seed: int, accuracy: Accuracy, images: Path) -> None:
        """A training of a library that has no row yet."""
        args = self.args
        if any(row["seed"] == seed and row["curve"] for row in found(self.rows, contest, library)):
            print(f"{contest.name}, {library}, seed {seed}: in {args.record} already")
            return
        first, weights = first_weights(contest, seed, args.work)
        options = self.options(contest, library, images, weights)
        out = args.work / f"{contest.name}-{library}-{seed}"
        task = task_of(contest, seed, options, images, weights, out)
        try:
            times = train(library, task, self.pythons[library], args.limit)
        except Failed as problem:
            print(f"{contest.name}, {library}, seed {seed}: {problem}", flush=True)
            self.keep({
                "benchmark": "race", "images_of": contest.name, "library": library, "seed": seed, "options": options,
                "settings": contest.settings(), "steps": task.steps, "curve": [], "error": str(problem)[-400:],
            })  # fmt: skip
            return
        ends, network = times["ends"], NETWORKS[contest.network]()
        curve = [(round(ends[0], 2), round(accuracy.untrained(first), 4))]
        for epoch in range(1, contest.epochs + 1):
            network.load_state_dict(torch.load(out / f"{epoch}.pt", weights_only=True))
            curve.append((round(ends[epoch * task.steps_per_epoch - 1], 2), round(accuracy(network), 4)))
        row: dict[str, Any] = {
            "benchmark": "race", "images_of": contest.name, "library": library, "seed": seed, "options": options,
            "settings": contest.settings(), "steps": task.steps, "curve": curve,
            "images_per_s": round(contest.batch_size * (len(ends) - SKIP) / (ends[-1] - ends[SKIP - 1]), 1),
            "others": times["others"],
        }  # fmt: skip
        at = seconds_of(row, contest.level)
        self.keep(row)
        print(
            f"{contest.name}, {library}, seed {seed}: {'never' if at is None else f'{at:.0f} s'} to {contest.level:.0%}"
            f", {curve[-1][1]:.1%} after {curve[-1][0]:.0f} s, {row['images_per_s']} images/s; others used "
            f"{row['others']} cores", flush=True,
        )  # fmt: skip

    def run(self) -> None:
        args = self.args
        args.work.mkdir(parents=True, exist_ok=True)
        archives = {"cifar10": args.cifar10, "clothes": args.clothes}
        places = {c.name: folders_of(c, archives[c.name], args.work) for c in self.contests}
        accuracies = {c.name: Accuracy(c, *places[c.name]) for c in self.contests}
        for contest in self.contests:
            _, weights = first_weights(contest, 0, args.work)
            for library in args.libraries:
                options = self.options(contest, library, places[contest.name][0], weights)
                print(f"{contest.name}: {library} with {options}", flush=True)
        for seed in args.seeds:
            for contest in self.contests:
                turn = seed % len(args.libraries)  # which library goes first changes with the seed
                for library in args.libraries[turn:] + args.libraries[:turn]:
                    self.one(contest, library, seed, accuracies[contest.name], places[contest.name][0])


def versions(pythons: Mapping[str, str], libraries: Sequence[str]) -> dict[str, dict[str, str]]:
    """Versions of each library and of torch in its environment."""
    found = {}
    for library in libraries:
        names = ["torch", "torchvision", "timm", *filter(None, [PACKAGES.get(library)])]
        code = f"import importlib.metadata as m, json; print(json.dumps({{n: m.version(n) for n in {names}}}))"
        done = subprocess.run([pythons[library], "-c", code], capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(
                f"{library} is not complete in the environment of {pythons[library]}: {done.stderr.strip()[-300:]}. "
                "Give its interpreter by --python, or leave it out of --libraries."
            )
        found[library] = json.loads(done.stdout)
    return found


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cifar10", type=Path, nargs="?", help="an archive of CIFAR-10 as SPLIT/CLASS/NAME.jpg")
    parser.add_argument("clothes", type=Path, nargs="?", help="an archive of the clothes, the same")
    parser.add_argument("--python", nargs="+", default=[], metavar="LIBRARY=FILE", help="the library's interpreter")
    parser.add_argument("--libraries", nargs="+", default=list(OPTIONS), choices=OPTIONS)
    parser.add_argument("--sets", nargs="+", default=[c.name for c in CONTESTS], choices=[c.name for c in CONTESTS])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--images", type=int, help="train on fewer images")
    parser.add_argument("--epochs", type=int, help="other than the set's own")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--trial-seconds", type=float, default=15.0, help="of each trial; 0 tries nothing")
    parser.add_argument("--start-limit", type=float, default=240.0, help="seconds that a trial may take to start")
    parser.add_argument("--limit", type=float, default=7200.0, help="seconds that a training may take")
    parser.add_argument("--work", type=Path, default=Path("runs/race"), help="folder of the images and trainings")
    parser.add_argument("--record", type=Path, default=HERE / "records" / "race.jsonl")
    parser.add_argument("--table", action="store_true", help="train nothing, print the table of the record")
    parser.add_argument("--picture", type=Path, help="train nothing, draw the record to a file such as race.png")
    args = parser.parse_args()
    changes = {name: vars(args)[name] for name in ("images", "epochs") if vars(args)[name] is not None}
    contests = [dataclasses.replace(c, **changes) for c in CONTESTS if c.name in args.sets]
    if args.table or args.picture:
        rows = read(args.record)
        if args.table:
            print("\n".join(table(rows, contests)))
        if args.picture:
            draw(rows, contests, args.picture)
        return
    if args.cifar10 is None or args.clothes is None:
        parser.error("give the archives of CIFAR-10 and of the clothes")
    answer_signals()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cores])
    race = Race(args, contests)
    race.run()
    print("\n".join(table(race.rows, contests)))


if __name__ == "__main__":
    main()

"""How `--init` should be trained on few new images, so that an encoder learns them and forgets little of the old ones.

    python benchmarks/init_few.py --work FOLDER [--pairs "cifar10 -> clothes" --jobs 2 --hours 1]
    python benchmarks/init_few.py --summary

LeJEPA trains an encoder on 1,500 images of 64 pixels (20 epochs of 23 steps), the old data; then `--init` goes on from
it, with random heads, on 250 or 1,000 new images, for about 120 steps of 64 images. `PAIRS` are new images of another
kind, and other classes of the same kind; `SETTINGS` are rates, epochs in which the encoder is frozen, and decays of the
rate per layer. All settings are measured on 250 images; then the default, and the best other one, on 1,000 and with two
more seeds.

k-NN, before and after: 1,500 labelled images of the old data, and of the new, are the banks; the test images of each
are classified. The best setting is that whose old k-NN falls by 3 points at most on the mean of the pairs, and whose
new k-NN rises most. Rows, --work and a stop are as in `born_again.py`.
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
from settings_tried import CNN

from lookalike.core import DataFacts
from lookalike.data import Source, Subset
from lookalike.methods.lejepa import LeJEPA
from lookalike.runs import Run, commit

BANK = 1500
"""Images of the old data to train on, and labelled ones of either kind for the k-NN."""
OLD_EPOCHS = 20
STEPS = 120
FEW, MORE = 250, 1000
SEEDS = 0, 1, 2
FALL = 0.03
"""Of the old k-NN, at most."""
SECONDS, BESIDE_SECONDS = 0.19, 10.0
"""Of a core's time: for a step on an AMD EPYC, and beside the steps; the rows know better once they are there."""
RECORD = Path(__file__).parent / "records" / "init_few.jsonl"

Part = tuple[str, tuple[int, ...] | None]
"""A set, and the classes that are taken of it; without them all."""


@dataclass(frozen=True)
class Pair:
    old: Part
    new: Part


PAIRS = {
    "cifar10 -> clothes": Pair(("cifar10", None), ("clothes", None)),
    "digits 0-4 -> 5-9": Pair(("digits", (0, 1, 2, 3, 4)), ("digits", (5, 6, 7, 8, 9))),
}


@dataclass(frozen=True)
class Setting:
    """What differs from the default."""

    rate: float = 1.0
    """The learning rate, as a share of the default's."""
    frozen: float = 0.1
    """Share of the epochs in which the encoder stays as it is."""
    decay: float = 1.0
    """Factor on the rate per layer away from the heads."""


DEFAULT = Setting()
SETTINGS = (
    DEFAULT, Setting(0.3), Setting(0.1), Setting(0.03), Setting(frozen=0.5), Setting(0.1, frozen=0.5),
    Setting(decay=0.65), Setting(0.1, decay=0.65), Setting(0.3, 0.5, 0.65),
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One training from an encoder of the old data."""

    pair: str
    images: int
    rate: float
    frozen: float
    decay: float
    seed: int

    @property
    def setting(self) -> Setting:
        return Setting(self.rate, self.frozen, self.decay)


FIELDS = tuple(field.name for field in dataclasses.fields(Job))
"""What makes two rows the same measurement."""


def job_of(pair: str, images: int, setting: Setting, seed: int) -> Job:
    return Job(pair, images, *dataclasses.astuple(setting), seed)


def key(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in FIELDS)


def changes(rows: Iterable[Row], pairs: Sequence[str], images: int, seed: int) -> dict[Setting, tuple[float, float]]:
    """Mean change of the k-NN over the pairs, old and new, of each setting that is measured on all of them."""
    found: dict[Setting, dict[str, tuple[float, float]]] = {}
    for row in rows:
        if row["pair"] in pairs and (row["images"], row["seed"]) == (images, seed) and row.get("old"):
            setting = Setting(row["rate"], row["frozen"], row["decay"])
            old, new = (row[kind]["after"]["knn"] - row[kind]["before"]["knn"] for kind in ("old", "new"))
            found.setdefault(setting, {})[row["pair"]] = old, new
    return {
        setting: (statistics.fmean(o for o, _ in own.values()), statistics.fmean(n for _, n in own.values()))
        for setting, own in found.items()
        if len(own) == len(pairs)
    }


def best(found: dict[Setting, tuple[float, float]]) -> Setting | None:
    """The other setting than the default that forgets little and learns most; where all forget, the least of it."""
    others = {setting: change for setting, change in found.items() if setting != DEFAULT}
    little = {setting: change for setting, change in others.items() if change[0] >= -FALL}
    if little:
        return max(little, key=lambda s: little[s][1])
    return max(others, key=lambda s: others[s][0], default=None)


def left(rows: Sequence[Row], pairs: Sequence[str], busy: Sequence[Job] = ()) -> list[Job]:
    """The known trainings without a row that are not under way, the next one first."""
    jobs = [job_of(pair, FEW, setting, 0) for setting in SETTINGS for pair in pairs]
    tried = {key(row) for row in rows}
    if all(dataclasses.astuple(job) in tried for job in jobs):
        chosen = best(changes(rows, pairs, FEW, 0))
        two = [DEFAULT, *([chosen] if chosen else [])]
        jobs += [job_of(pair, MORE, setting, 0) for setting in two for pair in pairs]
        jobs += [job_of(pair, FEW, setting, seed) for seed in SEEDS[1:] for setting in two for pair in pairs]
    return [job for job in jobs if dataclasses.astuple(job) not in tried and job not in busy]


def cost(jobs: Iterable[Job], rows: Iterable[Row]) -> float:
    """Core-hours that trainings will take, as the rows tell."""
    known = [row["all_cpu_seconds"] for row in rows if row.get("old")]
    return len(list(jobs)) * statistics.median(known or [STEPS * SECONDS + BESIDE_SECONDS]) / 3600


# ---------------------------------------------------------------- one training


class Encoders:
    """The encoders of the old data, kept in a folder, and their k-NN."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: dict[tuple[str, int], dict[str, Any]] = {}

    def of(self, name: str, old: Source, seed: int) -> Path:
        """The folder of the encoder of some images, which is trained where it is not there."""
        kept = self.folder / f"{name}-{seed}-{OLD_EPOCHS}"
        if not kept.is_dir():
            few_images.trained(few_images.run_of(old, LeJEPA.Config(), CNN, OLD_EPOCHS, seed), kept)
        return kept

    def knn(self, pair: str, seed: int, kept: Path, data: "Data") -> dict[str, Any]:
        """The k-NN before training, on both kinds, and that of the untrained network on the old one."""
        if (pair, seed) not in self._known:
            run = few_images.run_of(data.old, LeJEPA.Config(), CNN, OLD_EPOCHS, seed)
            self._known[pair, seed] = {
                "untrained": few_images.said(few_images.untrained(run, data.old, data.old_test)),
                **data.said(few_images.loaded(kept)),
            }
        return self._known[pair, seed]


@dataclass(frozen=True)
class Data:
    """Images of both kinds, to train on and as banks, and for tests."""

    old: Source
    old_test: Source
    new: Source
    new_test: Source

    def said(self, encoder: Any) -> dict[str, Any]:
        """The k-NN on both kinds."""
        kinds = {"old": (self.old, self.old_test), "new": (self.new, self.new_test)}
        return {kind: few_images.said(few_images.hits(encoder, *own)) for kind, own in kinds.items()}


def data_of(pair: Pair, make: Any, folder: Path, seed: int) -> Data:
    parts: list[Source] = []
    for name, classes in (pair.old, pair.new):
        train, test = unlike_sets.drawn(unlike_sets.MOST, unlike_sets.kept(name, make[name], folder), seed)
        bank = few_images.of_classes(train, classes)
        parts += [Subset(bank, list(range(min(BANK, len(bank))))), few_images.of_classes(test, classes)]
    return Data(*parts)


def run_of(images: Source, setting: Setting, seed: int, init: str) -> Run:
    """The training from old weights, with what a setting changes of the default."""
    epochs = max(1, round(STEPS / (len(images) // few_images.BATCH)))
    facts = DataFacts(len(images), few_images.SIZE, few_images.BATCH, epochs)
    optim = LeJEPA.Config().fit_to(facts).optim
    optim = dataclasses.replace(
        optim,
        lr=setting.rate * optim.lr,
        layer_decay=setting.decay,
        warmup_epochs=min(optim.warmup_epochs, epochs / 10),
    )
    given = ("optim.name", "optim.warmup_epochs")
    run = few_images.run_of(images, LeJEPA.Config(optim=optim), CNN, epochs, seed, given)
    return dataclasses.replace(run, init=init, frozen_epochs=setting.frozen * epochs)


def measured(job: Job, data: Data, encoders: Encoders) -> dict[str, Any]:
    """Trains, and says what came of it."""
    cpu = time.process_time()
    name = job.pair.partition(" -> ")[0].replace(" ", "-")
    kept = encoders.of(name, data.old, job.seed)
    before = encoders.knn(job.pair, job.seed, kept, data)
    images = Subset(data.new, list(range(job.images)))
    found = few_images.trained(run_of(images, job.setting, job.seed, few_images.weights(kept)))
    after = data.said(found.pop("encoder"))
    return {
        "benchmark": "init_few",
        "date": time.strftime("%Y-%m-%dT%H:%M:%S"),
        **dataclasses.asdict(job),
        **found,
        "untrained": before["untrained"],
        **{kind: {"before": before[kind], "after": after[kind]} for kind in ("old", "new")},
        "error": "",
        "all_cpu_seconds": round(time.process_time() - cpu, 2),
    }


def failed(job: Job, why: str) -> dict[str, Any]:
    """The row of a training that came to no end."""
    date = time.strftime("%Y-%m-%dT%H:%M:%S")
    return {"benchmark": "init_few", "date": date, **dataclasses.asdict(job), "old": None, "error": why}


def work(pipe: Connection, cifar: Path, clothing: Path, folder: Path, code: str) -> None:
    """Does the trainings that come through the pipe, one after the other, until it is closed."""
    make, encoders = unlike_sets.makers(cifar, clothing), Encoders(folder / "old")

    def measure(job: Job) -> Row:
        return measured(job, data_of(PAIRS[job.pair], make, folder / "sets", job.seed), encoders)

    resumable.serve(pipe, measure, failed, code)


def say(row: Row, todo: int) -> None:
    """A line about a training."""
    what = f"{row['pair']}, {row['images']} images, rate x{row['rate']:g}, frozen {row['frozen']:g}, decay"
    what += f" {row['decay']:g}, seed {row['seed']}"
    if row["old"]:
        kinds = (f"{kind} {row[kind]['before']['knn']:.1%} -> {row[kind]['after']['knn']:.1%}" for kind in KINDS)
        what += f": {', '.join(kinds)}, {row['cpu_seconds']:.0f} s, {row['verdict']}"
    else:
        what += f": {row['error']}"
    print(f"{what}  ({todo} known to be left)", flush=True)


KINDS = "old", "new"

# ---------------------------------------------------------------- what the rows say


def summary(rows: Sequence[Row], pairs: Sequence[str]) -> list[str]:
    """Per pair and number of images the changes of each setting, with intervals, and what is best over the pairs."""
    good = [row for row in rows if row.get("old") and row["pair"] in pairs]
    lines = []
    for pair, images in sorted({(row["pair"], row["images"]) for row in good}):
        own = [row for row in good if (row["pair"], row["images"]) == (pair, images)]
        old, new = (statistics.fmean(row[kind]["before"]["knn"] for row in own) for kind in KINDS)
        plain = statistics.fmean(row["untrained"]["knn"] for row in own)
        lines.append(f"{pair}, {images} images: before old {old:.1%} (untrained {plain:.1%}), new {new:.1%}")
        for setting in SETTINGS:
            same = [row for row in own if Setting(row["rate"], row["frozen"], row["decay"]) == setting]
            if same:
                both = (
                    few_images.points([r[kind]["before"] for r in same], [r[kind]["after"] for r in same])
                    for kind in KINDS
                )
                seeds = ", ".join(str(row["seed"]) for row in same)
                lines.append("  {}: old {}, new {} points".format(words(setting), *both) + f"; seeds {seeds}")
    found = changes(good, pairs, FEW, 0)
    for setting, (old_change, new_change) in found.items():
        line = (
            f"  mean, {FEW} images, seed 0: {words(setting)}: old {100 * old_change:+.1f}, new {100 * new_change:+.1f}"
        )
        lines.append(line)
    if chosen := best(found):
        lines.append(f"best beside the default: {words(chosen)}")
    spent = sum(row.get("all_cpu_seconds", 0.0) for row in rows) / 3600
    lines.append(
        f"{len(rows)} trainings, {sum(bool(r['error']) for r in rows)} of them failed, {spent:.2f} core-hours."
    )
    return lines


def words(setting: Setting) -> str:
    return f"rate x{setting.rate:<4g} frozen {setting.frozen:<3g} decay {setting.decay:<4g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    resumable.add_options(parser, Path("runs/init_few"), RECORD)
    parser.add_argument("--pairs", nargs="+", choices=PAIRS, default=list(PAIRS))
    args = parser.parse_args()
    if args.summary:
        print("\n".join(summary(read(args.record), args.pairs)))
        return
    if args.left:
        rows = read(args.record)
        todo = left(rows, args.pairs)
        print("\n".join(map(str, todo[:10])))
        print(f"{len(todo)} known trainings are left; they take about {cost(todo, rows):.1f} core-hours.")
        return
    resumable.answer_signals()
    resumable.make_sets(sorted({part[0] for name in args.pairs for part in vars(PAIRS[name]).values()}), args)
    code = commit()
    resumable.study(
        lambda: resumable.Worker(work, args.cifar10, args.clothes, args.work, code),
        lambda rows, busy: left(rows, args.pairs, busy),
        failed, say, record=args.record, jobs=args.jobs, hours=args.hours,
    )  # fmt: skip


if __name__ == "__main__":
    main()

"""Which optimizer, rate, warm-up, temperature and momentum each method needs on few images.

    python benchmarks/defaults.py --grid core --work FOLDER [--methods simclr,byol --sets digits --jobs 2 --hours 6]
    python benchmarks/defaults.py --summary

Grids, on the four sets of `unlike_sets.py` and with the settings of `settings_tried.py`:

- core: all methods on 1,500 images of 64 pixels, batches of 64. Successive halving over the settings of a method, by
  the mean k-NN over the sets (ViTs: over two of them): all settings make 75 steps, then the default of today, that of
  version 0.1 and the best other one make 300, with a schedule of its own length each. Then the default and the best
  make 300 with two more seeds (where a step takes long, one), on one of the sets.
- side: five methods, the default and the best of the core grid, with fewer and more images, smaller and larger ones,
  and more steps; on one or two sets each.
- networks: what some methods may have on networks of another kind.
- seeds: the defaults on CNNs with two more seeds, on all sets.
- broken: trainings that cannot learn, each broken in one way.

All of a stage is done before the next one, so that a study which was stopped early says something of each method. Each
training has one thread. A row goes to --record as soon as it is measured, and is not made again; of a training that
fails it has the error. After --hours, Ctrl-C or SIGTERM the trainings that are under way are dropped.
"""

import argparse
import dataclasses
import hashlib
import json
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from io import StringIO
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import resumable
import torch
import unlike_sets
from lightning.pytorch import Callback, LightningModule, Trainer
from resumable import Row, read, rounded
from settings_tried import (
    BEFORE,
    BROKEN,
    CNN,
    LATER,
    PAIRS,
    RESNET,
    SAID,
    SETTINGS,
    VIT,
    Overrides,
    adamw,
    broken,
    configured,
    network,
    sgd,
    shown,
)
from torch import Tensor

from lookalike import training
from lookalike.backbones import Backbone
from lookalike.core import DataFacts
from lookalike.data import Loader, Source, Subset
from lookalike.evaluation import evaluate, with_statistics
from lookalike.evaluation.features import calibrated
from lookalike.label_free import view_retrieval
from lookalike.methods.simclr import SimCLR
from lookalike.modes import evaluating
from lookalike.random import permutation
from lookalike.runs import Run, by_user, commit
from lookalike.training.health import OWN
from lookalike.training.looks import CHANGES, NAMES, figures
from lookalike.training.monitor import Monitor
from lookalike.views import View, make_views, resized

BATCH = 64
STAGES = 75, 300
"""Optimizer steps of the rounds of halving; a training has whole epochs, so about so many."""
CHEAP = 0.3
"""Seconds of a step from which on a method gets a seed less."""
FIRST_OF_VITS = "cifar10", "textures"
"""The sets of the first round for ViTs, whose steps take the longest."""
SEEDS = 0, 1, 2
CORE_IMAGES, CORE_SIZE = 1500, 64
LONG = 3000
CLOSE = 0.03
"""How far the mean k-NN of a default may lie below that of the best setting."""
SIDE_METHODS = "simclr", "moco_v2", "lejepa", "dino", "vicreg"
WIDE = 256
"""Images of the looks that this study adds: a verdict may need more than the 64 of `health`."""
SHARES = 0.05, 0.1, 0.15, 0.3, 0.5, 0.75, 1.0
"""Of the steps, after which it looks."""
SCORED = 512
"""Images to train on whose views the label-free scores of the finished encoder look at."""
STEP_SECONDS = {
    ("simclr", CNN): 0.21, ("moco_v2", CNN): 0.16, ("byol", CNN): 0.40, ("simsiam", CNN): 0.42,
    ("moco_v3", CNN): 0.42, ("swav", CNN): 0.18, ("deepcluster_v2", CNN): 0.18, ("dino", CNN): 0.34,
    ("barlow_twins", CNN): 0.39, ("vicreg", CNN): 0.39, ("lejepa", CNN): 0.24, ("supcon", CNN): 0.17,
    ("dino", VIT): 0.38, ("ibot", VIT): 0.8, ("dinov2", VIT): 0.39, ("moco_v3", VIT): 0.71, ("lejepa", VIT): 0.3,
    ("simclr", VIT): 0.35, ("byol", VIT): 0.6,
}  # fmt: skip
"""Of a core's time, for a step of the core grid on an AMD EPYC; the rows know better once they are there."""
LOCAL_VIEWS = {"dino": 1.6, "lejepa": 1.8}
"""What a step takes so many times longer with the small views that these methods make of images above 64 pixels."""
BESIDE_SECONDS = 4.0
"""What a training takes beside its steps: its start, and k-NN and label-free scores in the end."""
RECORD = Path(__file__).parent / "records" / "defaults.jsonl"


@dataclass(frozen=True)
class Job:
    """One training."""

    grid: str
    method: str
    network: str
    set: str
    setting: str
    stage: int
    """Optimizer steps, about."""
    seed: int = 0
    images: int = CORE_IMAGES
    size: int = CORE_SIZE
    broken: str | None = None
    """What is broken, of `BROKEN`."""

    @property
    def overrides(self) -> Overrides:
        pair = self.method, CNN if self.network == RESNET else self.network
        known = {**OTHER, **LATER.get(pair, {}), **SETTINGS[pair]}
        return known[self.setting]


OTHER: dict[str, Overrides] = {"adamw 1e-3": adamw(1e-3), "sgd 0.3": sgd(0.3), "sgd 0.5": sgd(0.5)}
"""What any method may have: broken trainings, and those on other networks."""

FIELDS = tuple(field.name for field in dataclasses.fields(Job) if field.name != "grid")
"""What makes two rows the same measurement."""


def key(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in FIELDS)


def key_of_job(job: Job) -> tuple[Any, ...]:
    return key(dataclasses.asdict(job))


# ---------------------------------------------------------------- what is to be measured


def survivors(scores: Mapping[str, float], keep: int) -> list[str]:
    """The names of the `keep` best scores, best first; of equal ones the earlier."""
    return sorted(scores, key=lambda name: -scores[name])[:keep]


def kept(method: str, network: str, stage: int) -> int:
    """How many settings take part in a stage: all but the default, and in the end two at least."""
    return len(SETTINGS[method, network]) - 1 if stage == STAGES[0] else 2


def scores(rows: Iterable[Row], method: str, network: str, sets: Sequence[str], stage: int) -> dict[str, float]:
    """Mean k-NN over the sets of each setting that is measured on all of them; a training that failed counts as 0.

    Of the core grid, seed 0.
    """
    found: dict[str, dict[str, float]] = {}
    same = {"method": method, "network": network, "stage": stage, "seed": 0, "broken": None}
    same |= {"images": CORE_IMAGES, "size": CORE_SIZE}
    for row in rows:
        if row["set"] in sets and all(row[name] == value for name, value in same.items()):
            found.setdefault(row["setting"], {})[row["set"]] = top1(row) or 0.0
    known = (*SETTINGS[method, network], *LATER.get((method, network), ()))
    names = [name for name in dict.fromkeys(known) if len(found.get(name, {})) == len(sets)]
    return {name: statistics.fmean(found[name].values()) for name in names}


def top1(row: Row) -> float | None:
    """The k-NN accuracy of a trained encoder; None where its training failed."""
    return row["after"]["knn"] if row.get("after") else None


def best(rows: Sequence[Row], method: str, network: str, sets: Sequence[str]) -> list[str]:
    """The best two settings that the core grid knows by now, by the last stage that is whole."""
    for stage in reversed(STAGES):
        expected = kept(method, network, stage)
        if len(found := scores(rows, method, network, sets, stage)) >= expected:
            return survivors(found, 2)
    return []


Pair = tuple[str, str]


def core(rows: Sequence[Row], pairs: Sequence[Pair], sets: Sequence[str]) -> list[Job]:
    """The core grid as far as it is known by now, in the order of its measurement."""
    every, last, seeded = [], [], []
    for turn, (method, net) in enumerate(pairs):
        settings = [name for name in SETTINGS[method, net] if name != SAID]
        first = [s for s in sets if net != VIT or s in FIRST_OF_VITS]
        every += [Job("core", method, net, s, name, STAGES[0]) for name in settings for s in first]
        before = scores(rows, method, net, first, STAGES[0])
        if len(before) < len(settings):
            continue  # not known yet
        new = {name: score for name, score in before.items() if name not in (SAID, BEFORE.get((method, net)))}
        later = [*survivors(new, 1), *([BEFORE[method, net]] if (method, net) in BEFORE else [])]
        chosen = list(dict.fromkeys([SAID, *later, *LATER.get((method, net), ())]))
        last += [Job("core", method, net, s, name, STAGES[1]) for name in chosen for s in sets]
        after = scores(rows, method, net, sets, STAGES[1])
        if len(after) < len(chosen):
            continue
        chosen = [SAID, *survivors({name: score for name, score in after.items() if name != SAID}, 1)]
        most = len(SEEDS) if STEP_SECONDS[method, net] < CHEAP else 2
        seeded += [
            Job("core", method, net, sets[turn % len(sets)], n, STAGES[1], seed)
            for seed in SEEDS[1:most]
            for n in chosen
        ]
    return [*every, *last, *seeded]


SIDES: tuple[tuple[dict[str, Any], tuple[str, ...], int], ...] = (
    ({"images": 500}, ("clothes", "digits"), 1),
    ({"images": 5000}, ("cifar10", "textures"), 1),
    ({"size": 32}, ("cifar10", "digits"), 1),
    ({"network": RESNET}, ("cifar10", "textures"), 1),
    ({"images": 20_000}, ("cifar10", "digits"), 1),
    ({"stage": LONG}, ("cifar10",), 1),
    ({"size": 96}, ("clothes", "textures"), 1),
)
"""How the side grid differs from the core grid, on which sets, and how many of the best settings it tries beside the
default, in the order of its measurement."""


def side(rows: Sequence[Row], pairs: Sequence[Pair], sets: Sequence[str]) -> list[Job]:
    """The side grid, as far as the core grid tells which settings are the best."""
    jobs = []
    for what, on, most in SIDES:
        for method, net in pairs:
            if method not in SIDE_METHODS or net != (VIT if method == "dino" else CNN):
                continue
            if what.get("network") == RESNET and method == "dino":
                continue
            names = dict.fromkeys([SAID, *best(rows, method, net, sets)[:most]])
            plain = [Job("side", method, net, s, name, STAGES[-1]) for s in on if s in sets for name in names]
            jobs += [dataclasses.replace(job, **what) for job in plain]
    return jobs


ELSEWHERE: dict[Pair, tuple[tuple[str, ...], tuple[str, ...]]] = {
    ("moco_v2", RESNET): (("cifar10",), ("lars 2", "sgd 0.1", "sgd 0.3")),
    ("simsiam", RESNET): (("cifar10",), ("lars 2", "sgd 0.1", "sgd 0.5")),
    ("supcon", RESNET): (("cifar10",), ("lars 2", "sgd 0.1")),
    ("simclr", VIT): (("cifar10", "textures"), ("lars_simclr 0.25", "adamw 1e-3")),
    ("byol", VIT): (("cifar10", "textures"), ("lars 2", "adamw 1e-3")),
    ("lejepa", VIT): (("cifar10", "textures"), (SAID, "adamw 1e-3")),
}
"""The sets and settings on networks of another kind than the core grid's."""


def elsewhere(rows: Sequence[Row], pairs: Sequence[Pair], sets: Sequence[str]) -> list[Job]:
    """What some methods may have on a ResNet, or on a ViT where their papers have none."""
    return [
        Job("networks", method, net, s, name, STAGES[-1])
        for (method, net), (on, names) in ELSEWHERE.items()
        for s in on
        if s in sets
        for name in names
    ]


def seeds(rows: Sequence[Row], pairs: Sequence[Pair], sets: Sequence[str]) -> list[Job]:
    """The defaults on CNNs with two more seeds, on all sets."""
    own = [pair for pair in pairs if pair[1] == CNN]
    return [Job("seeds", *pair, s, SAID, STAGES[-1], seed) for seed in SEEDS[1:] for pair in own for s in sets]


def breaking(rows: Sequence[Row], pairs: Sequence[Pair], sets: Sequence[str]) -> list[Job]:
    """The broken trainings: each way on some of the sets, with the default, half of the broken rates with AdamW."""
    jobs: list[list[Job]] = []
    turn = 0
    for name, what in BROKEN.items():
        for method, net in what.methods:
            if (method, net) not in pairs:
                continue
            chosen = [sets[(turn + i) % len(sets)] for i in range(min(what.sets, len(sets)))]
            turn += 1
            rates = name.startswith("rate")  # of others the same training, whole, tells what the break costs
            named = ["adamw 1e-3" if rates and i % 2 else SAID for i in range(len(chosen))]
            jobs.append([
                Job("broken", method, net, s, setting, STAGES[-1], broken=name) for s, setting in zip(chosen, named)
            ])  # fmt: skip
    most = max(map(len, jobs), default=0)
    return [own[i] for i in range(most) for own in jobs if i < len(own)]  # one of each kind first


GRIDS: dict[str, Callable[[Sequence[Row], Sequence[Pair], Sequence[str]], list[Job]]] = {
    "core": core, "side": side, "networks": elsewhere, "broken": breaking, "seeds": seeds,
}  # fmt: skip


def left(
    grid: str, rows: Sequence[Row], pairs: Sequence[Pair], sets: Sequence[str], busy: Iterable[Job] = ()
) -> list[Job]:
    """The trainings of a grid that have no row and are not under way, the next one first."""
    done = {key(row) for row in rows} | {key_of_job(job) for job in busy}
    found = dict.fromkeys(GRIDS[grid](rows, pairs, sets))
    return [job for job in found if key_of_job(job) not in done]


def cost(jobs: Iterable[Job], rows: Iterable[Row]) -> float:
    """Core-hours that trainings will take, as the rows of the same method, network and size tell."""
    seconds: dict[tuple[str, str, int], list[float]] = {}
    for row in rows:
        if row.get("done"):
            seconds.setdefault((row["method"], row["network"], row["size"]), []).append(
                row["cpu_seconds"] / row["done"]
            )
    total = 0.0
    for job in jobs:
        known = seconds.get((job.method, job.network, job.size))
        if known is None:
            own = STEP_SECONDS[job.method, VIT if job.network == VIT else CNN]
            known = [own * (job.size / CORE_SIZE) ** 2 * (LOCAL_VIEWS.get(job.method, 1) if job.size > 64 else 1)]
        total += job.stage * statistics.median(known) + BESIDE_SECONDS
    return total / 3600


# ---------------------------------------------------------------- one training


class Watch(Callback):
    """Sees a training: the monitor and its first figures, the encoder, and looks at more images than the monitor."""

    def __init__(self, source: Source, run: Run) -> None:
        self.source = source
        self.run = run
        self.monitor: Monitor | None = None
        self.encoder: Backbone | None = None
        self.first: dict[str, float] = {}
        self.looks: list[dict[str, Any]] = []
        self.steps = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, training.Pretraining)
        self.monitor = next(c for c in trainer.callbacks if isinstance(c, Monitor))  # type: ignore[attr-defined]
        self.encoder = pl_module.method.encoder
        self.due = {max(1, round(share * pl_module.steps)) for share in SHARES}
        backbone = pl_module.method.backbone
        self.views = torch.cat(two_views(self.source, self.run.method.views[0], WIDE, self.run.seed, backbone))
        self.first = self._look(calibrated(self.encoder, self.views.split(256)))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        self.steps = trainer.global_step
        if self.steps in self.due:
            self.due.discard(self.steps)
            assert self.encoder is not None
            self.looks.append({"step": self.steps, **self._look(self.encoder)})

    @torch.no_grad()
    def _look(self, encoder: Backbone) -> dict[str, float]:
        with evaluating(encoder):
            a, b = torch.cat([encoder(x) for x in self.views.split(128)]).chunk(2)
        return rounded(figures(a, b))


def two_views(source: Source, view: View, images: int, seed: int, backbone: Backbone) -> list[Tensor]:
    """Two views (B, C, S, S) of each of some images."""
    places = permutation(len(source), seed, "study")[:images].tolist()
    batch = next(iter(Loader(Subset(source, places), len(places), seed, decode_size=None)))
    return make_views(batch, [dataclasses.replace(view, count=2)], batch.keys, mean=backbone.mean, std=backbone.std)


def settled(job: Job, source: Source, out: str) -> Run:
    """The training with all that follows from data and setting, and with what is broken."""
    per_epoch = len(source) // BATCH
    epochs = max(1, round(job.stage / per_epoch))
    cfg, given = configured(job.method, job.overrides, epochs)
    drop_path = cfg.needs.drop_path
    run = Run(
        data=source, method=cfg, backbone=network(job.network, job.size, drop_path, job.seed), image_size=job.size,
        epochs=epochs, batch_size=BATCH, workers=0, precision="fp32", seed=job.seed, save_every=epochs,
        origins=by_user(given), out=out,
    )  # fmt: skip
    run, _ = training.resolve(run, len(source))
    return dataclasses.replace(run, method=broken(run.method, job.broken)) if job.broken else run


class Judge:
    """Judges encoders on images; what an untrained one gave is remembered, since methods share it."""

    def __init__(self) -> None:
        self._before: dict[str, dict[str, Any]] = {}

    def untrained(self, encoder: Backbone, train: Source, test: Source, job: Job) -> dict[str, Any]:
        digest = hashlib.sha256(repr((job.set, job.images, job.size, job.seed)).encode())
        for name, value in encoder.state_dict().items():
            digest.update(name.encode() + value.contiguous().numpy().tobytes())
        name = digest.hexdigest()
        if name not in self._before:
            calm = with_statistics(encoder, train, image_size=job.size, mean=encoder.mean, std=encoder.std)
            self._before[name] = self(calm, train, test, job)
        return self._before[name]

    @torch.no_grad()
    def __call__(self, encoder: Backbone, train: Source, test: Source, job: Job) -> dict[str, Any]:
        encoder.eval()
        (entry,) = evaluate(encoder, train, test, protocols=("knn",), image_size=job.size, seed=job.seed)  # type: ignore[arg-type]
        paper = SimCLR.Config(views=resized(SimCLR.Config().views, job.size))
        (view,) = paper.fit_to(DataFacts(len(train), job.size)).views
        both = two_views(train, view, SCORED, job.seed, encoder)
        a, b = (torch.cat([encoder(x) for x in side.split(128)]) for side in both)
        free = {**figures(a, b), "view_retrieval": view_retrieval(a, b)}
        return rounded({"knn": entry.top1, "interval": None, "label_free": free}) | {
            "interval": [round(x, 4) for x in entry.interval]
        }


def measured(job: Job, of: unlike_sets.Labelled, judge: Judge) -> dict[str, Any]:
    """Trains, and says what came of it."""
    began, cpu = time.perf_counter(), time.process_time()
    train, test = unlike_sets.drawn(job.images, of, job.seed)
    with resumable.temporary() as folder:
        run = settled(job, shown(train, job.broken, job.seed), str(folder / "run"))
        before = judge.untrained(training.build(run).encoder, train, test, job)
        watch, error, result = Watch(run.data, run), "", None  # type: ignore[arg-type]
        start, start_cpu, said = time.perf_counter(), time.process_time(), StringIO()
        try:
            with redirect_stdout(said), redirect_stderr(said):
                result = training.pretrain(run, callbacks=[watch])
        except Exception as problem:
            error = f"{type(problem).__name__}: {problem}".replace(str(folder), "FOLDER")[:400]
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - start_cpu
        after = None
        if watch.encoder is not None:
            try:
                after = judge(watch.encoder, train, test, job)
            except ValueError as problem:  # features that are not finite
                error = error or f"{type(problem).__name__}: {problem}"[:400]
        metrics = result.metrics if result is not None else read_metrics(folder / "run")
        optim = run.method.optim
        return {
            "benchmark": "defaults",
            "date": time.strftime("%Y-%m-%dT%H:%M:%S"),
            **dataclasses.asdict(job),
            "batch": BATCH,
            "epochs": run.epochs,
            "steps": run.epochs * (len(train) // BATCH),
            "done": watch.steps,
            "overrides": job.overrides,
            "optim": {
                **{n: v for n, v in dataclasses.asdict(optim).items() if n != "weight_decay"},
                "weight_decay": optim.weight_decay.start,
                "lr_scaled": rounded(optim.lr * optim.factor(BATCH)),
            },
            "fitted": fitted(run.method),
            "before": before,
            "after": after,
            "error": error,
            "seconds": round(seconds, 2),
            "cpu_seconds": round(cpu_seconds, 2),
            "all_cpu_seconds": round(time.process_time() - cpu, 2),
            "all_seconds": round(time.perf_counter() - began, 2),
            **(seen(watch.monitor, metrics) if watch.monitor is not None else {}),
            "wide_first": watch.first,
            "wide_looks": watch.looks,
        }


def fitted(cfg: Any) -> dict[str, Any]:
    """The numbers of a method's configuration beside its optimizer and views."""
    found = {}
    for name, value in vars(cfg).items():
        if name not in ("optim", "views"):
            found[name] = dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value
    return found


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    with suppress(OSError, ValueError):
        return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return []


LOOKED = (
    *NAMES, *CHANGES, *OWN, "head_spread", "head_size", "update_ratio", "loss", "grad_norm", "skipped", "lr",
)  # fmt: skip


def seen(monitor: Monitor, metrics: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The figures of each look, the verdicts as they were said with their steps, and the loss on its way."""
    looks, verdicts, word = [], [], None
    for row in metrics:
        if row.get("spread") is None and "verdict" not in row:
            continue
        look = {name: rounded(row[name]) for name in LOOKED if name in row}
        looks.append({"step": row["step"], **look, "verdict": row.get("verdict")})
        if (now := row.get("verdict")) is not None and now != word:
            verdicts.append({n: row[n] for n in ("step", "verdict", "why", "remedy") if n in row})
            word = now
    losses = [[row["step"], rounded(row["loss"])] for row in metrics if "loss" in row]
    return {
        "first": rounded(monitor.first),
        "looks": looks,
        "verdicts": verdicts,
        "verdict": word,
        "losses": losses,
        "images_of_looks": len(monitor.health.views) // 2 if monitor.health is not None else 0,
        "lacking": monitor.health.lacking if monitor.health is not None else "",
        "remedies": dataclasses.asdict(monitor.remedies),
    }


# ---------------------------------------------------------------- workers


def work(pipe: Connection, cifar: Path, clothing: Path, folder: Path, code: str) -> None:
    """Does the trainings that come through the pipe, one after the other, until it is closed."""
    judge, make = Judge(), unlike_sets.makers(cifar, clothing)

    def measure(job: Job) -> Row:
        return measured(job, unlike_sets.kept(job.set, make[job.set], folder / "sets"), judge)

    resumable.serve(pipe, measure, failed, code)


def failed(job: Job, why: str) -> dict[str, Any]:
    """The row of a training that did not even begin, or took its process with it."""
    date = time.strftime("%Y-%m-%dT%H:%M:%S")
    return {
        "benchmark": "defaults", "date": date, **dataclasses.asdict(job), "batch": BATCH, "after": None, "error": why,
    }  # fmt: skip


def wanted(args: argparse.Namespace, jobs: list[Job]) -> list[Job]:
    """Those of a setting that is asked for."""
    return [job for job in jobs if args.settings is None or job.setting in args.settings]


def study(args: argparse.Namespace, pairs: Sequence[Pair]) -> None:
    """Measures what is left of a grid, until it is done or the time is up."""
    resumable.make_sets(args.sets, args)
    code = commit()
    resumable.study(
        lambda: resumable.Worker(work, args.cifar10, args.clothes, args.work, code),
        lambda rows, busy: wanted(args, left(args.grid, rows, pairs, args.sets, busy)),
        failed, say, record=args.record, jobs=args.jobs, hours=args.hours,
    )  # fmt: skip


def say(row: Row, todo: int) -> None:
    """A line about a training."""
    name = f"{row['method']:14s} {row['network'][:12]:12s} {row['set']:8s} {row['setting']:32s} {row['stage']:4d}"
    name += f" seed {row['seed']}" + (f" {row['broken']}" if row["broken"] else "")
    if row["images"] != CORE_IMAGES or row["size"] != CORE_SIZE:
        name += f" {row['images']} images of {row['size']}"
    if (now := top1(row)) is None:
        found = row["error"]
    else:
        found = f"k-NN {row['before']['knn']:.1%} -> {now:.1%}, {row['cpu_seconds']:.0f} s, {row.get('verdict')}"
    print(f"{name}: {found}  ({todo} known to be left)", flush=True)


# ---------------------------------------------------------------- what the rows say


def summary(rows: Sequence[Row]) -> list[str]:
    """Per method and set: untrained, today's default, the best setting; and what was tried how often."""
    lines = []
    own = [row for row in rows if row["broken"] is None and row["images"] == CORE_IMAGES and row["size"] == CORE_SIZE]
    for method, net in PAIRS:
        mine = [row for row in own if (row["method"], row["network"]) == (method, net) and row["stage"] in STAGES]
        if not mine:
            continue
        stage = max(row["stage"] for row in mine if top1(row) is not None) if any(map(top1, mine)) else STAGES[0]
        means = {
            (name, s): statistics.fmean(found)
            for name in SETTINGS[method, net]
            for s in unlike_sets.NAMES
            if (found := [t for row in mine if is_of(row, name, s, stage) and (t := top1(row)) is not None])
        }
        sets = [s for s in unlike_sets.NAMES if any(s == other for _, other in means)]
        whole = {n: [means[n, s] for s in sets] for n in SETTINGS[method, net] if all((n, s) in means for s in sets)}
        chosen = max(whole, key=lambda n: statistics.fmean(whole[n]), default=None)
        lines.append(f"{method}, {net}, {stage} steps; best over the sets: {chosen or 'not known yet'}")
        for s in sets:
            before = statistics.fmean(row["before"]["knn"] for row in mine if row["set"] == s and row.get("before"))
            named = {name: value for (name, other), value in means.items() if other == s}
            lines.append("  " + line_of(s, before, named.get(SAID), named, chosen))
        if chosen and SAID in whole:
            default, top = (statistics.fmean(whole[name]) for name in (SAID, chosen))
            lines.append(
                f"  {'mean':10s} {'':17s} default {default:6.1%}   best {top:6.1%}   {100 * (top - default):+.1f}"
            )
        tried = [f"{n} {c}" for n in SETTINGS[method, net] if (c := sum(row["setting"] == n for row in mine))]
        lines.append(f"  tried: {', '.join(tried)}; failed: {sum(bool(row['error']) for row in mine)}")
    for what in ("side", "broken"):
        lines += others(rows, what)
    spent = sum(row.get("all_cpu_seconds", 0.0) for row in rows) / 3600
    lines.append(f"{len(rows)} trainings, {spent:.1f} core-hours.")
    return lines


def table(rows: Sequence[Row]) -> list[str]:
    """Markdown: k-NN of the default of 0.1, of today's, and of the best setting found, after the last stage, seed 0.

    A star marks sets on which the lower end of today's interval lies above the untrained encoder.
    """
    lines = ["| method, network | of | " + " | ".join(unlike_sets.NAMES) + " | mean |"]
    lines.append("| --- " * (len(unlike_sets.NAMES) + 3) + "|")
    near = whole = learnt = measured = 0
    for pair in PAIRS:
        own = [
            row for row in rows
            if (row["method"], row["network"]) == pair and row["stage"] == STAGES[1] and row["seed"] == 0
            and row["broken"] is None and row["images"] == CORE_IMAGES and row["size"] == CORE_SIZE and row.get("after")
        ]  # fmt: skip
        found = {(row["setting"], row["set"]): row for row in own}
        sets = [s for s in unlike_sets.NAMES if (SAID, s) in found]
        if not sets:
            continue
        means = {
            name: statistics.fmean(found[name, s]["after"]["knn"] for s in sets)
            for name in dict.fromkeys(row["setting"] for row in own)
            if all((name, s) in found for s in sets)
        }
        top = max(means, key=lambda name: (means[name], name == SAID))
        if SAID in means and len(means) > 1:
            near += means[top] - means[SAID] <= CLOSE
            whole += 1
        learnt += sum(_learnt(found[SAID, s]) for s in sets)
        measured += len(sets)
        named = {"0.1": BEFORE.get(pair, SAID), "today": SAID, f"best: {top}": top}
        for i, (word, name) in enumerate(named.items()):
            cells = [_cell(found.get((name, s)), star=word == "today") for s in unlike_sets.NAMES]
            mean = f"{means[name]:.1%}" if name in means else ""
            lines.append(f"| {', '.join(pair) if i == 0 else ''} | {word} | {' | '.join(cells)} | {mean} |")
    lines.append(f"\nWithin {100 * CLOSE:.0f} points of the best: {near} of {whole} of which others are measured.")
    lines.append(f"The interval lies above the untrained encoder: {learnt} of {measured} trainings.")
    return lines


def _cell(row: Row | None, star: bool) -> str:
    if row is None:
        return ""
    return f"{row['after']['knn']:.1%}{' *' if star and _learnt(row) else ''}"


def _learnt(row: Row) -> bool:
    return bool(row["after"]["interval"][0] > row["before"]["knn"])


def is_of(row: Row, setting: str, name: str, stage: int) -> bool:
    return (row["setting"], row["set"], row["stage"]) == (setting, name, stage)


def line_of(name: str, before: float, default: float | None, named: Mapping[str, float], chosen: str | None) -> str:
    own = max(named, key=lambda n: named[n])
    said = "      " if default is None else f"{default:6.1%}"
    gain = "" if default is None else f"   {100 * (named[own] - default):+.1f}"
    at_best = f"   (best over the sets: {named[chosen]:.1%})" if chosen in named and chosen != own else ""
    return f"{name:10s} untrained {before:6.1%} default {said}   best {named[own]:6.1%}{gain} {own}{at_best}"


def others(rows: Sequence[Row], grid: str) -> list[str]:
    """A line for each row of the side grid, or each broken one, that is measured."""
    found = [row for row in rows if row["grid"] == grid]
    lines = [f"{grid} grid: {len(found)} trainings"] if found else []
    for row in sorted(
        found, key=lambda r: (r["method"], r["network"], str(r["broken"]), r["images"], r["size"], r["set"])
    ):
        what = row["broken"] or f"{row['images']} images of {row['size']}, {row['network']}, {row['stage']} steps"
        now = top1(row)
        ended = row["error"][:60] if now is None else f"{row['before']['knn']:6.1%} -> {now:6.1%}"
        words = ", ".join(f"{v['verdict']} at {v['step']}" for v in row.get("verdicts", []))
        lines.append(f"  {row['method']:14s} {what:50s} {row['set']:8s} {row['setting']:28s} {ended}  {words}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    methods = list(dict.fromkeys(method for method, _ in PAIRS))
    parser.add_argument("--grid", choices=GRIDS)
    resumable.add_options(parser, Path("runs/defaults"), RECORD)
    parser.add_argument("--methods", type=resumable.names, default=methods, help="simclr,byol: only these")
    parser.add_argument(
        "--sets", type=resumable.names, default=list(unlike_sets.NAMES), help="digits,textures: only these"
    )
    parser.add_argument("--networks", type=resumable.names, default=[CNN, VIT], help=f"{CNN}: only these")
    parser.add_argument("--settings", type=resumable.names, help=f"{SAID}: only these, of what is known to be left")
    parser.add_argument("--table", action="store_true", help="train nothing, print 0.1's default, today's and the best")
    args = parser.parse_args()
    for asked, known in ((args.methods, methods), (args.sets, unlike_sets.NAMES), (args.networks, [CNN, VIT])):
        if unknown := set(asked) - set(known):
            parser.error(f"there is no {min(unknown)!r}; choose from {', '.join(known)}")
    pairs = [pair for pair in PAIRS if pair[0] in args.methods and pair[1] in args.networks]
    if args.summary or args.table:
        print("\n".join((summary if args.summary else table)(read(args.record))))
        return
    if args.grid is None:
        parser.error("give --grid, --summary or --table")
    if args.left:
        todo = wanted(args, left(args.grid, read(args.record), pairs, args.sets))
        print("\n".join(map(str, todo[:10])))
        print(f"{len(todo)} known trainings are left; they take about {cost(todo, read(args.record)):.1f} core-hours.")
        return
    resumable.answer_signals()
    study(args, pairs)


if __name__ == "__main__":
    main()

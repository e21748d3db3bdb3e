"""Which label-free score ranks encoders as k-NN does: what to choose between checkpoints by, where there are no labels.

    python benchmarks/choosing.py DATA [--images 4000 --epochs 8 --seeds 0]

DATA holds train/ and test/ with one sub-folder per class. SimCLR is trained with `lookalike.pretrain` on --images of
train/ at settings that differ in quality. At each kept epoch the encoder is judged by k-NN (those images are the bank,
2,000 of test/ are classified) and by scores that need no label. A row of JSON per setting, seed and epoch goes to
--record; rows that are there already are not made again, and a training that was stopped goes on where it was, and its
folder is removed once all of it is judged.

In the end it prints Spearman's rank correlation of each score with k-NN, with 95 % bootstrap intervals over the
trainings, and the k-NN of the encoder that each score would choose.
"""

import argparse
import dataclasses
import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from networks import small_resnet
from rows import append
from scipy.stats import rankdata
from torch import Tensor
from torch.utils.data import Dataset

import lookalike
from lookalike import backbones, encoders, training
from lookalike.backbones import Backbone
from lookalike.data import open_source
from lookalike.evaluation import features, knn, with_statistics
from lookalike.label_free import alignment, effective_rank, lidar, spread, uniformity, view_retrieval
from lookalike.methods.simclr import SimCLR
from lookalike.metric_names import RENAMED_SCORES
from lookalike.optim import Optim
from lookalike.random import permutation
from lookalike.runs import Folder, Run, commit
from lookalike.schedules import Schedule
from lookalike.views import SIMCLR_VIEW, View, make_views

SIZE = 32
BATCH = 64
TEST_IMAGES = 2000
SCORED = 1000
"""Training images that the label-free scores look at."""
GROUPS = 256, 8
"""Images and views of each for LiDAR."""


@dataclass(frozen=True)
class Setting:
    """What one training does differently from the others."""

    lr: float = 2e-3
    temperature: float = 0.5
    scale: tuple[float, float] = (0.08, 1.0)
    colour: bool = True
    """Whether views change colours."""
    out_dim: int = 128
    epochs: int | None = None
    """Without it --epochs."""


SETTINGS = {
    "reference": Setting(),
    "lr 1e-4": Setting(lr=1e-4),
    "lr 5e-4": Setting(lr=5e-4),
    "lr 1e-2": Setting(lr=1e-2),
    "lr 1e-1": Setting(lr=1e-1),
    "temperature 0.05": Setting(temperature=0.05),
    "temperature 0.2": Setting(temperature=0.2),
    "temperature 2": Setting(temperature=2.0),
    "crops from 0.5": Setting(scale=(0.5, 1.0)),
    "crops from 0.9": Setting(scale=(0.9, 1.0)),
    "no colour": Setting(colour=False),
    "crops from 0.9, no colour": Setting(scale=(0.9, 1.0), colour=False),
    "out_dim 8": Setting(out_dim=8),
    "2 epochs": Setting(epochs=2),
}

# The same for all encoders, whatever views they were trained on. The first is SimCLR's own for small images.
RECIPES = {
    "": dataclasses.replace(
        SIMCLR_VIEW, size=SIZE, count=1, blur=0.0, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1
    ),
    " (gentle)": View(
        size=SIZE, scale=(0.5, 1.0), ratio=(3 / 4, 4 / 3), hflip=0.5, jitter=0.8, brightness=0.2, contrast=0.2,
        saturation=0.2, hue=0.02,
    ),
}  # fmt: skip

COMMIT = commit()
"""Asked at the start: a source tree may change while the trainings go on."""

SIGNS = {"alignment": -1, "uniformity": -1, "loss": -1}
"""Scores of which less is said to be better."""


class Labelled(Dataset[tuple[Tensor, int]]):
    """Some images of a folder, decoded once."""

    def __init__(self, folder: Path, images: int, seed: int) -> None:
        source = open_source(folder, labelled=True)
        assert source.labels is not None
        places = permutation(len(source), seed, folder.name)[:images]
        self.images = [source.read(i, None) for i in places.tolist()]
        self.targets = source.labels[places]
        self.classes = source.classes

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.images[i], int(self.targets[i])


class Judge:
    """k-NN and label-free scores of encoders on the same images and the same views."""

    def __init__(self, data: Path, images: int, seed: int) -> None:
        self.train, self.test = Labelled(data / "train", images, seed), Labelled(data / "test", TEST_IMAGES, seed)
        self.sources = open_source(self.train), open_source(self.test)
        self.pixels = torch.stack(self.train.images[:SCORED])

    def views(self, encoder: Backbone, view: View, images: int, count: int) -> Tensor:
        """Features of `count` views of each of the first images: (B, V, D)."""
        recipe = [dataclasses.replace(view, count=count)]
        made = make_views(self.pixels[:images], recipe, seed=0, mean=encoder.mean, std=encoder.std)
        with torch.inference_mode():
            return torch.stack([torch.cat([encoder(part) for part in x.split(256)]) for x in made], 1)

    def __call__(self, encoder: Backbone) -> dict[str, Any]:
        encoder.eval()
        bank, test = (features(encoder, s, image_size=SIZE, mean=encoder.mean, std=encoder.std) for s in self.sources)
        found = knn(bank.features, self.train.targets, test.features, self.test.targets)
        right = (found.predictions == self.test.targets).double()
        halves = [float(half.mean()) for half in right.chunk(2)]
        scores = {"effective_rank": effective_rank(bank.features[:SCORED])}
        for suffix, view in RECIPES.items():
            a, b = self.views(encoder, view, SCORED, 2).unbind(1)
            own = {
                "lidar": lidar(self.views(encoder, view, *GROUPS)),
                "alignment": alignment(a, b),
                "uniformity": uniformity(a),
                "spread": spread(a),
                "align + uniform": -alignment(a, b) - uniformity(a),
                "separation": separation(a, b),
                "view_retrieval": view_retrieval(a, b),
            }
            scores |= {name + suffix: value for name, value in own.items()}
        return {"knn": found.top1, "knn_halves": halves, "scores": {n: round(v, 5) for n, v in scores.items()}}


def separation(a: Tensor, b: Tensor) -> float:
    """How much farther apart different images are than two views of one: 1 - ratio of mean squared distances.

    0 where views tell nothing about the image; unlike alignment and uniformity it does not depend on the scale.
    """
    a, b = (F.normalize(x.double(), dim=-1) for x in (a, b))
    apart = torch.cdist(a, b).square()
    n = len(a)
    same = apart.diagonal().mean()
    return float(1 - same / ((apart.sum() - apart.diagonal().sum()) / (n * (n - 1))).clamp(min=1e-12))


def configured(setting: Setting) -> SimCLR.Config:
    """SimCLR with the method's own views for small images, AdamW, and what the setting changes."""
    view = dataclasses.replace(RECIPES[""], count=2, scale=setting.scale)
    if not setting.colour:
        view = dataclasses.replace(view, jitter=0.0, grayscale=0.0)
    optim = Optim("adamw", lr=setting.lr, scaling="none", weight_decay=Schedule(1e-4), warmup_epochs=1)
    return SimCLR.Config(out_dim=setting.out_dim, temperature=setting.temperature, views=(view,), optim=optim)


def epoch_loss(rows: Sequence[dict[str, float]], epoch: int, steps: int) -> float:
    """Mean loss of one epoch, from the means over some steps that `metrics.jsonl` has."""
    before, total = (epoch - 1) * steps, 0.0
    for row in rows:
        if (epoch - 1) * steps < row["step"] <= epoch * steps:
            total += row["loss"] * (row["step"] - before)
            before = int(row["step"])
    return total / steps


def train_and_judge(args: argparse.Namespace, judge: Judge, name: str, seed: int, done: set[int]) -> None:
    """Trains at one setting and adds a row per kept epoch that has none."""
    setting = SETTINGS[name]
    epochs = setting.epochs or args.epochs
    kept = [e for e in range(1, epochs + 1) if e % args.every == 0 or e == epochs]
    if done.issuperset(kept):
        return
    out = args.work / f"{name.replace(' ', '-').replace(',', '')}-{seed}"
    run = Run(
        data=judge.train, method=configured(setting), backbone=small_resnet(), image_size=SIZE, epochs=epochs,
        batch_size=BATCH, cache="ram", precision="fp32", seed=seed, save_every=args.every, fit=False, out=str(out),
        resume=(out / "run.yaml").is_file(),
    )  # fmt: skip
    metrics = lookalike.pretrain(run).metrics
    for epoch in kept:
        if epoch not in done:
            encoder = backbones.create(small_resnet(), image_size=SIZE)
            encoders.start_from(encoder, str(Folder(out).checkpoints / f"epoch={epoch}.ckpt"))
            figures = judge(encoder)
            figures["scores"]["loss"] = round(epoch_loss(metrics, epoch, len(judge.train) // BATCH), 5)
            add(args, name, seed, epoch, dataclasses.asdict(setting) | {"epochs": epochs}, figures)
    shutil.rmtree(out)


def plan(args: argparse.Namespace) -> dict[str, Any]:
    """What all rows that are compared with each other have in common."""
    return {"data": args.data.name, "images": args.images, "batch_size": BATCH, "most_epochs": args.epochs}


def add(
    args: argparse.Namespace, name: str, seed: int, epoch: int, setting: dict[str, Any], figures: dict[str, Any]
) -> None:
    """Writes a row."""
    row = {
        "benchmark": "choosing",
        "date": time.strftime("%Y-%m-%d"),
        "name": name,
        "seed": seed,
        "epoch": epoch,
        **figures,
        "setting": setting,
        **plan(args),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "lookalike": COMMIT,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    print(json.dumps({k: row[k] for k in ("name", "seed", "epoch", "knn", "scores")}), flush=True)
    append(args.record, row)


# ---------------------------------------------------------------- what the rows say


@dataclass(frozen=True)
class Training:
    """The rows of one training, in the order of its epochs."""

    name: str
    target: np.ndarray
    """(E,) k-NN accuracy."""
    scores: dict[str, np.ndarray]
    """(E,) each, with the sign that more is better."""
    usual: bool
    """Whether it was trained on the views of the first recipe."""


def trainings(rows: Sequence[dict[str, Any]]) -> list[Training]:
    """Groups the rows. The epoch stands beside the scores, for scale."""
    grouped: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row["epoch"]):
        if row["name"] in SETTINGS:
            grouped.setdefault((row["name"], row["seed"]), []).append(row)
    result = []
    for (name, seed), own in grouped.items():
        scores = {
            score: SIGNS.get(score.split(" (")[0], 1) * np.array([row["scores"][score] for row in own])
            for score in own[0]["scores"]
        }
        scores["(epoch)"] = np.array([float(row["epoch"]) for row in own])
        usual = (SETTINGS[name].scale, SETTINGS[name].colour) == (Setting.scale, Setting.colour)
        result.append(Training(f"{name}, seed {seed}", np.array([row["knn"] for row in own]), scores, usual))
    return result


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Rank correlation; 0 where one side is all the same and so ranks nothing."""
    a, b = rankdata(x), rankdata(y)
    return float(np.corrcoef(a, b)[0, 1]) if len(a) and np.ptp(a) and np.ptp(b) else 0.0


def final(runs: Sequence[Training], score: str) -> float:
    """Over the last encoder of each training."""
    return spearman(np.array([r.scores[score][-1] for r in runs]), np.array([r.target[-1] for r in runs]))


def usual(runs: Sequence[Training], score: str) -> float:
    """Over the last encoder of each training that saw the first recipe's views; what differs is not the views."""
    return final([r for r in runs if r.usual], score)


def everywhere(runs: Sequence[Training], score: str) -> float:
    """Over all checkpoints of all trainings."""
    return spearman(np.concatenate([r.scores[score] for r in runs]), np.concatenate([r.target for r in runs]))


def within(runs: Sequence[Training], score: str) -> float:
    """Over the epochs of a training, mean over those with three or more."""
    return float(np.mean([spearman(r.scores[score], r.target) for r in runs if len(r.target) >= 3] or [np.nan]))


def interval(
    statistic: Callable[[Sequence[Training], str], float], runs: Sequence[Training], score: str, draws: int = 1000
) -> tuple[float, float]:
    """95 % bootstrap interval over trainings."""
    generator = np.random.default_rng(0)
    picks = generator.integers(len(runs), size=(draws, len(runs)))
    low, high = np.nanquantile([statistic([runs[i] for i in pick], score) for pick in picks], [0.025, 0.975])
    return float(low), float(high)


def report(rows: Sequence[dict[str, Any]]) -> None:
    """Prints the tables."""
    runs = trainings(rows)
    if not runs:
        print("No rows of such trainings are there yet.")
        return
    names = list(runs[0].scores)
    for row in rows:
        if row["name"] == "untrained":
            print(f"untrained, seed {row['seed']}: k-NN {row['knn']:.1%}, {row['scores']}")
    print(f"\n{len(runs)} trainings, {sum(len(r.target) for r in runs)} checkpoints. k-NN of each training's epochs:")
    for run in sorted(runs, key=lambda r: -r.target[-1]):
        print(f"  {run.name:35s}", " ".join(f"{100 * t:5.1f}" for t in run.target))
    halves = {n: np.array([row["knn_halves"][n] for row in rows if row["name"] in SETTINGS]) for n in (0, 1)}
    print(f"k-NN on one half of the test images against the other, all checkpoints: {spearman(*halves.values()):.2f}")

    columns = "".join(
        f"{title:24s}" for title in ("final encoders", "of them, usual views", "all", "within a training")
    )
    print(f"\nSpearman's correlation with k-NN\n{'score':26s} {columns}")
    for score in names:
        cells = []
        for statistic in (final, usual, everywhere, within):
            low, high = interval(statistic, runs, score)
            cells.append(f"{statistic(runs, score):5.2f} ({low:5.2f} to {high:5.2f})")
        print(f"{score:26s} " + "  ".join(cells))

    last, every = np.array([r.target[-1] for r in runs]), np.concatenate([r.target for r in runs])
    print("\nk-NN of the choice")
    for what, target in (("final encoders", last), ("all checkpoints", every)):
        print(f"{what}: best {target.max():.1%}, median {np.median(target):.1%}, worst {target.min():.1%}")
    print("within a training: mean points below its best epoch\n")
    print(f"{'score':26s} {'among final encoders':40s} {'among all':10s} within a training")
    for score in names:
        ends = np.array([r.scores[score][-1] for r in runs])
        among = every[np.concatenate([r.scores[score] for r in runs]).argmax()]
        missed = np.mean([r.target.max() - r.target[r.scores[score].argmax()] for r in runs])
        choice = int(ends.argmax())
        chosen = f"{last[choice]:.1%} ({runs[choice].name})" if np.ptp(ends) else "chooses nothing"
        print(f"{score:26s} {chosen:40s} {among:10.1%} {100 * missed:.1f}")


def with_current_scores(row: dict[str, Any]) -> dict[str, Any]:
    """A row with the current names of its scores: "retrieval (gentle)" becomes "view_retrieval (gentle)"."""
    named = {name: name.partition(" ") for name in row["scores"]}
    scores = {
        f"{RENAMED_SCORES.get(score, score)}{space}{views}": row["scores"][name]
        for name, (score, space, views) in named.items()
    }
    return {**row, "scores": scores}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--every", type=int, default=2, help="epochs from one judged checkpoint to the next")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--report", action="store_true", help="train nothing, print what the record says")
    parser.add_argument("--work", type=Path, default=Path("runs/choosing"), help="folder of the trainings")
    parser.add_argument("--record", type=Path, default=Path(__file__).parent / "records" / "choosing.jsonl")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    def rows() -> list[dict[str, Any]]:
        lines = args.record.read_text().splitlines() if args.record.exists() else []
        return [with_current_scores(row) for row in map(json.loads, lines) if plan(args).items() <= row.items()]

    for seed in [] if args.report else args.seeds:
        judge = Judge(args.data, args.images, seed)
        done = {(row["name"], row["epoch"]) for row in rows() if row["seed"] == seed}
        if ("untrained", 0) not in done:
            run = Run(
                data=judge.train,
                method=configured(Setting()),
                backbone=small_resnet(),
                image_size=SIZE,
                seed=seed,
            )
            fresh = training.build(training.resolve(run, args.images)[0]).encoder
            source = judge.sources[0]
            encoder = with_statistics(fresh, source, image_size=SIZE, mean=fresh.mean, std=fresh.std)
            add(args, "untrained", seed, 0, {}, judge(encoder))
        for name in args.settings:
            train_and_judge(args, judge, name, seed, {epoch for n, epoch in done if n == name})
    report(rows())


if __name__ == "__main__":
    main()

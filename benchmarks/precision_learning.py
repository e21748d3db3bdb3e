"""Whether a method learns as much in bf16 as in fp32 on a CPU: k-NN of the same trainings in both.

    python benchmarks/precision_learning.py --work FOLDER [--methods simclr byol --jobs 2 --hours 1]
    python benchmarks/precision_learning.py --summary

Each method trains on 1,500 images of CIFAR-10 (32 pixels, 13 epochs in batches of 64, fitted settings) with three
seeds, in fp32 and in bf16: a small ResNet, or a vision transformer as wide as ViT-Tiny. A seed has its own images and
weights, the same in both precisions. k-NN on 1,000 test images. Rows, --work and a stop are as in `born_again.py`.
"""

import argparse
import dataclasses
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import few_images
import networks
import resumable
import torch
import unlike_sets
from resumable import Row, read
from torch import nn

from lookalike.methods import SELF_SUPERVISED, get_method
from lookalike.runs import commit

IMAGES, SIZE, EPOCHS = 1500, 32, 13
SEEDS = 0, 1, 2
PRECISIONS = "fp32", "bf16"
CNN, VIT = "small_resnet", "vit_wide"
NETWORKS = {CNN: networks.small_resnet, VIT: networks.vit_wide}
OF_VITS = "dino", "ibot", "dinov2"
"""Methods that train the transformer; the others train the ResNet."""
TWICE = "lejepa", "moco_v3"
"""Methods that train both."""
RECORD = Path(__file__).parent / "records" / "precision_learning.jsonl"


@dataclass(frozen=True)
class Job:
    """One training."""

    method: str
    network: str
    precision: str
    seed: int


FIELDS = tuple(field.name for field in dataclasses.fields(Job))
"""What makes two rows the same measurement."""


def key(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in FIELDS)


def left(rows: Sequence[Row], methods: Sequence[str], busy: Sequence[Job] = ()) -> list[Job]:
    """The trainings without a row that are not under way, seed by seed."""
    pairs = [(m, n) for n in NETWORKS for m in methods if m in TWICE or (m in OF_VITS) == (n == VIT)]
    jobs = [Job(*pair, precision, seed) for seed in SEEDS for pair in pairs for precision in PRECISIONS]
    tried = {key(row) for row in rows}
    return [job for job in jobs if dataclasses.astuple(job) not in tried and job not in busy]


def measured(job: Job, sets: Path, make: Any) -> dict[str, Any]:
    train, test = unlike_sets.drawn(IMAGES, unlike_sets.kept("cifar10", make["cifar10"], sets), job.seed)
    cfg = get_method(job.method).Config()
    run = few_images.run_of(train, cfg, "", EPOCHS, job.seed)
    seeded = seeded_network(job)
    run = dataclasses.replace(run, backbone=seeded, image_size=SIZE, precision=job.precision)
    found = few_images.trained(run)
    after = few_images.said(few_images.hits(found.pop("encoder"), train, test, SIZE))
    date = time.strftime("%Y-%m-%dT%H:%M:%S")
    return {
        "benchmark": "precision_learning", "date": date, **dataclasses.asdict(job), **found, "after": after,
        "error": "",
    }  # fmt: skip


def seeded_network(job: Job) -> nn.Module:
    torch.manual_seed(job.seed)
    return NETWORKS[job.network]()


def failed(job: Job, why: str) -> dict[str, Any]:
    """The row of a training that came to no end."""
    date = time.strftime("%Y-%m-%dT%H:%M:%S")
    return {"benchmark": "precision_learning", "date": date, **dataclasses.asdict(job), "after": None, "error": why}


def work(pipe: Connection, cifar: Path, clothing: Path, folder: Path, code: str) -> None:
    """Does the trainings that come through the pipe, one after the other, until it is closed."""
    make = unlike_sets.makers(cifar, clothing)
    resumable.serve(pipe, lambda job: measured(job, folder / "sets", make), failed, code)


def say(row: Row, todo: int) -> None:
    """A line about a training."""
    end = f"k-NN {row['after']['knn']:.1%}, {row['cpu_seconds']:.0f} s" if row["after"] else row["error"]
    print(
        f"{row['method']}, {row['network']}, {row['precision']}, seed {row['seed']}: {end}  ({todo} left)", flush=True
    )


def summary(rows: Sequence[Row]) -> list[str]:
    """Per method and network: k-NN in both precisions, its change with an interval, and the spread of the seeds."""
    good = {key(row): row for row in rows if row.get("after")}
    lines, changes = [], []
    for method, network in dict.fromkeys((row["method"], row["network"]) for row in good.values()):
        seeds = [s for s in SEEDS if all((method, network, p, s) in good for p in PRECISIONS)]
        full, half = ([good[method, network, p, s] for s in seeds] for p in PRECISIONS)
        if not seeds:
            continue
        a, b = ([100 * row["after"]["knn"] for row in side] for side in (full, half))
        change = few_images.points([r["after"] for r in full], [r["after"] for r in half])
        changes.append(statistics.fmean(b) - statistics.fmean(a))
        spread = max(a) - min(a)
        lines.append(
            f"| `{method}` | {network} | {statistics.fmean(a):.1f} % | {statistics.fmean(b):.1f} % | {change} | "
            f"{spread:.1f} | {len(seeds)} |"
        )
    if changes:
        lines.append(f"mean change over {len(changes)} methods and networks: {statistics.fmean(changes):+.2f} points")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    resumable.add_options(parser, Path("runs/precision"), RECORD)
    parser.add_argument("--methods", nargs="+", choices=SELF_SUPERVISED, default=list(SELF_SUPERVISED))
    args = parser.parse_args()
    if args.summary:
        print("\n".join(summary(read(args.record))))
        return
    if args.left:
        todo = left(read(args.record), args.methods)
        print("\n".join(map(str, todo[:10])) + f"\n{len(todo)} trainings are left.")
        return
    resumable.answer_signals()
    resumable.make_sets(["cifar10"], args)
    code = commit()
    resumable.study(
        lambda: resumable.Worker(work, args.cifar10, args.clothes, args.work, code),
        lambda rows, busy: left(rows, args.methods, busy),
        failed, say, record=args.record, jobs=args.jobs, hours=args.hours,
    )  # fmt: skip


if __name__ == "__main__":
    main()

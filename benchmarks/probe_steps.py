"""How many steps the linear probe needs on few images: its accuracy and time by steps, against 2,500 of whole batches.

    nice python benchmarks/probe_steps.py CIFAR10 [--images 120 500 2000] [--draws 3] [--epochs 8]

CIFAR10 is a folder with train/ and test/, ten classes each. Two encoders of 32 pixels: a small ResNet as it is drawn
(its BatchNorm knows the images), and the same after SimCLR on 5,000 images for `--epochs`. Of each, `--draws` balanced
draws of so many labelled images are probed and tested on 2,000 others. `before` is what version 0.1 did on fewer than
250,000 images: 2,500 steps of 1,024 images, few images many times in each. Rows that the record has are not measured
again. A summary is printed at the end: accuracies are means over the draws, `difference` is from `before`,
with the standard error of the paired differences.
"""

import argparse
import dataclasses
import importlib.metadata
import json
import math
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from networks import small_resnet
from rows import append
from torch import Tensor

import lookalike
from lookalike import backbones
from lookalike.data import Subset, open_source
from lookalike.evaluation import features, linear, with_statistics
from lookalike.evaluation.linear import DINOV2, _train
from lookalike.methods.simclr import SimCLR
from lookalike.random import permutation
from lookalike.runs import commit

STEPS = (100, 250, 500, 1000, 2500)
POOL, TEST = 5000, 2000
PROBE = sys.modules["lookalike.evaluation.linear"]


def drawn(labels: Tensor, count: int, seed: int) -> Tensor:
    """Rows of a balanced draw."""
    order = permutation(len(labels), seed, "probe steps")
    per = count // int(labels.max() + 1)
    return torch.cat([order[labels[order] == k][:per] for k in range(int(labels.max()) + 1)])


def whole_batches(x: Tensor, y: Tensor, rows: Tensor, *rest: Any, **more: Any) -> Any:
    """The probe's training as version 0.1 had it: each step has 1,024 images, however few there are."""
    return _train(x, y, rows.repeat(math.ceil(DINOV2.batch_size / len(rows))), *rest, **more)


def probed(data: tuple[Tensor, ...], steps: int | None, seed: int) -> dict[str, float]:
    """`steps` None is version 0.1."""
    fixed = steps or DINOV2.least_steps
    settings = dataclasses.replace(DINOV2, least_steps=fixed, few_steps=fixed)
    PROBE._train = whole_batches if steps is None else _train  # type: ignore[attr-defined]
    began = time.perf_counter()
    found = linear(*data, seed=seed, settings=settings)
    PROBE._train = _train  # type: ignore[attr-defined]
    return {"top1": found.top1, "lr": found.lr, "seconds": round(time.perf_counter() - began, 3)}


def encoders(folder: Path, epochs: int, workers: int) -> dict[str, backbones.Backbone]:
    torch.manual_seed(0)
    random = backbones.create(small_resnet(), image_size=32)
    source = open_source(folder / "train", pixels=3)
    fit = with_statistics(random, source, image_size=32, mean=random.mean, std=random.std)
    with tempfile.TemporaryDirectory() as out:
        subset = Subset(source, permutation(len(source), 0, "pool")[:POOL].tolist())
        run = lookalike.Run(
            data=subset, method=SimCLR.Config(), backbone=small_resnet(), image_size=32, epochs=epochs, batch_size=128,
            workers=workers, out=out, cache="ram",
        )  # fmt: skip
        lookalike.pretrain(run)
        return {"random": fit, "simclr": lookalike.load(out, backbone=small_resnet())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--images", type=int, nargs="+", default=[120, 500, 2000])
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--record", type=Path, default=Path(__file__).parent / "records" / "probe_steps.jsonl")
    args = parser.parse_args()
    torch.set_num_threads(1)
    key = ("encoder", "images", "steps", "draw")
    there = [json.loads(line) for line in args.record.read_text().splitlines()] if args.record.is_file() else []
    known = {tuple(row[k] for k in key): row for row in there}
    wanted = [
        (name, images, steps, draw)
        for draw in range(args.draws) for images in args.images for name in ("random", "simclr")
        for steps in ("before", *STEPS)
    ]  # fmt: skip
    if any(case not in known for case in wanted):
        made = encoders(args.data, args.epochs, 0)
        train = open_source(args.data / "train", pixels=3, labelled=True)
        test = open_source(args.data / "test", pixels=3, labelled=True, classes=train.classes)
        pool = Subset(train, permutation(len(train), 1, "labelled")[:POOL].tolist())
        other = Subset(test, permutation(len(test), 1, "test")[:TEST].tolist())
        sides = {
            name: [features(e, part, image_size=32, mean=e.mean, std=e.std) for part in (pool, other)]
            for name, e in made.items()
        }
    about = {
        "date": time.strftime("%Y-%m-%d"), "machine": platform.processor() or platform.machine(), "threads": 1,
        "torch": importlib.metadata.version("torch"), "commit": commit(), "epochs": args.epochs,
    }  # fmt: skip
    for case in wanted:
        if case in known:
            continue
        name, images, steps, draw = case
        first, second = sides[name]
        rows = drawn(first.labels, images, draw)
        data = first.features[rows], first.labels[rows], second.features, second.labels
        found = probed(data, None if steps == "before" else int(steps), draw)
        row = dict(zip(key, case)) | found | about
        append(args.record, row)
        known[case] = row
        print(row, flush=True)
    print(f"{'encoder':<8} {'images':>6} {'steps':>7} {'top-1 %':>8} {'difference':>16} {'seconds':>8}")
    for name in ("random", "simclr"):
        for images in args.images:
            old = [known[name, images, "before", d]["top1"] for d in range(args.draws)]
            for steps in ("before", *STEPS):
                of = [known[name, images, steps, d] for d in range(args.draws)]
                change = [100 * (row["top1"] - o) for row, o in zip(of, old)]
                error = statistics.stdev(change) / len(change) ** 0.5 if len(change) > 1 else math.nan
                print(
                    f"{name:<8} {images:>6} {steps!s:>7} {100 * statistics.mean(r['top1'] for r in of):>8.1f} "
                    f"{statistics.mean(change):>8.2f} ± {error:4.2f} {statistics.mean(r['seconds'] for r in of):>8.1f}"
                )


if __name__ == "__main__":
    main()

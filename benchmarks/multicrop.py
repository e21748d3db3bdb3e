"""Multi-crop against two views at equal time: SwAV, as its paper's figure 3.

    python benchmarks/multicrop.py DATA [--image-size 64 --epochs 12 --seeds 0 1 2]

DATA holds train/ and test/ with one sub-folder per class. What a step costs with two global views, and with two global
and six local ones (3/7 of the size), is measured in turns first, views included; the multi-crop training then gets as
many epochs fewer as its steps take longer, so that both have the same work whatever else the machine does. One k-NN
judges both: the images of train/ are the bank, all of test/ is classified. A row of JSON per seed goes to --record;
those that are there already are not made again.
"""

import argparse
import dataclasses
import json
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from networks import small_resnet
from rows import append

import lookalike
from lookalike import optimizers, training
from lookalike.core import Batch, DataFacts, Progress
from lookalike.data import Loader, Subset, open_source
from lookalike.evaluation import features, knn, with_statistics
from lookalike.methods.swav import SwAV
from lookalike.random import permutation
from lookalike.runs import Run, commit
from lookalike.views import half_colour, make_views, resized, two_global, without_blur

PAIRS = 12
"""Steps of each kind that are timed, after two that are not."""


def configurations(image_size: int, images: int) -> dict[str, SwAV.Config]:
    """The fitted recipe with two views, and the same with the local ones beside them."""
    plain = resized(SwAV.Config().views, image_size)
    if image_size <= 64:
        plain = half_colour(without_blur(plain))
    made = {}
    for name, views in (("two views", two_global(plain)), ("multi-crop", plain)):
        cfg = SwAV.Config(hidden_dim=512, views=views).fit_to(DataFacts(images, image_size, 64))
        made[name] = dataclasses.replace(cfg, views=views)
    return made


def seconds_per_step(cfgs: dict[str, SwAV.Config], loader: Loader) -> dict[str, float]:
    """Medians, taken in turns."""
    found: dict[str, list[float]] = {name: [] for name in cfgs}
    methods = {name: SwAV(cfg, lookalike.backbones.create(small_resnet())).train() for name, cfg in cfgs.items()}
    rates = {name: optimizers.build(m, m.cfg.optim, loader.order.batch_size, fused=True) for name, m in methods.items()}
    images = next(iter(loader))
    at = Progress(0, 100, 10)
    for _ in range(PAIRS + 2):
        for name, method in methods.items():
            began = time.perf_counter()
            views = make_views(images, method.cfg.views, images.keys, memory_format=torch.channels_last)
            outputs = method(Batch(views, images.index, at))
            loss = outputs["loss"]
            rates[name].optimizer.zero_grad()
            loss.backward()
            rates[name].optimizer.step()
            method.after_step(at, [{name: value.detach() for name, value in outputs.items()}])
            found[name].append(time.perf_counter() - began)
    return {name: statistics.median(times[2:]) for name, times in found.items()}


def one_seed(args: argparse.Namespace, seed: int) -> dict[str, Any]:
    everything = open_source(args.data / "train", labelled=True)
    train = Subset(everything, permutation(len(everything), seed, "images")[: args.images].tolist())
    test = open_source(args.data / "test", labelled=True, classes=everything.classes)
    cfgs = configurations(args.image_size, len(train))
    loader = Loader(train, args.batch_size, seed, decode_size=2 * args.image_size, cache="ram")
    steps = seconds_per_step(cfgs, loader)
    row: dict[str, Any] = {
        "benchmark": "multicrop", "date": time.strftime("%Y-%m-%d"), "data": args.data.name, "seed": seed,
        "images": len(train), "test_images": len(test), "image_size": args.image_size, "batch_size": args.batch_size,
        "seconds_per_step": {name: round(s, 4) for name, s in steps.items()}, "torch": torch.__version__,
        "threads": torch.get_num_threads(), "lookalike": commit(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }  # fmt: skip
    names = args.work / f"{args.data.name}-{seed}.txt"
    names.parent.mkdir(parents=True, exist_ok=True)
    names.write_text("\n".join(str((args.data / "train" / train.name(i)).absolute()) for i in range(len(train))))

    def judge(encoder: lookalike.backbones.Backbone) -> float:
        options = {"image_size": args.image_size, "mean": encoder.mean, "std": encoder.std}
        bank, tested = (features(encoder, source, **options) for source in (train, test))
        assert bank.labels is not None
        assert tested.labels is not None
        return round(knn(bank.features, bank.labels, tested.features, tested.labels).top1, 4)

    for name, cfg in cfgs.items():
        epochs = max(1, round(args.epochs * steps["two views"] / steps[name]))
        torch.manual_seed(seed)
        run = Run(
            data=str(names), method=cfg, backbone=small_resnet(), image_size=args.image_size, epochs=epochs,
            batch_size=args.batch_size, cache="ram", seed=seed, overwrite=True, given=("views",),
            out=str(args.work / f"{args.data.name}-{seed}-{len(cfg.views)}"),
        )  # fmt: skip
        untrained = training.build(training.resolve(run, len(train))[0]).encoder
        before = judge(
            with_statistics(untrained, train, image_size=args.image_size, mean=untrained.mean, std=untrained.std)
        )
        lookalike.pretrain(run)
        after = judge(lookalike.load(run.out, backbone=small_resnet()))
        row[name] = {"epochs": epochs, "knn": after, "untrained": before}
    row["work"] = round(row["multi-crop"]["epochs"] * steps["multi-crop"] / (args.epochs * steps["two views"]), 3)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--images", type=int, default=3000, help="drawn from train/; all of them if there are fewer")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=12, help="of the training with two views")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=Path("runs/multicrop"), help="folder of the trainings")
    parser.add_argument("--record", type=Path, default=Path(__file__).parent / "records" / "multicrop.jsonl")
    args = parser.parse_args()
    done = [json.loads(line) for line in args.record.read_text().splitlines()] if args.record.exists() else []
    for seed in args.seeds:
        settings = {"data": args.data.name, "seed": seed, "image_size": args.image_size, "batch_size": args.batch_size}
        if any(settings.items() <= r.items() and r["two views"]["epochs"] == args.epochs for r in done):
            print(f"seed {seed}: in {args.record} already")
            continue
        row = one_seed(args, seed)
        print(json.dumps(row), flush=True)
        append(args.record, row)


if __name__ == "__main__":
    main()

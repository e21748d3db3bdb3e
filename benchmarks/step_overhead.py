"""What a training step costs beside the model itself: ours against the same model on ready-made tensors.

    python benchmarks/step_overhead.py DATA [--backbone resnet18 --image-size 32 --batch-size 128]

One process. Blocks of 20 optimizer steps of `lookalike.pretrain` (data, views, schedules, checks, logging, Lightning)
and of a bare loop (forward, backward, optimizer step of a copy of the same method with the same optimizer) take turns,
so that both see the same machine. Prints the median of the ratios of neighbouring blocks with a 95 % bootstrap
interval, and the share of our time that went into data, views and logging. Appends the figures as a line to --record.
"""

import argparse
import copy
import dataclasses
import functools
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from lightning.pytorch import Callback
from rows import append

from lookalike import monitor, optim, training
from lookalike.core import Batch
from lookalike.methods import get_method
from lookalike.runs import Run


class Turns(Callback):
    """After each block of our steps, times a block of the bare loop on copies of model, optimizer and one batch."""

    def __init__(self, block: int, pairs: int) -> None:
        self.block, self.pairs = block, pairs
        self.ours: list[float] = []
        self.bare: list[float] = []
        self.spent = dict.fromkeys(("data", "views", "logging"), 0.0)

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            began = self._now()
            try:
                return function(*args, **kwargs)
            finally:
                self.spent[name] += self._now() - began

        return wrapper

    def _now(self) -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Batch, batch_idx: int) -> None:
        if batch_idx == self.block:  # the first block warms up
            self.method = copy.deepcopy(module.method)
            self.rates = optim.build(self.method, module.run.method.optim, module.run.batch_size, fused=True)
            self.batch = dataclasses.replace(batch, views=[v.clone() for v in batch.views])
            self.waited = module.loader.waited
            self.spent = dict.fromkeys(self.spent, 0.0)
            self.bare_block(module)
            self.began = self._now()

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: object, batch: Batch, batch_idx: int) -> None:
        done = batch_idx + 1
        if done <= self.block or done % self.block:
            return
        self.ours.append(self._now() - self.began)
        self.spent["data"] += module.loader.waited - self.waited
        self.bare.append(self.bare_block(module))
        if len(self.ours) == self.pairs:
            trainer.should_stop = True
        self.waited, self.began = module.loader.waited, self._now()

    def bare_block(self, module: Any) -> float:
        began = self._now()
        precision = module.trainer.precision_plugin
        for _ in range(self.block):
            self.rates.optimizer.zero_grad()
            with precision.forward_context():
                loss = self.method(self.batch)["loss"]
            loss.backward()
            self.rates.optimizer.step()
        return self._now() - began


def interval(values: list[float]) -> tuple[float, float]:
    """95 % bootstrap interval of the median."""
    draws = np.random.default_rng(0).choice(values, (10_000, len(values)))
    low, high = np.quantile(np.median(draws, axis=1), [0.025, 0.975])
    return round(float(low), 4), round(float(high), 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--method", default="simclr")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--stem", default="standard", choices=["standard", "small"], help="of a ResNet, at any size")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=128)
    # decoding processes would go on in the bare loop's turns, and slow it down
    parser.add_argument("--cache", default="ram", choices=["ram", "device"])
    parser.add_argument("--workers", type=int, default=None)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--block", type=int, default=20)
    parser.add_argument("--record", type=Path, default=Path(__file__).parent / "records" / "step_overhead.jsonl")
    args = parser.parse_args()

    # a module keeps the stem that it has, a name gets the small one at 64 pixels or less
    backbone = timm.create_model(args.backbone, num_classes=0) if args.stem == "standard" else args.backbone
    turns = Turns(args.block, args.pairs)
    training.make_views = turns.timed("views", training.make_views)
    monitor.Monitor.on_train_batch_end = turns.timed("logging", monitor.Monitor.on_train_batch_end)  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        run = Run(
            data=args.data, method=get_method(args.method).Config(), backbone=backbone, image_size=args.image_size,
            batch_size=args.batch_size, epochs=1000, cache=args.cache, workers=args.workers, out=f"{folder}/run",
        )  # fmt: skip
        training.pretrain(run, callbacks=[turns])
    ratios = [a / b for a, b in zip(turns.ours, turns.bare)]
    total = sum(turns.ours)
    device = (
        torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()}, {os.cpu_count()} cores"
    )
    figures = {
        "benchmark": "step_overhead",
        "date": time.strftime("%Y-%m-%d"),
        **{k: v for k, v in vars(args).items() if k not in ("record", "data")},
        "ratio_median": round(statistics.median(ratios), 4),
        "ratio_interval": interval(ratios),
        "ratio_min_max": [round(min(ratios), 4), round(max(ratios), 4)],
        "share": {name: round(seconds / total, 4) for name, seconds in turns.spent.items()},
        "images_per_s": round(args.block * args.batch_size / statistics.median(turns.ours), 1),
        "bare_images_per_s": round(args.block * args.batch_size / statistics.median(turns.bare), 1),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": device,
    }
    print(json.dumps(figures, indent=2))
    append(args.record, figures)


if __name__ == "__main__":
    main()

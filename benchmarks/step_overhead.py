"""What a training step costs beside the model itself: ours against the same model on ready-made tensors.

    python benchmarks/step_overhead.py DATA [--backbone resnet18 --image-size 32 --batch-size 128]

One process. Blocks of 20 optimizer steps of `lookalike.pretrain` (data, views, schedules, checks, logging, Lightning)
and of a bare loop (forward, backward, optimizer step of a copy of the same method with the same optimizer) take turns,
so that both see the same machine. Prints the median of the ratios of neighbouring blocks with a 95 % bootstrap
interval, and the share of our time that went into data, views, logging and health figures. Appends the figures as a
line to --record.
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from lightning.pytorch import Callback
from rows import append

from lookalike import optimizers, training
from lookalike.commands.compare.cost_meter import energy, peak_bytes, reset_peak
from lookalike.core import Batch
from lookalike.methods import get_method
from lookalike.runs import Run
from lookalike.training import model as training_model
from lookalike.training import module
from lookalike.training.looks import Health
from lookalike.training.monitor import Monitor
from lookalike.training.timing import Measured


class Turns(Callback):
    """After each block of our steps, times a block of the bare loop on copies of model, optimizer and one batch.

    Ends the training by raising `Measured`. A GPU must be waited for before and after what is timed within a step, so
    there a further block at the end tells the shares, and the others are left alone.
    """

    def __init__(self, block: int, pairs: int) -> None:
        self.block, self.pairs = block, pairs
        self.ours: list[float] = []
        self.bare: list[float] = []
        self.joules: list[float] = []
        """Of our blocks; nothing where the device does not tell."""
        self.peak: int | None = None
        """Bytes at most in our first block."""
        self.spent = dict.fromkeys(("data", "views", "logging", "health"), 0.0)
        self.total = 0.0
        """Seconds of the blocks in which these were spent."""
        self._looking = not torch.cuda.is_available()

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Within it the parts of a step are timed."""
        kept = module.make_views, Monitor.on_train_batch_end, Health.__call__
        module.make_views = self.timed("views", kept[0])
        Monitor.on_train_batch_end = self.timed("logging", kept[1])  # type: ignore[method-assign]
        Health.__call__ = self.timed("health", kept[2])  # type: ignore[method-assign]
        try:
            yield
        finally:
            module.make_views, Monitor.on_train_batch_end, Health.__call__ = kept  # type: ignore[method-assign]

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if not self._looking:
                return function(*args, **kwargs)
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

    def on_fit_start(self, trainer: Any, module: Any) -> None:
        reset_peak()

    def _prepare(self, module: Any, batch: Batch) -> None:
        """Copies what the bare loop trains, after the first block, which warms up."""
        self._now()
        self.peak = peak_bytes()
        self.run = module.run
        self.method = copy.deepcopy(module.method)
        if module.run.compile:
            training_model.compile_parts(self.method)
        fused = module.run.precision != "fp16"
        self.rates = optimizers.build(self.method, module.run.method.optim, module.run.batch_size, fused=fused)
        self.batch = dataclasses.replace(batch, views=[v.clone() for v in batch.views])
        self.bare_block(module)
        self.spent = dict.fromkeys(self.spent, 0.0)

    def _begin(self, module: Any) -> None:
        self._waited, self._energy = module.loader.waited, energy()
        self._began = self._now()

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: object, batch: Batch, batch_idx: int) -> None:
        done = batch_idx + 1
        if done % self.block:
            return
        if done == self.block:
            self._prepare(module, batch)
            self._begin(module)
            return
        taken, joules = self._now() - self._began, energy()
        if self._looking:
            self.spent["data"] += module.loader.waited - self._waited
            self.total += taken
        if len(self.ours) == self.pairs:
            raise Measured
        self.ours.append(taken)
        if joules is not None and self._energy is not None:
            self.joules.append(joules - self._energy)
        self.bare.append(self.bare_block(module))
        if len(self.ours) == self.pairs:
            if self._looking:
                raise Measured
            self._looking = True
        self._begin(module)

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

    @property
    def shares(self) -> dict[str, float]:
        """Of our time; logging without the health figures."""
        found = {name: round(seconds / self.total, 4) for name, seconds in self.spent.items()}
        return found | {"logging": round(found["logging"] - found["health"], 4)}


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
    with tempfile.TemporaryDirectory() as folder, turns.looking(), suppress(Measured):
        run = Run(
            data=args.data, method=get_method(args.method).Config(), backbone=backbone, image_size=args.image_size,
            batch_size=args.batch_size, epochs=1000, cache=args.cache, workers=args.workers, out=f"{folder}/run",
        )  # fmt: skip
        training.pretrain(run, callbacks=[turns])
    ratios = [a / b for a, b in zip(turns.ours, turns.bare)]
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
        "share": turns.shares,
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

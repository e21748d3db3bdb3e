"""Two processes with one thread each against one process with two threads: the same batches, on two cores.

    python benchmarks/two_processes.py [--backbone resnet18 --image-size 32 --batch-size 64 --steps 20 --pairs 10]

Each row is a pair of trainings, in turns which is first: after some warm-up steps, the steps'
images per second by the clock, and their processor time in all processes. Prints each pair and the summary of all pairs
of these settings, and appends the pair to --record. A stopped benchmark continues with the same command: it measures
until the record has --pairs pairs of this day. Other work on the machine disturbs it: run it alone.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback
from rows import append, summary

from lookalike import distributed, training
from lookalike.methods import get_method
from lookalike.runs import Run
from lookalike.training.timing import Measured

WARM = 5
"""Steps that are not counted."""
KINDS = {"two processes": (2, 1), "one process": (1, 2)}
"""Processes, and threads of each."""


class Timed(Callback):
    """Measures `steps` steps after the first ones, and ends the training."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.seconds = self.processor = 0.0
        self._began = 0.0, 0.0

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: object, batch: object, batch_idx: int) -> None:
        now = time.perf_counter(), time.process_time()
        if batch_idx + 1 == WARM:
            self._began = now
        if batch_idx + 1 == WARM + self.steps:
            self.seconds, self.processor = (b - a for a, b in zip(self._began, now))
            raise Measured


def process(args: argparse.Namespace) -> None:
    """One process of a training; the first one writes what all took."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    torch.set_num_threads(2 // world)
    images = np.random.default_rng(0).integers(0, 256, (4 * args.batch_size, *[args.image_size] * 2, 3), np.uint8)
    run = Run(
        data=images, method=get_method(args.method).Config(), backbone=args.backbone, image_size=args.image_size,
        batch_size=args.batch_size, epochs=10**5, workers=0, cache="ram", precision="fp32", devices=world,
        out=f"{args.folder}/run",
    )  # fmt: skip
    timed = Timed(args.steps)
    with suppress(Measured):
        training.pretrain(run, callbacks=[timed], report=lambda text, kind: None)
    processor = distributed.gather(torch.tensor([timed.processor])).sum().item()
    if distributed.rank() == 0:
        Path(args.folder, "found.json").write_text(json.dumps({"seconds": timed.seconds, "processor": processor}))


def measured(kind: str, options: list[str]) -> dict[str, float]:
    processes, threads = KINDS[kind]
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    own = dict(os.environ, OMP_NUM_THREADS=str(threads))
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, *(launch if processes > 1 else []), __file__, "process", *options]
        subprocess.run([*command, f"--folder={folder}"], check=True, env=own)
        found: dict[str, float] = json.loads(Path(folder, "found.json").read_text())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=["process"], help=argparse.SUPPRESS)
    parser.add_argument("--method", default="simclr")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20, help="that are counted, in each training")
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--folder", default="", help=argparse.SUPPRESS)
    parser.add_argument("--record", type=Path, default=Path(__file__).parent / "records" / "two_processes.jsonl")
    args = parser.parse_args()
    if args.part:
        process(args)
        return
    asked = {name: vars(args)[name] for name in ("method", "backbone", "image_size", "batch_size", "steps")}
    options = [f"--{name.replace('_', '-')}={value}" for name, value in asked.items()]
    case = {"benchmark": "two_processes", "date": time.strftime("%Y-%m-%d"), **asked}
    rows = [json.loads(line) for line in args.record.read_text().splitlines()] if args.record.exists() else []
    rows = [row for row in rows if case.items() <= row.items()]
    while len(rows) < args.pairs:
        order = list(KINDS)[:: 1 if len(rows) % 2 == 0 else -1]
        load = os.getloadavg()[0]
        found = {kind: measured(kind, options) for kind in order}
        two, one = found["two processes"], found["one process"]
        images = args.steps * args.batch_size
        row = {
            **case,
            "first": order[0],
            "load_before": round(load, 1),
            "images_per_s": [round(images / each["seconds"], 2) for each in (two, one)],
            "processor_seconds": [round(each["processor"], 2) for each in (two, one)],
            "speed_ratio": round(one["seconds"] / two["seconds"], 3),
            "processor_ratio": round(two["processor"] / one["processor"], 3),
            "torch": torch.__version__,
            "python": platform.python_version(),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        }
        print(json.dumps(row), flush=True)
        append(args.record, row)
        rows.append(row)
    ratios = {name: summary([row[name] for row in rows], 3) for name in ("speed_ratio", "processor_ratio")}
    print(json.dumps({"pairs": len(rows), **ratios}))


if __name__ == "__main__":
    main()

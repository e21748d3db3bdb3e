"""What the watchdog and the checks of several processes cost, in processor time of all processes.

    python benchmarks/watchdog.py [--backbone resnet18 --image-size 32 --batch-size 64 --seconds 20 --pairs 10]

Two processes train one network by torchrun and gloo, with one thread each. Blocks with the watchdog and without it take
turns in the same processes; both processes change at the same step. Prints the median of the ratios of neighbouring
blocks' processor time per step, the processor time of the watchdog's own threads as a fraction of all, and the time of
the checks before the first step. Appends the figures as a line to --record.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
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
from lookalike.training.watchdog import Watchdog

WARM = 5
"""Steps before the first block."""


class Turns(Callback):
    """Blocks of steps with and without the watchdog, of about `seconds` each."""

    def __init__(self, seconds: float, pairs: int) -> None:
        self.seconds, self.pairs = seconds, pairs
        self.blocks: list[tuple[bool, int, float, float]] = []
        """Of each block: with the watchdog or not, its steps, processor time of this process, and of its threads."""
        self.threads = 0.0
        self.checks = 0.0
        self._watches = True
        self._began: tuple[int, float, float, float] | None = None

    def counted(self, loop: Callable[[Watchdog], None]) -> Callable[[Watchdog], None]:
        """A thread's function that adds its processor time to `threads`, at each of its rounds."""

        def run(watchdog: Watchdog) -> None:
            wait, before = watchdog._closed.wait, time.thread_time()

            def waits(timeout: float | None = None) -> bool:
                nonlocal before
                now = time.thread_time()
                self.threads += now - before
                before = now
                return wait(timeout)

            watchdog._closed.wait = waits  # type: ignore[method-assign]
            loop(watchdog)

        return run

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: object, batch: object, batch_idx: int) -> None:
        step, now = batch_idx + 1, time.perf_counter()
        if step < WARM:
            return
        if self._began is not None:
            first, since, spent, threads = self._began
            (enough,) = distributed.agree(now - since >= self.seconds)
            if not enough:
                return
            used = time.process_time() - spent
            self.blocks.append((self._watches, step - first, used, self.threads - threads))
            if len(self.blocks) == 2 * self.pairs:
                raise Measured
            self.turn(trainer)
        self._began = step, time.perf_counter(), time.process_time(), self.threads

    def turn(self, trainer: Any) -> None:
        self._watches = not self._watches
        if not self._watches:
            self.watchdog = next(c for c in trainer.callbacks if isinstance(c, Watchdog))
            self.watchdog.close()
            trainer.callbacks.remove(self.watchdog)
            return
        self.watchdog._closed = threading.Event()
        trainer.callbacks.append(self.watchdog)
        self.watchdog.watch()


def process(args: argparse.Namespace) -> None:
    """One of the two processes; the first one prints the blocks of both."""
    torch.set_num_threads(1)
    turns = Turns(args.seconds, args.pairs)
    talk, hear, meet = Watchdog._talk, Watchdog._hear, Watchdog.meet
    Watchdog._talk, Watchdog._hear = turns.counted(talk), turns.counted(hear)  # type: ignore[method-assign]

    def timed(self: Watchdog) -> None:
        began = time.process_time()
        meet(self)
        turns.checks = time.process_time() - began

    Watchdog.meet = timed  # type: ignore[method-assign]
    images = np.random.default_rng(0).integers(0, 256, (8 * args.batch_size, *[args.image_size] * 2, 3), np.uint8)
    run = Run(
        data=images, method=get_method(args.method).Config(), backbone=args.backbone, image_size=args.image_size,
        batch_size=args.batch_size, epochs=10**5, workers=0, cache="ram", precision="fp32", devices=2,
        out=f"{args.folder}/run",
    )  # fmt: skip
    with suppress(Measured):
        training.pretrain(run, callbacks=[turns], report=lambda text, kind: None)
    own = torch.tensor([[u, t] for _, _, u, t in turns.blocks], dtype=torch.float64)
    both = distributed.gather(own[None]).sum(0).tolist()
    checks = distributed.gather(torch.tensor([turns.checks])).sum().item()
    if distributed.rank() == 0:
        blocks = [(on, steps, *sums) for (on, steps, *_), sums in zip(turns.blocks, both)]
        Path(args.folder, "blocks.json").write_text(json.dumps({"blocks": blocks, "checks": checks}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=["process"], help=argparse.SUPPRESS)
    parser.add_argument("--method", default="simclr")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=20.0, help="of a block")
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--folder", default="", help=argparse.SUPPRESS)
    parser.add_argument("--record", type=Path, default=Path(__file__).parent / "records" / "watchdog.jsonl")
    args = parser.parse_args()
    if args.part:
        process(args)
        return
    asked = {k: v for k, v in vars(args).items() if k not in ("part", "folder", "record")}
    options = [f"--{name.replace('_', '-')}={value}" for name, value in asked.items()]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", __file__]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([*launch, "process", *options, f"--folder={folder}"], check=True)
        found = json.loads(Path(folder, "blocks.json").read_text())
    each = [used / steps for _, steps, used, _ in found["blocks"]]  # with, without, with, ...
    watched = [block for block in found["blocks"] if block[0]]
    figures = {
        "benchmark": "watchdog",
        "date": time.strftime("%Y-%m-%d"),
        **asked,
        "ratio": summary([a / b for a, b in zip(each[::2], each[1::2])], 4),
        "seconds_per_step": round(sum(each) / len(each), 4),
        "of_its_threads": round(sum(b[3] for b in watched) / sum(b[2] for b in watched), 6),
        "checks_seconds": round(found["checks"], 3),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    print(json.dumps(figures, indent=2))
    append(args.record, figures)


if __name__ == "__main__":
    main()

"""The cost of a joint loss: its time beside plain accumulation, and the memory of a large batch.

    python benchmarks/joint_loss.py time [--method simclr --backbone resnet18 --batch-size 512 --accumulate 8]
    python benchmarks/joint_loss.py memory [--batch-size 4096 --accumulate 16]
    python benchmarks/joint_loss.py memory --method dinov2 --no-fit --backbone vit_tiny_patch16_224 --image-size 224
        --batch-size 32 --accumulate 8

time: one process. Forward and backward passes of a step with plain micro-batches and with `--joint-loss` take turns on
the same tensors, so that both see the same machine. Prints the median of the ratios of neighbouring steps.
memory: a real training of one step on images of noise, in a process of its own; prints the peak of its resident memory.
Each appends its figures as a line to --record.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rows import append, summary

from lookalike import training
from lookalike.backbones.micro_batches import in_micro_batches
from lookalike.commands.compare.cost_meter import peak_bytes, reset_peak
from lookalike.core import Batch, Method, Progress
from lookalike.methods import get_method
from lookalike.runs import Run


def run_of(args: argparse.Namespace, **more: Any) -> Run:
    return Run(
        method=get_method(args.method).Config(), backbone=args.backbone, image_size=args.image_size,
        batch_size=args.batch_size, epochs=1, workers=0, precision="fp32", fit=not args.no_fit, **more,
    )  # fmt: skip


def noise(count: int, size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)


# ---------------------------------------------------------------- time


def plain(method: Method, batch: Batch, accumulate: int) -> None:
    rows = len(batch.index) // accumulate
    for i in range(accumulate):
        part = slice(i * rows, (i + 1) * rows)
        own = Batch([v[part] for v in batch.views], batch.index[part], batch.progress, labels=batch.labels)
        (method(own)["loss"] / accumulate).backward()


def joint(method: Method, batch: Batch, accumulate: int) -> None:
    with in_micro_batches(method, accumulate):
        loss = method(batch)["loss"]
    loss.backward()


def seconds(step: Any, method: Method, batch: Batch, accumulate: int) -> float:
    """Of a step on a GPU; on a CPU processor time, which other programs disturb less."""
    method.zero_grad()
    if not torch.cuda.is_available():
        began = time.process_time()
        step(method, batch, accumulate)
        return time.process_time() - began
    torch.cuda.synchronize()
    began = time.perf_counter()
    step(method, batch, accumulate)
    torch.cuda.synchronize()
    return time.perf_counter() - began


def of_time(args: argparse.Namespace) -> dict[str, Any]:
    run, _ = training.resolve(run_of(args, data=""), 50_000)
    method = training.build(run).train()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    method.to(device)
    at = Progress(0, 1000, 100)
    sizes = [view.size for view in run.method.views for _ in range(view.count)]
    views = [torch.randn(args.batch_size, 3, s, s, device=device).to(memory_format=torch.channels_last) for s in sizes]
    batch = Batch(views, torch.arange(args.batch_size, device=device), at)
    for step in (plain, joint):
        seconds(step, method, batch, args.accumulate)
    pairs = [[seconds(step, method, batch, args.accumulate) for step in (plain, joint)] for _ in range(args.pairs)]
    return {
        "ratio": summary([b / a for a, b in pairs], 3),
        "plain_seconds": round(statistics.median(a for a, _ in pairs), 3),
        "joint_seconds": round(statistics.median(b for _, b in pairs), 3),
    }


# ---------------------------------------------------------------- memory


def of_memory(args: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, __file__, "one-step", *(f"--{name.replace('_', '-')}={vars(args)[name]}" for name in (
        "method", "backbone", "image_size", "batch_size", "accumulate"))]  # fmt: skip
    command += ["--no-fit"] if args.no_fit else []
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return found


def one_step(args: argparse.Namespace) -> None:
    """Trains one step in this process and prints its peak."""
    images = noise(args.batch_size, args.image_size)
    with tempfile.TemporaryDirectory() as folder:
        more = {"accumulate": args.accumulate, "joint_loss": args.accumulate > 1, "out": f"{folder}/run"}
        before = peak_bytes() if reset_peak() else None
        began = time.perf_counter()
        training.pretrain(run_of(args, data=images, **more), report=lambda text, kind: print(text, file=sys.stderr))
        taken, peak = time.perf_counter() - began, peak_bytes()
    gib = [None if bytes_ is None else round(bytes_ / 2**30, 3) for bytes_ in (before, peak)]
    print(json.dumps({"gib_before": gib[0], "gib_peak": gib[1], "seconds": round(taken, 1)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["time", "memory", "one-step"])
    parser.add_argument("--method", default="simclr")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=None)
    parser.add_argument("--accumulate", type=int, default=None)
    parser.add_argument("--no-fit", action="store_true", help="as many prototypes as for many images")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--record", type=Path, default=Path(__file__).parent / "records" / "joint_loss.jsonl")
    args = parser.parse_args()
    large = args.part != "time"
    args.batch_size = args.batch_size or (4096 if large else 512)
    args.accumulate = args.accumulate or (16 if large else 8)
    if args.part == "one-step":
        one_step(args)
        return
    figures = {
        "benchmark": f"joint_loss {args.part}",
        "date": time.strftime("%Y-%m-%d"),
        **{k: v for k, v in vars(args).items() if k not in ("record", "part", *(["pairs"] if large else []))},
        **(of_memory(args) if large else of_time(args)),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": torch.cuda.get_device_name() if torch.cuda.is_available()
        else f"{platform.machine()}, {os.cpu_count()} cores",
    }  # fmt: skip
    print(json.dumps(figures, indent=2))
    append(args.record, figures)


if __name__ == "__main__":
    main()

"""What a training step on a CPU is made of, before and after, and what other ways to compute it would gain.

    OMP_NUM_THREADS=1 python benchmarks/step_profile.py [--kind profiles|choices --pairs 5]
    python benchmarks/step_profile.py --table

profiles: the share of each kind of operation in a step of a method on noise, by torch.profiler. "before" is fp32 with
memory that goes back to the system after each step; "after" is the default precision with memory that is reused. Each
has a process of its own, whose first steps are not counted.

choices: processor time of the way that trainings compute, and of another one, in turns; the ratio is the other way's
time over ours (above 1: ours is faster), the median with the smallest and largest.

- layout: the whole step with channels last, against contiguous tensors.
- optimizer: `optimizer.step()` with torch's fused kernel, against its loop over lists of tensors.
- teacher: `Teacher.follow` over all parameters at once, against a call for each.
- views: forward and backward of two views of one size as one batch, against a batch for each.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from noise_steps import Case, Steps, processor_time
from precision import chosen
from resumable import read
from rows import append, summary
from torch import nn
from torch.profiler import ProfilerActivity, profile

from lookalike import optimizers
from lookalike.allocator import LASTING_STEPS, reusing_memory
from lookalike.layers import Teacher
from lookalike.optim import Optim
from lookalike.training.model import build

PROFILES = (
    ("simclr", "resnet18", 96, 32), ("byol", "resnet18", 96, 32), ("simclr", "mobilenetv3_small_050", 64, 64),
    ("moco_v3", "vit_tiny_patch16_224", 96, 32), ("dino", "vit_tiny_patch16_224", 96, 32),
)  # fmt: skip
"""Method, network, image size and batch."""
KINDS: dict[str, tuple[str, ...]] = {
    "convolutions": ("conv",),
    "matrix products": ("addmm", "mm", "bmm", "linear", "matmul", "attention", "baddbmm"),
    "normalisation": ("batch_norm", "layer_norm", "group_norm"),
    "activations": (
        "relu", "threshold", "gelu", "hardswish", "hardsigmoid", "silu", "sigmoid", "softmax", "hardtanh", "pool",
    ),
    "copies": ("copy_", "clone", "cat", "contiguous", "_to_copy", "reorder", "to_mkldnn", "to_dense", "stack"),
    "memory": ("empty", "zero_", "fill_", "zeros", "resize"),
}  # fmt: skip
"""Parts of the names of torch's operations by kind; the first kind that fits."""
STAGES = "optimizer", "teacher"
"""Parts of a step that are counted as a whole, whatever they compute."""


# ---------------------------------------------------------------- profiles


def kind_of(name: str) -> str:
    own = name.removeprefix("aten::")
    return next((kind for kind, parts in KINDS.items() if any(part in own for part in parts)), "other")


def profiled(case: Case, *, reused: bool, steps: int) -> dict[str, Any]:
    """Milliseconds of a step in this process, and those of each kind of operation."""
    measured = Steps(case)
    measured.seconds(LASTING_STEPS)
    with reusing_memory() if reused else nullcontext():
        measured.seconds(1)
        seconds = measured.seconds(steps)
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            measured.seconds(steps)
    found: Counter[str] = Counter()
    for event in seen.events():  # type: ignore[union-attr]
        if (own := event.self_cpu_time_total) <= 0:
            continue
        top = event
        while top.cpu_parent is not None and not top.name.startswith("stage "):
            top = top.cpu_parent
        kind = top.name.removeprefix("stage ")
        found[kind if kind in STAGES else kind_of(event.name)] += own
    whole = sum(found.values())
    return {
        "milliseconds": round(1000 * seconds, 1),
        "shares": {kind: round(value / whole, 3) for kind, value in found.most_common()},
    }


def in_a_process(what: tuple[str, str, int, int], kind: str, steps: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", *map(str, what), kind, "--steps", str(steps)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def one(what: tuple[str, str, int, int], kind: str, steps: int) -> dict[str, Any]:
    after = kind == "after"
    return profiled(Case(*what, precision=chosen(what[1]) if after else "fp32"), reused=after, steps=steps)


# ---------------------------------------------------------------- choices


def layout(precision: str, name: str, size: int, batch: int) -> list[Callable[[], object]]:
    ways = torch.channels_last, torch.contiguous_format
    return [Steps(Case("simclr", name, size, batch, precision, way)).step for way in ways]


def optimizer(precision: str, name: str, size: int, batch: int) -> list[Callable[[], object]]:
    run = Case("simclr", name, size, batch, precision).resolved()
    ways = []
    for fused in (True, False):
        method = build(run)
        for parameter in method.parameters():
            parameter.grad = torch.randn_like(parameter)
        ways.append(optimizers.build(method, Optim("adamw", lr=1e-3), batch, fused=fused).optimizer.step)
    return ways


def teacher(precision: str, name: str, size: int, batch: int) -> list[Callable[[], object]]:
    student = build(Case("simclr", name, size, batch, precision).resolved()).backbone
    own = Teacher(student)
    pairs = list(zip(own.parameters(), student.parameters()))

    @torch.no_grad()
    def one_after_the_other() -> None:
        for mine, theirs in pairs:
            mine.lerp_(theirs, 0.01)

    return [lambda: own.follow(student, momentum=0.99), one_after_the_other]


def views(precision: str, name: str, size: int, batch: int) -> list[Callable[[], object]]:
    steps = Steps(Case("simclr", name, size, batch, precision))
    backbone: nn.Module = steps.method.backbone

    def passed(batches: list[torch.Tensor]) -> None:
        with torch.autocast("cpu", torch.bfloat16) if steps.half else nullcontext():
            features = torch.cat([backbone(x) for x in batches])
        features.float().square().mean().backward()

    return [lambda: passed([torch.cat(steps.data.views)]), lambda: passed(steps.data.views)]


CHOICES: dict[str, tuple[Callable[[str, str, int, int], list[Callable[[], object]]], list[tuple[str, int, int]]]] = {
    "layout": (layout, [("resnet18", 96, 32), ("mobilenetv3_small_050", 64, 64)]),
    "optimizer": (optimizer, [("resnet18", 96, 32), ("vit_tiny_patch16_224", 96, 32)]),
    "teacher": (teacher, [("resnet18", 96, 32), ("vit_tiny_patch16_224", 96, 32)]),
    "views": (views, [("resnet18", 96, 32), ("vit_tiny_patch16_224", 96, 32), ("vit_patch4", 32, 64)]),
}
"""The way that trainings compute and another one, in this order; networks, image sizes and batches."""


def compared(choice: str, name: str, size: int, batch: int, pairs: int) -> dict[str, Any]:
    precision = chosen(name)
    with reusing_memory():
        ours, other = CHOICES[choice][0](precision, name, size, batch)
        for way in (ours, other):
            processor_time(way, LASTING_STEPS + 1)
        times = max(1, round(0.5 / min(processor_time(ours, 1), processor_time(other, 1))))
        found = [(processor_time(ours, times), processor_time(other, times)) for _ in range(pairs)]
    return {
        "precision": precision, "times_per_block": times, "pairs": pairs,
        "milliseconds": [round(1000 * statistics.median(pair[i] for pair in found), 2) for i in range(2)],
        "ratio": summary([b / a for a, b in found], 2),
    }  # fmt: skip


# ---------------------------------------------------------------- command line


def facts() -> dict[str, Any]:
    return {
        "threads": torch.get_num_threads(), "torch": torch.__version__, "machine": platform.machine(),
        "processor": torch.cpu.get_capabilities().get("cpu_name"), "load": round(os.getloadavg()[0], 1),
    }  # fmt: skip


def table(record: Path) -> None:
    rows = read(record)
    for row in (row for row in rows if row["kind"] == "profiles"):
        print(f"{row['method']}, {row['network']}, {row['image_size']} pixels, batch {row['batch_size']}")
        for when in ("before", "after"):
            whole, shares = row[when]["milliseconds"], row[when]["shares"]
            print(f"  {when:<7}{whole:>8.0f} ms: " + ", ".join(f"{kind} {x:.0%}" for kind, x in shares.items()))
    for row in (row for row in rows if row["kind"] == "choices"):
        (ours, other), (middle, low, high) = row["milliseconds"], row["ratio"]
        print(f"| {row['choice']} | {row['network']} | {ours} | {other} | {middle:.2f} ({low:.2f} to {high:.2f}) |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=("profiles", "choices"))
    parser.add_argument("--choices", nargs="+", choices=CHOICES, default=list(CHOICES))
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--one", nargs=5, metavar=("METHOD", "NETWORK", "SIZE", "BATCH", "KIND"))
    parser.add_argument("--record", type=Path, default=Path(__file__).parent / "records" / "step_profile.jsonl")
    parser.add_argument("--table", action="store_true", help="measure nothing, print the record")
    args = parser.parse_args()
    if args.table:
        table(args.record)
        return
    if args.one:
        method, name, size, batch, kind = args.one
        print(json.dumps(one((method, name, int(size), int(batch)), kind, args.steps)))
        return

    def keep(kind: str, name: str, size: int, batch: int, found: dict[str, Any]) -> None:
        row = {"benchmark": "step_profile", "date": time.strftime("%F"), "kind": kind, "network": name}
        row |= {"image_size": size, "batch_size": batch, **found, **facts()}
        print(json.dumps(row), flush=True)
        append(args.record, row)

    if args.kind != "choices":
        for method, name, size, batch in PROFILES:
            found = {kind: in_a_process((method, name, size, batch), kind, args.steps) for kind in ("before", "after")}
            keep("profiles", name, size, batch, {"method": method, "steps": args.steps, **found})
    if args.kind != "profiles":
        for choice in args.choices:
            for name, size, batch in CHOICES[choice][1]:
                keep("choices", name, size, batch, {"choice": choice} | compared(choice, name, size, batch, args.pairs))


if __name__ == "__main__":
    main()

"""A training step with memory that is reused, against one whose memory goes back to the system, on a CPU.

    OMP_NUM_THREADS=1 python benchmarks/reused_memory.py [--pairs 3]

Each measurement is a process of its own, since glibc keeps parts of what another one released: steps as in
`precision.py`, of which the first `LASTING_STEPS` and one more are not counted, then `--steps` steps within
`lookalike.allocator.reusing_memory`, or without. Both take turns. Prints and appends a line per case to --record:
processor time and page faults per step, peak resident memory, and the median ratio of the times of neighbours, without
over within, with the smallest and largest.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from noise_steps import Case, Steps
from rows import append, summary

from lookalike.allocator import LASTING_STEPS, reusing_memory

CASES = (
    ("resnet18", 64, 32, "fp32"), ("resnet18", 96, 32, "bf16"), ("resnet50", 96, 16, "bf16"),
    ("mobilenetv3_small_050", 64, 64, "fp32"), ("vit_tiny_patch16_224", 96, 32, "bf16"),
)  # fmt: skip
"""Network, image size, batch and precision."""
KINDS = "returned", "reused"


def block(name: str, size: int, batch: int, precision: str, kind: str, steps: int) -> dict[str, float]:
    """Processor time and page faults of a step in this process, and its peak memory."""
    measured = Steps(Case("simclr", name, size, batch, precision))
    measured.seconds(LASTING_STEPS)
    with reusing_memory() if kind == "reused" else nullcontext():
        measured.seconds(1)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        seconds = measured.seconds(steps)
        after = resource.getrusage(resource.RUSAGE_SELF)
    return {"seconds": seconds, "page_faults": (after.ru_minflt - before) / steps, "peak_mib": after.ru_maxrss / 1024}


def in_a_process(case: tuple[str, int, int, str], kind: str, steps: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--one", *map(str, case), kind, "--steps", str(steps)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def measured(case: tuple[str, int, int, str], pairs: int, steps: int) -> dict[str, Any]:
    found = [{kind: in_a_process(case, kind, steps) for kind in KINDS} for _ in range(pairs)]

    def median(value: str, digits: int | None = None, factor: int = 1) -> dict[str, float]:
        return {kind: round(factor * statistics.median(pair[kind][value] for pair in found), digits) for kind in KINDS}

    return {
        "milliseconds": median("seconds", 1, 1000), "page_faults": median("page_faults"),
        "peak_mib": median("peak_mib"),
        "ratio": summary([pair["returned"]["seconds"] / pair["reused"]["seconds"] for pair in found], 2),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--one", nargs=5, metavar=("NETWORK", "SIZE", "BATCH", "PRECISION", "KIND"))
    parser.add_argument("--record", type=Path, default=Path(__file__).parent / "records" / "reused_memory.jsonl")
    args = parser.parse_args()
    if args.one:
        name, size, batch, precision, kind = args.one
        print(json.dumps(block(name, int(size), int(batch), precision, kind, args.steps)))
        return
    for case in CASES:
        row = {
            "benchmark": "reused_memory", "date": time.strftime("%F"),
            **dict(zip(("network", "image_size", "batch_size", "precision"), case)),
            **measured(case, args.pairs, args.steps), "pairs": args.pairs, "steps": args.steps,
            "threads": torch.get_num_threads(), "torch": torch.__version__, "machine": platform.machine(),
            "libc": " ".join(platform.libc_ver()), "load": round(os.getloadavg()[0], 1),
            "processor": torch.cpu.get_capabilities().get("cpu_name"),
        }  # fmt: skip
        print(json.dumps(row), flush=True)
        append(args.record, row)


if __name__ == "__main__":
    main()

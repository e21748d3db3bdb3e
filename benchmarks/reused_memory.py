"""A training step with memory that is reused, against one whose memory goes back to the system, on a CPU.

    OMP_NUM_THREADS=1 python benchmarks/reused_memory.py [--pairs 5]

Blocks of steps as in `precision.py`, within `lookalike.allocator.reusing_memory` and without, take turns. Prints and
appends a line per case to --record: processor time, page faults per step, and the median ratio of neighbouring blocks,
without over with, with the smallest and largest.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from precision import Steps
from rows import append, summary

from lookalike.allocator import reusing_memory

CASES = (
    ("resnet18", 96, 32, "fp32"), ("resnet18", 96, 32, "bf16"), ("resnet18", 32, 64, "bf16"),
    ("resnet50", 96, 16, "bf16"), ("mobilenetv3_small_050", 64, 64, "fp32"), ("vit_tiny_patch16_224", 96, 32, "bf16"),
)  # fmt: skip
"""Network, image size, batch and precision."""


def block(steps: Steps, count: int, reused: bool) -> tuple[float, float]:
    """Processor time and page faults of a step, after one that is not counted."""
    with reusing_memory() if reused else nullcontext():
        steps.seconds(1)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        seconds = steps.seconds(count)
        return seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / count


def measured(name: str, size: int, batch: int, precision: str, pairs: int) -> dict[str, Any]:
    steps = Steps(name, size, batch, precision)
    count = max(2, round(1 / max(steps.seconds(1), steps.seconds(1))))
    found = [(block(steps, count, False), block(steps, count, True)) for _ in range(pairs)]
    kinds = {"returned": 0, "reused": 1}
    return {
        "steps_per_block": count,
        "milliseconds": {k: round(1000 * statistics.median(pair[i][0] for pair in found), 1) for k, i in kinds.items()},
        "page_faults": {k: round(statistics.median(pair[i][1] for pair in found)) for k, i in kinds.items()},
        "ratio": summary([without[0] / within[0] for without, within in found], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--record", type=Path, default=Path(__file__).parent / "records" / "reused_memory.jsonl")
    args = parser.parse_args()
    for name, size, batch, precision in CASES:
        row = {
            "benchmark": "reused_memory", "date": time.strftime("%F"), "network": name, "image_size": size,
            "batch_size": batch, "precision": precision, **measured(name, size, batch, precision, args.pairs),
            "pairs": args.pairs, "threads": torch.get_num_threads(), "torch": torch.__version__,
            "machine": platform.machine(), "libc": " ".join(platform.libc_ver()), "load": round(os.getloadavg()[0], 1),
            "processor": torch.cpu.get_capabilities().get("cpu_name"),
        }  # fmt: skip
        print(json.dumps(row), flush=True)
        append(args.record, row)


if __name__ == "__main__":
    main()

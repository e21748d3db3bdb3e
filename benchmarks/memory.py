"""Whether the estimated memory of a training is what a real step takes, for methods and networks.

    python benchmarks/memory.py [--methods simclr dino ...] [--networks resnet50 ...] [--batch-size 32]

Each case runs two steps with the whole batch in a process of its own, as `lookalike estimate --find-batch-size` does.
On a CPU the peak of its resident memory above that before the networks are built (all is imported by then) is compared
with the estimate from steps of 4 and 8 images; on a GPU the peak of its tensors. Prints and appends a line per case to
--record; cases that have a line of this version of torch are left out, so that a stopped run continues. --table
measures nothing: it prints the ratios of the record as in docs/memory.md.
"""

import argparse
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import torch
from rows import append

from lookalike import training
from lookalike.methods import SELF_SUPERVISED, get_method
from lookalike.runs import Run
from lookalike.training.memory import footprint
from lookalike.training.out_of_memory import rows_of
from lookalike.training.trial import step

NETWORKS = {"resnet18": 64, "resnet50": 96, "vit_small_patch16_224": 96}
"""Networks and image sizes."""
OF_VITS = ("ibot", "dinov2")


def measured(method: str, network: str, batch_size: int) -> dict[str, Any]:
    cfg = get_method(method).Config()
    run = Run(
        data="noise", method=cfg, backbone=network, image_size=NETWORKS[network], batch_size=batch_size, workers=0,
        precision="bf16" if torch.cuda.is_available() else "fp32",
    )  # fmt: skip
    settled, _ = training.resolve(run, 50_000)
    began = time.perf_counter()
    estimated = footprint(settled).peak(rows_of(settled))
    taken, real = time.perf_counter() - began, step(settled)
    return {
        "estimate_mib": round(estimated / 2**20, 1),
        "peak_mib": round(real.peak / 2**20, 1),
        "ratio": round(estimated / real.peak, 3) if real.fits else None,
        "estimate_seconds": round(taken, 1),
        "error": real.error,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Estimate / peak by method and network, each case's last row, and how many are within 20 %."""
    last = {(row["method"], row["network"]): row["ratio"] for row in rows if row["ratio"] is not None}
    networks = [network for network in NETWORKS if any(key[1] == network for key in last)]
    lines = ["| method | " + " | ".join(networks) + " |", "| -- |" + " -- |" * len(networks)]
    for method in SELF_SUPERVISED:
        if found := {network: last[method, network] for network in networks if (method, network) in last}:
            cells = (f"{found[network]:.2f}" if network in found else "" for network in networks)
            lines.append(f"| `{method}` | {' | '.join(cells)} |")
    ratios = [*last.values()]
    within = sum(0.8 <= ratio <= 1.2 for ratio in ratios)
    return "\n".join([*lines, "", f"{within} of {len(ratios)} within 20 %, {min(ratios):.2f} to {max(ratios):.2f}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=SELF_SUPERVISED)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--record", type=Path, default=Path(__file__).parent / "records" / "memory.jsonl")
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    lines = args.record.read_text().splitlines() if args.record.exists() else []
    if args.table:
        print(table([json.loads(line) for line in lines]))
        return
    done = {tuple(json.loads(line)[k] for k in ("torch", "method", "network", "batch_size")) for line in lines}
    for network in args.networks:
        for method in args.methods:
            case = {"torch": torch.__version__, "method": method, "network": network, "batch_size": args.batch_size}
            if tuple(case.values()) in done or (method in OF_VITS and not network.startswith("vit")):
                continue
            row = {
                "benchmark": "memory", "date": time.strftime("%Y-%m-%d"), **case, "image_size": NETWORKS[network],
                **measured(method, network, args.batch_size), "threads": torch.get_num_threads(),
                "python": platform.python_version(),
                "machine": torch.cuda.get_device_name() if torch.cuda.is_available()
                else f"{platform.machine()}, {os.cpu_count()} cores",
            }  # fmt: skip
            print(json.dumps(row), flush=True)
            append(args.record, row)


if __name__ == "__main__":
    main()

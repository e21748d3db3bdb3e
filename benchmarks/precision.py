"""A training step in bf16 against one in fp32 on a CPU, by network and image size: the table behind the default.

--kind features measures the encoding of images by the network in eval mode instead, and the smallest cosine between
both features; --kind limits measures steps of small networks around the rule's limits.

    OMP_NUM_THREADS=1 python benchmarks/precision.py [--networks resnet18 vit_tiny_patch16_224 --pairs 5]
    python benchmarks/precision.py --table

Steps of `simclr` on noise (forward, backward, optimizer) in both precisions take turns; each has a network of its own
with the same weights. Figures are processor time, so that other work on the machine matters little. Prints and
appends a line per network to --record: the median ratio of neighbouring blocks, fp32 over bf16 (above 1: bf16 is
faster), with the smallest and largest.
"""

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import networks
import torch
from noise_steps import Case, Steps
from resumable import read
from rows import append, summary

from lookalike.backbones.cpu_precision import is_faster_in_bf16
from lookalike.training.model import build

CASES: dict[str, tuple[int, int]] = {
    "resnet18": (32, 64), "resnet18 ": (96, 32), "resnet50": (96, 16), "resnet10t": (96, 32), "resnet14t": (96, 32),
    "small_resnet": (32, 128), "narrow_resnet": (32, 64), "resnext50_32x4d": (96, 16), "regnety_004": (96, 32),
    "vgg11_bn": (96, 16), "densenet121": (96, 16), "convnext_atto": (96, 32), "mobilenetv3_small_050": (64, 64),
    "mobilenetv3_small_100": (96, 32), "efficientnet_b0": (96, 16), "resnet50 ": (224, 4),
    "vit_patch4": (32, 64), "vit_patch8": (64, 64), "vit_tiny_patch16_224": (96, 32), "vit_small_patch16_224": (96, 32),
    "vit_base_patch16_224": (96, 8), "vit_tiny_patch16_224 ": (224, 8), "swin_tiny_patch4_window7_224": (224, 4),
}  # fmt: skip
"""Image size and batch by network; a name that ends in a space is the network above at another size."""


LIMITS: dict[str, tuple[int, int]] = {
    **{f"convolutions{c}": (32, 64) for c in (4, 16, 64)},
    **{f"convolutions64_groups{g}": (32, 32) for g in (2, 8, 32, 64)},
    **{f"convolutions64_groups64_{shape}": (32, 32) for shape in ("5", "3_2", "5_2")},
    **{f"vit{width}": (64, 32) for width in (64, 96, 128, 192, 384)},
}
"""Four convolutions, 3x3 or of a kernel and stride, of some channels and groups; a ViT of three blocks of some width on
64 patches."""
FEATURES: dict[str, tuple[int, int]] = {
    "resnet18": (224, 16), "resnet50": (224, 8), "vit_tiny_patch16_224": (224, 16), "vit_small_patch16_224": (224, 8),
    "mobilenetv3_small_100": (224, 16),
}  # fmt: skip
KINDS = {"steps": CASES, "limits": LIMITS, "features": FEATURES}


class Encoding:
    """A network in eval mode in one precision."""

    def __init__(self, name: str, size: int, batch: int, precision: str) -> None:
        run = Case("simclr", name, size, batch, precision).resolved()
        self.half = precision == "bf16"
        self.encoder = build(run).encoder.eval()
        torch.manual_seed(0)
        self.images = torch.randn(batch, 3, size, size).to(memory_format=torch.channels_last)
        self.features = torch.empty(0)

    def seconds(self, times: int) -> float:
        """Processor time of a batch."""
        began = time.process_time()
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=self.half):
            for _ in range(times):
                self.features = self.encoder(self.images)
        return (time.process_time() - began) / times


def made(kind: str, name: str, size: int, batch: int, precision: str) -> Steps | Encoding:
    if kind == "features":
        return Encoding(name, size, batch, precision)
    return Steps(Case("simclr", name, size, batch, precision))


def measured(kind: str, name: str, size: int, batch: int, pairs: int) -> dict[str, Any]:
    full, half = (made(kind, name, size, batch, precision) for precision in ("fp32", "bf16"))
    steps = max(1, round(0.5 / min(max(full.seconds(1), full.seconds(1)), max(half.seconds(1), half.seconds(1)))))
    times = [(full.seconds(steps), half.seconds(steps)) for _ in range(pairs)]
    return {
        "steps_per_block": steps,
        "milliseconds": {
            "fp32": round(1000 * statistics.median(a for a, _ in times), 1),
            "bf16": round(1000 * statistics.median(b for _, b in times), 1),
        },
        "ratio": summary([a / b for a, b in times], 2),
        **cosine(full, half),
    }


def cosine(full: Steps | Encoding, half: Steps | Encoding) -> dict[str, float]:
    """The smallest cosine between the features in both precisions."""
    if isinstance(full, Steps) or isinstance(half, Steps):
        return {}
    found = torch.cosine_similarity(full.features.float(), half.features.float())
    return {"cosine": round(float(found.min()), 5)}


def chosen(name: str) -> str:
    """The precision that a training of this network has by default on a processor with bf16 instructions."""
    return "bf16" if is_faster_in_bf16(networks.named(name)) else "fp32"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=[])
    parser.add_argument("--kind", choices=KINDS, default="steps")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--record", type=Path, default=Path(__file__).parent / "records" / "precision.jsonl")
    parser.add_argument("--table", action="store_true", help="measure nothing, print the record as a table")
    args = parser.parse_args()
    if args.table:
        for row in read(args.record):
            if row.get("kind", "steps") != args.kind:
                continue
            times, (middle, low, high) = row["milliseconds"], row["ratio"]
            print(
                f"| {row['network']} | {row['image_size']} | {times['fp32']:.0f} | {times['bf16']:.0f} | "
                f"{middle:.2f} ({low:.2f} to {high:.2f}) | {chosen(row['network'])} |"
            )
        return
    for name, (size, batch) in KINDS[args.kind].items():
        if args.networks and name.strip() not in args.networks:
            continue
        case = {"kind": args.kind, "network": name.strip(), "image_size": size, "batch_size": batch}
        found = measured(args.kind, name.strip(), size, batch, args.pairs)
        capabilities = torch.cpu.get_capabilities()
        row = {
            "benchmark": "precision", "date": time.strftime("%F"), **case, **found, "pairs": args.pairs,
            "threads": torch.get_num_threads(), "torch": torch.__version__, "machine": platform.machine(),
            "processor": capabilities.get("cpu_name"), "load": round(os.getloadavg()[0], 1),
            "features": [n for n in ("avx512_bf16", "amx_bf16", "amx_tile") if capabilities.get(n)],
        }  # fmt: skip
        print(json.dumps(row), flush=True)
        append(args.record, row)


if __name__ == "__main__":
    main()

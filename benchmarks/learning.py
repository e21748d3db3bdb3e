"""What a method learns on real images, against the same encoder untrained.

    python benchmarks/learning.py simclr DATA [--images 10000 --epochs 10 --seeds 0 1 2 --backbone narrow]

DATA holds train/ and test/ with one sub-folder per class. Each seed draws its own --images of train/ (labels are used
for judging only), trains on them with `lookalike.pretrain`, and judges the encoder before and after by k-NN and linear
probe: those images are the bank, all of test/ is classified. A row of JSON per seed goes to --record; rows that are
there already are not made again, and a training that was stopped goes on where it was. The peak of memory is the
process's: one seed per call keeps it apart.
"""

import argparse
import dataclasses
import json
import os
import platform
import resource
import time
from pathlib import Path
from typing import Any

import torch
from networks import narrow_resnet, small_resnet, vit_patch4, vit_patch8
from rows import append
from torch.utils.data import Dataset

import lookalike
from lookalike import training
from lookalike.data import Subset, open_source
from lookalike.evaluation import evaluate, with_statistics
from lookalike.methods import SELF_SUPERVISED, get_method
from lookalike.optim import Optim
from lookalike.random import key_of, permutation
from lookalike.runs import Run, by_user, commit

SAME = ("method", "backbone", "image_size", "images", "batch_size", "epochs", "cache")
"""Settings that make two rows of one seed the same measurement, beside the data and a stated optimizer."""


OWN = {"narrow": narrow_resnet, "small": small_resnet, "vit_patch4": vit_patch4, "vit_patch8": vit_patch8}
"""Networks of `networks.py`, beside timm's."""


class Labelled(Dataset[tuple[torch.Tensor, int]]):
    """A part of a folder as a Dataset."""

    def __init__(self, folder: Path, places: list[int] | None) -> None:
        source = open_source(folder, labelled=True)
        self.source = source if places is None else Subset(source, places)
        self.targets = self.source.labels
        self.classes = self.source.classes

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        assert self.targets is not None
        return self.source.read(i, None), int(self.targets[i])


def changed(part: Any, path: list[str], value: Any) -> Any:
    """A configuration, or a tuple in it, with the value at a path such as views, 0, count."""
    if not path:
        return tuple(value) if isinstance(value, list) else value
    name, rest = path[0], path[1:]
    if isinstance(part, tuple):
        return tuple(changed(p, rest, value) if i == int(name) else p for i, p in enumerate(part))
    return dataclasses.replace(part, **{name: changed(vars(part)[name], rest, value)})


def one_seed(args: argparse.Namespace, seed: int) -> dict[str, Any]:
    count = len(open_source(args.data / "train"))
    places = permutation(count, seed, "images")[: args.images].tolist()
    train, test = Labelled(args.data / "train", places), Labelled(args.data / "test", None)
    torch.manual_seed(seed)
    network = OWN.get(args.backbone)
    cfg = get_method(args.method).Config()
    if args.optim:
        cfg = dataclasses.replace(cfg, optim=Optim(**json.loads(args.optim)))
    changes = json.loads(args.changes or "{}")
    for name, value in changes.items():
        cfg = changed(cfg, name.split("."), value)
    settings = {
        **{k: vars(args)[k] for k in SAME},
        "optim": args.optim,
        "changes": args.changes,
        "data": str(args.data),
    }
    out = args.work / f"{args.method}-{seed}-{key_of(json.dumps(settings)) % 16**8:08x}"
    run = Run(
        data=train, method=cfg, backbone=network() if network else args.backbone,
        image_size=args.image_size, batch_size=args.batch_size, epochs=args.epochs, cache=args.cache, seed=seed,
        out=str(out), resume=(out / "run.yaml").is_file(), save_every=max(1, args.epochs // 5),
        origins=by_user(changes),
    )  # fmt: skip
    resolved, _ = training.resolve(run, len(train))
    untrained = training.build(resolved).encoder
    size, mean, std = resolved.image_size, untrained.mean, untrained.std
    untrained = with_statistics(untrained, train.source, image_size=size, mean=mean, std=std)
    before = evaluate(untrained, train, test, seed=seed)
    began = time.perf_counter()
    result = lookalike.pretrain(run)
    seconds = time.perf_counter() - began
    encoder = lookalike.load(out, backbone=network() if network else None)
    after = evaluate(encoder, train, test, seed=seed)
    last = result.metrics[-1]
    return {
        "benchmark": "learning",
        "date": time.strftime("%Y-%m-%d"),
        "method": args.method,
        "seed": seed,
        "data": args.data.name,
        "images": len(train),
        "test_images": len(test),
        **{k: vars(args)[k] for k in ("backbone", "image_size", "batch_size", "epochs", "cache")},
        "optim_given": args.optim,
        **({"changes": args.changes} if args.changes else {}),
        "optim": dataclasses.asdict(resolved.method.optim),
        "untrained": {e.protocol: round(e.top1, 4) for e in before},
        "trained": {e.protocol: round(e.top1, 4) for e in after},
        "loss": round(last["loss"], 4),
        "seconds": round(seconds, 1),
        "images_per_s": round(len(train) * args.epochs / seconds, 1),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "gpu_peak_mb": round(torch.cuda.max_memory_allocated() / 2**20) if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "lookalike": commit(),
        "machine": torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"{platform.machine()}, {os.cpu_count()} cores",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=SELF_SUPERVISED)
    parser.add_argument("data", type=Path)
    parser.add_argument(
        "--backbone",
        default="narrow",
        help="narrow, small (a fifth of its work), vit_patch4 (32 pixels), vit_patch8 (64), or a name of timm's",
    )
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--cache", default="ram", choices=["none", "ram", "device"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--optim", help="JSON of an Optim in place of the method's own")
    parser.add_argument(
        "--changes", help='JSON of fields that keep other values: {"temperature": 0.1, "views.0.hue": 0.2}'
    )
    parser.add_argument("--work", type=Path, default=Path("runs/learning"), help="folder of the trainings")
    parser.add_argument("--record", type=Path, default=Path(__file__).parent / "records" / "learning.jsonl")
    args = parser.parse_args()
    done = [json.loads(line) for line in args.record.read_text().splitlines()] if args.record.exists() else []
    for seed in args.seeds:
        wanted = {"seed": seed, "data": args.data.name, "optim_given": args.optim, **{k: vars(args)[k] for k in SAME}}
        if any(wanted.items() <= row.items() and row.get("changes") == args.changes for row in done):
            print(f"seed {seed}: in {args.record} already")
            continue
        row = one_seed(args, seed)
        print(json.dumps(row, indent=2))
        append(args.record, row)


if __name__ == "__main__":
    main()

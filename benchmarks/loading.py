"""From JPEG files to the views of a batch: ours beside lightly's dataset, transform and loader, in turns.

    pip install lightly==1.6.0
    python benchmarks/loading.py [--workers 1 --repeats 5]

DINO's recipe, two views of 224 and eight of 96 pixels, from files of 400 x 400; SimCLR's, two of 32, from files of 32.
No model: images/s, counted in the process that would train. Ours decodes in the workers and makes views in that process
with --threads; lightly's workers do both. The ratio is the median over rounds. In the end --batches of ours show
whether memory grows. A line of JSON per case goes to --record.
"""

import argparse
import dataclasses
import gc
import importlib.metadata
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from photographs import as_files
from rows import append

from lookalike.data import Loader, open_source
from lookalike.runs import commit
from lookalike.views import SIMCLR_VIEW, View, make_views

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_DINO = dataclasses.replace(
    SIMCLR_VIEW, count=1, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, scale=(0.4, 1.0), blur=1.0
)
DINO = (
    _DINO,
    dataclasses.replace(_DINO, blur=0.1, solarize=0.2),
    dataclasses.replace(_DINO, count=8, size=96, scale=(0.05, 0.4), blur=0.5, kernel=9),
)
"""Caron et al., ICCV 2021, `DataAugmentationDINO` of the official code, with our kernels."""
SIMCLR_32 = (dataclasses.replace(SIMCLR_VIEW, size=32, kernel=3),)
CASES = {"DINO, 400 px": (400, 384, 32, DINO), "SimCLR, 32 px": (32, 4096, 128, SIMCLR_32)}
"""Side of the files, how many, images in a batch, views."""


def ours(folder: Path, batch: int, views: tuple[View, ...], workers: int) -> Iterator[int]:
    """Images of each batch, for ever."""
    size = 2 * max(view.size for view in views)
    loader = Loader(open_source(str(folder)), batch, 0, workers=workers, decode_size=size)
    try:
        while True:
            for images in loader:
                yield len(make_views(images, views, images.keys, mean=MEAN, std=STD)[0])
    finally:
        loader.close()


def lightlys(folder: Path, batch: int, views: tuple[View, ...], workers: int) -> Iterator[int]:
    from lightly.data import LightlyDataset
    from lightly.transforms import DINOTransform, SimCLRTransform

    transform = DINOTransform(n_local_views=8) if views is DINO else SimCLRTransform(input_size=32, gaussian_blur=0.5)
    data = LightlyDataset(str(folder), transform=transform)
    loader: torch.utils.data.DataLoader[object] = torch.utils.data.DataLoader(
        data, batch, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0
    )
    while True:
        for made, *_ in loader:  # type: ignore[misc]
            assert [tuple(v.shape[-2:]) for v in made] == [(v.size, v.size) for v in views for _ in range(v.count)]
            yield len(made[0])


def rate(batches: Iterator[int], seconds: float) -> float:
    """Images/s once the first three batches are there."""
    for _ in range(3):
        next(batches)
    began, done = time.perf_counter(), 0
    while (spent := time.perf_counter() - began) < seconds:
        done += next(batches)
    batches.close()  # type: ignore[attr-defined]
    gc.collect()
    return done / spent


def resident() -> float:
    """MiB of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--batches", type=int, default=1000)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "lookalike-loading")
    parser.add_argument("--record", type=Path, default=Path(__file__).parent / "records" / "loading.jsonl")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    libraries: dict[str, Callable[..., Iterator[int]]] = {"lookalike": ours, "lightly": lightlys}
    for case, (side, count, batch, views) in CASES.items():
        folder = args.work / f"{side}-{count}"
        as_files(folder, side, count)
        rates: dict[str, list[float]] = {name: [] for name in libraries}
        for _ in range(args.repeats):
            for name, library in libraries.items():
                rates[name].append(rate(library(folder, batch, views, args.workers), args.seconds))
        ratios = [a / b for a, b in zip(rates["lookalike"], rates["lightly"])]
        batches, memory = ours(folder, batch, views, args.workers), []
        for i in range(1, args.batches + 1 if side == 32 else args.batches // 10 + 1):
            next(batches)
            if i % 20 == 0:
                memory.append(round(resident()))
        batches.close()  # type: ignore[attr-defined]
        row = {
            "benchmark": "loading", "date": time.strftime("%Y-%m-%d"), "case": case, "batch": batch,
            "workers": args.workers, "threads": args.threads, "repeats": args.repeats,
            "images_per_s": {n: [round(f(r), 1) for f in (statistics.median, min, max)] for n, r in rates.items()},
            "ratio": [round(f(ratios), 2) for f in (statistics.median, min, max)],
            "memory_mib_every_20_batches": memory,
            "torch": torch.__version__, "lightly": importlib.metadata.version("lightly"), "lookalike": commit(),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        }  # fmt: skip
        print(json.dumps(row), flush=True)
        append(args.record, row)


if __name__ == "__main__":
    main()

"""Views per second of the SimCLR recipe: ours beside other engines, in turns, on decoded uint8 images in memory.

    pip install lightly==1.6.0 albumentations==2.0.8 kornia==0.9.0 opencv-python-headless
    python benchmarks/views.py [--threads 1 --repeats 5]

Random resized crop (0.08 to 1), flip, colour jitter (0.8, 0.8, 0.8, 0.2; p 0.8), grayscale (p 0.2), Gaussian blur
(p 0.5, kernel a tenth of the side, sigma 0.1 to 2), normalise; from images to one float32 batch. Each engine gets the
images as it wants them and, in each round, at least --seconds; those that are not installed are left out. The ratio is
the median over rounds of ours to the fastest other one of that round. Albumentations and kornia do not antialias their
crops; lightly's and Pillow's blurs are approximations. A line of JSON per case goes to --record.
"""

import argparse
import contextlib
import dataclasses
import importlib.metadata
import os
import platform
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from photographs import photographs
from PIL import Image
from recipes import MEAN, STD, kornias, torchvisions
from rows import append, summary
from torchvision.transforms import v2

from lookalike import views
from lookalike.runs import commit
from lookalike.views import SIMCLR_VIEW, make_views

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
warnings.filterwarnings("ignore")

CASES = ((32, 32, 256), (256, 224, 256), (256, 96, 256))
"""Side of the source, side of the view, images in a batch."""

Engine = Callable[[], torch.Tensor]


def one_by_one(transform: Callable[[object], torch.Tensor], images: Sequence[object]) -> Engine:
    return lambda: torch.stack([transform(image) for image in images])


def engines(images: np.ndarray, size: int, kernel: int) -> dict[str, Engine]:
    """Those that are installed, by name; ours comes first."""
    planes = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    pictures = [Image.fromarray(image) for image in images]
    view = dataclasses.replace(SIMCLR_VIEW, size=size, kernel=kernel, count=1)
    rounds = iter(range(10**9))

    def ours() -> torch.Tensor:
        return make_views(planes, [view], next(rounds), mean=MEAN, std=STD)[0]

    def ours_anywhere() -> torch.Tensor:
        views.ENGINES["cpu"] = "torch"
        try:
            return ours()
        finally:
            views.ENGINES["cpu"] = "numba"

    steps, scaled = torchvisions(view)
    found: dict[str, Engine] = {
        "lookalike": ours,
        "lookalike, torch's operations": ours_anywhere,
        "torchvision, tensors": one_by_one(v2.Compose([*steps, *scaled]), list(planes)),
        "torchvision, Pillow": one_by_one(v2.Compose([*steps, v2.ToImage(), *scaled]), pictures),
    }
    try:
        from lightly.transforms.simclr_transform import SimCLRViewTransform

        found["lightly"] = one_by_one(SimCLRViewTransform(input_size=size), pictures)
    except ImportError:
        pass
    try:
        import albumentations as A
        import cv2
        from albumentations.pytorch import ToTensorV2

        cv2.setNumThreads(torch.get_num_threads())
        recipe = A.Compose(
            [
                A.RandomResizedCrop((size, size), scale=(0.08, 1.0)), A.HorizontalFlip(p=0.5),
                A.ColorJitter(view.brightness, view.contrast, view.saturation, view.hue, p=0.8), A.ToGray(p=0.2),
                A.GaussianBlur(blur_limit=(kernel, kernel), sigma_limit=(0.1, 2.0), p=0.5),
                A.Normalize(MEAN, STD), ToTensorV2(),
            ]
        )  # fmt: skip
        found["albumentations"] = one_by_one(lambda image: recipe(image=image)["image"], list(images))
    except ImportError:
        pass
    with contextlib.suppress(ImportError):
        batch = kornias(view)
        found["kornia"] = lambda: batch(planes.float().div_(255))
    return found


def rate(engine: Engine, images: int, seconds: float) -> float:
    began, done = time.perf_counter(), 0
    while (spent := time.perf_counter() - began) < seconds:
        engine()
        done += images
    return done / spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--record", type=Path, default=Path(__file__).parent / "records" / "views.jsonl")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 (what the others draw from)
    packages = ("torch", "torchvision", "numba", "lightly", "albumentations", "kornia")
    versions = {}
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    for source, size, count in CASES:
        kernel = max(3, size // 10 // 2 * 2 + 1)
        found = engines(photographs(source, count), size, kernel)
        for engine in found.values():
            assert engine().shape == (count, 3, size, size)
        rates: dict[str, list[float]] = {name: [] for name in found}
        for _ in range(args.repeats):
            for name, engine in found.items():
                rates[name].append(rate(engine, count, args.seconds))
        others = [name for name in found if not name.startswith("lookalike")]
        ratios = [rates["lookalike"][i] / max(rates[name][i] for name in others) for i in range(args.repeats)]
        row = {
            "benchmark": "views", "date": time.strftime("%Y-%m-%d"), "source": source, "size": size, "batch": count,
            "threads": args.threads, "repeats": args.repeats,
            "views_per_s": {name: summary(r, 1) for name, r in rates.items()},
            "ratio_to_fastest": summary(ratios, 2),
            "versions": versions, "lookalike": commit(), "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        }  # fmt: skip
        print(f"{source} -> {size} pixels, {args.threads} threads, views/s: median (smallest, largest)")
        for name, (middle, least, most) in row["views_per_s"].items():  # type: ignore[attr-defined]
            print(f"  {name:<30} {middle:>9.0f} ({least:.0f}, {most:.0f})")
        print("  ours to the fastest other: {} ({}, {})".format(*row["ratio_to_fastest"]), flush=True)  # type: ignore[misc]
        append(args.record, row)


if __name__ == "__main__":
    main()

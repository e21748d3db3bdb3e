"""Views per second of the SimCLR recipe: ours beside other engines, in turns, on decoded uint8 images in memory.

    pip install lightly==1.6.0 albumentations==2.0.8 kornia==0.9.0 opencv-python-headless
    python benchmarks/views.py [--threads 1 --repeats 5 --batches 32 64 256 --engines lookalike albumentations]
    python benchmarks/views.py --shares

Random resized crop (0.08 to 1), flip, colour jitter (0.8, 0.8, 0.8, 0.2; p 0.8), grayscale (p 0.2), Gaussian blur
(p 0.5, kernel a tenth of the side, sigma 0.1 to 2), normalise; from images to one float32 batch. Each engine gets the
images as it wants them and, in each round, at least --seconds; those that are not installed are left out. The ratio is
the median over rounds of ours to the fastest other one of that round. Albumentations and kornia do not antialias their
crops; lightly's and Pillow's blurs are approximations. With one thread, time is processor time, so that other processes
count less. A line of JSON per case goes to --record.

--shares measures our engine alone: the time of a view, of drawing its parameters, of a crop without colours and blur,
and what the recipe saves without one operation, alternating. They need not add up: contrast, for one, costs less if
the blur waits for the whole image anyway.
"""

import argparse
import contextlib
import dataclasses
import importlib.metadata
import itertools
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
from lookalike.random import keys_of
from lookalike.runs import commit
from lookalike.views import SIMCLR_VIEW, View, make_views
from lookalike.views.plan import draw, plan

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
warnings.filterwarnings("ignore")

CASES = ((32, 32), (256, 224), (256, 96))
"""Side of the source, side of the view."""

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


def rate(engine: Engine, images: int, seconds: float, clock: Callable[[], float]) -> float:
    began, done = clock(), 0
    while (spent := clock() - began) < seconds:
        engine()
        done += images
    return done / spent


def shares(size: int, images: np.ndarray, repeats: int, seconds: float) -> dict[str, list[float]]:
    """Microseconds per view of a recipe and of its parts: median, smallest and largest over the rounds."""
    planes, count = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), len(images)
    whole = dataclasses.replace(SIMCLR_VIEW, size=size, kernel=kernel_of(size), count=1)
    bare = dataclasses.replace(whole, jitter=0, grayscale=0, blur=0)
    sizes = torch.tensor(planes.shape[2:]).expand(count, 2)
    number = iter(range(10**9))

    def made(view: View) -> Engine:
        return lambda: make_views(planes, [view], next(number), mean=MEAN, std=STD)[0]

    def drawn() -> torch.Tensor:
        return plan(whole, sizes, draw(keys_of(next(number), torch.arange(count)), 0), True).box

    operations = {
        "brightness": {"brightness": 0.0}, "contrast": {"contrast": 0.0}, "saturation": {"saturation": 0.0},
        "hue": {"hue": 0.0}, "grayscale": {"grayscale": 0.0}, "blur": {"blur": 0.0},
    }  # fmt: skip
    timed: dict[str, Engine] = {
        "whole": made(whole), "parameters": drawn, "crop": made(bare),
        **{name: made(dataclasses.replace(whole, **without)) for name, without in operations.items()},
    }  # fmt: skip
    rounds = []
    for _ in range(repeats + 1):
        rounds.append({name: 1e6 / rate(make, count, seconds, time.process_time) for name, make in timed.items()})
    found: dict[str, list[float]] = {}
    del rounds[0]
    parts: dict[str, Callable[[dict[str, float]], float]] = {
        "a view": lambda t: t["whole"],
        "drawing parameters": lambda t: t["parameters"],
        "crop, resize, normalise, write": lambda t: t["crop"] - t["parameters"],
        **{name: lambda t, name=name: t["whole"] - t[name] for name in operations},  # type: ignore[misc]
    }
    for name, part in parts.items():
        found[name] = summary([part(t) for t in rounds], 1)
    return found


def print_shares(args: argparse.Namespace, machine: dict[str, object]) -> None:
    for source, size in CASES:
        for count in args.batches:
            found = shares(size, photographs(source, count), args.repeats, args.seconds)
            print(f"{source} -> {size} pixels, batches of {count}, one thread, microseconds per view")
            for name, (middle, least, most) in found.items():
                print(f"  {name:<36} {middle:>7.1f} ({least:.1f}, {most:.1f}) {middle / found['a view'][0]:>6.1%}")
            row = {"benchmark": "views' shares", "source": source, "size": size, "batch": count, "microseconds": found}
            append(args.record, row | {"repeats": args.repeats} | machine)


def kernel_of(size: int) -> int:
    return max(3, size // 10 // 2 * 2 + 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--batches", type=int, nargs="+", default=[256])
    parser.add_argument("--engines", nargs="+", help="only these; all by default")
    parser.add_argument("--shares", action="store_true")
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
    machine = {
        "date": time.strftime("%Y-%m-%d"), "versions": versions, "lookalike": commit(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }  # fmt: skip
    if args.shares:
        torch.set_num_threads(1)
        print_shares(args, machine)
        return
    for (source, size), count in itertools.product(CASES, args.batches):
        compare(source, size, count, args, machine)


def compare(source: int, size: int, count: int, args: argparse.Namespace, machine: dict[str, object]) -> None:
    found = engines(photographs(source, count), size, kernel_of(size))
    if args.engines:
        found = {name: engine for name, engine in found.items() if name in args.engines}
    for engine in found.values():
        assert engine().shape == (count, 3, size, size)
    rates: dict[str, list[float]] = {name: [] for name in found}
    clock = time.process_time if args.threads == 1 else time.perf_counter
    for _ in range(args.repeats):
        for name, engine in found.items():
            rates[name].append(rate(engine, count, args.seconds, clock))
    others = [name for name in found if not name.startswith("lookalike")]
    ratios = [rates["lookalike"][i] / max(rates[name][i] for name in others) for i in range(args.repeats)]
    row = {
        "benchmark": "views", "source": source, "size": size, "batch": count, "threads": args.threads,
        "repeats": args.repeats, "views_per_s": {name: summary(r, 1) for name, r in rates.items()},
        "ratio_to_fastest": summary(ratios, 2),
    } | machine  # fmt: skip
    print(f"{source} -> {size} pixels, batches of {count}, {args.threads} threads, views/s: median (smallest, largest)")
    for name, (middle, least, most) in row["views_per_s"].items():  # type: ignore[attr-defined]
        print(f"  {name:<30} {middle:>9.0f} ({least:.0f}, {most:.0f})")
    print("  ours to the fastest other: {} ({}, {})".format(*row["ratio_to_fastest"]), flush=True)  # type: ignore[misc]
    append(args.record, row)


if __name__ == "__main__":
    main()

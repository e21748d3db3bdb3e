"""Views per second on a GPU, and the share of a training step that they take.

    pip install kornia==0.9.0
    python benchmarks/views_gpu.py [--device cuda --batch 256 --repeats 5]

SimCLR's recipe (as in `views.py`) and DINO's ten views, from uint8 images that lie on the device: ours by the kernels
of `fused_gpu` and by torch's operations, beside kornia in batch and torchvision's transforms image by image, in turns.
The first two are held to each other before anything is timed. Then the time of SimCLR's two views of 224 pixels beside
that of a step (forward, backward, AdamW; bf16, channels last) of ResNet-50 and of ViT-S/16 on as many views, in turns.
Every turn ends with a synchronisation. A line of JSON per case goes to --record.
"""

import argparse
import dataclasses
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import timm
import torch
from photographs import photographs
from rows import append
from torchvision.transforms import v2
from views import JITTER, MEAN, STD

from lookalike import views
from lookalike.methods import get_method
from lookalike.runs import commit
from lookalike.views import SIMCLR_VIEW, View, make_views

NETWORKS = ("resnet50", "vit_small_patch16_224")


def seconds(work: Callable[[], object], device: torch.device, least: float) -> float:
    """Of one call, over at least `least` seconds of calls."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began, calls = time.perf_counter(), 0
    while calls == 0 or time.perf_counter() - began < least:
        work()
        calls += 1
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    return (time.perf_counter() - began) / calls


def in_turns(
    works: dict[str, Callable[[], object]], device: torch.device, args: argparse.Namespace
) -> dict[str, list[float]]:
    """Seconds of each, in each round, after two rounds that do not count."""
    rounds = [
        {name: seconds(work, device, args.seconds) for name, work in works.items()} for _ in range(args.repeats + 2)
    ]
    return {name: [one[name] for one in rounds[2:]] for name in works}


def ours(images: torch.Tensor, recipe: Sequence[View], engine: str) -> Callable[[], list[torch.Tensor]]:
    def work() -> list[torch.Tensor]:
        kept = views.ENGINES[images.device.type]
        views.ENGINES[images.device.type] = engine  # type: ignore[assignment]
        try:
            return make_views(images, recipe, 0, mean=MEAN, std=STD)
        finally:
            views.ENGINES[images.device.type] = kept

    return work


def others(images: torch.Tensor, size: int, kernel: int) -> dict[str, Callable[[], object]]:
    steps = [
        v2.RandomResizedCrop(size, scale=(0.08, 1.0), antialias=True), v2.RandomHorizontalFlip(),
        v2.RandomApply([v2.ColorJitter(*JITTER)], p=0.8), v2.RandomGrayscale(0.2),
        v2.RandomApply([v2.GaussianBlur(kernel, (0.1, 2.0))], p=0.5),
        v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD),
    ]  # fmt: skip
    recipe = v2.Compose(steps)
    found: dict[str, Callable[[], object]] = {"torchvision": lambda: torch.stack([recipe(image) for image in images])}
    try:
        import kornia.augmentation as K
    except ImportError:
        return found
    for dtype in (torch.float32, torch.float16):
        batch = K.AugmentationSequential(
            K.RandomResizedCrop((size, size), scale=(0.08, 1.0)), K.RandomHorizontalFlip(p=0.5),
            K.ColorJitter(*JITTER, p=0.8), K.RandomGrayscale(p=0.2),
            K.RandomGaussianBlur((kernel, kernel), (0.1, 2.0), p=0.5),
            K.Normalize(torch.tensor(MEAN), torch.tensor(STD)), data_keys=["input"],
        ).to(images.device, dtype)  # fmt: skip
        name = "kornia" if dtype == torch.float32 else "kornia, fp16"
        found[name] = lambda batch=batch, dtype=dtype: batch(images.to(dtype).div_(255))
    return found


def step_of(name: str, device: torch.device, batch: int) -> Callable[[], None]:
    net = timm.create_model(name, num_classes=128).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, fused=True)
    x = torch.randn(batch, 3, 224, 224, device=device).to(memory_format=torch.channels_last)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            loss = net(x).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--cases", type=int, nargs="+", default=[32, 256, 400], help="sides of the images")
    parser.add_argument("--networks", nargs="*", default=NETWORKS)
    parser.add_argument("--record", type=Path, default=Path(__file__).parent / "records" / "views_gpu.jsonl")
    args = parser.parse_args()
    device = torch.device(args.device)
    same = {
        "benchmark": "views_gpu", "date": time.strftime("%Y-%m-%d"), "batch": args.batch, "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "cores": os.cpu_count(), "repeats": args.repeats, "lookalike": commit(),
    }  # fmt: skip
    if views.ENGINES[device.type] == "triton":
        assert views._works(device, torch.uint8, 3), "the kernels do not run here; the warning says why"
    engines = dict.fromkeys((views.ENGINES[device.type], "torch"))
    for source in args.cases:
        images = torch.from_numpy(photographs(source, args.batch)).permute(0, 3, 1, 2).contiguous().to(device)
        size = min(224, source) if source < 400 else 224
        kernel = max(3, size // 10 // 2 * 2 + 1)
        recipe: Sequence[View] = [dataclasses.replace(SIMCLR_VIEW, size=size, kernel=kernel, count=1)]
        if source >= 400:
            recipe = get_method("dino").Config().views  # type: ignore[attr-defined]
        works = {f"lookalike, {name}": ours(images, recipe, name) for name in engines}
        made = [work() for work in works.values()]
        furthest = max((a - b).abs().max().item() for a, b in zip(made[0], made[-1], strict=True))
        assert furthest < 0.02, f"the engines' views differ by {furthest}"
        count = args.batch * sum(view.count for view in recipe)
        taken = in_turns(works | (others(images, size, kernel) if source < 400 else {}), device, args)
        rates = {name: sorted(count / s for s in each) for name, each in taken.items()}
        row = same | {"case": f"{source} -> {'2 x 224 + 8 x 96' if source >= 400 else size}", "furthest": furthest}
        row |= {"views_per_s": {n: [round(f(r), 1) for f in (statistics.median, min, max)] for n, r in rates.items()}}
        print(row, flush=True)
        append(args.record, row)
    if args.networks:
        images = torch.from_numpy(photographs(256, args.batch)).permute(0, 3, 1, 2).contiguous().to(device)
        made = ours(images, [SIMCLR_VIEW], views.ENGINES[device.type])
    for name in args.networks:
        taken = in_turns({"views": made, "step": step_of(name, device, 2 * args.batch)}, device, args)
        shares = [a / b for a, b in zip(taken["views"], taken["step"], strict=True)]
        row = same | {"case": f"two views of 224 beside a step of {name}"}
        row |= {"share": [round(f(shares), 4) for f in (statistics.median, min, max)]}
        row |= {f"{n}_ms": round(1000 * statistics.median(each), 3) for n, each in taken.items()}
        print(row, flush=True)
        append(args.record, row)


if __name__ == "__main__":
    main()

"""From JPEG files to training steps: decoded by workers (simplejpeg where it is installed, else Pillow), and by nvJPEG.

Photographs of 400 pixels a side, written for it. SimCLR with ResNet-50, two views of 224: `lookalike.pretrain` from
files and, as the limit, from images that lie on the device. Then the same step in a bare loop on what torchvision
decodes on the device, and decoding alone. nvJPEG comes last, so that a crash of it costs nothing else.
"""

import dataclasses
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from gpu_bench import Bench, Pace, in_turns, settle, short, spread, trained
from photographs import as_files
from recipes import MEAN, STD
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from lookalike import backbones, optimizers
from lookalike.core import Batch, Progress
from lookalike.data import Loader, open_source
from lookalike.methods import SimCLR
from lookalike.runs import Run
from lookalike.training import checkpoints
from lookalike.views import make_views, resized

Step = Callable[[Tensor], None]


def run(bench: Bench) -> None:
    checkpoints.SETTLE_SECONDS = 10**6
    side, count, batch, size, network = (
        (48, 16, 8, 32, "test_byobnet") if bench.tiny else (400, 2048, 128, 224, "resnet50")
    )
    workers = 1 if bench.tiny else max(1, (os.cpu_count() or 2) - 1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "images"
        as_files(folder, side, count)
        settings: dict[str, object] = {
            "side": side, "size": size, "batch": batch, "workers": workers, "network": network,
            "decoder": "simplejpeg" if find_spec("simplejpeg") else "Pillow",
        }  # fmt: skip
        with bench.trying("decoding by workers"):
            decoding(bench, folder, batch, 2 * size, workers, settings)
        asked = Run(
            data=folder, method=SimCLR.Config(), backbone=network, image_size=size, batch_size=batch, epochs=1000,
            workers=workers, fit=False, save_every=10**6, precision="fp32" if bench.tiny else "bf16",
            out=f"{temporary}/run",
        )  # fmt: skip
        for case, one in (
            ("from files to a step", asked),
            ("the same from the device", dataclasses.replace(asked, cache="device", workers=0)),
        ):
            if bench.has(0 if bench.tiny else 5, case):
                with bench.trying(case):
                    pace = Pace(*((1, 1, 1) if bench.tiny else (20, 10, 4)))
                    trained(dataclasses.replace(one, out=f"{temporary}/run-{one.cache}"), pace)
                    bench.row(case, pace.figures(batch), repeats=len(pace.seconds), **settings)
        if bench.has(0 if bench.tiny else 6, "nvJPEG"):
            with bench.trying("nvJPEG"):
                by_device(bench, folder, network, batch, size, settings)


def decoding(
    bench: Bench, folder: Path, batch: int, decode_size: int, workers: int, settings: dict[str, object]
) -> None:
    """Batches of the loader alone, once those that were read ahead are gone."""
    loader = Loader(open_source(folder), batch, 0, workers=workers, decode_size=decode_size, device=bench.device)
    try:
        batches = forever(loader)
        for _ in range(2 * workers + 2):
            next(batches)
        rates, least = [], 0.01 if bench.tiny else 0.7
        for _ in range(1 if bench.tiny else 5):
            began, done = time.perf_counter(), 0
            while (spent := time.perf_counter() - began) < least or not done:
                next(batches)
                done += batch
            rates.append(done / spent)
    finally:
        loader.close()
    bench.row("decoding by workers", {"images_per_s": spread(rates)}, repeats=len(rates), **settings)


def forever(loader: Loader) -> Iterator[object]:
    while True:
        yield from loader


def stepped(network: str, size: int, batch: int, device: torch.device) -> Step:
    """A step of SimCLR on decoded images (B, C, H, W): views, forward and backward pass, optimizer."""
    torch.manual_seed(0)
    cfg = SimCLR.Config()
    recipe = resized(cfg.views, size, None)
    method = SimCLR(cfg, backbones.create(network, image_size=size)).to(device, memory_format=torch.channels_last)
    method.train()
    rates = optimizers.build(method, cfg.optim, batch, fused=True)
    rounds = iter(range(10**9))

    def step(images: Tensor) -> None:
        number = next(rounds)
        views = make_views(images, recipe, number, mean=MEAN, std=STD, memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = method(Batch(views, torch.arange(batch, device=device), Progress(number, 10**9, 10**6)))["loss"]
        loss.backward()
        rates.optimizer.step()
        rates.optimizer.zero_grad()

    return step


def by_device(bench: Bench, folder: Path, network: str, batch: int, size: int, settings: dict[str, object]) -> None:
    files = sorted(folder.iterdir())
    groups = [files[i : i + batch] for i in range(0, len(files) - batch + 1, batch)]
    places = iter(range(10**9))
    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))

    def content(file: Path) -> Tensor:
        return torch.from_numpy(np.fromfile(file, np.uint8))

    def contents() -> list[Tensor]:
        return list(pool.map(content, groups[next(places) % len(groups)]))

    def decoded(of: list[Tensor]) -> list[Tensor]:
        return decode_jpeg(of, mode=ImageReadMode.RGB, device=bench.device)  # type: ignore[no-any-return]

    held = contents()
    images = torch.stack(decoded(held))
    right = torch.stack([decode_jpeg(one, mode=ImageReadMode.RGB) for one in held])
    apart = (images.cpu().int() - right.int()).abs()
    step = stepped(network, size, batch, bench.device)
    step(images)
    settle(bench.device)
    works: dict[str, Callable[[], object]] = {
        "decoding from memory": lambda: decoded(held),
        "decoding from files": lambda: decoded(contents()),
        "from files to a step": lambda: step(torch.stack(decoded(contents()))),
        "a step on what is decoded": lambda: step(images),
    }
    repeats = 1 if bench.tiny else 3
    taken, failed = in_turns(works, bench.device, least=0.001 if bench.tiny else 0.5, rounds=repeats)
    pool.shutdown()
    bench.row(
        "nvJPEG" if bench.cuda else "torchvision's decoder",
        {
            "images_per_s": {name: spread([batch / s for s in t]) for name, t in taken.items()},
            "largest_difference_to_libjpeg": short(apart.max().item()),
            "mean_difference_to_libjpeg": short(apart.float().mean().item()),
        },
        repeats=repeats, failed=failed, **settings,
    )  # fmt: skip

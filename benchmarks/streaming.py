"""Training from JPEG files, end to end: ours, other libraries and the bare model, in turns.

    pip install lightly==1.6.0 stable-pretraining==0.1.8 lightly-train==0.18.0     (those that are missing are left out)
    python benchmarks/streaming.py CIFAR10/train [--rounds 5 --steps 40]

SimCLR, torchvision's ResNet-18 with its ImageNet stem, 32 pixels, batch 128, projector 2048 and 128 wide, SGD, fp32,
one decoding process. Each library loads, augments and trains as its documentation shows, in turns of a process each;
images/s is that of the steps after the first --skip. `bare` is our method on one ready-made batch: the machine's
limit. The ratio is the median over rounds of ours to the fastest other library of that round.
"""

import argparse
import contextlib
import dataclasses
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torchvision
from rows import append
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

BATCH, SIZE, WORKERS = 128, 32, 1
SGD = {"lr": 0.06, "momentum": 0.9, "weight_decay": 5e-4}
PACKAGES = {"lightly": "lightly", "stable-pretraining": "stable_pretraining", "lightly-train": "lightly_train"}


def resnet() -> Any:
    net = torchvision.models.resnet18()
    net.fc = nn.Identity()
    return net


def projector() -> nn.Module:
    return nn.Sequential(
        nn.Linear(512, 2048, bias=False), nn.BatchNorm1d(2048), nn.ReLU(), nn.Linear(2048, 128, bias=False),
        nn.BatchNorm1d(128),
    )  # fmt: skip


def ours(data: str, steps: int) -> None:
    from lightning.pytorch import Callback

    from lookalike import training
    from lookalike.methods import SimCLR
    from lookalike.optim import Optim
    from lookalike.runs import Run
    from lookalike.schedules import Schedule

    class Stop(Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, outputs: object, batch: object, batch_idx: int) -> None:
            trainer.should_stop = batch_idx + 1 >= steps

    cfg = SimCLR.Config(optim=Optim("sgd", lr=SGD["lr"], scaling="none", weight_decay=Schedule(SGD["weight_decay"])))
    with tempfile.TemporaryDirectory() as folder:
        run = Run(
            data=data, method=cfg, backbone=resnet(), image_size=SIZE, batch_size=BATCH, epochs=1000, workers=WORKERS,
            precision="fp32", fit=False, out=f"{folder}/run",
        )  # fmt: skip
        views = tuple(dataclasses.replace(v, kernel=3, size=SIZE) for v in cfg.views)
        training.pretrain(dataclasses.replace(run, method=dataclasses.replace(cfg, views=views)), callbacks=[Stop()])


def bare(data: str, steps: int) -> None:
    from lookalike import backbones
    from lookalike.core import Batch, Progress
    from lookalike.methods import SimCLR

    method = SimCLR(SimCLR.Config(), backbones.create(resnet(), image_size=SIZE))
    method = method.to(memory_format=torch.channels_last).train()
    views = [torch.randn(BATCH, 3, SIZE, SIZE).to(memory_format=torch.channels_last) for _ in range(2)]
    batch = Batch(views, torch.arange(BATCH), Progress(0, 1, 1))
    optimizer = torch.optim.SGD(method.parameters(), fused=True, **SGD)
    for _ in range(steps):
        optimizer.zero_grad()
        method(batch)["loss"].backward()
        optimizer.step()


def lightly(data: str, steps: int) -> None:
    import pytorch_lightning as pl
    from lightly.data import LightlyDataset
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead
    from lightly.transforms import SimCLRTransform

    class Model(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.head, self.loss = resnet(), SimCLRProjectionHead(512, 2048, 128), NTXentLoss()

        def training_step(self, batch: Any, _: int) -> torch.Tensor:
            loss: torch.Tensor = self.loss(*[self.head(self.net(view)) for view in batch[0]])
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), **SGD)

    loader: Any = torch.utils.data.DataLoader(
        LightlyDataset(data, transform=SimCLRTransform(input_size=SIZE)), BATCH, shuffle=True, drop_last=True,
        num_workers=WORKERS,
    )  # fmt: skip
    pl.Trainer(
        max_steps=steps, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    ).fit(Model(), loader)  # fmt: skip


def stable_pretraining(data: str, steps: int, batched: bool = False) -> None:
    import lightning as pl
    import stable_pretraining as spt
    from stable_pretraining import forward
    from stable_pretraining.data import gpu_transforms as G
    from stable_pretraining.data import transforms as T

    spt.set(verbose="ERROR", progress_bar="none")
    stats, jitter, on_device = spt.data.static.ImageNet, (0.8, 0.8, 0.8, 0.2), None
    if batched:
        transform = T.Compose(T.Resize((SIZE, SIZE)), T.ToImage(rgb=True, scale=True))
        on_device = G.StackedMultiView(
            G.GPUCompose(
                [
                    G.GPURandomResizedCrop(size=SIZE, scale=(0.08, 1.0)), G.GPURandomHorizontalFlip(p=0.5),
                    G.GPUColorJitter(*jitter, p=0.8), G.GPURandomGrayscale(p=0.2),
                    G.GPUGaussianBlur(kernel_size=3, p=0.5), G.GPUNormalize(**stats),
                ]
            ),
            n_views=2,
        )  # fmt: skip
    else:
        one = T.Compose(
            T.RGB(), T.RandomResizedCrop((SIZE, SIZE), scale=(0.08, 1.0)), T.ColorJitter(*jitter, p=0.8),
            T.RandomGrayscale(p=0.2), T.PILGaussianBlur(p=0.5), T.RandomHorizontalFlip(p=0.5), T.ToImage(**stats),
        )  # fmt: skip
        transform = T.MultiViewTransform([one, one])
    images = spt.data.FromTorchDataset(
        torchvision.datasets.ImageFolder(data), names=["image", "label"], transform=transform, gpu_transform=on_device
    )
    loader: Any = torch.utils.data.DataLoader(images, BATCH, shuffle=True, drop_last=True, num_workers=WORKERS)
    module = spt.Module(
        backbone=resnet(), projector=projector(), forward=forward.simclr,
        simclr_loss=spt.losses.NTXEntLoss(temperature=0.5),
        optim={
            "optimizer": {"type": "SGD", **SGD}, "scheduler": {"type": "CosineAnnealingLR", "T_max": 1000},
            "interval": "step",
        },
    )  # fmt: skip
    pl.Trainer(
        max_steps=steps, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
        enable_model_summary=False, num_sanity_val_steps=0, limit_val_batches=0,
    ).fit(module, datamodule=spt.data.DataModule(train=loader, val=loader))  # fmt: skip


def lightly_train(data: str, steps: int) -> None:
    import lightly_train

    net = resnet()
    net.fc = nn.Linear(512, 10)  # it takes the classifier off itself
    with tempfile.TemporaryDirectory() as folder:
        lightly_train.pretrain(
            out=f"{folder}/run", data=data, model=net, method="simclr", epochs=1000, batch_size=BATCH,
            num_workers=WORKERS, accelerator="cpu", devices=1, precision="32-true", float32_matmul_precision="highest",
            optim="sgd", optim_args=SGD, trainer_args={"max_steps": steps},
            method_args={"hidden_dim": 2048, "output_dim": 128, "temperature": 0.5},
            transform_args={"image_size": (SIZE, SIZE)},
        )  # fmt: skip


TURNS = {
    "lookalike": ours,
    "bare": bare,
    "lightly": lightly,
    "stable-pretraining": stable_pretraining,
    "stable-pretraining, batched views": lambda data, steps: stable_pretraining(data, steps, batched=True),
    "lightly-train": lightly_train,
}


def turn(name: str, data: str, steps: int, skip: int) -> float:
    """Trains in this process; images/s of the steps after the first ones."""
    ends: list[float] = []
    register_optimizer_step_post_hook(lambda *_: ends.append(time.perf_counter()))
    with contextlib.redirect_stdout(sys.stderr):
        TURNS[name](data, steps)
    return BATCH * (len(ends) - skip) / (ends[-1] - ends[skip - 1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--skip", type=int, default=8)
    parser.add_argument("--turn", choices=TURNS, help=argparse.SUPPRESS)
    parser.add_argument("--record", type=Path, default=Path(__file__).parent / "records" / "streaming.jsonl")
    args = parser.parse_args()
    os.environ["LIGHTLY_TRAIN_EVENTS_DISABLED"] = "1"
    warnings.filterwarnings("ignore")
    if args.turn:
        print(turn(args.turn, args.data, args.steps, args.skip))
        return
    from lookalike.runs import commit

    there = {name: importlib.util.find_spec(module) is not None for name, module in PACKAGES.items()}
    names = [name for name in TURNS if there.get(name.split(",")[0], True)]
    rates: dict[str, list[float]] = {name: [] for name in names}
    for number in range(args.rounds):
        for name in names:
            done = subprocess.run(
                [sys.executable, __file__, args.data, "--turn", name, "--steps", str(args.steps), "--skip",
                 str(args.skip)], capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode:
                raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
            rates[name].append(float(done.stdout.split()[-1]))
            print(f"round {number + 1}  {name:<36} {rates[name][-1]:.1f} images/s", flush=True)
    others = [name for name in names if name not in ("lookalike", "bare")]
    to_others = [rates["lookalike"][i] / max(rates[n][i] for n in others) for i in range(args.rounds)] if others else []
    to_bare = [a / b for a, b in zip(rates["lookalike"], rates["bare"])]
    row = {
        "benchmark": "streaming", "date": time.strftime("%Y-%m-%d"), "rounds": args.rounds, "steps": args.steps,
        "images_per_s": {n: [round(f(r), 1) for f in (statistics.median, min, max)] for n, r in rates.items()},
        "ratio_to_fastest_other": [round(f(to_others), 2) for f in (statistics.median, min, max)] if others else None,
        "ratio_to_bare": [round(f(to_bare), 2) for f in (statistics.median, min, max)],
        "versions": {"torch": torch.__version__} | {name: version(name) for name in PACKAGES if there[name]},
        "lookalike": commit(), "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }  # fmt: skip
    print(json.dumps(row))
    append(args.record, row)


if __name__ == "__main__":
    main()

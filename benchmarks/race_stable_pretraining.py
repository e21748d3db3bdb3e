"""stable-pretraining's entrant in `race.py`: its module, data, transforms and loss in Lightning's trainer."""

import functools
from typing import Any

import lightning as pl
import race_task
import stable_pretraining as spt
import torch
import torchvision
from race_task import GRAYSCALE, HFLIP, JITTER, JITTERED, MEAN, SCALE, STD, Task
from stable_pretraining.data import gpu_transforms as G
from stable_pretraining.data import transforms as T
from torch import nn

PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed"}


def projector(task: Task, dim: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(dim, task.hidden_dim, bias=False), nn.BatchNorm1d(task.hidden_dim), nn.ReLU(),
        nn.Linear(task.hidden_dim, task.out_dim, bias=False), nn.BatchNorm1d(task.out_dim),
    )  # fmt: skip


def sgd(parameters: Any, task: Task) -> torch.optim.SGD:
    groups = race_task.decayed(list(parameters), task)
    return torch.optim.SGD(groups, lr=task.lr, momentum=task.momentum, fused=task.options["fused"])


def images_of(task: Task) -> Any:
    """Two views per image, made by the workers or, `batched`, from whole batches, whose images must have one size."""
    size, stats, batched = task.image_size, {"mean": list(MEAN), "std": list(STD)}, None
    if task.options.get("batched"):
        transform = T.Compose(T.Resize((size, size)), T.ToImage(rgb=True, scale=True))
        one = G.GPUCompose(
            [
                G.GPURandomResizedCrop(size=size, scale=SCALE), G.GPURandomHorizontalFlip(p=HFLIP),
                G.GPUColorJitter(*JITTER, p=JITTERED), G.GPURandomGrayscale(p=GRAYSCALE), G.GPUNormalize(**stats),
            ]
        )  # fmt: skip
        batched = G.StackedMultiView(one, n_views=2)
    else:
        each = T.Compose(
            T.RGB(), T.RandomResizedCrop((size, size), scale=SCALE), T.ColorJitter(*JITTER, p=JITTERED),
            T.RandomGrayscale(p=GRAYSCALE), T.RandomHorizontalFlip(p=HFLIP), T.ToImage(**stats),
        )  # fmt: skip
        transform = T.MultiViewTransform([each, each])
    folder = torchvision.datasets.ImageFolder(task.images)
    return spt.data.FromTorchDataset(folder, names=["image", "label"], transform=transform, gpu_transform=batched)


def joined(self: Any, batch: dict[str, Any], stage: str) -> dict[str, torch.Tensor]:
    """Its `forward.simclr` with both views in one pass."""
    embedding = self.backbone(torch.cat([view["image"] for view in batch["views"]]))
    return {"embedding": embedding, "loss": self.simclr_loss(*self.projector(embedding).chunk(2))}


def main() -> None:
    task = race_task.read()
    options = task.options
    spt.set(verbose="ERROR", progress_bar="none")
    loader: Any = torch.utils.data.DataLoader(
        images_of(task), task.batch_size, shuffle=True, drop_last=True, num_workers=options["workers"],
        persistent_workers=options["workers"] > 0,
    )  # fmt: skip
    network = race_task.network_of(task)
    module = spt.Module(
        backbone=network, projector=projector(task, network.num_features),
        forward=joined,
        simclr_loss=spt.losses.NTXEntLoss(temperature=task.temperature),
        optim={
            "optimizer": functools.partial(sgd, task=task),
            "scheduler": functools.partial(torch.optim.lr_scheduler.LambdaLR, lr_lambda=task.rate), "interval": "step",
        },
    )  # fmt: skip
    race_task.Clock(task, network)
    pl.Trainer(
        max_epochs=task.epochs, accelerator="cpu", devices=1, precision=PRECISIONS[options["precision"]], logger=False,
        enable_checkpointing=False, enable_model_summary=False, num_sanity_val_steps=0, limit_val_batches=0,
    ).fit(module, datamodule=spt.data.DataModule(train=loader, val=loader))  # fmt: skip


if __name__ == "__main__":
    main()

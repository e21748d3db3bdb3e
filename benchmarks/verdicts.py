"""The verdicts on trainings that learn, stand still, collapse and diverge, and the figures that they rest on.

    python benchmarks/verdicts.py DATA [--images 2000 --epochs 3]

DATA is a folder of images, such as train/ of CIFAR-10; 2,000 of them are drawn. Each training of the table below runs
for --epochs (31 steps of 64 images each) without warm-up, on one thread. Rows of JSON, one per training, go to
--record: the figures of each look, spreads as shares of the untrained encoder's, and the verdict.
"""

import argparse
import dataclasses
import os
import platform
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from networks import small_resnet
from rows import append
from torch import Tensor

import lookalike
from lookalike import core, layers
from lookalike.backbones import Backbone
from lookalike.core import Batch, Method
from lookalike.data import open_source
from lookalike.methods.barlow_twins import BarlowTwins
from lookalike.methods.dino import DINO
from lookalike.methods.lejepa import LeJEPA
from lookalike.methods.simclr import SimCLR
from lookalike.methods.swav import SwAV
from lookalike.methods.vicreg import VICReg
from lookalike.optim import Optim
from lookalike.random import permutation
from lookalike.runs import Folder, Run, commit
from lookalike.schedules import Schedule
from lookalike.training.health import SPREADS
from lookalike.views import SIMCLR_VIEW, View


def constant(name: str, lr: float) -> Optim:
    return Optim(name, lr=lr, scaling="none", weight_decay=Schedule(1e-4), warmup_epochs=0)


class Invariance(Method):
    """Two views get one answer, and nothing keeps images apart."""

    @dataclasses.dataclass(frozen=True)
    class Config(core.Config):
        views: tuple[View, ...] = (SIMCLR_VIEW,)
        optim: Optim = constant("adamw", 2e-3)

    def __init__(self, cfg: Config, backbone: Backbone) -> None:
        super().__init__(cfg, backbone)
        self.projector = layers.mlp(backbone.dim, 512, 128)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        a, b = self.projector(self.backbone(torch.cat(batch.views))).chunk(2)
        return {"loss": 2 - 2 * F.cosine_similarity(a, b).mean()}


NARROW: dict[str, Any] = {"hidden_dim": 256, "out_dim": 64}
"""Heads of the methods that are judged by their embeddings, too."""


def simclr(name: str, lr: float) -> SimCLR.Config:
    return SimCLR.Config(hidden_dim=512, optim=constant(name, lr))


TRAININGS: dict[str, tuple[str, core.Config]] = {
    "narrow ResNet, AdamW 2e-3": ("narrow", simclr("adamw", 2e-3)),
    "narrow ResNet, the method's own recipe": ("narrow", SimCLR.Config()),
    "narrow ResNet, AdamW 0.1": ("narrow", simclr("adamw", 0.1)),
    "narrow ResNet, AdamW 3": ("narrow", simclr("adamw", 3.0)),
    "narrow ResNet, AdamW 1e-7": ("narrow", simclr("adamw", 1e-7)),
    "narrow ResNet, SGD 1000": ("narrow", simclr("sgd", 1000.0)),
    "narrow ResNet, LARS 10000": (
        "narrow",
        SimCLR.Config(optim=Optim("lars_simclr", lr=1e4, warmup_epochs=0, grid="open")),
    ),
    "narrow ResNet, invariance alone": ("narrow", Invariance.Config()),
    "test_vit, AdamW 1e-3": ("test_vit", simclr("adamw", 1e-3)),
    "test_vit, AdamW 1": ("test_vit", simclr("adamw", 1.0)),
    "test_vit, invariance alone": ("test_vit", Invariance.Config(optim=constant("adamw", 1e-3))),
    "test_convnext2, AdamW 1e-3": ("test_convnext2", simclr("adamw", 1e-3)),
    **{
        f"narrow ResNet, {name}": ("narrow", method)
        for name, method in {
            "Barlow Twins": BarlowTwins.Config(**NARROW),
            "Barlow Twins, D 2048": BarlowTwins.Config(),
            "Barlow Twins, AdamW 2e-3": BarlowTwins.Config(**NARROW, optim=constant("adamw", 2e-3)),
            "Barlow Twins, lambda 0": BarlowTwins.Config(**NARROW, lambd=0.0),
            "Barlow Twins, lambda 0, AdamW 2e-3": BarlowTwins.Config(
                **NARROW, lambd=0.0, optim=constant("adamw", 2e-3)
            ),
            "VICReg": VICReg.Config(**NARROW),
            "VICReg without variance": VICReg.Config(**NARROW, std_coeff=0.0),
            "LeJEPA": LeJEPA.Config(**NARROW),
            "LeJEPA, lambda 0": LeJEPA.Config(**NARROW, lamb=0.0),
            "SwAV": SwAV.Config(**NARROW),
            "SwAV without Sinkhorn": SwAV.Config(**NARROW, sinkhorn_iterations=0),
            "DINO": DINO.Config(hidden_dim=256, bottleneck_dim=64),
            "DINO without centring": DINO.Config(
                hidden_dim=256, bottleneck_dim=64, centering=False, momentum=Schedule(0.9),
                optim=constant("adamw", 2e-3),
            ),
            "DINO without sharpening": DINO.Config(
                hidden_dim=256, bottleneck_dim=64, teacher_temp=Schedule(0.5), momentum=Schedule(0.9),
                optim=constant("adamw", 2e-3),
            ),
        }.items()
    },
}  # fmt: skip


def looks(out: Path) -> list[dict[str, Any]]:
    """The looks that a run wrote down, beside the untrained encoder's figures."""
    kept = next(v for k, v in torch.load(Folder(out).last, weights_only=True)["callbacks"].items() if "Monitor" in k)
    first = kept["first"]
    result = []
    for row in Folder(out).rows():
        if "verdict" not in row or row.get("spread") is None:
            continue
        shares = {
            f"{name}_share": round(row[name] / first[name], 4) for name in SPREADS if name in row and name in first
        }
        for name in ("embedding_correlation", "target_information"):
            if name in row:
                shares[name] = round(row[name], 4)
        figures = {name: round(row[name], 4) for name in ("pair_auc", "effective_rank", "loss")}
        result.append({"step": row["step"], **shares, **figures, "untrained": round(first["pair_auc"], 4),
                       "verdict": row["verdict"], "why": row["why"]})  # fmt: skip
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="the trainings whose names hold this")
    parser.add_argument("--work", type=Path, default=Path("runs/verdicts"), help="folder of the trainings")
    parser.add_argument("--record", type=Path, default=Path(__file__).parent / "records" / "verdicts.jsonl")
    args = parser.parse_args()
    torch.set_num_threads(1)
    source = open_source(args.data)
    args.work.mkdir(parents=True, exist_ok=True)
    listed = args.work / "images.txt"
    places = permutation(len(source), args.seed, "verdicts")[: args.images].tolist()
    listed.write_text("\n".join(str((args.data / source.name(i)).absolute()) for i in places))
    for number, (name, (backbone, method)) in enumerate(TRAININGS.items()):
        if args.only not in name:
            continue
        torch.manual_seed(args.seed)
        out = args.work / str(number)
        run = Run(
            data=str(listed), method=method, image_size=32, epochs=args.epochs, batch_size=args.batch_size, cache="ram",
            backbone=small_resnet() if backbone == "narrow" else backbone, save_every=1,
            seed=args.seed, workers=0, precision="fp32", out=str(out), overwrite=True,
        )  # fmt: skip
        end = ""
        try:
            lookalike.pretrain(run)
        except lookalike.Diverged as error:
            end = f"Diverged: {error}".replace(str(out), "RUN")
        row = {
            "benchmark": "verdicts", "date": time.strftime("%Y-%m-%d"), "training": name, "images": args.images,
            "epochs": args.epochs, "batch_size": args.batch_size, "seed": args.seed,
            "looks": looks(out), "end": end, "torch": torch.__version__,
            "lookalike": commit(), "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        }  # fmt: skip
        append(args.record, row)


if __name__ == "__main__":
    main()

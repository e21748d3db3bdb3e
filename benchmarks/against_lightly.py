"""Our SimCLR against lightly's at equal settings, on real images.

    pip install lightly==1.6.0
    python benchmarks/against_lightly.py DATA [--image-size 32 --images 10000 --epochs 10 --seeds 0 1 2]

DATA holds train/ and test/ with one sub-folder per class. Both libraries train the same small ResNet from the same
first weights on the same --images of train/ (drawn per seed; labels are used for judging only), with the same recipe:
`lookalike.pretrain` here; there a plain loop over lightly's dataset, transform, projector, loss and scheduler, as in
the SimCLR example of its documentation. One k-NN judges them before and after: those images are the bank, all of test/
is classified. A row of JSON per seed and library goes to --record; rows that are there already are not made again.

What stays different, each as the library has it: lightly passes the two views through the network one after the other
(BatchNorm sees B images, ours 2B), its projector's last BatchNorm has a shift, its views are made from PIL images in 8
bits (ours from float tensors), and it decodes in each epoch (ours once). Image orders and crops are drawn differently.
"""

import argparse
import copy
import dataclasses
import json
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from networks import small_resnet
from torch import nn
from torch.utils.data import DataLoader

import lookalike
from lookalike import training
from lookalike.core import Method
from lookalike.data import Source, Subset, open_source
from lookalike.evaluation import features, knn, with_statistics
from lookalike.methods.simclr import SimCLR
from lookalike.optim import Optim
from lookalike.random import key_of, permutation
from lookalike.runs import Run, commit, plain
from lookalike.schedules import Schedule
from lookalike.views import View

try:
    import lightly
    from lightly.data import LightlyDataset
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead
    from lightly.models.utils import get_weight_decay_parameters
    from lightly.transforms import SimCLRTransform
    from lightly.utils.scheduler import CosineWarmupScheduler
except ImportError as error:
    raise SystemExit(f"This benchmark needs lightly: pip install lightly==1.6.0 ({error})") from error

OPTIM = Optim("adamw", lr=2e-3, scaling="none", weight_decay=Schedule(1e-4), warmup_epochs=1)


def transform_of(view: View) -> SimCLRTransform:
    """lightly's transform with the view's numbers: for CIFAR-10 its documented ones, cj_strength 0.5 and no blur."""
    assert (view.ratio, view.scale[1], view.rot90, view.solarize, view.erase) == ((3 / 4, 4 / 3), 1.0, 0.0, 0.0, 0.0)
    return SimCLRTransform(
        input_size=view.size, cj_prob=view.jitter, cj_strength=1.0, cj_bright=view.brightness,
        cj_contrast=view.contrast, cj_sat=view.saturation, cj_hue=view.hue, min_scale=view.scale[0],
        random_gray_scale=view.grayscale, gaussian_blur=view.blur, sigmas=view.sigma, vf_prob=view.vflip,
        hf_prob=view.hflip,
    )  # fmt: skip


def train_lightly(run: Run, method: Method, folder: Path, names: list[str]) -> tuple[nn.Module, float]:
    """lightly's SimCLR from the first weights of ours; the encoder and the mean loss of the last epoch."""
    cfg = run.method
    assert isinstance(cfg, SimCLR.Config)
    backbone = copy.deepcopy(method.backbone)
    projector = SimCLRProjectionHead(backbone.dim, cfg.hidden_dim, cfg.out_dim)
    ours = {f"layers.{name}": value for name, value in method.projector.state_dict().items()}
    different = projector.load_state_dict(ours, strict=False)
    assert different.missing_keys == ["layers.4.bias"]  # the shift of the last BatchNorm starts at zero
    assert not different.unexpected_keys
    dataset = LightlyDataset(str(folder), transform=transform_of(cfg.views[0]), filenames=names)
    assert len(dataset) == len(names)
    torch.manual_seed(key_of(run.seed, "lightly"))
    loader = DataLoader(
        dataset, batch_size=run.batch_size, shuffle=True, drop_last=True, num_workers=1, persistent_workers=True
    )
    criterion = NTXentLoss(temperature=cfg.temperature)
    decayed, others = get_weight_decay_parameters([backbone, projector])
    groups = [{"params": decayed, "weight_decay": cfg.optim.weight_decay.start}, {"params": others, "weight_decay": 0}]
    optimizer = torch.optim.AdamW(groups, lr=cfg.optim.lr, betas=cfg.optim.betas)
    scheduler = CosineWarmupScheduler(
        optimizer, warmup_epochs=round(cfg.optim.warmup_epochs * len(loader)), max_epochs=run.epochs * len(loader),
        end_value=cfg.optim.final_lr,
    )  # fmt: skip
    backbone.train()
    for _ in range(run.epochs):
        losses = []
        for (x0, x1), _, _ in loader:
            loss = criterion(projector(backbone(x0)), projector(backbone(x1)))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
            losses.append(loss.item())
    return backbone, statistics.mean(losses)


def train_ours(run: Run) -> tuple[nn.Module, float]:
    """`lookalike.pretrain`; the encoder and the mean loss of the last epoch."""
    torch.manual_seed(run.seed)
    rows = lookalike.pretrain(dataclasses.replace(run, backbone=small_resnet())).metrics
    steps = [0] + [int(row["step"]) for row in rows]
    per_epoch = steps[-1] // run.epochs
    # a row has the mean over the steps since the row before, and each epoch ends with a row
    sums = [row["loss"] * (b - a) for row, a, b in zip(rows, steps, steps[1:]) if b > steps[-1] - per_epoch]
    return lookalike.load(run.out, backbone=small_resnet()), sum(sums) / per_epoch


class Judge:
    """k-NN of an encoder on the test images, with the training images as the bank."""

    def __init__(self, train: Source, test: Source, run: Run, method: Method) -> None:
        self.train, self.test, self.size = train, test, run.image_size
        self.mean, self.std = method.backbone.mean, method.backbone.std

    def untrained(self, encoder: nn.Module) -> float:
        assert self.size is not None
        return self(with_statistics(encoder, self.train, image_size=self.size, mean=self.mean, std=self.std))

    def __call__(self, encoder: nn.Module) -> float:
        assert self.size is not None
        bank, test = (
            features(encoder, source, image_size=self.size, mean=self.mean, std=self.std)
            for source in (self.train, self.test)
        )
        assert bank.labels is not None
        assert test.labels is not None
        return round(knn(bank.features, bank.labels, test.features, test.labels, k=20).top1, 4)


def settings_of(run: Run, images: int) -> dict[str, Any]:
    """All that both libraries have in common, as it stands in a row."""
    cfg = run.method
    assert isinstance(cfg, SimCLR.Config)
    settings = {
        "backbone": "narrow", "image_size": run.image_size, "images": images, "batch_size": run.batch_size,
        "epochs": run.epochs, "precision": run.precision, "hidden_dim": cfg.hidden_dim, "out_dim": cfg.out_dim,
        "temperature": cfg.temperature, "view": plain(cfg.views[0]), "optim": plain(cfg.optim),
    }  # fmt: skip
    return json.loads(json.dumps(settings))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--images", type=int, default=10_000, help="drawn from train/; all of them if there are fewer")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--libraries", nargs="+", default=["lookalike", "lightly"], choices=["lookalike", "lightly"])
    parser.add_argument("--threads", type=int, default=1, help="of torch; lightly has a decoding process beside them")
    parser.add_argument("--work", type=Path, default=Path("runs/against_lightly"), help="folder of the trainings")
    parser.add_argument("--record", type=Path, default=Path(__file__).parent / "records" / "against_lightly.jsonl")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    version = commit()
    all_images = open_source(args.data / "train", labelled=True)
    test = open_source(args.data / "test", labelled=True, classes=all_images.classes)
    for seed in args.seeds:
        places = permutation(len(all_images), seed, "images")[: args.images].tolist()
        train = Subset(all_images, places)
        names = [train.name(i) for i in range(len(train))]
        args.work.mkdir(parents=True, exist_ok=True)
        listed = args.work / f"{args.data.name}-{seed}.txt"
        listed.write_text("\n".join(str((args.data / "train" / name).absolute()) for name in names))
        torch.manual_seed(seed)
        run = Run(
            data=str(listed), method=SimCLR.Config(optim=OPTIM), backbone=small_resnet(), image_size=args.image_size,
            batch_size=args.batch_size, epochs=args.epochs, cache="ram", precision="fp32", seed=seed,
            out=str(args.work / f"{args.data.name}-{seed}"), overwrite=True,
        )  # fmt: skip
        run, _ = training.resolve(run, len(train))
        method = training.build(run)
        judge = Judge(train, test, run, method)
        settings = settings_of(run, len(train))
        done = [json.loads(line) for line in args.record.read_text().splitlines()] if args.record.exists() else []
        untrained: float | None = None  # of both: they have the same first weights
        for library in args.libraries:
            wanted = {"library": library, "data": args.data.name, "seed": seed, "settings": settings}
            if any(wanted.items() <= row.items() for row in done):
                print(f"{library}, seed {seed}: in {args.record} already")
                continue
            if untrained is None:
                untrained = judge.untrained(method.backbone)
            began = time.perf_counter()
            if library == "lightly":
                encoder, loss = train_lightly(run, method, args.data / "train", names)
            else:
                encoder, loss = train_ours(run)
            seconds = time.perf_counter() - began
            row = {
                "benchmark": "against_lightly",
                "date": time.strftime("%Y-%m-%d"),
                **wanted,
                "test_images": len(test),
                "untrained": {"knn": untrained},
                "trained": {"knn": judge(encoder)},
                "loss": round(loss, 4),
                "seconds": round(seconds, 1),
                "threads": torch.get_num_threads(),
                "torch": torch.__version__,
                "lightly": lightly.__version__,
                "lookalike": version,
                "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            }
            print(json.dumps(row), flush=True)
            args.record.parent.mkdir(parents=True, exist_ok=True)
            with open(args.record, "a") as file:
                file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()

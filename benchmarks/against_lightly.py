"""Our methods against lightly's at equal settings, on real images.

    pip install lightly==1.6.0
    python benchmarks/against_lightly.py DATA [--methods simclr byol --image-size 32 --images 10000 --epochs 10]

DATA holds train/ and test/ with one sub-folder per class. Both libraries train the same small ResNet from the same
first weights on the same --images of train/ (drawn per seed; labels are used for judging only), with the same views,
widths, optimizer and schedules: `lookalike.pretrain` here; there a plain loop over lightly's dataset, transform, heads,
loss and scheduler, as in the method's example of its documentation. One k-NN judges them before and after: those images
are the bank, all of test/ is classified. A row of JSON per method, seed and library goes to --record; rows that are
there already are not made again. lightly has no SupCon, MoCo v3 and DeepCluster-v2.

What stays different, each as the library has it: in SimCLR lightly passes the two views through the network one after
the other (BatchNorm sees B images, ours 2B), as in SwAV and LeJEPA, and its projector's last BatchNorm has a shift;
heads of BYOL, Barlow Twins and VICReg and SwAV's prototypes end in a bias there; MoCo's queue begins with one
image's random key less or more; views are made from PIL images in 8 bits (ours from float tensors), and it decodes in
each epoch (ours once). Image orders and crops are drawn differently.
"""

import argparse
import copy
import dataclasses
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from networks import small_resnet
from rows import append
from torch import Tensor, nn
from torch.utils.data import DataLoader

import lookalike
from lookalike import training
from lookalike.core import Method
from lookalike.data import Source, Subset, open_source
from lookalike.evaluation import features, knn, with_statistics
from lookalike.methods import get_method
from lookalike.methods.barlow_twins import BarlowTwins
from lookalike.methods.byol import BYOL
from lookalike.methods.lejepa import LeJEPA
from lookalike.methods.moco_v2 import MoCoV2
from lookalike.methods.simclr import SimCLR
from lookalike.methods.simsiam import SimSiam
from lookalike.methods.swav import SwAV
from lookalike.methods.vicreg import VICReg
from lookalike.optim import Optim
from lookalike.random import key_of, permutation
from lookalike.runs import Run, by_user, commit, plain
from lookalike.schedules import Schedule
from lookalike.views import View

try:
    import lightly
    from lightly.data import LightlyDataset
    from lightly.loss import BarlowTwinsLoss, NegativeCosineSimilarity, NTXentLoss, SwaVLoss, VICRegLoss
    from lightly.loss.lejepa_loss import SIGReg, lejepa_invariance_loss
    from lightly.models.modules import (
        BarlowTwinsProjectionHead,
        BYOLPredictionHead,
        BYOLProjectionHead,
        MoCoProjectionHead,
        SimCLRProjectionHead,
        SimSiamPredictionHead,
        SimSiamProjectionHead,
        SwaVProjectionHead,
        SwaVPrototypes,
    )  # fmt: skip
    from lightly.models.modules.heads import VICRegProjectionHead
    from lightly.models.utils import deactivate_requires_grad, get_weight_decay_parameters, update_momentum
    from lightly.transforms.byol_transform import BYOLView1Transform
    from lightly.transforms.multi_view_transform import MultiViewTransform
    from lightly.utils.scheduler import CosineWarmupScheduler, cosine_schedule
except ImportError as error:
    raise SystemExit(f"This benchmark needs lightly: pip install lightly==1.6.0 ({error})") from error

OPTIM = Optim("adamw", lr=2e-3, scaling="none", weight_decay=Schedule(1e-4), warmup_epochs=1)


CHANGES = {"hidden_dim": 512, "out_dim": 128, "predictor_dim": 64, "freeze_epochs": 0.0}
"""Where a method has them: narrower heads (the papers' are for networks twenty times as wide), and prototypes learning
from the first step, as in lightly's example."""


def transform_of(view: View) -> BYOLView1Transform:
    """lightly's transform of one view (BYOL's, for it can do all that the others can) with the view's numbers."""
    assert (view.ratio, view.scale[1], view.rot90, view.erase) == ((3 / 4, 4 / 3), 1.0, 0.0, 0.0)
    return BYOLView1Transform(
        input_size=view.size, cj_prob=view.jitter, cj_strength=1.0, cj_bright=view.brightness,
        cj_contrast=view.contrast, cj_sat=view.saturation, cj_hue=view.hue, min_scale=view.scale[0],
        random_gray_scale=view.grayscale, gaussian_blur=view.blur, solarization_prob=view.solarize, sigmas=view.sigma,
        vf_prob=view.vflip, hf_prob=view.hflip,
    )  # fmt: skip


def from_ours(head: nn.Module, ours: nn.Module) -> nn.Module:
    """lightly's head with the first weights of ours; biases that ours lacks start at zero."""
    state = {f"layers.{name}": value for name, value in ours.state_dict().items()}
    different = head.load_state_dict(state, strict=False)
    assert not different.unexpected_keys
    for name in different.missing_keys:
        assert name.endswith("bias")
        nn.init.zeros_(head.get_parameter(name))
    return head


Loss = Callable[[Tensor, Tensor, int, int], Tensor]
"""Of two views, the step and the number of steps."""


def lightly_method(method: Method) -> tuple[nn.ModuleList, Loss]:
    """The parts that learn (backbone first, a predictor last) and the loss, as lightly's examples have them."""
    cfg, backbone = method.cfg, copy.deepcopy(method.backbone)
    match cfg:
        case SimCLR.Config():
            head = from_ours(SimCLRProjectionHead(backbone.dim, cfg.hidden_dim, cfg.out_dim), method.projector)
            nt_xent = NTXentLoss(temperature=cfg.temperature)

            def simclr(x0: Tensor, x1: Tensor, step: int, steps: int) -> Tensor:
                return nt_xent(head(backbone(x0)), head(backbone(x1)))

            return nn.ModuleList([backbone, head]), simclr
        case MoCoV2.Config():
            head = from_ours(MoCoProjectionHead(backbone.dim, cfg.hidden_dim, cfg.out_dim), method.projector)
            followers = follow(backbone, head)
            with_bank = NTXentLoss(cfg.temperature, memory_bank_size=(cfg.queue, cfg.out_dim))

            def moco(x0: Tensor, x1: Tensor, step: int, steps: int) -> Tensor:
                keys = followers(x1, cfg.momentum)
                return with_bank(head(backbone(x0)), keys)

            return nn.ModuleList([backbone, head]), moco
        case BYOL.Config():
            head = from_ours(BYOLProjectionHead(backbone.dim, cfg.hidden_dim, cfg.out_dim), method.projector)
            predictor = from_ours(BYOLPredictionHead(cfg.out_dim, cfg.hidden_dim, cfg.out_dim), method.predictor)
            followers = follow(backbone, head)
            cosine = NegativeCosineSimilarity()

            def byol(x0: Tensor, x1: Tensor, step: int, steps: int) -> Tensor:
                t0 = followers(x0, cosine_schedule(step, steps, cfg.momentum.start, 1))
                t1 = followers(x1, 1.0)
                p0, p1 = predictor(head(backbone(x0))), predictor(head(backbone(x1)))
                return 0.5 * (cosine(p0, t1) + cosine(p1, t0))

            return nn.ModuleList([backbone, head, predictor]), byol
        case SimSiam.Config():
            head = from_ours(SimSiamProjectionHead(backbone.dim, cfg.out_dim, cfg.out_dim), method.projector)
            predictor = from_ours(SimSiamPredictionHead(cfg.out_dim, cfg.predictor_dim, cfg.out_dim), method.predictor)
            cosine = NegativeCosineSimilarity()

            def simsiam(x0: Tensor, x1: Tensor, step: int, steps: int) -> Tensor:
                z0, z1 = head(backbone(x0)), head(backbone(x1))
                return 0.5 * (cosine(predictor(z0), z1.detach()) + cosine(predictor(z1), z0.detach()))

            return nn.ModuleList([backbone, head, predictor]), simsiam
        case SwAV.Config():
            head = from_ours(SwaVProjectionHead(backbone.dim, cfg.hidden_dim, cfg.out_dim), method.projector)
            prototypes = SwaVPrototypes(cfg.out_dim, cfg.prototypes)
            prototypes.heads[0].load_state_dict(method.prototypes.state_dict(), strict=False)
            nn.init.zeros_(prototypes.heads[0].bias)
            criterion = SwaVLoss(cfg.temperature, cfg.sinkhorn_iterations, cfg.epsilon)

            def swav(x0: Tensor, x1: Tensor, step: int, steps: int) -> Tensor:
                prototypes.normalize()
                scores = [prototypes(F.normalize(head(backbone(x)))) for x in (x0, x1)]
                return criterion(scores, [])

            return nn.ModuleList([backbone, head, prototypes]), swav
        case BarlowTwins.Config():
            head = from_ours(BarlowTwinsProjectionHead(backbone.dim, cfg.hidden_dim, cfg.out_dim), method.projector)
            redundancy = BarlowTwinsLoss(cfg.lambd)

            def barlow_twins(x0: Tensor, x1: Tensor, step: int, steps: int) -> Tensor:
                return redundancy(head(backbone(x0)), head(backbone(x1)))

            return nn.ModuleList([backbone, head]), barlow_twins
        case VICReg.Config():
            head = from_ours(VICRegProjectionHead(backbone.dim, cfg.hidden_dim, cfg.out_dim), method.projector)
            terms = VICRegLoss(cfg.sim_coeff, cfg.std_coeff, cfg.cov_coeff)

            def vicreg(x0: Tensor, x1: Tensor, step: int, steps: int) -> Tensor:
                return terms(head(backbone(x0)), head(backbone(x1)))

            return nn.ModuleList([backbone, head]), vicreg
        case LeJEPA.Config():
            head = copy.deepcopy(method.projector)  # it has none of its own
            normal = SIGReg(knots=cfg.points, t_max=cfg.t_max, num_vectors=cfg.directions)

            def lejepa(x0: Tensor, x1: Tensor, step: int, steps: int) -> Tensor:
                both = torch.stack([head(backbone(x0)), head(backbone(x1))])
                # its own loss wants local views
                return cfg.lamb * normal(both) + (1 - cfg.lamb) * lejepa_invariance_loss(
                    all_proj=both, global_proj=both
                )

            return nn.ModuleList([backbone, head]), lejepa
    raise SystemExit(f"lightly has no {type(method).__name__}.")


def follow(backbone: nn.Module, head: nn.Module) -> Callable[[Tensor, float], Tensor]:
    """A momentum encoder that moves, and then answers, without a gradient."""
    copies = copy.deepcopy(backbone), copy.deepcopy(head)
    for part in copies:
        deactivate_requires_grad(part)
        part.train()

    def answer(x: Tensor, momentum: float) -> Tensor:
        for own, copied in zip((backbone, head), copies):
            update_momentum(own, copied, m=momentum)
        return copies[1](copies[0](x)).detach()

    return answer


def train_lightly(run: Run, method: Method, folder: Path, names: list[str]) -> tuple[nn.Module, float]:
    """lightly's method from the first weights of ours; the encoder and the mean loss of the last epoch."""
    cfg = run.method
    parts, criterion = lightly_method(method)
    transform = MultiViewTransform([transform_of(view) for view in cfg.views for _ in range(view.count)])
    dataset = LightlyDataset(str(folder), transform=transform, filenames=names)
    assert len(dataset) == len(names)
    torch.manual_seed(key_of(run.seed, "lightly"))
    loader = DataLoader(
        dataset, batch_size=run.batch_size, shuffle=True, drop_last=True, num_workers=1, persistent_workers=True
    )
    decayed, others = get_weight_decay_parameters(list(parts))
    groups = [{"params": decayed, "weight_decay": cfg.optim.weight_decay.start}, {"params": others, "weight_decay": 0}]
    if isinstance(cfg, SimSiam.Config):  # the predictor's rate is constant: the paper's, which the example leaves out
        fixed = {id(p) for p in parts[-1].parameters()}
        groups = [
            {**group, "params": [p for p in group["params"] if (id(p) in fixed) is apart]}
            for group in groups for apart in (False, True)
        ]  # fmt: skip
    optimizer = torch.optim.AdamW(groups, lr=cfg.optim.lr, betas=cfg.optim.betas)
    steps = run.epochs * len(loader)
    scheduler = CosineWarmupScheduler(
        optimizer, warmup_epochs=round(cfg.optim.warmup_epochs * len(loader)), max_epochs=steps,
        end_value=cfg.optim.final_lr,
    )  # fmt: skip
    parts.train()
    step = 0
    for _ in range(run.epochs):
        losses = []
        for (x0, x1), _, _ in loader:
            if isinstance(cfg, SimSiam.Config):
                for group in optimizer.param_groups[1::2]:
                    group["lr"] = cfg.optim.lr
            loss = criterion(x0, x1, step, steps)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
            losses.append(loss.item())
            step += 1
    return parts[0], statistics.mean(losses)


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
    settings = {
        "backbone": "narrow", "image_size": run.image_size, "images": images, "batch_size": run.batch_size,
        "epochs": run.epochs, "precision": run.precision, **plain(run.method),
    }  # fmt: skip
    return json.loads(json.dumps(settings))


def configuration(name: str) -> Any:
    """The method's own configuration with narrower heads and the common optimizer."""
    cfg = get_method(name).Config(optim=OPTIM)
    return dataclasses.replace(cfg, **{k: v for k, v in CHANGES.items() if k in vars(cfg)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--methods", nargs="+", default=["simclr", "moco_v2", "byol", "simsiam"])
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
    for name, seed in ((name, seed) for seed in args.seeds for name in args.methods):
        places = permutation(len(all_images), seed, "images")[: args.images].tolist()
        train = Subset(all_images, places)
        names = [train.name(i) for i in range(len(train))]
        args.work.mkdir(parents=True, exist_ok=True)
        listed = args.work / f"{args.data.name}-{seed}.txt"
        listed.write_text("\n".join(str((args.data / "train" / name).absolute()) for name in names))
        torch.manual_seed(seed)
        run = Run(
            data=str(listed), method=configuration(name), backbone=small_resnet(), image_size=args.image_size,
            batch_size=args.batch_size, epochs=args.epochs, cache="ram", precision="fp32", seed=seed,
            out=str(args.work / f"{args.data.name}-{name}-{seed}"), overwrite=True, origins=by_user(["optim"]),
        )  # fmt: skip
        run, _ = training.resolve(run, len(train))
        method = training.build(run)
        judge = Judge(train, test, run, method)
        settings = settings_of(run, len(train))
        done = [json.loads(line) for line in args.record.read_text().splitlines()] if args.record.exists() else []
        untrained: float | None = None  # of both: they have the same first weights
        # in turns: which one goes first changes with the seed
        for library in args.libraries if seed % 2 == 0 else args.libraries[::-1]:
            wanted = {
                "library": library, "method": name, "data": args.data.name, "seed": seed, "settings": settings,
            }  # fmt: skip
            if any(wanted.items() <= row.items() for row in done):
                print(f"{name} of {library}, seed {seed}: in {args.record} already")
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
            append(args.record, row)


if __name__ == "__main__":
    main()

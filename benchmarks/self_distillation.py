"""Time per image and peak memory of DINO, iBOT and DINOv2, ours and lightly's, at equal settings.

    pip install lightly==1.6.0
    python benchmarks/self_distillation.py [--rounds 3 --steps 6]

One small vision transformer (192 wide, 6 blocks, patches of 8), 2 global views of 64 pixels and 4 local ones of 32,
batch 32, 4,096 prototypes, AdamW, fp32, one thread. Views are random and made once: data and augmentation are no part
of it. Each measurement is a process of its own, so that its peak of memory is its own; libraries take turns in each
round. A row of JSON per method and library goes to --record, with the median and the range of milliseconds per image
and the peak resident memory beside that of the process before its first step. Ours is measured with and without
`checkpoint_activations`.

lightly's side is the loop of its examples: heads, losses, masks and the momentum update are its own; DINO runs each
view by itself there, iBOT and DINOv2 those of one size together. The optimizer is the same. Images and patches share a
head in both.
"""

import argparse
import copy
import dataclasses
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rows import append
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from lookalike import backbones
from lookalike.core import Batch, Method, Progress
from lookalike.methods import get_method
from lookalike.runs import commit
from lookalike.views import View

BATCH, K, GLOBAL, LOCAL, LOCALS = 32, 4096, 64, 32, 4
Step = Callable[[int], None]
CHECKPOINTED = "lookalike, activations checkpointed"


def vit() -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(
        img_size=GLOBAL, patch_size=8, embed_dim=192, depth=6, num_heads=3, num_classes=0, dynamic_img_size=True
    )


def views() -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(BATCH, 3, size, size) for size in (GLOBAL, GLOBAL, *[LOCAL] * LOCALS)]


def ours(name: str, *, twice: bool) -> Step:
    recipes = (View(size=GLOBAL, count=2), View(size=LOCAL, count=LOCALS))
    cls: type[Method] = get_method(name)
    cfg = dataclasses.replace(cls.Config(), prototypes=K, views=recipes)
    method = cls(cfg, backbones.create(vit(), image_size=GLOBAL, mask_token=cls.Config().needs.mask_token)).train()
    if twice:
        method.backbone.checkpoint_activations()
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], 1e-4)
    seen = views()

    def step(n: int) -> None:
        batch = Batch(seen, torch.arange(BATCH), Progress(n, 1000, 100))
        optimizer.zero_grad()
        outputs = method(batch)
        outputs["loss"].backward()
        method.before_step(batch.progress)
        optimizer.step()
        method.after_step(batch.progress, [{name: value.detach() for name, value in outputs.items()}])

    return step


def lightlys(name: str) -> Step:
    from lightly.loss import DINOLoss, IBOTPatchLoss, KoLeoLoss
    from lightly.models.modules import DINOProjectionHead, MaskedVisionTransformerTIMM
    from lightly.models.utils import deactivate_requires_grad, random_block_mask, update_momentum

    def head() -> DINOProjectionHead:
        return DINOProjectionHead(
            192, 2048, 256, K, batch_norm=False, freeze_last_layer=1, norm_last_layer=name == "dino"
        )

    backbone = MaskedVisionTransformerTIMM(vit=vit(), antialias=False, pos_embed_initialization="skip")
    student = torch.nn.ModuleList([backbone, head()])
    teacher = torch.nn.ModuleList([copy.deepcopy(backbone), head()])  # its weight-normed layer cannot be copied
    teacher.load_state_dict(student.state_dict())
    deactivate_requires_grad(teacher)
    image_loss = DINOLoss(K, 0.04, 0.04, 1)
    patch_loss, koleo = IBOTPatchLoss(K), KoLeoLoss()
    optimizer = torch.optim.AdamW([p for p in student.parameters() if p.requires_grad], 1e-4)
    seen = views()
    whole, local = torch.cat(seen[:2]), torch.cat(seen[2:])
    side = GLOBAL // 8

    def dino() -> Tensor:
        told = [student[1](student[0].encode(view)[:, 0]) for view in seen]
        with torch.no_grad():
            wanted = [teacher[1](teacher[0].encode(view)[:, 0]) for view in seen[:2]]
        loss: Tensor = image_loss(wanted, told, epoch=1)
        return loss

    def masked() -> Tensor:
        block = random_block_mask((2 * BATCH, side, side))
        mask = torch.cat([torch.zeros(2 * BATCH, 1, dtype=torch.bool), block.flatten(1)], 1)
        with torch.no_grad():
            features = teacher[0].encode(whole)
            wanted, wanted_patches = teacher[1](features[:, 0]), teacher[1](features[mask])
        features = student[0].encode(whole, mask=mask)
        told = [*student[1](features[:, 0]).chunk(2), *student[1](student[0].encode(local)[:, 0]).chunk(LOCALS)]
        loss: Tensor = image_loss(list(wanted.chunk(2)), told, epoch=1)
        loss = loss + patch_loss(wanted_patches, student[1](features[mask]), block)
        if name == "dinov2":
            loss = loss + 0.1 * sum(koleo(x) for x in features[:, 0].chunk(2))
        return loss

    def step(n: int) -> None:
        update_momentum(student, teacher, 0.996)
        optimizer.zero_grad()
        (dino() if name == "dino" else masked()).backward()
        optimizer.step()

    return step


def measure(name: str, library: str, steps: int) -> dict[str, float]:
    """Milliseconds per image of each step, and the peak of memory in MiB above that before the first."""
    torch.set_num_threads(1)
    step = lightlys(name) if library == "lightly" else ours(name, twice=library == CHECKPOINTED)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step(0)
    step(1)
    times = []
    for n in range(2, 2 + steps):
        began = time.perf_counter()
        step(n)
        times.append(1000 * (time.perf_counter() - began) / BATCH)
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return {"ms": statistics.median(times), "peak_mb": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=["dino", "ibot", "dinov2"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--record", type=Path, default=Path(__file__).parent / "records" / "self_distillation.jsonl")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(*args.one, args.steps)))
        return
    for name in args.methods:
        found: dict[str, list[dict[str, float]]] = {"lookalike": [], CHECKPOINTED: [], "lightly": []}
        for _ in range(args.rounds):
            for library, rows in found.items():
                command = [sys.executable, __file__, "--steps", str(args.steps), "--one", name, library]
                rows.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        for library, rows in found.items():
            times = [row["ms"] for row in rows]
            row = {
                "benchmark": "self_distillation", "date": time.strftime("%Y-%m-%d"), "method": name,
                "library": library, "ms_per_image": round(statistics.median(times), 2),
                "range": [round(min(times), 2), round(max(times), 2)],
                "peak_mb": round(statistics.median(row["peak_mb"] for row in rows)), "rounds": args.rounds,
                "steps": args.steps, "torch": torch.__version__, "lookalike": commit(),
                "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            }  # fmt: skip
            print(json.dumps(row))
            append(args.record, row)


if __name__ == "__main__":
    main()

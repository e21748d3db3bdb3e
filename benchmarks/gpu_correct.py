"""Whether the device computes what a CPU does, whether a resumed run is the same, and whether fp16 stays finite.

The same weights and views, made on the CPU, go through the same steps on both, in fp32 without TF32. A run that is
stopped and resumed ends with the weights of one that was not, bit for bit, with deterministic algorithms (and, where
that is so, without). Each method trains 20 steps in fp16 with the scaler (on a CPU, which has no fp16, in bf16).
"""

import dataclasses
import os
import tempfile
import warnings
from importlib.util import find_spec
from typing import Any

import torch
from gpu_bench import Bench, InMemory, short, trained
from lightning.pytorch import Callback
from networks import narrow_resnet, small_resnet, vit_patch4
from photographs import photographs
from safetensors.torch import load_file
from torch import Tensor, nn

from lookalike import optimizers, training
from lookalike.core import Batch, Method, Progress
from lookalike.methods import SELF_SUPERVISED, get_method
from lookalike.random import keys_of
from lookalike.runs import Folder, Run
from lookalike.views import make_views

SIZE, IMAGES, BATCH, CLASSES = 32, 320, 32, 4
SIX = ("simclr", "byol", "vicreg", "swav", "dino", "dinov2")
VITS = ("dino", "ibot", "dinov2")
STEPS = 30


def run(bench: Bench) -> None:
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read once, at the first product
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    count = 16 if bench.tiny else IMAGES
    pixels = torch.from_numpy(photographs(SIZE, count)).permute(0, 3, 1, 2).contiguous()
    names = tuple(str(k) for k in range(CLASSES))
    images = InMemory(pixels, torch.arange(count) % CLASSES, names)
    for name in ("dino",) if bench.tiny else SIX:
        case = f"{name}, this device and the CPU"
        if bench.has(0 if bench.tiny else 4, case):
            with bench.trying(case):
                same_losses(bench, case, name, images)
    for name, strict in (("simclr", True),) if bench.tiny else (("simclr", True), ("simclr", False), ("dino", True)):
        case = f"{name}, resumed" + (", deterministic algorithms" if strict else "")
        if find_spec("cattrs") is None:
            bench.skip(case, "to resume a run needs cattrs")
        elif bench.has(0 if bench.tiny else 8, case):
            with bench.trying(case):
                resumed(bench, case, name, images, strict)
    for name in ("distill",) if bench.tiny else (*SELF_SUPERVISED, "distill"):
        precision = "fp16" if bench.cuda else "bf16"
        case = f"{name}, {precision}"
        if bench.has(0 if bench.tiny else 4, case):
            with bench.trying(case):
                half(bench, case, name, images, precision)


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    return vit_patch4() if name in VITS else small_resnet()


def asked(bench: Bench, name: str, images: InMemory, **options: Any) -> Run:
    cfg = get_method(name).Config()  # type: ignore[call-arg]
    if name == "distill":
        cfg = dataclasses.replace(cfg, teacher="<teacher>", patch_weight=0.0)  # type: ignore[call-arg]
        options["teacher"] = narrow_resnet()
    if "drop_path" in vars(cfg):  # what is random in it is drawn by the device
        cfg = dataclasses.replace(cfg, drop_path=0.0)  # type: ignore[call-arg]
    batch = 4 if bench.tiny else BATCH
    return Run(
        data=images, method=cfg, backbone=network(name), image_size=SIZE, batch_size=batch, cache="ram", workers=0,
        save_every=10**6, **options,
    )  # fmt: skip


def same_losses(bench: Bench, case: str, name: str, images: InMemory) -> None:
    steps = 2 if bench.tiny else STEPS
    run, _ = training.resolve(asked(bench, name, images, epochs=3, precision="fp32"), len(images))
    losses = []
    for device in (torch.device("cpu"), bench.device):
        # a network of one's own is trained itself, not a copy of it; drawn anew, it has the same weights
        method = training.build(dataclasses.replace(run, backbone=network(name)))
        losses.append(steps_on(method.to(device).train(), run, images.images, steps, device))
    here, there = losses
    apart = [abs(a - b) / abs(a) for a, b in zip(here, there, strict=True)]
    bench.row(
        case,
        {
            "largest_relative_deviation": short(max(apart)), "at_the_first_step": short(apart[0]),
            "loss_of_the_last_step": [short(x[-1]) for x in losses],
        },
        steps=steps, batch=run.batch_size, repeats=1, precision="fp32, no TF32", device_and="cpu",
    )  # fmt: skip


def steps_on(method: Method, run: Run, images: Tensor, steps: int, device: torch.device) -> list[float]:
    """The losses of some steps on views that the CPU makes."""
    rates = optimizers.build(method, run.method.optim, run.batch_size, fused=device.type == "cuda")
    method.before_training()
    losses = []
    for step in range(steps):
        at = Progress(step, steps, max(1, steps // 3))
        rows = (torch.arange(run.batch_size) + step * run.batch_size) % len(images)
        recipe = run.method.views_at(at)
        views = make_views(
            images[rows], recipe, keys_of(step, rows), mean=method.backbone.mean, std=method.backbone.std
        )
        outputs = method(Batch([view.to(device) for view in views], rows.to(device), at, cpu_index=rows))
        loss = outputs["loss"]
        loss.backward()
        method.before_step(at)
        optimizers.clip(method, run.method.optim)
        rates.apply(at)
        rates.optimizer.step()
        rates.optimizer.zero_grad()
        method.after_step(at, [{name: value.detach() for name, value in outputs.items()}])
        losses.append(loss.item())
    return losses


class StopAt(Callback):
    """Ends a training after so many steps, as a user's callback may."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: object, batch: object, batch_idx: int) -> None:
        trainer.should_stop = module.done_steps >= self.steps


def resumed(bench: Bench, case: str, name: str, images: InMemory, strict: bool) -> None:
    stop = 3 if bench.tiny else 15
    with tempfile.TemporaryDirectory() as folder:
        whole, parts = (
            asked(bench, name, images, epochs=2 if bench.tiny else 4, out=f"{folder}/{kind}")
            for kind in ("whole", "parts")
        )
        # what has no deterministic algorithm is named in the row, and does not end the case
        torch.use_deterministic_algorithms(strict, warn_only=True)
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                trained(whole)
                trained(parts, StopAt(stop))
                trained(dataclasses.replace(parts, resume=True, backbone=network(name)))
        finally:
            torch.use_deterministic_algorithms(False)
        said = {str(w.message).split(" does not have a deterministic")[0] for w in caught}
        first, second = (load_file(Folder(run.out).weights) for run in (whole, parts))
        losses = [[row["loss"] for row in Folder(run.out).rows() if "loss" in row] for run in (whole, parts)]
        apart = [(first[key].double() - second[key].double()).abs().max().item() for key in first]
    bench.row(
        case,
        {
            "same_weights": all(torch.equal(first[key], second[key]) for key in first),
            "same_losses": losses[0] == losses[1],
            "largest_difference_of_a_weight": short(max(apart)),
        },
        stopped_at=stop, repeats=1, without_deterministic_algorithm=sorted(op for op in said if " " not in op),
    )  # fmt: skip


def half(bench: Bench, case: str, name: str, images: InMemory, precision: str) -> None:
    epochs = 1 if bench.tiny else 2
    with tempfile.TemporaryDirectory() as folder:
        run = asked(bench, name, images, epochs=epochs, precision=precision, out=f"{folder}/run")
        trained(run)
        rows = [row for row in Folder(run.out).rows() if "loss" in row]
    losses = [row["loss"] for row in rows]
    bench.row(
        case,
        {
            "finite": None not in losses, "losses": [None if x is None else short(x) for x in losses],
            "skipped_steps": rows[-1]["skipped"],
        },
        steps=rows[-1]["step"], batch=run.batch_size, repeats=1,
    )  # fmt: skip

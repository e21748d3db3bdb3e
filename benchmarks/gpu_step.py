"""A training step of `lookalike.pretrain` beside the bare loop on the same model, at 224 pixels.

Blocks of ten steps of both take turns (`step_overhead.Turns`), on photographs that lie on the device. `flop_share` is
the arithmetic of forward and backward passes per second, as torch counts it, over what a large product of bf16 matrices
reached in the same run.
"""

import copy
import dataclasses
import tempfile
from typing import NamedTuple

import torch
from gpu_bench import Bench, InMemory, product_rate, short, spread, trained
from photographs import photographs
from step_overhead import Turns

from lookalike.commands.compare.cost_meter import gflops_per_image
from lookalike.core import Config
from lookalike.methods import get_method
from lookalike.runs import Run
from lookalike.training import checkpoints


class Case(NamedTuple):
    method: str
    network: str
    batch: int
    compile: bool = False
    needs: float = 0.0
    """Seconds that must be left."""

    @property
    def name(self) -> str:
        return f"{self.method}, {self.network}, {'compiled' if self.compile else 'eager'}"


RESNET, VIT = "resnet50", "vit_small_patch16_224"
CASES = (
    *(Case("simclr", network, 128, needs=12) for network in (RESNET, VIT)),
    *(Case("dino", network, 64, needs=14) for network in (RESNET, VIT)),
    *(Case("byol", network, 128, needs=12) for network in (RESNET, VIT)),
    Case("simclr", VIT, 128, compile=True, needs=35),
    Case("simclr", RESNET, 128, compile=True, needs=55),
    *(Case("dino", network, 64, compile=True, needs=80) for network in (VIT, RESNET)),
)
"""In the order in which they matter: what there is no time for is left out. DINO's image has 10 views, others' two."""
TINY = (Case("dino", "test_byobnet", 4),)
IMAGES = 1280
"""Ten steps of 128 are an epoch, so that a row is written as often as in a long one."""


def run(bench: Bench) -> None:
    limit = product_rate(bench)
    bench.row("product of bf16 matrices", {"flop_per_s": limit}, repeats=5)
    side, count = (32, 8) if bench.tiny else (256, IMAGES)
    images = InMemory(torch.from_numpy(photographs(side, count)).permute(0, 3, 1, 2).contiguous())
    checkpoints.SETTLE_SECONDS = 10**6  # an epoch of photographs is no time to write a checkpoint
    counted: dict[tuple[str, str], float] = {}
    for case in TINY if bench.tiny else CASES:
        if bench.has(case.needs, case.name):
            with bench.trying(case.name):
                measure(bench, case, images, limit[0], counted)


def config(case: Case, tiny: bool) -> Config:
    """The paper's setting, whatever the photographs are."""
    cfg = get_method(case.method).Config()  # type: ignore[call-arg]
    if case.method == "dino":
        changes = {} if "vit" in case.network else {"drop_path": 0.0}
        cfg = dataclasses.replace(cfg, **changes, **({"prototypes": 64, "hidden_dim": 64} if tiny else {}))
    return cfg


def measure(bench: Bench, case: Case, images: InMemory, limit: float, counted: dict[tuple[str, str], float]) -> None:
    torch._dynamo.reset()  # it gives up after so many networks
    turns = Turns(block=2 if bench.tiny else 10, pairs=1 if bench.tiny else 3)
    with tempfile.TemporaryDirectory() as folder, turns.looking():
        asked = Run(
            data=images, method=config(case, bench.tiny), backbone=case.network, batch_size=case.batch, epochs=1000,
            workers=0, cache="device", compile=case.compile, fit=False, save_every=10**6, out=f"{folder}/run",
            image_size=32 if bench.tiny else 224, precision="fp32" if bench.tiny else "bf16",
        )  # fmt: skip
        trained(asked, turns)
    pair = case.method, case.network
    if pair not in counted:
        counted[pair] = gflops_per_image(copy.deepcopy(turns.method), turns.run)  # a copy is not compiled
    done = turns.block * case.batch
    ours = [done / s for s in turns.ours]
    bench.row(
        case.name,
        {
            "images_per_s": spread(ours),
            "bare_images_per_s": spread([done / s for s in turns.bare]),
            "ratio_of_times": spread([a / b for a, b in zip(turns.ours, turns.bare, strict=True)]),
            "shares": turns.shares,
            "gflop_per_image": short(counted[pair]),
            "flop_share": spread([rate * counted[pair] * 1e9 / limit for rate in ours]),
            "peak_gib": None if turns.peak is None else short(turns.peak / 2**30),
            "joules_per_image": spread([j / done for j in turns.joules]) if turns.joules else None,
        },
        batch=case.batch, repeats=len(ours), steps_per_block=turns.block, precision=asked.precision,
        views=[f"{view.count} x {view.size}" for view in turns.run.method.views],
    )  # fmt: skip

"""A ViT-B/16 teaches a ViT-S/16 at 224 pixels: on a stream of its own or before the student, and asked once for all.

The weights are random: only time is measured. Blocks of steps with and without the teacher's own stream take turns in
one training. With `--cache-teacher` the first epoch asks the teacher and keeps its answers, the later ones read them.
"""

import dataclasses
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from gpu_bench import Bench, Pace, trained
from photographs import as_files

from lookalike import backbones, layers
from lookalike.methods import Distill
from lookalike.runs import Run
from lookalike.training import checkpoints

TEACHER, STUDENT, SIZE, SIDE = "vit_base_patch16_224", "vit_small_patch16_224", 224, 256


class Streams:
    """Lets teachers take turns: with a stream of their own, and before the student."""

    def __init__(self) -> None:
        self.together = True

    @contextmanager
    def in_place(self) -> Iterator[None]:
        own = layers.SideStream.__call__

        @contextmanager
        def turn(beside: layers.SideStream, device: torch.device) -> Iterator[None]:
            if self.together:
                with own(beside, device):
                    yield
            else:
                yield

        layers.SideStream.__call__ = turn  # type: ignore[method-assign]
        try:
            yield
        finally:
            layers.SideStream.__call__ = own  # type: ignore[method-assign]

    def before(self, number: int) -> None:
        self.together = number % 2 == 0


def run(bench: Bench) -> None:
    checkpoints.SETTLE_SECONDS = 10**6  # epochs are short
    torch.manual_seed(0)
    teacher, student, size, side = ("test_vit", "test_vit2", 32, 32) if bench.tiny else (TEACHER, STUDENT, SIZE, SIDE)
    teaching = backbones.create(teacher, image_size=size)
    with tempfile.TemporaryDirectory() as folder:
        for batch in (4,) if bench.tiny else (128, 32):
            steps = 1 if bench.tiny else 10
            images = Path(folder) / f"images-{batch}"
            as_files(images, side, batch * steps)
            cfg = Distill.Config(teacher="<teacher>", patch_weight=0.0)
            asked = Run(
                data=images, method=cfg, teacher=teaching, backbone=student, image_size=size, batch_size=batch,
                epochs=1000, workers=0, cache="device", cache_dir=f"{folder}/answers-{batch}", fit=False,
                save_every=10**6, precision="fp32" if bench.tiny else "bf16", out=f"{folder}/together-{batch}",
            )  # fmt: skip
            settings = {"teacher": teacher, "student": student, "size": size, "batch": batch, "steps_per_block": steps}
            case = f"a batch of {batch}"
            if bench.has(0 if bench.tiny else 6, case):
                with bench.trying(case):
                    streams(bench, case, asked, steps, settings)
            case = f"answers kept, a batch of {batch}"
            if bench.has(0 if bench.tiny else 5, case):
                with bench.trying(case):
                    kept(bench, case, asked, steps, settings)


def streams(bench: Bench, case: str, asked: Run, steps: int, settings: dict[str, object]) -> None:
    turns = Streams()
    blocks = 2 if bench.tiny else 8
    pace = Pace(steps, steps, blocks, turns.before)
    with turns.in_place():
        trained(asked, pace)
    figures = {
        "its own stream": pace.figures(asked.batch_size, lambda number: number % 2 == 0),
        "before the student": pace.figures(asked.batch_size, lambda number: number % 2 == 1),
    }
    bench.row(case, figures, repeats=blocks // 2, **settings)


def kept(bench: Bench, case: str, asked: Run, steps: int, settings: dict[str, object]) -> None:
    """An epoch is a block here: the first one asks."""
    cfg = dataclasses.replace(asked.method, cache_teacher=True)  # type: ignore[call-arg]
    blocks = 2 if bench.tiny else 4
    pace = Pace(steps, steps, blocks)
    trained(dataclasses.replace(asked, method=cfg, out=f"{asked.out}-kept"), pace)
    bench.row(case, pace.figures(asked.batch_size), repeats=blocks, **settings)

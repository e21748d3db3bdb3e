"""Counts what each optimizer step moves: teachers, queues, centres, prototypes and banks."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from lightning.pytorch import Callback, LightningModule, Trainer

from lookalike import layers, training
from lookalike.methods.deepcluster_v2 import DeepClusterV2
from lookalike.runs import Run
from lookalike.views import resized

from .methods import net, small, teacher

MOVED = (
    (layers.Teacher, "follow"), (layers.Queue, "add"), (layers.Center, "move"), (layers.Prototypes, "normalize"),
    (DeepClusterV2, "_remember"),
)  # fmt: skip
"""The functions that move something, by class."""

STEPS = 5


class Counting(Callback):
    """Counts calls from the first optimizer step on."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self._counts = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._counts = True

    @contextmanager
    def counting(self) -> Iterator[None]:
        patches = [mock.patch.object(cls, name, self._counted(name, vars(cls)[name])) for cls, name in MOVED]
        for patch in patches:
            patch.start()
        try:
            yield
        finally:
            for patch in patches:
                patch.stop()

    def _counted(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.calls[name] += self._counts
            return function(*args, **kwargs)

        return counted


def moved(name: str, data: Path, out: Path, **options: Any) -> dict[str, int]:
    """The calls of a training of `STEPS` steps by a method."""
    cfg, size = small(name), 32 if net(name) == "test_vit" else 16  # for time
    cfg = dataclasses.replace(cfg, views=resized(cfg.views, size, 16 if size == 32 else None))
    calls = Counting()
    with calls.counting():
        training.pretrain(
            Run(data=str(data), method=cfg, backbone=net(name), image_size=size, epochs=1, batch_size=8, workers=0,
                teacher=teacher(name), out=str(out), **options), callbacks=[calls],
        )  # fmt: skip
    return {name: count for name, count in calls.calls.items() if count}

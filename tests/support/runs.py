"""Trainings of a tiny network, and whether two of them are the same to the last bit."""

import dataclasses
import multiprocessing
import os
import signal
from collections.abc import Sequence
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lookalike import core, training
from lookalike.backbones import Backbone
from lookalike.core import Batch, Method, Outputs, Progress
from lookalike.methods.simclr import SimCLR
from lookalike.optim import Optim
from lookalike.runs import Folder, Run
from lookalike.schedules import Schedule
from lookalike.training import stages
from lookalike.views import View


class TinyNet(nn.Module):
    """A small encoder with BatchNorm: its statistics are a part of the state that must be resumed."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 12, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.layers(x)
        return features


def tiny_config(**changes: Any) -> SimCLR.Config:
    view = View(size=16, count=2, scale=(0.3, 1.0), hflip=0.5, jitter=0.8, brightness=0.4, hue=0.1)
    optim = Optim("sgd", lr=0.2, weight_decay=Schedule(1e-4), warmup_epochs=0.5)
    return SimCLR.Config(hidden_dim=16, out_dim=8, views=(view,), optim=optim, **changes)


def tiny_run(photos: Path, out: Path, **changes: Any) -> Run:
    torch.manual_seed(1)  # the weights of the user's own module
    options: dict[str, Any] = {
        "epochs": 3, "batch_size": 8, "workers": 0, "save_every": 1, "backbone": TinyNet(), "method": tiny_config(),
    }  # fmt: skip
    return Run(**({"data": photos, "out": str(out)} | options | changes))


def state(out: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(Folder(out).last, weights_only=True)
    content["lookalike"].pop("run")  # where it lies, and how many workers it had
    return {k: content[k] for k in ("state_dict", "optimizer_states", "global_step", "lookalike")}


def assert_equal(a: Any, b: Any, at: str = "") -> None:
    if isinstance(a, Tensor):
        assert torch.equal(a, b), at
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), at
        for k in a:
            assert_equal(a[k], b[k], f"{at}.{k}")
    elif isinstance(a, list):
        assert len(a) == len(b), at
        for i, (x, y) in enumerate(zip(a, b)):
            assert_equal(x, y, f"{at}.{i}")
    else:
        assert a == b, at


def losses(out: Path) -> list[tuple[float, float]]:
    return [(row["step"], row["loss"]) for row in Folder(out).rows()]


def assert_same_run(a: Path, b: Path) -> None:
    assert_equal(state(a), state(b))
    assert losses(a) == losses(b)
    assert_equal(load_file(Folder(a).weights), load_file(Folder(b).weights))


def interrupt_after(monkeypatch: pytest.MonkeyPatch, step: int, number: int = signal.SIGINT) -> None:
    def after_step(self: Method, at: Progress, outputs: Sequence[Outputs]) -> None:
        if at.step + 1 == step:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(SimCLR, "after_step", after_step)


def forkserver() -> ForkServerContext:
    """Starts processes that have imported already, which takes seconds, what a training imports."""
    context = multiprocessing.get_context("forkserver")
    libraries = ["timm", "torchvision", "tyro", "pytest"]
    context.set_forkserver_preload(
        ["lookalike.training", "lookalike.methods.simclr", "lookalike.views.cpu", *libraries]
    )
    return context


class Recorder(Method):
    """Counts real steps; its loss can be made NaN at given steps."""

    @dataclasses.dataclass(frozen=True)
    class Config(core.Config):
        poison: tuple[int, ...] = ()
        views: tuple[View, ...] = (View(size=16, count=2),)
        optim: Optim = Optim("sgd", lr=0.1)

    cfg: Config

    def __init__(self, cfg: Config, backbone: Backbone) -> None:
        super().__init__(cfg, backbone)
        self.register_buffer("ema_steps", torch.zeros((), dtype=torch.long))
        self.calls: list[tuple[str, int]] = []
        self.seen: list[tuple[int, int]] = []

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        self.seen.append((batch.progress.step, len(batch.index)))
        loss = self.backbone(torch.cat(batch.views)).square().mean()
        return {"loss": loss * float("nan") if batch.progress.step in self.cfg.poison else loss}

    def before_step(self, at: Progress) -> None:
        self.calls.append(("before", at.step))
        assert all(p.grad is not None for p in self.parameters())

    def after_step(self, at: Progress, outputs: Sequence[Outputs]) -> None:
        self.calls.append(("after", at.step))
        self.ema_steps += 1


def record(run: Run, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    kept: list[Recorder] = []
    build = training.build

    def keep(run: Run) -> Method:
        kept.append(build(run))  # type: ignore[arg-type]
        return kept[-1]

    monkeypatch.setattr(stages, "build", keep)
    training.pretrain(run)
    return kept[-1]

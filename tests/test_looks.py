"""Looks at features, steps and images: what moved between two, how long a step is, and images that hold nothing."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, Trainer
from support.runs import tiny_run
from torch import Tensor

from lookalike import backbones, training
from lookalike.images import Images
from lookalike.training.looks import Change, UpdateRatio, change, lacking, look


def test_the_update_ratio_is_that_of_the_median_matrix() -> None:
    net = backbones.create("test_byobnet", image_size=32)
    ratio = UpdateRatio(net)
    assert math.isnan(ratio())
    ratio.before_step()
    assert ratio() == 0
    ratio.before_step()
    with torch.no_grad():
        for i, p in enumerate(p for p in net.parameters() if p.ndim > 1):
            p.mul_(1.03 if i else 5.0)  # one matrix alone does not count
    assert ratio() == pytest.approx(0.03, rel=1e-4)
    assert math.isnan(ratio())


class StepLengths(Callback):
    """The median over the encoder's matrices of each step's length, by all of their weights."""

    def __init__(self) -> None:
        self.found: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: object, batch_idx: int) -> None:
        self.before = [p.detach().clone() for p in pl_module.method.backbone.parameters() if p.ndim > 1]

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: object, batch: object, i: int) -> None:
        now = [p.detach() for p in pl_module.method.backbone.parameters() if p.ndim > 1]
        self.found.append(float(np.median([(b - a).norm() / a.norm() for a, b in zip(self.before, now)])))


def test_rows_tell_how_long_a_step_is(photos: Path, tmp_path: Path) -> None:
    lengths = StepLengths()
    run = tiny_run(photos, tmp_path / "run", backbone="test_byobnet", fit=False)
    rows = [row for row in training.pretrain(run, [lengths]).metrics if "loss" in row]
    assert len(rows) > 2
    for row in rows:
        assert row["update_ratio"] == pytest.approx(lengths.found[int(row["step"]) - 1], rel=0.5)


def test_a_change_is_that_of_the_same_images() -> None:
    generator = torch.Generator().manual_seed(0)
    image, own, other = (torch.randn(64, 8, generator=generator) for _ in range(3))
    first, now = look(image + 2 * own, image + 2 * other), look(image + own, image + other)
    found = change(first, now)
    assert found is not None
    assert found.mean == pytest.approx(now.figures["pair_auc"] - first.figures["pair_auc"])
    assert found.away > 3
    assert change(first, first) == Change(0.0, 0.0, 0.0)
    few = look(image[:7], image[:7])
    assert change(few, few) is None
    assert change(first, look(image * math.nan, image)) is None


def batch(images: list[Tensor]) -> Images:
    sizes = torch.tensor([image.shape[1:] for image in images])
    counts = torch.tensor([image.numel() for image in images])
    place = torch.arange(len(images))
    buffer = torch.cat([image.flatten() for image in images])
    return Images(buffer, counts.cumsum(0) - counts, sizes, len(images[0]), place, place)


def smooth(seed: int, size: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 4, 4, generator=generator)
    fine = F.interpolate(coarse, (size, size + 8), mode="bilinear")[0]
    return ((fine + 0.3 * torch.rand(fine.shape, generator=generator)) * 190).to(torch.uint8)


def test_images_that_hold_nothing_are_known_at_once() -> None:
    photos = [smooth(seed) for seed in range(16)]
    assert lacking(batch(photos)) == ""
    assert lacking(batch([p.to(torch.float32) / 255 for p in photos])) == ""
    assert lacking(batch([p.to(torch.int32).mul(257).to(torch.uint16) for p in photos])) == ""
    generator = torch.Generator().manual_seed(0)
    shuffled = [p.flatten(1)[:, torch.randperm(p[0].numel(), generator=generator)].view(p.shape) for p in photos]
    assert "the images look like noise" in lacking(batch(shuffled))
    assert "the images look like noise" in lacking(batch([p.to(torch.int32).to(torch.uint16) for p in shuffled]))
    assert lacking(batch([torch.full_like(p, i) for i, p in enumerate(photos)])) == (
        "16 of 16 images in a random sample are blank, of a single colour"
    )
    coloured = [torch.tensor([i, 7, 200], dtype=torch.uint8)[:, None, None].expand_as(p) for i, p in enumerate(photos)]
    assert "are blank" in lacking(batch(coloured))
    assert (
        lacking(batch([photos[0]] * 16)) == "only 1 of 16 images in a random sample is distinct, the others are copies"
    )
    assert lacking(batch([photos[0]] * 8 + photos[:8])) == ""
    assert lacking(batch([torch.zeros_like(photos[0])] * 7)) == ""  # so few may be anything

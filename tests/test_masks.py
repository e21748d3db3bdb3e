"""Masks: their statistics against the official generators' (`mask_statistics`), and what they are functions of."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.reference import read
from torch import Tensor

from lookalike import backbones
from lookalike.core import Batch, Progress
from lookalike.masks import block_masks, random_masks
from lookalike.methods.dino import DINO
from lookalike.methods.dinov2 import DINOv2
from lookalike.methods.ibot import IBOT
from lookalike.random import keys_of
from lookalike.schedules import Schedule
from lookalike.views import View, resized

STATISTICS = read("mask_statistics")
TARGETS = [(name, t) for name in ("grid14", "grid16") for t in STATISTICS[name]["hp/targets"].tolist()]


def frequencies_agree(mask: Tensor, expected: object) -> bool:
    """Each cell within 0.15, as the reference's README suggests: it has 600 draws."""
    return float((mask.float().mean(0) - torch.from_numpy(expected)).abs().max()) < 0.15


@pytest.mark.parametrize(("name", "target"), TARGETS)
def test_blocks_are_dinov2s(name: str, target: int) -> None:
    case = STATISTICS[name]
    side, largest = case["hp/side"].item(), int(case["hp/max_num_patches"])
    keys = keys_of(name, target, torch.arange(1000))
    mask = block_masks(keys, torch.full((1000,), target), side, side, case["hp/min_num_patches"].item(), largest)
    counts = mask.sum((1, 2)).float()
    assert counts.max() <= target
    assert counts.mean().item() == pytest.approx(case[f"out/counts_{target}"].mean(), rel=0.01)
    assert frequencies_agree(mask, case[f"out/position_frequency_{target}"])


def method(cls: type, images: int, side: int, **changes: object) -> tuple[object, Batch]:
    """A method that masks side x side patches, and a batch of that many images."""
    views = resized(cls.Config().views, 16 * side, 16)
    cfg = cls.Config(hidden_dim=8, bottleneck_dim=8, prototypes=8, views=views, **changes)
    made = cls(cfg, backbones.create("test_vit", image_size=16 * side, mask_token=True))
    return made, Batch([torch.empty(0, 3, 16 * side, 16 * side)], torch.arange(images), Progress(0, 10, 10))


@pytest.mark.parametrize("name", ["ibot_block_03", "ibot_block_0_03", "ibot_rand_07"])
def test_masks_are_ibots(name: str) -> None:
    case = STATISTICS[name]
    ibot, batch = method(
        IBOT, 1000, 14, mask_ratios=tuple(case["hp/pred_ratio"].tolist()),
        mask_spreads=tuple(case["hp/pred_ratio_var"].tolist()), blocks=bool(case["hp/is_block"]),
    )  # fmt: skip
    mask = ibot._masks(batch).view(-1, 14, 14)
    within = 0.1 if name == "ibot_block_0_03" else 0.01  # half of its views have no mask
    assert mask.sum((1, 2)).float().mean().item() == pytest.approx(case["out/counts"].mean(), rel=within)
    assert frequencies_agree(mask, case["out/position_frequency"])


@pytest.mark.parametrize("name", ["grid14", "grid16"])
def test_half_of_a_batch_is_masked_as_in_dinov2(name: str) -> None:
    """Of 64 views (two of 32 images) 32 in even steps from a tenth to a half; compared share by share, sorted."""
    case = STATISTICS[name]
    side = case["hp/side"].item()
    dinov2, batch = method(DINOv2, 32, side)
    found = []
    for step in range(60):
        mask = dinov2._masks(dataclasses.replace(batch, progress=Progress(step, 100, 10)))
        assert int((mask.sum(1) > 0).sum()) == case["out/collate_n_images_with_mask"][step] == 32
        assert int(mask.sum()) <= case["out/collate_upperbound"][step]
        found.append(mask.float().mean(1).sort().values)
    expected = torch.from_numpy(case["out/collate_sorted_fractions"])
    assert float((torch.stack(found).mean(0) - expected.mean(0)).abs().max()) < 0.01
    weight = case["out/collate_example_masks_weight"]
    example = torch.from_numpy(case["out/collate_example_masks"])
    torch.testing.assert_close((1 / example.sum(1, keepdim=True)).expand_as(example)[example], torch.from_numpy(weight))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 90), st.integers(0, 9), st.integers(0, 2**31))
def test_no_mask_has_more_than_its_count(rows: int, columns: int, count: int, smallest: int, seed: int) -> None:
    keys, counts = keys_of(seed, torch.arange(6)), torch.full((6,), min(count, rows * columns))
    blocks = block_masks(keys, counts, rows, columns, smallest, None)
    assert blocks.shape == (6, rows, columns)
    assert bool((blocks.sum((1, 2)) <= counts).all())
    singles = random_masks(keys, counts, rows, columns)
    assert singles.sum((1, 2)).tolist() == counts.tolist()


def test_a_mask_depends_on_its_image_alone() -> None:
    keys, counts = keys_of("x", torch.arange(8)), torch.arange(8) * 4
    whole = block_masks(keys, counts, 7, 7, 4, None)
    part = block_masks(keys[3:5], counts[3:5], 7, 7, 4, None)
    assert torch.equal(whole[3:5], part)
    assert torch.equal(random_masks(keys, counts, 7, 7)[3:5], random_masks(keys[3:5], counts[3:5], 7, 7))
    ibot, batch = method(IBOT, 8, 4)
    both = ibot._masks(batch)
    some = ibot._masks(dataclasses.replace(batch, index=batch.index[2:4]))
    assert torch.equal(some, both[[2, 3, 10, 11]])
    assert not torch.equal(both, ibot._masks(dataclasses.replace(batch, progress=Progress(1, 10, 10))))


def test_settings_that_cannot_be() -> None:
    for cls, options, words in (
        (IBOT, {"mask_ratios": (0.9,), "mask_spreads": (0.2,)}, "must lie within 0 and 1"),
        (IBOT, {"mask_ratios": (0.3, 0.1, 0.1)}, "must have the same length"),
        (IBOT, {"mask_ratios": (), "mask_spreads": ()}, "at least 1"),
        (IBOT, {"patch_temp": Schedule(0.0)}, "patch_temp goes down to 0"),
        (DINOv2, {"koleo_weight": -1.0}, "koleo_weight is -1.0; it must not be negative"),
        (DINOv2, {"mask_ratios": (0.5, 0.1)}, "the smaller ratio first"),
        (DINOv2, {"drop_path": 1.0}, "it is a probability"),
        (IBOT, {"views": (View(size=64), View(size=48))}, "they have 64 and 48 pixels. Give them the same size"),
        (DINO, {"teacher_temp": Schedule(0.0)}, "teacher_temp goes down to 0"),
        (DINO, {"freeze_epochs": -1.0}, "must not be negative"),
    ):
        with pytest.raises(ValueError, match=words):
            cls.Config(**options)
    with pytest.raises(ValueError, match="does not support masks"):
        backbones.create("test_resnet", image_size=32, mask_token=True)

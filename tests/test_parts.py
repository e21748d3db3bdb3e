"""Scores that are computed in parts: the same assignments, losses and gradients, without the scores of all rows."""

import dataclasses
from typing import Any

import pytest
import torch
from support.methods import batch, small
from torch import Tensor

from lookalike import training
from lookalike.backbones.micro_batches import in_micro_batches
from lookalike.core import Batch, Method
from lookalike.parts import summed_in_parts
from lookalike.runs import Run
from lookalike.sinkhorn import assigned, balance, sinkhorn
from lookalike.training.memory import _Watch
from lookalike.views import resized


@pytest.mark.parametrize("iterations", [1, 3])
@pytest.mark.parametrize("count", [1, 3, 20])
def test_assignments_by_parts_are_those_of_all_samples(count: int, iterations: int) -> None:
    """Parts of different sizes, and empty ones."""
    scores = torch.randn(13, 7, dtype=torch.float64)
    offset = balance(lambda: iter(scores.tensor_split(count)), 0.05, iterations)
    found = torch.cat([assigned(part, 0.05, offset) for part in scores.tensor_split(count)])
    torch.testing.assert_close(found, sinkhorn(scores, 0.05, iterations), rtol=0, atol=1e-13)


def test_a_sum_in_parts_has_the_gradients_of_the_whole_sum() -> None:
    x, weight = torch.randn(10, 4, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64, requires_grad=True)

    def loss(x: Tensor, y: Tensor) -> Tensor:
        return ((x @ weight).logsumexp(1) * y).sum()

    expected = torch.autograd.grad(loss(x, x[:, 0]), weight)
    found = torch.autograd.grad(summed_in_parts(loss, 4, x, x[:, 0]), weight)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)


def dinov2(size: int = 32, **changes: Any) -> tuple[Method, Batch]:
    torch.manual_seed(0)
    cfg: Any = small("dinov2")
    cfg = dataclasses.replace(cfg, views=resized(cfg.views, size, 16), drop_path=0.0, mask_probability=1.0, **changes)
    run = Run(data="", method=cfg, backbone="test_vit", image_size=size)
    method = training.build(run).double().train()  # type: ignore[arg-type]
    method.before_training()
    own = batch(method)
    return method, dataclasses.replace(own, views=[view.double() for view in own.views])


def gradients(method: Method) -> list[Tensor]:
    found = [p.grad.clone() for p in method.parameters() if p.grad is not None]
    method.zero_grad()
    return found


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("centering", ["softmax", "sinkhorn"])
def test_dinov2_in_parts_under_every_setting(centering: str, separate: bool) -> None:
    method, whole = dinov2(centering=centering, separate_heads=separate)
    undivided = method(whole)
    undivided["loss"].backward()
    expected = gradients(method)
    with in_micro_batches(method, 4):
        outputs = method(whole)
    outputs["loss"].backward()
    for name in ("loss", "patch_loss", "patch_sum"):
        torch.testing.assert_close(outputs[name], undivided[name], rtol=1e-11, atol=1e-12)
    most = max(float(g.abs().max()) for g in expected)
    for found, right in zip(gradients(method), expected, strict=True):
        assert float((found - right).abs().max()) < 1e-11 * most


def test_no_tensor_holds_the_scores_of_all_patches() -> None:
    method, whole = dinov2(64, prototypes=5000, mask_ratios=(0.8, 0.8))
    patches = int(method(whole)["patch_count"])
    sizes = {}
    for count in (1, 4):
        watch = _Watch([])
        with watch, in_micro_batches(method, count):
            method(whole)["loss"].backward()
        sizes[count] = max(watch.tensors().sizes)
    scores = patches * 5000 * 8
    # what is left: the scores of views, and parts that differ by a patch
    assert sizes[1] >= scores > 2 * sizes[4]

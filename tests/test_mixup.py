"""Mixup and CutMix: the papers' equations, timm's numbers, and draws of torch's generator alone."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lookalike.methods import mixup
from lookalike.methods.mixup import Mixing


def test_mixup_is_the_papers_equation() -> None:
    x, labels = torch.rand(5, 3, 6, 4), torch.tensor([0, 1, 2, 1, 0])
    kept = x.clone()
    mixed = Mixing(0.3)
    made, targets = mixed.images(x), mixed.targets(labels, 4)
    for i in range(5):
        assert torch.allclose(made[i], 0.3 * x[i] + 0.7 * x[4 - i])
        wanted = torch.zeros(4)
        wanted[labels[i]] += 0.3
        wanted[labels[4 - i]] += 0.7
        assert torch.allclose(targets[i], wanted)
    assert torch.equal(x, kept)


def test_a_box_beyond_the_border_takes_less_of_the_label() -> None:
    """CutMix about a corner of 8 x 12 pixels: a box of half the sides, of which a quarter is inside."""
    x = torch.rand(2, 3, 8, 12)
    mixed = mixup.cut(0.75, (0, 0), 8, 12)
    assert mixed.box == (0, 2, 0, 3)
    assert mixed.weight == pytest.approx(1 - 6 / 96)
    made = mixed.images(x)
    assert torch.equal(made[0, :, :2, :3], x[1, :, :2, :3])
    assert torch.equal(made[0, :, 2:], x[0, :, 2:])
    assert torch.equal(made[0, :, :, 3:], x[0, :, :, 3:])
    assert mixup.cut(1.0, (4, 4), 8, 12).weight == 1
    assert mixup.cut(0.0, (4, 6), 8, 12) == Mixing(0.0, (0, 8, 0, 12))


@pytest.mark.parametrize("seed", range(6))
def test_images_and_loss_are_timms(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given the same draws, `Mixup` and `SoftTargetCrossEntropy` of timm."""
    from timm.data import mixup as timms
    from timm.loss import SoftTargetCrossEntropy

    alpha = {"mixup": 0.8 if seed % 2 else 0.0, "cutmix": 0.0 if seed % 2 else 1.0}
    x, labels, logits = torch.rand(6, 3, 9, 14), torch.randint(4, (6,)), torch.randn(6, 4)
    torch.manual_seed(seed)
    mixed = mixup.drawn(**alpha, height=9, width=14)
    torch.manual_seed(seed)  # what was drawn, in the order of the draws
    a = alpha["mixup"] or alpha["cutmix"]
    share = float(torch.distributions.Beta(a, a).sample())
    middle = [int(torch.randint(9, ())), int(torch.randint(14, ()))]
    monkeypatch.setattr(np.random, "rand", lambda *shape: 0.0)
    monkeypatch.setattr(np.random, "beta", lambda *args, **kwargs: share)
    monkeypatch.setattr(np.random, "randint", lambda *args, **kwargs: middle.pop(0))
    theirs = timms.Mixup(alpha["mixup"], alpha["cutmix"], label_smoothing=0.1, num_classes=4)
    images, targets = theirs(x.clone(), labels)
    assert torch.allclose(mixed.images(x), images, atol=1e-6)
    loss = F.cross_entropy(logits, mixed.targets(labels, 4), label_smoothing=0.1)
    assert float(loss) == pytest.approx(float(SoftTargetCrossEntropy()(logits, targets)), rel=1e-5)


def test_draws_come_from_torchs_generator_alone() -> None:
    np.random.seed(0)  # noqa: NPY002 (timm's generator)
    before = np.random.get_state()[1].copy()  # type: ignore[index]  # noqa: NPY002
    torch.manual_seed(1)
    first = [mixup.drawn(0.8, 1.0, 32, 32) for _ in range(200)]
    torch.manual_seed(1)
    assert [mixup.drawn(0.8, 1.0, 32, 32) for _ in range(200)] == first
    assert (np.random.get_state()[1] == before).all()  # type: ignore[index]  # noqa: NPY002
    cuts = sum(mixed.box is not None for mixed in first)
    assert 70 < cuts < 130
    labels = torch.arange(7) % 4
    sums = torch.stack([mixed.targets(labels, 4).sum(1) for mixed in first])
    assert torch.allclose(sums, torch.ones_like(sums))
    assert mixup.drawn(0.0, 0.0, 32, 32) == mixup.WHOLE

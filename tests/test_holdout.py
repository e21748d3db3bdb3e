"""Random test images: about the fraction of each class, no group on both sides, whatever the order of the images."""

import numpy as np
import pytest
import torch
from torch import Tensor

from lookalike.data import holdout
from lookalike.data.holdout import held_out
from lookalike.random import key_of


def keys(names: list[str]) -> Tensor:
    return torch.tensor([key_of(name) for name in names])


def drawn(seed: int, images: int = 120, classes: int = 4) -> tuple[Tensor, Tensor, np.random.Generator]:
    """Images in groups of 1 to 12, of random classes."""
    random = np.random.default_rng(seed)
    groups = random.integers(0, 25, images)
    return keys([f"patient {n}" for n in groups]), torch.from_numpy(random.integers(0, classes, images)), random


@pytest.mark.parametrize("seed", range(60))
def test_no_group_is_on_both_sides_and_no_class_disappears_from_training(seed: int) -> None:
    units, labels, _ = drawn(seed)
    test = held_out(units, labels, 0.2, seed)
    assert not {*units[test].tolist()} & {*units[~test].tolist()}
    assert 0.1 <= test.double().mean() <= 0.3
    assert {*labels[~test].tolist()} == {*labels.tolist()}


@pytest.mark.parametrize("seed", range(20))
def test_the_order_of_the_images_does_not_matter(seed: int) -> None:
    units, labels, random = drawn(seed)
    singles = keys([f"{n}.jpg" for n in range(len(labels))])
    sets = torch.from_numpy(random.random((len(labels), 5)) < 0.3)
    order = torch.from_numpy(random.permutation(len(labels)))
    for unit in (units, singles):
        for classes in (labels, sets):
            one, other = (
                held_out(unit[rows], classes[rows], 0.25, seed) for rows in (torch.arange(len(labels)), order)
            )
            assert torch.equal(one[order], other)
    assert not torch.equal(held_out(singles, labels, 0.2, seed), held_out(singles, labels, 0.2, seed + 1))


def test_single_images_have_the_rounded_fraction_of_each_class() -> None:
    labels = torch.tensor([0] * 40 + [1] * 12 + [2] * 2 + [3])
    test = held_out(keys([f"{n}.jpg" for n in range(55)]), labels, 0.2, 3)
    assert labels[test].bincount(minlength=4).tolist() == [8, 2, 1, 0]
    several = torch.nn.functional.one_hot(labels) > 0
    assert (held_out(keys([f"{n}.jpg" for n in range(55)]), several, 0.2, 3)[:, None] & several).sum(0).tolist() == [
        8, 2, 1, 0,
    ]  # fmt: skip


@pytest.mark.parametrize("seed", range(5))
def test_single_images_are_drawn_as_groups_of_one_image_are(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(seed)
    labels, units = torch.from_numpy(random.integers(0, 6, 200)), keys([f"{n}.jpg" for n in range(200)])
    fast = held_out(units, labels, 0.3, seed)
    monkeypatch.setattr(holdout, "ATTEMPTS", 1)
    slow = held_out(torch.cat([units, units[:1]]), torch.cat([labels, labels[:1]]), 0.3, seed)
    # one image is there twice, which makes groups of all
    assert slow[0] == slow[-1]
    assert (fast != slow[:-1]).sum() <= 3


def test_groups_are_chosen_near_the_fraction_of_each_class() -> None:
    random = np.random.default_rng(0)
    groups = np.repeat(np.arange(200), 5)
    labels = torch.from_numpy(np.repeat(random.integers(0, 3, 200), 5))
    test = held_out(keys([f"{n}" for n in groups]), labels, 0.2, 0)
    parts = labels[test].bincount() / labels.bincount()
    assert ((parts - 0.2).abs() < 0.02).all()


def test_large_groups_leave_one_for_testing() -> None:
    units, labels = keys(["a"] * 5 + ["b"] * 5), torch.tensor([0, 1] * 5)
    test = held_out(units, labels, 0.2, 0)
    assert test.sum() == 5
    apart = held_out(units, torch.tensor([0] * 5 + [1] * 5), 0.2, 0)  # each class is one group
    assert apart.sum() == 5
    with pytest.raises(ValueError, match="All images are of one group"):
        held_out(keys(["a"] * 5), torch.tensor([0, 1, 0, 1, 0]), 0.2, 0)
    assert held_out(keys(["a", "b"]), torch.tensor([0, 1]), 0.2, 0).sum() == 1

"""What SwAV and DeepCluster-v2 keep from step to step, and LeJEPA's directions."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.methods import batch, make, small
from support.outputs import detached
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import Dataset

from lookalike import progress, training
from lookalike.core import Batch, Method, Progress
from lookalike.layers import Prototypes
from lookalike.losses import unit
from lookalike.methods.deepcluster_v2 import DeepClusterV2
from lookalike.methods.lejepa import LeJEPA
from lookalike.methods.swav import SwAV
from lookalike.runs import Folder, Run
from lookalike.sinkhorn import sinkhorn
from lookalike.training import model, module


def swav(**changes: Any) -> SwAV:
    method = make("swav")
    assert isinstance(method, SwAV)
    return SwAV(dataclasses.replace(method.cfg, **changes), method.backbone).train()


def at(step: int, per_epoch: int = 5, steps: int = 20) -> Progress:
    return Progress(step, steps, per_epoch)


def one(method: Method, step: int, seed: int) -> Batch:
    return dataclasses.replace(batch(method, seed=seed), progress=at(step))


def test_prototypes_are_directions_and_scores_are_exact() -> None:
    torch.manual_seed(0)
    prototypes = Prototypes(16, 5)
    torch.testing.assert_close(prototypes.weight.norm(dim=1), torch.ones(5))
    z = unit(torch.randn(4, 3, 16))
    with torch.autocast("cpu", torch.bfloat16):
        scores = prototypes(z)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, torch.einsum("vbd,kd->vbk", z, prototypes.weight))


def test_swavs_prototypes_are_frozen_at_first_and_of_length_1_after_each_step() -> None:
    method = swav(freeze_epochs=1.0)
    for step, frozen in ((4, True), (5, False)):
        outputs = method(one(method, step, step))
        outputs["loss"].backward()
        method.before_step(at(step))
        assert (method.prototypes.weight.grad is None) is frozen
    with torch.no_grad():
        method.prototypes.weight.mul_(3)
    method.after_step(at(5), [detached(outputs)])
    torch.testing.assert_close(method.prototypes.weight.norm(dim=1), torch.ones(6))


def test_swavs_queue_collects_from_its_epoch_on_and_helps_once_it_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    method = swav(queue=16, queue_starts=1)
    shared: list[Tensor] = []

    def watched(scores: Tensor, epsilon: float, iterations: int) -> Tensor:
        shared.append(scores)
        return sinkhorn(scores, epsilon, iterations)

    monkeypatch.setattr("lookalike.methods.swav.sinkhorn", watched)
    rows, filled = [], []
    for step in range(3, 9):
        shared.clear()
        outputs = method(one(method, step, step))
        method.after_step(at(step), [detached(outputs)])
        rows.append([len(scores) for scores in shared])
        filled.append(method.queues[0].filled())
    assert rows == [[8, 8]] * 4 + [[24, 24]] * 2  # of batches 5 and 6 first
    assert filled == [0, 0, 0.5, 1, 1, 1]
    for view, queue in enumerate(method.queues):  # they hold batches 7 and 8, of which 8 was scored last
        torch.testing.assert_close(shared[view][-8:], method.prototypes(queue.keys.T[8:]).detach())


def test_swav_without_a_queue_has_none() -> None:
    method = swav(queue=0)
    outputs = method(one(method, 9, 0))
    outputs["loss"].backward()
    method.after_step(at(9), [detached(outputs)])
    assert not [name for name in method.state_dict() if "queue" in name]
    assert "queue_filled" not in method.metrics(outputs)
    assert 0 < method.metrics(outputs)["prototype_usage"] <= 1


def test_swav_names_targets_that_are_too_vague() -> None:
    assert "--epsilon 0.2" in swav(epsilon=0.2, temperature=0.1).diagnose()
    assert swav().diagnose() == ""


def deepcluster() -> DeepClusterV2:
    method = make("deepcluster_v2")
    assert isinstance(method, DeepClusterV2)
    return method


def test_a_survey_fills_the_bank_and_groups_what_it_saw() -> None:
    method = deepcluster()
    seen = method.bank[0].any(1)
    assert seen.nonzero().flatten().tolist() == list(range(8))  # the contract's batches are of images 0 to 7
    torch.testing.assert_close(method.bank[:, seen].norm(dim=-1), torch.ones(2, 8))
    assert bool((method.assignments[:, seen] >= 0).all())
    assert bool((method.assignments[:, ~seen] == -100).all())
    for h, head in enumerate(method.prototypes):
        nearest = (method.bank[h % 2, seen] @ head.weight.T).argmax(1)
        assert torch.equal(nearest, method.assignments[h, seen])
    assert set(method.metrics({})) == {"empty_clusters", "cluster_entropy"}
    assert 0 <= method.metrics({})["empty_clusters"] < 1


def test_groups_are_made_anew_after_each_epoch_but_the_last() -> None:
    method = deepcluster()
    made = []
    for step in range(20):
        outputs = method(one(method, step, step))
        if step not in (9, 10):  # two steps that were dropped, the last of an epoch and the first of the next
            method.after_step(at(step), [detached(outputs)])
        made.append(int(method.clustered))
    assert made == [0] * 4 + [1] * 7 + [2] * 3 + [3] * 6


def test_images_without_a_group_do_not_count() -> None:
    method = deepcluster()
    views = batch(method)
    whole = method(views)["loss"]
    part = dataclasses.replace(views, index=torch.tensor([0, 1, 2, 3, 20, 21, 22, 23]))
    assert method(part)["loss"].isfinite()
    assert method(part)["loss"] != whole
    unknown = dataclasses.replace(views, index=torch.arange(20, 28))
    loss = method(unknown)["loss"]
    loss.backward()
    assert loss == 0
    assert all(p.grad is not None and not p.grad.any() for p in method.parameters() if p.requires_grad)


def test_too_few_images_for_the_groups_are_said() -> None:
    method = DeepClusterV2(dataclasses.replace(small("deepcluster_v2"), prototypes=(9,)), deepcluster().backbone)
    with pytest.raises(ValueError, match="8 images cannot form 9 clusters"):
        method.initialize_bank([batch(method)])


def test_pretrain_shows_a_survey_each_image_once(
    classed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    survey = DeepClusterV2.initialize_bank

    def watched(self: DeepClusterV2, batches: Any) -> None:
        def noted() -> Any:
            for views in batches:
                seen.extend(views.index.tolist())
                assert not torch.is_grad_enabled()
                yield views

        survey(self, noted())
        assert self.training

    monkeypatch.setattr(DeepClusterV2, "initialize_bank", watched)
    monkeypatch.setattr(progress, "LINE_SECONDS", 0)
    run = Run(data=classed, method=small("deepcluster_v2"), backbone="test_byobnet", image_size=32, epochs=1,
              batch_size=8, workers=0, out=str(tmp_path / "run"))  # fmt: skip
    result = training.pretrain(run)
    assert sorted(seen) == list(range(40))
    assert {"empty_clusters", "cluster_entropy"} <= result.metrics[-1].keys()
    seen.clear()
    training.pretrain(dataclasses.replace(run, epochs=2, resume=True))
    assert seen == []
    assert Folder(run.out).log.read_text().count("memory bank 40 of 40 images encoded") == 1


def test_lejepas_directions_are_new_in_each_step_and_follow_from_it() -> None:
    method = make("lejepa")
    assert isinstance(method, LeJEPA)
    first, again, second = (method._directions(at(step), torch.device("cpu")) for step in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    torch.testing.assert_close(first.norm(dim=0), torch.ones(16))
    many = torch.cat([method._directions(at(step), torch.device("cpu")) for step in range(200)], 1)  # (32, 3200)
    torch.testing.assert_close(many @ many.T / 3200, torch.eye(32) / 32, atol=0.005, rtol=0)  # to all sides alike


def test_what_is_not_finite_does_not_enter_the_bank() -> None:
    method = deepcluster()
    before = method.bank.clone()
    z = unit(torch.randn(2, 4, 32))
    z[1, 2, 0] = torch.nan
    method._remember([{"index": torch.tensor([0, 1, 2, 3]), "z1": z[0], "z2": z[1]}])
    assert torch.equal(method.bank[:, [0, 1, 3]], z[:, [0, 1, 3]])
    assert torch.equal(method.bank[:, 2], before[:, 2])


def test_deepcluster_wants_to_be_shown_the_images_first() -> None:
    method = DeepClusterV2(small("deepcluster_v2"), deepcluster().backbone)
    with pytest.raises(RuntimeError, match=r"Call initialize_bank\(batches\) once"):
        method(batch(method))


class Poisoned(Dataset[np.ndarray]):
    """Images of which one makes float32 overflow."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, i: int) -> np.ndarray:
        return np.random.default_rng(i).random((16, 16, 3), np.float32)


def test_a_survey_survives_what_is_not_finite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One batch of the survey, and no other, has such a view."""
    made, views_of = [], module.make_views

    def poisoned(*args: Any, **options: Any) -> list[Tensor]:
        views = views_of(*args, **options)
        made.append(1)
        if len(made) == 5:  # a picture of the views and the health figures' come first
            views[0][0] = torch.nan
        return views

    monkeypatch.setattr(module, "make_views", poisoned)
    monkeypatch.setattr(model, "make_views", poisoned)
    run = Run(data=Poisoned(), method=small("deepcluster_v2"), backbone="test_byobnet", image_size=32, epochs=1,
              batch_size=8, workers=0, out=str(tmp_path / "run"))  # fmt: skip
    result = training.pretrain(run)
    assert len(made) > 5
    assert result.metrics[-1]["skipped"] == 0
    state = torch.load(Folder(run.out).last, weights_only=True)["state_dict"]
    assert all(bool(value.isfinite().all()) for value in state.values())


class Indices(TorchDispatchMode):
    """Notes the places that values are put to."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[list[int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.index_put_.default:
            self.seen += [x.tolist() for x in args[1] if x is not None]
        return func(*args, **(kwargs or {}))


def test_of_an_image_twice_in_a_step_the_bank_keeps_the_last_embedding() -> None:
    """Each place is written once: on a GPU any of two would win. What is not finite does not count."""
    method = deepcluster()
    before = method.bank.clone()
    index = torch.tensor([30, 21, 30, 25, 30, 21, 22])
    z = torch.nn.functional.normalize(torch.randn(2, 7, method.bank.shape[2]), dim=2)
    z[0, 5, 0] = torch.nan
    # of two micro-batches
    parts = [{"index": index[part], "z1": z[0, part], "z2": z[1, part]} for part in (slice(4), slice(4, None))]
    with Indices() as put:
        method.after_step(at(3), parts)
    assert [sorted(places) for places in put.seen] == [[21, 22, 25, 30]]
    for image, row in ((21, 1), (22, 6), (25, 3), (30, 4)):
        assert torch.equal(method.bank[:, image], z[:, row])
    untouched = [i for i in range(len(before[0])) if i not in (21, 22, 25, 30)]
    assert torch.equal(method.bank[:, untouched], before[:, untouched])


def test_swavs_queue_is_scored_in_float32_under_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    method = swav(queue=16, queue_starts=0)
    for queue in method.queues:
        queue.add(torch.randn(16, queue.keys.shape[0]))
    shared: list[Tensor] = []
    monkeypatch.setattr("lookalike.methods.swav.sinkhorn", lambda scores, *rest: shared.append(scores) or scores)
    with torch.autocast("cpu", torch.bfloat16):
        method(one(method, 3, 0))
    for scores, queue in zip(shared, method.queues):
        assert torch.equal(scores[:16], queue.keys.T @ method.prototypes.weight.T)

"""The contract that every method of the table keeps. A new method needs no new test here."""

import copy
import dataclasses
import functools
import itertools
import os
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.methods import batch, make, narrow_vit, net, small, teacher
from support.outputs import detached
from timm.layers import DropPath
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from lookalike import distributed, optimizers, training
from lookalike.core import Batch, Config, DataFacts, Method, Outputs, Progress
from lookalike.kmeans import spherical_kmeans
from lookalike.layers import Center, Queue, Teacher
from lookalike.methods import METHODS, SELF_SUPERVISED, get_method
from lookalike.methods.byol import BYOL
from lookalike.methods.deepcluster_v2 import DeepClusterV2
from lookalike.methods.dino import DINO
from lookalike.methods.dinov2 import DINOv2
from lookalike.methods.distill import Distill
from lookalike.methods.ibot import IBOT
from lookalike.methods.lejepa import LeJEPA
from lookalike.methods.moco_v2 import MoCoV2
from lookalike.methods.moco_v3 import MoCoV3
from lookalike.methods.simclr import SimCLR
from lookalike.methods.swav import SwAV
from lookalike.runs import Folder, Run, by_user
from lookalike.schedules import Schedule
from lookalike.training import start as training_start
from lookalike.views import resized

pytestmark = pytest.mark.long(4)


@pytest.mark.parametrize("name", METHODS)
def test_the_table_tells_the_truth(name: str) -> None:
    method = get_method(name)
    assert method.Config.method is method
    assert method.__doc__
    assert dataclasses.fields(method.Config)
    assert get_method(name).__module__ == METHODS[name].module


def test_a_method_without_its_own_config_is_refused() -> None:
    with pytest.raises(TypeError, match="has no Config of its own"):
        type("Copy", (SimCLR,), {})


@pytest.mark.parametrize("name", SELF_SUPERVISED)
def test_imagenet_is_what_the_defaults_are_for(name: str) -> None:
    """`fit_to` leaves them alone at 1.28 million images of 224 pixels."""
    cfg = get_method(name).Config()  # type: ignore[call-arg]
    patch = 16 if hasattr(cfg, "drop_path") else None  # its own setting is a ViT's
    assert cfg.fit_to(DataFacts(1_281_167, 224, 256, patch_size=patch)) == cfg


def test_a_vit_and_a_large_batch_have_recipes_of_their_own() -> None:
    """MoCo v3's and LeJEPA's of ViTs, and SwAV's of batches of 4,096, which are DeepCluster v2's."""
    vit = MoCoV3.Config().fit_to(DataFacts(1_281_167, 224, 4096, patch_size=16))
    assert isinstance(vit, MoCoV3.Config)
    o = vit.optim
    assert (o.name, o.lr, o.weight_decay.start, o.warmup_epochs, o.exclude) == ("adamw", 1.5e-4, 0.1, 40, False)
    assert (vit.temperature, [v.scale for v in vit.views]) == (0.2, [(0.08, 1.0)] * 2)
    of_cnns, of_vits = (LeJEPA.Config().fit_to(DataFacts(1_281_167, 224, 512, patch_size=p)) for p in (None, 16))
    assert of_vits.optim == dataclasses.replace(of_cnns.optim, weight_decay=Schedule(5e-2))
    large = SwAV.Config().fit_to(DataFacts(1_281_167, 224, 4096))
    assert isinstance(large, SwAV.Config)
    assert large.optim == DeepClusterV2.Config().optim != SwAV.Config().optim
    assert (large.queue, large.views) == (0, DeepClusterV2.Config().views)


def test_views_of_methods_differ_where_the_papers_do() -> None:
    first, second = BYOL.Config().views
    assert second != first == dataclasses.replace(second, blur=first.blur, solarize=first.solarize)
    assert SwAV.Config().views == DeepClusterV2.Config().views
    wide, other, local = DINO.Config().views
    assert wide.scale == other.scale
    assert local.scale[1] == wide.scale[0]  # local views are smaller parts than all global ones


@given(images=st.integers(2, 2_000_000), batch_size=st.integers(2, 5000), size=st.sampled_from([32, 64, 96, 224]))
def test_a_fitted_queue_holds_whole_batches_of_a_part_of_the_images(images: int, batch_size: int, size: int) -> None:
    cfg = MoCoV2.Config().fit_to(DataFacts(images, size, batch_size))
    assert isinstance(cfg, MoCoV2.Config)
    cfg.check(DataFacts(images, size, batch_size))
    assert cfg.queue == batch_size or cfg.queue <= min(65536, images // 12)
    assert any(v.blur for v in cfg.views) is (size > 64)


@given(images=st.integers(2, 2_000_000), batch_size=st.integers(2, 5000), size=st.sampled_from([32, 64, 96, 224]))
def test_fitted_prototypes_bank_queue_and_crops(images: int, batch_size: int, size: int) -> None:
    batch_size = min(batch_size, images)
    for method in (SwAV, DeepClusterV2):
        start = method.Config()
        start = dataclasses.replace(start, views=resized(start.views, size))
        cfg = start.fit_to(DataFacts(images, size, batch_size))
        cfg.check(DataFacts(images, size, batch_size))
        assert [v.count for v in cfg.views] == ([2] if size <= 64 else [2, 6])
        assert any(v.blur for v in cfg.views) is (size > 64)
        most = max(2, images // 15)
        if isinstance(cfg, SwAV.Config):
            assert cfg.prototypes == min(3000, most)
            assert cfg.queue % batch_size == 0
            assert cfg.queue <= min(3840, images // 12)
        else:
            assert isinstance(cfg, DeepClusterV2.Config)
            assert cfg.prototypes == (min(3000, most),) * 3
            assert cfg.bank == images
            assert cfg.optim.warmup_lr <= cfg.optim.lr * cfg.optim.factor(batch_size) * (1 + 1e-9)


def numbers(part: object, name: str = "") -> dict[str, float]:
    """All numbers of a fitted configuration that are not counted in epochs, by their dotted names."""
    if dataclasses.is_dataclass(part):
        fields = dataclasses.fields(part)
        found = [numbers(vars(part)[f.name], f"{name}.{f.name}") for f in fields if "epochs" not in f.name]
        return {key: value for own in found for key, value in own.items()}
    if isinstance(part, tuple):
        return {key: value for i, one in enumerate(part) for key, value in numbers(one, f"{name}.{i}").items()}
    return {name: float(part)} if isinstance(part, int | float) and not isinstance(part, bool) else {}


@pytest.mark.parametrize("name", [*SELF_SUPERVISED, "distill", "finetune"])
@pytest.mark.parametrize("patch", [None, 16])
@pytest.mark.parametrize("size", [64, 224])
def test_no_image_or_epoch_more_makes_a_jump(name: str, patch: int | None, size: int) -> None:
    """From 500 images to those of ImageNet and from 1 epoch to 1,000: the same optimizer, and numbers that move evenly.

    Version 0.1 multiplied rates by up to 66 at 20,000 images.
    """
    cfg = get_method(name).Config()  # type: ignore[call-arg]
    if name == "distill":
        cfg = Distill.Config(teacher="timm/resnet18", teacher_size=224)  # type: ignore[assignment]
    counts = [round(500 * 1.1**i) for i in range(84)]
    epochs = sorted({round(1.1**i) for i in range(73)})
    for facts in (
        [DataFacts(images, size, 64, 100, patch) for images in counts],
        [DataFacts(5_000, size, 256, each, patch) for each in epochs],
    ):
        fitted = [training.fit_to(cfg, data) for data in facts]
        rounded = {".queue": facts[0].batch_size, ".prototypes": 1, ".bank": 1, ".hidden_dim": 256, ".out_dim": 256}
        if name == "lejepa" and patch is None:  # the one optimizer that changes, where a training is long
            assert [each.optim.name for each in fitted] == ["lars" if d.steps < 30_000 else "adamw" for d in facts]
        else:
            assert len({each.optim.name for each in fitted}) == 1
        for before, after, last, data in zip(fitted, fitted[1:], facts, facts[1:]):
            if before.optim.name != after.optim.name:
                continue
            old, new = numbers(before), numbers(after)
            assert old.keys() == new.keys()
            more = max(data.images / last.images, data.steps / last.steps)
            for key in old:
                high, low = max(old[key], new[key]), min(old[key], new[key])
                whole = next((w for part, w in rounded.items() if key.startswith(part)), 0)
                power = 2 if key == ".prototypes" and name in ("dino", "ibot", "dinov2") else 1  # they are powers of 2
                assert high <= max(more**2 * low * power, low + whole), (key, old[key], new[key], data)


def rates_of_the_docs() -> Iterator[tuple[str, int | None, list[str]]]:
    """Method, patch size and the other cells of each row of the first two tables of `docs/fitting.md`."""
    cnns, vits, *_ = re.split(r"\n\| (?:method|by)", (Path(__file__).parents[1] / "docs/fitting.md").read_text())[1:]
    of_cnns: list[str] = []
    for table, patch in ((cnns, None), (vits, 8)):
        for line in re.findall(r"^\| `.+", table, re.MULTILINE):
            methods, *cells = [cell.strip() for cell in line.strip("|").split("|")]
            names = re.findall("`(.+?)`", methods)
            if "all others" in methods:
                names += [n for n in of_cnns if n in SELF_SUPERVISED and n not in ("moco_v3", "dino", "lejepa")]
            of_cnns += names if patch is None else []
            yield from ((name, patch, cells) for name in names)


def fitted(name: str, data: DataFacts) -> Config:
    given = {"teacher": "timm/resnet18", "teacher_size": 224} if name == "distill" else {}
    return training.fit_to(get_method(name).Config(**given), data)


def test_the_docs_tell_the_rates_of_short_trainings() -> None:
    """300 steps in batches of 64."""
    called = {"LARS (Google's)": "lars_simclr", "LARS": "lars", "LARC": "larc", "SGD": "sgd", "AdamW": "adamw"}
    checked = set()
    for name, patch, (cell, *_) in rates_of_the_docs():
        if found := re.match(r"(LARS \(Google's\)|LARS|LARC|SGD|AdamW), (\d[\d.e-]*)( for 256 images)?", cell):
            optim = fitted(name, DataFacts(1500, 64, 64, 13, patch)).optim
            lr = optim.lr if found[3] else optim.lr * optim.factor(64)
            assert (optim.name, lr) == (called[found[1]], pytest.approx(float(found[2]))), (name, patch)
            checked.add((name, patch))
    assert len(checked) >= 26


def test_the_docs_tell_the_papers_rates() -> None:
    """100 epochs of ImageNet in batches of 256; the rows that say "the same" are those of the test above."""
    checked = set()
    for name, patch, (_, cell, *_) in rates_of_the_docs():
        if found := re.match(r"(?:AdamW, )?(\d[\d.e-]*)", cell):
            optim = fitted(name, DataFacts(1_281_167, 224, 256, 100, patch)).optim
            assert optim.lr * optim.factor(256) == pytest.approx(float(found[1])), (name, patch)
            checked.add((name, patch))
    assert len(checked) >= 26


@pytest.mark.parametrize(
    ("images", "prototypes", "momentum", "norm", "lr", "sharp"),
    [
        (1_000, 1024, 0.99, True, 4e-3, 0.02),
        (50_000, 4096, None, True, 5e-4, None),
        (1_300_000, None, None, False, 5e-4, None),
    ],
)
@pytest.mark.parametrize("name", ["dino", "ibot", "dinov2"])
def test_self_distillation_is_fitted_to_the_number_of_images(
    name: str, images: int, prototypes: int | None, momentum: float | None, norm: bool, lr: float, sharp: float | None
) -> None:
    paper: Any = get_method(name).Config()  # type: ignore[call-arg]
    run = Run(data="", method=paper, backbone="vit_tiny_patch16_224", epochs=200)
    cfg: Any = training.resolve(run, images)[0].method
    assert cfg.prototypes == (prototypes or paper.prototypes)
    assert cfg.momentum.start == (momentum or paper.momentum.start)
    assert sum(v.count for v in cfg.views) > 2  # at 224 pixels the paper's views
    if name == "dinov2":
        assert cfg.optim.lr == 4e-3
    else:
        assert bool(cfg.norm) is norm
        assert cfg.optim.lr == lr
    assert cfg.teacher_temp.start == (sharp or paper.teacher_temp.start)
    paper = dataclasses.replace(paper, views=resized(paper.views, 32, 4))
    cfg = paper.fit_to(DataFacts(images, 32, 256, patch_size=4))
    assert [v.count for v in cfg.views] == [1, 1]
    assert not any(v.blur for v in cfg.views)


def test_batchnorm_in_ibots_head_sees_all_patches_whatever_is_hidden() -> None:
    torch.manual_seed(0)
    for ratios in ((0.0,), (0.3,)):
        cfg: Any = dataclasses.replace(small("ibot"), norm=True, mask_ratios=ratios, mask_spreads=(0.0,))
        run = Run(data="", method=cfg, backbone="test_vit", image_size=32)
        method = training.build(run).train()
        found = method(batch(method))
        assert bool(found["loss"].isfinite())
        found["loss"].backward()
        assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in method.parameters())
        # student and teacher are alike at first: of patches that are not hidden both say the same
        x = torch.randn(4, 3, 32, 32)
        tokens = method.backbone.tokens(x).patches
        head, teacher = method.get_submodule("head"), method.get_submodule("teacher.1")
        torch.testing.assert_close(head(tokens, patches=True), teacher(tokens, patches=True))
        assert head(tokens, patches=True).shape == (4, 4, 6)


def test_ibots_logged_parts_include_their_weights() -> None:
    """As the official code's, whose parts add up to the loss."""
    parts, plain = {}, {}
    for weight, found in ((0.25, parts), (1.0, plain)):
        method = make("ibot")
        assert isinstance(method, IBOT)
        method.cfg = dataclasses.replace(method.cfg, patch_weight=weight)
        torch.manual_seed(1)  # for the blocks that are skipped
        found |= method(batch(method))
    assert parts["patch_loss"].item() == 0.25 * plain["patch_loss"].item() > 0
    assert parts["image_loss"] == plain["image_loss"]
    assert parts["loss"] == parts["image_loss"] + parts["patch_loss"]


def test_dinov2s_logged_koleo_includes_its_weight_and_its_patches_do_not() -> None:
    """As the official code's."""
    parts, plain = {}, {}
    for weight, koleo, found in ((0.25, 0.5, parts), (1.0, 1.0, plain)):
        method = make("dinov2")
        assert isinstance(method, DINOv2)
        method.cfg = dataclasses.replace(method.cfg, patch_weight=weight, koleo_weight=koleo)
        torch.manual_seed(1)
        found |= method(batch(method))
    assert parts["koleo"].item() == 0.5 * plain["koleo"].item()
    assert parts["patch_loss"] == plain["patch_loss"]
    torch.testing.assert_close(parts["loss"], parts["image_loss"] + 0.25 * parts["patch_loss"] + parts["koleo"])


def test_a_frozen_last_layer_counts_in_dinov2s_clipping_and_gathers_moments() -> None:
    """Two steps are those of an optimizer that has a learning rate of 0 for it, as in the official code."""
    method = make("dinov2")
    assert isinstance(method, DINOv2)
    cfg = dataclasses.replace(method.cfg.optim, clip=1e-3)
    twin = copy.deepcopy(method)
    rates, wanted = (optimizers.build(each, cfg, 256, fused=False) for each in (method, twin))
    last = twin.head.last_parameters()
    for group in wanted.optimizer.param_groups:
        group["params"] = [p for p in group["params"] if all(p is not q for q in last)]
    wanted.optimizer.add_param_group({"params": last, "lr": 0.0, "weight_decay": 0.1, "adapt": True})
    begun = [p.detach().clone() for p in last]
    for at in (Progress(3, 20, 5), Progress(4, 20, 5)):  # after the warm-up's first
        for each, own in ((method, rates), (twin, wanted)):
            torch.manual_seed(at.step)  # for the blocks that are skipped
            each.zero_grad()
            outputs = each(dataclasses.replace(batch(each, seed=at.step), progress=at))
            outputs["loss"].backward()
            if each is method:
                each.before_step(at)
            optimizers.clip(each, cfg)
            norm = torch.stack([p.grad.norm() for p in each.head.parameters() if p.grad is not None]).norm()
            assert norm.item() == pytest.approx(1e-3, rel=1e-3)  # the last layer's included
            own.apply(at)
            own.optimizer.step()
            each.after_step(at, [detached(outputs)])
    assert all(torch.equal(p, q) for p, q in zip(method.parameters(), twin.parameters()))
    assert all(torch.equal(p, q) for p, q in zip(method.head.last_parameters(), begun))
    for p, q in zip(method.head.last_parameters(), last):
        moments, theirs = rates.optimizer.state[p]["exp_avg"], wanted.optimizer.state[q]["exp_avg"]
        assert torch.equal(moments, theirs)
        assert moments.any()


@pytest.mark.parametrize("name", ["ibot", "dinov2", "lejepa", "moco_v2", "deepcluster_v2"])
def test_what_a_method_draws_depends_on_the_runs_seed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And on nothing else: the same seed draws the same."""

    def drawn(seed: int) -> torch.Tensor:
        method = make(name)
        views = dataclasses.replace(batch(method, 40), progress=Progress(3, 20, 5, seed))
        if isinstance(method, IBOT | DINOv2):
            return method._masks(views)
        if isinstance(method, LeJEPA):
            return method._directions(views.progress, torch.device("cpu"))
        if isinstance(method, MoCoV2):  # of two processes, with the same images
            monkeypatch.setattr(distributed, "world", lambda: 2)
            monkeypatch.setattr(distributed, "gather", lambda x: torch.cat([x, x + 1]))
            seen: list[torch.Tensor] = []
            monkeypatch.setattr(method.momentum_encoder, "forward", lambda x: seen.append(x) or x[:, 0, 0, :2])
            method._keys_of(views.views[1], views.progress)
            monkeypatch.undo()
            return seen[0]
        assert isinstance(method, DeepClusterV2)
        begun: list[torch.Tensor] = []

        def kmeans(x: torch.Tensor, centroids: torch.Tensor, rounds: int) -> tuple[torch.Tensor, torch.Tensor]:
            begun.append(centroids)
            return spherical_kmeans(x, centroids, rounds)

        monkeypatch.setattr("lookalike.methods.deepcluster_v2.spherical_kmeans", kmeans)
        generator = torch.Generator().manual_seed(0)
        method.bank.copy_(torch.randn(method.bank.shape, generator=generator))
        method._cluster(1, seed)
        return torch.cat(begun)

    assert torch.equal(drawn(5), drawn(5))
    assert not torch.equal(drawn(5), drawn(6))


def test_the_start_says_that_drop_path_does_not_reach_a_module_of_ones_own() -> None:
    run = Run(data="", method=small("dinov2"), backbone=narrow_vit())
    assert training_start._left_out(run) == [
        "            drop path 0.3 is not applied to your own module, which keeps its own"
    ]
    assert training_start._left_out(dataclasses.replace(run, backbone="test_vit")) == []
    assert training_start._left_out(dataclasses.replace(run, method=small("simclr"))) == []


def test_a_training_tells_its_method_the_seed(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: set[int] = set()
    monkeypatch.setattr(SimCLR, "after_step", lambda self, at, outputs: seeds.add(at.seed))
    fills = lambda self, batches: seeds.add(next(iter(batches)).progress.seed + 1)  # noqa: E731
    monkeypatch.setattr(SimCLR, "initialize_bank", fills)
    run = Run(data=photos, method=small("simclr"), backbone=net("simclr"), image_size=16, epochs=1, batch_size=8,
              workers=0, seed=7, out=str(tmp_path / "run"))  # fmt: skip
    training.pretrain(run)
    assert seeds == {7, 8}


def test_views_that_a_user_asked_for_are_kept_whole() -> None:
    """`fit_to` would leave out the local ones of small images."""
    base = Run(data="photos", method=SwAV.Config(), backbone="test_resnet", image_size=32, epochs=50)
    assert [v.count for v in training.resolve(base, 5000)[0].method.views] == [2]
    asked = dataclasses.replace(base, origins=by_user(["views.1.count"]))
    assert [v.count for v in training.resolve(asked, 5000)[0].method.views] == [2, 6]


def test_simsiams_predictor_keeps_its_learning_rate() -> None:
    method = make("simsiam")
    rates = optimizers.build(method, method.cfg.optim, 512, fused=False)
    heads = {id(p) for p in method.get_submodule("predictor").parameters()}
    for step in (0, 10, 19):
        rates.apply(Progress(step, 20, 5))
        for group in rates.optimizer.param_groups:
            apart = {id(p) in heads for p in group["params"]}
            assert len(apart) == 1
            assert group["lr"] == pytest.approx(0.1 if True in apart else rates.lr)
    assert rates.lr < 0.02


@pytest.mark.parametrize("name", ["moco_v2", "moco_v3", "byol", "dino", "ibot", "dinov2"])
def test_a_teacher_starts_from_the_weights_that_the_student_was_given(name: str) -> None:
    method = make(name)
    others = [part for name, part in method.named_children() if name != "predictor"]
    student = [part for part in others if not isinstance(part, (Teacher, Center, Queue))]
    with torch.no_grad():
        for p in method.parameters():
            p.add_(torch.rand_like(p))
    (teacher,) = (part for part in method.children() if isinstance(part, Teacher))
    assert teacher.distance(*student) > 0
    method.before_training()
    assert teacher.distance(*student) == 0


@pytest.mark.parametrize("name", METHODS)
def test_a_stated_optimizer_is_kept_whole_on_few_images(name: str) -> None:
    """By its name on the command line, as an object in Python; a learning rate alone changes the fitted one."""
    cfg = get_method(name).Config()  # type: ignore[call-arg]
    base = Run(data="photos", method=cfg, backbone="test_resnet", image_size=32, epochs=50)
    typed = dataclasses.replace(base, origins=by_user(["optim.name"]))
    assert training.resolve(typed, 5000)[0].method.optim == dataclasses.replace(
        cfg.optim, warmup_epochs=min(cfg.optim.warmup_epochs, 5)
    )
    own = dataclasses.replace(cfg.optim, lr=0.06)
    built = dataclasses.replace(base, method=dataclasses.replace(cfg, optim=own))
    assert training.resolve(built, 5000)[0].method.optim == dataclasses.replace(
        own, warmup_epochs=min(own.warmup_epochs, 5)
    )
    fitted = training.resolve(base, 5000)[0].method.optim
    tuned = dataclasses.replace(base, method=built.method, origins=by_user(["optim.lr"]))
    rise = min(fitted.warmup_lr, 0.06)  # a warm-up does not begin above its end
    assert training.resolve(tuned, 5000)[0].method.optim == dataclasses.replace(fitted, lr=0.06, warmup_lr=rise)
    large = training.fit_to(cfg, DataFacts(5000, 32, 4096, 50)).optim
    assert large.factor(4096) * large.lr < 20


@pytest.mark.parametrize("name", METHODS)
def test_every_trainable_parameter_gets_a_gradient(name: str) -> None:
    method = make(name)
    method(batch(method))["loss"].backward()
    unused = [n for n, p in method.named_parameters() if p.requires_grad and p.grad is None]
    assert not unused
    assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", METHODS)
def test_forward_changes_nothing_but_batchnorm_statistics(name: str) -> None:
    method = make(name)
    statistics = {
        f"{n}.{b}" for n, m in method.named_modules() if isinstance(m, _BatchNorm) for b, _ in m.named_buffers()
    }
    before, attributes = {n: v.clone() for n, v in method.state_dict().items()}, attributes_of(method)
    outputs = method(batch(method))
    changed = {n for n, v in method.state_dict().items() if not torch.equal(v, before[n])}
    assert changed <= statistics
    assert attributes_of(method) == attributes
    assert outputs["loss"].ndim == 0
    handed = method.cfg.needs.handed_over
    assert all(outputs[each].ndim for each in handed)  # scalars are parts of the loss


def attributes_of(method: Method) -> dict[str, object]:
    """Every attribute of every module that is no parameter, buffer or part: which object it is, and what it holds."""
    return {
        f"{place}.{name}": (id(value), repr(value))
        for place, module in method.named_modules()
        for name, value in vars(module).items()
        if name not in ("_parameters", "_buffers", "_modules")
    }


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_training_hands_over_what_the_steps_own_micro_batches_returned(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accumulate: int
) -> None:
    """Of a step that is dropped nothing; of the others what the method asks for, detached."""
    handed: list[tuple[int, list[list[str]]]] = []
    after_step, forward = MoCoV2.after_step, MoCoV2.forward

    def noted(self: MoCoV2, at: Progress, outputs: Sequence[Outputs]) -> None:
        assert not any(value.requires_grad for each in outputs for value in each.values())
        handed.append((at.step, [sorted(each) for each in outputs]))
        after_step(self, at, outputs)

    def poisoned(self: MoCoV2, views: Batch) -> dict[str, torch.Tensor]:
        outputs = forward(self, views)
        return outputs | ({"loss": outputs["loss"] * float("nan")} if views.progress.step == 1 else {})

    monkeypatch.setattr(MoCoV2, "after_step", noted)
    monkeypatch.setattr(MoCoV2, "forward", poisoned)
    run = Run(data=photos, method=small("moco_v2"), backbone=net("moco_v2"), image_size=32, epochs=1, batch_size=8,
              accumulate=accumulate, workers=0, out=str(tmp_path / "run"))  # fmt: skip
    training.pretrain(run)
    assert handed == [(step, [["keys"]] * accumulate) for step in range(5) if step != 1]


@pytest.mark.parametrize(
    ("hook", "now"), [("figures", "metrics"), ("fit_to", "Config.fit_to"), ("needs_labels", "Config.needs")]
)
def test_hooks_of_version_0_1_are_named(hook: str, now: str) -> None:
    """Else a method of one's own would quietly lose them."""
    config = dataclasses.dataclass(frozen=True)(type("Config", (Config,), {}))
    with pytest.raises(TypeError, match=rf"Own\.{hook} is Own\.{now} since version 0\.2"):
        type("Own", (Method,), {"Config": config, hook: None})
    with pytest.raises(TypeError, match=r"Own\.after_step takes \(self, at, outputs\) since version 0\.2"):
        type("Own", (Method,), {"Config": config, "after_step": lambda self, at: None})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@pytest.mark.parametrize("name", METHODS)
def test_loss_and_gradients_in_reduced_precision(name: str, dtype: torch.dtype) -> None:
    """The loss itself is computed in float32, and state stays in it; both are near those of float32."""
    # of smaller local views the last maps are 1 x 1, of which torch 2.14's convolutions for CPUs make NaN in bf16
    method, exact = make(name, 48), make(name, 48)
    for module in (*method.modules(), *exact.modules()):
        if isinstance(module, DropPath):
            module.drop_prob = 0.0  # its draws are others in another precision
    wanted = exact(batch(exact))["loss"]
    with torch.autocast("cpu", dtype):
        outputs = method(batch(method))
    loss = outputs["loss"]
    assert loss.shape == ()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(wanted.item(), rel=0.05, abs=0.05)
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)
    method.after_step(Progress(3, 20, 5), [detached(outputs)])
    assert {v.dtype for v in method.state_dict().values()} <= {torch.float32, torch.int64}
    assert all(torch.isfinite(v).all() for v in method.state_dict().values())


@pytest.mark.parametrize("name", METHODS)
def test_the_encoder_is_a_part_of_the_method_once(name: str) -> None:
    method = make(name)
    assert isinstance(method.encoder, nn.Module)
    pointers = [v.data_ptr() for v in method.state_dict().values() if v.numel() > 1]
    assert len(pointers) == len(set(pointers))


Whole = Callable[[str, int], Run]


@pytest.fixture(scope="module")
def whole(classed: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """Uninterrupted trainings of two epochs of five steps, by method and accumulation."""

    @functools.cache
    def trained(name: str, accumulate: int) -> Run:
        out = str(tmp_path_factory.mktemp("whole") / "run")
        cfg, size = small(name), 32 if net(name) == "test_vit" else 16  # for time
        cfg = dataclasses.replace(cfg, views=resized(cfg.views, size, 16 if size == 32 else None))
        run = Run(data=classed, method=cfg, backbone=net(name), image_size=size, epochs=2, batch_size=8,
                  accumulate=accumulate, workers=0, teacher=teacher(name), out=out)  # fmt: skip
        training.pretrain(run)
        return run

    return trained


ALWAYS = ("simclr", "moco_v2")

RESUMES = [
    (name, stop, accumulate)
    for name, stop, accumulate in itertools.product(METHODS, (5, 6, 7), (1, 2))
    if name in ALWAYS or (stop != 6 and accumulate == 2)
]
"""Methods, steps to stop after, micro-batches per step. All of them for two methods; for the others, whose loop is the
same and whose state is what differs, an epoch's end and the middle of one."""

EARLY = {name: [[7, 2]] for name in METHODS}
EARLY |= {name: [[5, 2], [6, 2], [7, 1], [7, 2]] for name in ALWAYS}
EARLY["deepcluster_v2"] = [[5, 2], [7, 2]]  # it clusters as an epoch begins
"""Those that are not slow."""


@pytest.mark.parametrize(
    ("name", "stop", "accumulate"),
    [pytest.param(name, *at, marks=() if at in EARLY[name] else pytest.mark.slow) for name, *at in RESUMES],
)
def test_resumes_bit_for_bit(
    name: str, stop: int, accumulate: int, whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after the last (5), the first (6) and a middle (7) batch of an epoch."""
    run = whole(name, accumulate)
    stopped = dataclasses.replace(run, out=str(tmp_path / "stopped"))
    after_step = get_method(name).after_step

    def interrupted(self: Method, at: Progress, outputs: Sequence[Outputs]) -> None:
        after_step(self, at, outputs)
        if at.step + 1 == stop:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(get_method(name), "after_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            training.pretrain(stopped)
    training.pretrain(dataclasses.replace(stopped, resume=True))
    a, b = (torch.load(Folder(out).last, weights_only=True) for out in (run.out, stopped.out))
    assert a["state_dict"].keys() == b["state_dict"].keys()
    for key, value in a["state_dict"].items():
        assert torch.equal(value, b["state_dict"][key]), key
    rows = [[(r["step"], r["loss"]) for r in Folder(out).rows()] for out in (run.out, stopped.out)]
    assert rows[0] == rows[1]

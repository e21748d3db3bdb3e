"""The verdict: trainings that learn, collapse, stand still and diverge are called by their names within an epoch."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, Trainer
from support.learning import listed
from support.methods import narrow_resnet
from support.runs import tiny_config, tiny_run
from torch import Tensor
from torch.utils.data import Dataset

from lookalike import Collapsed, Diverged, backbones, cli, core, training
from lookalike.backbones import Backbone
from lookalike.core import Batch, Method
from lookalike.images import Images
from lookalike.layers import mlp
from lookalike.methods.barlow_twins import BarlowTwins
from lookalike.methods.byol import BYOL
from lookalike.methods.dino import DINO
from lookalike.methods.lejepa import LeJEPA
from lookalike.methods.moco_v2 import MoCoV2
from lookalike.methods.simclr import SimCLR
from lookalike.methods.simsiam import SimSiam
from lookalike.methods.swav import SwAV
from lookalike.methods.vicreg import VICReg
from lookalike.optim import Optim
from lookalike.runs import Folder, Result, Run, method_name
from lookalike.schedules import Schedule
from lookalike.training import module, resolved
from lookalike.training.health import Course, Remedies, Seen, Verdict, early_looks, finding, ruined
from lookalike.training.looks import Change, Look, Neighbours, UpdateRatio, change, lacking, look
from lookalike.training.monitor import Probe
from lookalike.views import SIMCLR_VIEW, View

pytestmark = pytest.mark.long(2)

FIRST = {
    "spread": 0.6, "effective_rank": 30.0, "alignment": 0.6, "uniformity": -1.4, "recognition": 0.6, "loss": 4.6,
    "head_spread": 1.0, "head_size": 1.0, "embedding_correlation": 0.5, "embedding_deviation": 0.3,
    "target_information": 0.3,
}  # fmt: skip
UP, BARELY_UP, SAME_AS_BEFORE = Change(0.10, 0.02, 0.2), Change(0.05, 0.02, 0.2), Change(0.01, 0.02, 0.2)
DOWN, STANDING = Change(-0.08, 0.02, 0.2), Change(0.0, 0.0, 0.0)
FELL, ROSE, AS_EVER = (
    Neighbours(0.9, 0.84, -0.09, -0.03),
    Neighbours(0.48, 0.57, 0.05, 0.13),
    Neighbours(0.5, 0.5, -0.04, 0.04),
)
RATE = Remedies(stated="--optim.lr")
OWN_METHOD = Remedies(known=False)
LACKS = Remedies(cause="There is no predictor. Leave --no-predictor out.")


def seen(change: Change | None = SAME_AS_BEFORE, step: int = 100, **options: Any) -> Seen:
    """A look in the middle of a training of 1,000 steps."""
    now = {name: options.pop(name) for name in (*FIRST, "update_ratio") if name in options}
    if change is not None:
        now.setdefault("recognition", FIRST["recognition"] + change.mean)
    first = FIRST | options.pop("first", {})
    return Seen(first=first, now=FIRST | now, change=change, step=step, steps=1000, **options)


# ---------------------------------------------------------------- what one look suggests


@pytest.mark.parametrize(
    ("look", "word", "sure", "words"),
    [
        (seen(UP), "learning", True, "70.0% of cases (60.0% untrained; +6.1 to +13.9 points, 95 % interval)"),
        (seen(BARELY_UP), "learning", False, "+1.1 to +8.9 points"),
        (seen(UP, spread=0.2), "learning", True, "70.0%"),
        (seen(UP, head_spread=0.01), "learning", True, "70.0%"),  # as in healthy trainings with a momentum teacher
        (seen(SAME_AS_BEFORE), "", False, ""),
        (seen(Change(0.015, 0.001, 0.02)), "", False, ""),  # surely more, and of no account
        (seen(DOWN), "", False, ""),  # as of many healthy trainings at first
        (seen(DOWN, 1000), "not learning", False, "worse than at first"),
        (seen(DOWN, 1000, labelled=True), "", False, ""),
        (seen(DOWN, 1000, neighbours=AS_EVER), "", False, ""),
        (seen(STANDING), "not learning", False, "the features did not move in 100 steps"),
        (seen(STANDING, still=100), "", False, ""),  # the encoder is frozen yet
        (seen(Change(0.001, 0.001, 0.01)), "", False, ""),
        (seen(Change(0.001, 0.001, 0.01), 1000), "not learning", False, "the features hardly moved in 1000 steps"),
        (seen(DOWN, spread=0.01, loss=4.7), "collapsed", False, "the loss did not fall with it"),
        (seen(DOWN, spread=0.01, loss=0.1), "collapsed", False, "one answer for all images is enough"),
        (seen(UP, spread=0.01, loss=0.1), "learning", True, "70.0%"),  # as of ViTs under LARS, whose k-NN rose
        (seen(spread=0.01, loss=0.1), "", False, ""),
        (seen(Change(-0.01, 0.02, 0.2), 1000, spread=0.01), "collapsed", False, "spread of the features"),
        (seen(UP, spread=0.01, remedies=LACKS), "collapsed", True, "spread of the features"),
        (seen(None, spread=0.01), "collapsed", False, "spread of the features"),
        (seen(update_ratio=0.03), "not learning", False, "changes the weights by 3.0% of their length"),
        (seen(UP, update_ratio=0.03), "learning", True, "70.0%"),
        (seen(update_ratio=0.03, labelled=True), "", False, ""),
        (seen(update_ratio=0.014), "", False, ""),
        (seen(DOWN, head_spread=0.02, loss=0.1), "collapsed", False, "head's outputs"),
        (seen(DOWN, head_spread=0.02, loss=0.1, labelled=True), "", False, ""),
        (seen(head_spread=0.1, loss=0.1, remedies=OWN_METHOD), "collapsed", False, "head's outputs"),
        (seen(DOWN, head_size=201.0), "not learning", False, "the head's outputs are 201 times as long as at first"),
        (seen(UP, head_size=201.0), "learning", True, "70.0%"),
        (seen(DOWN, head_size=201.0, labelled=True), "", False, ""),
        (seen(DOWN, effective_rank=6.0, labelled=True), "", False, ""),
        (seen(DOWN, spread=0.01, labelled=True), "collapsed", False, "spread of the features"),
        (seen(DOWN, effective_rank=6.0), "collapsed", False, "the features keep to 6 directions, at first 30"),
        (seen(effective_rank=2.0), "", False, ""),
        (seen(DOWN, target_information=0.02), "collapsed", False, "tell of an image went from 0.3 to 0.02"),
        (seen(target_information=0.02), "", False, ""),
        (seen(UP, embedding_correlation=0.7, remedies=LACKS), "collapsed", True, "come to say the same"),
        (seen(head_spread=0.02, loss=0.1), "", False, ""),
        (seen(DOWN, embedding_correlation=0.96), "collapsed", False, "they correlate by 0.960"),
        (seen(embedding_correlation=0.99), "", False, ""),  # as of Barlow Twins on its way
        (seen(embedding_correlation=0.96, remedies=LACKS), "collapsed", True, "they correlate by 0.960"),
        (seen(UP, embedding_correlation=0.94), "learning", True, "70.0%"),
        (seen(UP, embedding_deviation=0.04, loss=0.1), "collapsed", False, "spread of the embeddings"),
        (seen(UP, target_information=0.008), "collapsed", False, "targets are the same for all images"),
        (seen(UP, target_information=0.05), "learning", True, "70.0%"),
        (seen(UP, target_information=0.2, remedies=LACKS), "collapsed", True, "on the way to one answer for all"),
        (seen(UP, target_information=0.25, remedies=LACKS), "learning", True, "70.0%"),
        (seen(head_spread=0.7, remedies=LACKS), "collapsed", True, "head's outputs over the images went from 1 to 0.7"),
        (seen(None, spread=float("nan")), "diverged", True, "not finite"),
        (seen(UP, head_spread=float("nan")), "learning", True, "70.0%"),
        (seen(loss=1e5), "diverged", True, "1e+05"),
        (seen(UP, lacking="all are blank"), "not learning", True, "all are blank. Nothing can be learnt from them."),
        (seen(UP, neighbours=FELL), "getting worse", True, "the k-NN went from 90.0% untrained to 84.0% (-9.0 to -3.0"),
        (seen(DOWN, 1000, neighbours=ROSE), "learning", True, "the k-NN went from 48.0% untrained to 57.0% (+5.0 to"),
        (seen(UP, neighbours=AS_EVER), "learning", True, "70.0%"),
        (seen(spread=0.01, neighbours=ROSE), "learning", True, "57.0%"),
        (seen(DOWN, spread=0.01, neighbours=ROSE, probed_now=False), "collapsed", False, "spread of the features"),
        (seen(DOWN, neighbours=ROSE, probed_now=False), "learning", True, "57.0%"),
        (seen(UP, neighbours=FELL, probed_now=False), "getting worse", True, "84.0%"),
        (seen(UP, neighbours=AS_EVER), "learning", True, "; the k-NN went from 50.0% untrained to 50.0% (-4.0 to"),
        (seen(UP, neighbours=Neighbours(0.287, 0.237, -0.1, 0.005)), "", False, ""),
        (seen(spread=0.01, neighbours=FELL), "collapsed", True, "did not fall with it; the k-NN went from 90.0%"),
        (seen(UP, neighbours=FELL, lacking="all are blank"), "not learning", True, "all are blank"),
        (seen(UP, neighbours=ROSE, lacking="all are blank"), "learning", True, "57.0%"),
        (seen(UP, 19), "", False, ""),
        (seen(spread=0.01, step=19), "", False, ""),
        (seen(STANDING, 19), "", False, ""),
        (seen(loss=1e5, step=1), "diverged", True, "1e+05"),
        (seen(neighbours=FELL, step=4), "getting worse", True, "90.0%"),
    ],
)  # fmt: skip
def test_what_a_look_suggests(look: Seen, word: str, sure: bool, words: str) -> None:
    found = finding(look)
    if not word:
        assert found is None
        return
    assert found is not None
    assert (found.verdict.word, found.sure) == (word, sure)
    assert words in found.verdict.why
    assert (found.verdict.remedy == "") is (word == "learning")
    assert found.verdict.is_alarm is (word != "learning")


@pytest.mark.parametrize(
    ("look", "remedy"),
    [
        (seen(STANDING, remedies=RATE), "Leave --optim.lr out: the method's own settings are fitted to these images."),
        (seen(STANDING, remedies=Remedies(epochs=20)), "Train for longer, such as with --epochs 40 or a --time."),
        (seen(STANDING, remedies=LACKS), "There is no predictor. Leave --no-predictor out."),
        (seen(DOWN, spread=0.01, remedies=RATE), "Leave --optim.lr out"),
        (seen(update_ratio=0.03, remedies=RATE), "Leave --optim.lr out"),
        (seen(update_ratio=0.03), "Give a longer --optim.warmup-epochs, or --optim.clip 1"),
        (seen(DOWN, spread=0.01), "`lejepa` learns soonest"),
        (seen(loss=1e5), "Give a longer --optim.warmup-epochs, or --optim.clip 1"),
        (seen(loss=1e5, remedies=RATE), "Leave --optim.lr out"),
        (
            seen(lacking="all are blank", remedies=Remedies(check="lookalike check a")),
            "Look at them: lookalike check a",
        ),
        (seen(neighbours=FELL), "See that the views keep what the classes differ in: lookalike views METHOD DATA"),
        (seen(neighbours=FELL, remedies=RATE), "Leave --optim.lr out"),
        (seen(neighbours=FELL, remedies=Remedies(forgetting="Try more --frozen-epochs.")), "Try more --frozen-epochs."),
        (seen(DOWN, 1000), "See that both views show what tells an image from others: lookalike views METHOD DATA"),
    ],
)
def test_what_is_advised(look: Seen, remedy: str) -> None:
    found = finding(look)
    assert found is not None
    assert remedy in found.verdict.remedy
    assert "ten times" not in found.verdict.remedy
    assert "tenth" not in found.verdict.remedy


@pytest.mark.parametrize(
    ("fits", "options", "stated"),
    [
        (True, {}, ""),
        (True, {"optim": dataclasses.replace(SimCLR.Config().optim, lr=0.0)}, "--optim.lr"),
        (False, {}, "--no-fit"),
        (False, {"hidden_dim": 64, "out_dim": 8}, "--no-fit, --hidden-dim and --out-dim"),
    ],
)
def test_options_that_differ_from_the_methods_own_settings_are_named(
    fits: bool, options: dict[str, Any], stated: str
) -> None:
    """A settled run has its fitted values, and is fitted no more; that is nobody's option."""
    run = Run(data=".", method=SimCLR.Config(**options), out="run", backbone="test_byobnet", epochs=9, batch_size=8)
    settled, _ = training.resolve(dataclasses.replace(run, image_size=32, fit=fits), 40)
    own = resolved.own_settings(settled, 40, fits)
    assert own is not None
    assert Remedies.of(settled, own, "", fits).stated == stated


def test_views_that_are_all_alike_leave_nothing_to_learn() -> None:
    easy, change = {"recognition": 1.0}, Change(0.0, 0.0, 0.001)
    assert finding(seen(change, first=easy, recognition=1.0)) is None
    found = finding(seen(change, 1000, first=easy, recognition=1.0))
    assert found is not None
    assert (found.verdict.word, "next to nothing to learn" in found.verdict.why) == ("not learning", True)
    fell = finding(seen(change, 1000, first=easy, recognition=1.0, loss=4.0))
    assert fell is not None
    assert fell.verdict.word == "learning"


def test_embeddings_that_began_alike_are_not_called_collapsed() -> None:
    """A ViT's first embeddings may say all the same."""
    found = finding(seen(UP, first={"embedding_correlation": 0.99}, embedding_correlation=0.98))
    assert found is not None
    assert found.verdict.word == "learning"


@pytest.mark.parametrize(
    ("at_first", "now", "word"), [(1e-6, 1e-8, "learning"), (0.007, 0.005, "learning"), (0.007, 1e-4, "collapsed")]
)
def test_targets_that_began_alike_are_not_called_collapsed(at_first: float, now: float, word: str) -> None:
    """A ViT with DINOv2's layer scale of 1e-5 makes nearly the same of all images before it has learnt."""
    found = finding(seen(UP, first={"target_information": at_first}, target_information=now))
    assert found is not None
    assert found.verdict.word == word


# ---------------------------------------------------------------- look after look


def words(*looks: Seen) -> list[str]:
    course = Course()
    return [verdict.word if (verdict := course.see(look)) is not None else "" for look in looks]


def test_nothing_is_said_before_something_is_known() -> None:
    assert words(seen(SAME_AS_BEFORE), seen(DOWN), seen(BARELY_UP), seen(SAME_AS_BEFORE)) == ["", "", "", ""]


def test_a_word_needs_two_looks_in_a_row_or_one_that_is_sure() -> None:
    fallen = seen(DOWN, spread=0.01)
    assert words(fallen, seen(), fallen, fallen) == ["", "", "", "collapsed"]
    assert words(seen(BARELY_UP), seen(BARELY_UP)) == ["", "learning"]
    assert words(seen(UP)) == ["learning"]
    assert words(seen(BARELY_UP), fallen, seen(BARELY_UP)) == ["", "", ""]
    assert words(seen(DOWN, head_size=200.0), fallen) == ["", "collapsed"]


def test_a_verdict_does_not_flip_without_evidence() -> None:
    assert words(seen(UP), seen(), seen(DOWN), seen(DOWN, spread=0.01), seen()) == ["learning"] * 5
    fallen = seen(DOWN, spread=0.01)
    assert words(fallen, fallen, seen(), seen(BARELY_UP), seen()) == ["", *["collapsed"] * 4]
    assert words(seen(UP), seen(loss=1e5)) == ["learning", "diverged"]


def test_the_last_look_counts_by_itself() -> None:
    assert words(seen(UP), seen(step=1000)) == ["learning", "unclear"]
    assert words(seen(UP), seen(DOWN, spread=0.01, step=1000)) == ["learning", "collapsed"]
    assert words(seen(BARELY_UP, 1000)) == ["learning"]


def test_a_run_of_few_steps_is_too_short_to_tell() -> None:
    for steps in (1, 4, 19):
        verdict = Course().see(dataclasses.replace(seen(STANDING, steps), steps=steps))
        assert verdict is not None
        assert verdict.word == "too short to tell"
        assert not verdict.is_alarm
        assert verdict.why == f"{steps} step{'s' if steps > 1 else ''}; fewer than 20 change too little to be seen."
        assert "lr" not in verdict.remedy
    assert words(dataclasses.replace(seen(STANDING, 20), steps=20)) == ["not learning"]


def test_what_stays_unknown_is_called_so_and_names_the_probe() -> None:
    verdict = Course().see(seen(step=1000))
    assert verdict is not None
    assert verdict.why.startswith("no clear gain: a view is nearer")
    assert "--probe TRAIN TEST" in verdict.remedy
    probed = Course().see(seen(step=1000, neighbours=AS_EVER))
    assert probed is not None
    assert "the k-NN went from 50.0% untrained to 50.0%" in probed.why
    assert "--probe" not in probed.remedy
    lower = Course().see(seen(UP, step=1000, neighbours=Neighbours(0.287, 0.237, -0.1, 0.005)))
    assert lower is not None
    assert lower.word == "unclear"
    assert "in 70.0% of cases" in lower.why
    assert ", and the k-NN went from 28.7% untrained to 23.7% (-10.0 to +0.5 points, 95 % interval)" in lower.why


@pytest.mark.parametrize("at", range(5))
def test_the_state_survives(at: int) -> None:
    looks = [seen(UP), seen(DOWN, spread=0.01), seen(DOWN, spread=0.01), seen(BARELY_UP), seen(BARELY_UP)]
    whole = Course()
    expected = [whole.see(look) for look in looks]
    before, after = Course(), Course()
    found = [before.see(look) for look in looks[:at]]
    after.load_state_dict(json.loads(json.dumps(before.state_dict())))
    assert found + [after.see(look) for look in looks[at:]] == expected


def test_early_looks_are_at_5_10_and_15_percent() -> None:
    assert early_looks(1000) == {50, 100, 150}
    assert early_looks(300) == {20, 30, 45}
    assert early_looks(93) == {20, 30}
    assert early_looks(50) == {20}
    assert early_looks(39) == set()


# ---------------------------------------------------------------- the length of a step


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


# ---------------------------------------------------------------- the change between two looks


def test_a_change_is_that_of_the_same_images() -> None:
    generator = torch.Generator().manual_seed(0)
    image, own, other = (torch.randn(64, 8, generator=generator) for _ in range(3))
    first, now = look(image + 2 * own, image + 2 * other), look(image + own, image + other)
    found = change(first, now)
    assert found is not None
    assert found.mean == pytest.approx(now.figures["recognition"] - first.figures["recognition"])
    assert found.away > 3
    assert change(first, first) == Change(0.0, 0.0, 0.0)
    few = look(image[:7], image[:7])
    assert change(few, few) is None
    assert change(first, look(image * math.nan, image)) is None


def test_a_training_of_0_1_has_no_first_images_and_a_wider_interval() -> None:
    generator = torch.Generator().manual_seed(0)
    image, own, other = (torch.randn(256, 8, generator=generator) for _ in range(3))
    first, now = look(image + 2 * own, image + 2 * other), look(image + own, image + other)
    paired, alone = change(first, now), change(Look(first.figures, torch.zeros(0)), now)
    assert paired is not None
    assert alone is not None
    assert alone.mean == pytest.approx(paired.mean)
    assert alone.error > 1.5 * paired.error
    assert finding(seen(alone, 1000)) is None or alone.away > 0  # nothing is said of whether it moved


# ---------------------------------------------------------------- images that hold nothing


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
        "16 of 16 images that were looked at are blank, of one colour all over"
    )
    coloured = [torch.tensor([i, 7, 200], dtype=torch.uint8)[:, None, None].expand_as(p) for i, p in enumerate(photos)]
    assert "are blank" in lacking(batch(coloured))
    assert lacking(batch([photos[0]] * 16)) == "of 16 images that were looked at 1 is distinct, all others copies"
    assert lacking(batch([photos[0]] * 8 + photos[:8])) == ""
    assert lacking(batch([torch.zeros_like(photos[0])] * 7)) == ""  # so few may be anything


# ---------------------------------------------------------------- trainings


class Invariance(Method):
    """Two views get one answer, and nothing keeps images apart."""

    @dataclasses.dataclass(frozen=True)
    class Config(core.Config):
        views: tuple[View, ...] = (SIMCLR_VIEW,)
        optim: Optim = Optim("adamw", lr=2e-3, scaling="none", weight_decay=Schedule(0.0))

    def __init__(self, cfg: Config, backbone: Backbone) -> None:
        super().__init__(cfg, backbone)
        self.projector = mlp(backbone.dim, 256, 64)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        a, b = self.projector(self.backbone(torch.cat(batch.views))).chunk(2)
        return {"loss": 2 - 2 * F.cosine_similarity(a, b).mean()}

    def metrics(self, outputs: core.Outputs) -> dict[str, float]:
        return {"projector_norm": float(self.projector[0].weight.detach().norm())}


SMALL: dict[str, Any] = {"image_size": 16, "batch_size": 32}
"""A quarter of the pixels, and as many steps from half as many images."""


def one_epoch(method: core.Config, data: Path, out: Path, **changes: Any) -> Result:
    torch.manual_seed(0)
    options: dict[str, Any] = {"backbone": narrow_resnet(), "image_size": 32, "epochs": 1, "batch_size": 64}
    return training.pretrain(Run(data=data, method=method, out=str(out), cache="ram", **(options | changes)))


def simclr(lr: float, name: str = "adamw") -> SimCLR.Config:
    optim = Optim(name, lr=lr, scaling="none", weight_decay=Schedule(1e-4), warmup_epochs=0)
    return SimCLR.Config(hidden_dim=256, optim=optim)


@pytest.mark.parametrize("backbone", ["test_byobnet", "test_vit", "test_convnext2"])
def test_a_healthy_training_learns_and_is_never_called_collapsed(backbone: str, cifar10: Path, tmp_path: Path) -> None:
    data = listed(cifar10, tmp_path, 1500).file
    result = one_epoch(simclr(1e-3), data, tmp_path / "run", epochs=2, backbone=backbone, batch_size=32)
    verdicts = [row["verdict"] for row in result.metrics if "verdict" in row]
    assert verdicts
    assert "collapsed" not in verdicts
    assert result.verdict == "learning"
    assert "untrained" in result.why


def test_a_healthy_self_distillation_is_never_called_collapsed(cifar10: Path, tmp_path: Path) -> None:
    """Its scores come to have much in common, which the centre takes off: the head's spread falls to 0.15 and less."""
    data = listed(cifar10, tmp_path, 1500).file
    method = DINO.Config(hidden_dim=256, bottleneck_dim=64)
    result = one_epoch(method, data, tmp_path / "run", epochs=3, **SMALL)
    judged = [row for row in result.metrics if "verdict" in row]
    assert judged
    assert all(row["verdict"] != "collapsed" for row in judged)
    assert all(row["target_information"] > 0.1 for row in judged)
    assert "head_spread" not in judged[-1]


@pytest.mark.parametrize(
    ("method", "cause", "remedy"),
    [
        (simclr(10), "the loss did not fall with it", "Leave --optim.lr,"),
        (Invariance.Config(), "one answer for all images is enough", "See that the loss keeps images apart"),
    ],
    ids=["learning rate", "invariance"],
)
def test_a_collapse_is_called_so_within_an_epoch(
    method: core.Config, cause: str, remedy: str, cifar10: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = listed(cifar10, tmp_path, 1000).file
    backbone = narrow_resnet() if isinstance(method, Invariance.Config) else "test_vit"
    result = one_epoch(method, data, tmp_path / "run", **SMALL | {"backbone": backbone, "image_size": 32})
    assert result.verdict == "collapsed"
    assert cause in result.why
    assert remedy in result.why
    for words in (capsys.readouterr().out, Folder(result.folder).log.read_text()):
        assert "WARNING  step 31: collapsed" in words
        assert "Verdict: collapsed" in words


def test_a_collapsed_run_is_stopped_if_asked(cifar10: Path, tmp_path: Path) -> None:
    data = listed(cifar10, tmp_path, 1000).file
    with pytest.raises(Collapsed, match=r"stopped at step \d+ of 93 \(--on-collapse stop\)"):
        one_epoch(simclr(10), data, tmp_path / "run", epochs=3, on_collapse="stop", batch_size=32, backbone="test_vit")
    assert not Folder(tmp_path / "run").last.exists()
    assert Folder(tmp_path / "run").rows()[-1]["verdict"] == "collapsed"


ADAMW = Optim("adamw", lr=2e-3, scaling="none", weight_decay=Schedule(1e-4), warmup_epochs=0)


FAILURES: list[tuple[core.Config, str]] = [
    (
        BYOL.Config(hidden_dim=256, out_dim=64, momentum=Schedule(0.9), predictor=False, optim=ADAMW),
        "There is no predictor. Leave --no-predictor out.",
    ),
    (
        SimSiam.Config(out_dim=256, predictor_dim=64, stop_gradient=False, optim=ADAMW),
        "No gradient is stopped. Leave --no-stop-gradient out.",
    ),
    (
        MoCoV2.Config(hidden_dim=256, out_dim=64, momentum=0.0, optim=ADAMW),
        "With a momentum of 0 the teacher runs after the student. Give --momentum 0.9",
    ),
    (
        SwAV.Config(hidden_dim=256, out_dim=64, sinkhorn_iterations=0, optim=ADAMW),
        "all images fall into one prototype. Give --sinkhorn-iterations 3.",
    ),
    (
        VICReg.Config(hidden_dim=256, out_dim=64, std_coeff=0.0, optim=ADAMW),
        "Without the variance term one answer will do. Give --std-coeff 25.",
    ),
    (
        BarlowTwins.Config(hidden_dim=256, out_dim=64, lambd=0.0, optim=ADAMW),
        "With lambd 0 nothing keeps the numbers of an embedding from saying the same. Give --lambd 0.0051.",
    ),
    (
        LeJEPA.Config(hidden_dim=256, out_dim=64, directions=64, lamb=0.0, optim=ADAMW),
        "With lamb 0 nothing keeps images apart.",
    ),
    (
        DINO.Config(hidden_dim=256, bottleneck_dim=64, teacher_temp=Schedule(0.5), momentum=Schedule(0.9), optim=ADAMW),
        "With --teacher-temp.start 0.5 and --student-temp 0.1 targets are no sharper",
    ),
    (
        DINO.Config(hidden_dim=256, bottleneck_dim=64, centering=False, momentum=Schedule(0.9), optim=ADAMW),
        "Without centring one prototype takes all images. Leave --no-centering out.",
    ),
]
"""Methods without the part that their papers found to be needed, and the words that say so."""
NAMES = ("byol", "simsiam", "moco_v2", "swav", "vicreg", "barlow_twins", "lejepa", "dino uniform", "dino one-hot")


@pytest.mark.parametrize(
    ("method", "remedy"), [pytest.param(*failure, id=name) for name, failure in zip(NAMES, FAILURES, strict=True)]
)
def test_a_methods_own_failure_is_called_by_name(
    method: core.Config, remedy: str, cifar10: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each without the part that its paper found to be needed."""
    data = listed(cifar10, tmp_path, 1000).file
    result = one_epoch(method, data, tmp_path / "run", **SMALL)
    assert result.verdict == "collapsed"
    assert remedy in result.metrics[-1]["remedy"]
    assert f"Verdict: collapsed: {result.why}" in capsys.readouterr().out
    figures = {"byol": {"teacher_distance", "predictor_rank"}, "simsiam": {"predictor_rank"},
               "moco_v2": {"teacher_distance", "queue_age", "queue_filled"},
               "swav": {"prototype_usage", "assignment_entropy", "queue_filled"},
               "vicreg": {"embedding_correlation", "embedding_deviation", "variance", "covariance"},
               "barlow_twins": {"embedding_correlation"},
               "dino": {"teacher_distance", "center_norm", "teacher_entropy", "target_information",
                        "prototype_usage", "teacher_student_kl"},
               "lejepa": {"embedding_correlation", "embedding_deviation", "sigreg"}}  # fmt: skip
    assert figures[method_name(method)] <= result.metrics[-1].keys()


def test_a_training_that_stands_still(cifar10: Path, tmp_path: Path) -> None:
    data = listed(cifar10, tmp_path, 1000).file
    result = one_epoch(simclr(1e-7), data, tmp_path / "run", **SMALL)
    assert result.verdict == "not learning"
    assert "the features hardly moved in 31 steps" in result.why
    assert "Leave --optim.name, --optim.lr, --optim.scaling" in result.why


STILL = Optim("sgd", lr=0.0)
COLUMNS = ("verdict", "why", "remedy", "recognition", "recognition_change", "recognition_error", "moved", "loss")


def test_a_rate_of_0_is_named_at_the_second_look(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lookalike.training.health.SETTLED", 5)
    still = dataclasses.replace(tiny_config(), optim=STILL)
    result = training.pretrain(tiny_run(photos, tmp_path / "run", method=still, epochs=14, fit=False))
    looked = {row["step"]: row for row in result.metrics if "spread" in row}
    assert [*looked] == [5, 15, 70]
    assert [row.get("verdict") for row in looked.values()] == [None, *["not learning"] * 2]
    assert looked[15]["moved"] == looked[15]["recognition_change"] == 0
    assert capsys.readouterr().out.count("WARNING  step 15: not learning: the features did not move in 15 steps") == 1


def test_a_resumed_training_goes_on_with_its_verdict(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lookalike.training.health.SETTLED", 5)

    class Stop(Callback):
        def on_train_batch_end(self, trainer: Trainer, *args: object) -> None:
            trainer.should_stop = trainer.global_step == 6

    def rows(out: Path) -> list[list[Any]]:
        return [[row.get(name) for name in COLUMNS] for row in Folder(out).rows()]

    still = dataclasses.replace(tiny_config(), optim=STILL)
    runs = {name: tiny_run(photos, tmp_path / name, method=still, epochs=14, fit=False) for name in ("a", "b")}
    training.pretrain(runs["a"])
    training.pretrain(runs["b"], callbacks=[Stop()])
    assert all(row[0] is None for row in rows(tmp_path / "b"))  # suspected alone
    training.pretrain(dataclasses.replace(runs["b"], resume=True))
    assert rows(tmp_path / "b") == rows(tmp_path / "a")
    said = Folder(tmp_path / "b").log.read_text()
    assert said.count("WARNING  step 15: not learning") == said.count("WARNING  step") == 1


@pytest.mark.parametrize(("steps", "word"), [(1, "too short to tell"), (4, "too short to tell")])
def test_a_short_run_says_so(
    steps: int, word: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tiny_run(photos, tmp_path / "run", epochs=steps, batch_size=40)
    assert training.pretrain(run).verdict == word
    said = capsys.readouterr().out
    assert f"Verdict: too short to tell: {steps} step" in said
    assert "--optim.lr" not in said
    assert "WARNING" not in said


def test_images_that_hold_nothing_are_named_before_the_first_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grey = [np.full((16, 16, 3), 127, np.uint8) for _ in range(40)]
    result = training.pretrain(tiny_run(tmp_path, tmp_path / "run", epochs=1, data=grey))
    assert (result.verdict, result.metrics[-1]["step"]) == ("not learning", 5)
    said = capsys.readouterr().out
    assert said.index("WARNING     not learning: 40 of 40 images that were looked at are") < said.index("epoch 1/1")
    assert "Look at them: lookalike check" in said


@pytest.mark.parametrize(
    ("hits", "word", "words"),
    [
        ([12, 12, 2], "getting worse", "the k-NN went from 75.0% untrained to 12.5% (-"),
        ([3, 3, 13], "learning", "the k-NN went from 18.8% untrained to 81.2% (+"),
        ([12, 12, 11], "too short to tell", ""),
    ],
)
def test_a_probe_counts_more_than_the_features(
    hits: list[int], word: str, words: str, labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    found = iter(torch.arange(16) < count for count in hits)
    monkeypatch.setattr(Probe, "__call__", lambda self, encoder: next(found))
    probe = str(labelled / "train"), str(labelled / "test")
    run = tiny_run(labelled / "train", tmp_path / "run", epochs=2, probe=probe)
    result = training.pretrain(run)
    assert result.verdict == word
    assert words in result.why
    said = capsys.readouterr().out
    assert (f"Verdict: {word}: {words}" in said) is True
    assert ("WARNING  step" in said) is (word == "getting worse")


def test_a_methods_own_figures_join_the_rows(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    method = Invariance.Config(views=tiny_config().views)
    result = training.pretrain(tiny_run(photos, tmp_path / "run", method=method, epochs=1))
    assert result.metrics[-1]["projector_norm"] > 0
    monkeypatch.setattr(Invariance, "metrics", lambda self, outputs: {"loss": 0.0})
    with pytest.raises(ValueError, match=r"Invariance\.metrics\(\) names 'loss'"):
        training.pretrain(tiny_run(photos, tmp_path / "other", method=method, epochs=1))


class Broken(Method):
    """From the third step on, its loss or its gradient is not finite."""

    @dataclasses.dataclass(frozen=True)
    class Config(core.Config):
        what: str = "loss"
        views: tuple[View, ...] = (View(size=16, count=2),)
        optim: Optim = Optim("sgd", lr=0.01)

    cfg: Config

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        x = self.backbone(torch.cat(batch.views)).square().mean()
        if batch.progress.step < 2 or self.cfg.what == "batch":
            return {"loss": x}
        return {"loss": x / 0 if self.cfg.what == "loss" else x + (x * 0).sqrt()}


class Poisoned(Dataset[np.ndarray]):
    """Images of which a quarter hold a number that is none."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, i: int) -> np.ndarray:
        image = np.random.default_rng(i).random((16, 16, 3), np.float32)
        if i % 4 == 0:
            image[0, 0, 0] = np.nan
        return image


@pytest.mark.parametrize(
    ("what", "cause", "remedy"),
    [
        ("loss", "the loss is inf on finite images", "Try a lower --optim.lr, a longer --optim.warmup-epochs"),
        ("gradient", "the backward pass", "Try --precision bf16 in place of fp16"),
        ("batch", "images of the last", "Look for such images with `lookalike check"),
    ],
)
def test_a_divergence_is_called_so_within_an_epoch(
    what: str,
    cause: str,
    remedy: str,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = tiny_run(photos, tmp_path / "run", epochs=1, method=Broken.Config(what=what))
    if what == "batch":
        make = module.make_views

        def poisoned(*args: Any, **options: Any) -> list[Tensor]:
            views = make(*args, **options)
            views[0][0, 0, 0, 0] = float("nan")
            return views

        monkeypatch.setattr(module, "make_views", poisoned)
    with pytest.raises(Diverged) as caught:
        training.pretrain(run)
    row = Folder(run.out).rows()[-1]
    assert (row["step"], row["verdict"]) == (5, "diverged")
    assert cause in row["why"]
    assert row["remedy"].startswith(remedy)
    assert "WARNING  step 5: diverged" in capsys.readouterr().out
    assert remedy in str(caught.value)


def test_images_with_numbers_that_are_none_are_replaced(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, tmp_path / "run", epochs=1, data=Poisoned(), max_broken=0.5)
    result = training.pretrain(run)
    assert result.metrics[-1]["skipped"] == 0
    assert "item 4: float values from nan" in Folder(result.folder).log.read_text()


def test_the_command_ends_with_1_for_divergence_and_0_for_collapse(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lookalike.training.health.SETTLED", 5)  # so that ten steps are enough here
    common = ["pretrain", "simclr", str(photos), "--backbone", "test_vit", "--image-size", "32", "--epochs", "2",
              "--batch-size", "8", "--workers", "0"]  # fmt: skip
    wild = ["--optim.name", "adamw", "--optim.lr", "10", "--optim.warmup-epochs", "0"]
    assert cli.main([*common, *wild, "--out", str(tmp_path / "a")]) == 0
    assert "WARNING  step 10: collapsed" in capsys.readouterr().out
    assert cli.main([*common, *wild, "--out", str(tmp_path / "b"), "--on-collapse", "stop"]) == 1
    captured = capsys.readouterr()
    assert "error: The training collapsed and was stopped at step 10 of 10" in captured.err
    assert "Traceback" not in captured.err
    assert cli.main([*common, "--optim.name", "sgd", "--optim.lr", "1e30", "--out", str(tmp_path / "c")]) == 1
    captured = capsys.readouterr()
    assert "WARNING  step" in captured.out
    assert captured.err.startswith("error: ")
    assert "diverged" in captured.out


def test_ruined_names_what_is_not_finite() -> None:
    fine, bad = [torch.zeros(2)], [torch.tensor([float("inf")])]
    assert "images of the last batch" in ruined(3, 1.0, bad).why
    assert "lookalike check" in ruined(3, 1.0, bad).remedy
    assert "the loss is nan" in ruined(3, float("nan"), fine).why
    assert "backward pass" in ruined(3, 1.0, fine).why
    assert str(Verdict("learning", "so it is.")) == "learning: so it is."


def test_the_untrained_figures_survive_a_resume(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    training.pretrain(tiny_run(photos, out, epochs=1))
    kept = next(v for k, v in torch.load(Folder(out).last, weights_only=True)["callbacks"].items() if "Monitor" in k)
    assert {"spread", "recognition", "head_spread", "loss"} <= kept["first"].keys()
    assert kept["recognised"].mean() == pytest.approx(kept["first"]["recognition"])
    training.pretrain(tiny_run(photos, out, epochs=2, resume=True))
    again = next(v for k, v in torch.load(Folder(out).last, weights_only=True)["callbacks"].items() if "Monitor" in k)
    assert again["first"] == kept["first"]
    assert torch.equal(again["recognised"], kept["recognised"])

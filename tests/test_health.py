"""The verdict: trainings that learn, collapse, stand still and diverge are called by their names within an epoch."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_methods import listed, narrow_resnet
from test_training import tiny_config, tiny_run
from torch import Tensor
from torch.utils.data import Dataset

from lookalike import Collapsed, Diverged, cli, core, training
from lookalike.backbones import Backbone
from lookalike.core import Batch, Method
from lookalike.health import Verdict, judge, ruined
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
from lookalike.views import SIMCLR_VIEW, View

FIRST = {
    "spread": 0.6, "effective_rank": 30.0, "alignment": 0.6, "uniformity": -1.4, "recognition": 0.67, "loss": 4.6,
    "head_spread": 1.0, "embedding_correlation": 0.5, "embedding_deviation": 0.3, "target_information": 0.3,
}  # fmt: skip


@pytest.mark.parametrize(
    ("now", "word", "cause"),
    [
        ({"recognition": 0.78, "loss": 4.3}, "learning", "78.0%"),
        ({"recognition": 0.78, "loss": 4.3, "spread": 0.2}, "learning", "78.0%"),
        ({"recognition": 0.68, "loss": 4.59}, "not learning", "hardly moved"),
        ({"recognition": 0.66, "loss": 4.3, "spread": 0.3}, "not learning", "though the features moved"),
        ({"spread": 0.01, "loss": 4.7}, "collapsed", "far too long"),
        ({"spread": 0.01, "loss": 0.1}, "collapsed", "one answer for all images"),
        ({"head_spread": 0.02, "loss": 0.1}, "collapsed", "head's outputs"),
        ({"embedding_correlation": 0.96, "recognition": 0.78}, "collapsed", "they correlate by 0.960"),
        ({"embedding_correlation": 0.94, "recognition": 0.78}, "learning", "78.0%"),
        ({"embedding_deviation": 0.04, "loss": 0.1}, "collapsed", "spread of the embeddings"),
        ({"target_information": 0.008, "loss": 6.9}, "collapsed", "targets are the same for all images"),
        ({"target_information": 0.05, "recognition": 0.78}, "learning", "78.0%"),
        ({"spread": float("nan")}, "diverged", "not finite"),
        ({"recognition": 0.78, "head_spread": float("nan")}, "learning", "78.0%"),
        ({"loss": 1e5}, "diverged", "1e+05"),
    ],
)
def test_figures_and_their_verdicts(now: dict[str, float], word: str, cause: str) -> None:
    found = judge(FIRST, FIRST | now, lr=0.3, steps=500)
    assert found.word == word
    assert cause in found.why
    assert (found.remedy == "") is (word == "learning")


def test_views_that_are_all_alike_leave_nothing_to_learn() -> None:
    found = judge(FIRST | {"recognition": 1.0}, FIRST | {"recognition": 1.0}, lr=0.3, steps=500)
    assert (found.word, "next to nothing to learn" in found.why) == ("not learning", True)
    assert (
        judge(FIRST | {"recognition": 1.0}, FIRST | {"recognition": 1.0, "loss": 4.0}, lr=0.3, steps=500).word
        == "learning"
    )


def test_embeddings_that_began_alike_are_not_called_collapsed() -> None:
    """A ViT's first embeddings may say all the same."""
    first, now = FIRST | {"embedding_correlation": 0.99}, {"recognition": 0.8, "embedding_correlation": 0.98}
    assert judge(first, FIRST | now, lr=0.3, steps=50).word == "learning"


@pytest.mark.parametrize(
    ("at_first", "now", "word"), [(1e-6, 1e-8, "learning"), (0.007, 0.005, "learning"), (0.007, 1e-4, "collapsed")]
)
def test_targets_that_began_alike_are_not_called_collapsed(at_first: float, now: float, word: str) -> None:
    """A ViT with DINOv2's layer scale of 1e-5 makes nearly the same of all images before it has learnt."""
    later = FIRST | {"recognition": 0.8, "target_information": now}
    assert judge(FIRST | {"target_information": at_first}, later, lr=0.3, steps=50).word == word


def test_a_head_without_a_first_figure_is_not_judged() -> None:
    first = {name: value for name, value in FIRST.items() if name != "head_spread"}
    assert judge(first, FIRST | {"recognition": 0.8}, lr=0.3, steps=5).word == "learning"


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

    def figures(self) -> dict[str, float]:
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
    ("method", "cause"),
    [(simclr(1e3, "sgd"), "far too long"), (Invariance.Config(), "one answer for all images is enough")],
    ids=["learning rate", "invariance"],
)
def test_a_collapse_is_called_so_within_an_epoch(
    method: core.Config, cause: str, cifar10: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = listed(cifar10, tmp_path, 1000).file
    result = one_epoch(method, data, tmp_path / "run", **SMALL)
    assert result.verdict == "collapsed"
    assert cause in result.why
    assert "Try --optim.lr" in result.why
    for words in (capsys.readouterr().out, Folder(result.folder).log.read_text()):
        assert "WARNING  step 31: collapsed" in words
        assert "Verdict: collapsed" in words


def test_a_collapsed_run_is_stopped_if_asked(cifar10: Path, tmp_path: Path) -> None:
    data = listed(cifar10, tmp_path, 1000).file
    with pytest.raises(Collapsed, match=r"stopped at step \d+ of 93 \(--on-collapse stop\)"):
        one_epoch(simclr(1e3, "sgd"), data, tmp_path / "run", epochs=3, on_collapse="stop", **SMALL)
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
SLOW = ("simsiam", "swav", "barlow_twins", "lejepa")
"""Those that `make test-slow` trains: each takes half a minute."""
TOLD_EARLY = ("moco_v2",)
"""Collapses in the first epoch on images of 32 pixels; on smaller ones, and in longer runs, it may not."""


@pytest.mark.parametrize(
    ("name", "method", "remedy"),
    [
        pytest.param(name, *failure, id=name, marks=[pytest.mark.slow] if name in SLOW else [])
        for name, failure in zip(NAMES, FAILURES, strict=True)
    ],
)
def test_a_methods_own_failure_is_called_by_name(
    name: str, method: core.Config, remedy: str, cifar10: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each without the part that its paper found to be needed."""
    quick = name not in (*SLOW, *TOLD_EARLY)
    data = listed(cifar10, tmp_path, 1000 if quick else 2000).file
    options = {"epochs": 2, **SMALL} if quick else {"epochs": 1 if name in TOLD_EARLY else 3}
    result = one_epoch(method, data, tmp_path / "run", **options)
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
    result = one_epoch(simclr(1e-7), data, tmp_path / "run")
    assert result.verdict == "not learning"
    assert "Train for longer, or try --optim.lr 1e-06" in result.why


def test_too_early_to_say(photos: Path, tmp_path: Path) -> None:
    """Before the end nothing is called standing still in the warm-up and the epoch after it."""
    still = dataclasses.replace(tiny_config(), optim=Optim("sgd", lr=1e-9, warmup_epochs=3))
    result = training.pretrain(tiny_run(photos, tmp_path / "run", method=still, epochs=6, fit=False))
    assert ["verdict" in row for row in result.metrics] == [False] * 5 + [True]


def test_a_methods_own_figures_join_the_rows(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    method = Invariance.Config(views=tiny_config().views)
    result = training.pretrain(tiny_run(photos, tmp_path / "run", method=method, epochs=1))
    assert result.metrics[-1]["projector_norm"] > 0
    monkeypatch.setattr(Invariance, "figures", lambda self: {"loss": 0.0})
    with pytest.raises(ValueError, match=r"Invariance\.figures\(\) names 'loss'"):
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
    ("what", "cause"),
    [("loss", "the loss is inf on finite images"), ("gradient", "the backward pass"), ("batch", "images of the last")],
)
def test_a_divergence_is_called_so_within_an_epoch(
    what: str,
    cause: str,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = tiny_run(photos, tmp_path / "run", epochs=1, method=Broken.Config(what=what))
    if what == "batch":
        make = training.make_views

        def poisoned(*args: Any, **options: Any) -> list[Tensor]:
            views = make(*args, **options)
            views[0][0, 0, 0, 0] = float("nan")
            return views

        monkeypatch.setattr(training, "make_views", poisoned)
    with pytest.raises(Diverged) as caught:
        training.pretrain(run)
    row = Folder(run.out).rows()[-1]
    assert (row["step"], row["verdict"]) == (5, "diverged")
    assert cause in row["why"]
    assert row["remedy"]
    assert "WARNING  step 5: diverged" in capsys.readouterr().out
    assert "Try" in str(caught.value) or "Look" in str(caught.value)


def test_images_with_numbers_that_are_none_are_replaced(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, tmp_path / "run", epochs=1, data=Poisoned(), max_broken=0.5)
    result = training.pretrain(run)
    assert result.metrics[-1]["skipped"] == 0
    assert "item 4: float values from nan" in Folder(result.folder).log.read_text()


def test_the_command_ends_with_1_for_divergence_and_0_for_collapse(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lookalike.monitor.SETTLED", 5)  # so that ten steps are enough here
    common = ["pretrain", "simclr", str(photos), "--backbone", "test_byobnet", "--image-size", "32", "--epochs", "2",
              "--batch-size", "8", "--workers", "0"]  # fmt: skip
    wild = ["--optim.name", "sgd", "--optim.lr", "1e5", "--optim.warmup-epochs", "0"]
    assert cli.main([*common, *wild, "--out", str(tmp_path / "a")]) == 0
    assert "WARNING  step 5: collapsed" in capsys.readouterr().out
    assert cli.main([*common, *wild, "--out", str(tmp_path / "b"), "--on-collapse", "stop"]) == 1
    captured = capsys.readouterr()
    assert "error: The training collapsed and was stopped at step 5 of 10" in captured.err
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
    training.pretrain(tiny_run(photos, out, epochs=2, resume=True))
    again = next(v for k, v in torch.load(Folder(out).last, weights_only=True)["callbacks"].items() if "Monitor" in k)
    assert again["first"] == kept["first"]

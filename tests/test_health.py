"""The verdict: trainings that learn, collapse, stand still and diverge are called by their names within an epoch."""

import dataclasses
import json
import shutil
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

from lookalike import Collapsed, Diverged, cli, core, training
from lookalike.backbones import Backbone
from lookalike.core import Batch, Method
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
from lookalike.metric_names import RENAMED
from lookalike.optim import Optim
from lookalike.runs import Folder, Result, Run, method_name
from lookalike.schedules import Schedule
from lookalike.training import looks, module
from lookalike.training.monitor import Probe
from lookalike.views import SIMCLR_VIEW, View

pytestmark = pytest.mark.long(2)


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


@pytest.mark.parametrize(
    "backbone",
    ["test_vit", *(pytest.param(name, marks=pytest.mark.slow) for name in ("test_byobnet", "test_convnext2"))],
)
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
        (simclr(10), "the loss did not fall", "Leave --optim.lr,"),
        (Invariance.Config(), "a constant output minimises the loss", "Check that the loss keeps images apart"),
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
        "The stop-gradient is off. Leave --no-stop-gradient out.",
    ),
    (
        MoCoV2.Config(hidden_dim=256, out_dim=64, momentum=0.0, optim=ADAMW),
        "With a momentum of 0 the teacher is nearly a copy of the student. Give --momentum 0.9",
    ),
    (
        SwAV.Config(hidden_dim=256, out_dim=64, sinkhorn_iterations=0, optim=ADAMW),
        "all images get the same prototype. Give --sinkhorn-iterations 3.",
    ),
    (
        VICReg.Config(hidden_dim=256, out_dim=64, std_coeff=0.0, optim=ADAMW),
        "Without the variance term embeddings collapse. Give --std-coeff 25.",
    ),
    (
        BarlowTwins.Config(hidden_dim=256, out_dim=64, lambd=0.0, optim=ADAMW),
        "With lambd 0 nothing decorrelates the dimensions of the embedding. Give --lambd 0.0051.",
    ),
    (
        LeJEPA.Config(hidden_dim=256, out_dim=64, directions=64, lamb=0.0, optim=ADAMW),
        "With lamb 0 nothing prevents collapse.",
    ),
    (
        DINO.Config(hidden_dim=256, bottleneck_dim=64, teacher_temp=Schedule(0.5), momentum=Schedule(0.9), optim=ADAMW),
        "With --teacher-temp.start 0.5 and --student-temp 0.1 targets are not sharper",
    ),
    (
        DINO.Config(hidden_dim=256, bottleneck_dim=64, centering=False, momentum=Schedule(0.9), optim=ADAMW),
        "Without centring one prototype dominates for all images. Leave --no-centering out.",
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
    assert "the features hardly changed in 31 steps" in result.why
    assert "Leave --optim.name, --optim.lr, --optim.scaling" in result.why


STILL = Optim("sgd", lr=0.0)
COLUMNS = ("verdict", "why", "remedy", "pair_auc", "pair_auc_change", "pair_auc_error", "moved", "loss")


def test_a_rate_of_0_is_named_at_the_second_look(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lookalike.training.health.SETTLED", 5)
    still = dataclasses.replace(tiny_config(), optim=STILL)
    result = training.pretrain(tiny_run(photos, tmp_path / "run", method=still, epochs=14, fit=False))
    looked = {row["step"]: row for row in result.metrics if "spread" in row}
    assert [*looked] == [5, 15, 70]
    assert [row.get("verdict") for row in looked.values()] == [None, *["not learning"] * 2]
    assert looked[15]["moved"] == looked[15]["pair_auc_change"] == 0
    assert capsys.readouterr().out.count("WARNING  step 15: not learning: the features did not change in 15 steps") == 1


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
    assert said.index("WARNING     not learning: 40 of 40 images in a random sample are") < said.index("epoch 1/1")
    assert "Check the images: lookalike check" in said


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
    with pytest.raises(ValueError, match=r"Invariance\.metrics\(\) returns 'loss'"):
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
    ("what", "cause", "remedy", "last"),
    [
        ("loss", "the loss is inf on finite images", "Try a lower --optim.lr, a longer --", "Try a lower --optim.lr"),
        ("gradient", "the backward pass", "Try --precision bf16 instead of fp16", "Try --precision bf16"),
        ("batch", "images of the last", "Find such images with `lookalike check", "Check the images (lookalike"),
    ],
)
def test_a_divergence_is_called_so_within_an_epoch(
    what: str,
    cause: str,
    remedy: str,
    last: str,
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
    assert last in str(caught.value)


def test_images_with_numbers_that_are_none_are_replaced(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, tmp_path / "run", epochs=1, data=Poisoned(), max_broken=0.5)
    result = training.pretrain(run)
    assert result.metrics[-1]["skipped"] == 0
    assert "item 4: float values from nan" in Folder(result.folder).log.read_text()


def test_the_command_ends_with_1_for_divergence_and_0_for_collapse(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # so that ten steps on 40 images are enough here, whatever the machine rounds
    monkeypatch.setattr("lookalike.training.health.SETTLED", 5)
    monkeypatch.setattr("lookalike.training.health._may_be_worse", lambda seen: True)
    common = ["pretrain", "simclr", str(photos), "--backbone", "test_vit", "--image-size", "32", "--epochs", "2",
              "--batch-size", "8", "--workers", "0"]  # fmt: skip
    wild = ["--optim.name", "adamw", "--optim.lr", "30", "--optim.warmup-epochs", "0"]
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


def test_the_untrained_figures_survive_a_resume(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    training.pretrain(tiny_run(photos, out, epochs=1))
    kept = next(v for k, v in torch.load(Folder(out).last, weights_only=True)["callbacks"].items() if "Monitor" in k)
    assert {"spread", "pair_auc", "head_spread", "loss"} <= kept["first"].keys()
    assert kept["pair_auc_per_image"].mean() == pytest.approx(kept["first"]["pair_auc"])
    training.pretrain(tiny_run(photos, out, epochs=2, resume=True))
    again = next(v for k, v in torch.load(Folder(out).last, weights_only=True)["callbacks"].items() if "Monitor" in k)
    assert again["first"] == kept["first"]
    assert torch.equal(again["pair_auc_per_image"], kept["pair_auc_per_image"])


def test_a_training_whose_files_have_earlier_names_of_metrics_resumes_with_the_current_ones(
    photos: Path, tmp_path: Path
) -> None:
    now, old = tmp_path / "now", tmp_path / "old"
    training.pretrain(tiny_run(photos, now, epochs=1))
    shutil.copytree(now, old)
    before = {new: name for name, new in RENAMED.items()}
    state = torch.load(Folder(old).last, weights_only=True)
    monitor = next(name for name in state["callbacks"] if "Monitor" in name)
    kept = state["callbacks"][monitor]
    kept["first"] = {before.get(name, name): value for name, value in kept["first"].items()}
    state["callbacks"][monitor] = {before.get(name, name): value for name, value in kept.items()}
    assert {"recognition"} < state["callbacks"][monitor]["first"].keys()
    assert "recognised" in state["callbacks"][monitor]
    torch.save(state, Folder(old).last)
    rows = [{before.get(name, name): value for name, value in row.items()} for row in Folder(old).rows()]
    Folder(old).metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "recognition_change" in Folder(old).metrics.read_text()
    looked = []
    for out in (now, old):
        training.pretrain(tiny_run(photos, out, epochs=2, resume=True))
        assert "recogni" not in Folder(out).metrics.read_text()
        looked.append([{name: row.get(name) for name in (*looks.NAMES, *looks.CHANGES)} for row in Folder(out).rows()])
    assert looked[0] == looked[1]
    assert looked[0][-1]["pair_auc_change"] is not None

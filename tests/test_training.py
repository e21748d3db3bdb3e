"""Training: what a run leaves behind, what it fits to the images, and how it looks at its features."""

import dataclasses
import json
import multiprocessing
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from PIL import Image
from support.runs import assert_equal, assert_same_run, interrupt_after, losses, state, tiny_config, tiny_run
from torch import Tensor

from lookalike import progress, training
from lookalike.core import Progress
from lookalike.data import open_source
from lookalike.methods import get_method
from lookalike.methods.simclr import SimCLR
from lookalike.optim import Optim
from lookalike.runs import Folder, Run, by_user, differences, flat, read_run
from lookalike.schedules import Schedule
from lookalike.training import module
from lookalike.training.health import early_looks
from lookalike.training.looks import Health
from lookalike.training.monitor import Probe
from lookalike.views import View, dino_views, larger

pytestmark = pytest.mark.long(13)


def test_the_folder_holds_what_the_contract_names(finished: Callable[[int], Path]) -> None:
    out = finished(1)
    found = {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()}
    assert found == {
        "run.yaml", "start.json", "metrics.jsonl", "log.txt", "views.png", "inputs.zip", "encoder.safetensors",
        "encoder.json", ".lock", "checkpoints/last.ckpt", "checkpoints/last.before.ckpt", "checkpoints/epoch=1.ckpt",
        "checkpoints/epoch=2.ckpt", "checkpoints/epoch=3.ckpt",
    }  # fmt: skip
    rows = Folder(out).rows()
    assert [(r["step"], r["epoch"]) for r in rows] == [(5, 1), (10, 2), (15, 3)]
    assert {"loss", "lr", "images_per_s", "data_wait"} <= rows[0].keys()
    assert all(0 <= r["data_wait"] <= 1 for r in rows)
    card = json.loads((out / "encoder.json").read_text())
    assert {k: card[k] for k in ("format", "dim", "image_size", "channels", "dtype", "method", "epochs")} == {
        "format": 1, "dim": 12, "image_size": 16, "channels": 3, "dtype": "uint8", "method": "simclr", "epochs": 3.0,
    }  # fmt: skip
    log = (out / "log.txt").read_text()
    for words in (
        "40 images",
        "15 = 3 epochs x 5 of 8 images",
        "learning rate",
        "2 x 16 px",
        "Next: lookalike evaluate",
    ):
        assert words in log


def test_the_learning_rate_of_the_rows_is_the_one_that_was_used(finished: Callable[[int], Path]) -> None:
    cfg = tiny_config()
    peak = 0.2 * 8 / 256
    schedule = Schedule(peak, 0.0, "cosine", warmup_epochs=0.3)  # the warm-up is fitted to a tenth of 3 epochs
    assert cfg.optim.grid == "closed"
    rows = Folder(finished(1)).rows()
    assert [r["lr"] for r in rows] == pytest.approx([schedule(Progress(int(r["step"]) - 1, 15, 5)) for r in rows])


def test_a_cache_says_how_far_it_is(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0)
    training.pretrain(tiny_run(photos, tmp_path / "run", epochs=1, cache="ram"))
    assert "cache       40 of 40 images decoded" in capsys.readouterr().out


def test_a_run_leaves_no_process_behind(photos: Path, tmp_path: Path) -> None:
    before = set(multiprocessing.active_children())
    training.pretrain(tiny_run(photos, tmp_path / "run", epochs=1, workers=2))
    assert set(multiprocessing.active_children()) <= before


def test_files_can_be_read_by_others(finished: Callable[[int], Path]) -> None:
    modes = {path.name: path.stat().st_mode & 0o777 for path in finished(1).rglob("*") if path.is_file()}
    assert set(modes.values()) == {modes["log.txt"]}


def test_the_features_are_looked_at(finished: Callable[[int], Path], photos: Path, tmp_path: Path) -> None:
    rows = Folder(finished(1)).rows()
    # after the last epoch only: images to look at are dear for so small a training
    assert ["spread" in row for row in rows] == [False, False, True]
    assert 0 < rows[-1]["spread"] <= 1
    assert 1 <= rows[-1]["effective_rank"] <= 12
    assert 0 <= rows[-1]["alignment"] <= 4
    run, _ = training.resolve(tiny_run(photos, tmp_path / "run"), 40)
    encoder = training.build(run).encoder.train()
    health = Health(open_source(photos), run, encoder)
    assert health.views.shape == (80, 3, 16, 16)
    # forward passes of views, in and beside steps: a look takes two, of which one is for BatchNorm's statistics
    assert 0.009 < 2 * len(health.views) / (3 * 16 * health.every) <= 0.01
    again = Health(open_source(photos), run, encoder)
    assert torch.equal(health.views, again.views)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    healthy = health(encoder).figures
    assert encoder.training
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    with torch.no_grad():
        convolution = encoder.net.layers[3]  # type: ignore[index]
        convolution.weight.zero_()
        convolution.bias.fill_(1)
    collapsed = health(encoder).figures
    assert collapsed["spread"] < 1e-3 < 0.01 < healthy["spread"]
    assert collapsed["effective_rank"] == pytest.approx(1, abs=0.01)


def test_the_looks_do_not_depend_on_where_a_run_was_resumed(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Early, at the first row in every so many steps, and after the last one: 13 epochs of 8 steps."""
    monkeypatch.setattr("lookalike.training.looks.FRACTION", 0.2)
    options = {"epochs": 13, "batch_size": 5, "save_every": 13}
    whole, stopped = tiny_run(photos, tmp_path / "whole", **options), tmp_path / "stopped"
    training.pretrain(whole)
    settled, _ = training.resolve(whole, 40)
    every = Health(open_source(photos), settled, training.build(settled).encoder).every
    rows = [row["step"] for row in Folder(whole.out).rows()]
    assert rows == sorted({*range(8, 105, 8), *range(10, 105, 10), *early_looks(104)})
    due = {min(row for row in rows if row >= step) for step in range(every, 104, every)}
    assert len(due) == 3
    assert seen_at(whole.out) == sorted({*due, *early_looks(104), 104})
    with monkeypatch.context() as patch:
        interrupt_after(patch, 33)
        with pytest.raises(KeyboardInterrupt):
            training.pretrain(tiny_run(photos, stopped, **options))
    training.pretrain(tiny_run(photos, stopped, **options, resume=True))
    assert seen_at(stopped) == seen_at(whole.out)


def seen_at(out: Path | str) -> list[float]:
    """The steps at which the features were looked at."""
    return [row["step"] for row in Folder(out).rows() if "spread" in row]


@pytest.mark.parametrize("epochs", [1, 3, 20, 21])
def test_the_online_knn_sees_the_last_epoch(
    epochs: int, labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And 20 of all at most, beside the untrained encoder."""
    monkeypatch.setattr(Probe, "__call__", lambda self, encoder: torch.arange(16) < 8)
    probe = (str(labelled / "train"), str(labelled / "test"))
    run = tiny_run(labelled / "train", tmp_path / "run", epochs=epochs, batch_size=32, save_every=epochs, probe=probe)
    rows = training.pretrain(run).metrics
    seen = [row["epoch"] for row in rows if "knn_top1" in row]
    assert seen[0] == 0
    assert seen[-1] == epochs
    assert len(seen) == 1 + min(epochs, 20)
    assert max(after - before for before, after in pairwise(seen)) <= -(-epochs // 20)


def test_fitting_leaves_stated_fields_alone(photos: Path, tmp_path: Path) -> None:
    run = tiny_run(photos, tmp_path / "run", method=SimCLR.Config(), image_size=32, epochs=20)
    fitted, changes = training.resolve(run, 40)
    assert fitted.method.views[0].blur == 0
    assert fitted.method.optim.warmup_epochs == 2
    assert "views.0.blur 0.5 -> 0.0" in changes
    kept, _ = training.resolve(dataclasses.replace(run, origins=by_user(["views.0.blur", "optim.warmup_epochs"])), 40)
    assert kept.method.views[0].blur == 0.5
    assert kept.method.optim.warmup_epochs == 10
    assert kept.method.views[0].hue == fitted.method.views[0].hue
    assert training.resolve(fitted, 40) == (fitted, [])
    paper, _ = training.resolve(dataclasses.replace(run, fit=False), 40)
    assert paper.method.views[0].blur == 0.5


@pytest.mark.parametrize("method", ["simclr", "dinov2"])
def test_activations_computed_twice_change_nothing(method: str, photos: Path, tmp_path: Path) -> None:
    views = (View(size=32, scale=(0.4, 1.0)), View(size=32, scale=(0.4, 1.0)))
    sizes: dict[str, Any] = {"hidden_dim": 16, "views": views}
    if method == "dinov2":
        sizes |= {"bottleneck_dim": 8, "prototypes": 16, "drop_path": 0.5}
    cfg = get_method(method).Config(**sizes)
    for name, asked in (("a", False), ("b", True)):
        run = tiny_run(
            photos, tmp_path / name, method=cfg, backbone="test_vit", epochs=1, fit=False, checkpoint_activations=asked
        )
        training.pretrain(run)
    for a, b in zip(losses(tmp_path / "a"), losses(tmp_path / "b"), strict=True):
        assert a == b
    assert_equal(state(tmp_path / "a")["state_dict"], state(tmp_path / "b")["state_dict"])


def test_activations_are_computed_again_in_the_student_alone(photos: Path, tmp_path: Path) -> None:
    cfg = get_method("dino").Config(prototypes=16)
    run = tiny_run(photos, tmp_path, method=cfg, backbone="test_vit", image_size=32, checkpoint_activations=True)
    method = training.build(training.resolve(run, 40)[0])
    assert method.backbone.net.grad_checkpointing
    assert not method.teacher[0].net.grad_checkpointing


def test_the_datas_own_mean_and_deviation(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    training.pretrain(tiny_run(photos, out, epochs=1, normalize="data"))
    pixels = [np.asarray(Image.open(p), np.float64).reshape(-1, 3) / 255 for p in photos.rglob("*.jpg")]
    card = json.loads((out / "encoder.json").read_text())
    assert card["mean"] == pytest.approx(np.concatenate(pixels).mean(0).tolist(), abs=1e-4)
    assert card["std"] == pytest.approx(np.concatenate(pixels).std(0).tolist(), abs=1e-4)
    training.pretrain(tiny_run(photos, out, epochs=2, normalize="data", resume=True))
    assert json.loads((out / "encoder.json").read_text())["mean"] == card["mean"]
    with pytest.raises(ValueError, match="normalize: data in the run, imagenet now"):
        training.pretrain(tiny_run(photos, out, epochs=3, resume=True, origins=by_user(["normalize"])))
    training.pretrain(tiny_run(photos, out, epochs=3, resume=True))  # what was not stated is as it was
    assert json.loads((out / "encoder.json").read_text())["mean"] == card["mean"]


def test_the_global_generator_is_left_alone(photos: Path, tmp_path: Path) -> None:
    run = tiny_run(photos, tmp_path / "run", epochs=1)
    resolved, _ = training.resolve(run, 40)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    training.build(resolved)
    assert torch.equal(torch.rand(3), expected)


def large_run(photos: Path, out: Path, **changes: Any) -> Run:
    """DINOv2 on test_vit at 32 pixels, the last epoch and a half at 48."""
    cfg = get_method("dinov2").Config(
        hidden_dim=16,
        bottleneck_dim=8,
        prototypes=16,
        large_epochs=1.5,
        large_size=48,
        views=dino_views(0.32, local=1)[:2],
    )
    options: dict[str, Any] = {"method": cfg, "backbone": "test_vit", "image_size": 32, "epochs": 3} | changes
    return tiny_run(photos, out, **options)


def test_the_last_epochs_may_have_larger_views(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DINOv2's stage of high resolution: global views grow, positions are interpolated, and it resumes inside."""
    out, seen = tmp_path / "whole", []
    make = module.make_views

    def watched(images: Any, views: tuple[View, ...], *args: Any, **options: Any) -> list[Tensor]:
        made = make(images, views, *args, **options)
        seen.append([v.shape[-1] for v in made])
        return made

    with monkeypatch.context() as patch:
        patch.setattr(module, "make_views", watched)
        training.pretrain(large_run(photos, out))
    assert seen[-15:-8] == [[32, 32]] * 7  # half of the second epoch has 7.5 steps before it
    assert seen[-7:] == [[48, 48]] * 7
    assert read_run(Folder(out).run).decode_size == 96
    assert "1 x 32 px, 1 x 32 px (at the end 1 x 48 px, 1 x 48 px)" in Folder(out).log.read_text()
    assert json.loads(Folder(out).card.read_text())["image_size"] == 32

    class Stop(Callback):
        def on_train_batch_end(self, trainer: Trainer, *args: object) -> None:
            trainer.should_stop = trainer.global_step == 12

    training.pretrain(large_run(photos, tmp_path / "stopped"), callbacks=[Stop()])
    training.pretrain(large_run(photos, tmp_path / "stopped", resume=True))
    assert_same_run(tmp_path / "stopped", out)


def test_larger_views_must_fit_the_patches(photos: Path, tmp_path: Path) -> None:
    cfg = get_method("dinov2").Config(prototypes=16, large_epochs=1.0)
    assert training.resolve(large_run(photos, tmp_path, method=cfg), 40)[0].method.large_size == 512
    cfg = dataclasses.replace(cfg, large_size=24)
    with pytest.raises(ValueError, match="--large-size 24 is no larger than the global views of 32 pixels"):
        training.resolve(large_run(photos, tmp_path, method=cfg), 40)
    cfg = dataclasses.replace(cfg, large_size=50)
    with pytest.raises(ValueError, match="cuts images into patches of 16 pixels and cannot take 50 x 50"):
        training.pretrain(tiny_run(photos, tmp_path / "run", method=cfg, backbone="test_vit", image_size=32))
    with pytest.raises(ValueError, match="large_epochs is -1"):
        get_method("dinov2").Config(large_epochs=-1.0)


def test_larger_views_keep_their_blur_in_proportion() -> None:
    first, second, local = larger(dino_views(0.32, local=8), 448)
    assert (first.size, first.kernel, first.sigma) == (448, 45, (0.2, 4.0))
    assert (second.size, local) == (448, dino_views(0.32, local=8)[2])


def test_a_run_that_goes_on_keeps_what_fitting_chose_and_refuses_what_was_changed(tmp_path: Path) -> None:
    def asked(method: SimCLR.Config, epochs: int) -> Run:
        return Run(data="", method=method, backbone="test_resnet", image_size=32, epochs=epochs, out=str(tmp_path))

    first, _ = training.resolve(asked(SimCLR.Config(), 20), 1000)
    begun = flat(first)
    assert first.method.optim.warmup_epochs == 2  # a tenth of the epochs
    longer, _ = training.resolve(asked(SimCLR.Config(), 50), 1000, begun)
    assert longer.method == first.method
    again, _ = training.resolve(asked(SimCLR.Config(), 50), 1000, flat(longer))  # fitted to 20, and has 50 by now
    assert again.method == first.method
    own, _ = training.resolve(asked(SimCLR.Config(out_dim=64), 20), 1000)
    stated = dataclasses.replace(asked(SimCLR.Config(), 20), origins=by_user(["out_dim"]))
    other, _ = training.resolve(stated, 1000, flat(own))
    assert differences(flat(own), flat(other)) == ["out_dim: 64 in the run, 128 now"]
    other, _ = training.resolve(asked(SimCLR.Config(), 20), 1000, flat(own))
    assert other.method == own.method  # what was not stated is as it was
    adam = SimCLR.Config(optim=Optim("adamw", lr=1e-4))
    own, _ = training.resolve(asked(adam, 20), 1000)
    other, _ = training.resolve(asked(SimCLR.Config(), 20), 1000, flat(own))
    assert other.method == own.method  # fitting chooses optimizers: the run goes on with the one that it has
    stated = dataclasses.replace(asked(SimCLR.Config(optim=Optim("sgd", lr=1e-4)), 20), origins=by_user(["optim.name"]))
    other, _ = training.resolve(stated, 1000, flat(own))
    assert any(line.startswith("optim.name: adamw in the run") for line in differences(flat(own), flat(other)))

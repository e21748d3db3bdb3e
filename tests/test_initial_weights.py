"""Trainings that start from weights: the encoder rests at first, and what it forgets is said."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from safetensors.torch import load_file
from support.runs import assert_same_run, tiny_config, tiny_run
from torch import Tensor

from lookalike import backbones, encoders, training
from lookalike.data import Pixels
from lookalike.optim import Optim
from lookalike.runs import Folder
from lookalike.training.monitor import Probe


def test_init_starts_from_weights(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    training.pretrain(tiny_run(photos, tmp_path / "first", epochs=1))
    still = Optim("sgd", lr=0.0)
    training.pretrain(
        tiny_run(photos, tmp_path / "second", epochs=1, init=str(tmp_path / "first"),
                 method=dataclasses.replace(tiny_config(), optim=still))
    )  # fmt: skip
    assert "tensors" in capsys.readouterr().out
    a, b = (load_file(tmp_path / name / "encoder.safetensors") for name in ("first", "second"))
    for name in a:
        if "running" not in name and "num_batches" not in name:
            assert torch.equal(a[name], b[name])


def kept_at_step(out: Path, step: int) -> dict[str, Tensor]:
    content = torch.load(Folder(out).checkpoints / f"epoch={step}.ckpt", weights_only=True)["state_dict"]
    return {name: value for name, value in content.items() if "running" not in name and "num_batches" not in name}


def test_the_encoder_stays_as_init_gave_it_while_the_head_learns(photos: Path, tmp_path: Path) -> None:
    training.pretrain(tiny_run(photos, tmp_path / "first", epochs=1))
    first = load_file(Folder(tmp_path / "first").weights)
    second = tiny_run(photos, tmp_path / "second", init=str(tmp_path / "first"), frozen_epochs=2.0)
    training.pretrain(second)
    for epoch in (1, 2, 3):
        now = kept_at_step(tmp_path / "second", epoch)
        if epoch < 3:
            whole = torch.load(Folder(tmp_path / "second").checkpoints / f"epoch={epoch}.ckpt", weights_only=True)
            backbone = {k.removeprefix("method.backbone.net."): v for k, v in whole["state_dict"].items()}
            assert all(torch.equal(v, backbone[k]) for k, v in first.items())  # BatchNorm's statistics, too
        same = [
            torch.equal(v, first[k.removeprefix("method.backbone.net.")]) for k, v in now.items() if "backbone" in k
        ]
        assert len(same) >= 4
        assert all(same) if epoch < 3 else not any(same)
    a, b = (kept_at_step(tmp_path / "second", epoch) for epoch in (1, 2))
    assert not torch.equal(a["method.projector.0.weight"], b["method.projector.0.weight"])
    assert "frozen      the whole encoder for the first 2 epochs" in Folder(tmp_path / "second").log.read_text()
    # stopped in the frozen time, and resumed
    out = tmp_path / "stopped"
    part = tiny_run(photos, out, init=str(tmp_path / "first"), frozen_epochs=2.0)

    class Stop(Callback):
        def on_train_batch_end(self, trainer: Trainer, *args: object) -> None:
            trainer.should_stop = trainer.global_step == 7

    training.pretrain(part, callbacks=[Stop()])
    # the frozen time is that of the run as it was begun
    training.pretrain(tiny_run(photos, out, init=str(tmp_path / "first"), resume=True))
    assert_same_run(out, tmp_path / "second")


def test_a_tenth_of_the_epochs_is_frozen_with_init_alone(photos: Path, tmp_path: Path) -> None:
    for init, stated, settled in ((None, None, None), ("x", None, 2.0), ("x", 0.0, 0.0), ("x", 0.5, 0.5)):
        run = tiny_run(photos, tmp_path / "run", epochs=20, init=init, frozen_epochs=stated)
        assert training.resolve(run, 40)[0].frozen_epochs == (settled or 0.0)
    with pytest.raises(ValueError, match=r"frozen_epochs is 1\.0 without init"):
        tiny_run(photos, tmp_path / "run", frozen_epochs=1.0)
    with pytest.raises(ValueError, match="frozen_epochs is 3 of 3 epochs: the encoder would never be trained"):
        tiny_run(photos, tmp_path / "run", init="x", frozen_epochs=3.0)
    with pytest.raises(ValueError, match="frozen_epochs is -1"):
        tiny_run(photos, tmp_path / "run", init="x", frozen_epochs=-1)


def test_forgetting_is_said(labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """k-NN before and after: a wild learning rate spoils what the weights knew."""
    told = iter([torch.arange(16) < 14, torch.arange(16) < 6])
    monkeypatch.setattr(Probe, "__call__", lambda self, encoder: next(told))
    training.pretrain(tiny_run(labelled, tmp_path / "first", epochs=1))
    probe = (str(labelled / "train"), str(labelled / "test"))
    training.pretrain(
        tiny_run(labelled, tmp_path / "second", epochs=1, init=str(tmp_path / "first"), probe=probe, save_every=9)
    )
    said = Folder(tmp_path / "second").log.read_text()
    assert "k-NN before training: 87.5%" in said
    assert "k-NN top-1: 87.5% before training, 37.5% now" in said
    assert "Verdict: getting worse: the k-NN went from 87.5% before training to 37.5%" in said
    assert "the encoder forgets what --init knew. Try --optim.lr" in said


def test_init_from_a_checkpoint_takes_its_normalisation(photos: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    training.pretrain(tiny_run(photos, first, epochs=1, normalize="data"))
    training.pretrain(tiny_run(photos, second, epochs=1, init=str(Folder(first).last)))
    a, b = (json.loads((out / "encoder.json").read_text()) for out in (first, second))
    assert a["mean"] == b["mean"] != [0.485, 0.456, 0.406]


# ---------------------------------------------------------------- other bands


NAMED = Pixels(2, bands=("nir", "red"))


@pytest.mark.parametrize(
    ("of_weights", "images", "expected", "words"),
    [
        (Pixels(), Pixels(1), [[1], [1], [1]], "from 3 to 1 channel: grey for each of 3 channels"),
        (Pixels(), Pixels(5), [[0.2] * 5] * 3, "from 3 to 5 channels: the mean of 5 bands for each of 3 channels"),
        (Pixels(), Pixels(4, bands=("nir", "green", "Red", "blue")), [[0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]],
         "bands red, green, blue by name, 1 not used at first"),
        (NAMED, Pixels(1, bands=("red",)), [[0], [1]], "bands red by name, 0 for 1 that are missing"),
        (Pixels(4, bands=("1", "2", "3", "4")), Pixels(2, bands=("4", "2")), [[0, 0], [0, 1], [0, 0], [1, 0]],
         "bands 2, 4 by name, 0 for 2 that are missing"),
        (Pixels(5), Pixels(2, bands=("4", "2")), [[0, 0], [0, 1], [0, 0], [1, 0], [0, 0]], "bands 2, 4 by name"),
        (Pixels(5), Pixels(3), [[1 / 3] * 3] * 5, "the mean of 3 bands for each of 5 channels"),
    ],
)  # fmt: skip
def test_the_first_layer_is_converted_to_other_bands(
    of_weights: Pixels, images: Pixels, expected: list[list[float]], words: str, tmp_path: Path
) -> None:
    first, second = (
        backbones.create("test_byobnet", channels=pixels.channels, image_size=32) for pixels in (of_weights, images)
    )
    first.pixels, second.pixels = of_weights, images
    folder = Folder(tmp_path)
    encoders.save(folder, first, method="simclr", epochs=1, dtype=torch.uint8)
    own = second.mean
    line = encoders.start_from(second, str(tmp_path))
    assert f"first layer converted {words}" in line or words in line
    assert "randomly initialised" not in line
    assert second.mean == own  # the weights' means are of other bands
    (name,) = (n for n, value in first.export_state().items() if value.ndim == 4 and value.shape[1] == len(first.mean)
               and value.shape != second.export_state()[n].shape)  # fmt: skip
    before, after = first.export_state()[name], second.export_state()[name]
    assert torch.allclose(
        after, torch.einsum("ockl,cn->onkl", before, torch.tensor(expected, dtype=torch.float32)), atol=1e-6
    )
    matrix = torch.tensor(expected, dtype=torch.float32)
    x = torch.randn(2, images.channels, 32, 32)
    with torch.no_grad():
        assert torch.allclose(second.eval()(x), first.eval()(torch.einsum("cn,bnhw->bchw", matrix, x)), atol=1e-4)


def test_equal_channels_are_left_alone(tmp_path: Path) -> None:
    first, second = (backbones.create("test_byobnet", image_size=32) for _ in range(2))
    second.pixels = Pixels(3, bands=("4", "3", "2"))
    encoders.save(Folder(tmp_path), first, method="simclr", epochs=1, dtype=torch.uint8)
    assert "converted" not in encoders.start_from(second, str(tmp_path))
    assert all(torch.equal(a, b) for a, b in zip(first.export_state().values(), second.export_state().values()))

"""A run of format 1, made once and kept: every later version must load it."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

import lookalike
from lookalike import training
from lookalike.runs import Folder, read_run

GOLDEN = Path(__file__).parent / "golden" / "run"


def test_the_encoder_gives_the_features_that_it_gave() -> None:
    kept = json.loads((GOLDEN.parent / "features.json").read_text())
    images = torch.linspace(-1, 1, 2 * 3 * 32 * 32).view(2, 3, 32, 32)
    for path in (GOLDEN, GOLDEN / "encoder.safetensors"):
        encoder = lookalike.load(path)
        with torch.no_grad():
            assert encoder(images)[:, :8].flatten().tolist() == pytest.approx(kept, rel=1e-4, abs=1e-5)


def test_its_configuration_and_rows_can_be_read() -> None:
    run = read_run(GOLDEN / "run.yaml")
    assert (run.epochs, run.batch_size, run.image_size, run.backbone) == (1, 8, 32, "test_vit")
    assert run.method.optim.name == "lars_simclr"
    assert [r["step"] for r in Folder(GOLDEN).rows()] == [5]


def test_it_can_be_resumed(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(GOLDEN, out)
    text = (out / "run.yaml").read_text().replace("data: photos", f"data: {photos}")
    (out / "run.yaml").write_text(text)
    run = dataclasses.replace(read_run(out / "run.yaml"), resume=True, epochs=2, out=str(out))
    result = training.pretrain(run)
    assert [r["step"] for r in result.metrics] == [5, 10]

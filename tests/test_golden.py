"""Runs of format 1 and what 0.1 began, made once and kept: every later version must load them and go on with them."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import support.tiny  # noqa: F401 (the networks of the folders)
import torch

import lookalike
from lookalike import cli, training
from lookalike.commands.compare import runner
from lookalike.evaluation import protocols
from lookalike.methods import METHODS
from lookalike.runs import Folder, read_run
from lookalike.training import start

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


# ---------------------------------------------------------------- trainings that 0.1 began (tests/golden/make.py)

BEGUN = ("simclr", "supcon", "moco_v2", "moco_v3", "byol", "simsiam", "barlow_twins", "vicreg", "lejepa", "swav",
         "deepcluster_v2", "dino", "ibot", "dinov2", "distill", "finetune")  # fmt: skip
DRAWN_ANEW = ("lejepa", "deepcluster_v2", "ibot", "dinov2")
"""Methods that draw other random numbers than in 0.1, in one process too: theirs go on to other losses."""


@pytest.fixture
def golden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to work in."""
    shutil.copytree(GOLDEN.parent, tmp_path / "golden")
    monkeypatch.chdir(tmp_path / "golden")
    return tmp_path / "golden"


def test_every_method_has_a_training_that_was_begun_by_0_1() -> None:
    assert set(BEGUN) == set(METHODS)


@pytest.mark.parametrize("name", BEGUN)
def test_a_training_of_0_1_goes_on_where_it_stopped(name: str, golden: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocols, "DINOV2", dataclasses.replace(protocols.DINOV2, least_steps=20))  # for time
    monkeypatch.setattr("lookalike.training.start.version", lambda: "0.2.0.dev0")  # whatever is installed
    verb = name if name in ("distill", "finetune") else "pretrain"
    assert json.loads((golden / name / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 6
    assert cli.main([verb, "--resume", "--out", name, "--no-report"]) == 0
    losses = {row["step"]: row["loss"] for row in Folder(name).rows() if "loss" in row}
    ends = (3, 6, 9, 12)  # of the epochs: what is logged between them depends on the clock
    assert losses.keys() >= set(ends)
    log = (golden / name / "log.txt").read_text()
    assert "step 7 of" in log
    assert "started with lookalike 0.1.0, this is 0.2.0.dev0: it continues, but bits may differ" in log
    assert ("other random numbers" in log) == (name in start.DRAWN_ANEW)
    assert set(DRAWN_ANEW) <= start.DRAWN_ANEW.keys()
    if name not in DRAWN_ANEW:
        then = json.loads((golden / "losses.json").read_text())[name]
        assert [losses[end] for end in ends] == pytest.approx([then[str(end)] for end in ends], rel=1e-2)
    assert lookalike.load(name).dim == 16


def test_rows_of_0_1_have_the_current_names_of_metrics(golden: Path) -> None:
    row = Folder("simclr").rows()[0]
    assert row["pair_auc"] == pytest.approx(0.5516, abs=1e-4)
    assert "recognition" not in row


def test_a_comparison_of_0_1_goes_on_where_it_stopped(
    golden: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    question = json.loads((golden / "compare" / "compare.json").read_text())["question"]
    monkeypatch.setattr(runner, "device_name", lambda: question["device"])  # costs of another one are not comparable
    command = json.loads((golden / "compare.command.json").read_text())
    assert cli.main(command) == 0, capsys.readouterr().err
    trainings = json.loads((golden / "compare" / "compare.json").read_text())["trainings"]
    assert [(t["method"], t["seed"], t["status"]) for t in trainings] == [
        ("simclr", 0, "done"), ("supcon", 0, "done"), ("simclr", 1, "done"), ("supcon", 1, "done")
    ]  # fmt: skip
    assert "step 4 of" in (golden / "compare" / "supcon-seed0" / "log.txt").read_text()

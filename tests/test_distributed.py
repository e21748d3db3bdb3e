"""Two processes train exactly as one does on the joined batch: the real command, two gloo processes, float64."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from lookalike.methods import METHODS
from lookalike.runs import Folder


def train(method: str, photos: Path, out: Path, devices: int, *more: str) -> dict[str, torch.Tensor]:
    command = [
        sys.executable, "-m", "lookalike", "pretrain", method, str(photos), "--out", str(out),
        "--devices", str(devices),
        "--backbone", "test_resnet", "--image-size", "32", "--batch-size", "8", "--epochs", "1", "--precision", "fp64",
        "--workers", "0", *more,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    content = torch.load(Folder(out).last, weights_only=True)
    assert content["global_step"] == 5
    state: dict[str, torch.Tensor] = content["state_dict"]
    return state


def test_the_online_knn_runs_on_one_of_two_processes(photos: Path, labelled: Path, tmp_path: Path) -> None:
    """From the untrained encoder on, whose statistics are estimated while the other process waits in a step."""
    more = ["--probe", str(labelled / "train"), str(labelled / "test")]
    plain, probed = (
        train("simclr", photos, tmp_path / name, 2, *(more if name == "probed" else [])) for name in ("plain", "probed")
    )
    assert all(torch.equal(value, probed[name]) for name, value in plain.items())
    assert ["knn_top1" in row for row in Folder(tmp_path / "probed").rows()] == [True, True]


def test_a_signal_to_one_process_stops_both(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [
        sys.executable, "-m", "lookalike", "pretrain", "simclr", str(photos), "--out", str(out), "--devices", "2",
        "--backbone", "test_resnet", "--image-size", "32", "--batch-size", "8", "--epochs", "5000", "--workers", "0",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    metrics, deadline = Folder(out).metrics, time.monotonic() + 120
    while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.1)
    (other,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(other), signal.SIGTERM)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 143, text
    assert "Go on with: lookalike pretrain --resume" in text


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("method", METHODS)
def test_two_processes_equal_one(method: str, accumulate: int, photos: Path, tmp_path: Path) -> None:
    one = train(method, photos, tmp_path / "one", 1, "--accumulate", str(accumulate))
    two = train(method, photos, tmp_path / "two", 2, "--accumulate", str(accumulate))
    assert one.keys() == two.keys()
    for name, value in one.items():
        if value.is_floating_point():
            assert value.dtype == torch.float64
            assert float((value - two[name]).abs().max()) <= 1e-9 * max(float(value.abs().max()), 1e-3), name
        else:
            assert torch.equal(value, two[name]), name
    a, b = (Folder(tmp_path / n).rows() for n in ("one", "two"))
    assert [r["loss"] for r in a] == pytest.approx([r["loss"] for r in b], rel=1e-9)
    log = (tmp_path / "two/log.txt").read_text()
    assert log.count("Next: lookalike evaluate") == 1  # rank 0 alone speaks

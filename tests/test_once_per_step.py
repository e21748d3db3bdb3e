"""Teachers, queues, centres, prototypes and banks move once per optimizer step, in whatever parts a batch comes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.methods import small
from support.moved import STEPS, moved

from lookalike.methods import METHODS

pytestmark = pytest.mark.long(14)

PER_STEP: dict[str, dict[str, int]] = {
    "moco_v2": {"follow": 1, "add": 1},
    "moco_v3": {"follow": 1},
    "byol": {"follow": 1},
    "swav": {"add": 2, "normalize": 1},  # a queue for each global view
    "deepcluster_v2": {"_remember": 1},
    "dino": {"follow": 1, "move": 1},
    "ibot": {"follow": 1, "move": 2},  # centres of images and of patches
    "dinov2": {"follow": 1, "move": 2},
    "distill": {"add": 1},
}
"""What a step moves; nothing for all other methods."""


def expected(name: str) -> dict[str, int]:
    return {what: STEPS * times for what, times in PER_STEP.get(name, {}).items()}


@pytest.mark.parametrize("name", METHODS)
def test_with_micro_batches(name: str, classed: Path, tmp_path: Path) -> None:
    assert moved(name, classed, tmp_path / "run", accumulate=2) == expected(name)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in PER_STEP else pytest.mark.slow)
        for name in METHODS
        if small(name).needs.couples_batch
    ],
)
def test_with_a_joint_loss(name: str, classed: Path, tmp_path: Path) -> None:
    assert moved(name, classed, tmp_path / "run", accumulate=2, joint_loss=True) == expected(name)


@pytest.mark.slow
def test_on_two_processes_with_micro_batches_and_with_a_joint_loss(classed: Path, tmp_path: Path) -> None:
    script = [str(Path(__file__).with_name("two_processes_moved.py")), str(classed), str(tmp_path)]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *script]
    done = subprocess.run(launch, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    for rank in range(2):
        found = json.loads((tmp_path / f"rank{rank}.json").read_text())
        assert {*METHODS} < found.keys()
        for name, calls in found.items():
            assert calls == expected(name.removesuffix(" joint")), (rank, name)

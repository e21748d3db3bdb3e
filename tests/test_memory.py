"""Memory of a training: the estimate, what is advised where it does not suffice, and the resumed run."""

import dataclasses
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from support.methods import small, teacher
from support.runs import losses, tiny_config, tiny_run

from lookalike import cli, training
from lookalike.commands import estimate as estimate_command
from lookalike.core import Batch, Method, Outputs, Progress
from lookalike.methods import METHODS
from lookalike.methods.simclr import SimCLR
from lookalike.runs import Folder, Resolved, Run
from lookalike.training import memory, memory_errors, trial
from lookalike.training.memory import Footprint, Tensors, _built, _noise, _Watch, _watched, footprint
from lookalike.training.out_of_memory import Advice, OutOfMemory, advice, is_out_of_memory, rows_of
from lookalike.views import resized

ALLOCATOR = "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
"""How torch's error begins on a CPU."""


def resolved(name: str, **options: Any) -> Resolved:
    cfg = dataclasses.replace(small(name), views=resized(small(name).views, 32, 16))
    run = Run(
        data="", method=cfg, backbone="test_vit", image_size=32, batch_size=32, teacher=teacher(name), workers=0,
        precision="fp32", fit=False, **options,
    )  # fmt: skip
    return training.resolve(run, 40)[0]


# ---------------------------------------------------------------- the estimate


def test_creations_and_releases_are_seen() -> None:
    known = torch.zeros(1000)
    with _Watch([known]) as watch:
        a = known + 1
        b = a.view(10, 100) * 2  # a view creates nothing
        del a
        c = b + b
        known.add_(1)
        del b, c
    found = watch.tensors()
    assert found == Tensors([4000, 4000, 4000], [0, 1, ~0, 2, ~1, ~2])
    assert found.peak(found.sizes) == 8000
    assert found.peak([4000, 100, 100]) == 4100


def test_sizes_are_constant_linear_or_quadratic() -> None:
    use = Footprint(
        parameters=5, gradients=7, optimizer=11, bank=13, view=3, rows=4, small=Tensors([100, 40, 16], [0, 1, 2]),
        large=Tensors([100, 80, 64], [0, 1, 2]), accumulates=False, is_resident=False,
    )  # fmt: skip
    assert use.peak(40) == 5 + 11 + 13 + 3 * 40 + 100 + 400 + 1600
    assert sum(use.parts(40).values()) == use.peak(40)
    assert use.parts(40)["gradients"] == 7
    assert dataclasses.replace(use, accumulates=True).peak(40) == use.peak(40) + 7
    most = use.largest(use.peak(40))
    assert use.peak(most) <= use.peak(40) < use.peak(most + 2)
    assert use.largest(use.peak(40), 8) == 40
    assert use.largest(100) == 0


@pytest.mark.parametrize("name", METHODS)
def test_the_estimate_is_what_a_larger_batch_takes(name: str) -> None:
    """Of the tensors: what the C library keeps is measured by benchmarks/memory.py."""
    run = resolved(name)
    use = dataclasses.replace(footprint(run), is_resident=False)
    method, optimizer = _built(run)
    memory._step(method, run, optimizer, _noise(run, 4))
    real = _watched(method, run, optimizer, _noise(run, 32))
    taken = real.peak(real.sizes) + use.fixed + 32 * use.view
    assert use.peak(32) == pytest.approx(taken, rel=0.02)
    assert use.parameters > use.gradients * 0.9
    assert use.view == sum(3 * v.size**2 * 4 * v.count for v in run.method.views)


def test_micro_batches_and_a_joint_loss_take_less() -> None:
    plain, joint = resolved("simclr"), resolved("simclr", accumulate=4, joint_loss=True)
    micro = resolved("simclr", accumulate=4)
    peaks = [footprint(run).peak(rows_of(run)) for run in (plain, joint, micro)]
    assert peaks[0] > peaks[1] > 0
    assert peaks[0] > peaks[2]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("simclr", ["--checkpoint-activations", "--accumulate 2 --joint-loss", "--accumulate 2"]),
        ("dino", ["--accumulate 2", "--checkpoint-activations", "--accumulate 2 --checkpoint-activations"]),
    ],
)
def test_three_changes_that_fit_the_cheapest_first(name: str, options: list[str]) -> None:
    run = resolved(name)
    needed = footprint(run).peak(32)
    found = advice(run, round(needed / 0.9) - 1000)
    assert found.needed == needed
    assert [" ".join(change.arguments) for change in found.changes] == options
    assert all(change.peak < needed for change in found.changes)
    text = found.lines(3)
    assert text[0].startswith("Out of memory in step 3: a step needs about ")
    assert text[0].endswith(" are free. Each of these fits, the cheapest first:")
    assert len(text) == 4


def test_too_little_for_any_change() -> None:
    found = advice(resolved("simclr"), 1000)
    assert found.changes == []
    assert found.lines(1)[0].endswith("Give a smaller --image-size or --backbone.")


# ---------------------------------------------------------------- the command


def test_the_command(photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    def step(run: Resolved) -> trial.Trial:
        tried.append(run.batch_size)
        fits = run.batch_size <= 20
        return trial.Trial(fits, 2**20 if fits else 0, 0.5, 2**21, "" if fits else "can't allocate memory")

    monkeypatch.setattr(estimate_command, "step", step)
    more = ["--backbone", "test_byobnet", "--image-size", "32", "--batch-size", "8", "--workers", "0"]
    assert cli.main(["estimate", "simclr", str(photos), "--find-batch-size", *more]) == 0
    text = capsys.readouterr().out
    assert "training    simclr, test_byobnet, 32 px, batches of 8 images" in text
    for part in ("parameters", "gradients", "optimizer", "bank, queue", "views", "activations"):
        assert re.search(rf"\n            {part} +[\d.]+ \wi?B", text), part
    assert re.search(r"\ntime        [\d.]+ \w+ per step, .* per epoch of 5 steps", text)
    assert tried == [8, 16, 32, 24, 20, 22, 21]
    assert "20 images at most, by real steps: 21 images do not fit" in text
    assert not Path("runs").exists()


def test_a_real_step_in_a_process_of_its_own() -> None:
    found = trial.step(resolved("simclr"))
    assert found.fits, found.error
    assert found.seconds > 0
    assert 0 < found.peak < found.free


# ---------------------------------------------------------------- out of memory


def test_which_errors_are_a_lack_of_memory() -> None:
    assert is_out_of_memory(RuntimeError(f"{ALLOCATOR}allocate 4096 bytes."))
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert not is_out_of_memory(RuntimeError("out of range"))
    assert not is_out_of_memory(FileNotFoundError("no such file"))


def fails_after(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch of 8 images has too little memory from a step on."""
    forward = SimCLR.forward

    def failing(self: SimCLR, batch: Batch) -> Any:
        if batch.progress.step >= steps and len(batch.index) > 4:
            raise RuntimeError(f"{ALLOCATOR}allocate 4096 bytes.")
        return forward(self, batch)

    monkeypatch.setattr(SimCLR, "forward", failing)

    def advised(run: Resolved) -> Advice:
        return advice(run, round(footprint(run).peak(8) / 0.9) - 1000)

    monkeypatch.setattr(memory_errors, "advised", advised)


def steps_of(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    made: list[int] = []

    def after_step(self: Method, at: Progress, outputs: Sequence[Outputs]) -> None:
        made.append(at.step)

    monkeypatch.setattr(SimCLR, "after_step", after_step)
    return made


def test_a_run_resumes_with_what_fits(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    monkeypatch.setattr("lookalike.training.checkpoints.SETTLE_SECONDS", 0)
    fails_after(7, monkeypatch)
    made = steps_of(monkeypatch)
    with pytest.raises(OutOfMemory) as caught:
        training.pretrain(tiny_run(photos, out, backbone="test_vit", image_size=32, fit=False))
    text = str(caught.value)
    assert text.startswith("Out of memory in step 8: a step needs about ")
    assert "\n  --checkpoint-activations  " in text
    assert f"\nResume with: lookalike pretrain --resume --out {out} --checkpoint-activations" in text
    assert text in Folder(out).log.read_text()
    # the checkpoint is of step 5
    changed = tiny_run(photos, out, resume=True, backbone="test_vit", image_size=32, fit=False, accumulate=2)
    training.pretrain(changed)
    assert made == [*range(7), *range(5, 15)]
    log = Folder(out).log.read_text()
    assert "MEMORY      accumulate 1 -> 2 from this step on" in log
    assert "bits may differ from an uninterrupted run; each loss now compares 4 images" in log
    assert [step for step, _ in losses(out)] == [5, 10, 15]
    training.pretrain(dataclasses.replace(changed, accumulate=1, epochs=4, resume=True))  # as run.yaml says
    assert made[-1] == 19


def test_without_a_lack_of_memory_it_does_not(photos: Path, tmp_path: Path) -> None:
    training.pretrain(tiny_run(photos, tmp_path / "run", epochs=1))
    with pytest.raises(ValueError, match="accumulate: 1 in the run, 2 now"):
        training.pretrain(tiny_run(photos, tmp_path / "run", epochs=2, resume=True, accumulate=2))


def test_a_module_of_the_user_gets_the_general_advice(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails_after(0, monkeypatch)
    with pytest.raises(OutOfMemory, match=r"Out of memory in step 1. Give micro-batches \(--accumulate\)"):
        training.pretrain(tiny_run(photos, tmp_path / "run", method=tiny_config()))
    assert not (tmp_path / "run").exists()


LIMITED = """
import resource, sys
from lookalike import cli, training
from lookalike.devices import _of_status
from lookalike.methods.simclr import SimCLR
from lookalike.views import cpu
resource.setrlimit(resource.RLIMIT_AS, (_of_status("VmSize") + int(sys.argv[1]) * 2**20,) * 2)
sys.exit(cli.main(sys.argv[2:]))
"""


@pytest.mark.slow
def test_a_real_lack_of_memory(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    argv = ["pretrain", "simclr", photos, "--out", out, "--backbone", "resnet18", "--image-size", "128",
            "--batch-size", "40", "--workers", "0", "--epochs", "1", "--no-report"]  # fmt: skip
    command = [sys.executable, "-c", LIMITED, "900", *map(str, argv)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "error: Out of memory in step 1: a step needs about " in done.stderr
    assert "Each of these fits, the cheapest first:\n  --accumulate " in done.stderr
    assert "Traceback" not in done.stderr
    advised = re.search(r"\n  (--accumulate \d+ --joint-loss) ", done.stderr)
    assert advised is not None
    done = subprocess.run([*command, *advised[1].split()], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr

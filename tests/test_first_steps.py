"""The lines about memory and time after a training's first steps."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.runs import tiny_run

from lookalike import training
from lookalike.printing import size_of
from lookalike.runs import Folder
from lookalike.training import first_steps
from lookalike.training.first_steps import FirstSteps

MIB = 2**20


def lines_of(out: Path, label: str) -> list[str]:
    return [line for line in Folder(out).log.read_text().splitlines() if line.startswith(f"{label}  ")]


def test_a_run_and_its_continuation_state_memory_and_time(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    training.pretrain(tiny_run(photos, out))
    (memory,) = lines_of(out, "memory")
    assert re.search(r" parameters [\d.]+ KiB, gradients [\d.]+ KiB, optimizer [\d.]+ KiB, views 48 KiB", memory)
    (time,) = lines_of(out, "time")
    assert re.search(r"per epoch, .* for the rest \(from steps \d+ to \d+\)$", time)
    training.pretrain(tiny_run(photos, out, resume=True, epochs=5))
    assert len(lines_of(out, "memory")) == 2


def module(steps: int = 100) -> Any:
    """A training of 3 MiB of parameters; two views of 8 images take 1 MiB."""
    method = torch.nn.Linear(1024, 768, bias=False)
    optimizer = torch.optim.SGD(method.parameters(), momentum=0.9)
    views = [torch.zeros(8, 1, 128, 128), torch.zeros(8, 1, 128, 128)]
    return SimpleNamespace(
        method=method, rates=SimpleNamespace(optimizer=optimizer), micro_batch=views, done_steps=0, steps=steps,
        steps_per_epoch=20,
    )  # fmt: skip


def steps_of(found: Any, run: Any) -> FirstSteps:
    seen = FirstSteps(run, images=1000)
    seen.begin(found)
    found.method(torch.zeros(1, 1024)).sum().backward()
    found.rates.optimizer.step()  # its state of 3 MiB is there
    return seen


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Bytes in use, at the peak and free; on a CPU."""
    found = {"used": 100 * MIB, "peak": 100 * MIB, "free": 400 * MIB}
    monkeypatch.setattr(first_steps, "used_bytes", lambda: found["used"])
    monkeypatch.setattr(first_steps, "peak_bytes", lambda: found["peak"])
    monkeypatch.setattr(first_steps, "free_for_state", lambda device, devices: found["free"])
    monkeypatch.setattr(first_steps, "held_bytes", lambda: found["used"])
    return found


def run_of(**changes: Any) -> Any:
    return SimpleNamespace(**({"batch_size": 8, "loss_batches": 1, "devices": 1, "nodes": 1} | changes))


def test_the_peak_of_the_second_step_by_parts(machine: dict[str, int]) -> None:
    found = module()
    seen = steps_of(found, run_of())
    machine["peak"] = 157 * MIB
    found.done_steps = 1
    assert seen.memory(found) == ""
    found.done_steps = 2
    # 157 = 97 of the process + 3 parameters + 3 gradients + 3 optimizer + 1 views + 50 activations; 400 + 100 are its
    # own or free, so that 0.9 x 500 - 106 = 344 MiB remain for views and activations, which take 51 for 8 images
    assert seen.memory(found) == (
        "memory      157 MiB at the peak of a step: parameters 3 MiB, gradients 3 MiB, optimizer 3 MiB, views 1 MiB, "
        "activations 50 MiB, all else 97 MiB; 343 MiB more are free, enough for batches of about 53 images"
    )
    found.done_steps = 3
    assert seen.memory(found) == ""


def test_several_processes_and_micro_batches(machine: dict[str, int]) -> None:
    found = module()
    seen = steps_of(found, run_of(batch_size=64, loss_batches=2, devices=4))
    machine["peak"], found.done_steps = 157 * MIB, 2
    assert seen.memory(found).endswith("enough for batches of about 420 images")
    machine["free"] = 10 * 2**30
    assert seen.memory(found).endswith("enough for all images in one batch")


def test_a_higher_peak_before_the_first_step_hides_the_activations(machine: dict[str, int]) -> None:
    found = module(steps=1)
    machine["peak"] = 157 * MIB
    seen = steps_of(found, run_of())
    found.done_steps = 1  # the only step
    assert seen.memory(found) == (
        "memory      at most 157 MiB in the first steps: parameters 3 MiB, gradients 3 MiB, optimizer 3 MiB, views "
        "1 MiB"
    )


def test_time_without_slow_steps_and_other_work(machine: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    found, now = module(), 0.0
    monkeypatch.setattr(first_steps.time, "perf_counter", lambda: now)
    seen = steps_of(found, run_of())
    lines = []
    for step in range(1, 12):
        now += 3.0 if step > 3 else 50.0
        found.done_steps = step
        lines.append(seen.time(found))
        if step == 5:
            now += 100.0  # an evaluation
            seen.restart(found)
    # four steps of 3 s are more than 10 s
    assert [line for line in lines if line] == ["time        1 min per epoch, 4.5 min for the rest (from steps 6 to 9)"]
    assert lines[8]


def test_sizes_have_at_most_three_digits() -> None:
    sizes = {
        "0.996 GiB": 1020 * 2**20,
        "999 MiB": 999 * 2**20,
        "1 GiB": 2**30,
        "0.999 MiB": 1023 * 2**10,
        "0.5 KiB": 512,
    }
    assert {text: size_of(size) for text, size in sizes.items()} == {text: text for text in sizes}

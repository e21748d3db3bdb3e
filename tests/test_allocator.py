"""Released memory is used again within the context, and returned to the system behind it."""

import platform
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
from lightning.pytorch import Callback, Trainer
from support import tiny

from lookalike import training
from lookalike.methods.simclr import SimCLR
from lookalike.runs import Run

BLOCK = 64 * 2**20
"""Bytes that glibc takes from the system by itself, and returns."""

needs_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")


def printed(program: str) -> str:
    """What a program prints."""
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True)
    assert not done.returncode, done.stderr
    return done.stdout


FAULTS = """
import resource
import torch
from lookalike.allocator import reusing_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(faults())
"""
"""Counts the page faults of filling a block eight times."""


@needs_glibc
def test_a_block_is_cleared_by_the_system_once() -> None:
    """In a process of its own, as below: this one may have released memory that is used again."""
    program = f"{FAULTS}\nwith reusing_memory():\n    faults()\n    faults()\n    print(faults())\nprint(faults())\n"
    usual, within, behind = map(int, printed(program).split())
    assert within < usual / 4
    assert behind > usual / 2


@needs_glibc
def test_memory_goes_back_to_the_system_at_the_end_of_the_outermost_context() -> None:
    sizes = printed("""
        import torch
        from lookalike.allocator import reusing_memory
        from lookalike.devices import used_bytes
        print(used_bytes())
        with reusing_memory():
            with reusing_memory():
                blocks = [torch.ones(2**24) for _ in range(4)]
                del blocks
            print(used_bytes())
        print(used_bytes())
    """)
    before, within, after = map(int, sizes.split())
    assert within > before + 3 * BLOCK
    assert after < before + BLOCK


@needs_glibc
def test_an_error_ends_the_context() -> None:
    program = (
        f"{FAULTS}\ntry:\n    with reusing_memory():\n        raise KeyError\nexcept KeyError:\n    print(faults())\n"
    )
    usual, behind = map(int, printed(program).split())
    assert behind > usual / 2


def test_other_c_libraries_are_left_alone() -> None:
    program = """
        import platform
        platform.libc_ver = lambda: ("musl", "1.2")
        from lookalike import allocator
        allocator.ctypes.CDLL = lambda name: 1 / 0
        with allocator.reusing_memory():
            print("done")
    """
    assert printed(program) == "done\n"


class Fault(Exception):
    """Ends a training."""


@pytest.mark.parametrize("fails", [False, True])
def test_a_training_reuses_memory_from_its_third_step_to_its_end(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    found: list[str] = []

    @contextmanager
    def recorded() -> Iterator[None]:
        found.append("begins")
        yield
        found.append("ends")

    class Steps(Callback):
        def on_train_batch_start(self, trainer: Trainer, *_: object) -> None:
            found.append(f"step {trainer.global_step + 1}")
            if fails and trainer.global_step == 3:
                raise Fault

    monkeypatch.setattr("lookalike.training.callbacks.reusing_memory", recorded)
    monkeypatch.setattr("lookalike.training.callbacks.free_for_state", lambda kept, devices: 2**50)
    run = Run(
        data=str(photos), method=SimCLR.Config(), backbone=tiny.CNN, image_size=32, batch_size=8, epochs=1, workers=0,
        out=str(tmp_path / "run"),
    )  # fmt: skip
    with pytest.raises(Fault) if fails else nullcontext():
        training.pretrain(run, [Steps()])
    expected = ["step 1", "step 2", "begins", "step 3", "step 4", *([] if fails else ["step 5"]), "ends"]
    assert found[: len(expected)] == expected


def test_a_training_keeps_no_memory_where_little_is_free(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lookalike.training.callbacks.reusing_memory", lambda: pytest.fail("it is kept"))
    monkeypatch.setattr("lookalike.training.callbacks.free_for_state", lambda kept, devices: 2**20)
    run = Run(
        data=str(photos), method=SimCLR.Config(), backbone=tiny.CNN, image_size=32, batch_size=8, epochs=1, workers=0,
        out=str(tmp_path / "run"),
    )  # fmt: skip
    training.pretrain(run)

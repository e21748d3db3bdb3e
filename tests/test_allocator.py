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
from lookalike.devices import free_memory
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
import ctypes
import resource
from lookalike.allocator import reusing_memory

libc = ctypes.CDLL(None)
libc.malloc.argtypes, libc.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]

def faults(size=2**26):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(2):
        block = libc.malloc(size)
        libc.memset(block, 1, size)
        libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(faults())
"""
"""Counts the page faults of filling a block twice."""


@needs_glibc
def test_a_block_is_cleared_by_the_system_once() -> None:
    """In a process of its own, as below: this one may have released memory that is used again."""
    program = f"{FAULTS}\nwith reusing_memory():\n    faults()\n    print(faults())\nprint(faults())\n"
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
    program = f"""{FAULTS}
try:
    with reusing_memory():
        faults()
        print(faults())
        raise KeyError
except KeyError:
    print(faults())
"""
    usual, within, behind = map(int, printed(program).split())
    assert within < usual / 4
    assert behind > usual / 2


@needs_glibc
@pytest.mark.skipif(free_memory() < 2**33, reason="a block of 2.5 GiB needs more free memory")
def test_a_block_above_2_gib_is_reused_too() -> None:
    program = f"{FAULTS}\nwith reusing_memory():\n    faults(5 * 2**29)\n    print(faults(5 * 2**29))\n"
    usual, within = map(int, printed(program).split())
    assert within < usual / 4


@needs_glibc
@pytest.mark.parametrize(
    "setting", [("MALLOC_TRIM_THRESHOLD_", "131072"), ("GLIBC_TUNABLES", "glibc.malloc.mmap_threshold=131072")]
)
def test_settings_of_the_user_are_left_alone(monkeypatch: pytest.MonkeyPatch, setting: tuple[str, str]) -> None:
    monkeypatch.setenv(*setting)
    program = f"{FAULTS}\nwith reusing_memory():\n    faults()\n    print(faults())\n"
    usual, within = map(int, printed(program).split())
    assert within > usual / 2


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


class Seen(Callback):
    """Lists the steps of a training, and where its context begins and ends.

    Args:
        fails_at: the number of finished steps after which the training fails.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fails_at: int | None = None) -> None:
        self.found: list[str] = []
        self.fails_at = fails_at
        monkeypatch.setattr("lookalike.training.callbacks.reusing_memory", self.recorded)

    @contextmanager
    def recorded(self) -> Iterator[None]:
        self.found.append("begins")
        yield
        self.found.append("ends")

    def on_train_batch_start(self, trainer: Trainer, *_: object) -> None:
        self.found.append(f"step {trainer.global_step + 1}")
        if trainer.global_step == self.fails_at:
            raise Fault


@pytest.mark.parametrize("fails", [False, True])
def test_a_training_reuses_memory_from_its_third_step_to_its_end(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    seen = Seen(monkeypatch, fails_at=3 if fails else None)
    monkeypatch.setattr("lookalike.training.callbacks.free_for_state", lambda kept, devices: 2**50)
    run = Run(
        data=str(photos), method=SimCLR.Config(), backbone=tiny.CNN, image_size=32, batch_size=8, epochs=1, workers=0,
        out=str(tmp_path / "run"),
    )  # fmt: skip
    with pytest.raises(Fault) if fails else nullcontext():
        training.pretrain(run, [seen])
    expected = ["step 1", "step 2", "begins", "step 3", "step 4", *([] if fails else ["step 5"]), "ends"]
    assert seen.found[: len(expected)] == expected


def test_a_training_stops_it_where_little_memory_is_left(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, free = Seen(monkeypatch), iter([2**50, 2**50, 2**20])
    monkeypatch.setattr("lookalike.training.callbacks.LOOK_EVERY", 1)
    monkeypatch.setattr("lookalike.training.callbacks.free_for_state", lambda kept, devices: next(free))
    run = Run(
        data=str(photos), method=SimCLR.Config(), backbone=tiny.CNN, image_size=32, batch_size=8, epochs=2, workers=0,
        out=str(tmp_path / "run"),
    )  # fmt: skip
    training.pretrain(run, [seen])
    assert seen.found[:7] == ["step 1", "step 2", "begins", "step 3", "step 4", "ends", "step 5"]
    assert seen.found.count("begins") == seen.found.count("ends") == 1


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

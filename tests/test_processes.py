"""Processes of one training end together. The rules, in processes that import no torch; test_distributed.py trains."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from support.processes import is_running

from lookalike.processes import Ended

SECONDS = 20
"""Within which all that is awaited here happens, on a busy machine."""

WAITS = """
import ctypes, os, signal, subprocess, sys, time
from lookalike import processes

def wait_in_c():
    "As in torch's rendezvous and in collectives: Python answers no signal meanwhile."
    lock, mutex = ctypes.CDLL(None).pthread_mutex_lock, ctypes.create_string_buffer(64)
    print("waits", os.getpid(), flush=True)
    lock(mutex)
    lock(mutex)
"""
STARTED = f"{WAITS}\nprocesses.follow_starter()\nwait_in_c()\n"
"""A process that another one of its training started."""
STARTS = f"""{WAITS}
with processes.followed():
    processes.launched.append(subprocess.Popen([sys.executable, "-c", {STARTED!r}]))
"""
WATCHES = """
def alone(ended):
    print(ended, flush=True)
    processes.end(ended.stopped or 1)

processes.GRACE_SECONDS = 0.1
watch = processes.Watch(0, 2, alone)
"""


@contextmanager
def running(script: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A script in a process of its own, which does not outlive the test."""
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=os.environ | environment
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def waiting(process: subprocess.Popen[str]) -> int:
    """The number of the next process that says that it waits."""
    assert process.stdout is not None
    said = process.stdout.readline().split()
    assert said[:1] == ["waits"], said
    return int(said[1])


def ends(process: int) -> bool:
    deadline = time.monotonic() + SECONDS
    while is_running(process) and time.monotonic() < deadline:
        time.sleep(0.02)
    if is_running(process):
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
        return False
    return True


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_started_process_ends_with_the_one_that_started_it(number: int) -> None:
    with running(f"{STARTS}\nwait_in_c()") as process:
        first, second = waiting(process), waiting(process)
        os.kill(process.pid, number)
        process.wait(SECONDS)
        assert ends(first)
        assert ends(second)


def test_a_process_that_starts_too_late_ends_too() -> None:
    """The one that started it is gone before it could look."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    with running(STARTED, LOOKALIKE_PARENT=str(gone.pid)) as process:
        assert process.wait(SECONDS) == 1


def test_a_process_that_starts_too_late_ends_where_nobody_asks_for_the_exit_code_of_the_other() -> None:
    """As in a container whose first process is no init: what started it stays in the table of processes."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    assert ends(gone.pid)
    with running(STARTED, LOOKALIKE_PARENT=str(gone.pid)) as process:
        assert process.wait(SECONDS) == 1
    assert gone.wait() == 0


def test_only_what_the_training_started_follows_it() -> None:
    """Not what a started process starts in turn: a command in a script of the user's may stay."""
    with running(STARTED, LOOKALIKE_PARENT=str(os.getppid())) as process:
        pid = waiting(process)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)
        assert is_running(pid)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_before_the_training_ends_a_process_that_waits(number: int, code: int) -> None:
    with running(f"{STARTS}{WATCHES}\nwith watch:\n    wait_in_c()") as process:
        waiting(process), (second := waiting(process))
        os.kill(process.pid, number)
        assert process.wait(SECONDS) == code
        assert ends(second)


def test_ctrl_c_twice_ends_a_training_that_waits() -> None:
    noted = "signal.signal(signal.SIGINT, lambda *_: None)\nwatch.begun = True"
    with running(f"{WAITS}{WATCHES}\n{noted}\nwith watch:\n    wait_in_c()") as process:
        pid = waiting(process)
        os.kill(pid, signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)
        os.kill(pid, signal.SIGINT)
        assert process.wait(SECONDS) == 130


@pytest.mark.parametrize(
    ("number", "code", "says"),
    [
        (signal.SIGKILL, 1, "Process 1 of 2 was killed (signal 9, perhaps out of memory)."),
        (signal.SIGSEGV, 1, "Process 1 of 2 was killed (signal 11, Segmentation fault)."),
        (signal.SIGTERM, 143, "Process 1 of 2 was stopped by SIGTERM."),
    ],
)
def test_a_lost_process_is_named_while_the_main_thread_waits_for_it(number: int, code: int, says: str) -> None:
    script = f"{STARTS}{WATCHES}\nwatch.begun = True\nwith watch:\n    wait_in_c()"
    with running(script) as process:
        pids = {waiting(process), waiting(process)}
        (other,) = pids - {process.pid}
        os.kill(other, number)
        assert process.wait(SECONDS) == code
        assert process.stdout is not None
        assert process.stdout.read().strip() == says


def test_a_process_that_ends_after_the_training_is_not_missed() -> None:
    """Rank 0 writes the report then, and needs no other."""
    script = f"{STARTS}{WATCHES}\nwatch.begun = watch.over = True\nwith watch:\n    wait_in_c()"
    with running(script) as process:
        (other,) = {waiting(process), waiting(process)} - {process.pid}
        os.kill(other, signal.SIGKILL)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)


def test_what_is_said_of_a_process_that_failed() -> None:
    assert str(Ended(3, 8, 1)) == "Process 3 of 8 failed (exit code 1); its own message has the reason."
    assert str(Ended(1, 2, 0)) == "Process 1 of 2 exited before the training."
    assert [Ended(1, 2, code).stopped for code in (-2, 130, -15, 143, -9, 0, 1)] == [130, 130, 143, 143] + [None] * 3

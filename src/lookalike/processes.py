"""The processes of one training exit together, whichever exits first, for any reason, even while others block.

Nothing here imports torch: a started process follows its parent from its first line on.
"""

import multiprocessing
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

POLL_SECONDS = 0.2
"""Interval between checks of other processes."""
GRACE_SECONDS = 5.0
"""Time for the main thread to exit on its own after another process has exited."""
_PARENT = "LOOKALIKE_PARENT"
"""Environment variable with the id of the process that started this one for a training."""

launched: list[subprocess.Popen[bytes]] = []
"""The processes that this one started for its training, with the ranks after its own."""
_followed: set[int] = set()
_alone: list[str] = []
"""What this process does while the others wait."""
_started_by_another = False


def end(code: int) -> NoReturn:
    """Exits this process from any thread, whatever its main thread does."""
    if sys.stdout.isatty():
        os.write(1, b"\x1b[?25h")  # a live line hides the cursor
    os._exit(code)


def end_at_once(number: int, frame: FrameType | None) -> None:
    """A signal handler that exits. (The default one for SIGTERM would not give the exit code 143.)"""
    end(128 + number)


@contextmanager
def followed() -> Iterator[None]:
    """Processes started within the context exit with this one."""
    os.environ[_PARENT] = str(os.getpid())
    try:
        yield
    finally:
        del os.environ[_PARENT]


@contextmanager
def alone(what: str) -> Iterator[None]:
    """Marks work of one process for which the others wait, such as "it evaluates the probe"."""
    _alone.append(what)
    try:
        yield
    finally:
        _alone.pop()


def works_alone() -> str:
    """What this process does while the others wait; "" if nothing."""
    return _alone[-1] if _alone else ""


def started_by_another() -> bool:
    """Whether another process of the training started this one."""
    return _started_by_another


def follow_starter() -> None:
    """Makes this process exit with the process of its training that started it, if one did."""
    global _started_by_another
    starter = int(os.environ.pop(_PARENT, "0"))  # removed: processes that this one starts must not inherit it
    if starter and sys.platform != "win32" and (os.getppid() == starter or not _is_alive(starter)):
        _started_by_another = True
        follow(starter)


def follow(parent: int) -> None:
    """Exits this process, from a thread, when `parent` is no longer its parent."""

    def look() -> None:
        # not PR_SET_PDEATHSIG: it is Linux only, and acts when the thread that started this process ends
        while os.getppid() == parent:
            time.sleep(POLL_SECONDS)
        end(1)

    if sys.platform != "win32" and parent not in _followed:  # on Windows the parent's id never changes
        _followed.add(parent)
        threading.Thread(target=look, daemon=True, name="follows its parent").start()


def follow_torchrun() -> None:
    """Exits this process with torchrun, if that started it: its processes would survive it."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        follow(os.getppid())


def follow_slurm() -> None:
    """Exits this process with Slurm's daemon that started it, if one did."""
    with suppress(OSError), open(f"/proc/{os.getppid()}/comm", "rb") as file:
        if file.read().strip() == b"slurmstepd":
            follow(os.getppid())


def follow_main_process() -> None:
    """In a process of multiprocessing: exits it with its main process, whatever it waits for."""
    main = multiprocessing.parent_process()
    assert main is not None

    def look() -> None:
        main.join()
        os._exit(1)

    threading.Thread(target=look, daemon=True, name="follows the main process").start()


def _is_alive(process: int) -> bool:
    """Whether a process runs; False for a zombie, which has exited, but whose parent has not read its exit code."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        with open(f"/proc/{process}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except (OSError, IndexError):  # not Linux, or it has exited by now
        return True


@dataclass(frozen=True)
class Ended:
    """Another process of the training that exited early."""

    rank: int
    world: int
    code: int
    """As `Popen.returncode`."""

    @property
    def stopped(self) -> int | None:
        """130 or 143 if Ctrl-C or SIGTERM stopped it."""
        return {-signal.SIGINT: 130, -signal.SIGTERM: 143, 130: 130, 143: 143}.get(self.code)

    def __str__(self) -> str:
        which = f"Process {self.rank} of {self.world}"
        if self.stopped:
            return f"{which} was stopped by {'Ctrl-C' if self.stopped == 130 else 'SIGTERM'}."
        if self.code < 0:
            name = "perhaps out of memory" if self.code == -signal.SIGKILL else signal.strsignal(-self.code)
            return f"{which} was killed (signal {-self.code}, {name})."
        if self.code:
            return f"{which} failed (exit code {self.code}); its own message has the reason."
        return f"{which} exited before the training."


class Watch:
    """A thread that watches signals and processes while the main thread is blocked by communication.

    Before the training has `begun`, Ctrl-C and SIGTERM exit this process at once; afterwards a second Ctrl-C does.
    (Python handles signals only after the main thread unblocks.) Once a launched process has exited, `lost` is called,
    unless the main thread notices itself and leaves the context, or the training is `over`.
    """

    def __init__(self, rank: int, world: int, lost: Callable[[Ended], None]) -> None:
        self.rank = rank
        self.world = world
        self.lost = lost
        self.begun = False
        self.over = False
        self._left = False

    def __enter__(self) -> "Watch":
        self._numbers, sender = self._pair = socket.socketpair()
        for end_ in self._pair:
            end_.setblocking(False)
        self._before: int | None = None
        if threading.current_thread() is threading.main_thread():
            if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
                signal.signal(signal.SIGTERM, end_at_once)
            self._before = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._look, daemon=True, name="watches the training")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left = True
        if self._before is not None:
            signal.set_wakeup_fd(self._before)
        self._thread.join()
        for end_ in self._pair:
            end_.close()

    def ended(self, seconds: float = 0) -> Ended | None:
        """The first launched process that exited early, or None; waits up to `seconds` for one."""
        deadline = time.monotonic() + seconds
        while True:
            for i, process in enumerate(launched, self.rank + 1):
                if process.poll() is not None and (process.returncode or not self.begun):
                    return Ended(i, self.world, process.returncode)
            if time.monotonic() >= deadline:
                return None
            time.sleep(POLL_SECONDS / 10)

    def _look(self) -> None:
        interrupts, found, deadline = 0, None, 0.0
        while not self._left:
            if select.select([self._numbers], [], [], POLL_SECONDS)[0]:
                for number in self._numbers.recv(64):
                    interrupts += number == signal.SIGINT
                    if (number in (signal.SIGINT, signal.SIGTERM) and not self.begun) or interrupts > 1:
                        end(128 + number)
            if self.over:
                continue
            if found is None:
                found, deadline = self.ended(), time.monotonic() + GRACE_SECONDS
            elif time.monotonic() > deadline and not self._left:
                self.lost(found)

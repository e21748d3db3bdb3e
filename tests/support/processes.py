"""Processes that tests start: whether they still run, and a training by two of them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from lookalike.runs import Folder

SECONDS = 240
"""Within which all that is awaited here happens, on a busy machine."""


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


class Training:
    """A training by two processes through the real command. None of its processes outlives the test."""

    def __init__(self, out: Path, *argv: object, launcher: Sequence[str] = ()) -> None:
        self.out = Folder(out)
        self.said = out.with_name(f"{out.name}.txt")
        command = [sys.executable, *launcher, "-m", "lookalike", *map(str, argv), "--out", str(out), "--no-report"]
        with open(self.said, "w") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        self.seen = {self.process.pid: since(self.process.pid)}
        """When each began: numbers of processes and threads come again soon on a busy machine."""

    def __enter__(self) -> "Training":
        return self

    def __exit__(self, *_: object) -> None:
        for pid in self.look():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def look(self) -> set[int]:
        """The processes that run now, of all that were seen and what they started."""
        for pid in self._running():
            for child in self.started_by(pid) - self.seen.keys():
                self.seen[child] = since(child)
        return self._running()

    def _running(self) -> set[int]:
        return {pid for pid, began in self.seen.items() if is_running(pid) and since(pid) == began}

    def started_by(self, parent: int) -> set[int]:
        found: set[int] = set()
        for file in Path(f"/proc/{parent}/task").glob("*/children"):
            with suppress(OSError):
                for child in map(int, file.read_text().split()):
                    found |= {child, *self.started_by(child)}
        return found

    def rank(self, number: int) -> int | None:
        """The process of that rank, once it runs."""
        ours = f"LOCAL_RANK={number}".encode()
        for pid in sorted(self.look()):  # data workers came later
            with suppress(OSError):
                if ours in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                    return pid
        return None

    def await_(self, happened: Callable[[], object]) -> None:
        deadline = time.monotonic() + SECONDS
        while not happened():
            assert self.process.poll() is None, self.said.read_text()
            assert time.monotonic() < deadline, self.said.read_text()
            time.sleep(0.02)

    def starts(self, number: int, seconds: float = 0) -> int:
        """Waits for the process of that rank, and then so long: it imports torch."""
        self.await_(lambda: self.rank(number))
        time.sleep(seconds)
        pid = self.rank(number)
        assert pid is not None
        return pid

    def trains(self, checkpoint: bool = True) -> None:
        """Waits for a step, or for a checkpoint."""
        self.await_(self.out.last.is_file if checkpoint else lambda: self.out.rows())
        self.look()

    def ends(self, code: int) -> str:
        """What was said, once all processes are gone."""
        assert self.process.wait(SECONDS) == code, self.said.read_text()
        deadline = time.monotonic() + 30
        while (left := self.look()) and time.monotonic() < deadline:
            time.sleep(0.05)
        text = self.said.read_text()
        assert not left, f"{[named(pid) for pid in left]} still run: {text}"
        return text


def since(pid: int) -> int:
    """When a process began, in ticks since the machine did; -1 where there is none."""
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19])
    return -1


def named(pid: int) -> str:
    """A process's number, its parent's and state, and what it runs."""
    with suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        return f"{pid}: {Path(f'/proc/{pid}/stat').read_text()[:60]}: {words[:300]}"
    return str(pid)

"""No process of a training waits without end: the one that does not arrive is named, and all end.

Each process reports its position through the store: a thread of its own sends it, whatever the main thread waits for.
A process that has not moved for as long as it may wait compares all positions.
"""

import faulthandler
import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from typing import NoReturn

from lightning.pytorch import Callback, LightningModule, Trainer

from .. import processes
from ..durations import spoken
from .meeting import Facts, Meeting, compare, named

VARIABLE = "LOOKALIKE_TIMEOUT"
"""Environment variable with the seconds that processes wait for each other."""
SECONDS = 600.0
START_FACTOR = 6
"""The first step, and what one process does while the others wait, may take this many times as long."""
STACK_SECONDS = 10.0
"""Time for all processes to send their Python stacks."""


def seconds_allowed() -> float:
    """The seconds that processes wait for each other.

    Raises:
        ValueError: the environment variable is no such number.
    """
    text = os.environ.get(VARIABLE, str(SECONDS))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds <= 1e6:
        raise ValueError(
            f"The environment variable {VARIABLE} is {text!r}; expected 1 to 1000000. Give the seconds that processes "
            "wait for each other."
        )
    return seconds


@dataclass(frozen=True)
class Beat:
    """What a process reports."""

    count: int
    """How often it has reported."""
    batch: int
    """The micro-batch in which it is, or for whose images it waits."""
    computes: bool
    """Whether it has the images of that micro-batch."""
    begun: bool
    """Whether it has made a step."""
    alone: str
    """What it does while the others wait; "" if it trains."""
    idle: float
    """Seconds since it moved."""
    step: int
    """The optimizer step of the micro-batch, from 1."""
    host: str
    pid: int

    @property
    def position(self) -> tuple[int, bool]:
        return self.batch, self.computes

    @property
    def place(self) -> str:
        if self.alone:
            return self.alone
        if not self.begun:
            return "it has not made its first step"
        return f"it computes step {self.step}" if self.computes else f"it waits for the images of step {self.step}"

    def allowed(self, seconds: float) -> float:
        """The seconds that it may stay where it is."""
        return seconds * (START_FACTOR if self.alone or not self.begun else 1)


def blamed(beats: Mapping[int, Beat], silent: Collection[int], seconds: float) -> list[int] | None:
    """The processes that hold all others up; empty if all are at the same place, None if there is nothing to blame.

    Args:
        beats: the last report of each process.
        silent: those that report nothing any more.
        seconds: that processes may wait for each other.
    """
    alive = {rank: beat for rank, beat in beats.items() if rank not in silent}
    if any(beat.idle < beat.allowed(seconds) for beat in alive.values()):
        return None
    if silent:
        return sorted(silent)
    first, last = (pick(beat.position for beat in beats.values()) for pick in (min, max))
    if first != last:
        return [rank for rank, beat in beats.items() if beat.position == first]
    # all compute the same batch, which may be a large one
    return [] if all(beat.idle >= START_FACTOR * seconds for beat in beats.values()) else None


def explained(beats: Mapping[int, Beat], late: Collection[int], silent: Collection[int], seconds: float) -> str:
    """Why a training cannot continue."""
    world, step = len(beats), max(beat.step for beat in beats.values())
    if not late:
        waited = spoken(min(beat.idle for beat in beats.values()))
        return f"None of the {world} processes moved for {waited}: all are in step {step}."
    one = beats[min(late)]
    where = f" (process {one.pid} on {one.host})" if len(late) == 1 else ""
    if silent:
        return (
            f"{named(late, world)}{where} did not arrive in step {step} within {spoken(seconds)}, and does not answer: "
            f"it was stopped, or its machine is lost. When it was last seen, {one.place}."
        )
    return (
        f"{named(late, world)}{where} did not arrive in step {step} within {spoken(one.allowed(seconds))}: {one.place}."
    )


def stacks() -> str:
    """The Python stacks of all threads of this process."""
    with tempfile.TemporaryFile() as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read().decode(errors="replace")


class Watchdog(Callback):
    """Reports the position of this process, and ends it with all others if one does not arrive.

    It must be the last callback: what the others do after a step belongs to the step.

    Args:
        facts: computes what this process trains; compared before the first step.
        lost: called in one process with the reason and the stacks of all, before it exits.
    """

    def __init__(
        self, rank: int, world: int, accumulate: int, facts: Callable[[], Facts], lost: Callable[[str, str], None]
    ) -> None:
        self.rank = rank
        self.world = world
        self.accumulate = accumulate
        self.facts = facts
        self.lost = lost
        self.seconds = seconds_allowed()
        self.period = min(5.0, self.seconds / 10)
        self._batch, self._computes, self._begun = 0, False, False
        self._moved = self._sent = self._answered = time.monotonic()
        self._count = 0
        self._closed = threading.Event()
        self._meeting: Meeting | None = None

    @property
    def longest(self) -> float:
        """The most seconds that any process may wait."""
        return START_FACTOR * self.seconds

    def meet(self) -> None:
        """Compares the processes, and begins to watch; called once they can communicate."""
        self._meeting = Meeting(self.rank, self.world)
        self._report(self._meeting)
        compare(self._meeting, self.facts(), self.longest)
        self.watch()

    def watch(self) -> None:
        """Starts the threads."""
        self._moved = self._sent = self._answered = time.monotonic()  # others may have been slow to start
        for name, target in (("reports its position", self._talk), ("hears the store", self._hear)):
            threading.Thread(target=target, daemon=True, name=name).start()

    def close(self) -> None:
        """Ends the watch."""
        self._closed.set()

    # ---- the position

    def _move(self, batch: int, computes: bool) -> None:
        self._batch, self._computes, self._moved = batch, computes, time.monotonic()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._move(trainer.fit_loop.epoch_loop.batch_progress.current.ready, False)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        self._move(batch_idx, True)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        self._move(batch_idx + 1, False)
        self._begun = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.close()

    # ---- the threads

    def _own(self) -> Beat:
        return Beat(
            self._count, self._batch, self._computes, self._begun, processes.works_alone(),
            time.monotonic() - self._moved, self._batch // self.accumulate + 1, socket.gethostname(), os.getpid(),
        )  # fmt: skip

    def _report(self, meeting: Meeting) -> None:
        self._count += 1
        meeting.put("beat", json.dumps(asdict(self._own())))

    def _talk(self) -> None:
        assert self._meeting is not None
        while not self._closed.wait(self.period):
            now = time.monotonic()
            if now - self._sent > 4 * self.period + 1:  # this process itself was stopped, and continues
                self._moved = now
            self._sent = now
            try:
                self._report(self._meeting)
                if self._meeting.of("verdict", 0) is not None:
                    self._obey(self._meeting)
                own = self._own()
                # one after the other, so that the first one has time to decide
                if own.idle > own.allowed(self.seconds) + 5 * self.period * min(self.rank, 8):
                    self._decide(self._meeting)
            except Exception:  # the store is gone, and with it the process that holds it
                self._closed.wait(2 * processes.GRACE_SECONDS)  # the main thread may know more
                self._end("Another process of this training has ended, or cannot be reached any more.", stacks())
            self._answered = self._sent = time.monotonic()

    def _hear(self) -> None:
        """Ends this process if the store does not answer: process 0, which holds it, was stopped."""
        seen = time.monotonic()
        while not self._closed.wait(self.period):
            now = time.monotonic()
            if now - seen > 4 * self.period + 1:
                self._answered = now
            seen = now
            own = self._own()
            patience = own.allowed(self.seconds) + 50 * self.period
            if now - self._answered > patience and own.idle > patience:
                self._end(
                    f"Process 0 of {self.world} did not answer within {spoken(patience)}: it was stopped, or its "
                    "machine is lost.", stacks(),
                )  # fmt: skip

    def _beats(self, meeting: Meeting) -> dict[int, Beat]:
        found = meeting.all_of("beat", 0)
        return {rank: Beat(**json.loads(text)) for rank, text in found.items()}

    def _decide(self, meeting: Meeting) -> None:
        """Ends all processes if one holds the others up."""
        before = self._beats(meeting)
        deadline = time.monotonic() + 4 * self.period
        while time.monotonic() < deadline:
            self._closed.wait(self.period)
            self._report(meeting)
        beats = self._beats(meeting)
        silent = [r for r, beat in beats.items() if r != self.rank and beat.count == before[r].count]
        late = blamed(beats, silent, self.seconds)
        if late is None or self._closed.is_set() or not meeting.claim("decides"):
            return
        text = explained(beats, late, silent, self.seconds)
        meeting.put("stacks", stacks())
        meeting.put("verdict", text, rank=0)
        deadline = time.monotonic() + STACK_SECONDS
        found: dict[int, str] = {}
        while len(found) < self.world - len(silent) and time.monotonic() < deadline:
            found = meeting.all_of("stacks", self.period)
        for i, process in enumerate(processes.launched, self.rank + 1):
            if i in silent:
                process.kill()  # a stopped process does not notice that the others end
        parts = [
            f"Python stacks of process {r} ({beats[r].pid} on {beats[r].host}):\n"
            + found.get(r, "none: it does not answer\n")
            for r in beats
        ]
        self.lost(f"{text} {VARIABLE} sets another limit, in seconds.", "\n".join(parts))
        meeting.put("done", "1", rank=0)
        processes.end(1)

    def _obey(self, meeting: Meeting) -> NoReturn:
        """Sends the stacks of this process, and exits."""
        meeting.put("stacks", stacks())
        deadline = time.monotonic() + 2 * STACK_SECONDS
        while meeting.of("done", 0) is None and time.monotonic() < deadline:
            time.sleep(0.05)
        processes.end(1)

    def _end(self, text: str, own: str) -> None:
        """Exits this process without the others."""
        if not self._closed.is_set():
            self.lost(text, f"Python stacks of process {self.rank} ({os.getpid()} on {socket.gethostname()}):\n{own}")
            processes.end(1)

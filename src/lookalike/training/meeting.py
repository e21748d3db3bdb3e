"""Where the processes of a training compare what they train and report how far they are: torch's key-value store."""

import hashlib
import json
import os
import socket
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import torch.distributed as dist

from .. import processes
from ..data import Source, image_set
from ..printing import brief, counted
from ..runs import LOCATIONS, Resolved, flat, inputs, version
from ..runs.mapping import dotted

OF_ONE_PROCESS = {*LOCATIONS, "out", "workers", "origins"}
"""Options that may differ between the processes of a training."""
_met = 0


class Meeting:
    """The store of a training's processes, through a connection that nothing else waits for."""

    def __init__(self, rank: int, world: int, store: Any = None) -> None:
        """Connects to the store in which `torch.distributed` has met; `store` replaces it in tests."""
        global _met
        self.rank = rank
        self.world = world
        if store is None:
            host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
            store = dist.TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=timedelta(minutes=5))  # type: ignore[attr-defined]
            _met += 1  # the processes may train several times
        self._store = dist.PrefixStore(f"lookalike/{_met}", store)  # type: ignore[attr-defined]

    def put(self, name: str, text: str, rank: int | None = None) -> None:
        """Sets the value of a name, of this process or of that rank."""
        self._store.set(f"{name}/{self.rank if rank is None else rank}", text)

    def of(self, name: str, rank: int) -> str | None:
        """A process's value of a name; None if it has none yet."""
        key = f"{name}/{rank}"
        return self._store.get(key).decode() if self._store.check([key]) else None

    def claim(self, name: str) -> bool:
        """Whether this process is the first to claim a name."""
        return self._store.add(name, 1) == 1

    def all_of(self, name: str, seconds: float) -> dict[int, str]:
        """The values of all processes, or after `seconds` of those that have one."""
        found: dict[int, str] = {}
        deadline = time.monotonic() + seconds
        while True:
            for rank in range(self.world):
                if rank not in found and (text := self.of(name, rank)) is not None:
                    found[rank] = text
            if len(found) == self.world or time.monotonic() > deadline:
                return found
            time.sleep(0.05)


@dataclass(frozen=True)
class Facts:
    """What a process trains. It must be the same on all."""

    host: str
    code: str
    """Digest of the source of lookalike."""
    versions: Mapping[str, str]
    settings: Mapping[str, str]
    images: str
    """Their number, and a digest of their keys."""
    content: str
    """Digest of some of their files."""
    step: int
    """The step of the checkpoint that the training resumes from; 0 for a new one."""

    def to_json(self) -> str:
        return json.dumps(vars(self))


def facts_of(run: Resolved, source: Source, step: int) -> Facts:
    """The facts of this process."""
    settings = {
        name: brief(str(value)) for name, value in dotted(flat(run)).items() if name.split(".")[0] not in OF_ONE_PROCESS
    }
    content = b"" if source.listing() is None else inputs.few_digests(source.head, len(source))
    return Facts(
        host=socket.gethostname(), code=_code(), versions={name: version(name) for name in ("lookalike", "torch")},
        settings=settings, images=image_set(source), content=hashlib.blake2b(content, digest_size=16).hexdigest(),
        step=step,
    )  # fmt: skip


@cache
def _code() -> str:
    """A digest of the source of lookalike."""
    root, digest = Path(__file__).parents[1], hashlib.blake2b(digest_size=16)
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def compare(meeting: Meeting, own: Facts, seconds: float) -> None:
    """Waits for the facts of all processes, and compares them.

    Raises:
        RuntimeError: a process did not arrive within `seconds`.
        ValueError: a process trains something else than process 0.
    """
    meeting.put("facts", own.to_json())
    found = {rank: Facts(**json.loads(text)) for rank, text in meeting.all_of("facts", seconds).items()}
    if missing := [rank for rank in range(meeting.world) if rank not in found]:
        raise RuntimeError(f"{named(missing, meeting.world)} did not arrive within {seconds:.0f} s of the others.")
    for rank, facts in found.items():
        if difference := difference_of(facts, found[0]):
            if meeting.rank:
                time.sleep(2 * processes.GRACE_SECONDS)  # process 0 reports it, and ends this one
            raise ValueError(f"Process {rank} of {meeting.world} (on {facts.host}) {difference}")


def named(ranks: Collection[int], world: int) -> str:
    """The processes of some ranks, for the start of a sentence."""
    if len(ranks) == 1:
        return f"Process {next(iter(ranks))} of {world}"
    return f"{counted(len(ranks), 'process')} of {world} ({', '.join(map(str, sorted(ranks)[:10]))})"


def difference_of(facts: Facts, first: Facts) -> str:
    """What a process does otherwise than the first one; "" if nothing."""
    of_first = f"process 0 (on {first.host})"
    if facts.versions != first.versions or facts.code != first.code:
        versions = ["lookalike {lookalike} and torch {torch}".format(**each.versions) for each in (facts, first)]
        if versions[0] == versions[1]:
            return (
                f"has another source of lookalike than {of_first}. Install the same version for all, from the same "
                "place."
            )
        return f"has {versions[0]}, but {of_first} has {versions[1]}. Install the same versions for all."
    # before the settings, which may have been fitted to them
    there, here = (counted(int(each.images.partition("-")[0]), "image") for each in (facts, first))
    if facts.images != first.images:
        if there != here:
            return f"has {there}, but {of_first} has {here}. Give all the same images."
        return f"has other images than {of_first}. Give all the same images."
    if facts.content != first.content:
        return f"has files with the names of {of_first}, but another content. Give all the same images."
    if changed := {n for n in {*facts.settings, *first.settings} if facts.settings.get(n) != first.settings.get(n)}:
        lines = [f"{n} {facts.settings.get(n)} there, {first.settings.get(n)} here" for n in sorted(changed)[:5]]
        return f"has other settings than {of_first}: {'; '.join(lines)}. Start all with the same command."
    if facts.step != first.step:
        return (
            f"found the checkpoint of step {facts.step}, but {of_first} that of step {first.step}. Give all the same "
            "--out, on a file system that all machines share."
        )
    return ""

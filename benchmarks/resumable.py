"""Studies of many trainings that can be stopped and go on later: workers of one thread each, and rows that are read.

A study has jobs (frozen dataclasses), a function that measures one in a worker, and a function that lists those without
a row. What a stop finds under way is dropped and made again; a training that fails leaves a row that says why.
"""

import argparse
import importlib.metadata
import json
import math
import multiprocessing
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
import unlike_sets
from rows import append

from lookalike.metric_names import RENAMED_SCORES, with_current_names

THREADS = "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"
PACKAGES = "torch", "lightning", "timm", "numpy", "scikit-learn", "numba", "pillow"
ROOM = "/dev/shm" if os.path.isdir("/dev/shm") else None
"""Where trainings write: checkpoints that nobody reads need not reach a disk."""
FOLDERS = "lookalike-study-"
"""How the folders of trainings that are under way begin; then comes the worker's process."""

Row = Mapping[str, Any]
J = TypeVar("J")


def _with_current_names(row: dict[str, Any]) -> dict[str, Any]:
    return with_current_names(row, RENAMED_SCORES)


def read(record: Path) -> list[dict[str, Any]]:
    """The rows of a file, without one that a kill cut short; metrics by their current names."""
    found = []
    for line in record.read_text().splitlines() if record.exists() else []:
        with suppress(ValueError):
            found.append(json.loads(line, object_hook=_with_current_names))
    return found


def rounded(value: Any) -> Any:
    """Numbers of four digits; None for what is not finite, which JSON does not know."""
    if isinstance(value, bool) or not isinstance(value, float):
        return {n: rounded(v) for n, v in value.items()} if isinstance(value, Mapping) else value
    return float(f"{value:.4g}") if math.isfinite(value) else None


def _versions() -> Iterator[tuple[str, str]]:
    for name in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            yield name, importlib.metadata.version(name)


@contextmanager
def temporary() -> Iterator[Path]:
    """A folder for a training of this process; `Worker.stop` removes it, too."""
    folder = Path(tempfile.mkdtemp(prefix=f"{FOLDERS}{os.getpid()}-", dir=ROOM))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def serve(pipe: Connection, measure: Callable[[J], Row], failed: Callable[[J, str], Row], code: str) -> None:
    """Measures the jobs that come through the pipe, one after the other, until it is closed. `code` names the commit.

    Each row also has the versions, the threads and the machine.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that gives the work answers, and ends this one
    torch.set_num_threads(1)
    facts = {
        "lookalike": code, "versions": {"python": platform.python_version(), **dict(_versions())},
        "threads": torch.get_num_threads(), "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }  # fmt: skip
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            job = pipe.recv()
            try:
                row = measure(job)
            except Exception as problem:
                row = failed(job, f"{type(problem).__name__}: {problem}"[:400])
            pipe.send({**row, **facts})


class Worker(Generic[J]):
    """A process that calls `work(pipe, *args)`, which does trainings, and the one that it does now."""

    def __init__(self, work: Callable[..., None], *args: object) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, end = context.Pipe()
        self.process = context.Process(target=work, args=(end, *args), daemon=True)
        self.process.start()
        end.close()
        self.job: J | None = None

    def begin(self, job: J) -> None:
        self.job = job
        self.pipe.send(job)

    def stop(self) -> None:
        """Ends the process at once, and removes what its training wrote."""
        self.process.kill()
        self.process.join()
        for room in {"/dev/shm", tempfile.gettempdir()}:
            for folder in Path(room).glob(f"{FOLDERS}{self.process.pid}-*"):
                shutil.rmtree(folder, ignore_errors=True)


def study(
    new: Callable[[], Worker[J]],
    left: Callable[[Sequence[Row], Sequence[J]], list[J]],
    failed: Callable[[J, str], Row],
    say: Callable[[Row, int], None],
    *,
    record: Path,
    jobs: int,
    hours: float,
) -> None:
    """Measures what is left until it is done or the time is up, and adds a row to the record for each.

    Args:
        new: starts a worker.
        left: the jobs without a row, given all rows and the jobs that are under way, the next one first.
        failed: the row of a job whose process ended.
        say: prints a line about a row, given how many jobs are left.
        record: the file of rows.
        jobs: trainings at once.
        hours: after which what is under way is dropped.
    """
    until = time.monotonic() + hours * 3600
    rows: list[Row] = list(read(record))
    os.environ.update(dict.fromkeys(THREADS, "1"))  # the workers' libraries read them when they are imported
    workers: list[Worker[J]] = []
    try:
        workers += [new() for _ in range(jobs)]
        while time.monotonic() < until:
            for i, worker in enumerate(workers):
                busy = [w.job for w in workers if w.job is not None]
                if worker.job is None and (todo := left(rows, busy)):
                    if not worker.process.is_alive():
                        workers[i] = worker = new()
                    worker.begin(todo[0])
            at_work = [w for w in workers if w.job is not None]
            if not at_work:
                print(f"All is in {record}.")
                return
            wait([w.pipe for w in at_work], timeout=min(60.0, max(0.0, until - time.monotonic())))
            for worker in at_work:
                assert worker.job is not None
                if not worker.pipe.poll():
                    continue
                try:
                    row = worker.pipe.recv()
                except (EOFError, ConnectionResetError):
                    worker.process.join(10)
                    row = failed(worker.job, f"the process ended with exit code {worker.process.exitcode}")
                    worker.stop()
                append(record, row)
                rows.append(row)
                worker.job = None
                say(row, len(left(rows, [])))
        print(f"The time is up; {len(left(rows, []))} known trainings are left.")
    except (KeyboardInterrupt, SystemExit):
        print("Stopped; what was under way is dropped, and all other rows are kept.")
    finally:
        for worker in workers:
            worker.stop()


def answer_signals() -> None:
    """Lets Ctrl-C and SIGTERM end the study, also where a shell began it in the background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))


def names(text: str) -> list[str]:
    """An argument such as digits,textures."""
    return text.split(",")


def add_options(parser: argparse.ArgumentParser, work: Path, record: Path) -> None:
    """The options that all such studies have."""
    shared = Path(__file__).parents[2] / "shared" / "data"
    parser.add_argument("--work", type=Path, default=work, help="folder of the sets and of encoders")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at once")
    parser.add_argument("--hours", type=float, default=math.inf, help="stop after so long")
    parser.add_argument("--record", type=Path, default=record)
    parser.add_argument(
        "--cifar10", type=Path, default=shared / "cifar10-jpeg.tar.xz", help="train|test/CLASS/NAME.jpg"
    )
    parser.add_argument("--clothes", type=Path, default=shared / "clothing128.tar.xz", help="SPLIT/CLASS/NAME.jpg")
    parser.add_argument("--summary", action="store_true", help="train nothing, print what the record says")
    parser.add_argument("--left", action="store_true", help="train nothing, print the next trainings and their number")


def make_sets(sets: Sequence[str], args: argparse.Namespace) -> None:
    """Makes the sets that are not there, before workers would do it at once."""
    make = unlike_sets.makers(args.cifar10, args.clothes)
    for name in sets:
        unlike_sets.kept(name, make[name], args.work / "sets")

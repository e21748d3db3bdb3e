"""Decoding whole batches, in this process or in workers."""

import atexit
import multiprocessing
import os
import pickle
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import chain
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Final, NamedTuple, TypeVar, cast
from weakref import WeakSet

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from ..images import pack
from ..printing import printable, say
from ..processes import follow_main_process
from .errors import BrokenImage
from .order import Order, Request
from .sources import Source

T = TypeVar("T")

_SHARED: Final = Path("/dev/shm")  # where Linux keeps shared memory; a container often has little


class Read(NamedTuple):
    """What a worker sends: one tensor only, because each takes a file descriptor and a round trip of its own."""

    places: np.ndarray
    """(B,) int64; empty if so many images in a row were broken that the batch was given up."""
    sizes: np.ndarray
    """(B, 2) int64"""
    buffer: Tensor
    broken: list[tuple[str, str]]


def read_request(
    order: Order, request: Request, take: Callable[[int], T]
) -> tuple[list[int], list[T], list[tuple[str, str]]]:
    """Takes a request's images, or a stand-in where `take` raises BrokenImage. Empty if no stand-in was good."""
    index: list[int] = []
    taken: list[T] = []
    broken: list[tuple[str, str]] = []
    for row, first in enumerate(request.rows):
        for i in chain((first,), order.stand_ins(request, row)):
            try:
                taken.append(take(i))
            except BrokenImage as error:
                broken.append((error.name, error.reason))
            else:
                index.append(i)
                break
        else:
            return [], [], broken
    return index, taken, broken


class Batches(Dataset[Read]):
    """The micro-batches of an order."""

    def __init__(self, source: Source, order: Order, decode_size: int | None) -> None:
        self.source = source
        self.order = order
        self.decode_size = decode_size

    def __getitem__(self, request: Request) -> Read:
        return _read(*read_request(self.order, request, lambda i: self.source.read(i, self.decode_size)))


class Chunks(Dataset[Read]):
    """Ranges of the source, without the broken images in them."""

    def __init__(self, source: Source, decode_size: int | None) -> None:
        self.source = source
        self.decode_size = decode_size

    def __getitem__(self, chunk: range) -> Read:
        index, images, broken = [], [], []
        for i in chunk:
            try:
                images.append(self.source.read(i, self.decode_size))
                index.append(i)
            except BrokenImage as error:
                broken.append((error.name, error.reason))
        return _read(index, images, broken)


def _read(index: list[int], images: list[Tensor], broken: list[tuple[str, str]]) -> Read:
    sizes = np.array([image.shape[1:] for image in images], np.int64).reshape(-1, 2)
    buffer = pack(images) if images else torch.empty(0, dtype=torch.uint8)
    return Read(np.array(index, np.int64), sizes, buffer, broken)


def stream(dataset: Dataset[T], requests: Iterable[object], workers: int, pin: bool = False) -> Iterator[T]:
    """Answers requests in turn, `workers` processes ahead.

    Raises:
        RuntimeError: the workers cannot be started, or one died or failed; its own message is kept.
    """
    if workers == 0:
        for request in requests:
            yield dataset[request]
        return
    try:
        yield from _answers(dataset, requests, workers, pin)
    except Exception as error:
        text = str(error)
        traceback.clear_frames(error.__traceback__)  # they hold the loader, which ends its processes when it goes
        if _is_unsendable(error):
            raise RuntimeError(
                f"The images cannot be sent to loading processes: {printable(text.splitlines()[0])}. Under the start "
                f"method {multiprocessing.get_start_method()} the class of a Dataset must stand at the top of a file. "
                "Move it there, or use workers=0."
            ) from error
        if "Original Traceback" in text:
            raise RuntimeError(f"A loading process failed: {printable(text.strip().splitlines()[-1])}") from error
        # the last three: it died while it sent a batch
        if text.startswith("DataLoader worker") or isinstance(error, EOFError | ConnectionError | FileNotFoundError):
            raise lost(error, workers) from error
        raise


def lost(error: Exception, workers: int) -> RuntimeError:
    """Explains that a loading process is gone."""
    if _ended_at_once():
        return _not_started()
    text = (str(error) or type(error).__name__).splitlines()[0]
    return RuntimeError(
        f"A loading process died: {text} It was killed, perhaps for want of memory or of shared memory (/dev/shm). "
        f"Use fewer --workers (now {workers}) or smaller batches, or give a container more: docker run --shm-size 8g."
    )


def _ended_at_once() -> bool:
    """Whether a loading process ended by itself before the first batch, where each one imports the script anew."""
    if _answered or multiprocessing.get_start_method() not in IMPORTING:
        return False
    deadline = time.monotonic() + _ENDING_SECONDS  # its end of a pipe may be closed before it is gone
    while all(process.exitcode is None for process in _started) and time.monotonic() < deadline:
        time.sleep(_ENDING_SECONDS / 100)
    return any((process.exitcode or 0) > 0 for process in _started)  # below 0 it was killed


def _not_started() -> RuntimeError:
    return RuntimeError(
        f"A loading process ended before its first batch. Under the start method {multiprocessing.get_start_method()} "
        "each one imports your script anew, which must not start the work once more: put the call under "
        "if __name__ == '__main__', or use workers=0. What it ended with stands above."
    )


def _is_unsendable(error: Exception) -> bool:
    """Whether pickle could not write something, such as a class within a function."""
    return isinstance(error, pickle.PicklingError) or (
        isinstance(error, AttributeError | TypeError) and "pickle" in str(error)
    )


def _answers(dataset: Dataset[T], requests: Iterable[object], workers: int, pin: bool) -> Iterator[T]:
    """Ends its processes when it is closed."""
    loader: DataLoader[T] = DataLoader(
        dataset, batch_size=None, sampler=requests, num_workers=workers, collate_fn=_to_send, pin_memory=pin,
        worker_init_fn=_start_worker,
        generator=torch.Generator(),  # else it draws from the global one, and training with workers is another training
    )  # fmt: skip
    global _answered, _started
    before = multiprocessing.active_children()
    _answered, _started = False, []
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Got pickle error")  # the error itself says it
            answers = iter(loader)
    except OSError as error:
        for frame, _ in traceback.walk_tb(error.__traceback__):
            if isinstance(half := frame.f_locals.get("self"), _MultiProcessingDataLoaderIter):
                half._shutdown = True  # or it would fail, with a traceback, to end what it never began
        for process in set(multiprocessing.active_children()).difference(before):
            process.kill()
        if isinstance(error, BrokenPipeError) and multiprocessing.get_start_method() in IMPORTING:
            raise _not_started() from error  # it did not wait for what it is to do
        raise RuntimeError(
            f"The loading processes cannot be started: {error.strerror or error} ({_room()}). "
            f"Use --workers 0 (now {workers}), or give a container more shared memory: docker run --shm-size 8g."
        ) from error
    _processes.update(set(multiprocessing.active_children()).difference(before))
    _started = list(answers._workers) if isinstance(answers, _MultiProcessingDataLoaderIter) else []
    for answer in answers:
        _answered = True
        yield _received(answer)


IMPORTING: Final = ("spawn", "forkserver")
"""Start methods whose processes import the script that started them."""
_ENDING_SECONDS: Final = 2.0
"""Time that a process has to be gone once it has closed its pipe."""
_processes: WeakSet[BaseProcess] = WeakSet()
"""All workers that were ever started."""
_started: list[BaseProcess] = []
"""The workers that were started last."""
_answered = False
"""Whether they have sent a batch."""


@atexit.register
def _end_processes() -> None:
    """Ends what still runs before multiprocessing's own exit, which sends SIGTERM and waits for ever: see below."""
    running = [process for process in _processes if process.is_alive()]
    if running:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler takes a worker's end for a failure
    for process in running:
        process.kill()


class _Piped(NamedTuple):
    """A tensor on its way through a pipe."""

    array: np.ndarray


_no_sharing = _told = False
"""Whether this worker failed to share a tensor, and whether this main process said what that means."""


class _Sent:
    """A tensor of a batch that leaves a worker: to shared memory, or through a pipe where that has no room.

    This happens in the thread that sends. Errors there are lost, so that with torch alone the main process would wait
    for ever; and in the thread that decodes it would cost a fifth of the speed.
    """

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def __reduce__(self) -> tuple[object, ...]:
        return _arrived, (_shared(self.x),)


def _arrived(x: Tensor | _Piped) -> Tensor | _Piped:
    return x


def _to_send(read: object) -> object:
    """A batch on its way out of a worker."""
    if not isinstance(read, tuple):
        return read
    return _with_parts(read, [_Sent(x) if isinstance(x, Tensor) else x for x in read])


def _shared(x: Tensor) -> Tensor | _Piped:
    global _no_sharing
    room = os.statvfs(_SHARED) if _SHARED.is_dir() else None
    if not _no_sharing and (room is None or room.f_bavail * room.f_frsize > x.nbytes):
        try:
            shared: Tensor = x.share_memory_()  # type: ignore[no-untyped-call]
            return shared
        except (OSError, RuntimeError):  # other processes were quicker, or no more files may be open
            _no_sharing = True  # each failure keeps a file open
            opened = {os.path.realpath(handle) for handle in Path("/proc/self/fd").glob("*")}
            for left in _SHARED.glob(f"torch_{os.getpid()}_*"):
                if str(left) in opened:  # another container's process may have this one's number
                    left.unlink()
    return _Piped(x.numpy())


def _received(read: T) -> T:
    """Undoes `_to_send`, and says once where a batch came through a pipe."""
    global _told
    if not isinstance(read, tuple) or not (piped := [x for x in read if isinstance(x, _Piped)]):
        return read
    if not _told:
        _told = True
        size = sum(x.array.nbytes for x in piped) / 2**20
        say(
            f"WARNING: shared memory has no room for another batch of {size:.3g} MiB ({_room()}); batches go through a "
            "pipe instead, which is slower. Use fewer --workers or smaller batches, or give a container more: "
            "docker run --shm-size 8g.",
            sys.stderr,
        )
    return cast(T, _with_parts(read, [torch.from_numpy(x.array) if isinstance(x, _Piped) else x for x in read]))


def _with_parts(whole: tuple[object, ...], parts: list[object]) -> tuple[object, ...]:
    make = getattr(type(whole), "_make", tuple)  # of a NamedTuple
    made: tuple[object, ...] = make(parts)
    return made


def _room() -> str:
    with suppress(OSError):
        room = os.statvfs(_SHARED)
        free, total = (blocks * room.f_frsize / 2**20 for blocks in (room.f_bavail, room.f_blocks))
        return f"{_SHARED} has {free:.3g} of {total:.3g} MiB free"
    return f"there is no {_SHARED}"


def _start_worker(_: int) -> None:
    # Ctrl-C and a batch system's SIGTERM are the main process's to answer: it finishes a step and saves first
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    # torch's workers look for it only between two batches: one that sends through a full pipe would stay for ever
    follow_main_process()

"""Decodes whole batches, in this process or in worker processes."""

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

_SHARED: Final = Path("/dev/shm")  # shared memory on Linux; often small in a container


class Read(NamedTuple):
    """A batch as sent by a worker: a single tensor, because each one costs a file descriptor and a round trip."""

    indices: np.ndarray
    """(B,) int64, in the source; empty if the batch was abandoned because too many images in a row were broken."""
    sizes: np.ndarray
    """(B, 2) int64, heights and widths."""
    buffer: Tensor
    """Flat: the pixels of all images, concatenated."""
    broken: list[tuple[str, str]]
    """Names and reasons of unreadable images."""


def read_request(
    order: Order, request: Request, take: Callable[[int], T]
) -> tuple[list[int], list[T], list[tuple[str, str]]]:
    """Reads a request's images with `take`, and replacements for broken ones. Empty if all replacements are broken."""
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
    """The micro-batches of an `Order`."""

    def __init__(self, source: Source, order: Order, decode_size: int | None) -> None:
        self.source = source
        self.order = order
        self.decode_size = decode_size

    def __getitem__(self, request: Request) -> Read:
        return _read(*read_request(self.order, request, lambda i: self.source.read(i, self.decode_size)))


class Chunks(Dataset[Read]):
    """Ranges of the source, without broken images."""

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
    """Yields the items for `requests`, in order, prefetched by `workers` processes.

    Raises:
        RuntimeError: the workers cannot be started, or one died or failed; its own message is included.
    """
    if workers == 0:
        for request in requests:
            yield dataset[request]
        return
    try:
        yield from _prefetched(dataset, requests, workers, pin)
    except Exception as error:
        text = str(error)
        traceback.clear_frames(error.__traceback__)  # they reference the loader, which ends its workers when deleted
        if _is_unsendable(error):
            raise RuntimeError(
                f"The images cannot be sent to loading processes: {printable(text.splitlines()[0])}. With the start "
                f"method {multiprocessing.get_start_method()} the class of a Dataset must be defined at the top level "
                "of a module. Move it there, or use workers=0."
            ) from error
        if "Original Traceback" in text:
            raise RuntimeError(f"A loading process failed: {printable(text.strip().splitlines()[-1])}") from error
        # the last three: a worker died while sending a batch
        if text.startswith("DataLoader worker") or isinstance(error, EOFError | ConnectionError | FileNotFoundError):
            raise lost(error, workers) from error
        raise


def lost(error: Exception, workers: int) -> RuntimeError:
    """The error for a loading process that died."""
    if _exited_at_start():
        return _not_started()
    text = (str(error) or type(error).__name__).splitlines()[0]
    return RuntimeError(
        f"A loading process died: {text} It was killed, possibly because memory or shared memory (/dev/shm) ran out. "
        f"Use fewer --workers (now {workers}) or smaller batches, or give a container more shared memory: "
        "docker run --shm-size 8g."
    )


def _exited_at_start() -> bool:
    """Whether a loading process exited before the first batch under a start method that imports the script again."""
    if _has_answered or multiprocessing.get_start_method() not in IMPORTING:
        return False
    deadline = time.monotonic() + _EXIT_SECONDS  # its end of a pipe may close before the process has exited
    while all(process.exitcode is None for process in _started) and time.monotonic() < deadline:
        time.sleep(_EXIT_SECONDS / 100)
    return any((process.exitcode or 0) > 0 for process in _started)  # negative: killed by a signal


def _not_started() -> RuntimeError:
    return RuntimeError(
        f"A loading process exited before its first batch. With the start method {multiprocessing.get_start_method()} "
        "each process imports your script again, which must not start the work a second time: put the call under "
        "if __name__ == '__main__', or use workers=0. The error of the process is printed above."
    )


def _is_unsendable(error: Exception) -> bool:
    """Whether pickling failed, such as for a class defined in a function."""
    return isinstance(error, pickle.PicklingError) or (
        isinstance(error, AttributeError | TypeError) and "pickle" in str(error)
    )


def _prefetched(dataset: Dataset[T], requests: Iterable[object], workers: int, pin: bool) -> Iterator[T]:
    """The items for `requests`, from worker processes that end when the iterator is closed."""
    loader: DataLoader[T] = DataLoader(
        dataset, batch_size=None, sampler=requests, num_workers=workers, collate_fn=_to_send, pin_memory=pin,
        worker_init_fn=_start_worker,
        generator=torch.Generator(),  # drawing from the global generator would make results depend on `workers`
    )  # fmt: skip
    global _has_answered, _started
    before = multiprocessing.active_children()
    _has_answered, _started = False, []
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Got pickle error")  # the error itself states it
            answers = iter(loader)
    except OSError as error:
        for frame, _ in traceback.walk_tb(error.__traceback__):
            if isinstance(half := frame.f_locals.get("self"), _MultiProcessingDataLoaderIter):
                half._shutdown = True  # otherwise its shutdown of workers never started prints a traceback
        for process in set(multiprocessing.active_children()).difference(before):
            process.kill()
        if isinstance(error, BrokenPipeError) and multiprocessing.get_start_method() in IMPORTING:
            raise _not_started() from error  # the process exited before it received its task
        raise RuntimeError(
            f"The loading processes cannot be started: {error.strerror or error} ({_shared_memory()}). "
            f"Use --workers 0 (now {workers}), or give a container more shared memory: docker run --shm-size 8g."
        ) from error
    _processes.update(set(multiprocessing.active_children()).difference(before))
    _started = list(answers._workers) if isinstance(answers, _MultiProcessingDataLoaderIter) else []
    for answer in answers:
        _has_answered = True
        yield _received(answer)


IMPORTING: Final = ("spawn", "forkserver")
"""Start methods whose processes import the script that started them."""
_EXIT_SECONDS: Final = 2.0
"""Seconds to wait for a process to exit after it has closed its pipe."""
_processes: WeakSet[BaseProcess] = WeakSet()
"""All workers started by this process."""
_started: list[BaseProcess] = []
"""The workers started most recently."""
_has_answered = False
"""Whether the workers in `_started` have sent a batch."""


@atexit.register
def _end_processes() -> None:
    """Kills running workers before multiprocessing's exit handler, which would wait for ever: they ignore SIGTERM."""
    running = [process for process in _processes if process.is_alive()]
    if running:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler treats the exit of a worker as a failure
    for process in running:
        process.kill()


class _Piped(NamedTuple):
    """A tensor sent through a pipe."""

    array: np.ndarray


_no_sharing = _has_warned = False
"""Whether this worker failed to share a tensor, and whether this main process has warned about it."""


class _Sent:
    """A tensor of a batch that a worker sends: via shared memory, or through a pipe if shared memory is full.

    Pickling runs in the sending thread: in the decoding thread it would cost a fifth of the throughput. Errors in the
    sending thread are lost, and with torch's own pickling the main process would wait for ever.
    """

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def __reduce__(self) -> tuple[object, ...]:
        return _arrived, (_shared(self.x),)


def _arrived(x: Tensor | _Piped) -> Tensor | _Piped:
    return x


def _to_send(read: object) -> object:
    """Wraps the tensors of a batch that leaves a worker."""
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
        except (OSError, RuntimeError):  # other processes took the memory, or the limit of open files is reached
            _no_sharing = True  # each failure leaks an open file
            opened = {os.path.realpath(handle) for handle in Path("/proc/self/fd").glob("*")}
            for left in _SHARED.glob(f"torch_{os.getpid()}_*"):
                if str(left) in opened:  # a process of another container may have the same process id
                    left.unlink()
    return _Piped(x.numpy())


def _received(read: T) -> T:
    """Undoes `_to_send`; warns once if a batch came through a pipe."""
    global _has_warned
    if not isinstance(read, tuple) or not (piped := [x for x in read if isinstance(x, _Piped)]):
        return read
    if not _has_warned:
        _has_warned = True
        size = sum(x.array.nbytes for x in piped) / 2**20
        say(
            f"WARNING: a batch of {size:.3g} MiB does not fit in shared memory ({_shared_memory()}); batches are sent "
            "through a pipe instead, which is slower. Use fewer --workers or smaller batches, or give a container more "
            "shared memory: docker run --shm-size 8g.",
            sys.stderr,
        )
    return cast(T, _with_parts(read, [torch.from_numpy(x.array) if isinstance(x, _Piped) else x for x in read]))


def _with_parts(whole: tuple[object, ...], parts: list[object]) -> tuple[object, ...]:
    build = getattr(type(whole), "_make", tuple)  # of a NamedTuple
    rebuilt: tuple[object, ...] = build(parts)
    return rebuilt


def _shared_memory() -> str:
    """Free and total shared memory."""
    with suppress(OSError):
        room = os.statvfs(_SHARED)
        free, total = (blocks * room.f_frsize / 2**20 for blocks in (room.f_bavail, room.f_blocks))
        return f"{_SHARED} has {free:.3g} of {total:.3g} MiB free"
    return f"{_SHARED} does not exist"


def _start_worker(_: int) -> None:
    # the main process handles Ctrl-C and a batch system's SIGTERM: it finishes a step and saves first
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    # torch's workers check for the main process only between batches: one blocked on a full pipe would never exit
    follow_main_process()

"""Memory that a computation releases and needs again, such as the activations of a step, stays with the process.

glibc returns large blocks to the operating system after their release, and the system clears each page when it
is used again: for a CNN on a CPU this takes up to a quarter of a step. `docs/speed.md` has the measurements.
"""

import ctypes
import os
import platform
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# man 3 mallopt
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_NEVER = -1
_LARGEST_MMAP_THRESHOLD = 32 * 2**20
_DEFAULT_MMAP_MAX = 65536

LASTING_STEPS = 2
"""Steps of a training after which its lasting tensors exist. Created later, they would lie in the memory to reuse."""

_SETTINGS = "MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"
"""Environment variables by which a user states how glibc keeps memory."""

_lock = threading.Lock()
_users = 0
"""Number of contexts in which memory is reused."""


def return_freed() -> None:
    """Returns released memory to the system where the C library is glibc, which keeps much of it."""
    glibc = _glibc()
    if glibc is not None:
        glibc.malloc_trim(0)


@contextmanager
def reusing_memory() -> Iterator[None]:
    """Within the context the C library keeps released memory; afterwards it returns it to the system.

    Does nothing where the C library is not glibc, and where the environment states how glibc keeps memory. Values that
    the process set by `mallopt` are replaced: glibc cannot return them.
    """
    glibc = _glibc()
    if glibc is None or _is_set_by_user():
        yield
        return
    _enter(glibc)
    try:
        yield
    finally:
        _leave(glibc)


def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None


def _is_set_by_user() -> bool:
    return any(name in os.environ for name in _SETTINGS) or "glibc.malloc." in os.environ.get("GLIBC_TUNABLES", "")


def _enter(glibc: ctypes.CDLL) -> None:
    global _users
    with _lock:
        _users += 1
        if _users == 1:
            glibc.mallopt(_MMAP_MAX, 0)
            glibc.mallopt(_TRIM_THRESHOLD, _NEVER)


def _leave(glibc: ctypes.CDLL) -> None:
    global _users
    with _lock:
        _users -= 1
        if _users == 0:
            # glibc sets these thresholds in any process that has released a large block
            glibc.mallopt(_MMAP_MAX, _DEFAULT_MMAP_MAX)
            glibc.mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
            glibc.mallopt(_TRIM_THRESHOLD, 2 * _LARGEST_MMAP_THRESHOLD)
            glibc.malloc_trim(0)

"""Functions compiled by Numba for the CPU, with a cache on disk for later processes."""

from collections.abc import Callable
from typing import Any, cast

import numba
from numba.core.caching import NullCache

_OPTIONS: dict[str, Any] = {
    "nogil": True,
    "error_model": "numpy",
    # allows reordering sums, keeps NaN and infinity
    "fastmath": {"contract", "reassoc", "nsz", "arcp"},
}
_KERNELS: list[Any] = []


def compiled(function: Callable[..., Any]) -> Any:
    """A kernel that is compiled in its first call, which takes seconds; later processes load it from the cache."""
    try:
        kernel = numba.njit(cache=True, **_OPTIONS)(function)
    except RuntimeError:  # no writable cache folder
        kernel = numba.njit(**_OPTIONS)(function)
    _KERNELS.append(kernel)
    return cast(Any, kernel)


def kept_in() -> str | None:
    """The folder of this module's compiled code; None if no cache folder is writable."""
    try:
        kernel: Any = numba.njit(cache=True)(_nothing)
    except RuntimeError:
        return None
    return cast(str, kernel._cache.cache_path)


def _nothing() -> None:
    """An empty function, for its cache folder."""


def first_call(kernel: Any, *arguments: Any) -> Any:
    """Calls a kernel that may still need compiling."""
    try:
        return kernel(*arguments)
    except OSError:  # the disk of the cache is full
        for function in _KERNELS:
            function._cache = NullCache()
        return kernel(*arguments)

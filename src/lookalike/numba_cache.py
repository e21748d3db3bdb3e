"""Functions compiled for a CPU by Numba, kept in files so that later processes need not compile them again."""

from collections.abc import Callable
from typing import Any, cast

import numba
from numba.core.caching import NullCache

_OPTIONS: dict[str, Any] = {
    "nogil": True,
    "error_model": "numpy",
    # sums may be reordered; what is not finite stays so
    "fastmath": {"contract", "reassoc", "nsz", "arcp"},
}
_KERNELS: list[Any] = []


def compiled(function: Callable[..., Any]) -> Any:
    """Compiled at the first call of all, which takes seconds; later processes read the code from a file."""
    try:
        kernel = numba.njit(cache=True, **_OPTIONS)(function)
    except RuntimeError:  # there is no place that could be written to
        kernel = numba.njit(**_OPTIONS)(function)
    _KERNELS.append(kernel)
    return cast(Any, kernel)


def kept_in() -> str | None:
    """The folder where compiled code of this module is kept; None where no place can be written to."""
    try:
        kernel: Any = numba.njit(cache=True)(_nothing)
    except RuntimeError:
        return None
    return cast(str, kernel._cache.cache_path)


def _nothing() -> None:
    """What the folder is asked for."""


def first_call(kernel: Any, *arguments: Any) -> Any:
    """Calls a kernel that may have to be compiled yet."""
    try:
        return kernel(*arguments)
    except OSError:  # where the code was to be kept there is no room
        for function in _KERNELS:
            function._cache = NullCache()
        return kernel(*arguments)

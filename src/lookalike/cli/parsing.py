"""Reads arguments by tyro. Nothing outside this package knows it."""

import functools
from collections.abc import Callable
from typing import TypeVar, cast

import tyro
from tyro.constructors import ConstructorRegistry

from ..printing import printable
from .errors import UsageError

T = TypeVar("T")

_LEAST = {
    "image_size": 1,
    "batch_size": 1,
    "workers": 0,
    "seeds": 1,
    "epochs": 1,
    "count": 1,
    "points": 1,
    "channels": 1,
}
"""The lowest values of numbers that commands share."""


def parse(
    cls: Callable[..., T],
    argv: list[str],
    prog: str,
    description: str | None = None,
    registry: ConstructorRegistry | None = None,
) -> T:
    """Reads the arguments of a command into a dataclass, or into what the registry makes of a type."""
    options = _parsed(cls, argv, prog, description, registry)
    for name, least in _LEAST.items():
        if (found := vars(options).get(name)) is not None and found < least:
            of_images = name in ("count", "points")
            what = "is a number of images, 1 or more" if of_images else f"must be at least {least}"
            raise ValueError(f"{name} is {found}; it {what}.")
    return options


def _parsed(
    cls: Callable[..., T], argv: list[str], prog: str, description: str | None, registry: ConstructorRegistry | None
) -> T:
    read = functools.partial(tyro.cli, cls, prog=f"lookalike {prog}", description=description, registry=registry)
    try:
        if (written := [printable(a) for a in argv]) != argv:  # tyro prints what it does not understand as it is
            try:
                return cast(T, read(args=argv, console_outputs=False))
            except SystemExit:
                argv = written
        return cast(T, read(args=argv))
    except ValueError as error:  # a dataclass refused a value
        raise UsageError(str(error)) from None


def take(argv: list[str], option: str) -> tuple[str | None, list[str]]:
    """Takes `--option VALUE` or `--option=VALUE` out of the arguments."""
    for i, argument in enumerate(argv):
        if argument == option:
            if i + 1 == len(argv):
                raise UsageError(f"{option} needs a file.")
            return argv[i + 1], argv[:i] + argv[i + 2 :]
        if argument.startswith(f"{option}="):
            return argument.split("=", 1)[1], argv[:i] + argv[i + 1 :]
    return None, argv


def take_flag(argv: list[str], flag: str) -> tuple[bool, list[str]]:
    """Takes `--no-...` out of the arguments; False where it was there."""
    return flag not in argv, [a for a in argv if a != flag]

"""Reads arguments by tyro. Nothing outside this package knows it."""

import functools
import itertools
import sys
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import tyro
from tyro.constructors import ConstructorRegistry

from ..printing import printable, say
from ..runs.old_names import OLD_NAMES
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
    options: T = _parsed(cls, argv, prog, description, registry)
    for name, least in _LEAST.items():
        if (found := vars(options).get(name)) is not None and found < least:
            of_images = name in ("count", "points")
            what = "is a number of images, 1 or more" if of_images else f"must be at least {least}"
            raise ValueError(f"{name} is {found}; it {what}.")
    return options


def parse_first(
    cls: Callable[..., T], argv: list[str], prog: str, registry: ConstructorRegistry | None = None
) -> tuple[T, list[str]]:
    """Reads the options of a dataclass alone, and gives back all other arguments as they stand."""
    end = argv.index("--") if "--" in argv else len(argv)  # tyro would not give it back
    found, others = _parsed(cls, argv[:end], prog, None, registry, first=True)
    return found, [*others, *argv[end:]]


def options_in(argv: list[str]) -> set[str]:
    """The options that stand on a command line, as names of fields."""
    words = itertools.takewhile(lambda word: word != "--", argv)
    return {word[2:].split("=")[0].replace("-", "_") for word in words if word.startswith("--")}


def with_new_names(argv: list[str]) -> list[str]:
    """The arguments with the new names of options. Prints a line about each old one."""
    end = argv.index("--") if "--" in argv else len(argv)
    new = [*argv[:end]]
    for i, argument in enumerate(new):
        option, equals, value = argument.partition("=")
        if option.startswith("--") and (name := OLD_NAMES.get(option[2:])):
            say(f"{option} is now --{name}; the old spelling is accepted until 0.3.", sys.stderr)
            new[i] = f"--{name}{equals}{value}"
    return [*new, *argv[end:]]


def flat(kind: object) -> Any:
    """The type whose fields are options without its own name in front."""
    return Annotated[kind, tyro.conf.arg(name="")]


def _parsed(
    cls: Callable[..., T],
    argv: list[str],
    prog: str,
    description: str | None,
    registry: ConstructorRegistry | None,
    first: bool = False,
) -> Any:
    read: Callable[..., Any] = functools.partial(
        tyro.cli, cls, prog=f"lookalike {prog}", description=description, registry=registry,
        return_unknown_args=first, add_help=not first,
    )  # fmt: skip
    try:
        if (written := [printable(a) for a in argv]) != argv:  # tyro prints what it does not understand as it is
            try:
                return read(args=argv, console_outputs=False)
            except SystemExit:
                argv = written
        return read(args=argv)
    except ValueError as error:  # a dataclass refused a value
        raise UsageError(str(error)) from None

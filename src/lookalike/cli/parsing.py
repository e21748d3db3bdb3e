"""Parses arguments with tyro."""

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

_MINIMUM = {
    "image_size": 1,
    "batch_size": 1,
    "workers": 0,
    "seeds": 1,
    "epochs": 1,
    "count": 1,
    "points": 1,
    "channels": 1,
}
"""Minimum values of options that several commands have."""


def parse(
    cls: Callable[..., T],
    argv: list[str],
    prog: str,
    description: str | None = None,
    registry: ConstructorRegistry | None = None,
) -> T:
    """Parses the arguments of a command into a dataclass, or into what the registry builds for a type."""
    options: T = _parsed(cls, argv, prog, description, registry)
    for name, minimum in _MINIMUM.items():
        if (value := vars(options).get(name)) is not None and value < minimum:
            unit = " image" if name in ("count", "points") else ""
            raise ValueError(f"{name} is {value}; it must be at least {minimum}{unit}.")
    return options


def parse_first(
    cls: Callable[..., T], argv: list[str], prog: str, registry: ConstructorRegistry | None = None
) -> tuple[T, list[str]]:
    """Parses only the options of a dataclass, and returns all other arguments unchanged."""
    end = argv.index("--") if "--" in argv else len(argv)  # tyro would drop it
    found, others = _parsed(cls, argv[:end], prog, None, registry, first=True)
    return found, [*others, *argv[end:]]


def options_in(argv: list[str]) -> set[str]:
    """The options on a command line, as field names."""
    arguments = itertools.takewhile(lambda argument: argument != "--", argv)
    return {argument[2:].split("=")[0].replace("-", "_") for argument in arguments if argument.startswith("--")}


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
    """The type, with options that are not prefixed by its name."""
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
        if (written := [printable(a) for a in argv]) != argv:  # tyro prints invalid arguments unescaped
            try:
                return read(args=argv, console_outputs=False)
            except SystemExit:
                argv = written
        return read(args=argv)
    except ValueError as error:  # a dataclass rejected a value
        raise UsageError(str(error)) from None

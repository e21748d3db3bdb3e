"""A function as a command: its signature gives the arguments and defaults, its docstring the help."""

import collections.abc
import functools
import importlib
import inspect
import operator
import os
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Annotated, Any, Union

import tyro
from tyro.constructors import StructFieldSpec

from ..cores import worker_count
from .fields import fields_are, registry
from .interrupts import collect_garbage, imported
from .parsing import parse

TYPED = {"Classifier": str, "Data": str, "Encoder": str}
"""Types on the command line of arguments that may also be objects in Python: a path or a name."""
WORKERS = "Number of processes that decode images; by default one per free core, at most 8."


@dataclass(frozen=True)
class Option:
    """Type, default and help of a command-line option."""

    kind: Any
    default: object
    help: str


@dataclass(frozen=True, kw_only=True)
class Command:
    """A function as a command.

    Positional parameters become positional arguments, keyword-only parameters become options. Parameters that are
    functions (`say`) are left out.
    """

    function: Callable[..., Any]
    name: str = ""
    """Name of the command, if the function's differs."""
    metavars: Mapping[str, str] = field(default_factory=dict)
    """Names of positional arguments in help, where they differ from the parameters'."""
    kinds: Mapping[str, Any] = field(default_factory=dict)
    """Types that are narrower on the command line, such as a choice of names."""
    defaults: Mapping[str, object] = field(default_factory=dict)
    """Defaults that differ from the function's."""
    extra: Mapping[str, Option] = field(default_factory=dict)
    """Options that are not parameters of the function."""
    needs: str = ""
    """The module that imports the heavy libraries."""

    def options(self) -> dict[str, Option]:
        """All positional arguments and options, by name."""
        hints = _hints(self.function)
        texts = _texts(inspect.getdoc(self.function) or "")
        found = {}
        for name, parameter in self._parameters().items():
            default = tyro.MISSING if parameter.default is parameter.empty else parameter.default
            kind, text = self.kinds.get(name, _kind(hints[name])), texts.get(name, "")
            if name == "workers" and default == 0:  # of `serve` these are other processes
                kind, default, text = int | None, None, WORKERS
            if self.defaults.get(name) is not None:
                kind, default = _without_none(kind), self.defaults[name]
            found[name] = Option(kind, default, text)
        return {**found, **self.extra}

    def positionals(self) -> list[str]:
        """The names of the positional arguments."""
        return [name for name, p in self._parameters().items() if p.kind is not p.KEYWORD_ONLY]

    def read(self, argv: list[str]) -> SimpleNamespace:
        """Parses a command line."""
        known, front = self.options(), self.positionals()
        kinds = {
            name: self._positional(name, each.kind) if name in front else each.kind for name, each in known.items()
        }
        fields = [StructFieldSpec(name, kinds[name], each.default, each.help) for name, each in known.items()]
        first = (inspect.getdoc(self.function) or "").split("\n\n")[0]
        rules = registry(fields_are(self.function, SimpleNamespace, fields))
        name = self.name or self.function.__name__
        found: SimpleNamespace = parse(self.function, argv, name, " ".join(first.split()), rules)
        return found

    def call(self, options: SimpleNamespace, **others: object) -> Any:
        """Calls the function with the parsed options and other arguments."""
        if self.needs:
            importlib.import_module(f"lookalike.{self.needs}")
            imported()
        collect_garbage()
        known = inspect.signature(self.function).parameters
        arguments = {name: value for name, value in vars(options).items() if name in known} | others
        if "workers" in arguments and known["workers"].default == 0:
            arguments["workers"] = worker_count(options.workers)
        return self.function(**arguments)

    def _parameters(self) -> dict[str, inspect.Parameter]:
        """The parameters that a command line can set."""
        hints = _hints(self.function)
        known = inspect.signature(self.function).parameters
        return {name: p for name, p in known.items() if not _is_function(hints[name])}

    def _positional(self, name: str, kind: Any) -> Any:
        metavar = tyro.conf.arg(metavar=self.metavars.get(name, name.upper()))
        return Annotated[kind, tyro.conf.Positional, metavar]


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """The types of the parameters, without the return type, which may be imported for type checkers only."""
    written = {name: kind for name, kind in function.__annotations__.items() if name != "return"}
    return typing.get_type_hints(SimpleNamespace(__annotations__=written), function.__globals__, TYPED)


def _is_function(hint: Any) -> bool:
    parts = typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)
    return any(typing.get_origin(part) is collections.abc.Callable for part in parts)


def _kind(hint: Any) -> Any:
    """The type that the command line parses: paths are text, a sequence is several values."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    several: Any = tuple
    if origin is collections.abc.Sequence:
        return several[_kind(parts[0]), ...]
    if origin is tuple:
        return several[tuple(map(_kind, parts))]
    if origin is os.PathLike:
        return str
    if origin in (Union, types.UnionType):
        kinds = list(dict.fromkeys(map(_kind, parts)))
        several_texts = any(typing.get_origin(kind) is tuple for kind in kinds)  # one value is a tuple of length 1
        return _either([kind for kind in kinds if not (several_texts and kind is str)])
    return hint


def _without_none(kind: Any) -> Any:
    """A type without None, for options that have a default."""
    if typing.get_origin(kind) not in (Union, types.UnionType):
        return kind
    return _either([part for part in typing.get_args(kind) if part is not type(None)])


def _either(kinds: Sequence[Any]) -> Any:
    return functools.reduce(operator.or_, kinds)


def _texts(docstring: str) -> dict[str, str]:
    """The description of each argument in a docstring, capitalised."""
    section = re.search(r"^Args:\n((?:[ ]+.*\n|\n)*)", docstring + "\n", re.MULTILINE)
    found: dict[str, str] = {}
    for name, text in re.findall(r"^ {4}(\w+): (.*(?:\n {5,}.*)*)", section[1] if section else "", re.MULTILINE):
        line = " ".join(text.split())
        found[name] = line[:1].upper() + line[1:]
    return found

"""A function as a command: its signature gives the places, options and defaults, its docstring the help."""

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
from .interrupts import imported
from .parsing import parse

TYPED = {"Classifier": str, "Data": str, "Encoder": str}
"""What stands on a command line for what Python takes as an object, too: a path or a name."""
WORKERS = "Processes that decode images. Without it one per free core, 8 at most."


@dataclass(frozen=True)
class Option:
    """An option of the command line, and what it is and says."""

    kind: Any
    default: object
    help: str


@dataclass(frozen=True, kw_only=True)
class Command:
    """A function as a command.

    What Python takes by position stands in front, what it takes by keyword is an option. What is a function (`say`)
    has no place on a command line.
    """

    function: Callable[..., Any]
    name: str = ""
    """Of the command, where the function has another."""
    metavars: Mapping[str, str] = field(default_factory=dict)
    """What help calls the places that are not called as their parameters."""
    kinds: Mapping[str, Any] = field(default_factory=dict)
    """Types of values, where the command line knows which there are."""
    defaults: Mapping[str, object] = field(default_factory=dict)
    """Where those of the command line are not those of the function."""
    more: Mapping[str, Option] = field(default_factory=dict)
    """Options that the function does not have."""
    needs: str = ""
    """The module that brings along all that is heavy."""

    def options(self) -> dict[str, Option]:
        """All places and options, by name."""
        hints = _hints(self.function)
        texts = _texts(inspect.getdoc(self.function) or "")
        found = {}
        for name, parameter in self._parameters().items():
            default = tyro.MISSING if parameter.default is parameter.empty else parameter.default
            kind, text = self.kinds.get(name, _kind(hints[name])), texts.get(name, "")
            if name == "workers":
                kind, default, text = int | None, None, WORKERS
            if self.defaults.get(name) is not None:
                kind, default = _without_none(kind), self.defaults[name]
            found[name] = Option(kind, default, text)
        return {**found, **self.more}

    def places(self) -> list[str]:
        """The names of what stands in front."""
        return [name for name, p in self._parameters().items() if p.kind is not p.KEYWORD_ONLY]

    def read(self, argv: list[str]) -> SimpleNamespace:
        """The values of a command line."""
        known, places = self.options(), self.places()
        kinds = {name: self._in_front(name, each.kind) if name in places else each.kind for name, each in known.items()}
        fields = [StructFieldSpec(name, kinds[name], each.default, each.help) for name, each in known.items()]
        first = (inspect.getdoc(self.function) or "").split("\n\n")[0]
        rules = registry(fields_are(self.function, SimpleNamespace, fields))
        name = self.name or self.function.__name__
        found: SimpleNamespace = parse(self.function, argv, name, " ".join(first.split()), rules)
        return found

    def call(self, asked: SimpleNamespace, **others: object) -> Any:
        """Calls the function with the values of a command line, and others that it takes."""
        if self.needs:
            importlib.import_module(f"lookalike.{self.needs}")
            imported()
        known = inspect.signature(self.function).parameters
        given = {name: value for name, value in vars(asked).items() if name in known} | others
        if "workers" in given and known["workers"].default is not None:
            given["workers"] = worker_count(asked.workers)
        return self.function(**given)

    def _parameters(self) -> dict[str, inspect.Parameter]:
        """Those that have a place on a command line."""
        hints = _hints(self.function)
        known = inspect.signature(self.function).parameters
        return {name: p for name, p in known.items() if not _is_function(hints[name])}

    def _in_front(self, name: str, kind: Any) -> Any:
        metavar = tyro.conf.arg(metavar=self.metavars.get(name, name.upper()))
        return Annotated[kind, tyro.conf.Positional, metavar]


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """The types of the parameters; what a function returns may have a type that only checkers import."""
    written = {name: kind for name, kind in function.__annotations__.items() if name != "return"}
    return typing.get_type_hints(SimpleNamespace(__annotations__=written), function.__globals__, TYPED)


def _is_function(hint: Any) -> bool:
    parts = typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)
    return any(typing.get_origin(part) is collections.abc.Callable for part in parts)


def _kind(hint: Any) -> Any:
    """What a command line can say of a type: paths are text, a sequence is several values."""
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
        several_texts = any(typing.get_origin(kind) is tuple for kind in kinds)  # one is several of length 1
        return _either([kind for kind in kinds if not (several_texts and kind is str)])
    return hint


def _without_none(kind: Any) -> Any:
    """A type without None: what has a default of its own is not left open."""
    if typing.get_origin(kind) not in (Union, types.UnionType):
        return kind
    return _either([part for part in typing.get_args(kind) if part is not type(None)])


def _either(kinds: Sequence[Any]) -> Any:
    return functools.reduce(operator.or_, kinds)


def _texts(docstring: str) -> dict[str, str]:
    """What a docstring says about each argument, with a capital letter."""
    section = re.search(r"^Args:\n((?:[ ]+.*\n|\n)*)", docstring + "\n", re.MULTILINE)
    found: dict[str, str] = {}
    for name, text in re.findall(r"^ {4}(\w+): (.*(?:\n {5,}.*)*)", section[1] if section else "", re.MULTILINE):
        words = " ".join(text.split())
        found[name] = words[:1].upper() + words[1:]
    return found

"""Options of methods, parsed from their source, so that a typo is reported before torch is imported.

An outline holds only names, types and descriptions of a `Config`: its values are stand-ins, and the method itself
validates the real ones.
"""

import ast
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ..methods import METHODS

_HERE = Path(__file__).parents[1]
_PLAIN: dict[str, Any] = {"int": int, "float": float, "str": str, "bool": bool}
_VALUES: dict[Any, object] = {int: 0, float: 0.0, str: "", bool: False}


@dataclass(frozen=True)
class Outlined:
    """An option of a method."""

    kind: Any
    help: str | None
    hint: str
    """The default as help shows it, if the method defines one."""

    def shown(self) -> Any:
        """The type, annotated with help for tyro."""
        return Annotated[self.kind, tyro.conf.arg(help=self.help, help_behavior_hint=self.hint)]


Outline = Mapping[str, Outlined]
"""The options of a method by dotted name; `*` in `views.*.blur` stands for the index of a view recipe."""


@cache
def outline(method: str) -> Outline | None:
    """The options of a built-in method.

    None if its source is missing or has an unsupported type: the options are then read from the imported method.
    """
    try:
        return of_class(METHODS[method].module.removeprefix("lookalike."), f"{METHODS[method].cls}.Config")
    except (OSError, TypeError, LookupError, StopIteration):
        return None


def stand_in(kind: Any) -> object:
    """A value of a type."""
    args = typing.get_args(kind)
    if type(None) in args:
        return None
    if typing.get_origin(kind) is Literal:
        return args[0]
    if typing.get_origin(kind) is tuple:
        return () if ... in args else tuple(map(stand_in, args))
    return _VALUES[kind]


@cache
def _source(module: str) -> ast.Module:
    path = _HERE.joinpath(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(path.read_text(encoding="utf-8"))


def _imported(module: str, other: str, level: int) -> str:
    """The module of this package that a relative import of `other` in `module` refers to, with `level` dots."""
    parts = module.split(".")
    if not _HERE.joinpath(*parts).is_dir():
        parts.pop()  # relative imports in a package start at the package itself
    return ".".join([*parts[: len(parts) - level + 1], other])


@cache
def of_class(module: str, name: str) -> Outline:
    """The fields of a dataclass in a module of this package; `name` may be a nested class."""
    body = _source(module).body
    for part in name.split("."):
        found = next(node for node in body if isinstance(node, ast.ClassDef) and node.name == part)
        body = found.body
    options: dict[str, Outlined] = {}
    for base in found.bases:
        if isinstance(base, ast.Attribute) and isinstance(base.value, ast.Name):  # core.Config
            options |= of_class(base.value.id, base.attr)
    for node, after in zip(body, [*body[1:], None]):
        if isinstance(node, ast.AnnAssign) and not ast.unparse(node.annotation).startswith("ClassVar"):
            text = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else None
            # methods override the defaults of views and optimizers
            hint = f"(default: {ast.unparse(node.value)})" if node.value is not None and "." in name else ""
            field, kind = ast.unparse(node.target), _type(node.annotation, module)
            for path, inner in _nested(kind).items():
                options[f"{field}.{path}"] = inner
            if not _nested(kind):
                options[field] = Outlined(kind, text if isinstance(text, str) else None, hint)
    return options


def _nested(kind: Any) -> Outline:
    """The options of a dataclass, or those of a tuple of dataclasses, prefixed with `*.`."""
    if isinstance(kind, dict):
        return kind
    first, *_ = typing.get_args(kind) or [None]
    return {f"*.{name}": each for name, each in first.items()} if isinstance(first, dict) else {}


def _type(node: ast.expr, module: str) -> Any:
    """The type of an annotation in a module; for a dataclass, its options."""
    match node:
        case ast.Constant(value=None):
            return None
        case ast.Constant(value=types.EllipsisType()):
            return ...
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _type(left, module) | _type(right, module)
        case ast.Subscript(value=ast.Name(id="Literal")):
            values = ast.literal_eval(node.slice)
            return Literal[values]
        case ast.Subscript(value=ast.Name(id="tuple"), slice=ast.Tuple(elts=parts)):
            return tuple[tuple(_type(part, module) for part in parts)]  # type: ignore[misc]
        case ast.Name(id=name):
            return _PLAIN[name] if name in _PLAIN else _named(name, module)
    raise TypeError(f"{ast.unparse(node)} in {module} is a type that outlines do not support.")


def _named(name: str, module: str) -> Any:
    """Resolves a name in a module, or where it is imported from, to a dataclass or a type alias."""
    for node in _source(module).body:
        match node:
            case ast.ClassDef(name=found) if found == name:
                return of_class(module, name)
            case ast.Assign(targets=[ast.Name(id=found)]) if found == name:
                return _type(node.value, module)
            case ast.ImportFrom(module=str(other), names=names, level=level) if level and any(
                each.name == name for each in names
            ):
                return _named(name, _imported(module, other, level))
    raise TypeError(f"{name} is not defined in {module}.")

"""Rules for tyro: which fields of a type are options, and how their values build an object."""

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Annotated, Any

from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

Rule = Callable[[StructTypeInfo], StructConstructorSpec | None]


def registry(*rules: Rule) -> ConstructorRegistry:
    """A registry whose rules take precedence over tyro's own."""
    result = ConstructorRegistry()
    for rule in rules:
        result.struct_rule(rule)
    return result


def fields_are(kind: object, make: Callable[..., Any], fields: Sequence[StructFieldSpec]) -> Rule:
    """A rule: `fields` are the options of the type `kind`, and `make` builds an object from their values."""
    return lambda info: StructConstructorSpec(make, tuple(fields)) if info.type is kind else None


def some_fields(kind: type, hidden: Collection[str], marks: Mapping[str, tuple[object, ...]] | None = None) -> Rule:
    """A rule: hidden fields of a dataclass keep their defaults; `marks` are tyro's annotations of others."""
    nested = False

    def rule(info: StructTypeInfo) -> StructConstructorSpec | None:
        nonlocal nested
        if info.type is not kind or nested:
            return None
        nested = True
        try:
            whole = ConstructorRegistry.get_struct_spec(info)  # tyro's own
        finally:
            nested = False
        assert isinstance(whole, StructConstructorSpec)
        shown = [_marked(f, (marks or {}).get(f.name, ())) for f in whole.fields if f.name not in hidden]
        make = functools.partial(dataclasses.replace, info.default) if isinstance(info.default, kind) else kind
        return StructConstructorSpec(make, tuple(shown))

    return rule


def _marked(field: StructFieldSpec, marks: tuple[object, ...]) -> StructFieldSpec:
    annotated: Any = Annotated
    return dataclasses.replace(field, type=annotated[(field.type, *marks)]) if marks else field

"""What tyro shows of a type, and what it makes of the values: rules in the place of classes made for it."""

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Annotated, Any

from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

Rule = Callable[[StructTypeInfo], StructConstructorSpec | None]


def registry(*rules: Rule) -> ConstructorRegistry:
    """The rules, which go before tyro's own."""
    made = ConstructorRegistry()
    for rule in rules:
        made.struct_rule(rule)
    return made


def fields_are(kind: object, make: Callable[..., Any], fields: Sequence[StructFieldSpec]) -> Rule:
    """A rule: these are the fields of a type, and what makes something of their values."""
    return lambda info: StructConstructorSpec(make, tuple(fields)) if info.type is kind else None


def some_fields(kind: type, hidden: Collection[str], marks: Mapping[str, tuple[object, ...]] | None = None) -> Rule:
    """A rule: fields of a dataclass that are not shown keep their values, and others have marks of tyro's."""
    asking = False

    def rule(info: StructTypeInfo) -> StructConstructorSpec | None:
        nonlocal asking
        if info.type is not kind or asking:
            return None
        asking = True
        try:
            whole = ConstructorRegistry.get_struct_spec(info)  # tyro's own
        finally:
            asking = False
        assert isinstance(whole, StructConstructorSpec)
        shown = [_marked(f, (marks or {}).get(f.name, ())) for f in whole.fields if f.name not in hidden]
        make = functools.partial(dataclasses.replace, info.default) if isinstance(info.default, kind) else kind
        return StructConstructorSpec(make, tuple(shown))

    return rule


def _marked(field: StructFieldSpec, marks: tuple[object, ...]) -> StructFieldSpec:
    made: Any = Annotated
    return dataclasses.replace(field, type=made[(field.type, *marks)]) if marks else field

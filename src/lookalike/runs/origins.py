"""Origins of the values of a run: the defaults, the user, or fitting to the data and the machine."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Literal, Protocol, get_args

from ..printing import shown

Origin = Literal["default", "user", "fitted"]
NAMED: tuple[Origin, ...] = ("user", "fitted")
"""Origins that a file lists; all other fields have their default."""


class Asked(Protocol):
    """A run, or anything else with origins of its values."""

    @property
    def origins(self) -> Mapping[str, Origin]: ...


def by_user(names: Iterable[str]) -> dict[str, Origin]:
    """Origins of fields that the user stated."""
    return dict.fromkeys(names, "user")


def is_stated(run: Asked, option: str) -> bool:
    """Whether the user chose an option's value: its origin is the user, or it is not the default.

    From Python, a default that is passed explicitly looks like one that is not passed.
    """
    if option in run.origins:
        return run.origins[option] == "user"
    return bool(vars(run)[option] != default_of(type(run), option))


def default_of(cls: type, name: str) -> object:
    (field,) = (f for f in dataclasses.fields(cls) if f.name == name)
    return field.default


def stated_of_method(
    run: Asked, own: Mapping[str, object], default: Mapping[str, object], then: Mapping[str, object]
) -> frozenset[str]:
    """Dotted names of the method's fields that the user stated.

    A stated optimizer counts as a whole, except its warm-up: learning rate and decay of another one do not suit it.

    Args:
        own, default: values of the method's configuration and of its default one, by dotted names.
        then: those of a resumed run; else empty.
    """
    stated = {name for name, origin in run.origins.items() if origin == "user" and name in _within(own)}
    unknown = {name for name in own if name not in run.origins or (then and then.get(name) != own[name])}
    differing = {name for name in unknown if name not in default or default[name] != own[name]}
    optimizer = {name for name in own if name.startswith("optim.")}
    if "optim.name" in stated | differing or (not stated and optimizer & differing):
        differing |= optimizer - {name for name in optimizer if name.startswith("optim.warmup_epochs")}
    return frozenset(stated | differing)


def _within(names: Iterable[str]) -> set[str]:
    """These dotted names, and the names of all their parents."""
    return {".".join(parts[:n]) for parts in (name.split(".") for name in names) for n in range(1, len(parts) + 1)}


def written(origins: Mapping[str, Origin]) -> dict[str, list[str]]:
    """Origins as in `run.yaml`: the names of the user's fields and of the fitted fields."""
    return {each: sorted(name for name, origin in origins.items() if origin == each) for each in NAMED}


def read(content: object, where: str) -> dict[str, Origin]:
    """Origins from `run.yaml`.

    Raises:
        ValueError: they have another form.
    """
    found: dict[str, Origin] = {}
    if not isinstance(content, Mapping):
        raise ValueError(f"{where}: origins is {shown(content)}; give lists of names under user and fitted.")
    for origin, names in content.items():
        known = origin in get_args(Origin) and isinstance(names, list) and all(isinstance(n, str) for n in names)
        if not known:
            raise ValueError(f"{where}: origins holds {shown(origin)}; give lists of names under user and fitted.")
        found |= dict.fromkeys(names, origin)
    return found

"""Where the values of a run come from: the defaults, the user, or fitting to the data and the machine."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Literal, Protocol, get_args

from ..printing import shown

Origin = Literal["default", "user", "fitted"]
NAMED: tuple[Origin, ...] = ("user", "fitted")
"""What a file names the fields of; all others have their default."""


class Asked(Protocol):
    """A run, or whatever else says where its values come from."""

    @property
    def origins(self) -> Mapping[str, Origin]: ...


def by_user(names: Iterable[str]) -> dict[str, Origin]:
    """These fields are the user's."""
    return dict.fromkeys(names, "user")


def is_stated(run: Asked, option: str) -> bool:
    """Whether the user chose an option's value: he said so, or it is not the default.

    From Python a default that is given cannot be told from one that is not.
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

    A stated optimizer counts as a whole, but for its warm-up: no other one's learning rate and decay suit it.

    Args:
        own, default: values of the method's configuration and of its default one, by dotted names.
        then: those of a run that is resumed; else none.
    """
    said = {name for name, origin in run.origins.items() if origin == "user" and name in _within(own)}
    unsaid = {name for name in own if name not in run.origins or (then and then.get(name) != own[name])}
    differing = {name for name in unsaid if name not in default or default[name] != own[name]}
    optimizer = {name for name in own if name.startswith("optim.")}
    if "optim.name" in said | differing or (not said and optimizer & differing):
        differing |= optimizer - {name for name in optimizer if name.startswith("optim.warmup_epochs")}
    return frozenset(said | differing)


def _within(names: Iterable[str]) -> set[str]:
    """These dotted names, and those of everything that they are parts of."""
    return {".".join(parts[:n]) for parts in (name.split(".") for name in names) for n in range(1, len(parts) + 1)}


def written(origins: Mapping[str, Origin]) -> dict[str, list[str]]:
    """Origins as `run.yaml` holds them: the names of the user's fields, and of those that were fitted."""
    return {each: sorted(name for name, origin in origins.items() if origin == each) for each in NAMED}


def read(content: object, where: str) -> dict[str, Origin]:
    """Origins from `run.yaml`.

    Raises:
        ValueError: they are written otherwise.
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

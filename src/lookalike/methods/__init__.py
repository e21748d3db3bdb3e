"""The methods: one file per paper. The table is lazy, so that names and help are shown without importing torch."""

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..core import Method
    from .simclr import SimCLR as SimCLR


@dataclass(frozen=True)
class Entry:
    """Where a method lives, and what it does in one line."""

    module: str
    cls: str
    line: str


METHODS: dict[str, Entry] = {
    "simclr": Entry("lookalike.methods.simclr", "SimCLR", "two views attract, all other images repel (Chen 2020)"),
}


def get_method(name: str) -> "type[Method]":
    """The class of a method by its name.

    Raises:
        ValueError: no method has this name; the nearest names are in the message.
    """
    if name not in METHODS:
        from ..runs import nearest

        raise ValueError(f"No method is called '{name}'. {nearest(name, list(METHODS))}")
    entry = METHODS[name]
    method: type[Method] = importlib.import_module(entry.module).__dict__[entry.cls]
    return method


def __getattr__(name: str) -> object:
    """`lookalike.methods.SimCLR` without importing every method."""
    for key, entry in METHODS.items():
        if entry.cls == name:
            return get_method(key)
    raise AttributeError(f"module 'lookalike.methods' has no attribute '{name}'")


__all__ = ["METHODS", "Entry", "get_method"]

"""Events that long work reports, and their destinations: console, nowhere, or a line of another command."""

from collections.abc import Callable
from typing import Literal, Protocol

from .printing import say

Kind = Literal["fact", "progress", "warning"]
"""Facts and results; progress; problems and warnings."""


class Report(Protocol):
    """Takes an event: one or more lines, and its kind."""

    def __call__(self, text: str, kind: Kind) -> None: ...


def to_console(text: str, kind: Kind) -> None:
    """Prints it."""
    say(text)


def nowhere(text: str, kind: Kind) -> None:
    """Drops it."""


def only(kinds: tuple[Kind, ...], take: Callable[[str], None]) -> Report:
    """Passes on the text of events of these kinds."""

    def report(text: str, kind: Kind) -> None:
        if kind in kinds:
            take(text)

    return report

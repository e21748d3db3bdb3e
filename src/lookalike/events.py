"""What long work reports, and where it goes: a console, nowhere, or the line of another command."""

from collections.abc import Callable
from typing import Literal, Protocol

from .printing import say

Kind = Literal["fact", "progress", "warning"]
"""Facts and results, how far the work is, and what went wrong or may."""


class Report(Protocol):
    """Takes an event: a line or several, and its kind."""

    def __call__(self, text: str, kind: Kind) -> None: ...


def to_console(text: str, kind: Kind) -> None:
    """Prints it."""
    say(text)


def nowhere(text: str, kind: Kind) -> None:
    """Drops it."""


def only(kinds: tuple[Kind, ...], take: Callable[[str], None]) -> Report:
    """Passes the text of events of these kinds on."""

    def report(text: str, kind: Kind) -> None:
        if kind in kinds:
            take(text)

    return report

"""Errors about images that cannot be used."""

from typing import Final

from ..printing import brief, printable

UNSUPPORTED: Final = "not supported: "
"""Prefix of a `BrokenImage`'s reason if the file is intact and has to be converted instead of repaired."""


class BrokenImage(Exception):
    """An image that cannot be used, with its name and the reason. Raise it in your own Dataset to skip an item."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = printable(str(name))
        self.reason = brief(str(reason))

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


class Unsupported(ValueError):
    """An intact image in an unsupported form; the message names the form and how to store the image instead."""


def remedy(reasons: list[str]) -> str:
    """The remedy for unreadable images, given their reasons: a verb and its object."""
    return "Convert them" if all(reason.startswith(UNSUPPORTED) for reason in reasons) else "Repair or convert them"

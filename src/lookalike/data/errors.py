"""What is wrong with an image that cannot be used."""

from typing import Final

from ..printing import brief, printable

UNSUPPORTED: Final = "not supported: "
"""How the reason of a `BrokenImage` begins where the image is whole, and has to be converted and not repaired."""


class BrokenImage(Exception):
    """An image that cannot be used, with its name and the reason. A Dataset may raise it for an item to be replaced."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = printable(str(name))
        self.reason = brief(str(reason))

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


class Unsupported(ValueError):
    """A whole image of a form that is not read; the message says what it is and how to store it."""


def remedy(reasons: list[str]) -> str:
    """What is to be done about images that could not be read, by their reasons: a verb and its object."""
    return "Convert them" if all(reason.startswith(UNSUPPORTED) for reason in reasons) else "Repair or convert them"

"""What is wrong with an image that is whole."""

from typing import Final

UNSUPPORTED: Final = "not supported: "
"""How the reason of a `BrokenImage` begins where the image is whole, and has to be converted and not repaired."""


class Unsupported(ValueError):
    """A whole image of a form that is not read; the message says what it is and how to store it."""


def remedy(reasons: list[str]) -> str:
    """What is to be done about images that could not be read, by their reasons: a verb and its object."""
    return "Convert them" if all(reason.startswith(UNSUPPORTED) for reason in reasons) else "Repair or convert them"

"""The known names that are nearest to an unknown one, for error messages."""

import difflib
from collections.abc import Iterable, Sequence


def nearest_names(name: str, known: Iterable[str], cutoff: float = 0.5) -> list[str]:
    """The known names nearest to `name`, three at most, the nearest first.

    Args:
        cutoff: how similar they are at least: difflib's ratio, in [0, 1].
    """
    return difflib.get_close_matches(name, list(known), n=3, cutoff=cutoff)


def nearest(name: str, known: Sequence[str]) -> str:
    """A sentence that names the known names nearest to `name`, or all of them where none is near."""
    near = nearest_names(name, known)
    return f"Did you mean {' or '.join(near)}?" if near else f"Known: {', '.join(sorted(known)[:20])}."

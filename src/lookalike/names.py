"""The known names most similar to an unknown one, for error messages."""

import difflib
from collections.abc import Iterable, Sequence


def nearest_names(name: str, known: Iterable[str], cutoff: float = 0.5) -> list[str]:
    """The known names most similar to `name`, at most 3, the most similar first.

    Args:
        cutoff: minimum similarity: difflib's ratio, in [0, 1].
    """
    return difflib.get_close_matches(name, list(known), n=3, cutoff=cutoff)


def nearest(name: str, known: Sequence[str]) -> str:
    """A sentence with the known names most similar to `name`, or up to 20 known names if none is similar."""
    near = nearest_names(name, known)
    return f"Did you mean {' or '.join(near)}?" if near else f"Known: {', '.join(sorted(known)[:20])}."

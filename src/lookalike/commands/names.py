"""The command `list`: names that other commands accept. It imports nothing heavy."""

from collections.abc import Callable
from typing import Literal

from ..exports.formats import FORMATS
from ..methods import METHODS, SELF_SUPERVISED
from ..names import nearest
from ..printing import shown, silent
from . import catalogue


def list_names(
    what: Literal["methods", "backbones", "formats"],
    pattern: str = "",
    *,
    small: bool = False,
    sort: catalogue.Order = "name",
    measure: bool = False,
    image_size: int = 224,
    say: Callable[[str], None] = silent,
) -> None:
    """Lists names that other commands accept.

    Args:
        what: methods, backbones with their cost, or formats of `export`.
        pattern: only names that contain this text.
        small: only backbones that a CPU can train: at most 12 million parameters and 4 GFLOP at 224 pixels.
        sort: sort key of the backbones; dim is the feature dimension.
        measure: time a training step of each backbone on this machine, with a forward and a backward pass of one view;
            at most 20 backbones.
        image_size: size of the images for `measure`, in pixels.
        say: called with each line.

    Raises:
        ValueError: no name contains the text.
    """
    if what != "backbones":
        lines = {name: METHODS[name].line for name in SELF_SUPERVISED}
        if what == "formats":
            lines = {str(name): f"{info.line} ({', '.join(info.precisions)})" for name, info in FORMATS.items()}
        chosen = [name for name in lines if pattern.lower() in name]
        if not chosen:
            kind = what.removesuffix("s")
            raise ValueError(f"No {kind}'s name contains {shown(pattern)}. {nearest(pattern, [*lines])}")
        for name in chosen:
            say(f"{name:<14} {lines[name]}")
        return
    known = catalogue.catalogue()
    found = catalogue.chosen(known, pattern=pattern, small=small, order=sort)
    if not found:
        names = [cost.name for cost in known]
        if catalogue.chosen(known, pattern=pattern):
            raise ValueError(f"No small backbone's name contains {shown(pattern)}. Leave --small out.")
        raise ValueError(f"No backbone's name contains {shown(pattern)}. {nearest(pattern, names)}")
    if measure:
        catalogue.measure(found, image_size, say)
    else:
        say("\n".join(catalogue.lines(found)))
    if (versions := catalogue.table()[0]) != catalogue.installed():
        say(f"The costs are those of {versions}; with {catalogue.installed()}, some may differ or be missing.")

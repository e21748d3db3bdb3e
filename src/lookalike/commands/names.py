"""`list`: the names that other commands take. Importing it brings along nothing heavy."""

from collections.abc import Callable
from typing import Literal

from ..methods import METHODS, SELF_SUPERVISED
from ..names import nearest
from ..printing import shown, silent
from . import catalogue


def list_names(
    what: Literal["methods", "backbones"],
    pattern: str = "",
    *,
    small: bool = False,
    sort: catalogue.Order = "name",
    measure: bool = False,
    image_size: int = 224,
    say: Callable[[str], None] = silent,
) -> None:
    """Names that the other commands take.

    Args:
        what: methods, or backbones, with what they cost.
        pattern: only names that contain this text.
        small: only backbones that a CPU can train: at most 12 million parameters and 4 GFLOP at 224 pixels.
        sort: order of the backbones; dim is the dimension of their features.
        measure: time a training step of each backbone here: a forward and a backward pass of one view. At most 20 of
            them.
        image_size: pixels of the images for `measure`.
        say: called with the lines.

    Raises:
        ValueError: no name contains the text.
    """
    if what == "methods":
        methods = [name for name in SELF_SUPERVISED if pattern.lower() in name]
        if not methods:
            raise ValueError(f"No method's name contains {shown(pattern)}. {nearest(pattern, [*SELF_SUPERVISED])}")
        for name in methods:
            say(f"{name:<14} {METHODS[name].line}")
        return
    known = catalogue.catalogue()
    found = catalogue.chosen(known, pattern=pattern, small=small, order=sort)
    if not found:
        names = [cost.name for cost in known]
        if catalogue.chosen(known, pattern=pattern):
            raise ValueError(f"No backbone whose name contains {shown(pattern)} is small. Leave --small out.")
        raise ValueError(f"No backbone's name contains {shown(pattern)}. {nearest(pattern, names)}")
    if measure:
        catalogue.measure(found, image_size, say)
    else:
        say("\n".join(catalogue.lines(found)))
    if (versions := catalogue.table()[0]) != catalogue.installed():
        say(f"The numbers are those of {versions}, and here is {catalogue.installed()}: some may be missing or differ.")

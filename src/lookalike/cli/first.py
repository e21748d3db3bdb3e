"""Without images of one's own: `demo` and `list`."""

from dataclasses import dataclass
from typing import Literal

from tyro.conf import Positional

from ..methods import METHODS, SELF_SUPERVISED
from ..names import nearest
from ..printing import say, shown
from . import pages
from .errors import UsageError
from .interrupts import imported
from .parsing import parse


@dataclass(frozen=True)
class Demo:
    """Train SimCLR on scikit-learn's handwritten digits and judge it: no data needed, a minute or two on two cores."""

    out: str = "runs/demo"
    """Folder of the run; the images go beside it, to OUT-digits."""
    epochs: int = 20
    seed: int = 0
    overwrite: bool = False
    """Replace an earlier demo in these folders."""
    report: bool = True
    """Write report.html at the end."""


@dataclass(frozen=True)
class List:
    """Names that the other commands take."""

    what: Positional[Literal["methods", "backbones"]]
    pattern: Positional[str] = ""
    """Only names that contain this text."""
    small: bool = False
    """Only backbones that a CPU can train: at most 12 million parameters and 4 GFLOP at 224 pixels."""
    sort: Literal["name", "parameters", "gflop", "dim"] = "name"
    """Order of the backbones; dim is the dimension of their features."""
    measure: bool = False
    """Time a training step of each backbone here: a forward and a backward pass of one view. At most 20 of them."""
    image_size: int = 224
    """Pixels of the images for --measure."""


def demo(argv: list[str]) -> None:
    options = parse(Demo, argv, "demo")
    from ..commands.demo import demo as show

    imported()

    show(options.out, epochs=options.epochs, seed=options.seed, overwrite=options.overwrite)
    if options.report:
        pages.write_report(options.out, 0)


def show_list(argv: list[str]) -> None:
    options = parse(List, argv, "list")
    if options.what == "methods":
        for option in ("small", "sort", "measure", "image_size"):
            if vars(options)[option] != vars(List("methods"))[option]:
                raise UsageError(f"--{option.replace('_', '-')} is of backbones. Leave it out.")
        methods = [name for name in SELF_SUPERVISED if options.pattern.lower() in name]
        if not methods:
            names = [*SELF_SUPERVISED]
            raise ValueError(f"No method's name contains {shown(options.pattern)}. {nearest(options.pattern, names)}")
        for name in methods:
            say(f"{name:<14} {METHODS[name].line}")
        return
    from ..commands.catalogue import catalogue, chosen, installed, lines, measure, table

    known = catalogue()
    found = chosen(known, pattern=options.pattern, small=options.small, order=options.sort)
    if not found:
        names = [cost.name for cost in known]
        if chosen(known, pattern=options.pattern):
            raise ValueError(f"No backbone whose name contains {shown(options.pattern)} is small. Leave --small out.")
        raise ValueError(f"No backbone's name contains {shown(options.pattern)}. {nearest(options.pattern, names)}")
    if options.measure:
        measure(found, options.image_size, say)
    else:
        say("\n".join(lines(found)))
    if (versions := table()[0]) != installed():
        say(f"The numbers are those of {versions}, and here is {installed()}: some may be missing or differ.")

"""The first stage of parsing a training's command line: METHOD, and the file that --from or --resume reads."""

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ..methods import METHODS, SELF_SUPERVISED
from ..names import nearest
from ..printing import brief, shown
from ..runs import Folder, Options, read_whole_yaml, read_yaml
from .errors import UsageError
from .fields import registry, some_fields
from .parsing import options_in, parse_first

OTHER_VERBS = {
    "distill": "trains with a teacher: lookalike distill DATA --teacher TEACHER",
    "finetune": "trains with labels: lookalike finetune ENCODER TRAIN TEST",
}


@dataclass(frozen=True)
class First:
    """Options that are parsed before all others and are not stored in the run."""

    from_: Annotated[str | None, tyro.conf.arg(name="from", metavar="FILE")] = None
    """A run.yaml file: the method, the positional arguments and all defaults are read from it."""


@dataclass(frozen=True)
class Training(First):
    """First options of a training."""

    report: bool = True
    """Whether to write report.html to the run folder at the end."""


@dataclass(frozen=True)
class Drawing(First):
    """First options of `views`."""

    out: str = "views.png"
    """Output image, .png or .jpg."""


@dataclass(frozen=True)
class Estimating(First):
    """First options of `estimate`."""

    find_batch_size: bool = False
    """Also find the largest batch size by real steps, in powers of two and then by bisection, each in a process of its
    own."""


WITHOUT_A_RUN: dict[str, type[First]] = {"views": Drawing, "estimate": Estimating}
"""Commands that take the options of a training and write no run, with their first options."""


@dataclass(frozen=True)
class Arguments:
    """A training's command line before the options of the run are parsed."""

    verb: str
    method: str
    first: First
    file: str | None
    """The file that --from or --resume reads."""
    content: dict[str, object]
    """The options in that file."""
    whole: dict[str, object]
    """The whole content of that file."""
    options: list[str]

    @property
    def classifies(self) -> bool:
        return METHODS[self.method].verb == "finetune" and self.verb not in WITHOUT_A_RUN

    @property
    def typed(self) -> set[str]:
        """The options on the command line, as field names."""
        return options_in(self.options)


def _resumed(verb: str, argv: list[str]) -> str | None:
    """The run.yaml of the run that `--resume` continues."""
    others = {f.name for f in dataclasses.fields(Options)} - {"resume", "out"}
    options, _ = parse_first(Options, argv, verb, registry(some_fields(Options, others)))
    if not options.resume:
        return None
    folder = Folder(options.out)
    folder.check(resume=True, overwrite=False)
    return str(folder.run)


def read_arguments(verb: str, argv: list[str]) -> Arguments:
    """Finds METHOD, in the first argument or in the file that --from or --resume reads."""
    kind = WITHOUT_A_RUN.get(verb, Training)
    first, argv = parse_first(kind, argv, verb)
    file = first.from_
    if file is None and verb not in WITHOUT_A_RUN:
        file = _resumed(verb, argv)
    content = read_yaml(file) if file is not None else {}
    whole = read_whole_yaml(Path(file)) if file is not None else {}
    name, argv = _method(verb, argv, file, content.pop("method", None))
    if file is not None and not isinstance(content.setdefault("data", ""), str):
        raise ValueError(f"{file}: data is {shown(content['data'])}; give a path, in quotes if it is a number.")
    return Arguments(verb, name, first, file, content, whole, argv)


def _method(verb: str, argv: list[str], file: str | None, named: object) -> tuple[str, list[str]]:
    """The method, from the first argument or `named` in the file, and the remaining arguments."""
    first = argv[0] if argv and not argv[0].startswith("-") else None
    if verb == "pretrain" and first in METHODS and first not in SELF_SUPERVISED:
        raise UsageError(f"{first} {OTHER_VERBS[METHODS[first].verb]}.")
    known = METHODS if verb in WITHOUT_A_RUN else SELF_SUPERVISED
    if verb == "estimate" and first == "finetune":
        raise UsageError("estimate takes the methods of pretrain and distill. finetune needs less than any of them.")
    if first in METHODS:
        if named is not None and first != named:
            raise UsageError(
                f"{file} is a run of {brief(named)}, but the command names {first}. Leave one of them out."
            )
        return first, argv[1:]
    if named is None or (first is not None and len(argv) > 1 and not argv[1].startswith("-")):
        if first is None:
            raise UsageError(
                f"The method is missing: lookalike {verb} METHOD DATA [options]. Methods: {', '.join(known)}."
            )
        order = " METHOD comes before DATA." if os.path.exists(first) else ""
        raise UsageError(f"Unknown method {shown(first)}. {nearest(first, list(known))}{order}")
    if not isinstance(named, str) or named not in METHODS:
        raise ValueError(
            f"{file} names the method {brief(named)}, which is not built in. Run it from Python: "
            "lookalike.pretrain(...)."
        )
    return named, argv

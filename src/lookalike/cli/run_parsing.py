"""From a command line of a training to a `Run`."""

import dataclasses
import re
import sys
from collections.abc import Collection

from ..methods import get_method
from ..runs import Options, Run, by_user, dotted, plain
from .errors import UsageError
from .outlines import outline
from .run_arguments import Asked, read_arguments
from .run_options import Parsed, parse_options, parse_outlined
from .run_places import check_places


def parse_run(verb: str, argv: list[str]) -> Run:
    asked = read_arguments(verb, argv)
    if {"time", "epochs"} <= asked.typed:
        raise UsageError("--time and --epochs exclude each other: give the time of the training, or its epochs.")
    base, parsed = _checked(asked)
    cfg = base.method
    chosen = {f.name: vars(parsed.options)[f.name] for f in dataclasses.fields(Options)}
    own = {f.name: vars(parsed.method)[f.name] for f in dataclasses.fields(cfg)}
    fields = dotted(plain(cfg))
    typed = {_field_of(name, [*fields, *chosen]) for name in asked.typed}
    stated = [f for f in fields if any(f == g or f.startswith(f"{g}.") for g in typed)]
    origins = dict(base.origins) | by_user([*stated, *(name for name in chosen if name in typed)])
    # what a file derived from the sizes that it had does not hold for others
    sized = any(re.fullmatch(r"views\.\d+\.size", name) for name in asked.typed)
    if sized and "image_size" not in asked.typed:
        chosen["image_size"] = None
    if (sized or "image_size" in asked.typed) and "decode_size" not in asked.typed and not parsed.options.resume:
        chosen["decode_size"] = None
    if not parsed.options.resume:  # what is typed takes the place of the other in a file
        if "time" in asked.typed and chosen["time"] is not None:
            origins.pop("epochs", None)
            chosen["epochs"] = Options.epochs
        elif "epochs" in asked.typed:
            chosen["time"] = None
    if asked.classifies:
        chosen["init"], own["test"] = parsed.encoder, parsed.test
    return Run(**chosen, data=parsed.data, method=type(cfg)(**own), origins=origins)


def _checked(asked: Asked) -> tuple[Run, Parsed]:
    """The defaults and all options, checked before the method is imported where that takes its time."""
    outlined = None
    if "torch" not in sys.modules and not {"--help", "-h"} & set(asked.options):
        outlined = outline(asked.method)
    if outlined is not None:
        check_places(asked, parse_outlined(asked, outlined))
    base, parsed = parse_options(asked, get_method(asked.method))
    if outlined is None:
        check_places(asked, parsed)
    return base, parsed


def _field_of(option: str, known: Collection[str]) -> str:
    """The field that an option sets; `--no-norm` sets `norm`."""
    path, dot, last = option.rpartition(".")
    positive = f"{path}{dot}{last.removeprefix('no_')}"
    return positive if option not in known and positive in known else option

"""Parses the command line of a training into a `Run`."""

import dataclasses
import re
import sys
from collections.abc import Collection

from ..methods import get_method
from ..runs import Options, Run, by_user, dotted, plain
from .errors import UsageError
from .outlines import outline
from .run_arguments import Arguments, read_arguments
from .run_options import Parsed, parse_options, parse_outlined
from .run_places import check_places


def parse_run(verb: str, argv: list[str]) -> Run:
    arguments = read_arguments(verb, argv)
    if {"time", "epochs"} <= arguments.typed:
        raise UsageError(
            "--time and --epochs exclude each other: set either the training time or the number of epochs."
        )
    base, parsed = _checked(arguments)
    cfg = base.method
    chosen = {f.name: vars(parsed.options)[f.name] for f in dataclasses.fields(Options)}
    own = {f.name: vars(parsed.method)[f.name] for f in dataclasses.fields(cfg)}
    fields = dotted(plain(cfg))
    typed = {_field_of(name, [*fields, *chosen]) for name in arguments.typed}
    stated = [f for f in fields if any(f == g or f.startswith(f"{g}.") for g in typed)]
    typed |= {name.partition(".")[0] for name in typed if name.startswith("columns.")}
    origins = dict(base.origins) | by_user([*stated, *(name for name in chosen if name in typed)])
    # sizes that the file derived from other sizes no longer apply
    sized = any(re.fullmatch(r"views\.\d+\.size", name) for name in arguments.typed)
    if sized and "image_size" not in arguments.typed:
        chosen["image_size"] = None
    if (
        (sized or "image_size" in arguments.typed)
        and "decode_size" not in arguments.typed
        and not parsed.options.resume
    ):
        chosen["decode_size"] = None
    if not parsed.options.resume:  # a typed --time overrides epochs in the file, and vice versa
        if "time" in arguments.typed and chosen["time"] is not None:
            origins.pop("epochs", None)
            chosen["epochs"] = Options.epochs
        elif "epochs" in arguments.typed:
            chosen["time"] = None
    if arguments.classifies:
        chosen["init"], own["test"] = parsed.encoder, parsed.test
    return Run(**chosen, data=parsed.data, method=type(cfg)(**own), origins=origins)


def _checked(arguments: Arguments) -> tuple[Run, Parsed]:
    """The defaults and all options, checked before the method is imported if torch is not loaded yet."""
    outlined = None
    if "torch" not in sys.modules and not {"--help", "-h"} & set(arguments.options):
        outlined = outline(arguments.method)
    if outlined is not None:
        check_places(arguments, parse_outlined(arguments, outlined))
    base, parsed = parse_options(arguments, get_method(arguments.method))
    if outlined is None:
        check_places(arguments, parsed)
    return base, parsed


def _field_of(option: str, known: Collection[str]) -> str:
    """The field that an option sets; `--no-norm` sets `norm`."""
    path, dot, last = option.rpartition(".")
    positive = f"{path}{dot}{last.removeprefix('no_')}"
    return positive if option not in known and positive in known else option

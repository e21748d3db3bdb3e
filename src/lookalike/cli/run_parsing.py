"""From a command line of a training to a `Run`."""

import dataclasses
import re
import sys
from collections.abc import Collection
from types import SimpleNamespace

from ..methods import get_method
from ..runs import Options, Run, by_user, dotted, plain
from .errors import UsageError
from .outlines import outline
from .run_arguments import parse_options, read_arguments
from .run_places import check_places


def parse_run(verb: str, argv: list[str]) -> Run:
    asked = read_arguments(verb, argv)
    if "--probe" in asked.options:
        pair = asked.options[asked.options.index("--probe") + 1 :][:2]
        if pair[:1] != ["None"] and (len(pair) < 2 or any(folder.startswith("--") for folder in pair)):
            raise UsageError("--probe needs two labelled folders: --probe TRAIN TEST.")
    if {"time", "epochs"} <= asked.typed:
        raise UsageError("--time and --epochs exclude each other: give the time of the training, or its epochs.")
    checked = False
    if "torch" not in sys.modules and not {"--help", "-h"} & set(asked.options):
        listed = asked.content.get("views")
        places = [int(found[1]) + 1 for found in re.finditer(r"--views\.(\d{1,2})\.", " ".join(asked.options))]
        outlined = outline(asked.method, max([1, *places, len(listed) if isinstance(listed, list) else 0]))
        if outlined is not None:
            check_places(asked, parse_options(asked, SimpleNamespace(Config=outlined)))
            checked = True
    method = get_method(asked.method)
    parsed = parse_options(asked, method)
    if not checked:
        check_places(asked, parsed)
    cfg, base = parsed.base.method, parsed.base
    fields = dotted(plain(cfg))
    options = [f.name for f in dataclasses.fields(Options)]
    typed_names = {_field_of(name, [*fields, *options]) for name in asked.typed}
    stated = [f for f in fields if any(f == g or f.startswith(f"{g}.") for g in typed_names)]
    chosen = {f.name: vars(parsed.options)[f.name] for f in dataclasses.fields(Options)}
    # what a file derived from the sizes that it had does not hold for others
    sized = any(re.fullmatch(r"views\.\d+\.size", name) for name in asked.typed)
    if sized and "image_size" not in asked.typed:
        chosen["image_size"] = None
    if (sized or "image_size" in asked.typed) and "decode_size" not in asked.typed and not parsed.options.resume:
        chosen["decode_size"] = None
    origins = dict(base.origins) | by_user(
        [*stated, *(f.name for f in dataclasses.fields(Options) if f.name in typed_names)]
    )
    if not parsed.options.resume:  # what is typed takes the place of the other in a file
        if "time" in asked.typed and chosen["time"] is not None:
            origins.pop("epochs", None)
            chosen["epochs"] = Options.epochs
        elif "epochs" in asked.typed:
            chosen["time"] = None
    own = {f.name: vars(parsed.method)[f.name] for f in dataclasses.fields(cfg)}
    if asked.classifies:
        chosen["init"], own["test"] = parsed.encoder, parsed.test
    return Run(
        **chosen, data=parsed.data, method=type(cfg)(**own), origins=origins,
    )  # fmt: skip


def _field_of(option: str, known: Collection[str]) -> str:
    """The field that an option sets; `--no-norm` sets `norm`."""
    path, dot, last = option.rpartition(".")
    positive = f"{path}{dot}{last.removeprefix('no_')}"
    return positive if option not in known and positive in known else option

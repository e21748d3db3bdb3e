"""All options of a training, read by tyro: those of its method from the class, or from an outline of it."""

import dataclasses
import re
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Annotated, Any

import tyro
from tyro.conf import Positional
from tyro.constructors import PrimitiveConstructorSpec, StructFieldSpec

from ..methods import METHODS
from ..runs import Options, Run, check_keys, dotted, from_mapping, structured
from .fields import Rule, fields_are, registry, some_fields
from .outlines import Outline, Outlined, stand_in
from .parsing import flat, parse
from .run_arguments import Asked, First, Training

NOT_OF_FINETUNE = {
    "options": ("backbone", "channels", "normalize", "init", "frozen_epochs", "on_collapse"),
    "method": ("test", "classes", "encoder_stem", "encoder_interpolation"),
}
"""What the encoder, TRAIN and TEST say."""

PLACES = {
    "data": "A folder (scanned recursively) or a text file of paths.",
    "encoder": "A run's folder, a weights file, timm/NAME, torchvision/NAME or torchhub/NAME.",
    "train": "Folder with one sub-folder of images per class.",
    "test": "Folder with the same classes and other images: judged once, at the end.",
}
"""What the commands of trainings take in their first places."""


def _pair(words: list[str]) -> tuple[str, ...] | None:
    if len(words) != 2 and words != ["None"]:
        raise ValueError("needs two labelled folders: --probe TRAIN TEST.")
    return None if words == ["None"] else tuple(words)


MARKS = {
    "probe": (
        PrimitiveConstructorSpec(
            nargs="*",
            metavar="TRAIN TEST",
            instance_from_str=_pair,
            is_instance=lambda value: value is None or isinstance(value, tuple),
            str_from_instance=lambda value: list(value or ["None"]),
        ),
    )
}
"""Options that tyro would read otherwise."""


@dataclass(frozen=True)
class Parsed:
    """The values of a command line of a training, defaults from a file included."""

    options: Options
    method: Any
    """The method's configuration; of an outline its fields by dotted names."""
    data: str
    encoder: str = ""
    test: str = ""


def parse_options(asked: Asked, method: Any) -> tuple[Run, Parsed]:
    """Reads all options. `method` is the class of a method. Gives also the run that holds the defaults."""
    if asked.file is None:
        base = Run(data="", method=method.Config())
    else:
        base = from_mapping(asked.content, method, asked.file)
    options = Options(**{f.name: vars(base)[f.name] for f in dataclasses.fields(Options)})
    cfg = base.method
    rule = some_fields(type(cfg), NOT_OF_FINETUNE["method"] if asked.classifies else ())
    own = StructFieldSpec("method", flat(type(cfg)), cfg)
    return base, _parsed(asked, options, own, rule, str(method.__doc__), vars(cfg).get("test", ""))


def parse_outlined(asked: Asked, outline: Outline) -> Parsed:
    """Reads all options as far as they can be read without the method."""
    file, shared = asked.file or "", [f.name for f in dataclasses.fields(Options)]
    rest = {name: value for name, value in asked.content.items() if name not in ("data", "origins")}
    check_keys(rest, [*shared, *outline, "data"], file)
    options = structured({name: value for name, value in rest.items() if name in shared}, Options, file)
    given = dotted({name: value for name, value in rest.items() if name not in shared})
    numbers = {int(found[1]) for name in (*asked.typed, *given) if (found := re.match(r"views\.(\d{1,2})\.", name))}
    fields = []
    for name, each in outline.items():
        for i in range(max(numbers, default=0) + 1 if "*" in name else 1):
            path = name.replace("*", str(i))
            value = structured(given[path], each.kind, file, f".{path}") if path in given else stand_in(each.kind)
            fields.append(StructFieldSpec(path, each.shown(), value))
    hidden = NOT_OF_FINETUNE["method"] if asked.classifies else ()
    rule = fields_are(Outlined, dict, [field for field in fields if field.name not in hidden])
    own = StructFieldSpec("method", flat(Outlined), tyro.MISSING)
    return _parsed(asked, options, own, rule, "", given.get("test", ""))


def _parsed(asked: Asked, options: Options, own: StructFieldSpec, rule: Rule, line: str, test: object) -> Parsed:
    """Reads all options, of which `own` are the method's. `test` is the default of TEST."""
    places = {"data": asked.content.get("data")}
    if asked.classifies:
        places = {"encoder": options.init, "train": places["data"], "test": test}
    hidden = NOT_OF_FINETUNE["options"] if asked.classifies else ("out",) if asked.verb == "views" else ()
    front = [
        StructFieldSpec(name, _in_front(name), value or tyro.MISSING, PLACES[name]) for name, value in places.items()
    ]
    fields = [*front, *_shared(asked.first, options), own]
    rules = registry(fields_are(Parsed, SimpleNamespace, fields), some_fields(Options, hidden, MARKS), rule)
    prog = asked.verb if asked.verb == asked.method else f"{asked.verb} {asked.method}"
    found: Any = parse(Parsed, asked.options, prog, f"{line} ({METHODS[asked.method].line})", rules)
    if asked.classifies:
        return Parsed(found.options, found.method, found.train, found.encoder, found.test)
    return Parsed(found.options, found.method, found.data)


def show_options(prog: str) -> None:
    """Prints the options that all methods share, and ends."""
    fields = fields_are(Parsed, SimpleNamespace, _shared(Training(), Options()))
    parse(Parsed, ["--help"], prog, "", registry(fields, some_fields(Options, (), MARKS)))


def _shared(first: First, options: Options) -> list[StructFieldSpec]:
    """What all methods share."""
    parts = {"first": first, "options": options}
    return [StructFieldSpec(name, flat(type(made)), made) for name, made in parts.items()]


def _in_front(name: str) -> Any:
    """A text that is given by its place."""
    return Annotated[Positional[str], tyro.conf.arg(metavar=name.upper())]

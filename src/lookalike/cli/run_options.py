"""Parses all options of a training; those of its method come from the class or from its outline."""

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Annotated, Any

import tyro
from tyro.conf import Positional
from tyro.constructors import PrimitiveConstructorSpec, StructFieldSpec

from ..methods import METHODS
from ..runs import Options, Run, check_keys, dotted, from_mapping, kinds_of, structured
from .fields import Rule, fields_are, registry, some_fields
from .outlines import Outline, Outlined, stand_in
from .parsing import flat, parse
from .run_arguments import Arguments, First, Training

FIXED_IN_FINETUNE = {
    "options": ("backbone", "channels", "normalize", "init", "frozen_epochs", "on_collapse", "joint_loss"),
    "method": ("test", "splits_train", "classes", "encoder_stem", "encoder_interpolation"),
}
"""Fields that ENCODER, TRAIN and TEST determine, or that do not apply."""

HIDDEN: dict[str, tuple[str, ...]] = {
    "views": ("out",),
    "estimate": ("out", "resume", "overwrite", "logger", "save_every", "keep_checkpoints", "on_collapse"),
}
"""Options that do not apply to commands without a run."""

POSITIONALS = {
    "data": "A folder (scanned recursively) or a text file of paths.",
    "encoder": "A run folder, a weights file, timm/NAME, torchvision/NAME or torchhub/NAME.",
    "train": "Folder with one sub-folder of images per class.",
    "test": "Folder with the same classes and other images; evaluated once, at the end. Without it, a part of TRAIN.",
}
"""Help of the positional arguments of training commands."""


def _pair(folders: list[str]) -> tuple[str, ...] | None:
    if len(folders) != 2 and folders != ["None"]:
        raise ValueError("needs two labelled folders: --probe TRAIN TEST.")
    return None if folders == ["None"] else tuple(folders)


def _bands(words: list[str]) -> tuple[str, ...] | None:
    return None if words == ["None"] else tuple(words)


def _words_or_none(metavar: str, read: Callable[[list[str]], tuple[str, ...] | None]) -> PrimitiveConstructorSpec[Any]:
    """An option of several words, or None."""
    return PrimitiveConstructorSpec(
        nargs="*",
        metavar=metavar,
        instance_from_str=read,
        is_instance=lambda value: value is None or isinstance(value, tuple),
        str_from_instance=lambda value: list(value or ["None"]),
    )


MARKS = {
    "bands": (_words_or_none("BAND ...", _bands),),
    "scale": (
        PrimitiveConstructorSpec(
            nargs="*",
            metavar="dtype | range LOW HIGH | percentile LOW HIGH",
            instance_from_str=tuple,
            is_instance=lambda value: isinstance(value, tuple),
            str_from_instance=list,
        ),
    ),
    "probe": (_words_or_none("TRAIN TEST", _pair),),
}
"""Options that tyro would parse differently."""


@dataclass(frozen=True)
class Parsed:
    """The parsed command line of a training, including defaults from a file."""

    options: Options
    method: Any
    """The method's configuration; from an outline, its fields by dotted name."""
    data: str
    encoder: str = ""
    test: str = ""


def parse_options(arguments: Arguments, method: Any) -> tuple[Run, Parsed]:
    """Parses all options of a method's class. Returns the run with the defaults, and the parsed values."""
    if arguments.file is None:
        base = Run(data="", method=method.Config())
    else:
        base = from_mapping(arguments.content, method, arguments.file)
    options = Options(**{f.name: vars(base)[f.name] for f in dataclasses.fields(Options)})
    cfg = base.method
    rule = some_fields(type(cfg), FIXED_IN_FINETUNE["method"] if arguments.classifies else ())
    own = StructFieldSpec("method", flat(type(cfg)), cfg)
    return base, _parsed(arguments, options, own, rule, str(method.__doc__), vars(cfg).get("test", ""))


def parse_outlined(arguments: Arguments, outline: Outline) -> Parsed:
    """Parses all options as far as possible without importing the method."""
    file, shared = arguments.file or "", [f.name for f in dataclasses.fields(Options)]
    rest = {name: value for name, value in arguments.content.items() if name not in ("data", "origins")}
    check_keys(rest, [*kinds_of(Options), *outline, "data"], file)
    options = structured({name: value for name, value in rest.items() if name in shared}, Options, file)
    given = dotted({name: value for name, value in rest.items() if name not in shared})
    numbers = {int(found[1]) for name in (*arguments.typed, *given) if (found := re.match(r"views\.(\d{1,2})\.", name))}
    fields = []
    for name, each in outline.items():
        for i in range(max(numbers, default=0) + 1 if "*" in name else 1):
            path = name.replace("*", str(i))
            value = structured(given[path], each.kind, file, f".{path}") if path in given else stand_in(each.kind)
            fields.append(StructFieldSpec(path, each.shown(), value))
    hidden = FIXED_IN_FINETUNE["method"] if arguments.classifies else ()
    rule = fields_are(Outlined, dict, [field for field in fields if field.name not in hidden])
    own = StructFieldSpec("method", flat(Outlined), tyro.MISSING)
    return _parsed(arguments, options, own, rule, "", given.get("test", ""))


def _parsed(
    arguments: Arguments, options: Options, own: StructFieldSpec, rule: Rule, line: str, test: object
) -> Parsed:
    """Parses all options; `own` are the method's. `test` is the default of TEST."""
    defaults = {"data": arguments.content.get("data")}
    if arguments.classifies:
        defaults = {"encoder": options.init, "train": defaults["data"], "test": test}
    hidden = FIXED_IN_FINETUNE["options"] if arguments.classifies else HIDDEN.get(arguments.verb, ())
    front = [
        StructFieldSpec(name, _positional(name), value or ("" if name == "test" else tyro.MISSING), POSITIONALS[name])
        for name, value in defaults.items()
    ]
    fields = [*front, *_shared(arguments.first, options), own]
    rules = registry(fields_are(Parsed, SimpleNamespace, fields), some_fields(Options, hidden, MARKS), rule)
    prog = arguments.verb if arguments.verb == arguments.method else f"{arguments.verb} {arguments.method}"
    found: Any = parse(Parsed, arguments.options, prog, f"{line} ({METHODS[arguments.method].line})", rules)
    if arguments.classifies:
        return Parsed(found.options, found.method, found.train, found.encoder, found.test)
    return Parsed(found.options, found.method, found.data)


def show_options(prog: str) -> None:
    """Prints the options that all methods share, and exits."""
    fields = fields_are(Parsed, SimpleNamespace, _shared(Training(), Options()))
    parse(Parsed, ["--help"], prog, "", registry(fields, some_fields(Options, (), MARKS)))


def _shared(first: First, options: Options) -> list[StructFieldSpec]:
    """The fields that all methods share."""
    parts = {"first": first, "options": options}
    return [StructFieldSpec(name, flat(type(part)), part) for name, part in parts.items()]


def _positional(name: str) -> Any:
    """The type of a positional text argument."""
    return Annotated[Positional[str], tyro.conf.arg(metavar=name.upper())]

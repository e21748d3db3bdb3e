"""What a command line of a training says: METHOD, the file that --from or --resume reads, and all options."""

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, cast

import tyro
from tyro.conf import Positional
from tyro.constructors import StructFieldSpec

from ..methods import METHODS, SELF_SUPERVISED
from ..names import nearest
from ..printing import brief, shown
from ..runs import Folder, Options, Run, from_mapping, read_whole_yaml, read_yaml
from .errors import UsageError
from .fields import fields_are, registry, some_fields
from .parsing import parse, take

NOT_OF_FINETUNE = {
    "options": ("backbone", "channels", "normalise", "init", "frozen_epochs", "on_collapse"),
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

NOT_OF_PRETRAIN = {
    "distill": "learns from a teacher: lookalike distill DATA --teacher TEACHER",
    "finetune": "learns classes from labels: lookalike finetune ENCODER TRAIN TEST",
}


@dataclass(frozen=True)
class Asked:
    """What a command line of a training says before its options are looked at."""

    verb: str
    method: str
    file: str | None
    """What --from or --resume reads."""
    content: dict[str, object]
    """The options in it."""
    whole: dict[str, object]
    """All that stands in it, as it stands there."""
    options: list[str]

    @property
    def classifies(self) -> bool:
        return METHODS[self.method].verb == "finetune" and self.verb != "views"

    @property
    def typed(self) -> set[str]:
        """Options that stand on the command line, as names of fields."""
        return {a[2:].split("=")[0].replace("-", "_") for a in self.options if a.startswith("--")}


def read_arguments(verb: str, argv: list[str]) -> Asked:
    """Finds METHOD: the first argument, or in the file that --from or --resume reads."""
    file, argv = take(argv, "--from")
    if file is None and verb in ("pretrain", "distill", "finetune") and "--resume" in argv:
        out, _ = take(argv, "--out")
        folder = Folder(out or Options.out)
        folder.check(resume=True, overwrite=False)
        file = str(folder.run)
    content = read_yaml(file) if file is not None else {}
    whole = read_whole_yaml(Path(file)) if file is not None else {}
    named = content.pop("method", None)
    first = argv[0] if argv and not argv[0].startswith("-") else None
    if verb == "pretrain" and first in METHODS and first not in SELF_SUPERVISED:
        raise UsageError(f"{first} {NOT_OF_PRETRAIN[METHODS[first].verb]}.")
    known = METHODS if verb == "views" else SELF_SUPERVISED
    if first in METHODS:
        if named is not None and first != named:
            raise UsageError(f"{file} is a run of {brief(named)}, and {first} was asked for. Leave one of them out.")
        name, argv = first, argv[1:]
    elif named is None or (first is not None and len(argv) > 1 and not argv[1].startswith("-")):
        if first is None:
            raise UsageError(
                f"The method comes first: lookalike {verb} METHOD DATA [options]. Methods: {', '.join(known)}."
            )
        first_words = f"No method is called {shown(first)}. {nearest(first, list(known))}"
        is_data = " The method comes before the data." if os.path.exists(first) else ""
        raise UsageError(first_words + is_data)
    elif not isinstance(named, str) or named not in METHODS:
        raise ValueError(
            f"{file} asks for {brief(named)}, which is not one of ours: run it from Python, lookalike.pretrain(...)."
        )
    else:
        name = named
    if file is not None and not isinstance(content.setdefault("data", ""), str):
        raise ValueError(f"{file}: data is {shown(content['data'])}; give a path, in quotes where it is a number.")
    return Asked(verb, name, file, content, whole, argv)


@dataclass(frozen=True)
class Parsed:
    """The values of a command line of a training, defaults from a file included."""

    base: Run
    """The defaults."""
    options: Options
    method: Any
    """The method's own fields."""
    data: str
    encoder: str
    test: str


def parse_options(asked: Asked, method: Any) -> Parsed:
    """Reads all options by tyro. `method` is the class of a method, or what has its `Config` alone."""
    if asked.file is None:
        base = Run(data="", method=method.Config())
    else:
        base = from_mapping(asked.content, method, asked.file)
    cfg, line = base.method, f"{getattr(method, '__doc__', '')} ({METHODS[asked.method].line})"
    places = {"data": cast(str, base.data)}
    if asked.classifies:
        places = {"encoder": base.init or "", "train": places["data"], "test": vars(cfg)["test"]}
    hidden = NOT_OF_FINETUNE if asked.classifies else {}
    options = Options(**{f.name: vars(base)[f.name] for f in dataclasses.fields(Options)})
    front = [
        StructFieldSpec(name, _in_front(name), value or tyro.MISSING, PLACES[name]) for name, value in places.items()
    ]
    parts = [StructFieldSpec(name, _flat(made), made) for name, made in (("options", options), ("method", cfg))]
    rules = registry(
        fields_are(Parsed, SimpleNamespace, [*front, *parts]),
        some_fields(Options, hidden.get("options", ())),
        some_fields(type(cfg), hidden.get("method", ())),
    )
    prog = asked.verb if asked.verb == asked.method else f"{asked.verb} {asked.method}"
    found: Any = parse(Parsed, asked.options, prog, line, rules)
    return Parsed(
        base, found.options, found.method, found.train if asked.classifies else found.data,
        found.encoder if asked.classifies else "", found.test if asked.classifies else "",
    )  # fmt: skip


def _in_front(name: str) -> Any:
    """A text that is given by its place."""
    return Annotated[Positional[str], tyro.conf.arg(metavar=name.upper())]


def _flat(content: object) -> Any:
    """The type of a dataclass whose fields are options without its name in front."""
    return Annotated[type(content), tyro.conf.arg(name="")]

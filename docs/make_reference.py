"""Writes the reference pages on methods and commands from signatures and Configs; a test holds them to the code.

python docs/make_reference.py
"""

import dataclasses
import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import mdformat

from lookalike.cli.command import Command
from lookalike.cli.encoders import EMBED, EVALUATE, PREDICT, SHOW
from lookalike.cli.exports import EXPORT
from lookalike.cli.first import DEMO, DOCTOR, LIST
from lookalike.cli.images import CHECK
from lookalike.cli.outlines import Outline, of_class, outline
from lookalike.cli.runs import PLOT, REPORT, THIN
from lookalike.cli.serve import SERVE
from lookalike.cli.slurm import SLURM
from lookalike.columns import COLUMNS, Columns
from lookalike.core import DataFacts
from lookalike.methods import METHODS, get_method
from lookalike.runs import Options, dotted, plain

PAGES = Path(__file__).parent / "reference"
FEW_CNN = DataFacts(images=1500, image_size=64, batch_size=64, epochs=13)
FEW_VIT = dataclasses.replace(FEW_CNN, patch_size=8)
"""A short training, whose fitted values stand beside those of the papers."""
OPTIMIZER = "name", "lr", "scaling", "weight_decay.start", "warmup_epochs"
"""The fields of an optimizer that differ most between methods."""
COMMANDS = {
    "Train": ("pretrain", "distill", "finetune", SLURM),
    "Evaluate and use": (EVALUATE, EMBED, PREDICT, EXPORT, SERVE, "compare"),
    "Look at images and results": (CHECK, SHOW, REPORT, PLOT),
    "Other": (DEMO, LIST, THIN, DOCTOR),
}


def shown(value: object) -> str:
    """A value as a command line has it."""
    if isinstance(value, tuple | list):
        return " ".join(map(shown, value)) or "none"
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def item(name: str, text: str | None, *facts: str) -> str:
    known = "; ".join(fact for fact in facts if fact)
    return f"- `--{name.replace('_', '-')}`{f' ({known})' if known else ''}: {text or ''}".rstrip(": ")


def own(options: Outline) -> Iterator[tuple[str, Any]]:
    """The options that are neither of the views nor of the optimizer."""
    return ((name, each) for name, each in options.items() if not name.startswith(("views.", "optim.")))


def changed(before: dict[str, object], after: dict[str, object], key: str) -> str:
    """What fitting makes of a value, where it changes it."""
    return "" if before[key] == after[key] else f" (short training: {shown(after[key])})"


def methods() -> str:
    simclr = outline("simclr")
    assert simclr is not None
    lines = [
        "# Methods and their options",
        "This page is generated from the code by `docs/make_reference.py`. A default is that of the paper's ImageNet "
        "training. The second value, where there is one, is what [fitting](../fitting.md) makes of it for a short "
        "training: 1,500 images of 64 pixels, 299 steps of 64 images. An option that you state is never changed.",
        "Options with a dot belong to a part: `--optim.lr`, `--views.0.blur` (the first recipe of views).",
    ]  # fmt: skip
    for name, entry in METHODS.items():
        method, known = get_method(name), outline(name)
        assert known is not None
        default = method.Config()  # type: ignore[call-arg]
        fitted = default.fit_to(FEW_VIT if default.needs.mask_token else FEW_CNN)
        before, after = dotted(plain(default)), dotted(plain(fitted))
        module = import_module(entry.module)
        lines += [
            f"## `{name}`",
            " ".join((module.__doc__ or "").split("\n\n")[0].split()),
            inspect.getdoc(method) or "",
        ]
        optimizer = [
            f"`{key}` {shown(before[f'optim.{key}'])}{changed(before, after, f'optim.{key}')}" for key in OPTIMIZER
        ]
        lines.append(f"Optimizer: {', '.join(optimizer)}.")
        items = []
        for field, each in own(known):
            value, now = before.get(field), after.get(field)
            facts = shown(value) if field in before else ""
            items.append(item(field, each.help, facts, f"short training: {shown(now)}" if now != value else ""))
        lines.append("\n".join(items))
    lines += [
        "## Views",
        "`views.0` is the first recipe, `views.1` the second of methods with multi-crop.",
        "\n".join(
            item(f"views.0.{n.removeprefix('views.*.')}", e.help) for n, e in simclr.items() if n.startswith("views.")
        ),
        "## Optimizer",
        "\n".join(item(n, e.help) for n, e in simclr.items() if n.startswith("optim.")),
    ]
    return "\n\n".join(lines) + "\n"


def of_command(command: Command) -> list[str]:
    """Heading, purpose, usage and options of a command that is a function."""
    name = command.name or command.function.__name__
    text = (inspect.getdoc(command.function) or "").split("\n\n")[0]
    places, options, names = command.positionals(), command.options(), of_class("columns", "Columns")
    front = " ".join(command.metavars.get(place, place.upper()) for place in places)
    items = []
    for key, each in options.items():
        if key in places:
            items.append(f"- `{command.metavars.get(key, key.upper())}`: {each.help}")
        elif isinstance(each.default, Columns):
            items += [item(f"columns.{name}", column.help, vars(COLUMNS)[name]) for name, column in names.items()]
        else:
            items.append(item(key, each.help, "" if "MISSING" in repr(each.default) else shown(each.default)))
    return [
        f"### `lookalike {name}`",
        " ".join(text.split()),
        f"```\nlookalike {name} {front} [options]\n```",
        "\n".join(items),
    ]


def of_training(verb: str) -> list[str]:
    usage = {
        "pretrain": ("METHOD DATA", "Trains an encoder by self-supervision."),
        "distill": ("DATA --teacher TEACHER", "Trains a small encoder to match the features of a pretrained one."),
        "finetune": ("ENCODER TRAIN TEST", "Trains a classifier from an encoder and evaluates it."),
        "compare": (
            "DATA METHOD... --train TRAIN --test TEST",
            "Trains methods at equal cost, evaluates and ranks them.",
        ),
    }
    front, text = usage[verb]
    more = f" Its own: [methods](methods.md#{verb})." if verb in METHODS else ""
    also = "Takes the options of a training below, and its own: `lookalike compare --help`." if verb == "compare" else (
        "Takes the options of a training below, and those of the [method](methods.md)." if verb == "pretrain"
        else f"Takes the options of a training below.{more}"
    )  # fmt: skip
    return [f"### `lookalike {verb}`", text, f"```\nlookalike {verb} {front} [options]\n```", also]


def commands() -> str:
    lines = [
        "# Commands and their options",
        "This page is generated from the code by `docs/make_reference.py`; `lookalike COMMAND --help` prints the same.",
    ]
    for group, members in COMMANDS.items():
        lines.append(f"## {group}")
        for member in members:
            lines += of_training(member) if isinstance(member, str) else of_command(member)
    default = {**vars(Options()), **{f"columns.{name}": column for name, column in vars(COLUMNS).items()}}
    lines += [
        "## Options of a training",
        "`pretrain`, `distill` and `finetune` share these; `lookalike.Run` takes the same from Python.",
        "\n".join(
            item(name, each.help, shown(default[name]))
            for name, each in of_class("runs.options", "Options").items()
            if name in default and name != "origins"
        ),
    ]  # fmt: skip
    return "\n\n".join(lines) + "\n"


def formatted(text: str) -> str:
    return mdformat.text(
        re.sub(r"([<>])", r"\\\1", text) if "<" in text else text, options={"wrap": 100}, extensions={"gfm", "tables"}
    )


if __name__ == "__main__":
    PAGES.mkdir(exist_ok=True)
    (PAGES / "methods.md").write_text(formatted(methods()))
    (PAGES / "commands.md").write_text(formatted(commands()))

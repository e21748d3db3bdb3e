"""Commands that need no images: `demo`, `list` and `doctor`."""

import json

from ..commands.demo import demo as train_and_evaluate
from ..commands.doctor import doctor as diagnose
from ..commands.names import list_names
from ..printing import say
from . import pages
from .command import Command, Option
from .errors import UsageError

DEMO = Command(
    function=train_and_evaluate,
    extra={"report": Option(bool, True, "Whether to write report.html at the end.")},
    needs="commands.digits",
)
DOCTOR = Command(function=diagnose, extra={"json": Option(bool, False, "Print everything as JSON.")})
LIST = Command(
    function=list_names, name="list", metavars={"what": "{methods,backbones,formats}", "pattern": "[PATTERN]"}
)


def demo(argv: list[str]) -> None:
    options = DEMO.read(argv)
    DEMO.call(options)
    if options.report:
        pages.write_report(options.out, 0)


def doctor(argv: list[str]) -> None:
    options = DOCTOR.read(argv)
    found = DOCTOR.call(options)
    say(json.dumps(found.content(), indent=1) if options.json else "\n".join(found.lines()))


def show_list(argv: list[str]) -> None:
    options = LIST.read(argv)
    if options.what != "backbones":
        for option in ("small", "sort", "measure", "image_size"):
            if vars(options)[option] != LIST.options()[option].default:
                raise UsageError(f"--{option.replace('_', '-')} applies to backbones only. Leave it out.")
    LIST.call(options, say=say)

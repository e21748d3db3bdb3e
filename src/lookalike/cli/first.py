"""Without images of one's own: `demo` and `list`."""

from ..commands.demo import demo as train_and_judge
from ..commands.names import list_names
from ..printing import say
from . import pages
from .command import Command, Option
from .errors import UsageError

DEMO = Command(
    function=train_and_judge,
    more={"report": Option(bool, True, "Write report.html at the end.")},
    needs="commands.digits",
)
LIST = Command(function=list_names, name="list", metavars={"what": "{methods,backbones}", "pattern": "[PATTERN]"})


def demo(argv: list[str]) -> None:
    options = DEMO.read(argv)
    DEMO.call(options)
    if options.report:
        pages.write_report(options.out, 0)


def show_list(argv: list[str]) -> None:
    options = LIST.read(argv)
    if options.what == "methods":
        for option in ("small", "sort", "measure", "image_size"):
            if vars(options)[option] != LIST.options()[option].default:
                raise UsageError(f"--{option.replace('_', '-')} is of backbones. Leave it out.")
    LIST.call(options, say=say)

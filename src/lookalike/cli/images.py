"""The command `check`, which inspects images before a training."""

from pathlib import Path

from ..commands.first_look import check_places, first_look
from ..printing import say
from .command import Command
from .errors import UsageError

CHECK = Command(function=first_look, name="check", needs="commands.check")


def check(argv: list[str]) -> None:
    options = CHECK.read(argv)
    if options.sheet is not None and Path(options.sheet).suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise UsageError(f"--sheet {options.sheet} is neither .png nor .jpg.")
    check_places(options.data, options.test, options.out, options.sheet, options.overwrite)
    CHECK.call(options, say=say)

"""Commands on run folders: `report`, `plot`, `thin`."""

from collections.abc import Sequence
from pathlib import Path

from ..commands.plot import plot as draw
from ..commands.report.report import report as write_page
from ..commands.thin import thin as remove
from ..places import PLOTTED, check_images, check_suffix
from ..printing import pasteable, say
from ..runs.lookup import holds_run, no_run
from .command import Command
from .errors import UsageError

REPORT = Command(function=write_page, metavars={"runs": "RUN..."}, needs="commands.report.page")
PLOT = Command(function=draw, metavars={"runs": "RUN..."}, needs="commands.report.run_data")
THIN = Command(function=remove, metavars={"runs": "RUN..."})


def report(argv: list[str]) -> None:
    options = REPORT.read(argv)
    if not options.runs:
        raise UsageError("No run was given: lookalike report RUN... [options].")
    for folder in map(Path, options.runs):
        if not holds_run(folder) and not (folder / "compare.json").is_file():
            raise no_run(folder)
    check_images(*([] if options.images is None else [options.images]))
    path = REPORT.call(options, say=say)
    say(f"Wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")
    say("Next: open it in a browser; the file is self-contained and can be shared")


def _check_runs(folders: Sequence[str]) -> None:
    """Raises for the first path that is not a folder; its content is checked later."""
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise no_run(folder)


def plot(argv: list[str]) -> None:
    options = PLOT.read(argv)
    if not options.runs:
        raise UsageError("No run was given: lookalike plot RUN... --out FILE.png.")
    _check_runs(options.runs)
    check_suffix(options.out, PLOTTED)
    path = PLOT.call(options)
    say(f"Wrote {path}: loss, learning rate, and the linear probe if evaluation.json has one")
    command = pasteable("lookalike", "report", *options.runs)
    say(f"Next: {command}   # all curves and a map of the embedding")


def thin(argv: list[str]) -> None:
    options = THIN.read(argv)
    if options.keep_checkpoints < 0:
        raise UsageError(f"keep_checkpoints is {options.keep_checkpoints}; it must be at least 0.")
    if not options.runs:
        raise UsageError("No run was given: lookalike thin RUN...")
    _check_runs(options.runs)
    THIN.call(options, say=say)

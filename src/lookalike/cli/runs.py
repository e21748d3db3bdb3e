"""What is done with the folders of runs: `report`, `plot`, `thin`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from ..files import read_json
from ..places import PLOTTED, check_images, check_suffix
from ..printing import counted, pasteable, say
from ..runs import Folder
from ..runs.lookup import holds_run, no_run
from .errors import UsageError
from .interrupts import imported
from .parsing import parse, worker_count


@dataclass(frozen=True)
class Report:
    """Write one HTML page about runs: verdict, curves, evaluations, a map of the embedding; it needs no network."""

    runs: Annotated[Positional[tuple[str, ...]], tyro.conf.arg(metavar="RUN...")]
    """Folders of runs, or of a comparison."""
    images: str | None = None
    """Images of the map, with labels where each class has a folder. Without it the test images of the run's probe, or
    else of its newest evaluation whose folder is still there, or else its data."""
    out: str | None = None
    """The file. Without it report.html, in the run's folder where there is one run."""
    points: int = 5000
    """Images on all maps together, drawn at random; 20,000 stay smooth."""
    workers: int | None = None
    """Processes that decode images. Without it one per free core, 8 at most."""
    overwrite: bool = False
    """Replace the file if it exists. (The page in a run's own folder is always replaced.)"""


@dataclass(frozen=True)
class Plot:
    """Draw the curves of runs as one picture: pretraining, and the linear probe where there was one."""

    runs: Annotated[Positional[tuple[str, ...]], tyro.conf.arg(metavar="RUN...")]
    """Folders of runs; each is one series."""
    out: str
    """.png, .pdf or .svg"""
    overwrite: bool = False
    """Replace the file if it exists."""


@dataclass(frozen=True)
class Thin:
    """Remove the checkpoints of single epochs; the encoder, the last state and all else stay, and --resume works."""

    runs: Annotated[Positional[tuple[str, ...]], tyro.conf.arg(metavar="RUN...")]
    """Folders of runs, or of a comparison, whose trainings are thinned."""
    keep_checkpoints: int = 0
    """How many of them to leave, the newest."""

    def __post_init__(self) -> None:
        if self.keep_checkpoints < 0:
            raise ValueError(f"keep_checkpoints is {self.keep_checkpoints}; it must be at least 0.")


def report(argv: list[str]) -> None:
    options = parse(Report, argv, "report")
    if not options.runs:
        raise UsageError("The runs come first: lookalike report RUN... [options].")
    for folder in map(Path, options.runs):
        if not holds_run(folder) and not (folder / "compare.json").is_file():
            raise no_run(folder)
    check_images(*([] if options.images is None else [options.images]))
    from ..commands.report.report import report as write

    imported()

    path = write(
        options.runs, images=options.images, out=options.out, points=options.points, overwrite=options.overwrite,
        workers=worker_count(options.workers), say=say,
    )  # fmt: skip
    say(f"Wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")
    say("Next: open it in a browser; it holds all that it shows, and can be sent as it is")


def _check_runs(folders: Sequence[str]) -> None:
    """Refuses the first that is no folder; what is in it is looked at later."""
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise no_run(folder)


def plot(argv: list[str]) -> None:
    options = parse(Plot, argv, "plot")
    if not options.runs:
        raise UsageError("The runs come first: lookalike plot RUN... --out FILE.png.")
    _check_runs(options.runs)
    check_suffix(options.out, PLOTTED)
    from ..commands.plot import plot as draw

    imported()

    path = draw(options.runs, out=options.out, overwrite=options.overwrite)
    say(f"Wrote {path}: loss and learning rate, and the linear probe where evaluation.json has one")
    command = pasteable("lookalike", "report", *options.runs)
    say(f"Next: {command}   # all curves, and a map of the embedding")


def thin(argv: list[str]) -> None:
    options = parse(Thin, argv, "thin")
    if not options.runs:
        raise UsageError("The runs come first: lookalike thin RUN...")
    _check_runs(options.runs)
    for place in map(Path, options.runs):
        compares = (place / "compare.json").is_file()
        folders = _trainings_in(place) if compares else [Folder(place)]
        if not folders:
            say(f"{place}: none of its trainings has begun.")
        for folder in folders:
            if not folder.run.is_file():
                raise no_run(folder.path)
            with folder.held():
                folder.check_own()
                before = folder.checkpoint_bytes()
                gone, free = folder.thin(options.keep_checkpoints), before - folder.checkpoint_bytes()
            say(
                f"{folder.path}: removed {counted(len(gone), 'checkpoint')} of single epochs, {free / 1e6:.1f} MB; "
                f"{folder.checkpoint_bytes() / 1e6:.1f} MB of checkpoints stay."
            )


def _trainings_in(comparison: Path) -> list[Folder]:
    """The trainings of a comparison that have begun; other runs that lie in its folder are somebody's own."""
    rows = read_json(comparison / "compare.json", dict).get("trainings")
    named = [row.get("folder") for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    return [Folder(path.parent) for path in sorted(comparison.glob("*/run.yaml")) if path.parent.name in named]

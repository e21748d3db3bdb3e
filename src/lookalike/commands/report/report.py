"""`report(...)`: one HTML page about one or several runs; `write(folder)`: the page of a run that has just ended."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...files import atomic, check_output
from ...places import refuse_folder
from ...printing import pasteable, silent
from ...runs import Folder
from ...runs.lookup import holds_run, no_run

if TYPE_CHECKING:
    from ...data import Data

POINTS = 5000
"""Images on the maps of a page, all together."""
FEW_POINTS = 1000
"""Images on the map of a page that is written at the end of a training."""

Say = Callable[[str], None]


def report(
    runs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    images: "Data | None" = None,
    out: str | os.PathLike[str] | None = None,
    points: int = POINTS,
    overwrite: bool = False,
    workers: int = 0,
    say: Say = silent,
) -> Path:
    """Writes one HTML page about runs: verdict, curves, evaluations, a map of the embedding; it needs no network.

    Args:
        runs: folders of runs, or of comparisons, which bring their trainings along.
        images: images of the map, with labels where each class has a folder. Without it the test images of the run's
            probe, or else of its newest evaluation whose folder is still there, or else its data. What cannot be read
            is left out, and the page says so.
        out: the file. Without it report.html, in the run's folder where there is one run.
        points: images on all maps together, drawn at random, the same for all; 20,000 stay smooth.
        overwrite: replace the file if it exists. (The page in a run's own folder is always replaced.)
        workers: processes that decode.
        say: called with lines about the progress.

    Returns:
        The file that was written.

    Raises:
        FileNotFoundError: a folder that holds no run.
        FileExistsError: `out` exists.
        ValueError: no runs, or points below 1; a comparison of another format.
    """
    folders = [Path(r) for r in ([runs] if isinstance(runs, str | os.PathLike) else runs)]
    if not folders:
        raise ValueError("There is no run to report on. Give one folder or more.")
    if points < 1:
        raise ValueError(f"points is {points}; it is a number of images, 1 or more.")
    for folder in folders:
        if not folder.is_dir() or not (holds_run(folder) or (folder / "compare.json").is_file()):
            raise no_run(folder)
    path = target(folders, out)
    refuse_folder(path, "report.html")
    check_output(path, overwrite or (out is None and len(folders) == 1))
    from .html import rendered
    from .page import page_content

    title, content = page_content(folders, images, points, workers, say)
    with atomic(path) as temporary:
        temporary.write_text(rendered(title, content), encoding="utf-8", errors="backslashreplace")
    return path


def write(folder: str | os.PathLike[str], *, workers: int = 0, say: Say = print) -> Path | None:
    """Writes `report.html` into the folder of a run or a comparison that has just ended, with a small map.

    Whatever goes wrong is said in a line and raises nothing: a page must not make a finished training fail.

    Args:
        folder: of the run.
        workers: processes that decode.
        say: called with a line about what was written, or why nothing was.

    Returns:
        The page, or None.
    """
    try:
        path = report(folder, points=FEW_POINTS, workers=workers)
    except Exception as error:
        again = pasteable("lookalike", "report", folder)
        say(f"WARNING     no report was written ({type(error).__name__}: {error}). Try: {again}")
        return None
    say(f"Wrote {path}: curves, evaluations and a map of the embedding; open it in a browser")
    return path


def target(folders: Sequence[Path], out: str | os.PathLike[str] | None) -> Path:
    """The file that a page about these folders goes to."""
    if out is not None:
        return Path(out)
    return Folder(folders[0]).report if len(folders) == 1 else Path("report.html")

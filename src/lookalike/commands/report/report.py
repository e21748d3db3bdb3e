"""`report(...)` writes an HTML page about runs; `write(folder)` writes the page of a run that has just finished."""

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
"""Total number of images on the maps of a page."""
FEW_POINTS = 1000
"""Number of images on the map of a page written at the end of a training."""

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
    """Writes one self-contained HTML page about runs: verdict, curves, evaluations and a map of the embedding.

    Args:
        runs: folders of runs, or of comparisons (with all their trainings).
        images: images of the map, labelled if each class has a folder. Default: the test images of the run's probe,
            otherwise of its newest evaluation whose folder exists, otherwise its training images. The page names
            images that could not be read.
        out: the output file. Default: report.html, for a single run in the run's folder.
        points: total number of images on all maps, a random sample shared by all maps. 20,000 remain smooth.
        overwrite: replace the file if it exists. (The page in a run's own folder is always replaced.)
        workers: number of decoding processes.
        say: called with progress messages.

    Returns:
        The written file.

    Raises:
        FileNotFoundError: a folder contains no run.
        FileExistsError: `out` exists.
        ValueError: no runs, points below 1, or a comparison of another format.
    """
    folders = [Path(r) for r in ([runs] if isinstance(runs, str | os.PathLike) else runs)]
    if not folders:
        raise ValueError("runs is empty. Give at least one folder.")
    if points < 1:
        raise ValueError(f"points is {points}; it must be at least 1.")
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
    """Writes `report.html` into the folder of a finished run or comparison, with a small map.

    Errors are printed and never raised: a finished training must not fail because of its page.

    Args:
        folder: of the run or comparison.
        workers: number of decoding processes.
        say: called with the path of the page, or with the error.

    Returns:
        The page, or None if it could not be written.
    """
    try:
        path = report(folder, points=FEW_POINTS, workers=workers)
    except Exception as error:
        again = pasteable("lookalike", "report", folder)
        say(f"WARNING     the report could not be written ({type(error).__name__}: {error}). Try: {again}")
        return None
    say(f"Wrote {path}: curves, evaluations and a map of the embedding; open it in a browser")
    return path


def target(folders: Sequence[Path], out: str | os.PathLike[str] | None) -> Path:
    """The output file of a page about these folders."""
    if out is not None:
        return Path(out)
    return Folder(folders[0]).report if len(folders) == 1 else Path("report.html")

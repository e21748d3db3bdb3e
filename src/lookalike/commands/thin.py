"""Room on the disk: checkpoints that a finished run does not need."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ..files import read_json
from ..printing import counted, silent
from ..runs import Folder
from ..runs.lookup import no_run


def thin(
    runs: Sequence[str | os.PathLike[str]], *, keep_checkpoints: int = 0, say: Callable[[str], None] = silent
) -> None:
    """Removes the checkpoints of single epochs; the encoder, the last state and all else stay, and --resume works.

    Args:
        runs: folders of runs, or of a comparison, whose trainings are thinned.
        keep_checkpoints: how many of them to leave, the newest.
        say: called with a line about each run.

    Raises:
        FileNotFoundError: a folder that holds no run.
    """
    for folder in _folders(runs, say):
        if not folder.run.is_file():
            raise no_run(folder.path)
        with folder.held():
            folder.check_own()
            before = folder.checkpoint_bytes()
            gone, free = folder.thin(keep_checkpoints), before - folder.checkpoint_bytes()
        say(
            f"{folder.path}: removed {counted(len(gone), 'checkpoint')} of single epochs, {free / 1e6:.1f} MB; "
            f"{folder.checkpoint_bytes() / 1e6:.1f} MB of checkpoints stay."
        )


def _folders(runs: Sequence[str | os.PathLike[str]], say: Callable[[str], None]) -> Iterator[Folder]:
    """The runs, and in the place of a comparison its trainings."""
    for place in map(Path, runs):
        compares = (place / "compare.json").is_file()
        folders = _trainings_in(place) if compares else [Folder(place)]
        if not folders:
            say(f"{place}: none of its trainings has begun.")
        yield from folders


def _trainings_in(comparison: Path) -> list[Folder]:
    """The trainings of a comparison that have begun; other runs that lie in its folder are somebody's own."""
    rows = read_json(comparison / "compare.json", dict).get("trainings")
    named = [row.get("folder") for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    return [Folder(path.parent) for path in sorted(comparison.glob("*/run.yaml")) if path.parent.name in named]

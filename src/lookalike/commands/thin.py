"""The command `thin`: frees disk space by removing checkpoints that a finished run does not need."""

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
    """Removes checkpoints of single epochs; the encoder and the last state remain, so that --resume works.

    Args:
        runs: run folders, or the folder of a comparison, whose trainings are thinned.
        keep_checkpoints: number of newest checkpoints to keep.
        say: called with a line per run.

    Raises:
        FileNotFoundError: a folder does not contain a run.
    """
    for folder in _folders(runs, say):
        if not folder.run.is_file():
            raise no_run(folder.path)
        with folder.held():
            folder.check_own()
            before = folder.checkpoint_bytes()
            removed, freed = folder.thin(keep_checkpoints), before - folder.checkpoint_bytes()
        say(
            f"{folder.path}: removed {counted(len(removed), 'checkpoint')} of single epochs, {freed / 1e6:.1f} MB; "
            f"{folder.checkpoint_bytes() / 1e6:.1f} MB of checkpoints remain."
        )


def _folders(runs: Sequence[str | os.PathLike[str]], say: Callable[[str], None]) -> Iterator[Folder]:
    """The run folders; a comparison is replaced by its trainings."""
    for path in map(Path, runs):
        compares = (path / "compare.json").is_file()
        folders = _trainings_in(path) if compares else [Folder(path)]
        if not folders:
            say(f"{path}: none of its trainings has started.")
        yield from folders


def _trainings_in(comparison: Path) -> list[Folder]:
    """The trainings of a comparison that have started; other runs in its folder are left alone."""
    rows = read_json(comparison / "compare.json", dict).get("trainings")
    named = [row.get("folder") for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    return [Folder(path.parent) for path in sorted(comparison.glob("*/run.yaml")) if path.parent.name in named]

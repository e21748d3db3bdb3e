"""Runs in the folder of a comparison that an earlier comparison, or a killed process, left there."""

from pathlib import Path

from ...files import is_lock
from ...runs import Folder, read_yaml
from ...training.timing import MANY_EPOCHS


def is_timed(path: Path) -> bool:
    """Whether this folder was left by a speed measurement."""
    run = Folder(path).run
    try:
        return not run.is_file() or read_yaml(run).get("epochs") == MANY_EPOCHS
    except (OSError, ValueError):
        return False


def remove(path: Path) -> None:
    """Removes a run of the previous comparison, but not foreign files in its folder."""
    folder = Folder(path)
    if not path.is_dir() or path.is_symlink() or not (folder.run.is_file() or folder.is_left_over()):
        return
    with folder.held():
        folder.abandon()
        if is_lock(folder.lock):
            folder.lock.unlink()
        if not any(path.iterdir()):
            path.rmdir()

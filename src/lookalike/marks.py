"""Which images a page may show unasked: those that this user named on this machine, in a command of his own.

A run's files name folders of images, and may come from a stranger. So the commands that are given images write a mark
beside their path: its HMAC with a key that lies in the user's own cache folder and that nobody else knows.
"""

import hmac
import os
import secrets
from contextlib import suppress

from .files import cache_folder

_ALONE = secrets.token_bytes(32)
"""Stands in for the key where none can be kept: its marks hold until this process ends."""


def mark(images: str | os.PathLike[str]) -> str:
    """What is to be written beside the path of images that the user named."""
    return hmac.new(_key(), os.fsencode(os.path.realpath(images)), "sha256").hexdigest()


def is_marked(images: str, marks: object) -> bool:
    """Whether one of the marks in a run's file says that the user named these images."""
    try:
        own = mark(images)
    except ValueError:  # what the file holds is no path
        return False
    return isinstance(marks, list) and any(
        isinstance(m, str) and m.isascii() and hmac.compare_digest(m, own) for m in marks
    )


def _key() -> bytes:
    """The user's key, made where there is none."""
    with suppress(OSError, RuntimeError):  # no home, or none that can be written to
        path = cache_folder() / "key"
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError), open(path, "xb", opener=_private) as file:
            file.write(secrets.token_bytes(len(_ALONE)))
        if len(kept := path.read_bytes()) == len(_ALONE):
            return kept
    return _ALONE


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)

"""Which images a page may show without confirmation: those that this user named in a command on this machine.

A run's files name folders of images, and may come from a stranger. So commands that take images write a mark next to
their path: its HMAC with a secret key in the user's cache folder.
"""

import hmac
import os
import secrets
from contextlib import suppress

from .files import cache_folder

_ALONE = secrets.token_bytes(32)
"""The key if none can be saved: its marks are valid until this process exits."""


def mark(images: str | os.PathLike[str]) -> str:
    """The mark for the path of images that the user named."""
    return hmac.new(_key(), os.fsencode(os.path.realpath(images)), "sha256").hexdigest()


def is_marked(images: str, marks: object) -> bool:
    """Whether one of the marks in a run's file is that of these images, so that the user named them."""
    try:
        own = mark(images)
    except ValueError:  # not a path
        return False
    return isinstance(marks, list) and any(
        isinstance(m, str) and m.isascii() and hmac.compare_digest(m, own) for m in marks
    )


def _key() -> bytes:
    """The user's key; created if it does not exist."""
    with suppress(OSError, RuntimeError):  # no home folder, or a read-only one
        path = cache_folder() / "key"
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError), open(path, "xb", opener=_private) as file:
            file.write(secrets.token_bytes(len(_ALONE)))
        if len(key := path.read_bytes()) == len(_ALONE):
            return key
    return _ALONE


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)

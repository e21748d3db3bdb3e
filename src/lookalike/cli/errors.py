"""Errors of the command line, and how those of all else are told."""

import os

from ..printing import printable

LONGEST_MESSAGE = 20_000
"""Characters of an error's message."""


class UsageError(Exception):
    """The command line cannot be understood: exit code 2."""


def message(error: Exception) -> str:
    """What the user reads: our own messages as they are, anything unexpected with its kind."""
    expected = (ValueError, FileNotFoundError, FileExistsError, ModuleNotFoundError, PermissionError, RuntimeError)
    if isinstance(error, MemoryError):
        return "There is not enough memory. Take fewer --workers, smaller images, or a smaller --batch-size."
    if isinstance(error, OSError):
        if not error.errno and str(error):  # our own words
            return str(error)
        if error.filename is not None and error.strerror:
            denied = isinstance(error, PermissionError)
            advice = " Give this user the permission (ls -ld shows who has it), or name another." if denied else ""
            return f"{printable(os.fsdecode(error.filename))}: {error.strerror}.{advice}"
    return str(error) if isinstance(error, expected) and str(error) else f"{type(error).__name__}: {error}"

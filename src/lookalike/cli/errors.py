"""Errors of the command line."""


class UsageError(Exception):
    """The command line cannot be understood: exit code 2."""

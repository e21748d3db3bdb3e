"""Errors of the command line."""


class UsageError(Exception):
    """The command line is invalid: exit code 2."""

"""`python -m lookalike`."""

from .cli import entry

entry()

"""The page about runs: `report` for any runs at any time, `write` at the end of a training."""

from .writing import report, write

__all__ = ["report", "write"]

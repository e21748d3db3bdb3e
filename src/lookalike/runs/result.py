"""The result of a training, and the errors that end one."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .folder import Row

if TYPE_CHECKING:
    from ..backbones import Backbone


@dataclass(frozen=True)
class Result:
    """The result of a training."""

    folder: Path
    metrics: list[Row]
    """The rows of `metrics.jsonl`."""

    @property
    def verdict(self) -> str:
        """The last verdict, one of `training.health.Word`, such as "learning"; "unknown" without one."""
        return str(self._row_of_verdict().get("verdict", "unknown"))

    @property
    def why(self) -> str:
        """The evidence of the last verdict, and what to try."""
        row = self._row_of_verdict()
        return " ".join(str(row[name]) for name in ("why", "remedy") if name in row)

    def _row_of_verdict(self) -> Row:
        return next((row for row in reversed(self.metrics) if "verdict" in row), {})

    def encoder(self) -> "Backbone":
        """Loads the trained encoder."""
        from ..encoders import load

        return load(self.folder)


class Diverged(RuntimeError):
    """The loss or its gradients stopped being finite, again and again."""


class Collapsed(RuntimeError):
    """All images get the same feature, and `on_collapse` is "stop"."""

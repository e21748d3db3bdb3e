"""What a training leaves behind, or ends with."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .folder import Row

if TYPE_CHECKING:
    from ..backbones import Backbone


@dataclass(frozen=True)
class Result:
    """What a training left behind."""

    folder: Path
    metrics: list[Row]
    """The rows of `metrics.jsonl`."""

    @property
    def verdict(self) -> str:
        """The last verdict's word, of `training.health.Word`, such as learning; "unknown" where there was none."""
        return str(self._judged().get("verdict", "unknown"))

    @property
    def why(self) -> str:
        """What the verdict rests on, and what to try."""
        row = self._judged()
        return " ".join(str(row[name]) for name in ("why", "remedy") if name in row)

    def _judged(self) -> Row:
        return next((row for row in reversed(self.metrics) if "verdict" in row), {})

    def encoder(self) -> "Backbone":
        """Loads the trained encoder."""
        from ..encoders import load

        return load(self.folder)


class Diverged(RuntimeError):
    """The loss or its gradients stopped being finite, again and again."""


class Collapsed(RuntimeError):
    """All images get one feature, and the run was to stop then."""

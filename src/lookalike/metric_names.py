"""Metrics that were renamed: `metrics.jsonl`, `evaluation.json` and checkpoints of earlier versions have old names."""

from collections.abc import Mapping
from typing import TypeVar

RENAMED: Mapping[str, str] = {
    "recognition": "pair_auc",
    "recognition_change": "pair_auc_change",
    "recognition_error": "pair_auc_error",
    "recognised": "pair_auc_per_image",
}
"""Columns of `metrics.jsonl` and entries of the monitor's state in a checkpoint: old name, current name."""
RENAMED_SCORES: Mapping[str, str] = {
    **RENAMED,
    "retrieval": "view_retrieval",
    "retrieval_of_5": "view_retrieval_of_5",
}
"""Label-free scores of an evaluation: old name, current name. The protocol `retrieval` keeps its name."""

V = TypeVar("V")


def with_current_names(values: Mapping[str, V], renamed: Mapping[str, str] = RENAMED) -> dict[str, V]:
    """The values by current names, in their order; an old name stays where the current one is there, too."""
    return {name if (new := renamed.get(name, name)) in values else new: value for name, value in values.items()}

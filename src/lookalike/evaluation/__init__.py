"""Evaluation of frozen features: protocols as functions of features and labels, and their record `evaluation.json`.

The names below are imported on first use. `embed`, `evaluate`, `evaluate_features` and `label_free`, which start from
an encoder and images or files, are commands.
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .average_precision import SetMetrics as SetMetrics
    from .average_precision import set_metrics as set_metrics
    from .feature_files import load_features as load_features
    from .feature_files import save_features as save_features
    from .features import Features as Features
    from .features import features as features
    from .features import fingerprint as fingerprint
    from .features import with_statistics as with_statistics
    from .few_labels import FewLabels as FewLabels
    from .few_labels import few_labels as few_labels
    from .knn import KNN as KNN
    from .knn import knn as knn
    from .knn import knn_sets as knn_sets
    from .linear import Linear as Linear
    from .linear import LinearSets as LinearSets
    from .linear import Settings as Settings
    from .linear import linear as linear
    from .linear import linear_sets as linear_sets
    from .logistic import Logistic as Logistic
    from .logistic import logistic as logistic
    from .metrics import Metrics as Metrics
    from .metrics import classification_metrics as classification_metrics
    from .metrics import interval as interval
    from .metrics import interval_of_change as interval_of_change
    from .metrics import interval_of_draws as interval_of_draws
    from .multi_label import run_multi_label as run_multi_label
    from .protocol_table import FROZEN as FROZEN
    from .protocol_table import PROTOCOLS as PROTOCOLS
    from .protocols import About as About
    from .protocols import Few as Few
    from .protocols import run_protocol as run_protocol
    from .records import Entry as Entry
    from .records import record as record
    from .retrieval import Retrieval as Retrieval
    from .retrieval import retrieve as retrieve

_HOMES = {
    "About": "evaluation.protocols", "Entry": "evaluation.records", "FROZEN": "evaluation.protocol_table",
    "Features": "evaluation.features", "Few": "evaluation.protocols", "FewLabels": "evaluation.few_labels",
    "KNN": "evaluation.knn", "Linear": "evaluation.linear", "LinearSets": "evaluation.linear",
    "Logistic": "evaluation.logistic", "Metrics": "evaluation.metrics", "PROTOCOLS": "evaluation.protocol_table",
    "Retrieval": "evaluation.retrieval", "SetMetrics": "evaluation.average_precision",
    "Settings": "evaluation.linear", "classification_metrics": "evaluation.metrics", "embed": "commands.embed",
    "evaluate": "commands.evaluate", "evaluate_features": "commands.evaluate_features",
    "features": "evaluation.features", "few_labels": "evaluation.few_labels", "fingerprint": "evaluation.features",
    "interval": "evaluation.metrics", "interval_of_change": "evaluation.metrics",
    "interval_of_draws": "evaluation.metrics", "knn": "evaluation.knn", "knn_sets": "evaluation.knn",
    "label_free": "commands.evaluate_label_free", "linear": "evaluation.linear", "linear_sets": "evaluation.linear",
    "load_features": "evaluation.feature_files", "logistic": "evaluation.logistic", "record": "evaluation.records",
    "retrieve": "evaluation.retrieval", "run_multi_label": "evaluation.multi_label",
    "run_protocol": "evaluation.protocols", "save_features": "evaluation.feature_files",
    "set_metrics": "evaluation.average_precision", "with_statistics": "evaluation.features",
}  # fmt: skip
_RENAMED = {"Measures": "Metrics", "judge": "run_protocol", "measures": "classification_metrics"}
"""Names of version 0.1."""

__all__ = [*_HOMES]


def __getattr__(name: str) -> object:
    name = _RENAMED.get(name, name)
    if name in _HOMES:
        return importlib.import_module(f"lookalike.{_HOMES[name]}").__dict__[name]
    raise AttributeError(f"module 'lookalike.evaluation' has no attribute '{name}'")


class _Evaluation(ModuleType):
    """This module, in which importing the module `knn` does not replace the function `knn`."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Evaluation

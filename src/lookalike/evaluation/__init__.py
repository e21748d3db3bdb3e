"""How good frozen features are: protocols as functions of features and labels, and their record `evaluation.json`.

The names below are imported when they are first used. `embed`, `evaluate`, `evaluate_features` and `label_free`, which
begin with an encoder and images or files, are commands.
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .features import Features as Features
    from .features import features as features
    from .features import fingerprint as fingerprint
    from .features import load_features as load_features
    from .features import save_features as save_features
    from .features import with_statistics as with_statistics
    from .few_labels import FewLabels as FewLabels
    from .few_labels import few_labels as few_labels
    from .knn import KNN as KNN
    from .knn import knn as knn
    from .linear import Linear as Linear
    from .linear import Settings as Settings
    from .linear import linear as linear
    from .logistic import Logistic as Logistic
    from .logistic import logistic as logistic
    from .metrics import Measures as Measures
    from .metrics import interval as interval
    from .metrics import interval_of_change as interval_of_change
    from .metrics import interval_of_draws as interval_of_draws
    from .metrics import measures as measures
    from .protocols import FROZEN as FROZEN
    from .protocols import About as About
    from .protocols import Few as Few
    from .protocols import judge as judge
    from .records import Entry as Entry
    from .records import record as record
    from .retrieval import Retrieval as Retrieval
    from .retrieval import retrieve as retrieve

_HOMES = {
    "FROZEN": "evaluation.protocols", "KNN": "evaluation.knn", "PROTOCOLS": "commands.evaluate",
    "About": "evaluation.protocols", "Entry": "evaluation.records", "Features": "evaluation.features",
    "Few": "evaluation.protocols", "FewLabels": "evaluation.few_labels", "Linear": "evaluation.linear",
    "Logistic": "evaluation.logistic", "Measures": "evaluation.metrics", "Retrieval": "evaluation.retrieval",
    "Settings": "evaluation.linear", "embed": "commands.evaluate", "evaluate": "commands.evaluate",
    "evaluate_features": "commands.evaluate", "features": "evaluation.features", "few_labels": "evaluation.few_labels",
    "fingerprint": "evaluation.features", "interval": "evaluation.metrics",
    "interval_of_change": "evaluation.metrics", "interval_of_draws": "evaluation.metrics",
    "judge": "evaluation.protocols", "knn": "evaluation.knn", "label_free": "commands.evaluate",
    "linear": "evaluation.linear", "load_features": "evaluation.features", "logistic": "evaluation.logistic",
    "measures": "evaluation.metrics", "record": "evaluation.records", "retrieve": "evaluation.retrieval",
    "save_features": "evaluation.features", "with_statistics": "evaluation.features",
}  # fmt: skip

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return importlib.import_module(f"lookalike.{_HOMES[name]}").__dict__[name]
    raise AttributeError(f"module 'lookalike.evaluation' has no attribute '{name}'")


class _Evaluation(ModuleType):
    """This module, in which a function such as `knn` is not hidden by the module of its name once that is imported."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Evaluation

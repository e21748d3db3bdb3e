"""How good frozen features are: protocols as functions of features and labels, and their record `evaluation.json`."""

from .features import Features, features, fingerprint, save_features, with_statistics
from .judging import PROTOCOLS, embed, evaluate, judge
from .knn import KNN, knn
from .linear import Linear, Settings, interval, linear
from .records import Entry, record

__all__ = [
    "KNN",
    "PROTOCOLS",
    "Entry",
    "Features",
    "Linear",
    "Settings",
    "embed",
    "evaluate",
    "features",
    "fingerprint",
    "interval",
    "judge",
    "knn",
    "linear",
    "record",
    "save_features",
    "with_statistics",
]

"""How good frozen features are: protocols as functions of features and labels, and their record `evaluation.json`."""

from .features import Features, features, fingerprint, save_features, with_statistics
from .judging import PROTOCOLS, embed, evaluate, judge, label_free
from .knn import KNN, knn
from .linear import Linear, Settings, interval, linear
from .records import Entry, record
from .semi import FewLabels, few_labels

__all__ = [
    "KNN",
    "PROTOCOLS",
    "Entry",
    "Features",
    "FewLabels",
    "Linear",
    "Settings",
    "embed",
    "evaluate",
    "features",
    "few_labels",
    "fingerprint",
    "interval",
    "judge",
    "knn",
    "label_free",
    "linear",
    "record",
    "save_features",
    "with_statistics",
]

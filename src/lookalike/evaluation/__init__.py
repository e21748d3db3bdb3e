"""How good frozen features are: protocols as functions of features and labels, and their record `evaluation.json`."""

from .features import Features, features, fingerprint, load_features, save_features, with_statistics
from .judging import PROTOCOLS, embed, evaluate, evaluate_features, label_free
from .knn import KNN, knn
from .linear import Linear, Settings, linear
from .logistic import Logistic, logistic
from .measures import Measures, interval, interval_of_change, interval_of_draws, measures
from .protocols import FROZEN, About, Few, judge
from .records import Entry, record
from .retrieval import Retrieval, retrieve
from .semi import FewLabels, few_labels

__all__ = [
    "FROZEN",
    "KNN",
    "PROTOCOLS",
    "About",
    "Entry",
    "Features",
    "Few",
    "FewLabels",
    "Linear",
    "Logistic",
    "Measures",
    "Retrieval",
    "Settings",
    "embed",
    "evaluate",
    "evaluate_features",
    "features",
    "few_labels",
    "fingerprint",
    "interval",
    "interval_of_change",
    "interval_of_draws",
    "judge",
    "knn",
    "label_free",
    "linear",
    "load_features",
    "logistic",
    "measures",
    "record",
    "retrieve",
    "save_features",
    "with_statistics",
]

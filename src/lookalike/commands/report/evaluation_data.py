"""The entries of `evaluation.json` as shown on a page: accuracies, other metrics, confusions."""

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any

from ...metric_names import RENAMED_SCORES, with_current_names
from ...printing import TOP5_FROM
from .labels import METRIC_TITLES, PROTOCOL_TITLES, Curve, recall_label, settings_in_short

MATRIX_CLASSES = 40
"""Confusions of more classes are listed instead of drawn."""
PAIRS = 100
"""Maximum number of listed confusions."""
WITHOUT_ACCURACY = ("retrieval", "label-free")
"""Protocols whose metrics are not classification accuracies."""

Content = dict[str, Any]
Triple = tuple[int, int, float]


def evaluations(entries: object) -> list[Content]:
    """The entries of `evaluation.json`, newest last, with titles; confusions of many classes as pairs.

    Missing or invalid fields are None or empty; entries without a finite `top1` are left out.
    """
    return [_evaluation(entry) for entry in dictionaries(entries) if is_finite(entry.get("top1"))]


def dictionaries(values: object) -> list[Content]:
    """The dictionaries of a list; empty for any other value."""
    return [value for value in values if isinstance(value, dict)] if isinstance(values, list) else []


def confused(triples: Sequence[Triple]) -> list[tuple[int, int, float, float]]:
    """Confused classes, most frequent first: true class, predicted class, count, number of images of the true class."""
    total: dict[int, float] = {}
    for true, _, count in triples:
        total[true] = total.get(true, 0) + count
    return sorted(
        ((true, predicted, count, total[true]) for true, predicted, count in triples if true != predicted),
        key=lambda p: (-p[2], p[:2]),
    )


def is_finite(value: object) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf


def _evaluation(entry: Content) -> Content:
    protocol = str(entry.get("protocol"))
    title, note = PROTOCOL_TITLES.get(protocol, (protocol, ""))
    several = _has_label_sets(entry)
    names = [str(name) for name in _list(entry.get("class_names"))]
    settings = entry["settings"] if isinstance(entry.get("settings"), dict) else {}
    draws = len(_list(entry.get("accuracies")))
    triples = _triples(entry.get("confusion"), max(1, draws))
    interval = _list(entry.get("interval"))
    calibration = entry.get("calibration")
    return {
        "protocol": protocol,
        "title": f"{title}, several classes per image" if several else title,
        "note": note,
        "settings": settings_in_short(settings),
        "question": json.dumps([protocol, settings, entry.get("data_fingerprint")], sort_keys=True),
        "top1": entry["top1"],
        **{k: entry[k] if is_finite(entry.get(k)) else None
           for k in ("deviation", "train_images", "test_images", "classes", "seconds", "baseline")},
        "top5": entry["top5"] if is_finite(entry.get("top5")) and _shows_top5(entry) else None,
        "date": str(entry.get("date") or ""),
        "interval": interval if len(interval) == 2 and all(map(is_finite, interval)) else None,
        "per_class": [v if is_finite(v) else None for v in _list(entry.get("per_class"))],
        "calibration": _calibration(calibration) if isinstance(calibration, dict) else None,
        "draws": draws,
        "names": names,
        "confusion": triples if len(names) <= MATRIX_CLASSES and _are_valid(triples, len(names)) else [],
        "pairs": confused(triples)[: PAIRS if len(names) > MATRIX_CLASSES else 10],
        "metrics": _metrics(entry) if protocol in WITHOUT_ACCURACY or several else [],
    }  # fmt: skip


def _has_label_sets(entry: Content) -> bool:
    """Whether images may have several classes: `top1` is then the mean average precision."""
    settings = entry.get("settings")
    return isinstance(settings, dict) and settings.get("multi_label") is True


def _shows_top5(entry: Content) -> bool:
    """Whether there are enough classes for top-5; older entries have no number of classes."""
    if _has_label_sets(entry):
        return False
    classes = entry.get("classes")
    return not isinstance(classes, int) or not 0 < classes < TOP5_FROM or entry.get("protocol") in WITHOUT_ACCURACY


def _metrics(entry: Content) -> list[Content]:
    """A protocol's metrics other than accuracy: title, unit, note, kind and value."""
    found: list[tuple[Curve, object]] = []
    if entry.get("protocol") == "retrieval":
        for row in dictionaries(entry.get("history")):
            if is_finite(row.get("k")) and is_finite(row.get("recall")):
                found.append((recall_label(int(row["k"])), row["recall"]))
        if not found:
            found.append((recall_label(1), entry["top1"]))
    measures = entry["measures"] if isinstance(entry.get("measures"), dict) else {}
    if entry.get("protocol") == "label-free":
        measures = {"view_retrieval": entry["top1"], **with_current_names(measures, RENAMED_SCORES)}
    known = [name for name in METRIC_TITLES if name in measures]
    found += [(METRIC_TITLES.get(name, Curve(name.replace("_", " "), "", "")), measures[name])
              for name in dict.fromkeys([*known, *measures]) if is_finite(measures[name])]  # fmt: skip
    return [{**dataclasses.asdict(label), "value": value} for label, value in found]


def _triples(values: object, draws: int) -> list[Triple]:
    """Mean confusions per draw: the file has the sum over all draws."""
    return [
        (value[0], value[1], value[2] / draws if draws > 1 else value[2])
        for value in _list(values)
        if isinstance(value, list) and len(value) == 3 and all(map(is_finite, value))
    ]


def _are_valid(triples: Sequence[Triple], classes: int) -> bool:
    return all(0 <= true < classes and 0 <= predicted < classes for true, predicted, _ in triples)


def _calibration(found: Content) -> Content:
    bins = [b for b in _list(found.get("bins")) if isinstance(b, list) and len(b) == 3 and all(map(is_finite, b))]
    return {"ece": found.get("ece") if is_finite(found.get("ece")) else None, "bins": bins}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []

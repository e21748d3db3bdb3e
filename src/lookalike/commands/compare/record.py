"""The record of a comparison, `compare.json`: reading it, and its results as plain values."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from ...columns import COLUMNS
from ...evaluation.records import Entry
from ...files import FORMAT, read_json
from ...image_options import Alpha
from ...printing import brief, protocol_name, shown
from ...runs import plain, renamed
from .ranking import Accuracy, Results, training_of

FILE = "compare.json"


def read(file: Path) -> dict[str, Any]:
    """The checked content of a comparison's file.

    Raises:
        ValueError: the file is not a comparison of this format.
    """
    try:
        content = read_json(file, dict)
        if content.get("format") != FORMAT:
            raise ValueError(f"{file} is not a comparison of format {FORMAT}.")
        for row in content["trainings"]:
            training_of(row)
            if not isinstance(row["method"], str) or not isinstance(row["seed"], int):
                raise ValueError(f"{file} has a training without a method's name and a seed.")
            name = row["folder"]  # this folder is written to, and removed
            if name != f"{row['method']}-seed{row['seed']}" or Path(name).name != name:
                raise ValueError(f"{file} names the folder {shown(name)}, which no comparison creates.")
        for results in content["untrained_by_seed"].values():
            results_of(results)
        # what earlier versions used
        content["question"] = {
            "alpha": "white",
            "bands": None,
            "scale": ["dtype"],
            "tile": None,
            "stride": None,
            "joint_loss": False,
            "only": None,
            "columns": plain(COLUMNS),
        } | renamed(content["question"])
        if content["question"]["alpha"] not in get_args(Alpha):
            raise ValueError(f"{file} has an unknown alpha, {shown(content['question']['alpha'])}.")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = error if isinstance(error, ValueError) else f"{file} is incomplete: {brief(str(error))}."
        raise ValueError(f"{reason} Move it away, or give another --out.") from None
    return content


def results_of(content: dict[str, Any]) -> dict[str, dict[str, Accuracy]]:
    return {
        p: {test: Accuracy(a["top1"], a["top5"], tuple(a["interval"])) for test, a in tests.items()}
        for p, tests in content.items()
    }


def plain_results(results: Results) -> dict[str, dict[str, dict[str, Any]]]:
    return {p: {test: dataclasses.asdict(a) for test, a in tests.items()} for p, tests in results.items()}


def mean_results(of_seeds: Sequence[Results]) -> dict[str, dict[str, dict[str, Any]]]:
    """The untrained network's results: means over the seeds, and each seed's top-1."""
    if not of_seeds:
        return {}

    def joined(found: Sequence[Accuracy]) -> dict[str, Any]:
        def over(values: Sequence[float]) -> float:
            return sum(values) / len(values)

        return {
            "top1": over([a.top1 for a in found]),
            "top5": over([a.top5 for a in found]),
            "interval": [over([a.interval[side] for a in found]) for side in (0, 1)],
            "accuracies": [a.top1 for a in found],
        }

    whole = [r for r in of_seeds if r.keys() == of_seeds[0].keys()]
    return {
        p: {test: joined([r[p][test] for r in whole if test in r[p]]) for test in tests}
        for p, tests in of_seeds[0].items()
    }


def with_new_paths(paths: dict[str, str], results: Results) -> dict[str, dict[str, Accuracy]]:
    """Results with the tests' new paths."""
    return {p: {paths.get(test, test): a for test, a in tests.items()} for p, tests in results.items()}


def add_results(results: dict[str, dict[str, Accuracy]], test: str, entries: Sequence[Entry]) -> None:
    """Adds results on a test. Several results of one protocol are named by their fraction of the labels.

    Raises:
        ValueError: two results have the same name.
    """
    names = [_protocol(e) for e in entries]
    for e, protocol in zip(entries, names):
        several = names.count(protocol) > 1 and isinstance(e.settings.get("share"), float)
        name = protocol_name(e.protocol, e.settings) if several else protocol
        if test in results.get(name, {}):
            raise ValueError(f"{test} has two results named {name}. Give protocols whose results have different names.")
        results.setdefault(name, {})[test] = Accuracy(e.top1, e.top5, e.interval)


def _protocol(entry: Entry) -> str:
    """The protocol's option name: entries of `semi` and `semi-finetune` both say semi."""
    return "semi-finetune" if entry.protocol == "semi" and entry.settings.get("how") == "finetune" else entry.protocol

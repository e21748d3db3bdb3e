"""The command `compare`."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import tyro
from tyro.conf import Positional, UseAppendAction
from tyro.constructors import StructFieldSpec

from ..commands.compare.spec import Comparison
from ..cores import worker_count
from ..evaluation.protocol_table import PROTOCOLS
from ..files import check_writable, nearest_folder
from ..names import nearest
from ..places import check_backbones, check_images, check_logger, no_check
from ..printing import pasteable, say, shown
from ..runs.lookup import check_encoder
from . import pages
from .errors import UsageError
from .fields import fields_are, registry, some_fields
from .interrupts import imported
from .overview import COMPARE
from .parsing import flat, options_in, parse, with_new_names

HIDDEN = ("probe", "time", "nodes", "strategy", "origins")
"""Options of a training that do not apply to a comparison."""
MARKS = {
    "data": (Positional, tyro.conf.arg(metavar="DATA")),
    "methods": (Positional, tyro.conf.arg(metavar="METHOD...")),
    "train": (UseAppendAction,),
    "test": (UseAppendAction,),
}
"""Positional arguments, and options that may be repeated."""


def read(argv: list[str]) -> tuple[Comparison, bool]:
    """Parses a command line: the comparison, and whether to write a report."""
    fields = [
        StructFieldSpec("comparison", flat(Comparison), tyro.MISSING_NONPROP),
        StructFieldSpec("report", bool, True, "Whether to write report.html at the end."),
    ]
    rules = registry(fields_are(compare, SimpleNamespace, fields), some_fields(Comparison, HIDDEN, MARKS))
    line = "Trains methods at equal cost, evaluates them, and ranks them."
    found: Any = parse(compare, argv, "compare", line, rules)
    return found.comparison, found.report


def compare(argv: list[str]) -> None:
    if not argv or argv[0] in ("--help", "-h"):
        print(COMPARE)
        argv = ["--help"]
    argv = with_new_names(argv)
    comparison, with_report = read(argv)
    typed = options_in(argv)
    if "batch_size" in typed:
        comparison = dataclasses.replace(comparison, origins={"batch_size": "user"})
    if {"budget", "epochs"} <= typed:
        raise UsageError(
            "--budget and --epochs exclude each other: set either the time per training or the number of epochs."
        )
    if unknown := [p for p in comparison.protocols if p not in PROTOCOLS]:
        raise ValueError(f"There is no protocol {shown(unknown[0])}. {nearest(unknown[0], [*PROTOCOLS])}")
    check_logger(comparison.logger)
    check_writable(Path(comparison.out) / "compare.json")
    if comparison.cache_dir is not None:
        nearest_folder(Path(comparison.cache_dir), "--cache-dir")
    if comparison.only is not None and not Path(comparison.only).is_file():
        raise no_check(comparison.only)
    check_images(comparison.data, *comparison.train, *comparison.test)
    check_backbones(comparison.backbone, comparison.teacher_backbone)
    for weights in (comparison.init, comparison.teacher):
        if weights is not None:
            check_encoder(weights)
    from ..commands.compare.record import FILE
    from ..commands.compare.runner import compare as rank
    from ..commands.compare.runner import train_one

    imported()

    if comparison.training is not None:
        run = train_one(comparison)
        say(f"Trained {run}. The same command without --training evaluates and ranks all trainings.")
        return
    result = rank(comparison)
    folder, best = result.folder, result.ranking[0].method
    first = next(t.folder for t in result.trainings if t.method == best and t.status == "done")
    if with_report:
        pages.write_report(str(folder), worker_count(comparison.workers))
    say(f"Wrote {folder / FILE}, and a run folder for each training in {folder}.")
    say(f"Next: {pasteable('lookalike', 'embed', folder / first, 'DATA', '--out', 'embeddings.npz')}")

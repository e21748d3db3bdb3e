"""`compare`."""

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
from ..places import check_backbones, check_images, check_logger
from ..printing import pasteable, say, shown
from ..runs.lookup import check_encoder
from . import pages
from .errors import UsageError
from .fields import fields_are, registry, some_fields
from .interrupts import imported
from .overview import COMPARE
from .parsing import flat, options_in, parse, with_new_names

HIDDEN = ("probe", "time", "nodes", "strategy", "origins")
"""Options of a training that a comparison has no use for."""
MARKS = {
    "data": (Positional, tyro.conf.arg(metavar="DATA")),
    "methods": (Positional, tyro.conf.arg(metavar="METHOD...")),
    "train": (UseAppendAction,),
    "test": (UseAppendAction,),
}
"""What stands in front, and what may be given several times."""


def read(argv: list[str]) -> tuple[Comparison, bool]:
    """The comparison that a command line asks for, and whether it asks for a report."""
    fields = [
        StructFieldSpec("comparison", flat(Comparison), tyro.MISSING_NONPROP),
        StructFieldSpec("report", bool, True, "Whether report.html is written at the end."),
    ]
    rules = registry(fields_are(compare, SimpleNamespace, fields), some_fields(Comparison, HIDDEN, MARKS))
    line = "Trains methods at equal cost, judges all, and ranks them."
    found: Any = parse(compare, argv, "compare", line, rules)
    return found.comparison, found.report


def compare(argv: list[str]) -> None:
    if not argv or argv[0] in ("--help", "-h"):
        print(COMPARE)
        argv = ["--help"]
    argv = with_new_names(argv)
    asked, with_report = read(argv)
    given = options_in(argv)
    if "batch_size" in given:
        asked = dataclasses.replace(asked, origins={"batch_size": "user"})
    if {"budget", "epochs"} <= given:
        raise UsageError("--budget and --epochs exclude each other: give the time of a training, or its epochs.")
    if unknown := [p for p in asked.protocols if p not in PROTOCOLS]:
        raise ValueError(f"There is no protocol {shown(unknown[0])}. {nearest(unknown[0], [*PROTOCOLS])}")
    check_logger(asked.logger)
    check_writable(Path(asked.out) / "compare.json")
    if asked.cache_dir is not None:
        nearest_folder(Path(asked.cache_dir), "--cache-dir")
    check_images(asked.data, *asked.train, *asked.test)
    check_backbones(asked.backbone, asked.teacher_backbone)
    for weights in (asked.init, asked.teacher):
        if weights is not None:
            check_encoder(weights)
    from ..commands.compare.record import FILE
    from ..commands.compare.runner import compare as rank

    imported()

    found = rank(asked)
    folder, best = found.folder, found.ranking[0].method
    first = next(t.folder for t in found.trainings if t.method == best and t.status == "done")
    if with_report:
        pages.write_report(str(folder), worker_count(asked.workers))
    say(f"Wrote {folder / FILE}, and in {folder} a run's folder for each training.")
    say(f"Next: {pasteable('lookalike', 'embed', folder / first, 'DATA', '--out', 'embeddings.npz')}")

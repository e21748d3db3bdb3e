"""`pretrain`, `distill` and `finetune`, and `views`, which draws what they would see."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from ..cores import worker_count
from ..files import check_output, check_writable
from ..methods import METHODS, SELF_SUPERVISED
from ..printing import pasteable, say
from ..runs import Folder, Options, Run, method_name
from . import pages
from .errors import UsageError
from .interrupts import imported
from .overview import DISTILL, FINETUNE, PRETRAIN, VIEWS
from .parsing import parse, take, take_flag
from .run_parsing import parse_run


def pretrain(argv: list[str]) -> None:
    if not argv or argv[0] in ("--help", "-h"):
        lines = "\n".join(f"  {name:<14} {METHODS[name].line}" for name in SELF_SUPERVISED)
        print(PRETRAIN.format(methods=lines))
        parse(Options, ["--help"], "pretrain METHOD DATA", description="")
    with_report, argv = take_flag(argv, "--no-report")
    _train(parse_run("pretrain", argv), with_report)


def distill(argv: list[str]) -> None:
    if not argv or argv[0] in ("--help", "-h"):
        print(DISTILL)
        argv = ["--help"]
    with_report, argv = take_flag(argv, "--no-report")
    _train(parse_run("distill", ["distill", *argv]), with_report)


def finetune(argv: list[str]) -> None:
    if not argv or argv[0] in ("--help", "-h"):
        print(FINETUNE)
        argv = ["--help"]
    with_report, argv = take_flag(argv, "--no-report")
    _train(parse_run("finetune", ["finetune", *argv]), with_report)


def _train(run: Run, with_report: bool) -> None:
    verb = METHODS[method_name(run.method)].verb
    train: Callable[[Run], object]
    if verb == "distill":
        from ..commands.distill import distill as train
    elif verb == "finetune":
        from ..commands.finetune import train_and_evaluate as train
    else:
        from ..training import pretrain as train

    from ..training.launch import launched_rank

    imported()

    train(run)
    if with_report and launched_rank(run) == 0:
        pages.write_report(run.out, worker_count(run.workers))


def views(argv: list[str]) -> None:
    if not argv or argv[0] in ("--help", "-h"):
        print(VIEWS)
        return
    out, rest = take(argv, "--out")
    path = Path(out or "views.png")
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise UsageError(f"--out {path} is neither .png nor .jpg.")
    check_writable(path)
    run = parse_run("views", rest)
    check_output(path, run.overwrite)
    from ..training.model import draw_views

    imported()

    draw_views(run, path)
    verb = METHODS[method_name(run.method)].verb
    words = [a for a in rest if a != "--overwrite"]
    if words[:1] == [verb]:
        words = words[1:]
    if verb == "finetune":
        words = ["ENCODER", str(run.data), "TEST", *(word for word in words if word != run.data)]
    if Folder(run.out).run.is_file():  # the run that the options are of, or whose folder nobody named
        words += [
            "--out",
            next(f"{run.out}-{i}" for i in range(2, sys.maxsize) if not os.path.exists(f"{run.out}-{i}")),
        ]
    command = pasteable("lookalike", verb, *words)
    say(f"Wrote {path}: one row per image, the whole image first.\nNext: {command}")

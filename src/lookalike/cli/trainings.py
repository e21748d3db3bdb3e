"""The training commands `pretrain`, `distill` and `finetune`; `views` and `estimate`, which take their options."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from ..cores import worker_count
from ..files import check_output, check_writable
from ..methods import METHODS, SELF_SUPERVISED
from ..printing import pasteable, say
from ..runs import Folder, Run, method_name
from . import pages
from .errors import UsageError
from .interrupts import imported
from .overview import DISTILL, ESTIMATE, FINETUNE, PRETRAIN, VIEWS
from .parsing import parse_first, with_new_names
from .run_arguments import Drawing, Estimating, First, Training
from .run_options import show_options
from .run_parsing import parse_run


def pretrain(argv: list[str]) -> None:
    if not argv or argv[0] in ("--help", "-h"):
        lines = "\n".join(f"  {name:<14} {METHODS[name].line}" for name in SELF_SUPERVISED)
        print(PRETRAIN.format(methods=lines))
        show_options("pretrain METHOD DATA")
    _train("pretrain", argv)


def distill(argv: list[str]) -> None:
    if not argv or argv[0] in ("--help", "-h"):
        print(DISTILL)
        argv = ["--help"]
    _train("distill", ["distill", *argv])


def finetune(argv: list[str]) -> None:
    if not argv or argv[0] in ("--help", "-h"):
        print(FINETUNE)
        argv = ["--help"]
    _train("finetune", ["finetune", *argv])


def _train(verb: str, argv: list[str]) -> None:
    argv = with_new_names(argv)
    run = parse_run(verb, argv)
    first, _ = parse_first(Training, argv, verb)
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
    if first.report and launched_rank(run) == 0:
        pages.write_report(run.out, worker_count(run.workers))


def views(argv: list[str]) -> None:
    if not argv or argv[0] in ("--help", "-h"):
        print(VIEWS)
        return
    argv = with_new_names(argv)
    first, rest = parse_first(Drawing, argv, "views")
    path = Path(first.out)
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise UsageError(f"--out {path} is neither .png nor .jpg.")
    check_writable(path)
    run = parse_run("views", argv)
    check_output(path, run.overwrite)
    from ..training.model import draw_views

    imported()

    draw_views(run, path)
    verb = METHODS[method_name(run.method)].verb
    command = pasteable("lookalike", verb, *_training_arguments(run, verb, first, rest))
    say(f"Wrote {path}: one row per image, the original first.\nNext: {command}")


def estimate(argv: list[str]) -> None:
    if not argv or argv[0] in ("--help", "-h"):
        print(ESTIMATE)
        return
    argv = with_new_names(argv)
    first, _ = parse_first(Estimating, argv, "estimate")
    run = parse_run("estimate", argv)
    from ..commands.estimate import estimate as estimated

    imported()

    estimated(run, find_batch_size=first.find_batch_size, say=say)


def _training_arguments(run: Run, verb: str, first: First, arguments: list[str]) -> list[str]:
    """The arguments of the training that uses the drawn views."""
    arguments = [argument for argument in arguments if argument != "--overwrite"]
    if arguments[:1] == [verb]:
        arguments = arguments[1:]
    if verb == "finetune":
        arguments = ["ENCODER", str(run.data), "TEST", *(argument for argument in arguments if argument != run.data)]
    if first.from_ is not None:
        arguments += ["--from", first.from_]
    if Folder(run.out).run.is_file():  # the run of --from, or one at the default --out
        free = next(f"{run.out}-{i}" for i in range(2, sys.maxsize) if not os.path.exists(f"{run.out}-{i}"))
        arguments += ["--out", free]
    return arguments

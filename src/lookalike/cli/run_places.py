"""Checks paths and names in the options of a training before heavy imports."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from ..files import nearest_folder
from ..foreign import is_tag
from ..places import check_backbones, check_images, check_logger, check_optimizer, no_check
from ..printing import pasteable
from ..runs import LOCATIONS, Folder, Options, check_same_time, directory_of, dotted, plain
from ..runs.lookup import check_encoder
from .run_arguments import WITHOUT_A_RUN, Arguments
from .run_options import Parsed

_RANKS = {"RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"}
"""Variables that hold a process's rank: only the first process checks the output folder."""


def check_places(arguments: Arguments, parsed: Parsed) -> None:
    """Checks that everything a training names can be found.

    Raises:
        FileNotFoundError, FileExistsError, PermissionError, ModuleNotFoundError, ValueError: the first problem.
    """
    options, resumes = parsed.options, parsed.options.resume
    check_logger(options.logger)
    if options.cache_dir is not None:
        nearest_folder(Path(options.cache_dir), "--cache-dir")
    if options.only is not None and not os.path.isfile(options.only):
        raise no_check(options.only)
    if resumes:
        check_same_time(Path(options.out), arguments.content.get("time"), options.time)
    if arguments.verb not in WITHOUT_A_RUN and not _RANKS & os.environ.keys():
        Folder(options.out).check(resume=resumes, overwrite=options.overwrite)
    own = dotted(plain(parsed.method))
    for what, value in (("data", parsed.data), ("backbone", options.backbone), ("test", parsed.test)):
        if is_tag(value) and value == arguments.content.get(what):  # see `runs.mapping.flat`
            other = " and resume=True." if resumes else f", or name another {what} on the command line."
            raise ValueError(
                f"The {what} in {arguments.file} is a Python object, {value}, which the command line cannot create. "
                f"Continue from Python with the same call{other}"
            )
    if not arguments.classifies:
        check_backbones(options.backbone)
    check_backbones(*(cast(str | None, own.get(name)) for name in ("encoder_backbone", "teacher_backbone")))
    if name := cast(str, own["optim.name"]):  # empty if the method's default is not known yet
        check_optimizer(name)
    start = parsed.encoder if arguments.classifies else options.init
    if start and not (resumes and start == arguments.content.get("init")):  # a resumed run already has its weights
        with _from_file(arguments, options, start):
            check_encoder(start, "encoder" if arguments.classifies else "weights")
    named = "teacher" in arguments.typed or "teacher" in arguments.content  # otherwise it is the default or a stand-in
    if named and not is_tag(teacher := cast(str, own["teacher"])):
        with _from_file(arguments, options, teacher):
            check_encoder(teacher)
    probed = options.probe or () if "probe" in arguments.typed or not resumes else ()  # else the training skips it
    for path in (parsed.data, *([parsed.test] if arguments.classifies and parsed.test else []), *probed):
        with _from_file(arguments, options, path):
            check_images(path)


@contextmanager
def _from_file(arguments: Arguments, options: Options, path: str) -> Iterator[None]:
    """Adds to an error about a path that the run's file names: the file, and the command with another path."""
    try:
        yield
    except FileNotFoundError as error:
        named = [arguments.content.get(name) for name in LOCATIONS]
        if path not in (each for value in named for each in (value if isinstance(value, list) else [value])):
            raise
        raise FileNotFoundError(f"{error} {_origin(arguments, options, path)}") from None


def _origin(arguments: Arguments, options: Options, path: str) -> str:
    """Which file names a path, the directory it is relative to, and the command with another path."""
    lines, is_run = [f"The path is from {arguments.file}."], "made" in arguments.whole
    if is_run and not os.path.isabs(path):
        directory = directory_of(arguments.whole)
        lines.append(
            f"It is relative to {directory}, where the run was started, and does not exist there either."
            if directory is not None
            else "It is relative to the directory in which the run was started, which lookalike 0.1 did not record. "
            "Run the command in that directory."
        )
    which = ["--teacher", "TEACHER"] if path == arguments.content.get("teacher") else ["DATA"]
    which = ["ENCODER", "TRAIN", "TEST"] if arguments.classifies else which
    if path in cast(list[object], arguments.content.get("probe") or []):
        which = ["--probe", "TRAIN", "TEST"]
    source = ["--resume", "--out", options.out] if options.resume else ["--from", str(arguments.file)]
    lines.append(f"To use another path: {pasteable('lookalike', arguments.verb, *which, *source)}")
    return " ".join(lines)

"""Places and names in the options of a training, looked for before anything heavy is imported."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from ..files import nearest_folder
from ..foreign import is_tag
from ..places import check_backbones, check_images, check_logger, check_optimizer
from ..printing import pasteable
from ..runs import LOCATIONS, Folder, Options, check_same_time, directory_of, dotted, plain
from ..runs.lookup import check_encoder
from .run_arguments import Asked
from .run_options import Parsed

_RANKS = {"RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"}
"""Variables that tell a process which of several it is: the folder is the first one's to look at."""


def check_places(asked: Asked, parsed: Parsed) -> None:
    """Refuses what cannot be found, before anything heavy is imported.

    Raises:
        FileNotFoundError, FileExistsError, PermissionError, ModuleNotFoundError, ValueError: the first of it.
    """
    options, resumes = parsed.options, parsed.options.resume
    check_logger(options.logger)
    if options.cache_dir is not None:
        nearest_folder(Path(options.cache_dir), "--cache-dir")
    if resumes:
        check_same_time(Path(options.out), asked.content.get("time"), options.time)
    if asked.verb != "views" and not _RANKS & os.environ.keys():
        Folder(options.out).check(resume=resumes, overwrite=options.overwrite)
    own = dotted(plain(parsed.method))
    for what, value in (("data", parsed.data), ("backbone", options.backbone), ("test", parsed.test)):
        if is_tag(value) and value == asked.content.get(what):  # see `flat`
            other = " and resume=True." if resumes else f", or name another {what} on the command line."
            raise ValueError(
                f"{asked.file} names somebody's own {what}, {value}, which no command can make. Go on from Python, "
                f"with the same call{other}"
            )
    if not asked.classifies:
        check_backbones(options.backbone)
    check_backbones(*(cast(str | None, own.get(name)) for name in ("encoder_backbone", "teacher_backbone")))
    if name := cast(str, own["optim.name"]):  # empty where the method's own is not known yet
        check_optimizer(name)
    start = parsed.encoder if asked.classifies else options.init
    if start and not (resumes and start == asked.content.get("init")):  # a resumed run has its weights
        with _from_file(asked, options, start):
            check_encoder(start, "encoder" if asked.classifies else "weights")
    named = "teacher" in asked.typed or "teacher" in asked.content  # else it is the method's own, or stands for it
    if named and not is_tag(teacher := cast(str, own["teacher"])):
        with _from_file(asked, options, teacher):
            check_encoder(teacher)
    probed = options.probe or () if "probe" in asked.typed or not resumes else ()  # else the training leaves it out
    for place in (parsed.data, *([parsed.test] if asked.classifies else []), *probed):
        with _from_file(asked, options, place):
            check_images(place)


@contextmanager
def _from_file(asked: Asked, options: Options, place: str) -> Iterator[None]:
    """Lets an error about a place that a run's file names say so, and how to name another one."""
    try:
        yield
    except FileNotFoundError as error:
        named = [asked.content.get(name) for name in LOCATIONS]
        if place not in (each for value in named for each in (value if isinstance(value, list) else [value])):
            raise
        raise FileNotFoundError(f"{error} {_whence(asked, options, place)}") from None


def _whence(asked: Asked, options: Options, place: str) -> str:
    """Which file names a place, where its relative paths count from, and how to name another one."""
    words, is_run = [f"{asked.file} names it."], "made" in asked.whole
    if is_run and not os.path.isabs(place):
        began = directory_of(asked.whole)
        words.append(
            f"The path is relative to {began}, where the run began, and it is not there either."
            if began is not None
            else "The path is relative to the directory in which the run began, which lookalike 0.1 did not note: run "
            "the command there."
        )
    which = ["--teacher", "TEACHER"] if place == asked.content.get("teacher") else ["DATA"]
    which = ["ENCODER", "TRAIN", "TEST"] if asked.classifies else which
    if place in cast(list[object], asked.content.get("probe") or []):
        which = ["--probe", "TRAIN", "TEST"]
    goes_on = ["--resume", "--out", options.out] if options.resume else ["--from", str(asked.file)]
    words.append(f"To name another place: {pasteable('lookalike', asked.verb, *which, *goes_on)}")
    return " ".join(words)

"""`check`: what images are like, and how to begin."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from ..files import check_writable
from ..image_options import Alpha
from ..places import check_images
from ..printing import counted, cut, say
from ..runs import Options
from .errors import LONGEST_MESSAGE, UsageError, message
from .interrupts import imported
from .parsing import parse, worker_count


@dataclass(frozen=True)
class Check:
    """Say what a set of images holds: sizes, kinds, values, classes, duplicates, broken files; and how to begin."""

    data: Annotated[Positional[str], tyro.conf.arg(metavar="DATA")]
    """A folder (scanned recursively) or a text file of paths."""
    test: str | None = None
    """Images to judge with: duplicates and groups that are in both are reported."""
    groups: str | None = None
    """Regular expression that finds an image's group (a patient, a scene, a video) in its name, such as '^([^/]+)/'."""
    channels: int = 3
    alpha: Alpha = Options.alpha
    """Lay images with an alpha channel on white, or drop the channel; auto decides by each image, as in training."""
    image_size: int | None = None
    """Pixels that a training would see. Without it those that suit the images and this machine."""
    workers: int | None = None
    """Processes that decode images. Without it one per free core, 8 at most."""
    timing: bool = True
    """Train for some ten seconds in the end, in a folder that is removed, to say how long the command to begin with
    takes."""
    out: str | None = None
    """JSON file for all of it, every broken file and pair of duplicates by name."""
    sheet: str | None = None
    """Picture (.png, .jpg) of the near duplicates side by side, the doubtful ones first: different classes, then the
    least alike."""
    overwrite: bool = False
    """Replace the files if they exist."""


def check(argv: list[str]) -> None:
    options = parse(Check, argv, "check")
    if options.sheet is not None and Path(options.sheet).suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise UsageError(f"--sheet {options.sheet} is neither .png nor .jpg.")
    for name, file in (("--out", options.out), ("--sheet", options.sheet)):
        if file is not None and Path(file).exists() and not options.overwrite:
            raise FileExistsError(f"{file} exists. Give another {name}, or --overwrite.")
        if file is not None:
            check_writable(Path(file), name)
    check_images(options.data, *([] if options.test is None else [options.test]))
    from ..commands import recommendation
    from ..commands.check import check as look
    from ..data import open_maybe_labelled
    from ..files import atomic, write_json

    imported()

    sources = [
        open_maybe_labelled(path, options.channels, options.alpha)
        for path in (options.data, options.test)
        if path is not None
    ]
    found = look(*sources, pattern=options.groups, workers=worker_count(options.workers), say=say)
    first, why = None, ""
    try:
        facts = recommendation.facts_of(found.train, options.image_size)
        given = recommendation.Given(options.data, options.alpha, options.workers)
        first = dataclasses.replace(recommendation.recommended(facts, given), out=recommendation.free_place())
    except ValueError as error:
        why = str(error)
    size = first.image_size if first else options.image_size
    say("\n".join(dataclasses.replace(found, image_size=size or found.image_size).lines()))
    if options.sheet is not None:
        with atomic(options.sheet) as temporary:
            found.sheet().save(temporary)
        say(f"Wrote {options.sheet}: near duplicates side by side, the doubtful ones first")
    if options.out is not None:
        write_json(Path(options.out), found.content() | {"first_command": first and first.content()})
    say(f"Wrote {options.out}" if options.out else "No list was written; --out FILE.json keeps all of it.")
    if first is None:
        say(f"No command to begin with yet: {why}")
        return
    if options.timing:
        say(f"Timing a step of {first.method} with {first.backbone} at {counted(first.image_size, 'pixel')} ...")
        try:
            first = recommendation.timed(first, sources[0])
        except Exception as error:  # what was found holds all the same
            say(f"It could not be timed: {cut(message(error), LONGEST_MESSAGE)}")
        if options.out is not None:
            write_json(Path(options.out), found.content() | {"first_command": first.content()})
    say("\n".join(first.lines()))

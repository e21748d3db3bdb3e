"""`check`: what images are like, and how to begin. Importing it brings along nothing heavy."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from ..cores import worker_count
from ..files import atomic, check_output, write_json
from ..image_options import Alpha
from ..places import check_images
from ..printing import LONGEST_MESSAGE, counted, cut, message, silent
from ..runs import Options


def first_look(
    data: str,
    *,
    test: str | None = None,
    groups: str | None = None,
    channels: int = Options.channels,
    alpha: Alpha = Options.alpha,
    image_size: int | None = None,
    workers: int | None = None,
    timing: bool = True,
    out: str | None = None,
    sheet: str | None = None,
    overwrite: bool = False,
    say: Callable[[str], None] = silent,
) -> None:
    """Says what a set of images holds: sizes, kinds, values, classes, duplicates, broken files; and how to begin.

    Args:
        data: a folder (scanned recursively) or a text file of paths.
        test: images to judge with: duplicates and groups that are in both are reported.
        groups: regular expression that finds an image's group (a patient, a scene, a video) in its name, such as
            '^([^/]+)/'.
        channels: of the images.
        alpha: lay images with an alpha channel on white, or drop the channel; auto decides by each image, as in
            training.
        image_size: pixels that a training would see. Without it those that suit the images and this machine.
        workers: processes that decode. Without it one per free core, 8 at most.
        timing: train for some ten seconds in the end, in a folder that is removed, to say how long the command to begin
            with takes.
        out: JSON file for all of it, every broken file and pair of duplicates by name.
        sheet: picture (.png, .jpg) of the near duplicates side by side, the doubtful ones first: different classes,
            then the least alike.
        overwrite: replace the files if they exist.
        say: called with all that is found.

    Raises:
        FileExistsError: a file is there.
    """
    check_places(data, test, out, sheet, overwrite)
    from ..data import open_maybe_labelled
    from . import recommendation
    from .check import check

    sources = [open_maybe_labelled(path, channels, alpha) for path in (data, test) if path is not None]
    found = check(*sources, pattern=groups, workers=worker_count(workers), say=say)
    first, why = None, ""
    try:
        facts = recommendation.facts_of(found.train, image_size)
        given = recommendation.Given(data, alpha, workers)
        first = dataclasses.replace(recommendation.recommended(facts, given), out=recommendation.free_place())
    except ValueError as error:
        why = str(error)
    size = first.image_size if first else image_size
    say("\n".join(dataclasses.replace(found, image_size=size or found.image_size).lines()))
    if sheet is not None:
        with atomic(sheet) as temporary:
            found.sheet().save(temporary)
        say(f"Wrote {sheet}: near duplicates side by side, the doubtful ones first")
    if out is not None:
        write_json(Path(out), found.content() | {"first_command": first and first.content()})
    say(f"Wrote {out}" if out else "No list was written; --out FILE.json keeps all of it.")
    if first is None:
        say(f"No command to begin with yet: {why}")
        return
    if timing:
        say(f"Timing a step of {first.method} with {first.backbone} at {counted(first.image_size, 'pixel')} ...")
        try:
            first = recommendation.timed(first, sources[0])
        except Exception as error:  # what was found holds all the same
            say(f"It could not be timed: {cut(message(error), LONGEST_MESSAGE)}")
        if out is not None:
            write_json(Path(out), found.content() | {"first_command": first.content()})
    say("\n".join(first.lines()))


def check_places(data: str, test: str | None, out: str | None, sheet: str | None, overwrite: bool) -> None:
    """Refuses images that are not there and files that cannot be written, before anything heavy is imported."""
    for name, file in (("--out", out), ("--sheet", sheet)):
        if file is not None:
            check_output(Path(file), overwrite, name)
    check_images(data, *([] if test is None else [test]))

"""The command `check`: inspects images and recommends a first command. It imports nothing heavy."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from ..columns import COLUMNS, Columns
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
    columns: Columns = COLUMNS,
    say: Callable[[str], None] = silent,
) -> None:
    """Reports sizes, formats, values, classes, duplicates and broken files of a set of images, and a first command.

    Args:
        data: a folder (scanned recursively), a list of paths (text, .csv, .tsv, .jsonl), archives (.tar, .zip), tables
            (.parquet, .arrow), an array (FILE.h5::NAME, FILE.zarr::NAME), or hf:NAME.
        test: test images: duplicates and groups that occur in both sets are reported.
        groups: regular expression that matches an image's group (a patient, a scene, a video) in its name, such as
            '^([^/]+)/'; by default the column group of a list.
        channels: number of channels of the images.
        alpha: composite images with an alpha channel on white, or drop the channel; auto decides per image, as in
            training.
        image_size: image size of a training in pixels; by default one that suits the images and this machine.
        workers: number of processes that decode images; by default one per free core, at most 8.
        timing: train for about ten seconds at the end, in a temporary folder, to estimate the duration of the
            recommended command.
        out: JSON file for the full report, with the names of all broken files and duplicates, and of the images to
            keep: --only of other commands takes it.
        sheet: picture (.png, .jpg) of near duplicates side by side, doubtful ones first: different classes, then the
            least similar.
        overwrite: replace existing files.
        columns: names of the columns of lists.
        say: called with the lines of the report.

    Raises:
        FileExistsError: an output file exists.
    """
    check_places(data, test, out, sheet, overwrite)
    from ..data import open_maybe_labelled
    from ..data.chosen import taken
    from . import recommendation
    from .check import check
    from .check_keep import kept_of

    sources = [open_maybe_labelled(path, channels, alpha, columns) for path in (data, test) if path is not None]
    found = check(*sources, pattern=groups, workers=worker_count(workers), say=say)
    first, why = None, ""
    kept = kept_of(found)
    cleaned = out is not None and 2 <= len(kept.keep) < len(found.train.source)
    try:
        facts = recommendation.facts_of(found.train, image_size)
        facts = dataclasses.replace(facts, images=len(kept.keep)) if cleaned else facts
        given = recommendation.Given(data, alpha, workers, out if cleaned else None, columns)
        first = dataclasses.replace(recommendation.recommended(facts, given), out=recommendation.free_place())
    except ValueError as error:
        why = str(error)
    size = first.image_size if first else image_size
    say("\n".join([*dataclasses.replace(found, image_size=size or found.image_size).lines(), kept.line(out)]))
    if sheet is not None:
        with atomic(sheet) as temporary:
            found.sheet().save(temporary)
        say(f"Wrote {sheet}: near duplicates side by side, doubtful ones first")
    content = kept.content() | found.content()
    if out is not None:
        write_json(Path(out), content | {"first_command": first and first.content()})
    say(f"Wrote {out}" if out else "The full report was not saved; --out FILE.json saves it.")
    if first is None:
        say(f"No first command can be recommended: {why}")
        return
    if timing:
        say(f"Timing a step of {first.method} with {first.backbone} at {counted(first.image_size, 'pixel')} ...")
        try:
            first = recommendation.timed(first, taken(sources[0], kept.keep) if cleaned else sources[0])
        except Exception as error:  # the report is valid without a timing
            say(f"Timing failed: {cut(message(error), LONGEST_MESSAGE)}")
        if out is not None:
            write_json(Path(out), content | {"first_command": first.content()})
    say("\n".join(first.lines()))


def check_places(data: str, test: str | None, out: str | None, sheet: str | None, overwrite: bool) -> None:
    """Checks that the images exist and that files can be written, before heavy imports."""
    for name, file in (("--out", out), ("--sheet", sheet)):
        if file is not None:
            check_output(Path(file), overwrite, name)
    check_images(data, *([] if test is None else [test]))

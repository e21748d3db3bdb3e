"""The file of `check` that names the images to keep, and the images of a source that it names."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ..files import read_json
from ..places import no_check
from ..printing import composed, counted, first_of, printable, shown
from .sources import Source, Subset

FORMAT: Final = 1
"""Version of the file; increase it when older versions cannot read it."""
KEEP: Final = "keep"
"""Its entry with the names of the images to keep, in the order of the data."""


def names_to_keep(path: str | os.PathLike[str]) -> list[str]:
    """The names of the images that a file of `check` proposes to keep.

    Raises:
        FileNotFoundError, ValueError: it does not exist, was not written by `check`, or is damaged.
    """
    if not os.path.isfile(path):
        raise no_check(path)
    content = read_json(Path(path), dict)
    version, names = content.get("format"), content.get(KEEP)
    if version is None or isinstance(version, bool) or not isinstance(version, int):
        raise ValueError(f"{path} has no format. Write it again with `lookalike check DATA --out FILE --overwrite`.")
    if version > FORMAT:
        raise ValueError(f"{path} has format {version}, this version reads format {FORMAT}. Update lookalike.")
    if version < FORMAT or not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(
            f"{path} has no list {KEEP} of names (found: {shown(names)}). Write it again with `lookalike check DATA "
            "--out FILE --overwrite`."
        )
    if not names:
        raise ValueError(f"{path} proposes to keep no image. Give other images.")
    return names


def only_chosen(source: Source, path: str | os.PathLike[str]) -> Source:
    """The images of a source that a file of `check` proposes to keep, in the order of the source.

    A name that the file has several times is that many images; the first ones of the source are taken.

    Raises:
        FileNotFoundError, ValueError: those of `names_to_keep`, or the source has no image of a name.
    """
    wanted = Counter(map(composed, names_to_keep(path)))
    places = []
    for i in range(len(source)):
        name = composed(source.name(i))
        if wanted[name] > 0:
            wanted[name] -= 1
            places.append(i)
    if missing := [printable(name) for name, count in wanted.items() if count > 0]:
        raise ValueError(
            f"{path} names {counted(sum(count for count in wanted.values() if count > 0), 'image')} that DATA does not "
            f"have: {first_of(missing, 3)}. Check the same DATA again, or restore them."
        )
    return taken(source, places)


def taken(source: Source, places: Sequence[int]) -> Source:
    """The images of a source at indices `places`, with their names; files remain files of their own."""
    listing = source.listing()
    if listing is None or len(places) == len(source):
        return source if len(places) == len(source) else Subset(source, places)
    names = os.fsdecode(listing).split("\0")
    return source.called([names[i] for i in places], places)

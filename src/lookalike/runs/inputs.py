"""What a run was given, by the names of its images: they may lie elsewhere when it is resumed, and must be the same.

`inputs.zip` in a run's folder holds a list of names for each set of images: those to learn from (`data`), of a probe
(`probe-train`, `probe-test`) and of a test (`test`), and the SHA-256 of the weights that it began from (`init`). Names
are what keys are made of: paths relative to the folder or list that was given, one after the other with a zero byte
between, in the order of the run. Beside each list are the digests of some of its files (`data-files`): other images
often have the same names, 1.jpg and so on.
"""

import hashlib
import io
import os
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ..printing import composed, printable

MOST_BYTES = 2**32
"""Of the names of a set of images: more than a hundred million files have."""


def packed(listings: Mapping[str, bytes]) -> bytes:
    """The content of `inputs.zip`; the same names give the same bytes."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, listing in sorted(listings.items()):
            archive.writestr(zipfile.ZipInfo(name), listing, zipfile.ZIP_DEFLATED, 1)
    return content.getvalue()


def read(path: Path) -> dict[str, bytes]:
    """The lists of names in a file; none where it is not there, as in runs of version 0.1, or cannot be read."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {each.filename: archive.read(each) for each in archive.infolist() if each.file_size <= MOST_BYTES}
    except (OSError, ValueError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error):
        return {}


def split(listing: bytes) -> tuple[str, list[str]]:
    """The folders that all names begin with, and the rest of each name."""
    names = [os.fsdecode(name) for name in listing.split(b"\0")]
    first, last = min(names), max(names)
    same = next((i for i, (a, b) in enumerate(zip(first, last)) if a != b), len(first))
    prefix = first[: first.rfind("/", 0, same) + 1]
    return prefix, [name[len(prefix) :] for name in names]


def renamed(listing: bytes, begun: bytes) -> tuple[list[str], list[int]] | None:
    """Names as a run began with them, in their order, and the places now of these images; None if they are others.

    They may lie elsewhere, and their names may be composed in another way (NFC, NFD), as after a copy by a Mac.
    """
    now, then = (list(map(composed, split(each)[1])) for each in (listing, begun))
    names = [os.fsdecode(name) for name in begun.split(b"\0")]
    if now == then:
        return names, list(range(len(now)))
    if split(listing)[1] == now and split(begun)[1] == then:  # then their order has a meaning
        return None
    places = {name: i for i, name in enumerate(now)}
    if len(places) != len(now) or sorted(now) != sorted(then):
        return None
    return names, [places[name] for name in then]


def difference(listing: bytes, begun: bytes) -> str:
    """How a set of images differs from the one that a run began with: "3 are missing (the first is a.jpg)". Or ""."""
    if renamed(listing, begun) is not None:
        return ""
    now, then = (list(map(composed, split(each)[1])) for each in (listing, begun))
    whole = [list(map(composed, os.fsdecode(both).split("\0"))) for both in (listing, begun)]
    # a single image beside all others changes what they begin with
    missing, new = min((_apart(now, then), _apart(*whole)), key=lambda found: sum(map(len, found)))
    parts = [
        f"{len(found)} {'is' if len(found) == 1 else 'are'} {what} "
        f"({'' if len(found) == 1 else 'the first is '}{printable(found[0])})"
        for found, what in ((missing, "missing"), (new, "new"))
        if found
    ]
    return " and ".join(parts) or "the same images stand in another order"


def _apart(now: Sequence[str], then: Sequence[str]) -> tuple[list[str], list[str]]:
    """The names that are missing now, and those that are new."""
    known, wanted = set(now), set(then)
    return [name for name in then if name not in known], [name for name in now if name not in wanted]


SAMPLED = 64
"""Files of a set whose content is compared: all of a small one, and few enough for slow disks."""
SAMPLED_BYTES = 2**20
"""Of the beginning of each; its size counts, too."""


def _sampled(count: int) -> list[int]:
    """Which of so many files are compared, evenly spaced."""
    some = min(count, SAMPLED)
    return [i * count // some for i in range(some)]


def names_of(part: str) -> tuple[str, str]:
    """How `inputs.zip` calls a set's names and its digests."""
    return part, f"{part}-files"


def of(part: str, listing: bytes | None, file: Callable[[int], str | None], count: int) -> dict[str, bytes]:
    """What is kept of a set of images: its names, and the SHA-256 of some of its files.

    Args:
        part: what the set is called, such as `data`.
        listing: its names; nothing is kept of images without names.
        file: gives the path of an image by its place; None where it has no file of its own.
        count: images of the set.
    """
    if listing is None:
        return {}
    names, files = names_of(part)
    return {names: listing, files: "\n".join(_digest(file(i)) for i in _sampled(count)).encode()}


def _digest(path: str | None) -> str:
    """The SHA-256 of a file's size and beginning; empty where it cannot be read, which is said where it is decoded."""
    try:
        if path is not None and os.path.isfile(path):
            with open(path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                return hashlib.sha256(b"%d " % size + file.read(SAMPLED_BYTES)).hexdigest()
    except OSError:
        pass
    return ""


def changed(part: str, now: Mapping[str, bytes], then: Mapping[str, bytes]) -> str:
    """The first image of a set that has the name it had and another content: "a.jpg is another image". Or "".

    Args:
        now, then: what is known of the set, of `of`; a run may have kept no digests.
    """
    names, files = names_of(part)
    listed = split(now[names])[1]
    new, old = (each.get(files, b"").split(b"\n") for each in (now, then))
    if len(new) == len(old):
        for i, a, b in zip(_sampled(len(listed)), new, old):
            if a and b and a != b:
                return f"{printable(listed[i])} is another image"
    return ""

"""The inputs of a run, by the names of its images: they may have moved when it is resumed, but must be the same.

`inputs.zip` in a run's folder holds a list of names for each set of images: the training images (`data`), those of a
probe (`probe-train`, `probe-test`) and of a test (`test`), and the SHA-256 of the initial weights (`init`). Names are
the source of keys: paths relative to the given folder or list, separated by a zero byte, in the order of the run. Each
list comes with the digests of some of its files (`data-files`): other images often have the same names, such as 1.jpg.
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
"""Limit for the names of a set of images; a hundred million files need less."""


def packed(listings: Mapping[str, bytes]) -> bytes:
    """The content of `inputs.zip`; the same names give the same bytes."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, listing in sorted(listings.items()):
            archive.writestr(zipfile.ZipInfo(name), listing, zipfile.ZIP_DEFLATED, 1)
    return content.getvalue()


def read(path: Path) -> dict[str, bytes]:
    """The lists of names in a file; empty if it is missing, as in runs of version 0.1, or cannot be read."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {each.filename: archive.read(each) for each in archive.infolist() if each.file_size <= MOST_BYTES}
    except (OSError, ValueError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error):
        return {}


def split(listing: bytes) -> tuple[str, list[str]]:
    """The common folder prefix of all names, and the rest of each name."""
    names = [os.fsdecode(name) for name in listing.split(b"\0")]
    first, last = min(names), max(names)
    same = next((i for i, (a, b) in enumerate(zip(first, last)) if a != b), len(first))
    prefix = first[: first.rfind("/", 0, same) + 1]
    return prefix, [name[len(prefix) :] for name in names]


def renamed(listing: bytes, begun: bytes) -> tuple[list[str], list[int]] | None:
    """The names at a run's start, in their order, and the current indices of these images; None if images differ.

    The images may have moved, and their names may have another Unicode form (NFC, NFD), as after a copy by a Mac.
    """
    now, then = (list(map(composed, split(each)[1])) for each in (listing, begun))
    names = [os.fsdecode(name) for name in begun.split(b"\0")]
    if now == then:
        return names, list(range(len(now)))
    if split(listing)[1] == now and split(begun)[1] == then:  # then their order is part of the data
        return None
    indices = {name: i for i, name in enumerate(now)}
    if len(indices) != len(now) or sorted(now) != sorted(then):
        return None
    return names, [indices[name] for name in then]


def difference(listing: bytes, begun: bytes) -> str:
    """The change of a set of images since a run's start: "3 are missing (the first is a.jpg)"; "" if unchanged."""
    if renamed(listing, begun) is not None:
        return ""
    now, then = (list(map(composed, split(each)[1])) for each in (listing, begun))
    whole = [list(map(composed, os.fsdecode(both).split("\0"))) for both in (listing, begun)]
    # one image outside of the common folder changes the prefix of all
    missing, new = min((_apart(now, then), _apart(*whole)), key=lambda found: sum(map(len, found)))
    parts = [
        f"{len(found)} {'is' if len(found) == 1 else 'are'} {state} "
        f"({'' if len(found) == 1 else 'the first is '}{printable(found[0])})"
        for found, state in ((missing, "missing"), (new, "new"))
        if found
    ]
    return " and ".join(parts) or "the same images are in another order"


def _apart(now: Sequence[str], then: Sequence[str]) -> tuple[list[str], list[str]]:
    """The missing names, and the new ones."""
    known, wanted = set(now), set(then)
    return [name for name in then if name not in known], [name for name in now if name not in wanted]


SAMPLED = 64
"""Number of files per set whose content is compared: all of a small set, and few enough for slow disks."""
SAMPLED_BYTES = 2**20
"""Bytes from the start of each that are compared, in addition to its size."""


def _sampled(count: int) -> list[int]:
    """The indices of the compared files among `count`, evenly spaced."""
    sampled = min(count, SAMPLED)
    return [i * count // sampled for i in range(sampled)]


def names_of(part: str) -> tuple[str, str]:
    """The entries of `inputs.zip` for a set's names and its digests."""
    return part, f"{part}-files"


def of(
    part: str, listing: bytes | None, head: Callable[[int, int], tuple[int, bytes] | None], count: int
) -> dict[str, bytes]:
    """What is stored of a set of images: its names, and the SHA-256 of some of its files.

    Args:
        part: the name of the set, such as `data`.
        listing: the names of its images; nothing is stored of images without names.
        head: returns the size of an image's file and its first bytes, by index and number of bytes; None without any.
        count: number of images in the set.
    """
    if listing is None:
        return {}
    names, files = names_of(part)
    return {names: listing, files: "\n".join(_digest(head(i, SAMPLED_BYTES)) for i in _sampled(count)).encode()}


def few_digests(head: Callable[[int, int], tuple[int, bytes] | None], count: int) -> bytes:
    """The SHA-256 of a few files, for all processes of a training to compare."""
    few = min(count, 8)
    return "\n".join(_digest(head(i * count // few, 2**16)) for i in range(few)).encode()


def _digest(head: tuple[int, bytes] | None) -> str:
    """The SHA-256 of a file's size and start; empty if it cannot be read, which decoding reports."""
    return "" if head is None else hashlib.sha256(b"%d " % head[0] + head[1]).hexdigest()


def changed(part: str, now: Mapping[str, bytes], then: Mapping[str, bytes]) -> str:
    """The first image with an unchanged name and other content: "a.jpg is another image"; "" if there is none.

    Args:
        now, then: results of `of` for the set; a run may have stored no digests.
    """
    names, files = names_of(part)
    listed = split(now[names])[1]
    new, old = (each.get(files, b"").split(b"\n") for each in (now, then))
    if len(new) == len(old):
        for i, a, b in zip(_sampled(len(listed)), new, old):
            if a and b and a != b:
                return f"{printable(listed[i])} is another image"
    return ""

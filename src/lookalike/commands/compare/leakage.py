"""Test images that are also training images."""

import os
from collections.abc import Mapping
from contextlib import suppress

from ...data import Source


def shared_images(source: Source, tests: Mapping[str, Source]) -> dict[str, int]:
    """The number of images of each test that are also in `source`: the same files, after following links.

    Copies count as different files; `lookalike check` finds those. Reads file metadata only, not contents.

    Args:
        source: the training images.
        tests: the test images, by the name of the test.

    Returns:
        The counts above 0, by name.
    """
    files = {name: _files(test) for name, test in tests.items()}
    training = _files(source) if any(files.values()) else set()
    return {name: len(found) for name, test in files.items() if (found := test & training)}


def _files(source: Source) -> set[tuple[int, int]]:
    """The images' files, as (device, inode)."""
    found = set()
    for i in range(len(source)):
        if (path := source.file(i)) is not None:
            with suppress(OSError):  # unreadable files are reported when they are decoded
                status = os.stat(path)
                found.add((status.st_dev, status.st_ino))
    return found

"""Test images among those that methods learn from."""

import os
from collections.abc import Mapping
from contextlib import suppress

from ...data import Source


def shared_images(source: Source, tests: Mapping[str, Source]) -> dict[str, int]:
    """How many of each test's images are also in `source`: the same files, whatever links lead to them.

    Copies are other files; `lookalike check` finds those. One look at each file's entry, none at its content.

    Args:
        source: the images to learn from.
        tests: the test images, by the names of their sets.

    Returns:
        The counts above 0, by name.
    """
    files = {name: _files(test) for name, test in tests.items()}
    learnt = _files(source) if any(files.values()) else set()
    return {name: len(found) for name, test in files.items() if (found := test & learnt)}


def _files(source: Source) -> set[tuple[int, int]]:
    """The images' files, by device and number."""
    found = set()
    for i in range(len(source)):
        if (path := source.file(i)) is not None:
            with suppress(OSError):  # one that cannot be read is reported when it is
                status = os.stat(path)
                found.add((status.st_dev, status.st_ino))
    return found

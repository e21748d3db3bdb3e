"""One image per frame of DICOM files: `scan.dcm#1`, `scan.dcm#2`; files without pixels are left out and counted."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from ...printing import counted, printable, warn
from ...progress import counting
from .. import dicom


@dataclass(frozen=True)
class Frames:
    """Paths with one entry per image."""

    paths: list[str]
    rows: list[int]
    """Index of each image's file among the given ones."""
    notes: list[str]
    """What was left out."""


def frames_of(root: str, paths: Sequence[str]) -> Frames:
    """The images in files below `root`: of a DICOM file with several frames each frame, of all others the file itself.

    Raises:
        ValueError: no image is left.
    """
    scans = sum(path.lower().endswith(dicom.SUFFIXES) for path in paths)
    if not scans or not dicom.is_installed():
        return Frames([*paths], [*range(len(paths))], [])
    found, rows, without, done = list[str](), list[int](), list[str](), 0
    progress = counting(warn, "frames: ", "DICOM files")
    for row, path in enumerate(paths):
        count: int | None = 1
        if path.lower().endswith(dicom.SUFFIXES):
            count, done = dicom.frames(os.path.join(root, path)), done + 1
            progress(done, scans)
        if count is None:
            without.append(path)
            continue
        found += [path] if count == 1 else [f"{path}#{frame}" for frame in range(1, count + 1)]
        rows += [row] * count
    notes = []
    if without:
        notes.append(f"skipped: {counted(len(without), 'DICOM file')} without pixels, such as {printable(without[0])}")
    if not found:
        raise ValueError(f"{root} contains no images ({notes[0]}). Give a folder with images.")
    return Frames(found, rows, notes)

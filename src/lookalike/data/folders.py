"""What lies in a folder: images, and what is passed over."""

import heapq
import os
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from ..printing import counted, printable
from .decoding import SUFFIXES

_SYSTEMS: Final = frozenset(
    ("@eadir", "@tmp", "@recycle", "@recently-snapshot", "@sharebin", "@appstore", "@database", "@synoresource",
     "#recycle", "#snapshot", "~snapshot", "$recycle.bin", "recycler", "recycled", "found.000", "_gsdata_",
     "system volume information", "__macosx", "lost+found", "network trash folder", "temporary items")
)  # fmt: skip
"""Names, in small letters, of folders in which NAS and systems keep thumbnails, old versions and what was deleted."""
_SYSTEM_FILES: Final = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"})
_SUFFIX: Final = re.compile(r"\.(?=\w*[a-z])\w{1,12}", re.ASCII)
"""What ends a name as a suffix: numbers (scan.0001, the identifiers of DICOM files) and other words do not."""
_NO_IMAGES: Final = frozenset(
    (".csv", ".tsv", ".txt", ".md", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".html", ".htm", ".pdf", ".log", ".ini",
     ".toml", ".cfg", ".py", ".ipynb", ".sh", ".zip", ".gz", ".tar.gz", ".tar", ".parquet", ".xlsx", ".docx", ".pt",
     ".pth", ".ckpt", ".safetensors", ".db")
)  # fmt: skip
"""Suffixes of files beside images, about which nothing is to be done."""

_CONVERT: Final = (
    "Convert images among them to PNG or TIFF; those with other names are read where DATA is a text file of their paths"
)


@dataclass
class Scanned:
    """What lies below a folder."""

    images: list[str] = field(default_factory=list)
    linked: dict[str, str] = field(default_factory=dict)
    """Linked folders that are passed over, with the one that was read."""
    others: Counter[str] = field(default_factory=Counter)
    """Files that are no images by their names, by suffix."""
    hidden: Counter[str] = field(default_factory=Counter)
    """Hidden files and folders, and files of systems, by name."""
    systems: Counter[str] = field(default_factory=Counter)
    """Folders of systems, by name."""
    runs: int = 0
    """Folders of runs, whose pictures are none of the data."""

    def notes(self) -> list[str]:
        """What was passed over, a line each."""
        lines = [f"passed over: {passed}"] if (passed := self.passed()) else []
        if self.to_convert():
            lines[0] += f". {_CONVERT}"
        if self.linked:
            link, there = next(iter(self.linked.items()))
            one = len(self.linked) == 1
            lines.append(
                (
                    "1 linked folder leads to a folder that is read already, and is passed over"
                    if one
                    else f"{len(self.linked)} linked folders lead to folders that are read already, and are passed over"
                )
                + f": {link} is {there or '.'}"
                + ("" if one else ", ...")
            )
        return lines

    def to_convert(self) -> bool:
        """Whether some of the files that are no images by their names may be images."""
        return bool(self.others.keys() - _NO_IMAGES)

    def passed(self) -> str:
        """All that was passed over, in words; empty for nothing."""
        parts = [_counted(self.others, 8)] if self.others else []
        parts += [f"{self.hidden.total()} hidden or of a system ({_named(self.hidden)})"] if self.hidden else []
        parts += [f"folders of systems ({_counted(self.systems, 5)})"] if self.systems else []
        parts += [f"{counted(self.runs, 'folder')} of runs"] if self.runs else []
        return ", ".join(parts)


def _counted(names: Counter[str], most: int) -> str:
    """The most frequent names with their counts."""
    ordered = sorted(names.items(), key=lambda pair: (-pair[1], pair[0]))
    rest = sum(count for _, count in ordered[most:])
    return ", ".join(f"{count} {printable(name)}" for name, count in ordered[:most]) + (
        f", {counted(rest, 'other')}" * bool(rest)
    )


def _named(names: Counter[str]) -> str:
    return ", ".join(map(printable, sorted(names)[:3])) + (", ..." if len(names) > 3 else "")


def scan(root: str, system_folders: bool) -> Scanned:
    """All images below `root`, sorted, and what is passed over.

    Each folder is entered once, whatever links lead to it: by the way with the fewest links, then the shortest, then
    the first in the order of names. So links neither multiply images nor lead in circles.
    """
    found = Scanned()
    entered: dict[tuple[int, int] | str, str] = {}
    ways = [(0, 0, "")]  # links, folders, path
    while ways:
        links, depth, prefix = heapq.heappop(ways)
        folder = os.path.join(root, prefix)
        status = os.stat(folder)
        here = (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(folder)
        if here in entered:
            found.linked[prefix] = entered[here]
            continue
        entered[here] = prefix
        if prefix and os.path.isfile(f"{folder}run.yaml") and os.path.isdir(f"{folder}checkpoints"):
            found.runs += 1
            continue
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name.lower() in _SYSTEM_FILES:
                    found.hidden[entry.name] += 1
                # a link that leads nowhere or to itself is a file that cannot be read
                elif os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir():
                    if entry.name.lower() in _SYSTEMS and not system_folders:
                        found.systems[entry.name] += 1
                    else:
                        heapq.heappush(ways, (links + entry.is_symlink(), depth + 1, f"{prefix}{entry.name}/"))
                elif (suffix := os.path.splitext(entry.name)[1].lower())[1:] in SUFFIXES:
                    found.images.append(prefix + entry.name)
                else:
                    if suffix == ".gz":  # of .nii.gz and .tar.gz the first part tells more
                        before = os.path.splitext(entry.name[:-3])[1].lower()
                        suffix = before * bool(_SUFFIX.fullmatch(before)) + suffix
                        found.others[suffix] += 1
                    else:
                        found.others[suffix if _SUFFIX.fullmatch(suffix) else "without suffix"] += 1
    if not found.images:
        passed = found.passed()
        raise ValueError(
            f"{root} holds no image, {f'but {passed}' if passed else 'and no files at all'}. "
            f"{f'{_CONVERT}. Or give' if found.to_convert() else 'Give'} a folder with images "
            "(.jpg, .png, .tif, .webp, .npy ...)."
        )
    found.images.sort()
    return found

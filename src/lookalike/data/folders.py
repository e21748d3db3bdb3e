"""Scans a folder for images and records what is skipped."""

import heapq
import os
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from ..printing import counted, printable
from . import plugins
from .decoding import SUFFIXES

_SYSTEMS: Final = frozenset(
    ("@eadir", "@tmp", "@recycle", "@recently-snapshot", "@sharebin", "@appstore", "@database", "@synoresource",
     "#recycle", "#snapshot", "~snapshot", "$recycle.bin", "recycler", "recycled", "found.000", "_gsdata_",
     "system volume information", "__macosx", "lost+found", "network trash folder", "temporary items")
)  # fmt: skip
"""Lower-case names of folders in which NAS and operating systems store thumbnails, old versions and deleted files."""
_SYSTEM_FILES: Final = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"})
_SUFFIX: Final = re.compile(r"\.(?=\w*[a-z])\w{1,12}", re.ASCII)
"""A file suffix: it contains a letter, unlike scan.0001 and the identifiers of DICOM files."""
_NO_IMAGES: Final = frozenset(
    (".csv", ".tsv", ".txt", ".md", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".html", ".htm", ".pdf", ".log", ".ini",
     ".toml", ".cfg", ".py", ".ipynb", ".sh", ".zip", ".gz", ".tar.gz", ".tar", ".parquet", ".xlsx", ".docx", ".pt",
     ".pth", ".ckpt", ".safetensors", ".db")
)  # fmt: skip
"""Suffixes of files that often accompany images and need no conversion."""

_CONVERT: Final = (
    "Convert images among them to PNG or TIFF. To read images with other suffixes, list their paths in a text file and "
    "give it as DATA"
)


def is_system_folder(name: str) -> bool:
    """Whether a folder of this name holds thumbnails, old versions or deleted files of a system."""
    return name.lower() in _SYSTEMS


@dataclass
class Scanned:
    """Contents of a folder and its subfolders."""

    images: list[str] = field(default_factory=list)
    linked: dict[str, str] = field(default_factory=dict)
    """Symbolic links to folders that were skipped -> the path under which the same folder was read."""
    others: Counter[str] = field(default_factory=Counter)
    """Files without an image suffix, by suffix."""
    hidden: Counter[str] = field(default_factory=Counter)
    """Hidden files and folders, and system files, by name."""
    systems: Counter[str] = field(default_factory=Counter)
    """System folders, by name."""
    runs: int = 0
    """Run folders, whose pictures are not data."""

    def notes(self) -> list[str]:
        """What was skipped, one line each."""
        lines = [f"skipped: {skipped}"] if (skipped := self.skipped()) else []
        if advice := plugins.advice(self.others):
            lines[0] += f". {advice}"
        if self.to_convert():
            lines[0] += f". {_CONVERT}"
        if self.linked:
            link, there = next(iter(self.linked.items()))
            one = len(self.linked) == 1
            lines.append(
                (
                    "1 linked folder was skipped because its target is read already"
                    if one
                    else f"{len(self.linked)} linked folders were skipped because their targets are read already"
                )
                + f": {link} is {there or '.'}"
                + ("" if one else ", ...")
            )
        return lines

    def to_convert(self) -> bool:
        """Whether some of the files without an image suffix may be images."""
        readable = {f".{suffix}" for suffix in plugins.OPTIONAL}
        return bool(self.others.keys() - _NO_IMAGES - readable)

    def skipped(self) -> str:
        """Everything that was skipped, as a comma-separated text; empty if nothing was."""
        parts = [_counted(self.others, 8)] if self.others else []
        parts += [f"{self.hidden.total()} hidden or system files ({_named(self.hidden)})"] if self.hidden else []
        parts += [f"system folders ({_counted(self.systems, 5)})"] if self.systems else []
        parts += [counted(self.runs, "run folder")] if self.runs else []
        return ", ".join(parts)


def _counted(names: Counter[str], limit: int) -> str:
    """The `limit` most frequent names with their counts."""
    ordered = sorted(names.items(), key=lambda pair: (-pair[1], pair[0]))
    rest = sum(count for _, count in ordered[limit:])
    return ", ".join(f"{count} {printable(name)}" for name, count in ordered[:limit]) + (
        f", {counted(rest, 'other')}" * bool(rest)
    )


def _named(names: Counter[str]) -> str:
    return ", ".join(map(printable, sorted(names)[:3])) + (", ..." if len(names) > 3 else "")


def scan(root: str, system_folders: bool) -> Scanned:
    """All images below `root`, sorted, and what was skipped.

    Each folder is visited once, even if several symbolic links point to it: by the path with the fewest links, then
    the shortest, then the first by name. So links neither duplicate images nor cause infinite loops.
    """
    found = Scanned()
    entered: dict[tuple[int, int] | str, str] = {}
    queue = [(0, 0, "")]  # links, folders, path
    while queue:
        links, depth, prefix = heapq.heappop(queue)
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
                # a dangling or circular link counts as an unreadable file
                elif os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir():
                    if is_system_folder(entry.name) and not system_folders:
                        found.systems[entry.name] += 1
                    else:
                        heapq.heappush(queue, (links + entry.is_symlink(), depth + 1, f"{prefix}{entry.name}/"))
                elif (suffix := os.path.splitext(entry.name)[1].lower())[1:] in SUFFIXES:
                    found.images.append(prefix + entry.name)
                else:
                    if suffix == ".gz":  # the inner suffix of .nii.gz and .tar.gz is more informative
                        before = os.path.splitext(entry.name[:-3])[1].lower()
                        suffix = before * bool(_SUFFIX.fullmatch(before)) + suffix
                        found.others[suffix] += 1
                    else:
                        found.others[suffix if _SUFFIX.fullmatch(suffix) else "without suffix"] += 1
    if not found.images:
        skipped = found.skipped()
        raise ValueError(
            f"{root} contains no images, {f'but {skipped}' if skipped else 'and no files at all'}. "
            f"{f'{advice}. ' if (advice := plugins.advice(found.others)) else ''}"
            f"{f'{_CONVERT}. Or give' if found.to_convert() else 'Give'} a folder with images "
            "(.jpg, .png, .tif, .webp, .npy ...)."
        )
    found.images.sort()
    return found

"""Disk cache of a frozen teacher's features, filled on demand and reused by later runs."""

import errno
import json
import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from ..devices import moved
from ..files import atomic, check_writable, locked, named, not_through_links, read_json
from ..printing import brief, size_of, warn
from ..random import key_of

_FORMAT: Final = 1  # version of the file format
_FRACTION: Final = 0.9  # of the free disk
_DTYPES: Final[dict[torch.dtype, np.dtype[np.floating]]] = {
    torch.float32: np.dtype(np.float32),
    torch.float16: np.dtype(np.float16),
}


class Answers:
    """Feature vectors, `turns` per image; missing or damaged ones are computed on demand.

    Several processes of one machine may read and write the same file.

    Args:
        folder: folder of the files.
        name: everything that the features depend on; each name has its own file.
        images: number of images.
        turns: number of feature vectors per image, one for each repetition of its views.
        width: dimension of a vector.
        dtype: float32, or float16 for half the disk space.

    Raises:
        ValueError: the features would not fit on the disk, or the file is incomplete or belongs to another name.
        OSError: the folder is not writable.
    """

    def __init__(self, folder: Path, name: str, images: int, turns: int, width: int, dtype: torch.dtype) -> None:
        self.head = {"format": _FORMAT, "name": name, "images": images, "turns": turns, "width": width,
                     "dtype": _DTYPES[dtype].name}  # fmt: skip
        self.images = images
        self.shape = images * turns, width
        self.dtype = dtype
        stem = f"{key_of(name, images, turns) & (2**64 - 1):016x}"
        self.card, self.values, self.sums, self.lock = (
            folder / f"{stem}.{kind}" for kind in ("answers.json", "answers", "sums", "lock")
        )
        self._row = width * _DTYPES[dtype].itemsize
        """Bytes per row."""
        if self.card.is_file():
            self._check()
        else:
            check_writable(self.card, "--cache-dir")
            self._check_room()
        self._rows: np.ndarray | None = None
        self._sums: np.ndarray | None = None
        self._sound = np.zeros(self.shape[0], np.bool_)
        """Rows whose checksum this process has verified."""

    def recall(
        self, index: Tensor, turn: int, ask: Callable[[Tensor], Tensor], device: torch.device | None = None
    ) -> Tensor:
        """Float32 features (B, W) of the images with indices `index` (B,), on `device` (default: that of `index`).

        If a row is missing, `ask` is called with the rows (B,) of the whole batch: in a smaller batch, the features may
        differ in the last bits, and a run killed in the middle of a batch would not resume identically. Missing rows
        of its result (B, W) are stored; stored rows never change. All rows are returned as read back from the file, so
        that they are the same in this epoch and the next. Rows that are not finite in the file's precision are
        returned but not stored.
        """
        device = device or index.device
        slots = turn * self.images + index.cpu().numpy()
        rows, sums = self._opened()
        computed: Tensor | None = None
        if not all(self._is_stored(rows, sums, slot) for slot in slots):
            computed = ask(torch.arange(len(slots), device=device))
            rounded = computed.to(self.dtype).cpu().numpy()
            for slot, row in zip(slots, rounded):
                if np.isfinite(row).all() and not self._is_stored(rows, sums, slot):
                    self._store(int(slot), row)
        cached = moved(torch.from_numpy(rows[slots]), device).float()
        stored = torch.tensor([self._is_stored(rows, sums, slot) for slot in slots])
        return (
            cached
            if computed is None or bool(stored.all())
            else torch.where(moved(stored, device)[:, None], cached, computed.float())
        )

    def _is_stored(self, rows: np.ndarray, sums: np.ndarray, slot: int) -> bool:
        if not self._sound[slot]:
            self._sound[slot] = bool(sums[slot]) and int(sums[slot]) == _sum(rows[slot])
        return bool(self._sound[slot])

    def _store(self, slot: int, row: np.ndarray) -> None:
        # not through the memory map, where a full disk would kill the process instead of raising an error
        for path, start, content in (
            (self.values, slot * self._row, row.tobytes()),
            (self.sums, 8 * slot, np.int64(_sum(row)).tobytes()),
        ):
            with named(path):
                handle = not_through_links(path, os.O_WRONLY)
                try:
                    written = os.pwrite(handle, content, start)
                finally:
                    os.close(handle)
                if written != len(content):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._sound[slot] = True

    def _opened(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows and checksums; creates the files if they are missing."""
        if self._rows is None or self._sums is None:
            if not self.card.is_file():
                with locked(self.lock, wait=warn):
                    if not self.card.is_file():
                        self._create()
            self._check()
            with named(self.values):
                self._rows = np.memmap(self.values, _DTYPES[self.dtype], "r", shape=self.shape)
                self._sums = np.memmap(self.sums, np.int64, "r", shape=self.shape[:1])
        return self._rows, self._sums

    def _check(self) -> None:
        head = read_json(self.card, dict)
        if head != self.head:
            raise ValueError(
                f"{self.card} belongs to another teacher, other images or other views: found "
                f"{brief(head.get('name'))}, expected {self.head['name']}. Remove it, or give another --cache-dir."
            )
        for path, size in ((self.values, self._row * self.shape[0]), (self.sums, 8 * self.shape[0])):
            if not path.is_file() or path.stat().st_size != size:
                raise ValueError(f"{path} does not have the size stated in {self.card}. Remove both to rebuild them.")

    def _check_room(self) -> None:
        existing = next(p for p in self.card.absolute().parents if p.exists())
        need, free = self.shape[0] * (self._row + 8), shutil.disk_usage(existing).free
        if need > _FRACTION * free:
            raise ValueError(
                f"The teacher features take {size_of(need)}, but {self.card.parent} has only {size_of(free)} free. "
                "Omit patches (--patch-weight 0), give another --cache-dir, or omit --cache-teacher."
            )

    def _create(self) -> None:
        self.card.parent.mkdir(parents=True, exist_ok=True)
        for path, size in ((self.values, self._row * self.shape[0]), (self.sums, 8 * self.shape[0])):
            with named(path), open(path, "wb", opener=not_through_links) as file:
                file.truncate(size)  # sparse: takes no disk space until it is written to
                os.fsync(file.fileno())
        with atomic(self.card) as temporary:
            temporary.write_text(json.dumps(self.head))


def _sum(row: np.ndarray) -> int:
    """A checksum that is never 0, which marks a missing row."""
    return zlib.crc32(row.tobytes()) + 1

"""What a frozen network said of images, in a file that grows as they are asked for and that later runs find again."""

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

_FORMAT: Final = 1
_SHARE: Final = 0.9  # of the free disk
_DTYPES: Final[dict[torch.dtype, np.dtype[np.floating]]] = {
    torch.float32: np.dtype(np.float32),
    torch.float16: np.dtype(np.float16),
}


class Answers:
    """Rows of numbers, `turns` for each image; one that is not there yet, or is damaged, is asked for.

    Several processes of one machine may read and write the same file.

    Args:
        folder: where the files lie.
        name: all that the rows depend on: another name means another file.
        images: how many there are.
        turns: different rows that an image has.
        width: numbers in a row.
        dtype: float32, or float16 for half the room.

    Raises:
        ValueError: they would not fit on the disk, or the file of this name is another one's, or is not whole.
        OSError: the folder cannot be written to.
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
        """Bytes of a row."""
        if self.card.is_file():
            self._check()
        else:
            check_writable(self.card, "--cache-dir")
            self._check_room()
        self._rows: np.ndarray | None = None
        self._sums: np.ndarray | None = None
        self._sound = np.zeros(self.shape[0], np.bool_)
        """Rows that this process has seen to be whole."""

    def recall(
        self, index: Tensor, turn: int, ask: Callable[[Tensor], Tensor], device: torch.device | None = None
    ) -> Tensor:
        """The rows (B, W) of images, by their places (B,), in float32, on `device`, or else that of `index`.

        Where a row is not there `ask` is called with the rows (B,) of the whole batch: among fewer others a network's
        answer may differ in its last bits, and a training that was killed in the middle of a batch would go on
        otherwise. What of its answer (B, W) is not there is kept. What is there never changes, and all is returned as
        it is read back, so that it is the same in this epoch and the next. What is not finite in the file's precision
        is returned and not kept.
        """
        device = device or index.device
        places = turn * self.images + index.cpu().numpy()
        rows, sums = self._opened()
        asked: Tensor | None = None
        if not all(self._known(rows, sums, place) for place in places):
            asked = ask(torch.arange(len(places), device=device))
            fresh = asked.to(self.dtype).cpu().numpy()
            for place, row in zip(places, fresh):
                if np.isfinite(row).all() and not self._known(rows, sums, place):
                    self._keep(int(place), row)
        kept = moved(torch.from_numpy(rows[places]), device).float()
        known = torch.tensor([self._known(rows, sums, place) for place in places])
        return (
            kept
            if asked is None or bool(known.all())
            else torch.where(moved(known, device)[:, None], kept, asked.float())
        )

    def _known(self, rows: np.ndarray, sums: np.ndarray, place: int) -> bool:
        if not self._sound[place]:
            self._sound[place] = bool(sums[place]) and int(sums[place]) == _sum(rows[place])
        return bool(self._sound[place])

    def _keep(self, place: int, row: np.ndarray) -> None:
        # not through the map: a full disk would end the process there, and is an error here
        for path, start, content in (
            (self.values, place * self._row, row.tobytes()),
            (self.sums, 8 * place, np.int64(_sum(row)).tobytes()),
        ):
            with named(path):
                handle = not_through_links(path, os.O_WRONLY)
                try:
                    written = os.pwrite(handle, content, start)
                finally:
                    os.close(handle)
                if written != len(content):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._sound[place] = True

    def _opened(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows and checksums; the files are made where they are not there."""
        if self._rows is None or self._sums is None:
            if not self.card.is_file():
                with locked(self.lock, wait=warn):
                    if not self.card.is_file():
                        self._make()
            self._check()
            with named(self.values):
                self._rows = np.memmap(self.values, _DTYPES[self.dtype], "r", shape=self.shape)
                self._sums = np.memmap(self.sums, np.int64, "r", shape=self.shape[:1])
        return self._rows, self._sums

    def _check(self) -> None:
        head = read_json(self.card, dict)
        if head != self.head:
            raise ValueError(
                f"{self.card} belongs to another teacher, other images or other views: it is for "
                f"{brief(head.get('name'))}, and {self.head['name']} was expected. Remove it, or give another "
                "--cache-dir."
            )
        for path, size in ((self.values, self._row * self.shape[0]), (self.sums, 8 * self.shape[0])):
            if not path.is_file() or path.stat().st_size != size:
                raise ValueError(f"{path} is not whole, as {self.card} describes it. Remove both, to have them anew.")

    def _check_room(self) -> None:
        there = next(p for p in self.card.absolute().parents if p.exists())
        need, free = self.shape[0] * (self._row + 8), shutil.disk_usage(there).free
        if need > _SHARE * free:
            raise ValueError(
                f"The teacher's answers take {size_of(need)}, and {self.card.parent} has {size_of(free)} "
                "free. Leave patches out (--patch-weight 0), give another --cache-dir, or leave --cache-teacher out."
            )

    def _make(self) -> None:
        self.card.parent.mkdir(parents=True, exist_ok=True)
        for path, size in ((self.values, self._row * self.shape[0]), (self.sums, 8 * self.shape[0])):
            with named(path), open(path, "wb", opener=not_through_links) as file:
                file.truncate(size)  # takes no room until it is written to
                os.fsync(file.fileno())
        with atomic(self.card) as temporary:
            temporary.write_text(json.dumps(self.head))


def _sum(row: np.ndarray) -> int:
    """A checksum that is never 0, which stands for a row that is not there."""
    return zlib.crc32(row.tobytes()) + 1

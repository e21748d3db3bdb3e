"""What a frozen network said of images, in a file that grows as they are asked for and that later runs find again."""

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

from ..random import key_of
from ..runs import atomic, check_writable, locked, named

_FORMAT: Final = 1
_SHARE: Final = 0.9  # of the free disk
_DTYPES: Final = {torch.float32: np.float32, torch.float16: np.float16}


class Answers:
    """Rows of numbers, `turns` for each image; one that is not there yet, or is damaged, is asked for.

    Several processes of one machine may read and write the same file.

    Args:
        folder: where the files lie.
        name: all that the rows depend on: another name means another file.
        images: how many there are.
        turns: different rows that an image has.
        dtype: float32, or float16 for half the room.
    """

    def __init__(self, folder: Path, name: str, images: int, turns: int, dtype: torch.dtype) -> None:
        self.head = {"format": _FORMAT, "name": name, "images": images, "turns": turns}
        self.images = images
        self.turns = turns
        self.dtype = dtype
        stem = f"{key_of(name, images, turns) & (2**64 - 1):016x}"
        self.card, self.values, self.sums, self.lock = (
            folder / f"{stem}.{kind}" for kind in ("answers.json", "answers", "sums", "lock")
        )
        if not self.card.is_file():
            check_writable(self.card)
        self._rows: np.ndarray | None = None
        self._sums: np.ndarray | None = None

    def recall(self, index: Tensor, turn: int, ask: Callable[[Tensor], Tensor]) -> Tensor:
        """The rows (B, W) of images, by their places (B,), on the device of `index`.

        `ask` is called with the rows (n,) of this batch that are not there, if there are any; its answer (n, W) is kept
        and returned as it is read back, so that it is the same in this epoch and the next.
        """
        places = turn * self.images + index.cpu().numpy()
        if self._rows is None:
            self._open(None)
        missing = np.array([row for row, place in enumerate(places) if not self._known(place)], np.int64)
        if len(missing):
            fresh = ask(torch.from_numpy(missing).to(index.device)).to(self.dtype).cpu().numpy()
            self._open(fresh.shape[1])
            assert self._rows is not None
            assert self._sums is not None
            with named(self.values):
                self._rows[places[missing]] = fresh
                self._sums[places[missing]] = [_sum(row) for row in fresh]
        assert self._rows is not None
        return torch.from_numpy(self._rows[places]).to(index.device, torch.float32)

    def _known(self, place: int) -> bool:
        if self._rows is None or self._sums is None or not self._sums[place]:
            return False
        return int(self._sums[place]) == _sum(self._rows[place])

    def _open(self, width: int | None) -> None:
        """Opens the files; makes them, for rows of `width` numbers, where they are not there."""
        if self._rows is not None:
            return
        if not self.card.is_file():
            if width is None:
                return
            with locked(self.lock, wait=True):
                if not self.card.is_file():
                    self._make(width)
        head = json.loads(self.card.read_text())
        if {name: head.get(name) for name in self.head} != self.head:
            raise ValueError(
                f"{self.card} belongs to another teacher, other images or other views: it is for {head.get('name')}, "
                f"and {self.head['name']} was expected. Remove it, or give another --cache-dir."
            )
        shape = (self.images * self.turns, int(head["width"]))
        dtype = np.dtype(head["dtype"])
        for path, size in ((self.values, dtype.itemsize * shape[0] * shape[1]), (self.sums, 8 * shape[0])):
            if not path.is_file() or path.stat().st_size != size:
                raise ValueError(f"{path} is not whole, as {self.card} describes it. Remove both, to have them anew.")
        with named(self.values):
            self._rows = np.memmap(self.values, dtype, "r+", shape=shape)
            self._sums = np.memmap(self.sums, np.int64, "r+", shape=shape[:1])
        self.dtype = torch.float16 if dtype == np.float16 else torch.float32

    def _make(self, width: int) -> None:
        rows = self.images * self.turns
        dtype = np.dtype(_DTYPES[self.dtype])
        need = rows * (width * dtype.itemsize + 8)
        self.card.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.card.parent).free
        if need > _SHARE * free:
            raise ValueError(
                f"The teacher's answers take {need / 2**30:.3g} GiB, and {self.card.parent} has {free / 2**30:.3g} GiB "
                "free. Leave patches out (--patch-weight 0), give another --cache-dir, or leave --cache-teacher out."
            )
        for path, size in ((self.values, rows * width * dtype.itemsize), (self.sums, 8 * rows)):
            with named(path), open(path, "wb") as file:
                file.truncate(size)  # takes no room until it is written to
                os.fsync(file.fileno())
        with atomic(self.card) as temporary:
            temporary.write_text(json.dumps({**self.head, "width": width, "dtype": dtype.name}))


def _sum(row: np.ndarray) -> int:
    """A checksum that is never 0, which stands for a row that is not there."""
    return zlib.crc32(row.tobytes()) + 1

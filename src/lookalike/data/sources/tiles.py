"""Tiles of large frames: each frame of a source becomes several images, named by their position."""

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ...image_options import Pixels, Tiling
from ...printing import counted, warn
from ...progress import counting
from ...random import keys_of
from ..errors import BrokenImage
from ..tensors import shrunk
from .categorical import Categorical
from .source import Source


class Tiles(Source):
    """The tiles of a source's images, the frames, row by row.

    The last tile of a row or column ends at the border of its frame. A frame smaller than a tile is one tile. A frame
    whose size is unknown is one tile, too, which cannot be read and counts as a broken image.
    """

    def __init__(self, frames: Source, tiling: Tiling) -> None:
        self.frames, self.tiling = frames, tiling
        self.pixels, self.channels = frames.pixels, frames.channels
        self.system_folders = frames.system_folders
        self._kept: tuple[int, Tensor] | None = None
        owners: list[np.ndarray] = []
        corners: list[np.ndarray] = []
        self._sizes = np.zeros((len(frames), 2), np.int64)
        progress = counting(warn, "tiles: ", "frames", unit="frames")
        for i in range(len(frames)):
            progress(i, len(frames))
            size = frames.size(i) or _decoded_size(frames, i)
            self._sizes[i] = size or (0, 0)
            ys, xs = (positions(side, tiling) for side in size or (0, 0))
            corners.append(np.stack(np.meshgrid(ys, xs, indexing="ij"), -1).reshape(-1, 2))
            owners.append(np.full(len(corners[-1]), i))
        self._set(np.concatenate(owners), np.concatenate(corners))

    def _set(self, owners: np.ndarray, corners: np.ndarray) -> None:
        """The frame, and top and left, of each tile."""
        self._owners, self._corners = owners, corners
        frames = torch.from_numpy(owners)
        self.take_columns(self.frames, frames)
        if self.groups is None:  # tiles of one frame belong together
            names = Categorical.of([self.frames.name(i) for i in range(len(self.frames))])
            self.groups = dataclasses.replace(names, are_frames=True).at(frames)
        places = torch.from_numpy(corners)
        self._keys = keys_of(self.frames.keys[frames], places[:, 0], places[:, 1])

    def __getstate__(self) -> dict[str, object]:
        """Without the decoded frame."""
        return {**vars(self), "_kept": None}

    def __len__(self) -> int:
        return len(self._owners)

    @property
    def keys(self) -> Tensor:
        return self._keys

    def name(self, i: int) -> str:
        top, left = self._corners[i]
        return f"{self.frames.name(int(self._owners[i]))}@{top},{left}"

    def box(self, i: int) -> tuple[int, int, int, int]:
        """Top, left, height and width of a tile in its frame."""
        top, left = map(int, self._corners[i])
        height, width = (min(self.tiling.size, int(side)) for side in self._sizes[int(self._owners[i])])
        return top, left, height, width

    def read(self, i: int, decode_size: int | None) -> Tensor:
        frame, (top, left, height, width) = int(self._owners[i]), self.box(i)
        try:
            tile = self.frames.read_box(frame, (top, left, height, width)) if height else None
            if tile is None:
                tile = self._frame(frame)[:, top : top + height or None, left : left + width or None]
        except BrokenImage as error:
            raise BrokenImage(self.name(i), error.reason) from error
        if height and tuple(tile.shape[1:]) != (height, width):
            rows, columns = self._sizes[frame]
            raise BrokenImage(self.name(i), f"its frame has not the {columns} x {rows} pixels that its header states")
        return shrunk(tile, decode_size, int(self._keys[i])).contiguous()

    def _frame(self, frame: int) -> Tensor:
        """A whole frame; the last one stays decoded, since its tiles are often read one after the other."""
        if self._kept is None or self._kept[0] != frame:
            self._kept = None
            self._kept = frame, self.frames.read(frame, None)
        return self._kept[1]

    def reading(self, pixels: Pixels) -> "Tiles":
        other = Tiles.__new__(Tiles)
        vars(other).update(vars(self))
        other.frames, other._kept = self.frames.reading(pixels), None
        other.pixels, other.channels = pixels, pixels.channels
        return other

    def missing(self) -> str:
        return self.frames.missing()

    def version(self) -> str:
        tiles = hashlib.blake2b(self._corners.tobytes() + self._owners.tobytes(), digest_size=16).hexdigest()
        return f"{self.frames.version()} {self.tiling} {tiles}"

    def kind(self, i: int) -> str:
        return self.frames.kind(int(self._owners[i]))

    def notes(self) -> list[str]:
        line = f"{counted(len(self), 'tile')} of {counted(len(self.frames), 'frame')} ({self.tiling})"
        return [*self.frames.notes(), line]


def _decoded_size(frames: Source, i: int) -> tuple[int, int] | None:
    """Height and width of a frame; None if it cannot be read."""
    try:
        height, width = frames.read(i, None).shape[1:]
    except BrokenImage:
        return None
    return height, width


def positions(side: int, tiling: Tiling) -> Sequence[int]:
    """Where tiles begin along a side of a frame; the last one ends at its border."""
    last = max(0, side - tiling.size)
    found = [*range(0, last + 1, tiling.stride)]
    return found if found[-1] == last else [*found, last]

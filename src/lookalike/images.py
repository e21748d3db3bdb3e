"""A batch of images of different sizes in one flat buffer, and conversions between pixel dtypes."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

LARGEST = {torch.uint8: 255.0, torch.uint16: 65535.0, torch.float32: 1.0}
"""The dtypes of pixels, from narrow to wide, each with the value that represents 1."""
_PIECE = 2**18  # pixels per step


@dataclass
class Images:
    """B images, with their indices, keys and labels."""

    buffer: Tensor
    """Flat, the images (C, H, W) concatenated; uint8 (0 to 255), uint16 (0 to 65535) or float32 (0 to 1)."""
    offsets: Tensor
    """(B,) int64, the start of each image. Like `sizes` always on the CPU, so that `padded` does not synchronise."""
    sizes: Tensor
    """(B, 2) int64, heights and widths."""
    channels: int
    index: Tensor
    """(B,) int64, the images' indices in the source. Like the keys always on the CPU."""
    keys: Tensor
    """(B,) int64, the seeds of `make_views`: hashes of the run's seed, the epoch and the image's key."""
    labels: Tensor | None = None
    """(B,) int64, or None."""
    broken: list[tuple[str, str]] = field(default_factory=list)
    """Names of broken images that were replaced in this batch, with the reasons."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Images":
        return replace(
            self,
            buffer=self.buffer.to(device, non_blocking=non_blocking),
            labels=None if self.labels is None else self.labels.to(device, non_blocking=non_blocking),
        )

    def pin_memory(self) -> "Images":
        """Moves tensors on the CPU to pinned memory; pinned ones are not copied."""
        return replace(
            self,
            buffer=self.buffer.pin_memory() if self.buffer.is_cpu else self.buffer,
            labels=None if self.labels is None else self.labels.pin_memory(),
        )

    def padded(self) -> Tensor:
        """(B, C, H, W) of the largest H and W, images at the top left, zero padding; no copy if all sizes are equal."""
        height, width = self.sizes.amax(0).tolist()
        flat = movable(self.buffer)
        shape = (len(self.sizes), self.channels, height, width)
        if bool((self.sizes == self.sizes[0]).all()):
            return flat.view(shape).view(self.buffer.dtype)
        out = flat.new_zeros(shape)
        for image, start, (h, w) in zip(out, self.offsets.tolist(), self.sizes.tolist(), strict=True):
            image[:, :h, :w] = flat[start : start + self.channels * h * w].view(self.channels, h, w)
        return out.view(self.buffer.dtype)


def movable(x: Tensor) -> Tensor:
    """The same bytes in a dtype with copy, index and cat on every device: torch has few operations for uint16."""
    return x.view(torch.int16) if x.dtype == torch.uint16 else x


def promote(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Widens pixels: uint8 to uint16 (times 257), either to float32 in [0, 1]."""
    if x.dtype == dtype:
        return x
    if dtype == torch.uint16:
        return (x.to(torch.int32) * 257).to(torch.uint16)
    return x.to(torch.float32) / LARGEST[x.dtype]


def moments(image: Tensor) -> Tensor:
    """(2, C) float64: mean and mean square of each channel of an image (C, H, W), of values in [0, 1]."""
    sums, flat = torch.zeros(2, len(image), dtype=torch.float64), movable(image).flatten(1)
    for part in torch.split(flat, _PIECE, 1):  # a whole image in float64 would take up to 16 times its memory
        values = promote(part.view(image.dtype), torch.float32).double()
        sums += torch.stack([values.sum(1), values.square().sum(1)])
    return sums / flat.shape[1]


class Levels(NamedTuple):
    """An image's use of its channels and of the range of values."""

    grey: bool
    """Whether it has three channels that are equal up to compression errors."""
    low: float
    """Its smallest value, in [0, 1]."""
    high: float
    """Its largest value, in [0, 1]."""


def levels(image: Tensor) -> Levels:
    """The levels of an image (C, H, W)."""
    array = image.numpy()
    top = LARGEST[image.dtype]
    return Levels(len(array) == 3 and _are_equal(array), float(array.min()) / top, float(array.max()) / top)


def _are_equal(array: np.ndarray) -> bool:
    """Whether the channels of (C, H, W) differ by at most 2 of 255, or of 65,535; few rows decide for most images."""
    near = 2 / 255 if array.dtype.kind == "f" else 2
    wide = np.float32 if array.dtype.kind == "f" else np.int32
    rows = max(1, _PIECE // array.shape[2])
    for y in range(0, array.shape[1], rows):
        first = array[0, y : y + rows].astype(wide)
        if any(np.abs(first - other[y : y + rows]).max() > near for other in array[1:]):
            return False
    return True


def widest(dtypes: Sequence[torch.dtype]) -> torch.dtype:
    return max(dtypes, key=[*LARGEST].index)


def pack(images: Sequence[Tensor]) -> Tensor:
    """Concatenates images (C, H, W) into one flat buffer of their widest dtype."""
    dtype = widest([image.dtype for image in images])
    return torch.cat([movable(promote(image, dtype)).view(-1) for image in images]).view(dtype)


def starts(channels: int, sizes: Tensor) -> Tensor:
    """(B,) int64: the start of each image of `sizes` (B, 2) in a flat buffer."""
    lengths = channels * sizes.prod(1)
    return lengths.cumsum(0) - lengths

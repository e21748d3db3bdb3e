"""Arrays in `.npy` files."""

import math
from typing import IO

import numpy as np
import torch
from torch import Tensor

from ..image_options import Pixels
from . import limits
from .errors import Unsupported
from .limits import TOO_MUCH


def _channels_first(array: np.ndarray, pixels: Pixels) -> Tensor:
    """(H, W), (C, H, W) or (H, W, C) to (C, H, W); the channel axis has length `channels`, else 1 or 3.

    If bands are chosen, it is the shorter of the first axis and the last one.
    """
    array = array.astype(array.dtype.newbyteorder("="), copy=not array.flags.writeable)
    axis = channel_axis(array.shape, pixels)
    if axis is None:
        return torch.from_numpy(array)[None]
    return torch.from_numpy(array) if axis == 0 else torch.from_numpy(array).permute(2, 0, 1)


def channel_axis(shape: tuple[int, ...], pixels: Pixels) -> int | None:
    """The axis of the channels, 0 or 2; None for (H, W).

    Raises:
        Unsupported: there is none.
    """
    if len(shape) == 2:
        return None
    if len(shape) == 3 and pixels.bands is not None:
        return 0 if shape[0] <= shape[2] else 2
    if len(shape) == 3:
        for count in (pixels.channels, 1, 3):
            if count in (shape[0], shape[2]):
                return 0 if shape[0] == count else 2
    raise Unsupported(
        f"an array of shape {shape}; expected (H, W), (C, H, W) or (H, W, C) with C = {pixels.channels}. Give "
        "--channels, or choose some with --bands"
    )


def read_head(file: IO[bytes], size: int, limited: bool = True) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, memory order and dtype of a `.npy` file of `size` bytes; leaves the file at its first value.

    Args:
        limited: whether all values will be read, which must not take too much memory.

    Raises:
        ValueError: not a numeric array, fewer values in the file than the shape requires, or too many values.
    """
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"a .npy file of version {version[0]}.{version[1]}; expected 1.0 or 2.0, as numpy.save writes")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("an array of Python objects; expected uint8, uint16 or float32")
    if dtype.kind not in "buif" or dtype.itemsize > 8:
        raise Unsupported(f"values of type {dtype.name}; expected uint8, uint16 or float32")
    if min(shape, default=0) < 0:
        raise ValueError(f"an array of shape {shape}; expected (H, W), (C, H, W) or (H, W, C)")
    nbytes = math.prod(shape) * dtype.itemsize
    if limited and nbytes > limits.MAX_BYTES:
        raise Unsupported(f"an array of shape {shape} takes {nbytes / 2**20:.0f} MiB, {TOO_MUCH}")
    if file.tell() + nbytes > size:
        raise ValueError(f"the file is truncated: it contains {size - file.tell()} of {nbytes} bytes of its values")
    return shape, fortran, dtype


def read(file: IO[bytes], size: int, pixels: Pixels) -> Tensor:
    """The values of a file as (C, H, W), of its own dtype."""
    shape, fortran, dtype = read_head(file, size)
    values = np.frombuffer(bytearray(file.read(math.prod(shape) * dtype.itemsize)), dtype)
    return _channels_first(values.reshape(shape, order="F" if fortran else "C"), pixels)

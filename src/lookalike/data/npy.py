"""Arrays in `.npy` files."""

import math
from typing import IO

import numpy as np
import torch
from torch import Tensor

from . import limits
from .errors import Unsupported
from .limits import TOO_MUCH


def _channels_first(array: np.ndarray, channels: int) -> Tensor:
    """(H, W), (C, H, W) or (H, W, C) to (C, H, W); the channel axis has length `channels`, else 1 or 3."""
    array = array.astype(array.dtype.newbyteorder("="), copy=not array.flags.writeable)
    if array.ndim == 2:
        return torch.from_numpy(array)[None]
    if array.ndim == 3:
        for count in (channels, 1, 3):
            if array.shape[0] == count:
                return torch.from_numpy(array)
            if array.shape[2] == count:
                return torch.from_numpy(array).permute(2, 0, 1)
    raise Unsupported(f"an array of shape {array.shape}; expected (H, W), (C, H, W) or (H, W, C) with C = {channels}")


def read_head(file: IO[bytes], size: int) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, memory order and dtype of a `.npy` file of `size` bytes; leaves the file at its first value.

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
    if nbytes > limits.MAX_BYTES:
        raise Unsupported(f"an array of shape {shape} takes {nbytes / 2**20:.0f} MiB, {TOO_MUCH}")
    if file.tell() + nbytes > size:
        raise ValueError(f"the file is truncated: it contains {size - file.tell()} of {nbytes} bytes of its values")
    return shape, fortran, dtype


def read(file: IO[bytes], size: int, channels: int) -> Tensor:
    shape, fortran, dtype = read_head(file, size)
    values = np.frombuffer(bytearray(file.read(math.prod(shape) * dtype.itemsize)), dtype)
    return _channels_first(values.reshape(shape, order="F" if fortran else "C"), channels)

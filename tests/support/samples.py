"""Values of images of all kinds of samples, and whether a decoded image holds them."""

import struct

import numpy as np
from torch import Tensor

RNG = np.random.default_rng(0)


def integers(top: int, *shape: int, dtype: str = "u1") -> np.ndarray:
    return RNG.integers(0, top + 1, shape).astype(dtype)


def chw(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray((array[..., None] if array.ndim == 2 else array).transpose(2, 0, 1))


def assert_holds(image: Tensor, values: np.ndarray) -> None:
    assert image.shape == values.shape
    assert np.array_equal(image.numpy().astype(np.float64), values.astype(np.float64))


RGB = np.stack(np.meshgrid(np.arange(40), np.arange(30)), -1)  # colours that vary everywhere
RGB = np.dstack([RGB * 3, np.full((30, 40), 95)]).astype(np.uint8)


def npy(shape: str, dtype: str = "'|u1'", version: int = 1, fortran: bool = False, body: int = 100) -> bytes:
    head = f"{{'descr': {dtype}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n".encode()
    length = struct.pack("<H" if version == 1 else "<I", len(head))
    return b"\x93NUMPY" + bytes([version, 0]) + length + head + bytes(body)

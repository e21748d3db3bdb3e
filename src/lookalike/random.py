"""Counter-based random draws: each number is a pure function of integer keys.

There is no state, so draws are equal on CPU and GPU, for any number of workers or processes and any order of calls.
The mixing function is SplitMix64's finaliser (Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
OOPSLA 2014), in int64 tensors that wrap around.
"""

import hashlib
import math
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Numbers = TypeVar("Numbers", Tensor, NDArray[np.int64])

_GOLDEN = 0x9E3779B97F4A7C15
_M1 = 0xBF58476D1CE4E5B9
_M2 = 0x94D049BB133111EB
_MASK = (1 << 64) - 1


def _signed(value: int) -> int:
    """The low 64 bits as a two's complement number, like an element of an int64 tensor."""
    value &= _MASK
    return value - (1 << 64) if value >> 63 else value


def _shift(x: Numbers, bits: int) -> Numbers:
    """Logical right shift; that of torch and NumPy is arithmetic."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Numbers) -> Numbers:
    x = (x ^ _shift(x, 30)) * _signed(_M1)
    x = (x ^ _shift(x, 27)) * _signed(_M2)
    return x ^ _shift(x, 31)


def _mix_int(x: int) -> int:
    x &= _MASK
    x = (x ^ (x >> 30)) * _M1 & _MASK
    x = (x ^ (x >> 27)) * _M2 & _MASK
    return x ^ (x >> 31)


def _number(text: str) -> int:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def key_of(*parts: int | str) -> int:
    """Hashes numbers and strings, in order, to one int64 number."""
    h = 0
    for part in parts:
        number = _number(part) if isinstance(part, str) else part
        h = _mix_int((h ^ (number & _MASK)) + _GOLDEN)
    return _signed(h)


def keys_of(*parts: int | str | Tensor) -> Tensor:
    """`key_of` for int64 tensors, elementwise with broadcasting; equal to it for each element."""
    h: Tensor = torch.zeros((), dtype=torch.int64)
    for part in parts:
        if isinstance(part, Tensor):
            h = _mix((h.to(part.device) ^ part) + _signed(_GOLDEN))
        else:
            number = _number(part) if isinstance(part, str) else part
            h = _mix((h ^ _signed(number)) + _signed(_GOLDEN))
    return h


def uniform(keys: Tensor, draw: int | str | Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Draws float32 numbers in [low, high), one per key; `draw` names the draw, so that draws are independent.

    A tensor of names (int64) is broadcast against the keys. Rounding may give `high` itself, but never 1 for [0, 1).
    """
    return low + (high - low) * (_shift(keys_of(keys, draw), 40).to(torch.float32) * 2.0**-24)


def uniform_table(keys: Tensor, number: int, draws: NDArray[np.int64]) -> NDArray[np.float32]:
    """`uniform(keys_of(keys, number)[:, None], draws)` of keys (B,) on the CPU and the names (N,) of draws: (B, N).

    By NumPy: for a few thousand numbers, its calls take a fraction of the time of torch's.
    """
    h = np.zeros((1, 1), np.int64)
    for part in (keys.numpy()[:, None], number, 0, draws):
        h = _mix((h ^ part) + _signed(_GOLDEN))
    return _shift(h, 40).astype(np.float32) * np.float32(2**-24)


def normal(keys: Tensor) -> Tensor:
    """Draws float32 numbers from the standard normal distribution, one per key (Box and Muller, 1958)."""
    length = (-2 * (1 - uniform(keys, "length")).log()).sqrt()
    return length * (2 * math.pi * uniform(keys, "angle")).cos()


def permutation(n: int, *parts: int | str) -> Tensor:
    """A permutation of n, a function of `parts` only: (n,) int64, on the CPU."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(key_of(*parts)))

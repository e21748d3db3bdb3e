"""Vectors in compiled code: `views.lanes`."""

import numpy as np
import pytest

pytest.importorskip("numba")

from lookalike.numba_cache import compiled
from lookalike.views import lanes

transpose, transpose_streaming = lanes.transpose, lanes.transpose_streaming
load, store, store_streaming, finish_streaming = lanes.load, lanes.store, lanes.store_streaming, lanes.finish_streaming
add, multiply, multiply_add, prefetch = lanes.add, lanes.multiply, lanes.multiply_add, lanes.prefetch


def aligned(length):
    """Float32 zeros from a multiple of 64 bytes on."""
    memory = np.zeros(length + lanes.LANES, np.float32)
    skip = -(memory.ctypes.data // 4) % lanes.LANES
    return memory[skip : skip + length]


@compiled
def _transposed(source, offsets, target, step, streamed):
    if streamed:
        transpose_streaming(source, 3, offsets, 1, target, 16, step)
        finish_streaming()
    else:
        transpose(source, 3, offsets, 1, target, 16, step)


@compiled
def _sums(source, weights, target, streamed):
    prefetch(source, 1)
    total = multiply_add(multiply(load(source, 1), weights, 0), add(load(source, 2), load(source, 5)), weights, 2)
    if streamed:
        store_streaming(target, 16, total)
    else:
        store(target, 16, total)


@pytest.mark.parametrize("streamed", [False, True])
def test_turn_transposes_rows_from_anywhere(streamed):
    source, step = np.random.default_rng(0).random(900, np.float32), 48
    offsets = np.random.default_rng(1).permutation(800)[:17]
    target = aligned(16 + 16 * step)
    _transposed(source, offsets, target, step, streamed)
    for column in range(16):
        expected = [source[3 + offsets[1 + row] + column] for row in range(16)]
        assert target[16 + column * step :][:16].tolist() == expected
    assert not target[:16].any()
    assert not target[16:].reshape(16, step)[:, 16:].any()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("streamed", [False, True])
def test_sums_of_vectors_equal_numpys(dtype, streamed):
    source, target = (np.arange(22) * 11).astype(dtype), aligned(32)
    weights = np.array((0.25, 9, 0.5), np.float32)
    _sums(source, weights, target, streamed)
    numbers = source.astype(np.float32)
    assert target[16:].tolist() == (0.25 * numbers[1:17] + 0.5 * (numbers[2:18] + numbers[5:21])).tolist()
    assert not target[:16].any()

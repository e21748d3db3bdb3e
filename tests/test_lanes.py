"""Vectors in compiled code: `views.lanes`."""

import numpy as np
import pytest

pytest.importorskip("numba")

from lookalike.numba_cache import compiled
from lookalike.views import lanes

turn, turn_streaming, store, stream = lanes.turn, lanes.turn_streaming, lanes.store, lanes.stream
added, both, fetch, finish_streaming = lanes.added, lanes.both, lanes.fetch, lanes.finish_streaming
load, scaled = lanes.load, lanes.scaled


def aligned(length):
    """Float32 zeros from a multiple of 64 bytes on."""
    memory = np.zeros(length + lanes.LANES, np.float32)
    skip = -(memory.ctypes.data // 4) % lanes.LANES
    return memory[skip : skip + length]


@compiled
def _turned(source, offsets, target, step, streamed):
    if streamed:
        turn_streaming(source, 3, offsets, 1, target, 16, step)
        finish_streaming()
    else:
        turn(source, 3, offsets, 1, target, 16, step)


@compiled
def _sums(source, weights, target, streamed):
    fetch(source, 1)
    total = added(scaled(load(source, 1), weights, 0), both(load(source, 2), load(source, 5)), weights, 2)
    if streamed:
        stream(target, 16, total)
    else:
        store(target, 16, total)


@pytest.mark.parametrize("streamed", [False, True])
def test_turn_transposes_rows_from_anywhere(streamed):
    source, step = np.random.default_rng(0).random(900, np.float32), 48
    offsets = np.random.default_rng(1).permutation(800)[:17]
    target = aligned(16 + 16 * step)
    _turned(source, offsets, target, step, streamed)
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

"""Views on a CPU: compiled (Numba), with all steps of a view in bands of 16 rows, so that the data stay in the cache.

Resizing is linear and separable: each output row is a weighted sum of a few source rows, then each of its pixels a
weighted sum of a few neighbours. Both are sums of vectors (`lanes`), the second once 16 rows are transposed: a vector
holds a pixel of each. Colour operations follow while the band is in the cache; contrast needs the mean of the
image and waits for all bands; the blur comes last, along the rows of a band, then, transposed back, down its columns.
Equivalent to the device-independent operations of `ops`.

C channels, S pixels per side of a view, T taps.
"""

import itertools
import os
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np
import torch
from torch import Tensor

from ..numba_cache import compiled, first_call
from .lanes import (
    LANES,
    add,
    finish_streaming,
    load,
    multiply,
    multiply_add,
    prefetch,
    store,
    store_streaming,
    transpose,
    transpose_streaming,
)
from .ops import BLUR_REACH, CONTRAST, GREY, HUE, SATURATION

_RED, _GREEN, _BLUE = (np.float32(w) for w in GREY)
_ZERO, _ONE = np.float32(0), np.float32(1)


@compiled
def _clamp(v):  # type: ignore[no-untyped-def]
    return _ZERO if v < _ZERO else (_ONE if v > _ONE else v)  # NaN stays NaN


@compiled
def _taps(start, length, size, flip, first, weights):  # type: ignore[no-untyped-def]
    """Computes the antialiased resize of `length` pixels from `start`: `first` (S,), `weights` (S, T); returns T."""
    scale = length / size
    support = max(scale, 1.0)
    taps = int(np.ceil(2 * support))  # pixels inside the triangle filter, without its zeros
    taps = min(length, 4 if taps == 3 else taps)
    weights[:, :taps] = _ZERO
    for s in range(size):
        centre = ((size - 1 - s if flip else s) + 0.5) * scale - 0.5
        low = max(0, int(np.floor(centre - support)) + 1)
        high = min(length - 1, int(np.ceil(centre + support)) - 1)
        begin = min(low, length - taps)
        total = 0.0
        for p in range(low, high + 1):
            total += max(0.0, 1.0 - abs(p - centre) / support)
        for p in range(low, high + 1):
            weights[s, p - begin] = max(0.0, 1.0 - abs(p - centre) / support) / total
        first[s] = start + begin
    return taps


@compiled
def _scratch(length):  # type: ignore[no-untyped-def]
    """Memory for `length` numbers from a multiple of 64 bytes on: a vector in two lines of the cache takes longer."""
    memory = np.empty(length + LANES, np.float32)
    skip = -(np.int64(memory.ctypes.data) // 4) % LANES
    return memory[skip : skip + length]


@compiled
def _down(pixels, at, stride, width, weights, w, taps, lines, to):  # type: ignore[no-untyped-def]
    """`lines[to : to + width]`: the weighted sum of `taps` source rows, the first of which starts at index `at`."""
    last = w + taps - 1
    while w < last and weights[w] == _ZERO:
        w += 1
        at += stride
    while last > w and weights[last] == _ZERO:
        last -= 1
    if at + (last - w) * stride + width + 2 * LANES > len(pixels):  # vectors could end behind the images' memory
        for x in range(width):
            p, one = at + x, _ZERO
            for t in range(w, last + 1):
                one += weights[t] * np.float32(pixels[p])
                p += stride
            lines[to + x] = one
        return
    for x in range(0, width, 2 * LANES):  # two sums at a time share weights
        p = at + x
        left, right = multiply(load(pixels, p), weights, w), multiply(load(pixels, p + LANES), weights, w)
        for t in range(w + 1, last + 1):
            p += stride
            left = multiply_add(left, load(pixels, p), weights, t)
            right = multiply_add(right, load(pixels, p + LANES), weights, t)
        store(lines, to + x, left)
        store(lines, to + x + LANES, right)


@compiled
def _fetch(pixels, at, stride, height, width, flip, band, size):  # type: ignore[no-untyped-def]
    """Starts reading the source rows of a band of 16 rows, which start at index `at` of memory, into the cache."""
    low, high = max(0, band * LANES * height // size - 1), min(height, (band + 1) * LANES * height // size + 2)
    if flip:
        low, high = height - high, height - low
    for p in range(at + low * stride, at + high * stride, stride):
        for x in range(0, width, 64 // pixels.itemsize):
            prefetch(pixels, p + x)
        prefetch(pixels, p + width - 1)


@compiled
def _along(columns, at, first, weights, most, taps, size, band, to):  # type: ignore[no-untyped-def]
    """The columns of a band: weighted sums of neighbouring columns, of 16 rows at a time."""
    if taps == 2:
        for u in range(size):
            k = at + LANES * first[u]
            left = multiply(load(columns, k), weights, u * most)
            store(band, to + LANES * u, multiply_add(left, load(columns, k + LANES), weights, u * most + 1))
        return
    for u in range(size):
        k = at + LANES * first[u]
        total = multiply(load(columns, k), weights, u * most)
        for t in range(1, taps):
            total = multiply_add(total, load(columns, k + LANES * t), weights, u * most + t)
        store(band, to + LANES * u, total)


@compiled
def _hue(red, green, blue, shift):  # type: ignore[no-untyped-def]
    """`ops.hue` for a row."""
    sixths = np.float32(6) * shift
    for i in range(len(red)):
        r, g, b = red[i], green[i], blue[i]
        low = min(min(r, g), b)
        high = max(max(r, g), b)
        c = high - low
        if high == r:
            h = g - b
        elif high == g:
            h = b - r + np.float32(2) * c
        else:
            h = r - g + np.float32(4) * c
        h = h / max(c, np.float32(1e-12)) + sixths
        h -= np.float32(6) * np.floor(h * np.float32(1 / 6))
        red[i] = _clamp(abs(h - np.float32(3)) - _ONE) * c + low
        green[i] = _clamp(np.float32(2) - abs(h - np.float32(2))) * c + low
        blue[i] = _clamp(np.float32(2) - abs(h - np.float32(4))) * c + low


@compiled
def _colour(band, at, plane, channels, n, steps, begin, end, factors, mean):  # type: ignore[no-untyped-def]
    """Applies the colour operations `steps[begin:end]` to `n` pixels of a band from index `at`."""
    for position in range(begin, end):
        step = steps[position]
        if step < 0:
            continue
        f = factors[step]
        if step in (HUE, SATURATION):
            red, green, blue = band[at : at + n], band[at + plane : at + plane + n], band[at + 2 * plane :][:n]
            if step == HUE:
                _hue(red, green, blue, f)
            else:
                rest = _ONE - f
                for i in range(n):
                    grey = rest * (_RED * red[i] + _GREEN * green[i] + _BLUE * blue[i])
                    red[i] = _clamp(f * red[i] + grey)
                    green[i] = _clamp(f * green[i] + grey)
                    blue[i] = _clamp(f * blue[i] + grey)
        else:
            base = (_ONE - f) * mean if step == CONTRAST else _ZERO
            for c in range(channels):
                channel = band[at + c * plane : at + c * plane + n]
                for i in range(n):
                    channel[i] = _clamp(f * channel[i] + base)


@compiled
def _grey(band, at, plane, n):  # type: ignore[no-untyped-def]
    red, green, blue = band[at : at + n], band[at + plane : at + plane + n], band[at + 2 * plane :][:n]
    for i in range(n):
        grey = _RED * red[i] + _GREEN * green[i] + _BLUE * blue[i]
        red[i] = grey
        green[i] = grey
        blue[i] = grey


@compiled
def _total(band, at, plane, channels, n, rows):  # type: ignore[no-untyped-def]
    """The sum over `n` pixels of luma (RGB) or of the channels' mean (other images), for the mean of contrast."""
    total = _ZERO
    if channels == 3:
        red, green, blue = band[at : at + n], band[at + plane : at + plane + n], band[at + 2 * plane :][:n]
        if rows == LANES:
            for i in range(n):
                total += _RED * red[i] + _GREEN * green[i] + _BLUE * blue[i]
        else:
            for i in range(n):
                total += _RED * red[i] + _GREEN * green[i] + _BLUE * blue[i] if i % LANES < rows else _ZERO
        return total
    for c in range(channels):
        channel = band[at + c * plane : at + c * plane + n]
        for i in range(n):
            total += channel[i] if i % LANES < rows else _ZERO
    return total / np.float32(channels)


@compiled
def _normalised(band, at, plane, channels, n, solarize, threshold, mean, factor):  # type: ignore[no-untyped-def]
    for c in range(channels):
        channel, m, f = band[at + c * plane : at + c * plane + n], mean[c], factor[c]
        if solarize:
            for i in range(n):
                channel[i] = _ONE - channel[i] if channel[i] >= threshold else channel[i]
        for i in range(n):
            channel[i] = (channel[i] - m) * f


@compiled
def _write(band, at, order, length, rows, out, to, step, streamed):  # type: ignore[no-untyped-def]
    """Transposes `length` vectors of a band into `rows` rows of `out`, from `out[to]` on.

    Vector i starts at `band[at + order[i]]`; `step` is the stride between rows of `out`.
    """
    for i in range(0, length, LANES):
        if rows < LANES or i + LANES > length:
            for r in range(rows):
                for j in range(i, min(i + LANES, length)):
                    out[to + r * step + j] = band[at + order[j] + r]
        elif streamed:
            transpose_streaming(band, at, order, i, out, to + i, step)
        else:
            transpose(band, at, order, i, out, to + i, step)


@compiled
def _finish(band, at, plane, channels, s, rows, size, transpose, last, order, out, streamed):  # type: ignore[no-untyped-def]
    """Writes a band to rows `s` to `s + rows` - 1 of a view, or columns if transposed.

    `out` is flat: (C, S, S), or (S, S, C) if channels come `last`.
    """
    if transpose:
        for c in range(channels):
            for u in range(size):
                source = at + c * plane + LANES * u
                target = (u * size + s) * channels + c if last else (c * size + u) * size + s
                for r in range(rows):
                    out[target + r * (channels if last else 1)] = band[source + r]
    elif last:
        to, step = s * size * channels, size * channels
        _write(band, at, order, step, rows, out, to, step, streamed)
    else:
        for c in range(channels):
            _write(band, at + c * plane, order, size, rows, out, (c * size + s) * size, size, streamed)


@compiled
def _finish_row(row, width, channels, s, size, transpose, last, out, streamed):  # type: ignore[no-untyped-def]
    """Writes row `s` of a view, or column `s` if the view is transposed; channels start at multiples of `width`."""
    if last and channels == 3 and not transpose:
        target = out[s * size * 3 : (s + 1) * size * 3]
        red, green, blue = row[:size], row[width : width + size], row[2 * width : 2 * width + size]
        for i in range(size):
            target[3 * i] = red[i]
            target[3 * i + 1] = green[i]
            target[3 * i + 2] = blue[i]
        return
    wide = channels if last else 1  # stride between pixels
    for c in range(channels):
        to = (c if last else c * size * size) + s * (wide if transpose else size * wide)
        step = size * wide if transpose else wide
        done = 0
        if step == 1:
            done = size // LANES * LANES
            for x in range(0, done, LANES):
                if streamed:
                    store_streaming(out, to + x, load(row, c * width + x))
                else:
                    store(out, to + x, load(row, c * width + x))
        for i in range(done, size):
            out[to + i * step] = row[c * width + i]


@compiled
def _mirrored(i, size):  # type: ignore[no-untyped-def]
    i = -i if i < 0 else i
    return 2 * (size - 1) - i if i >= size else i


@compiled
def _blur_rows(band, at, size, half, taps, blurred):  # type: ignore[no-untyped-def]
    """`blurred`: the 16 rows of one channel of a band, blurred along the rows; `taps`: from the kernel's centre on."""
    for u in range(size):
        k = at + LANES * u
        total = multiply(load(band, k), taps, 0)
        if half <= u < size - half:
            for t in range(1, half + 1):
                total = multiply_add(total, add(load(band, k - LANES * t), load(band, k + LANES * t)), taps, t)
        else:
            for t in range(1, half + 1):
                left, right = at + LANES * _mirrored(u - t, size), at + LANES * _mirrored(u + t, size)
                total = multiply_add(total, add(load(band, left), load(band, right)), taps, t)
        store(blurred, LANES * u, total)


@compiled
def _blur_down(image, at, near, half, taps, width, row, to):  # type: ignore[no-untyped-def]
    """`row[to : to + width]`: a blurred row of a channel; `near`: where it starts, then each two rows around it."""
    for x in range(at, at + width, 2 * LANES):  # two sums at a time share indices and taps
        y = x + LANES
        k = near[0]
        left, right = multiply(load(image, x + k), taps, 0), multiply(load(image, y + k), taps, 0)
        for t in range(1, half + 1):
            m, n = near[2 * t - 1], near[2 * t]
            left = multiply_add(left, add(load(image, x + m), load(image, x + n)), taps, t)
            right = multiply_add(right, add(load(image, y + m), load(image, y + n)), taps, t)
        store(row, to + x - at, left)
        store(row, to + y - at, right)


@compiled
def _views(  # type: ignore[no-untyped-def]
    pixels, offsets, strides, box, flips, steps, factors, grey, sigma, kernel, solarize, threshold, erase, mean, factor,
    unit, size, last, streamed, out, begin, end,
):  # fmt: skip
    """Computes the views of images `begin` to `end` - 1, in bands of 16 rows.

    A band is stored column by column (C, S, 16), so that sums over neighbouring columns are sums of vectors.
    """
    channels = len(mean)
    widest, most = 1, 4
    for b in range(begin, end):
        widest = max(widest, box[b, 3])
        most = max(most, 2 * ((max(box[b, 2], box[b, 3]) + size - 1) // size))
    rows, columns = np.empty((size, most), np.float32), np.empty((size, most), np.float32)
    down_weights, along_weights = rows.reshape(-1), columns.reshape(-1)
    top, left = np.empty(size, np.int64), np.empty(size, np.int64)
    pitch = 2 * LANES * ((widest + 2 * LANES - 1) // (2 * LANES))
    width = 2 * LANES * ((size + 2 * LANES - 1) // (2 * LANES))  # of a band's rows, where they are padded
    bands, plane, n = (size + LANES - 1) // LANES, LANES * width, LANES * size
    lines, source = _scratch(LANES * pitch), _scratch(channels * LANES * pitch)
    image = _scratch(bands * channels * plane)
    blurred, row = _scratch(plane), _scratch(channels * width)
    taps = np.empty(kernel // 2 + 1, np.float32)
    near = np.empty(kernel + 1, np.int64)
    by_line, by_row, order = np.empty(LANES, np.int64), np.empty(LANES, np.int64), np.empty(size * channels, np.int64)
    for i in range(LANES):
        by_line[i], by_row[i] = i * pitch, i * LANES
    for i in range(size * channels):
        order[i] = i % channels * plane + i // channels * LANES if last else i * LANES
    for b in range(begin, end):
        view = out[b]
        down = _taps(box[b, 0], box[b, 2], size, flips[b, 1], top, rows)
        along = _taps(0, box[b, 3], size, flips[b, 0], left, columns)
        for s in range(size):
            for t in range(down):
                rows[s, t] *= unit
        blur = sigma[b] > 0
        wait = 4  # position of contrast among the steps; it needs the mean of all rows
        for position in range(4):
            if steps[b, position] == CONTRAST:
                wait = position
        total = 0.0
        for band in range(bands):
            at = band * channels * plane if wait < 4 or blur else 0
            s, count = band * LANES, min(LANES, size - band * LANES)
            # the next rows to read, of this image or the next one
            a, soon = (b, band + 1) if band + 1 < bands else (min(b + 1, end - 1), 0)
            corner = offsets[a] + box[a, 0] * strides[a, 1] + box[a, 1]
            for c in range(channels):
                p = corner + c * strides[a, 0]
                _fetch(pixels, p, strides[a, 1], box[a, 2], box[a, 3], flips[a, 1], soon, size)
                for r in range(count):
                    p = offsets[b] + c * strides[b, 0] + top[s + r] * strides[b, 1] + box[b, 1]
                    _down(pixels, p, strides[b, 1], box[b, 3], down_weights, (s + r) * most, down, lines, r * pitch)
                for x in range(0, box[b, 3], LANES):
                    transpose(lines, x, by_line, 0, source, (c * pitch + x) * LANES, LANES)
            for c in range(channels):
                _along(source, c * pitch * LANES, left, along_weights, most, along, size, image, at + c * plane)
            _colour(image, at, plane, channels, n, steps[b], 0, wait, factors[b], _ZERO)
            if wait < 4:
                total += _total(image, at, plane, channels, n, count)
                continue
            if grey[b]:
                _grey(image, at, plane, n)
            if not blur:
                _normalised(image, at, plane, channels, n, solarize[b], threshold, mean, factor)
                _finish(image, at, plane, channels, s, count, size, flips[b, 2], last, order, view, streamed)
        if wait < 4:
            average = np.float32(total / (size * size))
            for band in range(bands):
                at, s, count = band * channels * plane, band * LANES, min(LANES, size - band * LANES)
                _colour(image, at, plane, channels, n, steps[b], wait, 4, factors[b], average)
                if grey[b]:
                    _grey(image, at, plane, n)
                if not blur:
                    _normalised(image, at, plane, channels, n, solarize[b], threshold, mean, factor)
                    _finish(image, at, plane, channels, s, count, size, flips[b, 2], last, order, view, streamed)
        if blur:
            half = min(kernel // 2, max(1, int(np.ceil(BLUR_REACH * sigma[b]))))
            whole = 1.0
            for t in range(1, half + 1):
                whole += 2 * np.exp(-0.5 * (t / sigma[b]) ** 2)
            for t in range(half + 1):
                taps[t] = np.exp(-0.5 * (t / sigma[b]) ** 2) / whole
            for at in range(0, bands * channels * plane, plane):
                _blur_rows(image, at, size, half, taps, blurred)
                for x in range(0, size, LANES):  # in place: from now on, a band is stored row by row
                    transpose(blurred, x * LANES, by_row, 0, image, at + x, width)
            for s in range(size):
                near[0] = _row_of_band(s, channels, width)
                for t in range(1, half + 1):
                    near[2 * t - 1] = _row_of_band(_mirrored(s - t, size), channels, width)
                    near[2 * t] = _row_of_band(_mirrored(s + t, size), channels, width)
                for c in range(channels):
                    _blur_down(image, c * plane, near, half, taps, width, row, c * width)
                _normalised(row, 0, width, channels, size, solarize[b], threshold, mean, factor)
                _finish_row(row, width, channels, s, size, flips[b, 2], last, view, streamed)
        for y in range(erase[b, 0], erase[b, 0] + erase[b, 2]):
            for c in range(channels):
                for x in range(erase[b, 1], erase[b, 1] + erase[b, 3]):
                    view[(y * size + x) * channels + c if last else (c * size + y) * size + x] = _ZERO
    if streamed:
        finish_streaming()


@compiled
def _row_of_band(s, channels, width):  # type: ignore[no-untyped-def]
    """Index of row `s` of the first channel of an image stored in bands (S / 16, C, 16, `width`)."""
    return (s // LANES * channels * LANES + s % LANES) * width


_POOLS: dict[tuple[int, int], ThreadPoolExecutor] = {}
"""Keyed by process (a fork has no threads) and number of threads."""


def views(
    pixels: Tensor, offsets: Tensor, strides: Tensor, *, size: int, kernel: int, threshold: float, unit: float,
    box: Tensor, flips: Tensor, steps: Tensor, factors: Tensor, grey: Tensor, sigma: Tensor, solarize: Tensor,
    erase: Tensor, mean: Tensor, std: Tensor, last: bool,
) -> Tensor:  # fmt: skip
    """One view (B, C, size, size) float32 of each of B images on the CPU, with `torch.get_num_threads()` threads.

    Args:
        pixels: the images, uint8, uint16 or float32, in one contiguous tensor of any shape.
        offsets: (B,) int64, index of the first pixel of each image.
        strides: (B, 2) int64, strides between channels and between rows, in pixels.
        kernel: width of the blur's kernel in pixels.
        threshold: values from here on are inverted by solarize.
        unit: factor that scales pixels to [0, 1].
        box: (B, 4) int64, top, left, height and width of the crop.
        flips: (B, 3) bool: horizontal flip, vertical flip, and a final transposition.
        steps: (B, 4) int64, the colour operations in order (`ops.BRIGHTNESS` ...), -1 for none.
        factors: (B, 4) float32, the parameter of each colour operation, indexed by operation.
        grey, solarize: (B,) bool.
        sigma: (B,) float32, standard deviation of the blur in pixels; 0 for no blur.
        erase: (B, 4) int64, a box as above; nothing is erased if its height is 0.
        mean, std: (C,) float32.
        last: whether the output is channels-last in memory.
    """
    b, c = len(offsets), len(mean)
    out = _borrowed(b * c * size * size)  # referenced by the returned tensor, which keeps it alive
    arguments = (
        pixels.reshape(-1).numpy(),
        *(x.contiguous().numpy() for x in (offsets, strides, box, flips, steps, factors, grey, sigma)), kernel,
        solarize.contiguous().numpy(), np.float32(threshold), erase.contiguous().numpy(),
        mean.numpy(), (1 / std).numpy(), np.float32(unit), size, last, out.nbytes >= STREAMED and size % LANES == 0,
        out.reshape(b, c * size * size),
    )  # fmt: skip
    threads = min(torch.get_num_threads(), b)
    if threads < 2 or not _views.signatures:
        first_call(_views, *arguments, 0, b)
        return _shaped(out, c, size, last)
    pool = _POOLS.setdefault((os.getpid(), threads), ThreadPoolExecutor(threads, "lookalike-views"))
    # several pieces per thread balance the load: images with a blur take longer
    edges = [b * i // (4 * threads) for i in range(4 * threads + 1)]
    compute: Callable[..., None] = _views
    pieces = [pool.submit(compute, *arguments, low, high) for low, high in itertools.pairwise(edges)]
    try:
        for piece in pieces:
            piece.result()
    finally:
        wait(pieces)  # also after Ctrl-C: no thread may write to memory that is reused
    return _shaped(out, c, size, last)


STREAMED = 2**24
"""Views of at least this many bytes are written past the cache, which they would not stay in, in aligned vectors."""
_FREE: list[np.ndarray] = []
"""Unused buffers, the most recently returned last."""
_MAX_FREE = 2**30
"""Maximum number of bytes of unused buffers."""
_LOCK = threading.RLock()


def _borrowed(length: int) -> np.ndarray:
    """A float32 buffer that is reused once no tensor references it.

    Allocating new memory would take half as long as computing the views, and more with several threads.
    """
    with _LOCK:
        index = next((i for i, memory in enumerate(_FREE) if len(memory) == length + LANES), None)
        # NumPy requests huge pages, torch does not
        memory = np.empty(length + LANES, np.float32) if index is None else _FREE.pop(index)
    skip = -(memory.ctypes.data // 4) % LANES  # starts at a multiple of 64 bytes
    # finalized when the last tensor that uses it is deleted, while `memory` stays alive
    lent = memory[skip : skip + length]
    weakref.finalize(lent, _give_back, memory).atexit = False
    return lent


def _give_back(memory: np.ndarray) -> None:
    with _LOCK:
        _FREE.append(memory)
        while sum(free.nbytes for free in _FREE) > _MAX_FREE:
            del _FREE[0]


def _shaped(out: np.ndarray, channels: int, size: int, last: bool) -> Tensor:
    flat = torch.from_numpy(out)
    return flat.view(-1, size, size, channels).permute(0, 3, 1, 2) if last else flat.view(-1, channels, size, size)

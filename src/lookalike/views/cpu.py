"""Views on a CPU: compiled (Numba), with all steps of a view row by row, so that the data stay in the L1 cache.

Resizing is linear and separable: each output row is a weighted sum of a few source rows (R), then each of its pixels a
weighted sum of a few neighbours (K). Colour operations follow while the row is in the cache; contrast needs the mean of
the image and waits for all rows; the blur comes last. Equivalent to the device-independent operations of `ops`.

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
def _down(pixels, at, plane, stride, width, w, taps, lines):  # type: ignore[no-untyped-def]
    """`lines` (C, W): weighted sums of source rows, the first of which starts at index `at`."""
    first = 0
    while first < taps - 1 and w[first] == _ZERO:
        first += 1
    last = taps - 1
    while last > first and w[last] == _ZERO:
        last -= 1
    for c in range(len(lines)):
        line, t, p = lines[c], first + 1, at + c * plane + first * stride
        # rows as slices: possibly negative indices would prevent vectorisation
        here, a = pixels[p : p + width], w[first]
        if last > first:
            below, b = pixels[p + stride : p + stride + width], w[t]
            for x in range(width):
                line[x] = a * np.float32(here[x]) + b * np.float32(below[x])
        else:
            for x in range(width):
                line[x] = a * np.float32(here[x])
        for t in range(first + 2, last, 2):
            p += 2 * stride
            here, a = pixels[p : p + width], w[t]
            below, b = pixels[p + stride : p + stride + width], w[t + 1]
            for x in range(width):
                line[x] += a * np.float32(here[x]) + b * np.float32(below[x])
        if last > first and (last - first) % 2 == 0:
            here, a = pixels[p + 2 * stride : p + 2 * stride + width], w[last]
            for x in range(width):
                line[x] += a * np.float32(here[x])


@compiled
def _along(lines, first, weights, taps, row):  # type: ignore[no-untyped-def]
    """`row` (C, S): weighted sums of neighbouring pixels of `lines` (C, W)."""
    size = row.shape[1]
    # the three channels together: half of the time is spent loading indices and weights
    colour = len(row) == 3
    if colour and taps == 2:
        a, b, c = lines[0], lines[1], lines[2]
        red, green, blue = row[0], row[1], row[2]
        for u in range(size):
            k, w, v = np.uintp(first[u]), weights[u, 0], weights[u, 1]
            n = k + np.uintp(1)
            red[u] = w * a[k] + v * a[n]
            green[u] = w * b[k] + v * b[n]
            blue[u] = w * c[k] + v * c[n]
    elif colour and taps == 4:
        a, b, c = lines[0], lines[1], lines[2]
        red, green, blue = row[0], row[1], row[2]
        for u in range(size):
            k, p, q, r, s = np.uintp(first[u]), weights[u, 0], weights[u, 1], weights[u, 2], weights[u, 3]
            j, m, n = k + np.uintp(1), k + np.uintp(2), k + np.uintp(3)
            red[u] = p * a[k] + q * a[j] + r * a[m] + s * a[n]
            green[u] = p * b[k] + q * b[j] + r * b[m] + s * b[n]
            blue[u] = p * c[k] + q * c[j] + r * c[m] + s * c[n]
    elif colour:
        a, b, c = lines[0], lines[1], lines[2]
        red, green, blue = row[0], row[1], row[2]
        for u in range(size):
            k, w = np.uintp(first[u]), weights[u]
            x = y = z = _ZERO
            for t in range(np.uintp(taps)):
                x += w[t] * a[k + t]
                y += w[t] * b[k + t]
                z += w[t] * c[k + t]
            red[u], green[u], blue[u] = x, y, z
    else:
        for c in range(len(row)):
            line, channel = lines[c], row[c]
            for u in range(size):
                k, w = np.uintp(first[u]), weights[u]
                x = _ZERO
                for t in range(np.uintp(taps)):
                    x += w[t] * line[k + t]
                channel[u] = x


@compiled
def _hue(red, green, blue, shift):  # type: ignore[no-untyped-def]
    """`ops.hue` for a row."""
    turn = np.float32(6) * shift
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
        h = h / max(c, np.float32(1e-12)) + turn
        h -= np.float32(6) * np.floor(h * np.float32(1 / 6))
        red[i] = _clamp(abs(h - np.float32(3)) - _ONE) * c + low
        green[i] = _clamp(np.float32(2) - abs(h - np.float32(2))) * c + low
        blue[i] = _clamp(np.float32(2) - abs(h - np.float32(4))) * c + low


@compiled
def _colour(row, steps, begin, end, factors, mean):  # type: ignore[no-untyped-def]
    """Applies the colour operations `steps[begin:end]` to a row (C, S)."""
    size = row.shape[1]
    for turn in range(begin, end):
        step = steps[turn]
        if step < 0:
            continue
        f = factors[step]
        if step == HUE:
            _hue(row[0], row[1], row[2], f)
        elif step == SATURATION:
            red, green, blue = row[0], row[1], row[2]
            rest = _ONE - f
            for i in range(size):
                grey = rest * (_RED * red[i] + _GREEN * green[i] + _BLUE * blue[i])
                red[i] = _clamp(f * red[i] + grey)
                green[i] = _clamp(f * green[i] + grey)
                blue[i] = _clamp(f * blue[i] + grey)
        else:
            base = (_ONE - f) * mean if step == CONTRAST else _ZERO
            for c in range(len(row)):
                channel = row[c]
                for i in range(size):
                    channel[i] = _clamp(f * channel[i] + base)


@compiled
def _grey(row):  # type: ignore[no-untyped-def]
    red, green, blue = row[0], row[1], row[2]
    for i in range(row.shape[1]):
        grey = _RED * red[i] + _GREEN * green[i] + _BLUE * blue[i]
        red[i] = grey
        green[i] = grey
        blue[i] = grey


@compiled
def _total(row):  # type: ignore[no-untyped-def]
    """The sum over a row of luma (RGB) or of the channels' mean (other images), for the mean of contrast."""
    total = _ZERO
    if len(row) == 3:
        red, green, blue = row[0], row[1], row[2]
        for i in range(row.shape[1]):
            total += _RED * red[i] + _GREEN * green[i] + _BLUE * blue[i]
        return total
    for c in range(len(row)):
        channel = row[c]
        for i in range(row.shape[1]):
            total += channel[i]
    return total / np.float32(len(row))


@compiled
def _finish(row, s, solarize, threshold, mean, factor, transpose, last, out):  # type: ignore[no-untyped-def]
    """Solarizes, normalises and writes row `s` of a view, or column `s` if the view is transposed.

    `out` is flat: (C, S, S), or (S, S, C) if channels come `last`.
    """
    channels, size = row.shape
    for c in range(channels):
        channel, m, f = row[c], mean[c], factor[c]
        if solarize:
            for i in range(size):
                channel[i] = _ONE - channel[i] if channel[i] >= threshold else channel[i]
        for i in range(size):
            channel[i] = (channel[i] - m) * f
    wide = channels if last else 1  # stride between pixels
    if last and channels == 3 and not transpose:
        target = out[s * size * 3 : (s + 1) * size * 3]
        red, green, blue = row[0], row[1], row[2]
        for i in range(size):
            target[3 * i] = red[i]
            target[3 * i + 1] = green[i]
            target[3 * i + 2] = blue[i]
        return
    for c in range(channels):
        channel = row[c]
        target = out[(c if last else c * size * size) + s * (wide if transpose else size * wide) :]
        step = size * wide if transpose else wide
        if step == 1:
            for i in range(size):
                target[i] = channel[i]
        else:
            for i in range(size):
                target[i * step] = channel[i]


@compiled
def _mirrored(i, size):  # type: ignore[no-untyped-def]
    i = -i if i < 0 else i
    return 2 * (size - 1) - i if i >= size else i


@compiled
def _blurred(image, s, half, taps, wide, row):  # type: ignore[no-untyped-def]
    """`row` (C, S): row `s` of the blurred image (C, S, S); `taps` (half + 1,): the kernel from its centre outwards."""
    size = row.shape[1]
    centre = wide[half : half + size]
    for c in range(len(row)):
        here, target = image[c, s], row[c]
        for i in range(size):
            centre[i] = taps[0] * here[i]
        for t in range(1, half, 2):  # two taps at a time halve the loads and stores of the sum
            a, above, below = taps[t], image[c, _mirrored(s - t, size)], image[c, _mirrored(s + t, size)]
            b, higher, lower = taps[t + 1], image[c, _mirrored(s - t - 1, size)], image[c, _mirrored(s + t + 1, size)]
            for i in range(size):
                centre[i] += a * (above[i] + below[i]) + b * (higher[i] + lower[i])
        if half % 2:
            a, above, below = taps[half], image[c, _mirrored(s - half, size)], image[c, _mirrored(s + half, size)]
            for i in range(size):
                centre[i] += a * (above[i] + below[i])
        for t in range(1, half + 1):
            wide[half - t] = wide[half + t]
            wide[half + size - 1 + t] = wide[half + size - 1 - t]
        for i in range(size):
            target[i] = taps[0] * centre[i]
        for t in range(1, half, 2):
            a, above, below = taps[t], wide[half - t : half - t + size], wide[half + t : half + t + size]
            b, higher, lower = taps[t + 1], wide[half - t - 1 : half - t - 1 + size], wide[half + t + 1 :]
            for i in range(size):
                target[i] += a * (above[i] + below[i]) + b * (higher[i] + lower[i])
        if half % 2:
            a, above, below = taps[half], wide[:size], wide[2 * half : 2 * half + size]
            for i in range(size):
                target[i] += a * (above[i] + below[i])


@compiled
def _views(  # type: ignore[no-untyped-def]
    pixels, offsets, strides, box, flips, steps, factors, grey, sigma, kernel, solarize, threshold, erase, mean, factor,
    unit, size, last, out, begin, end,
):  # fmt: skip
    """Computes the views of images `begin` to `end` - 1."""
    channels = len(mean)
    widest, most = 1, 4
    for b in range(begin, end):
        widest = max(widest, box[b, 3])
        most = max(most, 2 * ((max(box[b, 2], box[b, 3]) + size - 1) // size))
    rows, columns = np.empty((size, most), np.float32), np.empty((size, most), np.float32)
    top, left = np.empty(size, np.int64), np.empty(size, np.int64)
    lines = np.empty((channels, widest), np.float32)
    row = np.empty((channels, size), np.float32)
    image = np.empty((channels, size, size), np.float32)
    wide = np.empty(size + kernel, np.float32)
    taps = np.empty(kernel // 2 + 1, np.float32)
    for b in range(begin, end):
        view = out[b]
        down = _taps(box[b, 0], box[b, 2], size, flips[b, 1], top, rows)
        along = _taps(0, box[b, 3], size, flips[b, 0], left, columns)
        for s in range(size):
            for t in range(down):
                rows[s, t] *= unit
        blur = sigma[b] > 0
        wait = 4  # position of contrast among the steps; it needs the mean of all rows
        for turn in range(4):
            if steps[b, turn] == CONTRAST:
                wait = turn
        total = 0.0
        for s in range(size):
            at = offsets[b] + top[s] * strides[b, 1] + box[b, 1]
            _down(pixels, at, strides[b, 0], strides[b, 1], box[b, 3], rows[s], down, lines)
            _along(lines, left, columns, along, row)
            _colour(row, steps[b], 0, wait, factors[b], _ZERO)
            if wait < 4:
                total += _total(row)
            elif grey[b]:
                _grey(row)
            if wait < 4 or blur:
                for c in range(channels):
                    image[c, s] = row[c]
            else:
                _finish(row, s, solarize[b], threshold, mean, factor, flips[b, 2], last, view)
        if wait < 4:
            average = np.float32(total / (size * size))
            for s in range(size):
                for c in range(channels):
                    row[c] = image[c, s]
                _colour(row, steps[b], wait, 4, factors[b], average)
                if grey[b]:
                    _grey(row)
                if blur:
                    for c in range(channels):
                        image[c, s] = row[c]
                else:
                    _finish(row, s, solarize[b], threshold, mean, factor, flips[b, 2], last, view)
        if blur:
            half = min(kernel // 2, max(1, int(np.ceil(BLUR_REACH * sigma[b]))))
            whole = 1.0
            for t in range(1, half + 1):
                whole += 2 * np.exp(-0.5 * (t / sigma[b]) ** 2)
            for t in range(half + 1):
                taps[t] = np.exp(-0.5 * (t / sigma[b]) ** 2) / whole
            for s in range(size):
                _blurred(image, s, half, taps, wide, row)
                _finish(row, s, solarize[b], threshold, mean, factor, flips[b, 2], last, view)
        for y in range(erase[b, 0], erase[b, 0] + erase[b, 2]):
            for c in range(channels):
                for x in range(erase[b, 1], erase[b, 1] + erase[b, 3]):
                    view[(y * size + x) * channels + c if last else (c * size + y) * size + x] = _ZERO


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
        mean.numpy(), (1 / std).numpy(), np.float32(unit), size, last, out.reshape(b, c * size * size),
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
        index = next((i for i, memory in enumerate(_FREE) if len(memory) == length), None)
        # NumPy requests huge pages, torch does not
        memory = np.empty(length, np.float32) if index is None else _FREE.pop(index)
    lent = memory.view()  # finalized when the last tensor that uses it is deleted, while `memory` stays alive
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

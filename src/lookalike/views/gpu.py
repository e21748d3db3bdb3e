"""Views on a GPU: a few fused Triton kernels that read each pixel a few times, instead of one kernel per operation.

The steps are the same as in `cpu`; here each kernel processes all images of a batch:

1. `_across`: resizes the rows of each crop to S pixels (X K^T of the separable resize `R X K^T`).
2. `_down`: resizes the columns to S rows, then applies colour operations up to contrast, which needs the image's mean.
3. `_recolour`: applies colour operations from contrast on; views without a blur are finished here.
4. `_blur_across`, `_blur_down`: blur and finish the remaining views.

Images are read from a flat buffer, only inside their crops. All parameters are drawn beforehand on the CPU (`plan`) and
copied to the device in a few transfers; nothing here synchronises with the device.

B images, C channels, S pixels per side of a view.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from ..devices import moved
from .ops import BLUR_REACH, CONTRAST, GREY, HUE, SATURATION
from .plan import Plan
from .recipes import View

_BLOCK = 512  # pixels per program; 1,024 would run out of registers
_MAX_IMAGES = 2**15  # per launch; half the limit of CUDA's grid dimension
_NAN = tl.constexpr(tl.PropagateNan.ALL)
_RED, _GREEN, _BLUE = (tl.constexpr(weight) for weight in GREY)
_CONTRAST, _SATURATION, _HUE = tl.constexpr(CONTRAST), tl.constexpr(SATURATION), tl.constexpr(HUE)

# columns of the integer and float tables that hold the parameters of each image
_TOP, _LEFT, _HEIGHT, _WIDTH, _HFLIP, _VFLIP, _TRANSPOSE = (tl.constexpr(i) for i in range(7))
_STEPS, _WAIT, _GREY, _SOLARIZE, _ERASE = (tl.constexpr(i) for i in (7, 11, 12, 13, 14))
_WHOLE = tl.constexpr(20)  # padded, like the float table, so that rows start at multiples of 16 bytes
_FACTORS, _SIGMA = tl.constexpr(0), tl.constexpr(4)
_FRACTIONS = tl.constexpr(8)


@triton.jit
def _clamp(v):
    return tl.where(v < 0, 0.0, tl.where(v > 1, 1.0, v))  # NaN stays NaN


@triton.jit
def _luma(r, g, b):
    return _RED * r + _GREEN * g + _BLUE * b


@triton.jit
def _turn_hue(r, g, b, shift):
    """`ops.hue`."""
    low = tl.minimum(tl.minimum(r, g, _NAN), b, _NAN)
    high = tl.maximum(tl.maximum(r, g, _NAN), b, _NAN)
    c = high - low
    h = tl.where(high == r, g - b, tl.where(high == g, b - r + 2 * c, r - g + 4 * c))
    h = h / tl.maximum(c, 1e-12) + 6 * shift
    h -= 6 * tl.floor(h * (1 / 6))
    r = _clamp(tl.abs(h - 3) - 1) * c + low
    g = _clamp(2 - tl.abs(h - 2)) * c + low
    b = _clamp(2 - tl.abs(h - 4)) * c + low
    return r, g, b


@triton.jit
def _colour(r, g, b, begin, end, mean, whole, fractions):
    """Applies colour steps `begin` to `end` - 1 to RGB pixels; `whole` and `fractions`: the image's table rows."""
    for turn in range(begin, end):
        step = tl.load(whole + _STEPS + turn)
        if step >= 0:
            f = tl.load(fractions + _FACTORS + step)
            if step == _HUE:
                r, g, b = _turn_hue(r, g, b, f)
            else:
                rest = 1 - f
                if step == _SATURATION:
                    base = rest * _luma(r, g, b)
                elif step == _CONTRAST:
                    base = rest * mean + tl.zeros_like(r)
                else:
                    base = tl.zeros_like(r)
                r, g, b = _clamp(f * r + base), _clamp(f * g + base), _clamp(f * b + base)
    return r, g, b


@triton.jit
def _blend(v, begin, end, mean, whole, fractions):
    """`_colour` for one channel of an image that is not RGB: brightness and contrast only."""
    for turn in range(begin, end):
        step = tl.load(whole + _STEPS + turn)
        if step >= 0:
            f = tl.load(fractions + _FACTORS + step)
            base = (1 - f) * mean
            v = _clamp(f * v + tl.where(step == _CONTRAST, base, 0.0))
    return v


@triton.jit
def _taps(place, length, size, flip):
    """The antialiased resize of `length` pixels to `size`, for outputs `place`: their centres, the inverse filter
    radius, the first input pixels, and the maximum number of taps."""
    scale = length.to(tl.float32) / size
    support = tl.maximum(scale, 1.0)
    centre = (tl.where(flip != 0, size - 1 - place, place) + 0.5) * scale - 0.5
    low = tl.maximum(tl.floor(centre - support).to(tl.int32) + 1, 0)
    return centre, 1 / support, low, tl.ceil(2 * support).to(tl.int32)


@triton.jit
def _weight(pixel, centre, sharpness, length):
    return tl.where(pixel < length, tl.maximum(1 - tl.abs(pixel - centre) * sharpness, 0.0), 0.0)


@triton.jit(do_not_specialize=["highest"])
def _across(
    pixels, offsets, whole, lines, unit, highest, size: tl.constexpr, C: tl.constexpr, WHOLE: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """`lines` (B, C, highest, S): the rows of the crops, resized to S pixels, in [0, 1]."""
    b, c = tl.program_id(1), tl.program_id(2)
    own = whole + b * WHOLE
    height, width = tl.load(own + _HEIGHT), tl.load(own + _WIDTH)
    if tl.program_id(0) * BLOCK < height * size:
        place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        y, x = place // size, place % size
        there = y < height
        centre, sharpness, low, taps = _taps(x, width, size, tl.load(own + _HFLIP))
        plane, stride = tl.load(offsets + 4 * b + 1), tl.load(offsets + 4 * b + 2)
        start = pixels + tl.load(offsets + 4 * b) + c * plane + tl.load(own + _LEFT)
        row = start + (tl.load(own + _TOP) + y) * stride
        total = tl.zeros([BLOCK], tl.float32)
        value = tl.zeros([BLOCK], tl.float32)
        for t in range(taps):
            weight = _weight(low + t, centre, sharpness, width)
            total += weight
            value += weight * tl.load(row + low + t, mask=there & (low + t < width), other=0).to(tl.float32)
        tl.store(
            lines + (b.to(tl.int64) * C + c) * highest * size + place,
            value / tl.where(there, total, 1.0) * unit,
            mask=there,
        )


@triton.jit
def _shortened(lines, size, height, y, x, flip, there, BLOCK: tl.constexpr):
    """Pixels (y, x) of one channel, with the columns of `lines` (height, S) resized."""
    centre, sharpness, low, taps = _taps(y, height, size, flip)
    total = tl.zeros([BLOCK], tl.float32)
    value = tl.zeros([BLOCK], tl.float32)
    for t in range(taps):
        weight = _weight(low + t, centre, sharpness, height)
        total += weight
        value += weight * tl.load(lines + (low + t) * size + x, mask=there & (low + t < height), other=0.0)
    return value / tl.where(there, total, 1.0)


@triton.jit(do_not_specialize=["highest"])
def _down(
    lines, whole, fractions, image, sums, highest, size: tl.constexpr, C: tl.constexpr, WHOLE: tl.constexpr,
    FRACTIONS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """`image` (B, C, S, S): resized crops with colour steps before contrast; `sums` (B, tiles): for its mean."""
    b = tl.program_id(1)
    own, fraction = whole + b * WHOLE, fractions + b * FRACTIONS
    height, flip, wait = tl.load(own + _HEIGHT), tl.load(own + _VFLIP), tl.load(own + _WAIT)
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    y, x = place // size, place % size
    there = y < size
    line, plane = highest * size, size * size
    lines += b.to(tl.int64) * C * line
    image += b.to(tl.int64) * C * plane
    if C == 3:
        r = _shortened(lines, size, height, y, x, flip, there, BLOCK)
        g = _shortened(lines + line, size, height, y, x, flip, there, BLOCK)
        v = _shortened(lines + 2 * line, size, height, y, x, flip, there, BLOCK)
        r, g, v = _colour(r, g, v, 0, wait, 0.0, own, fraction)
        tl.store(image + place, r, mask=there)
        tl.store(image + plane + place, g, mask=there)
        tl.store(image + 2 * plane + place, v, mask=there)
        total = tl.sum(tl.where(there, _luma(r, g, v), 0.0), 0)
    else:
        total = 0.0
        for c in range(C):
            v = _shortened(lines + c * line, size, height, y, x, flip, there, BLOCK)
            v = _blend(v, 0, wait, 0.0, own, fraction)
            tl.store(image + c * plane + place, v, mask=there)
            total += tl.sum(tl.where(there, v, 0.0), 0) / C
    tl.store(sums + b * tl.num_programs(0) + tl.program_id(0), total)


@triton.jit
def _finish(
    v, y, x, c, own, threshold, mean, factor, out, sc, sy, sx, there,
):  # fmt: skip
    """Solarizes, normalises, erases and writes one channel of the pixels (y, x) of a view."""
    v = tl.where((tl.load(own + _SOLARIZE) != 0) & (v >= threshold), 1 - v, v)
    v = (v - tl.load(mean + c)) * tl.load(factor + c)
    turned = tl.load(own + _TRANSPOSE) != 0
    row, column = tl.where(turned, x, y), tl.where(turned, y, x)
    top, left = tl.load(own + _ERASE), tl.load(own + _ERASE + 1)
    below, beside = top + tl.load(own + _ERASE + 2), left + tl.load(own + _ERASE + 3)
    v = tl.where((row >= top) & (row < below) & (column >= left) & (column < beside), 0.0, v)
    tl.store(out + c * sc + row * sy + column * sx, v, mask=there)


@triton.jit
def _recolour(
    image, whole, fractions, sums, threshold, mean, factor, out, sb, sc, sy, sx, size: tl.constexpr, C: tl.constexpr,
    WHOLE: tl.constexpr, FRACTIONS: tl.constexpr, TILES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Colour steps from contrast on; written to `out` (B, C, S, S) without a blur, otherwise back to `image`."""
    b = tl.program_id(1)
    own, fraction = whole + b * WHOLE, fractions + b * FRACTIONS
    wait, blur = tl.load(own + _WAIT), tl.load(fraction + _SIGMA) > 0
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    y, x = place // size, place % size
    there = y < size
    tiles, plane = tl.num_programs(0), size * size
    tile = tl.arange(0, TILES)
    average = tl.sum(tl.load(sums + b * tiles + tile, mask=tile < tiles, other=0.0), 0) / (size * size)
    image += b.to(tl.int64) * C * plane
    out += b.to(tl.int64) * sb
    if C == 3:
        r = tl.load(image + place, mask=there, other=0.0)
        g = tl.load(image + plane + place, mask=there, other=0.0)
        v = tl.load(image + 2 * plane + place, mask=there, other=0.0)
        r, g, v = _colour(r, g, v, wait, 4, average, own, fraction)
        if tl.load(own + _GREY) != 0:
            grey = _luma(r, g, v)
            r, g, v = grey, grey, grey
        if blur:
            tl.store(image + place, r, mask=there)
            tl.store(image + plane + place, g, mask=there)
            tl.store(image + 2 * plane + place, v, mask=there)
        else:
            _finish(r, y, x, 0, own, threshold, mean, factor, out, sc, sy, sx, there)
            _finish(g, y, x, 1, own, threshold, mean, factor, out, sc, sy, sx, there)
            _finish(v, y, x, 2, own, threshold, mean, factor, out, sc, sy, sx, there)
    else:
        for c in range(C):
            v = tl.load(image + c * plane + place, mask=there, other=0.0)
            v = _blend(v, wait, 4, average, own, fraction)
            if blur:
                tl.store(image + c * plane + place, v, mask=there)
            else:
                _finish(v, y, x, c, own, threshold, mean, factor, out, sc, sy, sx, there)


@triton.jit
def _blurred(line, place, stride, size, sigma, half, there, BLOCK: tl.constexpr):
    """Gaussian blur along one axis, at the indices `place` on it; borders are mirrored."""
    total = 0.0
    value = tl.zeros([BLOCK], tl.float32)
    for t in range(-half, half + 1):
        weight = tl.exp(-0.5 * (t / sigma) * (t / sigma))
        at = tl.abs(place + t)
        at = tl.where(at >= size, 2 * (size - 1) - at, at)
        total += weight
        value += weight * tl.load(line + at * stride, mask=there, other=0.0)
    return value / total


@triton.jit
def _blur_across(
    image, rows, fractions, lines, reach, size: tl.constexpr, C: tl.constexpr, FRACTIONS: tl.constexpr,
    KERNEL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """`lines` (rows, C, S, S): the images with indices `rows`, blurred along their rows."""
    n, c = tl.program_id(1), tl.program_id(2)
    b = tl.load(rows + n)
    sigma = tl.load(fractions + b * FRACTIONS + _SIGMA)
    half = tl.minimum(tl.maximum(tl.ceil(reach * sigma).to(tl.int32), 1), KERNEL // 2)
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    y, x = place // size, place % size
    there = y < size
    plane = size * size
    line = image + (b.to(tl.int64) * C + c) * plane + y * size
    value = _blurred(line, x, 1, size, sigma, half, there, BLOCK)
    tl.store(lines + (n.to(tl.int64) * C + c) * plane + place, value, mask=there)


@triton.jit
def _blur_down(
    lines, rows, whole, fractions, reach, threshold, mean, factor, out, sb, sc, sy, sx, size: tl.constexpr,
    C: tl.constexpr, WHOLE: tl.constexpr, FRACTIONS: tl.constexpr, KERNEL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Blurs along the columns, and finishes the views."""
    n, c = tl.program_id(1), tl.program_id(2)
    b = tl.load(rows + n)
    own = whole + b * WHOLE
    sigma = tl.load(fractions + b * FRACTIONS + _SIGMA)
    half = tl.minimum(tl.maximum(tl.ceil(reach * sigma).to(tl.int32), 1), KERNEL // 2)
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    y, x = place // size, place % size
    there = y < size
    line = lines + (n.to(tl.int64) * C + c) * size * size + x
    value = _blurred(line, y, size, size, sigma, half, there, BLOCK)
    _finish(value, y, x, c, own, threshold, mean, factor, out + b.to(tl.int64) * sb, sc, sy, sx, there)


def views(
    pixels: Tensor, offsets: Tensor, strides: Tensor, recipes: Sequence[tuple[View, Plan]], *, unit: float,
    mean: Tensor, std: Tensor, last: bool, budget: int,
) -> list[Tensor]:  # fmt: skip
    """For each recipe the views (B, C, S, S) float32 of B images, on the device of `pixels`.

    That device must be torch's current one, on which Triton launches kernels.

    Args:
        pixels: the images, uint8, uint16 or float32, in one contiguous tensor of any shape.
        offsets: (B,) int64 on the CPU, index of the first pixel of each image.
        strides: (B, 2) int64 on the CPU, strides between channels and between rows, in pixels.
        recipes: the views and their plans, on the CPU.
        unit: factor that scales pixels to [0, 1].
        mean, std: (C,) float32 on the CPU.
        last: whether the output is channels-last in memory.
        budget: maximum number of float32 values in the intermediate buffers.
    """
    device, b = pixels.device, len(offsets)
    pixels = pixels.reshape(-1)
    whole = moved(torch.stack([_whole(plan) for _, plan in recipes]), device)
    rows_of = [torch.cat((plan.factors, plan.sigma[:, None]), 1) for _, plan in recipes]
    fractions = moved(F.pad(torch.stack(rows_of), (0, _FRACTIONS.value - 5)), device)
    where = moved(torch.cat((offsets[:, None], strides, strides[:, :1]), 1), device)
    center, factor = moved(torch.stack((mean, 1 / std)), device)
    shape = torch.channels_last if last else torch.contiguous_format
    results = []
    for number, (view, plan) in enumerate(recipes):
        out = torch.empty((b, len(mean), view.size, view.size), dtype=torch.float32, device=device, memory_format=shape)
        per_image = len(mean) * view.size * (max(view.size, int(plan.box[:, 2].max())) + view.size) if b else 1
        step = min(max(1, budget // per_image), _MAX_IMAGES)
        for rows in (slice(i, i + step) for i in range(0, b, step)):
            _fill(
                out[rows], pixels, where[rows], whole[number, rows], fractions[number, rows], center,
                factor, view, unit, int(plan.box[rows, 2].max()), plan.sigma[rows].nonzero().squeeze(1),
            )  # fmt: skip
        results.append(out)
    return results


def _whole(plan: Plan) -> Tensor:
    """The table (B, columns) int32 of integer parameters."""
    is_contrast = plan.steps == CONTRAST
    wait = torch.where(is_contrast.any(1), is_contrast.to(torch.uint8).argmax(1), 4)
    marks = torch.stack((wait, plan.grey, plan.solarize), 1)
    table = torch.cat((plan.box, plan.flips, plan.steps, marks, plan.erase), 1).to(torch.int32)
    return F.pad(table, (0, _WHOLE.value - table.shape[1]))


def _fill(
    out: Tensor, pixels: Tensor, where: Tensor, whole: Tensor, fractions: Tensor, mean: Tensor, factor: Tensor,
    view: View, unit: float, highest: int, blurred: Tensor,
) -> None:  # fmt: skip
    """Writes one view of some images to `out`; `blurred`: the indices of those with a blur, on the CPU."""
    b, c, s, _ = out.shape
    lines = torch.empty((b, c, max(highest, s), s), dtype=torch.float32, device=out.device)
    image = torch.empty((b, c, s, s), dtype=torch.float32, device=out.device)
    tiles = triton.cdiv(s * s, _BLOCK)
    sums = torch.empty((b, tiles), dtype=torch.float32, device=out.device)
    sb, sc, sy, sx = out.stride()
    tables = {"WHOLE": _WHOLE.value, "BLOCK": _BLOCK}
    both = tables | {"FRACTIONS": _FRACTIONS.value}
    across = (triton.cdiv(highest * s, _BLOCK), b, c)
    _across[across](pixels, where, whole, lines, unit, highest, s, C=c, **tables)
    _down[tiles, b](lines, whole, fractions, image, sums, highest, s, C=c, **both)
    _recolour[tiles, b](
        image, whole, fractions, sums, view.threshold, mean, factor, out, sb, sc, sy, sx, s, C=c,
        TILES=triton.next_power_of_2(tiles), **both,
    )  # fmt: skip
    if len(blurred):
        rows = moved(blurred, out.device)
        _blur_across[tiles, len(rows), c](
            image, rows, fractions, lines, BLUR_REACH, s, C=c, FRACTIONS=_FRACTIONS.value, KERNEL=view.kernel,
            BLOCK=_BLOCK,
        )  # fmt: skip
        _blur_down[tiles, len(rows), c](
            lines, rows, whole, fractions, BLUR_REACH, view.threshold, mean, factor, out, sb, sc, sy, sx, s, C=c,
            KERNEL=view.kernel, **both,
        )  # fmt: skip

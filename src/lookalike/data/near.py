"""Near duplicates: images whose rough structure agrees, confirmed on their detail.

A perceptual hash of numbers finds candidates: the lowest frequencies of a thumbnail without the light that falls on it
evenly or from one side, weighted so that what all images of a set share counts least. Each pair of candidates is then
laid over each other, for a copy may be cropped, and compared in what is left once all low frequencies are taken off.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

SIDE: Final = 48
"""Pixels a side of a thumbnail: a byte each is all that is kept of an image."""
NEAR_HASH: Final = 0.65
"""Near duplicates have perceptual hashes that correlate at least so much, ..."""
NEAR_DETAIL: Final = 0.9
"""... and details that correlate at least so much once one image is laid over the other, ..."""
NEAR_SHARE: Final = 0.88
"""... and do so in that share of the squares that have details. Measured: `benchmarks/near_duplicates.py`."""
PARTNERS: Final = 8
"""Images before it, the most alike, that an image is compared with at most, ..."""
ENOUGH: Final = 2
"""... but no more than these once so many of them are near duplicates: the rest of a crowd is joined by them."""

_TERMS: Final = 7
"""Half waves per side in the hash, less one."""
_PRIOR: Final = 200
"""Images that equal weights of all frequencies count for, beside those of the set."""
_MOST: Final = 0.9
"""Share of what all images have in common that is taken off at most: images of one scene stay alike."""
_COARSE: Final = 12
"""Waves whose details lay one image over the other: of 2 and more per side."""
_FINE: Final = 24
"""Waves whose details decide: of 4 and more per side."""
_SQUARES: Final = 6
"""Squares per side in which details are compared by themselves."""
_DETAIL: Final = 2 / 255
"""Standard deviation of what counts as details there: JPEG's errors are smaller."""
_LIKELY: Final = 0.7
"""Agreement at half the size below which a pair is none."""
_EDGE: Final = 0.14
"""How far a side of the image may move, and its size change, in half sides: crops of 5 % need 0.1."""
_TABLE: Final = 2**22
"""Numbers of a block of the table of all pairs."""
_AT_ONCE: Final = 128
"""Pairs that are laid over each other at once."""


def thumbnail(grey: Tensor) -> tuple[np.ndarray, float]:
    """The (SIDE, SIDE) thumbnail of a grey image (1, 1, H, W), stretched to all 256 values, and the range it had."""
    small = F.interpolate(grey, (SIDE, SIDE), mode="bilinear", antialias=True)[0, 0]
    low, high = float(small.min()), float(small.max())
    stretched = (small - low) * (255 / max(high - low, 1e-12))
    return stretched.round().to(torch.uint8).numpy(), high - low


def near_pairs(thumbnails: np.ndarray, first: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of images that show the same, resized, compressed, cropped by a few per cent or slightly changed.

    Args:
        thumbnails: (N, SIDE, SIDE) uint8.
        first: with it only pairs of one of so many first images and one of the others.

    Returns:
        (P, 2) places i < j, in order, and (P,) the correlations of their details.
    """
    pairs, rank = _candidates(_hashes(thumbnails), first)
    detail = np.zeros(len(pairs), np.float32)
    partners = np.zeros(len(thumbnails), np.int64)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # over small matrices they would wait for each other: each takes parts of its own
    try:
        with ThreadPoolExecutor(threads, "lookalike-near") as pool:
            for low, high in ((0, ENOUGH), (ENOUGH, PARTNERS)):
                turn = np.flatnonzero((low <= rank) & (rank < high) & (partners[pairs[:, 1]] < ENOUGH))
                parts = [turn[start : start + _AT_ONCE] for start in range(0, len(turn), _AT_ONCE)]
                looked = pool.map(lambda part: _detail(*thumbnails[pairs[part].T]), parts)
                detail[turn] = np.concatenate([np.zeros(0, np.float32), *looked])
                np.add.at(partners, pairs[turn, 1], detail[turn] > 0)
    finally:
        torch.set_num_threads(threads)
    return pairs[detail > 0], detail[detail > 0]


# ---------------------------------------------------------------- the perceptual hash


def _hashes(thumbnails: np.ndarray) -> np.ndarray:
    """(N, D) float32 of length 1."""
    # waves of the discrete cosine transform, and a slope: light that falls from one side
    places = np.pi * (np.arange(SIDE) + 0.5) / SIDE
    slope = np.linspace(-1, 1, SIDE)
    waves = np.vstack([np.cos(places * np.arange(_TERMS)[:, None]), slope]).astype(np.float32)
    leaning = waves[:-1] @ waves[-1] / np.float32(slope @ slope)
    number = np.hypot(*np.mgrid[:_TERMS, :_TERMS]).astype(np.float32)
    keep = (number > 0) & (number < _TERMS - 0.5)
    parts = [np.zeros((0, keep.sum()), np.float32)]
    for start in range(0, len(thumbnails), 4096):
        part = thumbnails[start : start + 4096].astype(np.float32)
        spectrum = waves @ (part.reshape(-1, SIDE) @ waves.T).reshape(len(part), SIDE, -1)
        spectrum[:, 0, :-1] -= spectrum[:, 0, -1:] * leaning
        spectrum[:, :-1, 0] -= spectrum[:, -1:, 0] * leaning
        parts.append(_unit(spectrum[:, :-1, :-1][:, keep] * number[keep]))  # amplitudes of photographs fall as 1 / f
    x = np.concatenate(parts)
    share = min(_MOST, len(x) / (len(x) + _PRIOR))
    if len(x) > 1:
        x -= share * x.mean(0)
        spread = share * np.cov(x.T) + (1 - share) * np.eye(x.shape[1]) / x.shape[1]
        values, vectors = np.linalg.eigh(spread)
        x = _unit(x @ ((vectors * values**-0.5) @ vectors.T).astype(np.float32))
    return x


def _unit(x: np.ndarray) -> np.ndarray:
    unit: np.ndarray = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-6)
    return unit


def _candidates(hashes: np.ndarray, first: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Each image with those before it (or among the `first`) that are alike enough, the PARTNERS most alike of them:
    (P, 2), in order, and (P,) their ranks."""
    found = [np.zeros((0, 3), np.int64)]
    rows = max(1, _TABLE // max(1, len(hashes) if first is None else first))
    for start in range(first or 0, len(hashes), rows):
        block = hashes[start : start + rows]
        alike = block @ hashes[: start + len(block) if first is None else first].T
        if first is None:
            alike[:, start:][np.triu_indices(len(block))] = -1
        flat = np.flatnonzero(alike >= NEAR_HASH)
        row, column = np.divmod(flat, alike.shape[1] or 1)
        order = np.lexsort((-alike.ravel()[flat], row))  # by rows, the most alike first
        row, column = row[order], column[order]
        rank = np.arange(len(row)) - np.searchsorted(row, row)
        found.append(np.column_stack([column, row + start, rank])[rank < PARTNERS])
    pairs = np.concatenate(found)
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    return pairs[:, :2], pairs[:, 2]


# ---------------------------------------------------------------- the detail


def _detail(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(P,) float32: how much the details of thumbnails (P, SIDE, SIDE) correlate where one lies over the other; 0 for
    pairs that are none."""
    soft = _smoothing(SIDE, 0.6)  # what is finer than that suffers when it is laid between pixels
    a, b = (soft @ torch.from_numpy(x).float().div_(255) @ soft.T for x in (first, second))
    move, agree = _found(a, b)
    found = torch.zeros(len(a))
    likely = (agree >= _LIKELY).nonzero()[:, 0]
    a, b, move = a[likely], b[likely], move[likely]
    there = _laid_over(_details(a, _COARSE), _details(b, _COARSE), move, 3)
    one = _confirmed(a, b, there)
    again = (one == 0).nonzero()[:, 0]  # the crop was laid over the whole; now the whole over the crop
    back = -there / (1 + there[:, [0, 0, 2, 2]])
    one[again] = _confirmed(b[again], a[again], back[again])
    found[likely] = one
    return found.numpy()


def _found(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Lays `a` over `b` at half their size: the move, and how much they agree then."""
    soft, softer = (_smoothing(SIDE // 2, blur) for blur in (0.7, 1.1))
    a, b = (soft @ F.avg_pool2d(x[:, None], 2)[:, 0] @ soft.T for x in (a, b))
    fine_a, fine_b = (_details(x, _COARSE) for x in (a, b))
    move = _laid_over(softer @ fine_a @ softer.T, softer @ fine_b @ softer.T, torch.zeros(len(a), 4), 5)
    move = _laid_over(fine_a, fine_b, move, 3)
    return move, _agreement(a, b, move, _COARSE)


@cache
def _smoothing(side: int, sigma: float) -> Tensor:
    """(side, side): blurs a row; mirrored at its ends by point, which leaves slopes as they are."""
    reach = min(side - 1, math.ceil(3.5 * sigma))
    longer = torch.zeros(side + 2 * reach, side)
    longer[reach : reach + side] = torch.eye(side)
    for k in range(1, reach + 1):
        longer[reach - k, [0, k]] = torch.tensor([2.0, -1.0])
        longer[reach + side - 1 + k, [side - 1, side - 1 - k]] = torch.tensor([2.0, -1.0])
    bell = torch.exp(-torch.arange(-reach, reach + 1).square() / (2 * sigma**2))
    kernel = torch.stack([F.pad(bell / bell.sum(), (i, side - 1 - i)) for i in range(side)])
    return kernel @ longer


def _details(x: Tensor, waves: float) -> Tensor:
    """What is left of images (P, S, S) without frequencies below some `waves` / 6 per side, over its size around: then
    neither light nor one strong edge decides."""
    side = x.shape[-1]
    low, around = _smoothing(side, side / waves), _smoothing(side, side / 8).abs()
    high = x - low @ x @ low.T
    power = high.square()
    return high / (around @ power @ around.T + 0.3 * power.mean((1, 2), keepdim=True) + 1e-6).sqrt()


def _lines(move: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Matrices (P, S, S) that take rows and columns from moved places; 0 where there is none.

    move: (P, 4): scale less 1 and shift, across and down, where the half side is 1.
    """
    u, half = torch.linspace(-1, 1, side), (side - 1) / 2
    places = ((1 + move[:, ::2, None]) * u + move[:, 1::2, None]) * half + half
    lines = (1 - (places[..., None] - torch.arange(side)).abs()).clamp(min=0)
    return lines[:, 1], lines[:, 0]


def _laid_over(a: Tensor, b: Tensor, move: Tensor, steps: int) -> Tensor:
    """Moves `a` closer to `b` (P, S, S), by steps of Gauss and Newton with the slopes of `b`."""
    side = b.shape[-1]
    u, half = torch.linspace(-1, 1, side), (side - 1) / 2
    across, down = torch.gradient(b, dim=2)[0] * half, torch.gradient(b, dim=1)[0] * half
    slopes = torch.stack([across * u, across, down * u[:, None], down], 1).flatten(2)
    products = slopes @ slopes.mT
    trace = products.diagonal(dim1=1, dim2=2).sum(1)
    stay = (0.005 * trace + 1e-6)[:, None]  # no move along an edge, where nothing says how far
    inverse = torch.linalg.inv(products + torch.eye(4) * stay[..., None])
    for _ in range(steps):
        rows, columns = _lines(move, side)
        there = rows.sum(2)[:, :, None] * columns.sum(2)[:, None]
        off = rows @ a @ columns.mT - b * there
        pull = (slopes @ off.flatten(1)[..., None])[..., 0] + stay * move
        move = (move - (inverse @ pull[..., None])[..., 0]).clamp(-_EDGE, _EDGE)
    return move


def _confirmed(a: Tensor, b: Tensor, move: Tensor) -> Tensor:
    """(P,): how much the details of `b` and of the moved `a` correlate; 0 where that is too little, here or there."""
    agree = _agreement(a, b, move, _FINE)
    likely = (agree >= NEAR_DETAIL).nonzero()[:, 0]
    found = torch.zeros(len(a))
    everywhere = _share(a[likely], b[likely], move[likely]) >= NEAR_SHARE
    found[likely[everywhere]] = agree[likely[everywhere]]
    return found


def _agreement(a: Tensor, b: Tensor, move: Tensor, waves: float) -> Tensor:
    """(P,): correlation of the details of `b` and of the moved `a`, where both are."""
    moved, b, both = _overlaid(a, b, move)
    return _correlation(_details(moved, waves).flatten(1), _details(b, waves).flatten(1), both.flatten(1))


def _share(a: Tensor, b: Tensor, move: Tensor) -> Tensor:
    """(P,): of the squares in which either image has details, the share in which the two have them alike."""
    moved, b, both = _overlaid(a, b, move)
    low = _smoothing(SIDE, SIDE / _FINE)
    x, y, where = (_squares(z) for z in (moved - low @ moved @ low.T, b - low @ b @ low.T, both))
    count = where.sum(2).clamp(min=1)
    size = torch.maximum(*((z * where).square().sum(2) / count for z in (x, y))).sqrt()
    detailed = (size > _DETAIL) & (count > where.shape[2] / 2)
    alike = detailed & (_correlation(x, y, where) > 0.5)
    return torch.where(detailed.any(1), alike.sum(1) / detailed.sum(1).clamp(min=1), 1.0)


def _squares(x: Tensor) -> Tensor:
    """(P, S, S) -> (P, squares, pixels)."""
    side = SIDE // _SQUARES
    return x.view(-1, _SQUARES, side, _SQUARES, side).transpose(2, 3).reshape(len(x), _SQUARES**2, side**2)


def _overlaid(a: Tensor, b: Tensor, move: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The moved `a`, `b` with its brightness and contrast, and 1 where both are, (P, S, S) each.

    Where `a` has nothing it is continued by `b`, so that there is no edge.
    """
    rows, columns = _lines(move, b.shape[-1])
    both = ((rows.sum(2)[:, :, None] * columns.sum(2)[:, None]) > 0.999).float()
    moved = rows @ a @ columns.mT
    count = both.sum((1, 2), keepdim=True).clamp(min=1)
    means = [(x * both).sum((1, 2), keepdim=True) / count for x in (moved, b)]
    spreads = [((x - m) * both).square().sum((1, 2), keepdim=True).sqrt() for x, m in zip((moved, b), means)]
    b = (b - means[1]) * (spreads[0] / spreads[1].clamp(min=1e-6)) + means[0]
    return moved * both + b * (1 - both), b, both


def _correlation(x: Tensor, y: Tensor, where: Tensor) -> Tensor:
    """Of the last dimension, where `where` is 1."""
    count = where.sum(-1, keepdim=True).clamp(min=1)
    x, y = ((z - (z * where).sum(-1, keepdim=True) / count) * where for z in (x, y))
    return (x * y).sum(-1) / (x.square().sum(-1) * y.square().sum(-1)).sqrt().clamp(min=1e-9)

"""Near duplicates: images with the same coarse structure, confirmed by their details.

A real-valued perceptual hash finds candidates: the lowest DCT frequencies of a thumbnail, without uniform or one-sided
illumination, whitened so that structure common to the whole set has little weight. The two images of a candidate pair
are then registered (a copy may be cropped) and compared after high-pass filtering.
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
"""Side of a thumbnail in pixels; its 48 x 48 bytes are all that is stored of an image."""
NEAR_HASH: Final = 0.65
"""Minimum correlation of the perceptual hashes of near duplicates."""
NEAR_DETAIL: Final = 0.9
"""Minimum correlation of their details after registration."""
NEAR_SHARE: Final = 0.88
"""Minimum fraction of the squares with details in which these agree. Measured: `benchmarks/near_duplicates.py`."""
PARTNERS: Final = 8
"""Maximum number of preceding images, most similar first, with which an image is compared."""
ENOUGH: Final = 2
"""An image with this many near duplicates is not compared further: they connect it to the rest of a large group."""

_TERMS: Final = 7
"""DCT frequencies per side in the hash, 0 included."""
_PRIOR: Final = 200
"""Weight, in images, of the prior of the whitening: equal variance of all frequencies."""
_MAX_WHITENING: Final = 0.9
"""Maximum weight of the set's mean and covariance, so that images of one scene stay similar."""
_COARSE: Final = 12
"""High-pass cutoff of the registration: keeps 2 and more cycles per side."""
_FINE: Final = 24
"""High-pass cutoff of the confirmation: keeps 4 and more cycles per side."""
_SQUARES: Final = 6
"""Squares per side whose details are compared separately."""
_DETAIL: Final = 2 / 255
"""Minimum standard deviation of a square with details; JPEG artefacts are smaller."""
_LIKELY: Final = 0.7
"""Minimum correlation at half resolution; pairs below it are rejected."""
_MAX_MOVE: Final = 0.14
"""Maximum shift and relative scale change of the registration, in half sides: crops of 5 % need 0.1."""
_TABLE: Final = 2**22
"""Entries in a block of the similarity matrix."""
_PAIRS_AT_ONCE: Final = 128
"""Pairs registered in one batch."""


def thumbnail(gray: Tensor) -> tuple[np.ndarray, float]:
    """A (SIDE, SIDE) thumbnail of a greyscale image (1, 1, H, W), stretched to 0 to 255, and its original range."""
    small = F.interpolate(gray, (SIDE, SIDE), mode="bilinear", antialias=True)[0, 0]
    low, high = float(small.min()), float(small.max())
    stretched = (small - low) * (255 / max(high - low, 1e-12))
    return stretched.round().to(torch.uint8).numpy(), high - low


def near_pairs(thumbnails: np.ndarray, first: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of images with the same content: resized, compressed, cropped by a few per cent or slightly edited.

    Args:
        thumbnails: (N, SIDE, SIDE) uint8.
        first: if given, only pairs of one of the first `first` images with one of the others.

    Returns:
        (P, 2) indices i < j, sorted, and (P,) the correlations of their details.
    """
    pairs, rank = _candidates(_hashes(thumbnails), first)
    detail = np.zeros(len(pairs), np.float32)
    partners = np.zeros(len(thumbnails), np.int64)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # matrices are too small to share among threads: each thread takes its own pairs
    try:
        with ThreadPoolExecutor(threads, "lookalike-near") as pool:
            for low, high in ((0, ENOUGH), (ENOUGH, PARTNERS)):
                chosen = np.flatnonzero((low <= rank) & (rank < high) & (partners[pairs[:, 1]] < ENOUGH))
                batches = [chosen[i : i + _PAIRS_AT_ONCE] for i in range(0, len(chosen), _PAIRS_AT_ONCE)]
                details = pool.map(lambda batch: _detail(*thumbnails[pairs[batch].T]), batches)
                detail[chosen] = np.concatenate([np.zeros(0, np.float32), *details])
                np.add.at(partners, pairs[chosen, 1], detail[chosen] > 0)
    finally:
        torch.set_num_threads(threads)
    return pairs[detail > 0], detail[detail > 0]


# ---------------------------------------------------------------- the perceptual hash


def _hashes(thumbnails: np.ndarray) -> np.ndarray:
    """(N, D) float32 unit vectors."""
    # the basis of the discrete cosine transform, and a linear slope: illumination from one side
    angles = np.pi * (np.arange(SIDE) + 0.5) / SIDE
    slope = np.linspace(-1, 1, SIDE)
    waves = np.vstack([np.cos(angles * np.arange(_TERMS)[:, None]), slope]).astype(np.float32)
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
    weight = min(_MAX_WHITENING, len(x) / (len(x) + _PRIOR))
    if len(x) > 1:
        x -= weight * x.mean(0)
        covariance = weight * np.cov(x.T) + (1 - weight) * np.eye(x.shape[1]) / x.shape[1]
        values, vectors = np.linalg.eigh(covariance)
        x = _unit(x @ ((vectors * values**-0.5) @ vectors.T).astype(np.float32))
    return x


def _unit(x: np.ndarray) -> np.ndarray:
    unit: np.ndarray = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-6)
    return unit


def _candidates(hashes: np.ndarray, first: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of an image with at most PARTNERS similar images before it (or among the `first`), most similar first.

    Returns (P, 2) indices, sorted, and (P,) the ranks among an image's partners.
    """
    found = [np.zeros((0, 3), np.int64)]
    rows = max(1, _TABLE // max(1, len(hashes) if first is None else first))
    for start in range(first or 0, len(hashes), rows):
        block = hashes[start : start + rows]
        similarity = block @ hashes[: start + len(block) if first is None else first].T
        if first is None:
            similarity[:, start:][np.triu_indices(len(block))] = -1
        flat = np.flatnonzero(similarity >= NEAR_HASH)
        row, column = np.divmod(flat, similarity.shape[1] or 1)
        order = np.lexsort((-similarity.ravel()[flat], row))  # by row, most similar first
        row, column = row[order], column[order]
        rank = np.arange(len(row)) - np.searchsorted(row, row)
        found.append(np.column_stack([column, row + start, rank])[rank < PARTNERS])
    pairs = np.concatenate(found)
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    return pairs[:, :2], pairs[:, 2]


# ---------------------------------------------------------------- the detail


def _detail(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(P,) float32: correlation of the details of registered thumbnails (P, SIDE, SIDE); 0 for no near duplicates."""
    soft = _smoothing(SIDE, 0.6)  # finer details do not survive interpolation between pixels
    a, b = (soft @ torch.from_numpy(x).float().div_(255) @ soft.T for x in (first, second))
    move, agree = _coarse_registration(a, b)
    detail = torch.zeros(len(a))
    likely = (agree >= _LIKELY).nonzero()[:, 0]
    a, b, move = a[likely], b[likely], move[likely]
    forward = _registered(_details(a, _COARSE), _details(b, _COARSE), move, 3)
    confirmed = _confirmed(a, b, forward)
    rejected = (confirmed == 0).nonzero()[:, 0]  # tried again in the other direction: either image may be the crop
    back = -forward / (1 + forward[:, [0, 0, 2, 2]])
    confirmed[rejected] = _confirmed(b[rejected], a[rejected], back[rejected])
    detail[likely] = confirmed
    return detail.numpy()


def _coarse_registration(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Registers `a` to `b` at half resolution: the move (P, 4), and the correlation (P,) after it."""
    soft, softer = (_smoothing(SIDE // 2, blur) for blur in (0.7, 1.1))
    a, b = (soft @ F.avg_pool2d(x[:, None], 2)[:, 0] @ soft.T for x in (a, b))
    fine_a, fine_b = (_details(x, _COARSE) for x in (a, b))
    move = _registered(softer @ fine_a @ softer.T, softer @ fine_b @ softer.T, torch.zeros(len(a), 4), 5)
    move = _registered(fine_a, fine_b, move, 3)
    return move, _agreement(a, b, move, _COARSE)


@cache
def _smoothing(side: int, sigma: float) -> Tensor:
    """(side, side): Gaussian blur of a row, extended point-symmetrically at its ends, which preserves slopes."""
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
    """High-pass images (P, S, S), without frequencies below about `waves` / 6 cycles per side, locally normalised.

    So neither illumination nor a single strong edge dominates a correlation.
    """
    side = x.shape[-1]
    low, local = _smoothing(side, side / waves), _smoothing(side, side / 8).abs()
    high = x - low @ x @ low.T
    power = high.square()
    return high / (local @ power @ local.T + 0.3 * power.mean((1, 2), keepdim=True) + 1e-6).sqrt()


def _lines(move: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Matrices (P, S, S) that interpolate rows and columns at moved positions; 0 outside the image.

    Args:
        move: (P, 4): scale - 1 and shift, horizontal then vertical, in half sides.
    """
    u, half = torch.linspace(-1, 1, side), (side - 1) / 2
    positions = ((1 + move[:, ::2, None]) * u + move[:, 1::2, None]) * half + half
    lines = (1 - (positions[..., None] - torch.arange(side)).abs()).clamp(min=0)
    return lines[:, 1], lines[:, 0]


def _registered(a: Tensor, b: Tensor, move: Tensor, steps: int) -> Tensor:
    """Refines the `move` of `a` onto `b` (P, S, S) by Gauss-Newton steps with the gradients of `b`."""
    side = b.shape[-1]
    u, half = torch.linspace(-1, 1, side), (side - 1) / 2
    across, down = torch.gradient(b, dim=2)[0] * half, torch.gradient(b, dim=1)[0] * half
    slopes = torch.stack([across * u, across, down * u[:, None], down], 1).flatten(2)
    products = slopes @ slopes.mT
    trace = products.diagonal(dim1=1, dim2=2).sum(1)
    damping = (0.005 * trace + 1e-6)[:, None]  # no move along an edge, where the shift is undetermined
    inverse = torch.linalg.inv(products + torch.eye(4) * damping[..., None])
    for _ in range(steps):
        rows, columns = _lines(move, side)
        inside = rows.sum(2)[:, :, None] * columns.sum(2)[:, None]
        residual = rows @ a @ columns.mT - b * inside
        gradient = (slopes @ residual.flatten(1)[..., None])[..., 0] + damping * move
        move = (move - (inverse @ gradient[..., None])[..., 0]).clamp(-_MAX_MOVE, _MAX_MOVE)
    return move


def _confirmed(a: Tensor, b: Tensor, move: Tensor) -> Tensor:
    """(P,): correlation of the details of `b` and of the moved `a`; 0 if too low overall or in too many squares."""
    agree = _agreement(a, b, move, _FINE)
    likely = (agree >= NEAR_DETAIL).nonzero()[:, 0]
    confirmed = torch.zeros(len(a))
    everywhere = _agreeing_fraction(a[likely], b[likely], move[likely]) >= NEAR_SHARE
    confirmed[likely[everywhere]] = agree[likely[everywhere]]
    return confirmed


def _agreement(a: Tensor, b: Tensor, move: Tensor, waves: float) -> Tensor:
    """(P,): correlation of the details of `b` and of the moved `a`, where they overlap."""
    moved, b, both = _overlaid(a, b, move)
    return _correlation(_details(moved, waves).flatten(1), _details(b, waves).flatten(1), both.flatten(1))


def _agreeing_fraction(a: Tensor, b: Tensor, move: Tensor) -> Tensor:
    """(P,): of the squares in which either image has details, the fraction in which the details correlate."""
    moved, b, both = _overlaid(a, b, move)
    low = _smoothing(SIDE, SIDE / _FINE)
    x, y, where = (_squares(z) for z in (moved - low @ moved @ low.T, b - low @ b @ low.T, both))
    count = where.sum(2).clamp(min=1)
    size = torch.maximum(*((z * where).square().sum(2) / count for z in (x, y))).sqrt()
    detailed = (size > _DETAIL) & (count > where.shape[2] / 2)
    agree = detailed & (_correlation(x, y, where) > 0.5)
    return torch.where(detailed.any(1), agree.sum(1) / detailed.sum(1).clamp(min=1), 1.0)


def _squares(x: Tensor) -> Tensor:
    """(P, S, S) -> (P, squares, pixels)."""
    side = SIDE // _SQUARES
    return x.view(-1, _SQUARES, side, _SQUARES, side).transpose(2, 3).reshape(len(x), _SQUARES**2, side**2)


def _overlaid(a: Tensor, b: Tensor, move: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The moved `a`, `b` with the brightness and contrast of `a`, and 1 where they overlap; (P, S, S) each.

    Outside the moved `a`, it is filled with `b`, which avoids an artificial edge.
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
    """Correlation over the last dimension, where `where` is 1."""
    count = where.sum(-1, keepdim=True).clamp(min=1)
    x, y = ((z - (z * where).sum(-1, keepdim=True) / count) * where for z in (x, y))
    return (x * y).sum(-1) / (x.square().sum(-1) * y.square().sum(-1)).sqrt().clamp(min=1e-9)

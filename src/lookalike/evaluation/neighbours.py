"""Exact nearest neighbours in a bank of features by cosine similarity, in blocks, on any device.

On a CPU each thread multiplies some queries with the bank, block by block, and collects the k largest similarities of
each (`topk`). NumPy multiplies, because its BLAS can be limited to one thread, and the bank is not copied: products are
divided by the lengths afterwards. On other devices, and without Numba, torch does the same with its `topk`.
"""

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from threading import Event
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

ENGINE: Literal["compiled", "torch"] = "compiled" if find_spec("numba") and find_spec("threadpoolctl") else "torch"
"""The search on a CPU, for banks of several blocks in float32."""
QUERIES, ROWS = 1024, 4096
"""Queries per thread and rows of the bank that are compared at once on a CPU: 16 MiB of similarities."""
BLOCK = 8192
"""Queries per search, and rows of the bank that torch compares with them at once."""
TIE = 8 * torch.finfo(torch.float32).eps
"""Cosines that differ by at most this are tied: networks compute in float32, whatever the dtype of their features."""


@torch.no_grad()
def nearest(
    queries: Tensor, bank: Tensor, k: int, block: int = BLOCK, progress: Callable[[int, int], None] | None = None
) -> tuple[Tensor, Tensor]:
    """The k nearest rows of a bank for each query, by cosine similarity, nearest first.

    Memory, besides the features and the result, for any N and M: `block` normalised queries with their k best; on a
    CPU, per thread, 1,024 x 4,096 similarities and a block of the bank if it is not float32; with torch block x block
    similarities and a normalised block of the bank. Among rows of exactly equal similarity the choice is unspecified.

    Args:
        queries: (M, D), not normalised; the search runs on their device, in float32, or in float64 if either side is.
        bank: (N, D), not normalised, on any device. It is never copied as a whole.
        k: number of neighbours; all rows if there are fewer.
        block: maximum number of queries, and of rows of the bank, that are compared at once.
        progress: called with the number of queries done and the total, after each block.

    Returns:
        Cosines, and indices into the bank (int64), both (M, min(k, N)), on the queries' device.

    Raises:
        ValueError: shapes or settings do not match, or a feature is not finite.
    """
    if queries.ndim != 2 or bank.ndim != 2 or queries.shape[1] != bank.shape[1]:
        raise ValueError(
            f"The queries are {tuple(queries.shape)} and the bank is {tuple(bank.shape)}; expected (M, D) and (N, D). "
            "Take features of the same encoder."
        )
    if min(k, block) < 1:
        raise ValueError(f"k is {k} and block {block}; each must be at least 1.")
    k, dtype = min(k, len(bank)), torch.promote_types(torch.promote_types(queries.dtype, bank.dtype), torch.float32)
    on_cpu = queries.device.type == bank.device.type == "cpu"
    several = len(bank) > min(block, ROWS)  # for a single block torch's topk suffices
    search = _compiled if ENGINE == "compiled" and on_cpu and dtype == torch.float32 and several else _by_torch
    cosines = torch.empty(len(queries), k, dtype=dtype, device=queries.device)
    indices = torch.empty(len(queries), k, dtype=torch.int64, device=queries.device)
    for start in range(0, len(queries), block):
        rows = slice(start, start + block)
        part, finite = _unit(queries[rows].to(dtype))
        if not finite:
            raise _not_finite()
        cosines[rows], indices[rows] = search(part, bank.detach(), k, block)
        if progress is not None:
            progress(min(start + block, len(queries)), len(queries))
    return cosines, indices


def others(features: Tensor, rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k nearest neighbours of some `rows` (Q,) of features (N, D), without the rows themselves.

    Returns cosines and indices, nearest first, both (Q, min(k, N - 1)).
    """
    k = min(k, len(features) - 1)
    cosines, indices = nearest(features[rows], features, k + 1)
    other = indices != rows[:, None]
    other &= other.cumsum(1) <= k  # with k + 1 duplicates, a row may be missing from its own nearest
    return cosines[other].view(len(rows), k), indices[other].view(len(rows), k)


def tied(cosines: Tensor) -> tuple[Tensor, Tensor]:
    """Ties in rows of descending cosines (B, N): for each position the start and the end of its tie, (B, N) int64.

    Cosines that differ only by rounding are tied, so that the order of the bank does not affect ranks: a tie starts
    after a gap above `TIE`, and a longer run of close cosines is split into ties at most that wide.
    """
    position = torch.arange(cosines.shape[1], device=cosines.device).expand(cosines.shape)
    new = F.pad(cosines[:, :-1] - cosines[:, 1:] > TIE, (1, 0), value=True)
    run = cosines.gather(1, torch.where(new, position, 0).cummax(1).values)
    below = run - cosines
    if bool((below >= TIE).any()):
        cut = (below / TIE).long()
        new[:, 1:] |= cut[:, 1:] != cut[:, :-1]
    begin = torch.where(new, position, 0).cummax(1).values
    last = F.pad(new[:, 1:], (0, 1), value=True)
    end = torch.where(last, position + 1, cosines.shape[1]).flip(1).cummin(1).values.flip(1)
    return begin, end


def near(queries: Tensor, bank: Tensor, minimum: Tensor, labels: Tensor, classes: int, block: int = BLOCK) -> Tensor:
    """Number of rows of a bank with a cosine of at least `minimum` (B,) to queries (B, D), per class: (B, classes).

    `bank` (N, D) and `labels` may be on another device. Labels are (N,) class indices, or (N, classes) 0 or 1 if a row
    may count for several.
    """
    unit, _ = _unit(queries)
    counts = queries.new_zeros(len(queries), classes)
    with torch.autocast(queries.device.type, enabled=False):
        for start in range(0, len(bank), block):
            part, _ = _unit(bank[start : start + block].to(queries))
            rows = labels[start : start + block].to(queries.device)
            own = rows.to(queries) if labels.ndim == 2 else F.one_hot(rows.long(), classes).to(queries)
            counts += (unit @ part.T >= minimum[:, None]).to(queries) @ own
    return counts


def _unit(features: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of unit length, and whether all are finite (a tensor on the same device, without synchronisation)."""
    length: Tensor = torch.linalg.vector_norm(features, dim=1, keepdim=True)
    return features / length.clamp_min(1e-12), length.isfinite().all()


def _not_finite() -> ValueError:
    return ValueError(
        "The features contain values that are not finite. Check the encoder: its training may have diverged."
    )


def _by_torch(queries: Tensor, bank: Tensor, k: int, block: int) -> tuple[Tensor, Tensor]:
    """Similarities and indices, both (B, k), of the nearest rows for queries (B, D) of unit length."""
    best = queries.new_empty(len(queries), 0)
    indices = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
    finite = torch.ones((), dtype=torch.bool, device=queries.device)
    with torch.autocast(queries.device.type, enabled=False):
        for start in range(0, len(bank), block):
            part = bank[start : start + block]
            if queries.is_cuda and not part.is_cuda:
                part = part.pin_memory()  # copied while the previous block is multiplied
            part, good = _unit(part.to(queries, non_blocking=True))
            finite &= good
            near, at = (queries @ part.T).topk(min(k, len(part)))
            best, indices = torch.cat([best, near], 1), torch.cat([indices, at + start], 1)
            best, order = best.topk(min(k, best.shape[1]))
            indices = indices.gather(1, order)
    if not finite:
        raise _not_finite()
    return best, indices


@functools.cache
def _blas() -> "ThreadpoolController":
    """Cached: looking for the libraries takes some milliseconds."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def _compiled(queries: Tensor, bank: Tensor, k: int, block: int) -> tuple[Tensor, Tensor]:
    """As `_by_torch`, in float32 on a CPU."""
    threads = torch.get_num_threads()
    parts = torch.split(queries, min(QUERIES, -(-len(queries) // threads)))
    stop = Event()
    with _blas().limit(limits=1, user_api="blas"), ThreadPoolExecutor(threads, "lookalike-neighbours") as pool:
        try:
            found = list(pool.map(lambda part: _search(part.numpy(), bank, k, min(block, ROWS), stop), parts))
        finally:
            stop.set()  # stops all threads after Ctrl-C or an error
    cosines, indices = (torch.from_numpy(np.concatenate(x)) for x in zip(*found))
    return cosines, indices


def _search(queries: np.ndarray, bank: Tensor, k: int, rows: int, stop: Event) -> tuple[np.ndarray, np.ndarray]:
    """The work of one thread: similarities and indices, both (Q, k)."""
    from ..numba_cache import first_call
    from .topk import invert_lengths, keep_largest

    best = np.full((len(queries), k), -np.inf, np.float32)
    indices = np.zeros((len(queries), k), np.int64)
    products, inverse = np.empty(len(queries) * rows, np.float32), np.empty(rows, np.float32)
    for start in range(0, len(bank), rows):
        if stop.is_set():
            break
        part = bank[start : start + rows].float().contiguous().numpy()
        if not first_call(invert_lengths, part, inverse):
            raise _not_finite()
        product = products[: len(queries) * len(part)].reshape(len(queries), len(part))
        np.matmul(queries, part.T, out=product)
        first_call(keep_largest, product, inverse, start, best, indices)
    order = np.argsort(-best, 1)
    return np.take_along_axis(best, order, 1), np.take_along_axis(indices, order, 1)

"""Exact neighbours on the device: 50,000 queries among 1.28 million features, and the k-NN protocol on them.

The features are drawn (`neighbours.draw`). The 20 nearest of a few queries are compared with those of a product in
float64.
"""

import time
from collections.abc import Callable

import torch
from gpu_bench import Bench, settle, short, spread
from neighbours import draw
from torch import Tensor
from torch.nn import functional as F

from lookalike.commands.compare.cost_meter import peak_bytes, reset_peak
from lookalike.evaluation import knn
from lookalike.evaluation.neighbours import nearest

ROWS, QUERIES, K, COMPARED = 1_281_167, 50_000, 20, 64


def run(bench: Bench) -> None:
    rows, queries = (5000, 200) if bench.tiny else (ROWS, QUERIES)
    for dim in (16,) if bench.tiny else (384, 768):
        case = f"{queries} x {rows}, {dim} dimensions"
        if bench.has(0 if bench.tiny else 6, case):
            with bench.trying(case):
                measure(bench, case, rows, queries, dim)


def measure(bench: Bench, case: str, rows: int, queries: int, dim: int) -> None:
    bank, labels = draw(rows, dim, 1, bench.device)
    asked, own = draw(queries, dim, 2, bench.device)
    nearest(asked[:COMPARED], bank, K)  # whatever is loaded at the first call
    before = torch.cuda.memory_allocated(bench.device) if bench.cuda else 0
    reset_peak()
    taken: list[float] = []
    while not taken or (len(taken) < (1 if bench.tiny else 3) and bench.left() > 3 * taken[0]):
        taken.append(timed(bench, lambda: nearest(asked, bank, K)))
    peak = peak_bytes()
    bench.row(
        case,
        {
            "seconds": spread(taken),
            "queries_per_s": spread([queries / s for s in taken]),
            "flop_per_s": spread([2 * queries * rows * dim / s for s in taken]),
            "peak_mib_beside_features": round((peak - before) / 2**20) if peak and bench.cuda else None,
            "agreement": agreement(asked[:COMPARED], bank),
        },
        repeats=len(taken), k=K,
    )  # fmt: skip
    if bench.has(2 * taken[0], f"k-NN, {case}"):
        found: list[float] = []
        spent = timed(bench, lambda: found.append(knn(bank, labels, asked, own, also=()).top1))
        bench.row(f"k-NN, {case}", {"seconds": short(spent), "top1": found[0]}, repeats=1)


def timed(bench: Bench, work: Callable[[], object]) -> float:
    settle(bench.device)
    began = time.perf_counter()
    work()
    settle(bench.device)
    return time.perf_counter() - began


def agreement(queries: Tensor, bank: Tensor) -> dict[str, float]:
    """Of the neighbours found with those by float64: the share in common, and the largest difference of a cosine."""
    cosines, places = nearest(queries, bank, K)
    right = torch.empty(len(queries), 0, dtype=torch.float64, device=queries.device)
    at = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
    exact = F.normalize(queries.double())
    for start in range(0, len(bank), 65536):
        similar = exact @ F.normalize(bank[start : start + 65536].double()).T
        right = torch.cat([right, similar], 1)
        at = torch.cat([at, torch.arange(start, start + similar.shape[1], device=at.device).expand(len(at), -1)], 1)
        right, order = right.topk(K, dim=1)
        at = at.gather(1, order)
    common = (places[:, :, None] == at[:, None, :]).any(2).double().mean().item()
    return {"in_common": short(common), "largest_difference": short((cosines - right).abs().max().item())}

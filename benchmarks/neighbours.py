"""Exact nearest neighbours by cosine, ours beside faiss-cpu's exact index and scikit-learn's, in turns; and k-NN.

    pip install faiss-cpu
    OMP_NUM_THREADS=2 python benchmarks/neighbours.py [--rows 1281167 --dim 768 --queries 2000 --k 200 --repeats 3]
    OMP_NUM_THREADS=2 python benchmarks/neighbours.py --knn --queries 50000

The features are drawn (seeded): 1,000 classes around random centres, in an order as a folder has them, class after
class, of length 1. faiss gets them in `IndexFlatIP` once, outside of the time; we get the tensor, and normalise in the
time. scikit-learn gets them in `NearestNeighbors` (brute force, squared Euclidean: its chunked heaps know no cosine).
A ratio is that of another's seconds to ours in each turn. Peak memory is what a search takes beyond what was
there before (Linux). Without faiss it is left out. `--knn` runs the whole protocol, which classifies, once.
The full size needs 9 GB of memory, 5 without faiss. A line of JSON goes to --record.
"""

import argparse
import importlib.metadata
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rows import append, summary
from torch import Tensor

from lookalike.evaluation import knn
from lookalike.evaluation.neighbours import nearest
from lookalike.runs import commit

CPU = torch.device("cpu")
CLASSES = 1000
SPREAD = 2.0
"""Length of the noise for a centre of length 1."""


def draw(count: int, dim: int, seed: int, device: torch.device = CPU) -> tuple[Tensor, Tensor]:
    """Features (count, dim) of length 1 and their classes, sorted by class; each device draws others."""
    generator = torch.Generator(device).manual_seed(0)
    centres = torch.randn(CLASSES, dim, generator=generator, device=device) / dim**0.5
    generator.manual_seed(seed)
    labels = torch.arange(count, device=device) * CLASSES // count
    features = torch.empty(count, dim, device=device)
    for start in range(0, count, 8192):
        y = labels[start : start + 8192]
        part = centres[y] + torch.randn(len(y), dim, generator=generator, device=device) * (SPREAD / dim**0.5)
        features[start : start + 8192] = part / torch.linalg.vector_norm(part, dim=1, keepdim=True)
    return features, labels


def memory(name: str) -> int:
    """`VmRSS` or `VmHWM` of this process, in bytes; 0 where the system does not tell."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name)), 0)


def timed(search: Callable[[], object]) -> tuple[float, float, int]:
    """Seconds, processor seconds, and bytes at the peak beyond those before."""
    before = memory("VmRSS")
    if before:
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    began, processor = time.perf_counter(), time.process_time()
    search()
    return time.perf_counter() - began, time.process_time() - processor, memory("VmHWM") - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_281_167)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--queries", type=int, default=2000)
    parser.add_argument("--k", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--knn", action="store_true", help="the whole protocol, once, without faiss")
    parser.add_argument("--record", type=Path, default=Path(__file__).parent / "records" / "neighbours.jsonl")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    versions = {name: importlib.metadata.version(name) for name in ("torch", "numpy", "numba")}
    row: dict[str, object] = {
        "benchmark": "neighbours", "date": time.strftime("%Y-%m-%d"), "rows": args.rows, "dim": args.dim,
        "queries": args.queries, "threads": args.threads, "lookalike": commit(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }  # fmt: skip
    bank, labels = draw(args.rows, args.dim, 1)
    queries, own = draw(args.queries, args.dim, 2)
    small = bank[: min(args.rows, 10_000)]
    nearest(queries[:4], small, args.k)  # compiled here

    if args.knn:
        found: list[float] = []

        def protocol() -> None:
            made = knn(bank, labels, queries, own, progress=lambda done, of: print(f"{done} of {of}", flush=True))
            found.extend((made.top1, made.top5))

        seconds, processor, peak = timed(protocol)
        row |= {
            "what": "knn from end to end", "seconds": round(seconds, 1), "processor_s": round(processor, 1),
            "queries_per_s": round(args.queries / seconds, 1), "top1": found[0], "top5": found[1],
            "peak_mib": round(peak / 2**20), "load": os.getloadavg(), "versions": versions,
        }  # fmt: skip
        print(row)
        append(args.record, row)
        return

    ours: list[tuple[Tensor, Tensor]] = []
    searches: dict[str, Callable[[], object]] = {"lookalike": lambda: ours.append(nearest(queries, bank, args.k))}
    theirs: dict[str, tuple[Tensor, Tensor]] = {}
    try:
        import faiss
    except ImportError:
        print("faiss is not installed: it is left out (pip install faiss-cpu).")
    else:
        versions["faiss"] = faiss.__version__
        faiss.omp_set_num_threads(args.threads)
        index = faiss.IndexFlatIP(args.dim)
        for part in torch.split(bank, 65536):
            index.add(part.numpy())

        def by_faiss() -> None:
            cosines, places = index.search(queries.numpy(), args.k)
            theirs["faiss"] = torch.from_numpy(cosines), torch.from_numpy(places)

        searches["faiss"] = by_faiss
    import sklearn
    from sklearn.neighbors import NearestNeighbors

    versions["scikit-learn"] = sklearn.__version__
    known = NearestNeighbors(n_neighbors=args.k, algorithm="brute", metric="sqeuclidean").fit(bank.numpy())

    def by_sklearn() -> None:
        distances, places = known.kneighbors(queries.numpy())
        theirs["scikit-learn"] = torch.from_numpy(1 - distances / 2), torch.from_numpy(places)

    searches["scikit-learn"] = by_sklearn
    turns: dict[str, list[tuple[float, float, int]]] = {name: [] for name in searches}
    for turn in range(args.repeats):
        for name, search in searches.items():
            turns[name].append(timed(search))
            print(f"turn {turn + 1}: {name} {turns[name][-1][0]:.1f} s", flush=True)
    row |= {
        "what": "search", "k": args.k, "repeats": args.repeats,
        "seconds": {name: summary([t for t, _, _ in times], 2) for name, times in turns.items()},
        "processor_s": {name: summary([t for _, t, _ in times], 2) for name, times in turns.items()},
        "queries_per_s": {name: summary([args.queries / t for t, _, _ in times], 2) for name, times in turns.items()},
        "peak_mib": {name: round(max(p for _, _, p in times) / 2**20) for name, times in turns.items()},
        "load": os.getloadavg(), "versions": versions,
    }  # fmt: skip
    own_turns = turns["lookalike"]
    row["compared"] = {
        name: {
            "ratio": summary([b[0] / a[0] for a, b in zip(own_turns, turns[name])], 3),
            "processor_ratio": summary([b[1] / a[1] for a, b in zip(own_turns, turns[name])], 3),
            "largest_difference": (cosines - ours[-1][0]).abs().max().item(),
            "same_places": (places == ours[-1][1]).double().mean().item(),
        }
        for name, (cosines, places) in theirs.items()
    }
    print(row)
    append(args.record, row)


if __name__ == "__main__":
    main()

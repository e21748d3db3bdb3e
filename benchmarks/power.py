"""How often `lookalike compare` errs where all methods are equal, and which differences it finds.

    python benchmarks/power.py [--comparisons 40000]

Scores are drawn from a normal distribution of standard deviation 1 over the seeds. Error: all methods are equal, and at
least one is called worse than the first. Power: one method is better than all others, which are equal, and the table
holds by how much it must be better for a given one of these to be called worse in 80 % of comparisons. The tables of
docs/comparing.md are printed; rows of JSON, one per number of methods and seeds, go to --record. It takes a minute.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from rows import append

from lookalike.commands.compare.significance import Floats, SeedNoise, significant
from lookalike.runs import commit

METHODS = (2, 3, 5, 10, 14)
SEEDS = (2, 3, 5)
WILD = 3.0
"""Standard deviation of one method among others of 1."""


def called_worse(scores: Floats) -> Floats:
    """Whether each method is called worse than the first: (comparisons, methods, seeds) -> (comparisons, methods)."""
    seeds = np.full(scores.shape[1], scores.shape[2])
    means, variances = scores.mean(-1), scores.var(-1, ddof=1)
    half = SeedNoise.of(variances, seeds).half_range(variances, seeds)
    best = means.argmax(-1)[:, None]
    return significant(means.max(-1, keepdims=True) - means, np.take_along_axis(half, best, 1), half)


def found(noise: Floats, difference: float) -> float:
    """How often the last method is called worse where the first is better than all others by `difference`."""
    shifted = noise.copy()
    shifted[:, 0] += difference
    return float(called_worse(shifted)[:, -1].mean())


def smallest(noise: Floats, power: float) -> float:
    """The difference that is found so often, to 0.005."""
    low, high = 0.0, 64.0
    while high - low > 0.005:
        middle = (low + high) / 2
        low, high = (low, middle) if found(noise, middle) >= power else (middle, high)
    return high


def printed(title: str, cells: dict[tuple[int, int], str]) -> None:
    print(f"\n| {title} | " + " | ".join(f"{k} methods" for k in METHODS) + " |")
    print("| --- " * (len(METHODS) + 1) + "|")
    for seeds in SEEDS:
        print(f"| {seeds} seeds | " + " | ".join(cells[k, seeds] for k in METHODS) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comparisons", type=int, default=40_000)
    parser.add_argument("--record", type=Path, default=Path(__file__).parent / "records" / "power.jsonl")
    args = parser.parse_args()
    rows = {}
    for methods in METHODS:
        for seeds in SEEDS:
            noise = np.random.default_rng(0).standard_normal((args.comparisons, methods, seeds))
            wild = noise * np.where(np.arange(methods) == 0, WILD, 1)[:, None]
            rows[methods, seeds] = {
                "error": round(float(called_worse(noise).any(-1).mean()), 4),
                "error_one_wild": round(float(called_worse(wild).any(-1).mean()), 4),
                "difference": round(smallest(noise, 0.8), 2),
            }
    for (methods, seeds), row in rows.items():
        cell = {"benchmark": "power", "date": time.strftime("%Y-%m-%d"), "methods": methods, "seeds": seeds}
        append(args.record, cell | {"comparisons": args.comparisons, **row, "lookalike": commit()})
    printed("equal methods", {at: f"{row['error']:.1%}" for at, row in rows.items()})
    printed("one of 3 times the deviation", {at: f"{row['error_one_wild']:.1%}" for at, row in rows.items()})
    printed("found in 80 %", {at: f"{row['difference']:.1f}" for at, row in rows.items()})


if __name__ == "__main__":
    main()

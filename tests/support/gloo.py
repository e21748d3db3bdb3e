"""Functions that two gloo processes run, to compare what each finds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

WORLD = 2


def of_each_process(work: Callable[[int], dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """What `work(rank)`, a function of a test's module, returns in each of two processes: tensors, by names."""
    torch.multiprocessing.spawn(_process, args=(work, str(folder)), nprocs=WORLD)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(WORLD)]


def _process(rank: int, work: Callable[[int], dict[str, Any]], folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=WORLD)
    torch.save(work(rank), Path(folder) / f"rank{rank}.pt")
    dist.destroy_process_group()

"""Functions that two gloo processes run, to compare what each finds."""

import os
import traceback
from collections.abc import Callable
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from .runs import forkserver

WORLD = 2


def of_each_process(work: Callable[[int], dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """What `work(rank)`, a function of a test's module, returns in each of two processes: tensors, by names."""
    in_two(_found, work, str(folder))
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(WORLD)]


def as_torchrun(work: Callable[..., None], *args: object) -> None:
    """Runs `work(*args)` in each of two processes, which find in their environment what torchrun would tell them."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # torchrun's own is in its process
    told = {
        "WORLD_SIZE": WORLD, "LOCAL_WORLD_SIZE": WORLD, "GROUP_RANK": 0, "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": store.port, "TORCHELASTIC_RUN_ID": "tests", "TORCHELASTIC_RESTART_COUNT": 0,
        "TORCHELASTIC_MAX_RESTARTS": 0, "TORCHELASTIC_USE_AGENT_STORE": True,
    }  # fmt: skip
    in_two(_launched, told, work, args)


def in_two(work: Callable[..., None], *args: object) -> None:
    """Runs `work(rank, *args)` in two processes that have imported already what a training imports."""
    context = forkserver()
    here, there = zip(*(context.Pipe(duplex=False) for _ in range(WORLD)))
    started = [context.Process(target=_told, args=(there[rank], work, rank, args)) for rank in range(WORLD)]
    for process in started:
        process.start()
    for end in there:
        end.close()
    try:
        waiting = set(here)
        while waiting:
            for end in wait(waiting):  # the first that fails leaves the other one waiting
                said = end.recv()  # type: ignore[union-attr]
                assert not said, said
                waiting.discard(end)  # type: ignore[arg-type]
        for process in started:
            process.join(60)
        assert [process.exitcode for process in started] == [0] * WORLD
    finally:
        for process in started:
            process.kill()


def _told(answer: Any, work: Callable[..., None], rank: int, args: tuple[object, ...]) -> None:
    torch.set_num_threads(1)
    try:
        work(rank, *args)
    except BaseException:
        answer.send(f"process {rank}: {traceback.format_exc()}")
    else:
        answer.send("")


def _found(rank: int, work: Callable[[int], dict[str, Any]], folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=WORLD)
    torch.save(work(rank), Path(folder) / f"rank{rank}.pt")
    dist.destroy_process_group()


def _launched(rank: int, told: dict[str, object], work: Callable[..., None], args: tuple[object, ...]) -> None:
    told = told | {"RANK": rank, "LOCAL_RANK": rank, "ROLE_RANK": rank}
    os.environ.update({name: str(value) for name, value in told.items()})
    work(*args)

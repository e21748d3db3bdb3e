"""The device to compute on, how much memory is free, and how tensors come to a GPU."""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # `doctor` reads how much memory is free where torch is broken
    import torch
    from torch import Tensor


def default_device(index: int | None = None) -> "torch.device":
    """The device to compute on: a GPU where torch finds one, else the CPU.

    Args:
        index: of the GPU among several; without it torch's current one.
    """
    import torch

    if torch.cuda.is_available():
        return torch.device("cuda") if index is None else torch.device("cuda", index)
    return torch.device("cpu")


def free_memory(root: Path = Path("/")) -> int:
    """Bytes of main memory for new data: what the kernel calls available, at most what is left of a container's limit.

    Args:
        root: where `proc` and `sys` are.
    """
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for line in _lines(root / "proc/meminfo"):
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024
    return min([free, *_left_of_limits(root)])


def _left_of_limits(root: Path) -> Iterator[int]:
    """Bytes left of each limit on the control groups that this process is in, versions 1 and 2, and on those above."""
    below = {"": "/", "memory": "/"}  # where nothing says more: a container sees its own group at the top
    for line in _lines(root / "proc/self/cgroup"):  # 4:memory:/docker/1f or, of version 2, 0::/user.slice
        _, controllers, path = line.split(":", 2)
        below |= dict.fromkeys({*controllers.split(",")} & below.keys(), path)
    for controller, limit, usage, total in (
        ("", "memory.max", "memory.current", ""),
        ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
    ):
        parts = PurePosixPath(below[controller]).parts[1:]
        for depth in range(len(parts) + 1):
            group = root.joinpath("sys/fs/cgroup", controller, *parts[:depth])
            most, used = (next(map(_bytes, _lines(group / name)), None) for name in (limit, usage))
            if most is not None and used is not None:
                stat = dict(line.split(" ", 1) for line in _lines(group / "memory.stat"))
                # the page cache, which the kernel drops before it refuses memory
                cache = sum(_bytes(stat.get(f"{total}{kind}_file", "0")) or 0 for kind in ("active", "inactive"))
                yield min(most, max(0, most - used + cache))


def _lines(path: Path) -> list[str]:
    """A file of the kernel's; empty where it is not there or not to be read."""
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _bytes(text: str) -> int | None:
    """A number of bytes; None of a limit that is none."""
    return None if text.strip() == "max" else int(text)


def free_for_state(device: int, devices: int) -> int:
    """Bytes that a process may fill: of its GPU, or without one its part of the main memory that `devices` share."""
    if default_device().type == "cuda":
        import torch

        return torch.cuda.mem_get_info(device)[0]
    return free_memory() // devices


def moved(x: "Tensor", device: "torch.device") -> "Tensor":
    """The same on `device`; from the CPU to a GPU without waiting for what that is doing."""
    if x.is_cpu and device.type == "cuda":
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)  # elsewhere a copy that nobody waits for may read memory that is free already

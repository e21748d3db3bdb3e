"""The device to compute on, how much memory is free, and how tensors come to a GPU."""

import os
from pathlib import Path

import torch
from torch import Tensor


def default_device(index: int | None = None) -> torch.device:
    """The device to compute on: a GPU where torch finds one, else the CPU.

    Args:
        index: of the GPU among several; without it torch's current one.
    """
    if torch.cuda.is_available():
        return torch.device("cuda") if index is None else torch.device("cuda", index)
    return torch.device("cpu")


def free_memory() -> int:
    """Bytes of main memory for new data: what the kernel calls available, or else all; at most the container's."""
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    meminfo, container = Path("/proc/meminfo"), Path("/sys/fs/cgroup/memory.max")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024
    if container.exists() and (limit := container.read_text().strip()) != "max":
        free = min(free, int(limit))
    return free


def free_for_state(device: int, devices: int) -> int:
    """Bytes that a process may fill: of its GPU, or without one its part of the main memory that `devices` share."""
    if default_device().type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return free_memory() // devices


def moved(x: Tensor, device: torch.device) -> Tensor:
    """The same on `device`; from the CPU to a GPU without waiting for what that is doing."""
    if x.is_cpu and device.type == "cuda":
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)  # elsewhere a copy that nobody waits for may read memory that is free already

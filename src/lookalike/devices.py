"""The compute device, free memory, and transfers to a GPU."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # `doctor` reports free memory even if torch is broken
    import torch
    from torch import Tensor


WITHOUT_BF16 = {"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI"}
"""Values of oneDNN's ONEDNN_MAX_CPU_ISA that exclude AVX512_BF16."""


def default_device(index: int | None = None) -> "torch.device":
    """The device to compute on: a GPU if torch finds one, otherwise the CPU.

    Args:
        index: of the GPU; without it torch's current one.
    """
    import torch

    if torch.cuda.is_available():
        return torch.device("cuda") if index is None else torch.device("cuda", index)
    return torch.device("cpu")


def has_bf16_instructions(root: Path = Path("/")) -> bool:
    """Whether the processor multiplies in bf16 (AVX512_BF16, which all with AMX have), and oneDNN may use it.

    Args:
        root: the folder of `proc`.
    """
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", os.environ.get("DNNL_MAX_CPU_ISA", "")).upper()
    if limit in WITHOUT_BF16:
        return False
    flags = (line for line in _lines(root / "proc/cpuinfo") if line.startswith("flags"))
    return "avx512_bf16" in next(flags, "").split()


def free_memory(root: Path = Path("/")) -> int:
    """Bytes of main memory for new data: the kernel's available memory, at most the rest of a container's limit.

    Args:
        root: the folder of `proc` and `sys`.
    """
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for line in _lines(root / "proc/meminfo"):
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024
    return min([free, *_left_of_limits(root), address_space_left(root)])


def address_space_left(root: Path = Path("/")) -> int:
    """Bytes left of the limit on this process's address space (ulimit -v); very many without one."""
    for line in _lines(root / "proc/self/limits"):
        if line.startswith("Max address space") and (limit := line.split()[3]) != "unlimited":
            return max(0, int(limit) - _of_status("VmSize", root))
    return 2**62


def _of_status(name: str, root: Path = Path("/")) -> int:
    """A size in bytes of this process, by its name in the kernel's status file; 0 if it is unknown."""
    lines = _lines(root / "proc/self/status")
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), 0)


def reset_peak() -> bool:
    """Resets the recorded peak memory; returns whether the system supports it."""
    if default_device().type == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats()
        return True
    try:
        Path("/proc/self/clear_refs").write_text("5")  # man 5 proc: sets VmHWM to the current resident size
    except OSError:
        return False
    return True


def peak_bytes() -> int | None:
    """Peak memory since `reset_peak`: of tensors on the GPU, or the resident size of this process; None if unknown."""
    if default_device().type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated()
    return _of_status("VmHWM") or None


def used_bytes() -> int:
    """Memory in use: of tensors on the GPU, or the resident size of this process; 0 if it is unknown."""
    if default_device().type == "cuda":
        import torch

        return torch.cuda.memory_allocated()
    return _of_status("VmRSS")


def held_bytes() -> int:
    """Memory that no other process can get: on a GPU that in use and in torch's cache, elsewhere that in use."""
    if default_device().type == "cuda":
        import torch

        return torch.cuda.memory_reserved()
    return used_bytes()


@contextmanager
def limited(memory: int) -> Iterator[None]:
    """On a CPU, fails allocations of this process beyond `memory` bytes, which would end other processes, too."""
    if default_device().type == "cuda" or not (size := _of_status("VmSize")):
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = size + memory if soft == resource.RLIM_INFINITY else min(soft, size + memory)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _left_of_limits(root: Path) -> Iterator[int]:
    """Bytes left of each limit on this process's control groups, versions 1 and 2, and on their parents."""
    below = {"": "/", "memory": "/"}  # the default: in a container its own group is the root
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
            maximum, used = (next(map(_bytes, _lines(group / name)), None) for name in (limit, usage))
            if maximum is not None and used is not None:
                stat = dict(line.split(" ", 1) for line in _lines(group / "memory.stat"))
                # the page cache, which the kernel drops before it refuses memory
                cache = sum(_bytes(stat.get(f"{total}{kind}_file", "0")) or 0 for kind in ("active", "inactive"))
                yield min(maximum, max(0, maximum - used + cache))


def _lines(path: Path) -> list[str]:
    """The lines of a kernel file; none if it is missing or unreadable."""
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _bytes(text: str) -> int | None:
    """A number of bytes; None for no limit."""
    return None if text.strip() == "max" else int(text)


def free_for_state(device: int, devices: int) -> int:
    """Bytes that a process may use: free GPU memory, or without a GPU its part of the main memory of all `devices`."""
    if default_device().type == "cuda":
        import torch

        return torch.cuda.mem_get_info(device)[0]
    return free_memory() // devices


def moved(x: "Tensor", device: "torch.device") -> "Tensor":
    """x on `device`; from the CPU to a GPU without synchronisation."""
    if x.is_cpu and device.type == "cuda":
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)  # elsewhere an asynchronous copy may read memory that was already freed

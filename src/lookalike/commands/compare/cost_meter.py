"""What a training costs: time, peak of memory, energy, operations."""

import ctypes
import gc
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ...core import Batch, Method, Progress
from ...devices import default_device
from ...modes import evaluating
from ...runs import Run
from ...tensor_file import tensor_file
from ...training import Pretraining

FLOP_IMAGES = 8
"""Images of the step whose operations are counted."""


@dataclass(frozen=True)
class Spent:
    """What a training took."""

    steps: int
    """Optimizer steps."""
    seconds: float
    """From the first preparation (a survey of the images, where the method makes one) to the last step. Start-up,
    filling a cache and judging are not counted, nor is what an interruption lost."""
    peak_gib: float | None
    """Peak of memory: that of tensors on the GPU, or of the process (without its workers) on a CPU; None if unknown."""
    energy_kj: float | None
    """Of the GPU, None where it does not say."""


class Costs(Callback):
    """Keeps account of a training's costs, in its checkpoints, so that a resumed training goes on counting."""

    def __init__(self) -> None:
        self._before: dict[str, Any] = {"seconds": 0.0, "peak": None, "joules": 0.0}
        """Of the sessions that came before."""
        self._begin = math.nan
        self._filled = True

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        gc.collect()
        self._knows_peak = reset_peak()
        self._joules = energy()
        self._filled = cast("Pretraining", pl_module).run.cache == "none"
        self._begin = time.perf_counter()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        if not self._filled:  # the first batch waited for it
            self._begin += cast("Pretraining", pl_module).loader.waited
            self._filled = True

    def state_dict(self) -> dict[str, Any]:
        peaks = [p for p in (self._before["peak"], peak_bytes() if self._knows_peak else None) if p is not None]
        joules, before = energy(), self._before["joules"]
        known = None not in (joules, self._joules, before)
        return {
            "seconds": self._before["seconds"] + time.perf_counter() - self._begin,
            "peak": max(peaks, default=None),
            "joules": before + joules - self._joules if known else None,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._before = state_dict


def spent(checkpoint: Path) -> Spent:
    """What the training of a checkpoint took until it was written.

    Raises:
        FileNotFoundError: there is none.
        ValueError: no `Costs` kept account.
    """
    with tensor_file(checkpoint) as path:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    own = content["callbacks"].get(Costs.__qualname__)
    if own is None:
        raise ValueError(
            f"{checkpoint} does not say what the training took: it went on outside of the comparison. Remove "
            f"{checkpoint.parents[1]}, and give the command again."
        )
    return Spent(
        steps=int(content["global_step"]),
        seconds=own["seconds"],
        peak_gib=None if own["peak"] is None else own["peak"] / 2**30,
        energy_kj=None if own["joules"] is None else own["joules"] / 1000,
    )


# ---------------------------------------------------------------- memory, energy, operations


def reset_peak() -> bool:
    """Forgets earlier peaks of memory, where the system can; whether it could."""
    if default_device().type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return True
    try:
        Path("/proc/self/clear_refs").write_text("5")  # man 5 proc: VmHWM becomes what is resident now
    except OSError:
        return False
    return True


def peak_bytes() -> int | None:
    """The most memory since `reset_peak`: of tensors on the GPU, or what was resident of this process."""
    if default_device().type == "cuda":
        return torch.cuda.max_memory_allocated()
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), None)


def energy() -> float | None:
    """Joules that the GPU took since its driver was loaded, as NVML tells; None where it does not."""
    if default_device().type != "cuda":
        return None
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
        device, millijoules = ctypes.c_void_p(), ctypes.c_ulonglong()
        uuid = f"GPU-{torch.cuda.get_device_properties(0).uuid}".encode()
        failed = (
            library.nvmlInit_v2()
            or library.nvmlDeviceGetHandleByUUID(ctypes.c_char_p(uuid), ctypes.byref(device))
            or library.nvmlDeviceGetTotalEnergyConsumption(device, ctypes.byref(millijoules))
        )
    except (OSError, AttributeError):  # no NVML, or one that is too old
        return None
    return None if failed else millijoules.value / 1000


def gflops_per_image(method: Method, run: Run) -> float:
    """10^9 operations per image of a training step: forward and backward pass of all views, as torch's counter sees it.

    A multiplication and an addition are two operations. The step has 8 images of noise, or the micro-batch where it has
    fewer: what grows with the batch (similarities of images) is counted for so many. Optimizer, teacher updates and
    surveys are not counted.

    Args:
        method: of the resolved `run`; its gradients are left empty and its state as it was.
        run: a resolved run.
    """
    device = next(method.parameters()).device
    rows = min(FLOP_IMAGES, run.batch_size // run.accumulate)
    at = Progress(0, 1000, 10)
    sizes = [view.size for view in run.method.views_at(at) for _ in range(view.count)]
    index = torch.arange(rows, device=device)
    with torch.random.fork_rng(), evaluating(method):  # where queues and statistics stay as they are
        views = [torch.randn(rows, run.channels, size, size, device=device) for size in sizes]
        batch = Batch(views, index, at, labels=index % 2)
        # attention as plain products, which the counter knows on every device
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            method(batch)["loss"].backward()
    method.zero_grad(set_to_none=True)
    return int(counter.get_total_flops()) / 1e9 / rows

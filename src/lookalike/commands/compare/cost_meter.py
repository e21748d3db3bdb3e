"""The cost of a training: time, peak memory, energy, operations."""

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
from ...devices import default_device, peak_bytes, reset_peak
from ...modes import evaluating
from ...runs import Run
from ...tensor_file import tensor_file
from ...training import Pretraining

FLOP_IMAGES = 8
"""Number of images in the step whose operations are counted."""


@dataclass(frozen=True)
class Spent:
    """The cost of one training."""

    steps: int
    """Optimizer steps."""
    seconds: float
    """From preparation (such as initialising a memory bank) to the last step. Start-up, filling a cache, evaluation
    and time lost to interruptions are not counted."""
    peak_gib: float | None
    """Peak memory of tensors on the GPU, or of the process (without its workers) on a CPU; None if unknown."""
    energy_kj: float | None
    """Energy of the GPU; None if NVML does not report it."""


class Costs(Callback):
    """Stores a training's costs in its checkpoints, so that a resumed training continues the count."""

    def __init__(self) -> None:
        self._before: dict[str, Any] = {"seconds": 0.0, "peak": None, "joules": 0.0}
        """Costs of earlier sessions of the same training."""
        self._begin = math.nan
        self._filled = True

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        gc.collect()
        self._knows_peak = reset_peak()
        self._joules = energy()
        self._filled = cast("Pretraining", pl_module).run.cache == "none"
        self._begin = time.perf_counter()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        if not self._filled:  # the first batch waited for the cache
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
    """The cost of a training up to its checkpoint.

    Raises:
        FileNotFoundError: the checkpoint does not exist.
        ValueError: the checkpoint has no `Costs`.
    """
    with tensor_file(checkpoint) as path:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    own = content["callbacks"].get(Costs.__qualname__)
    if own is None:
        raise ValueError(
            f"{checkpoint} does not record the cost of its training, which was resumed outside of the comparison. "
            f"Remove {checkpoint.parents[1]}, and repeat the command."
        )
    return Spent(
        steps=int(content["global_step"]),
        seconds=own["seconds"],
        peak_gib=None if own["peak"] is None else own["peak"] / 2**30,
        energy_kj=None if own["joules"] is None else own["joules"] / 1000,
    )


# ---------------------------------------------------------------- energy, operations


def energy() -> float | None:
    """Energy of the GPU in joules since its driver was loaded; None if NVML does not report it."""
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
    except (OSError, AttributeError):  # no NVML, or an old version
        return None
    return None if failed else millijoules.value / 1000


def gflops_per_image(method: Method, run: Run) -> float:
    """10^9 operations per image of a training step: forward and backward pass of all views, by torch's counter.

    A multiplication and an addition are two operations. The step has 8 images of noise, or one micro-batch if that is
    smaller; operations that grow with the batch size (similarities between images) are counted for this size.
    Optimizer, teacher updates and memory bank initialisation are not counted.

    Args:
        method: built from `run`. Its gradients are cleared; its state is unchanged.
        run: a resolved run.
    """
    device = next(method.parameters()).device
    rows = min(FLOP_IMAGES, run.batch_size // run.loss_batches)
    at = Progress(0, 1000, 10)
    sizes = [view.size for view in run.method.views_at(at) for _ in range(view.count)]
    index = torch.arange(rows, device=device)
    with torch.random.fork_rng(), evaluating(method):  # queues and statistics stay unchanged
        views = [torch.randn(rows, run.channels, size, size, device=device) for size in sizes]
        batch = Batch(views, index, at, labels=index % 2)
        # the counter supports attention only as plain matrix products on every device
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            method(batch)["loss"].backward()
    method.zero_grad(set_to_none=True)
    return int(counter.get_total_flops()) / 1e9 / rows

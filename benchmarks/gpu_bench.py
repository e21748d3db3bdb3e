"""What the parts of `gpu.py` share: their time, their rows, the device's limits, and how calls and steps are timed."""

import gc
import io
import json
import math
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback
from rows import append
from torch import Tensor

from lookalike import training, views
from lookalike.commands.compare.cost_meter import energy
from lookalike.data import Source
from lookalike.evaluation import neighbours
from lookalike.runs import Run
from lookalike.training.timing import Measured

PACKAGES = (
    "torch", "torchvision", "triton", "timm", "lightning", "numba", "numpy", "scikit-learn", "safetensors", "pillow",
    "simplejpeg", "cattrs", "kornia",
)  # fmt: skip


class Bench:
    """What a part is given: the device, its time, the archive of CIFAR-10, and where its rows go."""

    def __init__(
        self, part: str, archive: Path | None, record: Path, device: str, *, tiny: bool, limit: float,
        same: Mapping[str, object],
    ) -> None:  # fmt: skip
        self.part = part
        self.archive = archive
        self.record = record
        self.device = torch.device(device)
        self.tiny = tiny
        """Whether this only shows that all runs: next to nothing is measured."""
        self.same = dict(same)
        """What stands in each row of the run."""
        self.failed = False
        """Whether a case failed."""
        self.end = time.monotonic() + limit

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    def left(self) -> float:
        """Seconds until this part is ended."""
        return self.end - time.monotonic()

    def has(self, seconds: float, case: str) -> bool:
        """Whether there is so much time for a case; says so in a row where there is not."""
        if self.left() >= seconds:
            return True
        self.skip(case, f"{self.left():.0f} s were left, and it needs {seconds:.0f}")
        return False

    def row(self, case: str, figures: Mapping[str, object], **settings: object) -> None:
        """Keeps what was measured: numbers, or [median, smallest, largest] of `repeats`."""
        self._write({"case": case, **settings, "figures": finite(figures)})

    def skip(self, case: str, why: str) -> None:
        self._write({"case": case, "skipped": why})

    @contextmanager
    def trying(self, case: str) -> Iterator[None]:
        """A case that fails leaves a row that says so, and the part goes on."""
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            self.failed = True
            self._write({"case": case, "failed": words(error)})
        finally:
            if self.cuda:
                gc.collect()  # a training's cycles hold the device's memory
                torch.cuda.empty_cache()

    def _write(self, row: Mapping[str, object]) -> None:
        date = time.strftime("%Y-%m-%dT%H:%M:%S")
        append(self.record, {"benchmark": "gpu", "part": self.part, "date": date, **self.same, **self.facts, **row})
        print(f"{self.part}: {json.dumps(row)}", file=sys.__stdout__, flush=True)  # also while a training is silenced

    @cached_property
    def facts(self) -> dict[str, object]:
        versions = {}
        for name in PACKAGES:
            with suppress(metadata.PackageNotFoundError):
                versions[name] = metadata.version(name)
        found: dict[str, object] = {
            "device": f"{platform.machine()}, {os.cpu_count()} cores",
            "cuda": torch.version.cuda, "python": platform.python_version(), "versions": versions,
            "cores": os.cpu_count(), "threads": torch.get_num_threads(),
        }  # fmt: skip
        if self.cuda:
            has = torch.cuda.get_device_properties(self.device)
            found |= {
                "device": has.name, "memory_gib": round(has.total_memory / 2**30, 1),
                "multiprocessors": has.multi_processor_count, "cudnn": torch.backends.cudnn.version(),
            }  # fmt: skip
        return found


def without_broken_numba() -> None:
    """Where Numba is installed and cannot be imported (NumPy may be too new for it), torch does its work on the CPU."""
    try:
        import numba  # noqa: F401
    except ImportError as error:
        print(f"Without Numba: {words(error)}", flush=True)
        views.ENGINES["cpu"] = neighbours.ENGINE = "torch"


def words(error: BaseException) -> str:
    """The kind of an error and the first line of what it says."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else 'no words'}"[:400]


def finite(value: Any) -> Any:
    """JSON knows no NaN and no infinity."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: finite(one) for name, one in value.items()}
    return [finite(one) for one in value] if isinstance(value, list | tuple) else value


def short(value: float) -> float:
    """Four digits of a number."""
    return float(f"{value:.4g}")


def spread(values: Sequence[float]) -> list[float]:
    """Median, smallest and largest, of four digits."""
    return [short(float(f(values))) for f in (np.median, np.min, np.max)]


# ---------------------------------------------------------------- calls


def settle(device: torch.device) -> None:
    """Waits for all that the device was asked to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Callable[[], object], device: torch.device, least: float) -> float:
    """Of one call: of as many as take `least` seconds, one after the other, with one wait for the device in the end."""
    settle(device)
    began = time.perf_counter()
    work()
    settle(device)
    calls = max(1, math.ceil(least / max(1e-6, time.perf_counter() - began)))
    began = time.perf_counter()
    for _ in range(calls):
        work()
    settle(device)
    return (time.perf_counter() - began) / calls


def in_turns(
    works: Mapping[str, Callable[[], object]], device: torch.device, *, least: float, rounds: int
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Seconds of a call of each, in each round, after one that does not count; and why some could not be called."""
    failed: dict[str, str] = {}
    for name, work in works.items():
        try:
            seconds(work, device, least / 4)
        except Exception as error:
            failed[name] = words(error)
    good = {name: work for name, work in works.items() if name not in failed}
    taken: dict[str, list[float]] = {name: [] for name in good}
    for _ in range(rounds):
        for name, work in good.items():
            taken[name].append(seconds(work, device, least))
    return taken, failed


def copy_rate(bench: Bench) -> list[float]:
    """Bytes per second that the device reads and writes while it copies: median, smallest, largest."""
    x = torch.randn(2**20 if bench.tiny else 2**28, device=bench.device)
    y = torch.empty_like(x)
    taken, _ = in_turns({"copy": lambda: y.copy_(x)}, bench.device, least=0.002 if bench.tiny else 0.1, rounds=5)
    return spread([2 * x.nbytes / s for s in taken["copy"]])


def product_rate(bench: Bench) -> list[float]:
    """Operations per second of a large product of random bf16 matrices: median, smallest, largest."""
    n = 128 if bench.tiny else 8192
    a, b = (torch.randn(n, n, device=bench.device, dtype=torch.bfloat16) for _ in range(2))
    taken, _ = in_turns({"product": lambda: a @ b}, bench.device, least=0.002 if bench.tiny else 0.2, rounds=5)
    return spread([2 * n**3 / s for s in taken["product"]])


# ---------------------------------------------------------------- trainings


class InMemory(Source):
    """Images (N, C, H, W) that are decoded already, with labels if there are any."""

    def __init__(self, images: Tensor, labels: Tensor | None = None, classes: tuple[str, ...] | None = None) -> None:
        self.images = images
        self.channels = images.shape[1]
        self.labels = labels
        self.classes = classes

    def __len__(self) -> int:
        return len(self.images)

    @property
    def keys(self) -> Tensor:
        return torch.arange(len(self.images))

    def name(self, i: int) -> str:
        return f"image {i}"

    def read(self, i: int, decode_size: int | None) -> Tensor:
        return self.images[i]


class Pace(Callback):
    """Times blocks of steps after the first ones, and ends the training by raising `Measured`.

    Args:
        warm: steps that do not count.
        block: steps of a block.
        blocks: how many.
        before: called with a block's number before it begins.
    """

    def __init__(self, warm: int, block: int, blocks: int, before: Callable[[int], None] = lambda number: None) -> None:
        self.warm, self.block, self.blocks, self.before = warm, block, blocks, before
        self.seconds: list[float] = []
        """Of each block."""
        self.waited: list[float] = []
        """Seconds of each block in which the step waited for data."""
        self.joules: list[float] = []
        """Of each block; nothing where the device does not tell."""
        self._began = self._data = 0.0
        self._energy: float | None = None

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: object, batch: object, batch_idx: int) -> None:
        done = batch_idx + 1 - self.warm
        if done < 0 or done % self.block:
            return
        settle(module.device)
        now, joules = time.perf_counter(), energy()
        if done:
            self.seconds.append(now - self._began)
            self.waited.append(module.loader.waited - self._data)
            if joules is not None and self._energy is not None:
                self.joules.append(joules - self._energy)
        if len(self.seconds) == self.blocks:
            raise Measured
        self.before(len(self.seconds))
        self._data, self._energy, self._began = module.loader.waited, joules, time.perf_counter()

    def figures(self, batch: int, only: Callable[[int], bool] = lambda number: True) -> dict[str, object]:
        """Of the blocks whose numbers are asked for: images/s, the share of waiting for data, joules per image."""
        chosen = [i for i in range(len(self.seconds)) if only(i)]
        images = self.block * batch
        found: dict[str, object] = {
            "images_per_s": spread([images / self.seconds[i] for i in chosen]),
            "data_wait": spread([self.waited[i] / self.seconds[i] for i in chosen]),
        }
        if len(self.joules) == len(self.seconds):
            found["joules_per_image"] = spread([self.joules[i] / images for i in chosen])
        return found


def trained(run: Run, *callbacks: Callback) -> None:
    """A training that a callback may end by raising `Measured`; what it says is shown only where it fails."""
    said = io.StringIO()
    try:
        with suppress(Measured), redirect_stdout(said):
            training.pretrain(run, callbacks=callbacks)
    except Exception:
        print(said.getvalue()[-2000:], flush=True)
        raise

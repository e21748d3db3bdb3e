"""The device of a comparison: times on different devices cannot be compared."""

import platform
from pathlib import Path

import torch

from ...devices import default_device


def device_name() -> str:
    """The GPU's name, or "cpu, " and the processor's name."""
    if default_device().type == "cuda":
        return torch.cuda.get_device_name()
    return f"cpu, {_processor()}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())

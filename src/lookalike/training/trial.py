"""A part of a training in a process of its own, which may run out of memory: single steps, and advice."""

import dataclasses
import gc
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..allocator import return_freed
from ..devices import (
    address_space_left,
    default_device,
    free_for_state,
    limited,
    peak_bytes,
    reset_peak,
    used_bytes,
)
from ..foreign import is_tag
from ..methods import METHODS
from ..runs import Resolved, flat, method_name, read_run, write_run
from .memory import timed_step
from .model import build
from .out_of_memory import Advice, Change, advice, is_out_of_memory

START = "from lookalike.training.trial import main; main()"
"""What the other process runs."""


@dataclass(frozen=True)
class Trial:
    """A real step with noise instead of images."""

    fits: bool
    peak: int
    """Bytes at its peak, on a CPU resident memory above that after all imports; 0 if it did not fit."""
    seconds: float
    """Of a second step, which the optimizer's state precedes."""
    free: int
    """Bytes that were free before it."""
    error: str
    """Why it did not fit; else empty."""


def can_be_tried(run: Resolved) -> bool:
    """Whether another process can build the run's networks: not with modules of the user."""
    return run.teacher is None and not is_tag(str(flat(run)["backbone"])) and method_name(run.method) in METHODS


def step(run: Resolved) -> Trial:
    """Runs a step of a training in a process of its own.

    Raises:
        RuntimeError: it failed for another reason than memory.
    """
    found = _asked(run, {"do": "step"})
    if "killed" in found:
        return Trial(False, 0, 0.0, 0, f"the process was killed by signal {found['killed']}")
    return Trial(**found)


def advised(run: Resolved) -> Advice:
    """The memory that a step of a run needs, what is free for another process, and the changes that would fit.

    Raises:
        RuntimeError: it failed.
    """
    # what this process uses is free for the training that replaces it; a GPU's cache was emptied before
    found = _asked(run, {"do": "advice", "used": 0 if default_device().type == "cuda" else used_bytes()})
    if "killed" in found:
        raise RuntimeError(f"the process was killed by signal {found['killed']}")
    return Advice(**found | {"changes": [Change(**change) for change in found["changes"]]})


def _asked(run: Resolved, request: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="lookalike-trial-") as folder:
        file, asked = Path(folder) / "run.yaml", Path(folder) / "request.json"
        write_run(dataclasses.replace(run, data=str(flat(run)["data"]), resume=False), file)
        asked.write_text(json.dumps(request))
        command = [sys.executable, "-c", START, str(file), str(asked)]
        done = subprocess.run(command, capture_output=True, text=True, env=_alone())
    if done.returncode < 0:
        return {"killed": -done.returncode}
    if done.returncode:
        raise RuntimeError(f"A trial step failed: {(done.stderr.strip().splitlines() or ['without a message'])[-1]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _alone() -> dict[str, str]:
    """This process's environment without the variables that make it one of several."""
    ranks = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "NODE_RANK", "MASTER_", "TORCHELASTIC_", "SLURM_", "GROUP_", "LOCAL_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ranks)}


# ---------------------------------------------------------------- the other process


def main() -> None:
    """Answers a request; its file and that of the run are the arguments, its answer is the last line printed."""
    file, asked = map(Path, sys.argv[1:])
    run, request = Resolved.of(read_run(file)), json.loads(asked.read_text())
    free = free_for_state(0, run.devices)
    if request["do"] == "step":
        found = vars(_step(run, free))
    else:
        found = dataclasses.asdict(advice(run, min(free + request["used"], address_space_left())))
    print(json.dumps(found))


def _step(run: Resolved, free: int) -> Trial:
    build(run)  # imports all that it needs
    gc.collect()
    return_freed()  # the step would use it again, and its peak would look lower
    reset_peak()
    before = used_bytes()
    try:
        with limited(free):
            taken = timed_step(run)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        lines = str(error).splitlines()
        return Trial(False, 0, 0.0, free, lines[0] if lines else type(error).__name__)
    return Trial(True, max(0, (peak_bytes() or 0) - before), taken, free, "")

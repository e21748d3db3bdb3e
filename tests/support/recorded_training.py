"""Runs a command, and writes the index and a digest of the views of each image of each step to a file.

Its process is written to RECORD.processes.

PYTHONPATH=tests python -m support.recorded_training RECORD ARGUMENT...
"""

import hashlib
import os
import sys
import warnings
from collections.abc import Sequence

import torch

from lookalike import cli
from lookalike.cli import pages
from lookalike.core import Batch, Method, Outputs, Progress
from lookalike.methods.simclr import SimCLR

from . import tiny  # registers the network


def record(path: str, argv: Sequence[str]) -> int:
    """Each line: the step, and index and digest of each image, in order of the indices."""
    warnings.simplefilter("ignore")
    with open(f"{path}.processes", "a") as file:
        file.write(f"{os.getpid()}\n")
    torch.set_num_threads(1)
    pages.write_report = lambda folder, workers: None
    forward, after = SimCLR.forward, SimCLR.after_step
    seen: list[str] = []

    def recorded(self: SimCLR, batch: Batch) -> Outputs:
        for row, index in enumerate(batch.index.tolist()):
            digest = hashlib.blake2b(digest_size=8)
            for view in batch.views:
                digest.update(view[row].numpy().tobytes())
            seen.append(f"{index}:{digest.hexdigest()}")
        return forward(self, batch)

    def stepped(self: Method, at: Progress, outputs: Sequence[Outputs]) -> None:
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(handle, f"{at.step} {' '.join(seen)}\n".encode())  # at once, whatever kills the process
        os.close(handle)
        seen.clear()
        after(self, at, outputs)

    SimCLR.forward, SimCLR.after_step = recorded, stepped  # type: ignore[method-assign]
    assert tiny.CNN
    return cli.main(list(argv))


if __name__ == "__main__":
    sys.exit(record(sys.argv[1], sys.argv[2:]))

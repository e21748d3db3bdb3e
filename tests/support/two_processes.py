"""Runs several commands, one after the other, in each of the processes that torchrun starts: imports cost seconds.

torchrun --nproc-per-node 2 tests/support/two_processes.py COMMANDS.json
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from lookalike import cli, training
from lookalike.cli import pages
from lookalike.commands import teacher_student
from lookalike.tensor_file import sha256
from lookalike.training import stages


class Telling(training.Pretraining):
    """Writes down the digest of the method's state on each process, when a checkpoint is saved."""

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        path = Path(self.run.out) / f"rank{self.trainer.global_rank}.sha256"
        path.write_text(sha256(self.method))


def train_all(commands: list[list[str]]) -> None:
    """Runs commands one after the other, in a process of several."""
    torch.set_num_threads(1)
    stages.Pretraining = Telling  # type: ignore[misc]
    pages.write_report = lambda folder, workers: None
    teacher_student.TIMING_SECONDS = 0.0  # a student's speed and its teacher's at a glance
    for argv in commands:
        if (code := cli.main(argv)) != 0:
            print(f"rank {os.environ['RANK']}: exit code {code} of {argv}", file=sys.stderr)
            sys.exit(code)


if __name__ == "__main__":
    train_all(json.loads(Path(sys.argv[1]).read_text()))

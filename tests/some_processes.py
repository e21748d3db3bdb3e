"""Trains in each of the processes that torchrun starts, or alone, and writes down which images each step gets.

python tests/some_processes.py SEEN STOP ARGUMENTS...: SIGTERM after STOP optimizer steps; 0 for none.
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer

from lookalike import cli, distributed, training
from lookalike.cli import pages
from lookalike.core import Batch
from lookalike.training import checkpoints, stages

seen, stop, *arguments = sys.argv[1:]


class Seeing(training.Pretraining):
    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        super().on_train_batch_start(batch, batch_idx)
        with open(Path(seen) / f"{os.getpid()}.jsonl", "a") as file:
            assert batch.cpu_index is not None
            file.write(json.dumps([self.done_steps, batch.cpu_index.tolist()]) + "\n")


class Stopping(checkpoints.Checkpoints):
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if trainer.global_step == int(stop) and distributed.rank() == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)


if __name__ == "__main__":
    torch.set_num_threads(1)
    stages.Pretraining = Seeing  # type: ignore[misc]
    stages.Checkpoints = Stopping  # type: ignore[misc]
    pages.write_report = lambda folder, workers: None
    sys.exit(cli.main(arguments))

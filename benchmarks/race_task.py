"""The part that all entrants of `race.py` share: the task, the network with its first weights, and the clock.

An entrant is a script that gets the path of a task. It needs torch, timm and its own library, nothing of ours.
"""

import contextlib
import json
import math
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from networks import narrow_resnet, small_resnet, strided_resnet
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

NETWORKS = {"narrow": narrow_resnet, "strided": strided_resnet, "small": small_resnet}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, which all four libraries use unless told otherwise."""
SCALE, HFLIP, GRAYSCALE = (0.08, 1.0), 0.5, 0.2
JITTER, JITTERED = (0.4, 0.4, 0.4, 0.1), 0.8
"""SimCLR's views for CIFAR-10 (appendix B.9): half the colour strength and no blur. JITTER is that of brightness,
contrast, saturation and hue, JITTERED its probability."""


@dataclass(frozen=True)
class Task:
    """One training of one library. All but `options` is the same for all libraries."""

    images: str
    """Folder of class folders of JPEG files."""
    network: str
    weights: str
    """File of the network's first weights."""
    image_size: int
    batch_size: int
    epochs: int
    steps_per_epoch: int
    lr: float
    momentum: float
    weight_decay: float
    temperature: float
    hidden_dim: int
    out_dim: int
    seed: int
    options: dict[str, Any]
    """What the library is free to choose."""
    out: str
    """Folder of the snapshots EPOCH.pt and of times.json."""
    started: float
    """When the process was started, on the clock of `time.monotonic`."""
    trial_seconds: float | None = None
    """Stop so long after the first steps."""

    @property
    def steps(self) -> int:
        return self.epochs * self.steps_per_epoch

    @property
    def warmup_epochs(self) -> float:
        return self.epochs / 10

    def rate(self, step: int) -> float:
        """Factor on the learning rate: a linear warm-up in a tenth of the training, then a cosine to 0."""
        warmup = round(self.warmup_epochs * self.steps_per_epoch)
        if step < warmup:
            return (step + 1) / warmup
        return (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, self.steps - warmup - 1)))) / 2


def read() -> Task:
    """The task that the process was started with."""
    task = Task(**json.loads(Path(sys.argv[1]).read_text()))
    torch.set_num_threads(task.options["threads"])
    torch.manual_seed(task.seed)
    return task


def network_of(task: Task) -> nn.Module:
    """The network with its first weights, in the memory layout and with the compilation that were chosen."""
    network = NETWORKS[task.network]()
    network.load_state_dict(torch.load(task.weights, weights_only=True))
    if task.options.get("channels_last"):
        network.to(memory_format=torch.channels_last)
    if task.options.get("compile"):
        network.forward_features = torch.compile(network.forward_features)  # type: ignore[assignment]
    return network


def decayed(parameters: list[nn.Parameter], task: Task) -> list[dict[str, Any]]:
    """Groups for torch's optimizers: biases and norms without weight decay."""
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": task.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


SKIP = 5
"""First steps of a trial, whose speed says little."""


class Clock:
    """Takes the time of each step of the training that follows, and a snapshot of the network after each epoch.

    The process ends with the last one. Saving is not counted.
    """

    def __init__(self, task: Task, network: nn.Module) -> None:
        self.task, self.network = task, network
        self._ends: list[float] = []
        """Of the steps, in seconds since the process was started."""
        self._paused = 0.0
        self._first = next(network.parameters()).detach().clone()
        self._before = _others_seconds(), time.monotonic()
        register_optimizer_step_post_hook(self._stepped)

    def _stepped(self, *_: object) -> None:
        now = time.monotonic()
        self._ends.append(now - self.task.started - self._paused)
        done = len(self._ends)
        if self.task.trial_seconds is not None:
            if done == self.task.steps or (
                done > SKIP and self._ends[-1] - self._ends[SKIP - 1] >= self.task.trial_seconds
            ):
                self._end()
            return
        if done % self.task.steps_per_epoch == 0:
            self._save(done // self.task.steps_per_epoch)
            self._paused += time.monotonic() - now
        if done == self.task.steps:
            self._end()

    def _save(self, epoch: int) -> None:
        if torch.equal(self._first, next(self.network.parameters())):
            raise RuntimeError("The network has not changed in an epoch: the library trains a copy of it.")
        torch.save(self.network.state_dict(), Path(self.task.out) / f"{epoch}.pt")

    def _end(self) -> None:
        """Writes the times, and ends the process: what a library does after a training is not part of the race."""
        used, since = self._before
        others = (_others_seconds() - used) / (time.monotonic() - since)
        file = Path(self.task.out) / "times.json"
        file.with_suffix(".part").write_text(json.dumps({"ends": self._ends, "others": round(max(0.0, others), 2)}))
        file.with_suffix(".part").replace(file)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


_TICK = os.sysconf("SC_CLK_TCK")


def _others_seconds() -> float:
    """Processor time of the whole machine since it was started, less idle time and that of this process group."""
    user, nice, system, _, _, *rest = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:9])
    ticks, group = user + nice + system + sum(rest), os.getpgrp()
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = file.read_text().rpartition(")")[2].split()
            if int(fields[2]) == group:
                ticks -= sum(map(int, fields[11:15]))
    return ticks / _TICK

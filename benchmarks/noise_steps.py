"""Training steps of a method on noise: what `precision.py`, `reused_memory.py` and `step_profile.py` measure."""

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import networks
import torch
from torch.profiler import record_function

from lookalike import optimizers, training
from lookalike.core import Batch, Progress
from lookalike.methods import get_method
from lookalike.runs import Resolved, Run
from lookalike.training.model import build


@dataclass(frozen=True)
class Case:
    """A training step: its method and network, and how it is computed."""

    method: str
    network: str
    size: int
    batch: int
    precision: str
    layout: torch.memory_format = torch.channels_last

    def resolved(self) -> Resolved:
        torch.manual_seed(0)
        run = Run(
            data="noise", method=get_method(self.method).Config(), backbone=networks.named(self.network),
            image_size=self.size, batch_size=self.batch, workers=0, precision=self.precision,  # type: ignore[arg-type]
        )  # fmt: skip
        return training.resolve(run, 50_000)[0]


class Steps:
    """A method with its optimizer, and its steps on noise."""

    def __init__(self, case: Case) -> None:
        run = case.resolved()
        self.half = case.precision == "bf16"
        self.method = build(run).to(memory_format=case.layout).train()  # type: ignore[call-overload]
        self.method.before_training()
        self.optimizer = optimizers.build(self.method, run.method.optim, case.batch, fused=True).optimizer
        torch.manual_seed(0)
        views = [
            torch.randn(case.batch, 3, view.size, view.size).to(memory_format=case.layout)
            for view in run.method.views
            for _ in range(view.count)
        ]
        self.at = Progress(0, 1000, 100)
        index = torch.arange(case.batch)
        self.data = Batch(views, index, self.at, labels=torch.zeros(case.batch), cpu_index=index)

    def step(self) -> None:
        with torch.autocast("cpu", torch.bfloat16) if self.half else nullcontext():
            outputs = self.method(self.data)
        outputs["loss"].backward()
        self.method.before_step(self.at)
        with record_function("stage optimizer"):
            self.optimizer.step()
        self.optimizer.zero_grad()
        with record_function("stage teacher"):
            self.method.after_step(self.at, [outputs])

    def seconds(self, steps: int) -> float:
        """Processor time of a step."""
        return processor_time(self.step, steps)


def processor_time(work: Callable[[], object], times: int) -> float:
    began = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - began) / times

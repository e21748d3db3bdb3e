"""What a comparison may cost: the speed that is measured, the plan, the time, memory and operations that were taken."""

import dataclasses
import mmap
import time
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from lookalike import backbones
from lookalike import core as contract
from lookalike.commands.compare import cost_meter
from lookalike.commands.compare.plan import left_line, plan_line
from lookalike.core import Batch, Method
from lookalike.durations import spoken
from lookalike.optim import Optim
from lookalike.runs import Run
from lookalike.training import timing
from lookalike.views import View


def test_the_speed_is_measured_after_a_warm_up_and_without_filling_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of 5 s at first and 2 s later; 3 s of preparation, and 7 s in which a cache was filled."""
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    module = SimpleNamespace(
        steps_per_epoch=50, done_steps=0, run=SimpleNamespace(cache="ram", accumulate=2, loss_batches=2, batch_size=8),
        probe_seconds=0.0, loader=SimpleNamespace(waited=7.0),
    )  # fmt: skip
    trainer, pl = cast(Trainer, None), cast(LightningModule, module)
    speed = timing.Speed(budget=600)
    speed.on_fit_start(trainer, pl)
    now[0] += 10

    def steps() -> None:
        for micro in range(100):
            speed.on_train_batch_start(trainer, pl, None, micro)
            now[0] += 2.5 if micro < 2 * timing.WARM_STEPS else 1.0
            module.done_steps += micro % 2
            speed.on_train_batch_end(trainer, pl, None, None, micro)

    with pytest.raises(timing.Measured):
        steps()
    assert module.done_steps == timing.WARM_STEPS + timing.TIMED_STEPS  # 10 s are timed
    assert speed.step == pytest.approx(2.0)
    assert speed.start == pytest.approx(3.0 + timing.WARM_STEPS * (5 - 2))  # what was slow at first is paid once
    assert speed.steps_per_epoch == 50


@pytest.mark.parametrize(
    ("seconds", "left", "expected"),
    [
        (dict.fromkeys("abc", 120.0), dict.fromkeys("abc", 3),
         "3 methods x 3 seeds x 2 min = 18 min of training, then evaluation on 1 test"),
        ({"a": 90.0, "b": 300.0}, {"a": 3, "b": 3},
         "2 methods x 3 seeds: a 3 x 1.5 min, b 3 x 5 min = 20 min of training, then evaluation on 1 test"),
        ({"a": 0.35}, {"a": 2}, "2 of 9 trainings left: a 2 x 0.35 s = 0.7 s of training, then evaluation on 1 test"),
        ({"a": 7200.0, "b": None}, {"a": 3, "b": 3},
         "2 methods x 3 seeds: a 3 x 2 h, b 3 x unknown = at least 6 h of training, then evaluation on 1 test"),
    ],
)  # fmt: skip
def test_the_plan_of_a_comparison(seconds: dict[str, float | None], left: dict[str, int], expected: str) -> None:
    trainings = 9 if len(left) in (1, 3) else 6
    assert plan_line(seconds, left, seeds=3, trainings=trainings, tests=1) == expected


def test_a_plan_of_one_is_no_plural() -> None:
    line = plan_line({"a": 61.0}, {"a": 1}, seeds=1, trainings=1, tests=2)
    assert line == "1 method x 1 seed x 1 min = 1 min of training, then evaluation on 2 tests"
    assert left_line({"a": 60.0, "b": 30.0}, {"a": 1, "b": 4}) == "about 3 min of training left in total"
    assert [spoken(x) for x in (0.0, 9.96, 59.4, 599, 3599, 9000)] == ["0 s", "10 s", "59 s", "10 min", "60 min",
                                                                       "2.5 h"]  # fmt: skip


def test_the_pace_of_a_training_corrects_what_was_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planned are 100 s for 100 steps; they take 2 s each, and 1 s from the 50th on."""
    now, corrected = [0.0], []
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    module = SimpleNamespace(
        done_steps=0,
        steps=100,
        run=SimpleNamespace(cache="none", accumulate=1, loss_batches=1),
        loader=SimpleNamespace(waited=0.0),
    )  # fmt: skip
    trainer, pl = cast(Trainer, None), cast(LightningModule, module)
    pace = timing.Pace(100.0, corrected.append)
    pace.on_fit_start(trainer, pl)
    now[0] += 5
    for step in range(100):
        pace.on_train_batch_start(trainer, pl, None, step)
        now[0] += 2.0 if step < 50 else 1.0
        module.done_steps += 1
        pace.on_train_batch_end(trainer, pl, None, None, step)
        if step == 9:
            assert corrected == [pytest.approx(205.0)]  # at a tenth
    assert len(corrected) == 1  # at 60 steps 188 s are expected: within a fifth
    quiet = timing.Pace(205.0, corrected.append)
    quiet.on_fit_start(trainer, pl)
    module.done_steps = 0
    for step in range(100):
        quiet.on_train_batch_start(trainer, pl, None, step)
        now[0] += 2.0
        module.done_steps += 1
        quiet.on_train_batch_end(trainer, pl, None, None, step)
    assert len(corrected) == 1


def test_slow_first_steps_are_no_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    now, corrected = [0.0], list[float]()
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    module = SimpleNamespace(
        done_steps=0,
        steps=20,
        run=SimpleNamespace(cache="none", accumulate=2, loss_batches=2),
        loader=SimpleNamespace(waited=0.0),
    )  # fmt: skip
    trainer, pl = cast(Trainer, None), cast(LightningModule, module)
    pace = timing.Pace(80.0, corrected.append)
    pace.on_fit_start(trainer, pl)
    for part in range(40):  # two micro-batches a step
        pace.on_train_batch_start(trainer, pl, None, part)
        now[0] += 10.0 if part < 4 else 1.0
        module.done_steps = (part + 1) // 2
        pace.on_train_batch_end(trainer, pl, None, None, part)
    assert corrected == []  # 76 s in all


def test_the_speed_for_a_number_of_epochs_is_measured_over_a_small_part_of_them() -> None:
    speed = timing.Speed(None, epochs=10)
    speed.steps_per_epoch = 50
    assert speed._enough(0.1) == pytest.approx(timing.TIMED_FRACTION * 50)
    assert speed._enough(100.0) == timing.TIMED_SECONDS
    speed.start, speed.step = 3.0, 0.1
    assert speed.seconds(10) == pytest.approx(53.0)


def test_costs_are_carried_on_by_a_resume(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    joules = [1000.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(cost_meter, "energy", lambda: joules[0])
    monkeypatch.setattr(cost_meter, "peak_bytes", lambda: 5)
    monkeypatch.setattr(cost_meter, "reset_peak", lambda: True)
    run = SimpleNamespace(run=SimpleNamespace(cache="none"))
    trainer, pl = cast(Trainer, None), cast(LightningModule, run)
    first, second = cost_meter.Costs(), cost_meter.Costs()
    first.on_fit_start(trainer, pl)
    now[0], joules[0] = 10.0, 1500.0
    second.load_state_dict(first.state_dict() | {"peak": 9})
    now[0], joules[0] = 50.0, 9000.0  # nobody trains
    second.on_fit_start(trainer, pl)
    now[0], joules[0] = 53.0, 9100.0
    assert second.state_dict() == {"seconds": 13.0, "peak": 9, "joules": 600.0}
    monkeypatch.setattr(cost_meter, "energy", lambda: None)
    assert second.state_dict()["joules"] is None


def test_peak_memory_is_forgotten_and_found() -> None:
    if torch.cuda.is_available() or not cost_meter.reset_peak():
        pytest.skip("the peak of this process cannot be told from earlier ones")
    before = cost_meter.peak_bytes()
    block = mmap.mmap(-1, 100_000_000)  # pages of its own: a tensor may reuse what this process has freed
    block.write(bytes(len(block)))
    after = cost_meter.peak_bytes()
    assert before is not None
    assert after is not None
    assert 90e6 < after - before < 250e6
    block.close()
    assert cost_meter.reset_peak()
    assert (cost_meter.peak_bytes() or 0) < after - 50e6


def test_operations_of_a_step_are_counted() -> None:
    """A 1x1 convolution of 3 to 8 channels over 16 x 16 places, then a layer of 8 to 5, for two views of each image.

    Backwards each layer costs once more for its weights, and once more for what it was given, the images excepted.
    """

    class Two(Method):
        """Two layers."""

        @dataclasses.dataclass(frozen=True)
        class Config(contract.Config):
            views: tuple[View, ...] = (View(size=16, count=2),)
            optim: Optim = Optim("sgd", lr=0.1)

        def __init__(self, cfg: Config, backbone: backbones.Backbone) -> None:
            super().__init__(cfg, backbone)
            self.head = nn.Linear(8, 5)

        def forward(self, batch: Batch) -> dict[str, Tensor]:
            return {"loss": torch.stack([self.head(self.backbone(v)).square().mean() for v in batch.views]).sum()}

    net = backbones.create(nn.Sequential(nn.Conv2d(3, 8, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()), image_size=16)
    method = Two(Two.Config(), net).train()
    state = torch.get_rng_state()
    found = cost_meter.gflops_per_image(method, Run(data="", method=Two.Config(), batch_size=4))
    conv, layer = 2 * 256 * 3 * 8, 2 * 8 * 5
    assert found == pytest.approx(2 * (2 * conv + 3 * layer) / 1e9)
    assert method.training
    assert all(p.grad is None for p in method.parameters())
    assert torch.equal(state, torch.get_rng_state())

"""Schedules at their edges; the official codes' numbers are in test_reference.py."""

import dataclasses
import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lookalike.core import Progress
from lookalike.schedules import Schedule

SHAPES = st.sampled_from(["constant", "linear", "cosine"])


def schedules(start: float, end: float) -> st.SearchStrategy[Schedule]:
    return st.builds(
        lambda shape, warmup, freeze, every, grid: Schedule(
            start, None if shape == "constant" else end, shape, warmup, 0.0, freeze, every, grid
        ),
        SHAPES,
        st.floats(0, 9),
        st.floats(0, 4),
        st.sampled_from(["step", "epoch"]),
        st.sampled_from(["closed", "open", "dino"]),
    )


@given(schedules(0.7, 0.2), st.integers(1, 12), st.integers(1, 60))
def test_any_schedule_rises_then_falls_within_its_range(schedule: Schedule, per_epoch: int, steps: int) -> None:
    """Also where warm-up and freezing are longer than the training."""
    found = [schedule(Progress(i, steps, per_epoch)) for i in range(steps + 2)]
    assert all(0 <= v <= 0.7 + 1e-12 for v in found)
    assert found[-2:] == [0.7 if schedule.shape == "constant" else 0.2] * 2
    turns = [b - a for a, b in itertools.pairwise(found[:steps]) if abs(b - a) > 1e-12]
    assert turns == sorted(turns, key=lambda change: change < 0), "a rise after a fall"


@given(schedules(0.7, 0.2), st.integers(1, 12), st.integers(1, 9))
def test_per_epoch_is_constant_within_an_epoch(schedule: Schedule, per_epoch: int, epochs: int) -> None:
    schedule = dataclasses.replace(schedule, every="epoch")
    by_step = dataclasses.replace(schedule, every="step")
    for i in range(epochs * per_epoch):
        found = schedule(Progress(i, epochs * per_epoch, per_epoch))
        assert found == by_step(Progress(i // per_epoch, epochs, 1))


@pytest.mark.parametrize("shape", ["linear", "cosine"])
@pytest.mark.parametrize(("steps", "per_epoch"), [(1, 1), (2, 1), (2, 5), (40, 7)])
def test_closed_decay_reaches_its_end_at_the_last_step(shape: str, steps: int, per_epoch: int) -> None:
    schedule = Schedule(3.0, 1.0, shape, warmup_epochs=1 / per_epoch if steps > 2 else 0)
    assert schedule(Progress(steps - 1, steps, per_epoch)) == pytest.approx(1.0, abs=1e-15)


def test_values_by_hand() -> None:
    closed = Schedule(4.0, 0.0, "linear", warmup_epochs=2, freeze_epochs=1)
    dino = dataclasses.replace(closed, grid="dino", warmup_start=1.0)
    opened = dataclasses.replace(closed, grid="open")
    at = [Progress(i, 10, 2) for i in range(11)]
    assert [closed(a) for a in at] == [0, 0, 1, 2, 3, 4, 4, pytest.approx(8 / 3), pytest.approx(4 / 3), 0, 0]
    assert [opened(a) for a in at] == [0, 0, 0, 1, 2, 3, 4, 3, 2, 1, 0]
    assert [dino(a) for a in at] == [0, 0, 1, 2, 3, 4, 4, 3, 2, 1, 0]
    cosine = Schedule(1.0, 0.0, "cosine", grid="open")
    assert cosine(Progress(1, 4, 4)) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)


def test_warmup_longer_than_the_training_is_shortened_to_it() -> None:
    schedule = Schedule(1.0, 0.0, "cosine", warmup_epochs=10)
    assert [schedule(Progress(i, 4, 2)) for i in range(5)] == [0.25, 0.5, 0.75, 1.0, 0.0]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"shape": "cosine"}, "needs an end"),
        ({"end": 1.0}, "has no end"),
        ({"warmup_epochs": -1}, "negative"),
        ({"freeze_epochs": -0.5}, "negative"),
    ],
)
def test_impossible_schedules_are_refused(settings: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Schedule(1.0, **settings)

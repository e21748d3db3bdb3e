"""The counter of long work: when it reports, how fast the work goes, and how long the rest takes."""

import pytest

from lookalike import progress
from lookalike.progress import counting


class Clock:
    """A clock that stands until it is set."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(progress, "time", made)
    return made


def lines(clock: Clock, at: list[tuple[float, int]], total: int, **options: object) -> list[str]:
    """What is said where so many steps are done at these seconds."""
    said: list[str] = []
    clock.now = 100.0
    count = counting(said.append, "cache: ", "images", **options)  # type: ignore[arg-type]
    for seconds, done in at:
        clock.now = 100 + seconds
        count(done, total)
    return said


def test_work_is_reported_every_ten_seconds_and_at_its_end(clock: Clock) -> None:
    assert lines(clock, [(s, 10 * s) for s in range(1, 31)], 300) == [
        "cache: 110 of 300 images, 10 images/s, 19 s left",
        "cache: 220 of 300 images, 10 images/s, 8 s left",
        "cache: 300 of 300 images, 10 images/s",
    ]


def test_quick_work_is_silent_unless_its_end_is_asked_for(clock: Clock) -> None:
    assert lines(clock, [(1, 10), (2, 20)], 20) == []
    assert lines(clock, [(1, 10), (2, 20)], 20, last=True, unit="crops") == ["cache: 20 of 20 images, 10 crops/s"]


def test_the_start_of_workers_does_not_count_in_the_time_left(clock: Clock) -> None:
    """Ten seconds to the first image, then ten images a second: 70 are left."""
    assert lines(clock, [(10, 10), (12, 30)], 100) == ["cache: 30 of 100 images, 2.5 images/s, 7 s left"]


def test_a_long_time_left_is_in_hours_and_minutes(clock: Clock) -> None:
    assert lines(clock, [(11, 11)], 3611) == ["cache: 11 of 3611 images, 1.0 images/s, 1:00:00 left"]


def test_nothing_done_yet_has_no_time_left(clock: Clock) -> None:
    assert lines(clock, [(11, 0)], 10) == ["cache: 0 of 10 images, 0.0 images/s"]

"""One counter for all work that takes long: how much is done, how fast it goes, and how long the rest takes."""

import time
from collections.abc import Callable
from datetime import timedelta

LINE_SECONDS = 10.0
"""Between two lines about the same work."""
_COUNTED = 120
"""Seconds left up to which they are counted; more are written as hours, minutes and seconds."""


def counting(
    say: Callable[[str], None], before: str, of: str, *, unit: str = "images", last: bool = False
) -> Callable[[int, int], None]:
    """A function to call with the steps that are done, and all: it reports them when `LINE_SECONDS` have passed.

    A line reads "cache: 640 of 5000 images, 61 images/s, 71 s left". The time left follows from the speed since the
    first call: the first images wait until workers have started.

    Args:
        say: called with a line.
        before: what the line begins with, such as "cache: ".
        of: what is counted, such as "images".
        unit: what the speed is of, per second.
        last: report the end of quick work, too; otherwise the end is reported where there was a line before.
    """
    began = shown = time.perf_counter()
    first: tuple[float, int] | None = None

    def progress(done: int, total: int) -> None:
        nonlocal first, shown
        now = time.perf_counter()
        rate = done / (now - began)
        since, steps = first = first or (now, done)
        if now - shown > LINE_SECONDS or (done == total and (last or shown > began)):
            shown = now
            later = (done - steps) / (now - since) if done > steps else rate
            left = f", {_time((total - done) / later)} left" if done < total and later else ""
            say(f"{before}{done} of {total} {of}, {rate:.{0 if rate >= 10 else 1}f} {unit}/s{left}")

    return progress


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < _COUNTED else str(timedelta(seconds=round(seconds)))

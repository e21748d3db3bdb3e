"""A progress counter for long work: the number done, the speed, and the time left."""

import time
from collections.abc import Callable
from datetime import timedelta

LINE_SECONDS = 10.0
"""Seconds between two lines about the same work."""
_COUNTED = 120
"""Below this, the time left is in seconds; above, in hours, minutes and seconds."""


def counting(
    say: Callable[[str], None], before: str, of: str, *, unit: str = "images", last: bool = False
) -> Callable[[int, int], None]:
    """A function to call with the number of steps done and the total; it reports them every `LINE_SECONDS`.

    A line reads "cache: 640 of 5000 images, 61 images/s, 71 s left". The time left is computed from the speed since the
    first call, because the first images wait for the start of workers.

    Args:
        say: called with a line.
        before: start of the line, such as "cache: ".
        of: the noun of the count, such as "images".
        unit: the noun of the speed, per second.
        last: also report the end of quick work; otherwise the end is reported only after an earlier line.
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

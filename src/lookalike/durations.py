"""Times that a user states and reads, such as 1h30min, and the epochs that fit into them. Imports nothing heavy."""

import re

from .printing import shown

UNITS = {"h": 3600.0, "min": 60.0, "s": 1.0}
"""Seconds of a time's units, the largest first."""
LONGEST = 366 * 24 * 3600.0
"""Seconds that a training may be given."""
_TIME = re.compile("".join(rf"(?:(\d+(?:\.\d+)?){unit})?" for unit in UNITS))


def seconds_of(time: str, option: str = "time") -> float:
    """The seconds of a time such as 90s, 10min, 1.5h or 1h30min.

    Args:
        time: what the user wrote.
        option: whose value it is.

    Raises:
        ValueError: anything else, nothing, or more than a year.
    """
    found = _TIME.fullmatch(time)
    numbers = found.groups(default="0") if found else ()
    seconds = sum(float(number) * unit for number, unit in zip(numbers, UNITS.values()))
    if not 0 < seconds <= LONGEST:
        raise ValueError(
            f"{option} is {shown(time)}; expected a time above 0, a year at most, with its unit: s, min or h, without "
            "a space. Give 90s, 10min, 2h or 1h30min."
        )
    return seconds


def spoken(seconds: float) -> str:
    """A time in two digits or so: 4.2 s, 18 min, 2.5 h."""
    unit, name = (1, "s") if seconds < 60 else (60, "min") if seconds < 3600 else (3600, "h")
    value = seconds / unit
    return f"{value:.0f} {name}" if value >= 9.95 else f"{float(f'{value:.2g}'):g} {name}"


def epochs_that_fit(seconds: float, start: float, epoch: float, probe: float = 0.0, probes: int = 0) -> int:
    """Whole epochs that fit into a time; 1 at least.

    Args:
        seconds: the time.
        start: seconds of it that are gone before the first step.
        epoch: seconds of an epoch.
        probe: seconds of a look at the encoder after an epoch.
        probes: such looks at most, after every epoch where there are no more of them.
    """
    left = seconds - start
    each = int(left / (epoch + probe) + 1e-9)
    if each >= probes:
        each = max(probes, int((left - probes * probe) / epoch + 1e-9))
    return max(1, each)

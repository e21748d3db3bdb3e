"""Durations as text, such as 1h30min, and the epochs that fit into them. Imports nothing heavy."""

import re

from .printing import shown

UNITS = {"h": 3600.0, "min": 60.0, "s": 1.0}
"""Seconds per unit, the largest unit first."""
LONGEST = 366 * 24 * 3600.0
"""Maximum time of a training, in seconds."""
_TIME = re.compile("".join(rf"(?:(\d+(?:\.\d+)?){unit})?" for unit in UNITS))


def seconds_of(time: str, option: str = "time") -> float:
    """Seconds of a duration such as 90s, 10min, 1.5h or 1h30min.

    Args:
        time: as the user wrote it.
        option: the option, for the message.

    Raises:
        ValueError: it is not a duration, is 0, or exceeds a year.
    """
    found = _TIME.fullmatch(time)
    numbers = found.groups(default="0") if found else ()
    seconds = sum(float(number) * unit for number, unit in zip(numbers, UNITS.values()))
    if not 0 < seconds <= LONGEST:
        raise ValueError(
            f"{option} is {shown(time)}; expected a time above 0 and at most a year, with its unit: s, min or h, "
            "without a space. Give 90s, 10min, 2h or 1h30min."
        )
    return seconds


def spoken(seconds: float) -> str:
    """A duration with about two digits: 4.2 s, 18 min, 2.5 h."""
    unit, name = (1, "s") if seconds < 60 else (60, "min") if seconds < 3600 else (3600, "h")
    value = seconds / unit
    return f"{value:.0f} {name}" if value >= 9.95 else f"{float(f'{value:.2g}'):g} {name}"


def epochs_that_fit(seconds: float, start: float, epoch: float, probe: float = 0.0, probes: int = 0) -> int:
    """Number of whole epochs that fit into a time; at least 1.

    Args:
        seconds: the time.
        start: seconds before the first step.
        epoch: seconds per epoch.
        probe: seconds per evaluation of the encoder, which follows an epoch.
        probes: maximum number of evaluations; with at most as many epochs, one after each.
    """
    left = seconds - start
    each = int(left / (epoch + probe) + 1e-9)
    if each >= probes:
        each = max(probes, int((left - probes * probe) / epoch + 1e-9))
    return max(1, each)

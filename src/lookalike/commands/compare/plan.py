"""What a comparison is about to do, and for how long, in a line. Pure functions."""

from collections.abc import Mapping, Sequence

from ...durations import spoken
from ...printing import counted


def total_of(seconds: Mapping[str, float | None], left: Mapping[str, int]) -> tuple[float, bool]:
    """Seconds of all trainings that are left, and whether the time of each is known."""
    known = {method: each for method, each in seconds.items() if each is not None}
    return sum(known.get(method, 0.0) * count for method, count in left.items()), all(m in known for m in left)


def plan_line(
    seconds: Mapping[str, float | None], left: Mapping[str, int], *, seeds: int, trainings: int, tests: int
) -> str:
    """The plan and its total time, such as "3 methods x 3 seeds x 2 min = 18 min of training, then evaluation".

    Args:
        seconds: of one training of each method; None where it is not known.
        left: trainings of each method that are to be made.
        seeds: of the comparison.
        trainings: of all methods that can be trained, those that are done included.
        tests: that each encoder is evaluated on.
    """
    total, known = total_of(seconds, left)
    each = {method: "unknown" if (s := seconds.get(method)) is None else spoken(s) for method in left}
    whole = sum(left.values()) == trainings and set(left.values()) == {seeds}
    head = (
        f"{counted(len(left), 'method')} x {counted(seeds, 'seed')}"
        if whole
        else f"{sum(left.values())} of {counted(trainings, 'training')} left"
    )
    if len({*each.values()}) == 1 and whole:
        head += f" x {next(iter(each.values()))}"
    else:
        head += f": {', '.join(f'{method} {left[method]} x {time}' for method, time in each.items())}"
    at_least = "" if known else "at least "
    return f"{head} = {at_least}{spoken(total)} of training, then evaluation on {counted(tests, 'test')}"


def left_line(seconds: Mapping[str, float | None], left: Mapping[str, int]) -> str:
    """How long all trainings that are left take."""
    total, known = total_of(seconds, left)
    return f"{'about' if known else 'at least'} {spoken(total)} of training left in all"


def order(methods: Sequence[str]) -> dict[str, int]:
    """How often each method is named, in the order of their first places."""
    return {method: methods.count(method) for method in dict.fromkeys(methods)}

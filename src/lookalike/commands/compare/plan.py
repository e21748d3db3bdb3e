"""The plan of a comparison and its total time, as one line. Pure functions."""

from collections.abc import Mapping, Sequence

from ...durations import spoken
from ...printing import counted


def total_of(seconds: Mapping[str, float | None], left: Mapping[str, int]) -> tuple[float, bool]:
    """Total seconds of the remaining trainings, and whether the time of each is known."""
    known = {method: each for method, each in seconds.items() if each is not None}
    return sum(known.get(method, 0.0) * count for method, count in left.items()), all(m in known for m in left)


def plan_line(
    seconds: Mapping[str, float | None], left: Mapping[str, int], *, seeds: int, trainings: int, tests: int
) -> str:
    """The plan and its total time, such as "3 methods x 3 seeds x 2 min = 18 min of training, then evaluation".

    Args:
        seconds: of one training of each method; None if unknown.
        left: number of remaining trainings of each method.
        seeds: number of seeds.
        trainings: number of trainings of all methods that can be trained, including finished ones.
        tests: number of tests of each encoder.
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
    """The total time of the remaining trainings."""
    total, known = total_of(seconds, left)
    return f"{'about' if known else 'at least'} {spoken(total)} of training left in total"


def order(methods: Sequence[str]) -> dict[str, int]:
    """The number of occurrences of each method, in the order of first occurrence."""
    return {method: methods.count(method) for method in dict.fromkeys(methods)}

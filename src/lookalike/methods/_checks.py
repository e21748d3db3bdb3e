"""Checks, warnings and diagnoses that configurations of several methods share."""

from ..core import Config, DataFacts
from ..printing import counted
from ..schedules import Schedule
from ._fitting import IMAGES_PER_PROTOTYPE


def check_positive(cfg: Config, *names: str) -> None:
    """Raises ValueError if one of these fields is not above 0."""
    for name in names:
        if not vars(cfg)[name] > 0:
            raise ValueError(f"{name} is {vars(cfg)[name]}; it must be above 0.")


def check_momentum(**values: float | Schedule) -> None:
    """Raises ValueError if a momentum leaves [0, 1] at any time; names are those of the options."""
    for name, value in values.items():
        ends = (
            {f"{name}.start": value.start, f"{name}.end": value.end} if isinstance(value, Schedule) else {name: value}
        )
        for end, momentum in ends.items():
            if momentum is not None and not 0 <= momentum <= 1:
                raise ValueError(
                    f"{end} is {momentum}; it must lie between 0 (a copy of the student) and 1 (a teacher that never "
                    "changes)."
                )


def too_fast(momentum: float, option: str) -> str:
    """Diagnosis if the EMA momentum is too low for the teacher to differ from the student, else ""."""
    if momentum >= 0.5:  # values between this and the papers' are named as options that differ from the default
        return ""
    return f"With a momentum of {momentum:g} the teacher is nearly a copy of the student. Give {option} 0.9 to 0.999."


def check_crops(cfg: Config, *, joined: bool = False) -> None:
    """Raises ValueError unless two global views come first, and all others are at most as large.

    `joined`: the global views must also have the same size.
    """
    name = type(cfg).__qualname__.split(".")[0]
    sizes = [view.size for view in cfg.views for _ in range(view.count)]
    if len(sizes) < 2:
        raise ValueError(f"{name} compares 2 global views of each image or more, and views make {len(sizes)}.")
    if joined and sizes[0] != sizes[1]:
        raise ValueError(
            f"{name} passes the first two views, the global ones, through the network together, and they have "
            f"{sizes[0]} and {sizes[1]} pixels. Give them the same size."
        )
    if max(sizes[2:], default=0) > min(sizes[:2]):
        raise ValueError(
            f"{name} takes the first two views for the global ones ({sizes[0]} and {sizes[1]} pixels), and another has "
            f"{max(sizes[2:])}. Give local views a smaller size than global ones, and put them last."
        )


def check_not_negative(cfg: Config, *names: str) -> None:
    """Raises ValueError if one of these fields is below 0."""
    for name in names:
        if vars(cfg)[name] < 0:
            raise ValueError(f"{name} is {vars(cfg)[name]}; it must not be negative.")


def check_drop_path(drop_path: float) -> None:
    """Raises ValueError unless the probability of skipping a block is in [0, 1)."""
    if not 0 <= drop_path < 1:
        raise ValueError(f"drop_path is {drop_path}; it is a probability from 0 to below 1.")


def check_queue(queue: int, batch_size: int) -> None:
    """Raises ValueError unless a queue holds whole batches."""
    if queue % batch_size:
        near = max(1, round(queue / batch_size)) * batch_size
        raise ValueError(
            f"--queue {queue} is not a multiple of --batch-size {batch_size}: each batch replaces the oldest batch of "
            f"the queue. Give --queue {near}."
        )


def too_few_for(out_dim: int, data: DataFacts) -> list[str]:
    """Warning of methods that estimate correlations, if the batch size is below the embedding dimension."""
    if (batch_size := data.batch_size // data.accumulate) >= out_dim:
        return []
    return [
        f"the batch size {batch_size} is smaller than the embedding dimension {out_dim}: the correlation matrix has "
        f"rank at most {batch_size - 1}, and its off-diagonal entries are about {batch_size**-0.5:.2g} by chance. "
        "Raise --batch-size or lower --out-dim."
    ]


def check_prototypes(prototypes: int, images: int) -> None:
    """Raises ValueError if there are more prototypes than images."""
    if prototypes > images:
        raise ValueError(
            f"--prototypes {prototypes} for {counted(images, 'image')}: clusters would have less than one image each. "
            f"Give about --prototypes {max(1, images // IMAGES_PER_PROTOTYPE)}, or more images."
        )


def check_temperature(**schedules: Schedule) -> None:
    """Raises ValueError if a temperature is 0 or below at any time; names are those of the options."""
    for name, schedule in schedules.items():
        lowest = min(x for x in (schedule.start, schedule.end) if x is not None)
        if schedule.warmup_epochs:
            lowest = min(lowest, schedule.warmup_start)
        if lowest <= 0 or schedule.freeze_epochs:
            raise ValueError(f"{name} goes down to {min(lowest, 0.0):g}; it must be above 0 from the first step on.")


def unbalanced(teacher_temp: Schedule, student_temp: float, centering: bool) -> str:
    """Diagnosis if a teacher's targets are not centred, or not sharper than the student's predictions, else ""."""
    if not centering:
        return "Without centring one prototype dominates for all images. Leave --no-centering out."
    if teacher_temp.start < student_temp:
        return ""
    return (
        f"With --teacher-temp.start {teacher_temp.start:g} and --student-temp {student_temp:g} targets are not sharper "
        "than predictions, and become the same for all images. Give --teacher-temp.start "
        f"{min(0.04, 0.4 * student_temp):.2g}."
    )


def check_views(cfg: Config, expected: int) -> None:
    """Raises ValueError unless there are `expected` views of each image."""
    if (count := sum(view.count for view in cfg.views)) != expected:
        name = type(cfg).__qualname__.split(".")[0]
        raise ValueError(
            f"{name} compares {expected} views of each image, and views make {count}. Set the views' count."
        )

"""What configurations of several methods have in common to be refused, warned of, or named as a cause."""

from ..core import Config, DataFacts
from ..printing import counted
from ..schedules import Schedule
from ._fitting import IMAGES_PER_PROTOTYPE


def check_positive(cfg: Config, *names: str) -> None:
    """Raises ValueError where one of these fields is not above zero."""
    for name in names:
        if not vars(cfg)[name] > 0:
            raise ValueError(f"{name} is {vars(cfg)[name]}; it must be above 0.")


def check_momentum(**values: float | Schedule) -> None:
    """Raises ValueError where a momentum is no share at any time; names are those of the options."""
    for name, value in values.items():
        ends = (
            {f"{name}.start": value.start, f"{name}.end": value.end} if isinstance(value, Schedule) else {name: value}
        )
        for end, share in ends.items():
            if share is not None and not 0 <= share <= 1:
                raise ValueError(
                    f"{end} is {share}; it is a share from 0 (the student itself) to 1 (a teacher at rest)."
                )


def too_fast(momentum: float, option: str) -> str:
    """The cause to name where a teacher follows so fast that it is hardly another network; else nothing."""
    if momentum >= 0.5:  # whatever is below the papers' values is an option that differs from the method's own
        return ""
    return f"With a momentum of {momentum:g} the teacher runs after the student. Give {option} 0.9 to 0.999."


def check_crops(cfg: Config, *, joined: bool = False) -> None:
    """Raises ValueError where the recipes are not two global views, first, and then none or some that are no larger.

    `joined` says that the global views must have one size.
    """
    name = type(cfg).__qualname__.split(".")[0]
    sizes = [view.size for view in cfg.views for _ in range(view.count)]
    if len(sizes) < 2:
        raise ValueError(f"{name} compares 2 global views of each image or more, and views make {len(sizes)}.")
    if joined and sizes[0] != sizes[1]:
        raise ValueError(
            f"{name} passes the first two views, the global ones, through the network together, and they have "
            f"{sizes[0]} and {sizes[1]} pixels. Give them one size."
        )
    if max(sizes[2:], default=0) > min(sizes[:2]):
        raise ValueError(
            f"{name} takes the first two views for the global ones ({sizes[0]} and {sizes[1]} pixels), and another has "
            f"{max(sizes[2:])}. Give local views a smaller size than global ones, and put them last."
        )


def check_not_negative(cfg: Config, *names: str) -> None:
    """Raises ValueError where one of these fields is below zero."""
    for name in names:
        if vars(cfg)[name] < 0:
            raise ValueError(f"{name} is {vars(cfg)[name]}; it must not be negative.")


def check_drop_path(drop_path: float) -> None:
    """Raises ValueError where the probability to skip a block is none, or certainty."""
    if not 0 <= drop_path < 1:
        raise ValueError(f"drop_path is {drop_path}; it is a probability from 0 to below 1.")


def check_queue(queue: int, batch_size: int) -> None:
    """Raises ValueError where a queue does not hold whole batches."""
    if queue % batch_size:
        near = max(1, round(queue / batch_size)) * batch_size
        raise ValueError(
            f"--queue {queue} is no multiple of --batch-size {batch_size}: a batch takes the place of the oldest as a "
            f"whole. Give --queue {near}."
        )


def too_few_for(out_dim: int, data: DataFacts) -> list[str]:
    """The warning of methods that estimate correlations, where batches have fewer images than embeddings numbers."""
    if (batch_size := data.batch_size // data.accumulate) >= out_dim:
        return []
    return [
        f"batches of {batch_size} for embeddings of {counted(out_dim, 'number')}: their correlations are those "
        f"of {counted(batch_size, 'image')}, whose rank is {batch_size - 1} at most, and chance alone makes "
        f"them {batch_size**-0.5:.2g} or so. "
        "A larger --batch-size or a smaller --out-dim estimates them better."
    ]


def check_prototypes(prototypes: int, images: int) -> None:
    """Raises ValueError where there are more prototypes than images."""
    if prototypes > images:
        raise ValueError(
            f"--prototypes {prototypes} for {counted(images, 'image')}: groups of less than one image say "
            "nothing. Give "
            f"--prototypes {max(1, images // IMAGES_PER_PROTOTYPE)} or so, or more images."
        )


def check_temperature(**schedules: Schedule) -> None:
    """Raises ValueError where a temperature is not above zero at any time; names are those of the options."""
    for name, schedule in schedules.items():
        lowest = min(x for x in (schedule.start, schedule.end) if x is not None)
        if schedule.warmup_epochs:
            lowest = min(lowest, schedule.warmup_start)
        if lowest <= 0 or schedule.freeze_epochs:
            raise ValueError(f"{name} goes down to {min(lowest, 0.0):g}; it must be above 0 from the first step on.")


def unbalanced(teacher_temp: Schedule, student_temp: float, centering: bool) -> str:
    """The cause to name where a teacher's targets are not centred, or no sharper than what tells them; else nothing."""
    if not centering:
        return "Without centring one prototype takes all images. Leave --no-centering out."
    if teacher_temp.start < student_temp:
        return ""
    return (
        f"With --teacher-temp.start {teacher_temp.start:g} and --student-temp {student_temp:g} targets are no sharper "
        "than what tells them, and become the same for all images. Give --teacher-temp.start "
        f"{min(0.04, 0.4 * student_temp):.2g}."
    )


def check_views(cfg: Config, expected: int) -> None:
    """Raises ValueError where the recipes do not make `expected` views of each image."""
    if (count := sum(view.count for view in cfg.views)) != expected:
        name = type(cfg).__qualname__.split(".")[0]
        raise ValueError(
            f"{name} compares {expected} views of each image, and views make {count}. Set the views' count."
        )

"""The options of a comparison of methods: `Comparison`. Imports nothing heavy."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

from ...durations import seconds_of
from ...methods import METHODS
from ...names import nearest
from ...printing import counted, shown
from ...runs import Options, Origin, dotted, plain

UNASKED = frozenset(
    {
        "out",
        "training",
        "resume",
        "overwrite",
        "epochs",
        "time",
        "seed",
        "workers",
        "cache_dir",
        "max_broken",
        "save_every",
        "keep_checkpoints",
        "logger",
        "devices",
        "nodes",
        "strategy",
        "probe",
        "origins",
    }
)
"""Options that are not part of the question: they do not affect the results, are refused, or are contained in `budget`
and `seeds`."""


@dataclass(frozen=True, kw_only=True)
class Comparison(Options):
    """The methods to compare, their images, budget and evaluation."""

    data: str
    """Training images of all methods: a folder (scanned recursively) or a text file of paths."""
    methods: tuple[str, ...]
    """Names from `lookalike list methods`; also distill, with a teacher."""
    train: tuple[str, ...]
    """Labelled training folders for evaluation: one, or one for each of `test`, in the same order."""
    test: tuple[str, ...]
    """Labelled test folders, with the classes of their `train`."""
    epochs: int = Options.epochs
    """Passes over the images, the same for every training. Alternative to `--budget`."""
    budget: str | None = None
    """Time of each training, such as 90s, 10min or 1h30min. Each method gets the number of whole epochs that fit, at
    least one. Replaces `epochs`."""
    seeds: int = 3
    """Number of trainings of each method, with the seeds `seed`, `seed` + 1, ..."""
    protocols: tuple[str, ...] = ("knn", "linear", "semi")
    """Evaluation protocols of `lookalike evaluate`. Methods are ranked by the first one, which may not be
    label-free."""
    teacher: str | None = None
    """Teacher of distill: a run's folder, a weights file, timm/NAME, torchvision/NAME or torchhub/NAME."""
    teacher_backbone: str | None = None
    """Name of the teacher's architecture, for a weights file that does not contain it."""
    out: str = "runs/compare"
    """Folder of the comparison, with a run's folder for each training. The same command resumes a stopped comparison,
    more methods or seeds extend it; other settings are an error unless `--overwrite`."""
    training: str | None = None
    """Run only this training, named METHOD-seedN, and evaluate nothing: several may run at the same time. The command
    without it evaluates and ranks them all."""
    seed: int = Options.seed
    """The first seed."""
    resume: bool = Options.resume
    """Require a comparison in `out` to resume. Without it, one with the same settings is resumed if it exists."""
    origins: Mapping[str, Origin] = field(default_factory=dict)
    """Whether the user set `batch_size`: it is then not reduced for small datasets."""
    overwrite: bool = Options.overwrite
    """Replace the comparison in `out` and its trainings, if it is complete or has other settings. An unfinished one
    with the same settings is resumed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.methods:
            if name not in METHODS:
                raise ValueError(f"Unknown method {shown(name)}. {nearest(name, list(METHODS))}")
            if METHODS[name].verb not in ("pretrain", "distill"):
                raise ValueError(f"{name} learns no representation of its own to compare. Leave it out.")
        for option in ("methods", "test", "protocols"):
            values: tuple[str, ...] = vars(self)[option]
            if not values:
                raise ValueError(f"{option} is empty. Give at least one.")
            if repeated := sorted({value for value in values if values.count(value) > 1}):
                raise ValueError(f"{option} contains {repeated[0]} twice. Leave one of them out.")
        if self.protocols[0] == "label-free":
            raise ValueError(
                "protocols starts with label-free, which does not measure classification. Methods are ranked by the "
                "first protocol. Put another one before it, such as knn."
            )
        if len(self.train) not in (1, len(self.test)):
            raise ValueError(
                f"train has {counted(len(self.train), 'folder')} and test {len(self.test)}. Give one --train for all "
                "tests, or one for each, in the same order."
            )
        distilled = [name for name in self.methods if METHODS[name].verb == "distill"]
        if distilled and self.teacher is None:
            raise ValueError(f"{distilled[0]} needs a teacher. Give --teacher, or leave {distilled[0]} out.")
        if self.teacher is not None and not distilled:
            raise ValueError(f"teacher is {self.teacher}, but no method uses it. Add distill to the methods.")
        if self.teacher_backbone is not None and self.teacher is None:
            raise ValueError("teacher_backbone is set, but teacher is not. Give --teacher.")
        if self.seeds < 1:
            raise ValueError(f"seeds is {self.seeds}; it must be at least 1.")
        if self.devices * self.nodes != 1:
            raise ValueError(
                f"devices is {self.devices} and nodes is {self.nodes}, but a comparison runs on one device. Leave them "
                "out, and choose the GPU with CUDA_VISIBLE_DEVICES."
            )
        if self.probe is not None:
            raise ValueError("probe would use time of the budget. Leave it out: every encoder is evaluated on test.")
        if self.time is not None:
            raise ValueError("time is an option of single trainings. Give --budget, the time of each training.")
        if self.budget is not None:
            seconds_of(self.budget, "budget")
        if self.training is not None:
            self._check_training(self.training)

    def _check_training(self, training: str) -> None:
        if training not in self.training_names:
            raise ValueError(
                f"training is {shown(training)}, none of the comparison. {nearest(training, self.training_names)}"
            )
        if self.budget is not None:
            raise ValueError(
                "training runs a single one, but a budget needs one process that measures the speed of all. Give "
                "--epochs instead of --budget, or leave --training out."
            )
        if self.overwrite:
            raise ValueError("overwrite would replace the other trainings. Leave it out, or leave --training out.")

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """The labelled folders (train, test) of each test."""
        train = self.train if len(self.train) == len(self.test) else self.train * len(self.test)
        return tuple(zip(train, self.test))

    @property
    def budget_seconds(self) -> float | None:
        return None if self.budget is None else seconds_of(self.budget, "budget")

    @property
    def all_seeds(self) -> list[int]:
        return list(range(self.seed, self.seed + self.seeds))

    @property
    def training_names(self) -> list[str]:
        """The names of all trainings, which are those of their folders."""
        return [f"{method}-seed{seed}" for seed in self.all_seeds for method in self.methods]

    def question(self) -> dict[str, object]:
        """All settings that results depend on, for `compare.json`. Different settings are a different comparison."""
        own = {f.name: plain(vars(self)[f.name]) for f in dataclasses.fields(self) if f.name not in UNASKED}
        seconds = self.budget_seconds
        own["budget"] = {"epochs": self.epochs} if seconds is None else {"minutes": seconds / 60}
        own["seeds"] = self.all_seeds
        return own


def extends(old: dict[str, object], new: dict[str, object]) -> bool:
    """Whether a question has at least the methods and seeds of an older one, with all other settings equal.

    An added teacher is no difference: no earlier method used it.
    """
    lists = ("methods", "seeds")
    free = {*lists, *(["teacher", "teacher_backbone"] if old.get("teacher") is None else [])}
    rest = [{name: value for name, value in question.items() if name not in free} for question in (old, new)]
    return not changes(*rest) and all(_all_in(old.get(name), new.get(name)) for name in lists)


def _all_in(some: object, others: object) -> bool:
    return isinstance(some, list) and isinstance(others, list) and all(value in others for value in some)


def with_paths_of(old: dict[str, object], new: dict[str, object]) -> dict[str, object]:
    """A question with the paths of an older one, if the images and labels there are the same: they may have moved."""
    images = ["data"] if old.get("images") == new.get("images") else []
    labels = ["train", "test"] if old.get("labels") == new.get("labels") else []
    return new | {name: old[name] for name in (*images, *labels) if name in old}


def changes(old: dict[str, object], new: dict[str, object]) -> list[str]:
    """The differences between two questions, one line each."""
    a, b = dotted(old), dotted(new)
    names = dict.fromkeys([*a, *b])
    return [f"{name}: {a.get(name)} stored, {b.get(name)} requested" for name in names if a.get(name) != b.get(name)]

"""What a comparison of methods asks: `Comparison`, and its budget. Imports nothing heavy."""

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
"""Options that are no part of the question: they say where and how it is answered, are refused, or stand in `budget`
and `seeds`."""


@dataclass(frozen=True, kw_only=True)
class Comparison(Options):
    """Which methods are to be compared: on which images, at which cost, judged by what."""

    data: str
    """A folder of images (scanned recursively) or a text file of paths, which all methods learn from."""
    methods: tuple[str, ...]
    """Names of `lookalike list methods`, and distill where there is a teacher."""
    train: tuple[str, ...]
    """Labelled folders to judge with: one, or one for each of `test`, in their order."""
    test: tuple[str, ...]
    """Labelled folders whose images are classified, with the classes of their `train`."""
    epochs: int = Options.epochs
    """Passes over the images, the same for every training: the alternative to `--budget`."""
    budget: str | None = None
    """Time that each training may take, such as 90s, 10min or 1h30min: each method gets the whole epochs that fit, one
    at least. Without it all get `epochs`, which a budget leaves out of account."""
    seeds: int = 3
    """Trainings of each method, with the seeds `seed`, `seed` + 1, ..."""
    protocols: tuple[str, ...] = ("knn", "linear", "semi")
    """How encoders are judged: protocols of `lookalike evaluate`. The first one decides the order;
    it may not be label-free."""
    teacher: str | None = None
    """For distill: what teaches, a run's folder, a weights file, timm/NAME, torchvision/NAME or torchhub/NAME."""
    teacher_backbone: str | None = None
    """Name of the teacher's architecture, where it is a weights file that does not say it."""
    out: str = "runs/compare"
    """Folder of the comparison, with a run's folder for each training. The same question goes on where it was stopped,
    more methods or seeds extend it; any other is an error unless `--overwrite`."""
    seed: int = Options.seed
    """The first seed."""
    resume: bool = Options.resume
    """Go on with the comparison in `out`, which must be there; without it, too, the same question goes on."""
    origins: Mapping[str, Origin] = field(default_factory=dict)
    """Says that `batch_size` is the user's, where he stated it: it is not fitted to few images then."""
    overwrite: bool = Options.overwrite
    """Replace the comparison in `out`, and its trainings, where it is complete or asked something else. Once begun, the
    same one goes on."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.methods:
            if name not in METHODS:
                raise ValueError(f"No method is called {shown(name)}. {nearest(name, list(METHODS))}")
            if METHODS[name].verb not in ("pretrain", "distill"):
                raise ValueError(f"{name} learns no representation of its own to compare. Leave it out.")
        for option in ("methods", "test", "protocols"):
            values: tuple[str, ...] = vars(self)[option]
            if not values:
                raise ValueError(f"{option} names nothing. Give at least one.")
            if twice := sorted({value for value in values if values.count(value) > 1}):
                raise ValueError(f"{option} names {twice[0]} twice. Leave one of them out.")
        if self.protocols[0] == "label-free":
            raise ValueError(
                "protocols begins with label-free, which does not tell how well classes are told apart, and the first "
                "one decides the order. Put another one before it, such as knn."
            )
        if len(self.train) not in (1, len(self.test)):
            raise ValueError(
                f"train names {counted(len(self.train), 'folder')} and test {len(self.test)}. Give one --train "
                "for all tests, or "
                "one for each, in their order."
            )
        taught = [name for name in self.methods if METHODS[name].verb == "distill"]
        if taught and self.teacher is None:
            raise ValueError(f"{taught[0]} learns from a teacher. Give --teacher, or leave {taught[0]} out.")
        if self.teacher is not None and not taught:
            raise ValueError(f"teacher is {self.teacher}, and no method learns from it. Add distill to the methods.")
        if self.teacher_backbone is not None and self.teacher is None:
            raise ValueError("teacher_backbone is the architecture of a teacher, and there is none. Give --teacher.")
        if self.seeds < 1:
            raise ValueError(f"seeds is {self.seeds}; it must be at least 1.")
        if self.devices * self.nodes != 1:
            raise ValueError(
                f"devices is {self.devices} and nodes {self.nodes}: a comparison trains on one device, one training "
                "after the other. Leave them out, and choose the GPU with CUDA_VISIBLE_DEVICES."
            )
        if self.probe is not None:
            raise ValueError("probe would take time from the budget. Leave it out: test judges every encoder.")
        if self.time is not None:
            raise ValueError("time is that of a single training. Give --budget, the time of each.")
        if self.budget is not None:
            seconds_of(self.budget, "budget")

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """The labelled folders (train, test) of each judgement."""
        train = self.train if len(self.train) == len(self.test) else self.train * len(self.test)
        return tuple(zip(train, self.test))

    @property
    def budget_seconds(self) -> float | None:
        return None if self.budget is None else seconds_of(self.budget, "budget")

    @property
    def all_seeds(self) -> list[int]:
        return list(range(self.seed, self.seed + self.seeds))

    def question(self) -> dict[str, object]:
        """All that a finished training depends on, for `compare.json`: another question is another comparison."""
        own = {f.name: plain(vars(self)[f.name]) for f in dataclasses.fields(self) if f.name not in UNASKED}
        seconds = self.budget_seconds
        own["budget"] = {"epochs": self.epochs} if seconds is None else {"minutes": seconds / 60}
        own["seeds"] = self.all_seeds
        return own


def extends(old: dict[str, object], new: dict[str, object]) -> bool:
    """Whether a question asks all that an older one asks, of the same methods and seeds or of more, all else equal.

    A teacher where there was none is no difference: no method learnt from it.
    """
    lists = ("methods", "seeds")
    free = {*lists, *(["teacher", "teacher_backbone"] if old.get("teacher") is None else [])}
    rest = [{name: value for name, value in question.items() if name not in free} for question in (old, new)]
    return not changes(*rest) and all(_all_in(old.get(name), new.get(name)) for name in lists)


def _all_in(some: object, others: object) -> bool:
    return isinstance(some, list) and isinstance(others, list) and all(value in others for value in some)


def with_places_of(old: dict[str, object], new: dict[str, object]) -> dict[str, object]:
    """A question with the places of an older one, where what lies at its own is the same: images may have moved."""
    images = ["data"] if old.get("images") == new.get("images") else []
    labels = ["train", "test"] if old.get("labels") == new.get("labels") else []
    return new | {name: old[name] for name in (*images, *labels) if name in old}


def changes(old: dict[str, object], new: dict[str, object]) -> list[str]:
    """What differs between two questions, a line each."""
    a, b = dotted(old), dotted(new)
    names = dict.fromkeys([*a, *b])
    return [f"{name}: {a.get(name)} there, {b.get(name)} now" for name in names if a.get(name) != b.get(name)]

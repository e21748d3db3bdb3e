"""The protocols that evaluate features: from features and labels to entries of `evaluation.json`."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
import torch
from torch import Tensor

from .features import Features
from .few_labels import DRAWS, INVERSE_PENALTY, few_labels
from .knn import knn
from .linear import DINOV2, Linear, linear
from .logistic import HELD_OUT, ITERATIONS, logistic
from .metrics import Metrics, classification_metrics, interval, interval_of_draws, pooled
from .protocol_table import FROZEN, SHARES
from .records import Entry
from .retrieval import retrieve

PROGRESS = {"knn": ("test images", "images"), "linear": ("steps", "steps"), "logistic": ("regressions", "fits"),
            "semi": ("regressions", "fits"), "retrieval": ("test images", "images")}  # fmt: skip
"""The noun of each protocol's progress, and its unit in a speed."""


@dataclass(frozen=True)
class About:
    """Metadata that is recorded with an evaluation."""

    made: Mapping[str, object] = field(default_factory=dict)
    """Settings of the feature extraction; joined with the protocol's constants in `Entry.settings`."""
    encoder_sha256: str = ""
    data_fingerprint: str = ""
    train: str = ""
    test: str = ""
    split: Mapping[str, object] = field(default_factory=dict)
    """How both were drawn from one data set; empty if they are two."""


@dataclass(frozen=True)
class Few:
    """Settings of the protocol `semi`: which labels are used."""

    shares: tuple[float, ...] = SHARES
    """Fractions of each class's labels, in (0, 1]."""
    draws: int = DRAWS
    rows: Tensor | None = None
    """Indices (L,) of the training images that keep their labels, from a list, instead of fractions."""
    sha256: str = ""
    """SHA-256 of that list."""


def run_protocol(
    protocol: str,
    train: Features,
    test: Features,
    num_classes: int | None,
    seed: int,
    device: torch.device | str | None,
    *,
    about: About | None = None,
    seeds: int = 1,
    few: Few | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Entry]:
    """Evaluates features with a protocol that needs nothing else.

    Args:
        protocol: one of `FROZEN`.
        train: labelled features.
        test: labelled features.
        num_classes: without it the largest label plus 1.
        seed: of all random draws.
        device: to compute on; without it that of the features, the CPU.
        about: metadata for the record.
        seeds: number of trainings of `linear`, with seeds from `seed` on.
        few: settings of `semi`.
        progress: called with the number of `PROGRESS` items done and the total.

    Returns:
        One entry; for `semi` one per fraction of the labels.

    Raises:
        ValueError: an unknown protocol, or features without labels or that do not match.
    """
    if protocol not in FROZEN:
        raise ValueError(f"There is no protocol {protocol!r}. Choose from {', '.join(FROZEN)}.")
    if train.labels is None or test.labels is None:
        which = "training" if train.labels is None else "test"
        raise ValueError(f"The {which} images have no labels. Put each class into a folder of its own.")
    if seeds < 1:
        raise ValueError(f"seeds is {seeds}; it must be at least 1.")
    about = about or About()
    task = _Task(train, test, num_classes, seed, device, about or About(), seeds, few or Few(), progress)
    return _PROTOCOLS[protocol](task)


@dataclass(frozen=True)
class _Task:
    """The arguments of `run_protocol`, checked."""

    train: Features
    test: Features
    num_classes: int | None
    seed: int
    device: torch.device | str | None
    about: About
    seeds: int
    few: Few
    progress: Callable[[int, int], None] | None
    began: float = field(default_factory=time.perf_counter)

    @property
    def data(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Features and labels of both sides."""
        assert self.train.labels is not None
        assert self.test.labels is not None
        return self.train.features, self.train.labels, self.test.features, self.test.labels

    @property
    def labels(self) -> Tensor:
        """Labels of the test images."""
        return self.data[3]

    def entry(
        self, protocol: str, found: Sequence[Metrics], constants: Mapping[str, object], history: list[dict[str, float]]
    ) -> list[Entry]:
        """The entry for classifiers that were trained on all training images."""
        return [
            entry(
                protocol, found, self.labels, train_images=len(self.train.features),
                classes=_classes(self.test, self.num_classes, found), settings=constants, history=history,
                seed=self.seed, seconds=time.perf_counter() - self.began, about=self.about,
            )
        ]  # fmt: skip


def _knn(task: _Task) -> list[Entry]:
    near = knn(*task.data, num_classes=task.num_classes, device=task.device, progress=task.progress)
    found = dataclasses.replace(classification_metrics(_probabilities(near.votes), task.labels), top5=near.top5)
    constants = {"k": near.k, "temperature": near.temperature, "also": [k for k in near.accuracies if k != near.k]}
    history = [{"k": k, "top1": top1, "top5": top5} for k, (top1, top5) in near.accuracies.items()]
    return task.entry("knn", [found], constants, history)


def _linear(task: _Task) -> list[Entry]:
    found: list[Metrics] = []
    history: list[dict[str, float]] = []
    for n in range(task.seeds):
        probe = linear(
            *task.data, num_classes=task.num_classes, seed=task.seed + n, settings=DINOV2, device=task.device,
            progress=_part(task.progress, n, task.seeds),
        )  # fmt: skip
        p = torch.addmm(probe.bias, task.test.features.to(probe.weight), probe.weight.T).softmax(1)
        metrics = classification_metrics(p, task.labels)
        # the probe's own accuracies, which may differ by rounding on a GPU
        found.append(dataclasses.replace(metrics, top1=probe.top1, top5=probe.top5))
        if n == 0:
            history = _history(probe)
    constants = dataclasses.asdict(DINOV2) | ({"seeds": task.seeds} if task.seeds > 1 else {})
    return task.entry("linear", found, constants, history)


def _history(probe: Linear) -> list[dict[str, float]]:
    """The choice of a probe's learning rate, then its final training."""
    choice = [{"lr": lr, "held_out": top1, "chosen": lr == probe.lr} for lr, top1 in probe.held_out.items()]
    return choice + [
        {"step": step, "loss": loss, "top1": top1, "top5": top5}
        for (step, loss), (_, top1, top5) in zip(probe.history, probe.curve)
    ]


def _logistic(task: _Task) -> list[Entry]:
    fit = logistic(*task.data, num_classes=task.num_classes, seed=task.seed, progress=task.progress)
    constants = {"penalties": [*fit.held_out], "held_out": HELD_OUT, "iterations": ITERATIONS}
    history = [{"c": c, "held_out": top1, "chosen": c == fit.inverse_penalty} for c, top1 in fit.held_out.items()]
    return task.entry("logistic", [classification_metrics(fit.shares, task.labels)], constants, history)


def _part(progress: Callable[[int, int], None] | None, n: int, parts: int) -> Callable[[int, int], None] | None:
    """Progress over all parts, from the progress of the n-th of equal parts."""
    return None if progress is None else lambda done, total: progress(n * total + done, parts * total)


def _semi(task: _Task) -> list[Entry]:
    """One entry per fraction of the labels."""
    few, entries = task.few, []
    shares = few.shares if few.rows is None else (None,)
    for n, share in enumerate(shares):
        began = time.perf_counter()
        result = few_labels(
            *task.data, share=share, rows=few.rows, num_classes=task.num_classes, draws=few.draws, seed=task.seed,
            progress=_part(task.progress, n, len(shares)),
        )  # fmt: skip
        chosen: dict[str, object] = {"share": share, "draws": few.draws} if share else {"list_sha256": few.sha256}
        entries.append(
            entry(
                "semi", result.measured, task.labels, train_images=result.images,
                classes=_classes(task.test, task.num_classes, result.measured),
                settings={"how": "logistic", **chosen, "inverse_penalty": INVERSE_PENALTY}, history=[], seed=task.seed,
                seconds=time.perf_counter() - began, about=task.about,
            )
        )  # fmt: skip
    return entries


def _retrieval(task: _Task) -> list[Entry]:
    result = retrieve(*task.data, num_classes=task.num_classes, device=task.device)
    queries, names, about = len(task.test.features) - result.alone, task.test.classes or (), task.about
    largest = max(int(labels.max()) for labels in (task.data[1], task.labels))
    return [
        Entry(
            protocol="retrieval",
            top1=result.recall[1],
            top5=result.recall[5],
            interval=interval(result.recall[1], queries),
            settings={**about.made, "of": "training images, by cosine"},
            train_images=len(task.train.features),
            test_images=queries,
            classes=len(names) or task.num_classes or largest + 1,
            encoder_sha256=about.encoder_sha256,
            data_fingerprint=about.data_fingerprint,
            seed=task.seed,
            seconds=round(time.perf_counter() - task.began, 3),
            date=now(),
            history=[{"k": k, "recall": recall} for k, recall in result.recall.items()],
            train=about.train,
            test=about.test,
            class_names=list(names),
            measures={"map": result.mean_average_precision},
            split=dict(about.split),
        )
    ]


_PROTOCOLS: Mapping[str, Callable[[_Task], list[Entry]]] = {
    "knn": _knn, "linear": _linear, "logistic": _logistic, "semi": _semi, "retrieval": _retrieval,
}  # fmt: skip


def entry(
    protocol: str,
    found: Sequence[Metrics],
    labels: Tensor,
    *,
    train_images: int,
    classes: Sequence[str],
    settings: Mapping[str, object],
    history: list[dict[str, float]],
    seed: int,
    seconds: float,
    about: About,
) -> Entry:
    """The entry for one or more classifiers that were evaluated on the same test images, with labels (M,)."""
    both, each = pooled(found), [m.top1 for m in found]
    several = len(each) > 1
    return Entry(
        protocol=protocol,
        top1=both.top1,
        top5=both.top5,
        interval=interval_of_draws(each, len(labels), seed),
        settings={**about.made, **settings},
        train_images=train_images,
        test_images=len(labels),
        classes=len(classes),
        encoder_sha256=about.encoder_sha256,
        data_fingerprint=about.data_fingerprint,
        seed=seed,
        seconds=round(seconds, 3),
        date=now(),
        history=history,
        train=about.train,
        test=about.test,
        class_names=list(classes),
        per_class=both.per_class,
        confusion=both.confusion,
        calibration={"ece": both.ece, "bins": both.bins},
        accuracies=each if several else [],
        deviation=float(np.std(each, ddof=1)) if several else None,
        split=dict(about.split),
    )


def now() -> str:
    """The current time, ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _classes(test: Features, num_classes: int | None, found: Sequence[Metrics]) -> list[str]:
    """Names of the classes; their indices if they have none."""
    count = num_classes or len(found[0].per_class)
    return list(test.classes or ()) or [str(number) for number in range(count)]


def _probabilities(votes: Tensor) -> Tensor:
    """Votes (M, C) -> probabilities (M, C), rows sum to 1."""
    return votes / votes.sum(1, keepdim=True)

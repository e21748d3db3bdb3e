"""The protocols that judge features: from features and labels to entries of `evaluation.json`."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
import torch
from torch import Tensor

from .features import Features
from .few_labels import DRAWS, INVERSE_PENALTY, SHARES, few_labels
from .knn import knn
from .linear import DINOV2, linear
from .logistic import HELD_OUT, ITERATIONS, logistic
from .metrics import Measures, interval, interval_of_draws, measures, pooled
from .records import Entry
from .retrieval import retrieve

FROZEN = {
    "knn": "weighted votes of the 20 nearest training images",
    "linear": "a linear classifier by SGD, its learning rate chosen on a held-out tenth (DINOv2's)",
    "logistic": "logistic regression by L-BFGS, its penalty chosen on a held-out tenth",
    "semi": "logistic regression with 1 % and 10 % of the labels, drawn ten times",
    "retrieval": "recall@k and mAP of test images that look for training images of their class",
}
"""What `judge` knows: protocols that need nothing but features."""


PROGRESS = {"knn": ("test images", "images"), "linear": ("steps", "steps"), "logistic": ("regressions", "fits"),
            "semi": ("regressions", "fits"), "retrieval": ("test images", "images")}  # fmt: skip
"""What each protocol counts while it is at it, and its unit in a rate."""


@dataclass(frozen=True)
class About:
    """What is recorded beside a judgement."""

    made: Mapping[str, object] = field(default_factory=dict)
    """How the features were made: it joins the protocol's constants in `Entry.settings`."""
    encoder_sha256: str = ""
    data_fingerprint: str = ""
    train: str = ""
    test: str = ""


@dataclass(frozen=True)
class Few:
    """Which labels the protocol `semi` leaves."""

    shares: tuple[float, ...] = SHARES
    """Of each class's labels."""
    draws: int = DRAWS
    rows: Tensor | None = None
    """Places (L,) of the training images that keep their labels, as a list named them, in the place of shares."""
    sha256: str = ""
    """Of that list."""


def judge(
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
    """Judges features by one of `FROZEN`.

    Args:
        protocol: one of `FROZEN`.
        train: labelled.
        test: labelled.
        num_classes: without it one more than the largest label.
        seed: decides all that is random.
        device: where to compute; without it the CPU, where features lie.
        about: for the record.
        seeds: how often `linear` is trained, from `seed` on.
        few: for `semi`.
        progress: called with what is done, and how much there is in all: of `PROGRESS`.

    Returns:
        One entry; of `semi` one for each share.

    Raises:
        ValueError: an unknown protocol, or features that have no labels or do not fit together.
    """
    if protocol not in FROZEN:
        raise ValueError(f"There is no protocol {protocol!r}. Choose from {', '.join(FROZEN)}.")
    if train.labels is None or test.labels is None:
        which = "training" if train.labels is None else "test"
        raise ValueError(f"The {which} images have no labels. Put each class into a folder of its own.")
    if seeds < 1:
        raise ValueError(f"seeds is {seeds}; it must be at least 1.")
    about = about or About()
    data = train.features, train.labels, test.features, test.labels
    began = time.perf_counter()
    if protocol == "knn":
        near = knn(*data, num_classes=num_classes, device=device, progress=progress)
        found = [dataclasses.replace(measures(_shares(near.votes), test.labels), top5=near.top5)]
        constants = {
            "k": near.k,
            "temperature": near.temperature,
            "also": [k for k in near.accuracies if k != near.k],
        }
        history = [{"k": k, "top1": top1, "top5": top5} for k, (top1, top5) in near.accuracies.items()]
    elif protocol == "linear":
        found, history = [], []
        for each in range(seed, seed + seeds):
            probe = linear(
                *data, num_classes=num_classes, seed=each, settings=DINOV2, device=device,
                progress=_part(progress, each - seed, seeds),
            )  # fmt: skip
            shares = torch.addmm(probe.bias, test.features.to(probe.weight), probe.weight.T).softmax(1)
            # the probe's own figures: on a GPU they may differ from these by rounding
            found.append(dataclasses.replace(measures(shares, test.labels), top1=probe.top1, top5=probe.top5))
            if each == seed:
                history = [
                    {"lr": lr, "held_out": top1, "chosen": lr == probe.lr} for lr, top1 in probe.held_out.items()
                ]
                history += [
                    {"step": step, "loss": loss, "top1": top1, "top5": top5}
                    for (step, loss), (_, top1, top5) in zip(probe.history, probe.curve)
                ]
        constants = dataclasses.asdict(DINOV2) | ({"seeds": seeds} if seeds > 1 else {})
    elif protocol == "logistic":
        fit = logistic(*data, num_classes=num_classes, seed=seed, progress=progress)
        found = [measures(fit.shares, test.labels)]
        constants = {"penalties": [*fit.held_out], "held_out": HELD_OUT, "iterations": ITERATIONS}
        history = [{"c": c, "held_out": top1, "chosen": c == fit.inverse_penalty} for c, top1 in fit.held_out.items()]
    elif protocol == "semi":
        return _semi(train, test, num_classes, seed, about, few or Few(), progress)
    else:
        return [_retrieval(train, test, num_classes, seed, device, about)]
    return [
        entry(
            protocol, found, test.labels, train_images=len(train.features), classes=_classes(test, num_classes, found),
            settings=constants, history=history, seed=seed, seconds=time.perf_counter() - began, about=about,
        )
    ]  # fmt: skip


def _part(progress: Callable[[int, int], None] | None, n: int, parts: int) -> Callable[[int, int], None] | None:
    """Counts what is done of the n-th of some equal parts as of all of them."""
    return None if progress is None else lambda done, total: progress(n * total + done, parts * total)


def _semi(
    train: Features, test: Features, num_classes: int | None, seed: int, about: About, few: Few,
    progress: Callable[[int, int], None] | None = None,
) -> list[Entry]:  # fmt: skip
    assert train.labels is not None
    assert test.labels is not None
    entries = []
    shares = few.shares if few.rows is None else (None,)
    for n, share in enumerate(shares):
        began = time.perf_counter()
        made = few_labels(
            train.features, train.labels, test.features, test.labels, share=share, rows=few.rows,
            num_classes=num_classes, draws=few.draws, seed=seed, progress=_part(progress, n, len(shares)),
        )  # fmt: skip
        chosen: dict[str, object] = {"share": share, "draws": few.draws} if share else {"list_sha256": few.sha256}
        entries.append(
            entry(
                "semi", made.measured, test.labels, train_images=made.images,
                classes=_classes(test, num_classes, made.measured),
                settings={"how": "logistic", **chosen, "inverse_penalty": INVERSE_PENALTY}, history=[], seed=seed,
                seconds=time.perf_counter() - began, about=about,
            )
        )  # fmt: skip
    return entries


def _retrieval(
    train: Features, test: Features, num_classes: int | None, seed: int, device: torch.device | str | None, about: About
) -> Entry:
    assert train.labels is not None
    assert test.labels is not None
    began = time.perf_counter()
    made = retrieve(
        train.features, train.labels, test.features, test.labels, num_classes=num_classes, device=device
    )  # fmt: skip
    queries = len(test.features) - made.alone
    return Entry(
        protocol="retrieval",
        top1=made.recall[1],
        top5=made.recall[5],
        interval=interval(made.recall[1], queries, seed),
        settings={**about.made, "of": "training images, by cosine"},
        train_images=len(train.features),
        test_images=queries,
        classes=len(test.classes or ()) or num_classes or int(max(train.labels.max(), test.labels.max())) + 1,
        encoder_sha256=about.encoder_sha256,
        data_fingerprint=about.data_fingerprint,
        seed=seed,
        seconds=round(time.perf_counter() - began, 3),
        date=now(),
        history=[{"k": k, "recall": recall} for k, recall in made.recall.items()],
        train=about.train,
        test=about.test,
        class_names=list(test.classes or ()),
        measures={"map": made.mean_average_precision},
    )


def entry(
    protocol: str,
    found: Sequence[Measures],
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
    """The entry of one or several classifiers that were measured on the same test images, with labels (M,)."""
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
    )


def now() -> str:
    """The time, ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _classes(test: Features, num_classes: int | None, found: Sequence[Measures]) -> list[str]:
    """Names of the classes; their numbers where they have none."""
    count = num_classes or len(found[0].per_class)
    return list(test.classes or ()) or [str(number) for number in range(count)]


def _shares(votes: Tensor) -> Tensor:
    """Votes (M, C) as shares of each row's sum."""
    return votes / votes.sum(1, keepdim=True)

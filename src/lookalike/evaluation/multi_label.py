"""The protocols for images that may have several classes: from features and labels to entries of `evaluation.json`.

The score of a class is its share of the votes (`knn`) or a sigmoid (`linear`). Mean average precision and micro F1 at
0.5 are reported, with bootstrap intervals over the test images.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from .average_precision import THRESHOLD, bootstrap, resamples_of, set_metrics
from .features import Features
from .knn import knn_sets
from .linear import DINOV2, linear_sets
from .protocols import About, now
from .records import Entry

K, TEMPERATURE, ALSO = 20, 0.07, (10, 100, 200)
"""The constants of `knn`."""


def run_multi_label(
    protocol: str,
    train: Features,
    test: Features,
    seed: int = 0,
    device: torch.device | str | None = None,
    *,
    about: About | None = None,
    seeds: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> list[Entry]:
    """Evaluates features of images that may have several classes; the arguments are those of `run_protocol`.

    Args:
        protocol: knn or linear.
        train: features with `label_sets`.
        test: features with `label_sets` of the same classes.

    Returns:
        One entry; `top1` and `measures["map"]` are the mean average precision, `measures["f1"]` is micro F1.

    Raises:
        ValueError: another protocol, or features that cannot be evaluated.
    """
    began = time.perf_counter()
    if train.label_sets is None or test.label_sets is None:
        raise ValueError("The features have no label_sets. Open their images with labelled=True, multi_label=True.")
    if protocol == "knn":
        scores, constants, history = _knn(train, train.label_sets, test, test.label_sets, device, progress)
    elif protocol == "linear":
        scores, constants, history = _linear(
            train, train.label_sets, test, test.label_sets, seed, seeds, device, progress
        )
    else:
        raise ValueError(f"{protocol} needs one class per image. Choose knn or linear.")
    return [
        _entry(
            protocol, scores, test, test.label_sets, train_images=len(train.features), constants=constants,
            history=history, seed=seed, about=about or About(), began=began,
        )
    ]  # fmt: skip


Scored = tuple[list[Tensor], Mapping[str, object], list[dict[str, float]]]
"""Scores of each training, the protocol's constants and its history."""


def _knn(
    train: Features, sets: Tensor, test: Features, test_sets: Tensor, device: torch.device | str | None,
    progress: Callable[[int, int], None] | None,
) -> Scored:  # fmt: skip
    found = knn_sets(
        train.features, sets, test.features, K, TEMPERATURE, device=device, also=ALSO, progress=progress
    )  # fmt: skip
    history = []
    for k, scores in found.items():
        metrics = set_metrics(scores, test_sets)
        history.append({"k": float(k), "map": metrics.map, "f1": metrics.f1})
    return [found[K].double()], {"k": K, "temperature": TEMPERATURE, "also": list(ALSO)}, history


def _linear(
    train: Features, sets: Tensor, test: Features, test_sets: Tensor, seed: int, seeds: int,
    device: torch.device | str | None, progress: Callable[[int, int], None] | None,
) -> Scored:  # fmt: skip
    scores: list[Tensor] = []
    history: list[dict[str, float]] = []
    for n in range(seeds):

        def part(done: int, total: int, n: int = n) -> None:
            if progress is not None:
                progress(n * total + done, seeds * total)

        probe = linear_sets(
            train.features, sets, test.features, test_sets, seed=seed + n, settings=DINOV2, device=device,
            progress=part,
        )  # fmt: skip
        scores.append(probe.scores)
        if n == 0:
            history = [{"lr": lr, "held_out": ap, "chosen": lr == probe.lr} for lr, ap in probe.held_out.items()]
            history += [
                {"step": step, "loss": loss, "map": ap, "f1": f1}
                for (step, loss), (_, ap, f1) in zip(probe.history, probe.curve)
            ]
    constants = dataclasses.asdict(DINOV2) | ({"seeds": seeds} if seeds > 1 else {})
    return scores, constants, history


def _entry(
    protocol: str, scores: Sequence[Tensor], test: Features, sets: Tensor, *, train_images: int,
    constants: Mapping[str, object], history: list[dict[str, float]], seed: int, about: About, began: float,
) -> Entry:  # fmt: skip
    found = [set_metrics(each, sets) for each in scores]
    intervals = bootstrap(scores, sets, seed)
    mean, several = float(np.mean([each.map for each in found])), len(found) > 1
    per_class = [
        None if values[0] is None else float(np.mean([v for v in values if v is not None]))
        for values in zip(*(each.per_class for each in found))
    ]
    names = list(test.classes or map(str, range(sets.shape[1])))
    resamples = resamples_of(len(sets), len(names), len(scores))
    return Entry(
        protocol=protocol,
        top1=mean,
        top5=mean,
        interval=intervals["map"],
        settings={
            **about.made, **constants, "multi_label": True, "threshold": THRESHOLD, "resamples": resamples
        },
        train_images=train_images,
        test_images=len(sets),
        classes=len(names),
        encoder_sha256=about.encoder_sha256,
        data_fingerprint=about.data_fingerprint,
        seed=seed,
        seconds=round(time.perf_counter() - began, 3),
        date=now(),
        history=history,
        train=about.train,
        test=about.test,
        class_names=names,
        per_class=per_class,
        accuracies=[each.map for each in found] if several else [],
        deviation=float(np.std([each.map for each in found], ddof=1)) if several else None,
        measures={"map": mean, "f1": float(np.mean([each.f1 for each in found]))},
        intervals=intervals,
        split=dict(about.split),
    )  # fmt: skip

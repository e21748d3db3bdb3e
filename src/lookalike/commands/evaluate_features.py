"""Evaluation of saved embeddings, which may come from any encoder."""

import dataclasses
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..evaluation.feature_files import load_features
from ..evaluation.features import Features, check_labels
from ..evaluation.label_checks import label_warning, missing_classes
from ..evaluation.linear import hold_out
from ..evaluation.protocol_table import FROZEN, SHARES
from ..evaluation.protocols import About
from ..evaluation.records import Entry
from ..files import file_sha256
from ..printing import composed, counted, shown, silent
from .evaluation_request import Request, Results


def evaluate_features(
    train: str | os.PathLike[str],
    test: str | os.PathLike[str] | None = None,
    *,
    protocols: Sequence[str] = ("knn", "linear"),
    seed: int = 0,
    seeds: int = 1,
    shares: Sequence[float] = SHARES,
    labels: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    say: Callable[[str], None] = silent,
) -> list[Entry]:
    """Evaluates saved embeddings with labels, from files in the format of `save_features`.

    Without `test`, a class-balanced, seeded fifth of `train` is held out for testing. The other arguments are those of
    `evaluate`.
    """
    request = Request(protocols, seed, seeds, tuple(map(float, shares)), labels)
    request.check(FROZEN)
    first, second = _pair(train, test, seed, say)
    digests = [file_sha256(Path(file)) for file in (train, test) if file is not None]
    data = hashlib.sha256(" ".join(digests).encode()).hexdigest()
    about = About({"features": "given"}, "", data, os.fspath(train), os.fspath(test or train))
    classes = len(first.classes) if first.classes else None
    results = Results(None if out is None else Path(out), say)
    results.collect(protocols, lambda protocol: request.run(protocol, first, second, classes, None, about, say))
    return results.checked()


def _pair(
    train: str | os.PathLike[str], test: str | os.PathLike[str] | None, seed: int, say: Callable[[str], None]
) -> tuple[Features, Features]:
    """Training and test features, with labels that index one list of classes; reports suspicious labels."""
    first, second = _labelled(train), None if test is None else _labelled(test)
    if second is None:
        first, second = _split(first, seed)
        say(f"{train}: a fifth of each class, {counted(len(second.features), 'image')}, is held out for testing")
    first, second = _with_one_class_list(first, second, test or train)
    assert first.labels is not None
    assert second.labels is not None
    if int(first.labels.min()) == int(first.labels.max()):
        raise ValueError(f"All images of {train} are of one class; at least 2 classes are needed.")
    for line in missing_classes(first.classes or (), first.labels, second.labels) if first.classes else ():
        say(f"WARNING: {line}")
    if line := label_warning(first, second):
        say(f"WARNING: {line}")
    return first, second


def _labelled(file: str | os.PathLike[str]) -> Features:
    found = load_features(file)
    if found.labels is None:
        raise ValueError(f"{file} has no labels. Embed a folder with one sub-folder per class.")
    if found.classes is None:
        check_labels(int(found.labels.max()), len(found.labels))
    return found


def _split(found: Features, seed: int) -> tuple[Features, Features]:
    """Splits the images of each class into four fifths and one fifth."""
    assert found.labels is not None
    test = hold_out(found.labels, 0.2, seed)

    def part(rows: Tensor) -> Features:
        assert found.labels is not None
        indices = rows.nonzero()[:, 0]
        return dataclasses.replace(
            found, features=found.features[indices], labels=found.labels[indices],
            names=[found.names[i] for i in indices.tolist()], index=found.index[indices],
        )  # fmt: skip

    return part(~test), part(test)


def _with_one_class_list(train: Features, test: Features, file: str | os.PathLike[str]) -> tuple[Features, Features]:
    """Features whose labels index one list of class names; without names if one of the files has none."""
    if train.classes is None or test.classes is None:
        return dataclasses.replace(train, classes=None), dataclasses.replace(test, classes=None)
    if train.classes == test.classes:
        return train, test
    assert test.labels is not None
    known, own = ([*map(composed, names)] for names in (train.classes, test.classes))
    if unknown := sorted({own[i] for i in test.labels.tolist()} - set(known)):
        raise ValueError(f"{file} has the class {shown(unknown[0])}, which the training features do not have.")
    index = torch.tensor([known.index(name) if name in known else -1 for name in own])
    return train, dataclasses.replace(test, labels=index[test.labels], classes=train.classes)

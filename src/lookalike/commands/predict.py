"""Predictions: the classes of images that nobody has labelled, and their file. Importing it brings nothing heavy."""

import csv
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..files import atomic
from ..places import PREDICTED, check_suffix
from ..printing import cell, counted, first_of, printable
from ..progress import counting

if TYPE_CHECKING:
    from torch import Tensor

    from ..classifiers import Classifier
    from ..data import Data

SHOWN = 5
"""Classes of an image that are written, the likeliest first."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a classifier makes of N images, in the data's order without the broken ones. K classes."""

    names: list[str]
    probabilities: "Tensor"
    """(N, K) float32, rows sum to 1."""
    classes: tuple[str, ...]
    broken: list[tuple[str, str]]
    """(name, reason) of each image that could not be read."""

    @property
    def labels(self) -> list[str]:
        """The likeliest class of each image; of equal ones the first."""
        return [self.classes[k] for k in self.probabilities.argmax(1).tolist()]

    def likeliest(self, count: int) -> tuple[list[list[str]], list[list[float]]]:
        """Classes and probabilities of each image, the likeliest first, `count` at most."""
        top = self.probabilities.topk(min(count, len(self.classes)), 1)
        return [[self.classes[k] for k in row] for row in top.indices.tolist()], top.values.tolist()

    def counts(self, most: int = SHOWN) -> str:
        """How many images are of each class, most frequent first: "12 cat, 3 dog and 2 other classes (4 images)"."""
        found = Counter(self.labels).most_common()
        left = sum(count for _, count in found[most:])
        return first_of(
            [f"{count} {label}" for label, count in found], most,
            lambda others: f"{counted(others, 'other class')} ({counted(left, 'image')})",
        )  # fmt: skip

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes .csv or .parquet, all or nothing.

        Columns: `file`, `label` and `probability`, then `label_2` and `probability_2` to `label_5` and
        `probability_5`, or less where there are fewer classes.

        Raises:
            ValueError: another suffix.
            ModuleNotFoundError: `.parquet` without pyarrow.
        """
        check_suffix(path, PREDICTED)
        labels, probabilities = self.likeliest(SHOWN)
        ends = ["", *(f"_{place}" for place in range(2, len(labels[0]) + 1))]
        # a name may hold bytes that are no text; Parquet's strings may not
        columns: dict[str, list[str] | list[float]] = {"file": [printable(name) for name in self.names]}
        for place, end in enumerate(ends):
            columns[f"label{end}"] = [printable(row[place]) for row in labels]
            columns[f"probability{end}"] = [row[place] for row in probabilities]
        with atomic(path) as temporary:
            (_write_csv if Path(path).suffix.lower() == ".csv" else _write_parquet)(temporary, columns)


def predict(
    classifier: "str | os.PathLike[str] | Classifier",
    data: "Data",
    *,
    out: str | os.PathLike[str] | None = None,
    image_size: int | None = None,
    batch_size: int = 256,
    workers: int = 0,
    say: Callable[[str], None] | None = None,
) -> Predictions:
    """Tells the classes of images by a classifier that `finetune` trained, and writes them down.

    Args:
        classifier: the folder of a finetune run, or its classifier.safetensors; in Python also a loaded one.
        data: a folder (scanned recursively, labels are not looked at) or a text file of paths; in Python also a list or
            a Dataset. Images that cannot be read are left out and listed in the result.
        out: .csv or .parquet (needs the extra 'tables'): file, label, probability, and the next four.
        image_size: pixels of the centre crop. Without it the size that the classifier was trained at.
        batch_size: images per forward pass; it does not change the result beyond rounding.
        workers: processes that decode.
        say: called with lines for the user.

    Raises:
        ValueError, FileNotFoundError: a classifier, images or a file that cannot be used.
    """
    if out is not None:
        check_suffix(out, PREDICTED)  # before the work, not after it
    if batch_size < 1 or (image_size is not None and image_size < 1):
        raise ValueError(f"batch_size is {batch_size} and image_size {image_size}; both are at least 1.")
    from .. import classifiers
    from ..classifiers import Classifier
    from ..data import open_source, remarks
    from ..devices import default_device
    from ..evaluation.features import features

    model = classifier if isinstance(classifier, Classifier) else classifiers.load(classifier)
    model.to(default_device())
    net = model.encoder
    size = image_size or net.image_size
    net.check_size(size)
    source = open_source(data, channels=net.channels, alpha=net.alpha)
    if say is not None:
        for line in remarks(source):
            say(line)
    found = features(
        model, source, image_size=size, mean=net.mean, std=net.std, batch_size=batch_size, workers=workers,
        progress=counting(say, "", "images", last=True) if say is not None else None,
    )  # fmt: skip
    made = Predictions(found.names, found.features.softmax(1), model.classes, found.broken)
    if out is not None:
        made.save(out)
    return made


def _write_csv(path: Path, columns: dict[str, list[str] | list[float]]) -> None:
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for row in zip(*columns.values()):
            writer.writerow([cell(x) if isinstance(x, str) else f"{x:.9g}" for x in row])


def _write_parquet(path: Path, columns: dict[str, list[str] | list[float]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    pyarrow.parquet.write_table(pa.table(columns), path)

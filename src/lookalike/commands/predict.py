"""The command `predict`: classes of unlabelled images, saved to a file. It imports nothing heavy."""

import csv
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..columns import COLUMNS, Columns
from ..files import atomic
from ..image_options import Tiling
from ..places import PREDICTED, check_suffix
from ..printing import cell, counted, first_of, printable
from ..progress import counting

if TYPE_CHECKING:
    from torch import Tensor

    from ..classifiers import Classifier
    from ..data import Data

SHOWN = 5
"""Number of classes per image that are written, most likely first."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predictions of a classifier on N images, in the order of the data without broken images. K classes."""

    names: list[str]
    probabilities: "Tensor"
    """(N, K) float32, rows sum to 1."""
    classes: tuple[str, ...]
    broken: list[tuple[str, str]]
    """(name, reason) of each image that could not be read."""

    @property
    def labels(self) -> list[str]:
        """The most likely class of each image; the first one in case of a tie."""
        return [self.classes[k] for k in self.probabilities.argmax(1).tolist()]

    def likeliest(self, count: int) -> tuple[list[list[str]], list[list[float]]]:
        """Classes and probabilities of each image, most likely first, at most `count`."""
        top = self.probabilities.topk(min(count, len(self.classes)), 1)
        return [[self.classes[k] for k in row] for row in top.indices.tolist()], top.values.tolist()

    def counts(self, max_classes: int = SHOWN) -> str:
        """Number of images per class, most frequent first: "12 cat, 3 dog and 2 other classes (4 images)"."""
        found = Counter(self.labels).most_common()
        left = sum(count for _, count in found[max_classes:])
        return first_of(
            [f"{count} {label}" for label, count in found], max_classes,
            lambda others: f"{counted(others, 'other class')} ({counted(left, 'image')})",
        )  # fmt: skip

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a .csv or .parquet file atomically.

        Columns: `file`, `label` and `probability`, then `label_2` and `probability_2` to `label_5` and
        `probability_5`, or fewer if there are fewer classes.

        Raises:
            ValueError: an unsupported suffix.
            ModuleNotFoundError: `.parquet` without pyarrow.
        """
        check_suffix(path, PREDICTED)
        labels, probabilities = self.likeliest(SHOWN)
        suffixes = ["", *(f"_{rank}" for rank in range(2, len(labels[0]) + 1))]
        # file names may contain bytes that are not UTF-8, which Parquet does not allow
        columns: dict[str, list[str] | list[float]] = {"file": [printable(name) for name in self.names]}
        for rank, suffix in enumerate(suffixes):
            columns[f"label{suffix}"] = [printable(row[rank]) for row in labels]
            columns[f"probability{suffix}"] = [row[rank] for row in probabilities]
        with atomic(path) as temporary:
            (_write_csv if Path(path).suffix.lower() == ".csv" else _write_parquet)(temporary, columns)


def predict(
    classifier: "str | os.PathLike[str] | Classifier",
    data: "Data",
    *,
    out: str | os.PathLike[str] | None = None,
    image_size: int | None = None,
    tile: int | None = None,
    stride: int | None = None,
    batch_size: int = 256,
    workers: int = 0,
    columns: Columns = COLUMNS,
    say: Callable[[str], None] | None = None,
) -> Predictions:
    """Predicts the classes of images by a classifier that `finetune` trained, and saves them.

    Args:
        classifier: a finetune run folder, its classifier.safetensors, or an .onnx file exported from it; in Python
            also a loaded classifier.
        data: a folder (scanned recursively, labels are ignored) or a text file of paths; in Python also a list or a
            Dataset. Images that cannot be read are skipped and listed in the result.
        out: .csv or .parquet file (needs the extra 'tables'): file, label, probability, and the next four classes.
        image_size: size of the centre crop in pixels; by default the size that the classifier was trained at.
        tile: cut images into tiles of this many pixels, each of which counts as an image named FILE@TOP,LEFT.
        stride: distance between the beginnings of two tiles in pixels; by default the size of a tile.
        batch_size: images per forward pass; it affects results only by rounding.
        workers: number of processes that decode images.
        columns: names of the columns of lists.
        say: called with lines for the user.

    Raises:
        ValueError, FileNotFoundError: a classifier, images or a file that cannot be used.
    """
    if out is not None:
        check_suffix(out, PREDICTED)  # before the work starts
    if batch_size < 1 or (image_size is not None and image_size < 1):
        raise ValueError(f"batch_size is {batch_size} and image_size is {image_size}; both must be at least 1.")
    tiling = Tiling.of(tile, stride)
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
    source = open_source(data, net.pixels, columns=columns, tiling=tiling)
    if say is not None:
        for line in remarks(source):
            say(line)
    found = features(
        model, source, image_size=size, mean=net.mean, std=net.std, batch_size=batch_size, workers=workers,
        progress=counting(say, "", "images", last=True) if say is not None else None,
    )  # fmt: skip
    predictions = Predictions(found.names, found.features.softmax(1), model.classes, found.broken)
    if out is not None:
        predictions.save(out)
    return predictions


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

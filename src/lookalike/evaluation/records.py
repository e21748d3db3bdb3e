"""The record of evaluations, `evaluation.json`."""

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import marks
from ..files import changing, read_json, write_json
from ..foreign import is_tag
from ..printing import TOP5_FROM, brief, counted, protocol_name, warn


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One result, as written to `evaluation.json`."""

    format: int = 1
    protocol: str
    top1: float
    """Top-1 accuracy on the test images, in [0, 1]; the mean over draws or seeds. For `retrieval` recall@1, for
    `label-free` the fraction of views whose nearest view is of the same image; if images may have several classes, the
    mean average precision."""
    top5: float
    """If images may have several classes, as `top1`."""
    interval: tuple[float, float]
    """95 % confidence interval of `top1` over the test images (Wilson's; exact for few hits or mistakes), and over
    draws or seeds if there are several. Of the mean average precision by a bootstrap over the test images."""
    settings: dict[str, object]
    """Settings of the feature extraction, and the protocol's constants."""
    train_images: int
    test_images: int
    classes: int
    encoder_sha256: str
    data_fingerprint: str
    seed: int
    seconds: float
    """Duration of the evaluation, without the feature extraction."""
    date: str
    """Time of its end, ISO 8601, UTC."""
    history: list[dict[str, float]]
    """Training history. knn: `k`, `top1` and `top5`, for each k. linear: `lr`, its accuracy `held_out` and whether it
    was `chosen`, for each learning rate, then `step`, `loss` and, on the test images, `top1` and `top5` of the final
    training. logistic: `c`, `held_out` and `chosen`. retrieval: `k` and `recall`."""
    train: str = ""
    """Source of the training images: a path or a tag."""
    test: str = ""
    class_names: list[str] = field(default_factory=list)
    per_class: list[float | None] = field(default_factory=list)
    """Top-1 accuracy of each class, or its average precision; None for a class without test images."""
    confusion: list[list[int]] = field(default_factory=list)
    """[class, predicted, count] for counts above 0, summed over draws or seeds."""
    calibration: dict[str, Any] | None = None
    """`ece`, the expected calibration error, and `bins` of [mean confidence, accuracy, count]."""
    accuracies: list[float] = field(default_factory=list)
    """`top1` of each draw or seed; empty if there is only one."""
    deviation: float | None = None
    """Standard deviation of `accuracies`."""
    measures: dict[str, float] = field(default_factory=dict)
    """Further metrics by name, such as `map` of retrieval."""
    baseline: float | None = None
    """`top1` of the same network, untrained, if requested."""
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    """95 % intervals of `measures`, if known."""
    split: dict[str, object] = field(default_factory=dict)
    """How `train` and `test` were drawn from one data set: `by` column, with the `column` and the values used, or `by`
    holdout, with `fraction`, `seed` and, with groups, their number on each side. Empty if they are two data sets."""

    @property
    def name(self) -> str:
        """The protocol's name and, with few labels, their fraction: knn, semi 1%, semi-finetune 10%."""
        return protocol_name(self.protocol, self.settings)

    def lowest(self, count: int) -> str:
        """The classes with the lowest accuracy, and these accuracies: at most half of all classes."""
        known = [(top1, name) for name, top1 in zip(self.class_names, self.per_class) if top1 is not None]
        worst = sorted(known)[: max(1, min(count, len(known) // 2))]
        classes = "class" if len(worst) == 1 else "classes"
        return f"lowest {classes} {', '.join(f'{brief(name)} {top1:.1%}' for top1, name in worst)}" if worst else ""

    def line(self, lowest: int = 1) -> str:
        """The result as a line for the console, with `lowest` of the classes of lowest accuracy."""
        images = f"{self.train_images} train and {counted(self.test_images, 'test image')}"
        of = f"{counted(self.classes, 'class')}, {images}, {self.seconds:.1f} s"
        if self.protocol == "semi" and self.classes:
            labels = round(self.train_images / self.classes, 1)
            about = "" if self.train_images == self.classes else "about "  # each class has at least one
            of = f"{about}{counted(labels, 'label')} per class, {of}"
        low, high = self.interval
        views = self.protocol in ("retrieval", "label-free")
        several = self.settings.get("multi_label") is True
        first = "mAP" if several else "recall@1" if views else "top-1"
        spread = f" ± {self.deviation:.2%}" if self.deviation is not None else ""
        if self.baseline is None:
            figures = [f"{first} {self.top1:.2%}{spread} (95 % interval {low:.2%} to {high:.2%})"]
        else:
            change = f"{first} {100 * self.baseline:.1f} -> {100 * self.top1:.1f} %{spread}"
            figures = [f"{change} (untrained -> this encoder, 95 % interval {low:.2%} to {high:.2%})"]
        if several:
            low, high = self.intervals.get("f1", (0.0, 1.0))
            figures.append(f"micro F1 {self.measures.get('f1', 0.0):.2%} ({low:.2%} to {high:.2%})")
        elif views or self.classes >= TOP5_FROM:
            figures.append(f"{first.replace('1', '5')} {self.top5:.2%}")
        if lowest and self.classes > 1 and (worst := self.lowest(lowest)):
            figures.append(worst)
        if self.protocol == "label-free":
            of = f"{counted(self.test_images, 'image')}, each in two views, {self.seconds:.1f} s"
            shown = ("pair_auc", "view_retrieval", "view_retrieval_of_5")
            more = {k: v for k, v in self.measures.items() if k not in shown}
            if "pair_auc" in self.measures:
                figures.insert(0, f"pair AUC {self.measures['pair_auc']:.2%}")
        else:
            more = {} if several else self.measures
        figures += [f"{key.replace('_', ' ')} {value:.3f}" for key, value in more.items()]
        if self.calibration is not None:
            figures.append(f"calibration error {self.calibration['ece']:.1%}")
        return f"{self.name:<10} {'  '.join(figures)}  {of}"


def record(path: Path, entries: Iterable[Entry], named_here: bool = True) -> None:
    """Adds entries to an `evaluation.json`; the same protocol, settings, encoder and data replace the old entry.

    The specification of the file mentions protocol, settings and data only. The encoder counts as well, so that a run
    that was trained further, or a file that several runs share (`--out`), has results of each of its encoders. Several
    processes may record at once.

    Args:
        named_here: the user named the images in this command, so that a page may show them.

    Raises:
        ValueError: the existing file is not a list of entries of format 1. It is left unchanged.
    """
    # tuples become lists, as in the file
    added = [json.loads(json.dumps(dataclasses.asdict(entry), allow_nan=False)) for entry in entries]
    for new in added:
        if named_here and new["test"] and not is_tag(new["test"]):
            new["named_here"] = [marks.mark(new["test"])]
    with changing(path, warn):
        if path.exists() and not path.is_file():
            raise ValueError(f"{path} is not a file. Move it away, or give another --out.")
        rows = _read(path) if path.exists() else []
        for new in added:
            same = [row for row in rows if _identity(row) == _identity(new)]
            if new["baseline"] is None and same and same[-1].get("seed") == new["seed"]:
                new["baseline"] = same[-1].get("baseline")  # independent of the encoder's weights
            rows = [row for row in rows if row not in same] + [new]
        write_json(path, rows)


def _read(path: Path) -> list[dict[str, object]]:
    try:
        rows = read_json(path, object)
    except ValueError as e:
        raise ValueError(f"{e} It was left unchanged; move it away to start a new one.") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) and row.get("format") == 1 for row in rows):
        raise ValueError(
            f"{path} is not a list of entries with format 1; it may come from a newer lookalike. "
            "It was left unchanged; move it away to start a new one."
        )
    try:
        json.dumps(rows, allow_nan=False)
    except ValueError:
        raise ValueError(
            f"{path} contains NaN or an infinite number, which no evaluation writes. It was left unchanged; move it "
            "away to start a new one."
        ) from None
    return rows


def _identity(row: dict[str, object]) -> list[object]:
    return [row.get(name) for name in ("protocol", "settings", "encoder_sha256", "data_fingerprint")]

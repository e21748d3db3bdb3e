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
    """One result, as it stands in `evaluation.json`."""

    format: int = 1
    protocol: str
    top1: float
    """Share of the test images, in [0, 1]; with several draws or seeds the mean over them. Of `retrieval` recall@1, of
    `label-free` the share of views whose nearest view is their own image's."""
    top5: float
    interval: tuple[float, float]
    """95 % interval of `top1` over the test images (Wilson's; exact for few hits or mistakes), and over draws or seeds
    where there are several."""
    settings: dict[str, object]
    """How the features were made, and the protocol's constants."""
    train_images: int
    test_images: int
    classes: int
    encoder_sha256: str
    data_fingerprint: str
    seed: int
    seconds: float
    """What the evaluation took, the computing of the features not included."""
    date: str
    """When it ended, ISO 8601, UTC."""
    history: list[dict[str, float]]
    """How it came about. knn: `k`, `top1` and `top5`, for each k. linear: `lr`, its accuracy `held_out` and whether it
    was `chosen`, for each learning rate, then `step`, `loss` and, on the test images, `top1` and `top5` of
    the final training. logistic: `c`, `held_out` and
    `chosen`. retrieval: `k` and `recall`."""
    train: str = ""
    """Where the training images are from, in words."""
    test: str = ""
    class_names: list[str] = field(default_factory=list)
    per_class: list[float | None] = field(default_factory=list)
    """Top-1 of each class; None where it has no test image."""
    confusion: list[list[int]] = field(default_factory=list)
    """[class, predicted, count] where the count is above 0; over all draws or seeds together."""
    calibration: dict[str, Any] | None = None
    """`ece`, the expected calibration error, and `bins` of [mean confidence, accuracy, count]."""
    accuracies: list[float] = field(default_factory=list)
    """`top1` of each draw or seed; empty where there is one."""
    deviation: float | None = None
    """Their standard deviation."""
    measures: dict[str, float] = field(default_factory=dict)
    """Further figures by name, such as `map` of retrieval."""
    baseline: float | None = None
    """`top1` of the same network before any training, where that was asked for."""

    @property
    def name(self) -> str:
        """The protocol as it is asked for and, with few labels, their part: knn, semi 1%, semi-finetune 10%."""
        return protocol_name(self.protocol, self.settings)

    def lowest(self, count: int) -> str:
        """The classes with the lowest accuracy, with it: at most half of all."""
        known = [(top1, name) for name, top1 in zip(self.class_names, self.per_class) if top1 is not None]
        worst = sorted(known)[: max(1, min(count, len(known) // 2))]
        classes = "class" if len(worst) == 1 else "classes"
        return f"lowest {classes} {', '.join(f'{brief(name)} {top1:.1%}' for top1, name in worst)}" if worst else ""

    def line(self, lowest: int = 1) -> str:
        """What it came to, for the console, with so many of the classes that have the lowest accuracy."""
        images = f"{self.train_images} train and {counted(self.test_images, 'test image')}"
        of = f"{counted(self.classes, 'class')}, {images}, {self.seconds:.1f} s"
        if self.protocol == "semi" and self.classes:
            labels = round(self.train_images / self.classes, 1)
            about = "" if self.train_images == self.classes else "about "  # each class has one at least
            of = f"{about}{counted(labels, 'label')} per class, {of}"
        low, high = self.interval
        views = self.protocol in ("retrieval", "label-free")
        first = "recall@1" if views else "top-1"
        spread = f" ± {self.deviation:.2%}" if self.deviation is not None else ""
        if self.baseline is None:
            figures = [f"{first} {self.top1:.2%}{spread} (95 % interval {low:.2%} to {high:.2%})"]
        else:
            change = f"{first} {100 * self.baseline:.1f} -> {100 * self.top1:.1f} %{spread}"
            figures = [f"{change} (untrained -> this encoder, 95 % interval {low:.2%} to {high:.2%})"]
        if views or self.classes >= TOP5_FROM:
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
            more = self.measures
        figures += [f"{key.replace('_', ' ')} {value:.3f}" for key, value in more.items()]
        if self.calibration is not None:
            figures.append(f"calibration error {self.calibration['ece']:.1%}")
        return f"{self.name:<10} {'  '.join(figures)}  {of}"


def record(path: Path, entries: Iterable[Entry], named_here: bool = True) -> None:
    """Adds entries to an `evaluation.json`; the same protocol, settings, encoder and data replace the old entry.

    The contract of the file names protocol, settings and data alone. The encoder counts on purpose, too: a run that
    was trained on, or a file that several runs share (`--out`), keeps the judgements of each of its encoders. Several
    processes may record at once.

    Args:
        named_here: whether the user named the images in this command, so that a page may show them.

    Raises:
        ValueError: the file that is there is no list of entries of format 1. It is left as it is.
    """
    # tuples become lists, as in the file
    made = [json.loads(json.dumps(dataclasses.asdict(entry), allow_nan=False)) for entry in entries]
    for new in made:
        if named_here and new["test"] and not is_tag(new["test"]):
            new["named_here"] = [marks.mark(new["test"])]
    with changing(path, warn):
        if path.exists() and not path.is_file():
            raise ValueError(f"{path} is no file. Move it away, or give another --out.")
        rows = _read(path) if path.exists() else []
        for new in made:
            same = [row for row in rows if _identity(row) == _identity(new)]
            if new["baseline"] is None and same and same[-1].get("seed") == new["seed"]:
                new["baseline"] = same[-1].get("baseline")  # of the same question: it does not change
            rows = [row for row in rows if row not in same] + [new]
        write_json(path, rows)


def _read(path: Path) -> list[dict[str, object]]:
    try:
        rows = read_json(path, object)
    except ValueError as e:
        raise ValueError(f"{e} It was left as it is; move it away to start a new one.") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) and row.get("format") == 1 for row in rows):
        raise ValueError(
            f"{path} is not a list of entries with format 1; it may come from a newer lookalike. "
            "It was left as it is; move it away to start a new one."
        )
    try:
        json.dumps(rows, allow_nan=False)
    except ValueError:
        raise ValueError(
            f"{path} holds a number that is infinite or none, as no evaluation writes it. It was left as it is; move "
            "it away to start a new one."
        ) from None
    return rows


def _identity(row: dict[str, object]) -> list[object]:
    return [row.get(name) for name in ("protocol", "settings", "encoder_sha256", "data_fingerprint")]

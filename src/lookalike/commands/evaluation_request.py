"""Shared by `evaluate` and `evaluate_features`: the requested protocols, and the collected results."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ..columns import COLUMNS, Columns
from ..evaluation.features import Features
from ..evaluation.few_labels import listed_rows
from ..evaluation.multi_label import run_multi_label
from ..evaluation.protocol_table import EPOCHS, MULTI_LABEL
from ..evaluation.protocols import PROGRESS, About, Few, run_protocol
from ..evaluation.records import Entry, record
from ..files import file_sha256
from ..image_options import Tiling
from ..places import check_shares, no_list
from ..progress import counting


@dataclass(frozen=True)
class Request:
    """What to evaluate on each pair of data sets; the fields are arguments of `evaluate`."""

    protocols: Sequence[str]
    seed: int
    seeds: int
    shares: tuple[float, ...]
    labels: str | os.PathLike[str] | None
    epochs: int = EPOCHS
    multi_label: bool = False

    def check(self, known: dict[str, str]) -> None:
        if not self.protocols:
            raise ValueError(f"No protocol was given. Choose from {', '.join(known)}.")
        for name in self.protocols:
            if name not in known:
                raise ValueError(f"There is no protocol {name!r} here. Choose from {', '.join(known)}.")
        if self.multi_label and (others := [name for name in self.protocols if name not in MULTI_LABEL]):
            raise ValueError(
                f"{others[0]} needs one class per image, but multi_label is set. Leave {others[0]} out; "
                f"{' and '.join(MULTI_LABEL)} take several classes per image."
            )
        if min(self.seeds, self.epochs) < 1:
            raise ValueError(f"seeds is {self.seeds} and epochs is {self.epochs}; both must be at least 1.")
        check_shares(self.shares)
        if self.labels is not None and not Path(self.labels).is_file():
            raise no_list(self.labels)

    def run(
        self, protocol: str, train: Features, test: Features, classes: int | None, device: torch.device | None,
        about: About, say: Callable[[str], None],
    ) -> list[Entry]:  # fmt: skip
        """Evaluates features by one of the protocols in `FROZEN`."""
        if self.multi_label:
            return run_multi_label(
                protocol, train, test, self.seed, device, about=about, seeds=self.seeds,
                progress=counting(say, f"{protocol}: ", PROGRESS[protocol][0], unit=PROGRESS[protocol][1]),
            )  # fmt: skip
        return run_protocol(
            protocol, train, test, classes, self.seed, device, about=about, seeds=self.seeds,
            few=self.few(train) if protocol == "semi" else None,
            progress=counting(say, f"{protocol}: ", PROGRESS[protocol][0], unit=PROGRESS[protocol][1]),
        )  # fmt: skip

    def few(self, train: Features) -> Few:
        """The labels that `semi` uses."""
        if self.labels is None:
            return Few(self.shares)
        # the list may also name broken images
        rows = listed_rows(self.labels, [*train.names, *(name for name, _ in train.broken)])
        return Few(rows=rows[rows < len(train.names)], sha256=file_sha256(Path(self.labels)))


@dataclass(frozen=True)
class Reading:
    """How the labelled images are read and split; the fields are arguments of `evaluate`."""

    columns: Columns = COLUMNS
    multi_label: bool = False
    holdout: float | None = None
    seed: int = 0
    only: str | os.PathLike[str] | None = None
    tiling: Tiling | None = None


@dataclass
class Results:
    """The entries so far, each reported and recorded at once, and errors of protocols that failed."""

    path: Path | None
    """The record, `evaluation.json`; None to record nothing."""
    say: Callable[[str], None]
    entries: list[Entry] = field(default_factory=list)
    errors: list[ValueError] = field(default_factory=list)

    def collect(self, protocols: Sequence[str], run: Callable[[str], list[Entry]]) -> None:
        """Runs the protocols in order; a failed one does not stop the others."""
        for protocol in protocols:
            try:
                entries = run(protocol)
            except ValueError as error:
                self.say(f"{protocol}: not possible. {error}")
                self.errors.append(error)
                continue
            self.entries += entries
            if self.path is not None:
                record(self.path, entries)
            for each in entries:
                self.say(each.line())

    def checked(self) -> list[Entry]:
        """All entries.

        Raises:
            ValueError: the first of the errors.
        """
        if self.errors:
            raise self.errors[0]
        return self.entries

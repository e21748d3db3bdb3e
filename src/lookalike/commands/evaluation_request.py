"""What `evaluate` and `evaluate_features` share: the protocols, what is asked of each, and the results as they come."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ..evaluation.features import Features
from ..evaluation.few_labels import listed_rows
from ..evaluation.protocol_table import EPOCHS
from ..evaluation.protocols import PROGRESS, About, Few, run_protocol
from ..evaluation.records import Entry, record
from ..files import file_sha256
from ..places import no_list
from ..progress import counting


@dataclass(frozen=True)
class Request:
    """What is asked of each pair of data sets; the fields are arguments of `evaluate`."""

    protocols: Sequence[str]
    seed: int
    seeds: int
    shares: tuple[float, ...]
    labels: str | os.PathLike[str] | None
    epochs: int = EPOCHS

    def check(self, known: dict[str, str]) -> None:
        if not self.protocols:
            raise ValueError(f"No protocol was asked for. Choose from {', '.join(known)}.")
        for name in self.protocols:
            if name not in known:
                raise ValueError(f"There is no protocol {name!r} here. Choose from {', '.join(known)}.")
        if min(self.seeds, self.epochs) < 1:
            raise ValueError(f"seeds is {self.seeds} and epochs {self.epochs}; both are at least 1.")
        if not self.shares or not all(0 < share <= 1 for share in self.shares):
            raise ValueError(f"shares are {list(self.shares)}; give one or more above 0, up to 1.")
        if self.labels is not None and not Path(self.labels).is_file():
            raise no_list(self.labels)

    def run(
        self, protocol: str, train: Features, test: Features, classes: int | None, device: torch.device | None,
        about: About, say: Callable[[str], None],
    ) -> list[Entry]:  # fmt: skip
        """Evaluates features by one of `FROZEN`."""
        return run_protocol(
            protocol, train, test, classes, self.seed, device, about=about, seeds=self.seeds,
            few=self.few(train) if protocol == "semi" else None,
            progress=counting(say, f"{protocol}: ", PROGRESS[protocol][0], unit=PROGRESS[protocol][1]),
        )  # fmt: skip

    def few(self, train: Features) -> Few:
        """Which of some images keep their labels for `semi`."""
        if self.labels is None:
            return Few(self.shares)
        # broken images may be listed, too
        rows = listed_rows(self.labels, [*train.names, *(name for name, _ in train.broken)])
        return Few(rows=rows[rows < len(train.names)], sha256=file_sha256(Path(self.labels)))


@dataclass
class Results:
    """The entries that were found so far, each reported and recorded at once, and why a protocol was not possible."""

    path: Path | None
    """The record, `evaluation.json`, where there is one."""
    say: Callable[[str], None]
    entries: list[Entry] = field(default_factory=list)
    errors: list[ValueError] = field(default_factory=list)

    def collect(self, protocols: Sequence[str], run: Callable[[str], list[Entry]]) -> None:
        """Runs one protocol after the other."""
        for protocol in protocols:
            try:
                made = run(protocol)
            except ValueError as error:
                self.say(f"{protocol}: not possible. {error}")
                self.errors.append(error)
                continue
            self.entries += made
            if self.path is not None:
                record(self.path, made)
            for each in made:
                self.say(each.line())

    def checked(self) -> list[Entry]:
        """All entries.

        Raises:
            ValueError: the first of the errors.
        """
        if self.errors:
            raise self.errors[0]
        return self.entries

"""Training and test images of one data set: by the column split of a list, or a random part by groups and classes."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from ..columns import COLUMNS, Columns
from ..image_options import Pixels, Tiling
from ..printing import are, counted, first_of, printable, shown
from ..random import key_of
from .chosen import only_chosen, taken
from .holdout import held_out
from .labelled import name_of
from .sources import Data, Source, open_source

NAMES: Final[Mapping[str, str]] = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
}  # fmt: skip
"""Values of a column of splits in lower case, and the split that they mean."""


@dataclass(frozen=True, eq=False)
class Split:
    """The two parts of a data set, whose labels index one list of classes."""

    train: Source
    test: Source
    about: dict[str, object]
    """How it was made, for records."""
    line: str
    """The same for the user."""


def open_split(
    data: Data,
    *,
    pixels: Pixels | int = 3,
    columns: Columns = COLUMNS,
    multi_label: bool = False,
    only: str | os.PathLike[str] | None = None,
    holdout: float | None = None,
    seed: int = 0,
    tiling: Tiling | None = None,
    classes: Sequence[str] | None = None,
) -> Split:
    """Opens labelled images and splits them: by the column split of a list or, with `holdout`, at random.

    Args:
        data, pixels, columns, multi_label, tiling, classes: as for `open_source`.
        only: use only the images that this file of `check` proposes to keep.
        holdout: fraction of the images of each class for testing; images of one group are never separated. For data
            without a column of splits.
        seed: of that draw.

    Raises:
        ValueError, FileNotFoundError: unusable images or labels; an unknown split, or one without images; both a
            column of splits and `holdout`, or neither.
    """
    if holdout is not None and not 0 < holdout < 1:
        raise ValueError(f"holdout is {holdout}; it must be above 0 and below 1.")
    source = open_source(
        data, pixels, labelled=True, classes=classes, columns=columns, multi_label=multi_label, tiling=tiling
    )
    if only is not None:
        source = only_chosen(source, only)
    name = name_of(data)
    has_column = source.splits is not None or "splits" in source.unusable
    if holdout is not None and has_column:
        raise ValueError(
            f"{name} has the column {columns.split}. Leave --holdout out to use it, or ignore the column with "
            "--columns.split ''."
        )
    if holdout is not None:
        return _drawn(source, name, columns, holdout, seed)
    if not has_column:
        raise ValueError(
            f"{name} has no column {columns.split or 'of splits'}. Give TEST, the fraction of a random split with "
            "--holdout 0.2, or the name of the column with --columns.split."
        )
    return _by_column(source, name, columns)


def _by_column(source: Source, name: str, columns: Columns) -> Split:
    """The images of the split train, and those of test; without any of test, those of val."""
    if "splits" in source.unusable:
        raise ValueError(source.unusable["splits"])
    assert source.splits is not None
    meaning = [NAMES.get(text.strip().lower()) for text in source.splits.names]
    if unknown := [text for text, known in zip(source.splits.names, meaning) if known is None]:
        raise ValueError(
            f"{name} has the {columns.split} {shown(unknown[0])}; expected train, val or test. Correct it, or name "
            "another column with --columns.split."
        )
    used = "test" if "test" in meaning else "val"
    parts = {}
    for part in ("train", used):
        own = torch.tensor([n for n, known in enumerate(meaning) if known == part], dtype=torch.int64)
        parts[part] = torch.isin(source.splits.numbers, own)
        if not parts[part].any():
            found = ", ".join(map(printable, source.splits.names))
            missing = "train" if part == "train" else "test or val"
            raise ValueError(
                f"{name} has no image of the {columns.split} {missing} (found: {found}). Correct the column, give TEST "
                "or ignore the column with --columns.split '' and make a random split with --holdout 0.2."
            )
    others = int((~(parts["train"] | parts[used])).sum())
    line = f"{name}: {_sizes(parts['train'], parts[used])} by the column {columns.split}"
    line += f" ({used} for testing)" if used != "test" else ""
    line += f"; {counted(others, 'image')} of val left out" if others else ""
    about: dict[str, object] = {"by": "column", "column": columns.split, "train": "train", "test": used}
    return Split(_part(source, parts["train"]), _part(source, parts[used]), about, line)


def _drawn(source: Source, name: str, columns: Columns, fraction: float, seed: int) -> Split:
    if "groups" in source.unusable:
        raise ValueError(f"{source.unusable['groups']} Or ignore the column with --columns.group ''.")
    groups, units = source.groups, source.keys
    if groups is not None:
        units = torch.tensor([key_of("group", each) for each in groups.names])[groups.numbers]
    classes = source.labels if source.label_sets is None else source.label_sets
    assert classes is not None
    test = held_out(units, classes, fraction, seed)
    about: dict[str, object] = {"by": "holdout", "fraction": fraction, "seed": seed}
    line = f"{name}: {_sizes(~test, test)} by a random split with seed {seed}"
    if groups is not None:
        both = [len(set(groups.numbers[part].tolist())) for part in (~test, test)]
        about |= {"column": columns.group, "train_groups": both[0], "test_groups": both[1]}
        line += f", which keeps groups together: {counted(both[0], 'group')} and {both[1]}"
    return Split(_part(source, ~test), _part(source, test), about, line)


def _sizes(train: Tensor, test: Tensor) -> str:
    return f"{counted(int(train.sum()), 'training image')} and {counted(int(test.sum()), 'test image')}"


def _part(source: Source, rows: Tensor) -> Source:
    return taken(source, rows.nonzero()[:, 0].tolist())


def shared_groups(train: Source, test: Source, some: int = 3) -> str:
    """A warning if both have images of the same groups; otherwise ""."""
    if train.groups is None or test.groups is None or train.groups.are_frames or test.groups.are_frames:
        return ""
    sides = [[side.names[n] for n in side.numbers.tolist()] for side in (train.groups, test.groups)]
    both = sorted(set(sides[0]) & set(sides[1]))
    if not both:
        return ""
    shared = set(both)
    counts = [sum(each in shared for each in side) for side in sides]
    return (
        f"{counted(len(both), 'group')} {are(len(both))} in both TRAIN and TEST "
        f"({first_of([*map(printable, both)], some)}): {counts[0]} of {counted(len(train), 'training image')} and "
        f"{counts[1]} of {counted(len(test), 'test image')}. Results on them do not apply to new groups."
    )

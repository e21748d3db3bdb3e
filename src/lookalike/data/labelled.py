"""Pairs of labelled data sets, TRAIN and TEST with the same classes, and the name of a data set in records."""

import os
from collections.abc import Sequence

from ..columns import COLUMNS, Columns
from ..foreign import tag
from ..image_options import Pixels, Tiling
from .sources import Data, Source, open_source


def open_pair(
    train: Data, test: Data, *, pixels: Pixels | int = 3, classes: Sequence[str] | None = None,
    columns: Columns = COLUMNS, multi_label: bool = False, tiling: Tiling | None = None,
) -> tuple[Source, Source]:  # fmt: skip
    """The labelled images of TRAIN and TEST. Labels are indices into `classes`, by default the classes of TRAIN.

    Raises:
        ValueError, FileNotFoundError: unusable images or labels, or a class of TEST that is missing from the classes.
    """
    first = open_source(
        train, pixels, labelled=True, classes=classes, columns=columns, multi_label=multi_label, tiling=tiling
    )
    return first, open_source(
        test, pixels, labelled=True, classes=first.classes if classes is None else classes, columns=columns,
        multi_label=multi_label, tiling=tiling,
    )  # fmt: skip


def name_of(data: object) -> str:
    """The name of a data set in records: its path, or the type of an object in angle brackets."""
    return os.fspath(data) if isinstance(data, str | os.PathLike) else tag(type(data).__name__)


def same_folder(train: object, test: object) -> bool:
    """Whether two data sets are the same folder or list."""
    both = [os.path.realpath(data) for data in (train, test) if isinstance(data, str | os.PathLike)]
    return len(both) == 2 and both[0] == both[1]

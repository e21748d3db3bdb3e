"""Names of the columns of lists of images, for options, readers and records."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Columns:
    """Names of the columns of a list of images (.csv, .tsv, .jsonl). An empty name ignores a column."""

    path: str = "path"
    """Column of the image paths."""
    label: str = "label"
    """Column of the classes, if the list has one. An empty name ignores it."""
    group: str = "group"
    """Column of the groups (patients, scenes, videos) that a split must not separate. An empty name ignores it."""
    split: str = "split"
    """Column of the split of each image: train, val or test. An empty name ignores it."""

    def __post_init__(self) -> None:
        if not self.path:
            raise ValueError("columns.path is empty. Give the name of the column of image paths.")
        named = [name for name in vars(self).values() if name]
        if repeated := sorted({name for name in named if named.count(name) > 1}):
            raise ValueError(f"columns names {repeated[0]!r} twice. Give each column its own name.")


COLUMNS = Columns()


def columns_of(options: Mapping[str, object]) -> Columns:
    """The names in the options of a run, as `run.yaml` has them; the default for what it lacks or cannot be used."""
    content = options.get("columns")
    names = content if isinstance(content, Mapping) else {}
    try:
        return Columns(
            **{name: value for name, value in names.items() if name in vars(COLUMNS) and isinstance(value, str)}
        )
    except ValueError:
        return COLUMNS

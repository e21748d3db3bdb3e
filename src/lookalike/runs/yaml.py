"""`run.yaml` as it is written: numbers as YAML 1.2 has them, limits, its format, and paths from where the run began."""

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path

import yaml

from ..files import FORMAT, read_text
from ..foreign import is_tag
from ..printing import cut, shown
from .environment import here
from .old_names import renamed

MOST_YAML = 2**21
"""Bytes of a run's file: twenty thousand names of classes take a quarter of a megabyte."""
MOST_VALUES = 100_000
"""In it, once its aliases are written out: a few lines of aliases stand for any number."""


class _Loader(yaml.SafeLoader):
    """YAML 1.2's floats: PyYAML reads 1e-6 as a text. Aliases stand for so many values and no more."""

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None and (found := _values(node, {})) > MOST_VALUES:
            how_many = "values without end" if math.isinf(found) else f"more than {MOST_VALUES} values"
            raise yaml.composer.ComposerError(None, None, f"its aliases stand for {how_many}", node.start_mark)
        return node


def _values(node: yaml.Node, known: dict[int, float]) -> float:
    """How many values a node holds; infinitely many if it holds itself."""
    if id(node) not in known:
        known[id(node)] = math.inf  # until it is counted
        parts = node.value if isinstance(node, yaml.SequenceNode | yaml.MappingNode) else []
        nodes = [part for pair in parts for part in (pair if isinstance(pair, tuple) else (pair,))]
        known[id(node)] = 1 + sum(_values(each, known) for each in nodes)
    return known[id(node)]


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d[\d_]*)(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)

LOCATIONS = ("data", "init", "teacher", "test", "probe", "cache_dir")
"""Fields of a run that may name a place on a disk."""


def parse_yaml(path: Path) -> dict[str, object]:
    """All that a YAML file of a run holds, with the new names of options.

    Raises:
        ValueError: it is no YAML, holds no mapping of names, or more than a run's file ever does.
    """
    text = read_text(path, MOST_YAML)
    try:
        content = yaml.load(text, _Loader)
    except RecursionError:
        raise ValueError(f"{path} is nested deeper than options ever are.") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(
            f"{path} is not valid YAML; mend it, or take the file of another run. {cut(str(error), 500)}."
        ) from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no options; lines like 'epochs: 100' are expected.")
    for name in content:
        if not isinstance(name, str):
            raise ValueError(f"{path}: {shown(name)} is no name of an option; put it in quotes.")
    return renamed(content)


def read_whole_yaml(path: Path) -> dict[str, object]:
    """`read_yaml`, with what it was `made` by."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file. Give the run.yaml of a run, or one that you wrote.")
    content = parse_yaml(path)
    found = content.pop("format", FORMAT)
    if found != FORMAT:
        raise ValueError(f"{path} has format {shown(found)}, this version reads format {FORMAT}. Update lookalike.")
    return content


def read_yaml(path: str | os.PathLike[str]) -> dict[str, object]:
    """Reads a run's file to a mapping, its paths from where the run began; see `located`.

    Raises:
        FileNotFoundError, ValueError: it is missing, is no YAML, or is of a later format.
    """
    content = located(read_whole_yaml(Path(path)))
    if "made" in content:
        content.setdefault("alpha", "white")  # as version 0.1 did
    content.pop("made", None)
    return content


def directory_of(content: Mapping[str, object]) -> str | None:
    """The directory in which a run began, by the whole of its `run.yaml`; None where it does not say so, as in 0.1."""
    by = content.get("made")
    found = by.get("directory") if isinstance(by, dict) else None
    return found if isinstance(found, str) and os.path.isabs(found) else None


def located(content: Mapping[str, object]) -> dict[str, object]:
    """The whole of a `run.yaml` with relative paths that lead from where the run began to what is there, made absolute.

    What is not there stays as it is written, and counts from the current directory: a project may have moved.
    """
    began = directory_of(content)
    if began is None or began == here():
        return dict(content)

    def place(value: object) -> object:
        if isinstance(value, list):
            return [place(each) for each in value]
        if not isinstance(value, str) or not value or is_tag(value) or os.path.isabs(value):
            return value
        there = os.path.normpath(os.path.join(began, value))
        return there if os.path.exists(there) else value

    return {name: place(value) if name in LOCATIONS else value for name, value in content.items()}


def written_by(begun: Mapping[str, object]) -> str:
    """The version of this package that began a run, by the whole of its `run.yaml`; "" where it does not say so."""
    made = begun.get("made")
    versions = made.get("versions") if isinstance(made, dict) else None
    return str(versions.get("lookalike", "")) if isinstance(versions, dict) else ""

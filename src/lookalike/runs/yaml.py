"""Reads `run.yaml`: YAML 1.2 numbers, size limits, its format, and paths relative to the directory of its start."""

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path

import yaml

from ..files import FORMAT, read_text
from ..foreign import is_tag
from ..places import exists
from ..printing import cut, shown
from .environment import here
from .old_names import renamed

MOST_YAML = 2**21
"""Largest `run.yaml` in bytes; twenty thousand class names take a quarter of a megabyte."""
MOST_VALUES = 100_000
"""Largest number of values with expanded aliases, since a few lines of aliases can expand to any number."""


class _Loader(yaml.SafeLoader):
    """Reads floats of YAML 1.2, where PyYAML takes 1e-6 for a string, and limits the expansion of aliases."""

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None and (found := _values(node, {})) > MOST_VALUES:
            count = "infinitely many values" if math.isinf(found) else f"more than {MOST_VALUES} values"
            raise yaml.composer.ComposerError(None, None, f"its aliases expand to {count}", node.start_mark)
        return node


def _values(node: yaml.Node, known: dict[int, float]) -> float:
    """Number of values in a node; infinite if it contains itself."""
    if id(node) not in known:
        known[id(node)] = math.inf  # until its values are counted
        parts = node.value if isinstance(node, yaml.SequenceNode | yaml.MappingNode) else []
        nodes = [part for pair in parts for part in (pair if isinstance(pair, tuple) else (pair,))]
        known[id(node)] = 1 + sum(_values(each, known) for each in nodes)
    return known[id(node)]


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d[\d_]*)(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)

LOCATIONS = ("data", "init", "teacher", "test", "probe", "cache_dir", "only")
"""Fields of a run that may hold a path."""


def parse_yaml(path: Path) -> dict[str, object]:
    """The whole content of a YAML file, with the new names of options.

    Raises:
        ValueError: it is not YAML or not a mapping of names, or exceeds the limits.
    """
    text = read_text(path, MOST_YAML)
    try:
        content = yaml.load(text, _Loader)
    except RecursionError:
        raise ValueError(f"{path} is nested deeper than any options.") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(
            f"{path} is not valid YAML; correct it, or use the file of another run. {cut(str(error), 500)}."
        ) from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no options; lines like 'epochs: 100' are expected.")
    for name in content:
        if not isinstance(name, str):
            raise ValueError(f"{path}: {shown(name)} is not a name of an option; put it in quotes.")
    return renamed(content)


def read_whole_yaml(path: Path) -> dict[str, object]:
    """`read_yaml`, with the environment under `made`."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file. Give the run.yaml of a run, or your own.")
    content = parse_yaml(path)
    found = content.pop("format", FORMAT)
    if found != FORMAT:
        raise ValueError(f"{path} has format {shown(found)}, this version reads format {FORMAT}. Update lookalike.")
    return content


def read_yaml(path: str | os.PathLike[str]) -> dict[str, object]:
    """Reads a run's file as a mapping, with located paths; see `located`.

    Raises:
        FileNotFoundError, ValueError: it is missing, is not YAML, or has a later format.
    """
    content = located(read_whole_yaml(Path(path)))
    if "made" in content:
        content.setdefault("alpha", "white")  # the behaviour of version 0.1
    content.pop("made", None)
    return content


def directory_of(content: Mapping[str, object]) -> str | None:
    """The directory of a run's start, from its whole `run.yaml`; None if unknown, as in version 0.1."""
    by = content.get("made")
    found = by.get("directory") if isinstance(by, dict) else None
    return found if isinstance(found, str) and os.path.isabs(found) else None


def located(content: Mapping[str, object]) -> dict[str, object]:
    """The whole of a `run.yaml` with absolute paths, for relative paths that exist from the directory of its start.

    Other paths are unchanged, and relative to the current directory: a project may have moved.
    """
    directory = directory_of(content)
    if directory is None or directory == here():
        return dict(content)

    def place(value: object) -> object:
        if isinstance(value, list):
            return [place(each) for each in value]
        if not isinstance(value, str) or not value or is_tag(value) or os.path.isabs(value):
            return value
        there = os.path.normpath(os.path.join(directory, value))
        return there if exists(there) else value

    return {name: place(value) if name in LOCATIONS else value for name, value in content.items()}


def written_by(begun: Mapping[str, object]) -> str:
    """The version of this package that started a run, from its whole `run.yaml`; "" if unknown."""
    made = begun.get("made")
    versions = made.get("versions") if isinstance(made, dict) else None
    return str(versions.get("lookalike", "")) if isinstance(versions, dict) else ""

"""JSON and text from a disk, which may be anything: too large, nested without end, in no known encoding."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

MOST_BYTES = 2**28
"""Of a file that is read as a whole."""
DEEPEST = 64
"""Levels of lists and mappings within each other; our own files have five."""

_KINDS: dict[type, str] = {dict: "object", list: "list"}


def read_text(path: Path, most: int = MOST_BYTES) -> str:
    """The text of a file.

    Raises:
        ValueError: it is larger than `most` bytes, or not in UTF-8.
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"{path} is larger than the {most / 2**20:g} MiB that a file of its kind may have.")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8 ({error.reason} at byte {error.start}).") from None


@contextmanager
def tensor_file(path: Path) -> Iterator[Path]:
    """A name of a file for libraries that map tensors: they open no name that is not UTF-8, and wait for pipes.

    Raises:
        FileNotFoundError: it is no file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file.")
    try:
        os.fspath(path).encode("utf-8")
    except UnicodeEncodeError:
        with open(path, "rb") as file:
            yield Path(f"/dev/fd/{file.fileno()}")
    else:
        yield path


def parse_json(text: str, where: object, kind: type[T]) -> T:
    """What a JSON text holds; `where` names it in messages.

    Raises:
        ValueError: it is no JSON, nested too deep, or holds something else than `kind`.
    """
    try:
        content: Any = json.loads(text)
    except RecursionError:
        raise ValueError(_too_deep(where)) from None
    except ValueError as error:
        raise ValueError(f"{where} is not JSON ({error}).") from None
    if _is_deep(content):
        raise ValueError(_too_deep(where))
    if not isinstance(content, kind):
        raise ValueError(f"{where} holds no {_KINDS.get(kind, kind.__name__)}.")
    return content


def read_json(path: Path, kind: type[T]) -> T:
    """What a JSON file holds; errors are those of `read_text` and `parse_json`."""
    return parse_json(read_text(path), path, kind)


def _is_deep(content: object) -> bool:
    level = [content]
    for _ in range(DEEPEST):
        parts = (each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list))
        level = [child for part in parts for child in part if isinstance(child, dict | list)]
    return bool(level)


def _too_deep(where: object) -> str:
    return f"{where} is nested more than {DEEPEST} levels deep, which no file of ours is."

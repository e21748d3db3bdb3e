"""Which columns of a Parquet or Arrow file hold images, their names and classes."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ...columns import COLUMNS, Columns
from ...printing import printable

_METADATA: Final = b"huggingface"
"""Entry of a schema's metadata in which Hugging Face's `datasets` describes the columns."""
IMAGE: Final = "image"
"""The column of image files."""
PATH: Final = "path"
"""The field of an image that holds its name, in the files of `datasets`."""
BYTES: Final = "bytes"
"""The field that holds its file."""


@dataclass(frozen=True)
class Chosen:
    """The columns of a file that are read."""

    image: str | None
    """Files as bytes, or rows of `bytes` and `path`, as `datasets` writes them. None: `names` are paths of files."""
    names: str | None
    """Column, or field of the image, with the names: "path", "image.path"; None if there is neither."""
    numbered: bool
    """Whether names may be missing or equal: those beside the bytes are often the same in several folders."""
    label: str | None
    classes: tuple[str, ...] | None
    """Class names, if labels are numbers of these."""
    notes: list[str] = field(default_factory=list)


def chosen_columns(schema: Any, where: str, columns: Columns = COLUMNS) -> Chosen:
    """The columns of a `pyarrow.Schema`: `image`, `path` and `label`, or the only ones of their type.

    Raises:
        ValueError: no images, or several columns that may be images.
    """
    found = ", ".join(printable(name) for name in schema.names[:8]) + ", ..." * (len(schema.names) > 8)
    if repeated := [name for name in schema.names if schema.names.count(name) > 1]:
        raise ValueError(f"{where} has several columns {printable(repeated[0])}. Rename all but one.")
    images = [name for name in schema.names if _is_image(schema.field(name).type)]
    image = IMAGE if IMAGE in images else images[0] if len(images) == 1 else None
    has_paths = columns.path in schema.names and _is_text(schema.field(columns.path).type)
    if IMAGE in schema.names and image != IMAGE:
        raise ValueError(
            f"{where}: column {IMAGE} has the type {schema.field(IMAGE).type}; expected the bytes of image files, or "
            f"rows of bytes and path. Store files, not pixels or texts; a column of paths is named {columns.path}."
        )
    if len(images) > 1 and image is None:
        raise ValueError(
            f"{where} has several columns of images: {', '.join(map(printable, images))}. Rename the one to use to "
            f"{IMAGE}."
        )
    if image is None and not has_paths:
        raise ValueError(
            f"{where} has no column of images (columns: {found}). Name the column with the bytes of image files "
            f"{IMAGE}, or the one with their paths {columns.path}."
        )
    names = columns.path if has_paths else None
    if names is None and image is not None and _is_text(_field(schema.field(image).type, PATH)):
        names = f"{image}.{PATH}"
    return Chosen(image, names, not has_paths, *_label(schema, columns.label))


def _label(schema: Any, label: str) -> tuple[str | None, tuple[str, ...] | None, list[str]]:
    """The column of labels (the one of this name, or the only one with class names), the class names, and notes."""
    features = _features(schema)
    named = {name: classes for name in schema.names if (classes := _class_names(features.get(name)))}
    if not label:
        return None, None, []
    if label in schema.names:
        kind = schema.field(label).type
        if not (_is_text(kind) or _is_integer(kind)):
            return None, None, [f"column {printable(label)} has the type {kind}, which is no class: it is not used"]
        return label, named.get(label), []
    if len(named) > 1:
        return None, None, [f"columns {', '.join(map(printable, named))} are classes: none is used, none is {label}"]
    return (*next(iter(named.items()), (None, None)), [])


def _features(schema: Any) -> dict[str, object]:
    """What `datasets` wrote about the columns; empty without it."""
    try:
        found = json.loads((schema.metadata or {}).get(_METADATA, b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _class_names(feature: object) -> tuple[str, ...] | None:
    names = feature.get("names") if isinstance(feature, dict) else None
    return tuple(names) if isinstance(names, list) and names and all(isinstance(n, str) for n in names) else None


def names_in_lists(schema: Any, column: str) -> tuple[str, ...] | None:
    """The class names that the numbers in a column of lists stand for, as `datasets` describes them."""
    feature = _features(schema).get(column)
    if isinstance(feature, list) and feature:  # its older form
        return _class_names(feature[0])
    return _class_names(feature.get("feature")) if isinstance(feature, dict) else None


def _is_image(kind: Any) -> bool:
    return _is_binary(kind) or _is_binary(_field(kind, BYTES))


def _field(kind: Any, name: str) -> Any:
    """The type of a field of a struct; None without one."""
    import pyarrow

    if not pyarrow.types.is_struct(kind):
        return None
    position = kind.get_field_index(name)
    return None if position < 0 else kind.field(position).type


def _is_binary(kind: Any) -> bool:
    import pyarrow

    return kind is not None and (pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind))


def _is_text(kind: Any) -> bool:
    import pyarrow

    if kind is not None and pyarrow.types.is_dictionary(kind):
        kind = kind.value_type
    return kind is not None and (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind))


def _is_integer(kind: Any) -> bool:
    import pyarrow

    return bool(pyarrow.types.is_integer(kind))


def class_of(value: object, classes: Sequence[str] | None) -> str | None:
    """The class of a row as text; None without one. -1 means no class in the files of `datasets`."""
    if isinstance(value, str):
        return value.strip() or None
    if not isinstance(value, int) or value < 0:
        return None
    if classes is None:
        return str(value)
    return classes[value] if value < len(classes) else None

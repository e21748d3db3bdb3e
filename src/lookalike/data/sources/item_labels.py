"""Labels and class names of a Dataset, a list or an array."""

from collections.abc import Sequence

from torch import Tensor

from ...printing import composed, counted, printable
from ..errors import BrokenImage
from ..items import column_classes, label_column, label_of, whole_column
from ..labels import class_numbers, onto
from .source import Indexed

MOST_CLASSES = 1_000_000
"""Limit for integer labels without class names: larger numbers are not labels."""


def failure(error: Exception) -> str:
    """An exception in one line, with its type."""
    if isinstance(error, BrokenImage):  # raised by the user's Dataset with a reason
        return error.reason
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


def targets_of(dataset: object) -> object | None:
    """A Dataset's `targets`; None if it has none, or reading them fails."""
    try:
        found: object = dataset.targets  # type: ignore[attr-defined]
    except Exception:  # a property may raise anything
        return None
    return found


def item_labels(
    dataset: Indexed, count: int, classes: Sequence[str] | None, failed: dict[int, str], name: str = ""
) -> tuple[Tensor, tuple[str, ...]]:
    """Labels and class names. Unreadable items get the label of another item, and their reason in `failed`.

    `name` is that of the labels in messages, by default the type of `dataset`.
    """
    name = name or type(dataset).__name__
    labels, own = targets_of(dataset), _own_classes(dataset)
    if labels is None:
        labels, own = _labels_of_items(dataset, count, failed, own)
    numbers, texts = class_numbers(labels, count, name)
    if texts is not None:
        known = None if own is None or {*map(composed, texts)} - {*map(composed, own)} else own
        return onto(texts, numbers, known if classes is None else tuple(classes), name)
    top = int(numbers.max())
    if own is None and classes is None and top >= MOST_CLASSES:
        raise ValueError(
            f"{name} has the label {top}, which would mean {counted(top + 1, 'class', grouped=True)}. "
            "Number the classes from 0, such as with numpy.unique(labels, return_inverse=True)."
        )
    names = own or (tuple(classes) if classes is not None else tuple(str(k) for k in range(top + 1)))
    if top >= len(names):
        raise ValueError(f"{name} has the label {top}, but there are {counted(len(names), 'class')}.")
    return onto(names, numbers, names if classes is None else tuple(classes), name)


def _labels_of_items(
    dataset: Indexed, count: int, failed: dict[int, str], own: tuple[str, ...] | None
) -> tuple[list[object], tuple[str, ...] | None]:
    """The labels in a Dataset's items, and its class names."""
    found: list[object] = []
    column: object | None = None
    missing = object()
    for i in range(count):
        try:
            item = dataset[i]
        except MemoryError:
            raise
        except Exception as error:
            failed[i] = failure(error)
            found.append(missing)
            continue
        if column is None and (column := label_column(item, dataset)) is not None:
            own = own or tuple(map(printable, column_classes(dataset, column))) or None
            whole = whole_column(dataset, column)
            if whole is not None and len(whole) == count:
                return whole, own
        label = label_of(item, column)
        if label is None:
            raise ValueError(
                f"Item {i} of {type(dataset).__name__} has no label. Return tuples of an image and an int, or rows "
                "with a column label."
            )
        found.append(label)
    any_label = next((label for label in found if label is not missing), 0)
    return [any_label if label is missing else label for label in found], own


def _own_classes(dataset: object) -> tuple[str, ...] | None:
    """The class names of a Dataset; None if it has no list of them."""
    try:
        return tuple(printable(str(c)) for c in dataset.classes)  # type: ignore[attr-defined]
    except Exception:  # no such attribute, or not a list
        return None

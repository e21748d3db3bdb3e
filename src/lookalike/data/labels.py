"""Labels and class names, from folders and from Datasets."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor

from ..names import nearest_names
from ..printing import brief, composed, printable, shown, with_article

_MAX_UNIQUE_TEXTS: Final = 100
"""Above this number of distinct texts, texts of which most are unique are not class names."""


def folder_labels(root: str, paths: list[str], classes: Sequence[str] | None) -> tuple[Tensor, tuple[str, ...]]:
    """Labels from the first folder of each path below `root`, as indices into `classes` or the names found."""
    found: dict[str, int] = {}

    def first_folders() -> Iterator[int]:
        for path in paths:
            folder, slash, _ = path.partition("/")
            if not (folder and slash) or folder == "..":
                raise ValueError(
                    f"{printable(path)} is not in a class folder of {root}. Labels are the names of the first folders: "
                    f"{root}/CLASS/{printable(path)}."
                )
            yield found.setdefault(folder, len(found))

    numbers = torch.from_numpy(np.fromiter(first_folders(), np.int64, len(paths)))
    # raw bytes and control characters would corrupt every file and line that contains the class name
    names = tuple(map(printable, found))
    if duplicates := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"{root} has several folders that are all printed as {duplicates[0]}. Rename all but one.")
    return onto(names, numbers, None if classes is None else tuple(map(printable, classes)), root)


def onto(
    found: tuple[str, ...], numbers: Tensor, classes: tuple[str, ...] | None, where: str
) -> tuple[Tensor, tuple[str, ...]]:
    """Maps indices into `found` to indices into `classes`; without `classes`, into the sorted unique names."""
    if classes is None:
        unique: dict[str, str] = {}
        for name in sorted(found):
            unique.setdefault(composed(name), name)
        classes = tuple(unique.values())
    index = {composed(name): k for k, name in enumerate(classes)} | {name: k for k, name in enumerate(classes)}
    indices = []
    for name in found:
        if (k := index.get(name, index.get(composed(name)))) is None:
            near = nearest_names(name, classes, cutoff=0.4) or list(classes[:3])
            raise ValueError(
                f"{where} has the class {shown(name)}, which is not one of the {len(classes)} known classes; nearest: "
                f"{', '.join(near)}."
            )
        indices.append(k)
    return torch.tensor(indices)[numbers], classes


def class_numbers(labels: object, count: int, where: str) -> tuple[Tensor, tuple[str, ...] | None]:
    """Labels of `count` images as class indices (N,) int64, and the class names if the labels are texts.

    Accepts integers (N,) or (N, 1), texts, and one-hot rows (N, C).

    Raises:
        ValueError: anything else; the message states what was found and what is expected.
    """
    expected = f"expected {count} class indices (integers from 0) or {count} class names"
    array = _as_array(labels)
    if array.shape == (count, 1):
        array = array[:, 0]
    if (texts := _texts(array, labels)) is not None and array.shape == (count,):
        names, numbers = np.unique(texts, return_inverse=True)
        if len(names) > max(_MAX_UNIQUE_TEXTS, count / 2):
            raise ValueError(
                f"The labels of {where} are {len(names)} different texts, such as {shown(str(names[0]))}; {expected}."
            )
        return torch.from_numpy(numbers.astype(np.int64)), tuple(printable(str(name)) for name in names)
    if array.ndim == 2 and len(array) == count and array.dtype.kind in "buif" and set(np.unique(array)) <= {0, 1}:
        if (array.sum(1) == 1).all():
            return torch.from_numpy(array.argmax(1).astype(np.int64)), None
        raise ValueError(
            f"The labels of {where} have shape {array.shape}, with zero or several classes for an image; {expected}. "
            "Choose one class per image."
        )
    whole = array.dtype.kind == "f" and bool((np.isfinite(array) & (array == np.floor(array))).all())
    if array.shape != (count,) or not (array.dtype.kind in "biu" or whole):
        raise ValueError(f"The labels of {where} are {_described(array, labels)}; {expected}.")
    if float(array.min()) < 0:
        raise ValueError(f"{where} has the label {int(array.min())}; {expected}.")
    return torch.from_numpy(array.astype(np.int64)), None


def _as_array(labels: object) -> np.ndarray:
    try:
        if isinstance(labels, Tensor):
            return labels.detach().cpu().numpy()
        if isinstance(labels, list | tuple) and labels:
            first = labels[0]
            if not isinstance(first, int | float | str | bytes | list | tuple | np.ndarray | np.generic | Tensor) or (
                isinstance(first, np.ndarray | Tensor) and first.ndim > 1
            ):
                return np.array(None)  # images, which NumPy would combine into a huge array
            labels = [each.detach().cpu().numpy() if isinstance(each, Tensor) else each for each in labels]
        return np.asarray(labels)
    except Exception:  # rows of unequal length
        return np.array(None)


def _texts(array: np.ndarray, labels: object) -> np.ndarray | None:
    """The labels as texts; None unless every label is a text."""
    if array.dtype.kind == "U":  # NumPy converts numbers to texts in mixed lists
        return array if not isinstance(labels, list | tuple) or all(_is_text(each) for each in labels) else None
    if array.dtype.kind in "SO" and array.size and all(_is_text(each) for each in array.flat):
        return np.array([b.decode(errors="backslashreplace") if isinstance(b, bytes) else b for b in array.flat])
    return None


def _is_text(value: object) -> bool:
    return isinstance(value, str | bytes) or (isinstance(value, np.ndarray | list) and all(map(_is_text, value)))


def _described(array: np.ndarray, labels: object) -> str:
    if array.dtype.kind not in "biuf" and not array.ndim and not isinstance(labels, Sequence):
        return f"{with_article(type(labels).__name__)}"
    if array.dtype.kind not in "biuf" and isinstance(labels, Sequence) and labels:
        kinds = Counter(type(label).__name__ for label in labels)
        rarest = min(kinds, key=kinds.__getitem__)  # probably the mistake
        example = next(label for label in labels if type(label).__name__ == rarest)
        if kinds.keys() == {"int"}:
            example = max(labels, key=abs)
        return f"of type{'s' * (len(kinds) > 1)} {', '.join(kinds)}, such as {brief(repr(example), 60)}"
    return f"of shape {array.shape} and type {array.dtype}"

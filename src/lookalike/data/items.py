"""Items of a Dataset: an image, a tuple (image, label), or a row of named columns."""

import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

import numpy as np
from PIL import Image
from torch import Tensor

from ..image_options import Pixels
from ..printing import with_article
from .decoding import SUFFIXES
from .errors import Unsupported

_IMAGES: Final = ("image", "img", "images", "picture", "photo", "pixel_values", "jpg", "png")
_LABELS: Final = ("label", "labels", "target", "targets", "class", "cls")
"""Names of columns that are preferred if several columns qualify."""
_CHANNEL_COUNTS: Final = (1, 3, 4)
"""Channel counts by which the channel axis of an array is recognised."""


def image_of(item: object) -> object:
    """The image in an item: the item itself, the first part of a tuple, or a column that holds one.

    Raises:
        TypeError: a row with several images, or without one.
    """
    if isinstance(item, tuple | list) and item:
        return item[0]
    if not isinstance(item, Mapping) or is_encoded(item):
        return item
    found = [name for name, value in item.items() if _is_image(value)]
    found = found or [name for name, value in item.items() if is_path(value)]
    chosen = found if len(found) == 1 else [name for name in _IMAGES if name in found][:1]
    if not chosen:
        columns = ", ".join(map(str, item))
        if found:
            raise TypeError(f"several images ({', '.join(map(str, found))}). Rename the column to use to image")
        raise TypeError(f"{with_article(type(item).__name__)} without an image (columns: {columns})")
    return item[chosen[0]]


def _is_image(value: object) -> bool:
    if isinstance(value, np.ndarray | Tensor):
        return value.ndim in (2, 3)
    return isinstance(value, Image.Image) or is_encoded(value)


def is_encoded(value: object) -> bool:
    """Whether a value is an undecoded image of a Hugging Face Dataset: its bytes, or its path."""
    return isinstance(value, Mapping) and value.keys() == {"bytes", "path"}


def is_path(value: object) -> bool:
    """Whether a value is the path of an image file."""
    if isinstance(value, os.PathLike):
        return True
    return isinstance(value, str) and os.path.splitext(value)[1].lower()[1:] in SUFFIXES


def planes(array: np.ndarray, pixels: Pixels) -> np.ndarray:
    """An array (H, W), (H, W, C) or (C, H, W) as (C, H, W).

    The channel axis is last, unless only the first axis has a length of `channels`, 1, 3 or 4. If bands are chosen, it
    is the shorter of the first axis and the last one.

    Raises:
        Unsupported: the array has another shape.
    """
    if array.ndim == 2:
        return array[None]
    if array.ndim != 3:
        raise Unsupported(f"an array of shape {array.shape}; expected one image, (H, W), (H, W, C) or (C, H, W)")
    if pixels.bands is not None:
        return array if array.shape[0] < array.shape[2] else array.transpose(2, 0, 1)
    first, last = (array.shape[axis] in (pixels.channels, *_CHANNEL_COUNTS) for axis in (0, 2))
    if not (first or last):
        raise Unsupported(
            f"an array of shape {array.shape}; expected (H, W, C) or (C, H, W) with C = {pixels.channels}"
        )
    return array if first and not last else array.transpose(2, 0, 1)


def tensor_planes(image: Tensor, pixels: Pixels) -> Tensor:
    """`planes` for a tensor: the channel axis is first, unless only the last has a channel count and H, W exceed 4."""
    if image.ndim == 2:
        return image[None]
    if image.ndim == 3 and pixels.bands is not None:
        return image if image.shape[0] <= image.shape[2] else image.permute(2, 0, 1)
    if image.ndim == 3:
        first, last = (image.shape[axis] in (pixels.channels, *_CHANNEL_COUNTS) for axis in (0, 2))
        return image.permute(2, 0, 1) if last and not first and min(image.shape[:2]) > max(_CHANNEL_COUNTS) else image
    raise Unsupported(f"a tensor of shape {tuple(image.shape)}; expected one image, (H, W) or (C, H, W)")


def check_arrays(data: np.ndarray | Tensor) -> None:
    """Rejects an array that is not clearly a batch of images.

    Raises:
        ValueError: fewer or more dimensions than (N, H, W), (N, H, W, C) or (N, C, H, W), or a single image.
    """
    shape = tuple(data.shape)
    expected = "expected (N, H, W), (N, H, W, C) or (N, C, H, W)"
    if data.ndim not in (3, 4):
        raise ValueError(f"The data have shape {shape}; {expected}.")
    if data.ndim == 3 and (shape[0] in _CHANNEL_COUNTS or shape[2] in _CHANNEL_COUNTS):
        raise ValueError(
            f"The data have shape {shape}, which looks like a single image; {expected}. For an array x, pass x[None] "
            "for one image, or x[:, None] for len(x) greyscale images."
        )


def label_of(item: object, column: object | None) -> object:
    """The label in an item: the second part of a tuple, or a column of a row; None without one."""
    if isinstance(item, tuple | list):
        return item[1] if len(item) > 1 else None
    return item.get(column) if isinstance(item, Mapping) and column is not None else None


def label_column(row: object, dataset: object) -> object | None:
    """The label column of a row: the one with class names, else one with a usual name, else the only integer column.

    Raises:
        ValueError: several columns qualify.
    """
    if not isinstance(row, Mapping):
        return None
    for found in (
        [name for name in features_of(dataset) if column_classes(dataset, name)],
        [name for name in _LABELS if name in row][:1],
        [name for name, value in row.items() if isinstance(value, int | np.integer)],
    ):
        chosen = found if len(found) < 2 else [name for name in _LABELS if name in found][:1]
        if found and not chosen:
            raise ValueError(
                f"{type(dataset).__name__} has several columns that may be labels: {', '.join(map(str, found))}. "
                "Rename the column to use to label."
            )
        if chosen:
            return chosen[0]
    return None


def features_of(dataset: object) -> Mapping[str, object]:
    """A Hugging Face Dataset's description of its columns; empty for other data sets."""
    with suppress(Exception):  # a property may raise anything
        found = dataset.features  # type: ignore[attr-defined]
        if isinstance(found, Mapping):
            return found
    return {}


def column_classes(dataset: object, column: object) -> tuple[str, ...]:
    """The class names of a column; empty without any."""
    with suppress(Exception):
        return tuple(str(name) for name in features_of(dataset)[str(column)].names)  # type: ignore[attr-defined]
    return ()


def whole_column(dataset: object, column: object) -> list[object] | None:
    """A column of a Hugging Face Dataset, read without decoding images; None if that is not possible."""
    with suppress(Exception):
        if column in features_of(dataset):
            return list(dataset[column])  # type: ignore[index]
    return None

"""Images read by index: a torch Dataset, a Hugging Face Dataset, a list, an array or a tensor."""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from ...image_options import Pixels
from ...printing import printable, with_article
from ..decoding import decode, kind_of, reason_of
from ..errors import BrokenImage
from ..items import check_arrays, image_of, is_encoded, is_path, planes, tensor_planes
from ..pillow import from_pillow, pillow_kind
from ..tensors import from_tensor
from .item_labels import failure, item_labels
from .source import Indexed, Source


def indexed(data: object) -> Indexed:
    """Checks that `data` has items 0 to N - 1.

    Raises:
        ValueError: it has not; the message states what to give instead.
    """
    kind = type(data).__name__
    if isinstance(data, type):
        raise ValueError(f"{data.__name__} is a class. Give an instance of it, such as {data.__name__}().")
    if isinstance(data, np.ndarray | Tensor) and data.dtype != object:
        check_arrays(data)
    elif isinstance(data, Mapping):
        names = ", ".join(printable(str(name)) for name in list(data)[:5])
        raise ValueError(f"The data are a {kind} with the keys {names}. Give one of its values, or a list of images.")
    elif isinstance(data, IterableDataset | bytes) or not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
        raise ValueError(
            f"{kind} cannot be read by index. Give a folder, a text file of paths, a list of images, an array "
            "(N, H, W, C), or a Dataset with __len__ and __getitem__."
        )
    found = cast(Indexed, data)
    try:
        count = len(found)
    except Exception as error:  # user code may raise anything
        raise ValueError(f"{kind} has no length ({failure(error)}). Give a Dataset of known length.") from error
    if not count:
        raise ValueError(f"{kind} is empty. Give a Dataset with items.")
    if not isinstance(data, Dataset | list | tuple | np.ndarray | Tensor):
        _check_items(found)
    return found


def _check_items(data: Indexed) -> None:
    """Raises ValueError if an object of another library, such as a pandas table, has no items 0 to N - 1."""
    for i in range(min(3, len(data))):
        try:
            data[i]
        except (LookupError, TypeError) as error:
            reason = failure(error)
        except Exception:  # indexing works, and this item is broken
            return
        else:
            return
    raise ValueError(
        f"{type(data).__name__} has no item 0 ({reason}). Give a list of images, an array (N, H, W, C), or a Dataset "
        "whose items 0 to N - 1 are images."
    )


class Items(Source):
    """The items of a Dataset, a list or an array."""

    def __init__(self, dataset: Indexed, pixels: Pixels, labelled: bool, classes: Sequence[str] | None) -> None:
        self.dataset = dataset
        self.pixels, self.channels = pixels, pixels.channels
        self._failed: dict[int, str] = {}
        self._keys = torch.arange(len(dataset))
        if labelled:
            self.labels, self.classes = item_labels(dataset, len(self), classes, self._failed)

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def keys(self) -> Tensor:
        return self._keys

    def name(self, i: int) -> str:
        return f"item {i}"

    def read(self, i: int, decode_size: int | None) -> Tensor:
        if i in self._failed:  # its label is unknown
            raise BrokenImage(self.name(i), self._failed[i])
        try:
            item = self.dataset[i]
        except MemoryError:
            raise
        except Exception as error:  # user code may raise anything
            raise BrokenImage(self.name(i), failure(error)) from error
        try:
            image = image_of(item)
        except TypeError as error:
            raise self._no_image(i, str(error)) from None
        try:
            match image:
                case Image.Image():
                    return from_pillow(image, self.pixels, decode_size, i)
                case Tensor():
                    return from_tensor(tensor_planes(image, self.pixels), self.pixels, decode_size, i)
                case np.ndarray() if image.dtype.kind in "buif":
                    native = planes(image, self.pixels).astype(image.dtype.newbyteorder("="))
                    return from_tensor(torch.from_numpy(native), self.pixels, decode_size, i)
                case str() | bytes() | os.PathLike() if isinstance(image, bytes) or is_path(image):
                    return decode(image, self.pixels, decode_size, i)
                case Mapping() if is_encoded(image):
                    file = image["bytes"] if image["bytes"] is not None else image["path"]
                    return decode(file, self.pixels, decode_size, i)
        except MemoryError:
            raise
        except ValueError as error:
            raise BrokenImage(self.name(i), reason_of(error)) from error
        except Exception as error:
            raise BrokenImage(self.name(i), failure(error)) from error
        found = f"an array of {image.dtype}" if isinstance(image, np.ndarray) else with_article(type(image).__name__)
        raise self._no_image(i, found)

    def _no_image(self, i: int, found: str) -> TypeError:
        return TypeError(
            f"Item {i} of {type(self.dataset).__name__}: expected an image, found {found}. Return a PIL image, an "
            "array (H, W, C), a tensor (C, H, W) or a path: alone, first in a tuple, or as the column image of a dict."
        )

    def kind(self, i: int) -> str:
        kind = type(self.dataset).__name__
        with suppress(Exception):  # `read` reports why an item is unreadable
            image = image_of(self.dataset[i])
            if isinstance(image, str | os.PathLike) and is_path(image):
                return kind_of(image, self.pixels)
            if isinstance(image, Image.Image):
                kind += f" {pillow_kind(image, self.pixels)}"
        return kind

"""Where images come from: a folder, a text file of paths, or a torch Dataset behind one face."""

import copy
import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Protocol, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from ..image_options import Alpha
from ..images import moments
from ..places import no_images
from ..printing import LONGEST_PATH, brief, composed, counted, printable, with_article
from ..random import key_of, permutation
from .decoding import SUFFIXES, BrokenImage, decode, from_pillow, from_tensor, kind_of, pillow_kind, reason_of
from .folders import Scanned, scan
from .items import (
    check_arrays,
    column_classes,
    features_of,
    image_of,
    is_encoded,
    is_path,
    label_column,
    label_of,
    planes,
    tensor_planes,
    whole_column,
)
from .labels import class_numbers, folder_labels, onto


class Indexed(Protocol):
    """Something with images as its items 0 to N - 1: a list, an array, a torch Dataset, a Hugging Face Dataset."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int, /) -> object: ...


class Source(ABC):
    """Images with names, keys and perhaps labels. Small, and made to be sent to worker processes."""

    channels: int
    alpha: Alpha = "auto"
    """What becomes of an alpha channel; see `decode`."""
    labels: Tensor | None = None
    """(N,) int64, places in `classes`; None without labels."""
    classes: tuple[str, ...] | None = None
    system_folders: int = 0
    """How many folders of systems, such as @eaDir, were passed over."""

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    @abstractmethod
    def keys(self) -> Tensor:
        """(N,) int64: what an image's random draws depend on, wherever it stands and whatever else there is."""

    @abstractmethod
    def name(self, i: int) -> str:
        """The image's name, fit to be printed."""

    @abstractmethod
    def read(self, i: int, decode_size: int | None) -> Tensor:
        """(C, H, W) uint8, uint16 or float32, contiguous; see `decode`. Raises BrokenImage."""

    def file(self, i: int) -> str | None:
        """The path of the image's file; None where it has none of its own."""
        return None

    def listing(self) -> bytes | None:
        """The names that keys are made of, one after the other with a zero byte between; None where there are none."""
        return None

    def called(self, names: Sequence[str], places: Sequence[int] | None = None) -> "Source":
        """The files at `places`, or all, with the keys that they have under other names; of no files all stays."""
        return self

    def seen_from(self, folder: str) -> list[str]:
        """The names that the files would have in a list that lies in a folder."""
        return []

    def missing(self) -> str:
        """What is to be done if all of it went away since it was opened; empty while it is there."""
        return ""

    def version(self) -> str:
        """Changes when an image does, as far as places, names, sizes and times of the files tell.

        Raises:
            ValueError: the images are no files.
        """
        raise ValueError(
            "What is kept on a disk is known again by the files of the images, and these are items of a Dataset. Use "
            "--cache ram or none, and no --cache-teacher."
        )

    def kind(self, i: int) -> str:
        """What the image is before it is brought to `channels`: "JPEG RGB", "TIFF I;16", "npy uint16 (5, 64, 64)"."""
        return type(self).__name__

    def notes(self) -> list[str]:
        """What was decided when the images were looked for, a line each."""
        return []


Data = str | os.PathLike[str] | Dataset[object] | Source | Indexed


def open_source(
    data: Data,
    channels: int = 3,
    labelled: bool = False,
    classes: Sequence[str] | None = None,
    alpha: Alpha = "auto",
    system_folders: bool = False,
) -> Source:
    """Finds the images of DATA; none is opened yet.

    Args:
        data: a folder, searched recursively, where file order never matters and hidden names and folders of systems
            are passed over; a text file with a path per line, absolute or relative to its own folder (blank lines and
            # comments are passed over); an array or tensor (N, H, W), (N, H, W, C) or (N, C, H, W); or a list, a
            map-style Dataset or a Hugging Face Dataset. Its items are an image, a tuple of an image, a label and more,
            or a row with columns for both; an image is a PIL image, an array (H, W), (H, W, C) or (C, H, W), a tensor
            (H, W) or (C, H, W), or a path. A `Source` that is open already stays as it is, where it has these channels,
            labels and classes.
        channels: how many channels images are brought to.
        labelled: take labels: a file's first folder below DATA; a Dataset's `targets`, or else those in its items.
        classes: with `labelled`, the class names in their order, as a training set gave them. None: those found.
        alpha: what becomes of an alpha channel; see `decode`. A `Source` that is open keeps its own.
        system_folders: take images in folders of systems, such as @eaDir, too, as version 0.1 did.

    Raises:
        FileNotFoundError: no such folder or file, or no listed file exists.
        ValueError: no image in it; a file outside a class folder; a class that `classes` lacks; no such data.
    """
    if channels < 1:
        raise ValueError(f"channels is {channels}; images have at least 1.")
    if isinstance(data, Source):
        _check_open(data, channels, labelled, classes)
        return data
    if not isinstance(data, str | os.PathLike):
        if isinstance(data, np.ndarray) and data.dtype.kind == "U" and data.ndim == 1:
            data = data.tolist()
        if isinstance(data, list | tuple) and data and all(isinstance(p, str | os.PathLike) for p in data):
            here = os.getcwd()
            paths = _relative([os.path.normpath(p) for p in data], here, "the list")
            return _Files(here, paths, channels, labelled, classes, alpha)
        return _Items(_indexed(data), channels, labelled, classes, alpha)
    if not os.fspath(data):
        raise no_images(data)
    path = os.path.abspath(os.fspath(data))
    if os.path.isdir(path):
        found = scan(path, system_folders)
        if labelled:
            _refuse_two_classes(found.linked)
        return _Files(path, found.images, channels, labelled, classes, alpha, found)
    if os.path.isfile(path):
        return _Files(os.path.dirname(path), _listed(path), channels, labelled, classes, alpha)
    raise no_images(path)


def _indexed(data: object) -> Indexed:
    """Something with items 0 to N - 1.

    Raises:
        ValueError: it is something else; the message says what to give.
    """
    kind = type(data).__name__
    if isinstance(data, type):
        raise ValueError(f"{data.__name__} is a class. Give an instance of it, such as {data.__name__}().")
    if isinstance(data, np.ndarray | Tensor) and data.dtype != object:
        check_arrays(data)
    elif isinstance(data, Mapping):
        names = ", ".join(printable(str(name)) for name in list(data)[:5])
        raise ValueError(f"The data are a {kind} of {names}. Give one of them, or a list of images.")
    elif isinstance(data, IterableDataset | bytes) or not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
        raise ValueError(
            f"{kind} cannot be read by index. Give a folder, a text file of paths, a list of images, an array "
            "(N, H, W, C), or a Dataset with __len__ and __getitem__."
        )
    found = cast(Indexed, data)
    try:
        count = len(found)
    except Exception as error:  # as the user's code and the libraries that it calls may raise
        raise ValueError(f"{kind} has no length ({_failure(error)}). Give a Dataset that knows its length.") from error
    if not count:
        raise ValueError(f"{kind} is empty. Give a Dataset with items.")
    if not isinstance(data, Dataset | list | tuple | np.ndarray | Tensor):
        _check_items(found)
    return found


def _check_items(data: Indexed) -> None:
    """Raises ValueError where something of another library has no items 0 to N - 1, as a table of pandas."""
    for i in range(min(3, len(data))):
        try:
            data[i]
        except (LookupError, TypeError) as error:
            reason = _failure(error)
        except Exception:  # its items are there, and this one is broken
            return
        else:
            return
    raise ValueError(
        f"{type(data).__name__} has no item 0 ({reason}). Give a list of images, an array (N, H, W, C), or a Dataset "
        "whose items 0 to N - 1 are images."
    )


def _check_open(source: Source, channels: int, labelled: bool, classes: Sequence[str] | None) -> None:
    """Raises ValueError where an open source is not as it was asked for."""
    if source.channels != channels:
        raise ValueError(
            f"The source has {counted(source.channels, 'channel')}, and {channels} were asked for. Open it with them."
        )
    if labelled and (source.labels is None or source.classes is None):
        raise ValueError("The source has no labels. Open it with labelled=True.")
    if labelled and classes is not None and [*map(composed, source.classes or ())] != [*map(composed, classes)]:
        raise ValueError(f"The source has the classes {source.classes}, expected {tuple(classes)}. Open it with those.")


def open_maybe_labelled(data: Data, channels: int = 3, alpha: Alpha = "auto") -> Source:
    """The images of DATA, with labels where all images of a folder lie in class folders, or where they are at hand.

    They are at hand in a Dataset's `targets`, in a column of classes, and in a list of tuples. Labels that are no
    classes (boxes, captions, several at once) are left aside.
    """
    if _has_labels(data):
        with suppress(ValueError):
            return open_source(data, channels=channels, labelled=True, alpha=alpha)
    return open_source(data, channels=channels, alpha=alpha)


def _has_labels(data: Data) -> bool:
    """Whether labels can be had without reading images."""
    if isinstance(data, str | os.PathLike):
        return os.path.isdir(data)
    if isinstance(data, list | tuple):
        return bool(data) and isinstance(data[0], tuple | list | Mapping)
    return _targets(data) is not None or any(column_classes(data, name) for name in features_of(data))


MOST_CLASSES = 1_000_000
"""That numbers alone name: larger numbers are no labels."""
_DECODER = 2
"""Counts up when files give other pixels than before, so that what was kept of them is made anew."""


class _Files(Source):
    """Image files, by their paths relative to a folder, with / between the parts."""

    def __init__(
        self, root: str, paths: list[str], channels: int, labelled: bool, classes: Sequence[str] | None, alpha: Alpha,
        scanned: Scanned | None = None,
    ) -> None:  # fmt: skip
        self.root = root
        self.channels = channels
        self.alpha = alpha
        self._notes = [] if scanned is None else scanned.notes()
        self.system_folders = 0 if scanned is None else scanned.systems.total()
        self._listing = b""  # of other names than the paths
        self._hold(paths)
        if labelled:
            self.labels, self.classes = folder_labels(root, paths, classes)

    def _hold(self, paths: Sequence[str]) -> None:
        """Keeps paths as one block of bytes: millions of strings would be copied page by page into forked workers."""
        self._text = os.fsencode("\0".join(paths))
        ends = np.flatnonzero(np.frombuffer(self._text, np.uint8) == 0)
        self._bounds = np.concatenate(([-1], ends, [len(self._text)]))

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def _path(self, i: int) -> str:
        return os.fsdecode(self._text[self._bounds[i] + 1 : self._bounds[i + 1]])

    @cached_property
    def _keys(self) -> np.ndarray:
        return np.fromiter((key_of(self._path(i)) for i in range(len(self))), np.int64, len(self))

    @property
    def keys(self) -> Tensor:
        return torch.from_numpy(self._keys)

    def name(self, i: int) -> str:
        return printable(self._path(i))

    def file(self, i: int) -> str:
        return os.path.join(self.root, self._path(i))

    def listing(self) -> bytes:
        return self._listing or self._text

    def called(self, names: Sequence[str], places: Sequence[int] | None = None) -> "_Files":
        made = copy.copy(self)
        if places is not None:
            made._hold([self._path(i) for i in places])
            made.labels = None if self.labels is None else self.labels[torch.tensor(places)]
        made._listing = os.fsencode("\0".join(names))
        made._keys = np.fromiter(map(key_of, names), np.int64, len(names))
        return made

    def seen_from(self, folder: str) -> list[str]:
        files = (os.path.normpath(self.file(i)) for i in range(len(self)))
        return [file.removeprefix(os.path.join(folder, "")).replace(os.sep, "/") for file in files]

    def read(self, i: int, decode_size: int | None) -> Tensor:
        try:
            return decode(self.file(i), self.channels, decode_size, int(self._keys[i]), self.alpha)
        except BrokenImage as error:
            raise BrokenImage(self.name(i), error.reason) from error

    def missing(self) -> str:
        try:
            os.scandir(self.root).close()
        except OSError as error:
            return (
                f"{self.root} cannot be read any more ({error.strerror}). Put it back or mount it again; a run that "
                "has begun goes on with --resume."
            )
        return ""

    def version(self) -> str:
        digest = hashlib.blake2b(self._text, digest_size=16)
        digest.update(f"{_DECODER} {self.alpha} ".encode())
        digest.update(os.fsencode(os.path.realpath(self.root)))
        for i in range(len(self)):
            with suppress(OSError):  # it may be there next time
                found = os.stat(self.file(i))
                digest.update(f"{i} {found.st_ino} {found.st_size} {found.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def kind(self, i: int) -> str:
        return kind_of(self.file(i), self.channels, self.alpha)

    def notes(self) -> list[str]:
        return self._notes


class _Items(Source):
    """The items of a Dataset, a list or an array."""

    def __init__(
        self, dataset: Indexed, channels: int, labelled: bool, classes: Sequence[str] | None, alpha: Alpha
    ) -> None:
        self.dataset = dataset
        self.channels = channels
        self.alpha = alpha
        self._failed: dict[int, str] = {}
        self._keys = torch.arange(len(dataset))
        if labelled:
            self.labels, self.classes = _item_labels(dataset, len(self), classes, self._failed)

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def keys(self) -> Tensor:
        return self._keys

    def name(self, i: int) -> str:
        return f"item {i}"

    def read(self, i: int, decode_size: int | None) -> Tensor:
        if i in self._failed:  # its label is not known
            raise BrokenImage(self.name(i), self._failed[i])
        try:
            item = self.dataset[i]
        except MemoryError:
            raise
        except Exception as error:  # the user's code and the libraries that it calls stumble in every way there is
            raise BrokenImage(self.name(i), _failure(error)) from error
        try:
            image = image_of(item)
        except TypeError as error:
            raise self._no_image(i, str(error)) from None
        try:
            match image:
                case Image.Image():
                    return from_pillow(image, self.channels, decode_size, i, self.alpha)
                case Tensor():
                    return from_tensor(tensor_planes(image, self.channels), self.channels, decode_size, i)
                case np.ndarray() if image.dtype.kind in "buif":
                    native = planes(image, self.channels).astype(image.dtype.newbyteorder("="))
                    return from_tensor(torch.from_numpy(native), self.channels, decode_size, i)
                case str() | bytes() | os.PathLike() if isinstance(image, bytes) or is_path(image):
                    return decode(image, self.channels, decode_size, i, self.alpha)
                case Mapping() if is_encoded(image):
                    file = image["bytes"] if image["bytes"] is not None else image["path"]
                    return decode(file, self.channels, decode_size, i, self.alpha)
        except MemoryError:
            raise
        except ValueError as error:
            raise BrokenImage(self.name(i), reason_of(error)) from error
        except Exception as error:
            raise BrokenImage(self.name(i), _failure(error)) from error
        what = f"an array of {image.dtype}" if isinstance(image, np.ndarray) else with_article(type(image).__name__)
        raise self._no_image(i, what)

    def _no_image(self, i: int, what: str) -> TypeError:
        return TypeError(
            f"Item {i} of {type(self.dataset).__name__} holds {what} where an image belongs. Return a PIL image, an "
            "array (H, W, C), a tensor (C, H, W) or a path, alone, first in a tuple, or as the column image of a dict."
        )

    def kind(self, i: int) -> str:
        kind = type(self.dataset).__name__
        with suppress(Exception):  # `read` says why an item cannot be had
            image = image_of(self.dataset[i])
            if isinstance(image, str | os.PathLike) and is_path(image):
                return kind_of(image, self.channels, self.alpha)
            if isinstance(image, Image.Image):
                kind += f" {pillow_kind(image, self.channels, self.alpha)}"
        return kind


class Subset(Source):
    """Some images of a source, by their places in it."""

    def __init__(self, source: Source, places: Sequence[int]) -> None:
        self.source = source
        self.places = torch.tensor(places, dtype=torch.int64)
        self.channels = source.channels
        self.alpha = source.alpha
        self.classes = source.classes
        self.labels = None if source.labels is None else source.labels[self.places]

    def __len__(self) -> int:
        return len(self.places)

    @property
    def keys(self) -> Tensor:
        return self.source.keys[self.places]

    def name(self, i: int) -> str:
        return self.source.name(int(self.places[i]))

    def file(self, i: int) -> str | None:
        return self.source.file(int(self.places[i]))

    def read(self, i: int, decode_size: int | None) -> Tensor:
        return self.source.read(int(self.places[i]), decode_size)

    def missing(self) -> str:
        return self.source.missing()

    def version(self) -> str:
        places = hashlib.blake2b(self.places.numpy().tobytes(), digest_size=16).hexdigest()
        return f"{self.source.version()} {places}"

    def kind(self, i: int) -> str:
        return self.source.kind(int(self.places[i]))

    def notes(self) -> list[str]:
        return self.source.notes()


def statistics(source: Source, decode_size: int | None, images: int = 1000) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, of values in [0, 1], from at most `images` drawn images.

    Raises:
        ValueError: none of them can be read, or a channel has one value in all of them.
    """
    seen = []
    for i in permutation(len(source), "statistics")[:images].tolist():
        with suppress(BrokenImage):
            seen.append(moments(source.read(i, decode_size)))
    if not seen:
        raise ValueError(f"None of {counted(min(images, len(source)), 'image')} could be read, so they have no mean.")
    mean, square = torch.stack(seen).mean(0)
    std = (square - mean**2).clamp(min=0).sqrt()
    if not bool((std > 0).all()):
        raise ValueError(f"Channel {int(std.argmin())} has the same value in all images. Leave it out of them.")
    return mean.tolist(), std.tolist()


def _refuse_two_classes(linked: Mapping[str, str]) -> None:
    """Raises ValueError where a class folder is another one, or holds it: its images would have two labels."""
    for link, there in linked.items():
        if there and link.split("/")[0] != there.split("/")[0]:
            raise ValueError(f"{link} is the same folder as {there}: its images would be of two classes. Remove one.")


def _as_there(path: str, listings: dict[str, dict[str, str]]) -> str:
    """A path with its names in the form that this disk has: Unicode writes some letters in two ways (NFC, NFD).

    What is not there in any form stays as it is.

    Args:
        path: absolute.
        listings: of folders that were looked into, their names by their composed form.
    """
    if path.isascii() or os.path.lexists(path):
        return path
    folder, name = os.path.split(path)
    folder = _as_there(folder, listings)
    if folder not in listings:
        listings[folder] = {}
        with suppress(OSError):
            listings[folder] = {composed(each): each for each in os.listdir(folder)}
    return os.path.join(folder, listings[folder].get(composed(name), name))


def _relative(paths: list[str], root: str, where: str) -> list[str]:
    """Paths relative to a folder where they lie in it, with / between the parts.

    Raises:
        FileNotFoundError: none of the first is there.
    """
    listings: dict[str, dict[str, str]] = {}
    paths = [p if p.isascii() else _as_there(os.path.join(root, p), listings) for p in paths]
    if not any(os.path.exists(os.path.join(root, p)) for p in paths[:100]):
        raise FileNotFoundError(
            f"None of the first {counted(min(100, len(paths)), 'file')} that {where} names exists; the first is "
            f"{brief(os.path.join(root, paths[0]), LONGEST_PATH)}. Paths are absolute or relative to {root}."
        )
    return [p.removeprefix(os.path.join(root, "")).replace(os.sep, "/") for p in paths]


def _listed(path: str) -> list[str]:
    """The paths in a text file, in its order, relative to its folder where they lie in it."""
    with open(path, "rb") as file:
        content = file.read().removeprefix(b"\xef\xbb\xbf")
    if b"\0" in content or os.path.splitext(path)[1].lower()[1:] in SUFFIXES:
        raise ValueError(
            f"{path} is no text file of paths. Give a folder of images, or a text file with one path per line."
        )
    root = os.path.dirname(path)
    # a name may end in a space or hold what splitlines() takes for the end of a line
    lines = (line.removesuffix("\r") for line in os.fsdecode(content).split("\n"))
    paths = [os.path.normpath(line) for line in lines if line.strip() and not line.startswith("#")]
    if not paths:
        raise ValueError(f"{path} names no image. Give a text file with one path per line.")
    return _relative(paths, root, path)


def _failure(error: Exception) -> str:
    """An exception in one line, with its type."""
    if isinstance(error, BrokenImage):  # somebody has said it
        return error.reason
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


def _targets(dataset: object) -> object | None:
    """A Dataset's `targets`; None where it has none, or they cannot be had."""
    try:
        found: object = dataset.targets  # type: ignore[attr-defined]
    except Exception:  # a property may do anything
        return None
    return found


def _item_labels(
    dataset: Indexed, count: int, classes: Sequence[str] | None, failed: dict[int, str]
) -> tuple[Tensor, tuple[str, ...]]:
    """Labels and class names. Items that cannot be had get another one's label, and their reason in `failed`."""
    name = type(dataset).__name__
    labels, own = _targets(dataset), _own_classes(dataset)
    if labels is None:
        labels, own = _labels_of_items(dataset, count, failed, own)
    numbers, texts = class_numbers(labels, count, name)
    if texts is not None:
        known = None if own is None or {*map(composed, texts)} - {*map(composed, own)} else own
        return onto(texts, numbers, known if classes is None else tuple(classes), name)
    top = int(numbers.max())
    if own is None and classes is None and top >= MOST_CLASSES:
        raise ValueError(
            f"{name} has the label {top}, which would be one of {counted(top + 1, 'class', grouped=True)}. "
            "Number the classes from 0, such as with numpy.unique(labels, return_inverse=True)."
        )
    names = own or (tuple(classes) if classes is not None else tuple(str(k) for k in range(top + 1)))
    if top >= len(names):
        raise ValueError(f"{name} has the label {top}, but there are {counted(len(names), 'class')}.")
    return onto(names, numbers, names if classes is None else tuple(classes), name)


def _labels_of_items(
    dataset: Indexed, count: int, failed: dict[int, str], own: tuple[str, ...] | None
) -> tuple[list[object], tuple[str, ...] | None]:
    """The labels in a Dataset's items, and the class names that it has for them."""
    found: list[object] = []
    column: object | None = None
    missing = object()
    for i in range(count):
        try:
            item = dataset[i]
        except MemoryError:
            raise
        except Exception as error:
            failed[i] = _failure(error)
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
    """The class names of a Dataset, where it has a list of them."""
    try:
        return tuple(printable(str(c)) for c in dataset.classes)  # type: ignore[attr-defined]
    except Exception:  # none, or no list
        return None

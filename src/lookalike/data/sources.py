"""Where images come from: a folder, a text file of paths, or a torch Dataset behind one face."""

import difflib
import hashlib
import heapq
import os
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from ..printing import LONGEST_PATH, brief, counted, printable, shown
from ..random import key_of, permutation
from ..runs import Alpha
from .decoding import LEFT_OUT, SUFFIXES, BrokenImage, decode, from_pillow, from_tensor, kind_of, pillow_kind
from .images import moments


class Source(ABC):
    """Images with names, keys and perhaps labels. Small, and made to be sent to worker processes."""

    channels: int
    alpha: Alpha = "auto"
    """What becomes of an alpha channel; see `decode`."""
    labels: Tensor | None = None
    """(N,) int64, places in `classes`; None without labels."""
    classes: tuple[str, ...] | None = None

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


def open_source(
    data: str | os.PathLike[str] | Dataset[object] | Source,
    channels: int = 3,
    labelled: bool = False,
    classes: Sequence[str] | None = None,
    alpha: Alpha = "auto",
) -> Source:
    """Finds the images of DATA; none is opened yet.

    Args:
        data: a folder, searched recursively, where file order never matters and hidden names are passed over; a text
            file with a path per line, absolute or relative to its own folder (blank lines and # comments are passed
            over); or a map-style Dataset whose items are an image, or a tuple of an image, a label and more, the image
            as a PIL image, an array (H, W) or (H, W, C), or a tensor (H, W) or (C, H, W). A `Source` that is open
            already stays as it is, where it has these channels, labels and classes.
        channels: how many channels images are brought to.
        labelled: take labels: a file's first folder below DATA; a Dataset's `targets`, or else its items' second parts.
        classes: with `labelled`, the class names in their order, as a training set gave them. None: those found.
        alpha: what becomes of an alpha channel; see `decode`. A `Source` that is open keeps its own.

    Raises:
        FileNotFoundError: no such folder or file, or no listed file exists.
        ValueError: no image in it; a file outside a class folder; a class that `classes` lacks.
    """
    if channels < 1:
        raise ValueError(f"channels is {channels}; images have at least 1.")
    if isinstance(data, Source):
        _check_open(data, channels, labelled, classes)
        return data
    if isinstance(data, Dataset):
        return _Items(data, channels, labelled, classes, alpha)
    if not os.fspath(data):
        raise ValueError("DATA is empty. Give a folder of images or a text file with one path per line.")
    path = os.path.abspath(os.fspath(data))
    if os.path.isdir(path):
        images, linked = _scan(path)
        if labelled:
            _refuse_two_classes(linked)
        return _Files(path, images, channels, labelled, classes, alpha, linked)
    if os.path.isfile(path):
        return _Files(os.path.dirname(path), _listed(path), channels, labelled, classes, alpha, {})
    raise FileNotFoundError(
        f"{brief(path, LONGEST_PATH)} does not exist. Give a folder of images or a text file with one path per line."
    )


def _check_open(source: Source, channels: int, labelled: bool, classes: Sequence[str] | None) -> None:
    """Raises ValueError where an open source is not as it was asked for."""
    if source.channels != channels:
        raise ValueError(
            f"The source has {counted(source.channels, 'channel')}, and {channels} were asked for. Open it with them."
        )
    if labelled and (source.labels is None or source.classes is None):
        raise ValueError("The source has no labels. Open it with labelled=True.")
    if labelled and classes is not None and source.classes != tuple(classes):
        raise ValueError(f"The source has the classes {source.classes}, expected {tuple(classes)}. Open it with those.")


def open_maybe_labelled(
    data: str | os.PathLike[str] | Dataset[object], channels: int = 3, alpha: Alpha = "auto"
) -> Source:
    """The images of DATA, with labels where all images of a folder lie in class folders, or a Dataset has `targets`.

    Labels that are no numbers of classes (boxes, texts, several at once) are left aside.
    """
    known = _targets(data) is not None if isinstance(data, Dataset) else os.path.isdir(data)
    if known:
        with suppress(ValueError):
            return open_source(data, channels=channels, labelled=True, alpha=alpha)
    return open_source(data, channels=channels, alpha=alpha)


_SAMPLE, _SECONDS = 64, 3.0  # images, and time for them, in which doubtful transparency is looked for


def remarks(source: Source, asks: bool = True) -> list[str]:
    """What is to be said before images are used: what was passed over, and channels that are left out.

    Args:
        source: of which some images, spread over all of it, are looked at.
        asks: whether whoever reads it can choose, with --alpha.
    """
    kinds: Counter[str] = Counter()
    began = time.monotonic()
    for i in permutation(len(source), "remarks")[:_SAMPLE].tolist() if source.alpha == "auto" else []:
        with suppress(Exception):  # who reads the image says why it cannot be read
            kinds[source.kind(i)] += 1
        if time.monotonic() - began > _SECONDS:
            break
    return [*source.notes(), *left_out(kinds, asks)]


def left_out(kinds: Mapping[str, int], asks: bool = True) -> list[str]:
    """A line about channels that are left out, from what `Source.kind` said of images and how often."""
    found = {kind.removesuffix(f", {LEFT_OUT}"): n for kind, n in kinds.items() if kind.endswith(LEFT_OUT)}
    if not found:
        return []
    choice = (
        " --alpha white lays such images on white, --alpha drop leaves the channel out of all; pretraining with "
        "--channels 4 keeps it."
    )
    return [
        f"{sum(found.values())} of {counted(sum(kinds.values()), 'image')} looked at ({', '.join(found)}) "
        f"{'has' if sum(found.values()) == 1 else 'have'} a last channel "
        "that may be no transparency (near infrared, a height, a mask): it is left out, and colours stay as they are."
        + (choice if asks else "")
    ]


_DECODER = 2
"""Counts up when files give other pixels than before, so that what was kept of them is made anew."""


class _Files(Source):
    """Image files, by their paths relative to a folder, with / between the parts."""

    def __init__(
        self, root: str, paths: list[str], channels: int, labelled: bool, classes: Sequence[str] | None, alpha: Alpha,
        linked: Mapping[str, str],
    ) -> None:  # fmt: skip
        self.root = root
        self.channels = channels
        self.alpha = alpha
        self._linked = linked
        # One block of bytes: millions of strings would be copied page by page into every forked worker.
        self._text = os.fsencode("\0".join(paths))
        ends = np.flatnonzero(np.frombuffer(self._text, np.uint8) == 0)
        self._bounds = np.concatenate(([-1], ends, [len(self._text)]))
        if labelled:
            self.labels, self.classes = _folder_labels(root, paths, classes)

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
        if not self._linked:
            return []
        link, there = next(iter(self._linked.items()))
        return [
            f"{len(self._linked)} linked folders lead to folders that are read already, and are passed over: {link} is "
            f"{there or '.'}" + (", ..." if len(self._linked) > 1 else "")
        ]


class _Items(Source):
    """A torch Dataset's items."""

    def __init__(
        self, dataset: Dataset[object], channels: int, labelled: bool, classes: Sequence[str] | None, alpha: Alpha
    ) -> None:
        if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
            raise ValueError(
                f"{type(dataset).__name__} cannot be read by index. Give a Dataset with __len__ and __getitem__."
            )
        self.dataset = dataset
        self.channels = channels
        self.alpha = alpha
        self._failed: dict[int, str] = {}
        self._keys = torch.arange(len(dataset))
        if not len(self):
            raise ValueError(f"{type(dataset).__name__} is empty. Give a Dataset with items.")
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
        image = item[0] if isinstance(item, tuple | list) and item else item
        try:
            match image:
                case Image.Image():
                    return from_pillow(image, self.channels, decode_size, i, self.alpha)
                case Tensor():
                    return from_tensor(image[None] if image.ndim == 2 else image, self.channels, decode_size, i)
                case np.ndarray() if image.dtype.kind in "buif":
                    planes = np.atleast_3d(image).transpose(2, 0, 1).astype(image.dtype.newbyteorder("="))
                    return from_tensor(torch.from_numpy(planes), self.channels, decode_size, i)
        except MemoryError:
            raise
        except ValueError as error:
            raise BrokenImage(self.name(i), str(error)) from error
        except Exception as error:
            raise BrokenImage(self.name(i), _failure(error)) from error
        what = f"an array of {image.dtype}" if isinstance(image, np.ndarray) else f"a {type(image).__name__}"
        raise TypeError(
            f"Item {i} of {type(self.dataset).__name__} holds {what} where an image belongs. "
            "Return a PIL image, an array (H, W, C) or a tensor (C, H, W), alone or first in a tuple."
        )

    def kind(self, i: int) -> str:
        kind = type(self.dataset).__name__
        with suppress(Exception):  # `read` says why an item cannot be had
            item = self.dataset[i]
            image = item[0] if isinstance(item, tuple | list) else item
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


def _scan(root: str) -> tuple[list[str], dict[str, str]]:
    """All images below `root`, sorted, and the linked folders that are passed over, with the one that was read.

    Each folder is entered once, whatever links lead to it: by the way with the fewest links, then the shortest, then
    the first in the order of names. So links neither multiply images nor lead in circles.
    """
    images: list[str] = []
    others: Counter[str] = Counter()
    entered: dict[tuple[int, int] | str, str] = {}
    linked: dict[str, str] = {}
    ways = [(0, 0, "")]  # links, folders, path
    while ways:
        links, depth, prefix = heapq.heappop(ways)
        folder = os.path.join(root, prefix)
        status = os.stat(folder)
        here = (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(folder)
        if here in entered:
            linked[prefix] = entered[here]
            continue
        entered[here] = prefix
        if prefix and os.path.isfile(f"{folder}run.yaml") and os.path.isdir(f"{folder}checkpoints"):
            continue  # the folder of a run, whose pictures are none of the data
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                # a link that leads nowhere or to itself is a file that cannot be read
                if os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir():
                    heapq.heappush(ways, (links + entry.is_symlink(), depth + 1, f"{prefix}{entry.name}/"))
                elif (suffix := os.path.splitext(entry.name)[1].lower())[1:] in SUFFIXES:
                    images.append(prefix + entry.name)
                else:
                    others[suffix or "without suffix"] += 1
    if not images:
        found = "but " + ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(5))
        raise ValueError(
            f"{root} holds no image, {found if others else 'and no files at all'}. "
            "Give a folder with images (.jpg, .png, .tif, .webp, .npy ...)."
        )
    images.sort()
    return images, linked


def _refuse_two_classes(linked: Mapping[str, str]) -> None:
    """Raises ValueError where a class folder is another one, or holds it: its images would have two labels."""
    for link, there in linked.items():
        if there and link.split("/")[0] != there.split("/")[0]:
            raise ValueError(f"{link} is the same folder as {there}: its images would be of two classes. Remove one.")


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
    if not any(os.path.exists(os.path.join(root, p)) for p in paths[:100]):
        raise FileNotFoundError(
            f"None of the first {counted(min(100, len(paths)), 'file')} that {path} names exists; the first is "
            f"{brief(os.path.join(root, paths[0]), LONGEST_PATH)}. Paths are absolute or relative to {root}."
        )
    return [p.removeprefix(os.path.join(root, "")).replace(os.sep, "/") for p in paths]


def _folder_labels(root: str, paths: list[str], classes: Sequence[str] | None) -> tuple[Tensor, tuple[str, ...]]:
    found: dict[str, int] = {}

    def first_folders() -> Iterator[int]:
        for path in paths:
            folder, slash, _ = path.partition("/")
            if not (folder and slash) or folder == "..":
                raise ValueError(
                    f"{printable(path)} lies in no class folder of {root}. Labels are the names of the first folders: "
                    f"{root}/CLASS/{printable(path)}."
                )
            yield found.setdefault(folder, len(found))

    numbers = torch.from_numpy(np.fromiter(first_folders(), np.int64, len(paths)))
    # bytes and control characters would act on every file and line that names the class
    names = tuple(map(printable, found))
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"{root} has several folders that are all written {twice[0]}. Rename all but one.")
    return _onto(names, numbers, tuple(sorted(names)) if classes is None else tuple(map(printable, classes)), root)


def _failure(error: Exception) -> str:
    """An exception in one line, with its type."""
    if isinstance(error, BrokenImage):  # somebody has said it
        return error.reason
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


def _targets(dataset: Dataset[object]) -> object | None:
    """A Dataset's `targets`; None where it has none, or they cannot be had."""
    try:
        found: object = dataset.targets  # type: ignore[attr-defined]
    except Exception:  # a property may do anything
        return None
    return found


def _item_labels(
    dataset: Dataset[object], count: int, classes: Sequence[str] | None, failed: dict[int, str]
) -> tuple[Tensor, tuple[str, ...]]:
    """Labels and class names. Items that cannot be had get label 0, and their reason in `failed`: they are not used."""
    name = type(dataset).__name__
    labels = _targets(dataset)
    if labels is None:
        seconds: list[object] = []
        for i in range(count):
            try:
                item = dataset[i]
            except MemoryError:
                raise
            except Exception as error:
                failed[i] = _failure(error)
                seconds.append(0)
                continue
            if not isinstance(item, tuple | list) or len(item) < 2 or item[1] is None:
                raise ValueError(f"Item {i} of {name} has no label. Return tuples of an image and an int.")
            seconds.append(item[1])
        labels = seconds
    numbers = _class_numbers(labels, count, name)
    top = int(numbers.max())
    own = _own_classes(dataset)
    names = own or (tuple(classes) if classes is not None else tuple(str(k) for k in range(top + 1)))
    if top >= len(names):
        raise ValueError(f"{name} has the label {top}, but there are {counted(len(names), 'class')}.")
    return _onto(names, numbers, names if classes is None else tuple(classes), name)


def _class_numbers(labels: object, count: int, name: str) -> Tensor:
    """Labels as numbers (N,) int64, or ValueError with what they are."""
    expected = f"expected {count} integers from 0, the numbers of classes"
    try:
        array = labels.cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    except Exception:  # rows of unequal length
        array = np.array(None)
    if array.dtype.kind not in "biu" or array.shape != (count,):
        found = f"of shape {array.shape} and type {array.dtype}"
        if array.dtype.kind not in "biuf" and isinstance(labels, Sequence) and labels:
            shown = repr(labels[0])
            found = f"of type {type(labels[0]).__name__}, such as {shown if len(shown) < 60 else shown[:57] + '...'}"
        raise ValueError(f"The labels of {name} are {found}; {expected}.")
    if int(array.min()) < 0:
        raise ValueError(f"{name} has the label {int(array.min())}; {expected}.")
    return torch.from_numpy(array.astype(np.int64))


def _own_classes(dataset: Dataset[object]) -> tuple[str, ...] | None:
    """The class names of a Dataset, where it has a list of them."""
    try:
        return tuple(printable(str(c)) for c in dataset.classes)  # type: ignore[attr-defined]
    except Exception:  # none, or no list
        return None


def _onto(
    found: tuple[str, ...], numbers: Tensor, classes: tuple[str, ...], where: str
) -> tuple[Tensor, tuple[str, ...]]:
    """Turns numbers of `found` names into numbers of `classes`."""
    place = {name: k for k, name in enumerate(classes)}
    for name in found:
        if name not in place:
            near = difflib.get_close_matches(name, classes, n=3, cutoff=0.4) or list(classes[:3])
            raise ValueError(
                f"{where} has the class {shown(name)}, which is none of the {len(classes)} known ones; nearest: "
                f"{', '.join(near)}."
            )
    return torch.tensor([place[name] for name in found])[numbers], classes

"""Where images come from: a folder, a text file of paths, or a torch Dataset behind one face."""

import difflib
import hashlib
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cached_property

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from ..printing import LONGEST_PATH, brief, printable, shown
from ..random import key_of, permutation
from .decoding import SUFFIXES, BrokenImage, decode, from_pillow, from_tensor, kind_of
from .images import moments


class Source(ABC):
    """Images with names, keys and perhaps labels. Small, and made to be sent to worker processes."""

    channels: int
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


def open_source(
    data: str | os.PathLike[str] | Dataset[object] | Source,
    channels: int = 3,
    labelled: bool = False,
    classes: Sequence[str] | None = None,
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
        return _Items(data, channels, labelled, classes)
    if not os.fspath(data):
        raise ValueError("DATA is empty. Give a folder of images or a text file with one path per line.")
    path = os.path.abspath(os.fspath(data))
    if os.path.isdir(path):
        return _Files(path, _scan(path), channels, labelled, classes)
    if os.path.isfile(path):
        return _Files(os.path.dirname(path), _listed(path), channels, labelled, classes)
    raise FileNotFoundError(
        f"{brief(path, LONGEST_PATH)} does not exist. Give a folder of images or a text file with one path per line."
    )


def _check_open(source: Source, channels: int, labelled: bool, classes: Sequence[str] | None) -> None:
    """Raises ValueError where an open source is not as it was asked for."""
    if source.channels != channels:
        raise ValueError(
            f"The source has {source.channels} channels, and {channels} were asked for. Open it with them."
        )
    if labelled and (source.labels is None or source.classes is None):
        raise ValueError("The source has no labels. Open it with labelled=True.")
    if labelled and classes is not None and source.classes != tuple(classes):
        raise ValueError(f"The source has the classes {source.classes}, expected {tuple(classes)}. Open it with those.")


def open_maybe_labelled(data: str | os.PathLike[str] | Dataset[object], channels: int = 3) -> Source:
    """The images of DATA, with labels where all images of a folder lie in class folders, or a Dataset has `targets`."""
    known = hasattr(data, "targets") if isinstance(data, Dataset) else os.path.isdir(data)
    if known:
        with suppress(ValueError):
            return open_source(data, channels=channels, labelled=True)
    return open_source(data, channels=channels)


class _Files(Source):
    """Image files, by their paths relative to a folder, with / between the parts."""

    def __init__(
        self, root: str, paths: list[str], channels: int, labelled: bool, classes: Sequence[str] | None
    ) -> None:
        self.root = root
        self.channels = channels
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
            return decode(self.file(i), self.channels, decode_size, int(self._keys[i]))
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
        digest.update(os.fsencode(os.path.realpath(self.root)))
        for i in range(len(self)):
            with suppress(OSError):  # it may be there next time
                found = os.stat(self.file(i))
                digest.update(f"{i} {found.st_ino} {found.st_size} {found.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def kind(self, i: int) -> str:
        return kind_of(self.file(i))


class _Items(Source):
    """A torch Dataset's items."""

    def __init__(self, dataset: Dataset[object], channels: int, labelled: bool, classes: Sequence[str] | None) -> None:
        if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
            raise ValueError(
                f"{type(dataset).__name__} cannot be read by index. Give a Dataset with __len__ and __getitem__."
            )
        self.dataset = dataset
        self.channels = channels
        self._keys = torch.arange(len(dataset))
        if not len(self):
            raise ValueError(f"{type(dataset).__name__} is empty. Give a Dataset with items.")
        if labelled:
            self.labels, self.classes = _item_labels(dataset, len(self), classes)

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def keys(self) -> Tensor:
        return self._keys

    def name(self, i: int) -> str:
        return f"item {i}"

    def read(self, i: int, decode_size: int | None) -> Tensor:
        try:
            item = self.dataset[i]
        except (BrokenImage, OSError, SyntaxError, Image.DecompressionBombError) as error:  # what Pillow raises
            reason = error.reason if isinstance(error, BrokenImage) else f"{error}"
            raise BrokenImage(self.name(i), reason) from error
        image = item[0] if isinstance(item, tuple | list) else item
        try:
            match image:
                case Image.Image():
                    return from_pillow(image, self.channels, decode_size, i)
                case Tensor():
                    return from_tensor(image[None] if image.ndim == 2 else image, self.channels, decode_size, i)
                case np.ndarray():
                    planes = np.atleast_3d(image).transpose(2, 0, 1).astype(image.dtype.newbyteorder("="))
                    return from_tensor(torch.from_numpy(planes), self.channels, decode_size, i)
        except (ValueError, OSError, SyntaxError) as error:
            raise BrokenImage(self.name(i), str(error)) from error
        raise TypeError(
            f"Item {i} of {type(self.dataset).__name__} holds a {type(image).__name__} where an image belongs. "
            "Return a PIL image, an array (H, W, C) or a tensor (C, H, W), alone or first in a tuple."
        )

    def kind(self, i: int) -> str:
        return type(self.dataset).__name__


class Subset(Source):
    """Some images of a source, by their places in it."""

    def __init__(self, source: Source, places: Sequence[int]) -> None:
        self.source = source
        self.places = torch.tensor(places, dtype=torch.int64)
        self.channels = source.channels
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
        raise ValueError(f"None of {min(images, len(source))} images could be read, so they have no mean.")
    mean, square = torch.stack(seen).mean(0)
    std = (square - mean**2).clamp(min=0).sqrt()
    if not bool((std > 0).all()):
        raise ValueError(f"Channel {int(std.argmin())} has the same value in all images. Leave it out of them.")
    return mean.tolist(), std.tolist()


def _scan(root: str) -> list[str]:
    """All images below `root`, sorted. Linked folders are followed, except into a folder that the way there crossed."""
    images: list[str] = []
    others: Counter[str] = Counter()
    stack: list[tuple[str, tuple[tuple[int, int], ...]]] = [("", ())]
    while stack:
        prefix, above = stack.pop()
        folder = os.path.join(root, prefix)
        status = os.stat(folder)
        here = (status.st_dev, status.st_ino)
        if here in above:
            continue
        if prefix and os.path.isfile(f"{folder}run.yaml") and os.path.isdir(f"{folder}checkpoints"):
            continue  # the folder of a run, whose pictures are none of the data
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                # a link that leads nowhere or to itself is a file that cannot be read
                if os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir():
                    stack.append((f"{prefix}{entry.name}/", (*above, here)))
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
    return images


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
            f"None of the first {min(100, len(paths))} files that {path} names exists; the first is "
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


def _item_labels(dataset: Dataset[object], count: int, classes: Sequence[str] | None) -> tuple[Tensor, tuple[str, ...]]:
    name = type(dataset).__name__
    if hasattr(dataset, "targets"):
        numbers = torch.as_tensor(dataset.targets)
    else:
        items = (dataset[i] for i in range(count))
        labels = [item[1] if isinstance(item, tuple | list) and len(item) > 1 else None for item in items]
        if None in labels:
            raise ValueError(f"Item {labels.index(None)} of {name} has no label. Return tuples of an image and an int.")
        numbers = torch.tensor(labels)
    if numbers.shape != (count,) or numbers.is_floating_point() or int(numbers.min()) < 0:
        raise ValueError(f"The labels of {name} are not {count} integers from 0; labels are numbers of classes.")
    top = int(numbers.max())
    own = tuple(printable(str(c)) for c in dataset.classes) if hasattr(dataset, "classes") else None
    names = own or (tuple(classes) if classes is not None else tuple(str(k) for k in range(top + 1)))
    if top >= len(names):
        raise ValueError(f"{name} has the label {top}, but there are {len(names)} classes.")
    return _onto(names, numbers.to(torch.int64), names if classes is None else tuple(classes), name)


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

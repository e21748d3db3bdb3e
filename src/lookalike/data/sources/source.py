"""The interface of all sources of images."""

import copy
import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

from torch import Tensor
from torch.utils.data import Dataset

from ...image_options import Pixels
from .categorical import Categorical


class Indexed(Protocol):
    """A container whose items 0 to N - 1 are images: a list, an array, a torch Dataset, a Hugging Face Dataset."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int, /) -> object: ...


class Source(ABC):
    """Images with names, keys and optional labels. Small enough to be sent to worker processes."""

    channels: int
    pixels: Pixels = Pixels()
    """How pixels are read; a source of your own states `channels` alone."""
    labels: Tensor | None = None
    """(N,) int64, indices into `classes`; None without labels."""
    classes: tuple[str, ...] | None = None
    label_sets: Tensor | None = None
    """(N, classes) bool, whether an image has a class, if images may have several; `labels` is then None."""
    groups: Categorical | None = None
    """The group of each image (a patient, a scene, a video), if known."""
    splits: Categorical | None = None
    """The split of each image as its list has it, such as train or test, if known."""
    unusable: Mapping[str, str] = MappingProxyType({})
    """Why columns of a list cannot be used, by name of the field: `labels`, `groups`, `splits`."""
    system_folders: int = 0
    """Number of skipped system folders, such as @eaDir."""

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    @abstractmethod
    def keys(self) -> Tensor:
        """(N,) int64: seeds of each image's random draws, independent of its index and of the other images."""

    @abstractmethod
    def name(self, i: int) -> str:
        """The image's name, safe to print."""

    @abstractmethod
    def read(self, i: int, decode_size: int | None) -> Tensor:
        """(C, H, W) uint8, uint16 or float32, contiguous; see `decode`. Raises BrokenImage."""

    def reading(self, pixels: Pixels) -> "Source":
        """A copy whose pixels are read in another way. A source of your own reads them as it does."""
        other = copy.copy(self)
        other.pixels, other.channels = pixels, pixels.channels
        return other

    def size(self, i: int) -> tuple[int, int] | None:
        """Height and width of an image by its header; None if they are known only after decoding."""
        return None

    def read_box(self, i: int, box: tuple[int, int, int, int]) -> Tensor | None:
        """The part (top, left, height, width) of an image, equal to that of `read`; None if `read` is as fast.

        Raises:
            BrokenImage: it cannot be read.
        """
        return None

    def file(self, i: int) -> str | None:
        """The path of the image's file; None if the image is not a file."""
        return None

    def head(self, i: int, limit: int) -> tuple[int, bytes] | None:
        """The size of an image's file in bytes and its first `limit` bytes; None if it has none or is unreadable."""
        return None

    def listing(self) -> bytes | None:
        """The names from which keys are computed, separated by zero bytes; None if keys do not come from names."""
        return None

    def called(self, names: Sequence[str], places: Sequence[int] | None = None) -> "Source":
        """A copy of the files at indices `places` (default: all) with keys computed from `names`.

        Sources that are not files return themselves unchanged.
        """
        return self

    def take_columns(self, source: "Source", places: Tensor) -> None:
        """Takes labels, groups and splits from the images of `source` at indices `places` (len(self),)."""
        self.classes, self.unusable = source.classes, dict(source.unusable)
        self.labels = None if source.labels is None else source.labels[places]
        self.label_sets = None if source.label_sets is None else source.label_sets[places]
        self.groups = None if source.groups is None else source.groups.at(places)
        self.splits = None if source.splits is None else source.splits.at(places)

    def seen_from(self, folder: str) -> list[str]:
        """The names that a list of paths in `folder` would give these files."""
        return []

    def missing(self) -> str:
        """The error and remedy if the whole source has disappeared since it was opened; otherwise empty."""
        return ""

    def version(self) -> str:
        """A digest of the order, names, sizes and modification times of the files.

        Raises:
            ValueError: the images are not files.
        """
        raise ValueError(
            "A cache on disk is identified by the image files, but these images are items of a Dataset. Use "
            "--cache ram or none, and no --cache-teacher."
        )

    def kind(self, i: int) -> str:
        """Format and mode before conversion to `channels`: "JPEG RGB", "TIFF I;16", "npy uint16 (5, 64, 64)"."""
        return type(self).__name__

    def notes(self) -> list[str]:
        """Remarks from the search for images, such as skipped files, one line each."""
        return []


def about(pixels: Pixels) -> str:
    """What a cache on disk depends on; for pictures, as in earlier versions, only the handling of alpha channels."""
    return f"{pixels.alpha} {pixels}" if str(pixels) else pixels.alpha


def image_set(source: Source) -> str:
    """Identifies the set of images: a resumed run needs the same images in the same order."""
    return f"{len(source)}-{hashlib.blake2b(source.keys.numpy().tobytes(), digest_size=16).hexdigest()}"


Data = str | os.PathLike[str] | Dataset[object] | Source | Indexed

"""What all sources of images can do, whatever their kind."""

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

from torch import Tensor
from torch.utils.data import Dataset

from ...image_options import Alpha


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

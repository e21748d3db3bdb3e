"""From DATA, whatever it is, to a source of images."""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress

import numpy as np

from ...image_options import Alpha
from ...places import no_images
from ...printing import composed, counted
from ..folders import scan
from ..items import column_classes, features_of
from .datasets import Items, indexed
from .files import Files, listed, refuse_two_classes, relative
from .item_labels import targets_of
from .source import Data, Source


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
            paths = relative([os.path.normpath(p) for p in data], here, "the list")
            return Files(here, paths, channels, labelled, classes, alpha)
        return Items(indexed(data), channels, labelled, classes, alpha)
    if not os.fspath(data):
        raise no_images(data)
    path = os.path.abspath(os.fspath(data))
    if os.path.isdir(path):
        found = scan(path, system_folders)
        if labelled:
            refuse_two_classes(found.linked)
        return Files(path, found.images, channels, labelled, classes, alpha, found)
    if os.path.isfile(path):
        return Files(os.path.dirname(path), listed(path), channels, labelled, classes, alpha)
    raise no_images(path)


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
    return targets_of(data) is not None or any(column_classes(data, name) for name in features_of(data))

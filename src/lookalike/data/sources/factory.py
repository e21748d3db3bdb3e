"""Opens DATA of any supported kind as a source of images."""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress

import numpy as np
import torch

from ...columns import COLUMNS, Columns
from ...image_options import Pixels, Tiling
from ...places import ARRAY_FILES, check_extra, exists, expanded, in_file, is_on_hub, no_images
from ...printing import composed, counted
from ..decoding import SUFFIXES
from ..folders import Scanned, scan
from ..items import column_classes, features_of
from .archives import SUFFIXES_OF_ARCHIVES, Archives
from .array_files import Arrays
from .arrow import STATE, saved_files
from .datasets import Items, indexed
from .files import Files, listed, refuse_two_classes, relative
from .frames import frames_of
from .hub import hub_files
from .item_labels import targets_of
from .row_files import SUFFIXES_OF_ROWS, Rows, listed_rows, sets_in, take_names
from .source import Data, Source
from .tables import TABLES, open_table, table_label_sets, table_labels
from .tiles import Tiles


def open_source(
    data: Data,
    pixels: Pixels | int = 3,
    labelled: bool = False,
    classes: Sequence[str] | None = None,
    system_folders: bool = False,
    columns: Columns = COLUMNS,
    multi_label: bool = False,
    tiling: Tiling | None = None,
) -> Source:
    """Finds the images of DATA without opening them.

    Args:
        data: a folder, searched recursively, where file order is irrelevant and hidden names and system folders are
            skipped; a text file with one path per line, absolute or relative to its own folder (blank lines and #
            comments are skipped); a list (.csv, .tsv, .jsonl) with the column path and optionally label, group and
            split; a .tar or .zip archive, a brace pattern of archives or a folder of them, whose members are read in
            place; likewise .parquet or .arrow files with the column image or path and optionally label, group and
            split; a folder that Hugging Face's `save_to_disk` wrote, or hf:NAME[@REVISION][:SPLIT]; an array
            FILE.h5::NAME or FILE.zarr::NAME; an array or tensor (N, H, W), (N, H, W, C) or (N, C, H, W); or a list, a
            map-style Dataset or a Hugging Face Dataset. An item is an image, a tuple (image, label, ...), or a row with
            columns for both. An image is a PIL image, an array (H, W), (H, W, C) or (C, H, W), a tensor (H, W) or
            (C, H, W), or a path. An open `Source` is returned unchanged if its channels, labels and classes match.
        pixels: how pixels are read, or only the number of channels to which images are converted. An open `Source`
            keeps its own settings.
        labelled: read labels: a file's first folder below DATA; members KEY.cls or KEY.json of an archive; the column
            label of rows; the array labels beside an array in a file; a Dataset's `targets`, otherwise those in its
            items.
        classes: with `labelled`, the class names in the order of a training set. None: those found in DATA.
        system_folders: also read images in system folders, such as @eaDir, as version 0.1 did.
        columns: names of the columns of a list. Groups and splits are read if it has them.
        multi_label: with `labelled`, an image may have any number of classes, as a;b in the column label of a list or
            table, or as a list in this column; they are in `label_sets`. Otherwise a ; is part of a class name.
        tiling: read tiles of the images instead. Of an open `Source`, too.

    Raises:
        FileNotFoundError: the folder or file does not exist, or no listed file exists.
        ValueError: no images found; a file outside a class folder; a class missing from `classes`; unsupported data.
        ModuleNotFoundError: the package that reads this kind of DATA is not installed.
    """
    pixels = Pixels.of(pixels)
    source = _opened(data, pixels, labelled, classes, system_folders, columns, multi_label)
    return source if tiling is None or isinstance(source, Tiles) else Tiles(source, tiling)


def _opened(
    data: Data, pixels: Pixels, labelled: bool, classes: Sequence[str] | None, system_folders: bool, columns: Columns,
    multi_label: bool,
) -> Source:  # fmt: skip
    """`open_source` without tiles."""
    if isinstance(data, Source):
        _check_open(data, pixels.channels, labelled, classes, multi_label)
        return data
    if labelled and multi_label and not is_table(data) and not _has_rows(data) and not _is_missing(data):
        raise ValueError(
            f"{_called(data)} cannot have several classes per image. Give a list (.csv, .tsv, .jsonl) or table "
            f"(.parquet, .arrow) with the column {columns.label or 'label'}, or leave --multi-label out."
        )
    if not isinstance(data, str | os.PathLike):
        if isinstance(data, np.ndarray) and data.dtype.kind == "U" and data.ndim == 1:
            data = data.tolist()
        if isinstance(data, list | tuple) and data and all(isinstance(p, str | os.PathLike) for p in data):
            here = os.getcwd()
            paths = relative([os.path.normpath(p) for p in data], here, "the list")
            return _files(here, paths, pixels, labelled, classes)
        return Items(indexed(data), pixels, labelled, classes)
    if not os.fspath(data):
        raise no_images(data)
    if is_on_hub(os.fspath(data)):
        return Rows(os.fspath(data), hub_files(os.fspath(data)), pixels, labelled, classes, columns, multi_label)
    path = os.path.abspath(os.fspath(data))
    check_extra(path)
    if in_file(path)[0].lower().endswith(ARRAY_FILES):
        return Arrays(path, pixels, labelled, classes)
    if archives := _shards(path, SUFFIXES_OF_ARCHIVES):
        return Archives(path, archives, pixels, labelled, classes)
    if files := _shards(path, SUFFIXES_OF_ROWS) or (saved_files(path) if os.path.isdir(path) else []):
        check_extra(files[0])
        return _of_rows(path, files, pixels, labelled, classes, columns, multi_label)
    if os.path.isdir(path):
        found = scan(path, system_folders)
        if labelled:
            refuse_two_classes(found.linked)
        return _files(path, found.images, pixels, labelled, classes, found)
    if is_table(path):
        return open_table(path, pixels, labelled, classes, columns, multi_label)
    if os.path.isfile(path):
        return _files(os.path.dirname(path), listed(path), pixels, labelled, classes)
    raise no_images(path)


def _of_rows(
    path: str, files: Sequence[str], pixels: Pixels, labelled: bool, classes: Sequence[str] | None, columns: Columns,
    multi_label: bool,
) -> Source:  # fmt: skip
    """The images in the rows of files, or the image files that the rows list."""
    found = listed_rows(path, files, labelled and not multi_label, columns)
    if found is None:
        return Rows(path, files, pixels, labelled, classes, columns, multi_label)
    each = frames_of(found.folder, found.paths)
    by_folder = labelled and not multi_label and found.labels is None
    source = Files(found.folder, each.paths, pixels, by_folder, classes, notes=each.notes)
    if labelled and multi_label:
        label_sets, source.classes = table_label_sets(sets_in(files, columns), classes, path)
        source.label_sets = label_sets[torch.tensor(each.rows)]
    elif labelled and found.labels is not None:
        labels, source.classes = table_labels(found.labels, classes or found.classes, path)
        source.labels = labels[torch.tensor(each.rows)]
    take_names(source, {name: values[each.rows] for name, values in found.columns.items()})
    return source


def _files(
    root: str, paths: list[str], pixels: Pixels, labelled: bool, classes: Sequence[str] | None,
    scanned: Scanned | None = None,
) -> Files:  # fmt: skip
    """Image files below `root`, with an image for each frame of DICOM files."""
    each = frames_of(root, paths)
    return Files(root, each.paths, pixels, labelled, classes, scanned, each.notes)


def is_table(data: Data) -> bool:
    """Whether DATA is a list with columns."""
    if not isinstance(data, str | os.PathLike) or not os.path.isfile(data):
        return False
    return os.path.splitext(os.fspath(data))[1].lower() in TABLES


def _has_rows(data: Data) -> bool:
    """Whether DATA is a Parquet or Arrow file, several of them, or of Hugging Face."""
    if not isinstance(data, str | os.PathLike) or not os.fspath(data):
        return False
    name = os.fspath(data)
    return is_on_hub(name) or bool(_shards(os.path.abspath(name), SUFFIXES_OF_ROWS)) or _is_saved(name)


def _is_saved(folder: str) -> bool:
    return os.path.isfile(os.path.join(folder, STATE))


def _is_missing(data: Data) -> bool:
    return isinstance(data, str | os.PathLike) and not (os.fspath(data) and exists(os.fspath(data)))


def _called(data: Data) -> str:
    return os.fspath(data) if isinstance(data, str | os.PathLike) else type(data).__name__


def _shards(path: str, suffixes: tuple[str, ...]) -> list[str]:
    """The files of a kind that a path names: one, a brace pattern, or a folder that holds such files and no images."""
    if path.lower().endswith(suffixes) and not os.path.isdir(path):
        paths = expanded(path)
        for each in paths:
            if not os.path.isfile(each):
                raise no_images(each)
        return paths
    if not os.path.isdir(path):
        return []
    shards = []
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.name == STATE or os.path.splitext(entry.name)[1].lower()[1:] in SUFFIXES:
                return []
            if os.path.isdir(entry.path):
                return []
            if entry.name.lower().endswith(suffixes):
                shards.append(entry.path)
    return sorted(shards)


def _check_open(
    source: Source, channels: int, labelled: bool, classes: Sequence[str] | None, multi_label: bool
) -> None:
    """Raises ValueError if an open source does not match the request."""
    if source.channels != channels:
        raise ValueError(
            f"The source has {counted(source.channels, 'channel')}, but {channels} were requested. Open it with "
            f"pixels={channels}."
        )
    if labelled and multi_label and source.label_sets is None:
        raise ValueError("The source has no sets of classes. Open it with labelled=True, multi_label=True.")
    if labelled and not multi_label and (source.labels is None or source.classes is None):
        raise ValueError("The source has no labels. Open it with labelled=True.")
    if labelled and classes is not None and [*map(composed, source.classes or ())] != [*map(composed, classes)]:
        raise ValueError(f"The source has the classes {source.classes}, expected {tuple(classes)}. Open it with those.")


def open_maybe_labelled(
    data: Data, pixels: Pixels | int = 3, columns: Columns = COLUMNS, tiling: Tiling | None = None
) -> Source:
    """The images of DATA, with labels if these are known without reading images.

    Labels come from class folders (if these contain all images), a Dataset's `targets`, a column with class names, or a
    list of tuples. Labels that are not classes (boxes, captions, multiple labels) are ignored.
    """
    if _has_labels(data):
        with suppress(ValueError):
            return open_source(data, pixels, labelled=True, columns=columns, tiling=tiling)
    return open_source(data, pixels, columns=columns, tiling=tiling)


def _has_labels(data: Data) -> bool:
    """Whether labels are available without reading images."""
    if isinstance(data, str | os.PathLike):
        suffixes = (*SUFFIXES_OF_ARCHIVES, *SUFFIXES_OF_ROWS, *TABLES)
        name = os.fspath(data)
        if is_on_hub(name) or in_file(name)[0].lower().endswith(ARRAY_FILES):
            return True
        return os.path.isdir(data) or name.lower().endswith(suffixes)
    if isinstance(data, list | tuple):
        return bool(data) and isinstance(data[0], tuple | list | Mapping)
    return targets_of(data) is not None or any(column_classes(data, name) for name in features_of(data))

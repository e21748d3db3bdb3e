"""The command `check`: sizes, formats, pixel values, classes, duplicates and broken files of a set of images."""

import hashlib
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import torch
from PIL.Image import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor
from torch.utils.data import Dataset

from ..data import tiff_bands
from ..data.errors import UNSUPPORTED, BrokenImage
from ..data.near import SIDE, near_pairs, thumbnail
from ..data.pair_sheet import Twins, pair_sheet
from ..data.remarks import ALL, left_out, proposed_scale, range_line, unused
from ..data.scale_statistics import sampled_values
from ..data.sources import Source
from ..data.suspects import blank, same_stems
from ..data.workers import stream
from ..images import Levels, levels, moments, promote
from ..printing import are, counted, size_of, spanned
from ..progress import counting
from .check_columns import column_lines, group_sizes

_CHUNK: Final = 64
_PIECE: Final = 2**20
"""Pixels that are converted to float32 at once."""
_CROWD: Final = 512
"""Largest group of equal images whose pairs are all listed; of larger groups only successive images are paired."""

Pair = tuple[int, int]


class Looks(NamedTuple):
    """What a worker measured on one chunk of images; arrays have a row per readable image."""

    indices: np.ndarray
    sizes: np.ndarray
    """(B, 2) heights and widths."""
    types: list[str]
    moments: np.ndarray
    """(B, 2, C): mean and mean square of each channel, for values in [0, 1]."""
    digests: np.ndarray
    """(B,) uint64: hash of the decoded pixels."""
    thumbnails: np.ndarray
    """(B, SIDE, SIDE) uint8, grey, contrast-stretched."""
    ranges: np.ndarray
    """(B,): value range of each thumbnail before stretching."""
    kinds: list[str]
    levels: list[Levels]
    broken: list[tuple[str, str]]
    seconds: float
    """Decoding time of the chunk."""


class _Looking(Dataset[Looks]):
    def __init__(self, source: Source) -> None:
        self.source = source

    def __getitem__(self, chunk: range) -> Looks:
        images, broken, seconds = [], [], 0.0
        indices = []
        for i in chunk:
            start = time.perf_counter()
            try:
                images.append(self.source.read(i, None))
                indices.append(i)
            except BrokenImage as error:
                broken.append((error.name, error.reason))
            seconds += time.perf_counter() - start
        marks = [_look(image) for image in images]
        count, channels = len(images), self.source.channels
        return Looks(
            indices=np.array(indices, np.int64),
            sizes=np.array([image.shape[1:] for image in images], np.int64).reshape(-1, 2),
            types=[str(image.dtype).removeprefix("torch.") for image in images],
            moments=np.array([moments(image).numpy() for image in images]).reshape(count, 2, channels),
            digests=np.array([digest for digest, _, _ in marks], np.uint64),
            thumbnails=np.array([small for _, small, _ in marks], np.uint8).reshape(count, SIDE, SIDE),
            ranges=np.array([range for _, _, range in marks]),
            kinds=[self.source.kind(i) for i in indices],
            levels=[levels(image) for image in images],
            broken=broken,
            seconds=seconds,
        )


def _look(image: Tensor) -> tuple[int, np.ndarray, float]:
    """Pixel digest, grey thumbnail and its original value range, for an image (C, H, W)."""
    digest = hashlib.blake2b(f"{image.dtype} {tuple(image.shape)}".encode(), digest_size=8)
    digest.update(image.numpy().data)
    rows = max(1, _PIECE // image.shape[2])
    grey = torch.empty(1, 1, *image.shape[1:])
    for y in range(0, image.shape[1], rows):
        grey[0, 0, y : y + rows] = promote(image[:, y : y + rows], torch.float32).mean(0)
    return int.from_bytes(digest.digest(), "big"), *thumbnail(grey)


@dataclass(frozen=True)
class Split:
    """Measurements of one set of images."""

    source: Source
    indices: np.ndarray
    """Indices of the readable images in the source."""
    sizes: np.ndarray
    kinds: Counter[str]
    """File format and mode, such as "JPEG RGB"."""
    types: Counter[str]
    levels: list[tuple[str, Levels]]
    """Type and levels of each readable image."""
    mean: list[float]
    """Per channel, for values in [0, 1]; all images have the same weight."""
    std: list[float]
    classes: dict[str, int] | None
    broken: list[tuple[str, str]]
    decode_seconds: float
    """Seconds per image, in one process."""
    digests: np.ndarray
    thumbnails: np.ndarray
    blank: np.ndarray
    """(N,) bool: whether the image is constant, or nearly so."""
    same_stems: list[tuple[int, ...]]
    """Indices of images whose names differ only in the suffix."""
    range_line: str
    """The range of values in files that are not supported without a scale, with a proposal; else empty."""
    bands: list[str]
    """The names of the bands of the first TIFF file; empty without names."""

    def name(self, row: int) -> str:
        return self.source.name(int(self.indices[row]))

    def label(self, row: int) -> str | None:
        """The image's class, if the source has classes."""
        if self.source.labels is None or self.source.classes is None:
            return None
        return self.source.classes[int(self.source.labels[int(self.indices[row])])]


@dataclass(frozen=True)
class Duplicates:
    """Pairs of rows, within a split or between two splits, without blank images."""

    exact: list[Pair]
    """Identical in every decoded pixel."""
    near: list[Pair]
    """Resized, re-encoded, cropped or slightly changed copies, without exact ones."""
    detail: list[float]
    """Correlation of fine detail of each near pair, at most 1."""


def look(source: Source, workers: int = 0, progress: Callable[[int, int], None] | None = None) -> Split:
    """Decodes every image of a source once and measures it."""
    total = len(source)
    chunks = [range(i, min(i + _CHUNK, total)) for i in range(0, total, _CHUNK)]
    _ = source.keys  # computed here so that workers inherit them
    results: list[Looks] = []
    for chunk, looks in zip(chunks, stream(_Looking(source), chunks, workers), strict=True):
        results.append(looks)
        if progress:
            progress(chunk.stop, total)
    values = np.concatenate([s.moments for s in results])
    count = len(values)
    mean, square = values.mean(0) if count else np.full((2, source.channels), np.nan)
    indices = np.concatenate([s.indices for s in results])
    broken = [b for s in results for b in s.broken]
    unscaled = [reason for _, reason in broken if "--scale" in reason]
    classes = None
    if source.labels is not None and source.classes is not None:
        numbers = source.labels.bincount(minlength=len(source.classes)).tolist()
        classes = dict(zip(source.classes, numbers))
    return Split(
        source=source,
        indices=indices,
        sizes=np.concatenate([s.sizes for s in results]),
        kinds=Counter(kind for s in results for kind in s.kinds),
        types=Counter(kind for s in results for kind in s.types),
        levels=[pair for s in results for pair in zip(s.types, s.levels, strict=True)],
        mean=mean.tolist(),
        std=np.sqrt(np.maximum(square - mean**2, 0)).tolist(),
        classes=classes,
        broken=broken,
        decode_seconds=sum(s.seconds for s in results) / max(1, count),
        digests=np.concatenate([s.digests for s in results]),
        thumbnails=np.concatenate([s.thumbnails for s in results]),
        blank=blank(values, np.concatenate([s.ranges for s in results]), [kind for s in results for kind in s.types]),
        same_stems=same_stems(source),
        range_line=range_line(sampled_values(source, 32)) if unscaled else "",
        bands=_band_names(source),
    )


def _band_names(source: Source) -> list[str]:
    """The names of the bands of the first image, if it is a TIFF file with several."""
    file = source.file(0) if len(source) else None
    return tiff_bands.names_of(file) if file is not None and file.lower().endswith((".tif", ".tiff")) else []


def duplicates(a: Split, b: Split | None = None) -> Duplicates:
    """Copies within a split, or between two. Blank images are left out: they all look alike but are not copies."""
    parts = [a] if b is None else [a, b]
    shift = 0 if b is None else len(a.digests)
    digests = np.concatenate([part.digests for part in parts])
    shown = np.flatnonzero(~np.concatenate([part.blank for part in parts]))
    exact: set[Pair] = set()
    for i, j in _runs(digests[shown]):
        i, j = shown[i], shown[j]
        keep = np.ones(len(i), bool) if b is None else (i < shift) != (j < shift)
        exact.update(zip(i[keep].tolist(), (j[keep] - shift).tolist()))
    sides = [shown[shown < shift], shown[shown >= shift]]  # one of each set of exact copies
    firsts = [side[np.sort(np.unique(digests[side], return_index=True)[1])] for side in sides]
    rows = np.concatenate(firsts)
    thumbnails = np.concatenate([part.thumbnails for part in parts])[rows]
    found, detail = near_pairs(thumbnails, None if b is None else len(firsts[0]))
    found = rows[found]
    other = digests[found[:, 0]] != digests[found[:, 1]]
    near = [(i, j - shift) for i, j in found[other].tolist()]
    return Duplicates(sorted(exact), near, detail[other].tolist())


def _runs(keys: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of indices with equal keys, one group at a time; in a large group only successive indices."""
    order = np.argsort(keys, kind="stable")
    for group in np.split(order, np.flatnonzero(np.diff(keys[order])) + 1):
        if len(group) <= _CROWD:
            i, j = np.triu_indices(len(group), 1)
            yield group[i], group[j]
        else:
            yield group[:-1], group[1:]


@dataclass(frozen=True)
class Groups:
    """Images by patient, scene or video."""

    images: dict[str, int]
    """Number of images by group."""
    without: list[str]
    """Names that the pattern does not match."""


def groups(source: Source, pattern: str) -> Groups:
    """Groups images by the match of the regular expression `pattern` in their names: its first group, or all of it.

    Raises:
        ValueError: `pattern` is not a regular expression, or matches no name.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"--groups {pattern!r} is not a valid regular expression: {error}.") from None
    found: Counter[str] = Counter()
    without = []
    for i in range(len(source)):
        name = source.name(i)
        match = expression.search(name)
        if match is None:
            without.append(name)
        else:
            found[match.group(min(1, expression.groups)) or ""] += 1
    if not found:
        raise ValueError(f"--groups {pattern!r} matches none of {len(source)} file names, such as {source.name(0)}.")
    return Groups(dict(found), without)


@dataclass(frozen=True)
class Checked:
    """The result of `check`; `lines` is the report."""

    train: Split
    test: Split | None
    within: Duplicates
    across: Duplicates | None
    groups: Groups | None
    shared: list[str]
    """Groups that occur in both splits."""
    image_size: int
    workers: int

    def lines(self) -> list[str]:
        """The report as lines of text."""
        lines = _split_lines("images", self.train, self.image_size, self.workers)
        if self.test is not None:
            lines += _split_lines("test", self.test, self.image_size, self.workers)
        lines += _suspect_lines(self.train, self.within)
        lines += [] if self.test is None else _suspect_lines(self.test)
        lines += _duplicate_lines("duplicates  within the images", self.within, self.train, self.train)
        if self.across is not None and self.test is not None:
            lines += _duplicate_lines("duplicates  between images and test", self.across, self.train, self.test)
        if self.within.near or (self.across is not None and self.across.near):
            lines.append(f"            {BY_EYE}")
        lines += column_lines(self.train.source)
        if self.groups is not None:
            sizes = sorted(self.groups.images.values())
            lines.append(
                f"groups      {len(sizes)}, of {spanned(sizes[0], sizes[-1], 'image')}; "
                f"{counted(len(self.groups.without), 'image')} in none"
            )
            if self.shared:
                lines.append(
                    f"            {len(self.shared)} {'GROUP IS' if len(self.shared) == 1 else 'GROUPS ARE'} IN BOTH "
                    f"SPLITS: {_some(self.shared)}. Accuracy on the test images will be overestimated."
                )
        return lines

    def sheet(self) -> Image:
        """Near pairs, and exact pairs of different classes, side by side; see `pair_sheet`."""
        twins = _twins(self.within, self.train, self.train)
        if self.across is not None and self.test is not None:
            twins += _twins(self.across, self.train, self.test)
        return pair_sheet(twins)

    def content(self) -> dict[str, object]:
        """The full result for JSON, with the names of all pairs and broken files."""
        return {
            "images": _split_content(self.train),
            "test": None if self.test is None else _split_content(self.test),
            "duplicates": _duplicate_content(self.within, self.train, self.train),
            "duplicates_between": None
            if self.across is None or self.test is None
            else _duplicate_content(self.across, self.train, self.test),
            "groups": None if self.groups is None else self.groups.images,
            "groups_in_both": self.shared,
        }


def check(
    data: Source,
    test: Source | None = None,
    *,
    pattern: str | None = None,
    image_size: int = 224,
    workers: int = 0,
    say: Callable[[str], None] = print,
) -> Checked:
    """Reads every image once and finds broken files, duplicates and other problems.

    Args:
        data: the images.
        test: test images, which should contain no images of `data`.
        pattern: regular expression that matches an image's group (a patient, a scene) in its name; by default groups
            are those of the source.
        image_size: image size of a training, in pixels, for the estimates of time and memory.
        workers: number of processes that decode.
        say: called with progress lines.
    """
    found = _groups(data, pattern)  # first, since reading takes long and the pattern may be invalid
    other = None if test is None else _groups(test, pattern)
    shared = [] if found is None or other is None else sorted(found.images.keys() & other.images.keys())
    splits = [look(source, workers, counting(say, "read ", "images")) for source in (data, test) if source is not None]
    train, tested = splits[0], splits[1] if len(splits) > 1 else None
    if (count := sum(len(split.indices) for split in splits)) > 20_000:
        say(f"searching {counted(count, 'image')} for duplicates")
    across = None if tested is None else duplicates(train, tested)
    return Checked(train, tested, duplicates(train), across, found, shared, image_size, workers)


def _groups(source: Source, pattern: str | None) -> Groups | None:
    """The groups by the pattern, otherwise by the column of a list."""
    if pattern is not None:
        return groups(source, pattern)
    sizes = group_sizes(source)
    return None if sizes is None else Groups(sizes, [])


def _some(names: list[str], max_names: int = 5) -> str:
    return ", ".join(names[:max_names]) + (", ..." if len(names) > max_names else "")


def _split_lines(what: str, split: Split, image_size: int, workers: int) -> list[str]:
    total, read = len(split.source), len(split.indices)
    other = sum(reason.startswith(UNSUPPORTED) for _, reason in split.broken)
    lines = [f"{what:<11} {total}, of which {len(split.broken) - other} cannot be read"]
    lines[0] += f", and {other} are valid but not supported" if other else ""
    lines += [f"            {line}" for line in split.source.notes()]
    lines += [f"            {name}: {reason}" for name, reason in split.broken[:10]]
    if len(split.broken) > 10:
        lines.append(f"            and {len(split.broken) - 10} more (--out FILE.json lists all)")
    if split.range_line:
        lines.append(f"            {split.range_line}")
    if split.bands:
        lines.append(f"bands       {tiff_bands.described(split.bands, len(split.bands))}")
    if read:
        lines += _pixel_lines(split, image_size)
    remarks = (*left_out(split.kinds, ALL), *unused(split.kinds, split.levels, split.source.channels, ALL))
    lines += [f"            {line}" for line in remarks]
    if split.classes is not None:
        lines.append(_class_line(split.classes))
    if read and what == "images":
        lines.append(_estimate(split, image_size, workers))
    return lines


def _pixel_lines(split: Split, image_size: int) -> list[str]:
    """Sizes, file formats and pixel values of the readable images."""
    low, middle, high = np.quantile(split.sizes, [0, 0.5, 1], axis=0).astype(int)
    spread = f"{low[1]} x {low[0]} to {high[1]} x {high[0]} pixels, median {middle[1]} x {middle[0]}"
    lines = [f"sizes       {f'all {low[1]} x {low[0]} pixels' if (low == high).all() else spread}"]
    small = int((split.sizes.min(1) < image_size).sum())
    if small:
        lines.append(f"            {counted(small, 'image')} with a side below {image_size} pixels would be enlarged")
    lines.append(
        "formats     " + ", ".join(f"{n} {kind}" for kind, n in split.kinds.most_common(8))
        + "; read as " + ", ".join(f"{n} {kind}" for kind, n in split.types.most_common())
    )  # fmt: skip
    mean, std = (" ".join(f"{v:.3f}" for v in values) for values in (split.mean, split.std))
    return [*lines, f"values      mean {mean}, standard deviation {std} (range 0 to 1)"]


def _class_line(classes: Mapping[str, int]) -> str:
    """Number of classes, and of images per class."""
    smallest, largest = min(classes, key=classes.__getitem__), max(classes, key=classes.__getitem__)
    fewest, most = classes[smallest], classes[largest]
    return (
        f"classes     {len(classes)} (by the labels of DATA, or else the top-level folders), "
        + (f"of {counted(most, 'image')}" if fewest == most else f"from {fewest} ({smallest}) to "
           f"{counted(most, 'image')} ({largest})")
    )  # fmt: skip


def _estimate(split: Split, image_size: int, workers: int) -> str:
    """Time to read all images, and memory to cache them."""
    total = len(split.source)
    seconds = total * split.decode_seconds / max(1, workers)
    halvings = np.floor(np.log2(np.maximum(1, split.sizes.min(1) // (2 * image_size))))
    shrunk = split.sizes // 2 ** np.maximum(0, halvings).astype(int)[:, None]
    width = {"uint8": 1, "uint16": 2, "float32": 4}[max(split.types, key=["uint8", "uint16", "float32"].index)]
    held = shrunk.prod(1).mean() * total * split.source.channels * width
    return (
        f"estimates   reading all images takes {seconds:.0f} s per epoch with {counted(max(1, workers), 'process')}; "
        "JPEG files that are decoded at reduced size read faster. "
        f"--cache ram reads them once and needs {size_of(held)} at {image_size} pixels"
    )


BY_EYE: Final = (
    "Remove only exact copies. Inspect near pairs first: they may differ in a defect, a finding or a label "
    "(--sheet FILE.png draws the pairs, doubtful ones first)"
)


def _duplicate_lines(what: str, found: Duplicates, a: Split, b: Split) -> list[str]:
    lines = [f"{what}: {counted(len(found.exact), 'exact pair')}, {counted(len(found.near), 'near pair')}"]
    lines += [f"            exact: {a.name(i)} = {b.name(j)}" for i, j in found.exact[:3]]
    lines += [
        f"            near: {a.name(i)} = {b.name(j)} ({detail:.3f})"
        for (i, j), detail in zip(found.near[:3], found.detail)
    ]
    doubtful = [twins for twins in _twins(found, a, b) if twins.classes is not None]
    if doubtful:
        first = doubtful[0]
        lines.append(
            f"            OF DIFFERENT CLASSES: {len(doubtful)}, such as {first.names[0]} = {first.names[1]}. If "
            "folders are labels, either a label or the match is wrong: inspect these first"
        )
    return lines


def _duplicate_content(found: Duplicates, a: Split, b: Split) -> dict[str, object]:
    return {
        "exact": [[a.name(i), b.name(j)] for i, j in found.exact],
        "near": [[a.name(i), b.name(j)] for i, j in found.near],
        "detail": [round(detail, 4) for detail in found.detail],
        "different_classes": [list(twins.names) for twins in _twins(found, a, b) if twins.classes is not None],
    }


def _twins(found: Duplicates, a: Split, b: Split) -> list[Twins]:
    """Near pairs, and exact pairs of different classes."""
    twins = []
    known = set(a.source.classes or ()) & set(b.source.classes or ())
    pairs = [*found.exact, *found.near]
    for n, ((i, j), detail) in enumerate(zip(pairs, [1.0] * len(found.exact) + found.detail, strict=True)):
        one, two = a.label(i), b.label(j)
        other = (one, two) if one and two and one != two and {one, two} <= known else None
        if other is not None or n >= len(found.exact):
            twins.append(Twins((a.source, int(a.indices[i])), (b.source, int(b.indices[j])), detail, other))
    return twins


def _suspect_lines(split: Split, within: Duplicates | None = None) -> list[str]:
    lines = []
    rows = np.flatnonzero(split.blank).tolist()
    if rows:
        lines.append(
            f"blank       {len(rows)} of {counted(len(split.blank), 'image')} {are(len(rows))} constant, or nearly so: "
            f"{_some([split.name(row) for row in rows[:6]])}. They carry no information and are excluded from the "
            "pairs below. If they are masks, give a list of the photographs as DATA; --out FILE.json lists all"
        )
    if split.same_stems and within is not None:
        row_of = {int(p): row for row, p in enumerate(split.indices)}
        group = _groups_of(within, len(split.indices))
        same = sum(len({group[row_of[p]] if p in row_of else -1 - p for p in stems}) == 1 for stems in split.same_stems)
        other = len(split.same_stems) - same
        names = _some([split.source.name(p) for p in split.same_stems[0]])
        line = f"same names  {counted(len(split.same_stems), 'name')} with several suffixes, such as {names}."
        line += f" For {same}, all files show the same image: keep one of each." if same else ""
        line += (
            f" For {other}, they differ (masks, previews?): give a list of the images to train on as DATA."
            if other
            else ""
        )
        lines.append(f"{line} --out FILE.json lists all")
    return lines


def _groups_of(found: Duplicates, count: int) -> np.ndarray:
    """(count,): connected component of each row, joined by pairs."""
    pairs = np.array([*found.exact, *found.near], np.int64).reshape(-1, 2)
    joined = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), (count, count))
    numbers: np.ndarray = connected_components(joined, directed=False)[1]
    return numbers


def _split_content(split: Split) -> dict[str, object]:
    return {
        "images": len(split.source),
        "names": [split.source.name(i) for i in range(len(split.source))],
        "notes": split.source.notes(),
        "broken": [[name, reason] for name, reason in split.broken],
        "sizes": Counter(f"{w}x{h}" for h, w in split.sizes.tolist()),
        "kinds": split.kinds,
        "types": split.types,
        "bands": split.bands,
        "pixels": str(split.source.pixels),
        "proposed_scale": None if (found := proposed_scale(split.levels)) is None else str(found),
        "mean": split.mean if len(split.indices) else None,
        "std": split.std if len(split.indices) else None,
        "classes": split.classes,
        "blank": [split.name(row) for row in np.flatnonzero(split.blank).tolist()],
        "same_names": [[split.source.name(index) for index in stems] for stems in split.same_stems],
        "decode_seconds": split.decode_seconds,
    }

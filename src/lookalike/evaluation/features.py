"""Features of a frozen encoder, from the test transform of the reference protocols, and their files."""

import copy
import csv
import hashlib
import os
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import Dataset

from ..data.workers import stream
from ..images import promote
from ..modes import evaluating
from ..places import check_suffix, no_features
from ..printing import brief, cell, counted, of_cell, printable
from ..random import permutation

if TYPE_CHECKING:
    from ..data import Source

Encoder = TypeVar("Encoder", bound=nn.Module)
MOST_CLASSES = 10_000
"""So large a label, of few images, is no number of a class."""


@dataclass(frozen=True, eq=False)
class Features:
    """What an encoder makes of N images, in the source's order without the broken ones."""

    features: Tensor
    """(N, D) float32, on the CPU."""
    labels: Tensor | None
    """(N,) int64, or None where the source has none."""
    names: list[str]
    index: Tensor
    """(N,) int64, the images' places in the source."""
    broken: list[tuple[str, str]]
    """(name, reason) of each image that could not be read."""
    classes: tuple[str, ...] | None = None
    """What the labels are places in; None where classes have no names."""


def features(
    encoder: nn.Module,
    source: "Source",
    *,
    image_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    batch_size: int = 256,
    workers: int = 0,
    device: torch.device | str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Features:
    """Computes the encoder's features of every image that can be read.

    Each image is decoded in full, its shorter side resized to 256/224 of `image_size` (bicubic, antialiased), its
    centre cut out, scaled to [0, 1] and normalised. The encoder runs in eval mode; every module gets its own mode back.

    Args:
        encoder: (B, C, image_size, image_size) float32, normalised -> (B, D).
        source: the images; broken ones are left out and listed, never replaced.
        image_size: pixels of the square that the encoder sees.
        mean: one number per channel, in units of [0, 1].
        std: one number per channel.
        batch_size: images that the encoder sees at once; it does not change the result beyond rounding.
        workers: processes that decode and resize; 0 does it in this one.
        device: where the encoder runs; it is moved there and stays. Without it where its first parameter is.
        progress: called with the number of images seen and of all, after each batch.

    Raises:
        ValueError: no image could be read, or the encoder's output is not (B, D).
    """
    if device is None:
        device = device_of(encoder)
    chunks = [range(i, min(i + batch_size, len(source))) for i in range(0, len(source), batch_size)]
    batches = stream(_Cropped(source, image_size), chunks, workers, pin=torch.device(device).type == "cuda")
    _ = source.keys  # hashed here, the workers inherit them
    exact = next((p.dtype for p in encoder.parameters()), torch.float32)
    shift, scale = (torch.tensor(v, dtype=torch.float32, device=device).view(-1, 1, 1) for v in (mean, std))
    rows: Tensor | None = None
    index: list[int] = []
    broken: list[tuple[str, str]] = []
    encoder.to(device)
    with evaluating(encoder):
        for good, images, bad in batches:
            if images is not None:
                x = promote(images.to(device, non_blocking=True), torch.float32)
                if not len(shift) == len(scale) == x.shape[1]:
                    raise ValueError(
                        f"The images have {counted(x.shape[1], 'channel')}, but mean has "
                        f"{counted(len(shift), 'number')} and std has "
                        f"{len(scale)}. Give one number per channel."
                    )
                with torch.inference_mode():
                    made = encoder(((x - shift) / scale).to(exact))
                if made.ndim != 2:
                    raise ValueError(
                        f"The encoder's output is {tuple(made.shape)}; expected (B, D), a vector per image."
                    )
                if rows is None:  # all at once: joining batches at the end would need the memory twice
                    rows = torch.empty(len(source), made.shape[1])
                rows[len(index) : len(index) + len(good)] = made.float().cpu()
                index += good
            broken += bad
            if progress is not None:
                progress(len(index) + len(broken), len(source))
    if rows is None:
        why = f"the first is {broken[0][0]}: {broken[0][1]}" if broken else "there are none"
        raise ValueError(f"None of the {counted(len(source), 'image')} could be read; {why}.")
    places = torch.tensor(index)
    labels = None if source.labels is None else source.labels[places]
    return Features(rows[: len(index)], labels, [source.name(i) for i in index], places, broken, source.classes)


def device_of(module: nn.Module) -> torch.device:
    """Where a module's first parameter is; the CPU for one that has none."""
    return next((p.device for p in module.parameters()), torch.device("cpu"))


def as_parameters(module: nn.Module, x: Tensor) -> Tensor:
    """A tensor on the device and in the type of a module's parameters; as it is for a module that has none."""
    like = next((p for p in module.parameters() if p.is_floating_point()), x)
    return x.to(like.device, like.dtype)


@torch.no_grad()
def with_statistics(
    encoder: Encoder,
    source: "Source",
    *,
    image_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    images: int = 1024,
) -> Encoder:
    """A copy of an untrained encoder, fit to be judged: its BatchNorm layers know the images' statistics.

    Fresh ones take mean 0 and variance 1 for granted. An encoder that is judged so looks worse than it is, and what
    training adds looks better. At most `images` of `source` are read; the other arguments are those of `features`.
    """
    places = permutation(len(source), "statistics")[:images]
    crops = _Cropped(source, image_size)
    shift, scale = (torch.tensor(v, dtype=torch.float32).view(-1, 1, 1) for v in (mean, std))

    def batches() -> Iterator[Tensor]:
        for start in range(0, len(places), 256):
            _, batch, _ = crops[places[start : start + 256].tolist()]
            if batch is not None and len(batch) > 1:
                yield (promote(batch, torch.float32) - shift) / scale

    return calibrated(encoder, batches())


@torch.no_grad()
def calibrated(encoder: Encoder, batches: Iterable[Tensor]) -> Encoder:
    """A copy of an encoder in eval mode whose BatchNorm layers have the mean statistics of batches (B, C, H, W)."""
    encoder = copy.deepcopy(encoder).eval()
    _calibrate(encoder, batches)
    return encoder


@contextmanager
def calibrating(encoder: Encoder, batches: Iterable[Tensor]) -> Iterator[None]:
    """In eval mode, with those statistics; afterwards the encoder is as it was, and nothing was copied but them."""
    kept = [(b, b.clone()) for norm in _norms(encoder) for b in norm.buffers(recurse=False)]
    try:
        with evaluating(encoder):
            _calibrate(encoder, batches)
            yield
    finally:
        for buffer, value in kept:
            buffer.copy_(value)


def _norms(encoder: nn.Module) -> list[_BatchNorm]:
    return [m for m in encoder.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]


def _calibrate(encoder: Encoder, batches: Iterable[Tensor]) -> None:
    """Puts the statistics in place of those that the encoder, which is in eval mode, has."""
    norms = _norms(encoder)
    if not norms:
        return

    def note(norm: _BatchNorm, inputs: tuple[Tensor]) -> None:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        assert norm.num_batches_tracked is not None
        x = inputs[0].float()
        axes = [axis for axis in range(x.ndim) if axis != 1]
        norm.num_batches_tracked += 1
        share = 1 / int(norm.num_batches_tracked)  # the mean over all batches
        norm.running_mean.lerp_(x.mean(axes).to(norm.running_mean), share)
        norm.running_var.lerp_(x.var(axes).to(norm.running_var), share)

    # in eval mode, for a synchronised norm would talk to other processes, which do something else now
    for norm in norms:
        norm.reset_running_stats()
    handles = [norm.register_forward_pre_hook(note) for norm in norms]
    try:
        for x in batches:
            encoder.forward(as_parameters(encoder, x))  # not encoder(x): torch.compile would compile it
    finally:
        for handle in handles:
            handle.remove()


def crop(image: Tensor, size: int) -> Tensor:
    """Cuts out what the reference protocols look at: (C, H, W) -> (C, size, size).

    The shorter side becomes round(size * 256 / 224) pixels, bicubic and antialiased, then the centre is taken.
    What is longer than 64 times its width is cut to that before: a thread of pixels resized as a whole takes gigabytes.
    A uint8 image stays uint8, resized in fixed point as in torchvision, within one level of Pillow's result; other
    images come back as float32 in [0, 1].
    """
    if image.dtype != torch.uint8:
        image = promote(image, torch.float32)
    reach = 64 * min(image.shape[-2:])
    image = _centre(image, min(image.shape[-2], reach), min(image.shape[-1], reach))
    height, width = image.shape[-2:]
    short = round(size * 256 / 224)
    scaled = (short, short * width // height) if height <= width else (short * height // width, short)
    if scaled != (height, width):
        image = nn.functional.interpolate(image[None], scaled, mode="bicubic", antialias=True, align_corners=False)[0]
    image = _centre(image, size, size)
    return image if image.dtype == torch.uint8 else image.clamp(0, 1)


def _centre(image: Tensor, height: int, width: int) -> Tensor:
    top = round((image.shape[-2] - height) / 2)
    left = round((image.shape[-1] - width) / 2)
    return image[..., top : top + height, left : left + width]


Cropped = tuple[list[int], Tensor | None, list[tuple[str, str]]]


class _Cropped(Dataset[Cropped]):
    """Ranges of a source: places and test crops of the images that can be read, names and reasons of the others."""

    def __init__(self, source: "Source", size: int) -> None:
        self.source, self.size = source, size

    def __getitem__(self, chunk: Iterable[int]) -> Cropped:
        from ..data import BrokenImage

        places, images, broken = [], [], []
        for i in chunk:
            try:
                images.append(crop(self.source.read(i, None), self.size))
                places.append(i)
            except BrokenImage as e:
                broken.append((e.name, e.reason))
        if len({image.dtype for image in images}) > 1:
            images = [promote(image, torch.float32) for image in images]
        return places, torch.stack(images) if images else None, broken


def fingerprint(*sources: "Source") -> str:
    """Identifies data: a sha256, in hex, of every image's key and class and of the pixels of 32 images per source.

    A file's key is the hash of its relative path. The sample, spread evenly over the keys, notices files that kept
    their names but not their content, and tells Datasets apart, whose keys are only numbers. File order and the
    folder's place do not count.
    """
    from ..data import BrokenImage

    digest = hashlib.sha256()
    for source in sources:
        order = source.keys.argsort(stable=True)
        digest.update(f"{len(source)} images of the classes {source.classes}".encode("utf-8", "surrogateescape"))
        digest.update(source.keys[order].numpy().tobytes())
        if source.labels is not None:
            digest.update(source.labels[order].numpy().tobytes())
        sample = min(32, len(source))
        for i in order[[n * len(source) // sample for n in range(sample)]].tolist():
            try:
                image = source.read(i, None)
                digest.update(f"{image.dtype} {tuple(image.shape)}".encode() + image.numpy().tobytes())
            except BrokenImage:
                digest.update(b"broken")
    return digest.hexdigest()


def save_features(path: str | os.PathLike[str], made: Features) -> None:
    """Writes features for other programs, all or nothing.

    `.npz`: arrays `features` (N, D), `names` (N,) and, where there are labels, `labels` (N,) and the names `classes`
    (C,) that they are places in; opens without pickle.
    `.parquet`: columns `file`, `label`, `class` (where classes have names) and `features`, a list of D float32.
    `.csv`: columns `file`, `label`, `class` (where classes have names), `f0` to `f<D-1>`.

    Raises:
        ValueError: another suffix.
        ModuleNotFoundError: `.parquet` without pyarrow.
    """
    from ..files import atomic

    check_suffix(path)
    writers = {".npz": _write_npz, ".parquet": _write_parquet, ".csv": _write_csv}
    with atomic(path) as temporary:
        writers[Path(path).suffix.lower()](temporary, made)


def _write_npz(path: Path, made: Features) -> None:
    import numpy as np

    arrays = {
        "features": made.features.numpy(),
        "names": np.array(made.names, dtype=np.str_),
    }
    if made.labels is not None:
        arrays["labels"] = made.labels.numpy()
        if made.classes is not None:
            arrays["classes"] = np.array([printable(name) for name in made.classes], dtype=np.str_)
    with path.open("wb") as file:  # given a name, numpy would append its own suffix to .NPZ
        np.savez(file, allow_pickle=False, **arrays)


def _write_parquet(path: Path, made: Features) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    names = [printable(name) for name in made.names]
    labels = [None] * len(names) if made.labels is None else made.labels.tolist()
    values = pa.FixedSizeListArray.from_arrays(pa.array(made.features.flatten().numpy()), made.features.shape[1])
    columns = {"file": pa.array(names, pa.string()), "label": pa.array(labels, pa.int64())}
    if (classes := _class_of_each(made)) is not None:
        columns["class"] = pa.array([printable(name) for name in classes], pa.string())
    columns["features"] = values
    pyarrow.parquet.write_table(pa.table(columns), path)


def _write_csv(path: Path, made: Features) -> None:
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        classes = _class_of_each(made)
        named = [] if classes is None else ["class"]
        writer.writerow(["file", "label", *named, *(f"f{i}" for i in range(made.features.shape[1]))])
        labels = [""] * len(made.names) if made.labels is None else made.labels.tolist()
        for i, (name, label, row) in enumerate(zip(made.names, labels, made.features)):
            own = [] if classes is None else [cell(printable(classes[i]))]
            # 9 digits give float32 back exactly
            writer.writerow([cell(name), label, *own, *(f"{x:.9g}" for x in row.tolist())])


def _class_of_each(made: Features) -> list[str] | None:
    """The class name of each image; None where there are none."""
    if made.labels is None or made.classes is None:
        return None
    return [made.classes[label] for label in made.labels.tolist()]


def load_features(path: str | os.PathLike[str]) -> Features:
    """Reads what `save_features` wrote, or another program in its place.

    Needed are `features` (in a CSV file columns `f0` and on), and for judging `labels` (a column `label`, or `class`
    alone). Names may be left out.

    Raises:
        FileNotFoundError, ValueError: it is not there, is none of the three kinds, or lacks what is needed.
        ModuleNotFoundError: `.parquet` without pyarrow.
    """
    path = Path(path)
    readers = {".npz": _read_npz, ".parquet": _read_parquet, ".csv": _read_csv}
    if path.suffix.lower() not in readers:
        raise ValueError(f"{path} is none of .npz, .parquet and .csv, as `lookalike embed` writes features.")
    if not path.is_file():
        raise no_features(path)
    try:
        return readers[path.suffix.lower()](path)
    except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path} holds no features as `lookalike embed` writes them ({type(error).__name__}: {brief(str(error))})."
        ) from error


def _read_npz(path: Path) -> Features:
    import numpy as np

    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in ("features", "names", "labels", "classes") if name in file}
    return _features_of(
        torch.from_numpy(arrays["features"]),
        [str(name) for name in arrays["names"]] if "names" in arrays else None,
        torch.from_numpy(arrays["labels"]) if "labels" in arrays else None,
        tuple(str(name) for name in arrays["classes"]) if "classes" in arrays else None,
    )


def _read_parquet(path: Path) -> Features:
    try:
        import pyarrow.parquet
    except ModuleNotFoundError as e:
        raise ModuleNotFoundError("Reading .parquet needs pyarrow: pip install 'lookalike[tables]'.") from e
    table = pyarrow.parquet.read_table(path)
    column = table.column("features").combine_chunks()
    values = column.flatten().to_numpy(zero_copy_only=False).reshape(len(table), -1)
    found = {name: table.column(name).to_pylist() for name in ("file", "label", "class") if name in table.column_names}
    labels, classes = _labels_of(found.get("label"), found.get("class"))
    return _features_of(torch.tensor(values), found.get("file"), labels, classes)


def _read_csv(path: Path) -> Features:
    import numpy as np

    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        reader = csv.reader(file)
        head = next(reader, [])
        numbers = [i for i, name in enumerate(head) if re.fullmatch(r"f\d+", name)]
        if not numbers:
            raise ValueError("no columns f0, f1 and so on")
        columns: dict[str, list[str]] = {name: [] for name in ("file", "label", "class") if name in head}
        places = {name: head.index(name) for name in columns}
        rows = []
        for row in reader:
            rows.append(np.array([row[i] for i in numbers], dtype=np.float32))
            for name, place in places.items():
                columns[name].append(of_cell(row[place]))
    label = columns.get("label")
    stated = [int(x) for x in label] if label and all(label) else None
    labels, classes = _labels_of(stated, columns.get("class"))
    return _features_of(torch.from_numpy(np.stack(rows)), columns.get("file"), labels, classes)


def _labels_of(
    labels: Sequence[int | None] | None, names: Sequence[str] | None
) -> tuple[Tensor | None, tuple[str, ...] | None]:
    """Numbers of the classes and their names, from a number and a name per image, where there are such."""
    numbers = [label for label in labels or () if label is not None]
    if labels is None or len(numbers) < len(labels):
        if names is None:
            return None, None
        classes = tuple(sorted(set(names)))
        return torch.tensor([classes.index(name) for name in names]), classes
    if names is None:
        return torch.tensor(numbers), None
    known = dict(zip(numbers, names))
    if len(known) != len(set(zip(numbers, names))):
        raise ValueError("one label has several classes")
    # a number that no image has still takes its place
    return torch.tensor(numbers), tuple(known.get(i, f"class {i}") for i in range(max(known) + 1))


def _features_of(
    values: Tensor, names: Sequence[str] | None, labels: Tensor | None, classes: tuple[str, ...] | None
) -> Features:
    count = len(values)
    if values.ndim != 2 or not count or not values.is_floating_point():
        raise ValueError(f"features are {values.dtype} {tuple(values.shape)}, not floats (N, D)")
    for what, found in (("names", names), ("labels", labels)):
        if found is not None and len(found) != count:
            raise ValueError(f"{counted(count, 'row')} of features and {len(found)} {what}")
    if labels is not None and (labels.is_floating_point() or int(labels.min()) < 0):
        raise ValueError("labels are no integers from 0")
    if labels is not None and classes is not None and int(labels.max()) >= len(classes):
        raise ValueError(f"a label is {int(labels.max())}, and {counted(len(classes), 'class')} have names")
    return Features(
        values.float(), None if labels is None else labels.long(),
        list(names) if names is not None else [f"row {i}" for i in range(count)],
        torch.arange(count), [], None if classes is None else tuple(map(printable, classes)),
    )  # fmt: skip


def check_finite(*features: Tensor) -> None:
    """Raises ValueError if a number of some features is not finite."""
    if not all(bool(x.isfinite().all()) for x in features):
        raise ValueError(
            "The features hold numbers that are not finite. Check the encoder: its training may have diverged."
        )


def check_labels(largest: int, images: int) -> None:
    """Refuses labels that are no numbers of classes, before as many classes are made."""
    if largest >= max(MOST_CLASSES, 10 * images):
        raise ValueError(
            f"The largest label is {largest}, of {counted(images, 'image')}: labels are places of classes, from "
            "0 on. Number them "
            "so, or save the names of the classes beside."
        )


def count_classes(
    train_features: Tensor, train_labels: Tensor, test_features: Tensor, test_labels: Tensor, num_classes: int | None
) -> int:
    """Checks that two labelled sets of features fit together, and returns the number of classes.

    Raises:
        ValueError: what does not fit.
    """
    for name, x, y in (("training", train_features, train_labels), ("test", test_features, test_labels)):
        if x.ndim != 2 or len(x) == 0 or y.shape != x.shape[:1]:
            raise ValueError(
                f"The {name} features are {tuple(x.shape)} and their labels {tuple(y.shape)}; "
                "expected (N, D) and (N,) with at least one image."
            )
        if y.dtype.is_floating_point or y.dtype.is_complex:
            raise ValueError(f"The {name} labels are {y.dtype}; expected integers 0 .. classes - 1.")
    if train_features.shape[1] != test_features.shape[1]:
        raise ValueError(
            f"Training features have {counted(train_features.shape[1], 'number')} and test features "
            f"{test_features.shape[1]}. "
            "Compute both with the same encoder."
        )
    low = min(int(train_labels.min()), int(test_labels.min()))
    high = max(int(train_labels.max()), int(test_labels.max()))
    if num_classes is None:
        check_labels(high, len(train_labels) + len(test_labels))
    classes = high + 1 if num_classes is None else num_classes
    if low < 0 or high >= classes:
        raise ValueError(f"Labels go from {low} to {high}; expected 0 to {classes - 1}.")
    return classes

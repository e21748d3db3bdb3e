"""Files of features, .npz, .parquet and .csv, for exchange with other programs."""

import csv
import os
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..files import atomic
from ..places import check_suffix, no_features
from ..printing import brief, cell, counted, of_cell, printable
from .features import Features


def save_features(path: str | os.PathLike[str], made: Features) -> None:
    """Writes features for other programs, atomically.

    `.npz`: arrays `features` (N, D), `names` (N,) and, with labels, `labels` (N,), which are indices into the names
    `classes` (C,); opens without pickle.
    `.parquet`: columns `file`, `label`, `class` (if classes have names) and `features`, a list of D float32.
    `.csv`: columns `file`, `label`, `class` (if classes have names), `f0` to `f<D-1>`.

    Raises:
        ValueError: an unknown suffix.
        ModuleNotFoundError: `.parquet` without pyarrow.
    """
    check_suffix(path)
    writers = {".npz": _write_npz, ".parquet": _write_parquet, ".csv": _write_csv}
    with atomic(path) as temporary:
        writers[Path(path).suffix.lower()](temporary, made)


def _write_npz(path: Path, made: Features) -> None:
    arrays = {
        "features": made.features.numpy(),
        "names": np.array(made.names, dtype=np.str_),
    }
    if made.labels is not None:
        arrays["labels"] = made.labels.numpy()
        if made.classes is not None:
            arrays["classes"] = np.array([printable(name) for name in made.classes], dtype=np.str_)
    with path.open("wb") as file:  # numpy would append .npz to a name that ends in .NPZ
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
            # 9 digits restore float32 exactly
            writer.writerow([cell(name), label, *own, *(f"{x:.9g}" for x in row.tolist())])


def _class_of_each(made: Features) -> list[str] | None:
    """The class name of each image; None without names."""
    if made.labels is None or made.classes is None:
        return None
    return [made.classes[label] for label in made.labels.tolist()]


def load_features(path: str | os.PathLike[str]) -> Features:
    """Reads a file of features that `save_features` or another program wrote.

    It needs `features` (in a CSV file columns `f0`, `f1`, ...) and, for an evaluation, `labels` (a column `label`, or
    only `class`). Names are optional.

    Raises:
        FileNotFoundError, ValueError: it does not exist, has another type, or lacks a required part.
        ModuleNotFoundError: `.parquet` without pyarrow.
    """
    path = Path(path)
    readers = {".npz": _read_npz, ".parquet": _read_parquet, ".csv": _read_csv}
    if path.suffix.lower() not in readers:
        raise ValueError(f"{path} is not .npz, .parquet or .csv, the types that `lookalike embed` writes.")
    if not path.is_file():
        raise no_features(path)
    try:
        return readers[path.suffix.lower()](path)
    except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path} has no features in the format of `lookalike embed` ({type(error).__name__}: {brief(str(error))})."
        ) from error


def _read_npz(path: Path) -> Features:
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
    """Labels and class names, from a label and a class name per image, as far as there are any."""
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
    # labels without images get a name, too
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
        raise ValueError("labels are not integers from 0 on")
    if labels is not None and classes is not None and int(labels.max()) >= len(classes):
        raise ValueError(f"a label is {int(labels.max())}, and {counted(len(classes), 'class')} have names")
    return Features(
        values.float(), None if labels is None else labels.long(),
        list(names) if names is not None else [f"row {i}" for i in range(count)],
        torch.arange(count), [], None if classes is None else tuple(map(printable, classes)),
    )  # fmt: skip

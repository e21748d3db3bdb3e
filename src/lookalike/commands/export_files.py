"""From an encoder to a verified export: opens the encoder, writes the file, verifies it, names it and describes it."""

import contextlib
import dataclasses
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from .. import classifiers, encoders
from ..backbones import Backbone
from ..backbones.onnx_file import Onnx
from ..classifiers import Classifier
from ..columns import COLUMNS, Columns, columns_of
from ..data import Data, Source, open_maybe_labelled, remarks
from ..data.labelled import name_of
from ..encoders.exported import UNVERIFIED
from ..evaluation.extractor import Encoder
from ..exports import timm_folder
from ..exports.formats import FORMATS, OPSET
from ..exports.making import Making, Request, Status
from ..exports.model_card import Origin, model_card
from ..exports.network import Network, Trained
from ..exports.preparation import check_scale
from ..exports.triton import repository as triton_repository
from ..exports.verify import IMAGES, Sample, Verification, normalised, sample, test_crops
from ..files import atomic, file_sha256, read_json, sync, write_json
from ..foreign import is_tag
from ..image_options import Tiling, tiling_of
from ..places import exists, is_on_hub
from ..printing import counted, pasteable
from ..runs import Folder, made, version
from ..runs.lookup import is_finetuned
from ..runs.yaml import read_yaml
from ..tensor_file import sha256

CALIBRATED = 256
"""Images on which the ranges of int8 numbers are measured."""
RECORD, CARD = "export.json", "README.md"
TEMPORARY = ".export-"
"""Prefix of the temporary folder of an export in progress."""
ABANDONED = 24 * 3600
"""Seconds after which such a folder belongs to an export that was killed."""
LOADED = (".onnx", ".pt2", ".engine", ".safetensors")
"""Suffixes of the files that get another name if the export is not verified."""
BATCH = 8
"""Images per batch of the calibration."""


class NotVerified(RuntimeError):
    """An export was written, but it differs from the encoder, or could not be compared."""


@dataclass(frozen=True)
class Exported:
    """An export on disk."""

    folder: Path
    file: Path
    """The file; for timm the folder."""
    status: Status
    verifications: list[Verification]
    """One for each program that loaded it."""
    next: str = ""
    """What is left to do, such as the command that builds a TensorRT engine, or starts a server."""
    notes: list[str] = field(default_factory=list)
    """What the verification could not try."""


def export_files(
    encoder: Encoder | Classifier,
    asked: Request,
    *,
    out: str | os.PathLike[str] | None,
    check: Data | None,
    calibrate: Data | None,
    encoder_backbone: str | None,
    columns: Columns,
    tiling: Tiling | None,
    say: Callable[[str], None],
) -> Exported:
    """See `export`."""
    trained, origin = _opened(encoder, encoder_backbone)
    network = Network(trained, patch_tokens=asked.patch_tokens, dynamic_size=asked.dynamic_size)
    check_scale(network.encoder.pixels, asked.format, with_preprocessing=asked.with_preprocessing)
    if asked.format == "timm":
        timm_folder.check(network.encoder)
    folder = Path(out) if out is not None else _default_folder(encoder, asked)
    name = "classifier" if isinstance(trained, Classifier) else "encoder"
    _check_folder(folder, asked.overwrite)
    data = check if check is not None else _own_images(origin)
    own = (origin.columns, origin.tiling) if check is None else (columns, tiling)
    source = None if data is None else _open(data, network.encoder, *own, say)
    images = Sample([], "") if source is None else sample(source, IMAGES, "export", name_of(data))
    ranges = _calibration(calibrate, columns, tiling, source, network.encoder, say) if asked.precision == "int8" else []
    with _within(folder) as temporary:
        making = Making(network, trained, origin, asked, temporary, name, say)
        making.write(images, ranges)
        making.verify(images)
        making.compare_accuracy(source)
        command = _command(
            origin, asked, folder, check=check, calibrate=calibrate, encoder_backbone=encoder_backbone,
            tile=None if tiling is None else str(tiling.size), stride=None if tiling is None else str(tiling.stride),
            **{f"columns.{name}": value for name, value in vars(columns).items() if value != vars(COLUMNS)[name]},
        )  # fmt: skip
        exported = _published(making, folder, images, command)
    for line in (*(v.line() for v in exported.verifications), making.accuracy_line, *exported.notes):
        if line:
            say(line)
    if exported.status == "unverified":
        raise NotVerified(
            f"{exported.file} was not verified: there were no images to compare it on. Repeat the command with --check "
            "DATA and --overwrite."
        )
    if exported.status == "failed":
        raise NotVerified(f"{exported.file} differs from the encoder: {'; '.join(making.failures)}.")
    return exported


def _opened(encoder: Encoder | Classifier, backbone: str | None) -> tuple[Trained, Origin]:
    """The encoder or classifier, on the CPU, and where it is from."""
    if isinstance(encoder, nn.Module):
        if isinstance(inner := encoder.encoder if isinstance(encoder, Classifier) else encoder, Onnx):
            raise _exported_already(inner.file.path)
        if not isinstance(encoder, Backbone | Classifier):
            raise ValueError(
                f"{type(encoder).__qualname__} is a module of your own, whose input is unknown. Give "
                "lookalike.backbones.create(module, channels=..., image_size=...)."
            )
        return encoder, Origin(type(encoder).__name__, sha256(encoder), "", 0, "")
    path = Path(encoder)
    run = Folder(path if path.is_dir() else path.parent)
    if encoders.is_export(path):
        raise _exported_already(path)
    is_classifier = is_finetuned(path)
    trained: Trained = classifiers.load(encoder) if is_classifier else encoders.load(encoder, backbone)
    file = run.classifier if is_classifier else run.weights if path.is_dir() else path
    if not file.is_file():
        return trained, Origin(os.fspath(encoder), sha256(trained), "", 0, "")
    digest = file_sha256(file)
    card = encoders.card_within(file) or {}
    of_run = read_yaml(run.run) if run.run.is_file() else {}
    rows = read_json(run.evaluation, list) if run.evaluation.is_file() else []
    weights = {digest, file_sha256(run.weights) if run.weights.is_file() else ""}
    own = [row for row in rows if isinstance(row, dict) and row.get("encoder_sha256") in weights]
    return trained, Origin(
        os.fspath(encoder), digest, str(card.get("method", "")), float(card.get("epochs", 0)),
        str(of_run.get("data", "")), own, str(card.get("dtype", "uint8")),
        columns_of(of_run), tiling_of(of_run),
    )  # fmt: skip


def _exported_already(path: Path) -> ValueError:
    return ValueError(f"{path} is an export already. Give the run that it was exported from.")


def _own_images(origin: Origin) -> Data | None:
    """The training images of the encoder's run, if they are still there."""
    is_path = origin.data and not is_tag(origin.data) and not is_on_hub(origin.data)  # no download unless asked
    return origin.data if is_path and exists(origin.data) else None


def _default_folder(encoder: Encoder | Classifier, asked: Request) -> Path:
    name = asked.format if asked.precision == "fp32" else f"{asked.format}-{asked.precision}"
    run = Path(".")
    if not isinstance(encoder, nn.Module) and os.path.exists(encoder):
        run = Path(encoder) if os.path.isdir(encoder) else Path(encoder).parent
    return run / "export" / name


def _check_folder(folder: Path, overwrite: bool) -> None:
    """Refuses a folder with an export, unless it may be replaced, and a folder with other files."""
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is not a folder. Give another --out.")
    there = [*folder.iterdir()] if folder.is_dir() else []
    if (folder / RECORD).is_file():
        if not overwrite:
            raise FileExistsError(f"{folder} holds an export. Give another --out, or --overwrite.")
    elif any(not each.name.startswith(TEMPORARY) for each in there):
        raise FileExistsError(f"{folder} is not empty and holds no export. Give another --out.")


@contextlib.contextmanager
def _within(folder: Path) -> Iterator[Path]:
    """A temporary folder within `folder`, which is removed again if it was new and nothing was published in it."""
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(f"{TEMPORARY}*"):  # by an export that was killed
        if time.time() - left.stat().st_mtime > ABANDONED:
            shutil.rmtree(left, ignore_errors=True)
    try:
        with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=folder) as temporary:
            yield Path(temporary)
    finally:
        if is_new:
            with contextlib.suppress(OSError):  # it is not empty
                folder.rmdir()


def _open(data: Data, encoder: Backbone, columns: Columns, tiling: Tiling | None, say: Callable[[str], None]) -> Source:
    source = open_maybe_labelled(data, encoder.pixels, columns, tiling)
    for line in remarks(source):
        say(line)
    return source


def _calibration(
    data: Data | None,
    columns: Columns,
    tiling: Tiling | None,
    source: Source | None,
    encoder: Backbone,
    say: Callable[[str], None],
) -> list[NDArray[np.float32]]:
    """Normalised images in batches, by whose ranges activations become int8."""
    source = source if data is None else _open(data, encoder, columns, tiling, say)
    if source is None:
        raise ValueError("int8 needs images to measure the ranges of activations. Give --calibrate DATA.")
    chosen = sample(source, CALIBRATED, "calibration", "")
    if not chosen.images:
        raise ValueError(
            f"None of the {counted(len(source), 'image')} could be read. Give other images with --calibrate DATA."
        )
    crops = normalised(test_crops(chosen.images, encoder.image_size), encoder.mean, encoder.std)
    return [batch.numpy() for batch in torch.split(crops, BATCH)]


def _published(making: Making, folder: Path, images: Sample, command: str) -> Exported:
    """Moves the files to their folder, under other names if they are not verified, and describes them there."""
    for old in (folder / RECORD, *_files_of(folder)):
        old.unlink(missing_ok=True)
        for emptied in old.parents[: len(old.relative_to(folder).parts) - 1]:
            with contextlib.suppress(OSError):  # it is not empty, or not there
                emptied.rmdir()
    suffix = "" if making.status == "verified" else UNVERIFIED
    done = []
    for file in making.files:
        target = folder / file.relative_to(making.folder)
        target = target.with_name(f"{file.name}{suffix if file.suffix in LOADED else ''}")
        target.parent.mkdir(parents=True, exist_ok=True)
        if not _is_within(target, folder):
            raise FileExistsError(f"{target.parent} is a link to another folder. Give another --out.")
        sync(file)
        done.append(file.replace(target))
    for each in {file.parent for file in done} | {folder}:
        sync(each)
    main = folder if making.asked.format == "timm" else done[0]
    server = []
    if making.asked.format == "triton":
        making.next = triton_repository.command(folder, making.model)
        server = triton_repository.card(folder, making.name)
    exported = Exported(folder, main, making.status, making.found, making.next, making.notes)
    with atomic(folder / CARD) as temporary:
        temporary.write_text(
            model_card(
                making.network, making.origin, format=making.asked.format, precision=making.asked.precision,
                file=done[0].relative_to(folder).as_posix(),
                given=making.given, outputs=making.outputs, classes=making.classes, status=making.status,
                verifications=making.found, notes=making.notes, images=images.source, server=server, command=command,
                version=version(),
            ),
            encoding="utf-8",
        )  # fmt: skip
    write_json(folder / RECORD, {
        "format": 1, "status": making.status, "failures": making.failures, "export": dataclasses.asdict(making.asked),
        "encoder": making.origin.encoder, "encoder_sha256": making.origin.sha256,
        "files": {
            each.relative_to(folder).as_posix(): {"bytes": each.stat().st_size, "sha256": file_sha256(each)}
            for each in done
        },
        "input": dataclasses.asdict(making.given), "outputs": [dataclasses.asdict(each) for each in making.outputs],
        "classes": None if making.classes is None else list(making.classes),
        "images": images.source, "verifications": [_plain(each) for each in making.found], "notes": making.notes,
        "before_casting": None if making.before is None else _plain(making.before),
        "accuracy": making.accuracy or None, "command": command, "made": made(),
    })  # fmt: skip
    return exported


def _command(origin: Origin, asked: Request, folder: Path, **others: object) -> str:
    """The command that repeats the export; `others` are the options with the values of `None`, a path or a name."""
    options: list[object] = ["--format", asked.format]
    if asked.precision != "fp32":
        options += ["--precision", asked.precision]
    for name in ("with_preprocessing", "patch_tokens", "dynamic_size"):
        always = name == "with_preprocessing" and FORMATS[asked.format].preprocesses
        options += [f"--{name.replace('_', '-')}"] if dataclasses.asdict(asked)[name] and not always else []
    others |= {"opset": None if asked.opset == OPSET else str(asked.opset)}
    for name, value in others.items():
        if isinstance(value, str | os.PathLike):
            options += [f"--{name.replace('_', '-')}", value]
    return pasteable("lookalike", "export", origin.encoder, *options, "--out", folder)


def _files_of(folder: Path) -> list[Path]:
    """The files of the export in a folder, by its record."""
    record = folder / RECORD
    names = read_json(record, dict).get("files", {}) if record.is_file() else {}
    return [folder / name for name in names if isinstance(name, str) and _is_within(folder / name, folder)]


def _is_within(file: Path, folder: Path) -> bool:
    """Whether a file is in a folder or in one of its folders, without leaving it through .. or a link."""
    return file.name not in ("", "..") and file.parent.resolve().is_relative_to(folder.resolve())


def _plain(verification: Verification) -> dict[str, Any]:
    """As JSON, which has no infinite numbers."""
    found = dataclasses.asdict(verification)
    found["limits"] = {name: value for name, value in found["limits"].items() if math.isfinite(value)}
    for case in found["cases"]:
        case.update({name: None for name in ("largest", "mean") if not math.isfinite(case[name])})
    return found

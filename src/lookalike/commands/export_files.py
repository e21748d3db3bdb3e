"""From an encoder to a verified export: opens the encoder, writes the file, verifies it, names it and describes it."""

import contextlib
import dataclasses
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from .. import classifiers, encoders
from ..backbones import Backbone
from ..backbones.onnx_file import Onnx
from ..classifiers import Classifier
from ..columns import COLUMNS, Columns, columns_of
from ..data import Data, Source, Subset, open_maybe_labelled, remarks
from ..data.labelled import name_of
from ..encoders.exported import UNVERIFIED, load_onnx
from ..evaluation.extractor import Encoder
from ..evaluation.features import crop, features
from ..evaluation.knn import knn
from ..evaluation.metrics import interval_of_change
from ..exports import onnx_graph, tensorrt_engine, timm_folder, torch_program
from ..exports.consumers import ByOnnxruntime, ByTimm, ByTorchExport, ByTransformers, Consumer
from ..exports.formats import FORMATS, Format, Precision
from ..exports.lower_precision import eight_bits, half
from ..exports.model_card import Origin, model_card
from ..exports.network import Network, Trained
from ..exports.preparation import metadata, tensors
from ..exports.preprocessing import Preprocessing
from ..exports.triton import repository as triton_repository
from ..exports.triton import server as triton_server
from ..exports.verify import IMAGES, Sample, Verification, sample, verify
from ..files import FORMAT, atomic, file_sha256, read_json, sync, write_json
from ..foreign import is_tag
from ..images import promote
from ..printing import counted, pasteable
from ..progress import counting
from ..random import permutation
from ..runs import Folder, made, version
from ..runs.yaml import read_yaml
from ..tensor_file import sha256

Status = Literal["verified", "failed", "unverified"]
CALIBRATED = 256
"""Images on which the ranges of int8 numbers are measured."""
BEFORE_CASTING = 32
"""Images on which the graph in fp32 is verified before it is cast."""
LABELLED, MOST_LABELLED = 4000, 10_000
"""Labelled images from which on int8 is also compared by k-NN, half of them as the test set; and their maximum."""
LARGEST_LOSS = {"CNN": 0.005, "ViT": 0.02}
"""Largest loss of k-NN accuracy by int8."""


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


@dataclass(frozen=True, kw_only=True)
class Request:
    """The options of an export."""

    format: Format
    precision: Precision
    with_preprocessing: bool
    patch_tokens: bool
    dynamic_size: bool
    opset: int
    overwrite: bool


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
    say: Callable[[str], None],
) -> Exported:
    """See `export`."""
    trained, origin = _opened(encoder, encoder_backbone)
    network = Network(trained, patch_tokens=asked.patch_tokens, dynamic_size=asked.dynamic_size)
    if asked.format == "timm":
        timm_folder.check(network.encoder)
    folder = Path(out) if out is not None else _default_folder(encoder, asked)
    name = "classifier" if isinstance(trained, Classifier) else "encoder"
    _check_folder(folder, asked.overwrite)
    data = check if check is not None else _own_images(origin)
    own = origin.columns if check is None else columns
    source = None if data is None else _open(data, network.encoder, own, say)
    images = Sample([], "") if source is None else sample(source, IMAGES, "export", name_of(data))
    ranges = _calibration(calibrate, columns, source, network.encoder, say) if asked.precision == "int8" else []
    with _within(folder) as temporary:
        making = _Making(network, trained, origin, asked, temporary, name, say)
        making.write(images, ranges)
        making.verify(images)
        making.compare_accuracy(source)
        command = _command(
            origin, asked, folder, check=check, calibrate=calibrate, encoder_backbone=encoder_backbone,
            **{f"columns.{name}": value for name, value in vars(columns).items() if value != vars(COLUMNS)[name]},
        )  # fmt: skip
        exported = making.publish(folder, images, command)
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
    is_classifier = run.classifier.is_file() and path in (run.path, run.classifier)
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
        columns_of(of_run),
    )  # fmt: skip


def _exported_already(path: Path) -> ValueError:
    return ValueError(f"{path} is an export already. Give the run that it was exported from.")


def _own_images(origin: Origin) -> Data | None:
    """The training images of the encoder's run, if they are still there."""
    return origin.data if origin.data and not is_tag(origin.data) and os.path.exists(origin.data) else None


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


def _open(data: Data, encoder: Backbone, columns: Columns, say: Callable[[str], None]) -> Source:
    source = open_maybe_labelled(data, encoder.channels, encoder.alpha, columns)
    for line in remarks(source):
        say(line)
    return source


def _calibration(
    data: Data | None, columns: Columns, source: Source | None, encoder: Backbone, say: Callable[[str], None]
) -> list[NDArray[np.float32]]:
    """Normalised images in batches, by whose ranges activations become int8."""
    source = source if data is None else _open(data, encoder, columns, say)
    if source is None:
        raise ValueError("int8 needs images to measure the ranges of activations. Give --calibrate DATA.")
    chosen = sample(source, CALIBRATED, "calibration", "")
    if not chosen.images:
        raise ValueError(
            f"None of the {counted(len(source), 'image')} could be read. Give other images with --calibrate DATA."
        )
    crops = torch.stack([promote(crop(image, encoder.image_size), torch.float32) for image in chosen.images])
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (encoder.mean, encoder.std))
    return [batch.numpy() for batch in torch.split((crops - mean) / std, BATCH)]


class _Making:
    """An export in progress, in a temporary folder."""

    def __init__(
        self,
        network: Network,
        trained: Trained,
        origin: Origin,
        asked: Request,
        folder: Path,
        name: str,
        say: Callable[[str], None],
    ) -> None:
        self.network, self.trained, self.origin, self.asked = network, trained, origin, asked
        self.folder, self.name, self.say = folder, name, say
        self.classes = trained.classes if isinstance(trained, Classifier) else None
        encoder = network.encoder
        self.preprocessing = None
        if asked.with_preprocessing:
            self.preprocessing = Preprocessing(encoder.image_size, encoder.mean, encoder.std).eval()
        self.metadata = metadata(
            network, json.dumps(_card(encoder, origin, self.classes)), self.classes, asked.precision,
            preprocesses=asked.with_preprocessing,
        )  # fmt: skip
        self.given, self.outputs = tensors(
            network, preprocesses=asked.with_preprocessing, dynamic_size=asked.dynamic_size
        )
        self.files: list[Path] = []
        """The written files; the first is the one to load."""
        self.next = ""
        self.model = name
        """Of a model repository, the model that the user's server loads."""
        self.notes: list[str] = []
        """What the verification could not try."""
        self.found: list[Verification] = []
        self.before: Verification | None = None
        """Of the graph in fp32, before it was cast."""
        self.accuracy: dict[str, Any] = {}
        self.accuracy_line = ""
        self.failures: list[str] = []

    def write(self, images: Sample, ranges: Sequence[NDArray[np.float32]]) -> None:
        """Writes the files of the format."""
        asked, info = self.asked, FORMATS[self.asked.format]
        path = self.folder / f"{self.name}{info.suffix}"
        self.say(f"Exporting {self.network.encoder.name} to {asked.format} in {asked.precision} ...")
        if asked.format == "timm":
            self.files = timm_folder.write(self.trained, self.folder)
        elif asked.format == "pt2":
            torch_program.write(self.network, self.preprocessing, path, self.metadata, dynamic_size=asked.dynamic_size)
            self.files = [path]
        elif asked.format == "triton":
            self._write_repository(images, ranges)
        else:
            self.files = self._write_onnx(self.folder / f"{self.name}.onnx", images, ranges)
            if asked.format == "tensorrt":
                self._write_engine(self.files[0], path)

    def _write_onnx(self, path: Path, images: Sample, ranges: Sequence[NDArray[np.float32]]) -> list[Path]:
        asked = self.asked
        model = onnx_graph.trace(self.network, dynamic_size=asked.dynamic_size, opset=asked.opset)
        if asked.precision != "fp32" and images.images:
            files = onnx_graph.write(model, path, self.metadata | {"with_preprocessing": "false"})
            some = Sample(images.images[:BEFORE_CASTING], images.source)
            self.before = self._compared(ByOnnxruntime(path), some, "fp32", "before casting")
            self.failures += [f"in fp32, {failure}" for failure in self.before.failures]
            for file in files:
                file.unlink()
        if asked.precision == "fp16":
            model = half(model)
        elif asked.precision == "int8":
            model = eight_bits(model, ranges, self.folder, symmetric=asked.format == "tensorrt")
        if self.preprocessing is not None:
            channels = self.network.encoder.channels
            model = onnx_graph.with_preprocessing(model, self.preprocessing, channels, asked.opset)
        return onnx_graph.write(model, path, self.metadata)

    def _write_engine(self, onnx: Path, engine: Path) -> None:
        if tensorrt_engine.can_build():
            tensorrt_engine.build(onnx, engine)
            self.files = [engine, *self.files]
        else:
            self.next = tensorrt_engine.command(onnx, engine, ByOnnxruntime(onnx).file)
            script = self.folder / "build_engine.sh"
            script.write_text(f"#!/bin/sh\n# on a machine with a GPU and TensorRT, in this folder\n{self.next}\n")
            self.files = [*self.files, script]

    def _write_repository(self, images: Sample, ranges: Sequence[NDArray[np.float32]]) -> None:
        path = triton_repository.file_in(self.folder, self.name)
        path.parent.mkdir(parents=True)
        self.files = self._write_onnx(path, images, ranges)
        self.files += triton_repository.write(
            self.folder, self.name, self.given, self.outputs, classes=self.classes,
            image_size=self.network.encoder.image_size,
        )  # fmt: skip

    def verify(self, images: Sample) -> None:
        """Loads the files by the programs that use them, and compares them with the encoder."""
        if not images.images:
            return
        for consumer in self._consumers():
            self._verify(consumer, images)
        if self.asked.format == "triton":
            self._verify_on_server(images)

    def _verify(self, consumer: Consumer, images: Sample) -> None:
        self.found.append(self._compared(consumer, images, self.asked.precision, consumer.name))
        self.failures += self.found[-1].failures

    def _verify_on_server(self, images: Sample) -> None:
        """Compares the answers of a real server, if there is one on PATH."""
        if missing := triton_server.missing():
            self.notes.append(f"{missing}: no server has loaded the models, only onnxruntime the file.")
            return
        statement = ByOnnxruntime(self.files[0]).statement
        with triton_server.running(self.folder, triton_repository.models(self.name)) as server:
            for model in server.ready:
                self._verify(triton_server.ByTriton(server, model, statement), images)
        for model, reason in server.refused.items():
            text = f"{server.name} cannot load {model}: {reason}"
            (self.notes if triton_server.is_not_installed(reason) else self.failures).append(text)
        self.model = next(iter(server.ready), self.name)

    def _compared(self, consumer: Consumer, images: Sample, precision: Precision, what: str) -> Verification:
        return verify(
            consumer, self.network, images, precision, dynamic_size=self.asked.dynamic_size,
            progress=counting(self.say, f"verifying ({what}): ", "images", last=True),
        )  # fmt: skip

    def _consumers(self) -> list[Consumer]:
        first = self.files[0]
        if self.asked.format == "pt2":
            return [ByTorchExport(first)]
        if self.asked.format == "timm":
            installed = find_spec("transformers") is not None
            return [ByTimm(self.folder), *([ByTransformers(self.folder)] if installed else [])]
        if first.suffix == ".engine":
            return [tensorrt_engine.ByTensorRT(first, self.files[1])]
        return [ByOnnxruntime(first)]

    def compare_accuracy(self, source: Source | None) -> None:
        """Compares the k-NN accuracy of an int8 encoder with that of the original, if there are enough labels."""
        if self.asked.precision != "int8" or source is None or source.labels is None or len(source) < LABELLED:
            return
        encoder = self.network.encoder
        chosen = permutation(len(source), "accuracy")[:MOST_LABELLED]
        half_of = len(chosen) // 2
        subset, correct = Subset(source, chosen.tolist()), []
        for what, module in (
            ("fp32", encoder),
            ("int8", load_onnx(next(file for file in self.files if file.suffix == ".onnx"))[0]),
        ):
            found = features(
                module, subset, image_size=encoder.image_size, mean=encoder.mean, std=encoder.std,
                progress=counting(self.say, f"k-NN accuracy ({what}): ", "images", last=True),
            )  # fmt: skip
            assert found.labels is not None
            bank, test = slice(None, half_of), slice(half_of, None)
            votes = knn(found.features[bank], found.labels[bank], found.features[test], found.labels[test])
            correct.append(votes.predictions == found.labels[test])
        low, high = interval_of_change(correct[0], correct[1])
        before, after = (float(each.double().mean()) for each in correct)
        kind = "CNN" if encoder.patch_size is None else "ViT"
        self.accuracy = {
            "protocol": "knn", "test_images": len(correct[0]), "fp32": before, "int8": after,
            "change": after - before, "interval": [low, high], "limit": LARGEST_LOSS[kind],
        }  # fmt: skip
        self.accuracy_line = (
            f"k-NN accuracy on {counted(len(correct[0]), 'image')}: {before:.1%} in fp32, {after:.1%} in int8 (change "
            f"{100 * (after - before):+.1f}, 95 % interval {100 * low:+.1f} to {100 * high:+.1f} points)"
        )
        if before - after > LARGEST_LOSS[kind]:
            self.failures.append(
                f"int8 loses {100 * (before - after):.1f} points of k-NN accuracy (limit {100 * LARGEST_LOSS[kind]:g})"
            )

    @property
    def status(self) -> Status:
        if not self.found:
            return "unverified"
        return "failed" if self.failures else "verified"

    def publish(self, folder: Path, images: Sample, command: str) -> Exported:
        """Moves the files to their folder, under other names if they are not verified, and describes them there."""
        for old in (folder / RECORD, *_files_of(folder)):
            old.unlink(missing_ok=True)
            for emptied in old.parents[: len(old.relative_to(folder).parts) - 1]:
                with contextlib.suppress(OSError):  # it is not empty, or not there
                    emptied.rmdir()
        suffix = "" if self.status == "verified" else UNVERIFIED
        done = []
        for file in self.files:
            target = folder / file.relative_to(self.folder)
            target = target.with_name(f"{file.name}{suffix if file.suffix in LOADED else ''}")
            target.parent.mkdir(parents=True, exist_ok=True)
            if not _is_within(target, folder):
                raise FileExistsError(f"{target.parent} is a link to another folder. Give another --out.")
            sync(file)
            done.append(file.replace(target))
        for each in {file.parent for file in done} | {folder}:
            sync(each)
        main = folder if self.asked.format == "timm" else done[0]
        server = []
        if self.asked.format == "triton":
            self.next = triton_repository.command(folder, self.model)
            server = triton_repository.card(folder, self.name)
        exported = Exported(folder, main, self.status, self.found, self.next, self.notes)
        with atomic(folder / CARD) as temporary:
            temporary.write_text(
                model_card(
                    self.network, self.origin, format=self.asked.format, precision=self.asked.precision,
                    file=done[0].relative_to(folder).as_posix(),
                    given=self.given, outputs=self.outputs, classes=self.classes, status=self.status,
                    verifications=self.found, notes=self.notes, images=images.source, server=server, command=command,
                    version=version(),
                ),
                encoding="utf-8",
            )  # fmt: skip
        write_json(folder / RECORD, {
            "format": 1, "status": self.status, "failures": self.failures, "export": dataclasses.asdict(self.asked),
            "encoder": self.origin.encoder, "encoder_sha256": self.origin.sha256,
            "files": {
                each.relative_to(folder).as_posix(): {"bytes": each.stat().st_size, "sha256": file_sha256(each)}
                for each in done
            },
            "input": dataclasses.asdict(self.given), "outputs": [dataclasses.asdict(each) for each in self.outputs],
            "classes": None if self.classes is None else list(self.classes),
            "images": images.source, "verifications": [_plain(each) for each in self.found], "notes": self.notes,
            "before_casting": None if self.before is None else _plain(self.before),
            "accuracy": self.accuracy or None, "command": command, "made": made(),
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
    others |= {"opset": None if asked.opset == onnx_graph.OPSET else str(asked.opset)}
    for name, value in others.items():
        if isinstance(value, str | os.PathLike):
            options += [f"--{name.replace('_', '-')}", value]
    return pasteable("lookalike", "export", origin.encoder, *options, "--out", folder)


def _card(encoder: Backbone, origin: Origin, classes: Sequence[str] | None) -> dict[str, Any]:
    """The card of `encoder.json`, for the metadata of a file."""
    card = encoders.Card(
        format=FORMAT, backbone=encoder.name, stem=encoder.stem, interpolation=encoder.interpolation, dim=encoder.dim,
        image_size=encoder.image_size, channels=encoder.channels, dtype=origin.dtype, mean=encoder.mean,
        std=encoder.std, method=origin.method, epochs=origin.epochs, alpha=encoder.alpha,
    )  # fmt: skip
    return dataclasses.asdict(card) | ({} if classes is None else {"classes": list(classes)})


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

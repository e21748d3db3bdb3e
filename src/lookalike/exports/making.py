"""An export in progress: writes the files of a format, loads them by their programs, compares them with the encoder."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .. import encoders
from ..backbones import Backbone
from ..classifiers import Classifier
from ..data import Source, Subset
from ..encoders.exported import load_onnx
from ..evaluation.features import features
from ..evaluation.knn import knn
from ..evaluation.metrics import interval_of_change
from ..files import FORMAT
from ..printing import counted
from ..progress import counting
from ..random import permutation
from . import onnx_graph, tensorrt_engine, timm_folder, torch_program
from .consumers import ByOnnxruntime, ByTimm, ByTorchExport, ByTransformers, Consumer
from .formats import FORMATS, Format, Precision
from .lower_precision import eight_bits, half
from .model_card import Origin
from .network import Network, Trained
from .preparation import metadata, tensors
from .preprocessing import Preprocessing
from .triton import repository as triton_repository
from .triton import server as triton_server
from .verify import Sample, Verification, verify

Status = Literal["verified", "failed", "unverified"]
BEFORE_CASTING = 32
"""Images on which the graph in fp32 is verified before it is cast."""
LABELLED, MOST_LABELLED = 4000, 10_000
"""Labelled images from which on int8 is also compared by k-NN, half of them as the test set; and their maximum."""
LARGEST_LOSS = {"CNN": 0.005, "ViT": 0.02}
"""Largest loss of k-NN accuracy by int8."""


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


class Making:
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
        compared = {case.output for each in self.found for case in each.cases}
        if left := [name for name in self.network.outputs if name not in compared]:
            self.failures.append(f"the file has no output {', '.join(left)}")
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


def _card(encoder: Backbone, origin: Origin, classes: Sequence[str] | None) -> dict[str, Any]:
    """The card of `encoder.json`, for the metadata of a file."""
    card = encoders.Card(
        format=FORMAT, backbone=encoder.name, stem=encoder.stem, interpolation=encoder.interpolation, dim=encoder.dim,
        image_size=encoder.image_size, channels=encoder.channels, dtype=origin.dtype, mean=encoder.mean,
        std=encoder.std, method=origin.method, epochs=origin.epochs, **encoders.read_as(encoder.pixels),
    )  # fmt: skip
    return dataclasses.asdict(card) | ({} if classes is None else {"classes": list(classes)})

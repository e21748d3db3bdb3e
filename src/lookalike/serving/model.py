"""The model behind a server: an encoder or a classifier, run by onnxruntime or torch."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from .. import classifiers, encoders
from ..backbones import Backbone
from ..backbones.onnx_file import FEATURES, PROBABILITIES, Onnx
from ..classifiers import Classifier
from ..devices import default_device
from ..encoders import load_onnx
from ..evaluation.extractor import open_encoder_and_digest
from ..evaluation.features import device_of
from ..files import file_sha256
from ..image_options import Pixels
from ..printing import counted, printable
from ..runs.lookup import classifier_of, is_finetuned

Arrays = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a model takes and gives."""

    name: str
    """encoder or classifier: its name in paths."""
    backbone: str
    sha256: str
    """Of the weights' file, or of the weights if they are published ones."""
    runtime: str
    dim: int
    image_size: int
    channels: int
    pixels: Pixels
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...] | None
    outputs: Mapping[str, tuple[int, ...]]
    """The shape of each output for one image."""

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Of one image: (C, S, S)."""
        return self.channels, self.image_size, self.image_size

    @property
    def facts(self) -> dict[str, Any]:
        """What every answer says about the model."""
        return {
            "name": self.name, "backbone": printable(self.backbone), "sha256": self.sha256, "dim": self.dim,
            "image_size": self.image_size,
        }  # fmt: skip

    def line(self) -> str:
        """One line for the user."""
        classes = "" if self.classes is None else f", {counted(len(self.classes), 'class')}"
        size = f"{self.image_size} x {self.image_size} pixels"
        return f"{self.name} {self.backbone}, {counted(self.dim, 'dimension')}{classes}, {size}, by {self.runtime}"


class Model(Protocol):
    """A loaded model."""

    description: Description

    def run(self, images: NDArray[np.float32]) -> Arrays:
        """The outputs by name for normalised images (B, C, S, S)."""
        ...


class ByOnnxruntime:
    """An exported `.onnx` file."""

    def __init__(self, encoder: Onnx, classes: tuple[str, ...] | None, sha256: str) -> None:
        import onnxruntime

        self._file = encoder.file
        provider = self._file.session.get_providers()[0].removesuffix("ExecutionProvider")
        outputs = {
            name: tuple(side if isinstance(side, int) else -1 for side in shape[1:])  # -1: any number of patches
            for name, (shape, _) in self._file.outputs.items()
        }
        self.description = _described(
            encoder, classes, sha256, f"onnxruntime {onnxruntime.__version__} ({provider})", outputs
        )

    def run(self, images: NDArray[np.float32]) -> Arrays:
        return self._file.run(images)


class ByTorch:
    """A loaded encoder or classifier, on a GPU if there is one."""

    def __init__(self, encoder: Backbone, classifier: Classifier | None, sha256: str) -> None:
        self._encoder = encoder.eval()
        self._head: nn.Module | None = None if classifier is None else classifier.head.eval()
        self._device = device_of(encoder)
        self._dtype = next((p.dtype for p in encoder.parameters()), torch.float32)
        outputs: dict[str, tuple[int, ...]] = {} if classifier is None else {PROBABILITIES: (len(classifier.classes),)}
        self.description = _described(
            encoder, None if classifier is None else classifier.classes, sha256,
            f"torch {torch.__version__} ({self._device.type})", {**outputs, FEATURES: (encoder.dim,)},
        )  # fmt: skip

    def run(self, images: NDArray[np.float32]) -> Arrays:
        with torch.inference_mode():
            features = self._encoder(torch.from_numpy(images).to(self._device, self._dtype))
            found = {FEATURES: features}
            if self._head is not None:
                found[PROBABILITIES] = self._head(features).softmax(1)
            return {name: value.float().cpu().numpy() for name, value in found.items()}


def load(encoder: str | os.PathLike[str], backbone: str | None = None) -> Model:
    """Loads an encoder or a classifier, and computes the features of one image.

    Args:
        encoder: an argument of `lookalike.load`; the folder of a finetune run and its classifier.safetensors are
            classifiers.
        backbone: name of the architecture, if a weights file does not state it.

    Raises:
        ValueError, FileNotFoundError, ModuleNotFoundError: it cannot be loaded, or gives values that are not finite.
    """
    model = _loaded(encoder, backbone)
    described = model.description
    found = model.run(np.zeros((1, *described.input_shape), np.float32))
    for name, value in found.items():
        if not np.isfinite(value).all():
            raise ValueError(
                f"The {name} of a grey image are not finite. Check the encoder: its training may have diverged."
            )
    return model


def _loaded(encoder: str | os.PathLike[str], backbone: str | None) -> Model:
    if encoders.is_export(encoder):
        path = Path(encoder)
        onnx, classes = _unchanged(path, lambda: load_onnx(path))
        return ByOnnxruntime(onnx, classes, file_sha256(path))
    path = Path(encoder)
    if is_finetuned(path):
        file = classifier_of(path)
        classifier = _unchanged(file, lambda: classifiers.load(file))
        classifier.to(default_device())
        return ByTorch(classifier.encoder, classifier, file_sha256(file))
    opened, digest = open_encoder_and_digest(encoder, backbone=backbone)
    return ByTorch(opened, None, digest)


def _unchanged(path: Path, read: Callable[[], Any]) -> Any:
    """What `read` finds in a file that was not replaced in the meantime."""
    while True:
        before = file_sha256(path)
        found = read()
        if file_sha256(path) == before:
            return found


def _described(
    encoder: Backbone,
    classes: tuple[str, ...] | None,
    sha256: str,
    runtime: str,
    outputs: Mapping[str, tuple[int, ...]],
) -> Description:
    return Description(
        name="encoder" if classes is None else "classifier", backbone=encoder.name, sha256=sha256, runtime=runtime,
        dim=encoder.dim, image_size=encoder.image_size, channels=encoder.channels, pixels=encoder.pixels,
        mean=tuple(encoder.mean), std=tuple(encoder.std), classes=classes, outputs=outputs,
    )  # fmt: skip

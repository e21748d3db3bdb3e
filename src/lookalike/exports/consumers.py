"""The programs that read exports: each loads a file as its users would, and says what the file states about itself."""

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ..backbones.onnx_file import FEATURES, PROBABILITIES, OnnxFile
from .torch_program import METADATA


@dataclass(frozen=True)
class Statement:
    """What an export says about its input. Whoever uses it knows no more."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int
    preprocesses: bool = False
    """Takes uint8 images (B, H, W, C) of any size, not normalised ones (B, C, H, W)."""


class Consumer(Protocol):
    """A loaded export."""

    name: str
    """The program and its version."""
    statement: Statement

    def run(self, images: NDArray[Any]) -> Mapping[str, NDArray[np.float32]]:
        """The outputs by name for a batch of images."""
        ...


class ByOnnxruntime:
    """An `.onnx` file in onnxruntime."""

    def __init__(self, path: Path) -> None:
        import onnxruntime

        self.file = OnnxFile(path)
        self.name = f"onnxruntime {onnxruntime.__version__}"
        self.statement = stated(self.file.metadata, self.file.preprocesses)

    def run(self, images: NDArray[Any]) -> Mapping[str, NDArray[np.float32]]:
        return self.file.run(images)


class ByTorchExport:
    """A `.pt2` file in PyTorch, by `torch.export.load`."""

    def __init__(self, path: Path) -> None:
        extra = {METADATA: ""}
        try:
            with open(path, "rb") as file:
                self.module = torch.export.load(file, extra_files=extra).module()
        except (RuntimeError, zipfile.BadZipFile, KeyError, ValueError) as error:
            raise ValueError(f"torch.export cannot load {path}: {error} Export the encoder again.") from None
        metadata: dict[str, str] = json.loads(extra[METADATA])
        self.name = f"torch {torch.__version__}"
        self.outputs: list[str] = json.loads(metadata["outputs"])
        self.statement = stated(metadata, bool(json.loads(metadata["with_preprocessing"])))

    def run(self, images: NDArray[Any]) -> Mapping[str, NDArray[np.float32]]:
        with torch.inference_mode():
            found = self.module(torch.from_numpy(images))
        return {name: value.numpy() for name, value in zip(self.outputs, found)}


class ByTimm:
    """A folder in timm, by `create_model("local-dir:FOLDER", pretrained=True)`."""

    def __init__(self, folder: Path) -> None:
        import timm

        self.module = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        self.name = f"timm {timm.__version__}"
        config = self.module.pretrained_cfg
        self.statement = Statement(tuple(config["mean"]), tuple(config["std"]), config["input_size"][-1])

    def run(self, images: NDArray[Any]) -> Mapping[str, NDArray[np.float32]]:
        x = torch.from_numpy(images)
        with torch.inference_mode():
            found = {FEATURES: self.module.forward_head(self.module.forward_features(x), pre_logits=True)}
            if self.module.num_classes:
                found[PROBABILITIES] = self.module(x).softmax(1)
        return {name: value.numpy() for name, value in found.items()}


class ByTransformers:
    """The same folder in transformers, by `AutoModel.from_pretrained`."""

    def __init__(self, folder: Path) -> None:
        import transformers
        from transformers.utils import logging

        level, shows_progress = logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        try:
            self.module = transformers.AutoModel.from_pretrained(folder, local_files_only=True).eval()
            processor = transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True).data_config
        finally:
            logging.set_verbosity(level)
            if shows_progress:
                logging.enable_progress_bar()
        self.name = f"transformers {transformers.__version__}"
        self.statement = Statement(tuple(processor["mean"]), tuple(processor["std"]), processor["input_size"][-1])

    def run(self, images: NDArray[Any]) -> Mapping[str, NDArray[np.float32]]:
        with torch.inference_mode():
            return {FEATURES: self.module(torch.from_numpy(images)).pooler_output.numpy()}


def stated(metadata: Mapping[str, str], preprocesses: bool) -> Statement:
    """What the metadata of a file state."""
    mean, std, size = (json.loads(metadata[key]) for key in ("mean", "std", "image_size"))
    return Statement(tuple(mean), tuple(std), size, preprocesses)

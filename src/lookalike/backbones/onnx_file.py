"""ONNX files, run by onnxruntime, and exported encoders as backbones without a torch network."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..files import file_sha256
from .base import Backbone, Interpolation, Parts, Stem

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

IMAGES, NORMALISED = "images", "normalised"
"""The input, and with preprocessing in the graph, the normalised images (B, C, S, S) within it."""
FEATURES, PATCHES, PROBABILITIES = "features", "patch_tokens", "probabilities"
"""The outputs: (B, D), (B, N, P), and (B, K) of a classifier."""
PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")
"""Devices of onnxruntime, the preferred one first."""


class OnnxFile:
    """An ONNX file that onnxruntime has loaded."""

    def __init__(self, path: str | os.PathLike[str], content: bytes | None = None) -> None:
        """Loads a file, or `content`, a model that was made from it.

        Raises:
            ModuleNotFoundError: onnxruntime is not installed.
            ValueError: onnxruntime cannot load it.
        """
        try:
            import onnxruntime
        except ModuleNotFoundError:
            raise ModuleNotFoundError(
                f"{path} needs onnxruntime: pip install 'lookalike[onnx]'. On a GPU, pip install onnxruntime-gpu."
            ) from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors only; warnings name nodes that no user knows
        providers = [each for each in PROVIDERS if each in onnxruntime.get_available_providers()]
        try:
            self.session: InferenceSession = onnxruntime.InferenceSession(
                os.fspath(path) if content is None else content, options, providers=providers
            )
        except Exception as error:  # onnxruntime's errors have no common class
            raise ValueError(
                f"onnxruntime cannot load {path}: {' '.join(str(error).split())} Copy the file again, or export the "
                "encoder again."
            ) from None
        self.path = Path(path)
        self.metadata: dict[str, str] = self.session.get_modelmeta().custom_metadata_map
        self.inputs = {each.name: (list(each.shape), str(each.type)) for each in self.session.get_inputs()}
        self.outputs = {each.name: (list(each.shape), str(each.type)) for each in self.session.get_outputs()}

    def __deepcopy__(self, memo: dict[int, object]) -> "OnnxFile":
        """The same object: it never changes, and a session cannot be copied."""
        return self

    def run(self, images: NDArray[Any]) -> dict[str, NDArray[np.float32]]:
        """The outputs, by name, for a batch of images as the file's only input takes them."""
        (name,) = self.inputs
        return dict(zip(self.outputs, self.session.run([*self.outputs], {name: images})))

    @property
    def preprocesses(self) -> bool:
        """Whether the graph takes uint8 images of any size, and normalises them itself."""
        return [kind for _, kind in self.inputs.values()] == ["tensor(uint8)"]

    def without_preprocessing(self) -> "OnnxFile":
        """The part of the graph that takes normalised images."""
        try:
            import onnx
            import onnx.utils
        except ModuleNotFoundError:
            raise ModuleNotFoundError(
                f"{self.path} holds its own preprocessing, and taking it out needs onnx: pip install 'lookalike[onnx]'"
            ) from None

        model = onnx.load(self.path)
        part = onnx.utils.Extractor(model).extract_model([NORMALISED], [*self.outputs])
        return OnnxFile(self.path, part.SerializeToString())


class Onnx(Backbone):
    """An exported encoder: its features, and its patch tokens if they were exported. It cannot be trained."""

    def __init__(
        self,
        file: OnnxFile,
        name: str,
        *,
        channels: int,
        image_size: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        stem: Stem,
        interpolation: Interpolation,
    ) -> None:
        super().__init__(
            nn.Identity(), name, channels=channels, image_size=image_size, mean=mean, std=std, stem=stem,
            interpolation=interpolation,
        )  # fmt: skip
        # as weights have in other backbones: two files are told apart by the digest of their tensors
        self.register_buffer("sha256", torch.tensor([*bytes.fromhex(file_sha256(file.path))], dtype=torch.uint8))
        self.file = file.without_preprocessing() if file.preprocesses else file
        self.dim = int(self.file.outputs[FEATURES][0][1])
        self.patch_dim = int(self.file.outputs[PATCHES][0][2]) if PATCHES in self.file.outputs else 0

    def forward(self, x: Tensor) -> Tensor:
        return self._run(x)[FEATURES]

    def probabilities(self, x: Tensor) -> Tensor:
        """Of the classes, (B, K), if the file is a classifier."""
        return self._run(x)[PROBABILITIES]

    def check_size(self, size: int) -> None:
        """Raises ValueError for another size than the file's, unless it accepts any."""
        (shape,) = (shape for shape, _ in self.file.inputs.values())
        if shape[2:] != [size, size] and any(isinstance(side, int) for side in shape[2:]):
            raise ValueError(
                f"{self.file.path} takes images of {shape[3]} x {shape[2]} pixels, not {size} x {size}. Leave "
                "--image-size out, or export the encoder again with --dynamic-size."
            )

    def attention(self, x: Tensor) -> Tensor:
        raise self._lacks("attention")

    def class_tokens(self, x: Tensor, blocks: int) -> Tensor:
        raise self._lacks("class tokens of several blocks")

    def export_state(self) -> dict[str, Tensor]:
        raise ValueError(
            f"{self.file.path} is an export, whose weights cannot be trained or exported again. Give the run that it "
            "was exported from."
        )

    def _parts(self, x: Tensor, mask: Tensor | None) -> Parts:
        self._refuse(mask)
        found = self._run(x)
        return found[FEATURES], found.get(PATCHES), 0

    def _lacks(self, what: str) -> ValueError:
        return ValueError(f"{self.file.path} is an export without {what}. Give the run that it was exported from.")

    def _run(self, x: Tensor) -> dict[str, Tensor]:
        found = self.file.run(x.detach().float().cpu().contiguous().numpy())
        return {name: torch.from_numpy(value).to(x.device) for name, value in found.items()}

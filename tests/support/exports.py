"""Exports for the tests: networks as after a training, images of many shapes, ONNX graphs and what is done to them."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import ModelProto, numpy_helper
from PIL import Image

from lookalike import backbones, encoders
from lookalike.backbones import Backbone
from lookalike.data import open_maybe_labelled
from lookalike.evaluation.features import calibrated, crop, with_statistics
from lookalike.exports import onnx_graph
from lookalike.exports.consumers import ByOnnxruntime
from lookalike.exports.network import Network, Trained
from lookalike.exports.preparation import metadata
from lookalike.exports.verify import Sample, sample
from lookalike.images import promote
from lookalike.runs import Folder

from . import tiny
from .images import draw

WEIGHTED = ("Conv", "MatMul", "Gemm")
"""Operators whose second input is a tensor of weights."""


def cnn(channels: int = 3) -> Backbone:
    """The tiny CNN with BatchNorm statistics as after a training: of noise on coloured grounds."""
    torch.manual_seed(0)
    encoder = moved(backbones.create(tiny.CNN, image_size=32, channels=channels))
    return calibrated(encoder, [torch.randn(16, channels, 32, 32) + torch.randn(16, channels, 1, 1)])


def vit(**options: Any) -> Backbone:
    """The tiny ViT for 32 pixels, in which no weight is as at first."""
    torch.manual_seed(0)
    encoder = backbones.create(tiny.VIT, image_size=32, **options)
    return moved(encoder).eval()


def moved(encoder: Backbone) -> Backbone:
    """The encoder with weights that differ from their initial values, as after a training."""
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return encoder


def calibrated_on(encoder: Backbone, images: Path) -> Backbone:
    source = open_maybe_labelled(images, encoder.pixels)
    return with_statistics(encoder, source, image_size=encoder.image_size, mean=encoder.mean, std=encoder.std)


def sample_of(images: Path, encoder: Backbone) -> Sample:
    return sample(open_maybe_labelled(images, encoder.pixels), 256, "tests", str(images))


def crops_of(images: Sample, encoder: Backbone) -> torch.Tensor:
    """Normalised, (N, C, S, S)."""
    crops = torch.stack([promote(crop(image, encoder.image_size), torch.float32) for image in images.images])
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (encoder.mean, encoder.std))
    return (crops - mean) / std


def metadata_of(network: Network, preprocesses: bool = False) -> dict[str, str]:
    return metadata(network, json.dumps({}), None, "fp32", preprocesses=preprocesses)


def loaded(model: ModelProto, network: Network, path: Path, **changes: str) -> ByOnnxruntime:
    """A graph as onnxruntime loads it from its file; `changes` are entries of its metadata."""
    preprocesses = model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    onnx_graph.write(model, path, metadata_of(network, preprocesses) | changes)
    return ByOnnxruntime(path)


def traced(trained: Trained, **options: bool) -> tuple[Network, ModelProto]:
    network = Network(trained, **options)
    return network, onnx_graph.trace(network, dynamic_size=options.get("dynamic_size", False))


def copy_of(model: ModelProto) -> ModelProto:
    copied = ModelProto()
    copied.CopyFrom(model)
    return copied


def weights(model: ModelProto) -> list[str]:
    """Names of the weight tensors, first to last: of convolutions and products by a matrix that was trained."""
    stored = {each.name for each in model.graph.initializer}
    return [node.input[1] for node in model.graph.node if node.op_type in WEIGHTED and node.input[1] in stored]


def changed(model: ModelProto, name: str, change: Any) -> ModelProto:
    """A copy of a graph in which `change` was applied to the array of a stored tensor."""
    copied = copy_of(model)
    (tensor,) = (each for each in copied.graph.initializer if each.name == name)
    value = np.ascontiguousarray(change(numpy_helper.to_array(tensor).copy()))
    tensor.CopyFrom(numpy_helper.from_array(value, name))
    return copied


def sizes_of(model: ModelProto) -> dict[str, list[int | str]]:
    """Shapes of inputs and outputs; free dimensions by their names."""
    return {
        each.name: [side.dim_param or side.dim_value for side in each.type.tensor_type.shape.dim]
        for each in (*model.graph.input, *model.graph.output)
    }


def pictures(folder: Path, count: int, sides: Sequence[tuple[int, int]] = ((24, 20),)) -> Path:
    """Images of four kinds and of some sizes, (width, height)."""
    for i in range(count):
        draw(folder / f"{i:03d}.jpg", i % 4, 5000 + i, sides[i % len(sides)])
    return folder


def deep(path: Path, seed: int) -> None:
    """A grey image of 16 bits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 2**16, (40, 50), np.uint16)).save(path)


def saved(folder: Path, encoder: Backbone, images: Path | None) -> Path:
    """The folder of a run that trained the encoder on some images; None: of which nothing is known."""
    run = Folder(folder)
    encoders.save(run, encoder, method="simclr", epochs=1, dtype=torch.uint8)
    if images is not None:
        run.run.write_text(f"method: simclr\ndata: {images}\n")
    return folder


def process(script: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
    """A script that was run by a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", f"import sys\n{script}", *map(str, arguments)], capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "HF_HUB_OFFLINE": "1"}, timeout=240, check=False,
    )  # fmt: skip


def blocked(script: str, *arguments: object, without: Sequence[str] = ()) -> str:
    """What a script prints in a process of its own, in which some packages cannot be imported."""
    done = process("".join(f"sys.modules[{name!r}] = None\n" for name in without) + script, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout

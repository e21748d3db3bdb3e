"""From a network to an ONNX model: traced by `torch.export`, with a free batch dimension that is checked."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..backbones import Backbone
from ..backbones.onnx_file import IMAGES, NORMALISED
from .formats import OPSET
from .network import Network
from .preprocessing import Preprocessing

if TYPE_CHECKING:
    from onnx import ModelProto

TRACED = 2
"""Images of the batch that is traced: 1 would be taken for a constant."""
STEP = 32
"""Step between image sizes, in pixels, of networks without patches."""
LARGEST_FILE = 2**31 - 2**20
"""Size in bytes up to which a model is one file: protobuf's limit is 2 GiB."""


def trace(network: Network, *, dynamic_size: bool, opset: int = OPSET) -> "ModelProto":
    """The graph of normalised images (B, C, H, W) in float32 -> `network.outputs`.

    Raises:
        ValueError: the network cannot be traced, or the batch is not free in the graph.
    """
    encoder = network.encoder
    example = torch.zeros(TRACED, encoder.channels, *traced_size(encoder, dynamic_size))
    free = {0: "batch", **({2: "height", 3: "width"} if dynamic_size else {})}
    model = _exported(network, example, IMAGES, network.outputs, free, opset, encoder.name)
    check_batch(model)
    return model


def with_preprocessing(model: "ModelProto", preprocessing: Preprocessing, channels: int, opset: int) -> "ModelProto":
    """A model of normalised images as one of uint8 images (B, H, W, C) of any size."""
    import onnx
    import onnx.compose

    size = 2 * preprocessing.size
    example = torch.zeros(TRACED, size, size + 1, channels, dtype=torch.uint8)
    free = {0: "batch", 1: "height", 2: "width"}
    before = _exported(preprocessing, example, IMAGES, (NORMALISED,), free, opset, "the preprocessing")
    before = onnx.compose.add_prefix(before, "preprocessing/", rename_inputs=False, rename_outputs=False)
    after = onnx.compose.add_prefix(model, "network/", rename_inputs=False, rename_outputs=False)
    _rename_input(after, NORMALISED + "_input")
    (known,) = (onnx.ValueInfoProto.FromString(each.SerializeToString()) for each in before.graph.output)
    before.ir_version = after.ir_version
    merged = onnx.compose.merge_models(before, after, io_map=[(NORMALISED, NORMALISED + "_input")])
    versions = {each.domain: each.version for each in merged.opset_import}  # the merge lists them once for each graph
    del merged.opset_import[:]
    merged.opset_import.extend(onnx.helper.make_opsetid(*each) for each in versions.items())
    if all(each.name != NORMALISED for each in merged.graph.value_info):  # onnx takes graphs apart at known tensors
        merged.graph.value_info.append(known)
    check_batch(merged)
    return merged


def check_batch(model: "ModelProto") -> None:
    """Raises ValueError if the batch has a fixed size in an input or output of the graph."""
    for each in (*model.graph.input, *model.graph.output):
        first = each.type.tensor_type.shape.dim[0]
        if not first.dim_param:
            raise ValueError(
                f"The batch of {each.name} is fixed to {first.dim_value} in the graph: the network turns the number of "
                "images into a constant. Change the operation that reads it, such as x.shape[0] in a Python condition."
            )


def write(model: "ModelProto", path: Path, metadata: Mapping[str, str]) -> list[Path]:
    """Writes a model with its metadata, as one file if it is below 2 GiB, and returns the written files."""
    import onnx

    del model.metadata_props[:]
    onnx.helper.set_model_props(model, dict(metadata))
    if model.ByteSize() < LARGEST_FILE:
        onnx.checker.check_model(model)
        onnx.save(model, path)
        return [path]
    weights = path.with_name(f"{path.name}.data")
    onnx.save(model, path, save_as_external_data=True, all_tensors_to_one_file=True, location=weights.name)
    onnx.load_external_data_for_model(model, str(path.parent))  # saving moved the weights out of the model
    return [path, weights]


def traced_size(encoder: Backbone, dynamic_size: bool) -> tuple[int, int]:
    """Height and width for tracing: both the encoder's, or if sizes are free two that differ from it and each other."""
    size, step = encoder.image_size, encoder.patch_size or STEP
    return (size + step, size + 2 * step) if dynamic_size else (size, size)


def _exported(
    module: nn.Module, example: Tensor, name: str, outputs: tuple[str, ...], free: dict[int, str], opset: int, what: str
) -> "ModelProto":
    try:
        with quiet():
            program: Any = torch.onnx.export(
                module, (example,), dynamo=True, input_names=[name], output_names=list(outputs),
                dynamic_shapes=(free,), opset_version=opset, verbose=False, external_data=False,
            )  # fmt: skip
    except Exception as error:  # torch.onnx raises errors of many kinds
        raise ValueError(
            f"{what} cannot be exported to ONNX: {first_line(error)} Try --format pt2, or another --opset."
        ) from error
    model: ModelProto = program.model_proto
    for node in model.graph.node:  # remarks on the Python code of each node
        del node.metadata_props[:]
        node.doc_string = ""
    return model


def _rename_input(model: "ModelProto", name: str) -> None:
    (entry,) = model.graph.input
    for node in model.graph.node:
        for position, each in enumerate(node.input):
            if each == entry.name:
                node.input[position] = name
    entry.name = name


def first_line(error: BaseException) -> str:
    """The first line of an exporter's error: that of its cause."""
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    text = lines[0] if lines else type(cause).__name__
    return text if text.endswith((".", "!")) else f"{text}."


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings, advice and progress of exporters."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        previous = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(previous)

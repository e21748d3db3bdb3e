"""Requests and answers of KServe's protocol, version 2 (Open Inference Protocol), with Triton's binary tensors."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..backbones.onnx_file import IMAGES
from ..printing import brief, counted, shown
from ..runs import version
from .model import Arrays, Description
from .refusal import Refused
from .uploads import read_object, too_many

LENGTH = "Inference-Header-Content-Length"
"""The header that says how many bytes of a body are JSON; tensors follow."""
SERVER = {"name": "lookalike", "version": version(), "extensions": ["binary_tensor_data"]}
DATATYPE = "FP32"


@dataclass(frozen=True, eq=False)
class Inference:
    """A request."""

    id: str
    images: NDArray[np.float32]
    """(N, C, S, S), normalised."""
    outputs: list[tuple[str, bool]]
    """The requested outputs, and whether each is to be binary."""


def metadata(model: Description) -> dict[str, Any]:
    """What the model takes and gives."""
    runtime = "onnxruntime_onnx" if model.runtime.startswith("onnxruntime") else "pytorch"
    return {
        "name": model.name, "versions": ["1"], "platform": runtime,
        "inputs": [{"name": IMAGES, "datatype": DATATYPE, "shape": [-1, *model.input_shape]}],
        "outputs": [{"name": n, "datatype": DATATYPE, "shape": [-1, *shape]} for n, shape in model.outputs.items()],
    }  # fmt: skip


def parse(body: bytes | bytearray, length: str | None, model: Description, max_images: int) -> Inference:
    """The images of a request and the outputs that it asks for.

    Args:
        length: the header `LENGTH`; None if the whole body is JSON.

    Raises:
        Refused: it is malformed or asks for what the model has not (400), or has too many images (413).
    """
    if length is not None and not (length.isdecimal() and int(length) <= len(body)):
        raise Refused(400, f"{LENGTH} is {shown(length)}; the body has {counted(len(body), 'byte')}. Send its JSON's.")
    view = memoryview(body)
    end = len(body) if length is None else int(length)
    asked = read_object(view[:end])
    inputs = asked.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise Refused(400, f"The JSON has no list of one input. Send {json.dumps(_example(model))}.")
    images = _tensor(inputs[0], view[end:], model, max_images)
    parameters = _mapping(asked.get("parameters", {}), "parameters")
    binary = parameters.get("binary_data_output", False) is True
    identity = asked.get("id", "")
    if not isinstance(identity, str):
        raise Refused(400, f"id is {shown(identity)}. Send a text, or leave it out.")
    return Inference(identity, images, _outputs(asked.get("outputs"), model, binary))


def _tensor(given: Mapping[str, Any], binary: memoryview, model: Description, max_images: int) -> NDArray[np.float32]:
    name, kind, shape = given.get("name"), given.get("datatype"), given.get("shape")
    parameters = _mapping(given.get("parameters", {}), "parameters of the input")
    if any(isinstance(key, str) and key.startswith("shared_memory") for key in parameters):
        raise Refused(400, "Shared memory is not supported. Send the tensor in the request.")
    if name != IMAGES or kind != DATATYPE:
        raise Refused(400, f"The input is {shown(name)} of type {shown(kind)}; expected {IMAGES} of type {DATATYPE}.")
    expected = model.input_shape
    if (
        not isinstance(shape, list)
        or not all(type(side) is int for side in shape)
        or tuple(shape[1:]) != expected
        or shape[0] < 1
    ):
        raise Refused(
            400, f"The shape of {IMAGES} is {brief(shape)}; expected [N, {', '.join(map(str, expected))}], at least "
            "one image, cropped and normalised."
        )  # fmt: skip
    if shape[0] > max_images:
        raise too_many(max_images)
    values = math.prod(shape)
    size = parameters.get("binary_data_size")
    if size is not None:
        if size != 4 * values or len(binary) != size:
            raise Refused(
                400, f"binary_data_size is {brief(size)} and {counted(len(binary), 'byte')} follow the JSON; the shape "
                f"needs {4 * values}. Send {LENGTH} and float32 values."
            )  # fmt: skip
        return np.frombuffer(binary, "<f4").reshape(shape).copy()  # aligned, wherever the JSON ends
    if len(binary):
        raise Refused(400, f"{counted(len(binary), 'byte')} follow the JSON, but no input has binary_data_size.")
    try:
        data = np.asarray(given.get("data"))
    except ValueError:  # lists of unlike lengths
        data = np.asarray(None)
    if data.dtype.kind not in "iuf" or data.size != values:
        raise Refused(
            400, f"The data of {IMAGES} are not {counted(values, 'number')}, as its shape says. Send as many."
        )
    with np.errstate(over="ignore"):
        return data.astype(np.float32).reshape(shape)


def _outputs(given: object, model: Description, binary: bool) -> list[tuple[str, bool]]:
    if given is None or given == []:
        return [(name, binary) for name in model.outputs]
    if not isinstance(given, list):
        raise Refused(400, f"outputs is {shown(given)}. Send a list, or leave it out.")
    found: list[tuple[str, bool]] = []
    for each in given:
        output = _mapping(each, "an output")
        name, parameters = output.get("name"), _mapping(output.get("parameters", {}), "parameters of an output")
        if not isinstance(name, str) or name not in model.outputs:
            raise Refused(400, f"There is no output {shown(name)}. Choose from {', '.join(model.outputs)}.")
        if unsupported := sorted({"classification", "shared_memory_region"} & parameters.keys()):
            raise Refused(400, f"{unsupported[0]} is not supported. Leave it out.")
        found.append((name, parameters.get("binary_data", binary) is True))
    return found


def answer(asked: Inference, found: Arrays, model: Description) -> tuple[bytes, dict[str, str]]:
    """The body of an answer and its headers.

    Raises:
        Refused: JSON was requested of values that are not finite (422).
    """
    outputs: list[dict[str, Any]] = []
    tail: list[bytes] = []
    for name, binary in asked.outputs:
        value = found[name]
        output: dict[str, Any] = {"name": name, "datatype": DATATYPE, "shape": list(value.shape)}
        if binary:
            tail.append(value.astype("<f4", copy=False).tobytes())
            output["parameters"] = {"binary_data_size": len(tail[-1])}
        elif not np.isfinite(value).all():
            raise Refused(
                422, f"{name} has values that are not finite. Check the images; binary outputs can hold them."
            )
        else:
            output["data"] = value.ravel().tolist()
        outputs.append(output)
    content: dict[str, Any] = {"model_name": model.name, "model_version": "1", "outputs": outputs}
    head = json.dumps({**content, "id": asked.id} if asked.id else content).encode()
    if not tail:
        return head, {"Content-Type": "application/json"}
    return b"".join([head, *tail]), {"Content-Type": "application/octet-stream", LENGTH: str(len(head))}


def _mapping(given: object, what: str) -> Mapping[str, Any]:
    if not isinstance(given, dict):
        raise Refused(400, f"{what} is {shown(given)}. Send an object.")
    return given


def _example(model: Description) -> dict[str, Sequence[dict[str, Any]]]:
    return {"inputs": [{"name": IMAGES, "datatype": DATATYPE, "shape": [1, *model.input_shape], "data": ["..."]}]}

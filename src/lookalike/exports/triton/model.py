"""The exported network for Triton's Python backend, where the server has no backend for ONNX files.

Triton calls it with requests whose images have one size. It needs onnxruntime and NumPy in the `python3` of the server.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils

FILE = "model.onnx"
SUFFIX = "_python"
"""Of this model's name; without it, the name of the model beside it that holds the file."""


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        file = find(Path(args["model_repository"]), args["model_version"])
        providers: list[Any] = ["CPUExecutionProvider"]
        is_on_gpu = args["model_instance_kind"] == "GPU"
        if is_on_gpu and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            providers.insert(0, ("CUDAExecutionProvider", {"device_id": int(args["model_instance_device_id"])}))
        self.session = onnxruntime.InferenceSession(str(file), providers=providers)
        config = json.loads(args["model_config"])
        self.input = config["input"][0]["name"]
        self.outputs = [each["name"] for each in config["output"]]

    def execute(self, requests: list[Any]) -> list[Any]:
        # not as_numpy(): its values are wrong with NumPy 2.4
        given = [np.from_dlpack(pb_utils.get_input_tensor_by_name(each, self.input)) for each in requests]
        images = given[0] if len(given) == 1 else np.concatenate(given)
        found = self.session.run(self.outputs, {self.input: images})
        ends = np.cumsum([len(each) for each in given])
        parts = [np.split(value, ends[:-1]) for value in found]
        return [
            pb_utils.InferenceResponse(
                [pb_utils.Tensor.from_dlpack(name, part[i]) for name, part in zip(self.outputs, parts)]
            )
            for i in range(len(requests))
        ]


def find(model: Path, version: str) -> Path:
    """The ONNX file beside this one, or that of the model for the onnxruntime backend in the same repository."""
    own = model / version / FILE
    return own if own.is_file() else model.with_name(model.name.removesuffix(SUFFIX)) / version / FILE

"""LitServe with an exported encoder, for `serving.py`: python benchmarks/serving_litserve.py FILE.onnx SIZE PORT."""

import base64
import sys
from typing import Any

import litserve
import numpy as np
import onnxruntime
import torch

MAX_BATCH, MAX_WAIT_MS = 64, 5.0
"""The defaults of `lookalike serve`."""


class Api(litserve.LitAPI):
    """Takes one normalised image per request, as base64 in JSON, and gives its features."""

    def setup(self, device: object) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self.session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])

    def decode_request(self, request):  # LitServe takes an annotation for the type of the request
        size = int(sys.argv[2])
        return np.frombuffer(base64.b64decode(request["images"]), np.float32).reshape(3, size, size)

    def batch(self, inputs: Any) -> Any:
        return np.stack(inputs)

    def predict(self, x: Any) -> Any:
        return self.session.run(["features"], {"images": x})[0]

    def unbatch(self, output: Any) -> Any:
        return list(output)

    def encode_response(self, output: Any) -> Any:
        return {"features": output.tolist()}


if __name__ == "__main__":
    api = Api(max_batch_size=MAX_BATCH, batch_timeout=MAX_WAIT_MS / 1000)
    server = litserve.LitServer(api, accelerator="cpu", timeout=120)
    server.run(host="127.0.0.1", port=int(sys.argv[3]), generate_client_file=False, log_level="error")

"""TensorRT engines, built from a verified ONNX file. The precision is that of the graph."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..backbones.onnx_file import IMAGES, OnnxFile
from ..printing import pasteable
from .consumers import Statement, stated

MOST_IMAGES = 64
"""Largest batch of an engine."""
USUAL_IMAGES = 8
"""Batch that the engine is tuned for."""


def can_build() -> bool:
    """Whether this machine has a GPU and the tensorrt wheel."""
    return torch.cuda.is_available() and find_spec("tensorrt") is not None


def shapes(file: OnnxFile) -> dict[str, tuple[int, ...]]:
    """The smallest, usual and largest shape of the input. Free sides are the encoder's size, and twice it at most."""
    size = stated(file.metadata, file.preprocesses).image_size
    ((shape, _),) = file.inputs.values()
    largest = [2 * size if isinstance(side, str) else side for side in shape[1:]]
    usual = [size if isinstance(side, str) else side for side in shape[1:]]
    return {"min": (1, *usual), "opt": (USUAL_IMAGES, *usual), "max": (MOST_IMAGES, *largest)}


def command(onnx: Path, engine: Path, file: OnnxFile) -> str:
    """The command of NVIDIA's `trtexec` that builds the engine on a machine with a GPU."""
    words = [f"--{name}Shapes={IMAGES}:{'x'.join(map(str, shape))}" for name, shape in shapes(file).items()]
    return pasteable(
        "trtexec", f"--onnx={onnx.name}", f"--saveEngine={engine.name}", "--stronglyTyped", "--noTF32", *words
    )


def build(onnx: Path, engine: Path) -> None:
    """Builds a strongly typed engine for the GPU of this machine.

    Raises:
        ValueError: TensorRT does not support the graph; the message has its first error.
    """
    import tensorrt as trt

    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(onnx)):
        raise ValueError(f"TensorRT cannot read {onnx}: {parser.get_error(0).desc()} Use --format onnx.")
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    profile.set_shape(IMAGES, *shapes(OnnxFile(onnx)).values())
    config.add_optimization_profile(profile)
    config.clear_flag(trt.BuilderFlag.TF32)  # it would round the products of an fp32 graph to 10 bits
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ValueError(f"TensorRT cannot build an engine from {onnx}. Use --format onnx.")
    engine.write_bytes(bytes(plan))


class ByTensorRT:
    """An engine on the GPU. What it needs of its input is stated by the ONNX file beside it."""

    def __init__(self, engine: Path, onnx: Path) -> None:
        import tensorrt as trt

        self.name = f"TensorRT {trt.__version__}"
        file = OnnxFile(onnx)
        self.statement: Statement = stated(file.metadata, file.preprocesses)
        self.runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        self.engine = self.runtime.deserialize_cuda_engine(engine.read_bytes())
        if self.engine is None:
            raise ValueError(f"TensorRT cannot load {engine}: engines fit one GPU and one version. Build it again.")
        self.context = self.engine.create_execution_context()

    def run(self, images: NDArray[Any]) -> Mapping[str, NDArray[np.float32]]:
        x = torch.from_numpy(images).cuda().contiguous()
        self.context.set_input_shape(IMAGES, tuple(x.shape))
        self.context.set_tensor_address(IMAGES, x.data_ptr())
        names = [self.engine.get_tensor_name(i) for i in range(self.engine.num_io_tensors)]
        outputs = {}
        for name in (each for each in names if each != IMAGES):
            outputs[name] = torch.empty(tuple(self.context.get_tensor_shape(name)), device="cuda")
            self.context.set_tensor_address(name, outputs[name].data_ptr())
        stream = torch.cuda.current_stream()
        self.context.execute_async_v3(stream.cuda_stream)
        stream.synchronize()
        return {name: value.cpu().numpy() for name, value in outputs.items()}

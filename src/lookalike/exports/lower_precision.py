"""ONNX models in fp16 and int8, made from a model in fp32 by onnxruntime's own tools."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..backbones.onnx_file import IMAGES
from .onnx_graph import quiet

if TYPE_CHECKING:
    from onnx import ModelProto

KEPT_IN_FP32 = (
    "BatchNormalization", "GroupNormalization", "InstanceNormalization", "LayerNormalization",
    "RMSNormalization", "ReduceL2", "ReduceMean", "ReduceSum", "Softmax", "LogSoftmax", "Pow", "Sqrt", "Range",
    "Resize",
)  # fmt: skip
"""Operators that stay in fp32: norms, sums over many values, and softmax."""
QUANTISED = ("Conv", "Gemm", "MatMul")
"""Operators that int8 replaces; all others stay in fp32."""


def half(model: "ModelProto") -> "ModelProto":
    """The model with weights and operators in fp16, without `KEPT_IN_FP32`; inputs and outputs stay float32."""
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    cast: ModelProto = convert_float_to_float16(
        model, keep_io_types=True, op_block_list=[*DEFAULT_OP_BLOCK_LIST, *KEPT_IN_FP32]
    )
    sorted_model = OnnxModel(cast)  # the converter appends its casts at the end
    sorted_model.topological_sort()
    done: ModelProto = sorted_model.model
    del done.graph.value_info[:]  # it still states the types before the cast
    return done


def eight_bits(
    model: "ModelProto", batches: Sequence[NDArray[np.float32]], folder: Path, *, symmetric: bool = False
) -> "ModelProto":
    """The model with products of int8 numbers: weights per output channel, activations by the range on some images.

    Args:
        model: takes normalised images (B, C, H, W).
        batches: normalised images of the user, in batches.
        folder: for temporary files.
        symmetric: ranges of activations around 0 and biases in fp32, as TensorRT needs them.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(batches)

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.left, None)
            return None if batch is None else {IMAGES: batch}

    before, after = folder / "fp32.onnx", folder / "int8.onnx"
    onnx.save(model, before)
    with quiet():
        quantize_static(
            before, after, Reader(), quant_format=QuantFormat.QDQ, op_types_to_quantize=[*QUANTISED], per_channel=True,
            activation_type=QuantType.QInt8 if symmetric else QuantType.QUInt8, weight_type=QuantType.QInt8,
            extra_options={"ActivationSymmetric": symmetric, "QuantizeBias": not symmetric},
        )  # fmt: skip
    quantised = onnx.load(after)
    before.unlink()
    after.unlink()
    return quantised

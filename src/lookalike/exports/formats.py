"""The formats of `export`: what reads them, their files and precisions. Imports nothing heavy."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal, get_args

Format = Literal["onnx", "pt2", "timm", "tensorrt", "triton"]
Precision = Literal["fp32", "fp16", "int8"]


@dataclass(frozen=True)
class FormatInfo:
    """What a format is, and what it supports."""

    line: str
    """One line for `list formats`."""
    suffix: str
    """Of its file; "" for a folder of files with fixed names."""
    precisions: tuple[Precision, ...]
    needs: tuple[str, ...] = ()
    """Packages of the extra that making it needs."""
    extra: str = ""
    in_graph: bool = True
    """Whether the file holds a graph, to which preprocessing and patch tokens can be added."""
    preprocesses: bool = False
    """Whether preprocessing is always in the graph."""


OPSET = 20
"""Default version of ONNX's operators; the first one with GELU is 20."""
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
FORMATS: dict[Format, FormatInfo] = {
    "onnx": FormatInfo(
        "one .onnx file for onnxruntime, Triton, browsers and phones; `embed`, `evaluate` and `predict` read it, too",
        ".onnx", ("fp32", "fp16", "int8"), ONNX_PACKAGES, "onnx",
    ),
    "pt2": FormatInfo(
        "one .pt2 file of torch.export: runs in PyTorch without lookalike and timm", ".pt2", ("fp32",),
    ),
    "timm": FormatInfo(
        "a folder for timm.create_model and transformers.AutoModel, to train further or to publish", "", ("fp32",),
        in_graph=False,
    ),
    "tensorrt": FormatInfo(
        "one .engine file for this machine's GPU and TensorRT; without a GPU the trtexec command that makes it",
        ".engine", ("fp32", "fp16", "int8"), ONNX_PACKAGES, "onnx",
    ),
    "triton": FormatInfo(
        "a model repository for Triton Inference Server, with preprocessing in the graph, and a client",
        ".onnx", ("fp32", "fp16", "int8"), ONNX_PACKAGES, "onnx", preprocesses=True,
    ),
}  # fmt: skip


def check_options(
    format: Format, precision: Precision, *, with_preprocessing: bool, patch_tokens: bool, dynamic_size: bool
) -> None:
    """Refuses what a format does not support, and formats whose packages are missing.

    Raises:
        ValueError: an unknown format or precision, or an option that the format does not have.
        ModuleNotFoundError: packages are missing; the message names the extra.
    """
    if format not in FORMATS:
        raise ValueError(f"There is no format {format!r}. Choose from {', '.join(FORMATS)}.")
    if precision not in get_args(Precision):
        raise ValueError(f"There is no precision {precision!r}. Choose from {', '.join(get_args(Precision))}.")
    info = FORMATS[format]
    if precision not in info.precisions:
        raise ValueError(f"{format} is exported in {_either(info.precisions)} only. Leave --precision out.")
    graph_only = {"--with-preprocessing": with_preprocessing, "--patch-tokens": patch_tokens,
                  "--dynamic-size": dynamic_size}  # fmt: skip
    for option, is_set in graph_only.items():
        if is_set and not info.in_graph:
            raise ValueError(f"{option} needs a graph, but {format} holds weights and settings. Leave it out.")
    if with_preprocessing and format == "tensorrt":
        raise ValueError(
            "TensorRT has no 64-bit numbers, which the preprocessing in the graph needs. Leave --with-preprocessing "
            "out, and normalise as README.md in the export shows."
        )
    if (with_preprocessing or info.preprocesses) and dynamic_size:
        what = format if info.preprocesses else "--with-preprocessing"
        raise ValueError(f"{what} takes images of any size and crops them to the encoder's. Leave --dynamic-size out.")
    if missing := [package for package in info.needs if find_spec(package) is None]:
        raise ModuleNotFoundError(
            f"Exporting to {format} needs {', '.join(missing)}: pip install 'lookalike[{info.extra}]'"
        )


def _either(names: Sequence[str]) -> str:
    return " or ".join(names)

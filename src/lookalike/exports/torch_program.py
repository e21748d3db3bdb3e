"""A network as a program of `torch.export`, which PyTorch runs without the code of this package."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import Dim

from .network import Network
from .onnx_graph import TRACED, first_line, quiet, traced_size
from .preprocessing import Preprocessing

METADATA = "lookalike.json"
"""Name of the extra file in the archive that holds the metadata."""


class Whole(nn.Module):
    """Preprocessing and network in one module."""

    def __init__(self, preprocessing: Preprocessing, network: Network) -> None:
        super().__init__()
        self.preprocessing, self.network = preprocessing, network

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found: tuple[torch.Tensor, ...] = self.network(self.preprocessing(images))
        return found


def write(
    network: Network,
    preprocessing: Preprocessing | None,
    path: Path,
    metadata: Mapping[str, str],
    *,
    dynamic_size: bool,
) -> None:
    """Traces and writes a program; its input and outputs are those of `onnx_graph`, outputs as a tuple.

    Raises:
        ValueError: the network cannot be traced with a free batch size.
    """
    encoder = network.encoder
    size = encoder.image_size
    example = torch.zeros(TRACED, encoder.channels, *traced_size(encoder, dynamic_size))
    shapes: dict[int, Any] = {0: Dim.DYNAMIC}
    module: nn.Module = network
    if preprocessing is not None:
        module = Whole(preprocessing, network)
        example = torch.zeros(TRACED, 2 * size, 2 * size + 1, encoder.channels, dtype=torch.uint8)
        shapes |= {1: Dim.DYNAMIC, 2: Dim.DYNAMIC}
    elif dynamic_size:
        shapes |= {2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    try:
        with quiet():
            program = torch.export.export(module.eval(), (example,), dynamic_shapes=(shapes,))
    except Exception as error:  # torch.export raises errors of many kinds
        raise ValueError(
            f"{encoder.name} cannot be exported by torch.export: {first_line(error)} Try --format onnx."
        ) from error
    with open(path, "wb") as file:
        torch.export.save(program, file, extra_files={METADATA: json.dumps(dict(metadata))})

"""Which networks a processor with bf16 instructions trains faster in bf16 than in fp32.

bf16 takes about half the time for dense convolutions and wide matrix products. The backward pass of depthwise
convolutions with a stride takes many times as long: steps of MobileNetV3 and EfficientNet take twice their time. The
rule follows from the network's layers alone, never from a timing, so that a command gives the same weights each time.
`docs/speed.md` has the measurements.
"""

import functools
import statistics
from collections.abc import Iterable

from torch import nn

from .library import full_name, without_numbers

WIDE = 128
"""Dimension of a transformer's tokens from which on bf16 is faster."""

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d


def is_faster_in_bf16(backbone: str | nn.Module) -> bool:
    """Whether bf16 is faster for a backbone's name or module: convolutions without depthwise ones, wide transformers.

    Raises:
        ValueError: an unknown name.
    """
    return _named(full_name(backbone)) if isinstance(backbone, str) else _of_layers(backbone.modules())


@functools.cache
def _named(name: str) -> bool:
    return _of_layers(without_numbers(name).modules())


def _of_layers(modules: Iterable[nn.Module]) -> bool:
    layers = [m for m in modules if isinstance(m, Convolution | nn.Linear)]
    convolutions = [m for m in layers if isinstance(m, Convolution)]
    if any(m.groups == m.in_channels > 1 for m in convolutions):
        return False
    if not all(_cuts_patches(m) for m in convolutions):
        return True
    widths = [m.in_features for m in layers if isinstance(m, nn.Linear)]
    return bool(widths) and statistics.median_low(widths) >= WIDE


def _cuts_patches(layer: Convolution) -> bool:
    """Whether a convolution cuts an image into patches that do not overlap, as the first layer of a ViT."""
    return layer.kernel_size == layer.stride and any(side > 1 for side in layer.stride)

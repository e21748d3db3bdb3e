"""Converts arrays (C, H, W) to tensors with the requested channels and size."""

import math
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from ..printing import counted
from .errors import Unsupported
from .limits import aspect_window, check_size, shrink_factor

ALIKE: Final = "Scale all images by the same factor"  # scaling each image separately would change the content


def from_tensor(image: Tensor, channels: int, decode_size: int | None, key: int) -> Tensor:
    """`decode` for an array (C, H, W). Raises ValueError for unsupported dtypes, ranges or channel counts."""
    if image.ndim != 3 or not image.numel():
        raise ValueError(f"an array of shape {tuple(image.shape)}; expected a non-empty (C, H, W)")
    image = image.detach()
    width = {torch.bool: 1, torch.uint8: 1, torch.uint16: 2}.get(image.dtype, 4)
    check_size(image.shape[2], image.shape[1], max(channels, image.shape[0]) * width)
    if image.dtype == torch.bool:
        image = image.to(torch.uint8) * 255
    elif image.dtype.is_floating_point:
        low, high = image.min().item(), image.max().item()
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError(f"float values from {low:g} to {high:g}, not all of them finite; expected 0 to 1")
        if not (low >= -0.01 and high <= 1.01):
            raise Unsupported(f"float values from {low:g} to {high:g}; expected 0 to 1. {ALIKE}")
        image = image.to(torch.float32)
    elif image.dtype not in (torch.uint8, torch.uint16):
        raise Unsupported(
            f"values of type {str(image.dtype).removeprefix('torch.')}; expected uint8, uint16 or float32"
        )
    if decode_size:
        top, left, height, width = aspect_window(image.shape[1], image.shape[2], key)
        image = image[:, top : top + height, left : left + width]
    if (factor := shrink_factor(min(image.shape[1:]), decode_size)) > 1:
        mean = F.avg_pool2d(image.to(torch.float32), factor, ceil_mode=True, count_include_pad=False)
        image = mean if image.dtype == torch.float32 else mean.round().to(image.dtype)
    return _with_channels(image, channels).contiguous()


def _with_channels(image: Tensor, channels: int) -> Tensor:
    if image.shape[0] == channels:
        return image
    if image.shape[0] == 1 and channels == 3:
        return image.expand(3, -1, -1)
    if image.shape[0] == 3 and channels == 1:  # ITU-R 601-2, as Pillow does
        luma = torch.einsum("chw,c->hw", image.to(torch.float32), torch.tensor((0.299, 0.587, 0.114)))[None]
        return luma if image.dtype == torch.float32 else luma.round().to(image.dtype)
    raise Unsupported(f"has {counted(image.shape[0], 'channel')}, which cannot be converted to {channels}")

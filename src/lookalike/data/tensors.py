"""Converts arrays (C, H, W) to tensors with the requested bands, range, channels and size."""

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from ..image_options import Pixels
from ..printing import counted
from .errors import Unsupported
from .limits import aspect_window, check_size, shrink_factor
from .scaling import check_unit, chosen_bands, scaled

_TURNS: Final = {  # EXIF orientation -> its inverse: whether to swap the axes, and which of (H, W) to flip afterwards
    2: (False, (2,)),
    3: (False, (1, 2)),
    4: (False, (1,)),
    5: (True, ()),
    6: (True, (2,)),
    7: (True, (1, 2)),
    8: (True, (1,)),
}
ALIKE: Final = "Give --scale range LOW HIGH"  # scaling each image separately would change the content


def from_tensor(
    image: Tensor, pixels: Pixels | int, decode_size: int | None, key: int, names: Sequence[str] = ()
) -> Tensor:
    """`decode` for an array (C, H, W), whose bands may have names.

    Raises:
        ValueError: unsupported dtypes, ranges, bands or channel counts.
    """
    pixels = Pixels.of(pixels)
    channels = pixels.channels
    if image.ndim != 3 or not image.numel():
        raise ValueError(f"an array of shape {tuple(image.shape)}; expected a non-empty (C, H, W)")
    image = image.detach()
    if pixels.bands is not None:
        chosen = chosen_bands(pixels.bands, len(image), names)
        image = torch.from_numpy(image.cpu().numpy()[chosen])  # torch does not index all integers
    width = {torch.bool: 1, torch.uint8: 1, torch.uint16: 2}.get(image.dtype, 4)
    check_size(image.shape[2], image.shape[1], max(channels, image.shape[0]) * width)
    if image.dtype == torch.bool:
        image = image.to(torch.uint8) * 255
    if pixels.scale.kind != "dtype":
        # colour is converted before limits per channel apply
        image = scaled(_with_channels(image, channels), pixels.scale)
    elif image.dtype.is_floating_point:
        check_unit(image, ALIKE)
        image = image.to(torch.float32)
    elif image.dtype not in (torch.uint8, torch.uint16):
        raise Unsupported(
            f"values of type {str(image.dtype).removeprefix('torch.')}; expected uint8, uint16 or float32. {ALIKE}"
        )
    return _with_channels(shrunk(image, decode_size, key), channels).contiguous()


def shrunk(image: Tensor, decode_size: int | None, key: int) -> Tensor:
    """An image (C, H, W) of uint8, uint16 or float32, cropped and downscaled as `decode` does."""
    if decode_size:
        top, left, height, width = aspect_window(image.shape[1], image.shape[2], key)
        image = image[:, top : top + height, left : left + width]
    if (factor := shrink_factor(min(image.shape[1:]), decode_size)) > 1:
        mean = F.avg_pool2d(image.to(torch.float32), factor, ceil_mode=True, count_include_pad=False)
        image = mean if image.dtype == torch.float32 else mean.round().to(image.dtype)
    return image


def upright(pixels: Tensor, orientation: int) -> Tensor:
    """Pixels (C, H, W) rotated and flipped according to the orientation of EXIF or TIFF."""
    if orientation not in _TURNS:
        return pixels
    swapped, flipped = _TURNS[orientation]
    return (pixels.transpose(1, 2) if swapped else pixels).flip(flipped).contiguous()


def _with_channels(image: Tensor, channels: int) -> Tensor:
    if image.shape[0] == channels:
        return image
    if image.shape[0] == 1 and channels == 3:
        return image.expand(3, -1, -1)
    if image.shape[0] == 3 and channels == 1:  # ITU-R 601-2, as Pillow does
        luma = torch.einsum("chw,c->hw", image.to(torch.float32), torch.tensor((0.299, 0.587, 0.114)))[None]
        return luma if image.dtype.is_floating_point else luma.round().to(image.dtype)
    raise Unsupported(
        f"has {counted(image.shape[0], 'channel')}, which cannot be converted to {channels}"
        + (f". Give --channels {len(image)}, or choose some with --bands" if len(image) not in (1, 3) else "")
    )

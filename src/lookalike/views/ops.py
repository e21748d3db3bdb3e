"""Batched augmentations with separate parameters for each image.

Each operation equals its namesake in `torchvision.transforms.v2.functional`, applied to every image with that image's
parameters. All are pure functions. Parameters are (B,) unless stated otherwise.

B images, C channels, H rows, W columns, S pixels per side of a view. Images are float32 in [0, 1].
"""

import torch
import torch.nn.functional as F
from torch import Tensor

GREY = (0.2989, 0.587, 0.114)  # the weights of ITU-R BT.601, with torchvision's digits
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
"""Indices of the colour operations in a `Plan`."""
BLUR_REACH = 4.5
"""Radius, in standard deviations, at which compiled code truncates a Gaussian: the omitted weight is 7e-6."""


def resize_matrix(start: Tensor, length: Tensor, flip: Tensor, n: int, size: int) -> Tensor:
    """Matrices (B, size, n) that crop `length` pixels from `start`, resize them to `size`, and flip them if `flip`.

    The weights are those of ATen's antialiased bilinear filter: a triangle whose half width is an output pixel, or an
    input pixel when upscaling. Cropping comes first, so pixels outside the crop have no weight.
    """
    scale = (length.to(torch.float32) / size)[:, None]
    out = torch.arange(size, dtype=torch.float32, device=start.device)
    out = torch.where(flip[:, None], size - 1 - out, out)  # (B, S)
    pixel = torch.arange(n, device=start.device) - start[:, None]  # (B, n), from the edge of the crop
    inside = (pixel >= 0) & (pixel < length[:, None])
    distance = pixel[:, None].to(torch.float32) - ((out + 0.5) * scale - 0.5)[:, :, None]
    weights = distance.abs_().div_(-scale.clamp(min=1)[:, :, None]).add_(1).clamp_(min=0).mul_(inside[:, None])
    return weights.div_(weights.sum(-1, keepdim=True))


def resized_crop(images: Tensor, box: Tensor, hflip: Tensor, vflip: Tensor, size: int) -> Tensor:
    """Crops boxes (B, 4) of top, left, height, width from (B, C, H, W), resizes to (B, C, size, size), then flips."""
    (b, c, h, w), (top, left, height, width) = images.shape, box.unbind(1)
    rows = resize_matrix(top, height, vflip, h, size)  # (B, S, H)
    columns = resize_matrix(left, width, hflip, w, size)  # (B, S, W)
    narrow = torch.bmm(images.reshape(b, c * h, w), columns.mT).view(b, c, h, size)
    return torch.matmul(rows[:, None], narrow)


def grey(x: Tensor) -> Tensor:
    """The luma (B, 1, H, W) of RGB images."""
    r, g, b = x.unbind(1)
    return (r * GREY[0]).add_(g, alpha=GREY[1]).add_(b, alpha=GREY[2])[:, None]


def _of(parameter: Tensor) -> Tensor:
    """Broadcasts one value per image over its pixels."""
    return parameter[:, None, None, None]


def brightness(x: Tensor, factor: Tensor) -> Tensor:
    """Multiplies by `factor` and clamps to [0, 1]."""
    return (x * _of(factor)).clamp_(0, 1)


def contrast(x: Tensor, factor: Tensor) -> Tensor:
    """Scales the difference from the image's mean (for RGB, the mean luma) and clamps to [0, 1]."""
    mean = (grey(x) if x.shape[1] == 3 else x).mean((1, 2, 3))
    return (x * _of(factor)).add_(_of((1 - factor) * mean)).clamp_(0, 1)


def saturation(x: Tensor, factor: Tensor) -> Tensor:
    """Scales the difference of RGB from each pixel's luma and clamps to [0, 1]."""
    return (x * _of(factor)).add_(grey(x).mul_(_of(1 - factor))).clamp_(0, 1)


def hue(x: Tensor, shift: Tensor) -> Tensor:
    """Rotates the hue of RGB by `shift` of a full circle.

    With c the chroma (largest minus smallest channel) and h the hue in sixths of a circle, each channel is the smallest
    value plus c times a trapezoidal function of h, shifted by a third of a circle between channels.
    """
    r, g, b = x.unbind(1)
    low, high = r.minimum(g).minimum(b), r.maximum(g).maximum(b)
    c = high - low
    h = torch.where(high == r, g - b, torch.where(high == g, (b - r).add_(c, alpha=2), (r - g).add_(c, alpha=4)))
    h.div_(c.clamp(min=1e-12)).add_((6 * shift)[:, None, None])  # grey pixels have c = 0 and any hue
    h.sub_((h * (1 / 6)).floor_(), alpha=6)  # into [0, 6)
    out = torch.empty_like(x)
    for channel, (center, sign, offset) in enumerate(((3, 1, -1), (2, -1, 2), (4, -1, 2))):
        torch.sub(h, center, out=out[:, channel]).abs_().mul_(sign).add_(offset)
    return out.clamp_(0, 1).mul_(c[:, None]).add_(low[:, None])


def grayscale(x: Tensor) -> Tensor:
    """Replaces R, G and B by their luma."""
    return grey(x).expand_as(x)


def gaussian_blur(x: Tensor, sigma: Tensor, kernel: int) -> Tensor:
    """Convolves with Gaussians of standard deviation `sigma`, truncated to `kernel` (odd) pixels; mirrored borders."""
    half = kernel // 2
    offset = torch.arange(-half, half + 1, device=x.device)
    taps = torch.softmax(-0.5 * (offset / sigma[:, None]) ** 2, 1)[:, :, None, None, None].unbind(1)
    for dim, border in ((2, (0, 0, half, half)), (3, (half, half, 0, 0))):
        n = x.shape[dim]
        wide = F.pad(x, border, mode="reflect")
        # sums of shifted images: for few images, grouped convolution on a CPU is several times as slow
        x = wide.narrow(dim, 0, n) * taps[0]
        for i, tap in enumerate(taps[1:], 1):
            x.addcmul_(wide.narrow(dim, i, n), tap)
    return x


def solarize(x: Tensor, threshold: float) -> Tensor:
    """Inverts values of at least `threshold`."""
    return torch.where(x >= threshold, 1 - x, x)


def erase(x: Tensor, box: Tensor) -> Tensor:
    """Sets the boxes (B, 4) of top, left, height, width to 0."""
    top, left, height, width = box[:, :, None].unbind(1)  # (B, 1) each
    row, column = (torch.arange(n, device=x.device) for n in x.shape[2:])
    rows = (row >= top) & (row < top + height)
    columns = (column >= left) & (column < left + width)
    return x.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0.0)

"""Contact sheets of images and their views."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ..images import promote

if TYPE_CHECKING:
    import PIL.Image


def black_and_white(images: Sequence[Tensor]) -> tuple[float, float]:
    """The values to display as black and white for images (C, H, W) in [0, 1].

    0 and 1, unless the central 99.8 % of the pixel values span less than a quarter of the range, which is then
    stretched.
    """
    some = [image.reshape(-1)[:: max(1, image.numel() // 20_000)] for image in images]
    values = torch.cat([part.to(torch.float32).cpu() for part in some]).sort().values
    edge = len(values) // 1000
    low, high = float(values[edge]), float(values[-1 - edge])
    return (low, high) if 1e-6 < high - low < 0.25 else (0.0, 1.0)


def stretch(images: Sequence[Tensor], bands: Sequence[int]) -> tuple[Tensor, Tensor]:
    """`black_and_white` for each of the shown bands, (len(bands), 1, 1); of up to 3 channels one pair for all."""
    if len(images[0]) <= 3:
        ends = [black_and_white(images)] * len(bands)
    else:
        ends = [black_and_white([image[band] for image in images]) for band in bands]
    low, high = torch.tensor(ends)[:, :, None, None].unbind(1)
    return low, high


def sheet(
    views: Sequence[Tensor],
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    rows: int,
    sources: Tensor | None = None,
    sizes: Tensor | None = None,
    bands: Sequence[int] | None = None,
) -> "PIL.Image.Image":
    """A picture of the first `rows` images: one row per image, one column per view, separated by one pixel.

    `views`, `mean` and `std` are the result and arguments of `make_views`. With `sources` (and `sizes`), its images, a
    first column shows each whole image, scaled to fit a cell, and the values of all images are stretched by the same
    factor if they use a small part of the range; of more than 3 channels, those of each channel. `bands` are the
    channels to show, one or three: by default the first 3, and of 2 the first.
    """
    import PIL.Image

    channels = views[0].shape[1]
    center, scale = (torch.tensor(n or [d] * channels)[:, None, None] for n, d in ((mean, 0.0), (std, 1.0)))
    cell = max(view.shape[-1] for view in views)
    table = [[view[row].cpu() * scale + center for view in views] for row in range(min(rows, len(views[0])))]
    shown = [*(bands or ((0, 1, 2) if channels >= 3 else (0,)))]
    low, high = torch.zeros(1), torch.ones(1)
    if sources is not None:
        for line, source, size in zip(table, sources.cpu(), sources if sizes is None else sizes, strict=False):
            h, w = source.shape[1:] if sizes is None else size.tolist()
            image = promote(source[:, :h, :w], torch.float32)[None]
            fit = [max(1, round(n * cell / max(h, w))) for n in (h, w)]
            line.insert(0, F.interpolate(image, fit, mode="bilinear", antialias=True)[0])
        low, high = stretch([line[0] for line in table], shown)
    pitch = cell + 1
    canvas = torch.full((len(table) * pitch - 1, len(table[0]) * pitch - 1, 3), 255, dtype=torch.uint8)
    for y, line in enumerate(table):
        for x, image in enumerate(line):
            visible = (((image[shown] - low) / (high - low)) * 255).round().clamp(0, 255).to(torch.uint8)
            _, h, w = visible.shape
            canvas[y * pitch : y * pitch + h, x * pitch : x * pitch + w] = visible.permute(1, 2, 0)
    return PIL.Image.fromarray(canvas.numpy())

"""Views on any device, by torch operations (`ops`), in chunks of the batch."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..devices import moved
from ..images import promote
from . import ops
from .plan import Plan
from .recipes import View

CHUNK = {"cpu": 2**19, "cuda": 2**28}
"""Values (pixels x channels) per chunk, as float32: what fits in a CPU's cache, and 1 GiB of a GPU's memory."""

_COLOR_STEPS = (ops.brightness, ops.contrast, ops.saturation, ops.hue)
"""The colour operations, indexed as in a plan."""


def views(
    images: Tensor,
    recipes: Sequence[View],
    plans: Sequence[Plan],
    mean: Tensor,
    std: Tensor,
    memory_format: torch.memory_format,
) -> list[Tensor]:
    """The views of padded images (B, C, H, W), computed in chunks of the batch."""
    (b, c), device = images.shape[:2], images.device
    mean, std = moved(mean, device), moved(std, device)
    largest = c * max([images[0, 0].numel(), *(view.size**2 for view in recipes)]) if b else 1
    step = max(1, CHUNK.get(device.type, 2**28) // largest)
    shapes = [(b, c, view.size, view.size) for view in recipes]
    results = [torch.empty(s, dtype=torch.float32, device=device, memory_format=memory_format) for s in shapes]
    for rows in (slice(i, i + step) for i in range(0, b, step)):
        x = promote(images[rows], torch.float32)
        for view, plan, out in zip(recipes, plans, results, strict=True):
            part = Plan(**{name: value[rows] for name, value in vars(plan).items()})
            out[rows] = _view(x, view, part, mean, std)
    return results


def _view(images: Tensor, view: View, plan: Plan, mean: Tensor, std: Tensor) -> Tensor:
    """One view (B, C, S, S) of float32 images in [0, 1], on any device."""
    hflip, vflip, _ = moved(plan.flips, images.device).unbind(1)
    x = ops.resized_crop(images, moved(plan.box, images.device), hflip, vflip, view.size)
    if view.rot90:
        _change(x, plan.flips[:, 2], lambda x: x.mT)
    if view.jitter:
        for step in plan.steps.unbind(1):
            for number, operation in enumerate(_COLOR_STEPS):
                _change(x, step == number, operation, plan.factors[:, number])
    if view.grayscale:
        _change(x, plan.grey, ops.grayscale)
    if view.blur:
        _change(x, plan.sigma > 0, lambda x, s: ops.gaussian_blur(x, s, view.kernel), plan.sigma)
    if view.solarize:
        _change(x, plan.solarize, lambda x: ops.solarize(x, view.threshold))
    x.sub_(mean[:, None, None]).div_(std[:, None, None])
    if view.erase:
        _change(x, plan.erase[:, 2] > 0, ops.erase, plan.erase)
    return x


def _change(x: Tensor, chosen: Tensor, operation: Callable[..., Tensor], *parameters: Tensor) -> None:
    """Applies `operation(images, *parameters)` in place to the images of the mask (B,); only x is on a device."""
    rows = chosen.nonzero().squeeze(1)
    if len(rows):
        on_device = moved(rows, x.device)
        x[on_device] = operation(x[on_device], *(moved(p[rows], x.device) for p in parameters))

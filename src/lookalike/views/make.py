"""Computes all views of a batch of images, on the images' device, with one of three engines."""

import warnings
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from typing import Literal

import torch
from torch import Tensor

from ..images import LARGEST, Images, movable
from ..printing import brief, counted
from ..random import keys_of, uniform
from . import torch_engine
from .plan import Plan, draw, plan
from .recipes import View

ENGINES: dict[str, Literal["numba", "triton", "torch"]] = {
    "cpu": "numba" if find_spec("numba") else "torch",
    "cuda": "triton" if find_spec("triton") else "torch",
}
"""The engine of each device type: compiled kernels (`cpu`, `gpu`), or torch operations (`torch_engine`)."""


@torch.no_grad()
def make_views(
    images: Tensor | Images,
    views: Sequence[View],
    seed: int | Tensor,
    sizes: Tensor | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    memory_format: torch.memory_format = torch.contiguous_format,
    color: bool | None = None,
) -> list[Tensor]:
    """Computes all views of a batch of images, on the images' device.

    Args:
        images: (B, C, H, W), uint8, uint16, or float32 in [0, 1]; padded at the right and bottom with finite values.
            Or `Images` of different sizes.
        views: the recipes; one with `count` n gives n views.
        seed: an int, or an int64 tensor (B,) with a key per image. An int means the keys `keys_of(seed, row)`.
        sizes: (B, 2) int64, the images' true heights and widths; None if all fill the tensor. Not used for `Images`.
            Like keys, preferably on the CPU, where parameters are drawn: copying them from the device synchronises.
        mean, std: C values each for normalising images in [0, 1]; None skips the step.
        memory_format: memory format of the views; `torch.channels_last` suits convolutions.
        color: whether the channels are red, green and blue. Otherwise saturation, hue and grayscale are left out. None:
            whether there are three.

    Returns:
        One float32 tensor (B, C, size, size) per single view, in order.

    Raises:
        ValueError: if shapes, dtype or the number of channels do not match.
    """
    flat = images.buffer if isinstance(images, Images) else images
    if flat.dtype not in LARGEST or (flat is images and flat.ndim != 4):
        raise ValueError(
            f"make_views got images of shape {tuple(flat.shape)} and dtype {flat.dtype}; "
            "expected (B, C, H, W) of uint8, uint16, or float32 in [0, 1]."
        )
    if isinstance(images, Images):
        (b, c), sizes = (len(images.sizes), images.channels), images.sizes
        offsets, strides = images.offsets, torch.stack((sizes.prod(1), sizes[:, 1]), 1)
    else:
        b, c, h, w = flat.shape
        sizes = torch.tensor((h, w)).expand(b, 2) if sizes is None else sizes.cpu()
        offsets, strides = torch.arange(b) * (c * h * w), torch.tensor((h * w, w)).expand(b, 2)
    for name, numbers in (("mean", mean), ("std", std)):
        if numbers is not None and len(numbers) != c:
            raise ValueError(
                f"{name} has {counted(len(numbers), 'number')} for images of {counted(c, 'channel')}. Give one "
                "per channel."
            )
    keys = seed.cpu() if isinstance(seed, Tensor) else keys_of(seed, torch.arange(b))
    if keys.shape != (b,) or sizes.shape != (b, 2):
        raise ValueError(
            f"make_views got {counted(b, 'image')}, keys of shape {tuple(keys.shape)} and sizes of shape "
            f"{tuple(sizes.shape)}; expected ({b},) and ({b}, 2)."
        )
    for name, given in (("keys", keys), ("sizes", sizes)):
        if given.dtype != torch.int64:
            raise ValueError(f"make_views got {name} of {given.dtype}; expected torch.int64.")
    _check_sizes(images, sizes)
    single = [view for view in views for _ in range(view.count)]
    if color and c != 3:
        raise ValueError(f"make_views got images of {counted(c, 'channel')}; with color=True it needs 3.")
    is_rgb = c == 3 if color is None else color
    plans = [plan(view, sizes, draw(keys, number), is_rgb) for number, view in enumerate(single)]
    center, scale = (torch.tensor(x, dtype=torch.float32) for x in (mean or [0.0] * c, std or [1.0] * c))
    with torch.autocast(flat.device.type, enabled=False):
        if _engine(flat.device, flat.dtype, c) == "torch":
            padded = images.padded() if isinstance(images, Images) else images
            return torch_engine.views(padded, single, plans, center, scale, memory_format)
        return _compiled(flat, offsets, strides, single, plans, center, scale, memory_format)


def _engine(device: torch.device, dtype: torch.dtype, channels: int) -> Literal["numba", "triton", "torch"]:
    engine = ENGINES.get(device.type, "torch")
    return "torch" if engine == "triton" and not _works(device, dtype, channels) else engine


def _compiled(
    flat: Tensor,
    offsets: Tensor,
    strides: Tensor,
    views: Sequence[View],
    plans: Sequence[Plan],
    mean: Tensor,
    std: Tensor,
    memory_format: torch.memory_format,
) -> list[Tensor]:
    """The views of images in a flat buffer, by the compiled engine of its device."""
    unit, last = 1 / LARGEST[flat.dtype], memory_format is torch.channels_last
    if ENGINES[flat.device.type] == "triton":
        from . import gpu

        with torch.cuda.device_of(flat):  # type: ignore[no-untyped-call]
            return gpu.views(
                flat, offsets, strides, list(zip(views, plans, strict=True)), unit=unit, mean=mean, std=std, last=last,
                budget=torch_engine.CHUNK[flat.device.type],
            )  # fmt: skip
    from . import cpu

    return [
        cpu.views(
            flat, offsets, strides, size=view.size, kernel=view.kernel, threshold=view.threshold, unit=unit, mean=mean,
            std=std, last=last, **vars(plan),
        )
        for view, plan in zip(views, plans, strict=True)
    ]  # fmt: skip


@cache
def _works(device: torch.device, dtype: torch.dtype, channels: int) -> bool:
    """Whether Triton's kernels run on a GPU with the same result as torch's operations on the CPU; warns if not.

    Tested once per device, dtype and number of channels, with views larger than one block.
    """
    view = View(
        size=40, scale=(0.2, 1.0), hflip=0.5, vflip=0.5, rot90=0.5, jitter=1.0, brightness=0.4, contrast=0.4,
        saturation=0.4, hue=0.1, grayscale=0.2, blur=0.5, kernel=5, solarize=0.3, erase=0.3,
    )  # fmt: skip
    b, h, w = 8, 36, 60
    images = uniform(torch.arange(b * channels * h * w), "images").view(b, channels, h, w)
    if dtype != torch.float32:
        images = movable((images * LARGEST[dtype]).to(torch.int32).to(dtype))
    sizes = torch.tensor((h, w)).expand(b, 2)
    plans = [plan(view, sizes, draw(torch.arange(b), 0), channels == 3)]
    mean, std = torch.zeros(channels, dtype=torch.float32), torch.ones(channels, dtype=torch.float32)
    offsets, strides = torch.arange(b) * (channels * h * w), torch.tensor((h * w, w)).expand(b, 2)
    try:
        flat = images.to(device).view(dtype)
        (ours,) = _compiled(flat, offsets, strides, [view], plans, mean, std, torch.contiguous_format)
        (theirs,) = torch_engine.views(images.view(dtype), [view], plans, mean, std, torch.contiguous_format)
        error_size = (ours.cpu() - theirs).abs().max().item()
        reason = "" if error_size < 1e-3 else f"their views differ by {error_size:.3g} of the value range"
    except Exception as error:  # no C compiler, a GPU not supported by Triton, ...
        reason = brief(f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}")
    if reason:
        warnings.warn(
            f"Views are computed by slower operations: Triton's kernels fail on {device} ({reason}).", stacklevel=2
        )
    return not reason


def _check_sizes(images: Tensor | Images, sizes: Tensor) -> None:
    """Raises ValueError for sizes beyond the images' memory, which compiled code would read."""
    smallest = int(sizes.min()) if len(sizes) else 1
    if isinstance(images, Images):
        ends = images.offsets + images.channels * images.sizes.prod(1)
        fits = not len(sizes) or (int(images.offsets.min()) >= 0 and int(ends.max()) <= images.buffer.numel())
    else:
        fits = bool((sizes <= torch.tensor(images.shape[2:])).all())
    if smallest < 1 or not fits:
        raise ValueError(
            f"make_views got sizes {sizes.tolist()[:4]} ...; expected sizes of at least 1, within the images' memory."
        )

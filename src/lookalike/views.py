"""Views: what a method sees of each image, and how a batch of images becomes a list of batches of views.

`View` is a recipe, `make_views` carries it out on the images' device. Every random number is a pure function of an
image's key, the view's number and the parameter's name, so what happens to an image does not depend on the batch,
the order, the workers, the processes or the device.
"""

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from . import augment
from .images import LARGEST, Images, movable, promote
from .memory import moved
from .printing import brief, counted
from .random import key_of, keys_of, uniform

if TYPE_CHECKING:
    import PIL.Image


@dataclass(frozen=True)
class View:
    """The recipe of a random view; neutral by default: the largest centred square, resized.

    The steps come in the order of torchvision's references: crop, resize, flip, turn, colour jitter, grayscale, blur,
    solarize, normalise, erase. Each probability is drawn per image. Saturation, hue and grayscale apply to images
    of 3 channels only.
    """

    size: int = 224
    """Side of the square view, in pixels."""
    count: int = 1
    """How many views of this recipe each image gets."""
    scale: tuple[float, float] = (1.0, 1.0)
    """Range of the crop's area, as a share of the image's."""
    ratio: tuple[float, float] = (1.0, 1.0)
    """Range of the crop's width over its height. Where ten tries do not fit, the largest centred crop is taken."""
    hflip: float = 0.0
    """Probability of mirroring left and right."""
    vflip: float = 0.0
    """Probability of mirroring top and bottom."""
    rot90: float = 0.0
    """Probability of a turn by 90, 180 or 270 degrees, each as likely."""
    jitter: float = 0.0
    """Probability of changing brightness, contrast, saturation and hue, in a random order."""
    brightness: float = 0.0
    """Strength s: the factor is uniform in [max(0, 1 - s), 1 + s]."""
    contrast: float = 0.0
    """Strength, as for brightness."""
    saturation: float = 0.0
    """Strength, as for brightness."""
    hue: float = 0.0
    """Largest turn of the hue, as a share of the circle, up to 0.5."""
    grayscale: float = 0.0
    """Probability of dropping the colour."""
    blur: float = 0.0
    """Probability of Gaussian blur."""
    sigma: tuple[float, float] = (0.1, 2.0)
    """Range of the blur's standard deviation, in pixels of the view."""
    kernel: int = 23
    """Width of the blur's kernel in pixels of the view; odd."""
    solarize: float = 0.0
    """Probability of inverting the values from the threshold on."""
    threshold: float = 0.5
    """Where solarizing begins, as a share of the range of values."""
    erase: float = 0.0
    """Probability of blanking a random box of 2 to 33 % of the view, after normalisation."""

    def __post_init__(self) -> None:
        for name in ("hflip", "vflip", "rot90", "jitter", "grayscale", "blur", "solarize", "threshold", "erase"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"View.{name} is {getattr(self, name)}; give a number from 0 to 1.")
        for name in ("brightness", "contrast", "saturation"):
            if getattr(self, name) < 0:
                raise ValueError(f"View.{name} is {getattr(self, name)}; give a strength of 0 or more.")
        for name, most in (("scale", 1.0), ("ratio", float("inf")), ("sigma", float("inf"))):
            low, high = getattr(self, name)
            if not 0 < low <= high <= most:
                limit = "" if most == float("inf") else f" <= {most:g}"
                raise ValueError(f"View.{name} is ({low}, {high}); give two numbers with 0 < low <= high{limit}.")
        if not 0 <= self.hue <= 0.5:
            raise ValueError(f"View.hue is {self.hue}; give a number from 0 to 0.5.")
        if self.size < 1 or self.count < 1:
            raise ValueError(f"View.size is {self.size} and View.count is {self.count}; both must be at least 1.")
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ValueError(f"View.kernel is {self.kernel}; give an odd number of pixels.")
        if self.blur > 0 and self.kernel // 2 >= self.size:
            raise ValueError(
                f"View.kernel is {self.kernel} for views of {self.size} pixels; the mirrored borders allow at most "
                f"{2 * self.size - 1}. Give a smaller kernel."
            )


SIMCLR_VIEW = View(
    count=2,
    scale=(0.08, 1.0),
    ratio=(3 / 4, 4 / 3),
    hflip=0.5,
    jitter=0.8,
    brightness=0.8,
    contrast=0.8,
    saturation=0.8,
    hue=0.2,
    grayscale=0.2,
    blur=0.5,
    kernel=23,
)
"""SimCLR's ImageNet setting: colour strength 1, kernel 10 % of the side (`data_util.py` of google-research/simclr)."""


MOCO_VIEW = View(
    scale=(0.2, 1.0),
    ratio=(3 / 4, 4 / 3),
    hflip=0.5,
    jitter=0.8,
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    hue=0.1,
    grayscale=0.2,
    blur=0.5,
    kernel=23,
)
"""MoCo v2's view (`--aug-plus` of facebookresearch/moco); SimSiam's; without blur that of SupCon's PyTorch code."""

_BYOL_VIEW = dataclasses.replace(MOCO_VIEW, scale=(0.08, 1.0), saturation=0.2)
BYOL_VIEWS = (
    dataclasses.replace(_BYOL_VIEW, blur=1.0),
    dataclasses.replace(_BYOL_VIEW, blur=0.1, solarize=0.2),
)
"""BYOL's asymmetric pair (appendix B, table 6): one view is always blurred, the other may be solarized."""


_GLOBAL = dataclasses.replace(SIMCLR_VIEW, scale=(0.14, 1.0))
SWAV_VIEWS = (_GLOBAL, dataclasses.replace(_GLOBAL, size=96, count=6, scale=(0.05, 0.14)))
"""SwAV's multi-crop: two global and six local views (`multicropdataset.py` of facebookresearch/swav, its scripts)."""


def dino_views(share: float, local: int) -> tuple[View, ...]:
    """DINO's multi-crop: BYOL's pair as global views, and `local` small views of less than `share` of the area."""
    first, second = cropped_from(share, BYOL_VIEWS)
    return (first, second, dataclasses.replace(first, size=96, count=local, scale=(0.05, share), blur=0.5))


def without_blur(views: Sequence[View]) -> tuple[View, ...]:
    """The same views without blur, which small images are not given (SimCLR, appendix B.9; SimSiam, appendix D)."""
    return tuple(dataclasses.replace(view, blur=0.0) for view in views)


def half_colour(views: Sequence[View]) -> tuple[View, ...]:
    """The same views with half the strength of their colour jitter: SimCLR's for CIFAR-10 (appendix B.9)."""
    names = ("brightness", "contrast", "saturation", "hue")
    return tuple(dataclasses.replace(v, **{name: vars(v)[name] / 2 for name in names}) for v in views)


def two_global(views: Sequence[View]) -> tuple[View, ...]:
    """The first two single views: of a multi-crop, the global ones."""
    if views[0].count > 1:
        return (dataclasses.replace(views[0], count=2),)
    return (views[0], dataclasses.replace(views[1], count=1))


def larger(views: Sequence[View], size: int) -> tuple[View, ...]:
    """The same views with the first two, the global ones, at `size` pixels, and their blur in proportion."""
    factor = size / views[0].size
    global_views = views[:1] if views[0].count > 1 else views[:2]
    grown = [
        dataclasses.replace(
            view, size=size, kernel=_odd(view.kernel * factor), sigma=(view.sigma[0] * factor, view.sigma[1] * factor)
        )
        for view in global_views
    ]
    return (*grown, *views[len(grown) :])


def at_least(view: View, size: int) -> View:
    """The same view, at `size` pixels where it has fewer, with its blur in proportion."""
    return larger((view,), size)[0] if size > view.size else view


def cropped_from(share: float, views: Sequence[View]) -> tuple[View, ...]:
    """The same views with crops of at least this share of the image's area."""
    return tuple(dataclasses.replace(view, scale=(share, view.scale[1])) for view in views)


def resized(views: Sequence[View], image_size: int, patch: int | None = None) -> tuple[View, ...]:
    """The same views with the largest brought to `image_size` pixels and the others in proportion.

    Sizes become multiples of `patch` where the backbone has patches, kernels the nearest odd numbers.
    """
    step = patch or 1
    factor = image_size / max(view.size for view in views)
    return tuple(
        dataclasses.replace(
            view,
            size=max(1, round(view.size * factor / step)) * step,
            kernel=_odd(view.kernel * factor),
        )
        for view in views
    )


def _odd(x: float) -> int:
    """The nearest odd number, at least 1."""
    return 2 * max(0, round((x - 1) / 2)) + 1


# How many uniform numbers each parameter takes. A name's numbers never change when others come or go.
_DRAWS = {
    "area": 10,
    "aspect": 10,
    "corner": 2,
    "hflip": 1,
    "vflip": 1,
    "rot90": 1,
    "quarters": 1,
    "jitter": 1,
    "order": 4,
    "brightness": 1,
    "contrast": 1,
    "saturation": 1,
    "hue": 1,
    "grayscale": 1,
    "blur": 1,
    "sigma": 1,
    "solarize": 1,
    "erase": 1,
    "erase_area": 10,
    "erase_aspect": 10,
    "erase_corner": 2,
}
_NAMES = torch.tensor([key_of(name, i) for name, n in _DRAWS.items() for i in range(n)])


def _draw(keys: Tensor, view: int) -> dict[str, Tensor]:
    """All uniform numbers in [0, 1) of one view: (B,) each, or (B, n) where a parameter takes several."""
    u = uniform(keys_of(keys, view)[:, None], _NAMES)
    return {name: x.squeeze(1) for name, x in zip(_DRAWS, torch.split(u, list(_DRAWS.values()), 1), strict=True)}


def _change(x: Tensor, chosen: Tensor, operation: Callable[..., Tensor], *parameters: Tensor) -> None:
    """Puts `operation(images, *their parameters)` in the place of the chosen (B,) images; only x is on a device."""
    rows = chosen.nonzero().squeeze(1)
    if len(rows):
        there = moved(rows, x.device)
        x[there] = operation(x[there], *(moved(p[rows], x.device) for p in parameters))


def _factor(u: Tensor, strength: float) -> Tensor:
    low = max(0.0, 1 - strength)
    return low + (1 + strength - low) * u


@dataclass(frozen=True)
class Plan:
    """What one view does to each of B images; on the CPU, where nothing waits for a device that is at work."""

    box: Tensor
    """(B, 4) int64: top, left, height, width of the cut."""
    flips: Tensor
    """(B, 3) bool: left and right; top and bottom; rows and columns, as the last."""
    steps: Tensor
    """(B, 4) int64: the colour operation of each turn, -1 for none."""
    factors: Tensor
    """(B, 4) float32: the parameters of `_COLOUR`'s operations."""
    grey: Tensor
    """(B,) bool."""
    sigma: Tensor
    """(B,) float32: of the blur; 0 for none."""
    solarize: Tensor
    """(B,) bool."""
    erase: Tensor
    """(B, 4) int64: the box that is blanked; without height none."""


_COLOUR = (augment.brightness, augment.contrast, augment.saturation, augment.hue)
"""The steps of the jitter, as a plan numbers them."""


def _plan(view: View, sizes: Tensor, u: dict[str, Tensor], colour: bool) -> Plan:
    """Turns uniform numbers into what happens; `colour` says whether images are RGB."""
    none = torch.zeros(len(sizes), dtype=torch.bool)
    turns = torch.where(u["rot90"] < view.rot90, 1 + (3 * u["quarters"]).long(), 0) if view.rot90 else none.long()
    # A quarter turn is a mirroring and a transposition, a half turn two mirrorings: the matrices do them for nothing.
    hflip = (u["hflip"] < view.hflip) ^ (turns == 1) ^ (turns == 2)
    vflip = (u["vflip"] < view.vflip) ^ (turns == 3) ^ (turns == 2)
    strengths = (view.brightness, view.contrast, view.saturation * colour, view.hue * colour)
    steps = torch.full((len(sizes), 4), -1)
    factors = torch.zeros((len(sizes), 4), dtype=torch.float32)
    if view.jitter and any(strengths):
        wanted = torch.tensor([strength > 0 for strength in strengths])
        order = u["order"].argsort(dim=1, stable=True)
        steps = torch.where((u["jitter"] < view.jitter)[:, None] & wanted[order], order, -1)
        names = ("brightness", "contrast", "saturation")
        factors = torch.stack(
            [*(_factor(u[name], vars(view)[name]) for name in names), (2 * u["hue"] - 1) * view.hue], 1
        )
    erase = torch.zeros((len(sizes), 4), dtype=torch.int64)
    if view.erase:
        whole = torch.full_like(sizes, view.size)
        erase = augment.random_erase(whole, u["erase_area"], u["erase_aspect"], u["erase_corner"])
        erase *= (u["erase"] < view.erase)[:, None]
    return Plan(
        box=augment.random_crop(sizes, u["area"], u["aspect"], u["corner"], view.scale, view.ratio),
        flips=torch.stack((hflip, vflip, turns % 2 == 1), 1),
        steps=steps,
        factors=factors,
        grey=u["grayscale"] < view.grayscale if colour else none,
        sigma=torch.where(u["blur"] < view.blur, view.sigma[0] + (view.sigma[1] - view.sigma[0]) * u["sigma"], 0.0),
        solarize=u["solarize"] < view.solarize,
        erase=erase,
    )


def _view(images: Tensor, view: View, plan: Plan, mean: Tensor, std: Tensor) -> Tensor:
    """One view (B, C, S, S) of float32 images in [0, 1], on any device."""
    hflip, vflip, _ = moved(plan.flips, images.device).unbind(1)
    x = augment.resized_crop(images, moved(plan.box, images.device), hflip, vflip, view.size)
    if view.rot90:
        _change(x, plan.flips[:, 2], lambda x: x.mT)
    if view.jitter:
        for turn in plan.steps.unbind(1):
            for number, operation in enumerate(_COLOUR):
                _change(x, turn == number, operation, plan.factors[:, number])
    if view.grayscale:
        _change(x, plan.grey, augment.grayscale)
    if view.blur:
        _change(x, plan.sigma > 0, lambda x, s: augment.gaussian_blur(x, s, view.kernel), plan.sigma)
    if view.solarize:
        _change(x, plan.solarize, lambda x: augment.solarize(x, view.threshold))
    x.sub_(mean[:, None, None]).div_(std[:, None, None])
    if view.erase:
        _change(x, plan.erase[:, 2] > 0, augment.erase, plan.erase)
    return x


_CHUNK = {"cpu": 2**19, "cuda": 2**28}
"""Pixels x channels that are worked on at once: a CPU's cache, and 1 GiB of a GPU's memory, hold them as float32."""
ENGINES: dict[str, Literal["numba", "triton", "torch"]] = {
    "cpu": "numba" if find_spec("numba") else "torch",
    "cuda": "triton" if find_spec("triton") else "torch",
}
"""How a device makes views: compiled (`lookalike.fused`, `lookalike.fused_gpu`), or by the operations of `augment`."""


@torch.no_grad()
def make_views(
    images: Tensor | Images,
    views: Sequence[View],
    seed: int | Tensor,
    sizes: Tensor | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> list[Tensor]:
    """Makes all views of a batch of images, on the images' device.

    Args:
        images: (B, C, H, W), uint8, uint16, or float32 in [0, 1]; padded at the right and bottom with finite values.
            Or `Images` of different sizes.
        views: the recipes; one with `count` n stands for n views.
        seed: an int, or an int64 tensor (B,) with a key per image. An int means the keys `keys_of(seed, row)`.
        sizes: (B, 2) int64, the images' true heights and widths; None if all fill the tensor. `Images` know theirs.
            Like keys best given on the CPU, where all is decided: to fetch them waits for the device.
        mean, std: C numbers each, subtracted from and dividing values in [0, 1]; None leaves them.
        memory_format: how the views lie in memory; `torch.channels_last` suits convolutions.

    Returns:
        One float32 tensor (B, C, size, size) per single view, in order.

    Raises:
        ValueError: if a shape, a type or the number of channels does not fit.
    """
    flat = images.buffer if isinstance(images, Images) else images
    if flat.dtype not in LARGEST or (flat is images and flat.ndim != 4):
        raise ValueError(
            f"make_views got images of shape {tuple(flat.shape)} and type {flat.dtype}; "
            "it needs (B, C, H, W) of uint8, uint16, or float32 in [0, 1]."
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
            f"{tuple(sizes.shape)}; "
            f"it needs ({b},) and ({b}, 2)."
        )
    single = [view for view in views for _ in range(view.count)]
    plans = [_plan(view, sizes, _draw(keys, number), c == 3) for number, view in enumerate(single)]
    centre, spread = (torch.tensor(x, dtype=torch.float32) for x in (mean or [0.0] * c, std or [1.0] * c))
    with torch.autocast(flat.device.type, enabled=False):
        if _engine(flat.device, flat.dtype, c) == "torch":
            whole = images.padded() if isinstance(images, Images) else images
            return _by_torch(whole, single, plans, centre, spread, memory_format)
        _check_sizes(images, sizes)
        return _compiled(flat, offsets, strides, single, plans, centre, spread, memory_format)


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
    """The views of images that lie in a flat buffer, by the engine of its device."""
    unit, last = 1 / LARGEST[flat.dtype], memory_format is torch.channels_last
    if ENGINES[flat.device.type] == "triton":
        from . import fused_gpu

        with torch.cuda.device_of(flat):  # type: ignore[no-untyped-call]
            return fused_gpu.views(
                flat, offsets, strides, list(zip(views, plans, strict=True)), unit=unit, mean=mean, std=std, last=last,
                budget=_CHUNK[flat.device.type],
            )  # fmt: skip
    from . import fused

    return [
        fused.views(
            flat, offsets, strides, size=view.size, kernel=view.kernel, threshold=view.threshold, unit=unit, mean=mean,
            std=std, last=last, **vars(plan),
        )
        for view, plan in zip(views, plans, strict=True)
    ]  # fmt: skip


def _by_torch(
    images: Tensor,
    views: Sequence[View],
    plans: Sequence[Plan],
    mean: Tensor,
    std: Tensor,
    memory_format: torch.memory_format,
) -> list[Tensor]:
    """The views of padded images (B, C, H, W), a part of the batch after another."""
    (b, c), device = images.shape[:2], images.device
    mean, std = moved(mean, device), moved(std, device)
    largest = c * max([images[0, 0].numel(), *(view.size**2 for view in views)]) if b else 1
    step = max(1, _CHUNK.get(device.type, 2**28) // largest)
    shapes = [(b, c, view.size, view.size) for view in views]
    made = [torch.empty(s, dtype=torch.float32, device=device, memory_format=memory_format) for s in shapes]
    for rows in (slice(i, i + step) for i in range(0, b, step)):
        x = promote(images[rows], torch.float32)
        for view, plan, out in zip(views, plans, made, strict=True):
            part = Plan(**{name: value[rows] for name, value in vars(plan).items()})
            out[rows] = _view(x, view, part, mean, std)
    return made


@cache
def _works(device: torch.device, dtype: torch.dtype, channels: int) -> bool:
    """Whether Triton's kernels run on a GPU and make there what torch's operations make on a CPU; if not, it says why.

    Tried once for each kind of images; more than one program works on each view.
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
    plans = [_plan(view, sizes, _draw(torch.arange(b), 0), channels == 3)]
    mean, std = torch.zeros(channels, dtype=torch.float32), torch.ones(channels, dtype=torch.float32)
    offsets, strides = torch.arange(b) * (channels * h * w), torch.tensor((h * w, w)).expand(b, 2)
    try:
        flat = images.to(device).view(dtype)
        (ours,) = _compiled(flat, offsets, strides, [view], plans, mean, std, torch.contiguous_format)
        (theirs,) = _by_torch(images.view(dtype), [view], plans, mean, std, torch.contiguous_format)
        furthest = (ours.cpu() - theirs).abs().max().item()
        reason = "" if furthest < 1e-3 else f"their views are {furthest:.3g} of the range of values off"
    except Exception as error:  # no C compiler, a GPU that Triton does not know, ...
        reason = brief(f"{type(error).__name__}: {(str(error).strip() or 'no words').splitlines()[0]}")
    if reason:
        warnings.warn(
            f"Views are made by slower operations: Triton's kernels fail on {device} ({reason}).", stacklevel=2
        )
    return not reason


def _check_sizes(images: Tensor | Images, sizes: Tensor) -> None:
    """Refuses sizes that lead out of the images' memory, where compiled code would follow them."""
    least = int(sizes.min()) if len(sizes) else 1
    if isinstance(images, Images):
        ends = images.offsets + images.channels * images.sizes.prod(1)
        fits = not len(sizes) or (int(images.offsets.min()) >= 0 and int(ends.max()) <= images.buffer.numel())
    else:
        fits = bool((sizes <= torch.tensor(images.shape[2:])).all())
    if least < 1 or not fits:
        raise ValueError(f"make_views got sizes {sizes.tolist()[:4]} ... that the images do not have.")


def black_and_white(images: Sequence[Tensor]) -> tuple[float, float]:
    """The values that a picture of images (C, H, W) in [0, 1] shows as black and as white.

    0 and 1, unless all but a thousandth of the pixels lie within a quarter of that: then these are stretched.
    """
    some = [image.reshape(-1)[:: max(1, image.numel() // 20_000)] for image in images]
    values = torch.cat([part.to(torch.float32).cpu() for part in some]).sort().values
    edge = len(values) // 1000
    low, high = float(values[edge]), float(values[-1 - edge])
    return (low, high) if 1e-6 < high - low < 0.25 else (0.0, 1.0)


def sheet(
    views: Sequence[Tensor],
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    rows: int,
    sources: Tensor | None = None,
    sizes: Tensor | None = None,
) -> "PIL.Image.Image":
    """A picture of the first `rows` images: one row per image, one column per view, with gaps of a pixel.

    `views`, `mean` and `std` are what `make_views` returned and got. With `sources`, and `sizes`, its images, a first
    column shows each whole image, scaled into a cell, and images that use little of the range of values are stretched,
    all alike. Of more than 3 channels the first 3 are shown, of 2 the first.
    """
    import PIL.Image

    channels = views[0].shape[1]
    centre, spread = (torch.tensor(n or [d] * channels)[:, None, None] for n, d in ((mean, 0.0), (std, 1.0)))
    cell = max(view.shape[-1] for view in views)
    table = [[view[row].cpu() * spread + centre for view in views] for row in range(min(rows, len(views[0])))]
    low, high = 0.0, 1.0
    if sources is not None:
        for line, source, size in zip(table, sources.cpu(), sources if sizes is None else sizes, strict=False):
            h, w = source.shape[1:] if sizes is None else size.tolist()
            image = promote(source[:, :h, :w], torch.float32)[None]
            fit = [max(1, round(n * cell / max(h, w))) for n in (h, w)]
            line.insert(0, F.interpolate(image, fit, mode="bilinear", antialias=True)[0])
        low, high = black_and_white([line[0] for line in table])
    pitch = cell + 1
    canvas = torch.full((len(table) * pitch - 1, len(table[0]) * pitch - 1, 3), 255, dtype=torch.uint8)
    for y, line in enumerate(table):
        for x, image in enumerate(line):
            image = (image - low) / (high - low)
            shown = (image[: 3 if channels >= 3 else 1] * 255).round().clamp(0, 255).to(torch.uint8)
            _, h, w = shown.shape
            canvas[y * pitch : y * pitch + h, x * pitch : x * pitch + w] = shown.permute(1, 2, 0)
    return PIL.Image.fromarray(canvas.numpy())

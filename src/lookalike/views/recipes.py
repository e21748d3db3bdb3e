"""Recipes of random views: `View`, the settings of the papers, and functions that modify them."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class View:
    """The recipe of a random view; neutral by default: the largest centred square, resized.

    The steps follow the order of torchvision's reference scripts: crop, resize, flip, rotate, colour jitter, grayscale,
    blur, solarize, normalise, erase. Each step is drawn per image. Saturation, hue and grayscale apply only to images
    with 3 channels.
    """

    size: int = 224
    """Side of the square view, in pixels."""
    count: int = 1
    """Number of views of this recipe per image."""
    scale: tuple[float, float] = (1.0, 1.0)
    """Range of the crop's area, as a fraction of the image's area."""
    ratio: tuple[float, float] = (1.0, 1.0)
    """Range of the crop's width over its height. If ten tries do not fit, the largest centred crop is used."""
    hflip: float = 0.0
    """Probability of a horizontal flip."""
    vflip: float = 0.0
    """Probability of a vertical flip."""
    rot90: float = 0.0
    """Probability of a rotation by 90, 180 or 270 degrees, equally likely."""
    jitter: float = 0.0
    """Probability of changing brightness, contrast, saturation and hue, in a random order."""
    brightness: float = 0.0
    """Strength s: the factor is uniform in [max(0, 1 - s), 1 + s]."""
    contrast: float = 0.0
    """Strength, as for brightness."""
    saturation: float = 0.0
    """Strength, as for brightness."""
    hue: float = 0.0
    """Largest rotation of the hue, as a fraction of the circle, up to 0.5."""
    grayscale: float = 0.0
    """Probability of conversion to greyscale."""
    blur: float = 0.0
    """Probability of Gaussian blur."""
    sigma: tuple[float, float] = (0.1, 2.0)
    """Range of the blur's standard deviation, in pixels of the view."""
    kernel: int = 23
    """Width of the blur's kernel in pixels of the view; odd."""
    solarize: float = 0.0
    """Probability of inverting values of at least the threshold."""
    threshold: float = 0.5
    """Threshold of solarize, as a fraction of the value range."""
    erase: float = 0.0
    """Probability of setting a random box of 2 to 33 % of the view to 0, after normalisation."""

    def __post_init__(self) -> None:
        for name in ("hflip", "vflip", "rot90", "jitter", "grayscale", "blur", "solarize", "threshold", "erase"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"View.{name} is {getattr(self, name)}; give a number from 0 to 1.")
        for name in ("brightness", "contrast", "saturation"):
            if getattr(self, name) < 0:
                raise ValueError(f"View.{name} is {getattr(self, name)}; give a strength of at least 0.")
        for name, highest in (("scale", 1.0), ("ratio", float("inf")), ("sigma", float("inf"))):
            low, high = getattr(self, name)
            if not 0 < low <= high <= highest:
                limit = "" if highest == float("inf") else f" <= {highest:g}"
                raise ValueError(f"View.{name} is ({low}, {high}); give two numbers with 0 < low <= high{limit}.")
        if not 0 <= self.hue <= 0.5:
            raise ValueError(f"View.hue is {self.hue}; give a number from 0 to 0.5.")
        if self.size < 1 or self.count < 1:
            raise ValueError(f"View.size is {self.size} and View.count is {self.count}; both must be at least 1.")
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ValueError(f"View.kernel is {self.kernel}; give an odd number of pixels.")
        if self.blur > 0 and self.kernel // 2 >= self.size:
            raise ValueError(
                f"View.kernel is {self.kernel} for views of {self.size} pixels; mirrored borders allow at most "
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
"""MoCo v2's view (`--aug-plus` of facebookresearch/moco), also SimSiam's; without blur SupCon's (its PyTorch code)."""

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
    """DINO's multi-crop: BYOL's pair as global views, and `local` small views; `share`: area fraction between them."""
    first, second = cropped_from(share, BYOL_VIEWS)
    return (first, second, dataclasses.replace(first, size=96, count=local, scale=(0.05, share), blur=0.5))


def without_blur(views: Sequence[View]) -> tuple[View, ...]:
    """The same views without blur, for small images (SimCLR, appendix B.9; SimSiam, appendix D)."""
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
    """The same views with the two global ones at `size` pixels, and their blur scaled in proportion."""
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
    """The same view at no less than `size` pixels, with its blur scaled in proportion."""
    return larger((view,), size)[0] if size > view.size else view


def cropped_from(share: float, views: Sequence[View]) -> tuple[View, ...]:
    """The same views with crops of at least a fraction `share` of the image's area."""
    return tuple(dataclasses.replace(view, scale=(share, view.scale[1])) for view in views)


def resized(views: Sequence[View], image_size: int, patch: int | None = None) -> tuple[View, ...]:
    """The same views with the largest at `image_size` pixels and the others scaled in proportion.

    Sizes are rounded to multiples of `patch` if the backbone has patches, kernels to odd numbers.
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

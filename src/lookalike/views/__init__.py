"""Views: recipes of random augmentations, and their application to batches of images.

`View` is a recipe, `make_views` applies it on the images' device. Every random number is a pure function of an image's
key, the view's index and the parameter's name, so augmentations do not depend on the batch, the order, the workers, the
processes or the device.

The engines are imported on first use: a method needs only the recipes.
"""

import importlib
from typing import TYPE_CHECKING

from .recipes import (
    BYOL_VIEWS,
    MOCO_VIEW,
    SIMCLR_VIEW,
    SWAV_VIEWS,
    View,
    at_least,
    cropped_from,
    dino_views,
    half_colour,
    larger,
    resized,
    two_global,
    without_blur,
)

if TYPE_CHECKING:
    from .contact_sheet import black_and_white as black_and_white
    from .contact_sheet import sheet as sheet
    from .contact_sheet import stretch as stretch
    from .make import ENGINES as ENGINES
    from .make import make_views as make_views
    from .plan import Plan as Plan

_HOMES = {
    "ENGINES": "make", "Plan": "plan", "black_and_white": "contact_sheet", "make_views": "make",
    "sheet": "contact_sheet", "stretch": "contact_sheet",
}  # fmt: skip

__all__ = [
    "BYOL_VIEWS",
    "ENGINES",
    "MOCO_VIEW",
    "SIMCLR_VIEW",
    "SWAV_VIEWS",
    "Plan",
    "View",
    "at_least",
    "black_and_white",
    "cropped_from",
    "dino_views",
    "half_colour",
    "larger",
    "make_views",
    "resized",
    "sheet",
    "stretch",
    "two_global",
    "without_blur",
]  # fmt: skip


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return importlib.import_module(f"lookalike.views.{_HOMES[name]}").__dict__[name]
    raise AttributeError(f"module 'lookalike.views' has no attribute '{name}'")

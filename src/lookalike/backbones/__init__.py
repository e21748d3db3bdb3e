"""A common interface to networks of timm, torchvision and the user: images in, features and tokens out.

`create` builds a `Backbone` by name. The builders are imported on first use: a method needs only the interface.
"""

import importlib
from typing import TYPE_CHECKING

from .base import IMAGENET_MEAN, IMAGENET_STD, Backbone, Interpolation, Stem, Tokens

if TYPE_CHECKING:
    from .factory import create as create
    from .factory import published as published
    from .library import names as names
    from .official import load_official as load_official
    from .vit import ViT as ViT

_HOMES = {
    "ViT": "vit", "create": "factory", "load_official": "official", "names": "library", "published": "factory",
}  # fmt: skip

__all__ = [
    "IMAGENET_MEAN", "IMAGENET_STD", "Backbone", "Interpolation", "Stem", "Tokens", "ViT", "create", "load_official",
    "names", "published",
]  # fmt: skip


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return importlib.import_module(f"lookalike.backbones.{_HOMES[name]}").__dict__[name]
    raise AttributeError(f"module 'lookalike.backbones' has no attribute '{name}'")

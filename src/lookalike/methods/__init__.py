"""The methods: one file per paper. Imported lazily, so that names and help are shown without importing torch."""

import importlib
from typing import TYPE_CHECKING

from ..names import nearest
from ..printing import shown
from .table import METHODS, SELF_SUPERVISED, Entry

if TYPE_CHECKING:
    from ..core import Method
    from .barlow_twins import BarlowTwins as BarlowTwins
    from .byol import BYOL as BYOL
    from .deepcluster_v2 import DeepClusterV2 as DeepClusterV2
    from .dino import DINO as DINO
    from .dinov2 import DINOv2 as DINOv2
    from .distill import Distill as Distill
    from .finetune import FineTune as FineTune
    from .ibot import IBOT as IBOT
    from .lejepa import LeJEPA as LeJEPA
    from .moco_v2 import MoCoV2 as MoCoV2
    from .moco_v3 import MoCoV3 as MoCoV3
    from .simclr import SimCLR as SimCLR
    from .simsiam import SimSiam as SimSiam
    from .supcon import SupCon as SupCon
    from .swav import SwAV as SwAV
    from .vicreg import VICReg as VICReg


def get_method(name: str) -> "type[Method]":
    """The class of a method by its name.

    Raises:
        ValueError: no method has this name; the nearest names are in the message.
    """
    if name not in METHODS:
        raise ValueError(f"No method is called {shown(name)}. {nearest(name, list(METHODS))}")
    entry = METHODS[name]
    method: type[Method] = importlib.import_module(entry.module).__dict__[entry.cls]
    return method


def __getattr__(name: str) -> object:
    """`lookalike.methods.SimCLR` without importing every method."""
    for key, entry in METHODS.items():
        if entry.cls == name:
            return get_method(key)
    raise AttributeError(f"module 'lookalike.methods' has no attribute '{name}'")


__all__ = ["METHODS", "SELF_SUPERVISED", "Entry", "get_method"]

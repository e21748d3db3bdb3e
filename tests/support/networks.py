"""A small vision transformer, and an encoder that is saved."""

from pathlib import Path

import torch
from timm.models.vision_transformer import VisionTransformer

from lookalike import backbones, encoders
from lookalike.runs import Folder


def vit(**options: object) -> VisionTransformer:
    settings = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 0}
    torch.manual_seed(0)
    return VisionTransformer(**(settings | options))


def saved_vit(folder: Path) -> Path:
    """The folder of an encoder, timm's test_vit for 32 pixels, as a training would have saved it."""
    torch.manual_seed(0)
    encoder = backbones.create("test_vit", image_size=32)
    encoders.save(Folder(folder), encoder, method="simclr", epochs=1, dtype=torch.uint8)
    return folder

"""Networks as users write them, and one that is saved."""

from pathlib import Path

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from lookalike import backbones, encoders
from lookalike.runs import Folder


def vit(**options: object) -> VisionTransformer:
    settings = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 0}
    torch.manual_seed(0)
    return VisionTransformer(**(settings | options))


class Own(nn.Module):
    """A network as users write them, with dropout, BatchNorm and a buffer that each forward pass in training moves."""

    def __init__(self, maps: bool) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(4, 6, 3, stride=2), nn.BatchNorm2d(6), nn.Dropout(0.5))
        self.maps = maps

    def forward(self, x: Tensor) -> Tensor:
        torch.rand(1)
        y = self.layers(x)
        return y if self.maps else y.mean((2, 3))


def saved_vit(folder: Path) -> Path:
    """The folder of an encoder, timm's test_vit for 32 pixels, as a training would have saved it."""
    torch.manual_seed(0)
    encoder = backbones.create("test_vit", image_size=32)
    encoders.save(Folder(folder), encoder, method="simclr", epochs=1, dtype=torch.uint8)
    return folder

"""Methods on small networks with narrow heads."""

import dataclasses
import functools

import torch
from torch import nn

from lookalike import backbones, training
from lookalike.core import Batch, Config, Method, Progress
from lookalike.methods import get_method
from lookalike.runs import Run
from lookalike.views import resized


def small(name: str, size: int = 32) -> Config:
    """The method's defaults, on small views and with narrow heads."""
    cfg: Config = get_method(name).Config()  # type: ignore[call-arg]
    cfg = narrowed(cfg, hidden_dim=64, out_dim=32, predictor_dim=16, bottleneck_dim=16, queue=32, queue_starts=0,
                   directions=16)  # fmt: skip
    if name == "finetune":  # the classes of `batch` and `classed`; a class's name is what its folder is called
        cfg = dataclasses.replace(cfg, classes=tuple(f"class{k}" for k in range(4)))  # type: ignore[call-arg]
    if name == "distill":  # all that it can do
        cfg = dataclasses.replace(cfg, cosine=1.0, vicreg=0.1, relational=1.0)
    if "prototypes" in vars(cfg):
        several = isinstance(vars(cfg)["prototypes"], tuple)
        cfg = dataclasses.replace(cfg, prototypes=(6, 5, 4) if several else 6)  # type: ignore[call-arg]
    patch = 16 if get_method(name).Config().needs.mask_token else None
    return dataclasses.replace(narrowed(cfg, bank=40), views=resized(cfg.views, size, patch))


def net(name: str) -> str:
    """A small backbone of the kind that the method needs."""
    return "test_vit" if get_method(name).Config().needs.mask_token else "test_byobnet"


@functools.cache
def teacher(name: str) -> nn.Module | None:
    """A teacher for the method that needs one."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return backbones.create("test_vit", image_size=32) if name == "distill" else None


def make(name: str, size: int = 32) -> Method:
    torch.manual_seed(0)
    run = Run(data="", method=small(name, size), backbone=net(name), image_size=size, teacher=teacher(name))
    method = training.build(run).train()
    with torch.no_grad():
        method.initialize_bank(batch(method, seed=seed) for seed in range(1, 3))
    return method


def batch(method: Method, rows: int = 8, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    sizes = [v.size for v in method.cfg.views for _ in range(v.count)]
    views = [torch.randn(rows, 3, s, s, generator=generator) for s in sizes]
    labels = torch.arange(rows) % 4
    return Batch(views, torch.arange(rows), Progress(3, 20, 5), labels)


def narrow_resnet() -> nn.Module:
    """Four basic blocks of 16 to 128 channels; with a 3x3 stem 32 pixels still make 2x2 at the end."""
    from timm.models.resnet import BasicBlock, ResNet

    net = ResNet(BasicBlock, (1, 1, 1, 1), num_classes=0, channels=(16, 32, 64, 128))
    net.conv1 = nn.Conv2d(3, 64, 3, stride=2, padding=1, bias=False)
    net.maxpool = nn.Identity()
    return net


def narrow_vit() -> nn.Module:
    """Three blocks of 2 heads, 64 wide, on patches of 8 pixels."""
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(img_size=32, patch_size=8, embed_dim=64, depth=3, num_heads=2, num_classes=0)


def narrowed(cfg: Config, **widths: int) -> Config:
    """A configuration with those of the widths that it has."""
    return dataclasses.replace(cfg, **{name: width for name, width in widths.items() if name in vars(cfg)})

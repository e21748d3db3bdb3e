"""Builds a `Backbone` from a name or a user's own module."""

import copy
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import nn

from ..foreign import is_tag, module_tag
from .base import IMAGENET_MEAN, IMAGENET_STD, Backbone, Interpolation, Parts, Stem
from .image_sizes import WrongOutput, patch_grid, wrong_size
from .library import (
    full_name,
    interpolation_of,
    per_channel,
    published_size,
    statistics_of,
    timm_net,
    timm_patch_size,
    torchvision_net,
)
from .vit import ViT, patch_size_of
from .wrappers import Own, Timm, Torchvision

SMALL_STEM_UP_TO = 64
"""Largest image size, in pixels, at which a ResNet gets the small stem by default."""


def create(
    backbone: str | nn.Module,
    *,
    channels: int = 3,
    image_size: int = 224,
    weights: bool = False,
    drop_path: float = 0.0,
    mask_token: bool = False,
    interpolation: Interpolation = "official",
    stem: Stem | None = None,
) -> Backbone:
    """Builds a backbone without its classifier.

    Args:
        backbone: a timm name (`resnet18`, `timm/resnet18`, `vit_small_patch14_dinov2.lvd142m`), `torchvision/NAME`, or
            a module that maps images (B, C, H, W) to (B, D), or to (B, D, H, W), which is averaged over H and W.
        channels: number of image channels. Published weights are adapted by timm's rule.
        image_size: side of the images in pixels. A plain ViT also accepts all other multiples of its patch size.
        weights: loads the weights published by the library under this name.
        drop_path: probability of skipping the last residual block, in [0, 1); smaller for earlier blocks. All other
            dropout of a network created by name is disabled; your own module keeps its dropout.
        mask_token: adds a learnable mask token to a plain ViT, initialised to zero as in iBOT and DINOv2.
        interpolation: how a plain ViT resizes its position embedding: as in DINO and DINOv2, or as in timm.
        stem: a ResNet's first layers: "standard", or "small" for a 3x3 convolution of stride 1 without pooling (SimCLR,
            appendix B.9). None means small for images up to 64 pixels, unless `weights` are loaded.

    Raises:
        ValueError: an unknown name, or something that this backbone does not support; the message states what works.
        FileNotFoundError: the weights could not be downloaded.
    """
    if channels < 1 or image_size < 1:
        raise ValueError(f"channels and image_size are {channels} and {image_size}; both must be at least 1.")
    if not 0 <= drop_path < 1:
        raise ValueError(f"drop_path is {drop_path}; expected a probability in [0, 1).")
    if isinstance(backbone, nn.Module):
        name, patch, kind = _of_module(backbone, weights or drop_path > 0 or stem == "small")
    else:
        name, patch, kind = _of_name(backbone, channels, drop_path)
        stem = _chosen_stem(name, stem, image_size, weights)
    if patch is not None:
        patch_grid(name, patch, image_size, image_size)
    elif mask_token:
        raise ValueError(f"{name} does not support masks. Choose a plain ViT, such as vit_small_patch16_224.")
    mean, std = statistics_of(name) if weights else (IMAGENET_MEAN, IMAGENET_STD)
    built = _Recipe(
        backbone if isinstance(backbone, nn.Module) else None, name, kind, channels, drop_path, stem or "standard",
        interpolation, per_channel(mean, channels), per_channel(std, channels),
    ).build(image_size, weights)  # fmt: skip
    if isinstance(built, ViT):
        if weights:
            built.set_image_size(image_size)
        if mask_token:
            built.mask_token = nn.Parameter(torch.zeros(1, built.patch_dim))
    return built


def _of_module(module: nn.Module, changed: bool) -> tuple[str, int | None, type[Backbone]]:
    """The tag, patch size and backbone class of a user's own module; `changed`: whether options would modify it."""
    name = module_tag(module)
    if changed:
        raise ValueError(f"{name} is your own module: set its weights, drop path and stem before passing it.")
    patch = patch_size_of(module)
    return name, patch, Own if patch is None else ViT


def _of_name(backbone: str, channels: int, drop_path: float) -> tuple[str, int | None, type[Backbone]]:
    """The full name, patch size and backbone class of a library's network."""
    name = full_name(backbone)
    if name.startswith("torchvision/"):
        if drop_path:  # raises here if drop path is not supported, before other errors can
            with torch.device("meta"):
                torchvision_net(name, channels, False, drop_path)
        return name, None, Torchvision
    patch = timm_patch_size(name, channels, drop_path)
    return name, patch, Timm if patch is None else ViT


@dataclass(frozen=True)
class _Recipe:
    """Settings of a network that can be built at several image sizes, with random or published weights."""

    module: nn.Module | None
    """A user's own module, whose supported sizes are fixed; None for a network created by name."""
    name: str
    kind: type[Backbone]
    channels: int
    drop_path: float
    stem: Stem
    interpolation: Interpolation
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def build(self, size: int, weights: bool) -> Backbone:
        """Builds the backbone and finds its dimensions by a forward pass with images of `size` x `size` pixels.

        Raises:
            ValueError: the network does not accept them, or does not return features.
        """
        try:
            built = self._built(size, weights)
            feature, sequence, _ = built.try_size(size)
        except (FileNotFoundError, WrongOutput):
            raise
        except Exception as error:
            raise wrong_size(self.name, size, error, self._try_other) from error
        if feature.ndim != 2:
            raise ValueError(
                f"{self.name} returns shape {tuple(feature.shape)} for 2 images; expected (2, D), or (2, D, H, W), "
                "which is averaged over H and W. Change its last layers."
            )
        built.dim = feature.shape[1]
        built.patch_dim = 0 if sequence is None else sequence.shape[2]
        return built

    def _try_other(self, size: int) -> Parts:
        with torch.device("meta") if self.kind is Timm else nullcontext():
            return self._built(size, False).try_size(size)

    def _built(self, size: int, weights: bool) -> Backbone:
        net = self._net(size, weights)
        if self.stem == "small":
            _replace_stem(net)
        return self.kind(
            net, self.name, channels=self.channels, image_size=size, mean=self.mean, std=self.std, stem=self.stem,
            interpolation=self.interpolation,
        )  # fmt: skip

    def _net(self, size: int, weights: bool) -> nn.Module:
        if self.module is not None:
            return self.module
        if self.kind is Torchvision:
            return torchvision_net(self.name, self.channels, weights, self.drop_path)
        # Published position embeddings of a ViT keep their grid here; `create` resizes them with `interpolation`.
        fixed = None if weights and self.kind is ViT else size
        return timm_net(self.name, self.channels, fixed, weights, self.drop_path)


def remade(backbone: Backbone, *, image_size: int, drop_path: float = 0.0, mask_token: bool = False) -> Backbone:
    """A copy of a backbone with its weights, for further training with images of `image_size` pixels.

    A user's own module keeps its drop path. Other arguments and errors are those of `create`.
    """
    own = is_tag(backbone.name)
    copied = create(
        copy.deepcopy(backbone.net) if own else backbone.name, channels=backbone.channels, image_size=image_size,
        drop_path=0.0 if own else drop_path, mask_token=mask_token, interpolation=backbone.interpolation,
        stem=None if own else backbone.stem,
    )  # fmt: skip
    copied.mean, copied.std, copied.pixels = backbone.mean, backbone.std, backbone.pixels
    if own:
        copied.name = backbone.name
    else:
        copied.load_exported(backbone.export_state())
    return copied


def published(name: str) -> Backbone:
    """A backbone with its library's published weights, at their image size and with their interpolation.

    Raises:
        ValueError, FileNotFoundError: see `create`.
    """
    return create(name, weights=True, image_size=published_size(name), interpolation=interpolation_of(name))


def patch_size(backbone: str | nn.Module) -> int | None:
    """Side of a plain ViT's patches in pixels; None for other backbones. Runs no forward pass."""
    if isinstance(backbone, Backbone):
        return backbone.patch_size
    if isinstance(backbone, nn.Module):
        return patch_size_of(backbone)
    name = full_name(backbone)
    if name.startswith("torchvision/"):
        return None
    return timm_patch_size(name, 3, 0.0)


def _chosen_stem(name: str, stem: Stem | None, image_size: int, weights: bool) -> Stem:
    import timm
    import torchvision

    if name.startswith("torchvision/"):
        builder = torchvision.models.get_model_builder(name.removeprefix("torchvision/"))
    else:
        builder = timm.model_entrypoint(name.partition(".")[0])
    if not builder.__module__.endswith("models.resnet"):
        if stem == "small":
            raise ValueError(f"{name} is not a ResNet and has no small stem. Leave stem at None.")
        return "standard"
    if stem == "small" and weights:
        raise ValueError(f"The published weights of {name} are for the standard stem. Leave stem at None.")
    return stem or ("small" if image_size <= SMALL_STEM_UP_TO and not weights else "standard")


def _replace_stem(net: nn.Module) -> None:
    """Gives a ResNet the small stem."""
    first = net.conv1
    if isinstance(first, nn.Sequential):  # a deep stem: three 3x3 convolutions, the first with stride 2
        assert isinstance(first[0], nn.Conv2d)
        first[0].stride = (1, 1)
    else:
        assert isinstance(first, nn.Conv2d)
        net.conv1 = nn.Conv2d(first.in_channels, first.out_channels, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
    net.maxpool = nn.Identity()

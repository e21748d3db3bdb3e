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
"""Largest image size, in pixels, at which a ResNet gets the small stem unless told otherwise."""


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
            a module that maps images (B, C, H, W) to (B, D), or to (B, D, H, W) which is averaged over its places.
        channels: of the images. Published weights are adapted to them by timm's rule.
        image_size: pixels a side. A plain ViT also takes all other multiples of its patch size.
        weights: loads the weights that the library publishes under this name.
        drop_path: probability that the last residual block is skipped, in [0, 1); less for the blocks before. Nothing
            else is random in the network of a name, whatever its library drops; a module of yours keeps what it has.
        mask_token: gives a plain ViT a learnable mask token, which starts at zero as in iBOT and DINOv2.
        interpolation: how a plain ViT resizes its position embedding: as DINO and DINOv2 do, or as timm does.
        stem: a ResNet's first layers: "standard", or "small" for a 3x3 convolution of stride 1 without pooling (SimCLR,
            appendix B.9). None is small up to 64 pixels, unless `weights` are loaded.

    Raises:
        ValueError: an unknown name, or something that this backbone cannot do; the message says what works.
        FileNotFoundError: the weights could not be fetched.
    """
    if channels < 1 or image_size < 1:
        raise ValueError(f"channels and image_size are at least 1, got {channels} and {image_size}.")
    if not 0 <= drop_path < 1:
        raise ValueError(f"drop_path is a probability in [0, 1), got {drop_path}.")
    if isinstance(backbone, nn.Module):
        name, patch, kind = _of_module(backbone, weights or drop_path > 0 or stem == "small")
    else:
        name, patch, kind = _of_name(backbone, channels, drop_path)
        stem = _chosen_stem(name, stem, image_size, weights)
    if patch is not None:
        patch_grid(name, patch, image_size, image_size)
    elif mask_token:
        raise ValueError(f"{name} cannot mask patches. Choose a plain ViT, such as vit_small_patch16_224.")
    mean, std = statistics_of(name) if weights else (IMAGENET_MEAN, IMAGENET_STD)
    made = _Recipe(
        backbone if isinstance(backbone, nn.Module) else None, name, kind, channels, drop_path, stem or "standard",
        interpolation, per_channel(mean, channels), per_channel(std, channels),
    ).tried(image_size, weights)  # fmt: skip
    if isinstance(made, ViT):
        if weights:
            made.set_image_size(image_size)
        if mask_token:
            made.mask_token = nn.Parameter(torch.zeros(1, made.patch_dim))
    return made


def _of_module(module: nn.Module, changed: bool) -> tuple[str, int | None, type[Backbone]]:
    """The tag, patch size and kind of backbone of a user's own module, of which nothing may be asked to be changed."""
    name = module_tag(module)
    if changed:
        raise ValueError(f"{name} is your own module: set its weights, drop path and stem before you pass it.")
    patch = patch_size_of(module)
    return name, patch, Own if patch is None else ViT


def _of_name(backbone: str, channels: int, drop_path: float) -> tuple[str, int | None, type[Backbone]]:
    """The full name, patch size and kind of backbone of a network that a library has."""
    name = full_name(backbone)
    if name.startswith("torchvision/"):
        if drop_path:  # it is refused here, where no other error is expected
            with torch.device("meta"):
                torchvision_net(name, channels, False, drop_path)
        return name, None, Torchvision
    patch = timm_patch_size(name, channels, drop_path)
    return name, patch, Timm if patch is None else ViT


@dataclass(frozen=True)
class _Recipe:
    """A network that can be built at several image sizes, with random weights or those that its library publishes."""

    module: nn.Module | None
    """A user's own, which takes the sizes that it takes; None for the network of a name."""
    name: str
    kind: type[Backbone]
    channels: int
    drop_path: float
    stem: Stem
    interpolation: Interpolation
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def tried(self, size: int, weights: bool) -> Backbone:
        """The backbone, once images of `size` pixels went through it: they tell its dimensions.

        Raises:
            ValueError: it does not take them, or returns no features.
        """
        try:
            made = self._built(size, weights)
            feature, sequence, _ = made.try_size(size)
        except (FileNotFoundError, WrongOutput):
            raise
        except Exception as error:
            raise wrong_size(self.name, size, error, self._try_other) from error
        if feature.ndim != 2:
            raise ValueError(
                f"{self.name} returns shape {tuple(feature.shape)} for 2 images; expected (2, D), or (2, D, H, W), "
                "which is averaged over its places. Change its last layers."
            )
        made.dim = feature.shape[1]
        made.patch_dim = 0 if sequence is None else sequence.shape[2]
        return made

    def _try_other(self, size: int) -> Parts:
        with torch.device("meta") if self.kind is Timm else nullcontext():
            return self._built(size, False).try_size(size)

    def _built(self, size: int, weights: bool) -> Backbone:
        net = self._net(size, weights)
        if self.stem == "small":
            _make_stem_small(net)
        return self.kind(
            net, self.name, channels=self.channels, image_size=size, mean=self.mean, std=self.std, stem=self.stem,
            interpolation=self.interpolation,
        )  # fmt: skip

    def _net(self, size: int, weights: bool) -> nn.Module:
        if self.module is not None:
            return self.module
        if self.kind is Torchvision:
            return torchvision_net(self.name, self.channels, weights, self.drop_path)
        # A ViT's published positions keep their grid here; `create` resizes them by the rule that was asked for.
        fixed = None if weights and self.kind is ViT else size
        return timm_net(self.name, self.channels, fixed, weights, self.drop_path)


def remade(backbone: Backbone, *, image_size: int, drop_path: float = 0.0, mask_token: bool = False) -> Backbone:
    """A copy of a backbone with its weights, for images of `image_size` pixels, to be trained further.

    A user's own module keeps the drop path that it has. The other arguments, and errors, are those of `create`.
    """
    own = is_tag(backbone.name)
    made = create(
        copy.deepcopy(backbone.net) if own else backbone.name, channels=backbone.channels, image_size=image_size,
        drop_path=0.0 if own else drop_path, mask_token=mask_token, interpolation=backbone.interpolation,
        stem=None if own else backbone.stem,
    )  # fmt: skip
    made.mean, made.std, made.alpha = backbone.mean, backbone.std, backbone.alpha
    if own:
        made.name = backbone.name
    else:
        made.load_exported(backbone.export_state())
    return made


def published(name: str) -> Backbone:
    """A backbone with the weights that its library publishes, at the image size and by the rules that they came with.

    Raises:
        ValueError, FileNotFoundError: see `create`.
    """
    return create(name, weights=True, image_size=published_size(name), interpolation=interpolation_of(name))


def patch_size(backbone: str | nn.Module) -> int | None:
    """Pixels of a side of a plain ViT's patches; None for other backbones. Nothing is computed to know it."""
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
            raise ValueError(f"{name} is no ResNet and has no small stem. Leave stem at None.")
        return "standard"
    if stem == "small" and weights:
        raise ValueError(f"The published weights of {name} are for the standard stem. Leave stem at None.")
    return stem or ("small" if image_size <= SMALL_STEM_UP_TO and not weights else "standard")


def _make_stem_small(net: nn.Module) -> None:
    first = net.conv1
    if isinstance(first, nn.Sequential):  # a deep stem: three 3x3 convolutions, of which the first has stride 2
        assert isinstance(first[0], nn.Conv2d)
        first[0].stride = (1, 1)
    else:
        assert isinstance(first, nn.Conv2d)
        net.conv1 = nn.Conv2d(first.in_channels, first.out_channels, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
    net.maxpool = nn.Identity()

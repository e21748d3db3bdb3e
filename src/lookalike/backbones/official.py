"""Weights files: checkpoints of DINO, iBOT and DINOv2, and files with timm's tensor names."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .base import Backbone
from .factory import create
from .library import full_name, interpolation_of, per_channel, published_size, without_numbers
from .vit import ViT
from .weights import is_beside


def load_official(backbone: Backbone, state: Mapping[str, Tensor]) -> int:
    """Loads a backbone's weights from an official DINO, iBOT or DINOv2 checkpoint; returns the number of tensors.

    Names are mapped to timm's. A mask token is loaded if the backbone has one, and ignored otherwise.

    Raises:
        ValueError: names or shapes do not match.
    """
    state = timm_names(backbone, state)
    mask_token = state.pop("mask_token", None)
    count = backbone.load_exported(state)
    if mask_token is not None and backbone.mask_token is not None:
        with torch.no_grad():
            backbone.mask_token.copy_(mask_token.view_as(backbone.mask_token))
        count += 1
    return count


def timm_names(backbone: Backbone, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Maps the tensors of an official DINO, iBOT or DINOv2 checkpoint to timm's names; other states are unchanged."""
    state = dict(state)
    if "masked_embed" in state:  # iBOT's name
        state["mask_token"] = state.pop("masked_embed")
    if not isinstance(backbone, ViT):
        return state
    if "register_tokens" in state:
        state["reg_token"] = state.pop("register_tokens")
    if backbone.net.no_embed_class and {"pos_embed", "cls_token"} <= state.keys():
        patches = state["pos_embed"].shape[1] - 1
        if math.isqrt(patches) ** 2 == patches:  # timm adds no position to the class token: merge it into the token
            state["cls_token"] = state["cls_token"] + state["pos_embed"][:, :1]
            state["pos_embed"] = state["pos_embed"][:, 1:]
    return {k.replace(".mlp.w12.", ".mlp.fc1.").replace(".mlp.w3.", ".mlp.fc2."): v for k, v in state.items()}


def from_weights(state: Mapping[str, Tensor], name: str, *, official: bool) -> Backbone:
    """The named backbone with a file's weights, with tensor names of timm or of DINO, iBOT and DINOv2.

    Its image size is that of the weights published under the name. So are its mean and standard deviation, except for
    an `official` checkpoint, where they are those of DINO, iBOT and DINOv2. A classifier is ignored.

    Raises:
        ValueError: an unknown name, or tensors that are missing, unexpected, or of another shape.
    """
    known = full_name(name)
    plain = without_numbers(known)
    first = state.get(next(path for path, part in plain.named_modules() if isinstance(part, nn.Conv2d)) + ".weight")
    backbone = create(
        known, channels=3 if first is None else first.shape[1], image_size=published_size(known), stem="standard",
        interpolation="official" if official else interpolation_of(known),
    )  # fmt: skip
    if not official and not known.startswith("torchvision/"):
        import timm

        cfg = timm.get_pretrained_cfg(known)
        if cfg is not None:
            backbone.mean, backbone.std = (per_channel(tuple(x), backbone.channels) for x in (cfg.mean, cfg.std))
    own = backbone.net.state_dict()
    load_official(backbone, {k: v for k, v in state.items() if k in own or not is_beside(k, own)})
    return backbone


def recognised(state: Mapping[str, Tensor]) -> str | None:
    """The timm name of the ViT of an official DINO, iBOT or DINOv2 checkpoint, or None."""
    proj = state.get("patch_embed.proj.weight")
    # official checkpoints have a class token and no classifier
    if proj is None or proj.ndim != 4 or "cls_token" not in state or "head.weight" in state:
        return None
    depth = len({key.split(".")[1] for key in state if key.startswith("blocks.")})
    size = {(384, 12): "small", (768, 12): "base", (1024, 24): "large", (1536, 40): "giant"}.get((len(proj), depth))
    patch = proj.shape[2]
    if "blocks.0.ls1.gamma" in state:
        registers = "_reg4" if state.keys() & {"register_tokens", "reg_token"} else ""  # either official or timm's name
        name = f"vit_{size}_patch{patch}{registers}_dinov2.lvd142m"
    else:
        name = f"vit_{size}_patch{patch}_224.dino"
    try:
        return full_name(name)
    except ValueError:  # timm has the architecture of iBOT's ViT-L/16, but no DINO weights for it
        try:
            return full_name(name.partition(".")[0])
        except ValueError:
            return None

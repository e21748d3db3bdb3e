"""timm, torchvision and a user's own networks behind one face: images in, features and tokens out.

`create` builds a `Backbone` by name. Plain vision transformers get their tokens assembled here, so that they take
masks and any image size, with the position interpolation of the official DINO and DINOv2 code. All other networks run
as their library wrote them, without the classifier.
"""

import copy
import functools
import logging
import math
import re
import socket
import sys
import urllib.parse
import urllib.request
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .image_options import Alpha
from .modes import without_chance
from .places import no_backbone
from .printing import brief, counted, shown, with_article

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

Interpolation = Literal["official", "timm"]
Stem = Literal["small", "standard"]
Parts = tuple[Tensor, Tensor | None, int]
"""The feature (B, D); registers and patches (B, R + N, P), or None where there are none; R."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

SMALL_STEM_UP_TO = 64
"""Largest image size, in pixels, at which a ResNet gets the small stem unless told otherwise."""

_SIZES = (16, 32, 48, 64, 96, 128, 160, 192, 224, 256, 288, 320, 384, 448, 512)
"""Image sizes that are tried to say in an error message what works."""

_HEADS = ("head.", "heads.", "head_dist.", "fc.", "classifier.")
"""Beginnings of a classifier's tensors at timm and torchvision."""
_BESIDE = re.compile(
    r"head|proj|predict|prototype|classif|logit|fc|linear|probe|aux|queue|bank|momentum|ema|averaged|teacher|student|"
    r"decoder|center|centre|loss|mask|temperature|criterion|metric",
    re.IGNORECASE,
)
"""In the first part of a name: what trainings keep beside an encoder, unless the network has such a part."""
BUFFERS = re.compile(r"(^|\.)(num_batches_tracked|relative_position_index|relative_coords_table|attn_mask)$")
"""Counters, and tables that follow from the architecture alone: nothing that was learnt."""
_TRUNK = ("cls_token", "reg_token", "dist_token", "pos_embed", "patch_embed", "norm_pre", "blocks")
"""First parts of names in ViTs: where the network has no such part, the file is of another one."""

_MAPS = {
    "AlexNet": "features", "ConvNeXt": "features", "EfficientNet": "features", "GoogLeNet": "inception5b",
    "Inception3": "Mixed_7c", "MNASNet": "layers", "MobileNetV2": "features", "MobileNetV3": "features",
    "RegNet": "trunk_output", "ResNet": "layer4", "ShuffleNetV2": "conv5", "SqueezeNet": "features",
    "SwinTransformer": "permute", "VGG": "features",
}  # fmt: skip
"""torchvision's classes, and the module in each whose output is the last feature map (B, P, H, W)."""


@dataclass
class Tokens:
    """What a backbone says about whole images and about their parts. B images, R registers, N patches."""

    cls: Tensor
    """(B, D), equal to what `Backbone.forward` returns: a ViT's class token, a CNN's pooled feature."""
    registers: Tensor
    """(B, R, P); R is 0 for all but some ViTs. A distillation token counts as one."""
    patches: Tensor
    """(B, N, P), row by row. P equals D but in networks that change the width after pooling."""


_TRIED: dict[tuple[str, int, int, str, int], Parts] = {}
"""What `Backbone._try` found; each takes some tenths of a second, and one run asks for the same several times.

A network that was made by name has the shapes of its name: nobody is expected to change it afterwards.
"""


class Backbone(nn.Module):
    """Turns normalised images into features; made by `create`."""

    net: nn.Module
    """The wrapped network; its parameters have the names that its library gives them."""
    mask_token: nn.Parameter | None
    """(1, P), stands in the place of masked patches; only in ViTs made with `mask_token=True`."""
    dim: int
    """D, numbers per image."""
    patch_dim: int
    """P, numbers per patch token; 0 where the backbone gives no patches."""

    def __init__(
        self,
        net: nn.Module,
        name: str,
        *,
        channels: int,
        image_size: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        stem: Stem,
        interpolation: Interpolation,
    ) -> None:
        super().__init__()
        self.net = net
        self.register_parameter("mask_token", None)
        self.name = name
        self.channels = channels
        self.image_size = image_size
        self.mean = mean
        self.std = std
        self.stem: Stem = stem
        self.interpolation: Interpolation = interpolation
        self.alpha: Alpha = "auto"
        """What becomes of an image's alpha channel; see `lookalike.data.decode`."""
        self.remark = ""
        """What is worth a line about the file of its weights."""
        self._compiled_parts: Callable[[Tensor, Tensor | None], Parts] | None = None

    @property
    def patch_size(self) -> int | None:
        """Pixels a side of a patch, of which image sizes are multiples; None if the backbone has no such rule."""
        return None

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, D) of images (B, C, H, W) that are normalised with `mean` and `std`."""
        raise NotImplementedError

    def tokens(self, x: Tensor, mask: Tensor | None = None) -> Tokens:
        """The feature, registers and patches of images (B, C, H, W).

        A plain ViT's tokens are those after the last norm. Other networks give what they pool: where their norm comes
        after the pooling (ConvNeXt, BEiT), patches have not seen it.

        Args:
            x: images, normalised.
            mask: (B, N) bool, True where the mask token replaces a patch, before positions are added.

        Raises:
            ValueError: the backbone has no patches or cannot mask them, or the mask has another shape.
        """
        feature, sequence, registers = (self._compiled_parts or self._parts)(x, mask)
        if sequence is None:
            raise ValueError(
                f"{self.name} gives one feature per image, no patch tokens. Choose a ViT or CNN of timm's."
            )
        return Tokens(feature, sequence[:, :registers], sequence[:, registers:])

    def checkpoint_activations(self) -> None:
        """From now on each block's input alone is kept for the backward pass, which computes the rest once more.

        Raises:
            ValueError: the network cannot, or its BatchNorm would count each batch twice.
        """
        advice = "Choose a ViT or ConvNeXt of timm's, or a smaller batch in more micro-batches (--accumulate)."
        if any(isinstance(part, _BatchNorm) for part in self.modules()):
            raise ValueError(f"{self.name} has BatchNorm, which computing twice would feed each batch twice. {advice}")
        if not self._recompute():
            raise ValueError(f"{self.name} cannot compute its activations once more. {advice}")

    def _recompute(self) -> bool:
        """Asks the network for it; False if it cannot."""
        return False

    def attention(self, x: Tensor) -> Tensor:
        """The last block's self-attention of images (B, C, H, W): (B, heads, 1 + R + N, 1 + R + N), rows sum to 1.

        The first row is the class token's; the last N columns are the patches.

        Raises:
            ValueError: the backbone is no plain ViT with a class token, or its blocks do not attend as the paper's.
        """
        raise ValueError(
            f"{self.name} has no class token that attends to patches. Choose a plain ViT, such as "
            "vit_small_patch16_224."
        )

    def class_tokens(self, x: Tensor, blocks: int) -> Tensor:
        """The class tokens of the last blocks, each after the last norm, side by side: (B, C, H, W) -> (B, blocks x P).

        Raises:
            ValueError: the backbone is no plain ViT with a class token, or has fewer blocks.
        """
        raise ValueError(f"{self.name} has no class token. Choose a plain ViT, such as vit_small_patch16_224.")

    def check_size(self, size: int) -> None:
        """Raises ValueError, naming a size that works, if images of `size` pixels a side cannot be taken."""
        try:
            self._try(size)
        except WrongOutput:
            raise
        except Exception as error:
            raise _wrong_size(self.name, size, error, self._try, {*_SIZES, self.image_size}) from error

    def check_trainable(self) -> None:
        """Raises ValueError if no parameter of the network may change: a training would leave it as it is."""
        own = [*self.net.parameters()]
        if not any(p.requires_grad for p in own):
            has = "parameters, but none that may change (requires_grad is False)" if own else "no parameters"
            raise ValueError(f"{self.name} has {has}. Give a module with layers that learn.")

    def compile(self, *args: Any, **options: Any) -> None:
        """As for every module; what `tokens` computes is compiled, too."""
        super().compile(*args, **options)
        self._compiled_parts = torch.compile(self._parts, *args, **options)

    def __getstate__(self) -> dict[str, Any]:
        """As for every module, whose compiled call is not copied."""
        state: dict[str, Any] = super().__getstate__()  # type: ignore[no-untyped-call]
        return state | {"_compiled_parts": None}

    def patches_at(self, size: int) -> int:
        """How many patches an image of `size` pixels a side has; 0 where the backbone gives none."""
        _, sequence, registers = self._try(size)
        return 0 if sequence is None else sequence.shape[1] - registers

    def export_state(self) -> dict[str, Tensor]:
        """The network's parameters and buffers under their library's names, contiguous, without the mask token.

        `timm.create_model(name, num_classes=0).load_state_dict` takes them where the stem is "standard"; a
        transformer needs `img_size=image_size` too.
        """
        return {name: value.contiguous() for name, value in self.net.state_dict().items()}

    def load_exported(self, state: Mapping[str, Tensor]) -> int:
        """Loads what `export_state` gave, and returns the number of tensors.

        The position embedding of a plain ViT may be of another image size; it is resized by the backbone's rule.

        Raises:
            ValueError: names, shapes or kinds of numbers differ; nothing was loaded then.
        """
        state = self.resized(state)
        own = self.net.state_dict()
        differences = {
            "missing": [k for k in own if k not in state],
            "unexpected": [k for k in state if k not in own],
            "of another shape": [
                f"{k} {tuple(state[k].shape)} in place of {tuple(v.shape)}"
                for k, v in own.items()
                if k in state and state[k].shape != v.shape
            ],
            "of another type": [
                f"{k} {str(state[k].dtype).removeprefix('torch.')}"
                for k, v in own.items()
                if k in state and v.is_floating_point() and not state[k].is_floating_point()
            ],
            "with NaN, as after a training that diverged": [
                k for k in own if k in state and bool(state[k].float().isnan().any())
            ],
        }
        if any(differences.values()):
            found = "; ".join(
                f"{len(names)} {kind}: {', '.join(map(brief, names[:5]))}{', ...' if len(names) > 5 else ''}"
                for kind, names in differences.items()
                if names
            )
            raise ValueError(
                f"The weights do not fit {self.name} ({counted(self.channels, 'channel')}, {self.stem} stem): {found}. "
                "Create the backbone that they were exported from."
            )
        self.net.load_state_dict(state)
        return len(own)

    def _parts(self, x: Tensor, mask: Tensor | None) -> Parts:
        raise NotImplementedError

    def resized(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The same weights, resized where a shape depends on the image size."""
        return state

    def _try(self, size: int) -> Parts:
        """Runs two black images of `size` pixels through a copy that has shapes but no numbers."""
        key = self.name, self.channels, self.image_size, self.stem, size
        if key in _TRIED:
            return _TRIED[key]
        memo: dict[int, object] = {id(b): b.to("meta") for b in self.buffers()}
        memo |= {id(p): nn.Parameter(p.detach().to("meta"), p.requires_grad) for p in self.parameters()}
        with torch.no_grad():
            parts = copy.deepcopy(self, memo).eval()._parts(self._black(size, "meta"), None)
        if not self.name.startswith("<"):  # a user's own module is no function of its name
            _TRIED[key] = parts
        return parts

    def _black(self, size: int, device: torch.device | str) -> Tensor:
        dtype = next((p.dtype for p in self.net.parameters() if p.is_floating_point()), None)
        return torch.zeros(2, self.channels, size, size, dtype=dtype, device=device)

    def _refuse(self, mask: Tensor | None) -> None:
        if mask is not None:
            raise ValueError(f"{self.name} cannot mask patches. Choose a plain ViT, such as vit_small_patch16_224.")


class ViT(Backbone):
    """A plain vision transformer of timm's. Its tokens are assembled here."""

    net: "VisionTransformer"

    @property
    def patch_size(self) -> int:
        return int(self.net.patch_embed.patch_size[0])

    def forward(self, x: Tensor) -> Tensor:
        feature: Tensor = self.net.forward_head(self._sequence(x, None))
        return feature

    def _recompute(self) -> bool:
        self.net.set_grad_checkpointing(True)
        return True

    def attention(self, x: Tensor) -> Tensor:
        from timm.layers import Attention

        if self.net.cls_token is None:
            return super().attention(x)
        found = [part for part in self.net.blocks[-1].modules() if isinstance(part, Attention)]
        if len(found) != 1:
            raise ValueError(
                f"The last block of {self.name} holds {len(found)} of timm's Attention layers, and must hold one for "
                "its attention to be shown. Choose a plain ViT, such as vit_small_patch16_224."
            )
        attn, seen = found[0], list[Tensor]()
        hook = attn.qkv.register_forward_hook(lambda module, args, y: seen.append(y))
        try:
            self._sequence(x, None)
        finally:
            hook.remove()
        b, tokens, _ = seen[0].shape
        q, k, _ = seen[0].view(b, tokens, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)  # each (B, heads, tokens, d)
        logits: Tensor = attn.scale * attn.q_norm(q) @ attn.k_norm(k).mT
        return logits.softmax(-1)

    def class_tokens(self, x: Tensor, blocks: int) -> Tensor:
        if self.net.cls_token is None:
            return super().class_tokens(x, blocks)
        if blocks > len(self.net.blocks):
            raise ValueError(f"{self.name} has {counted(len(self.net.blocks), 'block')}; {blocks} were asked for.")
        seen = list[Tensor]()
        hooks = [b.register_forward_hook(lambda module, args, y: seen.append(y)) for b in self.net.blocks[-blocks:]]
        try:
            self._sequence(x, None)
        finally:
            for hook in hooks:
                hook.remove()
        return torch.cat([self.net.norm(y)[:, 0] for y in seen], 1)

    @torch.no_grad()
    def start_as_moco_v3(self, *, freeze_patches: bool) -> None:
        """Random weights as MoCo v3 begins with (its `vits.py`); positions are sines and cosines, and stay so.

        A user's own module keeps its weights and positions.

        Args:
            freeze_patches: whether the patch embedding stays as random as it is.

        Raises:
            ValueError: the width is no multiple of 4, or there are no absolute positions.
        """
        net, proj = self.net, self.net.patch_embed.proj
        proj.requires_grad_(not freeze_patches)
        if self.name.startswith("<"):
            return
        if net.pos_embed is None or self.patch_dim % 4:
            raise ValueError(
                f"{self.name} has {counted(self.patch_dim, 'number')} per token"
                f"{'' if net.pos_embed is not None else ' and no absolute positions'}; sine-cosine positions need a "
                "multiple of 4 and a place. Choose a plain ViT, such as vit_small_patch16_224."
            )
        net.init_weights("moco")
        nn.init.xavier_uniform_(proj.weight.view(len(proj.weight), -1))
        if proj.bias is not None:
            nn.init.zeros_(proj.bias)
        net.pos_embed[0, : self._unplaced] = 0
        rows, columns = net.patch_embed.grid_size
        net.pos_embed[0, self._unplaced :] = _sine_cosine(rows, columns, self.patch_dim)
        net.pos_embed.requires_grad_(False)

    def check_size(self, size: int) -> None:
        _grid(self.name, self.patch_size, size, size)

    def _parts(self, x: Tensor, mask: Tensor | None) -> Parts:
        net = self.net
        sequence = self._sequence(x, mask)
        # Either `norm` (before pooling) or `fc_norm` (after it) is the identity.
        return net.forward_head(sequence), net.fc_norm(sequence)[:, int(net.has_class_token) :], net.num_reg_tokens

    def _sequence(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """The tokens after the blocks, (B, 1 + R + N, P), or one less without class token."""
        net = self.net
        x = net.norm_pre(net.patch_drop(self._embed(x, mask)))
        if net.grad_checkpointing:
            from timm.models import checkpoint_seq

            x = checkpoint_seq(net.blocks, x)
        else:
            x = net.blocks(x)
        normed: Tensor = net.norm(x)
        return normed

    def _embed(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """The tokens with their positions, as the blocks take them."""
        net = self.net
        grid = _grid(self.name, self.patch_size, *x.shape[-2:])
        x = net.patch_embed.norm(net.patch_embed.proj(x).flatten(2).mT)  # (B, N, P)
        if mask is not None:
            if self.mask_token is None:
                raise ValueError(f"{self.name} has no mask token. Create it with mask_token=True.")
            if mask.shape != x.shape[:2]:
                raise ValueError(
                    f"The mask has shape {tuple(mask.shape)}; {counted(x.shape[0], 'image')} of {grid[0]} x "
                    f"{grid[1]} patches "
                    f"need {tuple(x.shape[:2])}."
                )
            x = torch.where(mask[..., None], self.mask_token.to(x.dtype), x)
        first = [token.expand(len(x), -1, -1) for token in (net.cls_token, net.reg_token) if token is not None]
        if net.pos_embed is None:
            x = torch.cat([*first, x], 1)
        elif net.no_embed_class:
            x = torch.cat([*first, x + self._resized(net.pos_embed, net.patch_embed.grid_size, grid)], 1)
        else:
            x = torch.cat([*first, x], 1) + self._resized(net.pos_embed, net.patch_embed.grid_size, grid)
        placed: Tensor = net.pos_drop(x)
        return placed

    @property
    def _unplaced(self) -> int:
        """How many rows of the position embedding come before the patches'."""
        return 0 if self.net.no_embed_class else int(self.net.num_prefix_tokens)

    def _resized(self, position: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
        """The position embedding of a grid of `old` rows and columns, for a grid of `new`."""
        if old == new:
            return position
        # DINO and DINOv2 do not antialias; DINOv2's models with registers do, as does timm.
        antialias = self.interpolation == "timm" or self.net.num_reg_tokens > 0
        exact = torch.promote_types(position.dtype, torch.float32)
        first, table = (
            position[:, : self._unplaced],
            position[0, self._unplaced :].to(exact).view(*old, -1),
        )  # (H, W, P)
        with nullcontext() if position.is_meta else torch.autocast(position.device.type, enabled=False):
            rows, columns = (_resampling(o, n, antialias, table) for o, n in zip(old, new))
            # As products: the gradient of a bicubic F.interpolate is not deterministic on a GPU.
            table = torch.einsum("ih,jw,hwp->ijp", rows, columns, table)
        return torch.cat([first, table.flatten(0, 1)[None].to(position.dtype)], 1)

    def _set_image_size(self, size: int) -> None:
        """Resizes the position embedding itself, by the same rule as that of a forward pass."""
        net = self.net
        position, old = net.pos_embed, net.patch_embed.grid_size
        net.set_input_size((size, size))
        if position is not None:
            assert net.pos_embed is not None
            with torch.no_grad():
                net.pos_embed.copy_(self._resized(position, old, net.patch_embed.grid_size))

    def resized(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        position = state.get("pos_embed")
        if position is None or self.net.pos_embed is None:
            return state
        side = math.isqrt(max(position.shape[1] - self._unplaced, 0))
        if side == 0 or side**2 + self._unplaced != position.shape[1]:
            return state
        return {**state, "pos_embed": self._resized(position, (side, side), self.net.patch_embed.grid_size)}


class _Timm(Backbone):
    """Any other network of timm's, run by its own code."""

    def forward(self, x: Tensor) -> Tensor:
        return _pooled(self.net(x))

    def _recompute(self) -> bool:
        try:
            self.net.set_grad_checkpointing(True)  # type: ignore[operator]
        except (AttributeError, AssertionError):  # not all networks have it, and some assert that they do not
            return False
        return True

    def _parts(self, x: Tensor, mask: Tensor | None) -> Parts:
        self._refuse(mask)
        net = self.net
        features = net.forward_features(x)  # type: ignore[operator]
        feature = _pooled(net.forward_head(features))  # type: ignore[operator]
        if not isinstance(features, Tensor):
            return feature, None, 0
        if features.ndim == 3:
            stages: list[dict[str, int]] = net.feature_info  # type: ignore[assignment]
            stride = stages[-1]["reduction"]
            first = features.shape[1] - math.ceil(x.shape[2] / stride) * math.ceil(x.shape[3] / stride)
            if first < 0:  # PiT keeps its class token only
                return feature, None, 0
            classes = min(first, int(getattr(net, "cls_token", None) is not None))
            return feature, features[:, classes:], first - classes
        # (B, P, H, W); Swin and its kin have (B, H, W, P)
        patches = features.flatten(2).mT if features.shape[1] == net.num_features else features.flatten(1, 2)
        return feature, patches, 0


class _Torchvision(Backbone):
    """A network of torchvision's whose last layer is gone."""

    def forward(self, x: Tensor) -> Tensor:
        feature: Tensor = self.net(x)
        return feature

    def _parts(self, x: Tensor, mask: Tensor | None) -> Parts:
        self._refuse(mask)
        where = _MAPS.get(type(self.net).__name__)
        if where is None:
            return self.net(x), None, 0
        maps: list[Tensor] = []
        hook = self.net.get_submodule(where).register_forward_hook(lambda module, args, y: maps.append(y))
        try:
            return self.net(x), maps[0].flatten(2).mT, 0
        finally:
            hook.remove()


class WrongOutput(ValueError):
    """A module of the user's returns something else than features: no other image size would help."""


def _what(value: object) -> str:
    """What a module returned, in a few words: its type, shape and parts."""
    if isinstance(value, Tensor):
        kind = "" if value.is_floating_point() else f" of {str(value.dtype).removeprefix('torch.')}"
        return f"a tensor {tuple(value.shape)}{kind}"
    kind = type(value).__name__
    name = with_article(kind)
    if isinstance(value, Mapping):
        return f"{name} of {', '.join(f'{key}: {_short(part)}' for key, part in [*value.items()][:5]) or 'nothing'}"
    if isinstance(value, list | tuple):
        return f"{name} of {counted(len(value), 'part')}: {', '.join(map(_short, value[:5])) or 'nothing'}"
    return "None" if value is None else name


def _short(value: object) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__


class _Own(Backbone):
    """A user's module, which returns (B, D) or (B, D, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return _pooled(self.net(x))

    def _parts(self, x: Tensor, mask: Tensor | None) -> Parts:
        self._refuse(mask)
        y = self.net(x)
        is_feature = isinstance(y, Tensor) and y.ndim in (2, 4) and len(y) == len(x) and y.is_floating_point()
        if not is_feature or not y.numel():
            raise WrongOutput(
                f"{self.name} returns {_what(y)} for {counted(len(x), 'image')}; expected one tensor of floats, "
                f"({len(x)}, D), or "
                f"({len(x)}, D, H, W), which is averaged over its places. Wrap it in a module that returns its feature "
                "alone."
            )
        return _pooled(y), y.flatten(2).mT if y.ndim == 4 else None, 0

    def _try(self, size: int) -> Parts:
        # A module that somebody wrote may not be up to the meta device.
        device = next((p.device for p in self.net.parameters()), torch.get_default_device())
        with _untouched(self):
            parts = self._parts(self._black(size, device), None)
        if parts[0].dtype != torch.float32:
            raise WrongOutput(
                f"{self.name} returns {str(parts[0].dtype).removeprefix('torch.')}; expected float32. Give it in "
                "float32, and choose the --precision of the training."
            )
        return parts

    def check_trainable(self) -> None:
        super().check_trainable()
        device = next(self.net.parameters()).device
        with _untouched(self), torch.enable_grad():
            feature = self._parts(self._black(self.image_size, device), None)[0]
        if not feature.requires_grad:
            raise ValueError(
                f"{self.name} returns features that no parameter changes (detach, no_grad). Give a module that passes "
                "gradients on."
            )


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
        name = f"<{type(backbone).__module__}.{type(backbone).__qualname__}>"
        if weights or drop_path or stem == "small":
            raise ValueError(f"{name} is your own module: set its weights, drop path and stem before you pass it.")
        patch = _patch_size(backbone)
        kind: type[Backbone] = _Own if patch is None else ViT
    else:
        name = _known(backbone)
        if name.startswith("torchvision/"):
            if drop_path:  # it is refused here, where no other error is expected
                with torch.device("meta"):
                    _torchvision_net(name, channels, False, drop_path)
            patch, kind = None, _Torchvision
        else:
            patch = _timm_patch_size(name, channels, drop_path)
            kind = _Timm if patch is None else ViT
        stem = _chosen_stem(name, stem, image_size, weights)
    if patch is not None:
        _grid(name, patch, image_size, image_size)
    elif mask_token:
        raise ValueError(f"{name} cannot mask patches. Choose a plain ViT, such as vit_small_patch16_224.")
    mean, std = _statistics(name) if weights else (IMAGENET_MEAN, IMAGENET_STD)

    def build(size: int, fetch: bool) -> Backbone:
        if isinstance(backbone, nn.Module):
            net = backbone
        elif kind is _Torchvision:
            net = _torchvision_net(name, channels, fetch, drop_path)
        else:
            # A ViT's published positions keep their grid here; below they are resized by the rule that was asked for.
            net = _timm_net(name, channels, None if fetch and kind is ViT else size, fetch, drop_path)
        if stem == "small":
            _make_stem_small(net)
        return kind(
            net, name, channels=channels, image_size=size, mean=_per_channel(mean, channels),
            std=_per_channel(std, channels), stem=stem or "standard", interpolation=interpolation,
        )  # fmt: skip

    def try_other(size: int) -> Parts:
        with torch.device("meta") if kind is _Timm else nullcontext():
            return build(size, False)._try(size)

    try:
        made = build(image_size, weights)
        feature, sequence, _ = made._try(image_size)
    except (FileNotFoundError, WrongOutput):
        raise
    except Exception as error:
        raise _wrong_size(name, image_size, error, try_other, set(_SIZES)) from error
    if feature.ndim != 2:
        raise ValueError(
            f"{name} returns shape {tuple(feature.shape)} for 2 images; expected (2, D), or (2, D, H, W), which is "
            "averaged over its places. Change its last layers."
        )
    made.dim = feature.shape[1]
    made.patch_dim = 0 if sequence is None else sequence.shape[2]
    if isinstance(made, ViT):
        if weights:
            made._set_image_size(image_size)
        if mask_token:
            made.mask_token = nn.Parameter(torch.zeros(1, made.patch_dim))
    return made


def remade(backbone: Backbone, *, image_size: int, drop_path: float = 0.0, mask_token: bool = False) -> Backbone:
    """A copy of a backbone with its weights, for images of `image_size` pixels, to be trained further.

    A user's own module keeps the drop path that it has. The other arguments, and errors, are those of `create`.
    """
    own = backbone.name.startswith("<")
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


def load_official(backbone: Backbone, state: Mapping[str, Tensor]) -> int:
    """Loads a backbone's weights from an official DINO, iBOT or DINOv2 checkpoint; returns the number of tensors.

    Names are mapped to timm's. A mask token is taken where the backbone has one and left out otherwise.

    Raises:
        ValueError: names or shapes do not fit.
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
    """An official DINO, iBOT or DINOv2 checkpoint's tensors under timm's names; other states stay as they are."""
    state = dict(state)
    if "masked_embed" in state:  # iBOT's name
        state["mask_token"] = state.pop("masked_embed")
    if not isinstance(backbone, ViT):
        return state
    if "register_tokens" in state:
        state["reg_token"] = state.pop("register_tokens")
    if backbone.net.no_embed_class and {"pos_embed", "cls_token"} <= state.keys():
        patches = state["pos_embed"].shape[1] - 1
        if math.isqrt(patches) ** 2 == patches:  # timm adds no position to the class token: it goes into the token
            state["cls_token"] = state["cls_token"] + state["pos_embed"][:, :1]
            state["pos_embed"] = state["pos_embed"][:, 1:]
    return {k.replace(".mlp.w12.", ".mlp.fc1.").replace(".mlp.w3.", ".mlp.fc2."): v for k, v in state.items()}


def published(name: str) -> Backbone:
    """A backbone with the weights that its library publishes, at the image size and by the rules that they came with.

    Raises:
        ValueError, FileNotFoundError: see `create`.
    """
    return create(name, weights=True, image_size=published_size(name), interpolation=_interpolation(name))


def published_size(name: str) -> int:
    """Pixels of the images that a library's published weights of this name are for.

    DINOv2's ViTs come at the 224 pixels of their official evaluation, not at the 518 of their last training steps.

    Raises:
        ValueError: an unknown name.
    """
    known = _known(name)
    if known.startswith("torchvision/"):
        import torchvision

        weights = torchvision.models.get_model_weights(known.removeprefix("torchvision/")).DEFAULT
        return int(weights.transforms().crop_size[0])
    import timm

    cfg = timm.get_pretrained_cfg(known)
    return 224 if cfg is None or "dinov2" in known else int(cfg.input_size[-1])


def _interpolation(name: str) -> Interpolation:
    """Whose rule the position embedding of published weights is resized by; networks without one do not ask."""
    return "official" if "dino" in name or name.startswith("torchvision/") else "timm"


def from_weights(state: Mapping[str, Tensor], name: str, *, official: bool) -> Backbone:
    """The backbone of a name with a file's weights, under timm's names or those of DINO, iBOT and DINOv2.

    It has the image size of the weights that are published under the name, and their mean and standard deviation, or,
    where the file is an `official` checkpoint, those of DINO, iBOT and DINOv2. A classifier is left out.

    Raises:
        ValueError: an unknown name, or tensors that are missing, too many, or of another shape.
    """
    known = _known(name)
    plain = _without_numbers(known)
    first = state.get(next(path for path, part in plain.named_modules() if isinstance(part, nn.Conv2d)) + ".weight")
    made = create(
        known, channels=3 if first is None else first.shape[1], image_size=published_size(known), stem="standard",
        interpolation="official" if official else _interpolation(known),
    )  # fmt: skip
    if not official and not known.startswith("torchvision/"):
        import timm

        cfg = timm.get_pretrained_cfg(known)
        if cfg is not None:
            made.mean, made.std = (_per_channel(tuple(x), made.channels) for x in (cfg.mean, cfg.std))
    own = made.net.state_dict()
    load_official(made, {k: v for k, v in state.items() if k in own or not is_beside(k, own)})
    return made


def _without_numbers(known: str) -> nn.Module:
    """The network of a name, without its classifier, that has shapes and no numbers."""
    with torch.device("meta"):
        if known.startswith("torchvision/"):
            return _torchvision_net(known, 3, False, 0.0)
        return _timm_net(known, 3, None, False, 0)


def tensor_names(name: str) -> list[str]:
    """What the tensors of the network of a name are called, without its classifier.

    Raises:
        ValueError: an unknown name.
    """
    return [*_without_numbers(_known(name)).state_dict()]


def is_beside(name: str, own: Collection[str]) -> bool:
    """Whether a file's tensor is no part of an encoder whose tensors are called `own`: a head, a queue, a counter."""
    part = _part(name)
    return (
        name.startswith(_HEADS)
        or bool(BUFFERS.search(name))
        or (bool(_BESIDE.search(part)) and part not in map(_part, own))
    )


def _part(name: str) -> str:
    """The first part of a tensor's name, without a number behind it: `layer` of layer4.0.conv1.weight."""
    return re.sub(r"(?<=\D)\d+$", "", name.partition(".")[0])


FEW = 4
"""Tensors that a file may hold besides, or lack, and still be of the network: two layers."""


def check_fit(backbone: Backbone, state: Mapping[str, Tensor], source: str) -> None:
    """Refuses weights of which only a part fits the network, since they are of another one.

    Heads, counters and relative positions do not count. Of tensors that are of no known part of a network, and of those
    that the network has and the file lacks, a few may be: a first layer for other channels, a norm, registers.

    Raises:
        ValueError: what has no place, what is missing, and what to do.
    """
    own = backbone.export_state()
    strange = [k for k in state if k not in own and not is_beside(k, own)]
    parts = {*_TRUNK, *map(_part, own)}
    of_trunk = [k for k in strange if _part(k) in parts]
    lacking = [
        k if k not in state else f"{k}, there {tuple(state[k].shape)}, here {tuple(v.shape)}"
        for k, v in own.items()
        if (k not in state or state[k].shape != v.shape) and not BUFFERS.search(k) and "relative_position" not in k
    ]
    if not of_trunk and max(len(strange), len(lacking)) <= FEW and 2 * len(lacking) <= len(own):
        return
    found = [f"{source} holds {counted(len(state), 'tensor')}, {backbone.name} has {len(own)}."]
    for names, what in (
        ([*of_trunk, *(k for k in strange if k not in of_trunk)], "have no place in the network"),
        (lacking, "of the network's are missing or of another shape"),
    ):
        if names:
            found.append(f"{len(names)} {what}: {'; '.join(names[:5])}{'; ...' if len(names) > 5 else ''}.")
    raise ValueError(" ".join([*found, "Give the --backbone that the weights are of."]))


def recognised(state: Mapping[str, Tensor]) -> str | None:
    """The timm name of the ViT that the tensors of an official DINO, iBOT or DINOv2 checkpoint are of, or None."""
    proj = state.get("patch_embed.proj.weight")
    # theirs have a class token and no classifier
    if proj is None or proj.ndim != 4 or "cls_token" not in state or "head.weight" in state:
        return None
    depth = len({key.split(".")[1] for key in state if key.startswith("blocks.")})
    size = {(384, 12): "small", (768, 12): "base", (1024, 24): "large", (1536, 40): "giant"}.get((len(proj), depth))
    patch = proj.shape[2]
    if "blocks.0.ls1.gamma" in state:
        registers = "_reg4" if state.keys() & {"register_tokens", "reg_token"} else ""  # timm's files are taken, too
        name = f"vit_{size}_patch{patch}{registers}_dinov2.lvd142m"
    else:
        name = f"vit_{size}_patch{patch}_224.dino"
    try:
        return _known(name)
    except ValueError:  # iBOT's ViT-L/16 has no weights of DINO at timm, but its architecture
        try:
            return _known(name.partition(".")[0])
        except ValueError:
            return None


def patch_size(backbone: str | nn.Module) -> int | None:
    """Pixels of a side of a plain ViT's patches; None for other backbones. Nothing is computed to know it."""
    if isinstance(backbone, Backbone):
        return backbone.patch_size
    if isinstance(backbone, nn.Module):
        return _patch_size(backbone)
    name = _known(backbone)
    if name.startswith("torchvision/"):
        return None
    return _timm_patch_size(name, 3, 0.0)


def names() -> list[str]:
    """All names that `create` takes: timm's, and `torchvision/...` for the names that timm lacks."""
    import timm
    import torchvision

    own: list[str] = timm.list_models()
    others: list[str] = torchvision.models.list_models(module=torchvision.models)
    return own + [f"torchvision/{name}" for name in others if not timm.is_model(name)]


def full_name(name: str) -> str:
    """The name that a backbone made by `name` has: without `timm/`.

    Raises:
        ValueError: an unknown name.
    """
    return _known(name)


def _known(name: object) -> str:
    """The name without `timm/`, if there is such a network."""
    import timm
    import torchvision

    if not isinstance(name, str):
        what = f"the class {name.__name__}" if isinstance(name, type) else with_article(type(name).__name__)
        raise ValueError(f"The backbone is {what}; expected a name, or an instance of torch.nn.Module.")
    library, _, short = name.rpartition("/")
    if library == "torchvision" and short in torchvision.models.list_models(module=torchvision.models):
        return name
    if library in ("", "timm") and timm.is_model(short):
        architecture, _, tag = short.partition(".")
        tags = [known for known in timm.list_pretrained(f"{architecture}.*") if known.split(".")[0] == architecture]
        if not tag or short in tags:
            return short
        raise ValueError(f"{architecture} has no weights {shown(tag)}. There are: {', '.join(tags) or 'none'}.")
    raise no_backbone(name, names())


def _timm_net(name: str, channels: int, image_size: int | None, weights: bool, drop_path: float) -> nn.Module:
    """A network of timm's without classifier; image size None is the one that timm states for it."""
    import timm

    published = timm.get_pretrained_cfg(name)
    fixed = published is not None and published.fixed_input_size
    if weights and (published is None or not published.has_weights):
        raise FileNotFoundError(
            f"timm publishes no weights for {name}. timm.list_pretrained() names those that have some."
        )
    try:
        # timm drops the options that are None, which not all networks take.
        with _quiet_hub() if weights else nullcontext():
            net: nn.Module = timm.create_model(
                name, pretrained=weights, in_chans=channels, num_classes=0, img_size=image_size if fixed else None,
                drop_path_rate=drop_path or None,
            )  # fmt: skip
    except OSError as error:
        from huggingface_hub import constants

        source = f"https://huggingface.co/{published.hf_hub_id}" if published else name
        raise _not_fetched(name, source, constants.HF_HUB_CACHE) from error
    except TypeError as error:
        if "drop_path_rate" not in str(error):
            raise
        raise ValueError(f"{name} takes no drop path. Leave it at 0, or choose a ViT, ConvNeXt or ResNet.") from error
    without_chance(net, skips=not drop_path)  # some have rates of their own: Swin skips blocks, RexNet's head drops
    return net


@contextmanager
def _quiet_hub() -> Iterator[None]:
    """Without a network, lets Hugging Face's library look into its cache alone: it would try for a minute, aloud."""
    from huggingface_hub import constants

    log, before = logging.getLogger("huggingface_hub"), constants.HF_HUB_OFFLINE
    level = log.level
    if not urllib.request.getproxies():  # which know names that this machine does not
        try:
            socket.getaddrinfo(urllib.parse.urlsplit(constants.ENDPOINT).hostname, 443)
        except OSError:
            constants.HF_HUB_OFFLINE = True
    log.setLevel(logging.ERROR)
    try:
        with redirect_stdout(sys.stderr):  # some of timm's weights come by torch's hub, which says so
            yield
    finally:
        constants.HF_HUB_OFFLINE = before
        log.setLevel(level)


@functools.cache
def _timm_patch_size(name: str, channels: int, drop_path: float) -> int | None:
    """Pixels of a side of the patches of one of timm's plain ViTs, None for its other networks."""
    with torch.device("meta"):
        return _patch_size(_timm_net(name, channels, None, False, drop_path))


def _set_drop_path(net: nn.Module, name: str, drop_path: float) -> None:
    """Scales the probabilities with which torchvision's network skips blocks, so that the largest is `drop_path`."""
    from torchvision.ops import StochasticDepth

    skips = [part for part in net.modules() if isinstance(part, StochasticDepth)]
    most = max((part.p for part in skips), default=0.0)
    if drop_path and not most:
        raise ValueError(
            f"{name} takes no drop path. Leave it at 0, or choose a ConvNeXt, Swin, EfficientNet or MaxViT of "
            "torchvision's, or a ViT, ConvNeXt or ResNet of timm's."
        )
    without_chance(net, skips=not drop_path)
    for part in skips:
        part.p *= drop_path / most if most else 0.0


def _torchvision_net(name: str, channels: int, weights: bool, drop_path: float) -> nn.Module:
    """A network of torchvision's without the last layer of its classifier, and without that one's dropout."""
    import torchvision
    from timm.models import adapt_input_conv

    short = name.removeprefix("torchvision/")
    options: dict[str, bool] = {}
    if short in ("googlenet", "inception_v3"):
        # They warn unless init_weights is stated; False is what torchvision itself takes with weights. With weights
        # they would turn ImageNet's normalisation into their own, (x - 0.5) / 0.5, which `_statistics` gives instead.
        options = {"init_weights": not weights, "transform_input": False}
    try:
        with redirect_stdout(sys.stderr):  # where torch's bar is, and not among the lines of results
            net: nn.Module = torchvision.models.get_model(short, weights="DEFAULT" if weights else None, **options)
    except OSError as error:
        url = torchvision.models.get_model_weights(short).DEFAULT.url
        raise _not_fetched(name, url, f"{torch.hub.get_dir()}/checkpoints") from error
    if isinstance(net, torchvision.models.GoogLeNet | torchvision.models.Inception3):
        net.aux_logits = net.transform_input = False  # torchvision overrides the option where there are weights
        net.aux1 = net.aux2 = net.AuxLogits = None
    linear = [path for path, module in net.named_modules() if isinstance(module, nn.Linear)]
    convolutions = [path for path, module in net.named_modules() if isinstance(module, nn.Conv2d)]
    net.set_submodule((linear or convolutions)[-1], nn.Identity())  # SqueezeNet classifies by a convolution
    _set_drop_path(net, name, drop_path)
    if channels != 3:
        first = net.get_submodule(convolutions[0])
        assert isinstance(first, nn.Conv2d)
        first.in_channels = channels
        if weights:
            first.weight = nn.Parameter(adapt_input_conv(channels, first.weight.detach()))
        else:
            first.weight = nn.Parameter(first.weight.new_empty(first.out_channels, channels, *first.kernel_size))
            first.reset_parameters()
    return net


def _not_fetched(name: str, source: str, cache: str) -> FileNotFoundError:
    return FileNotFoundError(
        f"The weights of {name} could not be fetched from {source}. Check the network, or do the same on a machine "
        f"that has one and copy its {cache} here. Or fetch a file of weights by hand, and give it in place of the "
        f"name: as ENCODER with --encoder-backbone {name}, as --teacher with --teacher-backbone {name}, as --init with "
        f"--backbone {name}."
    )


def _statistics(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation with which the published weights were trained."""
    if name.startswith("torchvision/"):
        import torchvision

        if name in ("torchvision/googlenet", "torchvision/inception_v3"):  # what their transform_input does
            return (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
        transform = torchvision.models.get_model_weights(name.removeprefix("torchvision/")).DEFAULT.transforms()
        return tuple(transform.mean), tuple(transform.std)
    import timm

    published = timm.get_pretrained_cfg(name)
    if published is None:  # somebody's own network, which timm has no weights of
        return IMAGENET_MEAN, IMAGENET_STD
    return tuple(published.mean), tuple(published.std)


def _per_channel(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    return values if len(values) == channels else (sum(values) / len(values),) * channels


def _patch_size(net: nn.Module) -> int | None:
    """The patch size of timm's plain vision transformer; None for all that assemble their tokens in another way."""
    from timm.layers.patch_embed import PatchEmbed
    from timm.models.vision_transformer import VisionTransformer

    if type(net) is not VisionTransformer:
        return None
    embed = net.patch_embed
    if not isinstance(embed, PatchEmbed) or embed.dynamic_img_pad:
        return None
    height, width = embed.patch_size
    return int(height) if height == width else None


def _grid(name: str, patch: int, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of patches in an image of that many pixels."""
    if height % patch or width % patch or not height or not width:
        near = {max(side // patch + up, 1) * patch for side in (height, width) for up in (0, side % patch > 0)}
        raise ValueError(
            f"{name} cuts images into patches of {patch} pixels and cannot take {height} x {width} pixels. "
            f"The nearest sizes that work: {', '.join(map(str, sorted(near)))}."
        )
    return height // patch, width // patch


def _sine_cosine(rows: int, columns: int, width: int) -> Tensor:
    """Fixed positions (rows * columns, width): sines and cosines of a patch's row, then of its column (MoCo v3)."""
    frequencies = 10_000 ** -(torch.arange(width // 4) / (width // 4))
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    angles = [place.flatten()[:, None] * frequencies for place in (row, column)]
    return torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], 1)


def _resampling(old: int, new: int, antialias: bool, like: Tensor) -> Tensor:
    """The weights (new, old) with which bicubic interpolation makes `new` numbers from `old`."""
    # Along the columns of a square: torch 2.15 resizes an image one pixel wide wrongly when it antialiases.
    impulses = torch.eye(old, dtype=like.dtype, device=like.device)[None, None]
    if antialias:
        resized = F.interpolate(impulses, size=(old, new), mode="bicubic", antialias=True)
    else:
        # DINO's offset: it was to guard the output size against rounding, and it also moves each sample.
        resized = F.interpolate(impulses, scale_factor=(1.0, (new + 0.1) / old), mode="bicubic")
    return resized[0, 0].mT


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


def _pooled(y: Tensor) -> Tensor:
    return y.mean((2, 3)) if y.ndim == 4 else y


@contextmanager
def _untouched(module: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; afterwards modes and random generators are as before."""
    modes = [(m, m.training) for m in module.modules()]
    devices = {p.device for p in module.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices), torch.no_grad():
        module.eval()
        try:
            yield
        finally:
            for m, training in modes:
                m.training = training


def _wrong_size(name: str, size: int, error: Exception, attempt: Callable[[int], Parts], sizes: set[int]) -> ValueError:
    """Says what is wrong, and the nearest size that passes `attempt`."""
    works = None
    for other in sorted(sizes - {size}, key=lambda s: abs(s - size)):
        try:
            attempt(other)
        except Exception:
            continue
        works = other
        break
    reason = str(error).strip().split("\n")[0]
    if not isinstance(error, ValueError | RuntimeError) or not reason:  # as a KeyError's "x"
        reason = f"{type(error).__name__}: {reason}".removesuffix(": ")
    advice = f"The nearest size that works is {works}." if works else "No other size works either."
    return ValueError(f"{name} cannot take images of {size} x {size} pixels ({reason}). {advice}")

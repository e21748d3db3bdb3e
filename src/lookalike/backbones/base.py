"""The common face of all networks: images in, features and tokens out.

The wrapped network keeps the names that its library gives to parameters; what `create` makes is a kind of `Backbone`.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..foreign import is_tag
from ..image_options import Alpha
from ..printing import brief, counted
from .image_sizes import WrongOutput, wrong_size

Interpolation = Literal["official", "timm"]
Stem = Literal["small", "standard"]
Parts = tuple[Tensor, Tensor | None, int]
"""The feature (B, D); registers and patches (B, R + N, P), or None where there are none; R."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass
class Tokens:
    """What a backbone says about whole images and about their parts. B images, R registers, N patches."""

    cls: Tensor
    """(B, D), equal to what `Backbone.forward` returns: a ViT's class token, a CNN's pooled feature."""
    registers: Tensor
    """(B, R, P); R is 0 for all but some ViTs. A distillation token counts as one."""
    patches: Tensor
    """(B, N, P), row by row. P equals D but in networks that change the width after pooling."""


TRIED: dict[tuple[str, int, int, str, int], Parts] = {}
"""What `Backbone.try_size` found; each takes some tenths of a second, and one run asks for the same several times.

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
            self.try_size(size)
        except WrongOutput:
            raise
        except Exception as error:
            raise wrong_size(self.name, size, error, self.try_size, self.image_size) from error

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
        _, sequence, registers = self.try_size(size)
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

    def try_size(self, size: int) -> Parts:
        """Runs two black images of `size` pixels through a copy that has shapes but no numbers."""
        key = self.name, self.channels, self.image_size, self.stem, size
        if key in TRIED:
            return TRIED[key]
        memo: dict[int, object] = {id(b): b.to("meta") for b in self.buffers()}
        memo |= {id(p): nn.Parameter(p.detach().to("meta"), p.requires_grad) for p in self.parameters()}
        with torch.no_grad():
            parts = copy.deepcopy(self, memo).eval()._parts(self._black(size, "meta"), None)
        if not is_tag(self.name):  # a user's own module is no function of its name
            TRIED[key] = parts
        return parts

    def _black(self, size: int, device: torch.device | str) -> Tensor:
        dtype = next((p.dtype for p in self.net.parameters() if p.is_floating_point()), None)
        return torch.zeros(2, self.channels, size, size, dtype=dtype, device=device)

    def _refuse(self, mask: Tensor | None) -> None:
        if mask is not None:
            raise ValueError(f"{self.name} cannot mask patches. Choose a plain ViT, such as vit_small_patch16_224.")

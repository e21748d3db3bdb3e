"""The common interface of all networks: images in, features and tokens out.

The wrapped network keeps its library's parameter names; `create` returns a subclass of `Backbone`.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..foreign import is_tag
from ..image_options import Pixels
from ..printing import brief, counted
from .image_sizes import WrongOutput, wrong_size

Interpolation = Literal["official", "timm"]
Stem = Literal["small", "standard"]
Parts = tuple[Tensor, Tensor | None, int]
"""The feature (B, D); registers and patches (B, R + N, P), or None without patches; R."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass
class Tokens:
    """The global feature and patch tokens of a batch. B images, R registers, N patches."""

    cls: Tensor
    """(B, D), equal to the result of `Backbone.forward`: a ViT's class token, a CNN's pooled feature."""
    registers: Tensor
    """(B, R, P); R is 0 except in some ViTs. A distillation token counts as a register."""
    patches: Tensor
    """(B, N, P), row by row. P equals D except in networks that change the width after pooling."""


TRIED: dict[tuple[str, int, int, str, int], Parts] = {}
"""Cached results of `Backbone.try_size`, which takes some tenths of a second and is called several times per run.

Shapes depend only on the name: a network created by name is assumed not to be modified afterwards.
"""


class Backbone(nn.Module):
    """Computes features of normalised images; built by `create`."""

    net: nn.Module
    """The wrapped network, with its library's parameter names."""
    mask_token: nn.Parameter | None
    """(1, P), replaces masked patches; only in ViTs created with `mask_token=True`."""
    dim: int
    """D, dimension of the feature."""
    patch_dim: int
    """P, dimension of the patch tokens; 0 for a backbone without patch tokens."""

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
        self.pixels = Pixels(channels)
        """How the pixels of images are read; see `lookalike.data.decode`."""
        self.remark = ""
        """A remark on its weights file, to be printed."""
        self._compiled_parts: Callable[[Tensor, Tensor | None], Parts] | None = None
        self.divide: Callable[..., Any] | None = None
        """Runs a function of a batch in micro-batches; set by `micro_batches.in_micro_batches`."""
        self.micro_batches = 1
        """Their number."""

    def __call__(self, x: Tensor) -> Tensor:
        """`forward`, with hooks and, where requested, in micro-batches."""
        feature: Tensor = super().__call__(x) if self.divide is None else self.divide(super().__call__, x)
        return feature

    @property
    def patch_size(self) -> int | None:
        """Side of a patch in pixels, of which image sizes must be multiples; None without such a requirement."""
        return None

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, D) of images (B, C, H, W) normalised with `mean` and `std`."""
        raise NotImplementedError

    def tokens(self, x: Tensor, mask: Tensor | None = None) -> Tokens:
        """The feature, registers and patches of images (B, C, H, W).

        A plain ViT's tokens are taken after the last norm. Other networks give the input of their pooling: if they
        normalise after pooling (ConvNeXt, BEiT), patches are not normalised.

        Args:
            x: images, normalised.
            mask: (B, N) bool, True where the mask token replaces a patch, before position embeddings are added.

        Raises:
            ValueError: the backbone has no patches or cannot mask them, or the mask has another shape.
        """
        run = self._compiled_parts or self._parts
        if self.divide is None:
            feature, sequence, registers = run(x, mask)
        elif mask is None:
            feature, sequence, registers = self.divide(lambda part: run(part, None), x)
        else:
            feature, sequence, registers = self.divide(run, x, mask)
        if sequence is None:
            raise ValueError(
                f"{self.name} gives one feature per image and no patch tokens. Choose a ViT or CNN from timm."
            )
        return Tokens(feature, sequence[:, :registers], sequence[:, registers:])

    def checkpoint_activations(self) -> None:
        """Enables activation checkpointing: the backward pass recomputes each block from its input.

        Raises:
            ValueError: the network does not support it, or has BatchNorm, which would be updated twice per batch.
        """
        advice = "Choose a ViT or ConvNeXt from timm, or a smaller batch in more micro-batches (--accumulate)."
        if any(isinstance(part, _BatchNorm) for part in self.modules()):
            raise ValueError(
                f"{self.name} has BatchNorm, which activation checkpointing would update twice per batch. {advice}"
            )
        if not self._recompute():
            raise ValueError(f"{self.name} does not support activation checkpointing. {advice}")

    def _recompute(self) -> bool:
        """Enables activation checkpointing in the network; False if it is not supported."""
        return False

    def attention(self, x: Tensor) -> Tensor:
        """The last block's self-attention for images (B, C, H, W): (B, heads, 1 + R + N, 1 + R + N); rows sum to 1.

        The first row belongs to the class token; the last N columns are the patches.

        Raises:
            ValueError: the backbone is not a plain ViT with a class token, or its blocks have another attention layer.
        """
        raise ValueError(
            f"{self.name} has no class token that attends to patches. Choose a plain ViT, such as "
            "vit_small_patch16_224."
        )

    def class_tokens(self, x: Tensor, blocks: int) -> Tensor:
        """Concatenated class tokens of the last blocks, each after the last norm: (B, C, H, W) -> (B, blocks x P).

        Raises:
            ValueError: the backbone is not a plain ViT with a class token, or has fewer blocks.
        """
        raise ValueError(f"{self.name} has no class token. Choose a plain ViT, such as vit_small_patch16_224.")

    def check_size(self, size: int) -> None:
        """Raises ValueError, with a size that works, if images of `size` x `size` pixels are not accepted."""
        try:
            self.try_size(size)
        except WrongOutput:
            raise
        except Exception as error:
            raise wrong_size(self.name, size, error, self.try_size, self.image_size) from error

    def check_trainable(self) -> None:
        """Raises ValueError if the network has no trainable parameters."""
        own = [*self.net.parameters()]
        if not any(p.requires_grad for p in own):
            state = "only frozen parameters (requires_grad is False)" if own else "no parameters"
            raise ValueError(f"{self.name} has {state}. Give a module with trainable layers.")

    def compile(self, *args: Any, **options: Any) -> None:
        """As for every module; also compiles the computation of `tokens`."""
        super().compile(*args, **options)
        self._compiled_parts = torch.compile(self._parts, *args, **options)

    def __getstate__(self) -> dict[str, Any]:
        """As for every module, without functions that cannot be copied."""
        state: dict[str, Any] = super().__getstate__()  # type: ignore[no-untyped-call]
        return state | {"_compiled_parts": None, "divide": None, "micro_batches": 1}

    def patches_at(self, size: int) -> int:
        """Number of patches of an image of `size` x `size` pixels; 0 for a backbone without patch tokens."""
        _, sequence, registers = self.try_size(size)
        return 0 if sequence is None else sequence.shape[1] - registers

    def export_state(self) -> dict[str, Tensor]:
        """The network's parameters and buffers under their library's names, contiguous, without the mask token.

        `timm.create_model(name, num_classes=0).load_state_dict` accepts them if the stem is "standard"; a transformer
        also needs `img_size=image_size`.
        """
        return {name: value.contiguous() for name, value in self.net.state_dict().items()}

    def load_exported(self, state: Mapping[str, Tensor]) -> int:
        """Loads the result of `export_state`; returns the number of tensors.

        The position embedding of a plain ViT for another image size is resized with the backbone's interpolation.

        Raises:
            ValueError: names, shapes or dtypes differ; nothing is loaded then.
        """
        state = self.resized(state)
        own = self.net.state_dict()
        differences = {
            "missing": [k for k in own if k not in state],
            "unexpected": [k for k in state if k not in own],
            "of another shape": [
                f"{k} {tuple(state[k].shape)} instead of {tuple(v.shape)}"
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
                "Create the backbone from which they were exported."
            )
        self.net.load_state_dict(state)
        return len(own)

    def _parts(self, x: Tensor, mask: Tensor | None) -> Parts:
        raise NotImplementedError

    def resized(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The weights, with tensors resized whose shapes depend on the image size."""
        return state

    def try_size(self, size: int) -> Parts:
        """Runs two black images of `size` x `size` pixels through a copy on the meta device, to find the shapes."""
        key = self.name, self.channels, self.image_size, self.stem, size
        if key in TRIED:
            return TRIED[key]
        memo: dict[int, object] = {id(b): b.to("meta") for b in self.buffers()}
        memo |= {id(p): nn.Parameter(p.detach().to("meta"), p.requires_grad) for p in self.parameters()}
        with torch.no_grad():
            parts = copy.deepcopy(self, memo).eval()._parts(self._black(size, "meta"), None)
        if not is_tag(self.name):  # the name does not determine a user's own module
            TRIED[key] = parts
        return parts

    def _black(self, size: int, device: torch.device | str) -> Tensor:
        dtype = next((p.dtype for p in self.net.parameters() if p.is_floating_point()), None)
        return torch.zeros(2, self.channels, size, size, dtype=dtype, device=device)

    def _refuse(self, mask: Tensor | None) -> None:
        if mask is not None:
            raise ValueError(f"{self.name} does not support masks. Choose a plain ViT, such as vit_small_patch16_224.")

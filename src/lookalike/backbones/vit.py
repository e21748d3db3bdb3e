"""Plain vision transformers of timm, with the token sequence built here.

This allows masks and any image size, with the position interpolation of the official DINO and DINOv2 code.
"""

import math
from collections.abc import Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..foreign import is_tag
from ..printing import counted
from .base import Backbone, Parts
from .image_sizes import patch_grid

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

DINO_OFFSET = 0.1
"""Added to the number of patches by DINO and DINOv2 when they resize the position embedding."""


class ViT(Backbone):
    """A plain vision transformer of timm, with masks and any image size."""

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
                f"The last block of {self.name} has {counted(len(found), 'timm Attention layer')}; showing its "
                "attention requires exactly 1. Choose a plain ViT, such as vit_small_patch16_224."
            )
        attn, outputs = found[0], list[Tensor]()
        hook = attn.qkv.register_forward_hook(lambda module, args, y: outputs.append(y))
        try:
            self._sequence(x, None)
        finally:
            hook.remove()
        b, tokens, _ = outputs[0].shape
        q, k, _ = outputs[0].view(b, tokens, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)  # each (B, heads, tokens, d)
        logits: Tensor = attn.scale * attn.q_norm(q) @ attn.k_norm(k).mT
        return logits.softmax(-1)

    def class_tokens(self, x: Tensor, blocks: int) -> Tensor:
        if self.net.cls_token is None:
            return super().class_tokens(x, blocks)
        if blocks > len(self.net.blocks):
            raise ValueError(f"{self.name} has {counted(len(self.net.blocks), 'block')}; {blocks} were requested.")
        outputs = list[Tensor]()
        hooks = [b.register_forward_hook(lambda module, args, y: outputs.append(y)) for b in self.net.blocks[-blocks:]]
        try:
            self._sequence(x, None)
        finally:
            for hook in hooks:
                hook.remove()
        return torch.cat([self.net.norm(y)[:, 0] for y in outputs], 1)

    @torch.no_grad()
    def start_as_moco_v3(self, *, freeze_patches: bool) -> None:
        """Initialises the weights as in MoCo v3 (its `vits.py`), with a fixed sine-cosine position embedding.

        A user's own module keeps its weights and positions.

        Args:
            freeze_patches: whether the randomly initialised patch embedding is frozen.

        Raises:
            ValueError: the width is not a multiple of 4, or the network has no absolute position embedding.
        """
        net, proj = self.net, self.net.patch_embed.proj
        proj.requires_grad_(not freeze_patches)
        if is_tag(self.name):
            return
        if net.pos_embed is None or self.patch_dim % 4:
            raise ValueError(
                f"{self.name} has width {self.patch_dim}"
                f"{'' if net.pos_embed is not None else ' and no absolute position embedding'}; MoCo v3 requires an "
                "absolute position embedding and a width divisible by 4. Choose a plain ViT, such as "
                "vit_small_patch16_224."
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
        patch_grid(self.name, self.patch_size, size, size)

    def _parts(self, x: Tensor, mask: Tensor | None) -> Parts:
        net = self.net
        sequence = self._sequence(x, mask)
        # Either `norm` (before pooling) or `fc_norm` (after it) is the identity.
        return net.forward_head(sequence), net.fc_norm(sequence)[:, int(net.has_class_token) :], net.num_reg_tokens

    def _sequence(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """The tokens after the blocks, (B, 1 + R + N, P); (B, R + N, P) without class token."""
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
        grid = self._grid(*x.shape[-2:])
        x = net.patch_embed.norm(net.patch_embed.proj(x).flatten(2).mT)  # (B, N, P)
        if mask is not None:
            if self.mask_token is None:
                raise ValueError(f"{self.name} has no mask token. Create the backbone with mask_token=True.")
            if mask.shape != x.shape[:2]:
                raise ValueError(
                    f"The mask has shape {tuple(mask.shape)}; {counted(x.shape[0], 'image')} of {grid[0]} x "
                    f"{grid[1]} patches "
                    f"need {tuple(x.shape[:2])}."
                )
            x = torch.where(mask[..., None], self.mask_token.to(x.dtype), x)
        # not len(x), which turns the batch size into a constant when the network is traced
        first = [token.expand(x.shape[0], -1, -1) for token in (net.cls_token, net.reg_token) if token is not None]
        if net.pos_embed is None:
            x = torch.cat([*first, x], 1)
        elif net.no_embed_class:
            x = torch.cat([*first, x + self._resized(net.pos_embed, net.patch_embed.grid_size, grid)], 1)
        else:
            x = torch.cat([*first, x], 1) + self._resized(net.pos_embed, net.patch_embed.grid_size, grid)
        placed: Tensor = net.pos_drop(x)
        return placed

    def _grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the patches of an image in pixels; raises ValueError for a wrong size."""
        return patch_grid(self.name, self.patch_size, height, width)

    @property
    def _unplaced(self) -> int:
        """Number of rows of the position embedding before those of the patches."""
        return 0 if self.net.no_embed_class else int(self.net.num_prefix_tokens)

    @property
    def _antialiased(self) -> bool:
        """DINO and DINOv2 do not antialias the position embedding; DINOv2's models with registers and timm do."""
        return self.interpolation == "timm" or self.net.num_reg_tokens > 0

    def _resized(self, position: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
        """The position embedding resampled from a grid of `old` rows and columns to a grid of `new`."""
        if old == new:
            return position
        exact = torch.promote_types(position.dtype, torch.float32)
        first, table = (
            position[:, : self._unplaced],
            position[0, self._unplaced :].to(exact).view(*old, -1),
        )  # (H, W, P)
        with nullcontext() if position.is_meta else torch.autocast(position.device.type, enabled=False):
            rows, columns = (_resampling(o, n, self._antialiased, table) for o, n in zip(old, new))
            # matrix products, because the gradient of bicubic F.interpolate is not deterministic on a GPU
            table = torch.einsum("ih,jw,hwp->ijp", rows, columns, table)
        return torch.cat([first, table.flatten(0, 1)[None].to(position.dtype)], 1)

    def set_image_size(self, size: int) -> None:
        """Resizes the position embedding permanently, with the same interpolation as in a forward pass."""
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


def patch_size_of(net: nn.Module) -> int | None:
    """The patch size of a plain vision transformer of timm; None for networks that build their tokens differently."""
    from timm.layers.patch_embed import PatchEmbed
    from timm.models.vision_transformer import VisionTransformer

    if type(net) is not VisionTransformer:
        return None
    embed = net.patch_embed
    if not isinstance(embed, PatchEmbed) or embed.dynamic_img_pad:
        return None
    height, width = embed.patch_size
    return int(height) if height == width else None


def _sine_cosine(rows: int, columns: int, width: int) -> Tensor:
    """Fixed position embedding (rows * columns, width): sines and cosines of the row, then of the column (MoCo v3)."""
    frequencies = 10_000 ** -(torch.arange(width // 4) / (width // 4))
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    angles = [index.flatten()[:, None] * frequencies for index in (row, column)]
    return torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], 1)


def _resampling(old: int, new: int, antialias: bool, like: Tensor) -> Tensor:
    """The weights (new, old) of bicubic interpolation from `old` to `new` values."""
    # along the columns of a square: torch 2.15 resizes an image one pixel wide wrongly when it antialiases
    impulses = torch.eye(old, dtype=like.dtype, device=like.device)[None, None]
    if antialias:
        resized = F.interpolate(impulses, size=(old, new), mode="bicubic", antialias=True)
    else:
        # the offset, meant to protect the output size from rounding, also shifts each sample
        resized = F.interpolate(impulses, scale_factor=(1.0, (new + DINO_OFFSET) / old), mode="bicubic")
    return resized[0, 0].mT

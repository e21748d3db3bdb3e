"""The network of an export: a copy of the encoder or classifier whose results are named tensors."""

import copy

import torch
from torch import Tensor, nn

from ..backbones import Backbone
from ..backbones.onnx_file import FEATURES, PATCHES, PROBABILITIES
from ..backbones.vit import DINO_OFFSET, ViT
from ..classifiers import Classifier
from .resampling import antialiased, length, sharp

Trained = Backbone | Classifier


class Network(nn.Module):
    """Normalised images (B, C, H, W) -> the tensors `outputs`, in float32 on the CPU, in eval mode."""

    def __init__(self, trained: Trained, *, patch_tokens: bool = False, dynamic_size: bool = False) -> None:
        super().__init__()
        copied = copy.deepcopy(trained).cpu().float().eval().requires_grad_(False)
        encoder = copied.encoder if isinstance(copied, Classifier) else copied
        self.head = copied.head if isinstance(copied, Classifier) else None
        self.encoder: Backbone = ViTOfAnySize(encoder) if dynamic_size and isinstance(encoder, ViT) else encoder
        self.patch_tokens = patch_tokens
        self.outputs = (*((PROBABILITIES,) if self.head else ()), FEATURES, *((PATCHES,) if patch_tokens else ()))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        if self.patch_tokens:
            tokens = self.encoder.tokens(images)
            found: tuple[Tensor, ...] = tokens.cls, tokens.patches
        else:
            found = (self.encoder(images),)
        return found if self.head is None else (self.head(found[0]).softmax(1), *found)


class ViTOfAnySize(ViT):
    """A plain ViT whose position embedding is resized by operations that can be traced with unknown sizes."""

    def __init__(self, vit: ViT) -> None:
        super().__init__(
            vit.net, vit.name, channels=vit.channels, image_size=vit.image_size, mean=vit.mean, std=vit.std,
            stem=vit.stem, interpolation=vit.interpolation,
        )  # fmt: skip
        self.dim, self.patch_dim = vit.dim, vit.patch_dim
        self.eval()

    def _grid(self, height: int, width: int) -> tuple[int, int]:
        return height // self.patch_size, width // self.patch_size

    def _resized(self, position: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
        unchanged = torch.stack([length(o) == length(n) for o, n in zip(old, new)]).all()
        rows, columns = (self._resampling(o, n, unchanged).to(position.dtype) for o, n in zip(old, new))
        first, table = position[:, : self._unplaced], position[0, self._unplaced :]
        height, width = old
        table = (rows @ table.view(height, -1)).view(-1, width, table.shape[-1])
        table = columns @ table  # (new rows, new columns, P)
        return torch.cat([first, table.flatten(0, 1)[None]], 1)

    def _resampling(self, old: int, new: int, unchanged: Tensor) -> Tensor:
        """The weights (new, old) of `vit._resampling`; the identity if neither side changes."""
        rows = torch.arange(new, dtype=torch.float64)[:, None]
        columns = torch.arange(old, dtype=torch.float64)
        before, after = length(old), length(new)
        if self._antialiased:
            weights = antialiased(rows, columns, before / after, before)
        else:
            weights = sharp(rows, columns, before / (after + DINO_OFFSET), before)
        return torch.where(unchanged, (rows == columns).to(weights), weights)

"""Fine-tuning by labels, as in MAE -- He et al., CVPR 2022, table 9 and `FINETUNE.md`. https://arxiv.org/abs/2111.06377

With `frozen` the linear probe on augmented images: crops, flips, SGD, cosine, 100 epochs, no decay (`eval_linear.py` of
facebookresearch/dino), on features that are standardised, so that one learning rate suits all encoders (MAE's).
"""

import dataclasses
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import core
from ..backbones.base import Backbone, Interpolation, Stem
from ..core import Batch, DataFacts, Method, Needs, Progress
from ..modes import evaluating
from ..optim import Group, Optim
from ..printing import counted
from ..schedules import Schedule
from ..views import View
from . import mixup
from ._checks import check_drop_path, check_not_negative
from ._fitting import paced

PROBE = Optim("sgd", lr=0.1, grid="open")
"""Of the frozen encoder's head: momentum 0.9, no decay."""
NO_DECAY = ("pos_embed", "cls_token", "reg_token", "dist_token")
"""Parameters of ViTs that are no weights of a layer."""
CNN_LAYER_DECAY = 0.9
"""CNNs have more layers than a ViT has blocks: with a ViT's factor the first ones of a ResNet-50 would stand still."""


VIT_LR = 2e-3
"""AdamW's rate per 256 images for ViTs in a short training: that of MAE's own batches of 1,024."""
CNN_LR = 4e-3
"""The same for CNNs."""


class FineTune(Method):
    """Learn the classes of labelled images, from an encoder that knows images already."""

    @dataclass(frozen=True)
    class Config(core.Config):
        """MAE's setting for a ViT-B on ImageNet, without RandAugment: crops, flips and erasing are all that views get.

        Erased boxes are blank in the place of noise, and the head sees what the encoder gives (a ViT's class token),
        where MAE averages the patches.
        """

        mixup: float = 0.8
        """Alpha of mixup, which adds two images up; 0 switches it off."""
        cutmix: float = 1.0
        """Alpha of CutMix, which pastes a box of one image into another. With both each has every second batch."""
        smoothing: float = 0.1
        """Share of a label that all classes get alike."""
        drop_path: float = 0.1
        """Probability that the encoder's last block is skipped; less for the blocks before."""
        unfreeze_after: float = 0.0
        """Epochs in which the head learns alone; until then the encoder runs as when it is judged, and stays as it
        is."""
        frozen: bool = False
        """The encoder never learns: a linear probe with crops and flips."""
        encoder_backbone: str = ""
        """The encoder's architecture, where it is a file that does not say it."""
        test: str = ""
        """Labelled images to judge on, once, at the end."""
        classes: tuple[str, ...] = ()
        """Names of the classes, in the order of the head's outputs; found in the training images."""
        encoder_stem: Stem | None = None
        """Of the encoder; found in it."""
        encoder_interpolation: Interpolation = "official"
        """Of the encoder; found in it."""
        views: tuple[View, ...] = (View(scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3), hflip=0.5, erase=0.25),)
        optim: Optim = Optim(
            "adamw", lr=5e-4, weight_decay=Schedule(0.05), layer_decay=0.65, warmup_epochs=5, final_lr=1e-6, grid="open"
        )  # fmt: skip

        def __post_init__(self) -> None:
            check_not_negative(self, "mixup", "cutmix", "unfreeze_after")
            check_drop_path(self.drop_path)
            if not 0 <= self.smoothing < 1:
                raise ValueError(f"smoothing is {self.smoothing}; it is a share from 0 to below 1.")
            if (count := sum(view.count for view in self.views)) != 1:
                raise ValueError(f"FineTune sees one view of each image, and views make {count}. Give one, of count 1.")
            if self.frozen and self.unfreeze_after:
                raise ValueError(
                    "frozen encoders never learn, and unfreeze_after is "
                    f"{counted(self.unfreeze_after, 'epoch')}. Leave one out."
                )

        @property
        def needs(self) -> Needs:
            return Needs(
                labels=True, classes=self.classes or None, drop_path=self.drop_path, stem=self.encoder_stem,
                interpolation=self.encoder_interpolation, partial_gradients=self.unfreeze_after > 0,
                watch_features=False,
            )  # fmt: skip

        def fit_to(self, data: DataFacts) -> Self:
            """The linear probe's recipe where the encoder is frozen; a higher rate in a short training.

            For CNNs no drop path, and a decay for more layers.
            """
            cfg = self
            if cfg.frozen:
                views = tuple(dataclasses.replace(view, erase=0.0) for view in cfg.views)
                return dataclasses.replace(
                    cfg, mixup=0.0, cutmix=0.0, smoothing=0.0, drop_path=0.0, views=views, optim=PROBE
                )
            optim = paced(cfg.optim, VIT_LR if data.patch_size else CNN_LR, data, scaled=True)
            if data.patch_size is None:
                optim = dataclasses.replace(optim, layer_decay=CNN_LAYER_DECAY)
                cfg = dataclasses.replace(cfg, drop_path=0.0)
            return dataclasses.replace(cfg, optim=optim)

    cfg: Config

    def __init__(self, cfg: Config, backbone: Backbone) -> None:
        super().__init__(cfg, backbone)
        if len(cfg.classes) < 2:
            raise ValueError(
                f"FineTune has {counted(len(cfg.classes), 'class')} to tell apart. Use lookalike.finetune, "
                "which finds them in "
                "the training images, or give Config(classes=...) their names."
            )
        self.norm = nn.BatchNorm1d(backbone.dim, eps=1e-6, affine=False) if cfg.frozen else nn.Identity()
        self.head = nn.Linear(backbone.dim, len(cfg.classes))
        # MAE's: next to zero, so that the first gradients do not shake the encoder, which where it rests they cannot
        nn.init.trunc_normal_(self.head.weight, std=0.01 if cfg.frozen else 2e-5)
        nn.init.zeros_(self.head.bias)
        if cfg.frozen:
            backbone.requires_grad_(False)

    def rests(self, at: Progress) -> bool:
        """Whether the encoder stays as it is in the step `at`."""
        return self.cfg.frozen or at.epoch < self.cfg.unfreeze_after

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        cfg, (x,), labels = self.cfg, batch.views, batch.labels
        assert labels is not None
        mixed = mixup.drawn(cfg.mixup, cfg.cutmix, *x.shape[-2:]) if self.training else mixup.WHOLE
        rests = self.rests(batch.progress)
        with (
            evaluating(self.backbone) if rests else nullcontext(),
            torch.set_grad_enabled(torch.is_grad_enabled() and not rests),
        ):
            feature = self.backbone(mixed.images(x))  # (B, D)
        logits = self.head(self.norm(feature))  # (B, C)
        targets = mixed.targets(labels, len(cfg.classes)).to(logits.dtype)
        loss = F.cross_entropy(logits, targets, label_smoothing=cfg.smoothing)
        likeliest = labels if mixed.share >= 0.5 else labels.flip(0)
        return {"loss": loss, "train_top1": (logits.argmax(1) == likeliest).to(loss.dtype).mean()}

    def groups(self) -> list[Group]:
        """Positions and class tokens have no decay, as MAE's code leaves them out."""
        kept = [p for name, p in self.backbone.net.named_parameters() if name in NO_DECAY]
        return [Group(kept, weight_decay_scale=0.0)]

    def describe(self) -> list[str]:
        if self.cfg.frozen:
            return ["frozen      the encoder stays as it is: the head learns alone"]
        if self.cfg.unfreeze_after:
            return [
                f"frozen      the encoder stays as it is for {counted(self.cfg.unfreeze_after, 'epoch')}: the "
                "head learns alone"
            ]
        return []

    @torch.no_grad()
    def linear(self) -> nn.Linear:
        """What classifies the encoder's features as they are: the head, with what standardises them in it."""
        made = nn.Linear(self.head.in_features, self.head.out_features)
        weight, bias = self.head.weight.detach(), self.head.bias.detach()
        if isinstance(norm := self.norm, nn.modules.batchnorm._BatchNorm):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            weight = weight * (norm.running_var + norm.eps).rsqrt()
            bias = bias - weight @ norm.running_mean
        made.to(weight.device, weight.dtype)
        made.weight.copy_(weight)
        made.bias.copy_(bias)
        return made

"""Fine-tuning on labels, as in MAE -- He et al., CVPR 2022, table 9 and `FINETUNE.md`. https://arxiv.org/abs/2111.06377

With `frozen`: the linear probe on augmented images with crops, flips, SGD, cosine, 100 epochs and no weight decay
(`eval_linear.py` of facebookresearch/dino). Features are standardised, so that one learning rate suits all encoders
(MAE).
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
"""For the head of a frozen encoder: momentum 0.9, no weight decay."""
NO_DECAY = ("pos_embed", "cls_token", "reg_token", "dist_token")
"""Parameters of ViTs that get no weight decay: they are not weights of a layer."""
CNN_LAYER_DECAY = 0.9
"""CNNs have more layers than a ViT has blocks: a ViT's factor would all but freeze the first layers of a ResNet-50."""


VIT_LR = 2e-3
"""AdamW's learning rate per 256 images for ViTs in short trainings: that of MAE's own batches of 1,024."""
CNN_LR = 4e-3
"""The same for CNNs."""


class FineTune(Method):
    """Train a classifier on labelled images, starting from a pretrained encoder."""

    @dataclass(frozen=True)
    class Config(core.Config):
        """MAE's setting for a ViT-B on ImageNet, without RandAugment: views have crops, flips and erasing only.

        Erased boxes are blank instead of noise. The head gets the encoder's feature (a ViT's class token), where MAE
        averages the patches.
        """

        mixup: float = 0.8
        """Alpha of mixup, which blends two images; larger values blend more evenly, 0 switches it off."""
        cutmix: float = 1.0
        """Alpha of CutMix, which pastes a box of one image into another; 0 switches it off. If both are on, each batch
        gets one of them, with probability 0.5."""
        smoothing: float = 0.1
        """Label smoothing, in [0, 1): the fraction of a label that is spread evenly over all classes."""
        drop_path: float = 0.1
        """Stochastic depth: probability of skipping the encoder's last block, in [0, 1); falls to 0 at the first."""
        unfreeze_after: float = 0.0
        """Epochs at the start in which only the head is trained; the encoder is frozen and in eval mode."""
        frozen: bool = False
        """Freeze the encoder for the whole training: a linear probe with crops and flips."""
        encoder_backbone: str = ""
        """Name of the encoder's architecture, for a weights file that does not state it."""
        test: str = ""
        """Labelled images for the evaluation at the end."""
        holdout: float = 0.0
        """Fraction of the images of each class that is held out of TRAIN for the evaluation, instead of TEST. The draw
        depends on the names of the images and the seed; images of one group are not separated. 0: those of the column
        split."""
        splits_train: bool = False
        """Whether the images for the evaluation are a part of TRAIN; set without `test`."""
        classes: tuple[str, ...] = ()
        """Names of the classes, in the order of the head's outputs; taken from the training images."""
        encoder_stem: Stem | None = None
        """Stem of the encoder, a ResNet; taken from the encoder."""
        encoder_interpolation: Interpolation = "official"
        """Interpolation of the encoder's position embedding; taken from the encoder."""
        views: tuple[View, ...] = (View(scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3), hflip=0.5, erase=0.25),)
        optim: Optim = Optim(
            "adamw", lr=5e-4, weight_decay=Schedule(0.05), layer_decay=0.65, warmup_epochs=5, final_lr=1e-6, grid="open"
        )  # fmt: skip

        def __post_init__(self) -> None:
            check_not_negative(self, "mixup", "cutmix", "unfreeze_after")
            check_drop_path(self.drop_path)
            if not 0 <= self.holdout < 1:
                raise ValueError(f"holdout is {self.holdout}; it must be at least 0 and below 1.")
            if not 0 <= self.smoothing < 1:
                raise ValueError(f"smoothing is {self.smoothing}; it must be at least 0 and below 1.")
            if (count := sum(view.count for view in self.views)) != 1:
                raise ValueError(f"FineTune takes one view of each image, and views make {count}. Give one of count 1.")
            if self.frozen and self.unfreeze_after:
                raise ValueError(
                    "frozen keeps the encoder frozen throughout, and unfreeze_after is "
                    f"{counted(self.unfreeze_after, 'epoch')}. Leave one out."
                )

        @property
        def needs(self) -> Needs:
            return Needs(
                labels=True, classes=self.classes or None, drop_path=self.drop_path, stem=self.encoder_stem,
                interpolation=self.encoder_interpolation, partial_gradients=self.unfreeze_after > 0,
                couples_batch=False, watch_features=False,
            )  # fmt: skip

        def fit_to(self, data: DataFacts) -> Self:
            """The linear probe's recipe for a frozen encoder; a higher learning rate in short trainings.

            CNNs have no drop path, and a layer decay for more layers.
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
                f"FineTune has {counted(len(cfg.classes), 'class')}; it needs at least 2. Use lookalike.finetune, "
                "which finds them in the training images, or give their names in Config(classes=...)."
            )
        self.norm = nn.BatchNorm1d(backbone.dim, eps=1e-6, affine=False) if cfg.frozen else nn.Identity()
        self.head = nn.Linear(backbone.dim, len(cfg.classes))
        # as in MAE: near 0, so that the first gradients into the encoder are small; no matter if it is frozen
        nn.init.trunc_normal_(self.head.weight, std=0.01 if cfg.frozen else 2e-5)
        nn.init.zeros_(self.head.bias)
        if cfg.frozen:
            backbone.requires_grad_(False)

    def encoder_frozen(self, at: Progress) -> bool:
        """Whether the encoder is frozen in the step `at`."""
        return self.cfg.frozen or at.epoch < self.cfg.unfreeze_after

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        cfg, (x,), labels = self.cfg, batch.views, batch.labels
        assert labels is not None
        mixed = mixup.drawn(cfg.mixup, cfg.cutmix, *x.shape[-2:]) if self.training else mixup.WHOLE
        frozen = self.encoder_frozen(batch.progress)
        with (
            evaluating(self.backbone) if frozen else nullcontext(),
            torch.set_grad_enabled(torch.is_grad_enabled() and not frozen),
        ):
            feature = self.backbone(mixed.images(x))  # (B, D)
        logits = self.head(self.norm(feature))  # (B, C)
        targets = mixed.targets(labels, len(cfg.classes)).to(logits.dtype)
        loss = F.cross_entropy(logits, targets, label_smoothing=cfg.smoothing)
        main_labels = labels if mixed.weight >= 0.5 else labels.flip(0)  # (B,)
        return {"loss": loss, "train_top1": (logits.argmax(1) == main_labels).to(loss.dtype).mean()}

    def groups(self) -> list[Group]:
        """No weight decay for position embeddings and class tokens, as in MAE's code."""
        tokens = [p for name, p in self.backbone.net.named_parameters() if name in NO_DECAY]
        return [Group(tokens, weight_decay_scale=0.0)]

    def describe(self) -> list[str]:
        if self.cfg.frozen:
            return ["frozen      the encoder; only the head is trained"]
        if self.cfg.unfreeze_after:
            return [
                f"frozen      the encoder, for the first {counted(self.cfg.unfreeze_after, 'epoch')}; only the head is "
                "trained"
            ]
        return []

    @torch.no_grad()
    def linear(self) -> nn.Linear:
        """The classifier of raw encoder features: the head, with the standardisation folded in."""
        linear = nn.Linear(self.head.in_features, self.head.out_features)
        weight, bias = self.head.weight.detach(), self.head.bias.detach()
        if isinstance(norm := self.norm, nn.modules.batchnorm._BatchNorm):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            weight = weight * (norm.running_var + norm.eps).rsqrt()
            bias = bias - weight @ norm.running_mean
        linear.to(weight.device, weight.dtype)
        linear.weight.copy_(weight)
        linear.bias.copy_(bias)
        return linear

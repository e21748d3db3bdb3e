"""iBOT -- Zhou, Wei, Wang, Shen, Xie, Yuille and Kong, ICLR 2022. https://arxiv.org/abs/2111.07832"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from .. import core, label_free, layers, losses, masks
from ..backbones.base import Backbone
from ..core import Batch, DataFacts, Method, Needs, Outputs, Progress
from ..optim import Optim
from ..random import keys_of, uniform
from ..schedules import Schedule
from ..views import View, cropped_from, dino_views, two_global, without_blur
from ._checks import (
    check_crops,
    check_drop_path,
    check_momentum,
    check_not_negative,
    check_positive,
    check_temperature,
    unbalanced,
)
from ._fitting import IMAGES, paced, prototypes_for, teacher_for, teacher_temp_for

_WARM = Schedule(0.07, warmup_epochs=30, warmup_start=0.04, every="epoch", grid="dino")


class IBOT(Method):
    """DINO plus masked image modelling: the student also predicts the teacher's output for its masked patches."""

    @dataclass(frozen=True)
    class Config(core.Config):
        """The official setting for a ViT-S/16 on ImageNet (800 epochs)."""

        hidden_dim: int = 2048
        """Width of the head's two hidden layers."""
        bottleneck_dim: int = 256
        """Dimension of the head's bottleneck, whose output is compared with the prototypes."""
        prototypes: int = 8192
        """Dimension of the head's output, K: the number of prototypes."""
        shared_head: bool = True
        """Compare patches with the prototypes of the class token. Otherwise patches have as many of their own, in
        student and teacher."""
        norm: bool = False
        """BatchNorm after each hidden layer of the head."""
        student_temp: float = 0.1
        """Divides the student's scores, above 0. Lower values give sharper predictions."""
        teacher_temp: Schedule = _WARM
        """Divides the teacher's scores of class tokens, above 0. Lower values give sharper targets."""
        patch_temp: Schedule = _WARM
        """Divides the teacher's scores of patches, above 0. Lower values give sharper targets."""
        center_momentum: float = 0.9
        """EMA coefficient of the two centres, per step, in [0, 1]. Closer to 1 they change more slowly."""
        momentum: Schedule = Schedule(0.996, 1.0, "cosine", grid="dino")
        """EMA coefficient of the teacher, per step, in [0, 1]. Closer to 1 it changes more slowly."""
        mask_ratios: tuple[float, ...] = (0.0, 0.3)
        """Fractions of masked patches, each in [0, 1]; each global view draws one of them."""
        mask_spreads: tuple[float, ...] = (0.0, 0.2)
        """Half-width of the uniform distribution around each of these fractions."""
        blocks: bool = True
        """Mask rectangular blocks of patches. Otherwise single patches."""
        patch_weight: float = 1.0
        """Weight of the patch loss; the class token's loss has weight 1."""
        freeze_epochs: float = 1.0
        """Epochs at the start in which the head's last layer is frozen."""
        drop_path: float = 0.1
        """Stochastic depth: probability of skipping the student's last block, in [0, 1); falls to 0 at the first."""
        views: tuple[View, ...] = dino_views(0.25, local=10)
        """The first two views are the global ones."""
        optim: Optim = Optim(
            "adamw", lr=5e-4, weight_decay=Schedule(0.04, 0.4, "cosine", grid="dino"), warmup_epochs=10, final_lr=1e-6,
            grid="dino", clip=3.0, clip_mode="parameter",
        )  # fmt: skip

        def __post_init__(self) -> None:
            check_positive(self, "hidden_dim", "bottleneck_dim", "prototypes", "student_temp")
            check_temperature(teacher_temp=self.teacher_temp, patch_temp=self.patch_temp)
            check_momentum(momentum=self.momentum, center_momentum=self.center_momentum)
            check_crops(self, joined=True)
            check_not_negative(self, "freeze_epochs", "patch_weight")
            check_drop_path(self.drop_path)
            pairs = list(zip(self.mask_ratios, self.mask_spreads))
            same_length = len(self.mask_ratios) == len(self.mask_spreads) > 0
            if not same_length or not all(0 <= s <= r <= 1 - s for r, s in pairs):
                raise ValueError(
                    f"mask_ratios {self.mask_ratios} and mask_spreads {self.mask_spreads} must have the same length, "
                    "at least 1, and each ratio plus or minus its spread must lie within 0 and 1."
                )

        @property
        def needs(self) -> Needs:
            # raw scores of all images are similar until the centre is subtracted
            own = ("mean", "patch_mean")
            return Needs(
                mask_token=True, drop_path=self.drop_path, couples_batch=False, handed_over=own, watch_heads=False
            )  # fmt: skip

        def fit_to(self, data: DataFacts) -> Self:
            """Fewer prototypes for few images; a higher rate and a sharper, faster teacher in short trainings.

            BatchNorm in the head below about as many images as ImageNet's. Small images get two views without blur.
            """
            cfg = self
            prototypes = prototypes_for(data.images, cfg.prototypes)
            momentum = teacher_for(data.steps, cfg.momentum)
            norm = cfg.norm or data.images < IMAGES[1]
            cfg = dataclasses.replace(cfg, prototypes=prototypes, momentum=momentum, norm=norm)
            temps = [teacher_temp_for(data.steps, temp) for temp in (cfg.teacher_temp, cfg.patch_temp)]
            cfg = dataclasses.replace(cfg, teacher_temp=temps[0], patch_temp=temps[1])
            cfg = dataclasses.replace(cfg, optim=paced(cfg.optim, 4e-3, data, scaled=True))
            if data.image_size <= 64:
                cfg = dataclasses.replace(cfg, views=cropped_from(0.2, without_blur(two_global(cfg.views))))
            return cfg

    cfg: Config

    def __init__(self, cfg: Config, backbone: Backbone) -> None:
        super().__init__(cfg, backbone)
        k = cfg.prototypes
        self.head = layers.DINOHead(
            backbone.dim, cfg.hidden_dim, cfg.bottleneck_dim, k, norm=cfg.norm, learn_scale=True,
            patch_prototypes=None if cfg.shared_head else k,
        )  # fmt: skip
        self.teacher = layers.Teacher(self.backbone, self.head)
        self.center = layers.Center(k, cfg.center_momentum)
        self.patch_center = layers.Center(k, cfg.center_momentum)

    @property
    def encoder(self) -> Backbone:
        return self.teacher[0]  # type: ignore[return-value]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        cfg, at, b = self.cfg, batch.progress, len(batch.index)
        whole = torch.cat(batch.views[:2])  # (2B, C, H, W)
        masked = self._masks(batch)  # (2B, N)
        student = self.backbone.tokens(whole, masked)
        local = layers.by_size(self.backbone, batch.views[2:])
        s = torch.stack(self.head(torch.cat([student.cls, *local])).split(b))  # (V, B, K)
        # only masked patches, unless BatchNorm needs all of them, as in the teacher
        if cfg.norm:
            s_patch = self.head(student.patches, patches=True)[masked]  # (M, K)
        else:
            s_patch = self.head(student.patches[masked], patches=True)  # (M, K)
        t, t_patch = self._teacher(whole)  # (2, B, K), (2B, N, K)
        p = self.center(t, cfg.teacher_temp(at))  # (2, B, K)
        p_patch = self.patch_center(t_patch[masked], cfg.patch_temp(at))  # (M, K)
        per_image = masked.sum(1, keepdim=True).expand_as(masked)[masked]  # (M,)
        images = losses.cross_view(s, p, cfg.student_temp)
        patches = cfg.patch_weight * losses.masked_patches(s_patch, p_patch, per_image, 2 * b, cfg.student_temp)
        parts = {"image_loss": images, "patch_loss": patches}  # weighted, as the official code logs it
        means = {"mean": t.to(p.dtype).mean((0, 1))[None], "patch_mean": t_patch.mean((0, 1), dtype=p.dtype)[None]}
        return {"loss": images + patches, **parts, **means, "targets": p[0].clone(), "scores": s[1].clone()}

    @torch.no_grad()
    def _teacher(self, whole: Tensor) -> tuple[Tensor, Tensor]:
        backbone, head = self.teacher
        tokens = backbone.tokens(whole)  # type: ignore[operator]
        return torch.stack(head(tokens.cls).chunk(2)), head(tokens.patches, patches=True)

    def _masks(self, batch: Batch) -> Tensor:
        """(2B, N) bool: the masked patches of the two global views."""
        patch = self.backbone.patch_size
        assert patch is not None
        rows, columns = (side // patch for side in batch.views[0].shape[-2:])
        ratios, spreads = torch.tensor([self.cfg.mask_ratios, self.cfg.mask_spreads], device=batch.index.device)
        at = batch.progress
        keys = torch.cat([keys_of("masks", at.seed, at.step, view, batch.index) for view in range(2)])
        which = (uniform(keys, "which") * len(ratios)).long()  # (2B,)
        counts = (ratios[which] + spreads[which] * (2 * uniform(keys, "ratio") - 1)) * rows * columns
        if self.cfg.blocks:
            return masks.block_masks(keys, counts, rows, columns, (min(rows, columns) // 3) ** 2, None).flatten(1)
        return masks.random_masks(keys, counts, rows, columns).flatten(1)

    def before_step(self, at: Progress) -> None:
        if at.epoch < self.cfg.freeze_epochs:
            self.head.freeze_last()

    def after_step(self, at: Progress, outputs: Sequence[Outputs]) -> None:
        self.center.move(layers.joined(outputs, "mean").mean(0))
        self.patch_center.move(layers.joined(outputs, "patch_mean").mean(0))
        self.teacher.follow(self.backbone, self.head, momentum=self.cfg.momentum(at))

    def before_training(self) -> None:
        self.teacher.copy(self.backbone, self.head)

    def metrics(self, outputs: Outputs) -> dict[str, float]:
        found = {
            "teacher_distance": self.teacher.distance(self.backbone, self.head),
            "center_norm": float(self.center.center.norm()),
        }
        targets, scores = outputs["targets"], outputs["scores"]
        return found | label_free.of_targets(targets, scores, self.cfg.student_temp)

    def diagnose(self) -> str:
        return unbalanced(self.cfg.teacher_temp, self.cfg.student_temp, True)

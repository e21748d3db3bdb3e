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
    """DINO whose student also tells, for patches that are hidden from it, what the teacher sees there."""

    @dataclass(frozen=True)
    class Config(core.Config):
        """The official setting for a ViT-S/16 on ImageNet (800 epochs)."""

        hidden_dim: int = 2048
        """Width of the head's two hidden layers."""
        bottleneck_dim: int = 256
        """Width of the embedding that the prototypes are compared with."""
        prototypes: int = 8192
        """Width of the head's output, K."""
        shared_head: bool = True
        """Whether patches are compared with the same prototypes as whole images, or, by student and teacher alike, with
        as many of their own."""
        norm: bool = False
        """BatchNorm after each hidden layer of the head, as for CNNs."""
        student_temp: float = 0.1
        """Divides the student's scores."""
        teacher_temp: Schedule = _WARM
        """Divides the teacher's scores of whole images."""
        patch_temp: Schedule = _WARM
        """Divides the teacher's scores of patches."""
        center_momentum: float = 0.9
        """Share of themselves that the two centres keep in a step."""
        momentum: Schedule = Schedule(0.996, 1.0, "cosine", grid="dino")
        """Share of itself that the teacher keeps in a step."""
        mask_ratios: tuple[float, ...] = (0.0, 0.3)
        """Shares of a global view's patches that are hidden; each view draws one of them."""
        mask_spreads: tuple[float, ...] = (0.0, 0.2)
        """How much each of these shares varies to both sides, evenly."""
        blocks: bool = True
        """Whether rectangles are hidden, or single patches."""
        patch_weight: float = 1.0
        """Weight of the patches' loss beside the images'."""
        freeze_epochs: float = 1.0
        """Epochs in which the head's last layer stays as it began."""
        drop_path: float = 0.1
        """Probability that the student's last block is skipped; less for the blocks before."""
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
            as_many = len(self.mask_ratios) == len(self.mask_spreads) > 0
            if not as_many or not all(0 <= s <= r <= 1 - s for r, s in pairs):
                raise ValueError(
                    f"mask_ratios {self.mask_ratios} and mask_spreads {self.mask_spreads} must be as many, one at "
                    "least, and no share may leave 0 to 1."
                )

        @property
        def needs(self) -> Needs:
            # scores have much in common, which the centre takes off
            own = ("mean", "patch_mean")
            return Needs(mask_token=True, drop_path=self.drop_path, handed_over=own, watch_heads=False)

        def fit_to(self, data: DataFacts) -> Self:
            """Fewer prototypes for few images; a higher rate and a sharper, faster teacher in a short training.

            BatchNorm in the head unless images are as many as ImageNet's. Small images get two views without blur.
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
        hidden = self._masks(batch)  # (2B, N)
        student = self.backbone.tokens(whole, hidden)
        local = layers.by_size(self.backbone, batch.views[2:])
        s = torch.stack(self.head(torch.cat([student.cls, *local])).split(b))  # (V, B, K)
        # hidden patches alone, unless BatchNorm is to see all, as in the teacher
        if cfg.norm:
            s_patch = self.head(student.patches, patches=True)[hidden]  # (M, K)
        else:
            s_patch = self.head(student.patches[hidden], patches=True)
        t, t_patch = self._teacher(whole)  # (2, B, K), (2B, N, K)
        p = self.center(t, cfg.teacher_temp(at))
        p_patch = self.patch_center(t_patch[hidden], cfg.patch_temp(at))
        per_image = hidden.sum(1, keepdim=True).expand_as(hidden)[hidden]
        images = losses.cross_view(s, p, cfg.student_temp)
        patches = cfg.patch_weight * losses.masked_patches(s_patch, p_patch, per_image, 2 * b, cfg.student_temp)
        parts = {"image_loss": images, "patch_loss": patches}  # with its weight, as officially
        means = {"mean": t.to(p.dtype).mean((0, 1))[None], "patch_mean": t_patch.mean((0, 1), dtype=p.dtype)[None]}
        return {"loss": images + patches, **parts, **means, "targets": p[0].clone(), "scores": s[1].clone()}

    @torch.no_grad()
    def _teacher(self, whole: Tensor) -> tuple[Tensor, Tensor]:
        backbone, head = self.teacher
        seen = backbone.tokens(whole)  # type: ignore[operator]
        return torch.stack(head(seen.cls).chunk(2)), head(seen.patches, patches=True)

    def _masks(self, batch: Batch) -> Tensor:
        """(2B, N) bool: the hidden patches of the two global views."""
        patch = self.backbone.patch_size
        assert patch is not None
        rows, columns = (side // patch for side in batch.views[0].shape[-2:])
        ratios, spreads = torch.tensor([self.cfg.mask_ratios, self.cfg.mask_spreads], device=batch.index.device)
        at = batch.progress
        keys = torch.cat([keys_of("masks", at.seed, at.step, view, batch.index) for view in range(2)])
        which = (uniform(keys, "which") * len(ratios)).long()
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

"""DINO -- Caron, Touvron, Misra, Jégou, Mairal, Bojanowski and Joulin, ICCV 2021. https://arxiv.org/abs/2104.14294"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from .. import core, label_free, layers, losses
from ..backbones.base import Backbone
from ..core import Batch, DataFacts, Method, Needs, Outputs, Progress
from ..optim import Optim
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


class DINO(Method):
    """Self-distillation without labels: predict, from each view, the EMA teacher's output for the global views."""

    @dataclass(frozen=True)
    class Config(core.Config):
        """The official code's ImageNet setting for a ViT-S/16 (100 epochs)."""

        hidden_dim: int = 2048
        """Width of the head's two hidden layers."""
        bottleneck_dim: int = 256
        """Dimension of the head's bottleneck, whose output is compared with the prototypes."""
        prototypes: int = 65536
        """Dimension of the head's output, K: the number of prototypes."""
        norm: bool | None = None
        """BatchNorm after each hidden layer of the head; None: for CNNs only."""
        student_temp: float = 0.1
        """Divides the student's scores, above 0. Lower values give sharper predictions."""
        teacher_temp: Schedule = Schedule(0.04, every="epoch", grid="dino")
        """Divides the teacher's scores, above 0. Below `student_temp`, so that targets are sharper than predictions."""
        centering: bool = True
        """Subtract the running mean of the teacher's scores, which prevents one prototype from dominating."""
        center_momentum: float = 0.9
        """EMA coefficient of the centre, per step, in [0, 1]. Closer to 1 it changes more slowly."""
        momentum: Schedule = Schedule(0.996, 1.0, "cosine", grid="dino")
        """EMA coefficient of the teacher, per step, in [0, 1]. Closer to 1 it changes more slowly."""
        freeze_epochs: float = 1.0
        """Epochs at the start in which the head's last layer is frozen."""
        drop_path: float = 0.1
        """Stochastic depth: probability of skipping the student's last block, in [0, 1); falls to 0 at the first."""
        views: tuple[View, ...] = dino_views(0.4, local=8)
        """The first two views are the global ones."""
        optim: Optim = Optim(
            "adamw", lr=5e-4, weight_decay=Schedule(0.04, 0.4, "cosine", grid="dino"), warmup_epochs=10, final_lr=1e-6,
            grid="dino", clip=3.0, clip_mode="parameter",
        )  # fmt: skip

        def __post_init__(self) -> None:
            check_positive(self, "hidden_dim", "bottleneck_dim", "prototypes", "student_temp")
            check_temperature(teacher_temp=self.teacher_temp)
            check_momentum(momentum=self.momentum, center_momentum=self.center_momentum)
            check_crops(self)
            check_not_negative(self, "freeze_epochs")
            check_drop_path(self.drop_path)

        @property
        def needs(self) -> Needs:
            # raw scores of all images are similar until the centre is subtracted
            return Needs(drop_path=self.drop_path, couples_batch=False, handed_over=("mean",), watch_heads=False)

        def fit_to(self, data: DataFacts) -> Self:
            """Fewer prototypes for few images; a higher rate and a sharper, faster teacher in short trainings.

            CNNs get the LARS setting of the official ResNet-50 (800 epochs). BatchNorm in the head unless a ViT trains
            on about as many images as ImageNet's. Small images get two views without blur: local views of 14 pixels
            show nothing.
            """
            cfg = self
            prototypes = prototypes_for(data.images, cfg.prototypes)
            momentum = teacher_for(data.steps, cfg.momentum)
            norm = True if cfg.norm is None and data.images < IMAGES[1] else cfg.norm
            cfg = dataclasses.replace(cfg, prototypes=prototypes, momentum=momentum, norm=norm)
            temp = teacher_temp_for(data.steps, cfg.teacher_temp)
            cfg = dataclasses.replace(cfg, teacher_temp=temp, optim=paced(cfg.optim, 4e-3, data, scaled=True))
            if data.image_size <= 64:
                cfg = dataclasses.replace(cfg, views=cropped_from(0.2, without_blur(two_global(cfg.views))))
            if data.patch_size is None:
                lars = Optim(
                    "lars", lr=0.3, weight_decay=Schedule(1e-6), warmup_epochs=10, final_lr=0.0048, grid="dino"
                )  # fmt: skip
                cfg = dataclasses.replace(cfg, drop_path=0.0, optim=paced(lars, 2.0, data))
            return cfg

    cfg: Config

    def __init__(self, cfg: Config, backbone: Backbone) -> None:
        super().__init__(cfg, backbone)
        norm = backbone.patch_size is None if cfg.norm is None else cfg.norm
        self.head = layers.DINOHead(backbone.dim, cfg.hidden_dim, cfg.bottleneck_dim, cfg.prototypes, norm=norm)
        self.teacher = layers.Teacher(self.backbone, self.head)
        self.center = layers.Center(cfg.prototypes, cfg.center_momentum)

    @property
    def encoder(self) -> Backbone:
        return self.teacher[0]  # type: ignore[return-value]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        s = layers.embed(self.backbone, self.head, batch.views)  # (V, B, K)
        t = torch.stack(layers.by_size(self.teacher, batch.views[:2]))  # (2, B, K)
        p = self.center(t, self.cfg.teacher_temp(batch.progress))  # (2, B, K), rows sum to 1
        loss = losses.cross_view(s, p, self.cfg.student_temp)
        mean = t.to(p.dtype).mean((0, 1))[None]  # (1, K)
        return {"loss": loss, "mean": mean, "targets": p[0].clone(), "scores": s[1].clone()}

    def before_step(self, at: Progress) -> None:
        if at.epoch < self.cfg.freeze_epochs:
            self.head.freeze_last()

    def after_step(self, at: Progress, outputs: Sequence[Outputs]) -> None:
        if self.cfg.centering:
            self.center.move(layers.joined(outputs, "mean").mean(0))
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
        return unbalanced(self.cfg.teacher_temp, self.cfg.student_temp, self.cfg.centering)

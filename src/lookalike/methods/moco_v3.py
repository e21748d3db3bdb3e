"""MoCo v3 -- Chen, Xie and He, ICCV 2021. https://arxiv.org/abs/2104.02057"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from torch import Tensor

from .. import core, distributed, label_free, layers, losses
from ..backbones.base import Backbone
from ..backbones.vit import ViT
from ..core import Batch, DataFacts, Method, Outputs, Progress
from ..optim import Optim
from ..schedules import Schedule
from ..views import BYOL_VIEWS, View, cropped_from, without_blur
from ._checks import check_momentum, check_positive, check_views, too_fast
from ._fitting import fitted


class MoCoV3(Method):
    """Match a view's prediction with the momentum encoder's key of the other view, among all keys of the batch."""

    @dataclass(frozen=True)
    class Config(core.Config):
        """The official code's ImageNet setting for a ResNet-50 (300 epochs); `fit_to` has the one for ViTs."""

        hidden_dim: int = 4096
        """Width of the hidden layers of projection and prediction head."""
        out_dim: int = 256
        """Dimension of queries and keys."""
        momentum: Schedule = Schedule(0.99, 1.0, "cosine", grid="open")
        """EMA coefficient of the momentum encoder, per step, in [0, 1]. Closer to 1 it changes more slowly."""
        temperature: float = 1.0
        """Divides the cosine similarities, above 0. Lower values put more weight on hard negatives."""
        freeze_patches: bool = True
        """Freeze a ViT's patch embedding at its random initial weights, which stabilises the training (section 4.2)."""
        views: tuple[View, ...] = cropped_from(0.2, BYOL_VIEWS)
        optim: Optim = Optim(
            "lars", lr=0.3, weight_decay=Schedule(1e-6), warmup_epochs=10, grid="open"
        )  # fmt: skip

        def __post_init__(self) -> None:
            check_positive(self, "hidden_dim", "out_dim", "temperature")
            check_momentum(momentum=self.momentum)
            check_views(self, 2)

        def fit_to(self, data: DataFacts) -> Self:
            """The paper's setting for ViTs if the backbone is one; a higher learning rate in short trainings.

            Small images are not blurred, and get the temperature of solo-learn's CIFAR-10 setting.
            """
            cfg = self
            if data.patch_size is not None:
                cfg = dataclasses.replace(cfg, temperature=0.2, views=cropped_from(0.08, cfg.views))
            cfg = dataclasses.replace(cfg, optim=fitted(cfg.optim, 1.0, data))
            if data.image_size <= 64:
                cfg = dataclasses.replace(cfg, views=without_blur(cfg.views), temperature=0.2)
            return cfg

    cfg: Config

    def __init__(self, cfg: Config, backbone: Backbone) -> None:
        super().__init__(cfg, backbone)
        hidden, out = cfg.hidden_dim, cfg.out_dim
        if isinstance(backbone, ViT):
            backbone.start_as_moco_v3(freeze_patches=cfg.freeze_patches)
            self.projector = layers.mlp(backbone.dim, hidden, hidden, out, bias=False, last_norm="plain")
            self.predictor = layers.mlp(out, hidden, out, bias=False, last_norm="plain")
        else:
            self.projector = layers.mlp(backbone.dim, hidden, out, bias=False, last_norm="plain")
            self.predictor = layers.mlp(out, hidden, out, bias=False)
        self.momentum_encoder = layers.Teacher(self.backbone, self.projector)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        # as in the official code, one view at a time: BatchNorm statistics are per view
        q1, q2 = (self.predictor(self.projector(self.backbone(view))) for view in batch.views)  # (B, D)
        k1, k2 = (self.momentum_encoder(view) for view in batch.views)  # (B, D)
        p2 = q2
        q1, q2, k1, k2 = (distributed.gather(x) for x in (q1, q2, k1, k2))  # (B over all processes, D)
        t = self.cfg.temperature
        return {"loss": losses.contrast(q1, k2, t) + losses.contrast(q2, k1, t), "prediction": p2}

    def after_step(self, at: Progress, outputs: Sequence[Outputs]) -> None:
        self.momentum_encoder.follow(self.backbone, self.projector, momentum=self.cfg.momentum(at))

    def before_training(self) -> None:
        self.momentum_encoder.copy(self.backbone, self.projector)

    def metrics(self, outputs: Outputs) -> dict[str, float]:
        return {
            "teacher_distance": self.momentum_encoder.distance(self.backbone, self.projector),
            "predictor_rank": label_free.effective_rank(outputs["prediction"]),
        }

    def diagnose(self) -> str:
        return too_fast(self.cfg.momentum.start, "--momentum.start")

"""BYOL -- Grill et al., NeurIPS 2020. https://arxiv.org/abs/2006.07733"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from torch import Tensor, nn

from .. import core, label_free, layers, losses
from ..backbones.base import Backbone
from ..core import Batch, DataFacts, Method, Needs, Outputs, Progress
from ..optim import Optim
from ..schedules import Schedule
from ..views import BYOL_VIEWS, View, without_blur
from ._checks import check_momentum, check_positive, check_views, too_fast
from ._fitting import IMAGES, fitted, momentum_for


class BYOL(Method):
    """Predict the target network's projection of the image's other view; the target is an EMA. No negatives."""

    @dataclass(frozen=True)
    class Config(core.Config):
        """The paper's ImageNet setting for a ResNet-50 (1,000 epochs, appendix C)."""

        hidden_dim: int = 4096
        """Width of the hidden layers of projector and predictor."""
        out_dim: int = 256
        """Dimension of projections and predictions."""
        momentum: Schedule = Schedule(0.996, 1.0, "cosine", grid="open")
        """EMA coefficient of the target network (the paper's tau), per step, in [0, 1]. Closer to 1 it changes more
        slowly."""
        predictor: bool = True
        """Give the online network a predictor. Without it the representation collapses (appendix F.4)."""
        views: tuple[View, ...] = BYOL_VIEWS
        optim: Optim = Optim(
            "lars", lr=0.2, weight_decay=Schedule(1.5e-6), warmup_epochs=10, grid="open"
        )  # fmt: skip

        def __post_init__(self) -> None:
            check_positive(self, "hidden_dim", "out_dim")
            check_momentum(momentum=self.momentum)
            check_views(self, 2)

        @property
        def needs(self) -> Needs:
            return Needs(couples_batch=False)

        def fit_to(self, data: DataFacts) -> Self:
            """A lower EMA coefficient for few images, a higher rate in short trainings, no blur for small images."""
            cfg = self
            start = momentum_for(data.images, cfg.momentum.start, IMAGES)
            momentum = dataclasses.replace(cfg.momentum, start=start)
            cfg = dataclasses.replace(cfg, momentum=momentum, optim=fitted(cfg.optim, 1.0, data))
            if data.image_size <= 64:
                cfg = dataclasses.replace(cfg, views=without_blur(cfg.views))
            return cfg

    cfg: Config

    def __init__(self, cfg: Config, backbone: Backbone) -> None:
        super().__init__(cfg, backbone)
        self.projector = layers.mlp(backbone.dim, cfg.hidden_dim, cfg.out_dim, bias=False)
        self.predictor: nn.Module = nn.Identity()
        if cfg.predictor:
            self.predictor = layers.mlp(cfg.out_dim, cfg.hidden_dim, cfg.out_dim, bias=False)
        self.target = layers.Teacher(self.backbone, self.projector)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        # as in the official code, one view at a time: BatchNorm statistics are per view
        p1, p2 = (self.predictor(self.projector(self.backbone(view))) for view in batch.views)  # (B, D)
        t1, t2 = (self.target(view) for view in batch.views)  # (B, D)
        return {"loss": (losses.byol(p1, t2) + losses.byol(p2, t1)).mean(), "prediction": p2}

    def after_step(self, at: Progress, outputs: Sequence[Outputs]) -> None:
        self.target.follow(self.backbone, self.projector, momentum=self.cfg.momentum(at))

    def before_training(self) -> None:
        self.target.copy(self.backbone, self.projector)

    def metrics(self, outputs: Outputs) -> dict[str, float]:
        return {
            "teacher_distance": self.target.distance(self.backbone, self.projector),
            "predictor_rank": label_free.effective_rank(outputs["prediction"]),
        }

    def diagnose(self) -> str:
        if not self.cfg.predictor:
            return "There is no predictor. Leave --no-predictor out."
        return too_fast(self.cfg.momentum.start, "--momentum.start")

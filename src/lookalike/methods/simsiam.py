"""SimSiam -- Chen and He, CVPR 2021. https://arxiv.org/abs/2011.10566"""

import dataclasses
from dataclasses import dataclass
from typing import Self

from torch import Tensor

from .. import core, label_free, layers, losses
from ..backbones.base import Backbone
from ..core import Batch, DataFacts, Method, Needs, Outputs
from ..optim import Group, Optim
from ..schedules import Schedule
from ..views import MOCO_VIEW, View, without_blur
from ._checks import check_positive, check_views
from ._fitting import fitted


class SimSiam(Method):
    """Predict the projection of the image's other view, with a stop-gradient on it. No negatives, no EMA."""

    @dataclass(frozen=True)
    class Config(core.Config):
        """The paper's ImageNet setting (100 epochs)."""

        out_dim: int = 2048
        """Width of the projector's layers and dimension of the predictions."""
        predictor_dim: int = 512
        """Width of the predictor's hidden layer, a bottleneck."""
        stop_gradient: bool = True
        """Stop the gradient at the predicted projection. Without it the representation collapses (section 4.1)."""
        views: tuple[View, ...] = (dataclasses.replace(MOCO_VIEW, count=2),)
        optim: Optim = Optim(
            "sgd", lr=0.05, weight_decay=Schedule(1e-4), every="epoch", grid="open", exclude=False
        )  # fmt: skip

        def __post_init__(self) -> None:
            check_positive(self, "out_dim", "predictor_dim")
            check_views(self, 2)

        @property
        def needs(self) -> Needs:
            return Needs(couples_batch=False)

        def fit_to(self, data: DataFacts) -> Self:
            """No blur, more weight decay for small images (appendix D, CIFAR-10); a higher rate in short trainings."""
            cfg = self
            if data.image_size <= 64:
                optim = dataclasses.replace(cfg.optim, lr=0.03, weight_decay=Schedule(5e-4))
                cfg = dataclasses.replace(cfg, views=without_blur(cfg.views), optim=optim)
            return dataclasses.replace(cfg, optim=fitted(cfg.optim, 0.1, data))

    cfg: Config

    def __init__(self, cfg: Config, backbone: Backbone) -> None:
        super().__init__(cfg, backbone)
        d = cfg.out_dim
        self.projector = layers.mlp(backbone.dim, d, d, d, bias=False, last_norm="plain")
        self.predictor = layers.mlp(d, cfg.predictor_dim, d)

    def groups(self) -> list[Group]:
        return [Group(self.predictor.parameters(), lr=Schedule(self.cfg.optim.lr))]  # no decay (section 4.2)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        # as in the official code, one view at a time: BatchNorm statistics are per view
        z1, z2 = (self.projector(self.backbone(view)) for view in batch.views)  # (B, D)
        p1, p2 = self.predictor(z1), self.predictor(z2)  # (B, D)
        loss = (losses.simsiam(p1, z2) + losses.simsiam(p2, z1)) / 2
        if not self.cfg.stop_gradient:  # swapping the arguments gives the gradient to z, which `losses.simsiam` stops
            loss = (loss + (losses.simsiam(z2, p1) + losses.simsiam(z1, p2)) / 2) / 2
        return {"loss": loss, "prediction": p2}

    def metrics(self, outputs: Outputs) -> dict[str, float]:
        return {"predictor_rank": label_free.effective_rank(outputs["prediction"])}

    def diagnose(self) -> str:
        return "" if self.cfg.stop_gradient else "The stop-gradient is off. Leave --no-stop-gradient out."

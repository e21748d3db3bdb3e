"""VICReg -- Bardes, Ponce and LeCun, ICLR 2022. https://arxiv.org/abs/2105.04906"""

import dataclasses
from dataclasses import dataclass
from typing import Self

from torch import Tensor

from .. import core, distributed, label_free, layers, losses
from ..backbones.base import Backbone
from ..core import Batch, DataFacts, Method, Outputs
from ..optim import Optim
from ..schedules import Schedule
from ..views import BYOL_VIEWS, View, without_blur
from ._checks import check_not_negative, check_positive, check_views, too_few_for
from ._fitting import fitted, width_for


class VICReg(Method):
    """Bring two views of an image together; keep the variance of each dimension up and their covariances near 0."""

    @dataclass(frozen=True)
    class Config(core.Config):
        """The paper's ImageNet setting for a ResNet-50 (1,000 epochs, appendix)."""

        hidden_dim: int = 8192
        """Width of the projector's two hidden layers."""
        out_dim: int = 8192
        """Dimension of the embeddings, D."""
        sim_coeff: float = 25.0
        """Weight of the invariance term, the squared distance of the two views."""
        std_coeff: float = 25.0
        """Weight of the variance term, which prevents collapse."""
        cov_coeff: float = 1.0
        """Weight of the covariance term, which decorrelates the dimensions."""
        views: tuple[View, ...] = BYOL_VIEWS
        optim: Optim = Optim(
            "lars", lr=0.2, weight_decay=Schedule(1e-6), warmup_epochs=10, final_factor=0.001, grid="open"
        )  # fmt: skip

        def __post_init__(self) -> None:
            check_positive(self, "hidden_dim", "out_dim")
            check_views(self, 2)
            check_not_negative(self, "sim_coeff", "std_coeff", "cov_coeff")

        def fit_to(self, data: DataFacts) -> Self:
            """Fewer dimensions for few images, a higher rate in short trainings, no blur for small images."""
            cfg = self
            hidden, out = (width_for(data.images, width) for width in (cfg.hidden_dim, cfg.out_dim))
            cfg = dataclasses.replace(cfg, hidden_dim=hidden, out_dim=out)
            if data.image_size <= 64:
                cfg = dataclasses.replace(cfg, views=without_blur(cfg.views))
            return dataclasses.replace(cfg, optim=fitted(cfg.optim, 1.0, data))

        def warnings(self, data: DataFacts) -> list[str]:
            return too_few_for(self.out_dim, data)

    cfg: Config

    def __init__(self, cfg: Config, backbone: Backbone) -> None:
        super().__init__(cfg, backbone)
        self.projector = layers.mlp(backbone.dim, cfg.hidden_dim, cfg.hidden_dim, cfg.out_dim, bias=False)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        # as in the official code, one view at a time: BatchNorm statistics are per view
        z1, z2 = (self.projector(self.backbone(view)) for view in batch.views)  # (B, D)
        z = z1
        z1, z2 = distributed.gather(z1), distributed.gather(z2)  # (B, D), B over all processes
        cfg = self.cfg
        return losses.vicreg(z1, z2, cfg.sim_coeff, cfg.std_coeff, cfg.cov_coeff, eps=1e-4) | {"embedding": z}

    def metrics(self, outputs: Outputs) -> dict[str, float]:
        return {
            "embedding_correlation": label_free.correlation(outputs["embedding"]),
            "embedding_deviation": label_free.deviation(outputs["embedding"]),
        }

    def diagnose(self) -> str:
        return "" if self.cfg.std_coeff else "Without the variance term embeddings collapse. Give --std-coeff 25."

"""Barlow Twins -- Zbontar, Jing, Misra, LeCun and Deny, ICML 2021. https://arxiv.org/abs/2103.03230"""

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
from ._fitting import fitted, narrowed, width_for


class BarlowTwins(Method):
    """Bring the cross-correlation matrix of two views' embeddings close to the identity: agreement, no redundancy."""

    @dataclass(frozen=True)
    class Config(core.Config):
        """The official code's ImageNet setting for a ResNet-50 (1,000 epochs)."""

        hidden_dim: int = 8192
        """Width of the projector's two hidden layers."""
        out_dim: int = 8192
        """Dimension of the embeddings, D."""
        lambd: float = 0.0051
        """Weight of the redundancy reduction term, the off-diagonal correlations; 0.005 in the paper."""
        views: tuple[View, ...] = BYOL_VIEWS
        optim: Optim = Optim(
            "lars", lr=0.2, lr_bias=0.0048, weight_decay=Schedule(1e-6), warmup_epochs=10, final_factor=0.001,
            grid="open",
        )  # fmt: skip

        def __post_init__(self) -> None:
            check_positive(self, "hidden_dim", "out_dim")
            check_views(self, 2)
            check_not_negative(self, "lambd")

        def fit_to(self, data: DataFacts) -> Self:
            """Fewer dimensions for few images or small batches, a higher rate, no blur for small images.

            The paper's 8,192 dimensions for batches of 2,048 are 4 per image: the limit in short trainings.
            """
            cfg = self
            hidden, out = (width_for(data.images, width) for width in (cfg.hidden_dim, cfg.out_dim))
            cfg = dataclasses.replace(cfg, hidden_dim=narrowed(hidden, 8, data), out_dim=narrowed(out, 4, data))
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
        return {"loss": losses.barlow_twins(z1, z2, self.cfg.lambd, eps=1e-5), "embedding": z}

    def metrics(self, outputs: Outputs) -> dict[str, float]:
        return {"embedding_correlation": label_free.correlation(outputs["embedding"])}

    def diagnose(self) -> str:
        if self.cfg.lambd:
            return ""
        return "With lambd 0 nothing decorrelates the dimensions of the embedding. Give --lambd 0.0051."

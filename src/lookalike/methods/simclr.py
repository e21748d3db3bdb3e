"""SimCLR -- Chen, Kornblith, Norouzi and Hinton, ICML 2020. https://arxiv.org/abs/2002.05709"""

import dataclasses
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from .. import core, distributed, layers, losses
from ..backbones.base import Backbone
from ..core import Batch, DataFacts, Method
from ..optim import Optim
from ..schedules import Schedule
from ..views import SIMCLR_VIEW, View, half_colour, without_blur
from ._checks import check_positive, check_views
from ._fitting import fitted


class SimCLR(Method):
    """Pull two views of an image together and push every other image in the batch away."""

    @dataclass(frozen=True)
    class Config(core.Config):
        """The paper's ImageNet setting. LARS as in the official code: momentum accumulates lr times the gradient."""

        hidden_dim: int = 2048
        """Width of the projection head's hidden layer."""
        out_dim: int = 128
        """Dimension of the projections z, which the loss compares."""
        temperature: float = 0.1
        """Divides the cosine similarities, above 0. Lower values put more weight on hard negatives."""
        views: tuple[View, ...] = (SIMCLR_VIEW,)
        optim: Optim = Optim(
            "lars_simclr", lr=0.3, weight_decay=Schedule(1e-6), warmup_epochs=10, grid="open"
        )  # fmt: skip

        def __post_init__(self) -> None:
            check_positive(self, "hidden_dim", "out_dim", "temperature")
            check_views(self, 2)

        def fit_to(self, data: DataFacts) -> Self:
            """CIFAR-10's setting for small images: half the colour strength, no blur, temperature 0.5, learning rate 1.

            They are from the paper's appendix B.9 and the official README. Short trainings get a higher learning rate.
            """
            cfg = self
            if data.image_size <= 64:
                views, optim = half_colour(without_blur(cfg.views)), dataclasses.replace(cfg.optim, lr=1.0)
                cfg = dataclasses.replace(cfg, views=views, temperature=0.5, optim=optim)
            return dataclasses.replace(cfg, optim=fitted(cfg.optim, 1.0, data))

    cfg: Config

    def __init__(self, cfg: Config, backbone: Backbone) -> None:
        super().__init__(cfg, backbone)
        # the last BatchNorm, without shift, is in the official code and not in the paper's figure
        self.projector = layers.mlp(backbone.dim, cfg.hidden_dim, cfg.out_dim, bias=False, last_norm="scale")

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        z = self.projector(self.backbone(torch.cat(batch.views)))  # (2B, D)
        z1, z2 = (distributed.gather(v) for v in z.chunk(2))  # (B, D) each, B over all processes
        return {"loss": losses.nt_xent(z1, z2, self.cfg.temperature)}

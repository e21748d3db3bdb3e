"""SupCon -- Khosla et al., NeurIPS 2020. https://arxiv.org/abs/2004.11362"""

import dataclasses
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from .. import core, distributed, layers, losses
from ..backbones.base import Backbone
from ..core import Batch, DataFacts, Method, Needs
from ..optim import Optim
from ..schedules import Schedule
from ..views import MOCO_VIEW, SIMCLR_VIEW, View, without_blur
from ._checks import check_positive
from ._fitting import fitted


class SupCon(Method):
    """Pull all images of a class together and push those of other classes away: SimCLR with labels."""

    @dataclass(frozen=True)
    class Config(core.Config):
        """Optimizer and temperature of Google's ImageNet script for a ResNet-50 (350 epochs).

        Four things differ from that script: the head is the official PyTorch code's (two layers, no normalisation of
        the features before it), SimCLR's views replace AutoAugment, the loss is the paper's, and biases have no decay.
        """

        hidden_dim: int = 2048
        """Width of the projection head's hidden layer."""
        out_dim: int = 128
        """Dimension of the projections z, which the loss compares."""
        temperature: float = 0.1
        """Divides the cosine similarities, above 0. Lower values put more weight on hard positives and negatives."""
        base_temperature: float | None = None
        """The loss is multiplied by temperature / base_temperature (0.07 in the official code). Without it by 1."""
        views: tuple[View, ...] = (SIMCLR_VIEW,)
        optim: Optim = Optim(
            "lars_simclr", lr=0.4, weight_decay=Schedule(1e-3), warmup_epochs=12, grid="open"
        )  # fmt: skip

        def __post_init__(self) -> None:
            check_positive(self, "hidden_dim", "out_dim", "temperature")
            if self.base_temperature is not None:
                check_positive(self, "base_temperature")
            if (count := sum(view.count for view in self.views)) < 2:
                raise ValueError(f"SupCon compares 2 views of each image or more, and views make {count}.")

        @property
        def needs(self) -> Needs:
            return Needs(labels=True)

        def fit_to(self, data: DataFacts) -> Self:
            """The official PyTorch code's CIFAR-10 views for small images; a higher learning rate in short trainings.

            That code's SGD is not used: its k-NN after 300 steps is 14 points below LARS's (`docs/fitting.md`).
            """
            views = self.views
            if data.image_size <= 64:
                small = (dataclasses.replace(MOCO_VIEW, size=v.size, count=v.count, kernel=v.kernel) for v in views)
                views = without_blur(tuple(small))
            return dataclasses.replace(self, views=views, optim=fitted(self.optim, 1.0, data))

    cfg: Config

    def __init__(self, cfg: Config, backbone: Backbone) -> None:
        super().__init__(cfg, backbone)
        self.projector = layers.mlp(backbone.dim, cfg.hidden_dim, cfg.out_dim, norm=False)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        z = self.projector(self.backbone(torch.cat(batch.views)))  # (VB, D)
        z = torch.stack(z.chunk(len(batch.views)), 1)  # (VB, D) -> (B, V, D)
        labels = None if batch.labels is None else distributed.gather(batch.labels)
        t = self.cfg.temperature
        return {"loss": losses.supcon(distributed.gather(z), labels, t, self.cfg.base_temperature or t)}

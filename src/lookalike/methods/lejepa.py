"""LeJEPA -- Balestriero and LeCun, 2025. https://arxiv.org/abs/2511.08544"""

import dataclasses
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import core, distributed, label_free, layers, losses
from ..backbones.base import Backbone
from ..core import Batch, DataFacts, Method, Outputs, Progress
from ..optim import Optim
from ..random import keys_of, normal
from ..schedules import Schedule
from ..views import BYOL_VIEWS, View, two_global, without_blur
from ._checks import check_crops, check_positive
from ._fitting import STEPS, paced

_GLOBAL = dataclasses.replace(BYOL_VIEWS[0], count=2, scale=(0.3, 1.0), blur=0.5, solarize=0.2)


class LeJEPA(Method):
    """Bring an image's views together while the embeddings of all images follow an isotropic normal distribution."""

    @dataclass(frozen=True)
    class Config(core.Config):
        """The setting that the official code recommends for a ResNet on ImageNet."""

        hidden_dim: int = 2048
        """Width of the projector's two hidden layers."""
        out_dim: int = 128
        """Dimension of the embeddings."""
        lamb: float = 0.05
        """Weight of SIGReg, the test of normality, in [0, 1]; the prediction loss between views has 1 - lamb."""
        directions: int = 1024
        """Number of random directions onto which embeddings are projected for the test; redrawn in each step."""
        points: int = 17
        """Number of points at which the empirical characteristic function is compared with the normal one's."""
        t_max: float = 3.0
        """The largest of these points, above 0."""
        views: tuple[View, ...] = (_GLOBAL, dataclasses.replace(_GLOBAL, size=98, count=6, scale=(0.05, 0.3)))
        """The first two views are the global ones; all views are pulled to their mean."""
        optim: Optim = Optim(
            "adamw", lr=5e-4, scaling="none", weight_decay=Schedule(5e-4), warmup_epochs=1, warmup_lr=5e-6,
            final_factor=0.001, grid="open", exclude=False,
        )  # fmt: skip

        def __post_init__(self) -> None:
            check_positive(self, "hidden_dim", "out_dim", "directions", "t_max")
            check_crops(self)
            if not 0 <= self.lamb <= 1 or self.points < 2:
                raise ValueError(f"lamb is {self.lamb} and points {self.points}; give 0 <= lamb <= 1 and 2 or more.")

        def fit_to(self, data: DataFacts) -> Self:
            """More weight decay and a rate of 1e-3 for a ViT in short trainings, LARS for CNNs below 30,000 steps; two
            views without blur for small images.

            After 300 steps the k-NN accuracy with the paper's AdamW, at its best learning rate, is 10 points below
            LARS's (`docs/fitting.md`). No learning rate of LARS is published for long trainings, so these keep the
            paper's optimizer.
            """
            cfg = self
            if data.patch_size is not None:
                of_vits = dataclasses.replace(cfg.optim, weight_decay=Schedule(5e-2))
                cfg = dataclasses.replace(cfg, optim=paced(of_vits, 1e-3, data))
            elif data.steps < STEPS[1]:
                lars = Optim("lars", lr=0.2, weight_decay=Schedule(1e-6), warmup_epochs=10, grid="open")
                cfg = dataclasses.replace(cfg, optim=paced(lars, 2.0, data))
            if data.image_size <= 64:
                cfg = dataclasses.replace(cfg, views=without_blur(two_global(cfg.views)))
            return cfg

    cfg: Config

    def __init__(self, cfg: Config, backbone: Backbone) -> None:
        super().__init__(cfg, backbone)
        self.projector = layers.mlp(backbone.dim, cfg.hidden_dim, cfg.hidden_dim, cfg.out_dim)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        cfg = self.cfg
        z = layers.embed(self.backbone, self.projector, batch.views)  # (V, B, D)
        first = z[0]
        z = distributed.gather(z.transpose(0, 1)).transpose(0, 1)  # (V, B, D), B over all processes
        directions = self._directions(batch.progress, z.device)
        world = distributed.world()
        if cfg.directions % world == 0:  # each process tests its part; their mean is the whole test
            directions = directions[:, distributed.rank() :: world]
        return losses.lejepa(z, directions, 2, cfg.lamb, cfg.t_max, cfg.points) | {"embedding": first}

    def _directions(self, at: Progress, device: torch.device) -> Tensor:
        """Unit columns (D, S), S directions, the same on all processes."""
        index = torch.arange(self.cfg.out_dim * self.cfg.directions, device=device)
        drawn = normal(keys_of("directions", at.seed, at.step, index)).view(self.cfg.out_dim, -1)  # (D, S)
        return F.normalize(drawn, dim=0)

    def metrics(self, outputs: Outputs) -> dict[str, float]:
        return {
            "embedding_correlation": label_free.correlation(outputs["embedding"]),
            "embedding_deviation": label_free.deviation(outputs["embedding"]),
        }

    def diagnose(self) -> str:
        return "" if self.cfg.lamb else "With lamb 0 nothing prevents collapse. Give --lamb 0.05."

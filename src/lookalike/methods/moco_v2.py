"""MoCo v2 -- Chen, Fan, Girshick and He, 2020. https://arxiv.org/abs/2003.04297

MoCo -- He, Fan, Wu, Xie and Girshick, CVPR 2020. https://arxiv.org/abs/1911.05722
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from .. import core, distributed, layers, losses
from ..backbones.base import Backbone
from ..core import Batch, DataFacts, Method, Needs, Outputs, Progress
from ..optim import Optim
from ..random import permutation
from ..schedules import Schedule
from ..views import MOCO_VIEW, View, without_blur
from ._checks import check_momentum, check_positive, check_queue, check_views, too_fast
from ._fitting import IMAGES, fitted, momentum_for


class MoCoV2(Method):
    """Match two views of an image against a queue of thousands of earlier images as negatives."""

    @dataclass(frozen=True)
    class Config(core.Config):
        """The official code's ImageNet setting (`--mlp --moco-t 0.2 --aug-plus --cos`)."""

        hidden_dim: int = 2048
        """Width of the projection head's hidden layer; as wide as a ResNet-50's features in the official code."""
        out_dim: int = 128
        """Dimension of queries and keys."""
        queue: int = 65536
        """Number of keys in the queue, the negatives of each query; a multiple of the batch size."""
        momentum: float = 0.999
        """EMA coefficient of the momentum encoder, per step, in [0, 1]. Closer to 1 it changes more slowly, and the
        keys in the queue stay comparable."""
        temperature: float = 0.2
        """Divides the cosine similarities, above 0. Lower values put more weight on hard negatives."""
        views: tuple[View, ...] = (dataclasses.replace(MOCO_VIEW, count=2),)
        optim: Optim = Optim(
            "sgd", lr=0.03, weight_decay=Schedule(1e-4), every="epoch", grid="open", exclude=False
        )  # fmt: skip

        def __post_init__(self) -> None:
            check_positive(self, "hidden_dim", "out_dim", "queue", "temperature")
            check_momentum(momentum=self.momentum)
            check_views(self, 2)

        @property
        def needs(self) -> Needs:
            # BatchNorm statistics are per process; keys are shuffled between processes instead
            return Needs(sync_batchnorm=False, couples_batch=False, handed_over=("keys",))

        def fit_to(self, data: DataFacts) -> Self:
            """Queue and momentum for few images, CIFAR-10's setting for small images, a higher rate in short trainings.

            The queue holds whole batches, at least one, and at most a twelfth of the images, as in the official
            CIFAR-10 notebook: otherwise an image's own old keys would be among its negatives. Momentum, temperature and
            weight decay are that notebook's.
            """
            cfg = self
            batches = max(1, min(cfg.queue, data.images // 12) // data.batch_size)
            momentum = momentum_for(data.images, cfg.momentum, IMAGES)
            cfg = dataclasses.replace(cfg, queue=batches * data.batch_size, momentum=momentum)
            if data.image_size <= 64:
                optim = dataclasses.replace(cfg.optim, weight_decay=Schedule(5e-4))
                cfg = dataclasses.replace(cfg, views=without_blur(cfg.views), temperature=0.1, optim=optim)
            return dataclasses.replace(cfg, optim=fitted(cfg.optim, 0.1, data))

        def check(self, data: DataFacts) -> None:
            check_queue(self.queue, data.batch_size)

    cfg: Config

    def __init__(self, cfg: Config, backbone: Backbone) -> None:
        super().__init__(cfg, backbone)
        self.projector = layers.mlp(backbone.dim, cfg.hidden_dim, cfg.out_dim, norm=False)
        self.momentum_encoder = layers.Teacher(self.backbone, self.projector)
        self.queue = layers.Queue(cfg.out_dim, cfg.queue)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        view_q, view_k = batch.views
        q = self.projector(self.backbone(view_q))  # (B, D)
        k = self._keys_of(view_k, batch.progress)  # (B, D)
        return {"loss": losses.info_nce(q, k, self.queue.keys, self.cfg.temperature), "keys": k}

    @torch.no_grad()
    def _keys_of(self, view: Tensor, at: Progress) -> Tensor:
        """Shuffled BatchNorm (MoCo, section 3.3): (B, C, H, W) -> keys (B, D).

        The momentum encoder computes each key in another batch than its query's. If both shared BatchNorm statistics,
        these would give the key away.
        """
        world, rank = distributed.world(), distributed.rank()
        if world == 1:
            keys: Tensor = self.momentum_encoder(view)
            return keys
        joined = distributed.gather(view)
        order = permutation(len(joined), "shuffle", at.seed, at.step).to(view.device)  # the same on all processes
        shuffled = self.momentum_encoder(joined[order.chunk(world)[rank]])
        back = order.argsort().chunk(world)[rank]
        return distributed.gather(shuffled)[back]

    def after_step(self, at: Progress, outputs: Sequence[Outputs]) -> None:
        self.queue.add(layers.joined(outputs, "keys"))
        self.momentum_encoder.follow(self.backbone, self.projector, momentum=self.cfg.momentum)

    def before_training(self) -> None:
        self.momentum_encoder.copy(self.backbone, self.projector)

    def metrics(self, outputs: Outputs) -> dict[str, float]:
        return {
            "teacher_distance": self.momentum_encoder.distance(self.backbone, self.projector),
            "queue_age": self.queue.age(),
            "queue_filled": self.queue.filled(),
        }

    def diagnose(self) -> str:
        return too_fast(self.cfg.momentum, "--momentum")

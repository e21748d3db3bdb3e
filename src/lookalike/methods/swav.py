"""SwAV -- Caron, Misra, Mairal, Goyal, Bojanowski and Joulin, NeurIPS 2020. https://arxiv.org/abs/2006.09882"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, cast

import torch
from torch import Tensor

from .. import core, distributed, label_free, layers, losses
from ..backbones.base import Backbone
from ..core import Batch, DataFacts, Method, Needs, Outputs, Progress
from ..optim import Optim
from ..schedules import Schedule
from ..sinkhorn import sinkhorn
from ..views import SWAV_VIEWS, View, half_colour, two_global, without_blur
from ._checks import check_crops, check_not_negative, check_positive, check_prototypes, check_queue
from ._fitting import STEPS, between, fitted, groups_for


class SwAV(Method):
    """Sort a view of an image into one of many groups, evenly filled, and tell the group from its other views."""

    @dataclass(frozen=True)
    class Config(core.Config):
        """The official code's ImageNet setting for a ResNet-50 and batches of 256 images (200 epochs)."""

        hidden_dim: int = 2048
        """Width of the projector's hidden layer."""
        out_dim: int = 128
        """Width of the embedding."""
        prototypes: int = 3000
        """Directions that embeddings are compared with: the groups."""
        temperature: float = 0.1
        """Divides cosines in the prediction of a group."""
        epsilon: float = 0.05
        """Divides cosines where views are shared out among the groups. Lower makes each view's group clearer."""
        sinkhorn_iterations: int = 3
        """How often the sharing is balanced, so that all groups get about as many views."""
        queue: int = 3840
        """Earlier embeddings that are shared out together with a small batch; a multiple of the batch size, or 0."""
        queue_starts: float = 15
        """The queue collects from this epoch on, and is used once it is full."""
        freeze_epochs: float = 1.0
        """Epochs in which the prototypes stay as they began."""
        views: tuple[View, ...] = SWAV_VIEWS
        """The first two views are the global ones."""
        optim: Optim = Optim(
            "larc", lr=0.6, weight_decay=Schedule(1e-6), final_factor=0.001, grid="dino", exclude=False
        )  # fmt: skip

        def __post_init__(self) -> None:
            check_positive(self, "hidden_dim", "out_dim", "prototypes", "temperature", "epsilon")
            check_crops(self)
            check_not_negative(self, "sinkhorn_iterations", "queue", "queue_starts", "freeze_epochs")

        @property
        def needs(self) -> Needs:
            return Needs(handed_over=("z1", "z2") if self.queue else ())

        def fit_to(self, data: DataFacts) -> Self:
            """Fewer prototypes and a shorter queue for few images; a higher rate and temperature in a short training.

            Small images get two views with half the colour strength and no blur: local views of 14 pixels show nothing.
            Large batches get the official setting for 4,096 images: no queue, half the learning rate and a warm-up.
            """
            cfg = self
            queue = min(cfg.queue, data.images // 12)  # as in MoCo v2: an image should not meet its own old embedding
            if data.batch_size >= 2048:
                optim = dataclasses.replace(cfg.optim, lr=0.3, warmup_epochs=10, warmup_lr=0.3)
                cfg, queue = dataclasses.replace(cfg, optim=optim), 0
            if data.image_size <= 64:
                cfg = dataclasses.replace(cfg, views=half_colour(without_blur(two_global(cfg.views))))
            return dataclasses.replace(
                cfg, prototypes=groups_for(data.images, cfg.prototypes),
                queue=queue // data.batch_size * data.batch_size,
                temperature=between(0.2, cfg.temperature, data.steps, STEPS), optim=fitted(cfg.optim, 1.0, data),
            )  # fmt: skip

        def check(self, data: DataFacts) -> None:
            check_prototypes(self.prototypes, data.images)
            if self.queue:
                check_queue(self.queue, data.batch_size)

    cfg: Config

    def __init__(self, cfg: Config, backbone: Backbone) -> None:
        super().__init__(cfg, backbone)
        self.projector = layers.mlp(backbone.dim, cfg.hidden_dim, cfg.out_dim)
        self.prototypes = layers.Prototypes(cfg.out_dim, cfg.prototypes)
        queues = [layers.Queue(cfg.out_dim, cfg.queue) for _ in range(2) if cfg.queue]
        self.queues = cast("Sequence[layers.Queue]", torch.nn.ModuleList(queues))  # of each global view

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        z = losses.unit(layers.embed(self.backbone, self.projector, batch.views))  # (V, B, D)
        scores = self.prototypes(z)  # (V, B, K)
        q = torch.stack([self._codes(s, i) for i, s in enumerate(scores[:2].detach())])  # (2, B, K)
        loss = losses.cross_view(scores, q, self.cfg.temperature)
        # copies, since slices would keep all views
        return {"loss": loss, "scores": scores[0].clone(), "z1": z[0].clone(), "z2": z[1].clone()}

    @torch.no_grad()
    def _codes(self, scores: Tensor, view: int) -> Tensor:
        """The paper's codes: each image's shares (B, K) of the prototypes, by the scores (B, K) of one global view."""
        images = len(scores)
        if self.queues and self.queues[view].full():
            own = self.queues[view].keys.T[distributed.rank() :: distributed.world()]  # (L over the processes, D)
            # not by calling the module, whose outputs are watched: these are earlier embeddings'
            scores = torch.cat([self.prototypes.forward(own), scores])
        return sinkhorn(scores, self.cfg.epsilon, self.cfg.sinkhorn_iterations)[-images:]

    def before_step(self, at: Progress) -> None:
        if at.epoch < self.cfg.freeze_epochs:
            self.prototypes.weight.grad = None

    def after_step(self, at: Progress, outputs: Sequence[Outputs]) -> None:
        self.prototypes.normalize()
        if at.epoch >= self.cfg.queue_starts:
            for queue, name in zip(self.queues, ("z1", "z2")):
                queue.add(layers.joined(outputs, name))

    def metrics(self, outputs: Outputs) -> dict[str, float]:
        found = {"queue_filled": self.queues[0].filled()} if self.queues else {}
        shares = (outputs["scores"] / self.cfg.temperature).softmax(1)
        return found | {
            "prototype_usage": label_free.usage(shares), "assignment_entropy": label_free.entropy(shares),
        }  # fmt: skip

    def diagnose(self) -> str:
        if not self.cfg.sinkhorn_iterations:
            return "Nothing fills the groups evenly: all images fall into one prototype. Give --sinkhorn-iterations 3."
        if self.cfg.epsilon >= self.cfg.temperature:
            return (
                f"With --epsilon {self.cfg.epsilon:g} and --temperature {self.cfg.temperature:g} what is to be told is "
                "vaguer than what tells it: one answer for all images will do. Give --epsilon "
                f"{min(0.05, self.cfg.temperature / 2):.2g}."
            )
        return ""

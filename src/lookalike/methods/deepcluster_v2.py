"""DeepCluster-v2 -- Caron, Misra, Mairal, Goyal, Bojanowski and Joulin, NeurIPS 2020. https://arxiv.org/abs/2006.09882

DeepCluster -- Caron, Bojanowski, Joulin and Douze, ECCV 2018. https://arxiv.org/abs/1807.05520
"""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self, cast

import torch
from torch import Tensor

from .. import core, distributed, label_free, layers, losses
from ..backbones.base import Backbone
from ..core import Batch, DataFacts, Method, Needs, Outputs, Progress
from ..kmeans import spherical_kmeans
from ..optim import Optim
from ..printing import counted
from ..random import permutation
from ..schedules import Schedule
from ..views import SWAV_VIEWS, View, half_colour, two_global, without_blur
from ._checks import check_crops, check_positive, check_prototypes
from ._fitting import fitted, groups_for


class DeepClusterV2(Method):
    """Cluster the embeddings of all images by k-means in each epoch, and predict an image's cluster from its views."""

    @dataclass(frozen=True)
    class Config(core.Config):
        """The official code's ImageNet setting for a ResNet-50 (800 epochs, batches of 4,096 images)."""

        hidden_dim: int = 2048
        """Width of the projection head's hidden layer."""
        out_dim: int = 128
        """Dimension of the embeddings."""
        prototypes: tuple[int, ...] = (3000, 3000, 3000)
        """Number of clusters of each head; each head has its own k-means."""
        kmeans_iterations: int = 10
        """Iterations of each k-means."""
        bank: int = 1_281_167
        """Rows of the memory bank, one per image; at least the number of images."""
        temperature: float = 0.1
        """Divides the predictions' cosine similarities, above 0. Lower values give sharper predictions."""
        views: tuple[View, ...] = SWAV_VIEWS
        """The first two views are the global ones, whose embeddings are stored in the bank and clustered."""
        optim: Optim = Optim(
            "larc", lr=0.3, weight_decay=Schedule(1e-6), warmup_epochs=10, warmup_lr=0.3, final_factor=0.001,
            grid="dino", exclude=False,
        )  # fmt: skip

        def __post_init__(self) -> None:
            check_positive(self, "hidden_dim", "out_dim", "bank", "temperature")
            check_crops(self)
            if not self.prototypes or min(self.prototypes) < 1:
                raise ValueError(f"prototypes is {self.prototypes}; give each head's number of clusters, at least 1.")
            if self.kmeans_iterations < 1:
                raise ValueError(f"kmeans_iterations is {self.kmeans_iterations}; it must be at least 1.")

        @property
        def needs(self) -> Needs:
            return Needs(memory_bank=2 * self.bank * self.out_dim, handed_over=("index", "z1", "z2"))

        def fit_to(self, data: DataFacts) -> Self:
            """A bank of the data's size; fewer prototypes for few images, a higher rate in short trainings.

            Small images get two views with half the colour strength and no blur: local views of 14 pixels show nothing.
            """
            cfg = self
            if data.image_size <= 64:
                cfg = dataclasses.replace(cfg, views=half_colour(without_blur(two_global(cfg.views))))
            # the official warm-up starts at 1/16 of the rate for 4,096 images, which exceeds the rate of small batches
            rise = min(cfg.optim.warmup_lr, cfg.optim.lr * cfg.optim.factor(data.batch_size))
            optim = dataclasses.replace(cfg.optim, warmup_lr=rise)
            prototypes = tuple(groups_for(data.images, k) for k in cfg.prototypes)
            return dataclasses.replace(cfg, prototypes=prototypes, bank=data.images, optim=fitted(optim, 1.0, data))

        def check(self, data: DataFacts) -> None:
            an_epoch = data.images // data.batch_size * data.batch_size or data.images
            check_prototypes(max(self.prototypes), an_epoch)
            if self.bank < data.images:
                raise ValueError(
                    f"--bank {self.bank} has no room for {counted(data.images, 'image')}. Give --bank {data.images}."
                )

    cfg: Config
    bank: Tensor
    """(2, N, D): each image's last embeddings of its two global views, unit length; zeros for images not seen yet."""
    assignments: Tensor
    """(H, N) int64: each image's cluster by each of H heads; -100 for images not seen yet."""
    clustered: Tensor
    """() int64: the epoch that the clusters are for; -1 before the first clustering."""

    def __init__(self, cfg: Config, backbone: Backbone) -> None:
        super().__init__(cfg, backbone)
        self.projector = layers.mlp(backbone.dim, cfg.hidden_dim, cfg.out_dim)
        heads = torch.nn.ModuleList([layers.Prototypes(cfg.out_dim, k) for k in cfg.prototypes])
        self.prototypes = cast("Sequence[layers.Prototypes]", heads.requires_grad_(False))  # centroids, not trained
        self.register_buffer("bank", torch.zeros(2, cfg.bank, cfg.out_dim))
        self.register_buffer("assignments", torch.full((len(cfg.prototypes), cfg.bank), -100))
        self.register_buffer("clustered", torch.tensor(-1))

    def initialize_bank(self, batches: Iterable[Batch]) -> None:
        seed = 0
        for batch in batches:
            seed = batch.progress.seed
            z1, z2 = self._embed(batch.views[:2])
            self._remember([{"index": batch.index, "z1": z1, "z2": z2}])
        self._cluster(0, seed)

    def _embed(self, views: list[Tensor]) -> Tensor:
        return losses.unit(layers.embed(self.backbone, self.projector, views))  # (V, B, D)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        if self.training and self.clustered < 0:
            raise RuntimeError(
                "DeepClusterV2 has no clusters yet. Call initialize_bank(batches) once before the first step."
            )
        z = self._embed(batch.views)
        groups = self.assignments[:, batch.index]  # (H, B)
        t = self.cfg.temperature
        total = torch.stack([losses.deepcluster_v2(head(z), g, t) for head, g in zip(self.prototypes, groups)]).mean()
        # the mean over processes, which may have different numbers of images without a cluster
        known = distributed.mean((groups[0] >= 0).sum().to(total.dtype))
        loss = total / (known * len(z)).clamp(min=1)
        return {"loss": loss, "index": batch.index, "z1": z[0].clone(), "z2": z[1].clone()}

    def after_step(self, at: Progress, outputs: Sequence[Outputs]) -> None:
        self._remember(outputs)
        epoch = (at.step + 1) // at.steps_per_epoch
        # checked in each step: an epoch's last step may have been skipped
        if epoch > self.clustered and at.step + 1 < at.steps:
            self._cluster(epoch, at.seed)

    def _remember(self, outputs: Sequence[Outputs]) -> None:
        """Stores a step's embeddings (B, D) of two views in the bank; the last ones if an image occurs twice."""
        index, z1, z2 = (layers.joined(outputs, name) for name in ("index", "z1", "z2"))
        z = torch.stack([z1, z2])  # (2, B, D)
        finite = z.isfinite().all(2).all(0).nonzero().squeeze(1)
        rows = finite[index[finite].argsort(stable=True)]  # stable: rows of one image stay in their order
        images = index[rows]
        last = torch.ones_like(images, dtype=torch.bool)
        last[:-1] = images[1:] != images[:-1]  # without this, a GPU would write any of an image's rows
        self.bank[:, images[last]] = z[:, rows[last]].to(self.bank.dtype)

    def _cluster(self, epoch: int, seed: int = 0) -> None:
        """Clusters all images seen so far, for each head, and sets its prototypes to the centroids."""
        seen = self.bank[0].any(1).nonzero().squeeze(1)
        for h, head in enumerate(self.prototypes):
            x = self.bank[h % 2, seen]
            k = len(head.weight)
            if len(x) < k:  # broken images are replaced by others, which are then seen twice
                raise ValueError(
                    f"{counted(len(x), 'image')} cannot form {counted(k, 'cluster')}. Give fewer --prototypes."
                )
            first = permutation(len(x), "k-means", seed, epoch, h)[:k].to(x.device)
            centroids, groups = spherical_kmeans(x, x[first], self.cfg.kmeans_iterations)
            head.weight.copy_(centroids)
            self.assignments[h, seen] = groups
        self.clustered.fill_(epoch)

    def metrics(self, outputs: Outputs) -> dict[str, float]:
        sizes = [g[g >= 0].bincount(minlength=len(p.weight)) for g, p in zip(self.assignments, self.prototypes)]
        return {
            "empty_clusters": max(float((size == 0).double().mean()) for size in sizes),
            "cluster_entropy": min(label_free.entropy(size / size.sum().clamp(min=1)) for size in sizes),
        }

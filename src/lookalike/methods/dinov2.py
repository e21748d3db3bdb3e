"""DINOv2 -- Oquab, Darcet, Moutakanni et al., TMLR 2024. https://arxiv.org/abs/2304.07193"""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor

from .. import core, distributed, label_free, layers, losses, masks
from ..backbones.base import Backbone
from ..core import Batch, DataFacts, Method, Needs, Outputs, Progress
from ..optim import Group, Optim
from ..parts import summed_in_parts
from ..random import keys_of, uniform
from ..schedules import Schedule
from ..sinkhorn import assigned, balance, sinkhorn
from ..views import View, dino_views, larger, two_global, without_blur
from ._checks import (
    check_crops,
    check_drop_path,
    check_momentum,
    check_not_negative,
    check_positive,
    check_temperature,
    unbalanced,
)
from ._fitting import prototypes_for, teacher_for, teacher_temp_for


class DINOv2(Method):
    """DINO's loss on images, iBOT's on masked patches, and KoLeo, which spreads the features of a batch."""

    @dataclass(frozen=True)
    class Config(core.Config):
        """The official code's default setting: a ViT-L/16 on ImageNet, 125,000 steps of 2,048 images.

        Drop path rises with depth, where the official code has one probability for all blocks. Layer scale depends on
        the backbone (timm's names with `dinov2` have it).
        """

        hidden_dim: int = 2048
        """Width of the heads' two hidden layers."""
        bottleneck_dim: int = 256
        """Dimension of the heads' bottleneck, whose output is compared with the prototypes."""
        prototypes: int = 65536
        """Dimension of a head's output, K: the number of prototypes."""
        separate_heads: bool = False
        """Give patches a head of their own, as in the paper's large trainings. Otherwise they share the image head."""
        student_temp: float = 0.1
        """Divides the student's scores, above 0. Lower values give sharper predictions."""
        teacher_temp: Schedule = Schedule(0.07, warmup_epochs=30, warmup_start=0.04, grid="dino")
        """Divides the teacher's scores, above 0. Lower values give sharper targets."""
        centering: Literal["softmax", "sinkhorn"] = "softmax"
        """How one prototype is prevented from dominating: softmax subtracts the running mean of the teacher's scores,
        sinkhorn balances the scores of a batch."""
        center_momentum: float = 0.9
        """EMA coefficient of the two centres, per step, in [0, 1]. Closer to 1 they change more slowly."""
        momentum: Schedule = Schedule(0.992, 1.0, "cosine", grid="dino")
        """EMA coefficient of the teacher, per step, in [0, 1]. Closer to 1 it changes more slowly."""
        mask_probability: float = 0.5
        """Fraction of a batch's global views that have masked patches, in [0, 1]."""
        mask_ratios: tuple[float, float] = (0.1, 0.5)
        """Smallest and largest fraction of masked patches in such a view, in [0, 1]; spread evenly over a batch."""
        patch_weight: float = 1.0
        """Weight of the patch loss; the image loss has weight 1."""
        koleo_weight: float = 0.1
        """Weight of the KoLeo regulariser, for each global view."""
        freeze_epochs: float = 1.0
        """Epochs at the start in which the heads' last layers are frozen; clipping still counts their gradients."""
        patch_lr: float = 0.2
        """Factor on the learning rate of the patch embedding."""
        drop_path: float = 0.3
        """Stochastic depth: probability of skipping the student's last block, in [0, 1); falls to 0 at the first."""
        large_epochs: float = 0.0
        """Epochs at the end with larger global views: the paper's short high-resolution stage."""
        large_size: int = 518
        """Side of the global views in those epochs, in pixels; local views keep their size."""
        views: tuple[View, ...] = dino_views(0.32, local=8)
        """The first two views are the global ones."""
        optim: Optim = Optim(
            "adamw", lr=4e-3, scaling="sqrt", base_batch=1024, layer_decay=0.9, warmup_epochs=10, final_lr=1e-6,
            weight_decay=Schedule(0.04, 0.4, "cosine", grid="dino"), grid="dino", clip=3.0, clip_mode="module",
        )  # fmt: skip

        def __post_init__(self) -> None:
            check_positive(self, "hidden_dim", "bottleneck_dim", "prototypes", "student_temp")
            check_temperature(teacher_temp=self.teacher_temp)
            check_momentum(momentum=self.momentum, center_momentum=self.center_momentum)
            check_crops(self, joined=True)
            check_not_negative(self, "freeze_epochs", "patch_weight", "koleo_weight", "patch_lr", "large_epochs")
            check_drop_path(self.drop_path)
            low, high = self.mask_ratios
            if not (0 <= low <= high <= 1 and 0 <= self.mask_probability <= 1):
                raise ValueError(
                    f"mask_ratios {self.mask_ratios} and mask_probability {self.mask_probability} must lie within 0 "
                    "and 1, the smaller ratio first."
                )

        @property
        def needs(self) -> Needs:
            # raw scores of all images are similar until the centre is subtracted
            own = ("mean", "patch_sum", "patch_count")
            return Needs(mask_token=True, drop_path=self.drop_path, handed_over=own, watch_heads=False)

        def fit_to(self, data: DataFacts) -> Self:
            """Fewer prototypes for few images; a sharper, faster teacher in short trainings.

            Small images get two views without blur.
            """
            cfg = self
            prototypes = prototypes_for(data.images, cfg.prototypes)
            momentum = teacher_for(data.steps, cfg.momentum)
            cfg = dataclasses.replace(cfg, prototypes=prototypes, momentum=momentum)
            if cfg.large_epochs and data.patch_size:
                cfg = dataclasses.replace(
                    cfg, large_size=max(1, round(cfg.large_size / data.patch_size)) * data.patch_size
                )
            cfg = dataclasses.replace(cfg, teacher_temp=teacher_temp_for(data.steps, cfg.teacher_temp))
            if data.image_size <= 64:
                cfg = dataclasses.replace(cfg, views=without_blur(two_global(cfg.views)))
            return cfg

        def check(self, data: DataFacts) -> None:
            """Refuses a high-resolution stage whose views are not larger than those before."""
            if self.large_epochs and self.large_size <= self.views[0].size:
                raise ValueError(
                    f"--large-size {self.large_size} is no larger than the global views of {self.views[0].size} "
                    "pixels. Give more, or --large-epochs 0."
                )

        def views_at(self, at: Progress) -> tuple[View, ...]:
            if at.epoch < at.steps / at.steps_per_epoch - self.large_epochs:
                return self.views
            return larger(self.views, self.large_size)

    cfg: Config

    def __init__(self, cfg: Config, backbone: Backbone) -> None:
        super().__init__(cfg, backbone)

        def head() -> layers.DINOHead:
            return layers.DINOHead(backbone.dim, cfg.hidden_dim, cfg.bottleneck_dim, cfg.prototypes, learn_scale=True)

        self.head = head()
        self.patch_head = head() if cfg.separate_heads else None
        self.teacher = layers.Teacher(*self._student())
        self.center = layers.Center(cfg.prototypes, cfg.center_momentum)
        self.patch_center = layers.Center(cfg.prototypes, cfg.center_momentum)
        self.frozen: list[tuple[Tensor, Tensor]] = []
        """Parameters that are frozen in this step, with their values before it."""

    def _student(self) -> list[torch.nn.Module]:
        return [part for part in (self.backbone, self.head, self.patch_head) if part is not None]

    @property
    def encoder(self) -> Backbone:
        return self.teacher[0]  # type: ignore[return-value]

    def groups(self) -> list[Group]:
        patches = [p for name, p in self.backbone.named_parameters() if "patch_embed" in name]
        return [Group(patches, lr_scale=self.cfg.patch_lr)]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        cfg, at, b = self.cfg, batch.progress, len(batch.index)
        whole = torch.cat(batch.views[:2])  # (2B, C, H, W)
        masked = self._masks(batch)  # (2B, N)
        student = self.backbone.tokens(whole, masked)
        local = layers.by_size(self.backbone, batch.views[2:])
        s = torch.stack(self.head(torch.cat([student.cls, *local])).split(b))  # (V, B, K)
        t, t_masked = self._teacher(whole, masked)  # (2, B, K), (M, D)
        tau = cfg.teacher_temp(at)
        balanced = cfg.centering == "sinkhorn"  # over both views jointly
        p = sinkhorn(t.flatten(0, 1), tau, 3).view(t.shape) if balanced else self.center(t, tau)  # (2, B, K)
        per_image = masked.sum(1, keepdim=True).expand_as(masked)[masked]  # (M,)
        patch_loss, patch_sum = self._patches(student.patches[masked], t_masked, per_image, 2 * b, tau)
        koleo = torch.stack([losses.koleo(distributed.gather(x), 1e-8) for x in student.cls.chunk(2)]).sum()
        parts = {  # as the official code logs them: koleo weighted, the patch loss not
            "image_loss": losses.cross_view(s, p, cfg.student_temp),
            "patch_loss": patch_loss,
            "koleo": cfg.koleo_weight * koleo,
        }
        loss = parts["image_loss"] + cfg.patch_weight * parts["patch_loss"] + parts["koleo"]
        # sum and count instead of the mean: processes have different numbers of masked patches
        sums = {"patch_sum": patch_sum[None], "patch_count": masked.sum()[None]}
        means = {"mean": t.to(p.dtype).mean((0, 1))[None], **sums}
        return {"loss": loss, **parts, **means, "targets": p[0].clone(), "scores": s[1].clone()}

    @torch.no_grad()
    def _teacher(self, whole: Tensor, masked: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.teacher[0].tokens(whole)  # type: ignore[operator]
        return torch.stack(self.teacher[1](tokens.cls).chunk(2)), tokens.patches[masked]

    def _patches(self, x: Tensor, y: Tensor, per_image: Tensor, images: int, tau: float) -> tuple[Tensor, Tensor]:
        """The loss of the masked patches, of student x and teacher y (M, D), and the sum (K,) of the teacher's scores.

        With a joint loss, scores (M, K) of all patches would be most of the memory: they are computed in parts.
        """
        cfg, head, teacher = self.cfg, self.patch_head or self.head, self.teacher[-1]
        balanced, count, exact = cfg.centering == "sinkhorn", self.backbone.micro_batches, self.center.center.dtype
        if count == 1:
            t = teacher(y)  # (M, K)
            p = sinkhorn(t, tau, 3) if balanced else self.patch_center(t, tau)  # (M, K)
            return losses.masked_patches(head(x), p, per_image, images, cfg.student_temp), t.sum(0, dtype=p.dtype)

        def scores() -> Iterator[Tensor]:
            return map(teacher, y.tensor_split(count))

        offset = balance(scores, tau, 3) if balanced else None  # (K,)

        def loss(x: Tensor, y: Tensor, per_image: Tensor) -> Tensor:
            t = teacher(y)
            p = self.patch_center(t, tau) if offset is None else assigned(t, tau, offset)
            return losses.masked_patches(head(x), p, per_image, images, cfg.student_temp)

        total = torch.stack([t.sum(0, dtype=exact) for t in scores()]).sum(0)
        return summed_in_parts(loss, count, x, y, per_image), total

    def _masks(self, batch: Batch) -> Tensor:
        """(2B, N) bool: the masked patches of the two global views, drawn jointly for all processes."""
        patch = self.backbone.patch_size
        assert patch is not None
        rows, columns = (side // patch for side in batch.views[0].shape[-2:])
        at, index = batch.progress, distributed.gather(batch.index)
        keys = torch.cat([keys_of("masks", at.seed, at.step, view, index) for view in range(2)])
        count = int(len(keys) * self.cfg.mask_probability)  # masked views: the first ones in a shuffled order
        low, high = self.cfg.mask_ratios
        rank = uniform(keys, "order").argsort(stable=True).argsort()
        ratio = low + (high - low) * (rank + uniform(keys, "ratio")) / max(count, 1)
        counts = torch.where(rank < count, (ratio * rows * columns).long(), 0)
        drawn = masks.block_masks(keys, counts, rows, columns, 4, rows * columns // 2).flatten(1)
        own = len(batch.index)
        first = distributed.rank() * own
        return torch.cat([both[first : first + own] for both in drawn.chunk(2)])

    def before_step(self, at: Progress) -> None:
        """Freezes the heads' last layers in the first epochs, like the official code's learning rate of 0 for them.

        Their gradients still count in the clipping and in the optimizer's moments, so `after_step` restores the values.
        """
        self.frozen = []
        if at.epoch < self.cfg.freeze_epochs:
            own = [p for head in (self.head, self.patch_head) if head is not None for p in head.last_parameters()]
            self.frozen = [(p, p.detach().clone()) for p in own]

    @torch.no_grad()
    def after_step(self, at: Progress, outputs: Sequence[Outputs]) -> None:
        for p, before in self.frozen:
            p.copy_(before)
        if self.cfg.centering == "softmax":
            self.center.move(layers.joined(outputs, "mean").mean(0))
            count = layers.joined(outputs, "patch_count").sum()
            if int(count):
                self.patch_center.move(layers.joined(outputs, "patch_sum").sum(0) / count)
        self.teacher.follow(*self._student(), momentum=self.cfg.momentum(at))

    def before_training(self) -> None:
        self.teacher.copy(*self._student())

    def metrics(self, outputs: Outputs) -> dict[str, float]:
        found = {
            "teacher_distance": self.teacher.distance(*self._student()),
            "center_norm": float(self.center.center.norm()),
        }
        targets, scores = outputs["targets"], outputs["scores"]
        return found | label_free.of_targets(targets, scores, self.cfg.student_temp)

    def diagnose(self) -> str:
        return unbalanced(self.cfg.teacher_temp, self.cfg.student_temp, True)

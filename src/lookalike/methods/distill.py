"""Distillation of a frozen teacher into a small student, on images without labels.

Both see the same view, as in Beyer et al., CVPR 2022, https://arxiv.org/abs/2106.05237. The objectives are distances of
features; the similarities of SEED (Fang et al., ICLR 2021, https://arxiv.org/abs/2101.04731); and the loss of VICReg
(Bardes et al., ICLR 2022, https://arxiv.org/abs/2105.04906) between student and teacher.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import core, distributed, encoders, layers, losses
from ..backbones.base import Backbone
from ..core import Batch, DataFacts, Method, Needs, Outputs, Progress
from ..foreign import is_tag
from ..optim import Optim
from ..printing import LONGEST_PATH, brief, counted
from ..random import key_of
from ..schedules import Schedule
from ..views import MOCO_VIEW, View, at_least
from ._checks import check_not_negative, check_positive, check_queue
from ._fitting import paced

Feature = Literal["class", "patches"]
OBJECTIVES = ("mse", "cosine", "vicreg", "relational")
"""The fields that weigh them."""
VIT_LR, CNN_LR = 4e-3, 1.6e-2
"""AdamW's learning rate per 256 images in a short training."""


class Memory(Protocol):
    """What a teacher said of images, kept for the epochs and runs to come."""

    def recall(
        self, index: Tensor, turn: int, ask: Callable[[Tensor], Tensor], device: torch.device | None = None
    ) -> Tensor:
        """The rows (B, W) of images, by their places in the data set (B,), in one of their repeated views.

        They come on `device`, or else that of `index`.

        Where one is not known yet, `ask` is called with the rows (B,) of the whole batch; of its answer (B, W) what was
        not known is kept.
        """


class Distill(Method):
    """Say of a view what a frozen, pretrained teacher says of it."""

    @dataclass(frozen=True)
    class Config(core.Config):
        """DINOv2's ViT-B/14 teaches; the views are MoCo v2's without blur."""

        teacher: str = "timm/vit_base_patch14_dinov2.lvd142m"
        """A run's folder, a weights file (ours, or an official one of DINO or DINOv2), timm/NAME, torchvision/NAME or
        torchhub/NAME."""
        teacher_backbone: str = ""
        """The teacher's architecture, where it is a file that does not say it."""
        teacher_size: int | None = None
        """Pixels that the teacher sees. Fitting takes those that it was made for; without it the student's."""
        teacher_feature: Feature = "class"
        """What the teacher says of a view as a whole: its class token (of a CNN the pooled feature), or the mean of its
        patches."""
        student_feature: Feature = "class"
        """What of the student is to meet it."""
        hidden_dim: int = 0
        """Width of the hidden layer of the student's heads. With 0 they are linear, and none where widths agree."""
        mse: float = 1.0
        """Weight of the squared distance of normalised features, which is twice that of `cosine`."""
        cosine: float = 0.0
        """Weight of 1 - cosine."""
        vicreg: float = 0.0
        """Weight of VICReg's loss; the teacher's features are standardised over the batch for it."""
        relational: float = 0.0
        """Weight of telling how near an image is to those of a queue, in the eyes of the teacher."""
        class_weight: float = 1.0
        """Weight of the features of views as a whole."""
        patch_weight: float = 0.5
        """Weight of patches, which meet the teacher's by `mse` and `cosine`."""
        sim_coeff: float = 25.0
        """Of `vicreg`: weight of the distance to the teacher."""
        std_coeff: float = 25.0
        """Of `vicreg`: weight of the variance."""
        cov_coeff: float = 1.0
        """Of `vicreg`: weight of the covariance."""
        queue: int = 65536
        """Of `relational`: earlier features of the teacher to compare with; a multiple of the batch size."""
        student_temp: float = 0.2
        """Of `relational`: divides the student's cosines."""
        teacher_temp: float = 0.01
        """Of `relational`: divides the teacher's cosines."""
        cache_teacher: bool = False
        """Give each image the same views in each epoch, and ask the teacher once: its answers are kept in `--cache-dir`
        for this run, and for later ones with the same teacher, images and views."""
        cached_views: int = 1
        """With `cache_teacher`: epochs after which an image's views come again."""
        views: tuple[View, ...] = (dataclasses.replace(MOCO_VIEW, blur=0.0),)
        """The first recipe makes the global views, which the teacher sees, too; others are the student's alone."""
        optim: Optim = Optim("adamw", lr=1e-3, weight_decay=Schedule(0.05), warmup_epochs=10)

        def __post_init__(self) -> None:
            check_positive(self, "student_temp", "teacher_temp", "queue", "cached_views", "class_weight")
            check_not_negative(self, *OBJECTIVES, "patch_weight", "hidden_dim")
            check_not_negative(self, "sim_coeff", "std_coeff", "cov_coeff")
            if self.teacher_size is not None:
                check_positive(self, "teacher_size")
            if not any(vars(self)[name] for name in OBJECTIVES):
                raise ValueError(f"Nothing is to be learnt: give one of {', '.join(OBJECTIVES)} a weight above 0.")
            sizes = [view.size for view in self.views]
            if not sizes or max(sizes) > sizes[0]:
                raise ValueError(
                    f"Distill takes the first recipe of its views for the global ones, and views have {sizes} pixels. "
                    "Put the largest first."
                )

        @property
        def teacher_pixels(self) -> int:
            return self.teacher_size or self.views[0].size

        @property
        def tells_patches(self) -> bool:
            return bool(self.patch_weight and (self.mse or self.cosine))

        @property
        def needs(self) -> Needs:
            repeats = self.cached_views if self.cache_teacher else 0
            return Needs(repeated_views=repeats, handed_over=("teacher",) if self.relational else ())

        def fit_to(self, data: DataFacts) -> Self:
            """The teacher sees the pixels it was made for; a short queue for few images, a higher rate in few steps."""
            cfg = self
            if cfg.teacher_size is None and not is_tag(cfg.teacher):
                made_for = encoders.image_size(cfg.teacher, cfg.teacher_backbone or None)
                cfg = dataclasses.replace(cfg, teacher_size=made_for)
            if cfg.relational:
                # few images would meet their own of the epoch before
                batches = max(1, min(cfg.queue, data.images // 4) // data.batch_size)
                cfg = dataclasses.replace(cfg, queue=batches * data.batch_size)
            optim = paced(cfg.optim, VIT_LR if data.patch_size else CNN_LR, data, scaled=True)
            return dataclasses.replace(cfg, optim=optim)

        def check(self, data: DataFacts) -> None:
            if self.relational:
                check_queue(self.queue, data.batch_size)

        def views_at(self, at: Progress) -> tuple[View, ...]:
            """Global views have the pixels of teacher or student, whoever sees more, and are shrunk for the other."""
            return (at_least(self.views[0], self.teacher_pixels), *self.views[1:])

        def input_sizes(self, views: tuple[View, ...]) -> set[int]:
            return {view.size for view in self.views}

    cfg: Config
    mix: Tensor
    """(channels of the teacher, channels of the student): what makes the teacher's images of the student's."""
    shift: Tensor
    """(channels of the teacher,), which is added."""

    def __init__(self, cfg: Config, backbone: Backbone, teacher: torch.nn.Module | None = None) -> None:
        """`teacher` is a module of your own, in the place of the one that `cfg` names."""
        super().__init__(cfg, backbone)
        size = cfg.teacher_pixels
        if teacher is None:
            source = encoders.load(cfg.teacher, cfg.teacher_backbone or None)
        else:
            source = encoders.own(teacher, backbone, size)
        try:
            source.check_size(size)
        except ValueError as error:
            raise ValueError(f"The teacher: {error} Give --teacher-size.") from error
        if cfg.student_feature == "patches" and backbone.patch_size is None:
            raise ValueError(
                f"{backbone.name} is no plain ViT: what it computes after its patches would stay random. Leave "
                "--student-feature at class, which is a CNN's pooled feature."
            )
        for side, net, feature in (
            ("teacher", source, cfg.teacher_feature),
            ("student", backbone, cfg.student_feature),
        ):
            if not net.patch_dim and (cfg.tells_patches or feature == "patches"):
                raise ValueError(
                    f"The {side}, {net.name}, gives one feature per image and no patches. Give --patch-weight 0 and "
                    f"--{side}-feature class."
                )
        self.patches = source.patches_at(size) if cfg.tells_patches else 0
        """Of the teacher, in a view."""
        if cfg.tells_patches:
            _check_squares(self.patches, backbone.patches_at(cfg.views[0].size))
        self.teacher = layers.Teacher(source, frozen=True)
        self.own = teacher is not None and not isinstance(teacher, Backbone)
        """Whether the teacher takes images as the student does, whatever its mean and deviation become."""
        self.beside = layers.Beside()
        mix, shift = self._conversion()
        self.register_buffer("mix", mix, persistent=False)
        self.register_buffer("shift", shift, persistent=False)
        self.alike = False
        """Whether the teacher takes images as the student does; `before_training` sees."""
        self.width, width = (
            net.dim if feature == "class" else net.patch_dim
            for net, feature in ((source, cfg.teacher_feature), (backbone, cfg.student_feature))
        )
        self.head = _head(width, cfg.hidden_dim, self.width)
        self.patch_head = _head(backbone.patch_dim, cfg.hidden_dim, source.patch_dim) if cfg.tells_patches else None
        self.queue = layers.Queue(self.width, cfg.queue) if cfg.relational else None
        self.memory: Memory | None = None
        """Of what the teacher said; set before training, where `memory_name` says so."""

    def memory_name(self) -> str:
        """What the rows in `memory` depend on beside the images; "" where none is wanted."""
        if not self.cfg.cache_teacher:
            return ""
        cfg, net = self.cfg, self.teacher_net
        view, size = at_least(cfg.views[0], cfg.teacher_pixels), cfg.teacher_pixels
        # what weights and names do not tell, such as a module's own code, its answer does
        image = torch.linspace(-9, 9, net.channels * size**2).sin().view(1, net.channels, size, size)
        with torch.no_grad():
            answer = _seen(net, image, cfg.teacher_feature, False)[0].mul(100).round().long().flatten().tolist()
        return (
            f"{self.teacher.digest()} {key_of(*answer)} {net.name} {net.mean} {net.std} {size} {cfg.teacher_feature} "
            f"{self.patches} {view}"
        )

    def memory_width(self) -> int:
        """Numbers in a row of `memory`."""
        return self.cfg.views[0].count * (self.width + self.patches * self.teacher_net.patch_dim)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        cfg, b, g = self.cfg, len(batch.index), self.cfg.views[0].count
        with self.beside(batch.index.device):
            t, t_patches = self._told(batch)  # (G, B, D), (GB, N, P) or None
        whole = torch.cat([_resized(view, cfg.views[0].size) for view in batch.views[:g]])
        seen, patches = _seen(self.backbone, whole, cfg.student_feature, cfg.tells_patches)
        local = layers.by_size(lambda x: _seen(self.backbone, x, cfg.student_feature, False)[0], batch.views[g:])
        s = torch.unflatten(self.head(torch.cat([seen, *local])), 0, (-1, b))  # (V, B, D)
        self.beside.join(s.device)
        # a global view is told as the teacher sees this very view, a local one as it sees each of the global ones
        pairs = [(v, k) for v in range(len(s)) for k in range(g) if v >= g or v == k]
        parts, weights = {}, {}
        for name in OBJECTIVES:
            if vars(cfg)[name]:
                parts[name] = torch.stack([self._distance(name, s[v], t[k]) for v, k in pairs]).mean()
                weights[name] = cfg.class_weight * vars(cfg)[name]
        if self.patch_head is not None and patches is not None and t_patches is not None:
            told = _aligned(t_patches, patches.shape[1])
            parts["patches"] = losses.byol(self.patch_head(patches.flatten(0, 1)), told.flatten(0, 1)).mean()
            weights["patches"] = cfg.patch_weight * (cfg.mse + cfg.cosine / 2)
        loss = torch.stack([weights[name] * part for name, part in parts.items()]).sum()
        handed = {"teacher": t[0].clone()} if self.queue is not None else {}  # a part of all that was said
        return {"loss": loss, **parts, **handed}

    def _distance(self, objective: str, s: Tensor, t: Tensor) -> Tensor:
        cfg = self.cfg
        if objective == "mse":
            return losses.byol(s, t).mean()
        if objective == "cosine":
            return 1 + losses.simsiam(s, t)
        if objective == "relational":
            assert self.queue is not None
            return losses.relational(s, t, self.queue.keys, cfg.student_temp, cfg.teacher_temp)
        told = losses.standardised(distributed.gather(t), 1e-5)
        return losses.vicreg(distributed.gather(s), told, cfg.sim_coeff, cfg.std_coeff, cfg.cov_coeff, 1e-4)["loss"]

    def _told(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """What the teacher says of the global views: features (G, B, D) and patches (GB, N, P), view by view."""
        g, at = self.cfg.views[0].count, batch.progress
        views = batch.views[:g]
        if self.memory is None:
            said = self._ask(views).clone()  # out of inference mode, where nothing can be kept for a backward pass
        else:
            turn = at.step // at.steps_per_epoch % self.cfg.cached_views
            places = batch.index if batch.cpu_index is None else batch.cpu_index
            said = self.memory.recall(
                places, turn, lambda rows: self._ask([view[rows] for view in views]), batch.index.device
            )
        said = torch.unflatten(said, 1, (g, -1)).transpose(0, 1)  # (G, B, D + NP)
        feature, patches = torch.split(said, [self.width, said.shape[2] - self.width], 2)
        if not self.cfg.tells_patches:
            return feature, None
        return feature, torch.unflatten(patches.flatten(0, 1), 1, (-1, self.teacher_net.patch_dim))

    @torch.inference_mode()
    def _ask(self, views: list[Tensor]) -> Tensor:
        """The teacher's answers (B, G (D + NP)) to G views (B, C, H, W): of each its feature, and then its patches."""
        x = _resized(torch.cat(views), self.cfg.teacher_pixels)
        feature, patches = _seen(self.teacher_net, self._converted(x), self.cfg.teacher_feature, self.cfg.tells_patches)
        said = feature if patches is None else torch.cat([feature, patches.flatten(1)], 1)
        return torch.unflatten(said, 0, (len(views), -1)).transpose(0, 1).flatten(1)

    def teacher_says(self, x: Tensor) -> Tensor:
        """The features (B, D) of images that are normalised as the student's, at the teacher's size."""
        return _seen(self.teacher_net, self._converted(x), self.cfg.teacher_feature, False)[0]

    def student_says(self, x: Tensor) -> Tensor:
        """The student's features (B, D), where they are to meet the teacher's: behind its head."""
        said: Tensor = self.head(_seen(self.backbone, x, self.cfg.student_feature, False)[0])
        return said

    def _converted(self, x: Tensor) -> Tensor:
        """Images with the teacher's channels, mean and deviation in the place of the student's."""
        if self.alike:
            return x
        with torch.autocast(x.device.type, enabled=False):
            return torch.einsum("oc,bchw->bohw", self.mix.to(x.dtype), x) + self.shift[:, None, None]

    @property
    def teacher_net(self) -> Backbone:
        return self.teacher[0]  # type: ignore[return-value]

    def _conversion(self) -> tuple[Tensor, Tensor]:
        """What turns the student's images into the teacher's, which has its own channels, mean and deviation."""
        student, teacher = self.backbone, self.teacher_net
        mean, std, own_mean, own_std = (
            torch.tensor(x, dtype=torch.float64) for x in (student.mean, student.std, teacher.mean, teacher.std)
        )
        mix = _channels(student.channels, teacher.channels)
        scale, shift = mix * std / own_std[:, None], (mix @ mean - own_mean) / own_std
        return scale.float(), shift.float()

    def after_step(self, at: Progress, outputs: Sequence[Outputs]) -> None:
        if self.queue is not None:
            self.queue.add(layers.joined(outputs, "teacher"))

    def before_training(self) -> None:
        """Now the student's mean and deviation are settled."""
        if self.own:
            self.teacher_net.mean, self.teacher_net.std = self.backbone.mean, self.backbone.std
        mix, shift = self._conversion()
        self.mix.copy_(mix)
        self.shift.copy_(shift)
        self.alike = len(mix) == mix.shape[1] and torch.equal(mix, torch.eye(len(mix))) and not bool(shift.any())

    def describe(self) -> list[str]:
        net, size = self.teacher_net, self.cfg.teacher_pixels
        kept = f", asked once for each of {counted(self.cfg.cached_views, 'view')}" if self.cfg.cache_teacher else ""
        remark = f", {net.remark}" if net.remark else ""
        return [f"teacher     {brief(self.cfg.teacher, LONGEST_PATH)}: {net.name}{remark}, sees {size} px{kept}"]


def _head(dim: int, hidden_dim: int, out_dim: int) -> torch.nn.Module:
    if hidden_dim:
        return layers.mlp(dim, hidden_dim, out_dim)
    return torch.nn.Identity() if dim == out_dim else torch.nn.Linear(dim, out_dim)


def _seen(net: Backbone, x: Tensor, feature: Feature, patches: bool) -> tuple[Tensor, Tensor | None]:
    """The feature (B, D) of images as wholes and, where they are asked for, their patches (B, N, P)."""
    if feature == "class" and not patches:
        return net(x), None
    tokens = net.tokens(x)
    whole = tokens.cls if feature == "class" else tokens.patches.mean(1)
    return whole, tokens.patches if patches else None


def _resized(x: Tensor, size: int) -> Tensor:
    """Images (B, C, S, S) at another size."""
    return x if x.shape[-1] == size else F.interpolate(x, (size, size), mode="bilinear", antialias=True)


def _aligned(patches: Tensor, count: int) -> Tensor:
    """Patches (B, N, P) of a square grid, resampled to a square of `count`."""
    if patches.shape[1] == count:
        return patches
    old, new = math.isqrt(patches.shape[1]), math.isqrt(count)
    grid = torch.unflatten(patches.mT, 2, (old, old)).to(torch.promote_types(patches.dtype, torch.float32))
    return _resized(grid, new).flatten(2).mT.to(patches.dtype)


def _check_squares(told: int, seen: int) -> None:
    """Raises ValueError where patches of teacher and student cannot be laid over each other."""
    if told != seen and (math.isqrt(told) ** 2 != told or math.isqrt(seen) ** 2 != seen):
        raise ValueError(
            f"{counted(told, 'patch')} of the teacher cannot be aligned with {seen} of the student: they are no "
            "squares. Give "
            "--patch-weight 0."
        )


def _channels(of_student: int, of_teacher: int) -> Tensor:
    """The matrix (of_teacher, of_student) from the channels of one to those of the other: grey and colour."""
    if of_student == of_teacher:
        return torch.eye(of_student, dtype=torch.float64)
    if of_student == 1:
        return torch.ones(of_teacher, 1, dtype=torch.float64)
    if of_teacher == 1 and of_student == 3:
        return torch.tensor([[0.299, 0.587, 0.114]], dtype=torch.float64)  # as Pillow converts
    raise ValueError(
        f"The teacher takes images of {counted(of_teacher, 'channel')} and the student those of {of_student}. "
        "Give --channels "
        f"{of_teacher}, or a teacher of {of_student}."
    )

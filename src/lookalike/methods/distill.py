"""Distillation of a frozen teacher into a small student, on images without labels.

Both get the same view, as in Beyer et al., CVPR 2022, https://arxiv.org/abs/2106.05237. The objectives are distances
between features; the similarities of SEED (Fang et al., ICLR 2021, https://arxiv.org/abs/2101.04731); and the loss of
VICReg (Bardes et al., ICLR 2022, https://arxiv.org/abs/2105.04906) between student and teacher.
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
"""The fields with the objectives' weights."""
VIT_LR, CNN_LR = 4e-3, 1.6e-2
"""AdamW's learning rate per 256 images in short trainings."""


class Memory(Protocol):
    """A cache of teacher features, for later epochs and runs."""

    def recall(
        self, index: Tensor, turn: int, ask: Callable[[Tensor], Tensor], device: torch.device | None = None
    ) -> Tensor:
        """Teacher features (B, W) of images, given their indices in the data set (B,).

        If one is not in the cache, `ask` is called with the positions (B,) of the whole batch, and the missing rows of
        its result (B, W) are stored.

        Args:
            index: (B,), the images' indices in the data set.
            turn: which of their repeated views.
            ask: computes the features (B, W) of these positions in the batch.
            device: of the result; without it that of `index`.
        """


class Distill(Method):
    """Match a frozen, pretrained teacher's features of the same view."""

    @dataclass(frozen=True)
    class Config(core.Config):
        """DINOv2's ViT-B/14 is the teacher; the views are MoCo v2's without blur."""

        teacher: str = "timm/vit_base_patch14_dinov2.lvd142m"
        """The teacher: a run's folder, a weights file (ours, or an official one of DINO or DINOv2), timm/NAME,
        torchvision/NAME or torchhub/NAME."""
        teacher_backbone: str = ""
        """Name of the teacher's architecture, for a weights file that does not state it."""
        teacher_size: int | None = None
        """Side of the teacher's input, in pixels. Fitting chooses its pretraining size; without it the student's."""
        teacher_feature: Feature = "class"
        """The teacher's feature of a view: the class token (a CNN's pooled feature), or the mean of the patches."""
        student_feature: Feature = "class"
        """The student's feature that is trained to match it."""
        hidden_dim: int = 0
        """Width of the hidden layer of the student's heads. With 0 they are linear, or absent if dimensions agree."""
        mse: float = 1.0
        """Weight of the squared distance of normalised features, which is twice that of `cosine`; 0 switches it off."""
        cosine: float = 0.0
        """Weight of 1 - cosine similarity; 0 switches it off."""
        vicreg: float = 0.0
        """Weight of VICReg's loss, with the teacher's features standardised over the batch; 0 switches it off."""
        relational: float = 0.0
        """Weight of SEED's loss, which matches an image's similarities to those in a queue; 0 switches it off."""
        class_weight: float = 1.0
        """Weight of the losses between the features of views, above 0."""
        patch_weight: float = 0.5
        """Weight of the loss between patch features, for `mse` and `cosine`; 0 switches it off."""
        sim_coeff: float = 25.0
        """For `vicreg`: weight of the invariance term, the squared distance to the teacher."""
        std_coeff: float = 25.0
        """For `vicreg`: weight of the variance term."""
        cov_coeff: float = 1.0
        """For `vicreg`: weight of the covariance term."""
        queue: int = 65536
        """For `relational`: number of earlier teacher features in the queue; a multiple of the batch size."""
        student_temp: float = 0.2
        """For `relational`: divides the student's cosine similarities, above 0."""
        teacher_temp: float = 0.01
        """For `relational`: divides the teacher's cosine similarities, above 0. Lower values give sharper targets."""
        cache_teacher: bool = False
        """Give each image the same views in each epoch, and compute the teacher's features once: they are cached in
        `--cache-dir` for this run and for later ones with the same teacher, images and views."""
        cached_views: int = 1
        """With `cache_teacher`: number of different views per image; they repeat after as many epochs."""
        views: tuple[View, ...] = (dataclasses.replace(MOCO_VIEW, blur=0.0),)
        """The first recipe makes the global views, for teacher and student; all others are for the student only."""
        optim: Optim = Optim("adamw", lr=1e-3, weight_decay=Schedule(0.05), warmup_epochs=10)

        def __post_init__(self) -> None:
            check_positive(self, "student_temp", "teacher_temp", "queue", "cached_views", "class_weight")
            check_not_negative(self, *OBJECTIVES, "patch_weight", "hidden_dim")
            check_not_negative(self, "sim_coeff", "std_coeff", "cov_coeff")
            if self.teacher_size is not None:
                check_positive(self, "teacher_size")
            if not any(vars(self)[name] for name in OBJECTIVES):
                raise ValueError(f"All objectives have weight 0. Give one of {', '.join(OBJECTIVES)} a weight above 0.")
            sizes = [view.size for view in self.views]
            if not sizes or max(sizes) > sizes[0]:
                raise ValueError(
                    f"The first recipe of views must make the largest, the global views; their sizes are {sizes} "
                    "pixels. Put the largest first."
                )

        @property
        def teacher_pixels(self) -> int:
            return self.teacher_size or self.views[0].size

        @property
        def matches_patches(self) -> bool:
            return bool(self.patch_weight and (self.mse or self.cosine))

        @property
        def needs(self) -> Needs:
            repeats = self.cached_views if self.cache_teacher else 0
            handed = ("teacher",) if self.relational else ()
            return Needs(repeated_views=repeats, couples_batch=self.vicreg > 0, handed_over=handed)

        def fit_to(self, data: DataFacts) -> Self:
            """The teacher's pretraining size; a short queue for few images; a higher rate in short trainings."""
            cfg = self
            if cfg.teacher_size is None and not is_tag(cfg.teacher):
                size = encoders.image_size(cfg.teacher, cfg.teacher_backbone or None)
                cfg = dataclasses.replace(cfg, teacher_size=size)
            if cfg.relational:
                # a longer queue would hold an image's own feature of the epoch before
                batches = max(1, min(cfg.queue, data.images // 4) // data.batch_size)
                cfg = dataclasses.replace(cfg, queue=batches * data.batch_size)
            optim = paced(cfg.optim, VIT_LR if data.patch_size else CNN_LR, data, scaled=True)
            return dataclasses.replace(cfg, optim=optim)

        def check(self, data: DataFacts) -> None:
            if self.relational:
                check_queue(self.queue, data.batch_size)

        def views_at(self, at: Progress) -> tuple[View, ...]:
            """Global views have the larger of the teacher's and the student's size, and are resized for the other."""
            return (at_least(self.views[0], self.teacher_pixels), *self.views[1:])

        def input_sizes(self, views: tuple[View, ...]) -> set[int]:
            return {view.size for view in self.views}

    cfg: Config
    mix: Tensor
    """(C of the teacher, C of the student): with `shift`, converts the student's input into the teacher's."""
    shift: Tensor
    """(C of the teacher,)."""

    def __init__(self, cfg: Config, backbone: Backbone, teacher: torch.nn.Module | None = None) -> None:
        """`teacher`: a module of your own instead of the one that `cfg` names."""
        super().__init__(cfg, backbone)
        size = cfg.teacher_pixels
        if teacher is None:
            source = encoders.load(cfg.teacher, cfg.teacher_backbone or None)
        else:
            source = encoders.own(teacher, backbone, size)
        try:
            source.check_size(size)
        except ValueError as error:
            raise ValueError(f"Teacher: {error} Give --teacher-size.") from error
        if cfg.student_feature == "patches" and backbone.patch_size is None:
            raise ValueError(
                f"{backbone.name} is not a plain ViT: its layers after the patches would stay untrained. Leave "
                "--student-feature at class, which is a CNN's pooled feature."
            )
        for side, net, feature in (
            ("teacher", source, cfg.teacher_feature),
            ("student", backbone, cfg.student_feature),
        ):
            if not net.patch_dim and (cfg.matches_patches or feature == "patches"):
                raise ValueError(
                    f"The {side}, {net.name}, has one feature per image and no patch features. Give --patch-weight 0 "
                    f"and --{side}-feature class."
                )
        self.patches = source.patches_at(size) if cfg.matches_patches else 0
        """Number of the teacher's patches per view, N."""
        if cfg.matches_patches:
            _check_squares(self.patches, backbone.patches_at(cfg.views[0].size))
        self.teacher = layers.Teacher(source, frozen=True)
        self.own = teacher is not None and not isinstance(teacher, Backbone)
        """Whether the teacher always gets the student's input, whatever its mean and standard deviation become."""
        self.side_stream = layers.SideStream()
        mix, shift = self._conversion()
        self.register_buffer("mix", mix, persistent=False)
        self.register_buffer("shift", shift, persistent=False)
        self.same_input = False
        """Whether the teacher gets the student's input unchanged; set by `before_training`."""
        self.width, width = (
            net.dim if feature == "class" else net.patch_dim
            for net, feature in ((source, cfg.teacher_feature), (backbone, cfg.student_feature))
        )
        self.head = _head(width, cfg.hidden_dim, self.width)
        self.patch_head = _head(backbone.patch_dim, cfg.hidden_dim, source.patch_dim) if cfg.matches_patches else None
        self.queue = layers.Queue(self.width, cfg.queue) if cfg.relational else None
        self.memory: Memory | None = None
        """Cache of teacher features; set before the training if `memory_name` is not empty."""

    def memory_name(self) -> str:
        """All that the rows in `memory` depend on besides the images; "" without `cache_teacher`."""
        if not self.cfg.cache_teacher:
            return ""
        cfg, net = self.cfg, self.teacher_net
        view, size = at_least(cfg.views[0], cfg.teacher_pixels), cfg.teacher_pixels
        # a feature of a fixed image covers what weights and names do not, such as the code of the user's own module
        image = torch.linspace(-9, 9, net.channels * size**2).sin().view(1, net.channels, size, size)
        with torch.no_grad():
            feature = _features(net, image, cfg.teacher_feature, False)[0].mul(100).round().long().flatten().tolist()
        return (
            f"{self.teacher.digest()} {key_of(*feature)} {net.name} {net.mean} {net.std} {size} {cfg.teacher_feature} "
            f"{self.patches} {view}"
        )

    def memory_width(self) -> int:
        """Values in a row of `memory`, W."""
        return self.cfg.views[0].count * (self.width + self.patches * self.teacher_net.patch_dim)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        cfg, b, g = self.cfg, len(batch.index), self.cfg.views[0].count
        with self.side_stream(batch.index.device):
            t, t_patches = self._targets(batch)  # (G, B, D), (GB, N, P) or None
        whole = torch.cat([_resized(view, cfg.views[0].size) for view in batch.views[:g]])  # (GB, C, S, S)
        feature, patches = _features(self.backbone, whole, cfg.student_feature, cfg.matches_patches)
        local = layers.by_size(lambda x: _features(self.backbone, x, cfg.student_feature, False)[0], batch.views[g:])
        s = torch.unflatten(self.head(torch.cat([feature, *local])), 0, (-1, b))  # (V, B, D)
        self.side_stream.join(s.device)
        # the targets of a global view are the teacher's features of that view; of a local view, of each global one
        pairs = [(v, k) for v in range(len(s)) for k in range(g) if v >= g or v == k]
        parts, weights = {}, {}
        for name in OBJECTIVES:
            if vars(cfg)[name]:
                parts[name] = torch.stack([self._distance(name, s[v], t[k]) for v, k in pairs]).mean()
                weights[name] = cfg.class_weight * vars(cfg)[name]
        if self.patch_head is not None and patches is not None and t_patches is not None:
            targets = _aligned(t_patches, patches.shape[1])
            parts["patches"] = losses.byol(self.patch_head(patches.flatten(0, 1)), targets.flatten(0, 1)).mean()
            weights["patches"] = cfg.patch_weight * (cfg.mse + cfg.cosine / 2)
        loss = torch.stack([weights[name] * part for name, part in parts.items()]).sum()
        handed = {"teacher": t[0].clone()} if self.queue is not None else {}  # a clone: t is a slice of a larger tensor
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
        target = losses.standardised(distributed.gather(t), 1e-5)
        return losses.vicreg(distributed.gather(s), target, cfg.sim_coeff, cfg.std_coeff, cfg.cov_coeff, 1e-4)["loss"]

    def _targets(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """The teacher's features (G, B, D) and patch features (GB, N, P) of the global views, view by view."""
        g, at = self.cfg.views[0].count, batch.progress
        views = batch.views[:g]
        if self.memory is None:
            rows = self._ask(views).clone()  # inference tensors cannot be saved for backward
        else:
            turn = at.step // at.steps_per_epoch % self.cfg.cached_views
            index = batch.index if batch.cpu_index is None else batch.cpu_index
            rows = self.memory.recall(
                index, turn, lambda positions: self._ask([view[positions] for view in views]), batch.index.device
            )
        rows = torch.unflatten(rows, 1, (g, -1)).transpose(0, 1)  # (B, G (D + NP)) -> (G, B, D + NP)
        feature, patches = torch.split(rows, [self.width, rows.shape[2] - self.width], 2)
        if not self.cfg.matches_patches:
            return feature, None
        return feature, torch.unflatten(patches.flatten(0, 1), 1, (-1, self.teacher_net.patch_dim))

    @torch.inference_mode()
    def _ask(self, views: list[Tensor]) -> Tensor:
        """G views (B, C, H, W) -> rows (B, G (D + NP)): the teacher's feature of each view, then its patch features."""
        x = self._converted(_resized(torch.cat(views), self.cfg.teacher_pixels))  # (GB, C, S, S)
        feature, patches = _features(self.teacher_net, x, self.cfg.teacher_feature, self.cfg.matches_patches)
        rows = feature if patches is None else torch.cat([feature, patches.flatten(1)], 1)  # (GB, D + NP)
        return torch.unflatten(rows, 0, (len(views), -1)).transpose(0, 1).flatten(1)

    def teacher_features(self, x: Tensor) -> Tensor:
        """The teacher's features (B, D) of images at the teacher's size, normalised for the student."""
        return _features(self.teacher_net, self._converted(x), self.cfg.teacher_feature, False)[0]

    def student_features(self, x: Tensor) -> Tensor:
        """The student's features (B, D) after its head, which are trained to match the teacher's."""
        features: Tensor = self.head(_features(self.backbone, x, self.cfg.student_feature, False)[0])
        return features

    def _converted(self, x: Tensor) -> Tensor:
        """(B, C of the student, H, W) -> (B, C of the teacher, H, W), normalised for the teacher."""
        if self.same_input:
            return x
        with torch.autocast(x.device.type, enabled=False):
            return torch.einsum("oc,bchw->bohw", self.mix.to(x.dtype), x) + self.shift[:, None, None]

    @property
    def teacher_net(self) -> Backbone:
        return self.teacher[0]  # type: ignore[return-value]

    def _conversion(self) -> tuple[Tensor, Tensor]:
        """`mix` and `shift`, from the channels, mean and standard deviation of student and teacher."""
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
        """Sets the conversion of the teacher's input: the student's mean and standard deviation are known by now."""
        if self.own:
            self.teacher_net.mean, self.teacher_net.std = self.backbone.mean, self.backbone.std
        mix, shift = self._conversion()
        self.mix.copy_(mix)
        self.shift.copy_(shift)
        self.same_input = len(mix) == mix.shape[1] and torch.equal(mix, torch.eye(len(mix))) and not bool(shift.any())

    def describe(self) -> list[str]:
        net, size = self.teacher_net, self.cfg.teacher_pixels
        cached = f", features of {counted(self.cfg.cached_views, 'view')} cached" if self.cfg.cache_teacher else ""
        remark = f", {net.remark}" if net.remark else ""
        return [f"teacher     {brief(self.cfg.teacher, LONGEST_PATH)}: {net.name}{remark}, input {size} px{cached}"]


def _head(dim: int, hidden_dim: int, out_dim: int) -> torch.nn.Module:
    if hidden_dim:
        return layers.mlp(dim, hidden_dim, out_dim)
    return torch.nn.Identity() if dim == out_dim else torch.nn.Linear(dim, out_dim)


def _features(net: Backbone, x: Tensor, feature: Feature, patches: bool) -> tuple[Tensor, Tensor | None]:
    """The feature (B, D) of each image and, if `patches`, the patch features (B, N, P)."""
    if feature == "class" and not patches:
        return net(x), None
    tokens = net.tokens(x)
    whole = tokens.cls if feature == "class" else tokens.patches.mean(1)
    return whole, tokens.patches if patches else None


def _resized(x: Tensor, size: int) -> Tensor:
    """Images (B, C, S, S) -> (B, C, size, size)."""
    return x if x.shape[-1] == size else F.interpolate(x, (size, size), mode="bilinear", antialias=True)


def _aligned(patches: Tensor, count: int) -> Tensor:
    """Patch features (B, N, P) of a square grid -> (B, count, P), resampled to a square grid of `count`."""
    if patches.shape[1] == count:
        return patches
    old, new = math.isqrt(patches.shape[1]), math.isqrt(count)
    grid = torch.unflatten(patches.mT, 2, (old, old)).to(torch.promote_types(patches.dtype, torch.float32))
    return _resized(grid, new).flatten(2).mT.to(patches.dtype)


def _check_squares(teacher: int, student: int) -> None:
    """Raises ValueError if the patches of teacher and student, these numbers per view, cannot be aligned."""
    if teacher != student and (math.isqrt(teacher) ** 2 != teacher or math.isqrt(student) ** 2 != student):
        raise ValueError(
            f"{counted(teacher, 'patch')} of the teacher cannot be aligned with {student} of the student: both must "
            "form square grids. Give --patch-weight 0."
        )


def _channels(of_student: int, of_teacher: int) -> Tensor:
    """The matrix (of_teacher, of_student) that converts the student's channels to the teacher's: grey and colour."""
    if of_student == of_teacher:
        return torch.eye(of_student, dtype=torch.float64)
    if of_student == 1:
        return torch.ones(of_teacher, 1, dtype=torch.float64)
    if of_teacher == 1 and of_student == 3:
        return torch.tensor([[0.299, 0.587, 0.114]], dtype=torch.float64)  # as Pillow converts
    raise ValueError(
        f"The teacher takes images with {counted(of_teacher, 'channel')}, the student with {of_student}. "
        f"Give --channels {of_teacher}, or a teacher with {of_student}."
    )

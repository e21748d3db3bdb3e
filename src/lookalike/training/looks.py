"""Label-free metrics of the encoder's features on a few fixed images, and their change during training."""

import dataclasses
import hashlib
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..backbones import Backbone
from ..data import Loader, Source, Subset
from ..evaluation.features import as_parameters, calibrating
from ..images import Images, movable, promote
from ..label_free import LEAST, alignment, effective_rank, pair_auc_per_image, spread, uniformity
from ..printing import are, counted
from ..random import permutation
from ..runs import Resolved
from ..views import make_views

IMAGES = 256
"""Number of images whose features are evaluated."""
CALIBRATING = 64
"""Number of these images whose views give BatchNorm its statistics for an evaluation."""
FRACTION = 0.01
"""Evaluations take at most this fraction of the time, not counting the early ones and the last."""
NAMES = ("spread", "effective_rank", "alignment", "uniformity", "pair_auc")
"""The metrics of an evaluation: columns of `metrics.jsonl`."""
CHANGES = ("pair_auc_change", "pair_auc_error", "moved")
"""The change since the first evaluation: columns of `metrics.jsonl`; see `Change`."""
LIKELY = 1.96
"""Half the width of a 95 % interval, in standard errors."""


@dataclass(frozen=True, eq=False)
class Look:
    """The metrics of an encoder at one moment of the training."""

    figures: dict[str, float]
    """By `NAMES`; NaN if a feature is not finite."""
    pair_auc_per_image: Tensor
    """(B,) float64, each image's contribution to `pair_auc`; empty if unknown."""


@dataclass(frozen=True)
class Change:
    """The change since the first encoder, on the same images and views."""

    mean: float
    """Change of `pair_auc`, in [-1, 1]."""
    error: float
    """Its standard error over the images."""
    moved: float
    """Mean absolute change of the images' contributions to `pair_auc`; 0 for the same encoder."""

    @property
    def away(self) -> float:
        """The change in standard errors."""
        return self.mean / max(self.error, 1e-9)

    def points(self) -> str:
        """The 95 % interval: "+1.2 to +4.0 points"."""
        low, high = (100 * (self.mean + sign * LIKELY * self.error) for sign in (-1, 1))
        return f"{low:+.1f} to {high:+.1f} points"


def change(first: Look, now: Look) -> Change | None:
    """The change between two evaluations; None if there are too few images or features that are not finite.

    Checkpoints of version 0.1 have no contributions of their 64 images: then the two evaluations count as independent.
    """
    if len(now.pair_auc_per_image) < LEAST:
        return None
    own = float(now.pair_auc_per_image.std()) / len(now.pair_auc_per_image) ** 0.5
    if len(first.pair_auc_per_image) == len(now.pair_auc_per_image):
        moves = now.pair_auc_per_image - first.pair_auc_per_image
        return Change(float(moves.mean()), float(moves.std()) / len(moves) ** 0.5, float(moves.abs().mean()))
    mean = now.figures["pair_auc"] - first.figures["pair_auc"]
    return Change(mean, own * (1 + len(now.pair_auc_per_image) / 64) ** 0.5, math.inf)


@dataclass(frozen=True)
class Neighbours:
    """The k-NN accuracy of a probe, before training and now."""

    before: float
    now: float
    low: float
    high: float
    """Bounds of the interval of the change: in 95 % of trainings without an effect it holds 0 at all evaluations."""

    def words(self, start: str) -> str:
        return (
            f"the k-NN went from {self.before:.1%} {start} to {self.now:.1%} "
            f"({100 * self.low:+.1f} to {100 * self.high:+.1f} points, 95 % interval)"
        )


class Health:
    """Metrics of an encoder's features on a fixed draw of the training images, each in two views.

    BatchNorm uses the statistics of these views: its running statistics lag behind the weights, which would dominate
    the metrics in the first hundred steps.
    """

    def __init__(self, source: Source, run: Resolved, backbone: Backbone) -> None:
        indices = permutation(len(source), run.seed, "health")[:IMAGES].tolist()
        loader = Loader(Subset(source, indices), len(indices), run.seed, decode_size=run.decode_size, max_broken=1.0)
        batch = next(iter(loader))
        view = dataclasses.replace(run.method.views[0], count=2)
        both = make_views(batch, [view], batch.keys, mean=backbone.mean, std=backbone.std, color=run.pixels.is_color)
        self.views = torch.cat(both).half()  # (2B, C, S, S), on the CPU; in half the memory
        self.lacking = lacking(batch)
        """Why nothing can be learnt from the images; empty if something can."""
        images = len(indices)
        self._few = [*range(min(CALIBRATING, images)), *range(images, images + min(CALIBRATING, images))]
        self.every = math.ceil((len(self.views) + len(self._few)) / FRACTION / _forwards(run))
        """Optimizer steps between two evaluations, so that they take a hundredth of the time."""

    @torch.no_grad()
    def __call__(self, encoder: Backbone) -> Look:
        """Evaluates an encoder, which is left unchanged."""
        with calibrating(encoder, [self.views[self._few].float()]):
            # not encoder(x): torch.compile would compile again, for eval mode
            parts = [encoder.forward(as_parameters(encoder, x.float())) for x in self.views.split(64)]  # type: ignore[no-untyped-call]
        return look(*torch.cat(parts).chunk(2))


SAMPLE = 4096
"""About this many weights of each matrix are measured."""


class UpdateRatio:
    """The norm of an optimizer step relative to the norm of the weights that it changes.

    The median over the encoder's weight matrices and kernels, each measured by its first rows.
    """

    def __init__(self, encoder: Backbone) -> None:
        matrices = [p for p in encoder.parameters() if p.requires_grad and p.ndim > 1]
        self._parts = [p.detach()[: max(1, SAMPLE * len(p) // p.numel())] for p in matrices]  # views of the weights
        self._before: list[Tensor] = []

    def before_step(self) -> None:
        self._before = [part.clone() for part in self._parts]

    def __call__(self) -> float:
        """The ratio of the step since `before_step`; NaN without a step, or without trainable weights."""
        if not self._before:
            return math.nan
        moved = torch._foreach_norm(torch._foreach_sub(self._parts, self._before))
        whole = torch._foreach_norm(self._before)
        self._before = []
        return float((torch.stack(moved) / torch.stack(whole).clamp_min(1e-12)).median())


def look(a: Tensor, b: Tensor) -> Look:
    """The evaluation of the features (B, D) of two views of B images."""
    if not bool(a.isfinite().all() and b.isfinite().all()):
        return Look(dict.fromkeys(NAMES, math.nan), torch.zeros(0, dtype=torch.float64))
    per_image = pair_auc_per_image(a, b).cpu() if len(a) > 2 else torch.full((len(a),), 0.5, dtype=torch.float64)
    values = (spread(a), effective_rank(a), alignment(a, b), uniformity(a), float(per_image.mean()))
    return Look(dict(zip(NAMES, values)), per_image)


def figures(a: Tensor, b: Tensor) -> dict[str, float]:
    """Metrics of the features (B, D) of two views of B images, by `NAMES`."""
    return look(a, b).figures


def _forwards(run: Resolved) -> int:
    """The cost of an optimizer step per device, in forward passes of a view; a backward pass counts as two."""
    images = run.batch_size // (run.devices * run.nodes)
    return 3 * images * sum(view.count for view in run.method.views)


# ---------------------------------------------------------------- images without content

ALIKE = 0.95
"""Nothing can be learnt if at least this fraction of the sampled images is blank, or copies of others."""
NOISE = 0.15
"""Images are noise if 16 times the variance of 4 x 4 pixel means differs from the variance of the pixels by less than
this fraction: the ratio is 5 to 15 for photographs and 0.99 to 1.02 for shuffled pixels (`docs/health.md`)."""


def lacking(batch: Images) -> str:
    """Why nothing can be learnt from the images; empty if something can, or for fewer than 8 images."""
    bits = movable(batch.buffer)
    counts = (batch.sizes.prod(1) * batch.channels).tolist()
    own = [bits[start : start + n].view(batch.channels, -1) for start, n in zip(batch.offsets.tolist(), counts)]
    if len(own) < LEAST:
        return ""
    whole = counted(len(own), "image")
    blank = sum(bool((image == image[:, :1]).all()) for image in own)
    if blank >= ALIKE * len(own):
        return f"{blank} of {whole} in a random sample {are(blank)} blank, of a single colour"
    distinct = len({hashlib.sha256(image.numpy().tobytes()).digest() for image in own})
    if distinct <= max(1, (1 - ALIKE) * len(own)):
        return f"only {distinct} of {whole} in a random sample {are(distinct)} distinct, the others are copies"
    ratios = []
    for image, (height, width) in zip(own, batch.sizes.tolist()):
        part = image.view(batch.channels, height, width)[:, :128, :128].contiguous()  # enough of a large image
        pixels = promote(part.view(batch.buffer.dtype), torch.float32).mean(0)
        if min(height, width) >= 16 and (variance := float(pixels.var())) > 0:
            ratios.append(16 * float(F.avg_pool2d(pixels[None], 4).var()) / variance)
    if len(ratios) >= LEAST and abs(sum(ratios) / len(ratios) - 1) < NOISE:
        return "neighbouring pixels are no more correlated than distant ones: the images look like noise"
    return ""

"""What is seen of a training: figures of the encoder's features on a few fixed images, and how they changed."""

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
"""Images whose features are looked at."""
CALIBRATING = 64
"""Of these, whose views give BatchNorm its statistics for a look."""
SHARE = 0.01
"""Share of the time that looks take at most, beside the early ones and the last."""
NAMES = ("spread", "effective_rank", "alignment", "uniformity", "pair_auc")
"""The figures of a look, as `metrics.jsonl` calls them."""
CHANGES = ("pair_auc_change", "pair_auc_error", "moved")
"""How a look differs from the first; see `Change`."""
LIKELY = 1.96
"""Standard errors to either side of a 95 % interval."""


@dataclass(frozen=True, eq=False)
class Look:
    """An encoder's features at a moment."""

    figures: dict[str, float]
    """By `NAMES`; NaN where a feature is not finite."""
    pair_auc_per_image: Tensor
    """(B,) float64, what each image adds to `pair_auc`; empty where that is not known."""


@dataclass(frozen=True)
class Change:
    """How an encoder differs from the first one on the same images and views."""

    mean: float
    """Change of `pair_auc`, in [-1, 1]."""
    error: float
    """Its standard error over the images."""
    moved: float
    """How much the images' shares in `pair_auc` changed, on average, whichever way; 0 for the same encoder."""

    @property
    def away(self) -> float:
        """Standard errors from no change."""
        return self.mean / max(self.error, 1e-9)

    def points(self) -> str:
        """The 95 % interval: "+1.2 to +4.0 points"."""
        low, high = (100 * (self.mean + sign * LIKELY * self.error) for sign in (-1, 1))
        return f"{low:+.1f} to {high:+.1f} points"


def change(first: Look, now: Look) -> Change | None:
    """The change between two looks; None where it cannot be known, of too few images or features that are not finite.

    A training that version 0.1 began has no first shares of 64 images: the first figure errs on its own then.
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
    """The k-NN of a probe, before training and now."""

    before: float
    now: float
    low: float
    high: float
    """Ends of the interval of the change: 95 % of trainings that change nothing have 0 within it at all looks."""

    def words(self, start: str) -> str:
        return (
            f"the k-NN went from {self.before:.1%} {start} to {self.now:.1%} "
            f"({100 * self.low:+.1f} to {100 * self.high:+.1f} points, 95 % interval)"
        )


class Health:
    """Figures of an encoder's features on a fixed draw of the training images, each seen in two views.

    BatchNorm has the statistics of these views at each look: those that training leaves lag behind the weights, and
    what is seen of the first hundred steps would be the lag.
    """

    def __init__(self, source: Source, run: Resolved, backbone: Backbone) -> None:
        places = permutation(len(source), run.seed, "health")[:IMAGES].tolist()
        loader = Loader(Subset(source, places), len(places), run.seed, decode_size=run.decode_size, max_broken=1.0)
        batch = next(iter(loader))
        view = dataclasses.replace(run.method.views[0], count=2)
        both = make_views(batch, [view], batch.keys, mean=backbone.mean, std=backbone.std)
        self.views = torch.cat(both).half()  # (2B, C, S, S), on the CPU; in half the memory
        self.lacking = lacking(batch)
        """What is wrong with the images, if they hold nothing that could be learnt; else empty."""
        images = len(places)
        self._few = [*range(min(CALIBRATING, images)), *range(images, images + min(CALIBRATING, images))]
        self.every = math.ceil((len(self.views) + len(self._few)) / SHARE / _forwards(run))
        """Optimizer steps from one look to the next, so that looks take a hundredth of the time."""

    @torch.no_grad()
    def __call__(self, encoder: Backbone) -> Look:
        """A look at an encoder, which stays as it is."""
        with calibrating(encoder, [self.views[self._few].float()]):
            # not encoder(x): torch.compile would compile once more, for eval mode
            parts = [encoder.forward(as_parameters(encoder, x.float())) for x in self.views.split(64)]  # type: ignore[no-untyped-call]
        return look(*torch.cat(parts).chunk(2))


SAMPLE = 4096
"""Weights of a matrix, about, whose change in a step is measured."""


class UpdateRatio:
    """How long an optimizer step is beside the weights that it changes, as a fraction of their length.

    The median over the encoder's weight matrices and kernels, of each by its first rows.
    """

    def __init__(self, encoder: Backbone) -> None:
        matrices = [p for p in encoder.parameters() if p.requires_grad and p.ndim > 1]
        self._parts = [p.detach()[: max(1, SAMPLE * len(p) // p.numel())] for p in matrices]  # views: they follow it
        self._before: list[Tensor] = []

    def before_step(self) -> None:
        self._before = [part.clone() for part in self._parts]

    def __call__(self) -> float:
        """The ratio of the step since `before_step`; NaN where there is none, or nothing that learns."""
        if not self._before:
            return math.nan
        moved = torch._foreach_norm(torch._foreach_sub(self._parts, self._before))
        whole = torch._foreach_norm(self._before)
        self._before = []
        return float((torch.stack(moved) / torch.stack(whole).clamp_min(1e-12)).median())


def look(a: Tensor, b: Tensor) -> Look:
    """What is seen of the features (B, D) of two views of B images."""
    if not bool(a.isfinite().all() and b.isfinite().all()):
        return Look(dict.fromkeys(NAMES, math.nan), torch.zeros(0, dtype=torch.float64))
    shares = pair_auc_per_image(a, b).cpu() if len(a) > 2 else torch.full((len(a),), 0.5, dtype=torch.float64)
    values = (spread(a), effective_rank(a), alignment(a, b), uniformity(a), float(shares.mean()))
    return Look(dict(zip(NAMES, values)), shares)


def figures(a: Tensor, b: Tensor) -> dict[str, float]:
    """Figures of the features (B, D) of two views of B images."""
    return look(a, b).figures


def _forwards(run: Resolved) -> int:
    """What an optimizer step costs a device, in views that go forward: a view's backward pass counts as two."""
    images = run.batch_size // (run.devices * run.nodes)
    return 3 * images * sum(view.count for view in run.method.views)


# ---------------------------------------------------------------- images that hold nothing

ALIKE = 0.95
"""Share of the images looked at that are blank, or copies of others, from which on there is nothing to be learnt."""
NOISE = 0.15
"""How far the variance of 4 x 4 pixels' means, times 16, is from that of the pixels at most, where they are noise:
photographs have 5 to 15 times as much, pixels in a random order 0.99 to 1.02 times (`docs/health.md`)."""


def lacking(batch: Images) -> str:
    """Why images hold nothing that could be learnt, in words; empty where they may. Fewer than 8 are not judged."""
    bits = movable(batch.buffer)
    counts = (batch.sizes.prod(1) * batch.channels).tolist()
    own = [bits[start : start + n].view(batch.channels, -1) for start, n in zip(batch.offsets.tolist(), counts)]
    if len(own) < LEAST:
        return ""
    whole = counted(len(own), "image")
    blank = sum(bool((image == image[:, :1]).all()) for image in own)
    if blank >= ALIKE * len(own):
        return f"{blank} of {whole} that were looked at {are(blank)} blank, of one colour all over"
    distinct = len({hashlib.sha256(image.numpy().tobytes()).digest() for image in own})
    if distinct <= max(1, (1 - ALIKE) * len(own)):
        return f"of {whole} that were looked at {distinct} {are(distinct)} distinct, all others copies"
    ratios = []
    for image, (height, width) in zip(own, batch.sizes.tolist()):
        part = image.view(batch.channels, height, width)[:, :128, :128].contiguous()  # enough of a large one
        pixels = promote(part.view(batch.buffer.dtype), torch.float32).mean(0)
        if min(height, width) >= 16 and (variance := float(pixels.var())) > 0:
            ratios.append(16 * float(F.avg_pool2d(pixels[None], 4).var()) / variance)
    if len(ratios) >= LEAST and abs(sum(ratios) / len(ratios) - 1) < NOISE:
        return "neighbouring pixels have no more in common than distant ones: the images look like noise"
    return ""

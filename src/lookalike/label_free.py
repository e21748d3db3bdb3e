"""How good features are, without labels: what health and the choice between checkpoints look at.

B images, V views, D features. All work in float32, or in float64 where the features are, on the features' device.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float

LEAST = 8
"""Images whose targets may tell them apart; of one or two alone they cannot."""


def _exact(x: Tensor) -> Tensor:
    return x.detach().to(torch.promote_types(x.dtype, torch.float32))


@torch.no_grad()
def spread(x: Float[Tensor, "B D"]) -> float:
    """Standard deviation of the L2-normalised features, averaged over D, as a share of 1 / sqrt(D).

    0 where all images have one feature; 1 where directions are even on the sphere, which is the most there is.
    Chen & He (SimSiam), CVPR 2021, section 4.1, https://arxiv.org/abs/2011.10566
    """
    z = F.normalize(_exact(x), dim=-1)
    return float(z.std(0, correction=0).mean() * z.shape[1] ** 0.5)


@torch.no_grad()
def effective_rank(x: Float[Tensor, "B D"]) -> float:
    """RankMe: the exponential of the entropy of the singular values' shares; from 1 to min(B, D).

    NaN where a feature is not finite. Garrido et al., ICML 2023, equation 1, https://arxiv.org/abs/2210.02885
    """
    if not bool(x.isfinite().all()):
        return math.nan
    values = torch.linalg.svdvals(_exact(x).double())
    share = values / values.sum().clamp(min=1e-300)
    return float(torch.special.entr(share).sum().exp())


@torch.no_grad()
def alignment(a: Float[Tensor, "B D"], b: Float[Tensor, "B D"]) -> float:
    """Mean squared distance of the normalised features of two views of the same images; 0 to 4, lower is closer.

    Wang & Isola, ICML 2020, section 4.1.1 with alpha = 2, https://arxiv.org/abs/2005.10242
    """
    return float((F.normalize(_exact(a), dim=-1) - F.normalize(_exact(b), dim=-1)).square().sum(-1).mean())


@torch.no_grad()
def uniformity(x: Float[Tensor, "B D"]) -> float:
    """Logarithm of the mean Gaussian potential exp(-2 d^2) over all pairs of images; 0 where all agree, down to -4.

    Wang & Isola, ICML 2020, section 4.1.2 with t = 2.
    """
    squared = torch.pdist(F.normalize(_exact(x), dim=-1)).square()
    return float(squared.mul(-2).exp().mean().log())


@torch.no_grad()
def pair_auc(a: Float[Tensor, "B D"], b: Float[Tensor, "B D"]) -> float:
    """How often a view is nearer (by cosine) to its image's other view than to another image's view.

    0.5 by chance, 1 where every view is nearest to its own; of equal distances half count. It is the area under the ROC
    curve of "same image" against "another", averaged over the views: what every method with two views trains for.

    Of the scores that were tried it orders short trainings of different settings most as k-NN does
    (`benchmarks/which_score.py`, docs/choosing.md).
    """
    images = len(a)
    return float(_nearer(a, b).sum() / (images * (images - 1)))


@torch.no_grad()
def pair_auc_per_image(a: Float[Tensor, "B D"], b: Float[Tensor, "B D"]) -> Float[Tensor, "B"]:
    """What each image adds to `pair_auc`: jackknife pseudo-values, float64, whose mean it is. B is at least 3.

    An image counts as the one that is looked for and as one of the others, so the standard deviation of the values
    divided by sqrt(B) is the standard error of `pair_auc`. That of a change between two encoders, on the same images
    and views, is the same of the differences.
    """
    nearer, images = _nearer(a, b), len(a)
    total = nearer.sum()
    without = (total - nearer.sum(0) - nearer.sum(1)) / ((images - 1) * (images - 2))
    return images * total / (images * (images - 1)) - (images - 1) * without


def _nearer(a: Tensor, b: Tensor) -> Tensor:
    """(B, B) float64: how far image i's own other view is nearer than image j's, 1 or 0, averaged over both views."""
    z, w = F.normalize(_exact(a), dim=-1), F.normalize(_exact(b), dim=-1)
    similarity = z @ w.T
    own = similarity.diagonal()
    both = [(own[:, None] > s).double() + 0.5 * (own[:, None] == s).double() for s in (similarity, similarity.T)]
    return torch.stack(both).mean(0).fill_diagonal_(0)


@torch.no_grad()
def view_retrieval(a: Float[Tensor, "B D"], b: Float[Tensor, "B D"], k: int = 1) -> float:
    """Share of views that have their own image's other view among the k nearest (by cosine) of all images'; 0 to 1.

    Of 16 scores, `pair_auc` not among them, it ranked SimCLR's settings most as k-NN does (`benchmarks/choosing.py`,
    docs/results.md). More images make it lower: compare it at equal numbers only.
    """
    similarity = F.normalize(_exact(a), dim=-1) @ F.normalize(_exact(b), dim=-1).T
    own = torch.arange(len(a), device=a.device)[:, None]
    found = [(s.topk(min(k, len(a)), 1).indices == own).any(1) for s in (similarity, similarity.T)]
    return float(torch.stack(found).double().mean())


@torch.no_grad()
def lidar(x: Float[Tensor, "B V D"]) -> float:
    """LiDAR: the effective rank of what tells images apart, measured in units of what differs between their views.

    NaN where a feature is not finite. Thilak et al., ICLR 2024, section 4, with delta = 1e-4,
    https://arxiv.org/abs/2312.04000
    """
    if not bool(x.isfinite().all()):
        return math.nan
    x = _exact(x).double()
    images, views, dim = x.shape
    means = x.mean(1)  # (B, D)
    between = means - means.mean(0)
    within = (x - means[:, None]).flatten(0, 1)
    within = within.T @ within / (images * (views - 1)) + 1e-4 * torch.eye(dim, dtype=x.dtype, device=x.device)
    values, vectors = torch.linalg.eigh(within)
    whitened = between @ vectors * values.rsqrt() / max(images - 1, 1) ** 0.5  # (B, D), up to a turn
    variances = torch.linalg.svdvals(whitened).square()
    share = variances / variances.sum().clamp(min=1e-300)
    return float(torch.special.entr(share).sum().exp())


@torch.no_grad()
def usage(shares: Float[Tensor, "B K"]) -> float:
    """How many of K groups are the first choice of some image, as a share of the most there can be, min(B, K).

    1 / min(B, K) where all images fall into one group; by chance 0.63 where B = K.
    """
    chosen = shares.argmax(1).bincount(minlength=shares.shape[1])
    return float((chosen > 0).sum() / min(shares.shape))


@torch.no_grad()
def entropy(shares: Float[Tensor, "... K"]) -> float:
    """Entropy of shares that sum to 1 along the last axis, as a share of log K, on average over the others.

    1 where all K are alike, 0 where one has all.
    """
    k = shares.shape[-1]
    return float(torch.special.entr(_exact(shares)).sum(-1).mean() / torch.tensor(k).log()) if k > 1 else 0.0


@torch.no_grad()
def correlation(x: Float[Tensor, "B D"]) -> float:
    """Root mean square of the correlations over the images of two different numbers of an embedding; 0 to 1.

    1 where all numbers say the same. Independent numbers have 1 / sqrt(B), for B images estimate no better. Numbers
    that do not vary correlate with none. NaN where a number is not finite.
    """
    x = _exact(x).double()
    d = x.shape[1]
    z = x - x.mean(0)
    z = z / z.square().sum(0).sqrt().clamp(min=1e-12)
    # the squares of Z'Z sum up to those of ZZ', which is small: images are fewer than numbers
    total = (z @ z.T).square().sum() - z.square().sum(0).square().sum()
    return float((total.clamp(min=0) / (d * (d - 1))).sqrt()) if d > 1 else 0.0


@torch.no_grad()
def deviation(x: Float[Tensor, "B D"]) -> float:
    """Standard deviation of an embedding's numbers over the images, on average over the numbers."""
    return float(_exact(x).std(0).mean())


@torch.no_grad()
def of_targets(targets: Float[Tensor, "B K"], scores: Float[Tensor, "B K"], temperature: float) -> dict[str, float]:
    """What self-distillation watches: the targets' `entropy` and `usage`, and how far a student is from telling them.

    `scores` are the student's, divided by `temperature`; the distance is the Kullback-Leibler divergence in nats.
    `target_information` is what a target says about its image: the entropy of all images' mean target less that of
    each, as a share of the most there is, log min(B, K). It is 0 in both collapses, where all images have one target,
    vague or sharp. Fewer than `LEAST` images do not tell it.
    """
    log_told = (_exact(scores) / temperature).log_softmax(-1)
    told = entropy(targets.mean(0)) - entropy(targets)
    divergence = (targets * (targets.clamp(min=1e-12).log() - log_told)).sum(-1).mean()
    most = math.log(max(2, min(targets.shape))) / math.log(max(2, targets.shape[1]))
    return {
        **({"target_information": told / most} if len(targets) >= LEAST else {}),
        "teacher_entropy": entropy(targets),
        "prototype_usage": usage(targets),
        "teacher_student_kl": float(divergence),
    }

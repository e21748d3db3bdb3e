"""Losses as pure functions. None of them communicates: the method gathers their inputs over processes.

B images (of all processes, if the method gathers), V views, D dimensions of an embedding, K keys of a queue or
prototypes. Reduced precision is widened to float32, float64 stays float64.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float, Int


def unit(x: Tensor) -> Tensor:
    """x with unit length along the last axis, in float32 or float64."""
    return F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1)


def nt_xent(z1: Float[Tensor, "B D"], z2: Float[Tensor, "B D"], temperature: float) -> Float[Tensor, ""]:
    """NT-Xent, the normalised temperature-scaled cross-entropy: classify each view's partner among all other views.

    Args:
        z1: embeddings of the first view, not normalised.
        z2: embeddings of the second view; row i is of the same image as row i of z1.
        temperature: divides the cosine similarities; above 0.

    Returns:
        The mean over all 2B views. A view is never compared with itself; its partner is in the denominator.
        Chen et al., ICML 2020, equation 1. Google's code adds the means of the two views, which is twice this.

    Raises:
        ValueError: the two views differ in shape.
    """
    if z1.shape != z2.shape:
        raise ValueError(f"The views differ in shape: {tuple(z1.shape)} and {tuple(z2.shape)}. Give one row per image.")
    with torch.autocast(z1.device.type, enabled=False):
        z = unit(torch.cat([z1, z2]))  # (2B, D)
        scores = (z @ z.T / temperature).fill_diagonal_(-torch.inf)  # (2B, 2B)
        partner = torch.arange(len(z), device=z.device).roll(len(z1))
        return F.cross_entropy(scores, partner)


def supcon(
    z: Float[Tensor, "B V D"], labels: Tensor | None, temperature: float, base_temperature: float
) -> Float[Tensor, ""]:
    """SupCon, the supervised contrastive loss: the positives of a view are all other views of its class.

    Args:
        z: embeddings of V views of each image, not normalised.
        labels: (B,) int64; None makes each image its own class, which gives NT-Xent.
        temperature: divides the cosine similarities; above 0.
        base_temperature: the loss is multiplied by temperature / base_temperature, as in the official code (0.07);
            if it equals `temperature`, this is the paper's loss.

    Returns:
        The mean over all VB views; a view without positives counts as 0.
        Khosla et al., NeurIPS 2020, equation 2 ("out": the logarithm is inside the mean over positives).

    Raises:
        ValueError: there is not one label per image.
    """
    b, v, _ = z.shape
    classes = torch.arange(b, device=z.device) if labels is None else labels
    if classes.shape != (b,):
        raise ValueError(f"supcon got a batch of {b} and labels of shape {tuple(classes.shape)}. Give one per image.")
    with torch.autocast(z.device.type, enabled=False):
        return _supcon(unit(z).flatten(0, 1), classes.repeat_interleave(v), temperature, base_temperature)


def _supcon(rows: Tensor, classes: Tensor, temperature: float, base_temperature: float) -> Tensor:
    """`supcon` of unit rows (BV, D) and their classes (BV,)."""
    scores = (rows @ rows.T / temperature).fill_diagonal_(-torch.inf)  # (BV, BV)
    log_p = scores - scores.logsumexp(1, keepdim=True)
    positive = (classes[:, None] == classes).fill_diagonal_(False)  # (BV, BV)
    per_view = log_p.masked_fill(~positive, 0).sum(1) / positive.sum(1).clamp(min=1)  # (BV,)
    return -per_view.mean() * (temperature / base_temperature)


def queue_scores(
    q: Float[Tensor, "B D"], k: Float[Tensor, "B D"], queue: Float[Tensor, "D K"], temperature: float
) -> Float[Tensor, "B 1+K"]:
    """Cosine similarities of queries with their own key (column 0) and the queue's keys, divided by the temperature.

    Args:
        q: queries, the encoder's outputs, not normalised.
        k: keys, the momentum encoder's outputs for the same images; no gradient.
        queue: earlier keys, as columns of unit length; no gradient.
        temperature: above 0.
    """
    with torch.autocast(q.device.type, enabled=False):
        q, k = unit(q), unit(k.detach())
        own = (q * k).sum(1, keepdim=True)
        return torch.cat([own, q @ queue.detach().to(q.dtype)], 1) / temperature


def info_nce(
    q: Float[Tensor, "B D"], k: Float[Tensor, "B D"], queue: Float[Tensor, "D K"], temperature: float
) -> Float[Tensor, ""]:
    """InfoNCE, MoCo's loss: classify a query's own key among those of the queue. Arguments as for `queue_scores`.

    Returns:
        The mean over the queries. He et al., CVPR 2020, equation 1.
    """
    scores = queue_scores(q, k, queue, temperature)
    return F.cross_entropy(scores, torch.zeros(len(q), dtype=torch.int64, device=q.device))


def contrast(q: Float[Tensor, "B D"], k: Float[Tensor, "B D"], temperature: float) -> Float[Tensor, ""]:
    """MoCo v3's loss for one direction: classify a query's own key among those of the batch.

    Args:
        q: queries, the predictor's outputs for one view, not normalised.
        k: keys, the momentum encoder's outputs for the other view of the same images; no gradient.
        temperature: above 0.

    Returns:
        The mean over the queries, times twice the temperature. Chen et al., ICCV 2021, Algorithm 1.
    """
    with torch.autocast(q.device.type, enabled=False):
        scores = unit(q) @ unit(k.detach()).T / temperature  # (B, B)
        return 2 * temperature * F.cross_entropy(scores, torch.arange(len(q), device=q.device))


def relational(
    s: Float[Tensor, "B D"],
    t: Float[Tensor, "B D"],
    queue: Float[Tensor, "D K"],
    student_temp: float,
    teacher_temp: float,
) -> Float[Tensor, ""]:
    """SEED's loss: match the teacher's distribution of similarities to the images in a queue and to the image itself.

    Args:
        s: the student's features, not normalised.
        t: the teacher's features of the same images; no gradient.
        queue: the teacher's features of earlier images, as columns of unit length; no gradient.
        student_temp, teacher_temp: divide the cosine similarities of s and of t; above 0.

    Returns:
        The cross-entropy, averaged over the images. Fang et al., ICLR 2021, equations 1 to 4.
    """
    targets = queue_scores(t, t, queue, teacher_temp).softmax(1)  # (B, 1+K)
    with torch.autocast(s.device.type, enabled=False):
        return -(targets.detach() * queue_scores(s, t, queue, student_temp).log_softmax(1)).sum(1).mean()


def byol(p: Float[Tensor, "B D"], t: Float[Tensor, "B D"]) -> Float[Tensor, "B"]:
    """BYOL's loss for one direction: the squared distance of a normalised prediction to a normalised target.

    Args:
        p: the predictor's outputs for one view.
        t: the target network's projections of the other view; no gradient.

    Returns:
        2 - 2 cos per image, in [0, 4]. Grill et al., NeurIPS 2020, equation 2; the method adds both directions.
    """
    with torch.autocast(p.device.type, enabled=False):
        return 2 - 2 * (unit(p) * unit(t.detach())).sum(1)


def simsiam(p: Float[Tensor, "B D"], z: Float[Tensor, "B D"]) -> Float[Tensor, ""]:
    """SimSiam's loss for one direction: the negative cosine similarity of a prediction and the other view's projection.

    Args:
        p: the predictor's outputs for one view.
        z: the projector's outputs for the other view; no gradient.

    Returns:
        The mean over the images, in [-1, 1]. Chen and He, CVPR 2021, equation 1; the method averages both directions.
    """
    with torch.autocast(p.device.type, enabled=False):
        return -(unit(p) * unit(z.detach())).sum(1).mean()


def barlow_twins(z1: Float[Tensor, "B D"], z2: Float[Tensor, "B D"], lambd: float, eps: float) -> Float[Tensor, ""]:
    """Barlow Twins' loss: the squared distance of the views' cross-correlation matrix from the identity.

    Args:
        z1, z2: embeddings of the two views of the same images; standardised here, over the batch.
        lambd: weight of the off-diagonal elements.
        eps: added to the (biased) variances, as BatchNorm does.

    Returns:
        A sum over the D x D elements, not divided by D. Zbontar et al., ICML 2021, equation 1.
    """
    with torch.autocast(z1.device.type, enabled=False):
        a, b = (standardised(z, eps) for z in (z1, z2))
        c = a.T @ b / len(a)  # (D, D)
        return (c.diagonal() - 1).square().sum() + lambd * _off_diagonal(c).square().sum()


def standardised(z: Float[Tensor, "B D"], eps: float) -> Float[Tensor, "B D"]:
    """z with mean 0 and variance 1 per dimension over the batch; `eps` is added to the (biased) variances."""
    z = z.to(torch.promote_types(z.dtype, torch.float32))
    return (z - z.mean(0)) * (z.var(0, correction=0) + eps).rsqrt()


def _off_diagonal(x: Tensor) -> Tensor:
    """The D (D - 1) off-diagonal elements of a square matrix."""
    d = len(x)
    return x.flatten()[:-1].view(d - 1, d + 1)[:, 1:]


def vicreg(
    z1: Float[Tensor, "B D"], z2: Float[Tensor, "B D"], sim_coeff: float, std_coeff: float, cov_coeff: float, eps: float
) -> dict[str, Tensor]:
    """VICReg's loss: views agree, each dimension varies over the batch, and dimensions are decorrelated.

    Args:
        z1, z2: embeddings of the two views of the same images; at least 2 rows.
        sim_coeff, std_coeff, cov_coeff: weights of invariance, variance and covariance.
        eps: added to the variances, inside the root.

    Returns:
        "loss", the weighted sum, and its unweighted parts. Bardes et al., ICLR 2022, equations 1 to 6, as in the
        official code: the two views' variance terms are halved, their covariance terms are not.
    """
    with torch.autocast(z1.device.type, enabled=False):
        a, b = (z.to(torch.promote_types(z.dtype, torch.float32)) for z in (z1, z2))
        parts = {
            "invariance": (a - b).square().mean(),
            "variance": (_shortfall(a, eps) + _shortfall(b, eps)) / 2,
            "covariance": _covariance(a) + _covariance(b),
        }
        weights = {"invariance": sim_coeff, "variance": std_coeff, "covariance": cov_coeff}
        return {"loss": torch.stack([weights[name] * part for name, part in parts.items()]).sum(), **parts}


def _shortfall(z: Tensor, eps: float) -> Tensor:
    """Hinge loss max(0, 1 - standard deviation), averaged over the dimensions."""
    return (1 - (z.var(0) + eps).sqrt()).relu().mean()


def _covariance(z: Tensor) -> Tensor:
    """Sum of the squared covariances of different dimensions, divided by D."""
    centred = z - z.mean(0)
    return _off_diagonal(centred.T @ centred / (len(z) - 1)).square().sum() / z.shape[1]


def epps_pulley(y: Float[Tensor, "V B S"], t_max: float, points: int) -> Float[Tensor, "V S"]:
    """The Epps-Pulley statistic of each view and direction: distance of samples from a standard normal distribution.

    Args:
        y: B samples of each of V views along each of S directions.
        t_max: largest argument of the characteristic functions that are compared.
        points: number of arguments from 0 to `t_max` in the trapezoid rule; at least 2.

    Returns:
        B times the weighted squared distance of the empirical characteristic function from the normal one's, over
        both halves of the axis. Balestriero and LeCun (LeJEPA), 2025, https://arxiv.org/abs/2511.08544, as in its code.
    """
    with torch.autocast(y.device.type, enabled=False):
        y = y.to(torch.promote_types(y.dtype, torch.float32))
        t = torch.linspace(0, t_max, points, dtype=y.dtype, device=y.device)
        normal = torch.exp(-t.square() / 2)
        step = t_max / (points - 1)
        weights = torch.full_like(t, 2 * step)
        weights[0] = weights[-1] = step
        angles = y[..., None] * t  # (V, B, S, points)
        error = (angles.cos().mean(1) - normal).square() + angles.sin().mean(1).square()  # (V, S, points)
        return len(y[0]) * (error @ (weights * normal))


def cross_view(
    scores: Float[Tensor, "V B K"], targets: Float[Tensor, "G B K"], temperature: float
) -> Float[Tensor, ""]:
    """The loss of SwAV and DINO: predict the targets of an image's global views from each other view.

    Args:
        scores: scores of each view against the prototypes; the first G views are the global ones.
        targets: probabilities of the prototypes for each global view, rows sum to 1; no gradient.
        temperature: divides the scores; above 0.

    Returns:
        The cross-entropy, averaged over images and all pairs of a global view and another view. Caron et al. (SwAV),
        NeurIPS 2020, equations 1 and 2; Caron et al. (DINO), ICCV 2021, equation 3.
    """
    v, b, _ = scores.shape
    g = len(targets)
    with torch.autocast(scores.device.type, enabled=False):
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        log_p = (scores / temperature).log_softmax(-1)
        pairs = -torch.einsum("gbk,vbk->gv", targets.detach().to(log_p.dtype), log_p) / b
        return (pairs.sum() - pairs.diagonal().sum()) / (g * (v - 1))  # a view does not predict itself


def masked_patches(
    scores: Float[Tensor, "M K"], targets: Float[Tensor, "M K"], per_image: Float[Tensor, "M"], images: int,
    temperature: float,
) -> Float[Tensor, ""]:  # fmt: skip
    """iBOT's loss: predict the teacher's targets of the masked patches, which only the teacher gets.

    Args:
        scores: the student's scores of the M masked patches of all views.
        targets: the teacher's probabilities of the prototypes, rows sum to 1; no gradient.
        per_image: number of masked patches in the view that each patch belongs to.
        images: number of global views of all images, those without masked patches included.
        temperature: divides the scores; above 0.

    Returns:
        The cross-entropy, averaged over a view's masked patches and then over all views. Zhou et al., ICLR 2022,
        equation 2, which is a plain sum; averaged as in the official codes of iBOT and DINOv2.
    """
    with torch.autocast(scores.device.type, enabled=False):
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        entropies = -(targets.detach().to(scores.dtype) * (scores / temperature).log_softmax(-1)).sum(-1)  # (M,)
        return torch.sum(entropies / per_image) / images


def koleo(x: Float[Tensor, "B D"], eps: float) -> Float[Tensor, ""]:
    """The KoLeo regulariser: spreads the directions of a batch's features.

    Args:
        x: features, not normalised; for a single image the result is 0.
        eps: added to each coordinate of a difference, and to its length.

    Returns:
        Minus the mean logarithm of the distances to the nearest neighbours. Sablayrolles et al., ICLR 2019,
        https://arxiv.org/abs/1806.03198, as in DINOv2's `koleo_loss.py`.
    """
    with torch.autocast(x.device.type, enabled=False):
        z = F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1, eps=eps)
        if len(z) < 2:
            return 0 * z.sum()
        with torch.no_grad():
            nearest = (z @ z.T).fill_diagonal_(-torch.inf).argmax(1)
        distances = torch.linalg.vector_norm(z - z[nearest] + eps, dim=1)
        return -torch.log(distances + eps).mean()


def deepcluster_v2(
    scores: Float[Tensor, "V B K"], assignments: Int[Tensor, "B"], temperature: float
) -> Float[Tensor, ""]:
    """DeepCluster-v2's loss of one head, as a sum: predict the image's cluster from each view.

    Args:
        scores: cosine similarities of each view's embeddings with the centroids.
        assignments: each image's cluster; -100 for none yet.
        temperature: divides the scores; above 0.

    Returns:
        The cross-entropy, summed over views and images that have a cluster; the method divides by their number in all
        processes. Caron et al., NeurIPS 2020, appendix.
    """
    with torch.autocast(scores.device.type, enabled=False):
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32)).flatten(0, 1)
        targets = assignments.repeat(len(scores) // len(assignments))
        return F.cross_entropy(scores / temperature, targets, ignore_index=-100, reduction="sum")


def lejepa(
    z: Float[Tensor, "V B D"],
    directions: Float[Tensor, "D S"],
    global_views: int,
    lamb: float,
    t_max: float,
    points: int,
) -> dict[str, Tensor]:
    """LeJEPA's loss: an image's views agree, and the embeddings of all images follow a standard normal distribution.

    Args:
        z: embeddings of V views of each image.
        directions: unit columns along which normality is tested; redrawn in each step.
        global_views: number of global views, which come first; all views are pulled to their mean.
        lamb: weight of the test of normality, in [0, 1]; the invariance term has 1 - lamb.
        t_max, points: see `epps_pulley`.

    Returns:
        "loss" and its unweighted parts "sigreg" and "invariance". Balestriero and LeCun, 2025.
    """
    with torch.autocast(z.device.type, enabled=False):
        z = z.to(torch.promote_types(z.dtype, torch.float32))
        sigreg = epps_pulley(z @ directions.to(z.dtype), t_max, points).mean()
        invariance = (z - z[:global_views].mean(0)).square().mean()
        return {"loss": lamb * sigreg + (1 - lamb) * invariance, "sigreg": sigreg, "invariance": invariance}

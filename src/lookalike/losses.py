"""Losses as pure functions. None of them communicates: a method gathers what a loss should see.

Legend: B images (of all processes, where the method gathers), V views, D embedding, K keys of a queue. Reduced
precision is widened to float32, float64 stays float64.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def _unit(x: Tensor) -> Tensor:
    """Rows of length 1, in float32 or float64."""
    return F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1)


def nt_xent(z1: Float[Tensor, "B D"], z2: Float[Tensor, "B D"], temperature: float) -> Float[Tensor, ""]:
    """Normalised temperature-scaled cross-entropy: each view must find its partner among all other views.

    Args:
        z1: embeddings of the first view, not yet normalised.
        z2: embeddings of the second view, row by row of the same images.
        temperature: divides the cosine similarities; above 0.

    Returns:
        The mean over all 2B views. A view is never compared with itself; its partner is in the denominator.
        Chen et al., ICML 2020, equation 1. Google's code adds the two views' means, which is twice this.

    Raises:
        ValueError: if the two views differ in shape.
    """
    if z1.shape != z2.shape:
        raise ValueError(f"The views differ in shape: {tuple(z1.shape)} and {tuple(z2.shape)}. Give one row per image.")
    with torch.autocast(z1.device.type, enabled=False):
        z = _unit(torch.cat([z1, z2]))  # (2B, D)
        scores = (z @ z.T / temperature).fill_diagonal_(-torch.inf)  # (2B, 2B)
        partner = torch.arange(len(z), device=z.device).roll(len(z1))
        return F.cross_entropy(scores, partner)


def supcon(
    z: Float[Tensor, "B V D"], labels: Tensor | None, temperature: float, base_temperature: float
) -> Float[Tensor, ""]:
    """Supervised contrast: a view is to be near all views of its class, the other views of its own image included.

    Args:
        z: embeddings of V views of each image, not yet normalised.
        labels: (B,) int64; None makes each image a class of its own, and the loss NT-Xent's.
        temperature: divides the cosine similarities; above 0.
        base_temperature: the loss is multiplied by temperature / base_temperature, as the official code does (0.07);
            with `temperature` itself it is the paper's loss.

    Returns:
        The mean over all VB views; one without any other view of its class counts as 0 and stays in the mean.
        Khosla et al., NeurIPS 2020, equation 2 ("out": the logarithm is inside the mean over positives).

    Raises:
        ValueError: if there is not one label per image.
    """
    b, v, _ = z.shape
    classes = torch.arange(b, device=z.device) if labels is None else labels
    if classes.shape != (b,):
        raise ValueError(f"supcon got {b} images and labels of shape {tuple(classes.shape)}. Give one per image.")
    with torch.autocast(z.device.type, enabled=False):
        return _supcon(_unit(z).flatten(0, 1), classes.repeat_interleave(v), temperature, base_temperature)


def _supcon(rows: Tensor, classes: Tensor, temperature: float, base_temperature: float) -> Tensor:
    """`supcon` of rows (BV, D) of length 1 and their classes (BV,)."""
    scores = (rows @ rows.T / temperature).fill_diagonal_(-torch.inf)  # (BV, BV)
    log_share = scores - scores.logsumexp(1, keepdim=True)
    positive = (classes[:, None] == classes).fill_diagonal_(False)
    found = log_share.masked_fill(~positive, 0).sum(1) / positive.sum(1).clamp(min=1)
    return -found.mean() * (temperature / base_temperature)


def queue_scores(
    q: Float[Tensor, "B D"], k: Float[Tensor, "B D"], queue: Float[Tensor, "D K"], temperature: float
) -> Float[Tensor, "B 1+K"]:
    """Similarities of queries with their own key (column 0) and with the queue's keys, over the temperature.

    Args:
        q: the encoder's outputs, not yet normalised.
        k: the momentum encoder's, row by row of the same images; gets no gradient.
        queue: earlier keys, as columns of length 1; gets no gradient.
        temperature: above 0.
    """
    with torch.autocast(q.device.type, enabled=False):
        q, k = _unit(q), _unit(k.detach())
        own = (q * k).sum(1, keepdim=True)
        return torch.cat([own, q @ queue.detach().to(q.dtype)], 1) / temperature


def info_nce(
    q: Float[Tensor, "B D"], k: Float[Tensor, "B D"], queue: Float[Tensor, "D K"], temperature: float
) -> Float[Tensor, ""]:
    """MoCo's loss: a query must find its own key among those of the queue. Arguments as for `queue_scores`.

    Returns:
        The mean over the queries. He et al., CVPR 2020, equation 1.
    """
    scores = queue_scores(q, k, queue, temperature)
    return F.cross_entropy(scores, torch.zeros(len(q), dtype=torch.int64, device=q.device))


def contrast(q: Float[Tensor, "B D"], k: Float[Tensor, "B D"], temperature: float) -> Float[Tensor, ""]:
    """MoCo v3's loss for one direction: a query must find its own key among those of the batch.

    Args:
        q: the predictor's outputs for one view, not yet normalised.
        k: the momentum encoder's outputs for the other view, row by row of the same images; gets no gradient.
        temperature: above 0.

    Returns:
        The mean over the queries, times twice the temperature. Chen et al., ICCV 2021, Algorithm 1.
    """
    with torch.autocast(q.device.type, enabled=False):
        scores = _unit(q) @ _unit(k.detach()).T / temperature  # (B, B)
        return 2 * temperature * F.cross_entropy(scores, torch.arange(len(q), device=q.device))


def byol(p: Float[Tensor, "B D"], t: Float[Tensor, "B D"]) -> Float[Tensor, "B"]:
    """BYOL's loss for one direction: the squared distance of a normalised prediction to a normalised target.

    Args:
        p: the predictor's outputs for one view.
        t: the target network's projections of the other view; gets no gradient.

    Returns:
        2 - 2 cos for each image, 0 to 4. Grill et al., NeurIPS 2020, equation 2; the method adds both directions.
    """
    with torch.autocast(p.device.type, enabled=False):
        return 2 - 2 * (_unit(p) * _unit(t.detach())).sum(1)


def simsiam(p: Float[Tensor, "B D"], z: Float[Tensor, "B D"]) -> Float[Tensor, ""]:
    """SimSiam's loss for one direction: the negative cosine of a prediction and the other view's projection.

    Args:
        p: the predictor's outputs for one view.
        z: the projector's outputs for the other view; gets no gradient.

    Returns:
        The mean over the images, -1 to 1. Chen and He, CVPR 2021, equation 1; the method averages both directions.
    """
    with torch.autocast(p.device.type, enabled=False):
        return -(_unit(p) * _unit(z.detach())).sum(1).mean()

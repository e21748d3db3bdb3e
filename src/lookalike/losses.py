"""Losses as pure functions. None of them communicates: a method gathers what a loss should see.

Legend: B images (of all processes, where the method gathers), D embedding. Reduced precision is widened to float32,
float64 stays float64.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


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
        z = torch.cat([z1, z2])
        z = F.normalize(z.to(torch.promote_types(z.dtype, torch.float32)), dim=-1)  # (2B, D)
        scores = (z @ z.T / temperature).fill_diagonal_(-torch.inf)  # (2B, 2B)
        partner = torch.arange(len(z), device=z.device).roll(len(z1))
        return F.cross_entropy(scores, partner)

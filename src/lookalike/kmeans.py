"""Spherical k-means: clusters of directions -- Dhillon and Modha, Machine Learning 42, 2001."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from . import distributed

if TYPE_CHECKING:
    from jaxtyping import Float, Int

_CHUNK = 2**27
"""Similarities that are held at once: half a GiB in float32."""


@torch.no_grad()
def spherical_kmeans(
    x: Float[Tensor, "N D"], centroids: Float[Tensor, "K D"], iterations: int
) -> tuple[Float[Tensor, "K D"], Int[Tensor, "N"]]:
    """Groups rows of length 1 around K directions.

    All processes are given the same rows and centroids, each assigns its share of the rows, and all get the result.

    Args:
        x: the rows.
        centroids: rows of length 1 to begin from.
        iterations: how often rows are assigned to the centroid with the largest dot product, and each centroid becomes
            the direction of its rows' mean. A centroid without rows stays where it is.

    Returns:
        The centroids, of length 1, and each row's cluster by a last assignment. Caron et al. (SwAV), NeurIPS 2020,
        appendix, as in `cluster_memory` of the official code of DeepCluster-v2.
    """
    rank, world = distributed.rank(), distributed.world()
    with torch.autocast(x.device.type, enabled=False):
        own = x[rank::world]
        for _ in range(iterations):
            nearest = _nearest(own, centroids)
            counts = nearest.bincount(minlength=len(centroids))
            # sorted, not added in place: that order is a GPU's own, and the sums would differ from run to run
            sums = torch.segment_reduce(own[nearest.argsort(stable=True)], "sum", lengths=counts, axis=0)
            # of both the mean over the processes: their ratio is that of all rows
            sums, counts = distributed.mean(sums), distributed.mean(counts.to(sums.dtype))[:, None]
            centroids = F.normalize(torch.where(counts > 0, sums / counts, centroids))
        part = F.pad(_nearest(own, centroids), (0, -(-len(x) // world) - len(own)))
    every = distributed.gather(part).view(world, -1).T.flatten()  # row r is with process r % world
    return centroids, every[: len(x)]


def _nearest(x: Tensor, centroids: Tensor) -> Tensor:
    """(N,) int64: the centroid with the largest dot product, chunk by chunk."""
    step = max(1, _CHUNK // len(centroids))
    return torch.cat([(rows @ centroids.T).argmax(1) for rows in torch.split(x, step)])

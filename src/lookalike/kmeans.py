"""Spherical k-means, by cosine similarity -- Dhillon and Modha, Machine Learning 42, 2001."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from . import distributed

if TYPE_CHECKING:
    from jaxtyping import Float, Int

_CHUNK = 2**27
"""Similarities in memory at once: 0.5 GiB in float32."""


@torch.no_grad()
def spherical_kmeans(
    x: Float[Tensor, "N D"], centroids: Float[Tensor, "K D"], iterations: int
) -> tuple[Float[Tensor, "K D"], Int[Tensor, "N"]]:
    """Clusters unit rows into K clusters.

    All processes get the same rows and centroids; each assigns a part of the rows, and all return the whole result.

    Args:
        x: the rows, unit length.
        centroids: initial centroids, unit length.
        iterations: number of updates: each row is assigned to the centroid with the largest dot product, and each
            centroid becomes the normalised mean of its rows. An empty cluster keeps its centroid.

    Returns:
        The centroids, unit length, and each row's cluster by a final assignment. Caron et al. (SwAV), NeurIPS 2020,
        appendix, as in `cluster_memory` of the official code of DeepCluster-v2.
    """
    rank, world = distributed.rank(), distributed.world()
    with torch.autocast(x.device.type, enabled=False):
        own = x[rank::world]
        for _ in range(iterations):
            nearest = _nearest(own, centroids)
            counts = nearest.bincount(minlength=len(centroids))
            # sorted segments instead of index_add, whose order on a GPU differs between runs
            sums = torch.segment_reduce(own[nearest.argsort(stable=True)], "sum", lengths=counts, axis=0)
            # means over processes of both: their ratio is the mean over all rows
            sums, counts = distributed.mean(sums), distributed.mean(counts.to(sums.dtype))[:, None]
            centroids = F.normalize(torch.where(counts > 0, sums / counts, centroids))
        part = F.pad(_nearest(own, centroids), (0, -(-len(x) // world) - len(own)))
    every = distributed.gather(part).view(world, -1).T.flatten()  # process r % world has row r
    return centroids, every[: len(x)]


def _nearest(x: Tensor, centroids: Tensor) -> Tensor:
    """(N,) int64: the centroid with the largest dot product, computed in chunks."""
    step = max(1, _CHUNK // len(centroids))
    return torch.cat([(rows @ centroids.T).argmax(1) for rows in torch.split(x, step)])

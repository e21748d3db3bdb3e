"""The map of an embedding for a page: 2-D coordinates, nearest neighbours, clusters and thumbnails."""

import base64
import io
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ...data import Source
from ...evaluation.features import crop
from ...image_options import Pixels
from ...images import promote
from ...printing import are, counted
from ...views import stretch

STORED_NEIGHBOURS = 8
"""Number of nearest neighbours stored for each image."""
TILE = 48
"""Side of a thumbnail, in pixels."""
COLUMNS = 24
"""Side of a sheet, in thumbnails."""
COMPONENTS = 50
"""Number of principal components before t-SNE or UMAP."""
CLUSTERS = 10
"""Number of k-means clusters of unlabelled images."""
MAX_CLUSTERS = 30
"""Maximum number of clusters."""
LONG, QUICK = 1000, 500
"""Iterations of t-SNE, and for at most 1,000 images."""

Say = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Layout:
    """2-D coordinates of images."""

    xy: NDArray[np.float32]
    """(N, 2), centred, with maximum absolute value 1."""
    how: str
    """The algorithm and its settings, as text."""


def encoded(values: NDArray[np.generic]) -> str:
    """An array's bytes, little-endian, as base64; the page decodes it to a typed array."""
    little = values.astype(values.dtype.newbyteorder("<"))
    return base64.b64encode(np.ascontiguousarray(little).tobytes()).decode()


def project(features: Tensor, seed: int = 0) -> Layout:
    """Projects features (N, D) to 2 dimensions, similar ones (by cosine) near each other.

    UMAP if umap-learn is installed, otherwise t-SNE (van der Maaten and Hinton, JMLR 2008), after PCA to 50 dimensions.

    Raises:
        ValueError: the features are not finite, fewer than 2, or all equal.
    """
    if len(features) < 2:
        raise ValueError(f"A map needs at least 2 images; there {are(len(features))} {len(features)}.")
    if not bool(features.isfinite().all()):
        raise ValueError("The features are not finite: the training diverged.")
    x = F.normalize(features.double(), dim=1)
    x = x - x.mean(0)
    if float(x.norm(dim=1).max()) < 1e-6:
        raise ValueError("All images have the same features: there is nothing to map.")
    _, _, directions = torch.linalg.svd(x[:: math.ceil(len(x) / 5000)], full_matrices=False)
    reduced: NDArray[np.float32] = (x @ directions[:COMPONENTS].T).float().numpy()
    count = len(reduced)
    if count < 5 or reduced.shape[1] < 2:
        flat, how = (
            np.pad(reduced, ((0, 0), (0, max(0, 2 - reduced.shape[1]))))[:, :2],
            "PCA (too few images for t-SNE)",
        )
    elif find_spec("umap") is not None:
        from umap import UMAP

        neighbours = min(15, count - 1)
        flat = UMAP(n_neighbors=neighbours, min_dist=0.1, random_state=seed, init="pca").fit_transform(reduced)
        how = f"UMAP, {neighbours} neighbours, after PCA to {counted(reduced.shape[1], 'dimension')}"
    else:
        from sklearn.manifold import TSNE

        perplexity = min(30.0, (count - 1) / 3)
        flat = TSNE(
            perplexity=perplexity, init="pca", random_state=seed, max_iter=QUICK if count <= 1000 else LONG
        ).fit_transform(reduced)
        how = f"t‑SNE, perplexity {perplexity:.3g}, after PCA to {counted(reduced.shape[1], 'dimension')}"
    flat = np.asarray(flat, np.float64)
    flat = flat - (flat.max(0) + flat.min(0)) / 2
    return Layout((flat / max(np.abs(flat).max(), 1e-12)).astype(np.float32), how)


def neighbours(features: Tensor, k: int = STORED_NEIGHBOURS) -> NDArray[np.uint32]:
    """Indices of the k nearest rows of each row by cosine, nearest first, without itself: (N, min(k, N - 1))."""
    unit = F.normalize(features.float(), dim=1)
    found = []
    for start in range(0, len(unit), 1024):
        cosine = unit[start : start + 1024] @ unit.T
        own = torch.arange(len(cosine))
        cosine[own, start + own] = -torch.inf
        found.append(cosine.topk(min(k, len(unit) - 1)).indices)
    return torch.cat(found).numpy().astype(np.uint32)


def clusters(features: Tensor, count: int, seed: int = 0) -> NDArray[np.uint16]:
    """(N,): the cluster of each row, by k-means of normalised features; cluster 0 is the largest."""
    from sklearn.cluster import KMeans

    unit = F.normalize(features.float(), dim=1).numpy()
    found = KMeans(min(count, len(unit)), n_init=3, random_state=seed).fit_predict(unit)
    order = np.argsort(-np.bincount(found, minlength=count), kind="stable")
    rank = np.empty(len(order), np.uint16)
    rank[order] = np.arange(len(order))
    ranked: NDArray[np.uint16] = rank[found]
    return ranked


def sheets(source: Source, indices: list[int], tile: int = TILE) -> dict[str, object]:
    """Thumbnails of images on square sheets, as data URIs. Unreadable images are grey tiles.

    Thumbnails are centre crops, as for the encoder.
    """
    from ...data import BrokenImage

    per_sheet, urls = COLUMNS * COLUMNS, []
    limits: tuple[Tensor, Tensor] | None = None
    bands = source.pixels.shown if source.pixels.channels == source.channels else Pixels(source.channels).shown
    for start in range(0, len(indices), per_sheet):
        part = indices[start : start + per_sheet]
        sheet = Image.new("RGB", (COLUMNS * tile, -(-len(part) // COLUMNS) * tile), "#888888")
        small: dict[int, Tensor] = {}
        for n, index in enumerate(part):
            with suppress(BrokenImage):
                small[n] = _thumbnail(source.read(index, 2 * tile), tile)
        if limits is None and small:  # shared by all sheets
            limits = stretch([*small.values()], bands)
        for n, image in small.items():
            assert limits is not None
            sheet.paste(_picture(image[[*bands]], limits), (n % COLUMNS * tile, n // COLUMNS * tile))
        urls.append(data_uri(sheet, quality=72))
    return {"tile": tile, "columns": COLUMNS, "perSheet": per_sheet, "urls": urls}


def data_uri(image: Image.Image, *, quality: int) -> str:
    """An image as a WebP data URI."""
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=quality, method=4)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _thumbnail(image: Tensor, tile: int) -> Tensor:
    """The centre crop of an image (C, H, W) at `tile` pixels, in [0, 1]."""
    return promote(crop(image, tile), torch.float32)


def _picture(image: Tensor, limits: tuple[Tensor, Tensor]) -> Image.Image:
    """A thumbnail as 8-bit RGB; `limits` are the values of black and white."""
    rgb = ((image - limits[0]) / (limits[1] - limits[0])).expand(3, -1, -1)
    return Image.fromarray((rgb.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).contiguous().numpy())

"""Label-free scores of an encoder, from two views of each image."""

import torch

from ..core import DataFacts
from ..data import Data, Loader, Subset, open_source
from ..evaluation.extractor import Encoder, open_encoder
from ..evaluation.features import device_of
from ..label_free import alignment, effective_rank, pair_auc, spread, uniformity, view_retrieval
from ..methods.simclr import SimCLR
from ..modes import evaluating
from ..printing import counted
from ..random import permutation
from ..views import make_views, resized

VIEWED = 1000
"""Maximum number of images that label-free scores use."""


def label_free(
    encoder: Encoder, data: Data, *, images: int = VIEWED, image_size: int | None = None, seed: int = 0
) -> dict[str, float]:
    """Scores an encoder without labels; all encoders of one image size are scored on the same views of the same images.

    To choose between short trainings with different settings or methods, take the one with the highest `pair_auc`.
    It cannot rank trainings of nearly equal k-NN accuracy, and does not take your classes into account.
    docs/choosing.md has the measurements, and docs/results.md those of an older study, in which `view_retrieval` ranked
    SimCLR's settings best.

    Args:
        encoder: what `lookalike.load` accepts, a loaded encoder, or a module of your own (with `image_size`).
        data: images without labels; broken ones are replaced.
        images: number of images, drawn with `seed`. `view_retrieval` decreases with it: compare it only at equal
            numbers. The expected `pair_auc` does not depend on it.
        image_size: size of the views in pixels; by default the size that the encoder was trained or published at.
        seed: random seed of the draw and of the views, which are SimCLR's at that size.

    Returns:
        pair_auc, view_retrieval, view_retrieval_of_5 (among the five nearest), alignment, uniformity, spread and
        effective_rank (RankMe), as in `lookalike.label_free`.

    Raises:
        ValueError, FileNotFoundError: an encoder or images that cannot be used, or fewer than two images.
    """
    model = open_encoder(encoder, image_size)
    source = open_source(data, model.pixels)
    count = min(images, len(source))
    if count < 2:
        raise ValueError(
            f"Label-free scores of {counted(count, 'image')} are undefined. Give at least 2, better 1,000."
        )
    size, device = image_size or model.image_size, device_of(model)
    paper = SimCLR.Config(views=resized(SimCLR.Config().views, size))
    views = paper.fit_to(DataFacts(count, size)).views
    count, group = images_viewed(count), min(count, 100)
    indices = permutation(len(source), seed, "label-free")[:count].tolist()
    outputs: list[list[torch.Tensor]] = [[], []]
    for batch in Loader(Subset(source, indices), group, seed, decode_size=2 * size, max_broken=1.0):
        batch = batch.to(device)
        pair = make_views(batch, views, batch.keys, mean=model.mean, std=model.std, color=model.pixels.is_color)
        with evaluating(model), torch.inference_mode():
            for side, x in zip(outputs, pair, strict=True):
                side.append(model(x).float().cpu())
    a, b = (torch.cat(side) for side in outputs)
    return {
        "pair_auc": pair_auc(a, b), "view_retrieval": view_retrieval(a, b),
        "view_retrieval_of_5": view_retrieval(a, b, 5),
        "alignment": alignment(a, b), "uniformity": uniformity(a), "spread": spread(a),
        "effective_rank": effective_rank(a),
    }  # fmt: skip


def images_viewed(images: int) -> int:
    """Number of images that are used: the loader yields only full batches."""
    return images - images % min(images, 100)

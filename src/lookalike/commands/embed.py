"""Embeddings: one feature vector per image, and their file."""

import os
from collections.abc import Callable

from ..data import Data, open_maybe_labelled
from ..evaluation.extractor import Encoder, Extractor, Pool
from ..evaluation.feature_files import save_features
from ..evaluation.features import Features
from ..places import check_suffix, is_published
from .evaluation_request import silent


def embed(
    encoder: Encoder,
    data: Data,
    *,
    out: str | os.PathLike[str] | None = None,
    image_size: int | None = None,
    pool: Pool = "pooled",
    batch_size: int = 256,
    workers: int = 0,
    keep: bool = True,
    encoder_backbone: str | None = None,
    say: Callable[[str], None] = silent,
) -> Features:
    """Computes one feature vector per image and, with `out`, writes them to .npz, .parquet or .csv with the names.

    Where all images lie in class folders, or a Dataset has `targets`, labels are written, too. The arguments are those
    of `evaluate`; images that cannot be read are left out and listed in the result.
    """
    if out is not None:
        check_suffix(out)  # before the work, not after it
    source = open_maybe_labelled(data) if is_published(encoder) else None  # before it is fetched
    extractor = Extractor(
        encoder, image_size=image_size, pool=pool, batch_size=batch_size, workers=workers, keep=keep, say=say,
        backbone=encoder_backbone,
    )  # fmt: skip
    source = source or open_maybe_labelled(data, extractor.model.channels, extractor.model.alpha)
    found = extractor.features(source, "images")
    if out is not None:
        save_features(out, found)
    return found

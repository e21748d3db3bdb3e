"""Embeddings: one feature vector per image, and their file. Importing it brings along nothing heavy."""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..evaluation.protocol_table import Pool
from ..places import check_suffix, is_published
from ..printing import silent

if TYPE_CHECKING:
    from ..data import Data
    from ..evaluation.extractor import Encoder
    from ..evaluation.features import Features


def embed(
    encoder: "Encoder",
    data: "Data",
    *,
    out: str | os.PathLike[str] | None = None,
    image_size: int | None = None,
    pool: Pool = "pooled",
    batch_size: int = 256,
    workers: int = 0,
    keep: bool = True,
    encoder_backbone: str | None = None,
    say: Callable[[str], None] = silent,
) -> "Features":
    """Computes one feature vector per image, and writes them with the images' names.

    Images that cannot be read are left out, and listed in the result.

    Args:
        encoder: a run's folder, a file of weights, timm/NAME, torchvision/NAME or torchhub/NAME; in Python also a
            loaded encoder or a module, as for `evaluate`.
        data: a folder (scanned recursively) or a text file of paths; in Python also a list or a Dataset. Labels are
            written where all images lie in class folders, or a Dataset has `targets`.
        out: the file: .npz, .parquet (needs the extra 'tables') or .csv.
        image_size: pixels of the test crop. Without it the size that the encoder was trained or published at.
        pool: what stands for an image, as for `evaluate`.
        batch_size: images per forward pass.
        workers: processes that decode.
        keep: keep the features in the run's folder, where `encoder` is one, and use them again.
        encoder_backbone: name of the architecture, where `encoder` is a file of weights that does not say it.
        say: called with lines for the user.
    """
    if out is not None:
        check_suffix(out)  # before the work, not after it
    from ..data import open_maybe_labelled
    from ..evaluation.extractor import Extractor
    from ..evaluation.feature_files import save_features

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

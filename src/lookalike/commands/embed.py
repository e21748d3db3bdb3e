"""The command `embed`: one feature vector per image, saved to a file. It imports nothing heavy."""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..columns import COLUMNS, Columns
from ..evaluation.protocol_table import FeaturePrecision, Pool
from ..image_options import Tiling
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
    tile: int | None = None,
    stride: int | None = None,
    precision: FeaturePrecision | None = None,
    batch_size: int = 256,
    workers: int = 0,
    keep: bool = True,
    encoder_backbone: str | None = None,
    only: str | os.PathLike[str] | None = None,
    columns: Columns = COLUMNS,
    say: Callable[[str], None] = silent,
) -> "Features":
    """Computes one feature vector per image, and saves them with file names.

    Images that cannot be read are skipped and listed in the result.

    Args:
        encoder: a run folder, a weights file, an exported .onnx file, timm/NAME, torchvision/NAME or torchhub/NAME; in
            Python also a loaded encoder or a module, as for `evaluate`.
        data: a folder (scanned recursively), a text file of paths, or another DATA; in Python also a list or a Dataset.
            Labels are saved if all images are in class folders, or if they are stored with the images.
        out: output file: .npz, .parquet (needs the extra 'tables') or .csv.
        image_size: size of the test crop in pixels; by default the size that the encoder was trained or published at.
        pool: pooling of the features, as for `evaluate`.
        tile: cut images into tiles of this many pixels, each of which counts as an image named FILE@TOP,LEFT.
        stride: distance between the beginnings of two tiles in pixels; by default the size of a tile.
        precision: fp32, or bf16 for convolutions and matrix products. The default is bf16 on a CPU with bf16
            instructions where the network is faster in it, as for `pretrain`; else fp32.
        batch_size: images per forward pass.
        workers: number of processes that decode images.
        keep: cache the features in the run folder, if `encoder` is one, and reuse them.
        encoder_backbone: name of the architecture, if `encoder` is a weights file that does not state it.
        only: file of `lookalike check DATA --out`: embed only the images that it proposes to keep.
        columns: names of the columns of lists.
        say: called with lines for the user.
    """
    if out is not None:
        check_suffix(out)  # before the work starts
    tiling = Tiling.of(tile, stride)
    from ..data import only_chosen, open_maybe_labelled
    from ..evaluation.extractor import Extractor
    from ..evaluation.feature_files import save_features

    # before a download
    source = open_maybe_labelled(data, columns=columns, tiling=tiling) if is_published(encoder) else None
    extractor = Extractor(
        encoder, image_size=image_size, pool=pool, batch_size=batch_size, workers=workers, keep=keep, say=say,
        backbone=encoder_backbone, precision=precision,
    )  # fmt: skip
    source = source or open_maybe_labelled(data, extractor.model.pixels, columns, tiling)
    if only is not None:
        source = only_chosen(source, only)
    found = extractor.features(source, "images")
    if out is not None:
        save_features(out, found)
    return found

"""The command `show`: pictures of an encoder's features for visual inspection. It imports nothing heavy."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from ..columns import COLUMNS, Columns
from ..image_options import Tiling
from ..printing import silent

if TYPE_CHECKING:
    from ..data import Data
    from ..evaluation.extractor import Encoder

What = Literal["attention", "pca", "neighbours"]


def show(
    encoder: "Encoder",
    images: "Data",
    *,
    out: str | os.PathLike[str],
    what: Sequence[What] = (),
    count: int = 8,
    image_size: int | None = None,
    tile: int | None = None,
    stride: int | None = None,
    workers: int = 0,
    seed: int = 0,
    overwrite: bool = False,
    encoder_backbone: str | None = None,
    columns: Columns = COLUMNS,
    say: Callable[[str], None] = silent,
) -> list[Path]:
    """Draws an encoder's attention maps, a PCA of its patch features, and nearest neighbours of some images.

    The pictures are `attention.png`, `pca.png` and `neighbours.png`; `neighbours.csv` has the names and cosines of the
    last. Images are cropped as in evaluation.

    Args:
        encoder: a run folder, a weights file, an exported .onnx file, timm/NAME, torchvision/NAME or torchhub/NAME; in
            Python also a loaded encoder.
        images: a folder (scanned recursively) or a text file of paths; in Python also a list or a Dataset. Labels are
            ignored. Neighbours are searched among all images.
        out: folder of the pictures, created if needed.
        what: the pictures; by default all that the encoder supports: attention needs a plain ViT with a class token,
            PCA needs patch tokens.
        count: number of images per picture, drawn with the seed.
        image_size: input size in pixels: larger images give finer maps; by default the size that the encoder was
            trained or published at.
        tile: cut images into tiles of this many pixels, each of which counts as an image named FILE@TOP,LEFT.
        stride: distance between the beginnings of two tiles in pixels; by default the size of a tile.
        workers: number of processes that decode images for the neighbours.
        seed: random seed of the choice of images.
        overwrite: replace existing pictures.
        encoder_backbone: name of the architecture, if `encoder` is a weights file that does not state it.
        columns: names of the columns of lists.
        say: called with progress lines.

    Returns:
        The written files.

    Raises:
        ValueError, FileNotFoundError, FileExistsError: something cannot be shown, read or written.
    """
    if count < 1:
        raise ValueError(f"count is {count}; it must be at least 1 image.")
    if unknown := set(what) - set(get_args(What)):
        raise ValueError(f"Unknown picture {min(unknown)!r}. Available: {', '.join(get_args(What))}.")
    from .pictures import draw_pictures

    return draw_pictures(
        encoder, images, out=out, what=what, count=count, image_size=image_size, workers=workers, seed=seed,
        overwrite=overwrite, encoder_backbone=encoder_backbone, columns=columns, tiling=Tiling.of(tile, stride),
        say=say,
    )  # fmt: skip

"""What an encoder sees, as pictures for eyes: no measure. Importing it brings along nothing heavy."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

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
    workers: int = 0,
    seed: int = 0,
    overwrite: bool = False,
    encoder_backbone: str | None = None,
    say: Callable[[str], None] = silent,
) -> list[Path]:
    """Draws what an encoder sees: its attention, its patches as colours, the nearest neighbours of some images.

    The pictures are `attention.png`, `pca.png` and `neighbours.png`; beside the last lies `neighbours.csv`, which has
    the names and cosines. Images are cut as the evaluation protocols cut them.

    Args:
        encoder: a run's folder, a file of weights, timm/NAME, torchvision/NAME or torchhub/NAME; in Python also a
            loaded encoder.
        images: a folder (scanned recursively) or a text file of paths; in Python also a list or a Dataset. Labels are
            not looked at. Neighbours are looked for in all.
        out: folder of the pictures; made if needed.
        what: the pictures. Without it all that the encoder has: attention takes a plain ViT with a class token, PCA
            patch tokens.
        count: images per picture, drawn by the seed.
        image_size: pixels that the encoder sees: larger ones make finer maps. Without it those it was trained or
            published at.
        workers: processes that decode, for the neighbours.
        seed: of the images that are drawn.
        overwrite: replace pictures that are there.
        encoder_backbone: name of the architecture, where `encoder` is a file of weights that does not say it.
        say: called with lines about the progress.

    Returns:
        The files that were written.

    Raises:
        ValueError, FileNotFoundError, FileExistsError: what cannot be shown, read or written, and what to do.
    """
    if count < 1:
        raise ValueError(f"count is {count}; it is a number of images, 1 or more.")
    if unknown := set(what) - set(get_args(What)):
        raise ValueError(f"Nothing is shown as {min(unknown)!r}. There are: {', '.join(get_args(What))}.")
    from .pictures import draw_pictures

    return draw_pictures(
        encoder, images, out=out, what=what, count=count, image_size=image_size, workers=workers, seed=seed,
        overwrite=overwrite, encoder_backbone=encoder_backbone, say=say,
    )  # fmt: skip

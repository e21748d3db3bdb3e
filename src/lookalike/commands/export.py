"""The command `export`: an encoder as a verified file for other programs. It imports nothing heavy."""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..columns import COLUMNS, Columns
from ..exports.formats import FORMATS, OPSET, Format, Precision, check_options
from ..image_options import Tiling
from ..printing import silent

if TYPE_CHECKING:
    from ..classifiers import Classifier
    from ..data import Data
    from ..evaluation.extractor import Encoder
    from .export_files import Exported


def export(
    encoder: "Encoder | Classifier",
    *,
    format: Format = "onnx",
    precision: Precision = "fp32",
    out: str | os.PathLike[str] | None = None,
    check: "Data | None" = None,
    calibrate: "Data | None" = None,
    with_preprocessing: bool = False,
    patch_tokens: bool = False,
    dynamic_size: bool = False,
    opset: int = OPSET,
    overwrite: bool = False,
    encoder_backbone: str | None = None,
    columns: Columns = COLUMNS,
    tile: int | None = None,
    stride: int | None = None,
    say: Callable[[str], None] = silent,
) -> "Exported":
    """Exports an encoder or a classifier as a file for other programs, and verifies it.

    The file is loaded by the program that will use it, and its outputs for 256 real images are compared with the
    encoder's. `export.json` has the result, README.md is the model card. A file that was not verified ends in
    .unverified.

    Args:
        encoder: a run folder, a weights file, timm/NAME, torchvision/NAME or torchhub/NAME; in Python also a loaded
            encoder, classifier or module. A finetune run is exported as a classifier, its encoder.safetensors as an
            encoder.
        format: onnx, pt2 (torch.export), timm (also for transformers), tensorrt or triton (a model repository of
            Triton Inference Server).
        precision: fp16 and int8 for onnx, tensorrt and triton. Norms and softmax stay in fp32; int8 replaces the
            products of matrices and convolutions.
        out: folder of the export. By default FORMAT or FORMAT-PRECISION in the folder `export` of the run; without a
            run, in `export` in the current folder.
        check: images for the verification; by default the run's training images.
        calibrate: images for the ranges of int8 numbers; by default those of `check`.
        with_preprocessing: the graph takes uint8 images (B, H, W, C) of any size, and resizes, crops and normalises
            them; always so for triton.
        patch_tokens: the patch tokens are a further output.
        dynamic_size: images of other sizes are accepted, too; a ViT takes multiples of its patch size.
        opset: version of the ONNX operators.
        overwrite: replace an existing export.
        encoder_backbone: name of the architecture, if `encoder` is a weights file that does not state it.
        columns: names of the columns of lists, for `check` and `calibrate`.
        tile: cut the images of `check` and `calibrate` into tiles of this many pixels; the run's own are cut as in its
            training.
        stride: distance between the beginnings of two tiles in pixels; by default the size of a tile.
        say: called with lines for the user.

    Returns:
        The folder, the file and its verification.

    Raises:
        NotVerified: the file differs from the encoder by more than the limits, or there are no images to check it.
        ValueError, FileNotFoundError, FileExistsError, ModuleNotFoundError: something cannot be exported, read or
            written.
    """
    check_options(
        format, precision, with_preprocessing=with_preprocessing, patch_tokens=patch_tokens, dynamic_size=dynamic_size
    )
    from ..exports.making import Request
    from .export_files import export_files

    asked = Request(
        format=format, precision=precision,
        with_preprocessing=with_preprocessing or FORMATS[format].preprocesses, patch_tokens=patch_tokens,
        dynamic_size=dynamic_size, opset=opset, overwrite=overwrite,
    )  # fmt: skip
    return export_files(
        encoder, asked, out=out, check=check, calibrate=calibrate, encoder_backbone=encoder_backbone, columns=columns,
        tiling=Tiling.of(tile, stride), say=say,
    )  # fmt: skip

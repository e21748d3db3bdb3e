"""Exported encoders: `.onnx` files with the metadata that `export` writes into them."""

import os
from pathlib import Path
from typing import Any

from ..backbones.onnx_file import FEATURES, Onnx, OnnxFile
from ..files import parse_json
from .card import checked, pixels_of

CARD = "lookalike"
"""The entry of an ONNX file's metadata that holds the card, in JSON."""
SUFFIX = ".onnx"
UNVERIFIED = ".unverified"
"""Suffix of exports that were not verified."""


def is_export(encoder: object) -> bool:
    """Whether an encoder is given by the path of an `.onnx` file."""
    return isinstance(encoder, str | os.PathLike) and Path(encoder).suffix == SUFFIX and os.path.isfile(encoder)


def check_verified(path: Path) -> None:
    """Raises ValueError for an export that was not verified."""
    if path.suffix == UNVERIFIED:
        raise ValueError(f"{path} is an export that was not verified; export.json beside it says why.")


def check_tensors(path: Path) -> None:
    """Raises ValueError for an export, whose weights cannot be read."""
    check_verified(path)
    if is_export(path):
        raise ValueError(
            f"{path} is an export, whose weights cannot be trained. Give the run that it was exported from."
        )


def card_of(file: OnnxFile) -> dict[str, Any]:
    """The card in an ONNX file's metadata, with the names of a classifier's classes.

    Raises:
        ValueError: another program wrote the file, or it has no features.
    """
    if CARD not in file.metadata or FEATURES not in file.outputs:
        raise ValueError(
            f"{file.path} was not exported by lookalike: it does not state its size and normalisation. Give a file "
            "that `lookalike export` wrote."
        )
    return checked(parse_json(file.metadata[CARD], f"The metadata of {file.path}", object), file.path)


def load_onnx(path: str | os.PathLike[str]) -> tuple[Onnx, tuple[str, ...] | None]:
    """An exported encoder, and its classes if it is a classifier.

    Raises:
        ModuleNotFoundError: onnxruntime is not installed.
        ValueError: the file is damaged, or not of lookalike.
    """
    file = OnnxFile(path)
    card = card_of(file)
    encoder = Onnx(
        file, card["backbone"], channels=card["channels"], image_size=card["image_size"], mean=tuple(card["mean"]),
        std=tuple(card["std"]), stem=card["stem"], interpolation=card["interpolation"],
    )  # fmt: skip
    encoder.pixels = pixels_of(card)
    classes = card.get("classes")
    return encoder.eval(), None if classes is None else tuple(classes)

"""`encoder.safetensors` and `encoder.json`: writing them, and reading what they hold."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from ..backbones import Backbone
from ..files import FORMAT, atomic, file_sha256, parse_json, read_json, write_json
from ..runs.folder import Folder
from ..tensor_file import state_sha256, tensor_file, write_tensors
from .card import Card, checked

PREFIX = "encoder."
"""Of the encoder's tensors in the file of a classifier, which has a head beside."""


def save(folder: Folder, backbone: Backbone, *, method: str, epochs: float, dtype: torch.dtype) -> None:
    """Writes `encoder.safetensors` and `encoder.json`, atomically."""
    card = Card(
        format=FORMAT, backbone=backbone.name, stem=backbone.stem, interpolation=backbone.interpolation,
        dim=backbone.dim, image_size=backbone.image_size, channels=backbone.channels,
        dtype=str(dtype).removeprefix("torch."), mean=backbone.mean, std=backbone.std, method=method, epochs=epochs,
        alpha=backbone.alpha,
    )  # fmt: skip
    write(folder.weights, backbone.export_state(), card)
    write_json(folder.card, dataclasses.asdict(card) | {"sha256": file_sha256(folder.weights)})


def write(path: Path, tensors: Mapping[str, Tensor], card: Card, classes: Sequence[str] | None = None) -> None:
    """Writes tensors with their card, a digest and, of a classifier, the classes' names in their head, atomically."""
    content = dataclasses.asdict(card) | ({} if classes is None else {"classes": list(classes)})
    state = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with atomic(path) as temporary:
        write_tensors(temporary, state, {"lookalike": json.dumps(content), "sha256": state_sha256(state)})


def read_card(folder: Folder) -> Card:
    """What a run's weights say of themselves. `encoder.json`, a copy for other programs, may be of those before."""
    content = checked(_head_of(folder.weights), folder.weights)
    return Card(**{f.name: content[f.name] for f in dataclasses.fields(Card) if f.name in content})


def card_within(weights: Path) -> dict[str, Any] | None:
    """The card in the head of a file of ours; None of other files and of those that cannot be read."""
    try:
        content = _head_of(weights)
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _head_of(weights: Path) -> object:
    """What a file of ours says of itself; None of other files. Raises ValueError where it cannot be read."""
    try:
        with tensor_file(weights) as path, safe_open(path, "pt") as file:
            return parse_json((file.metadata() or {}).get("lookalike", "null"), weights, object)
    except SafetensorError as error:
        raise ValueError(f"{weights} is not a whole safetensors file ({error}).") from None


def mend_card(folder: Folder, say: Callable[[str], None]) -> None:
    """Writes `encoder.json` anew where it is not of the weights, as after a kill between the two: the weights count.

    A training may write both meanwhile: it is looked at until they are of one another.
    """
    while (content := card_within(folder.weights)) is not None:
        digest = file_sha256(folder.weights)
        if card_beside(folder).get("sha256") == digest:
            return
        if card_within(folder.weights) == content:  # the digest is of the same file
            write_json(folder.card, content | {"sha256": digest})
            say(f"{folder.card} was not of {folder.weights}: it is written anew from what the weights say.")


def card_beside(folder: Folder) -> dict[str, Any]:
    """What stands in `encoder.json`; nothing where it cannot be read."""
    try:
        return read_json(folder.card, dict)
    except (OSError, ValueError):
        return {}


def tensors_and_card(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """The tensors of a file, of a classifier those of its encoder, and what one of ours says of itself."""
    state, card = read_whole(path)
    if card is not None and "classes" in card:
        state = {name.removeprefix(PREFIX): value for name, value in state.items() if name.startswith(PREFIX)}
    return state, card


def read_whole(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """All tensors of a .safetensors file, and what one of ours says of itself.

    Raises:
        ValueError: it is not whole, or damaged.
    """
    try:
        with tensor_file(path) as named:
            with safe_open(named, "pt") as file:
                head: Mapping[str, str] = file.metadata() or {}
            state = load_file(named)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error}). Copy or save it once more.") from None
    if "lookalike" in head and "sha256" in head and head["sha256"] != state_sha256(state):
        raise ValueError(f"{path} is damaged: its tensors are not those that were written. Copy it once more.")
    if "lookalike" not in head:
        return plain(state, path), None
    return plain(state, path), checked(parse_json(head["lookalike"], f"What {path} says of itself", object), path)


def plain(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The same tensors, once each holds real numbers that are all there.

    Raises:
        ValueError: the first that is not, and what to do.
    """
    for name, x in state.items():
        if x.layout != torch.strided or x.is_quantized or x.is_complex() or x.is_meta:
            what = "quantised" if x.is_quantized else "without numbers" if x.is_meta else f"{x.dtype}, {x.layout}"
            raise ValueError(f"{path}: {name} is {what}. Save dense tensors of real numbers, such as float32.")
    return state

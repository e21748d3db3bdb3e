"""Writes and reads `encoder.safetensors` and `encoder.json`."""

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
from .card import Card, checked, read_as

PREFIX = "encoder."
"""Prefix of the encoder's tensors in a classifier's file, which also has a head."""


def save(folder: Folder, backbone: Backbone, *, method: str, epochs: float, dtype: torch.dtype) -> None:
    """Writes `encoder.safetensors` and `encoder.json`, atomically."""
    card = Card(
        format=FORMAT, backbone=backbone.name, stem=backbone.stem, interpolation=backbone.interpolation,
        dim=backbone.dim, image_size=backbone.image_size, channels=backbone.channels,
        dtype=str(dtype).removeprefix("torch."), mean=backbone.mean, std=backbone.std, method=method, epochs=epochs,
        **read_as(backbone.pixels),
    )  # fmt: skip
    write(folder.weights, backbone.export_state(), card)
    write_json(folder.card, dataclasses.asdict(card) | {"sha256": file_sha256(folder.weights)})


def write(path: Path, tensors: Mapping[str, Tensor], card: Card, classes: Sequence[str] | None = None) -> None:
    """Writes tensors atomically, with their card, a digest and, for a classifier, the class names in the header."""
    content = dataclasses.asdict(card) | ({} if classes is None else {"classes": list(classes)})
    state = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with atomic(path) as temporary:
        write_tensors(temporary, state, {"lookalike": json.dumps(content), "sha256": state_sha256(state)})


def read_card(folder: Folder) -> Card:
    """The card in the header of a run's weights. `encoder.json`, a copy for other programs, may be outdated."""
    content = checked(_head_of(folder.weights), folder.weights)
    return Card(**{f.name: content[f.name] for f in dataclasses.fields(Card) if f.name in content})


def card_within(weights: Path) -> dict[str, Any] | None:
    """The card in the header of a file written by lookalike; None for other files and for unreadable ones."""
    try:
        content = _head_of(weights)
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _head_of(weights: Path) -> object:
    """The metadata of a file written by lookalike; None for other files. Raises ValueError if it is unreadable."""
    try:
        with tensor_file(weights) as path, safe_open(path, "pt") as file:
            return parse_json((file.metadata() or {}).get("lookalike", "null"), weights, object)
    except SafetensorError as error:
        raise ValueError(f"{weights} is not a complete safetensors file ({error}).") from None


def mend_card(folder: Folder, say: Callable[[str], None]) -> None:
    """Rewrites `encoder.json` from the weights if they do not match, as after a kill between writing the two files.

    A running training may write both at the same time, so this repeats until they match.
    """
    while (content := card_within(folder.weights)) is not None:
        digest = file_sha256(folder.weights)
        if card_beside(folder).get("sha256") == digest:
            return
        if card_within(folder.weights) == content:  # the digest belongs to the same file
            write_json(folder.card, content | {"sha256": digest})
            say(f"{folder.card} did not match {folder.weights}: rewritten from the metadata of the weights.")


def card_beside(folder: Folder) -> dict[str, Any]:
    """The contents of `encoder.json`; empty if it is unreadable."""
    try:
        return read_json(folder.card, dict)
    except (OSError, ValueError):
        return {}


def tensors_and_card(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """The tensors of a file (for a classifier, those of its encoder), and its metadata if lookalike wrote it."""
    state, card = read_whole(path)
    if card is not None and "classes" in card:
        state = {name.removeprefix(PREFIX): value for name, value in state.items() if name.startswith(PREFIX)}
    return state, card


def read_whole(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """All tensors of a .safetensors file, and its metadata if lookalike wrote it.

    Raises:
        ValueError: the file is incomplete or damaged.
    """
    try:
        with tensor_file(path) as named:
            with safe_open(named, "pt") as file:
                head: Mapping[str, str] = file.metadata() or {}
            state = load_file(named)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a complete safetensors file ({error}). Copy or save it again.") from None
    if "lookalike" in head and "sha256" in head and head["sha256"] != state_sha256(state):
        raise ValueError(f"{path} is damaged: its tensors do not match their checksum. Copy it again.")
    if "lookalike" not in head:
        return plain(state, path), None
    return plain(state, path), checked(parse_json(head["lookalike"], f"The metadata of {path}", object), path)


def plain(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Checks that all tensors are dense and real.

    Raises:
        ValueError: names the first tensor that is not, with a remedy.
    """
    for name, x in state.items():
        if x.layout != torch.strided or x.is_quantized or x.is_complex() or x.is_meta:
            kind = "quantised" if x.is_quantized else "a meta tensor" if x.is_meta else f"{x.dtype}, {x.layout}"
            raise ValueError(f"{path}: {name} is {kind}. Save dense tensors of real numbers, such as float32.")
    return state

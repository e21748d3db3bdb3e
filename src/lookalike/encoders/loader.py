"""Loads encoders from a run or a weights file, or by a name of timm, torchvision or torch hub."""

import os
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout, suppress
from pathlib import Path

import torch
from torch import Tensor, nn

from .. import backbones
from ..backbones import Backbone
from ..backbones.library import full_name, published_size, tensor_names
from ..backbones.official import from_weights, recognised
from ..foreign import is_tag
from ..places import HUB_URL, hub_entry, no_encoder
from ..printing import brief, counted, printable
from ..runs.folder import Folder
from ..runs.lookup import weights_of
from .card import pixels_of
from .checkpoints import Names, read
from .exported import check_verified, is_export, load_onnx
from .saved import card_beside, card_within, mend_card


def load(encoder: str | os.PathLike[str], backbone: nn.Module | str | None = None) -> Backbone:
    """Loads an encoder, in eval mode: a module from normalised images (B, C, H, W) to features (B, D).

    Args:
        encoder: a run's folder, an `encoder.safetensors`, a `classifier.safetensors` (its head is ignored), an
            exported `.onnx` file, an official checkpoint file of DINO, iBOT or DINOv2, or `timm/NAME`,
            `torchvision/NAME` or `torchhub/NAME` (of `HUB`) with their published weights, at their published image
            size. An existing path takes precedence.
        backbone: the module, if the encoder was trained from a user's own module; or the name of the architecture, if
            a weights file does not contain it.

    Raises:
        FileNotFoundError, ValueError: the path does not exist or is not an encoder; the message states what was
            expected.
    """
    if not os.fspath(encoder):
        raise FileNotFoundError(
            "The name of the encoder is empty. Give a run, a weights file, an exported .onnx file, timm/NAME, "
            "torchvision/NAME or torchhub/NAME."
        )
    path = Path(encoder)
    if path.is_dir():
        folder = Folder(path)
        path = weights_of(path)
        if folder.run.is_file() and not (card_within(path) or {}).items() <= card_beside(folder).items():
            with suppress(OSError, ValueError):  # the folder may be read-only; errors in the card are raised below
                mend_card(folder, folder.note)
    if path.is_file():
        open(path, "rb").close()  # for a file without permission, safetensors would report that it does not exist
        if is_export(path):
            return _exported(path, backbone)
        return _from_file(path, backbone).eval()
    name = os.fspath(encoder)
    if name.startswith(("timm/", "torchvision/")):
        return backbones.published(name).eval()
    if name.startswith("torchhub/"):
        return from_hub(name.removeprefix("torchhub/")).eval()
    if is_tag(name):
        raise FileNotFoundError(f"{brief(name)} is a user-defined module: pass it in Python, Run(teacher=module).")
    raise no_encoder(name)


def places(encoder: str | os.PathLike[str]) -> list[str]:
    """Paths of an encoder: its own path and, for a file, those of its folder and run."""
    path = os.path.realpath(encoder)
    folder = os.path.dirname(path)
    above = [os.path.dirname(folder)] if os.path.basename(folder) == "checkpoints" else []
    return [path, folder, *above] if os.path.isfile(path) else [path]


def image_size(encoder: str | os.PathLike[str], backbone: str | None = None) -> int:
    """Image size of an encoder in pixels, without downloading anything. Arguments and errors are those of `load`."""
    path = Path(encoder)
    path = Folder(path).weights if path.is_dir() else path
    if is_export(path):
        return load_onnx(path)[0].image_size
    if path.is_file():
        held, card = read(path, _names_of(backbone))
        if card:
            return int(card["image_size"])
        return published_size(_architecture(path, held.state, backbone)[0])
    name = os.fspath(encoder)
    if name.startswith("torchhub/"):
        return published_size(hub_entry(name.removeprefix("torchhub/"))[0])
    if name.startswith(("timm/", "torchvision/")):
        return published_size(name)
    return load(encoder).image_size  # raises an error with the cause


def own(module: nn.Module, like: Backbone, size: int) -> Backbone:
    """A user's pretrained module as an encoder for images of `size` pixels, with channels and normalisation of `like`.

    A `Backbone` is returned unchanged.
    """
    if isinstance(module, Backbone):
        return module
    encoder = backbones.create(module, channels=like.channels, image_size=size)
    encoder.mean, encoder.std = like.mean, like.std
    return encoder


def from_hub(name: str) -> Backbone:
    architecture, file = hub_entry(name)
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    try:
        with redirect_stdout(sys.stderr):  # messages belong with torch's progress bar, not among results
            state = torch.hub.load_state_dict_from_url(HUB_URL + file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise FileNotFoundError(
            f"The weights of torchhub/{name} could not be downloaded. Check the network, or download {HUB_URL}{file} "
            f"on a machine with network access and copy it here to {folder / Path(file).name}."
        ) from error
    return from_weights(state, architecture, official=True)


def _names_of(backbone: nn.Module | str | None) -> Names | None:
    """A function that returns the tensor names of a backbone given by name."""
    return (lambda: tensor_names(backbone)) if isinstance(backbone, str) else None


def _architecture(path: Path, state: Mapping[str, Tensor], named: str | None) -> tuple[str, bool]:
    """The name of a file's backbone, and whether the file is an official checkpoint of DINO, iBOT or DINOv2."""
    found = recognised(state)
    if (name := named or found) is None:
        raise ValueError(
            f"{path} does not name the backbone of its {counted(len(state), 'tensor')}, and it is not one of the ViTs "
            "of DINO and DINOv2. Name it: --encoder-backbone NAME (evaluate, embed, show, finetune), "
            "--teacher-backbone NAME (distill, compare), or in Python lookalike.load(path, backbone=NAME)."
        )
    return name, found is not None


def _exported(path: Path, backbone: nn.Module | str | None) -> Backbone:
    if backbone is not None:
        raise ValueError(f"{path} is an export, which needs no backbone. Leave the name of the backbone out.")
    return load_onnx(path)[0]


def _from_file(path: Path, backbone: nn.Module | str | None) -> Backbone:
    check_verified(path)
    held, card = read(path, _names_of(backbone))
    state = held.state
    if card is None and isinstance(backbone, nn.Module):
        raise ValueError(
            f"{path} was not written by lookalike and cannot be loaded into your own module here: load it in the "
            "module, then pass that."
        )
    if card is None:
        assert backbone is None or isinstance(backbone, str)
        name, official = _architecture(path, state, backbone)
        named = from_weights(state, name, official=official)
        named.remark = held.remark
        return named
    if isinstance(backbone, str) and full_name(backbone) != card["backbone"]:
        raise ValueError(
            f"{path} contains a {printable(card['backbone'])}, but {brief(backbone)} was requested. Omit the name of "
            "the backbone."
        )
    if is_tag(card["backbone"]) and not isinstance(backbone, nn.Module):
        raise ValueError(
            f"{path} was trained from your own {printable(card['backbone'])}: pass the module, "
            "load(path, backbone=module). For a teacher, use Run(teacher=load(path, backbone=module))."
        )
    encoder = backbones.create(
        backbone if isinstance(backbone, nn.Module) else card["backbone"], channels=card["channels"],
        image_size=card["image_size"], stem=card["stem"], interpolation=card["interpolation"],
    )  # fmt: skip
    encoder.mean, encoder.std = tuple(card["mean"]), tuple(card["std"])
    encoder.pixels = pixels_of(card)
    encoder.load_exported(state)
    if encoder.dim != card["dim"]:
        raise ValueError(
            f"{path} states a feature dimension of {card['dim']}, but {encoder.name} has dimension {encoder.dim}."
        )
    return encoder

"""Encoders to use: read back from a run or a file of weights, or by timm's, torchvision's and torch hub's names."""

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
from ..printing import are, brief, counted, printable
from ..runs.folder import Folder
from ..runs.lookup import weights_of
from .checkpoints import Names, read
from .saved import card_beside, card_within, mend_card

TAKEN = "Give a run, a weights file, timm/NAME, torchvision/NAME or torchhub/NAME."


def load(encoder: str | os.PathLike[str], backbone: nn.Module | str | None = None) -> Backbone:
    """Loads an encoder, in eval mode: a module from normalised images (B, C, H, W) to features (B, D).

    Args:
        encoder: a run's folder, an `encoder.safetensors`, a `classifier.safetensors` (its head is left out), an
            official checkpoint file of DINO, iBOT or DINOv2, or `timm/NAME`, `torchvision/NAME` or `torchhub/NAME` (of
            `HUB`) with their published weights, at the image size that they were published for. A path that exists
            wins.
        backbone: the architecture, where the encoder was trained from a user's own module; or its name, where a file
            of weights does not say it.

    Raises:
        FileNotFoundError, ValueError: nothing is there, or it is no encoder; the message says what was expected.
    """
    if not os.fspath(encoder):
        raise FileNotFoundError(f"The name of the encoder is empty. {TAKEN}")
    path = Path(encoder)
    if path.is_dir():
        folder = Folder(path)
        path = weights_of(path)
        if folder.run.is_file() and not (card_within(path) or {}).items() <= card_beside(folder).items():
            with suppress(
                OSError, ValueError
            ):  # where nothing may be written; what is wrong with the card is said below
                mend_card(folder, folder.note)
    if path.is_file():
        open(path, "rb").close()  # safetensors says of a file without permission that it does not exist
        return _from_file(path, backbone).eval()
    name = os.fspath(encoder)
    if name.startswith(("timm/", "torchvision/")):
        return backbones.published(name).eval()
    if name.startswith("torchhub/"):
        return from_hub(name.removeprefix("torchhub/")).eval()
    if is_tag(name):
        raise FileNotFoundError(
            f"{brief(name)} is a module of somebody's own: pass it from Python, Run(teacher=module)."
        )
    raise no_encoder(name)


def places(encoder: str | os.PathLike[str]) -> list[str]:
    """Where an encoder lies: its own path and, of a file, that of the run's folder."""
    path = os.path.realpath(encoder)
    folder = os.path.dirname(path)
    above = [os.path.dirname(folder)] if os.path.basename(folder) == "checkpoints" else []
    return [path, folder, *above] if os.path.isfile(path) else [path]


def image_size(encoder: str | os.PathLike[str], backbone: str | None = None) -> int:
    """Pixels that an encoder was made for; nothing is fetched to know it. Arguments and errors are those of `load`."""
    path = Path(encoder)
    path = Folder(path).weights if path.is_dir() else path
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
    return load(encoder).image_size  # which says what is wrong


def own(module: nn.Module, like: Backbone, size: int) -> Backbone:
    """A user's pretrained module as an encoder of images like those of another, of `size` pixels.

    A `Backbone` stays as it is.
    """
    if isinstance(module, Backbone):
        return module
    made = backbones.create(module, channels=like.channels, image_size=size)
    made.mean, made.std = like.mean, like.std
    return made


def from_hub(name: str) -> Backbone:
    architecture, file = hub_entry(name)
    place = Path(torch.hub.get_dir()) / "checkpoints"
    try:
        with redirect_stdout(sys.stderr):  # where torch's bar is, and not among the lines of results
            state = torch.hub.load_state_dict_from_url(HUB_URL + file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise FileNotFoundError(
            f"The weights of torchhub/{name} could not be fetched. Check the network, or fetch {HUB_URL}{file} on a "
            f"machine that has one and put it here as {place / Path(file).name}."
        ) from error
    return from_weights(state, architecture, official=True)


def _names_of(backbone: nn.Module | str | None) -> Names | None:
    """What gives the names of the tensors of a backbone that is named."""
    return (lambda: tensor_names(backbone)) if isinstance(backbone, str) else None


def _architecture(path: Path, state: Mapping[str, Tensor], named: str | None) -> tuple[str, bool]:
    """The name of the backbone whose tensors a file holds, and whether it is a checkpoint of DINO, iBOT or DINOv2."""
    found = recognised(state)
    if (name := named or found) is None:
        raise ValueError(
            f"{path} does not say which backbone its {counted(len(state), 'tensor')} {are(len(state))} of, and "
            "it is none of the ViTs of DINO "
            "and DINOv2. Name it: --encoder-backbone NAME (evaluate, embed, show, finetune), --teacher-backbone NAME "
            "(distill, compare), or in Python lookalike.load(path, backbone=NAME)."
        )
    return name, found is not None


def _from_file(path: Path, backbone: nn.Module | str | None) -> Backbone:
    held, card = read(path, _names_of(backbone))
    state = held.state
    if card is None and isinstance(backbone, nn.Module):
        raise ValueError(f"{path} was not written by lookalike, and cannot be put into your own module: load it there.")
    if card is None:
        assert backbone is None or isinstance(backbone, str)
        name, official = _architecture(path, state, backbone)
        named = from_weights(state, name, official=official)
        named.remark = held.remark
        return named
    if isinstance(backbone, str) and full_name(backbone) != card["backbone"]:
        raise ValueError(
            f"{path} says that it is a {printable(card['backbone'])}, and {brief(backbone)} was named. Leave "
            "the name of the backbone out."
        )
    if is_tag(card["backbone"]) and not isinstance(backbone, nn.Module):
        raise ValueError(
            f"{path} was trained from your own {printable(card['backbone'])}: pass it, load(path, backbone=module). To "
            "teach, Run(teacher=load(path, backbone=module))."
        )
    made = backbones.create(
        backbone if isinstance(backbone, nn.Module) else card["backbone"], channels=card["channels"],
        image_size=card["image_size"], stem=card["stem"], interpolation=card["interpolation"],
    )  # fmt: skip
    made.mean, made.std = tuple(card["mean"]), tuple(card["std"])
    made.alpha = card.get("alpha", "white")
    made.load_exported(state)
    if made.dim != card["dim"]:
        raise ValueError(
            f"{path} says that it gives {card['dim']} numbers per image, and {made.name} gives {made.dim}."
        )
    return made

"""Loads the initial weights of a training."""

from pathlib import Path

import torch

from .. import backbones
from ..backbones import Backbone
from ..backbones.bands import first_layer
from ..backbones.library import per_channel
from ..backbones.official import timm_names
from ..backbones.weights import BUFFERS, check_fit
from ..image_options import Pixels
from ..places import no_encoder
from ..printing import counted
from ..runs.folder import Folder
from .card import pixels_of
from .checkpoints import opened
from .exported import check_tensors
from .loader import from_hub


def start_from(backbone: Backbone, weights: str) -> str:
    """Loads weights into a backbone before training; returns a line with their source and the number of matches.

    `weights` is anything that `load` accepts, or a file of tensors with timm's names (.safetensors, .pth, .ckpt).

    Raises:
        ValueError: the weights belong to another network.
    """
    if not weights:
        raise FileNotFoundError(
            "The name of the weights is empty. Give a run, a weights file, timm/NAME, torchvision/NAME or "
            "torchhub/NAME."
        )
    path, ignored, remark = Path(weights), list[str](), ""
    own, of_weights = backbone.export_state(), Pixels(3)
    if path.is_dir():
        path = Folder(path).weights
    if path.is_file():
        open(path, "rb").close()
        check_tensors(path)
        held = opened(path, lambda: own)
        state, metadata, ignored, remark = held.state, held.metadata, held.ignored, held.remark
        if metadata is not None:
            # those of a checkpoint state the normalisation only
            of_weights = pixels_of(metadata) if "channels" in metadata else Pixels(len(metadata["mean"]))
            if of_weights.channels == backbone.channels:
                backbone.mean, backbone.std = tuple(metadata["mean"]), tuple(metadata["std"])
    elif weights.startswith(("timm/", "torchvision/")):
        source = backbones.create(
            weights, image_size=backbone.image_size, weights=True, interpolation=backbone.interpolation
        )
        backbone.mean, backbone.std = (per_channel(x, backbone.channels) for x in (source.mean, source.std))
        state = source.export_state()
    elif weights.startswith("torchhub/"):
        source = from_hub(weights.removeprefix("torchhub/"))
        backbone.mean, backbone.std = (per_channel(x, backbone.channels) for x in (source.mean, source.std))
        state = source.export_state()
    else:
        raise no_encoder(weights, "weights")
    state = dict(backbone.resized(timm_names(backbone, state)))
    token, own_token = state.pop("mask_token", None), backbone.mask_token
    state, layer = first_layer(state, own, of_weights, backbone.pixels)
    check_fit(backbone, state, weights)
    fitting = {k: v for k, v in state.items() if k in own and own[k].shape == v.shape}
    backbone.load_exported(own | fitting)
    line = f"{weights}: {len(fitting)} of {counted(len(own), 'tensor')}" + (f", {remark}" if remark else "")
    line += f", {layer}" if layer else ""
    if own_token is not None and token is not None and token.numel() == own_token.numel():
        with torch.no_grad():
            own_token.copy_(token.view_as(own_token))
        line += ", and the mask token"
    elif token is not None:
        ignored = ["mask_token", *ignored]
    random = [k for k in own if k not in fitting and not BUFFERS.search(k)]
    unused = [*(k for k in state if k not in own), *ignored]
    for group, names in (("randomly initialised", random), ("ignored", unused)):
        if names:
            line += f"; {group}: {', '.join(names[:5])}{f' and {len(names) - 5} others' if len(names) > 5 else ''}"
    return line

"""The weights that a training starts from."""

from pathlib import Path

import torch

from .. import backbones
from ..backbones import Backbone
from ..backbones.official import timm_names
from ..backbones.weights import BUFFERS, check_fit
from ..places import no_encoder
from ..printing import counted
from ..runs.folder import Folder
from .checkpoints import opened
from .loader import TAKEN, from_hub


def start_from(backbone: Backbone, weights: str) -> str:
    """Puts weights into a backbone before training; returns a line that says where from and how much matched.

    `weights` is anything that `load` takes, or a file of tensors under timm's names (.safetensors, .pth, .ckpt).

    Raises:
        ValueError: they are of another network.
    """
    if not weights:
        raise FileNotFoundError(f"The name of the weights is empty. {TAKEN}")
    path, beside, remark = Path(weights), list[str](), ""
    own = backbone.export_state()
    if path.is_dir():
        path = Folder(path).weights
    if path.is_file():
        open(path, "rb").close()
        held = opened(path, lambda: own)
        state, said, beside, remark = held.state, held.said, held.beside, held.remark
        if said is not None and len(said["mean"]) == backbone.channels:
            backbone.mean, backbone.std = tuple(said["mean"]), tuple(said["std"])
    elif weights.startswith(("timm/", "torchvision/")):
        source = backbones.create(
            weights, channels=backbone.channels, image_size=backbone.image_size, weights=True,
            interpolation=backbone.interpolation,
        )  # fmt: skip
        backbone.mean, backbone.std = source.mean, source.std
        state = source.export_state()
    elif weights.startswith("torchhub/"):
        source = from_hub(weights.removeprefix("torchhub/"))
        backbone.mean, backbone.std = source.mean, source.std
        state = source.export_state()
    else:
        raise no_encoder(weights, "weights")
    state = dict(backbone.resized(timm_names(backbone, state)))
    token, place = state.pop("mask_token", None), backbone.mask_token
    check_fit(backbone, state, weights)
    fitting = {k: v for k, v in state.items() if k in own and own[k].shape == v.shape}
    backbone.load_exported(own | fitting)
    line = f"{weights}: {len(fitting)} of {counted(len(own), 'tensor')}" + (f", {remark}" if remark else "")
    if place is not None and token is not None and token.numel() == place.numel():
        with torch.no_grad():
            place.copy_(token.view_as(place))
        line += ", and the mask token"
    elif token is not None:
        beside = ["mask_token", *beside]
    random = [k for k in own if k not in fitting and not BUFFERS.search(k)]
    for what, names in (("random as before", random), ("left out", [*(k for k in state if k not in own), *beside])):
        if names:
            line += f"; {what}: {', '.join(names[:5])}{f' and {len(names) - 5} others' if len(names) > 5 else ''}"
    return line

"""Matches the channels of images to those of a network trained on others: by the names of bands, or by their mean."""

from collections.abc import Mapping

import torch
from torch import Tensor

from ..image_options import Pixels
from ..printing import brief, counted

_LUMA = (0.299, 0.587, 0.114)  # as Pillow converts
_FULL = {"r": "red", "g": "green", "b": "blue", "gray": "grey"}


_PICTURES = {1: ["grey"], 3: ["red", "green", "blue"], 4: ["red", "green", "blue", "fourth"]}


def _names(pixels: Pixels, other: Pixels) -> list[str]:
    """The names of the channels in lower case: those of pictures are known, other bands have their numbers."""
    if pixels.bands is not None:
        return [_FULL.get(name.lower(), name.lower()) for name in pixels.bands]
    numbers = [str(i) for i in range(1, pixels.channels + 1)] if other.bands is not None else []
    return _PICTURES.get(pixels.channels, numbers)


def matched(network: Pixels, images: Pixels, *, missing: bool) -> tuple[Tensor, str]:
    """How the channels of images become those that a network takes.

    Args:
        network: what the network was trained on.
        images: what it gets instead.
        missing: whether a band that the images lack is replaced by the mean of theirs, rather than by 0, if others
            match.

    Returns:
        A matrix (channels of the network, channels of the images) in float64, and its description.
    """
    rows, columns = network.channels, images.channels
    if rows == columns and (network.bands is None or images.bands is None):
        return torch.eye(rows, dtype=torch.float64), "the same channels"
    if columns == 1 and images.bands is None:
        return torch.ones(rows, 1, dtype=torch.float64), f"grey for each of {counted(rows, 'channel')}"
    if (rows, columns) == (1, 3) and images.is_color:
        return torch.tensor([_LUMA], dtype=torch.float64), "grey from red, green and blue"
    known, given = _names(network, images), _names(images, network)
    common = [name for name in known if name in given]
    if not common:
        matrix = torch.full((rows, columns), 1 / columns, dtype=torch.float64)
        return matrix, f"the mean of {counted(columns, 'band')} for each of {counted(rows, 'channel')}"
    rest = 1 / columns if missing else 0.0
    matrix = torch.full((rows, columns), rest, dtype=torch.float64)
    for row, name in enumerate(known):
        if name in given:
            matrix[row] = 0
            matrix[row, given.index(name)] = 1
    text = f"bands {', '.join(map(brief, common[:8]))}{', ...' if len(common) > 8 else ''} by name"
    if len(common) < rows:
        text += f", {'the mean of all' if missing else '0'} for {rows - len(common)} that are missing"
    if without := columns - len(common):
        text += f", {without} not used at first" if not missing else f", {without} not used"
    return matrix, text


def first_layer(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor], of_weights: Pixels, images: Pixels
) -> tuple[dict[str, Tensor], str]:
    """Weights with the first layer converted to other bands, and what was done; "" if no layer needed it.

    The converted layer gives the same result as the old one for images whose channels are made by `matched`.
    """
    matrix, text = matched(of_weights, images, missing=False)
    converted = dict(state)
    found = False
    for name, value in own.items():
        old = state.get(name)
        if old is None or old.ndim != 4 or old.shape[1] != of_weights.channels or value.shape[1] != images.channels:
            continue
        if old.shape[0] == value.shape[0] and old.shape[2:] == value.shape[2:] and old.shape != value.shape:
            converted[name] = torch.einsum("ockl,cn->onkl", old.double(), matrix).to(old.dtype)
            found = True
    counts = f"from {of_weights.channels} to {counted(images.channels, 'channel')}"
    return converted, f"first layer converted {counts}: {text}" if found else ""

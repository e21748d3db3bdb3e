"""Which of a file's tensors belong to an encoder, and whether they match a network."""

import re
from collections.abc import Collection, Mapping

from torch import Tensor

from ..printing import counted
from .base import Backbone

_HEADS = ("head.", "heads.", "head_dist.", "fc.", "classifier.")
"""Prefixes of a classifier's tensors in timm and torchvision."""
_BESIDE = re.compile(
    r"head|proj|predict|prototype|classif|logit|fc|linear|probe|aux|queue|bank|momentum|ema|averaged|teacher|student|"
    r"decoder|center|centre|loss|mask|temperature|criterion|metric",
    re.IGNORECASE,
)
"""Matches the first part of names of tensors that training code saves besides an encoder, unless the network has it."""
BUFFERS = re.compile(r"(^|\.)(num_batches_tracked|relative_position_index|relative_coords_table|attn_mask)$")
"""Counters, and tables determined by the architecture: not learned."""
_TRUNK = ("cls_token", "reg_token", "dist_token", "pos_embed", "patch_embed", "norm_pre", "blocks")
"""First parts of names in ViTs: if the network has no such part, the file belongs to another network."""


def is_beside(name: str, own: Collection[str]) -> bool:
    """Whether a tensor is not part of the encoder with tensors `own`, but a head, a queue, a counter or the like."""
    part = _part(name)
    return (
        name.startswith(_HEADS)
        or bool(BUFFERS.search(name))
        or (bool(_BESIDE.search(part)) and part not in map(_part, own))
    )


def _part(name: str) -> str:
    """The first part of a tensor's name, without a trailing number: `layer` for layer4.0.conv1.weight."""
    return re.sub(r"(?<=\D)\d+$", "", name.partition(".")[0])


FEW_KEYS = 4
"""Maximum number of unexpected or missing tensors of a matching file: two layers."""


def check_fit(backbone: Backbone, state: Mapping[str, Tensor], source: str) -> None:
    """Rejects weights that match the network only in part, because they belong to another network.

    Heads, counters and relative positions do not count. A few tensors may be missing or unexpected (but not of a known
    part of a network): a first layer for another number of channels, a norm, registers.

    Raises:
        ValueError: lists the unexpected and missing tensors, with a remedy.
    """
    own = backbone.export_state()
    strange = [k for k in state if k not in own and not is_beside(k, own)]
    parts = {*_TRUNK, *map(_part, own)}
    of_trunk = [k for k in strange if _part(k) in parts]
    lacking = [
        k if k not in state else f"{k}: {tuple(state[k].shape)} instead of {tuple(v.shape)}"
        for k, v in own.items()
        if (k not in state or state[k].shape != v.shape) and not BUFFERS.search(k) and "relative_position" not in k
    ]
    if not of_trunk and max(len(strange), len(lacking)) <= FEW_KEYS and 2 * len(lacking) <= len(own):
        return
    found = [f"{source} contains {counted(len(state), 'tensor')}, {backbone.name} has {len(own)}."]
    for names, problem in (
        ([*of_trunk, *(k for k in strange if k not in of_trunk)], "unexpected"),
        (lacking, "missing or of another shape"),
    ):
        if names:
            found.append(f"{len(names)} {problem}: {'; '.join(names[:5])}{'; ...' if len(names) > 5 else ''}.")
    raise ValueError(" ".join([*found, "Give the --backbone to which the weights belong."]))

"""What of a file's tensors is an encoder, and whether it fits a network."""

import re
from collections.abc import Collection, Mapping

from torch import Tensor

from ..printing import counted
from .base import Backbone

_HEADS = ("head.", "heads.", "head_dist.", "fc.", "classifier.")
"""Beginnings of a classifier's tensors at timm and torchvision."""
_BESIDE = re.compile(
    r"head|proj|predict|prototype|classif|logit|fc|linear|probe|aux|queue|bank|momentum|ema|averaged|teacher|student|"
    r"decoder|center|centre|loss|mask|temperature|criterion|metric",
    re.IGNORECASE,
)
"""In the first part of a name: what trainings keep beside an encoder, unless the network has such a part."""
BUFFERS = re.compile(r"(^|\.)(num_batches_tracked|relative_position_index|relative_coords_table|attn_mask)$")
"""Counters, and tables that follow from the architecture alone: nothing that was learnt."""
_TRUNK = ("cls_token", "reg_token", "dist_token", "pos_embed", "patch_embed", "norm_pre", "blocks")
"""First parts of names in ViTs: where the network has no such part, the file is of another one."""


def is_beside(name: str, own: Collection[str]) -> bool:
    """Whether a file's tensor is no part of an encoder whose tensors are called `own`: a head, a queue, a counter."""
    part = _part(name)
    return (
        name.startswith(_HEADS)
        or bool(BUFFERS.search(name))
        or (bool(_BESIDE.search(part)) and part not in map(_part, own))
    )


def _part(name: str) -> str:
    """The first part of a tensor's name, without a number behind it: `layer` of layer4.0.conv1.weight."""
    return re.sub(r"(?<=\D)\d+$", "", name.partition(".")[0])


FEW_KEYS = 4
"""Tensors that a file may hold besides, or lack, and still be of the network: two layers."""


def check_fit(backbone: Backbone, state: Mapping[str, Tensor], source: str) -> None:
    """Refuses weights of which only a part fits the network, since they are of another one.

    Heads, counters and relative positions do not count. Of tensors that are of no known part of a network, and of those
    that the network has and the file lacks, a few may be: a first layer for other channels, a norm, registers.

    Raises:
        ValueError: what has no place, what is missing, and what to do.
    """
    own = backbone.export_state()
    strange = [k for k in state if k not in own and not is_beside(k, own)]
    parts = {*_TRUNK, *map(_part, own)}
    of_trunk = [k for k in strange if _part(k) in parts]
    lacking = [
        k if k not in state else f"{k}, there {tuple(state[k].shape)}, here {tuple(v.shape)}"
        for k, v in own.items()
        if (k not in state or state[k].shape != v.shape) and not BUFFERS.search(k) and "relative_position" not in k
    ]
    if not of_trunk and max(len(strange), len(lacking)) <= FEW_KEYS and 2 * len(lacking) <= len(own):
        return
    found = [f"{source} holds {counted(len(state), 'tensor')}, {backbone.name} has {len(own)}."]
    for names, what in (
        ([*of_trunk, *(k for k in strange if k not in of_trunk)], "have no place in the network"),
        (lacking, "of the network's are missing or of another shape"),
    ):
        if names:
            found.append(f"{len(names)} {what}: {'; '.join(names[:5])}{'; ...' if len(names) > 5 else ''}.")
    raise ValueError(" ".join([*found, "Give the --backbone that the weights are of."]))

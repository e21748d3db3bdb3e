"""Files that hold an encoder among other things: which of their tensors are the network's, under which names."""

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..backbones.weights import BUFFERS, is_beside
from ..printing import brief, pasteable, printable, with_article
from .card import LEAST_STD, are_numbers, checked
from .pickles import unpickled
from .saved import plain, tensors_and_card

Names = Callable[[], Collection[str]]
"""Gives the names of the tensors of the network that a file is expected to hold."""


@dataclass(frozen=True)
class Held:
    """The tensors of one network in a file, under that network's names."""

    state: dict[str, Tensor]
    said: dict[str, Any] | None
    """What a file of ours says of itself."""
    beside: list[str]
    """Names of the tensors that are left out."""
    remark: str = ""
    """Which of several networks these are, where some are averages over a training."""


def read(path: Path, own: Names | None = None) -> tuple[Held, dict[str, Any] | None]:
    """The tensors of an encoder's file, and the card of one of ours."""
    held = opened(path, own)
    if held.said is not None and "backbone" not in held.said:
        raise ValueError(f"{path} is a run's checkpoint. Give the run's folder, where its encoder.safetensors lies.")
    return held, held.said


def opened(path: Path, own: Names | None = None) -> Held:
    """The tensors of an encoder in a file, what one of ours says of itself, and the names of the tensors beside it."""
    content: object
    content, said = tensors_and_card(path) if path.suffix == ".safetensors" else _tensors(path)
    if said is not None and "backbone" in said and path.suffix == ".safetensors":
        assert isinstance(content, dict)
        return Held(content, said, [])
    tensors, boxes = _flat(content)
    if not tensors:
        raise ValueError(
            f"{path} holds {_contents(content)}, and no tensors under their names. Give a file of "
            "torch.save(model.state_dict(), path), or a checkpoint that holds such a mapping."
        )
    known = set() if own is None else {*own()}
    prefix, others = _prefix(tensors, boxes, known, path, content)
    box = _box(prefix, boxes)
    state = {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix) and (boxes[name] == box or name.removeprefix(prefix) in known)
    }
    beside = [name.removeprefix(box) for name in tensors if boxes[name] == box and not name.startswith(prefix)]
    remark = ""
    if _AVERAGED.search(prefix):
        kept = [other for other in others if not _AVERAGED.search(other)]
        remark = f"the averaged weights of {printable(prefix[:-1])}"
        remark += f", not those of {printable(kept[0][:-1]) or 'the network beside'}" if kept else ""
    return Held(plain(state, path), said, beside, remark)


def _contents(content: object) -> str:
    """What a file holds that holds no network, in a few words."""
    if isinstance(content, Mapping):
        return f"a mapping of {', '.join(brief(str(key), 40) for key in [*content][:5])}" if content else "nothing"
    return with_article(type(content).__name__)


DEEPEST = 8
"""Mappings within mappings, in which tensors are looked for."""


def _flat(content: object) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors in nested mappings under their dotted names, and of each the dotted name of the mapping it lies in.

    States of optimizers have numbers for names, and are left out. A mapping that is there twice counts once.
    """
    tensors: dict[str, Tensor] = {}
    boxes: dict[str, str] = {}
    entered: set[int] = set()

    def enter(mapping: Mapping[object, object], box: str, depth: int) -> None:
        entered.add(id(mapping))
        for key, value in mapping.items():
            if not isinstance(key, str):
                continue
            if isinstance(value, Tensor):
                name = _WRAPPED.sub("", f"{box}{key}")
                tensors[name], boxes[name] = value, box
            elif isinstance(value, Mapping) and depth < DEEPEST and id(value) not in entered:
                enter(value, f"{box}{key}.", depth + 1)

    if isinstance(content, Mapping):
        enter(content, "", 0)
    return tensors, boxes


def _box(prefix: str, boxes: Mapping[str, str]) -> str:
    """The mapping that a prefix leads into."""
    return max((box for box in {*boxes.values()} if prefix.startswith(box)), key=len, default="")


def _prefix(
    tensors: Mapping[str, Tensor], boxes: Mapping[str, str], own: Collection[str], path: Path, content: object
) -> tuple[str, list[str]]:
    """The beginning of the names of a network's tensors in a file, and those of other networks that fit as well.

    It is the one below which most of `own` are found; of several the one with the fewest tensors that the network has
    no place for, then the average over a training, then by `CONTAINERS` and `PREFIXES`. Where the names are not known,
    or most are not found, the first of these that is there.

    Raises:
        ValueError: several fit equally well, and nothing tells which one is meant.
    """
    learnt = {name for name in own if not BUFFERS.search(name)}
    fits: Counter[str] = Counter()
    for name in tensors:
        starts = [0, *(dot.end() for dot in re.finditer(r"\.", name))]
        if learnt:
            fits.update(name[:start] for start in starts if name[start:] in learnt)
        elif name.endswith(_PATCHES) and name[: -len(_PATCHES)][-1:] in ("", "."):
            fits[name[: -len(_PATCHES)]] += 1
    most = max(fits.values(), default=0)
    if 2 * most < len(learnt) or not most:
        box = next((f"{name}." for name in CONTAINERS if f"{name}." in boxes.values()), "")
        inner = [name.removeprefix(box) for name in tensors if boxes[name] == box]
        return box + next((p for p in PREFIXES if any(name.startswith(p) for name in inner)), ""), []

    def rank(prefix: str) -> tuple[object, ...]:
        box = _box(prefix, boxes)
        rest = [name.removeprefix(prefix) for name in tensors if name.startswith(prefix) and boxes[name] == box]
        strange = sum(name not in own and not is_beside(name, own) for name in rest) if learnt else 0
        parts = prefix.split(".")[:-1]
        order = tuple(CONTAINERS.index(part) if part in CONTAINERS else len(CONTAINERS) for part in parts)
        inner = prefix.removeprefix(box)
        place = PREFIXES.index(inner) if inner in PREFIXES else len(PREFIXES)
        return strange, not _AVERAGED.search(prefix), place != 0, order, place

    ranked = sorted(((rank(prefix), prefix) for prefix, count in fits.items() if count == most), key=lambda r: r[0])
    prefixes = [prefix for _, prefix in ranked]
    if len(ranked) > 1 and ranked[0][0] == ranked[1][0]:
        raise ValueError(
            f"{path} holds several networks that fit: {brief(prefixes[0][:-1])} and {brief(prefixes[1][:-1])}. Save "
            f"the one that is meant alone, with `{_alone(path, content, prefixes[0])}`."
        )
    return prefixes[0], prefixes[1:]


def _alone(path: Path, content: object, prefix: str) -> str:
    """A command that saves the network of a prefix alone, in a file of its own."""
    where, rest = "c", prefix
    while isinstance(content, Mapping):
        inner = next((k for k, v in content.items() if isinstance(v, Mapping) and rest.startswith(f"{k}.")), None)
        if inner is None:
            break
        where, rest, content = f"{where}[{_quoted(inner)}]", rest.removeprefix(f"{inner}."), content[inner]
    if rest:
        where = f"{{k[{len(rest)}:]: v for k, v in {where}.items() if k.startswith({_quoted(rest)})}}"
    file = _quoted(path)
    out = _quoted(path.with_name(f"{path.stem}-{re.sub(r'[^A-Za-z0-9]+', '-', prefix).strip('-')}{path.suffix}"))
    if path.suffix == ".safetensors":
        program = (
            f"from safetensors.torch import load_file, save_file; c = load_file({file}); save_file({where}, {out})"
        )
    else:
        load = f'torch.load({file}, map_location="cpu", weights_only=True)'
        program = f"import torch; c = {load}; torch.save({where}, {out})"
    return pasteable("python", "-c", program)


PREFIXES = (
    "method.backbone.net.",
    "backbone.",
    "module.backbone.",
    "teacher_backbone.",
    "student_backbone.",
    "module.encoder_q.",
    "module.base_encoder.",
    "module.",
)
"""Beginnings of an encoder's names in checkpoints, by preference: where several networks fit, the first counts."""
CONTAINERS = (
    "state_dict", "model_state_dict", "model", "teacher", "student", "net", "network", "encoder", "backbone", "weights",
    "params", "module",
)  # fmt: skip
"""What checkpoints call the mapping that holds a network, by preference."""
_AVERAGED = re.compile(r"(^|[._])(ema|averaged|swa)([._]|$)")
"""In names of networks that are averages over a training: they are better than its last step."""
_PATCHES = "patch_embed.proj.weight"
"""A tensor of every ViT of DINO and DINOv2."""


def _quoted(text: object) -> str:
    """A text as Python's source has it, in the quotes that need no escapes in a shell's."""
    return json.dumps(str(text))


def _tensors(path: Path) -> tuple[object, dict[str, Any] | None]:
    """What a checkpoint file holds, and what one of ours says beside."""
    content = unpickled(path)
    said: dict[str, Any] | None = content.get("lookalike") if isinstance(content, dict) else None
    if isinstance(said, dict) and "backbone" in said:
        said = checked(said, path)
    elif said is not None:
        mean, std = (said.get("mean"), said.get("std")) if isinstance(said, dict) else (None, None)
        count = len(mean) if isinstance(mean, list | tuple) else 0
        if not count or not are_numbers(mean, count) or not are_numbers(std, count, LEAST_STD):
            raise ValueError(f"{path} is a run's checkpoint that does not say how images are normalised. Copy it anew.")
    return content, said


_WRAPPED = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""Parts of names that come from torch.compile, FSDP and activation checkpointing."""

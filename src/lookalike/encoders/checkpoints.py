"""Reads checkpoint files that contain an encoder among other tensors: finds its tensors and their prefix."""

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
"""Returns the names of the tensors of the expected network."""


@dataclass(frozen=True)
class Held:
    """The tensors of one network in a file, under that network's names."""

    state: dict[str, Tensor]
    metadata: dict[str, Any] | None
    """The metadata of a file written by lookalike; None for other files."""
    ignored: list[str]
    """Names of the other tensors in the file."""
    remark: str = ""
    """Which of several networks was chosen, if it is a weight average."""


def read(path: Path, own: Names | None = None) -> tuple[Held, dict[str, Any] | None]:
    """The tensors of an encoder's file, and its card if lookalike wrote it."""
    held = opened(path, own)
    if held.metadata is not None and "backbone" not in held.metadata:
        raise ValueError(f"{path} is a run's checkpoint. Give the run's folder, which contains encoder.safetensors.")
    return held, held.metadata


def opened(path: Path, own: Names | None = None) -> Held:
    """The encoder's tensors in a file, with metadata and the names of ignored tensors."""
    content: object
    content, metadata = tensors_and_card(path) if path.suffix == ".safetensors" else _tensors(path)
    if metadata is not None and "backbone" in metadata and path.suffix == ".safetensors":
        assert isinstance(content, dict)
        return Held(content, metadata, [])
    tensors, boxes = _flat(content)
    if not tensors:
        raise ValueError(
            f"{path} contains {_contents(content)}, but no named tensors. Give a file of "
            "torch.save(model.state_dict(), path), or a checkpoint with such a mapping."
        )
    known = set() if own is None else {*own()}
    prefix, others = _prefix(tensors, boxes, known, path, content)
    box = _box(prefix, boxes)
    state = {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix) and (boxes[name] == box or name.removeprefix(prefix) in known)
    }
    ignored = [name.removeprefix(box) for name in tensors if boxes[name] == box and not name.startswith(prefix)]
    remark = ""
    if _AVERAGED.search(prefix):
        not_averaged = [other for other in others if not _AVERAGED.search(other)]
        remark = f"the averaged weights in {printable(prefix[:-1])}"
        remark += f", not those in {printable(not_averaged[0][:-1]) or 'the top level'}" if not_averaged else ""
    return Held(plain(state, path), metadata, ignored, remark)


def _contents(content: object) -> str:
    """A short description of the contents of a file without a network."""
    if isinstance(content, Mapping):
        return f"a mapping of {', '.join(brief(str(key), 40) for key in [*content][:5])}" if content else "nothing"
    return with_article(type(content).__name__)


DEEPEST = 8
"""Maximum nesting depth of mappings that are searched for tensors."""


def _flat(content: object) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Dotted name -> tensor, and dotted name -> dotted name of its mapping, for tensors in nested mappings.

    States of optimizers, which have numbers as keys, are skipped. A mapping that occurs twice is read once.
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
    """The mapping that contains the tensors of a prefix."""
    return max((box for box in {*boxes.values()} if prefix.startswith(box)), key=len, default="")


def _prefix(
    tensors: Mapping[str, Tensor], boxes: Mapping[str, str], own: Collection[str], path: Path, content: object
) -> tuple[str, list[str]]:
    """The prefix of a network's tensors in a file, and the prefixes of other networks that match as well.

    The prefix with most of the tensors `own` is chosen. Ties are broken by the fewest unexpected tensors, then in
    favour of weight averages, then by the order of `CONTAINERS` and `PREFIXES`. If the names are unknown or most are
    missing, the first existing entry of these lists is chosen.

    Raises:
        ValueError: several networks match equally well.
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
        position = PREFIXES.index(inner) if inner in PREFIXES else len(PREFIXES)
        return strange, not _AVERAGED.search(prefix), position != 0, order, position

    ranked = sorted(((rank(prefix), prefix) for prefix, count in fits.items() if count == most), key=lambda r: r[0])
    prefixes = [prefix for _, prefix in ranked]
    if len(ranked) > 1 and ranked[0][0] == ranked[1][0]:
        raise ValueError(
            f"{path} contains several networks that match: {brief(prefixes[0][:-1])} and {brief(prefixes[1][:-1])}. "
            f"Save the intended one in a separate file, such as with `{_extraction(path, content, prefixes[0])}`."
        )
    return prefixes[0], prefixes[1:]


def _extraction(path: Path, content: object, prefix: str) -> str:
    """A shell command that saves the network of a prefix in a separate file."""
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
"""Prefixes of an encoder's tensors in checkpoints, in order of preference."""
CONTAINERS = (
    "state_dict", "model_state_dict", "model", "teacher", "student", "net", "network", "encoder", "backbone", "weights",
    "params", "module",
)  # fmt: skip
"""Names of the mapping with a network's tensors in checkpoints, in order of preference."""
_AVERAGED = re.compile(r"(^|[._])(ema|averaged|swa)([._]|$)")
"""Matches names of weight averages over a training, which are better than the weights of its last step."""
_PATCHES = "patch_embed.proj.weight"
"""A tensor of every ViT of DINO and DINOv2."""


def _quoted(text: object) -> str:
    """A Python string literal in double quotes, which need no escapes within a shell's single quotes."""
    return json.dumps(str(text))


def _tensors(path: Path) -> tuple[object, dict[str, Any] | None]:
    """The contents of a checkpoint file, and its metadata if lookalike wrote it."""
    content = unpickled(path)
    metadata: dict[str, Any] | None = content.get("lookalike") if isinstance(content, dict) else None
    if isinstance(metadata, dict) and "backbone" in metadata:
        metadata = checked(metadata, path)
    elif metadata is not None:
        mean, std = (metadata.get("mean"), metadata.get("std")) if isinstance(metadata, dict) else (None, None)
        count = len(mean) if isinstance(mean, list | tuple) else 0
        if not count or not are_numbers(mean, count) or not are_numbers(std, count, LEAST_STD):
            raise ValueError(f"{path} is a run's checkpoint without the normalisation of its images. Copy it again.")
    return content, metadata


_WRAPPED = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""Parts of names added by torch.compile, FSDP and activation checkpointing."""

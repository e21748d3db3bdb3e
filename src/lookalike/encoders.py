"""Encoders to use: written by a training, read back from a run, a weights file, or timm's and torchvision's names."""

import dataclasses
import json
import math
import os
import pickle
import re
import sys
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from . import backbones
from .backbones import Backbone
from .backbones.library import full_name, published_size, tensor_names
from .backbones.official import from_weights, recognised, timm_names
from .backbones.weights import BUFFERS, check_fit, is_beside
from .files import FORMAT, atomic, file_sha256, parse_json, read_json, write_json
from .foreign import is_tag
from .image_options import LARGEST_IMAGE, MOST_CHANNELS, Alpha
from .places import HUB_URL, hub_entry, no_encoder
from .printing import are, brief, counted, pasteable, printable, shown, with_article
from .runs.folder import Folder
from .runs.lookup import weights_of
from .tensor_file import state_sha256, tensor_file, write_tensors


@dataclass(frozen=True)
class Card:
    """What stands in `encoder.json` and in the head of `encoder.safetensors`: all that is needed to use the weights."""

    format: int
    backbone: str
    """A timm name, torchvision/NAME, or <module.Class> for a user's own."""
    stem: str
    interpolation: str
    dim: int
    """Numbers per image in the encoder's output."""
    image_size: int
    channels: int
    dtype: str
    """Of the images that were trained on: uint8, uint16 or float32."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    method: str
    epochs: float
    """Finished epochs."""
    alpha: Alpha = "white"
    """What became of alpha channels; version 0.1, which did not write it, laid them on white."""


PREFIX = "encoder."
"""Of the encoder's tensors in the file of a classifier, which has a head beside."""


def save(folder: Folder, backbone: Backbone, *, method: str, epochs: float, dtype: torch.dtype) -> None:
    """Writes `encoder.safetensors` and `encoder.json`, atomically."""
    card = Card(
        format=FORMAT, backbone=backbone.name, stem=backbone.stem, interpolation=backbone.interpolation,
        dim=backbone.dim, image_size=backbone.image_size, channels=backbone.channels,
        dtype=str(dtype).removeprefix("torch."), mean=backbone.mean, std=backbone.std, method=method, epochs=epochs,
        alpha=backbone.alpha,
    )  # fmt: skip
    write(folder.weights, backbone.export_state(), card)
    write_json(folder.card, dataclasses.asdict(card) | {"sha256": file_sha256(folder.weights)})


def write(path: Path, tensors: Mapping[str, Tensor], card: Card, classes: Sequence[str] | None = None) -> None:
    """Writes tensors with their card, a digest and, of a classifier, the classes' names in their head, atomically."""
    content = dataclasses.asdict(card) | ({} if classes is None else {"classes": list(classes)})
    state = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with atomic(path) as temporary:
        write_tensors(temporary, state, {"lookalike": json.dumps(content), "sha256": state_sha256(state)})


def read_card(folder: Folder) -> Card:
    """What a run's weights say of themselves. `encoder.json`, a copy for other programs, may be of those before."""
    content = checked(_head_of(folder.weights), folder.weights)
    return Card(**{f.name: content[f.name] for f in dataclasses.fields(Card) if f.name in content})


def card_within(weights: Path) -> dict[str, Any] | None:
    """The card in the head of a file of ours; None of other files and of those that cannot be read."""
    try:
        content = _head_of(weights)
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _head_of(weights: Path) -> object:
    """What a file of ours says of itself; None of other files. Raises ValueError where it cannot be read."""
    try:
        with tensor_file(weights) as path, safe_open(path, "pt") as file:
            return parse_json((file.metadata() or {}).get("lookalike", "null"), weights, object)
    except SafetensorError as error:
        raise ValueError(f"{weights} is not a whole safetensors file ({error}).") from None


def mend_card(folder: Folder, say: Callable[[str], None]) -> None:
    """Writes `encoder.json` anew where it is not of the weights, as after a kill between the two: the weights count.

    A training may write both meanwhile: it is looked at until they are of one another.
    """
    while (content := card_within(folder.weights)) is not None:
        digest = file_sha256(folder.weights)
        if _card_beside(folder).get("sha256") == digest:
            return
        if card_within(folder.weights) == content:  # the digest is of the same file
            write_json(folder.card, content | {"sha256": digest})
            say(f"{folder.card} was not of {folder.weights}: it is written anew from what the weights say.")


def _card_beside(folder: Folder) -> dict[str, Any]:
    """What stands in `encoder.json`; nothing where it cannot be read."""
    try:
        return read_json(folder.card, dict)
    except (OSError, ValueError):
        return {}


DTYPES = ("uint8", "uint16", "float32")
"""Of images."""


def checked(card: object, where: object) -> dict[str, Any]:
    """A card as it was read from a file that `where` names, once all in it is what an encoder can have.

    Raises:
        ValueError: a later format, a key that is missing, or a value that is none; the message names it.
    """
    if not isinstance(card, dict):
        raise ValueError(f"{where} describes no encoder: {shown(card)} is no mapping.")
    if card.get("format", FORMAT) != FORMAT:
        raise ValueError(
            f"{where} has format {shown(card['format'])}, this version reads format {FORMAT}. Update lookalike."
        )
    if missing := [f.name for f in dataclasses.fields(Card) if f.name not in card and f.default is dataclasses.MISSING]:
        raise ValueError(f"{where} describes no encoder: it does not say {', '.join(missing)}.")

    def whole(most: int) -> Callable[[object], bool]:
        return lambda v: isinstance(v, int) and not isinstance(v, bool) and 1 <= v <= most

    channels = card["channels"]
    rules: dict[str, tuple[str, Callable[[object], bool]]] = {
        "backbone": ("a name", lambda v: isinstance(v, str) and bool(v)),
        "stem": (" or ".join(get_args(backbones.Stem)), lambda v: v in get_args(backbones.Stem)),
        "interpolation": (" or ".join(get_args(backbones.Interpolation)),
                          lambda v: v in get_args(backbones.Interpolation)),
        "dim": ("a whole number from 1", whole(2**31)),
        "image_size": (f"a whole number from 1 to {LARGEST_IMAGE}", whole(LARGEST_IMAGE)),
        "channels": (f"a whole number from 1 to {MOST_CHANNELS}", whole(MOST_CHANNELS)),
        "dtype": (", ".join(DTYPES), lambda v: v in DTYPES),
        "mean": ("a number for each channel", lambda v: _are_numbers(v, channels)),
        "std": ("a number above 0 for each channel", lambda v: _are_numbers(v, channels, LEAST_STD)),
        "method": ("a name", lambda v: isinstance(v, str)),
        "epochs": ("a number from 0", lambda v: _real(v) >= 0),
        "alpha": (", ".join(get_args(Alpha)), lambda v: v in get_args(Alpha)),
        "classes": ("a list of different names", _are_classes),
    }  # fmt: skip
    for name, (expected, is_right) in rules.items():
        if name in card and not is_right(card[name]):
            raise ValueError(
                f"{where} says that {name} is {shown(card[name])}; expected {expected}. Copy the file anew."
            )
    if "classes" in card:
        card = {**card, "classes": [printable(name) for name in card["classes"]]}
    return card


LEAST_STD = 1e-8
"""Images are divided by it."""


def _real(value: object) -> float:
    """A number that is finite, or NaN, which compares with none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    return float(value) if abs(value) < 1e30 else math.nan


def _are_numbers(value: object, count: object, above: float = -math.inf) -> bool:
    return isinstance(value, list | tuple) and len(value) == count and all(_real(x) > above for x in value)


def _are_classes(value: object) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(v, str) for v in value)
        and len({*value}) == len(value)
    )


_TAKEN = "Give a run, a weights file, timm/NAME, torchvision/NAME or torchhub/NAME."


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
        raise FileNotFoundError(f"The name of the encoder is empty. {_TAKEN}")
    path = Path(encoder)
    if path.is_dir():
        folder = Folder(path)
        path = weights_of(path)
        if folder.run.is_file() and not (card_within(path) or {}).items() <= _card_beside(folder).items():
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
        return _from_hub(name.removeprefix("torchhub/")).eval()
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
        held, card = _read(path, _names_of(backbone))
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


def _from_hub(name: str) -> Backbone:
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


Names = Callable[[], Collection[str]]
"""Gives the names of the tensors of the network that a file is expected to hold."""


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


@dataclass(frozen=True)
class _Held:
    """The tensors of one network in a file, under that network's names."""

    state: dict[str, Tensor]
    said: dict[str, Any] | None
    """What a file of ours says of itself."""
    beside: list[str]
    """Names of the tensors that are left out."""
    remark: str = ""
    """Which of several networks these are, where some are averages over a training."""


def _read(path: Path, own: Names | None = None) -> tuple[_Held, dict[str, Any] | None]:
    """The tensors of an encoder's file, and the card of one of ours."""
    held = _opened(path, own)
    if held.said is not None and "backbone" not in held.said:
        raise ValueError(f"{path} is a run's checkpoint. Give the run's folder, where its encoder.safetensors lies.")
    return held, held.said


def _opened(path: Path, own: Names | None = None) -> _Held:
    """The tensors of an encoder in a file, what one of ours says of itself, and the names of the tensors beside it."""
    content: object
    content, said = _safetensors(path) if path.suffix == ".safetensors" else _tensors(path)
    if said is not None and "backbone" in said and path.suffix == ".safetensors":
        assert isinstance(content, dict)
        return _Held(content, said, [])
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
    return _Held(_plain(state, path), said, beside, remark)


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


def _from_file(path: Path, backbone: nn.Module | str | None) -> Backbone:
    held, card = _read(path, _names_of(backbone))
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


def _safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """The tensors of a file, of a classifier those of its encoder, and what one of ours says of itself."""
    state, card = read_whole(path)
    if card is not None and "classes" in card:
        state = {name.removeprefix(PREFIX): value for name, value in state.items() if name.startswith(PREFIX)}
    return state, card


def read_whole(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """All tensors of a .safetensors file, and what one of ours says of itself.

    Raises:
        ValueError: it is not whole, or damaged.
    """
    try:
        with tensor_file(path) as named:
            with safe_open(named, "pt") as file:
                head: Mapping[str, str] = file.metadata() or {}
            state = load_file(named)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error}). Copy or save it once more.") from None
    if "lookalike" in head and "sha256" in head and head["sha256"] != state_sha256(state):
        raise ValueError(f"{path} is damaged: its tensors are not those that were written. Copy it once more.")
    if "lookalike" not in head:
        return _plain(state, path), None
    return _plain(state, path), checked(parse_json(head["lookalike"], f"What {path} says of itself", object), path)


def _plain(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The same tensors, once each holds real numbers that are all there.

    Raises:
        ValueError: the first that is not, and what to do.
    """
    for name, x in state.items():
        if x.layout != torch.strided or x.is_quantized or x.is_complex() or x.is_meta:
            what = "quantised" if x.is_quantized else "without numbers" if x.is_meta else f"{x.dtype}, {x.layout}"
            raise ValueError(f"{path}: {name} is {what}. Save dense tensors of real numbers, such as float32.")
    return state


def start_from(backbone: Backbone, weights: str) -> str:
    """Puts weights into a backbone before training; returns a line that says where from and how much matched.

    `weights` is anything that `load` takes, or a file of tensors under timm's names (.safetensors, .pth, .ckpt).

    Raises:
        ValueError: they are of another network.
    """
    if not weights:
        raise FileNotFoundError(f"The name of the weights is empty. {_TAKEN}")
    path, beside, remark = Path(weights), list[str](), ""
    own = backbone.export_state()
    if path.is_dir():
        path = Folder(path).weights
    if path.is_file():
        open(path, "rb").close()
        held = _opened(path, lambda: own)
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
        source = _from_hub(weights.removeprefix("torchhub/"))
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


def unpickled(path: Path) -> Any:
    """What a file of `torch.save` holds: tensors and plain values.

    Raises:
        ValueError: it is none, is damaged, or holds other objects, which could run programs.
    """
    if (kind := _format_of(path)) is not None:
        raise ValueError(
            f"{path} holds {kind}, and no weights as torch.save and safetensors write them. Give another, or where it "
            "was made save the tensors alone: torch.save(model.state_dict(), path)."
        )
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:  # torch looks at no checksum
                if (bad := archive.testzip()) is not None:
                    raise ValueError(f"{bad} in it has another checksum")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about sparse tensors, which are refused
            return torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError:
        raise  # nothing is wrong with the file
    except pickle.UnpicklingError as error:
        named = _OBJECT.search(str(error))
        what = f"holds {with_article(named[1])}" if named else "is damaged, or holds objects of Python"
        raise ValueError(
            f"{path} {what}, and only files of plain tensors are read, since others could run programs. Where it was "
            "made, save the tensors alone: torch.save(model.state_dict(), path), or of a checkpoint "
            "torch.save(checkpoint['state_dict'], path)."
        ) from None
    except Exception as error:  # a malformed file makes torch stumble in every way there is
        reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
        raise ValueError(
            f"{path} is no whole file of torch.save ({reason}). Give another, or copy it once more."
        ) from None


_FORMATS = {
    b"\x89HDF": "HDF5 (Keras)", b"\x1f\x8b": "gzip: unpack it first", b"%PDF": "PDF", b"<": "a web page or XML",
    b"version https://git-lfs": "a pointer of Git LFS (git lfs pull fetches the file)", b"GGUF": "GGUF",
}  # fmt: skip
"""How files begin that are given for weights by mistake."""


def _format_of(path: Path) -> str | None:
    """What a file holds that torch.save did not write; None where it may have, or that is not known."""
    with open(path, "rb") as file:
        try:
            head = file.read(64)
        except OSError as error:  # which does not say of which file
            reason = f"{path} cannot be read ({error.strerror}). Give another, or copy it once more."
            raise ValueError(reason) from error
    if not head:
        return "nothing (0 bytes)"
    with suppress(zipfile.BadZipFile, OSError):
        if head.startswith(b"PK"):
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
            if any(name.endswith("/constants.pkl") for name in names):
                return "a program of TorchScript"
            return "arrays of NumPy (.npz)" if any(name.endswith(".npy") for name in names) else None
    if head[8:10] == b'{"' and int.from_bytes(head[:8], "little") < path.stat().st_size:
        return "safetensors: let its name end in .safetensors"
    return next((what for begin, what in _FORMATS.items() if head.lstrip().startswith(begin)), None)


_OBJECT = re.compile(r"\bGLOBAL ([\w.]+)")
"""What torch names in a refusal."""


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
        if not count or not _are_numbers(mean, count) or not _are_numbers(std, count, LEAST_STD):
            raise ValueError(f"{path} is a run's checkpoint that does not say how images are normalised. Copy it anew.")
    return content, said


_WRAPPED = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""Parts of names that come from torch.compile, FSDP and activation checkpointing."""

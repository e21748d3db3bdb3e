"""Weights files as they are found: under other names, damaged, of other networks, or no weights at all."""

import argparse
import io
import json
import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save

from .corpus import Case, dealt, drawn, odd
from .odd_files import FORGED, Rng, Trap

Says = Literal["same", "refused", "either"]
"""What `--init` makes of a file: the network that was saved, a refusal, or either of them. Never another network."""
State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Weights:
    name: str
    content: bytes | None
    """None where nothing is written: a name that leads nowhere."""
    says: Says


def _pth(content: object, name: str = "weights.pth", says: Says = "either") -> Weights:
    file = io.BytesIO()
    torch.save(content, file)
    return Weights(name, file.getvalue(), says)


def _safetensors(state: State, metadata: dict[str, str] | None = None, says: Says = "either") -> Weights:
    return Weights("weights.safetensors", save({k: v.contiguous() for k, v in state.items()}, metadata), says)


class _Saved:
    """What a folder of a run holds of its encoder."""

    def __init__(self, run: Path) -> None:
        self.path = run / "encoder.safetensors"
        self.bytes = self.path.read_bytes()
        self.state: State = load_file(self.path)
        with safe_open(self.path, "pt") as file:
            self.head: dict[str, str] = dict(file.metadata())

    def renamed(self, prefix: str) -> State:
        return {prefix + name: value for name, value in self.state.items()}


def plain_state(saved: _Saved, rng: Rng) -> Weights:
    return _pth(saved.state, str(rng.choice(["weights.pth", "weights.ckpt", "weights.bin", "weights"])), "same")


def own_file(saved: _Saved, rng: Rng) -> Weights:
    return Weights("encoder.safetensors", saved.bytes, "same")


def own_file_renamed(saved: _Saved, rng: Rng) -> Weights:
    return Weights("encoder.pth", saved.bytes, "either")


def prefixed(saved: _Saved, rng: Rng) -> Weights:
    prefixes = ("module.", "backbone.", "model.", "net.", "encoder.", "_orig_mod.", "module.backbone.", "model.net.",
                "student.backbone.", "teacher.", "module._orig_mod.", "a.b.c.d.")  # fmt: skip
    state = saved.renamed(str(rng.choice(prefixes)))
    return _pth(state, says="same") if rng.integers(2) else _safetensors(state, says="same")


def nested(saved: _Saved, rng: Rng) -> Weights:
    key = str(rng.choice(["state_dict", "model", "teacher", "student", "model_state_dict", "ema", "net", "weights"]))
    content: dict[str, object] = {key: saved.state, "epoch": 3, "optimizer": {"state": {}, "param_groups": []}}
    return _pth(content if rng.integers(2) else {"checkpoint": content}, says="same")


def two_in_one(saved: _Saved, rng: Rng) -> Weights:
    """Two branches, of which one is random."""
    other = {name: torch.randn(value.shape).to(value.dtype) for name, value in saved.state.items()}
    first, second = (saved.state, other) if rng.integers(2) else (other, saved.state)
    branches = [{f"a.{k}": v for k, v in first.items()} | {f"b.{k}": v for k, v in second.items()},
                {"encoder_q": first, "encoder_k": second}]  # fmt: skip
    return _pth(branches[rng.integers(2)], says="refused")


def with_a_head(saved: _Saved, rng: Rng) -> Weights:
    head = {"fc.weight": torch.randn(10, 16), "fc.bias": torch.zeros(10), "optimizer.step": torch.tensor(3)}
    return _pth(saved.state | head)


def with_objects(saved: _Saved, rng: Rng) -> Weights:
    objects = [argparse.Namespace(lr=0.1), Path("photos"), np.float64(0.3), saved.path, Case("a", 1, Path("b"))]
    return _pth({"state_dict": saved.state, "args": objects[rng.integers(len(objects))]})


def trap(saved: _Saved, rng: Rng) -> Weights:
    if rng.integers(2):
        return Weights("weights.pth", pickle.dumps({"state_dict": Trap()}), "refused")
    return _pth({"state_dict": saved.state, "x": Trap()}, says="refused")


def whole_module(saved: _Saved, rng: Rng) -> Weights:
    return _pth(torch.nn.Linear(3, 4), says="refused")


def another_network(saved: _Saved, rng: Rng) -> Weights:
    return _pth(timm.create_model(str(rng.choice(["test_resnet", "test_vit", "test_efficientnet"]))).state_dict(),
                says="refused")  # fmt: skip


def other_shapes(saved: _Saved, rng: Rng) -> Weights:
    return _pth({name: torch.cat([value, value]) if value.ndim else value for name, value in saved.state.items()},
                says="refused")  # fmt: skip


def part_of_it(saved: _Saved, rng: Rng) -> Weights:
    names = sorted(saved.state)
    return _pth({name: saved.state[name] for name in names[: len(names) // 5]}, says="refused")


def of_a_larger_one(saved: _Saved, rng: Rng) -> Weights:
    """All tensors fit, and as many more have no place."""
    more = {name.replace("stages.", "stages.9"): value for name, value in saved.state.items() if "stages." in name}
    return _pth(saved.state | more, says="refused")


def other_numbers(saved: _Saved, rng: Rng) -> Weights:
    dtype = [torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.complex64][rng.integers(5)]
    return _pth({k: v.to(dtype) if v.is_floating_point() else v for k, v in saved.state.items()})


def not_finite(saved: _Saved, rng: Rng) -> Weights:
    state = {k: v * float("nan") if v.is_floating_point() else v for k, v in saved.state.items()}
    return _pth(state, says="refused")


def odd_content(saved: _Saved, rng: Rng) -> Weights:
    odd: tuple[object, ...] = ({}, [], None, 3, torch.zeros(3), [saved.state], {1: torch.zeros(3)}, {"state_dict": {}},
                               {"state_dict": None}, "text", {"lookalike": 3}, {"lookalike": {"format": 1}},
                               {"lookalike": {"backbone": 3}, **saved.state})  # fmt: skip
    return _pth(odd[rng.integers(len(odd))])


def sparse_weights(saved: _Saved, rng: Rng) -> Weights:
    return _pth({k: v.to_sparse() if v.ndim > 1 else v for k, v in saved.state.items()})


def cut_off(saved: _Saved, rng: Rng) -> Weights:
    whole = Weights("weights.safetensors", saved.bytes, "refused") if rng.integers(2) else _pth(saved.state)
    content = whole.content or b""
    return Weights(whole.name, content[: int(len(content) * rng.uniform(0, 0.99))], "refused")


def flipped_bits(saved: _Saved, rng: Rng) -> Weights:
    whole = Weights("weights.safetensors", saved.bytes, "refused") if rng.integers(2) else _pth(saved.state)
    content = bytearray(whole.content or b"")
    reach = len(content) if rng.integers(2) else min(3000, len(content))
    for at in rng.integers(0, reach, 5):
        content[at] ^= 1 << int(rng.integers(8))
    return Weights(whole.name, bytes(content), "refused")


def text_weights(saved: _Saved, rng: Rng) -> Weights:
    text = (b"version https://git-lfs.github.com/spec/v1\n", b"<html>404</html>", b"", b"\0" * 8, b"{}", rng.bytes(200))
    suffix = str(rng.choice([".safetensors", ".pth", ".ckpt", ".onnx", ".h5", ""]))
    return Weights(f"weights{suffix}", text[rng.integers(len(text))], "refused")


def odd_safetensors(saved: _Saved, rng: Rng) -> Weights:
    heads = (
        b"\xff" * 8,
        struct.pack("<Q", 2**40),
        struct.pack("<Q", 2) + b"{}",
        struct.pack("<Q", 4) + b"null",
        struct.pack("<Q", 50_000) + b"[" * 50_000,
        struct.pack("<Q", 70) + b'{"a":{"dtype":"F32","shape":[99999999999],"data_offsets":[0,9]}}'.ljust(70),
        struct.pack("<Q", 60) + b'{"a":{"dtype":"F99","shape":[1],"data_offsets":[0,4]}}'.ljust(60) + bytes(4),
    )
    return Weights("weights.safetensors", heads[rng.integers(len(heads))], "refused")


def lying_card(saved: _Saved, rng: Rng) -> Weights:
    """One of ours by its head, which says what cannot be."""
    card = json.loads(saved.head["lookalike"])
    changes: tuple[dict[str, object], ...] = (
        {"format": 99}, {"format": None}, {"backbone": "resnet18"}, {"backbone": "no_such_network"}, {"backbone": 3},
        {"backbone": "../../etc/passwd"}, {"backbone": f"<a.B>\x1b[31m\n{FORGED}"}, {"channels": 4}, {"channels": -1},
        {"image_size": 10**6}, {"image_size": "large"}, {"mean": [0.5]}, {"std": [0.0, 0.0, 0.0]}, {"mean": None},
        {"std": [float("nan")] * 3}, {"dim": 5}, {"stem": "huge"}, {"interpolation": 7}, {"dtype": "text"},
    )  # fmt: skip
    change = changes[rng.integers(len(changes))]
    text = json.dumps(card | change)
    if rng.integers(6) == 0:
        text = str(rng.choice(["", "{", "null", "[]", "[" * 20_000, "3"]))
    return _safetensors(saved.state, saved.head | {"lookalike": text})


def no_such_thing(saved: _Saved, rng: Rng) -> Weights:
    names = (
        "gone.pth",
        "timm/no_such_network",
        "torchvision/no_such",
        "torchhub/no_such",
        f"gone\n{FORGED}\x1b[2J",
        "",
        " ",
        "timm/",
        "hf-hub:x/y",
        "https://example.com/x.pth",
        "~",
        "x" * 5000,
        "../..",
        "runs/last",
    )
    return Weights(names[rng.integers(len(names))], None, "refused")


def device_as_weights(saved: _Saved, rng: Rng) -> Weights:
    return Weights(str(rng.choice(["/dev/zero", "/dev/null", "/dev", "/proc/self/mem"])), None, "refused")


WEIGHTS: tuple[Callable[[_Saved, Rng], Weights], ...] = (
    plain_state, own_file, own_file_renamed, prefixed, nested, two_in_one, with_a_head, with_objects, trap,
    whole_module, another_network, other_shapes, part_of_it, of_a_larger_one, other_numbers, not_finite, odd_content,
    sparse_weights, cut_off, flipped_bits, text_weights, odd_safetensors, lying_card, no_such_thing, device_as_weights,
)  # fmt: skip


def weights_case(place: Path, index: int, run: Path) -> tuple[str, Case, Says]:
    """A file that was to hold the encoder of a run, which is one of `run`'s network."""
    rng = drawn("weights", index)
    case = Case("weights", index, place)
    (make,) = dealt(WEIGHTS, "weights", index, 1)
    made = make(_Saved(run), rng)
    case.about = [make.__name__, ascii(made.name)[:200], made.says]
    if made.content is None:
        return made.name, case, made.says
    name = made.name if rng.integers(2) else f"{odd(rng)}{made.name}"
    (place / name).parent.mkdir(parents=True, exist_ok=True)  # "</script>" names a folder
    (place / name).write_bytes(made.content)
    return f"./{name}", case, made.says

"""The reference files of tests/reference, or of the folder that LOOKALIKE_REFERENCE names."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from timm.layers import SwiGLUPacked
from torch import Tensor, nn

from lookalike.backbones import Backbone, create, load_official

from .networks import vit

REFERENCE = Path(os.environ.get("LOOKALIKE_REFERENCE", Path(__file__).parents[1] / "reference"))


def read(stem: str) -> dict[str, dict[str, np.ndarray]]:
    """The cases of a file, each with its arrays; a file without cases has one, named ''."""
    cases: dict[str, dict[str, np.ndarray]] = {}
    with np.load(REFERENCE / f"{stem}.npz", allow_pickle=False) as file:
        for key in file:
            first, rest = key.split("/", 1)
            name, array = ("", key) if first in {"in", "hp", "out", "grad", "out64", "state"} else (first, rest)
            cases.setdefault(name, {})[array] = file[key]
    return cases


def official(file: str) -> tuple[Backbone, dict[str, np.ndarray]]:
    """The reference's network with its weights, and the file."""
    path = REFERENCE / f"{file}.npz"
    if not path.is_file():
        pytest.skip(f"needs {path}")
    data = dict(np.load(path, allow_pickle=False))
    state = {k.removeprefix("state/"): torch.from_numpy(v) for k, v in data.items() if k.startswith("state/")}
    hp = {k.removeprefix("hp/"): v.item() for k, v in data.items() if k.startswith("hp/")}
    options: dict[str, object] = {
        n: hp[n] for n in ("img_size", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio")
    }
    if hp.get("layerscale"):
        options["init_values"] = 1e-5
    if hp.get("swiglu"):
        hidden = state["blocks.0.mlp.w3.weight"].shape[1]
        options |= {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU, "mlp_ratio": 2 * hidden / hp["embed_dim"]}
    if hp.get("num_register_tokens"):
        options |= {"reg_tokens": hp["num_register_tokens"], "no_embed_class": True}
    made = create(vit(**options), image_size=hp["img_size"], mask_token="mask_token" in state)
    expected = len(state)
    assert load_official(made, state) == expected
    return made.eval(), data


def off(found: Tensor, expected: np.ndarray) -> float:
    """The largest deviation, relative to the array's maximum."""
    assert found.shape == expected.shape
    return float((found.detach() - torch.from_numpy(expected)).abs().max()) / float(np.abs(expected).max())

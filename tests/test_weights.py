"""Weights of another network, of checkpoints, and of a network that is almost the same."""

from pathlib import Path

import pytest
import timm
import torch
from support.networks import vit
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn

from lookalike import encoders
from lookalike.backbones import create

Weights = dict[str, Tensor]


def of(name: str | nn.Module, **options: object) -> Weights:
    net = name if isinstance(name, nn.Module) else timm.create_model(name, **{"num_classes": 0, **options})
    return {key: value + 1 for key, value in net.state_dict().items()}


def beneath(prefix: str, state: Weights) -> Weights:
    return {prefix + key: value for key, value in state.items()}


def saved(content: object, folder: Path) -> str:
    torch.save(content, folder / "weights.pth")
    return str(folder / "weights.pth")


OTHERS = {
    "a deeper ResNet": ("resnet34", "resnet18", "80 unexpected: layer1.2.conv1.weight; layer1"),
    "a shallower ResNet": ("resnet18", "resnet34", "80 missing or of another shape: layer1.2.c"),
    "bottlenecks": ("resnet50", "resnet18", r"layer1.0.conv1.weight: \(64, 64, 1, 1\) instead of \(64, 64, 3, 3\)"),
    "a wider ConvNeXt": ("test_convnext2", "test_convnext", "missing or of another shape: stem.0.weight: "),
    "a deeper ViT": (vit(depth=4), vit(), "24 unexpected: blocks.2.norm1.weight; blocks.2"),
    "a shallower ViT": (vit(), vit(depth=3), "12 missing or of another shape: blocks.2.norm1"),
    "a ViT with registers": (vit(reg_tokens=4), vit(), "1 unexpected: reg_token"),
    "registers without a position": (vit(reg_tokens=4, no_embed_class=True), vit(), "1 unexpected.*: reg_token"),
    "a ViT with layer scales": (vit(init_values=1e-5), vit(), "4 unexpected: blocks.0.ls1.gamma"),
    "a ViT with normalised keys": (vit(qk_norm=True), vit(), "unexpected: blocks.0.attn.q_norm.weight"),
    "a ViT with a norm before its blocks": (vit(pre_norm=True), vit(), "unexpected: norm_pre.weight"),
    "a wider ViT": (vit(), vit(embed_dim=32), "missing or of another shape: cls_token: "),
    "another family": ("test_resnet", vit(), "unexpected: "),
}  # fmt: skip


@pytest.mark.parametrize("case", OTHERS)
def test_weights_of_another_network_are_refused_with_names(case: str, tmp_path: Path) -> None:
    weights, network, words = OTHERS[case]
    made = create(network, image_size=32, stem=None if isinstance(network, nn.Module) else "standard")
    before = {name: value.clone() for name, value in made.export_state().items()}
    state = of(weights)
    queue = {"module.queue": torch.zeros(2)}
    for content in (state, {"state_dict": beneath("module.", state) | queue}):
        with pytest.raises(ValueError, match=words) as refused:
            encoders.start_from(made, saved(content, tmp_path))
        held = len(state) + (content is not state)
        assert f"weights.pth contains {held} tensors, {made.name} has {len(before)}." in str(refused.value)
        assert str(refused.value).endswith("Give the --backbone to which the weights belong.")
    assert all(torch.equal(value, before[name]) for name, value in made.export_state().items())


def checkpoints(state: Weights) -> dict[str, tuple[object, str]]:
    """Files that hold an encoder's weights among other things, as they are found, and what is left out."""
    head = {"head.weight": torch.zeros(7, 64), "head.bias": torch.zeros(7)}
    layers = {f"{i}.{part}": torch.zeros(3) for i in range(3) for part in ("weight", "bias")}
    queue = {"queue": torch.zeros(4, 8), "queue_ptr": torch.zeros(1)}
    other = {key: value + 5 for key, value in state.items()}
    moco = beneath("module.encoder_q.", state | beneath("fc.", layers)) | beneath("module.encoder_k.", other)
    return {
        "timm's, with its classifier": (state | head, "head.weight, head.bias"),
        "with another number of classes": (state | {"fc.weight": torch.zeros(3, 64), "fc.bias": torch.zeros(3)},
                                           "fc.weight, fc.bias"),
        "MoCo's": ({"epoch": 3, "state_dict": moco | beneath("module.", queue), "optimizer": {"state": {}}},
                   "fc.0.weight, fc.0.bias, fc.1.weight, fc.1.bias, fc.2.weight and "),
        "DINO's": ({"student": beneath("module.backbone.", other) | beneath("module.head.", layers),
                    "teacher": beneath("backbone.", state) | beneath("head.", layers), "dino_loss": {}},
                   "head.0.weight, "),
        "lightly's, by Lightning": (
            {"state_dict": beneath("backbone.", state) | beneath("projection_head.layers.", layers)
             | beneath("backbone_momentum.", other) | beneath("projection_head_momentum.layers.", layers),
             "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(2)}}}], "callbacks": {}, "loops": {}},
            "projection_head.layers.0.weight, "),
        "student and teacher of lightly's": (
            beneath("student_backbone.", other) | beneath("teacher_backbone.", state), "student_backbone."),
        "compiled, of several processes": (beneath("module._orig_mod.", state), ""),
        "MAE's": ({"model": state | beneath("decoder_blocks.0.", layers) | {"mask_token": torch.zeros(1, 1, 64)}},
                  "decoder_blocks.0.0.weight, "),
        "with a head of another name": (state | beneath("my_projector.", layers) | beneath("predictor.", layers),
                                        "my_projector.0.weight, "),
        "with few tensors of another name": (state | {"scale": torch.zeros(1), "n": torch.zeros(1)}, "scale, n"),
    }  # fmt: skip


@pytest.mark.parametrize("case", checkpoints({}))
@pytest.mark.parametrize("name", ["test_vit", "test_byobnet"])
def test_weights_are_taken_from_checkpoints_and_what_is_left_out_is_said(case: str, name: str, tmp_path: Path) -> None:
    state = of(name, **({"img_size": 32} if name == "test_vit" else {}))
    content, left = checkpoints(state)[case]
    made = create(name, image_size=32)
    line = encoders.start_from(made, saved(content, tmp_path))
    assert all(torch.equal(value, state[key]) for key, value in made.export_state().items())
    assert f"weights.pth: {len(state)} of {len(state)} tensors" in line
    assert line.partition("tensors")[2].startswith(f"; ignored: {left}" if left else "")
    assert bool(left) == ("ignored" in line)


def test_what_the_network_lacks_of_a_few_layers_is_said(tmp_path: Path) -> None:
    """A first layer for other channels; counters that old files do not have; a classifier that is left out."""
    made = create("resnet18", image_size=32, channels=5)
    state = of("resnet18", num_classes=10)
    del state["bn1.num_batches_tracked"]
    line = encoders.start_from(made, saved(state, tmp_path))
    assert line.endswith(
        "weights.pth: 118 of 120 tensors; randomly initialised: conv1.weight; ignored: fc.weight, fc.bias"
    )


def test_relative_positions_of_other_windows_do_not_make_another_network(tmp_path: Path) -> None:
    swin = SwinTransformer(
        img_size=32, patch_size=4, embed_dim=16, depths=(6, 2), num_heads=(2, 4), window_size=4, num_classes=0
    )
    state = of(swin)
    state |= {f"layers.0.blocks.{i}.attn.relative_position_index": torch.zeros(49, 49) for i in range(6)}
    state |= {k: v[:-1] for k, v in state.items() if k.endswith("relative_position_bias_table")}
    made = create(swin, image_size=32)
    line = encoders.start_from(made, saved(state, tmp_path))
    assert "randomly initialised: layers.0.blocks.0.attn.relative_position_bias_table" in line


def test_a_file_of_another_network_is_no_encoder_of_the_named_one(tmp_path: Path) -> None:
    """`evaluate`, `embed`, `distill` and `finetune` load a file by the name of its backbone: whole or not at all."""
    state = of("test_vit")
    for name in ("blocks.6.norm1.weight", "reg_token", "scale"):
        with pytest.raises(ValueError, match=f"1 unexpected: {name}"):
            encoders.load(saved(state | {name: torch.zeros(64)}, tmp_path), backbone="test_vit")
    for case in ("lightly's, by Lightning", "MAE's"):
        found = encoders.load(saved(checkpoints(state)[case][0], tmp_path), backbone="test_vit")
        assert all(torch.equal(value, state[key]) for key, value in found.export_state().items())

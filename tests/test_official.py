"""The official vision transformers: our numbers are theirs, and their files are known by what is in them."""

import copy
from pathlib import Path

import pytest
import torch
from support.reference import off, official
from torch import nn

from lookalike import backbones, encoders
from lookalike.backbones.official import recognised


def test_init_takes_official_checkpoints_whole(tmp_path: Path) -> None:
    """Positions, registers and gated layers have other names there than in timm."""
    for file in ("vit_dinov2_reg4", "vit_dinov2_swiglu"):
        made, data = official(file)
        state = {f"backbone.{k[6:]}": torch.from_numpy(v) for k, v in data.items() if k.startswith("state/")}
        torch.save({"teacher": state | {"dino_head.mlp.0.weight": torch.zeros(2, 2)}}, tmp_path / "teacher.pth")
        fresh = copy.deepcopy(made)
        for p in fresh.net.parameters():
            nn.init.uniform_(p)
        if fresh.mask_token is not None:
            nn.init.uniform_(fresh.mask_token)
        count = len(fresh.export_state())
        line = encoders.start_from(fresh, str(tmp_path / "teacher.pth"))
        token = ", and the mask token" if "backbone.mask_token" in state else ""
        beside = "; ignored: dino_head.mlp.0.weight"
        assert line.endswith(f"teacher.pth: {count} of {count} tensors{token}{beside}")
        if token:
            assert torch.equal(fresh.mask_token, state["backbone.mask_token"])
        for name, value in made.export_state().items():
            assert torch.equal(value, fresh.export_state()[name]), name


@pytest.mark.parametrize("file", ["vit_dinov2_reg0", "vit_dinov2_reg4", "vit_dinov2_swiglu"])
def test_dinov2_numbers(file: str) -> None:
    made, data = official(file)
    sizes = [k.removeprefix("in/x_") for k in data if k.startswith("in/x_")]
    assert {"native", "larger"} <= set(sizes)
    for size in sizes:
        x = torch.from_numpy(data[f"in/x_{size}"])
        tokens = made.tokens(x)
        assert off(tokens.cls, data[f"out/x_norm_clstoken_{size}"]) < 5e-6
        assert off(tokens.patches, data[f"out/x_norm_patchtokens_{size}"]) < 5e-6
        assert torch.equal(tokens.cls, made(x))
        if file == "vit_dinov2_reg4":
            assert off(tokens.registers, data[f"out/x_norm_regtokens_{size}"]) < 5e-6
    if "in/masks_native" in data:
        tokens = made.tokens(torch.from_numpy(data["in/x_native"]), torch.from_numpy(data["in/masks_native"]))
        assert off(tokens.cls, data["out/masked_x_norm_clstoken_native"]) < 5e-6
        assert off(tokens.patches, data["out/masked_x_norm_patchtokens_native"]) < 5e-6


@pytest.mark.parametrize("file", ["vit_dinov2_reg0", "vit_dinov2_reg4", "vit_dinov2_swiglu"])
def test_dinov2_numbers_between_the_layers(file: str) -> None:
    made, data = official(file)
    x = torch.from_numpy(data["in/x_native"])
    net = made.net
    norm, net.norm = net.norm, nn.Identity()
    cut = made.tokens(x)
    assert off(torch.cat([cut.cls[:, None], cut.registers, cut.patches], 1), data["out/x_prenorm_native"]) < 5e-6
    net.norm = norm
    net.blocks = net.blocks[: max(len(net.blocks) - 1, 1)]  # the reference's "second last" of one block is that block
    assert off(made.tokens(x).patches, data["out/intermediate_second_last_native"]) < 5e-6


@pytest.mark.parametrize("file", ["vit_dinov2_reg0", "vit_dinov2_reg4", "vit_dinov2_swiglu"])
def test_dinov2_gradients(file: str) -> None:
    made, data = official(file)
    x = torch.from_numpy(data["in/x_native"]).requires_grad_()
    tokens = made.tokens(x)
    ((tokens.cls**2).sum() + tokens.patches.sin().sum()).backward()
    net = made.net
    assert off(x.grad, data["grad/x_native"]) < 1e-5
    assert off(net.cls_token.grad, data["grad/cls_token"]) < 1e-5
    assert off(net.blocks[0].ls1.gamma.grad, data["grad/ls1_gamma_block0"]) < 1e-5
    if net.no_embed_class:  # the class token's own position became part of the token
        assert off(torch.cat([net.cls_token.grad, net.pos_embed.grad], 1), data["grad/pos_embed"]) < 1e-5
        assert off(net.reg_token.grad, data["grad/register_tokens"]) < 1e-5
    else:
        assert off(net.pos_embed.grad, data["grad/pos_embed"]) < 1e-5


def test_dino_numbers() -> None:
    made, data = official("vit_dino_p16")
    for size in ("native", "larger", "rect"):
        x = torch.from_numpy(data[f"in/x_{size}"]).requires_grad_()
        tokens = made.tokens(x)
        assert off(tokens.cls, data[f"out/cls_{size}"]) < 5e-6
        assert off(torch.cat([tokens.cls[:, None], tokens.patches], 1), data[f"out/tokens_last_{size}"]) < 5e-6
        assert off(made.attention(x), data[f"out/attn_last_{size}"]) < 5e-6
        if size == "native":
            (made(x) ** 2).sum().backward()
            assert off(x.grad, data["grad/x_native"]) < 1e-5
            assert off(made.net.cls_token.grad, data["grad/cls_token"]) < 1e-5
            assert off(made.net.pos_embed.grad, data["grad/pos_embed"]) < 1e-5
    made.net.blocks = made.net.blocks[:-1]
    tokens = made.tokens(torch.from_numpy(data["in/x_native"]))
    assert off(torch.cat([tokens.cls[:, None], tokens.patches], 1), data["out/tokens_second_last_native"]) < 5e-6


OFFICIAL_NAMES = [
    *(
        f"vit_{size}_patch14{reg}_dinov2.lvd142m"
        for size in ("small", "base", "large", "giant")
        for reg in ("", "_reg4")
    ),
    *(f"vit_{size}_patch{patch}_224.dino" for size in ("small", "base") for patch in (8, 16)),
]


def official_state(name: str, device: str = "meta") -> dict[str, torch.Tensor]:
    """Random tensors under the names, and of the shapes, of the official file of DINO or DINOv2."""
    import timm

    with torch.device(device):
        state = timm.create_model(name, num_classes=0).state_dict()
    if "reg_token" in state:
        state["register_tokens"] = state.pop("reg_token")
        state["pos_embed"] = torch.cat([torch.zeros_like(state["cls_token"]), state["pos_embed"]], 1)
    if "dinov2" in name:
        state["mask_token"] = torch.zeros(1, state["cls_token"].shape[-1], device=device)
    names = {".mlp.fc1.": ".mlp.w12.", ".mlp.fc2.": ".mlp.w3."} if "giant" in name else {}
    for old, new in names.items():
        state = {key.replace(old, new): value for key, value in state.items()}
    return state


@pytest.mark.parametrize("name", OFFICIAL_NAMES)
def test_official_files_are_recognised(name: str) -> None:
    assert recognised(official_state(name)) == name


def test_other_files_are_not_recognised() -> None:
    assert recognised({"layer1.0.conv1.weight": torch.zeros(1)}) is None
    state = official_state("vit_small_patch16_224.dino")
    assert recognised({k: v for k, v in state.items() if not k.startswith("blocks.11.")}) is None


def test_official_files_are_encoders(tmp_path: Path) -> None:
    """A file of DINOv2's names and shapes, at its 518 pixels, is loaded for 224, without a word about what it is."""
    state = official_state("vit_small_patch14_reg4_dinov2.lvd142m", "cpu")
    torch.save(state, tmp_path / "dinov2_vits14_reg4_pretrain.pth")
    found = encoders.load(tmp_path / "dinov2_vits14_reg4_pretrain.pth")
    assert (found.name, found.image_size) == ("vit_small_patch14_reg4_dinov2.lvd142m", 224)
    assert encoders.image_size(tmp_path / "dinov2_vits14_reg4_pretrain.pth") == 224
    assert (found.mean, found.std) == (backbones.IMAGENET_MEAN, backbones.IMAGENET_STD)
    assert found.net.num_reg_tokens == 4
    assert torch.equal(found.net.blocks[3].attn.qkv.weight, state["blocks.3.attn.qkv.weight"])
    # a timm file with its classifier, by its name
    from timm import create_model

    net = create_model("test_vit", num_classes=10)
    torch.save({"state_dict": net.state_dict()}, tmp_path / "timm.pth")
    named = encoders.load(tmp_path / "timm.pth", backbone="test_vit")
    assert torch.equal(named.net.blocks[0].attn.qkv.weight, net.blocks[0].attn.qkv.weight)
    assert named.image_size == create_model("test_vit").default_cfg["input_size"][-1]
    assert named.mean == (0.5, 0.5, 0.5)
    with pytest.raises(ValueError, match=r"missing.*unexpected"):
        encoders.load(tmp_path / "timm.pth", backbone="test_resnet")
    with pytest.raises(ValueError, match="--teacher-backbone"):
        encoders.load(tmp_path / "timm.pth")
    with pytest.raises(ValueError, match="dinov2_vitb14"):
        encoders.load("torchhub/dinov2_vitb15")
    assert encoders.image_size("torchhub/dino_resnet50") == 224

"""Backbones against the official vision transformers' numbers, and over families, sizes and channels."""

import argparse
import copy
import functools
import math
import os
import socket
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from huggingface_hub import constants
from hypothesis import given, settings
from hypothesis import strategies as st
from support import tiny
from timm.layers import SwiGLUPacked, resample_abs_pos_embed
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import ParallelScalingBlock, VisionTransformer
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torchvision.ops import StochasticDepth

from lookalike import backbones, encoders
from lookalike.backbones import Backbone, base, create, factory, library, load_official, wrappers
from lookalike.backbones.official import recognised
from lookalike.layers import Teacher
from lookalike.places import HUB

REFERENCE = Path(os.environ.get("LOOKALIKE_REFERENCE", Path(__file__).parent / "reference"))

FAMILIES = [
    ("resnet18", 32),
    ("resnet18", 96),
    ("resnet10t", 40),
    ("torchvision/resnet18", 32),
    ("vgg11", 32),
    ("densenet121", 40),
    ("efficientnet_lite0", 33),
    ("convnext_atto", 35),
    ("torchvision/alexnet", 64),
    ("torchvision/squeezenet1_1", 40),
    ("torchvision/shufflenet_v2_x0_5", 33),
    ("swin_tiny_patch4_window7_224", 224),
    ("deit_tiny_distilled_patch16_224", 32),
    ("test_vit", 64),
    ("test_vit3", 48),
]
"""test_vit is timm's tiny plain ViT; test_vit3 has no class token, one register and attention pooling."""


def off(found: Tensor, expected: np.ndarray) -> float:
    """The largest deviation, relative to the array's maximum."""
    assert found.shape == expected.shape
    return float((found.detach() - torch.from_numpy(expected)).abs().max()) / float(np.abs(expected).max())


def vit(**options: object) -> VisionTransformer:
    settings = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 0}
    torch.manual_seed(0)
    return VisionTransformer(**(settings | options))


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
        beside = "; left out: dino_head.mlp.0.weight"
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


def test_the_attention_with_registers_and_normalised_keys() -> None:
    """Rows sum to 1, and the last block's values mixed by it are what the block itself makes of them."""
    torch.manual_seed(0)
    net = VisionTransformer(
        img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, reg_tokens=3, qk_norm=True, num_classes=0
    )
    made, x = create(net, image_size=32).eval(), torch.randn(2, 3, 32, 48)
    found = made.attention(x)
    assert found.shape == (2, 2, 1 + 3 + 24, 1 + 3 + 24)
    torch.testing.assert_close(found.sum(-1), torch.ones(2, 2, 28))
    attn, seen = net.blocks[-1].attn, {}
    attn.qkv.register_forward_hook(lambda module, args, y: seen.update(qkv=y))
    attn.proj.register_forward_hook(lambda module, args, y: seen.update(mixed=args[0]))
    made(x)
    values = seen["qkv"].view(2, 28, 3, 2, 16)[:, :, 2].transpose(1, 2)
    torch.testing.assert_close((found @ values).transpose(1, 2).flatten(2), seen["mixed"])


@pytest.mark.parametrize(
    ("network", "why"),
    [
        ("test_resnet", "test_resnet has no class token"),
        ("test_vit3", "test_vit3 has no class token"),
        (VisionTransformer(img_size=64, embed_dim=32, depth=1, num_heads=2, num_classes=0,
                           block_fn=ParallelScalingBlock), "holds 0 of timm's Attention layers"),
    ],
    ids=["CNN", "no class token", "parallel block"],
)  # fmt: skip
def test_attention_that_cannot_be_shown(network: str | nn.Module, why: str) -> None:
    made = create(network, image_size=64)
    with pytest.raises(ValueError, match=f"{why}.*Choose a plain ViT"):
        made.attention(torch.zeros(1, 3, 64, 64))


@pytest.mark.parametrize(("name", "size"), FAMILIES)
def test_family(name: str, size: int) -> None:
    """Shapes, one gradient for every parameter, and weights that go out and in again."""
    torch.manual_seed(0)
    made = create(name, image_size=size)
    assert all(m.training for m in made.modules())
    x = torch.randn(2, 3, size, size)
    made(x).square().sum().backward()
    assert [k for k, p in made.named_parameters() if p.grad is None] == []
    made.eval()
    with torch.no_grad():
        feature, tokens = made(x), made.tokens(x)
    assert feature.shape == (2, made.dim)
    torch.testing.assert_close(tokens.cls, feature)
    assert tokens.patches.shape[2] == made.patch_dim
    assert tokens.patches.shape[1] == math.isqrt(tokens.patches.shape[1]) ** 2

    other = create(name, image_size=size).eval()
    assert not torch.equal(other(x), feature)
    assert other.load_exported(made.export_state()) == len(made.net.state_dict())
    torch.testing.assert_close(other(x), feature)
    torch.testing.assert_close(copy.deepcopy(other)(x), feature)


def test_patches_of_a_cnn_are_its_last_map_row_by_row() -> None:
    for name in ("resnet10t", "torchvision/resnet18"):
        made = create(name, image_size=96).eval()
        tokens = made.tokens(torch.randn(2, 3, 96, 64))
        assert tokens.patches.shape == (2, 3 * 2, 512)
        assert tokens.registers.shape == (2, 0, 512)
        torch.testing.assert_close(tokens.patches.mean(1), tokens.cls)
    made = create("resnet10t", image_size=96).eval()
    x = torch.randn(1, 3, 96, 64)
    torch.testing.assert_close(made.tokens(x).patches[0, 1 * 2 + 0], made.net.forward_features(x)[0, :, 1, 0])
    image = torch.zeros(1, 3, 96, 96)
    image[..., 64:, :32] = 1  # bottom left: row 2, column 0
    made = create(nn.Conv2d(3, 4, 32, stride=32), image_size=96)
    change = (made.tokens(image).patches - made.tokens(torch.zeros_like(image)).patches).abs().sum(2)
    assert change[0].nonzero().flatten().tolist() == [6]


@pytest.mark.parametrize(
    "name", ["resnet10t", "test_vit", "torchvision/alexnet", "efficientnet_lite0", "swin_tiny_patch4_window7_224"]
)
@pytest.mark.parametrize("channels", [1, 5])
def test_channels(name: str, channels: int) -> None:
    size = 224 if name.startswith("swin") else 64
    made = create(name, channels=channels, image_size=size).eval()
    assert made(torch.zeros(1, channels, size, size)).shape == (1, made.dim)
    assert made.mean == pytest.approx((0.449,) * channels)
    assert made.std == pytest.approx((0.226,) * channels)


def test_a_new_first_layer_is_initialised_for_its_channels() -> None:
    made = create("torchvision/squeezenet1_1", channels=12, image_size=64)
    weight = made.net.features[0].weight.detach()
    bound = 1 / math.sqrt(12 * 3 * 3)  # torch's default: uniform up to 1 / sqrt(fan in)
    assert bound * 0.95 < float(weight.abs().max()) <= bound
    assert float(weight.std()) == pytest.approx(bound / math.sqrt(3), rel=0.05)


def test_channels_last_gives_the_same() -> None:
    x = torch.randn(2, 3, 64, 64)
    for name in ("resnet10t", "test_vit", "convnext_atto"):
        made = create(name, image_size=64).eval()
        expected = made(x)
        made = made.to(memory_format=torch.channels_last)
        torch.testing.assert_close(made(x.to(memory_format=torch.channels_last)), expected, rtol=1e-4, atol=1e-5)
        assert all(v.is_contiguous() for v in made.export_state().values())


def test_a_timm_model_takes_the_exported_weights() -> None:
    x = torch.randn(2, 3, 96, 96)
    for name, stem, options in (("resnet10t", "standard", {}), ("test_vit", None, {"img_size": 96})):
        made = create(name, image_size=96, stem=stem).eval()
        plain = timm.create_model(name, num_classes=0, **options).eval()
        plain.load_state_dict(made.export_state())
        torch.testing.assert_close(plain(x), made(x))


def test_weights_that_do_not_fit() -> None:
    made = create("resnet10t", image_size=32)
    before = {k: v.clone() for k, v in made.export_state().items()}
    state = {k: v + 1 for k, v in before.items()}
    state["head.weight"] = state.pop("bn1.bias")
    state["bn1.weight"] = torch.zeros(3)
    with pytest.raises(
        ValueError, match=r"1 missing: bn1\.bias; 1 unexpected: head\.weight; 1 of another shape: bn1\.weight"
    ):
        made.load_exported(state)
    assert all(torch.equal(v, before[k]) for k, v in made.export_state().items())


def test_stem_of_resnets() -> None:
    x = torch.zeros(1, 3, 32, 32)
    for name in ("resnet18", "resnet10t", "torchvision/resnet18"):
        small = create(name, image_size=32)
        assert small.stem == "small"
        assert small.tokens(x.expand(2, -1, -1, -1)).patches.shape[1] == 4 * 4  # a stride of 8 in all
        standard = create(name, image_size=32, stem="standard")
        assert standard.stem == "standard"
        assert standard.eval().tokens(x).patches.shape[1] == 1
        assert create(name, image_size=65).stem == "standard"
        assert create(name, image_size=65, stem="small").stem == "small"
    small = create("resnet18", image_size=32)
    assert (small.net.conv1.kernel_size, small.net.conv1.stride) == ((3, 3), (1, 1))
    assert float(small.net.conv1.weight.detach().std()) == pytest.approx(
        math.sqrt(2 / (64 * 9)), rel=0.1
    )  # He et al., fan out
    with pytest.raises(ValueError, match="no small stem"):
        create("test_vit", image_size=32, stem="small")


class Own(nn.Module):
    """A network as users write them, with dropout, BatchNorm and a buffer that each forward pass in training moves."""

    def __init__(self, maps: bool) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(4, 6, 3, stride=2), nn.BatchNorm2d(6), nn.Dropout(0.5))
        self.maps = maps

    def forward(self, x: Tensor) -> Tensor:
        torch.rand(1)
        y = self.layers(x)
        return y if self.maps else y.mean((2, 3))


@pytest.mark.parametrize("maps", [False, True])
def test_any_module(maps: bool) -> None:
    own = Own(maps)
    own.layers[2].eval()
    before = copy.deepcopy(own.state_dict())
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    made = create(own, channels=4, image_size=17)
    assert torch.equal(torch.rand(4), expected)
    assert all(torch.equal(v, before[k]) for k, v in own.state_dict().items())
    assert own.training
    assert not own.layers[2].training
    assert (made.dim, made.patch_dim) == (6, 6 if maps else 0)
    assert made.net is own
    assert made.name == f"<{__name__}.Own>"
    made.eval()
    x = torch.randn(2, 4, 17, 17)
    y = own(x)
    torch.testing.assert_close(made(x), y.mean((2, 3)) if maps else y)
    if maps:
        assert torch.equal(made.tokens(x).patches, y.flatten(2).transpose(1, 2))
    else:
        with pytest.raises(ValueError, match="no patch tokens"):
            made.tokens(x)


class Returns(nn.Module):
    """A module that returns what a function makes of its features (B, 6)."""

    def __init__(self, make: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.first, self.make = nn.Conv2d(3, 6, 3), make

    def forward(self, x: Tensor) -> object:
        return self.make(self.first(x).mean((2, 3)))


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda y: (y, y[:, :3]), r"a tuple of 2 parts: \(2, 6\), \(2, 3\)"),
        (lambda y: [y], r"a list of 1 part: \(2, 6\)"),
        (lambda y: {"features": y, "logits": None}, r"a dict of features: \(2, 6\), logits: NoneType"),
        (lambda y: OrderedDict(last_hidden_state=y), r"an OrderedDict of last_hidden_state: \(2, 6\)"),
        (lambda y: argparse.Namespace(y=y), "a Namespace"),
        (lambda y: None, "None"),
        (lambda y: y[:, None], r"a tensor \(2, 1, 6\)"),
        (lambda y: y[0], r"a tensor \(6,\)"),
        (lambda y: y.mean(0, keepdim=True), r"a tensor \(1, 6\)"),
        (lambda y: y.argmax(1, keepdim=True), r"a tensor \(2, 1\) of int64"),
    ],
)
def test_a_module_that_returns_no_features_is_told_what_it_returns(make: Callable[[Tensor], object], what: str) -> None:
    """Neither the image size nor a way out of it is spoken of: no other size would help."""
    expected = rf"Returns> returns {what} for 2 images; expected one tensor of floats, \(2, D\), or \(2, D, H, W\)"
    with pytest.raises(ValueError, match=expected):
        create(Returns(make), image_size=16)


def test_a_module_without_parameters_gives_features_but_cannot_learn() -> None:
    made = create(nn.AdaptiveAvgPool2d(2), image_size=16)
    x = torch.randn(3, 3, 16, 16)
    assert made(x).shape == (3, 3)
    with pytest.raises(
        ValueError, match=r"AdaptiveAvgPool2d> has no parameters\. Give a module with layers that learn"
    ):
        made.check_trainable()
    frozen = create(nn.Conv2d(3, 4, 3).requires_grad_(False), image_size=16)
    with pytest.raises(ValueError, match=r"none that may change \(requires_grad is False\)"):
        frozen.check_trainable()
    create("test_byobnet", image_size=32).check_trainable()


def test_creating_and_checking_leaves_the_random_state_to_the_weights() -> None:
    made = create("resnet10t", image_size=32)
    before, state = copy.deepcopy(made.state_dict()), torch.get_rng_state()
    made.check_size(48)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in made.state_dict().items())
    for name in ("resnet10t", "test_vit"):
        torch.manual_seed(5)
        first = create(name, image_size=32).export_state()
        torch.manual_seed(5)
        second = create(name, image_size=32).export_state()
        assert all(torch.equal(v, second[k]) for k, v in first.items())


def bicubic(table: np.ndarray, new: int, scale: float) -> np.ndarray:
    """Keys' cubic convolution with a = -0.75 along the first axis, pixel centres at halves, borders repeated."""
    rows = []
    for i in range(new):
        at = (i + 0.5) / scale - 0.5
        row = np.zeros_like(table[0])
        for j in range(math.floor(at) - 1, math.floor(at) + 3):
            t = abs(at - j)
            weight = 1.25 * t**3 - 2.25 * t**2 + 1 if t <= 1 else -0.75 * (t**3 - 5 * t**2 + 8 * t - 4)
            row = row + weight * table[min(max(j, 0), len(table) - 1)]
        rows.append(row)
    return np.stack(rows)


@functools.cache
def placed(prefix: bool, interpolation: backbones.Interpolation) -> Backbone:
    """A ViT of 4 x 4 patches, whose position embedding has a row for the class token if `prefix`."""
    return create(vit(no_embed_class=not prefix), image_size=32, interpolation=interpolation)


@settings(max_examples=30, deadline=None)
@given(height=st.integers(1, 9), width=st.integers(1, 9), prefix=st.booleans())
def test_positions_at_any_size(height: int, width: int, prefix: bool) -> None:
    """Against a slow transcription of DINO's resizing with its offset, and against timm's own function."""
    made = placed(prefix, "official")
    first = int(prefix)
    position = made.net.pos_embed.detach()
    table = position[0, first:].view(4, 4, -1).double().numpy()
    if (height, width) != (4, 4):
        table = bicubic(table, height, (height + 0.1) / 4)
        table = bicubic(table.swapaxes(0, 1), width, (width + 0.1) / 4).swapaxes(0, 1)
    found = made._resized(position, (4, 4), (height, width))
    assert torch.equal(found[:, :first], position[:, :first])
    assert off(found[0, first:].view(height, width, -1).double(), table) < 2e-6
    assert made(torch.zeros(1, 3, 8 * height, 8 * width)).shape == (1, 16)

    expected = resample_abs_pos_embed(position, [height, width], [4, 4], num_prefix_tokens=first)
    assert off(placed(prefix, "timm")._resized(position, (4, 4), (height, width)), expected.numpy()) < 2e-6


@pytest.mark.parametrize(
    "options",
    [
        {"reg_tokens": 3},
        {"class_token": False, "global_pool": "avg"},
        {"class_token": False, "global_pool": "avg", "reg_tokens": 2, "no_embed_class": True},
        {"global_pool": "avg"},
        {"pos_embed": "none"},
        {"pre_norm": True, "no_embed_class": True},
    ],
)
def test_token_assembly_equals_timms(options: dict[str, object]) -> None:
    net = vit(**options)
    nn.init.normal_(net.norm_pre.bias) if options.get("pre_norm") else None
    for token in (net.cls_token, net.reg_token):
        if token is not None:
            nn.init.normal_(token)
    made = create(net, image_size=32)
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(made(x), net(x))
    tokens = made.tokens(x)
    torch.testing.assert_close(tokens.cls, net(x))
    assert tokens.registers.shape == (2, options.get("reg_tokens", 0), 16)
    torch.testing.assert_close(tokens.patches, net.fc_norm(net.forward_features(x))[:, -16:])
    net.set_grad_checkpointing()
    torch.testing.assert_close(made(x), net(x))


def test_a_masked_patch_tells_nothing_of_its_pixels() -> None:
    made = create("test_vit", image_size=64, mask_token=True).eval()
    assert made.mask_token is not None
    assert torch.equal(made.mask_token, torch.zeros(1, made.patch_dim))
    a = torch.randn(1, 3, 64, 64)
    b = a.clone()
    b[..., 16:32, 48:64] = 0  # row 1, column 3 of 4 x 4
    mask = torch.zeros(1, 16, dtype=torch.bool)
    mask[0, 7] = True
    assert not torch.equal(made.tokens(a).cls, made.tokens(b).cls)
    assert torch.equal(made.tokens(a, mask).patches, made.tokens(b, mask).patches)
    made.tokens(a, mask).patches.sin().sum().backward()
    assert made.mask_token.grad is not None
    assert made.mask_token.grad.abs().sum() > 0
    assert "mask_token" not in made.export_state()
    with pytest.raises(ValueError, match=r"\(1, 9\); 1 image of 4 x 4 patches need \(1, 16\)"):
        made.tokens(a, mask[:, :9])
    with pytest.raises(ValueError, match="mask_token=True"):
        create("test_vit", image_size=64).tokens(a, mask)
    for name in ("resnet10t", "torchvision/alexnet"):
        with pytest.raises(ValueError, match="cannot mask patches"):
            create(name, image_size=64, mask_token=True)
        with pytest.raises(ValueError, match="cannot mask patches"):
            create(name, image_size=64).tokens(a, mask)


def test_weights_of_another_image_size_keep_their_function() -> None:
    """A ViT's weights loaded for another size give there what the first one gives there."""
    small = create("test_vit", image_size=32).eval()
    large = create("test_vit", image_size=96).eval()
    large.load_exported(small.export_state())
    x = torch.randn(1, 3, 96, 96)
    torch.testing.assert_close(large(x), small(x))
    assert large.net.pos_embed.shape[1] == 1 + 36


def test_published_weights_keep_their_function(monkeypatch: pytest.MonkeyPatch) -> None:
    """Positions go from the published grid to the wanted one by the official rule, at any size that was asked for."""
    published = timm.create_model("test_vit", num_classes=0)
    build = timm.create_model

    def local(name: str, *, pretrained: bool, **options: object) -> nn.Module:
        net = build(name, **options)
        if pretrained:
            assert "img_size" not in {k for k, v in options.items() if v is not None}
            net.load_state_dict(published.state_dict())
        return net

    monkeypatch.setattr(timm, "create_model", local)
    made = create("test_vit", image_size=64, weights=True).eval()
    assert made.net.pos_embed.shape[1] == 1 + 16
    assert made.mean == tuple(published.pretrained_cfg["mean"]) != backbones.IMAGENET_MEAN
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(made(x), create(published.eval(), image_size=160)(x))


@pytest.mark.parametrize(
    ("name", "size", "works"),
    [
        ("densenet121", 8, "16|32|48"),
        ("vgg11", 8, "32"),
        ("torchvision/alexnet", 8, "64"),
        ("halonet26t", 96, "128|256"),
        ("vit_tiny_patch16_224", 30, "16, 32"),
        ("vit_tiny_patch16_224", 8, "16"),
    ],
)
def test_sizes_that_do_not_work(name: str, size: int, works: str) -> None:
    with pytest.raises(
        ValueError, match=rf"{name}.* cannot take .*{size} x {size} pixels.* works?:?( is)? ({works})\."
    ):
        create(name, image_size=size)


def test_the_size_named_in_the_message_works() -> None:
    with pytest.raises(ValueError, match="nearest size that works is 32") as caught:
        create("vgg11", image_size=8)
    assert caught.value.__cause__ is not None
    create("vgg11", image_size=32)
    with pytest.raises(ValueError, match=r"<torch\.nn.modules.conv.Conv2d> cannot take images of 8 x 8 .*works is 16"):
        create(nn.Conv2d(3, 8, 11), image_size=8)


def test_check_size() -> None:
    for name, good, bad in (("test_vit", 48, 50), ("resnet10t", 33, None), ("deit_tiny_distilled_patch16_224", 32, 48)):
        made = create(name, image_size=32)
        made.check_size(good)
        if bad is not None:
            with pytest.raises(ValueError, match=rf"{bad} x {bad} pixels.*works?(:| is) .*(32|48)"):
                made.check_size(bad)
    with pytest.raises(ValueError, match="32 x 20 pixels"):
        create("test_vit", image_size=32)(torch.zeros(1, 3, 32, 20))


def test_drop_path() -> None:
    rates = [
        b.drop_path1.drop_prob for b in create("vit_tiny_patch16_224", image_size=32, drop_path=0.3).net.blocks[1:]
    ]
    assert rates == pytest.approx([0.3 * i / 11 for i in range(1, 12)])
    for name in ("densenet121", "torchvision/alexnet"):
        with pytest.raises(ValueError, match="takes no drop path"):
            create(name, image_size=64, drop_path=0.1)
    with pytest.raises(ValueError, match=r"\[0, 1\), got 1"):
        create("test_vit", drop_path=1.0)


LIBRARIES = (
    "torchvision/alexnet", "torchvision/vgg11", "torchvision/googlenet", "torchvision/inception_v3",
    "torchvision/mobilenet_v2", "torchvision/mobilenet_v3_small", "torchvision/efficientnet_b0",
    "torchvision/mnasnet0_5", "torchvision/squeezenet1_1", "torchvision/densenet121", "torchvision/convnext_tiny",
    "torchvision/swin_t", "torchvision/maxvit_t", "rexnet_100", "ghostnet_050", "swin_tiny_patch4_window7_224",
    "nest_tiny", "vit_relpos_small_patch16_224",
)  # fmt: skip
"""Networks that drop features or skip blocks in training unless they are told not to."""


def rates(net: nn.Module) -> list[float]:
    """All probabilities in a network."""
    own = [vars(part).get("p", 0.0) for part in net.modules() if isinstance(part, _DropoutNd | StochasticDepth)]
    return own + [x for part in net.modules() for name, x in vars(part).items() if "drop" in name and type(x) is float]


@pytest.mark.parametrize("name", LIBRARIES)
def test_nothing_is_random_in_a_network_without_drop_path(name: str) -> None:
    with torch.device("meta"):
        made = (
            library.torchvision_net(name, 3, False, 0.0)
            if name.startswith("torchvision/")
            else library.timm_net(name, 3, None, False, 0.0)
        )
    assert not any(rates(made))


@pytest.mark.parametrize("name", ["torchvision/mobilenet_v3_small", "torchvision/squeezenet1_1", "ghostnet_050"])
def test_features_are_the_same_twice_in_train_mode(name: str) -> None:
    """The classifier is gone, and its dropout with it."""
    net = create(name, image_size=32).train()
    x = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(net(x), net(x))


@pytest.mark.parametrize("name", ["convnext_tiny", "swin_t", "efficientnet_b0", "maxvit_t"])
def test_drop_path_reaches_torchvisions_networks(name: str) -> None:
    """Rising evenly to the last block, as timm's; no other rate is left."""
    with torch.device("meta"):
        net = library.torchvision_net(f"torchvision/{name}", 3, False, 0.3)
    skips = [part.p for part in net.modules() if isinstance(part, StochasticDepth)]
    assert skips == sorted(skips)
    assert skips[-1] == pytest.approx(0.3)
    if name != "maxvit_t":  # whose blocks have three each
        assert np.diff(skips) == pytest.approx(0.3 / (len(skips) - 1))
    assert max(rates(net)) == pytest.approx(0.3)


def test_a_teacher_of_torchvisions_network_skips_nothing() -> None:
    student = create("torchvision/efficientnet_b0", image_size=32, drop_path=0.5).train()
    teacher, x = Teacher(student), torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        assert not torch.equal(student(x), student(x))
    assert torch.equal(teacher(x), teacher(x))


def test_a_users_vit_at_another_size() -> None:
    made = create(vit(), image_size=64)
    assert (made.dim, made.patch_dim, made.patch_size, made.image_size) == (16, 16, 8, 64)
    assert made.tokens(torch.zeros(1, 3, 64, 40)).patches.shape == (1, 8 * 5, 16)


def test_positions_stay_exact_under_autocast() -> None:
    made = placed(True, "official")
    position = made.net.pos_embed
    expected = made._resized(position, (4, 4), (7, 7))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(made._resized(position, (4, 4), (7, 7)), expected)


def test_names() -> None:
    found = backbones.names()
    assert {"resnet18", "vit_small_patch14_dinov2", "torchvision/alexnet", "torchvision/squeezenet1_0"} <= set(found)
    assert "torchvision/resnet18" not in found
    assert len(found) == len(set(found))
    assert create("timm/resnet10t", image_size=32).name == "resnet10t"
    for wrong, near in (
        ("resnet5O", "resnet50"),
        ("alexnet", "torchvision/alexnet"),
        ("torchvision/alexnett", "torchvision/alexnet"),
    ):
        with pytest.raises(ValueError, match=f"no backbone '{wrong}'.*{near}"):
            create(wrong)
    with pytest.raises(ValueError, match=r"no weights 'typo'.*resnet18\.a1_in1k"):
        create("resnet18.typo")


@pytest.mark.parametrize(
    ("name", "size", "interpolation"),
    [
        ("timm/vit_tiny_patch16_384.augreg_in21k_ft_in1k", 384, "timm"),
        ("timm/tf_efficientnet_b4", 380, "timm"),
        ("timm/swinv2_tiny_window8_256", 256, "timm"),
        ("timm/vit_small_patch14_dinov2", 224, "official"),
        ("torchvision/inception_v3", 299, "official"),
    ],
)
def test_published_weights_come_at_their_own_size(
    name: str, size: int, interpolation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(backbone: str, **options: object) -> tuple[str, dict[str, object]]:
        return backbone, options

    monkeypatch.setattr(factory, "create", offline)
    asked, options = backbones.published(name)
    assert asked == name
    assert options == {"weights": True, "image_size": size, "interpolation": interpolation}


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_a_network_of_torchvisions_does_not_normalise_again(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With published weights theirs do, and no state dict would tell."""
    import torchvision

    build = torchvision.models.get_model

    def with_weights(short: str, weights: object, **options: bool) -> nn.Module:
        net = build(short, weights=None, **{**options, "init_weights": False})
        net.transform_input = net.transform_input or weights is not None
        return net

    monkeypatch.setattr("torchvision.models.get_model", with_weights)
    made = create(f"torchvision/{name}", weights=True, image_size=96)
    assert made.mean == made.std == (0.5, 0.5, 0.5)
    again = create(f"torchvision/{name}", image_size=96)
    again.load_exported(made.export_state())
    x = torch.randn(2, 3, 96, 96)
    assert torch.equal(made.eval()(x), again.eval()(x))


def test_weights_that_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))

    def no_network(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("torch.hub.download_url_to_file", no_network)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"resnet18 could not be fetched from .*timm/resnet18.a1_in1k.*copy"):
        create("resnet18", weights=True)
    with pytest.raises(FileNotFoundError, match=r"alexnet could not be fetched from .*/alexnet-owt.*copy"):
        create("torchvision/alexnet", weights=True)
    with pytest.raises(FileNotFoundError, match="publishes no weights for vit_small_patch16_36x1_224"):
        create("vit_small_patch16_36x1_224", weights=True)
    for wrong in ({"weights": True}, {"drop_path": 0.1}, {"stem": "small"}):
        with pytest.raises(ValueError, match="your own module"):
            create(nn.Conv2d(3, 4, 3), **wrong)
    with pytest.raises(ValueError, match="standard stem"):
        create("resnet18", weights=True, stem="small", image_size=32)


def test_what_is_said_of_a_download_goes_where_its_bar_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Standard output has the lines of a command alone."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    networks = {"shufflenetv2": torchvision.models.shufflenet_v2_x0_5(), "tiny": timm.create_model(tiny.CNN)}

    def fetched(url: str, file: str, *args: object, **options: object) -> None:
        (state,) = [net.state_dict() for name, net in networks.items() if name in url]
        torch.save(state, file)

    monkeypatch.setattr("torch.hub.download_url_to_file", fetched)
    monkeypatch.setitem(HUB, "tiny", (tiny.CNN, "tiny.pth"))
    for fetch in (
        lambda: create("torchvision/shufflenet_v2_x0_5", weights=True, image_size=64),
        lambda: encoders.load("torchhub/tiny"),
    ):
        fetch()
        said = capsys.readouterr()
        assert "Downloading: " in said.err
        assert said.out == ""


def test_torch_compile_takes_it_whole() -> None:
    """No graph breaks, at the training size and at another; the tracer alone, so that no compiler is needed."""
    for name in ("resnet10t", "test_vit"):
        made = create(name, image_size=64).eval()
        compiled = torch.compile(made, backend="eager", fullgraph=True)
        for size in (64, 32):
            x = torch.randn(2, 3, size, size)
            torch.testing.assert_close(compiled(x), made(x))


def test_torch_compile_reaches_tokens() -> None:
    """And copies, as health makes them, are not compiled."""
    made = create("test_vit", image_size=64, mask_token=True).eval()
    x, mask = torch.randn(2, 3, 64, 64), torch.rand(2, 16) < 0.5
    plain, hidden = made.tokens(x), made.tokens(x, mask)
    traced = []
    made.compile(backend=lambda graph, inputs: traced.append(graph) or graph.forward, fullgraph=True)
    torch.testing.assert_close(vars(made.tokens(x)), vars(plain))
    torch.testing.assert_close(vars(made.tokens(x, mask)), vars(hidden))
    assert len(traced) == 2
    torch.testing.assert_close(vars(copy.deepcopy(made).tokens(x)), vars(plain))
    torch.testing.assert_close(made(x), plain.cls)
    assert len(traced) == 3


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


# ---------------------------------------------------------------- weights of another network

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
    "a deeper ResNet": ("resnet34", "resnet18", "80 have no place in the network: layer1.2.conv1.weight; layer1"),
    "a shallower ResNet": ("resnet18", "resnet34", "80 of the network's are missing or of another shape: layer1.2.c"),
    "bottlenecks": ("resnet50", "resnet18", r"layer1.0.conv1.weight, there \(64, 64, 1, 1\), here \(64, 64, 3, 3\)"),
    "a wider ConvNeXt": ("test_convnext2", "test_convnext", "missing or of another shape: stem.0.weight, there"),
    "a deeper ViT": (vit(depth=4), vit(), "24 have no place in the network: blocks.2.norm1.weight; blocks.2"),
    "a shallower ViT": (vit(), vit(depth=3), "12 of the network's are missing or of another shape: blocks.2.norm1"),
    "a ViT with registers": (vit(reg_tokens=4), vit(), "1 have no place in the network: reg_token"),
    "registers without a position": (vit(reg_tokens=4, no_embed_class=True), vit(), "1 have no place .*: reg_token"),
    "a ViT with layer scales": (vit(init_values=1e-5), vit(), "4 have no place in the network: blocks.0.ls1.gamma"),
    "a ViT with normalised keys": (vit(qk_norm=True), vit(), "no place in the network: blocks.0.attn.q_norm.weight"),
    "a ViT with a norm before its blocks": (vit(pre_norm=True), vit(), "no place in the network: norm_pre.weight"),
    "a wider ViT": (vit(), vit(embed_dim=32), "of the network's are missing or of another shape: cls_token, there"),
    "another family": ("test_resnet", vit(), "no place in the network"),
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
        assert f"weights.pth holds {held} tensors, {made.name} has {len(before)}." in str(refused.value)
        assert str(refused.value).endswith("Give the --backbone that the weights are of.")
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
    assert line.partition("tensors")[2].startswith(f"; left out: {left}" if left else "")
    assert bool(left) == ("left out" in line)


def test_what_the_network_lacks_of_a_few_layers_is_said(tmp_path: Path) -> None:
    """A first layer for other channels; counters that old files do not have; a classifier that is left out."""
    made = create("resnet18", image_size=32, channels=5)
    state = of("resnet18", num_classes=10)
    del state["bn1.num_batches_tracked"]
    line = encoders.start_from(made, saved(state, tmp_path))
    assert line.endswith(
        "weights.pth: 118 of 120 tensors; random as before: conv1.weight; left out: fc.weight, fc.bias"
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
    assert "random as before: layers.0.blocks.0.attn.relative_position_bias_table" in line


def test_a_file_of_another_network_is_no_encoder_of_the_named_one(tmp_path: Path) -> None:
    """`evaluate`, `embed`, `distill` and `finetune` load a file by the name of its backbone: whole or not at all."""
    state = of("test_vit")
    for name in ("blocks.6.norm1.weight", "reg_token", "scale"):
        with pytest.raises(ValueError, match=f"1 unexpected: {name}"):
            encoders.load(saved(state | {name: torch.zeros(64)}, tmp_path), backbone="test_vit")
    for case in ("lightly's, by Lightning", "MAE's"):
        found = encoders.load(saved(checkpoints(state)[case][0], tmp_path), backbone="test_vit")
        assert all(torch.equal(value, state[key]) for key, value in found.export_state().items())


def test_a_named_networks_shapes_are_tried_once_and_a_users_own_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each trial takes some tenths of a second, and a run would make a dozen."""
    tried: list[int] = []

    class Own(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            tried.append(x.shape[-1])
            return x.mean((2, 3))

    monkeypatch.setattr(base, "TRIED", {})
    parts = wrappers.Timm._parts

    def counted(self: Backbone, x: Tensor, mask: Tensor | None) -> base.Parts:
        tried.append(x.shape[-1])
        return parts(self, x, mask)

    monkeypatch.setattr(wrappers.Timm, "_parts", counted)
    for _ in range(2):
        made = create("test_byobnet", image_size=32)
        made.check_size(32)
        made.check_size(48)
        assert (made.dim, made.patch_dim) == (256, 256)
    assert tried == [32, 48]
    create("test_byobnet", image_size=32, channels=1)
    assert tried == [32, 48, 32]
    tried.clear()
    for _ in range(2):
        create(Own(), image_size=24)
    assert tried == [24, 24]


def test_own_modules_that_cannot_be_trained_are_named() -> None:
    class Own(nn.Module):
        def __init__(self, change: Callable[[Tensor], object]) -> None:
            super().__init__()
            self.layer, self.change = nn.Conv2d(3, 8, 3, 4), change

        def forward(self, x: Tensor) -> object:
            return self.change(self.layer(x).mean((2, 3)))

    for change, words in (
        (lambda y: y.half(), r"returns float16; expected float32"),
        (lambda y: y[:, :0], r"returns a tensor \(2, 0\) for 2 images; expected one tensor of floats"),
        (lambda y: {}, r"returns a dict of nothing for 2 images"),
        (lambda y: {}["x"], r"cannot take images of 32 x 32 pixels \(KeyError: 'x'\)"),
    ):
        with pytest.raises(ValueError, match=words):
            create(Own(change), image_size=32)
    create(Own(lambda y: y), image_size=32).check_trainable()
    made = create(Own(lambda y: y.detach()), image_size=32)  # an encoder may
    with pytest.raises(ValueError, match=r"returns features that no parameter changes"):
        made.check_trainable()
    with pytest.raises(ValueError, match=r"The backbone is the class Linear; expected a name, or an instance of"):
        create(nn.Linear, image_size=32)  # type: ignore[arg-type]


def test_without_a_network_nothing_is_tried_for_long_and_only_we_speak(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def unknown(*args: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setattr("urllib.request.getproxies", dict)
    with pytest.raises(FileNotFoundError, match=r"could not be fetched from https://huggingface\.co/timm/test_resnet"):
        create("test_resnet", image_size=160, weights=True)
    assert capfd.readouterr().err == ""
    assert not constants.HF_HUB_OFFLINE

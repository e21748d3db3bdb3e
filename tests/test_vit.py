"""Vision transformers: attention, positions at any size, hidden patches."""

import functools
import math

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.networks import vit
from support.reference import off
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import ParallelScalingBlock, VisionTransformer
from torch import nn

from lookalike import backbones
from lookalike.backbones import Backbone, create


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
                           block_fn=ParallelScalingBlock), "has 0 timm Attention layers"),
    ],
    ids=["CNN", "no class token", "parallel block"],
)  # fmt: skip
def test_attention_that_cannot_be_shown(network: str | nn.Module, why: str) -> None:
    made = create(network, image_size=64)
    with pytest.raises(ValueError, match=f"{why}.*Choose a plain ViT"):
        made.attention(torch.zeros(1, 3, 64, 64))


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
        with pytest.raises(ValueError, match="does not support masks"):
            create(name, image_size=64, mask_token=True)
        with pytest.raises(ValueError, match="does not support masks"):
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

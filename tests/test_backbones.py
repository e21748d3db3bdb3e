"""Backbones over families, sizes and channels."""

import copy
import math

import pytest
import timm
import torch
from torch import nn

from lookalike.backbones import create

pytestmark = pytest.mark.long(14)

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
        ValueError, match=rf"{name}.* does not accept .*{size} x {size} pixels.* works?:?( is)? ({works})\."
    ):
        create(name, image_size=size)


def test_the_size_named_in_the_message_works() -> None:
    with pytest.raises(ValueError, match="nearest size that works is 32") as caught:
        create("vgg11", image_size=8)
    assert caught.value.__cause__ is not None
    create("vgg11", image_size=32)
    with pytest.raises(
        ValueError, match=r"<torch\.nn.modules.conv.Conv2d> does not accept images of 8 x 8 .*works is 16"
    ):
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

"""The networks of timm and torchvision: what is random in them, their names, and weights that are fetched."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from support import tiny
from torch import nn
from torch.nn.modules.dropout import _DropoutNd
from torchvision.ops import StochasticDepth

from lookalike import backbones, encoders
from lookalike.backbones import create, factory, library
from lookalike.layers import Teacher
from lookalike.places import HUB

pytestmark = pytest.mark.long(15)


def test_drop_path() -> None:
    rates = [
        b.drop_path1.drop_prob for b in create("vit_tiny_patch16_224", image_size=32, drop_path=0.3).net.blocks[1:]
    ]
    assert rates == pytest.approx([0.3 * i / 11 for i in range(1, 12)])
    for name in ("densenet121", "torchvision/alexnet"):
        with pytest.raises(ValueError, match="does not support drop path"):
            create(name, image_size=64, drop_path=0.1)
    with pytest.raises(ValueError, match=r"drop_path is 1\.0; expected a probability in \[0, 1\)"):
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
    with pytest.raises(FileNotFoundError, match=r"resnet18 could not be downloaded from .*timm/resnet18.a1_in1k.*copy"):
        create("resnet18", weights=True)
    with pytest.raises(FileNotFoundError, match=r"alexnet could not be downloaded from .*/alexnet-owt.*copy"):
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

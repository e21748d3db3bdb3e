"""Modules of the users' own as encoders."""

import argparse
import copy
import socket
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from torch import Tensor, nn

from lookalike.backbones import Backbone, base, create, wrappers

pytestmark = pytest.mark.long(16)


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
    expected = rf"Returns> returns {what} for 2 images; expected one float tensor, \(2, D\), or \(2, D, H, W\)"
    with pytest.raises(ValueError, match=expected):
        create(Returns(make), image_size=16)


def test_a_module_without_parameters_gives_features_but_cannot_learn() -> None:
    made = create(nn.AdaptiveAvgPool2d(2), image_size=16)
    x = torch.randn(3, 3, 16, 16)
    assert made(x).shape == (3, 3)
    with pytest.raises(ValueError, match=r"AdaptiveAvgPool2d> has no parameters\. Give a module with trainable layers"):
        made.check_trainable()
    frozen = create(nn.Conv2d(3, 4, 3).requires_grad_(False), image_size=16)
    with pytest.raises(ValueError, match=r"only frozen parameters \(requires_grad is False\)"):
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
        (lambda y: y[:, :0], r"returns a tensor \(2, 0\) for 2 images; expected one float tensor"),
        (lambda y: {}, r"returns a dict of nothing for 2 images"),
        (lambda y: {}["x"], r"does not accept images of 32 x 32 pixels \(KeyError: 'x'\)"),
    ):
        with pytest.raises(ValueError, match=words):
            create(Own(change), image_size=32)
    create(Own(lambda y: y), image_size=32).check_trainable()
    made = create(Own(lambda y: y.detach()), image_size=32)  # an encoder may
    with pytest.raises(ValueError, match=r"returns features without gradients"):
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
    with pytest.raises(
        FileNotFoundError, match=r"could not be downloaded from https://huggingface\.co/timm/test_resnet"
    ):
        create("test_resnet", image_size=160, weights=True)
    assert capfd.readouterr().err == ""
    assert not constants.HF_HUB_OFFLINE

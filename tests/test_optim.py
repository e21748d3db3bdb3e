"""Optimizers against slow transcriptions, and who gets which learning rate and decay."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from lookalike import optimizers
from lookalike.core import Progress
from lookalike.optim import Group, Optim
from lookalike.optimizers import LARS, Rates, Rule
from lookalike.schedules import Schedule


class Toy(nn.Module):
    """As much of a method as `optimizers.build` asks for."""

    def __init__(self, net: nn.Module, groups: Callable[["Toy"], list[Group]] = lambda toy: []) -> None:
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.net = net
        self.backbone.mask_token = nn.Parameter(torch.zeros(1, 1, 4))
        self.head = nn.Linear(4, 3)
        self.teacher = nn.Linear(4, 3).requires_grad_(False)
        self._groups = groups

    def groups(self) -> list[Group]:
        return self._groups(self)


def toy(groups: Callable[[Toy], list[Group]] = lambda toy: []) -> Toy:
    return Toy(nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)), groups)


def build(method: nn.Module, cfg: Optim, batch_size: int = 256, fused: bool = False) -> Rates:
    return optimizers.build(method, cfg, batch_size, fused=fused)  # type: ignore[arg-type]


def settings_of(method: nn.Module, rates: Rates) -> dict[str, dict[str, Any]]:
    """By parameter: the settings of its torch group. Fails if one is in two groups."""
    names = {p: name for name, p in method.named_parameters()}
    pairs = [(names[p], group) for group in rates.optimizer.param_groups for p in group["params"]]
    assert len(pairs) == len(dict(pairs))
    return dict(pairs)


# who gets what


def test_every_parameter_once_and_one_axis_parameters_without_decay() -> None:
    method = toy()
    rates = build(method, Optim("lars", 0.5, weight_decay=Schedule(0.1, 0.3, "linear")), batch_size=512)
    rates.apply(Progress(2, 3, 3))
    found = settings_of(method, rates)
    assert set(found) == {name for name, p in method.named_parameters() if p.requires_grad}
    for name, p in method.named_parameters():
        if p.requires_grad:
            assert found[name]["weight_decay"] == (0.0 if p.ndim == 1 else pytest.approx(0.3)), name
            assert found[name]["adapt"] is (p.ndim > 1), name
    everything = settings_of(method, build(method, Optim("larc", 0.5, weight_decay=Schedule(0.1), exclude=False)))
    assert all(group["adapt"] for group in everything.values())


@pytest.mark.parametrize(
    ("scaling", "base_batch", "factor"),
    [("linear", 256, 4.0), ("sqrt", 256, 2.0), ("none", 256, 1.0), ("sqrt", 1024, 1.0)],
)
def test_learning_rate_grows_with_the_batch(scaling: Any, base_batch: int, factor: float) -> None:
    cfg = Optim("sgd", 0.2, scaling=scaling, base_batch=base_batch, lr_bias=0.03, final_lr=1e-3, final_factor=0.1)
    method = toy()
    rates = build(method, cfg, batch_size=1024)
    assert rates.lr == rates.peak == pytest.approx(0.2 * factor)
    rates.apply(Progress(0, 10, 5))
    found = settings_of(method, rates)
    assert rates.lr == found["head.weight"]["lr"] == pytest.approx(0.2 * factor)
    assert found["head.bias"]["lr"] == pytest.approx(0.03 * factor)
    rates.apply(Progress(9, 10, 5))
    assert rates.lr == settings_of(method, rates)["head.weight"]["lr"] == pytest.approx(1e-3 + 0.02 * factor)
    assert rates.peak == pytest.approx(0.2 * factor)


def test_warmup_leaves_from_a_rate_that_is_not_scaled() -> None:
    rates = build(toy(), Optim("sgd", 0.2, warmup_epochs=2, warmup_lr=0.1, grid="open"), batch_size=512)
    rates.apply(Progress(0, 10, 2))
    assert rates.lr == 0.1
    rates.apply(Progress(4, 10, 2))
    assert rates.lr == 0.4


def test_groups_have_their_own_schedule_and_scales() -> None:
    groups = lambda m: [  # noqa: E731
        Group([m.head.weight], lr=Schedule(0.01)),
        Group([m.head.bias], lr_scale=0.5, weight_decay_scale=3),
        Group(m.backbone.net[0].parameters(), lr_scale=0.5, weight_decay_scale=2),
        Group(m.teacher.parameters()),
    ]
    method = toy(groups)
    rates = build(method, Optim("sgd", 0.2, weight_decay=Schedule(0.1)), batch_size=512)
    rates.apply(Progress(9, 10, 5))
    assert settings_of(method, rates)["head.weight"]["lr"] == 0.02
    rates.apply(Progress(0, 10, 5))
    found = {name: (g["lr"], g["weight_decay"]) for name, g in settings_of(method, rates).items()}
    assert found == {
        "backbone.mask_token": (0.4, 0.1),
        "backbone.net.0.weight": (0.2, 0.2),
        "backbone.net.0.bias": (0.2, 0.0),
        "backbone.net.1.weight": (0.4, 0.0),
        "backbone.net.1.bias": (0.4, 0.0),
        "head.weight": (0.02, 0.1),
        "head.bias": (0.2, 0.0),
    }


def test_wrong_groups_are_refused() -> None:
    with pytest.raises(ValueError, match=r"head\.weight is in Toy\.groups\(\) twice"):
        build(toy(lambda m: [Group([m.head.weight]), Group(m.head.parameters())]), Optim("sgd", 0.1))
    with pytest.raises(ValueError, match=r"shape \(7,\) that is not one of the method"):
        build(toy(lambda m: [Group([nn.Parameter(torch.zeros(7))])]), Optim("sgd", 0.1))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"lr": -1.0}, "lr=-1.0"),
        ({"layer_decay": 0.0}, "layer_decay=0.0"),
        ({"clip": 0.0}, "clip=0.0"),
        ({"shape": "constant", "final_lr": 0.1}, "constant"),
        ({"base_batch": 0}, "base_batch=0"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Optim(**{"name": "sgd", "lr": 0.1} | settings)


def test_layer_decay_of_a_vision_transformer() -> None:
    """DINOv2's rule: class token, positions and patches are layer 0, block i is i + 1, all else one above the last."""
    net = timm.create_model(
        "vit_tiny_patch16_224", num_classes=0, depth=3, embed_dim=8, num_heads=2, img_size=32, reg_tokens=2
    )
    method = Toy(net)
    rates = build(method, Optim("adamw", 1.0, layer_decay=0.5, shape="constant"))
    rates.apply(Progress(0, 1, 1))
    found = {name: group["lr"] for name, group in settings_of(method, rates).items()}
    assert len({name for name in found if "blocks" in name}) == 36
    for name, lr in found.items():
        inner = name.removeprefix("backbone.net.")
        if name.startswith("head."):
            power = 0
        elif inner.startswith("blocks."):
            power = 3 - int(inner.split(".")[1])
        else:
            power = 0 if inner.startswith(("norm.", "reg_token")) else 4  # `param_groups.py` names no register tokens
        assert lr == 0.5**power, name


@pytest.mark.parametrize(
    ("name", "last", "after"),
    [
        ("beit_base_patch16_224", "blocks.11.mlp.fc2.weight", "fc_norm.weight"),
        ("convnext_atto", "stages.3.blocks.1.mlp.fc2.weight", "head.norm.weight"),
        ("densenet121", "features.denseblock4.denselayer16.conv2.weight", "features.norm5.weight"),
        ("resnet18", "layer4.1.conv2.weight", None),
        ("cait_xxs24_224", "blocks_token_only.1.mlp.fc2.weight", None),
    ],
)
def test_layer_decay_counts_from_the_last_block(name: str, last: str, after: str | None) -> None:
    with torch.device("meta"):
        method = Toy(timm.create_model(name, num_classes=0))
    rates = build(method, Optim("adamw", 1.0, layer_decay=0.5, shape="constant"))
    rates.apply(Progress(0, 1, 1))
    found = {key: group["lr"] for key, group in settings_of(method, rates).items()}
    assert found[f"backbone.net.{last}"] == 0.5
    assert after is None or found[f"backbone.net.{after}"] == 1
    assert found["head.weight"] == 1


def test_layer_decay_without_timms_layers() -> None:
    """A network that timm does not know is split in order, through containers that hold most of it."""
    blocks = nn.Sequential(*(nn.Linear(4, 4) for _ in range(3)))
    method = Toy(nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Identity(), blocks)))
    rates = build(method, Optim("sgd", 1.0, layer_decay=0.5, shape="constant"))
    rates.apply(Progress(0, 1, 1))
    found = {name: group["lr"] for name, group in settings_of(method, rates).items()}
    weights = ["0.weight", "1.1.0.weight", "1.1.1.weight", "1.1.2.weight"]
    assert [found[f"backbone.net.{w}"] for w in weights] == [0.0625, 0.125, 0.25, 0.5]
    assert found["head.weight"] == 1
    assert found["backbone.mask_token"] == 0.0625


# the optimizers


def parameters(seed: int) -> list[nn.Parameter]:
    """Plain weights, a bias, a weight that is zero, one whose gradients will be."""
    g = torch.Generator().manual_seed(seed)
    shapes = [(5, 3), (4, 2, 3, 3), (7,), (2, 2), (3, 4)]
    made = [nn.Parameter(torch.randn(shape, dtype=torch.float64, generator=g)) for shape in shapes]
    with torch.no_grad():
        made[3].zero_()
    return made


def gradients(params: list[nn.Parameter], step: int) -> list[Tensor]:
    g = torch.Generator().manual_seed(100 + step)
    made = [torch.randn(p.shape, dtype=torch.float64, generator=g) for p in params]
    made[4].zero_()
    return made


def slow_lars_simclr(w: Tensor, g: Tensor, v: Tensor, lr: float, wd: float, momentum: float, nesterov: bool) -> Tensor:
    """google-research/simclr lars_optimizer.py with classic momentum; changes v, returns the new weights."""
    ratio = 1.0
    if w.ndim > 1:
        g = g + wd * w
        if w.norm() > 0 and g.norm() > 0:
            ratio = 0.001 * float(w.norm()) / float(g.norm())
    v.copy_(momentum * v + lr * ratio * g)
    return w - (momentum * v + lr * ratio * g if nesterov else v)


def slow_larc(w: Tensor, g: Tensor, v: Tensor, lr: float, wd: float, momentum: float, nesterov: bool) -> Tensor:
    """Apex LARC with clip=False around SGD, with SGD's own momentum."""
    if w.ndim > 1 and w.norm() > 0 and g.norm() > 0:
        g = (g + wd * w) * (0.001 * w.norm() / (g.norm() + wd * w.norm() + 1e-8))
    v.copy_(momentum * v + g)
    return w - lr * (g + momentum * v if nesterov else v)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize(("name", "slow"), [("lars_simclr", slow_lars_simclr), ("larc", slow_larc)])
def test_lars_against_slow_transcriptions(name: str, slow: Callable[..., Tensor], nesterov: bool) -> None:
    """ "lars" itself is compared with the official numbers in test_reference.py."""
    method = nn.ParameterList(parameters(0))
    method.groups = list  # type: ignore[assignment]
    method.backbone = None  # type: ignore[assignment]
    rates = build(method, Optim(name, 0.9, weight_decay=Schedule(0.04), momentum=0.8, nesterov=nesterov))
    assert isinstance(rates.optimizer, LARS)
    weights = [p.detach().clone() for p in method]
    velocities = [torch.zeros_like(w) for w in weights]
    for step in range(4):
        at = Progress(step, 5, 5)
        grads = gradients(list(method), step)
        for p, g in zip(method, grads, strict=True):
            p.grad = g.clone()
        rates.apply(at)
        rates.optimizer.step()
        weights = [
            slow(w, g, v, rates.lr, 0.04, 0.8, nesterov) for w, g, v in zip(weights, grads, velocities, strict=True)
        ]
    for p, w in zip(method, weights, strict=True):
        torch.testing.assert_close(p.detach(), w, rtol=1e-12, atol=1e-14)


def test_lars_runs_the_closure_and_passes_over_missing_gradients() -> None:
    p, q = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    optimizer = LARS([p, q], "lars", lr=1.0, momentum=0.9, nesterov=False, trust=0.001)

    def closure() -> float:
        loss = p.square().sum()
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) == 4.0
    assert not torch.equal(p, torch.ones(2, 2))
    assert torch.equal(q, torch.ones(2, 2))
    p.grad = None
    before = p.detach().clone()
    optimizer.step()
    assert torch.equal(p, before)


@pytest.mark.parametrize("rule", ["lars", "lars_simclr", "larc"])
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_a_copied_lars_goes_on_alike(rule: Rule, duplicate: Callable[[Any], Any]) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(3, 2)
    pair = layer, LARS(layer.parameters(), rule, lr=0.5, momentum=0.8, nesterov=True, trust=0.01)

    def step(layer: nn.Linear, optimizer: LARS) -> None:
        layer.zero_grad()
        layer(torch.eye(3)).square().mean().backward()
        optimizer.step()

    step(*pair)
    other = duplicate(pair)
    for _ in range(2):
        step(*pair)
        step(*other)
    assert all(torch.equal(p, q) for p, q in zip(layer.parameters(), other[0].parameters(), strict=True))
    assert other[0].weight is not layer.weight


@pytest.mark.parametrize("fused", [False, True])
def test_sgd_takes_gradients_that_come_late(fused: bool) -> None:
    """As of DINO's last layer, which is frozen at first: torch's fused SGD alone fails on it."""
    method = toy()
    own, head = copy.deepcopy(method.head.weight.data), method.head.weight
    rates = build(method, Optim("sgd", 0.1, momentum=0.9), fused=fused)
    moved = torch.zeros_like(own)
    for i in range(4):
        method.zero_grad()
        method.head(method.backbone.net(torch.full((2, 4), i + 1.0))).square().mean().backward()
        if i < 2:
            head.grad = None
        else:
            assert head.grad is not None
            moved = head.grad.clone() if i == 2 else 0.9 * moved + head.grad
            own -= rates.optimizer.param_groups[0]["lr"] * moved
        rates.optimizer.step()
    assert torch.allclose(head, own, rtol=1e-6)


@pytest.mark.parametrize("name", ["lars", "lars_simclr", "larc", "adamw", "sgd", "lamb"])
def test_state_loads_without_pickled_code_and_goes_on_alike(name: str, tmp_path: Any) -> None:
    method = toy()
    other = copy.deepcopy(method)
    cfg = Optim(name, 0.1, weight_decay=Schedule(0.1), warmup_epochs=1)

    def step(m: Toy, rates: Rates, i: int) -> None:
        torch.manual_seed(i)
        m.zero_grad()
        m.head(m.backbone.net(torch.randn(8, 4)) + m.backbone.mask_token[0]).square().mean().backward()
        rates.apply(Progress(i, 6, 3))
        rates.optimizer.step()

    rates = build(method, cfg)
    for i in range(3):
        step(method, rates, i)
    torch.save({"optimizer": rates.optimizer.state_dict(), "method": method.state_dict()}, tmp_path / "last.ckpt")
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    resumed = build(other, cfg)
    other.load_state_dict(saved["method"])
    resumed.optimizer.load_state_dict(saved["optimizer"])
    for i in range(3, 6):
        step(method, rates, i)
        step(other, resumed, i)
    assert all(torch.equal(p, q) for p, q in zip(method.parameters(), other.parameters(), strict=True))
    assert rates.lr == resumed.lr


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("adamw", lambda params: torch.optim.AdamW(params, 0.01, betas=(0.8, 0.95), weight_decay=0.1)),
        ("adam", lambda params: torch.optim.Adam(params, 0.01, betas=(0.8, 0.95), weight_decay=0.1)),
        ("sgd", lambda params: torch.optim.SGD(params, 0.01, momentum=0.7, weight_decay=0.1, nesterov=True)),
    ],
)
@pytest.mark.parametrize("fused", [False, True])
def test_torch_optimizers(name: str, reference: Callable[..., torch.optim.Optimizer], fused: bool) -> None:
    method = toy()
    plain = copy.deepcopy(method)
    cfg = Optim(
        name,
        0.01,
        weight_decay=Schedule(0.1),
        momentum=0.7,
        nesterov=True,
        betas=(0.8, 0.95),
        shape="constant",
        exclude=False,
    )
    rates = build(method, cfg, fused=fused)
    assert bool(rates.optimizer.param_groups[0]["fused"]) is fused
    expected = reference(p for p in plain.parameters() if p.requires_grad)
    for step in range(3):
        rates.apply(Progress(step, 3, 3))
        for m, optimizer in [(method, rates.optimizer), (plain, expected)]:
            torch.manual_seed(step)
            m.zero_grad()
            m.head(m.backbone.net(torch.randn(8, 4)) + m.backbone.mask_token[0]).square().mean().backward()
            optimizer.step()
    for p, q in zip(method.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["lamb", "lion", "adan", "adafactor", "nadamw"])
def test_other_names_are_timms(name: str) -> None:
    method = toy()
    rates = build(method, Optim(name, 0.01, betas=(0.8, 0.95)))
    assert type(rates.optimizer).__module__.startswith("timm.")
    rates.apply(Progress(0, 3, 3))
    method.head(torch.ones(2, 4)).sum().backward()
    before = method.head.weight.detach().clone()
    rates.optimizer.step()
    assert not torch.equal(before, method.head.weight)


def test_unknown_name_shows_near_ones() -> None:
    with pytest.raises(ValueError, match=r"no optimizer 'admaw'.*adamw"):
        build(toy(), Optim("admaw", 0.1))
    with pytest.raises(ValueError, match=r"lars_simclr"):
        build(toy(), Optim("lars-simclr", 0.1))


# clipping


def slow_clip(sets: list[list[Tensor]], limit: float) -> list[list[Tensor]]:
    clipped = []
    for grads in sets:
        norm = sum(float((g**2).sum()) for g in grads) ** 0.5
        clipped.append([g * min(1.0, limit / (norm + 1e-6)) for g in grads])
    return clipped


@pytest.mark.parametrize("mode", ["global", "parameter", "module"])
def test_clip_against_slow_loops(mode: Any) -> None:
    method = toy().double()
    method.scale = nn.Parameter(torch.ones((), dtype=torch.float64))  # a parameter of the method itself
    torch.manual_seed(0)
    for i, p in enumerate(p for p in method.parameters() if p.requires_grad):
        p.grad = torch.randn_like(p) * 4.0 ** -(i % 4)
    parts = {
        "global": [list(method.parameters())],
        "parameter": [[p] for p in method.parameters()],
        "module": [*(list(child.parameters()) for child in method.children()), [method.scale]],
    }[mode]
    with_grad = [[p for p in part if p.grad is not None] for part in parts]
    expected = slow_clip([[p.grad.clone() for p in part] for part in with_grad], 0.5)
    changed = [not torch.equal(p.grad, g) for part, e in zip(with_grad, expected) for p, g in zip(part, e)]
    assert any(changed)
    optimizers.clip(method, Optim("sgd", 0.1, clip=0.5, clip_mode=mode))
    for part, grads in zip(with_grad, expected, strict=True):
        for p, g in zip(part, grads, strict=True):
            torch.testing.assert_close(p.grad, g, rtol=1e-12, atol=1e-15)


def test_no_clip_and_no_gradients_change_nothing() -> None:
    method = toy()
    for mode in ("global", "parameter", "module"):
        optimizers.clip(method, Optim("sgd", 0.1, clip=0.5, clip_mode=mode))
    method.head.weight.grad = torch.full_like(method.head.weight, 9.0)
    optimizers.clip(method, Optim("sgd", 0.1))
    assert (method.head.weight.grad == 9).all()

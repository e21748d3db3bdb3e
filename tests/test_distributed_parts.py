"""`gather`, `mean`, `agree` and SyncBatchNorm: two gloo processes against one with the joined batch, in float64."""

from collections.abc import Callable

import pytest
import timm
import torch
from support.gloo import WORLD, of_each_process
from support.outputs import detached
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from lookalike import backbones, distributed
from lookalike.core import Batch, Progress
from lookalike.distributed import SyncBatchNorm, convert
from lookalike.kmeans import spherical_kmeans
from lookalike.losses import unit
from lookalike.methods.dinov2 import DINOv2
from lookalike.methods.ibot import IBOT
from lookalike.methods.moco_v2 import MoCoV2
from lookalike.sinkhorn import sinkhorn
from lookalike.views import View

pytestmark = pytest.mark.long(21)


def batch(*shape: int) -> Tensor:
    """The joined batch (world * B, ...), the same wherever it is drawn."""
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


def norms() -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    torch.manual_seed(0)
    scale_only = nn.BatchNorm1d(3)
    scale_only.register_parameter("bias", None)
    made: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
        "1d": (nn.BatchNorm1d(3), (8, 3)),
        "sequence": (nn.BatchNorm1d(3), (8, 3, 5)),
        "2d": (nn.BatchNorm2d(3), (8, 3, 4, 5)),
        "cumulative": (nn.BatchNorm2d(3, momentum=None), (8, 3, 2, 2)),
        "plain": (nn.BatchNorm1d(3, affine=False), (8, 3)),
        "scale only": (scale_only, (8, 3)),
        "untracked": (nn.BatchNorm1d(3, track_running_stats=False), (8, 3)),
        "with activation": (BatchNormAct2d(3, act_layer="silu", drop_layer=nn.Identity), (8, 3, 4, 4)),
        "network": (
            nn.Sequential(nn.Conv2d(3, 4, 3), BatchNormAct2d(4), nn.Flatten(), nn.Linear(16, 6), nn.BatchNorm1d(6)),
            (8, 3, 4, 4),
        ),
    }
    for module, _ in made.values():
        for p in module.parameters():
            nn.init.uniform_(p, -1.5, 1.5)
    return {name: (module.double(), shape) for name, (module, shape) in made.items()}


def loss_of(out: Tensor, part: slice) -> Tensor:
    """A loss of the rows `part` of the joined batch that weighs every number differently."""
    weights = batch(8, *out.shape[1:])
    return (out.sin() * weights[part]).sum() / len(out)


def run_norm(module: nn.Module, shape: tuple[int, ...], part: slice) -> dict[str, Tensor]:
    """Two training steps' worth of statistics, the second's gradients, and a pass in eval mode."""
    with torch.no_grad():
        module(batch(*shape)[part] * 2 + 1)
    x = batch(*shape)[part].clone().requires_grad_()
    out = module(x)
    loss_of(out, part).backward()
    assert x.grad is not None
    result = {"out": out.detach(), "grad of the input": x.grad}
    result |= {f"grad {name}": p.grad for name, p in module.named_parameters() if p.grad is not None}
    if module.state_dict().keys() >= {"running_mean"} or isinstance(module, nn.Sequential):
        result["eval"] = module.eval()(batch(*shape)[part]).detach()
    return result | {f"buffer {name}": b.clone() for name, b in module.named_buffers()}


def gathered_loss(join: Callable[[Tensor], Tensor], x: Tensor, part: slice) -> Tensor:
    """Couples all rows, and differs between the processes, as a contrastive loss with local anchors does."""
    every = join(x)  # (world * B, D)
    return ((x @ every.T) * batch(8, 8)[part]).exp().mean()


class Seeing(nn.Module):
    """Keeps what it was given, and returns each image's first number, as BatchNorm would not: by itself."""

    def forward(self, x: Tensor) -> Tensor:
        self.seen = x
        return x.flatten(1)[:, :2]


def shuffled_keys(part: slice) -> dict[str, Tensor]:
    """What MoCo v2's momentum encoder sees on this process at three steps, and the keys that come back."""
    torch.manual_seed(0)
    cfg = MoCoV2.Config(hidden_dim=4, out_dim=2, queue=8)
    method = MoCoV2(cfg, backbones.create("test_resnet", image_size=32))
    method.momentum_encoder = Seeing()
    found = {}
    for step in range(3):
        found[f"keys {step}"] = method._keys_of(batch(8, 3, 4, 4)[part], Progress(step, 3, 3, seed=6))
        found[f"seen {step}"] = method.momentum_encoder.seen
    return found


DISTILLED: dict[str, tuple[type[IBOT] | type[DINOv2], dict[str, object]]] = {
    "ibot": (IBOT, {}),
    "ibot, blocks of single patches": (IBOT, {"blocks": False, "shared_head": False}),
    "ibot, BatchNorm in the head": (IBOT, {"norm": True}),
    "dinov2": (DINOv2, {"separate_heads": True}),
    "dinov2, sinkhorn": (DINOv2, {"centering": "sinkhorn"}),
    "dinov2, one image with hidden patches": (DINOv2, {"mask_probability": 0.1, "mask_ratios": (0.5, 0.5)}),
}
"""Methods with patches to hide, and settings."""


def distilled(name: str, part: slice) -> dict[str, Tensor]:
    """The losses of three steps of plain SGD on the rows `part` of the joined batch, and the state after them."""
    cls, changes = DISTILLED[name]
    torch.manual_seed(0)
    views = (View(size=64, count=2), View(size=32))
    cfg = cls.Config(hidden_dim=8, bottleneck_dim=8, prototypes=6, drop_path=0.0, views=views, **changes)
    method = cls(cfg, backbones.create("test_vit", image_size=64, mask_token=True)).double().train()
    if distributed.world() > 1:
        distributed.convert(method)
    found = {}
    for step in range(3):
        at = Progress(step, 30, 10, seed=5)
        seen = [batch(8, 3, s, s)[part] * factor for s, factor in ((64, 1.0), (64, -0.5), (32, 1.0))]
        outputs = method(Batch(seen, torch.arange(8)[part], at))
        loss = outputs["loss"]
        loss.backward()
        learnt = [p for p in method.parameters() if p.grad is not None]
        gradients = [p.grad for p in learnt if p.grad is not None]
        distributed.average(gradients)
        with torch.no_grad():
            torch._foreach_add_(learnt, gradients, alpha=-0.1)
        method.zero_grad()
        method.after_step(at, [detached(outputs)])
        found[f"loss {step}"] = distributed.mean(loss.detach())
    return found | {f"state {key}": value for key, value in method.state_dict().items()}


def process(rank: int) -> dict[str, dict[str, Tensor]]:
    part = slice(rank * 4, rank * 4 + 4)
    assert (distributed.rank(), distributed.world()) == (rank, WORLD)

    found: dict[str, dict[str, Tensor]] = {}
    for name, (module, shape) in norms().items():
        found[f"norm {name}"] = run_norm(convert(module), shape, part)

    x = batch(8, 5)[part].clone().requires_grad_()
    joined = distributed.gather(x)
    gathered_loss(distributed.gather, x, part).backward()
    assert x.grad is not None
    found["gather"] = {"joined": joined.detach(), "grad": x.grad}

    y = batch(8, 5)[part].clone().requires_grad_()
    (distributed.mean(y.mean(0)).exp() * (rank + 1)).sum().backward()
    assert y.grad is not None
    found["mean"] = {"mean": distributed.mean(y.detach().mean(0)), "grad": y.grad}

    strided = distributed.gather(batch(5, 8).T[part])
    counted = distributed.gather(torch.full((1,), rank))
    found["plain"] = {"strided": strided, "ranks": counted}
    found["agree"] = {
        "flags": torch.tensor(distributed.agree(rank == 1, False, rank == 0)),
        "first": torch.tensor(distributed.of_first(1 / 3 + rank, float(rank)), dtype=torch.float64),
    }
    parts = [torch.full((2, 3), float(rank)), torch.tensor([rank]), torch.full((4,), 10.0 * rank)]
    distributed.average(parts)
    found["average"] = dict(zip("abc", parts))
    found["shuffle"] = shuffled_keys(part)
    uneven = slice(0, 3) if rank == 0 else slice(3, 8)
    found["sinkhorn"] = {"q": sinkhorn(batch(8, 5)[uneven].tanh(), 0.1, 3)}
    centroids, groups = spherical_kmeans(unit(batch(9, 3)), unit(batch(9, 3))[:4], 5)
    found["k-means"] = {"centroids": centroids, "groups": groups}
    for name in DISTILLED:
        found[name] = distilled(name, part)
    return found


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Tensor]]]:
    """What each of two processes found; started once for all tests."""
    return of_each_process(process, tmp_path_factory.mktemp("two"))


def assert_same(found: Tensor, expected: Tensor, what: str, floor: float = 1e-15) -> None:
    assert found.shape == expected.shape, what
    error = (found - expected).abs().max()
    assert error <= 1e-9 * expected.abs().max() + floor, f"{what}: off by {error:.1e}"


@pytest.mark.parametrize("name", norms())
def test_sync_batch_norm_is_batch_norm_of_the_joined_batch(name: str, two: list[dict[str, dict[str, Tensor]]]) -> None:
    module, shape = norms()[name]
    expected = run_norm(module, shape, slice(0, 8))
    found = [process[f"norm {name}"] for process in two]
    assert found[0].keys() == found[1].keys() == expected.keys()
    for key, wanted in expected.items():
        a, b = found[0][key], found[1][key]
        if key.startswith("buffer"):
            assert torch.equal(a, b), f"{key} differs between the processes"
            assert_same(a, wanted, key)
        elif key.startswith("grad "):
            # each process's loss is a mean over half the rows, and DistributedDataParallel averages
            joined = torch.cat([a, b]) / WORLD if key == "grad of the input" else (a + b) / WORLD
            assert_same(joined, wanted, key)
        else:
            assert_same(torch.cat([a, b]), wanted, key)


def test_gather_joins_in_order_and_sums_gradients(two: list[dict[str, dict[str, Tensor]]]) -> None:
    x = batch(8, 5).requires_grad_()
    halves = [gathered_loss(lambda _: x, x[part], part) for part in (slice(0, 4), slice(4, 8))]
    (sum(halves[1:], halves[0]) / WORLD).backward()
    assert x.grad is not None
    for process in two:
        assert torch.equal(process["gather"]["joined"], batch(8, 5))
        assert torch.equal(process["plain"]["strided"], batch(5, 8).T)
        assert process["plain"]["ranks"].tolist() == [0, 1]
    assert_same(torch.cat([process["gather"]["grad"] for process in two]) / WORLD, x.grad, "gradient")


def test_mean_has_gradients(two: list[dict[str, dict[str, Tensor]]]) -> None:
    y = batch(8, 5).requires_grad_()
    mean = y.mean(0)
    ((mean.exp().sum() * 1 + mean.exp().sum() * 2) / WORLD).backward()
    assert y.grad is not None
    for process in two:
        assert_same(process["mean"]["mean"], mean.detach(), "mean")
    assert_same(torch.cat([process["mean"]["grad"] for process in two]) / WORLD, y.grad, "gradient")


def test_moco_v2_computes_keys_among_other_images_than_queries(two: list[dict[str, dict[str, Tensor]]]) -> None:
    images = batch(8, 3, 4, 4)
    orders = []
    for step in range(3):
        keys, seen = (torch.cat([p["shuffle"][f"{what} {step}"] for p in two]) for what in ("keys", "seen"))
        assert torch.equal(keys, images.flatten(1)[:, :2])  # each query gets its own key back
        order = [int((images == image).flatten(1).all(1).nonzero()) for image in seen]
        assert sorted(order) == list(range(8))  # each image is seen once
        assert set(order[:4]) != {0, 1, 2, 3}  # not by the process that it came from
        orders.append(tuple(order))
    assert len(set(orders)) == 3  # at each step in another order


def test_sinkhorn_shares_out_the_samples_of_all_processes(two: list[dict[str, dict[str, Tensor]]]) -> None:
    """Three on the one, five on the other."""
    assert_same(torch.cat([p["sinkhorn"]["q"] for p in two]), sinkhorn(batch(8, 5).tanh(), 0.1, 3), "shares")


def test_kmeans_groups_the_rows_together(two: list[dict[str, dict[str, Tensor]]]) -> None:
    centroids, groups = spherical_kmeans(unit(batch(9, 3)), unit(batch(9, 3))[:4], 5)
    assert len(groups.unique()) == 4
    for process in two:
        assert_same(process["k-means"]["centroids"], centroids, "centroids")
        assert torch.equal(process["k-means"]["centroids"], two[0]["k-means"]["centroids"])
        assert torch.equal(process["k-means"]["groups"], groups)


@pytest.mark.parametrize("name", DISTILLED)
def test_self_distillation_is_that_of_the_joined_batch(name: str, two: list[dict[str, dict[str, Tensor]]]) -> None:
    expected = distilled(name, slice(0, 8))
    for key, wanted in expected.items():
        for process in two:
            # what comes before BatchNorm has parts without a gradient, which hold rounding alone
            assert_same(process[name][key], wanted, key, 1e-13 if "BatchNorm" in name else 1e-15)
            assert torch.equal(process[name][key], two[0][name][key]), f"{key} differs between the processes"


def test_average_leaves_whole_numbers(two: list[dict[str, dict[str, Tensor]]]) -> None:
    for rank, process in enumerate(two):
        a, b, c = process["average"].values()
        assert torch.equal(a, torch.full((2, 3), 0.5))
        assert b.tolist() == [rank]
        assert torch.equal(c, torch.full((4,), 5.0))


def test_agree_is_any(two: list[dict[str, dict[str, Tensor]]]) -> None:
    assert [p["agree"]["flags"].tolist() for p in two] == [[True, False, True]] * WORLD


def test_all_have_the_numbers_of_the_first(two: list[dict[str, dict[str, Tensor]]]) -> None:
    assert [p["agree"]["first"].tolist() for p in two] == [[1 / 3, 0.0]] * WORLD


def test_one_process_needs_no_group() -> None:
    x = torch.randn(3, 2)
    assert distributed.gather(x) is x
    assert distributed.mean(x) is x
    assert (distributed.rank(), distributed.world()) == (0, 1)
    assert distributed.agree(True, False) == [True, False]
    assert distributed.of_first(0.5, 2.0) == [0.5, 2.0]


@pytest.mark.parametrize("name", ["resnet10t", "convnext_atto", "mobilenetv3_small_050"])
def test_convert_changes_no_network(name: str) -> None:
    """timm's networks: the same parameters, buffers, names, mode and, with one process, numbers."""
    net = timm.create_model(name, num_classes=0)
    net.eval()
    x = torch.randn(2, 3, 32, 32)
    state = {key: value.data_ptr() for key, value in net.state_dict().items()}
    parameters = dict(net.named_parameters())
    with torch.no_grad():
        expected = net(x)
        assert convert(net) is net
        torch.testing.assert_close(net(x), expected, rtol=0, atol=0)
    assert {key: value.data_ptr() for key, value in net.state_dict().items()} == state
    assert all(p is parameters[key] for key, p in net.named_parameters())
    left = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert all(type(m) is SyncBatchNorm for m in left)
    assert bool(left) is (name != "convnext_atto")
    assert not any(m.training for m in net.modules())
    again = list(net.modules())
    assert list(convert(net).modules()) == again


def test_convert_replaces_a_lone_layer() -> None:
    layer = nn.BatchNorm1d(4).eval()
    sync = convert(layer)
    assert isinstance(sync, SyncBatchNorm)
    assert sync.weight is layer.weight
    assert not sync.training

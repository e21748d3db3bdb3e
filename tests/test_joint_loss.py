"""`--joint-loss`: gradients of micro-batches are those of the undivided batch, on one process and on two."""

import dataclasses
import functools
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from support.gloo import of_each_process
from support.methods import batch, small, teacher
from support.runs import assert_same_run, interrupt_after, state, tiny_config, tiny_run
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from lookalike import backbones, cli, distributed, training
from lookalike.backbones.micro_batches import in_micro_batches
from lookalike.core import Batch, Method
from lookalike.methods import METHODS, get_method
from lookalike.methods.deepcluster_v2 import DeepClusterV2
from lookalike.runs import Folder, Run, read_run
from lookalike.views import resized

pytestmark = pytest.mark.long(12)

COUPLED = [
    "simclr", "supcon", "moco_v3", "swav", "deepcluster_v2", "barlow_twins", "vicreg", "lejepa", "dinov2", "distill",
]  # fmt: skip


def config(name: str) -> Any:
    """The method's defaults for a small ViT, without random numbers of the backbone."""
    cfg: Any = small(name)
    still = {field: 0.0 for field in ("drop_path", "mixup", "cutmix") if field in vars(cfg)}
    return dataclasses.replace(cfg, views=resized(cfg.views, 32, 16), **still)


def made(name: str, backbone: str = "test_vit", **changes: Any) -> Method:
    torch.manual_seed(0)
    cfg = dataclasses.replace(config(name), **changes)
    run = Run(data="", method=cfg, backbone=backbone, image_size=32, teacher=teacher(name))
    method = training.build(run).double().train()  # type: ignore[arg-type]
    method.before_training()
    with torch.no_grad():
        method.initialize_bank(doubled(batch(method, seed=seed)) for seed in range(1, 3))
    if isinstance(method, DeepClusterV2):
        method.assignments[:, 1:3] = -100  # micro-batches have different numbers of images with a cluster
    return method


def doubled(own: Batch) -> Batch:
    return dataclasses.replace(own, views=[view.double() for view in own.views])


def rows(of: Batch, part: slice) -> Batch:
    assert of.labels is not None
    return dataclasses.replace(
        of, views=[view[part] for view in of.views], index=of.index[part], labels=of.labels[part]
    )  # fmt: skip


def gradients(method: nn.Module) -> dict[str, Tensor]:
    found = {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}
    method.zero_grad()
    return found


def undivided(method: Method) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Outputs and gradients of a batch of 8 images."""
    outputs = method(doubled(batch(method)))
    outputs["loss"].backward()
    return {name: value.detach() for name, value in outputs.items()}, gradients(method)


def deviation(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """The largest deviation, relative to the largest value of all."""
    assert found.keys() == expected.keys()
    most = max(float(value.abs().max()) for value in expected.values())
    return max(float((found[name] - value).abs().max()) for name, value in expected.items()) / most


def without_norm(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm):
            module.add_module(name, nn.Identity())
        else:
            without_norm(child)


def in_parts(method: Method, count: int) -> dict[str, Tensor]:
    """The mean gradients of micro-batches, each with a loss of its own."""
    whole = doubled(batch(method))
    size = len(whole.index) // count
    for i in range(count):
        (method(rows(whole, slice(i * size, (i + 1) * size)))["loss"] / count).backward()
    return gradients(method)


# ---------------------------------------------------------------- gradients


def test_these_are_all_methods_whose_loss_couples_images() -> None:
    assert {name for name in METHODS if config(name).needs.couples_batch} == {*COUPLED}


@pytest.mark.parametrize("name", COUPLED)
def test_gradients_are_those_of_the_undivided_batch(name: str) -> None:
    method = made(name)
    outputs, expected = undivided(method)
    with in_micro_batches(method, 4):
        found = method(doubled(batch(method)))
    found["loss"].backward()
    assert deviation({key: value.detach().double() for key, value in found.items()},
                     {key: value.double() for key, value in outputs.items()}) < 1e-12  # fmt: skip
    assert deviation(gradients(method), expected) < 1e-11
    assert deviation(in_parts(method, 4), expected) > 1e-4  # what the joint loss is for


@pytest.mark.parametrize("name", [name for name in METHODS if name not in COUPLED])
def test_the_other_methods_have_these_gradients_anyway(name: str) -> None:
    """BatchNorm aside: what is said where `--joint-loss` is refused."""
    method = made(name)
    without_norm(method)
    _, expected = undivided(method)
    assert deviation(in_parts(method, 4), expected) < 1e-11


def process(rank: int) -> dict[str, dict[str, Tensor]]:
    found = {}
    for name in COUPLED:
        method = made(name)
        distributed.convert(method)
        joined = DistributedDataParallel(method, broadcast_buffers=False, gradient_as_bucket_view=True)
        with in_micro_batches(method, 2):
            outputs = joined(rows(doubled(batch(method)), slice(rank * 4, rank * 4 + 4)))
        outputs["loss"].backward()
        found[name] = gradients(method)
    return found


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Tensor]]]:
    """Each method's gradients on two processes."""
    return of_each_process(process, tmp_path_factory.mktemp("two"))


@pytest.mark.parametrize("name", COUPLED)
def test_so_they_are_on_two_processes(name: str, two: list[dict[str, dict[str, Tensor]]]) -> None:
    _, expected = undivided(made(name))
    for found in two:
        assert deviation(found[name], expected) < 1e-11


# ---------------------------------------------------------------- the backbone


class Dropping(nn.Module):
    """A network whose result is random."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.Dropout(), nn.Tanh(), nn.Linear(6, 5))

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.layers(x)
        return features


def test_the_second_run_draws_the_numbers_of_the_first() -> None:
    backbone = backbones.create(Dropping(), image_size=2).train()
    x = torch.randn(6, 3, 2, 2)

    def grad(joined: Tensor) -> dict[str, Tensor]:
        (joined * torch.arange(30.0).view(6, 5)).sum().backward()
        return gradients(backbone)

    torch.manual_seed(0)
    expected = grad(torch.stack([backbone(x[i::3]) for i in range(3)], 1).flatten(0, 1))
    torch.manual_seed(0)
    with in_micro_batches(backbone, 3):
        features = backbone(x)
    torch.manual_seed(1)
    assert deviation(grad(features), expected) < 1e-6


def test_statistics_of_batchnorm_move_once_and_by_the_mean_of_the_micro_batches() -> None:
    method = made("moco_v3", "test_byobnet")
    first = next(m for m in method.backbone.modules() if isinstance(m, _BatchNorm))
    teachers = [m for m in method.momentum_encoder.modules() if isinstance(m, _BatchNorm)]
    before = {name: b.clone() for name, b in method.named_buffers()}
    method(doubled(batch(method)))
    assert first.running_mean is not None
    expected = first.running_mean.clone()
    for name, b in method.named_buffers():
        b.copy_(before[name])
    with in_micro_batches(method, 4):
        outputs = method(doubled(batch(method)))
    after = {name: b.clone() for name, b in method.named_buffers()}
    outputs["loss"].backward()
    assert all(torch.equal(b, after[name]) for name, b in method.named_buffers())
    assert {int(m.num_batches_tracked) for m in (first, *teachers) if m.num_batches_tracked is not None} == {2}  # views
    # means of equal parts have the joint mean as their mean
    torch.testing.assert_close(first.running_mean, expected, rtol=0, atol=1e-12)


class Numbers(nn.Module):
    """Features that say which images were computed together."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.seen: list[list[float]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x[:, 0, 0, 0].tolist())
        return x.flatten(1) * self.scale


def test_all_views_of_an_image_are_in_the_same_micro_batch_and_results_keep_their_order() -> None:
    net = Numbers()
    backbone = backbones.create(net, image_size=1).train()
    x = torch.arange(4.0).repeat(2).view(8, 1, 1, 1).expand(-1, 3, 1, 1).contiguous()  # two views of four images
    net.seen.clear()
    with in_micro_batches(backbone, 2):
        assert torch.equal(backbone(x), x.flatten(1))
        assert net.seen == [[0, 2, 0, 2], [1, 3, 1, 3]]
        net.seen.clear()
        backbone(x[:5])  # five rows cannot be divided by two
        assert net.seen == [[0, 1, 2, 3, 0]]
    net.seen.clear()
    backbone(x)
    assert net.seen == [[0, 1, 2, 3, 0, 1, 2, 3]]


# ---------------------------------------------------------------- the command


def command(name: str, data: Path, out: Path, *more: str) -> list[str]:
    widths = {"hidden-dim": 64, "out-dim": 32, "bottleneck-dim": 16, "prototypes": 6, "drop-path": 0, "queue": 16}
    fields = vars(get_method(name).Config())  # type: ignore[call-arg]
    own = [f"--{key}={value}" for key, value in widths.items() if key.replace("-", "_") in fields]
    return [
        "pretrain", name, str(data), "--out", str(out), "--backbone", "test_vit", "--image-size", "32", "--batch-size",
        "8", "--epochs", "1", "--precision", "fp64", "--workers", "0", *own, *more,
    ]  # fmt: skip


@functools.cache
def weights(out: Path) -> dict[str, Tensor]:
    content: dict[str, Tensor] = state(out)["state_dict"]
    return content


def assert_same_weights(a: Path, b: Path, tolerance: float) -> None:
    one, other = weights(a), weights(b)
    assert one.keys() == other.keys()
    for name, value in one.items():
        # a key's bias moves all scores of a query alike, and one before BatchNorm is subtracted: their gradients are
        # rounding, of which AdamW makes much
        floor = 0.1 if name.endswith(("attn.qkv.bias", "net.norm.bias")) else 1e-3
        assert float((value - other[name]).abs().max()) <= tolerance * max(float(value.abs().max()), floor), name


JOINT = ("--accumulate", "4", "--joint-loss")


@pytest.mark.parametrize("name", ["simclr", "swav"])
def test_the_command_trains_as_with_an_undivided_batch(name: str, photos: Path, tmp_path: Path) -> None:
    assert cli.main(command(name, photos, tmp_path / "whole")) == 0
    assert cli.main(command(name, photos, tmp_path / "joint", *JOINT)) == 0
    assert_same_weights(tmp_path / "joint", tmp_path / "whole", 1e-9)
    run = read_run(Folder(tmp_path / "joint").run, get_method(name))
    assert (run.accumulate, run.joint_loss) == (4, True)
    log = Folder(tmp_path / "joint").log.read_text()
    assert "of 8 images (4 micro-batches; one loss over all)" in log
    assert "joint loss  heads and loss get all 8 images at once; the backbone computes 2 images at a time" in log
    assert "BatchNorm normalises" not in log


@pytest.mark.slow
def test_the_command_on_two_processes_and_with_half_the_micro_batches(photos: Path, tmp_path: Path) -> None:
    """SwAV has a queue, Sinkhorn over processes, and prototypes."""
    assert cli.main(command("swav", photos, tmp_path / "whole")) == 0
    commands = tmp_path / "commands.json"
    more = ("--accumulate", "2", "--joint-loss", "--devices", "2")
    commands.write_text(json.dumps([command("swav", photos, tmp_path / "two", *more)]))
    script = [str(Path(__file__).parent / "support/two_processes.py"), str(commands)]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *script]
    done = subprocess.run(launch, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_same_weights(tmp_path / "two", tmp_path / "whole", 1e-9)


def test_a_resumed_run_keeps_it_bit_for_bit(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With BatchNorm, whose statistics a checkpoint holds."""
    training.pretrain(tiny_run(photos, tmp_path / "whole", accumulate=2, joint_loss=True))
    with monkeypatch.context() as patch:
        interrupt_after(patch, 7)
        with pytest.raises(KeyboardInterrupt):
            training.pretrain(tiny_run(photos, tmp_path / "resumed", accumulate=2, joint_loss=True))
    # nothing of it is asked for again
    training.pretrain(tiny_run(photos, tmp_path / "resumed", resume=True))
    assert_same_run(tmp_path / "whole", tmp_path / "resumed")
    log = Folder(tmp_path / "whole").log.read_text()
    assert "not as in an undivided batch: the backbone's BatchNorm normalises 4 images at a time" in log


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accumulate": 1}, "Give --accumulate 2 or more, or leave --joint-loss out"),
        ({"accumulate": 3}, "not divisible into 3 micro-batches for each of 1 processes. Give a multiple of 3."),
        ({"accumulate": 8}, "is 1 image per micro-batch and process, and the backbone's BatchNorm needs at least 2"),
        *(
            ({"method": name}, f"--joint-loss is not needed for {name}: its loss compares an image with its own views")
            for name in METHODS
            if name not in COUPLED
        ),
    ],
)
def test_what_a_joint_loss_is_not_for_is_refused(
    changes: dict[str, Any], message: str, classed: Path, tmp_path: Path
) -> None:
    asked = {"accumulate": 2, "joint_loss": True} | changes
    asked["method"] = config(asked["method"]) if "method" in asked else tiny_config()
    with pytest.raises(ValueError, match=r"micro-batches|joint") as caught:
        training.pretrain(tiny_run(classed, tmp_path / "run", **asked))
    assert message in str(caught.value)
    assert not (tmp_path / "run").exists()

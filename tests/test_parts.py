"""`layers` with a state: the teacher, the predictor, the queue; and a ViT as MoCo v3 starts it."""

import math
from collections.abc import Callable

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers import Attention, DropBlock2d, DropPath, PatchDropout
from timm.models.levit import Attention as LeViTAttention
from torch import Tensor, nn
from torchvision.models.swin_transformer import ShiftedWindowAttention
from torchvision.ops import StochasticDepth

from lookalike import backbones
from lookalike.label_free import effective_rank, lidar
from lookalike.layers import DINOHead, Queue, Teacher, joined, mlp


def parts(seed: int = 0) -> tuple[nn.Sequential, nn.Sequential]:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), DropPath(0.5), nn.Linear(8, 5)), mlp(5, 7, 3)


def test_a_teacher_begins_as_its_student_and_gets_no_gradient() -> None:
    body, head = parts()
    teacher = Teacher(body, head)
    x = torch.randn(4, 6)
    body[2].drop_prob = 0.0
    assert torch.equal(teacher(x), head(body(x)))
    assert not teacher(x).requires_grad
    assert not any(p.requires_grad for p in teacher.parameters())
    assert all(p.requires_grad for p in (*body.parameters(), *head.parameters()))


def test_a_teacher_follows_parameters_only_by_its_momentum() -> None:
    body, head = parts()
    teacher = Teacher(body, head)
    begun = [p.clone() for p in teacher.parameters()]
    with torch.no_grad():
        for p in (*body.parameters(), *head.parameters()):
            p.add_(torch.randn_like(p))
    statistics = {n: b.clone() for n, b in teacher.named_buffers()}
    body(torch.randn(8, 6))  # moves the student's statistics
    teacher.follow(body, head, momentum=0.9)
    for own, old, theirs in zip(teacher.parameters(), begun, (*body.parameters(), *head.parameters())):
        assert torch.allclose(own, 0.9 * old + 0.1 * theirs, atol=1e-6)
    assert all(torch.equal(b, statistics[n]) for n, b in teacher.named_buffers())
    teacher.follow(body, head, momentum=1.0)
    assert teacher.distance(body, head) > 0.01
    teacher.follow(body, head, momentum=0.0)
    assert teacher.distance(body, head) == 0
    teacher.copy(body, head)
    assert all(torch.equal(b, s) for b, s in zip(teacher[0].buffers(), body.buffers()))


def test_a_teachers_distance_is_a_share_of_the_students_norm() -> None:
    student = nn.Linear(3, 4)
    teacher = Teacher(student)
    with torch.no_grad():
        for p in student.parameters():
            p.mul_(2)
    assert teacher.distance(student) == pytest.approx(0.5)


def test_a_teacher_is_in_the_students_mode_and_never_skips_a_block() -> None:
    body, head = parts()
    both = nn.ModuleDict({"body": body, "teacher": Teacher(body, head), "frozen": Teacher(body, frozen=True)})
    both.train()
    assert [m.drop_prob for m in both.modules() if isinstance(m, DropPath)] == [0.5, 0.0, 0.0]
    assert both["teacher"][0][1].training
    assert not both["frozen"][0][1].training
    before = both["teacher"][0][1].running_mean.clone()
    both["teacher"](torch.randn(8, 6))
    assert not torch.equal(both["teacher"][0][1].running_mean, before)
    both.eval()
    assert not both["teacher"][0][1].training


def test_the_rank_of_what_is_not_finite_is_none() -> None:
    """Not an error: such a step is dropped and counted."""
    assert math.isnan(effective_rank(torch.full((16, 6), math.nan)))
    assert math.isnan(lidar(torch.full((4, 2, 6), math.inf)))
    assert effective_rank(torch.ones(16, 6)) == pytest.approx(1, abs=1e-4)


def test_what_micro_batches_hand_over_is_joined_in_their_order() -> None:
    outputs = [{"keys": torch.tensor([3, 4]), "more": torch.zeros(9)}, {"keys": torch.tensor([5])}]
    assert joined(outputs, "keys").tolist() == [3, 4, 5]


def test_a_queue_knows_the_age_of_its_keys() -> None:
    queue = Queue(3, 8)
    assert (queue.age(), queue.filled()) == (0, 0)
    queue.add(torch.randn(2, 3))
    assert (queue.age(), queue.filled()) == (0.75, 0.25)  # two keys of now, six from before
    assert not queue.full()
    for _ in range(3):
        queue.add(torch.randn(2, 3))
    assert (queue.age(), queue.filled()) == (1.5, 1)  # 3, 2, 1 and 0 calls ago
    assert queue.full()
    queue.add(torch.randn(2, 3))
    assert queue.age() == 1.5


def moco_v3_positions(h: int, w: int, width: int) -> list[list[float]]:
    """`build_2d_sincos_position_embedding` of moco-v3's `vits.py`, number by number."""
    table = []
    for i in range(h):
        for j in range(w):
            omega = [1 / 10000 ** (k / (width // 4)) for k in range(width // 4)]
            table.append([f(place * o) for place in (i, j) for f in (math.sin, math.cos) for o in omega])
    return table


@pytest.mark.parametrize("freeze", [True, False])
def test_a_vit_starts_as_moco_v3s(freeze: bool) -> None:
    torch.manual_seed(0)
    vit = backbones.create("vit_tiny_patch16_224", image_size=64)
    assert isinstance(vit, backbones.ViT)
    vit.start_as_moco_v3(freeze_patches=freeze)
    net = vit.net
    expected = torch.tensor(moco_v3_positions(4, 4, 192))
    assert torch.allclose(net.pos_embed[0, 1:], expected, atol=1e-6)
    assert not net.pos_embed[0, 0].any()
    assert not net.pos_embed.requires_grad
    weight = net.patch_embed.proj.weight
    bound = math.sqrt(6 / (3 * 16 * 16 + 192))
    assert weight.requires_grad is not freeze
    assert 0.99 * bound < float(weight.abs().max()) <= bound
    qkv = net.blocks[0].attn.qkv.weight
    bound = math.sqrt(6 / (192 + 192))  # of queries, keys and values each
    assert 0.99 * bound < float(qkv.abs().max()) <= bound
    assert float(net.cls_token.abs().max()) < 1e-5
    assert torch.isfinite(vit(torch.randn(2, 3, 64, 64))).all()
    assert torch.isfinite(vit(torch.randn(2, 3, 96, 96))).all()  # positions are interpolated


def test_a_users_own_vit_keeps_its_weights() -> None:
    net = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=32)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    vit = backbones.create(net, image_size=32)
    assert isinstance(vit, backbones.ViT)
    vit.start_as_moco_v3(freeze_patches=True)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not net.patch_embed.proj.weight.requires_grad
    assert net.pos_embed.requires_grad


def test_a_vit_without_a_place_for_the_positions_is_refused() -> None:
    vit = backbones.create("vit_tiny_patch16_224", image_size=32)
    vit.net.pos_embed = None
    with pytest.raises(ValueError, match="no absolute position embedding"):
        vit.start_as_moco_v3(freeze_patches=True)


class Rates(nn.Module):
    """Layers that drop by functions, as people write them."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)
        self.drop_rate = 0.5

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(F.dropout(self.layer(x), training=self.training), self.drop_rate, self.training)


class Noise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x) if self.training else x


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


RANDOM: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "dropout": (lambda: nn.Dropout(0.5), (4, 8)),
    "dropout of channels": (lambda: nn.Dropout2d(0.5), (4, 8, 5, 5)),
    "dropout that keeps the variance": (lambda: nn.FeatureAlphaDropout(0.5), (4, 8)),
    "timm's skipped blocks": (lambda: DropPath(0.5), (4, 8)),
    "timm's dropped boxes": (lambda: DropBlock2d(0.5), (4, 8, 9, 9)),
    "timm's dropped patches": (lambda: PatchDropout(0.5, num_prefix_tokens=0), (4, 16, 8)),
    "timm's attention": (lambda: Attention(8, 2, attn_drop=0.5, proj_drop=0.5), (4, 9, 8)),
    "torchvision's skipped blocks": (lambda: StochasticDepth(0.5, "row"), (4, 8)),
    "torchvision's windows": (lambda: ShiftedWindowAttention(8, [2, 2], [0, 0], 2, dropout=0.5), (4, 4, 4, 8)),
    "torch's attention": (Attending, (4, 9, 8)),
    "torch's transformer": (lambda: nn.TransformerEncoderLayer(8, 2, 8, 0.5, batch_first=True), (4, 9, 8)),
    "random slopes": (nn.RReLU, (4, 8)),
    "functions": (Rates, (4, 8)),
    "noise": (Noise, (4, 8)),
}


@pytest.mark.parametrize("kind", RANDOM)
def test_nothing_in_a_teacher_is_random(kind: str) -> None:
    make, shape = RANDOM[kind]
    torch.manual_seed(0)
    student = nn.Sequential(make(), nn.BatchNorm1d(8) if len(shape) == 2 else nn.Identity()).train()
    method = nn.ModuleDict({"student": student, "teacher": Teacher(student)}).train()
    x = torch.randn(shape)
    with torch.no_grad():
        assert not torch.equal(student(x), student(x))  # it stays as its owner made it
    assert torch.equal(method["teacher"](x), method["teacher"](x))
    assert all(m.training for m in method["teacher"].modules() if isinstance(m, nn.BatchNorm1d))


def test_a_teacher_follows_where_a_network_keeps_what_it_computed_in_eval_mode() -> None:
    """LeViT's attention does so with its biases, until the mode changes."""
    torch.manual_seed(0)
    student = LeViTAttention(8, 4, 2, resolution=4)
    teacher, x = Teacher(student), torch.randn(2, 16, 8)
    teacher(x)
    with torch.no_grad():
        for p in student.parameters():
            p.normal_()
        teacher.follow(student, momentum=0.0)
        torch.testing.assert_close(teacher(x), student(x))


# ---------------------------------------------------------------- precision


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_the_last_product_of_a_head_is_that_of_float32_under_autocast(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    head = DINOHead(16, 32, 12, 40, learn_scale=True, patch_prototypes=30)
    x = torch.randn(6, 16)
    for net in (head, Teacher(head)[0]):
        for patches, layer in ((False, net.last_layer), (True, net.patch_layer)):
            with torch.autocast("cpu", dtype):
                scores, z = net(x, patches=patches), net._bottleneck(x)
            assert scores.dtype == torch.float32
            assert torch.equal(scores, F.linear(z, layer.weight_g * F.normalize(layer.weight_v)))
    assert head.double()(x.double()).dtype == torch.float64

"""Distillation: what the student is told, where the answers are kept, and what is refused."""

import dataclasses
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.reference import official
from torch import Tensor, nn

import lookalike
from lookalike import backbones, cli, encoders, losses, training
from lookalike.backbones import Backbone
from lookalike.commands import teacher_student
from lookalike.core import Batch, DataFacts, Progress
from lookalike.data import Answers
from lookalike.evaluation import protocols
from lookalike.image_options import Pixels
from lookalike.layers import Teacher
from lookalike.methods import Distill
from lookalike.methods.distill import _aligned, _check_squares
from lookalike.runs import Folder, Run
from lookalike.tensor_file import sha256
from lookalike.training import stages
from lookalike.views import View, resized

pytestmark = pytest.mark.long(18)


def vit(size: int = 32, patch: int = 8, dim: int = 24, seed: int = 0) -> Backbone:
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(seed)
    net = VisionTransformer(img_size=size, patch_size=patch, embed_dim=dim, depth=2, num_heads=2, num_classes=0)
    return backbones.create(net, image_size=size)


def config(size: int = 32, **fields: object) -> Distill.Config:
    cfg = Distill.Config(teacher="<test>")
    return dataclasses.replace(cfg, views=resized(cfg.views, size), **fields)  # type: ignore[arg-type]


def batch(*sizes: int, rows: int = 6, channels: int = 3, step: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(step)
    views = [torch.randn(rows, channels, s, s, generator=generator) for s in sizes]
    return Batch(views, torch.arange(rows), Progress(step, 20, 5))


def made(cfg: Distill.Config, student: Backbone, teacher: nn.Module) -> Distill:
    torch.manual_seed(0)
    method = Distill(cfg, student, teacher)
    method.before_training()
    return method.train()


# ---------------------------------------------------------------- the loss


def slow_relational(s: Tensor, t: Tensor, queue: Tensor, student_temp: float, teacher_temp: float) -> float:
    """Fang et al., equations 1 to 4, one image at a time."""
    total = 0.0
    for i in range(len(s)):
        a, b = s[i] / s[i].norm(), t[i] / t[i].norm()
        others = [b, *queue.T]
        told = [math.exp(float(b @ d) / teacher_temp) for d in others]
        said = [math.exp(float(a @ d) / student_temp) for d in others]
        total -= sum(p / sum(told) * math.log(q / sum(said)) for p, q in zip(told, said))
    return total / len(s)


def test_relational_is_the_papers_equation() -> None:
    torch.manual_seed(0)
    s, t, queue = torch.randn(5, 8).double(), torch.randn(5, 8).double(), F.normalize(torch.randn(8, 11), dim=0)
    found = losses.relational(s, t, queue.double(), 0.2, 0.05)
    assert float(found) == pytest.approx(slow_relational(s, t, queue.double(), 0.2, 0.05), rel=1e-12)
    assert float(losses.relational(t, t, queue.double(), 0.05, 0.05)) <= float(found)


def test_a_student_that_says_the_same_has_no_distance() -> None:
    net = vit()
    method = made(config(mse=1.0, cosine=1.0), net, net)
    with torch.no_grad():
        parts = method(batch(32))
    assert {name: round(float(v), 5) for name, v in parts.items()} == pytest.approx(
        {"loss": 0, "mse": 0, "cosine": 0, "patches": 0}, abs=1e-5
    )


def test_the_loss_is_the_weighted_sum_of_its_parts() -> None:
    """And each part what a plain computation from the two networks' outputs gives."""
    student, teacher = vit(dim=16, seed=1), vit()
    cfg = config(mse=0.5, cosine=2.0, vicreg=0.1, relational=0.3, class_weight=0.7, patch_weight=0.4, queue=12)
    method = made(cfg, student, teacher)
    seen = batch(32)
    parts = {name: float(v.detach()) for name, v in method(seen).items() if v.ndim == 0}
    with torch.no_grad():
        s, t = method.head(student(seen.views[0])), teacher(seen.views[0])
        p = method.patch_head(student.tokens(seen.views[0]).patches)  # type: ignore[misc]
        patches = F.cosine_similarity(p, teacher.tokens(seen.views[0]).patches, dim=-1)
    cosine = F.cosine_similarity(s, t)
    told = (t - t.mean(0)) / (t.var(0, correction=0) + 1e-5).sqrt()
    assert parts["mse"] == pytest.approx(float((2 - 2 * cosine).mean()), rel=1e-5)
    assert parts["cosine"] == pytest.approx(float((1 - cosine).mean()), rel=1e-5)
    assert parts["patches"] == pytest.approx(float((2 - 2 * patches).mean()), rel=1e-5)
    assert parts["vicreg"] == pytest.approx(float(losses.vicreg(s, told, 25, 25, 1, 1e-4)["loss"]), rel=1e-4)
    weights = {"mse": 0.35, "cosine": 1.4, "vicreg": 0.07, "relational": 0.21, "patches": 0.4 * (0.5 + 2.0 / 2)}
    assert parts["loss"] == pytest.approx(sum(w * parts[name] for name, w in weights.items()), rel=1e-5)


def test_local_views_meet_each_global_one_and_global_ones_themselves() -> None:
    student, teacher = vit(dim=16, seed=1), vit()
    cfg = config(patch_weight=0.0)
    view = cfg.views[0]
    cfg = dataclasses.replace(
        cfg, views=(dataclasses.replace(view, count=2), dataclasses.replace(view, size=16, count=2))
    )
    method = made(cfg, student, teacher)
    seen = batch(32, 32, 16, 16)
    s = [method.head(student(v)) for v in seen.views]
    t = [teacher(v) for v in seen.views[:2]]
    pairs = [(0, 0), (1, 1), (2, 0), (2, 1), (3, 0), (3, 1)]
    wanted = torch.stack([(2 - 2 * F.cosine_similarity(s[v], t[g])).mean() for v, g in pairs]).mean()
    assert float(method(seen)["mse"]) == pytest.approx(float(wanted), rel=1e-5)


def test_means_of_patches_stand_in_for_class_tokens() -> None:
    student, teacher = vit(dim=16, seed=1), vit()
    method = made(config(student_feature="patches", teacher_feature="patches", patch_weight=0.0), student, teacher)
    seen = batch(32)
    s = method.head(student.tokens(seen.views[0]).patches.mean(1))
    t = teacher.tokens(seen.views[0]).patches.mean(1)
    assert float(method(seen)["mse"]) == pytest.approx(float((2 - 2 * F.cosine_similarity(s, t)).mean()), rel=1e-5)


def test_patches_of_other_grids_are_aligned() -> None:
    """A teacher of 7 x 7 patches, a student of 4 x 4: a linear field keeps its slope, up to the border."""
    rows = torch.arange(7.0)[:, None].expand(7, 7).reshape(1, 49, 1)
    found = _aligned(rows, 16).view(4, 4)
    assert found.shape == (4, 4)
    assert torch.allclose(found[:, 0], found[:, 3])
    assert float(found.mean()) == pytest.approx(3.0, abs=1e-5)
    assert torch.equal(_aligned(rows, 49), rows)
    # a teacher of 7 x 7 patches, a student of 4 x 4: the mean over the places stays, whatever the grid
    student, teacher = vit(dim=24, seed=1), vit(size=56, patch=8)
    method = made(config(teacher_size=56), student, teacher)
    seen = batch(56)
    small = F.interpolate(seen.views[0], (32, 32), mode="bilinear", antialias=True)
    told = teacher.tokens(seen.views[0]).patches.mT.unflatten(2, (7, 7))
    told = F.interpolate(told, (4, 4), mode="bilinear", antialias=True).flatten(2).mT
    cosine = F.cosine_similarity(student.tokens(small).patches, told, dim=-1)
    assert float(method(seen)["patches"]) == pytest.approx(float((2 - 2 * cosine).mean()), rel=1e-4)


def test_the_teacher_sees_its_own_size_channels_and_normalisation() -> None:
    """Grey images for the student, colour at another mean and size for the teacher."""
    student = backbones.create("test_resnet", channels=1, image_size=32)
    teacher = vit(size=48)
    student.mean, student.std = (0.4,), (0.2,)
    teacher.mean, teacher.std = (0.5, 0.4, 0.3), (0.25, 0.2, 0.1)
    cfg = config(teacher_size=48)
    (view,) = cfg.views_at(Progress(0, 20, 5))
    assert view.size == 48
    assert cfg.input_sizes((view,)) == {32}
    method = made(cfg, student, teacher)
    x = torch.rand(6, 1, 48, 48)
    method(Batch([(x - 0.4) / 0.2], torch.arange(6), Progress(0, 20, 5)))
    mean, std = torch.tensor(teacher.mean)[:, None, None], torch.tensor(teacher.std)[:, None, None]
    wanted = teacher((x.expand(-1, 3, -1, -1) - mean) / std)
    assert torch.allclose(method.teacher_features((x - 0.4) / 0.2), wanted, atol=1e-5)


def test_official_weights_teach() -> None:
    """What DINOv2's own code says of these weights and images is what the student is told."""
    teacher, data = official("vit_dinov2_reg4")
    x = torch.from_numpy(data["in/x_native"])
    size = x.shape[-1]
    cfg = config(size, teacher_size=size)
    method = made(cfg, backbones.create("test_resnet", channels=x.shape[1], image_size=size), teacher)
    told, patches = method._targets(Batch([x], torch.arange(len(x)), Progress(0, 20, 5)))
    assert float((told[0] - torch.from_numpy(data["out/x_norm_clstoken_native"])).abs().max()) < 5e-6
    assert patches is not None
    assert float((patches - torch.from_numpy(data["out/x_norm_patchtokens_native"])).abs().max()) < 5e-6


def test_a_module_of_ones_own_sees_images_as_the_student_does() -> None:
    """Whatever the student's mean and deviation become before the training begins."""
    net, student = nn.Conv2d(3, 8, 8, stride=8), vit()
    method = Distill(config(), student, net)
    student.mean, student.std = (0.1, 0.2, 0.3), (0.9, 0.8, 0.7)
    method.before_training()
    x = torch.randn(2, 3, 32, 32)
    assert method.same_input
    assert torch.equal(method.teacher_features(x), net(x).mean((2, 3)))
    assert method.teacher_net.mean == student.mean
    # an encoder, which has its own, gets its own
    other = Distill(config(), student, vit(seed=1))
    other.before_training()
    assert other.teacher_net.mean == backbones.IMAGENET_MEAN
    assert not other.same_input


def test_an_encoder_of_ones_own_teaches_at_its_size() -> None:
    run = Run(data="", method=Distill.Config(), teacher=vit(size=48), backbone="test_resnet", image_size=32)
    assert training.resolve(run, 1000)[0].method.teacher_size == 48  # type: ignore[attr-defined]
    assert training.resolve(dataclasses.replace(run, fit=False), 1000)[0].method.teacher_size is None  # type: ignore[attr-defined]


def test_colour_becomes_grey_as_pillow_does_it() -> None:
    student, teacher = vit(), backbones.create("test_resnet", channels=1, image_size=32)
    teacher.mean, teacher.std = (0.0,), (1.0,)
    method = made(config(), student, teacher)
    x = torch.rand(2, 3, 32, 32)
    mean, std = torch.tensor(student.mean)[:, None, None], torch.tensor(student.std)[:, None, None]
    grey = (x * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    assert torch.allclose(method._converted((x - mean) / std), grey, atol=1e-5)


def test_the_teacher_does_not_change_and_is_no_part_of_the_state() -> None:
    teacher = backbones.create("test_resnet", image_size=32)
    method = made(config(), vit(), teacher)
    before = {name: value.clone() for name, value in method.teacher[0].state_dict().items()}
    method(batch(32))["loss"].backward()
    assert not method.teacher.training
    assert all(torch.equal(value, before[name]) for name, value in method.teacher[0].state_dict().items())
    assert all(p.grad is None for p in method.teacher.parameters())
    state = method.state_dict()
    assert [name for name in state if name.startswith("teacher")] == ["teacher.sha256"]
    again = made(config(), vit(), teacher)
    again.load_state_dict(state)
    assert again.teacher.digest() == sha256(Teacher(teacher))
    other = made(config(), vit(), backbones.create("test_resnet", image_size=32))
    with pytest.raises(ValueError, match="another teacher"):
        other.load_state_dict(state)


@pytest.mark.parametrize(
    ("images", "epochs", "patch", "lr", "queue"),
    [
        (5_000, 50, None, 1.6e-2, 1024),
        (5_000, 50, 16, 4e-3, 1024),
        (5_000, 2000, 16, 1e-3, 1024),
        (50_000, 200, None, 1e-3, 12288),
        (1_300_000, 100, 16, 1e-3, 65536),
    ],
)
def test_what_few_images_and_short_trainings_are_given(
    images: int, epochs: int, patch: int | None, lr: float, queue: int
) -> None:
    cfg = dataclasses.replace(Distill.Config(teacher="timm/vit_base_patch14_dinov2.lvd142m"), relational=1.0)
    fitted = cfg.fit_to(DataFacts(images, 96, 256, epochs, patch))
    assert isinstance(fitted, Distill.Config)
    assert (fitted.optim.lr, fitted.queue, fitted.teacher_size) == (lr, queue, 224)


# ---------------------------------------------------------------- what is kept of the teacher


def test_several_global_views_are_kept_in_their_order(tmp_path: Path) -> None:
    """Of a batch in which some images are known: the same targets as without a memory."""
    cfg = config(cache_teacher=True)
    cfg = dataclasses.replace(cfg, views=(dataclasses.replace(cfg.views[0], count=2),))
    method = made(cfg, vit(dim=16, seed=1), vit())
    seen = batch(32, 32)
    features, patches = method._targets(seen)
    method.memory = Answers(tmp_path, method.memory_name(), 6, 1, method.memory_width(), torch.float32)
    some = torch.tensor([4, 1])
    method._targets(Batch([view[some] for view in seen.views], some, seen.progress))
    again, again_patches = method._targets(seen)
    assert features.shape == (2, 6, 24)
    torch.testing.assert_close(again, features, atol=1e-6, rtol=0)
    torch.testing.assert_close(again_patches, patches, atol=1e-6, rtol=0)


def test_the_name_of_a_memory_tells_teachers_apart() -> None:
    """Also those with the same weights: of other code, or that take images in another way."""

    def name(teacher: nn.Module, **fields: object) -> str:
        return made(config(cache_teacher=True, patch_weight=0.0, **fields), vit(), teacher).memory_name()

    net, other = vit(), vit()
    for block in other.net.blocks:  # type: ignore[union-attr]
        block.attn.num_heads, block.attn.head_dim, block.attn.scale = 3, 8, 8**-0.5
    shifted = vit()
    shifted.mean = (0.5, 0.5, 0.5)
    names = {name(net), name(other), name(shifted), name(vit(seed=1)), name(net, teacher_feature="patches")}
    assert len(names) == 5
    assert name(vit()) == name(net)
    assert made(config(), vit(), net).memory_name() == ""


# ---------------------------------------------------------------- the command


@pytest.fixture(autouse=True)
def _speed_at_a_glance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each run ends with the speeds of both networks; one pass at a time is enough here."""
    monkeypatch.setattr(teacher_student, "TIMING_SECONDS", 0.0)


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a teacher, trained for an instant."""
    root = tmp_path_factory.mktemp("teacher")
    encoders.save(Folder(root), backbones.create("test_vit", image_size=32), method="none", epochs=0, dtype=torch.uint8)
    return root


def distil(*more: str, data: Path, teacher: str | Path, out: Path) -> int:
    return cli.main(
        ["distill", str(data), "--teacher", str(teacher), "--out", str(out), "--backbone", "test_byobnet",
         "--image-size", "32", "--epochs", "2", "--batch-size", "8", "--workers", "0", *more]
    )  # fmt: skip


def losses_of(out: Path) -> list[float]:
    found = [row["loss"] for row in Folder(out).rows() if "loss" in row]
    assert found
    return found


def test_the_command_ends_with_both_side_by_side(
    labelled: Path, taught: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocols, "DINOV2", dataclasses.replace(protocols.DINOV2, least_steps=20))
    probe = [str(labelled / "train"), str(labelled / "test")]
    assert distil("--probe", *probe, data=labelled / "train", teacher=taught, out=tmp_path / "run") == 0
    said = capsys.readouterr().out
    assert "teacher     " in said
    assert "input 32 px" in said
    assert "knn top-1" in said
    assert "linear top-1" in said
    content = json.loads((tmp_path / "run" / "distillation.json").read_text())
    both = content["teacher"], content["student"]
    assert [side["accuracy"].keys() == {"knn", "linear"} for side in both] == [True, True]
    assert content["kept"]["knn"] == pytest.approx(both[1]["accuracy"]["knn"] / both[0]["accuracy"]["knn"])
    nets = (backbones.create("test_vit", image_size=32), backbones.create("test_byobnet", image_size=32))
    assert [side["parameters"] for side in both] == [sum(p.numel() for p in net.net.parameters()) for net in nets]
    assert -1 <= content["cosine"] <= 1
    assert 0 <= content["overlap"] <= 1
    # what the student was judged as is what was written
    judged = lookalike.evaluate(tmp_path / "run", *probe, protocols=["knn"])
    assert judged[0].top1 == content["student"]["accuracy"]["knn"]


def test_kept_answers_train_as_asked_ones(photos: Path, taught: Path, tmp_path: Path) -> None:
    """The same losses whether the teacher is asked in each epoch or once; a second run does not ask at all."""
    cache = ["--cache-teacher", "--cache-dir", str(tmp_path / "cache")]
    assert distil(*cache, data=photos, teacher=taught, out=tmp_path / "kept") == 0
    run = lookalike.runs.read_run(tmp_path / "kept" / "run.yaml")
    live = dataclasses.replace(run, out=str(tmp_path / "live"))
    asked = []
    ask = Distill._ask

    def counted(self: Distill, views: list[Tensor]) -> Tensor:
        asked.append(len(views[0]))
        return ask(self, views)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Distill, "_ask", counted)
        patch.setattr(stages, "teacher_memory", lambda *parts: None)
        training.pretrain(live)
        assert sum(asked) == 80
        asked.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Distill, "_ask", counted)
        assert distil(*cache, data=photos, teacher=taught, out=tmp_path / "again") == 0
        assert asked == []
        # other views, and another teacher, are asked for
        assert distil(*cache, "--seed", "1", data=photos, teacher=taught, out=tmp_path / "seed") == 0
        assert sum(asked) == 40
    assert losses_of(tmp_path / "kept") == pytest.approx(losses_of(tmp_path / "live"), rel=1e-6)
    assert losses_of(tmp_path / "again") == losses_of(tmp_path / "kept")


def test_views_take_turns(photos: Path, taught: Path, tmp_path: Path) -> None:
    cache = ["--cache-teacher", "--cached-views", "2", "--cache-dir", str(tmp_path / "cache"), "--epochs", "4"]
    assert distil(*cache, data=photos, teacher=taught, out=tmp_path / "run") == 0
    (values,) = (tmp_path / "cache").glob("*.answers")
    (sums,) = (tmp_path / "cache").glob("*.sums")
    assert np.fromfile(sums, np.int64).astype(bool).sum() == 80
    rows = np.fromfile(values, np.float32).reshape(80, -1)
    assert not np.allclose(rows[:40], rows[40:])


def test_a_run_that_was_stopped_goes_on(photos: Path, taught: Path, tmp_path: Path) -> None:
    teacher = tmp_path / "teacher"
    shutil.copytree(taught, teacher)
    assert distil(data=photos, teacher=teacher, out=tmp_path / "run") == 0
    assert cli.main(["pretrain", "--resume", "--out", str(tmp_path / "run"), "--epochs", "3"]) == 0
    assert cli.main(["distill", "--resume", "--out", str(tmp_path / "run"), "--epochs", "4"]) == 0
    assert Folder(tmp_path / "run").rows()[-1]["epoch"] == 4
    other = backbones.create("test_vit", image_size=32)
    encoders.save(Folder(teacher), other, method="none", epochs=0, dtype=torch.uint8)
    assert cli.main(["distill", "--resume", "--out", str(tmp_path / "run"), "--epochs", "5"]) == 1


def test_a_module_of_ones_own_teaches(photos: Path, tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.ReLU(), nn.Conv2d(8, 12, 2, stride=2))
    run = Run(
        data=photos, method=Distill.Config(), teacher=net, backbone="test_byobnet", image_size=32, epochs=1,
        batch_size=8, workers=0, out=str(tmp_path / "run"),
    )  # fmt: skip
    result = lookalike.distill(run)
    assert result.folder.joinpath("distillation.json").is_file()
    assert "<torch.nn.modules.container.Sequential>" in (tmp_path / "run" / "run.yaml").read_text()
    assert net.training  # the teacher is a copy
    assert all(p.requires_grad for p in net.parameters())
    with pytest.raises(ValueError, match=r"Distill\.Config"):
        training.pretrain(dataclasses.replace(run, method=lookalike.methods.SimCLR.Config(), out=str(tmp_path / "x")))
    with pytest.raises(ValueError, match=r"lookalike\.pretrain"):
        lookalike.distill(dataclasses.replace(run, method=lookalike.methods.SimCLR.Config(), teacher=None))


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"mse": 0.0}, "All objectives have weight 0"),
        ({"class_weight": 0.0}, "class_weight is 0.0"),
        ({"relational": -1.0}, "relational is -1.0"),
        ({"teacher_temp": 0.0}, "teacher_temp"),
        ({"teacher_size": 0}, "teacher_size"),
        ({"views": (View(16), View(32))}, "largest first"),
    ],
)
def test_configurations_that_cannot_be(fields: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(Distill.Config(), **fields)  # type: ignore[arg-type]


def test_teachers_that_cannot_teach(photos: Path, taught: Path, tmp_path: Path) -> None:
    flat = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())
    with pytest.raises(ValueError, match=r"The teacher, .* no patch features. Give --patch-weight 0"):
        made(config(), vit(), flat)
    with pytest.raises(ValueError, match=r"The student, .* no patch features"):
        made(config(), backbones.create(flat, image_size=32), vit())
    with pytest.raises(ValueError, match="nearest sizes that work"):
        made(config(teacher_size=33), vit(), vit())
    with pytest.raises(ValueError, match=r"Teacher: .*--teacher-size"):
        made(config(teacher_size=33), vit(), vit())
    with pytest.raises(ValueError, match="not a plain ViT"):
        made(config(student_feature="patches"), backbones.create("test_resnet", image_size=32), vit())
    with pytest.raises(ValueError, match=r"15 patches .*--patch-weight 0"):
        _check_squares(15, 16)
    with pytest.raises(ValueError, match="--queue 8"):
        config(relational=1.0, queue=9).check(DataFacts(40, 32, 8))


def failing(capsys: pytest.CaptureFixture[str], argv: list[str], code: int) -> str:
    capsys.readouterr()
    assert cli.main(argv) == code
    said = capsys.readouterr()
    assert "Traceback" not in said.out + said.err
    return said.err


def test_the_command_refuses_with_one_message(
    photos: Path, taught: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "run"), "--backbone", "test_resnet", "--image-size", "32", "--batch-size", "8"]
    assert "trains with a teacher: lookalike distill" in failing(capsys, ["pretrain", "distill", str(photos)], 2)
    missing = failing(capsys, ["distill", str(photos), "--teacher", str(tmp_path / "none"), *out], 1)
    assert "No encoder at" in missing
    wrong = tmp_path / "weights.safetensors"
    from safetensors.torch import save_file

    save_file({"layer.weight": torch.zeros(3, 3)}, wrong)
    assert "--teacher-backbone" in failing(capsys, ["distill", str(photos), "--teacher", str(wrong), *out], 1)
    unfit = failing(
        capsys, ["distill", str(photos), "--teacher", str(wrong), "--teacher-backbone", "test_vit", *out], 1
    )
    assert "missing" in unfit
    assert "layer.weight" in unfit
    assert not (tmp_path / "run").exists()


def test_a_file_that_says_what_it_is_or_is_named_teaches(photos: Path, tmp_path: Path) -> None:
    """timm's own file of a network whose first tensor by name is no first layer, with its classifier."""
    import timm
    from safetensors.torch import save_file

    for name in ("test_convnext", "test_efficientnet"):
        net = timm.create_model(name, num_classes=7)
        save_file(net.state_dict(), tmp_path / f"{name}.safetensors")
        found = encoders.load(tmp_path / f"{name}.safetensors", backbone=name)
        own = net.state_dict()
        assert all(torch.equal(value, own[key]) for key, value in found.net.state_dict().items())
    assert distil("--teacher-backbone", "test_convnext", "--patch-weight", "0", "--teacher-size", "32", "--epochs", "1",
                  data=photos, teacher=tmp_path / "test_convnext.safetensors", out=tmp_path / "run") == 0  # fmt: skip
    ckpt = Folder(tmp_path / "run").last
    with pytest.raises(ValueError, match="Give the run's folder"):
        encoders.load(ckpt)
    with pytest.raises(ValueError, match="Give the run's folder"):
        encoders.image_size(ckpt)
    with pytest.raises(FileNotFoundError, match=r"Run\(teacher=module\)"):
        encoders.load("<a.Module>")


def test_the_sheet_says_how_to_go_on(
    photos: Path, taught: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "views.png"
    argv = ["views", "distill", str(photos), "--teacher", str(taught), "--image-size", "32", "--out", str(out)]
    assert cli.main(argv) == 0
    assert f"Next: lookalike distill {photos} --teacher {taught}" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["torchhub/dinov2_vits14", "torchhub/dino_vits16"])
def test_without_network_the_file_and_its_place_are_named(
    name: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def offline(*parts: object, **options: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    said = failing(capsys, ["distill", str(photos), "--teacher", name, "--out", str(tmp_path / "run"),
                            "--backbone", "test_resnet", "--batch-size", "8"], 1)  # fmt: skip
    assert "https://dl.fbaipublicfiles.com/dino" in said
    assert str(tmp_path) in said
    assert "_pretrain.pth" in said


# ---------------------------------------------------------------- side by side


def test_flops_are_those_of_the_layers() -> None:
    """A 1x1 convolution of 3 to 8 channels over 16 x 16 places, and one of 8 to 4."""
    net = backbones.create(nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)), image_size=16)
    assert teacher_student.gflops(net, 16) == pytest.approx(2 * 256 * (3 * 8 + 8 * 4) / 1e9)
    # attention counts: products of queries with keys, and of their shares with values
    one = vit(size=32, patch=8, dim=24)
    tokens, d = 17, 24
    block = 2 * tokens * d * (3 * d + d + 8 * d) + 4 * tokens * tokens * d
    patches = 2 * 16 * (3 * 64) * d
    assert teacher_student.gflops(one, 32) == pytest.approx((2 * block + patches) / 1e9)


def test_overlap_of_neighbours() -> None:
    torch.manual_seed(0)
    x = torch.randn(60, 8)
    turn, _ = torch.linalg.qr(torch.randn(8, 8))
    assert teacher_student.shared_neighbours(x, 3 * x @ turn) == 1
    assert teacher_student.shared_neighbours(x, torch.randn(60, 5)) == pytest.approx(10 / 59, abs=0.06)
    assert teacher_student.shared_neighbours(x[:4], torch.randn(4, 5)) == 1  # of 4, 3 are everybody's neighbours


@pytest.mark.parametrize(
    ("of_student", "of_teacher", "expected", "words"),
    [
        (Pixels(5), Pixels(), [[0.2] * 5] * 3, "its input is the mean of 5 bands for each of 3 channels"),
        (Pixels(4, bands=("nir", "green", "red", "blue")), Pixels(), [[0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]],
         "its input is bands red, green, blue by name, 1 not used"),
        (Pixels(2, bands=("nir", "red")), Pixels(), [[0, 1], [0.5, 0.5], [0.5, 0.5]],
         "its input is bands red by name, the mean of all for 2 that are missing, 1 not used"),
    ],
)  # fmt: skip
def test_a_teacher_of_other_bands_gets_those_that_match(
    of_student: Pixels, of_teacher: Pixels, expected: list[list[float]], words: str
) -> None:
    student, teacher = (
        backbones.create("test_resnet", channels=pixels.channels, image_size=32) for pixels in (of_student, of_teacher)
    )
    student.pixels, teacher.pixels = of_student, of_teacher
    student.mean = student.std = (0.5,) * of_student.channels
    method = made(config(), student, teacher)
    method.before_training()
    assert words in method.describe()[0]
    x = torch.rand(2, of_student.channels, 32, 32)
    mean, std = (torch.tensor(values)[:, None, None] for values in (teacher.mean, teacher.std))
    wanted = torch.einsum("oc,bchw->bohw", torch.tensor(expected, dtype=torch.float32), x)
    assert torch.allclose(method._converted((x - 0.5) / 0.5), (wanted - mean) / std, atol=1e-5)

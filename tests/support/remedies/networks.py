"""Advice about networks, weights and methods: each piece is followed, and works."""

import functools
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models import build_model_with_cfg, register_model
from timm.models.vision_transformer import ParallelThingsBlock, VisionTransformer
from torch import Tensor, nn

import lookalike
from lookalike import classifiers, core, encoders, losses, optimizers, training
from lookalike.backbones import Backbone
from lookalike.core import Batch, DataFacts, Method, Progress
from lookalike.layers import Queue
from lookalike.methods import get_method
from lookalike.optim import Group, Optim
from lookalike.places import HUB
from lookalike.runs import Folder, Run
from lookalike.schedules import Schedule
from lookalike.tensor_file import write_tensors
from lookalike.views import View, make_views
from support import tiny
from support.calls import (
    Net,
    X,
    call,
    cause,
    configured,
    cut,
    distilled,
    joined,
    net,
    put,
    views,
    written,
)
from support.place import Place


class First(nn.Module):
    """The first part of a tuple."""

    def forward(self, parts: tuple[Tensor, ...]) -> Tensor:
        return parts[0]


@register_model
def lookalike_odd_vit(pretrained: bool = False, **options: object) -> nn.Module:
    """A ViT whose width is no multiple of 4."""
    own = {"patch_size": 8, "embed_dim": 18, "depth": 1, "num_heads": 2, "num_classes": 0}
    return build_model_with_cfg(VisionTransformer, "lookalike_odd_vit", pretrained, **(own | options))


def own_vit(**options: object) -> VisionTransformer:
    own = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2, "num_classes": 0}
    return VisionTransformer(**(own | options))


HIDDEN = torch.ones(2, 16, dtype=torch.bool)

PLAIN = r"Choose a plain ViT, such as (vit_small_patch16_224)\."


@functools.cache
def plain(name: str) -> Backbone:
    return net(name, mask_token=True)


def frozen() -> Net:
    module = Net()
    module.requires_grad_(False)
    return module


def half(y: Tensor) -> Tensor:
    return y.half()


NETWORKS = {
    "patches of a network that has none": call(
        lambda p: net(Net()).tokens(X), r"no patch tokens\. Choose a ViT or CNN from timm",
        lambda p, found: net(tiny.VIT).tokens(X), lambda p, found: net(tiny.CNN).tokens(X),
    ),
    "attention of a CNN": call(
        lambda p: net().attention(X), rf"has no class token that attends to patches\. {PLAIN}",
        lambda p, found: plain(found[1]).attention(X),
    ),
    "class tokens of a CNN": call(
        lambda p: net().class_tokens(X, 2), rf"has no class token\. {PLAIN}",
        lambda p, found: plain(found[1]).class_tokens(X, 4),
    ),
    "masks of a CNN": call(
        lambda p: net().tokens(X, HIDDEN), rf"does not support masks\. {PLAIN}",
        lambda p, found: plain(found[1]).tokens(X, HIDDEN[:, :4]),
    ),
    "a mask token of a CNN": call(
        lambda p: net(mask_token=True), rf"does not support masks\. {PLAIN}", lambda p, found: plain(found[1])
    ),
    "attention of blocks with two": call(
        lambda p: net(own_vit(block_fn=ParallelThingsBlock)).attention(X), rf"attention requires exactly 1\. {PLAIN}",
        lambda p, found: plain(found[1]).attention(X),
    ),
    "sine-cosine positions of an odd width": call(
        lambda p: net("lookalike_odd_vit").start_as_moco_v3(freeze_patches=True),
        rf"a width divisible by 4\. {PLAIN}",
        lambda p, found: plain(found[1]).start_as_moco_v3(freeze_patches=True),
    ),
    "masks without a mask token": call(
        lambda p: net(tiny.VIT).tokens(X, HIDDEN), r"Create the backbone with (mask_token)=True",
        lambda p, found: net(tiny.VIT, **{found[1]: True}).tokens(X, HIDDEN),
    ),
    "a network that gives no vector": call(
        lambda p: net(own_vit(global_pool="")), r"Change its last layers\.",
        lambda p, found: net(own_vit(global_pool="avg")),
    ),
    "drop path of a network of torchvision's": call(
        lambda p: net("torchvision/resnet18", drop_path=0.1),
        r"Leave it at (0), or choose a ConvNeXt, Swin, (EfficientNet) or MaxViT from torchvision, or a (ViT), ConvNeXt",
        lambda p, found: net("torchvision/resnet18", drop_path=float(found[1])),
        lambda p, found: net(f"torchvision/{found[2].lower()}_b0", drop_path=0.1),
        lambda p, found: net(tiny.VIT, drop_path=0.1),
    ),
    "drop path of a network of timm's": call(
        lambda p: net("densenet121", drop_path=0.1),
        r"Leave it at (0), or choose a ViT, ConvNeXt or (ResNet)\.",
        lambda p, found: net("densenet121", drop_path=float(found[1])),
        lambda p, found: net(f"{found[2].lower()}10t", drop_path=0.1),
    ),
    "a small stem with published weights": call(
        lambda p: net("resnet18", weights=True, stem="small"), r"Leave stem at (None)\.",
        lambda p, found: unfetched(lambda: net("resnet18", weights=True, stem=None)),
    ),
    "a small stem of a ViT": call(
        lambda p: net(tiny.VIT, stem="small"), r"has no small stem\. Leave stem at (None)\.",
        lambda p, found: net(tiny.VIT, stem=None),
    ),
    "images that are too small": call(
        lambda p: net("torchvision/squeezenet1_1", image_size=8), r"The nearest size that works is (\S+)\.$",
        lambda p, found: net("torchvision/squeezenet1_1", image_size=int(found[1])),
    ),
    "a module without parameters": call(
        lambda p: net(nn.Flatten()).check_trainable(), r"Give a module with trainable layers",
        lambda p, found: net(nn.Sequential(nn.Flatten(), nn.Linear(3072, 4))).check_trainable(),
    ),
    "a module whose parameters rest": call(
        lambda p: net(frozen()).check_trainable(), r"Give a module with trainable layers",
        lambda p, found: net(Net()).check_trainable(),
    ),
    "weights of another network": call(
        lambda p: net().load_exported(net(tiny.VIT).export_state()),
        r"Create the backbone from which they were exported",
        lambda p, found: net(tiny.VIT).load_exported(net(tiny.VIT).export_state()),
    ),
    "a module that returns a tuple": call(
        lambda p: net(Net(lambda y: (y, y))), r"Wrap it in a module that returns only the feature",
        lambda p, found: net(nn.Sequential(Net(lambda y: (y, y)), First())),
    ),
    "a module that returns half precision": call(
        lambda p: net(Net(half)), r"Convert it to float32, and choose the training precision with (--precision)",
        lambda p, found: net(Net()),
        lambda p, found: configured("simclr", found[1], "bf16"),
    ),
    "a module that passes no gradients on": call(
        lambda p: net(Net(Tensor.detach)).check_trainable(), r"Give a module that propagates gradients",
        lambda p, found: net(Net()).check_trainable(),
    ),
    "drop path of a module of one's own": call(
        lambda p: net(Net(), drop_path=0.1),
        r"is your own module: set its weights, drop path and stem before passing it", lambda p, found: net(Net()),
    ),
    "an encoder without a name": call(
        lambda p: lookalike.load(""), r"Give a run, a weights file, an exported \.onnx file, (timm)/NAME, "
        r"(torchvision)/NAME or torchhub/NAME\.",
        lambda p, found: lookalike.load(p.run), lambda p, found: lookalike.load(p.weights, tiny.CNN),
        lambda p, found: unfetched(lambda: lookalike.load(f"{found[1]}/resnet10t")),
    ),
    "weights without a name": call(
        lambda p: encoders.start_from(net(), ""),
        r"Give a run, a weights file, timm/NAME, torchvision/NAME or torchhub/",
        lambda p, found: encoders.start_from(net(tiny.VIT), str(p.run)),
        lambda p, found: encoders.start_from(net(), str(p.weights)),
    ),
    "weights of an unknown network": call(
        lambda p: lookalike.load(p.weights), r"or in Python lookalike\.load\(path, (backbone)=NAME\)",
        lambda p, found: lookalike.load(p.weights, **{found[1]: tiny.CNN}),
    ),
    "safetensors under another name": call(
        lambda p: lookalike.load(moved(p.run / "encoder.safetensors", p.out / "a.pth")),
        r"contains safetensors: rename it to end in (\.safetensors)|^safetensors: rename it to end in \.safetensors$",
        lambda p, found: lookalike.load(moved(p.out / "a.pth", p.out / f"a{found[1]}")),
    ),
    "a module of somebody's own as a teacher": call(
        lambda p: lookalike.load("<mine.Net>"), r"pass it in Python, Run\((teacher)=module\)",
        lambda p, found: built(p, "distill", "--patch-weight", "0", **{found[1]: Net()}),
    ),
    "a checkpoint of a run": call(
        lambda p: lookalike.load(Folder(p.trained).last), r"Give the run's folder, which contains encoder\.safetensors",
        lambda p, found: lookalike.load(p.trained),
    ),
    "a file without tensors": call(
        lambda p: lookalike.load(saved({"epoch": 3}, p.out / "a.pth"), tiny.CNN),
        r"Give a file of (torch\.save\(model\.state_dict\(\), path\)), or a checkpoint with such a mapping",
        lambda p, found: rerun(found[1], p, tiny_cnn()),
        lambda p, found: lookalike.load(
            saved({"epoch": 3, "model": tiny_cnn().state_dict()}, p.out / "a.pth"), tiny.CNN
        ),
    ),
    "a file of another kind": call(
        lambda p: lookalike.load(written(b"%PDF-1.7 and more", p.out / "a.pth"), tiny.CNN),
        r"Give another file, or save only the tensors where it was created: "
        r"(torch\.save\(model\.state_dict\(\), path\))",
        lambda p, found: lookalike.load(p.weights, tiny.CNN), lambda p, found: rerun(found[1], p, tiny_cnn()),
    ),
    "an encoder of a module of one's own": call(
        lambda p: lookalike.load(of_own_module(p)),
        r"pass the module, load\(path, (backbone)=module\)\. For a teacher, use "
        r"Run\((teacher)=load\(path, backbone=module\)\)",
        lambda p, found: lookalike.load(of_own_module(p), **{found[1]: Net()}),
        lambda p, found: built(
            p, "distill", "--patch-weight", "0", **{found[2]: lookalike.load(of_own_module(p), backbone=Net())}
        ),
    ),
    "weights that were changed": call(
        lambda p: lookalike.load(changed(p.run / "encoder.safetensors", p.out)), r"Copy it again\.",
        lambda p, found: lookalike.load(p.run / "encoder.safetensors"),
    ),
    "weights that were cut": call(
        lambda p: lookalike.load(cut(p.run / "encoder.safetensors", p.out)), r"Copy or save it again\.",
        lambda p, found: lookalike.load(p.run / "encoder.safetensors"),
    ),
    "a file of torch.save that was cut": call(
        lambda p: lookalike.load(cut(p.weights, p.out), tiny.CNN), r"Give another file, or copy it again\.",
        lambda p, found: lookalike.load(shutil.copy(p.weights, p.out / "again.pth"), tiny.CNN),
    ),
    "weights whose card was changed": call(
        lambda p: lookalike.load(with_card(p, dim=-5)), r"Copy the file again\.",
        lambda p, found: lookalike.load(p.run / "encoder.safetensors"),
    ),
    "weights that are sparse": call(
        lambda p: lookalike.load(saved({"conv1.weight": torch.eye(3).to_sparse()}, p.out / "a.pth"), tiny.CNN),
        r"Save dense tensors of real numbers, such as float32",
        lambda p, found: lookalike.load(saved(tiny_cnn().state_dict(), p.out / "a.pth"), tiny.CNN),
    ),
    "a checkpoint without mean and deviation": call(
        lambda p: encoders.start_from(net(), str(without_mean(p))),
        r"without the normalisation of its images\. Copy it again",
        lambda p, found: encoders.start_from(net(), str(Folder(p.trained).last)),
    ),
    "weights of torch hub that cannot be fetched": call(
        lambda p: from_hub(lambda: lookalike.load("torchhub/tiny")),
        r"or download (\S+) on a machine with network access and copy it here to (\S+)\.$",
        lambda p, found: put(p.weights, Path(found[2])) and from_hub(lambda: lookalike.load("torchhub/tiny")),
    ),
    "a file that is no classifier": call(
        lambda p: classifiers.load(p.run / "encoder.safetensors"),
        r"Give the (classifier\.safetensors) of a finetune run",
        lambda p, found: classifiers.load(p.tuned / found[1]),
    ),
    "another teacher": call(
        lambda p: taught(p.trained).load_state_dict(taught(p.run).state_dict()),
        r"Give that teacher, or start a new run\.",
        lambda p, found: taught(p.run).load_state_dict(taught(p.run).state_dict()), lambda p, found: taught(p.trained),
    ),
}  # fmt: skip


def unfetched(make: Callable[[], object]) -> object:
    """Makes a published network without fetching its weights."""
    with mock.patch("timm.models._builder.load_pretrained"):
        return make()


def built(p: Place, method: str, *options: str, **more: object) -> object:
    """A method as a training of the tiny CNN on the photos begins with it."""
    asked = configured(method, "--backbone", tiny.CNN, "--image-size", "32", "--batch-size", "8", *options)
    run, _ = training.resolve(Run(**(vars(asked) | {"data": str(p.photos)} | more)), 40)
    return training.build(run)


def tiny_cnn() -> nn.Module:
    return timm.create_model(tiny.CNN)


def moved(path: Path, to: Path) -> Path:
    return path.rename(to)


def saved(content: object, path: Path) -> Path:
    torch.save(content, path)
    return path


def changed(path: Path, folder: Path) -> Path:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    return written(bytes(content), folder / path.name)


def rerun(program: str, p: Place, model: nn.Module) -> object:
    """Runs a line of Python that a message gives, and loads what it wrote."""
    path = p.out / "again.pth"
    exec(program, {"torch": torch, "model": model, "path": path})
    return lookalike.load(path, tiny.CNN)


def of_own_module(p: Place) -> Path:
    folder = Folder(p.out / "own")
    encoders.save(folder, net(Net()), method="simclr", epochs=1, dtype=torch.uint8)
    return folder.weights


def with_card(p: Place, **values: object) -> Path:
    path = p.run / "encoder.safetensors"
    card = vars(encoders.read_card(Folder(p.run))) | values
    state, out = load_file(path), p.out / "odd.safetensors"
    save_file(state, out, {"lookalike": json.dumps(card)})
    return out


def without_mean(p: Place) -> Path:
    content = torch.load(Folder(p.trained).last, weights_only=True)
    del content["lookalike"]["mean"]
    return saved(content, p.out / "last.ckpt")


def from_hub(fetch: Callable[[], object]) -> object:
    """Without a network, from torch's own folder alone."""
    with (
        mock.patch.dict(HUB, {"tiny": (tiny.CNN, "tiny.pth")}),
        mock.patch("torch.hub.download_url_to_file", side_effect=OSError("no network")),
    ):
        return fetch()


def taught(teacher: Path) -> nn.Module:
    cls = get_method("distill")
    return cls(cls.Config(patch_weight=0.0, teacher_size=32), net(), lookalike.load(teacher))


def batch(images: int = 8, index: Sequence[int] | None = None) -> Batch:
    places = torch.tensor(range(images) if index is None else index)
    at = Progress(0, 10, 5)
    return Batch([torch.randn(len(places), 3, 32, 32) for _ in range(2)], places, at)


def learnt_by(p: Place, objective: str) -> object:
    return distilled(p, **({"mse": 0.0, "queue": 8} | {objective: 1.0}))


def clustered(*prototypes: int, survey: bool = True, images: int = 8) -> object:
    """A step of DeepCluster-v2."""
    cls = get_method("deepcluster_v2")
    cfg = cls.Config(hidden_dim=8, out_dim=4, bank=8, prototypes=prototypes, views=views(32, 32))
    method = cls(cfg, net())
    if survey:
        method.initialize_bank([batch(images)])
    return method(batch())


def pooled() -> Backbone:
    return net(Net())


class Oblong(nn.Module):
    """Somebody's own network, whose map has 2 x 3 places."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[:, :, :2, :3]


class Grouped(Method):
    """A method that sets parameters apart."""

    @dataclass(frozen=True)
    class Config(core.Config):
        views: tuple[View, ...] = ()
        optim: Optim = Optim("sgd", lr=0.1)

    def __init__(self, backbone: Backbone, own: bool, twice: bool) -> None:
        super().__init__(Grouped.Config(), backbone)
        head = nn.Linear(4, 4)
        self.held = [head]
        if own:
            self.head = head
        self.times = 2 if twice else 1

    def groups(self) -> list[Group]:
        return [Group([*self.held[0].parameters()])] * self.times


def grouped(own: bool, twice: bool, name: str = "sgd") -> object:
    return optimizers.build(Grouped(net(), own, twice), Optim(name, lr=0.1), 8, fused=False)


def without_config(body: dict[str, object]) -> object:
    return type("Mine", (Method,), body)


def config_of(program: str) -> dict[str, object]:
    """What a line that a message gives, written inside a class, defines there."""
    body: dict[str, object] = {}
    own = "\n    views: tuple = ()\n    optim: object = None\n"
    exec(program.replace(" class", "\nclass").rstrip(".") + ":" + own, {"dataclass": dataclass, "core": core}, body)
    return body


METHODS = {
    "a teacher that follows too fast, byol": call(
        lambda p: cause("byol", "--momentum.start", "0.2"), r"Give (\S+) (?:0\.9) to 0\.999\.",
        lambda p, found: cause("byol", found[1], "0.9"), lambda p, found: cause("byol", found[1], "0.999"),
    ),
    "a teacher that follows too fast, moco": call(
        lambda p: cause("moco_v2", "--momentum", "0.2"),
        r"the teacher is nearly a copy of the student\. Give (\S+) 0\.9 to 0\.999",
        lambda p, found: cause("moco_v2", found[1], "0.9"), lambda p, found: cause("moco_v2", found[1], "0.999"),
    ),
    "no centring": call(
        lambda p: cause("dino", "--no-centering"), r"Leave (--no-centering) out", lambda p, found: cause("dino")
    ),
    "targets that are vague": call(
        lambda p: cause("dino", "--teacher-temp.start", "0.2"), r"Give (--teacher-temp\.start) (\S+)\.$",
        lambda p, found: cause("dino", found[1], found[2]),
    ),
    "targets that are vague beside a sharp student": call(
        lambda p: cause("ibot", "--teacher-temp.start", "0.05", "--student-temp", "0.03"),
        r"Give (--teacher-temp\.start) (\S+)\.$",
        lambda p, found: cause("ibot", "--student-temp", "0.03", found[1], found[2]),
    ),
    "a batch of fewer images than numbers": call(
        lambda p: "".join(configured("vicreg", "--out-dim", "64").method.warnings(DataFacts(40, 32, 8))),
        r"Raise (--batch-size) or lower (--out-dim)",
        lambda p, found: "".join(configured("vicreg", "--out-dim", "64").method.warnings(DataFacts(40, 32, 64))),
        lambda p, found: "".join(configured("vicreg", found[2], "8").method.warnings(DataFacts(40, 32, 8))),
    ),
    "global views of two sizes": call(
        lambda p: get_method("ibot").Config(views=views(32, 24)), r"Give them the same size",
        lambda p, found: get_method("ibot").Config(views=views(32, 32)),
    ),
    "local views that are large": call(
        lambda p: get_method("dino").Config(views=views(24, 24, 32)),
        r"Give local views a smaller size than global ones, and put them last",
        lambda p, found: get_method("dino").Config(views=views(32, 32, 24)),
    ),
    "too many views": call(
        lambda p: get_method("simclr").Config(views=views(32, count=3)), r"Set the views' count",
        lambda p, found: get_method("simclr").Config(views=views(32, count=2)),
    ),
    "more prototypes than images": call(
        lambda p: configured("swav", "--prototypes", "41").method.check(DataFacts(40, 32, 8)),
        r"Give about (--prototypes) (\S+), or more images",
        lambda p, found: configured("swav", found[1], found[2]).method.check(DataFacts(40, 32, 8)),
        lambda p, found: configured("swav", "--prototypes", "41").method.check(DataFacts(41, 32, 8)),
    ),
    "a method without a Config": call(
        lambda p: without_config({}), r"Write inside it: (@dataclass\(frozen=True\) class Config\(core\.Config\)\.)",
        lambda p, found: without_config(config_of(found[1])),
    ),
    "no second term": call(
        lambda p: cause("barlow_twins", "--lambd", "0"), r"Give (--lambd) (0\.0051)\.$",
        lambda p, found: cause("barlow_twins", found[1], found[2]),
    ),
    "no predictor": call(
        lambda p: cause("byol", "--no-predictor"), r"Leave --no-predictor out", lambda p, found: cause("byol")
    ),
    "a bank that is too small": call(
        lambda p: configured("deepcluster_v2", "--bank", "30", "--prototypes", "4").method.check(DataFacts(40, 32, 8)),
        r"Give (--bank) (\S+)\.$",
        lambda p, found: configured("deepcluster_v2", found[1], found[2], "--prototypes", "4").method.check(
            DataFacts(40, 32, 8)
        ),
    ),
    "no groups yet": call(
        lambda p: clustered(4, survey=False), r"Call (initialize_bank)\(batches\) once before the first step",
        lambda p, found: clustered(4),
    ),
    "no prototypes": call(
        lambda p: clustered(), r"give each head's number of clusters, at least 1", lambda p, found: clustered(4, 2)
    ),
    "more groups than images": call(
        lambda p: clustered(8, images=4), r"Give fewer (--prototypes)\.", lambda p, found: clustered(4, images=4)
    ),
    "a stage of high resolution that has none": call(
        lambda p: large("--large-epochs", "1", "--large-size", "224"), r"Give more, or (--large-epochs) 0\.",
        lambda p, found: large("--large-epochs", "1", "--large-size", "448"), lambda p, found: large(found[1], "0"),
    ),
    "patches that are no square": call(
        lambda p: distilled(p, Oblong()), r"both must form square grids\. Give (--patch-weight) (0)\.",
        lambda p, found: distilled(p, Oblong(), patch_weight=float(found[2])),
    ),
    "patches of a student that is a CNN": call(
        lambda p: distilled(p, student=net(), student_feature="patches"), r"Leave --student-feature at (class),",
        lambda p, found: distilled(p, student=net(), student_feature=found[1]),
    ),
    "nothing to be learnt": call(
        lambda p: distilled(p, mse=0.0), r"Give one of (.+) a weight above 0",
        *(lambda p, found, i=i: learnt_by(p, found[1].split(", ")[i]) for i in range(4)),
    ),
    "a teacher that sees the small views": call(
        lambda p: distilled(p, views=views(16, 32)), r"Put the largest first",
        lambda p, found: distilled(p, views=views(32, 16))
    ),
    "a teacher without patches": call(
        lambda p: distilled(p, pooled(), teacher_feature="patches"),
        r"has one feature per image and no patch features\. Give --(patch-weight) (0) and --(\S+-feature) (class)\.",
        lambda p, found: distilled(
            p, pooled(), **{found[1].replace("-", "_"): float(found[2]), found[3].replace("-", "_"): found[4]}
        ),
    ),
    "a student without patches": call(
        lambda p: distilled(p, student=pooled()), r"Give --(patch-weight) (0) and --(\S+-feature) (class)\.",
        lambda p, found: distilled(p, student=pooled(), patch_weight=0.0, **{found[3].replace("-", "_"): found[4]}),
    ),
    "classes that are not known": call(
        lambda p: get_method("finetune")(get_method("finetune").Config(), net()),
        r"Use (lookalike\.finetune), which finds them in the training images, or give their names in "
        r"Config\((classes)=\.\.\.\)",
        lambda p, found: lookalike.finetune(p.run, *p.pair, out=p.out / "tuned", epochs=1, batch_size=8, workers=0),
        lambda p, found: get_method("finetune")(get_method("finetune").Config(**{found[2]: ("a", "b")}), net()),
    ),
    "several views to be tuned on": call(
        lambda p: get_method("finetune").Config(views=views(32, 32)), r"Give one of count 1",
        lambda p, found: get_method("finetune").Config(views=views(32)),
    ),
    "an encoder that is frozen, and then not": call(
        lambda p: get_method("finetune").Config(frozen=True, unfreeze_after=1.0), r"Leave one out",
        lambda p, found: get_method("finetune").Config(frozen=True),
        lambda p, found: get_method("finetune").Config(unfreeze_after=1.0),
    ),
    "nothing that keeps images apart": call(
        lambda p: cause("lejepa", "--lamb", "0"), r"Give (--lamb) (0\.05)\.$",
        lambda p, found: cause("lejepa", found[1], found[2])
    ),
    "a share above 1": call(
        lambda p: get_method("lejepa").Config(lamb=2.0), r"give 0 <= (lamb) <= (1) and (2) or more",
        lambda p, found: get_method("lejepa").Config(lamb=float(found[2]), points=int(found[3])),
        lambda p, found: get_method("lejepa").Config(lamb=0.0),
    ),
    "no stopped gradient": call(
        lambda p: cause("simsiam", "--no-stop-gradient"), r"Leave --no-stop-gradient out",
        lambda p, found: cause("simsiam")
    ),
    "groups that nothing fills evenly": call(
        lambda p: cause("swav", "--sinkhorn-iterations", "0"), r"Give (--sinkhorn-iterations) (3)\.$",
        lambda p, found: cause("swav", found[1], found[2]),
    ),
    "a target that is vague": call(
        lambda p: cause("swav", "--epsilon", "0.5"),
        r"a constant output minimises the loss\. Give (--epsilon) (\S+)\.$",
        lambda p, found: cause("swav", found[1], found[2]),
    ),
    "a target that is vague beside sharp scores": call(
        lambda p: cause("swav", "--temperature", "0.04"), r"Give (--epsilon) (\S+)\.$",
        lambda p, found: cause("swav", "--temperature", "0.04", found[1], found[2]),
    ),
    "no variance term": call(
        lambda p: cause("vicreg", "--std-coeff", "0"), r"Give (--std-coeff) (25)\.$",
        lambda p, found: cause("vicreg", found[1], found[2]),
    ),
    "a queue and other batches": call(
        lambda p: Queue(4, 8).add(torch.randn(3, 4)), r"Give a multiple of the batch size",
        lambda p, found: Queue(4, 9).add(torch.randn(3, 4)),
    ),
    "views of two shapes": call(
        lambda p: losses.nt_xent(torch.randn(4, 8), torch.randn(3, 8), 0.1), r"Give one row per image",
        lambda p, found: losses.nt_xent(torch.randn(4, 8), torch.randn(4, 8), 0.1),
    ),
    "labels of another batch": call(
        lambda p: losses.supcon(torch.randn(4, 2, 8), torch.zeros(3, dtype=torch.long), 0.1, 0.1),
        r"Give one per image",
        lambda p, found: losses.supcon(torch.randn(4, 2, 8), torch.zeros(4, dtype=torch.long), 0.1, 0.1),
    ),
    "clipping to nothing": call(
        lambda p: Optim("sgd", lr=0.1, clip=0.0), r"must be above 0\. Leave it out to clip nothing",
        lambda p, found: Optim("sgd", lr=0.1),
    ),
    "a constant rate that ends elsewhere": call(
        lambda p: Optim("sgd", lr=0.1, shape="constant", final_lr=0.01), r"Set shape to (linear) or (cosine)\.",
        lambda p, found: Optim("sgd", lr=0.1, shape=found[1], final_lr=0.01),
        lambda p, found: Optim("sgd", lr=0.1, shape=found[2], final_lr=0.01),
    ),
    "parameters of somebody else": call(
        lambda p: grouped(own=False, twice=False), r"Make its module an attribute of the method",
        lambda p, found: grouped(own=True, twice=False),
    ),
    "an optimizer with a slip": call(
        lambda p: grouped(own=True, twice=False, name="lambb"), r"The nearest names: ([^,.]+)",
        lambda p, found: grouped(own=True, twice=False, name=found[1]),
    ),
    "parameters in two groups": call(
        lambda p: grouped(own=True, twice=True), r"Leave it in one group",
        lambda p, found: grouped(own=True, twice=False)
    ),
    "a constant schedule that ends elsewhere": call(
        lambda p: Schedule(1.0, 2.0), r"has no end, but end=.+\. Set shape to (linear) or (cosine)\.",
        lambda p, found: Schedule(1.0, 2.0, found[1]), lambda p, found: Schedule(1.0, 2.0, found[2]),
    ),
    "a schedule without an end": call(
        lambda p: Schedule(1.0, None, "cosine"), r"Set end, or shape to (constant)\.",
        lambda p, found: Schedule(1.0, 2.0, "cosine"), lambda p, found: Schedule(1.0, None, found[1]),
    ),
    "a tensor that no file holds": call(
        lambda p: write_tensors(p.out / "a", {"a": torch.zeros(2, dtype=torch.complex64)}, {}), r"Convert it\.",
        lambda p, found: write_tensors(p.out / "a", {"a": torch.zeros(2)}, {}),
    ),
    "a hue that is none": call(
        lambda p: View(hue=0.7), r"give a number from (0) to (0\.5)",
        lambda p, found: [View(hue=float(end)) for end in found.groups()],
    ),
    "an even kernel": call(lambda p: View(kernel=4), r"give an odd number of pixels", lambda p, found: View(kernel=5)),
    "a kernel larger than the view": call(
        lambda p: View(size=8, blur=0.5, kernel=23), r"allow at most (\S+)\. Give a smaller kernel",
        lambda p, found: View(size=8, blur=0.5, kernel=int(found[1])),
    ),
    "a probability that is none": call(
        lambda p: View(blur=2.0), r"View\..+ is .+; give a number from (0) to (1)\.",
        lambda p, found: [View(blur=float(end)) for end in found.groups()],
    ),
    "a strength that is none": call(
        lambda p: View(contrast=-1.0), r"give a strength of at least (0)",
        lambda p, found: View(contrast=float(found[1]))
    ),
    "a range that is none": call(
        lambda p: View(scale=(0.5, 0.2)), r"give two numbers with 0 < low <= high",
        lambda p, found: View(scale=(0.2, 0.5))
    ),
    "means of other channels": call(
        lambda p: make_views(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), views(32), 0, mean=[0.5]),
        r"Give one per channel\.",
        lambda p, found: make_views(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), views(32), 0, mean=[0.5] * 3),
    ),
}  # fmt: skip


def large(*options: str) -> None:
    configured("dinov2", *options).method.check(DataFacts(40, 32, 8))


CALLS = joined(NETWORKS, METHODS)

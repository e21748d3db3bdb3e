"""What `defaults.py` tries: the networks, at most 8 settings of each method beside the default, and what it breaks.

A setting is a mapping of a Config's fields, by dotted names, to values that take the place of what fitting to the data
gives; all others stay as fitted. Its key `optim` holds a whole optimizer: AdamW's other fields (decay, clipping) are
the method's own where AdamW is its own optimizer, and else those of `FRESH`. `warmup` is a share of the training.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lookalike import losses
from lookalike.core import Batch, Config, Outputs
from lookalike.data import Source
from lookalike.methods import get_method
from lookalike.methods.byol import BYOL
from lookalike.methods.simsiam import SimSiam
from lookalike.optim import Group, Optim
from lookalike.random import key_of
from lookalike.schedules import Schedule

Overrides = Mapping[str, Any]

METHODS = (
    "simclr", "moco_v2", "byol", "simsiam", "moco_v3", "swav", "deepcluster_v2", "dino", "barlow_twins", "vicreg",
    "lejepa", "supcon", "ibot", "dinov2",
)  # fmt: skip
WITH_CNN = METHODS[:12]
WITH_VIT = "dino", "ibot", "dinov2", "moco_v3", "lejepa"
CNN, VIT, RESNET = "mobilenetv3_small_050", "vit_tiny_study", "resnet_small_study"
FOREIGN = "simclr", "byol"
"""Methods whose papers have no ViT: whether the optimizer of MoCo v3's suits them, too."""
PAIRS = tuple((m, CNN) for m in WITH_CNN) + tuple((m, VIT) for m in WITH_VIT)
"""Methods and networks of the core grid."""

SAID = "default"
"""The setting of a user who says nothing: all is fitted to the data."""

FRESH = {"scaling": "none", "weight_decay": 1e-4, "grid": "open", "warmup": 0.1}


def adamw(lr: float, **more: Any) -> Overrides:
    return {"optim": {"name": "adamw", "lr": lr, **more}}


def lars(lr: float, **more: Any) -> Overrides:
    return {"optim": {"name": "lars", "lr": lr, "weight_decay": 1e-6, **more}}


def sgd(lr: float, **more: Any) -> Overrides:
    return {"optim": {"name": "sgd", "lr": lr, **more}}


ADAMW = {"adamw 1e-3": adamw(1e-3), "adamw 3e-4": adamw(3e-4)}


def at(name: str, value: float) -> dict[str, Overrides]:
    """AdamW at its usual rate, with another temperature, momentum or the like."""
    return {f"adamw 1e-3, {name} {value:g}": {**adamw(1e-3), name: value}}


_HEAD = {"hidden_dim": 512, "bottleneck_dim": 128}
NARROW: dict[str, Overrides] = {"ibot": _HEAD, "dinov2": _HEAD}
"""What all settings of a method have, the default among them: heads that see each patch would take seconds a step."""

SETTINGS: dict[tuple[str, str], dict[str, Overrides]] = {
    ("simclr", CNN): {
        **ADAMW, "adamw 3e-3": adamw(3e-3), "lars 1": lars(1.0), "lars 2": lars(2.0), "sgd 0.1": sgd(0.1),
        **at("temperature", 0.2),
    },
    ("moco_v2", CNN): {
        **ADAMW, "lars 1": lars(1.0), "sgd 0.1": sgd(0.1), **at("temperature", 0.2), **at("momentum", 0.97),
        **at("momentum", 0.996),
    },
    ("byol", CNN): {
        **ADAMW, "lars 1": lars(1.0), **at("momentum.start", 0.97),
        "adamw 3e-4, predictor x10": {**adamw(3e-4), "predictor": "x10"},
    },
    ("simsiam", CNN): {
        **ADAMW, "lars 1": lars(1.0), "sgd 0.1": sgd(0.1),
        "adamw 3e-4, predictor x10": {**adamw(3e-4), "predictor": "x10"},
    },
    ("moco_v3", CNN): {
        **ADAMW, "lars 1": lars(1.0), **at("momentum.start", 0.97), **at("temperature", 0.1),
    },
    ("swav", CNN): {
        **ADAMW, "adamw 3e-3": adamw(3e-3), "lars 1": lars(1.0), "lars 0.3": lars(0.3), "sgd 0.1": sgd(0.1),
        **at("temperature", 0.1),
    },
    ("deepcluster_v2", CNN): {
        **ADAMW, "adamw 3e-3": adamw(3e-3), "lars 1": lars(1.0), "lars 0.3": lars(0.3), "sgd 0.1": sgd(0.1),
        **at("temperature", 0.2),
    },
    ("dino", CNN): {
        **ADAMW, "lars 1": lars(1.0), **at("momentum.start", 0.97),
    },
    ("barlow_twins", CNN): {
        **ADAMW, "adamw 3e-3": adamw(3e-3), "lars 0.3": lars(0.3),
    },
    ("vicreg", CNN): {
        **ADAMW, "adamw 3e-3": adamw(3e-3), "lars 0.3": lars(0.3),
    },
    ("lejepa", CNN): {
        **ADAMW, "adamw 3e-3": adamw(3e-3), "lars 1": lars(1.0), "lars 0.3": lars(0.3), "sgd 0.1": sgd(0.1),
        "adamw 1e-3, short warm-up": adamw(1e-3, warmup=0.02),
    },
    ("supcon", CNN): {
        **ADAMW, "adamw 3e-3": adamw(3e-3), "lars 1": lars(1.0), "sgd 0.1": sgd(0.1), "sgd 0.03": sgd(0.03),
        **at("temperature", 0.2),
    },
    # AdamW 4e-3 for 256 images, scaled, is 1e-3 for 64: the default of dino and ibot
    ("dino", VIT): {
        "adamw 3e-4": adamw(3e-4), "adamw 3e-3": adamw(3e-3), **at("teacher_temp.start", 0.04),
        **at("momentum.start", 0.97),
    },
    ("ibot", VIT): {
        "adamw 3e-4": adamw(3e-4), "adamw 3e-3": adamw(3e-3),
        "adamw 1e-3, temperatures 0.04": {**adamw(1e-3), "teacher_temp.start": 0.04, "patch_temp.start": 0.04},
    },
    ("dinov2", VIT): {
        "adamw 3e-4": adamw(3e-4), "adamw 3e-3": adamw(3e-3), **at("momentum.start", 0.97),
        **at("teacher_temp.start", 0.04),
    },
    ("moco_v3", VIT): {
        **ADAMW, **at("momentum.start", 0.97),
        "adamw 1e-3, patches learn": {**adamw(1e-3), "freeze_patches": False},
    },
    ("lejepa", VIT): {**ADAMW, "adamw 3e-3": adamw(3e-3), "adamw 1e-3, long warm-up": adamw(1e-3, warmup=0.3)},
    **{(method, VIT): {**ADAMW, "lars 1": lars(1.0)} for method in FOREIGN},
}  # fmt: skip
BEFORE = {pair: "lars 2" for pair in SETTINGS if pair[1] == CNN or pair[0] in FOREIGN}
BEFORE |= {("simclr", net): "lars_simclr 0.25" for net in (CNN, VIT)}
"""What version 0.1 gave few images, where today's default is another."""

_SIMCLR_BEFORE: Overrides = {"optim": {"name": "lars_simclr", "lr": 0.25, "weight_decay": 1e-6}}
SETTINGS = {
    pair: {
        name: {**NARROW.get(pair[0], {}), **own}
        for name, own in {
            SAID: {},
            **({BEFORE[pair]: lars(2.0) if pair[0] != "simclr" else _SIMCLR_BEFORE} if pair in BEFORE else {}),
            **settings,
        }.items()
    }
    for pair, settings in SETTINGS.items()
}

LATER: dict[tuple[str, str], dict[str, Overrides]] = {
    ("simclr", CNN): {"lars_simclr 1": {"optim": {"name": "lars_simclr", "lr": 1.0, "weight_decay": 1e-6}}},
    ("supcon", CNN): {
        "lars_simclr 1": {"optim": {"name": "lars_simclr", "lr": 1.0, "weight_decay": 1e-3}},
        "sgd 0.1": sgd(0.1),
    },
    ("swav", CNN): {"larc 1": {"optim": {"name": "larc", "lr": 1.0, "weight_decay": 1e-6, "exclude": False}}},
    ("lejepa", CNN): {"adamw 1e-2": adamw(1e-2)},
    ("moco_v3", VIT): at("momentum.start", 0.9),
    ("dino", VIT): at("momentum.start", 0.9),
    ("lejepa", VIT): {
        f"adamw {lr}, decay 0.05": adamw(float(lr), weight_decay=0.05) for lr in ("5e-4", "1e-3", "2e-3")
    },
    ("barlow_twins", CNN): {
        "lars 0.3": lars(0.3),
        "width 2048": {"hidden_dim": 2048, "out_dim": 2048},
        "lars 1 and slow biases": lars(1.0, lr_bias=0.024),
        "lars 1 and width 256": {**lars(1.0), "hidden_dim": 512, "out_dim": 256},
        "lars 0.3 and width 256": {**lars(0.3), "hidden_dim": 512, "out_dim": 256},
    },
    ("vicreg", CNN): {"lars 1 and width 256": {**lars(1.0), "hidden_dim": 512, "out_dim": 256}},
    ("dino", CNN): {
        "momentum.start 0.97": {"momentum.start": 0.97},
        "momentum.start 0.9": {"momentum.start": 0.9},
        "teacher_temp.start 0.04": {"teacher_temp.start": 0.04},
        "lars 1": lars(1.0),
        "narrow head": {"hidden_dim": 512, "bottleneck_dim": 128},
    },
}
"""Settings that only the last round has: the paper's optimizer with a rate for few steps, where the first round's best
has another optimizer. A rule must not change the optimizer with the number of images."""


def network(name: str, size: int, drop_path: float, seed: int) -> str | nn.Module:
    """What `Run.backbone` takes; a module has the weights of the seed."""
    if name not in (VIT, RESNET):
        return name
    with torch.random.fork_rng():
        torch.manual_seed(key_of(seed, "weights"))
        if name == RESNET:
            from networks import small_resnet

            return small_resnet()
        from timm.models.vision_transformer import VisionTransformer

        # `networks.vit_patch4` with patches of 8, for any size; blocks are skipped as often as the method says
        return VisionTransformer(
            img_size=size, patch_size=8, embed_dim=64, depth=3, num_heads=2, num_classes=0, drop_path_rate=drop_path
        )


class EagerBYOL(BYOL):
    """Its predictor learns ten times as fast as the rest."""

    @dataclasses.dataclass(frozen=True)
    class Config(BYOL.Config):
        pass

    def groups(self) -> list[Group]:
        return [Group(self.predictor.parameters(), lr_scale=10)]


class EagerSimSiam(SimSiam):
    """Its predictor learns ten times as fast as the rest, at a constant rate as ever."""

    @dataclasses.dataclass(frozen=True)
    class Config(SimSiam.Config):
        pass

    def groups(self) -> list[Group]:
        return [Group(self.predictor.parameters(), lr=Schedule(self.cfg.optim.lr), lr_scale=10)]


class UnpredictedSimSiam(SimSiam):
    """Two views get one answer; none predicts the other."""

    @dataclasses.dataclass(frozen=True)
    class Config(SimSiam.Config):
        pass

    def groups(self) -> list[Group]:
        return []

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        z1, z2 = (self.projector(self.backbone(view)) for view in batch.views)
        return {"loss": (losses.simsiam(z1, z2) + losses.simsiam(z2, z1)) / 2}

    def metrics(self, outputs: Outputs) -> dict[str, float]:
        return {}

    def diagnose(self) -> str:
        return "There is no predictor: one answer for all images is enough."


EAGER: dict[str, type[BYOL] | type[SimSiam]] = {"byol": EagerBYOL, "simsiam": EagerSimSiam}


def configured(method: str, overrides: Overrides, epochs: int) -> tuple[Config, tuple[str, ...]]:
    """The configuration with a setting's values, and their names, which fitting leaves alone."""
    own: type[Config] = EAGER[method].Config if overrides.get("predictor") == "x10" else get_method(method).Config
    cfg: Config = own()  # type: ignore[call-arg]
    given: list[str] = []
    for name, value in overrides.items():
        if name == "optim":
            cfg = dataclasses.replace(cfg, optim=_optimizer(cfg.optim, value, epochs))
            given += ["optim.name", "optim.warmup_epochs"]
        elif value != "x10":
            cfg = changed(cfg, name.split("."), value)
            given.append(name)
    return cfg, tuple(given)


def changed(part: Any, path: list[str], value: Any) -> Any:
    """A configuration with the value at a path such as momentum, start."""
    if not path:
        return value
    return dataclasses.replace(part, **{path[0]: changed(vars(part)[path[0]], path[1:], value)})


def _optimizer(own: Optim, wanted: Mapping[str, Any], epochs: int) -> Optim:
    kept = wanted["name"] == "adamw" == own.name
    fields = {"scaling": "none", "warmup": FRESH["warmup"]} if kept else FRESH
    fields = {**fields, **wanted}
    fields["warmup_epochs"] = fields.pop("warmup") * epochs
    if "weight_decay" in fields:
        fields["weight_decay"] = Schedule(fields["weight_decay"])
    return dataclasses.replace(own, **fields) if kept else Optim(**fields)


# ---------------------------------------------------------------- broken trainings


@dataclass(frozen=True)
class Break:
    """One way to break a training."""

    methods: tuple[tuple[str, str], ...]
    """The methods and networks that are broken so."""
    sets: int
    """On how many of the sets."""
    overrides: Overrides = dataclasses.field(default_factory=dict)
    """Fields that break the method."""
    rate: float = 1.0
    """All learning rates are multiplied by it."""


def _with_cnn(*methods: str) -> tuple[tuple[str, str], ...]:
    return tuple((m, CNN) for m in methods)


DINOS = ("dino", CNN), ("dino", VIT)

BROKEN: dict[str, Break] = {
    "rate 0": Break((*_with_cnn("simclr", "moco_v2", "byol", "lejepa", "swav"), ("dino", VIT)), 2, rate=0.0),
    "rate x100": Break(
        (*_with_cnn("simclr", "moco_v2", "byol", "simsiam", "vicreg", "barlow_twins", "lejepa", "swav"), ("dino", VIT)),
        2, rate=100.0,
    ),
    "shuffled pixels": Break((*_with_cnn("simclr", "byol", "vicreg", "moco_v2"), ("dino", VIT)), 1),
    "constant images": Break((*_with_cnn("simclr", "byol", "vicreg", "moco_v2"), ("dino", VIT)), 1),
    "no predictor": Break(_with_cnn("byol", "simsiam"), 3, {"predictor": False}),
    "no stopped gradient": Break(_with_cnn("simsiam"), 1, {"stop_gradient": False}),
    "no centring": Break(DINOS, 2, {"centering": False}),
    "no sharpening": Break((*DINOS, ("dinov2", VIT)), 1, {"teacher_temp.start": 0.5}),
    "lambda 0": Break(_with_cnn("barlow_twins"), 2, {"lambd": 0.0}),
    "no normality": Break(_with_cnn("lejepa"), 4, {"lamb": 0.0}),
    "no variance": Break(_with_cnn("vicreg"), 2, {"std_coeff": 0.0}),
}  # fmt: skip


def broken(cfg: Config, name: str) -> Config:
    """A settled configuration, broken."""
    what = BROKEN[name]
    for field, value in what.overrides.items():
        if field == "predictor" and isinstance(cfg, SimSiam.Config):
            cfg = UnpredictedSimSiam.Config(**vars(cfg))
        else:
            cfg = changed(cfg, field.split("."), value)
    o = cfg.optim
    rates = {n: vars(o)[n] * what.rate for n in ("lr", "lr_bias", "warmup_lr", "final_lr") if vars(o)[n] is not None}
    return dataclasses.replace(cfg, optim=dataclasses.replace(o, **rates))


class Shuffled(Source):
    """Images whose pixels are permuted anew each time that they are read."""

    def __init__(self, source: Source, seed: int) -> None:
        self.source = source
        self.channels, self.labels, self.classes = source.channels, source.labels, source.classes
        self.generator = torch.Generator().manual_seed(key_of(seed, "pixels"))

    def __len__(self) -> int:
        return len(self.source)

    @property
    def keys(self) -> Tensor:
        return self.source.keys

    def name(self, i: int) -> str:
        return self.source.name(i)

    def read(self, i: int, decode_size: int | None) -> Tensor:
        image = self.source.read(i, decode_size)
        order = torch.randperm(image[0].numel(), generator=self.generator)
        return image.flatten(1)[:, order].view(image.shape).contiguous()


class Constant(Shuffled):
    """Images that are all the same grey."""

    def read(self, i: int, decode_size: int | None) -> Tensor:
        return torch.full_like(self.source.read(i, decode_size), 127)


def shown(source: Source, name: str | None, seed: int) -> Source:
    """What a training sees of the images."""
    if name == "shuffled pixels":
        return Shuffled(source, seed)
    return Constant(source, seed) if name == "constant images" else source

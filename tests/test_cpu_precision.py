"""The precision of networks on a CPU, where none is stated."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
import timm
import torch
from support import tiny
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import lookalike
from lookalike import training
from lookalike.backbones import create
from lookalike.backbones.cpu_precision import is_faster_in_bf16
from lookalike.devices import has_bf16_instructions
from lookalike.evaluation.features import Features, faster_precision, features
from lookalike.evaluation.protocol_table import FeaturePrecision
from lookalike.methods.simclr import SimCLR
from lookalike.runs import Run, read_run

FASTER = (
    "resnet18", "resnet50", "resnext50_32x4d", "regnety_004", "vgg11_bn", "densenet121", "torchvision/resnet18",
    "vit_tiny_patch16_224", "vit_small_patch16_224", "swin_tiny_patch4_window7_224",
)  # fmt: skip
SLOWER = "mobilenetv3_small_050", "efficientnet_b0", "convnext_atto", "mobilevit_s"


def cpuinfo(root: Path, flags: str) -> Path:
    (root / "proc").mkdir(exist_ok=True)
    (root / "proc/cpuinfo").write_text(f"processor : 0\nflags\t\t: fpu {flags}\n\nprocessor : 1\nflags\t\t: fpu\n")
    return root


@pytest.fixture
def bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor with bf16 instructions; without them torch computes the same, slowly."""
    for module in ("training.resolved", "evaluation.features"):
        monkeypatch.setattr(sys.modules[f"lookalike.{module}"], "has_bf16_instructions", lambda: True)


@pytest.mark.parametrize("name", FASTER)
def test_dense_convolutions_and_wide_transformers_are_faster(name: str) -> None:
    assert is_faster_in_bf16(name)


@pytest.mark.parametrize("name", SLOWER)
def test_networks_with_depthwise_convolutions_are_slower(name: str) -> None:
    assert not is_faster_in_bf16(name)


@pytest.mark.parametrize(("width", "faster"), [(64, False), (96, False), (128, True), (192, True)])
def test_the_width_of_a_transformer_decides(width: int, faster: bool) -> None:
    net = VisionTransformer(img_size=32, patch_size=8, embed_dim=width, depth=2, num_heads=2, num_classes=0)
    assert is_faster_in_bf16(net) is faster


def test_a_module_and_its_name_have_the_same_precision() -> None:
    for name in ("resnet18", "mobilenetv3_small_050"):
        assert is_faster_in_bf16(timm.create_model(name)) is is_faster_in_bf16(name)
    assert not is_faster_in_bf16(nn.Flatten())


def test_convolutions_of_single_pixels_are_no_patches() -> None:
    assert is_faster_in_bf16(nn.Sequential(nn.Conv2d(3, 64, 4, 4), nn.Conv2d(64, 64, 1)))


@pytest.mark.parametrize(
    ("flags", "limit", "expected"),
    [
        ("avx512f avx512_bf16", None, True), ("avx512f avx512_vnni", None, False), ("avx512_bf16_other", None, False),
        ("avx512_bf16", "AVX512_CORE", False), ("avx512_bf16", "avx2", False), ("avx512_bf16", "DEFAULT", True),
    ],
)  # fmt: skip
def test_instructions_of_the_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str, limit: str | None, expected: bool
) -> None:
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    if limit is not None:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert has_bf16_instructions(cpuinfo(tmp_path, flags)) is expected


def test_a_system_without_proc_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    assert not has_bf16_instructions(tmp_path)


@pytest.mark.usefixtures("bf16")
def test_a_training_resolves_its_precision_once(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(
        data=str(photos), method=SimCLR.Config(), backbone=tiny.CNN, image_size=32, batch_size=8, epochs=1, workers=0,
        out=str(tmp_path / "run"),
    )  # fmt: skip
    result = lookalike.pretrain(run)
    assert read_run(tmp_path / "run/run.yaml").precision == "bf16"
    assert all(p.dtype == torch.float32 for p in result.encoder().parameters())
    again = lookalike.pretrain(dataclasses.replace(run, out=str(tmp_path / "again")))
    assert [row.get("loss") for row in again.metrics] == [row.get("loss") for row in result.metrics]
    # resumed where there are no such instructions
    monkeypatch.setattr("lookalike.training.resolved.has_bf16_instructions", lambda: False)
    lookalike.pretrain(dataclasses.replace(run, resume=True, epochs=2))
    assert read_run(tmp_path / "run/run.yaml").precision == "bf16"


@pytest.mark.usefixtures("bf16")
def test_a_stated_precision_is_kept(photos: Path) -> None:
    run = Run(
        data=str(photos), method=SimCLR.Config(), backbone=tiny.CNN, image_size=32, batch_size=8, precision="fp32"
    )
    assert training.resolve(run, 40)[0].precision == "fp32"
    slower = dataclasses.replace(run, backbone="mobilenetv3_small_050", precision=None)
    assert training.resolve(slower, 40)[0].precision == "fp32"


@pytest.mark.usefixtures("bf16")
def test_features_in_bf16_are_near_those_in_fp32(photos: Path) -> None:
    encoder = create(tiny.CNN, image_size=32).eval()
    assert faster_precision(encoder) == "bf16"
    half, full = (lookalike.embed(encoder, photos, precision=p).features for p in (None, "fp32"))
    assert half.dtype == torch.float32
    assert not torch.equal(half, full)
    assert torch.cosine_similarity(half, full).min() > 0.999


@pytest.mark.usefixtures("bf16")
def test_only_encoders_in_float32_have_another_precision(photos: Path) -> None:
    encoder = create(tiny.CNN, image_size=32).double().eval()
    assert faster_precision(encoder) == "fp32"
    stated, plain = (lookalike.embed(encoder, photos, precision=p) for p in ("bf16", None))
    assert torch.equal(stated.features, plain.features)


@pytest.mark.usefixtures("bf16")
@pytest.mark.parametrize("stated", ["fp32", None])
def test_a_stated_precision_of_a_comparison_is_that_of_its_evaluations(
    labelled: Path, tmp_path: Path, stated: Literal["fp32"] | None
) -> None:
    train, test = str(labelled / "train"), str(labelled / "test")
    asked = lookalike.Comparison(
        data=train, methods=("simclr",), train=(train,), test=(test,), seeds=1, backbone=tiny.CNN, image_size=32,
        batch_size=8, epochs=1, workers=0, precision=stated, protocols=("knn",), out=str(tmp_path / "comparison"),
    )  # fmt: skip
    lookalike.compare(asked)
    found = [json.loads(file.read_text()) for file in (tmp_path / "comparison").rglob("evaluation.json")]
    assert found
    named = {entry["settings"].get("precision", "fp32") for entries in found for entry in entries}
    assert named == {stated or "bf16"}


@pytest.mark.usefixtures("bf16")
@pytest.mark.parametrize("stated", ["fp32", None])
def test_the_probe_has_the_precision_of_its_run(
    photos: Path, labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stated: Literal["fp32"] | None
) -> None:
    seen: set[str] = set()

    def recorded(*args: Any, precision: FeaturePrecision, **rest: Any) -> Features:
        seen.add(precision)
        return features(*args, precision=precision, **rest)

    monkeypatch.setattr("lookalike.training.monitor.features", recorded)
    run = Run(
        data=str(photos), method=SimCLR.Config(), backbone=tiny.CNN, image_size=32, batch_size=8, epochs=1, workers=0,
        out=str(tmp_path / "run"), probe=(str(labelled / "train"), str(labelled / "test")), precision=stated,
    )  # fmt: skip
    lookalike.pretrain(run)
    assert seen == {stated or "bf16"}
    seen.clear()  # resumed where there are no such instructions
    monkeypatch.setattr(sys.modules["lookalike.evaluation.features"], "has_bf16_instructions", lambda: False)
    lookalike.pretrain(dataclasses.replace(run, resume=True, epochs=2))
    assert seen == {stated or "bf16"}


@pytest.mark.usefixtures("bf16")
def test_the_cache_separates_precisions(photos: Path, tmp_path: Path) -> None:
    run = Run(
        data=str(photos), method=SimCLR.Config(), backbone=tiny.CNN, image_size=32, batch_size=8, epochs=1, workers=0,
        out=str(tmp_path / "run"),
    )  # fmt: skip
    lookalike.pretrain(run)
    lines: list[str] = []
    for precision in ("fp32", "bf16", "fp32"):
        lookalike.embed(run.out, photos, precision=precision, say=lines.append)
    assert "from the cache" in lines[-1]
    assert sum("from the cache" in line for line in lines) == 1

"""Files of exports by format: who opens them, what becomes of one that is not verified, and of those before it."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from support import exports, networks
from support.exports import blocked, changed, cnn, pictures, weights
from torch import nn

import lookalike
from lookalike import backbones, classifiers, cli, encoders
from lookalike.classifiers import Classifier
from lookalike.commands.export_files import NotVerified
from lookalike.exports import making, onnx_graph, timm_folder
from lookalike.runs import Folder

pytestmark = pytest.mark.long(31)

REPOSITORY = Path(__file__).parents[1]


def export(*argv: object) -> int:
    return cli.main(["export", *map(str, argv)])


def there(folder: Path) -> set[str]:
    return {each.name for each in folder.iterdir()}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """44 images, of which 4 are broken."""
    folder = pictures(tmp_path_factory.mktemp("images") / "data", 44, [(24, 20), (48, 64), (90, 40)])
    for i in (3, 14, 15, 40):
        path = folder / f"{i:03d}.jpg"
        path.write_bytes(path.read_bytes()[:60])
    return folder


@pytest.fixture(scope="module")
def run(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with the tiny CNN. Exports go elsewhere."""
    return exports.saved(tmp_path_factory.mktemp("runs") / "cnn", cnn(), images)


@pytest.fixture(scope="module")
def vit(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with a ViT of timm."""
    torch.manual_seed(0)
    encoder = exports.moved(backbones.create("test_vit", image_size=32))
    return exports.saved(tmp_path_factory.mktemp("runs") / "vit", encoder, images)


@pytest.fixture(scope="module")
def tuned(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with a classifier, on that ViT."""
    torch.manual_seed(1)
    encoder = exports.moved(backbones.create("test_vit", image_size=32)).eval()
    folder = Folder(exports.saved(tmp_path_factory.mktemp("runs") / "tuned", encoder, images))
    classifiers.save(folder, Classifier(encoder, nn.Linear(64, 3), ["cat", "dog", "owl"]), encoders.read_card(folder))
    return folder.path


def test_a_file_without_one_of_its_outputs_fails(tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class WithoutProbabilities(making.ByTorchExport):
        def run(self, images: Any) -> Any:
            return {name: value for name, value in super().run(images).items() if name != "probabilities"}

    monkeypatch.setattr(making, "ByTorchExport", WithoutProbabilities)
    with pytest.raises(NotVerified, match=r"differs from the encoder: the file has no output probabilities\."):
        lookalike.export(tuned, format="pt2", out=tmp_path / "a")
    assert "classifier.pt2.unverified" in there(tmp_path / "a")


def scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on, traced graphs have a weight tensor in their middle that is scaled by 1 %."""
    trace = onnx_graph.trace

    def wrong(*arguments: object, **options: object) -> onnx.ModelProto:
        model = trace(*arguments, **options)  # type: ignore[arg-type]
        names = weights(model)
        return changed(model, names[len(names) // 2], lambda w: w * 1.01)

    monkeypatch.setattr(onnx_graph, "trace", wrong)


# ---------------------------------------------------------------- not verified


def test_a_file_outside_the_limits_is_renamed(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scaled(monkeypatch)
    out = tmp_path / "a"
    assert export(run, "--out", out) == 1
    said = capsys.readouterr()
    assert there(out) == {"encoder.onnx.unverified", "export.json", "README.md"}
    assert re.fullmatch(
        rf"error: {out}/encoder\.onnx\.unverified differs from the encoder: the features of an image deviate by 0\.\d+ "
        r"of their length at batch size \d and 32 x 32 pixels \(limit 1e-05\)\.",
        said.err.strip(),
    )
    assert "Wrote" not in said.out
    record = json.loads((out / "export.json").read_text())
    assert record["status"] == "failed"
    assert record["failures"][0] in said.err
    assert {*record["files"]} == {"encoder.onnx.unverified"}
    assert "**Failed.** Do not use this file." in (out / "README.md").read_text()


def test_a_fault_before_the_cast_fails_in_fp16(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1 % of a tensor is within the limits of fp16, but the graph was wrong before."""
    scaled(monkeypatch)
    with pytest.raises(NotVerified, match="differs from the encoder: in fp32, the features of an image deviate by"):
        lookalike.export(run, precision="fp16", out=tmp_path / "a")
    assert there(tmp_path / "a") == {"encoder.onnx.unverified", "export.json", "README.md"}


def test_a_wrong_mean_in_the_file_fails(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = making.metadata

    def wrong(*arguments: object, **options: object) -> dict[str, str]:
        return metadata(*arguments, **options) | {"mean": "[0.5, 0.456, 0.406]"}  # type: ignore[arg-type]

    monkeypatch.setattr(making, "metadata", wrong)
    with pytest.raises(NotVerified, match=r"the mean is stated as 0\.5, 0\.456, 0\.406; the encoder's is 0\.485, 0\.4"):
        lookalike.export(run, format="pt2", out=tmp_path / "a")


@pytest.mark.slow
def test_swapped_channels_of_the_preprocessing_fail(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = making.Preprocessing.forward
    monkeypatch.setattr(making.Preprocessing, "forward", lambda self, images: forward(self, images.flip(3)))
    with pytest.raises(NotVerified, match="the features of an image deviate by"):
        lookalike.export(run, format="pt2", with_preprocessing=True, out=tmp_path / "a")


def test_without_images_it_is_not_verified(tmp_path: Path, capsys: pytest.CaptureFixture[str], images: Path) -> None:
    out = tmp_path / "a"
    encoder = exports.saved(tmp_path / "alone", cnn(), None)
    assert export(encoder, "--format", "pt2", "--out", out) == 1
    assert capsys.readouterr().err.strip() == (
        f"error: {out}/encoder.pt2.unverified was not verified: there were no images to compare it on. Repeat the "
        "command with --check DATA and --overwrite."
    )
    assert there(out) == {"encoder.pt2.unverified", "export.json", "README.md"}
    record = json.loads((out / "export.json").read_text())
    assert (record["status"], record["verifications"]) == ("unverified", [])
    assert "**Not verified**: there were no images." in (out / "README.md").read_text()
    # as the message advises
    assert export(encoder, "--format", "pt2", "--out", out, "--check", images, "--overwrite") == 0
    assert there(out) == {"encoder.pt2", "export.json", "README.md"}


def test_broken_images_are_left_out_and_the_command_is_recorded(run: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "a b"
    (found,) = lookalike.export(run, format="pt2", patch_tokens=True, check=images, out=out).verifications
    assert found.images == 40
    command = json.loads((out / "export.json").read_text())["command"]
    assert command == f"lookalike export {run} --format pt2 --patch-tokens --check {images} --out '{out}'"
    assert command in (out / "README.md").read_text()


def test_only_broken_images_are_none(run: Path, tmp_path: Path) -> None:
    data = pictures(tmp_path / "data", 3)
    for path in data.iterdir():
        path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(NotVerified, match="was not verified: there were no images to compare it on"):
        lookalike.export(run, format="pt2", check=data, out=tmp_path / "a")
    with pytest.raises(ValueError, match=r"None of the 3 images could be read\. Give other images with --calibrate"):
        lookalike.export(run, precision="int8", calibrate=data, out=tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_deep_images_do_not_fit_the_preprocessing(run: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    for i in range(12):
        exports.deep(data / f"{i}.png", i)
    with pytest.raises(ValueError, match=r"takes uint8 images, but these are .*\. Leave --with-preprocessing out\."):
        lookalike.export(run, with_preprocessing=True, format="pt2", check=data, out=tmp_path / "a")
    assert not (tmp_path / "a").exists()
    assert lookalike.export(run, format="timm", check=data, out=tmp_path / "a").status == "verified"


# ---------------------------------------------------------------- nothing is half-written


class Baked(nn.Module):
    """A module that makes the number of images a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x).mean((2, 3)) * (2 if x.shape[0] == 2 else 1)


def test_an_export_that_fails_leaves_nothing(
    run: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "a" / "b"
    for format in ("onnx", "pt2"):
        with pytest.raises(ValueError, match=r"Baked.* cannot be exported"):
            lookalike.export(backbones.create(Baked(), image_size=32), format=format, check=images, out=out)
        assert not out.exists()

    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(making, "verify", full)
    with pytest.raises(OSError, match="No space left"):
        lookalike.export(run, format="pt2", out=out)
    assert not out.exists()


def test_an_export_that_is_killed_leaves_no_file(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "a"
    script = """
import os, signal
from support import tiny
import lookalike
from lookalike.exports import making
def verify(*arguments, **options):
    os.kill(os.getpid(), signal.SIGKILL)
making.verify = verify
lookalike.export(sys.argv[1], format="pt2", out=sys.argv[2])
"""
    done = exports.process(script, run, out)
    assert done.returncode == -signal.SIGKILL
    assert not [name for name in there(out) if not name.startswith(".export-")]
    assert [*out.glob(".export-*/encoder.pt2")]
    assert lookalike.export(run, format="pt2", out=out).status == "verified"
    assert {"encoder.pt2", "export.json", "README.md"} <= there(out)


def test_an_export_is_replaced_only_on_request(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a"
    assert export(run, "--format", "pt2", "--out", out) == 0
    before = {path: path.read_bytes() for path in out.iterdir()}
    capsys.readouterr()
    assert export(run, "--format", "timm", "--out", out) == 1
    assert capsys.readouterr().err == f"error: {out} holds an export. Give another --out, or --overwrite.\n"
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    # one that fails while it is made leaves the old one, too
    with monkeypatch.context() as patch:
        patch.setattr(timm_folder, "write", lambda *arguments: 1 / 0)
        assert export(run, "--format", "timm", "--out", out, "--overwrite") == 1
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    (out / "mine.txt").write_text("mine")
    assert export(run, "--format", "timm", "--out", out, "--overwrite") == 0
    assert there(out) == {"config.json", "model.safetensors", "export.json", "README.md", "mine.txt"}


def test_other_folders_are_left_alone(run: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError, match=r"is not empty and holds no export\. Give another --out\."):
        lookalike.export(run, format="pt2", out=tmp_path / "a", overwrite=True)
    with pytest.raises(FileExistsError, match=r"is not a folder\. Give another --out\."):
        lookalike.export(run, format="pt2", out=tmp_path / "file", overwrite=True)


def test_the_default_folder_is_in_the_run(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = exports.saved(tmp_path / "run", cnn(), images)
    assert lookalike.export(folder, format="timm").folder == folder / "export" / "timm"
    file = Folder(folder).weights
    assert lookalike.export(file, format="timm", overwrite=True).folder == folder / "export" / "timm"
    assert lookalike.export(folder, precision="fp16").folder == folder / "export" / "onnx-fp16"
    assert lookalike.export(cnn(), format="timm", check=images).folder == Path("export") / "timm"


# ---------------------------------------------------------------- formats


@pytest.fixture(scope="module")
def others(
    vit: Path, tuned: Path, images: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Path], dict[str, Any]]:
    """Exports, and what other programs make of them in a process of their own, without lookalike."""
    root = tmp_path_factory.mktemp("exports")
    folders = {
        "onnx": lookalike.export(vit, out=root / "onnx").folder,
        "pt2": lookalike.export(vit, format="pt2", with_preprocessing=True, out=root / "pt2").folder,
        "timm": lookalike.export(vit, format="timm", out=root / "timm").folder,
        "classifier": lookalike.export(tuned, format="timm", out=root / "classifier").folder,
    }
    for folder in folders.values():
        (folder / "photo.jpg").write_bytes((images / "001.jpg").read_bytes())
    x = torch.randn(5, 3, 32, 32)
    torch.save(x, root / "x.pt")
    script = """
import os, re, timm, torch, transformers
root = sys.argv[1]
x = torch.load(f"{root}/x.pt")
found = {}
with torch.inference_mode():
    for name in ("classifier", "timm"):
        folder = f"{root}/{name}"
        model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        found[name] = model(x)
        found[name + " by transformers"] = transformers.AutoModel.from_pretrained(folder)(x).pooler_output
        found[name + " normalisation"] = timm.data.resolve_model_data_config(model)
    found["labels"] = timm.create_model(f"local-dir:{root}/classifier", pretrained=True).pretrained_cfg["label_names"]
    classifier = transformers.AutoModelForImageClassification.from_pretrained(f"{root}/classifier")
    found["logits by transformers"] = classifier(x).logits
    found["names by transformers"] = classifier.config.id2label
for name in ("onnx", "pt2", "timm"):
    os.chdir(f"{root}/{name}")
    (code,) = re.findall("```python\\n(.*?)```", open("README.md").read(), re.S)
    names = {}
    exec(code, names)
    found[f"code of {name}"] = torch.as_tensor(names["output" if name == "timm" else "features"])
torch.save(found, f"{root}/y.pt")
"""
    blocked(script, root, without=("lookalike",))
    return folders, {"x": x} | torch.load(root / "y.pt", weights_only=False)


def test_the_timm_folder_opens_in_timm_and_transformers(
    others: tuple[dict[str, Path], dict[str, Any]], tuned: Path, vit: Path
) -> None:
    folders, found = others
    for name in ("classifier", "timm"):
        assert there(folders[name]) == {"config.json", "model.safetensors", "export.json", "README.md", "photo.jpg"}
        record = json.loads((folders[name] / "export.json").read_text())
        assert record["status"] == "verified"
        assert [each["program"].split()[0] for each in record["verifications"]] == ["timm", "transformers"]
    classifier, encoder, x = classifiers.load(tuned), encoders.load(vit), found["x"]
    with torch.inference_mode():
        wanted = {
            "classifier": classifier(x), "classifier by transformers": classifier.encoder(x), "timm": encoder(x),
            "timm by transformers": encoder(x), "logits by transformers": classifier(x),
        }  # fmt: skip
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)
    assert [*found["labels"]] == ["cat", "dog", "owl"]
    assert {int(k): v for k, v in found["names by transformers"].items()} == {0: "cat", 1: "dog", 2: "owl"}
    for name in ("classifier", "timm"):
        stated = found[f"{name} normalisation"]
        assert tuple(stated["input_size"]) == (3, 32, 32)
        assert stated["mean"] == pytest.approx(encoder.mean)
        assert (stated["interpolation"], stated["crop_pct"]) == ("bicubic", pytest.approx(32 / 37))


@pytest.mark.parametrize("name", ["onnx", "pt2", "timm"])
def test_the_code_in_the_model_card_gives_the_features_of_embed(
    name: str, others: tuple[dict[str, Path], dict[str, Any]], vit: Path, images: Path
) -> None:
    """On a JPEG file; the program of torch.export has its preprocessing in the graph."""
    wanted = lookalike.embed(vit, [str(images / "001.jpg")], keep=False).features
    assert (others[1][f"code of {name}"] - wanted).norm() <= 1e-5 * wanted.norm()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: backbones.create("resnet10t", image_size=32), r"This resnet10t has the small stem .* Use --format"),
        (lambda: backbones.create("torchvision/resnet18", image_size=64), r"is torchvision's network, .* Use --format"),
        (lambda: backbones.create(networks.vit(), image_size=32), r"is your own module, which timm .* Use --format"),
    ],
)  # fmt: skip
def test_what_timm_cannot_build_is_refused(
    make: Callable[[], nn.Module], message: str, images: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        lookalike.export(make(), format="timm", check=images, out=tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_tensorrt_without_a_gpu_leaves_the_command(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lookalike.exports.tensorrt_engine.can_build", lambda: False)
    out = tmp_path / "a"
    assert export(run, "--format", "tensorrt", "--out", out) == 0
    assert there(out) == {"encoder.onnx", "build_engine.sh", "export.json", "README.md"}
    command = (
        "trtexec --onnx=encoder.onnx --saveEngine=encoder.engine --stronglyTyped --noTF32 --minShapes=images:1x3x32x32 "
        "--optShapes=images:8x3x32x32 --maxShapes=images:64x3x32x32"
    )
    assert (out / "build_engine.sh").read_text().splitlines()[-1] == command
    assert f"Next, on a machine with a GPU, in {out}: {command}\n" in capsys.readouterr().out
    (tmp_path / "bin").mkdir()
    tool = tmp_path / "bin" / "trtexec"
    tool.write_text('#!/bin/sh\necho "$@" > called\n')
    tool.chmod(0o755)
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(["sh", "build_engine.sh"], cwd=out, env=os.environ | {"PATH": path}, check=True)
    assert f"trtexec {(out / 'called').read_text().strip()}" == command


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--format", "pt2", "--precision", "fp16"], "pt2 is exported in fp32 only. Leave --precision out."),
        (["--format", "timm", "--patch-tokens"],
         "--patch-tokens needs a graph, but timm holds weights and settings. Leave it out."),
        (["--format", "tensorrt", "--with-preprocessing"],
         "TensorRT has no 64-bit numbers, which the preprocessing in the graph needs. Leave --with-preprocessing out, "
         "and normalise as README.md in the export shows."),
        (["--with-preprocessing", "--dynamic-size"],
         "--with-preprocessing takes images of any size and crops them to the encoder's. Leave --dynamic-size out."),
    ],
)  # fmt: skip
def test_options_that_do_not_fit_are_refused(
    argv: list[str], message: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(run, *argv, "--out", tmp_path / "a") == 1
    assert capsys.readouterr().err == f"error: {message}\n"
    for option in ("--format", "--precision"):
        with pytest.raises(ValueError, match=r"There is no (format|precision) 'x'\. Choose from "):
            lookalike.export(run, **{option.removeprefix("--"): "x"})


def test_int8_needs_images(tmp_path: Path) -> None:
    encoder = exports.saved(tmp_path / "alone", cnn(), None)
    with pytest.raises(ValueError, match=r"int8 needs images to measure .*\. Give --calibrate DATA\."):
        lookalike.export(encoder, precision="int8")
    assert not (tmp_path / "alone" / "export").exists()


def test_int8_is_also_judged_by_its_accuracy(
    run: Path, labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(making, "LABELLED", 32)
    monkeypatch.setattr("lookalike.exports.verify.LEAST_FOR_NEIGHBOURS", 20)
    monkeypatch.setitem(making.LARGEST_LOSS, "CNN", -2.0)
    with pytest.raises(NotVerified, match=r"int8 loses -?\d+\.\d points of k-NN accuracy \(limit -200\)\."):
        lookalike.export(run, precision="int8", check=labelled / "train", out=tmp_path / "a", say=said.append)
    assert there(tmp_path / "a") == {"encoder.onnx.unverified", "export.json", "README.md"}
    record = json.loads((tmp_path / "a" / "export.json").read_text())
    assert len(record["failures"]) == 1
    found = record["accuracy"]
    assert (found["protocol"], found["test_images"], found["limit"]) == ("knn", 16, -2.0)
    assert found["change"] == pytest.approx(found["int8"] - found["fp32"])
    low, high = found["interval"]
    assert low <= found["change"] <= high
    assert any(line.startswith("k-NN accuracy on 16 images: ") for line in said)


def test_a_module_of_ones_own_is_wrapped_first(images: Path, tmp_path: Path) -> None:
    module = networks.vit(dynamic_img_size=True)
    with pytest.raises(
        ValueError, match=r"is a module of your own, whose input is unknown\. Give lookalike\.backbones"
    ):
        lookalike.export(module, format="pt2", check=images, out=tmp_path / "a")
    wrapped = backbones.create(module, channels=3, image_size=32)
    assert lookalike.export(wrapped, format="pt2", check=images, out=tmp_path / "a").status == "verified"

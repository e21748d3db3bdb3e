"""The command `export`: files, their verification, and what is left when one fails; exports as encoders."""

import json
import os
import re
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from support import exports
from torch import nn

import lookalike
from lookalike import backbones, classifiers, cli, encoders
from lookalike.classifiers import Classifier
from lookalike.runs import Folder
from lookalike.tensor_file import sha256 as digest

pytestmark = pytest.mark.long(30)

HOSTILE = ["<img src=x onerror=alert(1)>", "a|b", "Käfer & Co", "`x` </table><script>"]
"""Class names, which are names of folders."""


def export(*argv: object) -> int:
    return cli.main(["export", *map(str, argv)])


@pytest.fixture(scope="module")
def run(photos: Path, labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ViT of timm that is said to be trained on the photos, and its k-NN accuracy."""
    torch.manual_seed(0)
    encoder = exports.moved(backbones.create("test_vit", image_size=32))
    out = exports.saved(tmp_path_factory.mktemp("runs") / "vit", encoder, photos)
    pair = [str(labelled / "train"), str(labelled / "test")]
    assert cli.main(["evaluate", str(out), *pair, "--protocols", "knn", "--workers", "0"]) == 0
    return out


@pytest.fixture(scope="module")
def exported(run: Path) -> Path:
    """Its folder `export/onnx`, with patch tokens."""
    assert export(run, "--format", "onnx", "--patch-tokens") == 0
    return run / "export" / "onnx"


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A grey classifier with hostile class names, without a run."""
    folder = Folder(tmp_path_factory.mktemp("runs") / "tuned")
    encoder = exports.cnn(channels=1)
    encoders.save(folder, encoder, method="finetune", epochs=3, dtype=torch.uint8)
    head = nn.Linear(encoder.dim, len(HOSTILE))
    nn.init.normal_(head.weight, std=3)
    classifiers.save(folder, Classifier(encoder, head, HOSTILE), encoders.read_card(folder))
    return folder.path


@pytest.fixture(scope="module")
def of_classifier(tuned: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its export, which takes decoded images."""
    out = tmp_path_factory.mktemp("exports") / "classifier"
    assert export(tuned, "--format", "onnx", "--with-preprocessing", "--check", photos, "--out", out) == 0
    return out


def refused(capsys: pytest.CaptureFixture[str], *argv: object, code: int = 1) -> str:
    """The error of a command, one line."""
    capsys.readouterr()
    assert cli.main([*map(str, argv)]) == code
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1, error
    assert error.startswith("error: ")
    return error.removeprefix("error: ")


def close(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    return bool(((found - wanted).norm(dim=1) <= 1e-5 * wanted.norm(dim=1)).all())


# ---------------------------------------------------------------- what is written


def test_an_export_describes_itself(exported: Path, run: Path, photos: Path) -> None:
    assert {each.name for each in exported.iterdir()} == {"encoder.onnx", "export.json", "README.md"}
    record = json.loads((exported / "export.json").read_text())
    assert record["status"] == "verified"
    assert record["failures"] == []
    assert record["encoder"] == str(run)
    assert record["encoder_sha256"] == encoders_sha256(Folder(run).weights)
    assert record["files"] == {
        "encoder.onnx": {"bytes": (exported / "encoder.onnx").stat().st_size,
                         "sha256": encoders_sha256(exported / "encoder.onnx")}
    }  # fmt: skip
    assert record["input"] == {"name": "images", "shape": ["batch", 3, 32, 32], "dtype": "float32"}
    assert [(each["name"], each["shape"]) for each in record["outputs"]] == [
        ("features", ["batch", 64]), ("patch_tokens", ["batch", 4, 64]),
    ]  # fmt: skip
    assert record["export"]["precision"] == "fp32"
    assert record["images"] == str(photos)
    (found,) = record["verifications"]
    assert found["images"] == 40
    assert {case["batch"] for case in found["cases"]} == {1, 3, 4, 8}
    assert {case["output"] for case in found["cases"]} == {"features", "patch_tokens"}
    assert all(case["largest"] < 1e-5 for case in found["cases"])
    (row,) = json.loads(Folder(run).evaluation.read_text())
    card = (exported / "README.md").read_text()
    low, high = row["interval"]
    assert f"| knn | {row['top1']:.1%} ({low:.1%} to {high:.1%}) | 16 |" in card
    for part in (
        "# test_vit", "an image encoder", "| training | simclr, 1 epoch |", f"| training images | {photos} |",
        "| images | batch x 3 x 32 x 32 | float32 |", "| features | batch x 64 | float32 |",
        "resize the shorter side to 37 pixels", "Apache-2.0", "The weights are yours",
        f"lookalike export {run} --format onnx --patch-tokens", f"on 40 images of {photos}",
    ):  # fmt: skip
        assert part in card


def encoders_sha256(file: Path) -> str:
    from lookalike.files import file_sha256

    return file_sha256(file)


def test_the_command_says_what_it_wrote_and_what_is_next(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a"
    assert export(run, "--format", "pt2", "--out", out) == 0
    said = capsys.readouterr().out
    assert re.search(
        r"torch \S+, 40 images: deviation \d\.\de[+-]\d\d on average and \d\.\de[+-]\d\d at most, cosine at", said
    )
    assert re.search(rf"Wrote {re.escape(str(out / 'encoder.pt2'))} \(.*B\), verified on 40 images; ", said)
    assert f"Next: the code in {out / 'README.md'}" in said


# ---------------------------------------------------------------- an export as an encoder


def test_features_and_accuracy_of_the_file_equal_the_runs(exported: Path, run: Path, labelled: Path) -> None:
    file, data = exported / "encoder.onnx", labelled / "train"
    ours, theirs = lookalike.embed(run, data, keep=False), lookalike.embed(file, data)
    assert theirs.names == ours.names
    assert close(theirs.features, ours.features)
    for pool in ("average", "class+average"):
        of_run = lookalike.embed(run, data, pool=pool, keep=False).features
        assert close(lookalike.embed(file, data, pool=pool).features, of_run)
    ((knn,), (of_file,)) = (
        lookalike.evaluate(each, data, labelled / "test", protocols=["knn"], keep=False) for each in (run, file)
    )
    assert of_file.top1 == knn.top1
    assert of_file.confusion == knn.confusion


def test_of_a_file_with_preprocessing_too(of_classifier: Path, tuned: Path, photos: Path) -> None:
    ours = lookalike.embed(tuned, photos, keep=False)
    assert close(lookalike.embed(of_classifier / "classifier.onnx", photos).features, ours.features)


def test_predictions_of_the_file_equal_the_runs(of_classifier: Path, tuned: Path, photos: Path, tmp_path: Path) -> None:
    ours = lookalike.predict(tuned, photos)
    theirs = lookalike.predict(of_classifier / "classifier.onnx", photos, out=tmp_path / "a.csv")
    assert theirs.classes == ours.classes == tuple(HOSTILE)
    assert theirs.labels == ours.labels
    assert len({*ours.labels}) > 1
    torch.testing.assert_close(theirs.probabilities, ours.probabilities, rtol=1e-4, atol=1e-6)


def test_a_classifier_gives_probabilities_and_names(of_classifier: Path, photos: Path) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(of_classifier / "classifier.onnx")
    assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == HOSTILE
    assert [each.name for each in session.get_outputs()] == ["probabilities", "features"]
    pixels = np.asarray(Image.open(next(photos.glob("*.jpg"))).convert("L"))[None, ..., None]
    (probabilities,) = session.run(["probabilities"], {"images": pixels})
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-6)
    record = json.loads((of_classifier / "export.json").read_text())
    assert record["classes"] == HOSTILE
    assert record["outputs"][0] == {"name": "probabilities", "shape": ["batch", 4], "dtype": "float32"}
    assert record["verifications"][0]["same_class"] == 1


def test_names_of_classes_and_folders_are_no_html(tuned: Path, photos: Path, tmp_path: Path) -> None:
    data = shutil.copytree(photos, tmp_path / "<script>alert(1)<" / os.fsdecode(b"script> \xff"))
    out = tmp_path / "out```\n<b>"
    exported = lookalike.export(tuned, format="pt2", check=data, out=out)
    lines = (exported.folder / "README.md").read_text().splitlines()
    fences = [i for i, line in enumerate(lines) if line.startswith("```")]
    assert len(fences) == 4
    code = {i for start, end in zip(fences[::2], fences[1::2]) for i in range(start, end + 1)}
    outside = "\n".join(line for i, line in enumerate(lines) if i not in code)
    assert "<" not in outside
    assert "&lt;img src=x onerror=alert(1)>" in outside
    assert "&lt;script>alert(1)&lt;/script> \\udcff" in outside
    assert json.loads((exported.folder / "export.json").read_text())["classes"] == HOSTILE


def test_another_image_size_than_the_files_is_refused(
    exported: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = exported / "encoder.onnx"
    said = refused(capsys, "embed", file, photos, "--image-size", "48", "--out", tmp_path / "a.npz")
    assert said == (
        f"{file} takes images of 32 x 32 pixels, not 48 x 48. Leave --image-size out, or export the encoder again with "
        "--dynamic-size."
    )


@pytest.mark.slow
def test_a_file_of_any_size_takes_another_image_size(photos: Path, tmp_path: Path) -> None:
    encoder = exports.vit()
    exported = lookalike.export(encoder, dynamic_size=True, check=photos, out=tmp_path / "a")
    assert exported.status == "verified"
    assert {(case.height, case.width) for case in exported.verifications[0].cases} == {(32, 32), (48, 40)}
    for size in (32, 48, 64):
        ours = lookalike.embed(encoder, photos, image_size=size)
        assert close(lookalike.embed(exported.file, photos, image_size=size).features, ours.features)


def test_an_exported_teacher(
    exported: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A student may learn from the file: its features are all that it needs."""
    monkeypatch.setattr("lookalike.commands.teacher_student.TIMING_SECONDS", 0.0)
    options = ["--backbone", "lookalike_golden_cnn", "--image-size", "32", "--batch-size", "20", "--epochs", "1"]
    assert cli.main(
        ["distill", str(photos), "--teacher", str(exported / "encoder.onnx"), *options, "--workers", "0",
         "--no-report", "--out", str(tmp_path / "student")]
    ) == 0  # fmt: skip
    compared = json.loads(Folder(tmp_path / "student").distillation.read_text())
    assert compared["teacher"]["dim"] == 64
    said = capsys.readouterr().out
    assert re.search(r"parameters, million +unknown +0\.02\n", said)


def refusals(file: Path, photos: Path, labelled: Path, out: Path) -> dict[str, tuple[list[object], str]]:
    pair = [labelled / "train", labelled / "test"]
    short = ["--epochs", "1", "--batch-size", "8", "--workers", "0", "--out", out / "run"]
    unverified = shutil.copy(file, out / "x.onnx.unverified")
    other = out / "other.onnx"
    shutil.copy(file, other)
    model = onnx.load(other)
    del model.metadata_props[:]
    onnx.save(model, other)
    no_export = "was not exported by lookalike"
    return {
        "finetune": (["finetune", file, *pair, *short], "is an export, whose weights cannot be trained"),
        "pretrain": (["pretrain", "simclr", photos, "--init", file, *short], "whose weights cannot be trained"),
        "evaluate by finetuning": (
            ["evaluate", file, *pair, "--protocols", "finetune", "--epochs", "1", "--workers", "0"],
            "is an export, whose weights cannot be trained",
        ),
        "export": (["export", file], "is an export already. Give the run that it was exported from."),
        "predict": (["predict", file, photos, "--out", out / "a.csv"], "is not a classifier: it gives features only"),
        "embed of another program's": (["embed", other, photos, "--out", out / "a.npz"], no_export),
        "predict of another program's": (["predict", other, photos, "--out", out / "a.csv"], no_export),
        "export of another program's": (["export", other], "is an export already"),
        "embed of an unverified": (
            ["embed", unverified, photos, "--out", out / "a.npz"], "was not verified; export.json"
        ),
        "predict of an unverified": (
            ["predict", unverified, photos, "--out", out / "a.csv"], "was not verified; export.json"
        ),
        "evaluate of an unverified": (["evaluate", unverified, *pair], "was not verified; export.json"),
        "export of an unverified": (["export", unverified], "was not verified; export.json"),
        "embed with a backbone": (
            ["embed", file, photos, "--encoder-backbone", "test_vit", "--out", out / "a.npz"],
            "is an export, which needs no backbone. Leave",
        ),
        "embed of last4": (
            ["embed", file, photos, "--pool", "last4", "--out", out / "a.npz"],
            "is an export without class tokens of several blocks",
        ),
    }  # fmt: skip


@pytest.mark.parametrize(
    "case",
    ["finetune", "pretrain", "evaluate by finetuning", "export", "predict", "embed of another program's",
     "predict of another program's", "export of another program's", "embed of an unverified",
     "predict of an unverified", "evaluate of an unverified", "export of an unverified", "embed with a backbone",
     "embed of last4"],
)  # fmt: skip
def test_what_an_export_cannot_do_is_refused_in_one_line(
    case: str, exported: Path, photos: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv, part = refusals(exported / "encoder.onnx", photos, labelled, tmp_path)[case]
    assert part in refused(capsys, *argv)


def test_loaded_exports_are_not_exported_again(exported: Path, of_classifier: Path, tmp_path: Path) -> None:
    for loaded in (lookalike.load(exported / "encoder.onnx"), classifiers.load(of_classifier / "classifier.onnx")):
        with pytest.raises(ValueError, match=r"is an export already\. Give the run that it was exported from\."):
            lookalike.export(loaded, out=tmp_path / "a")


def test_without_onnxruntime_the_extra_is_named(
    exported: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    said = refused(capsys, "embed", exported / "encoder.onnx", photos, "--out", tmp_path / "a.npz")
    assert said == (
        f"{exported / 'encoder.onnx'} needs onnxruntime: pip install 'lookalike[onnx]'. On a GPU, pip install "
        "onnxruntime-gpu."
    )


def test_without_onnx_the_extra_is_named(
    of_classifier: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    file = of_classifier / "classifier.onnx"
    assert refused(capsys, "embed", file, photos, "--out", tmp_path / "a.npz") == (
        f"{file} holds its own preprocessing, and taking it out needs onnx: pip install 'lookalike[onnx]'"
    )


def test_loaded_exports_are_told_apart_by_their_digest(exported: Path, of_classifier: Path) -> None:
    files = exported / "encoder.onnx", of_classifier / "classifier.onnx"
    first, second, again = (digest(lookalike.load(file)) for file in (*files, files[0]))
    assert first == again != second


def test_what_a_killed_export_left_is_removed_after_a_day(run: Path, tmp_path: Path) -> None:
    for name, age in ((".export-old", 25 * 3600), (".export-new", 60)):
        left = tmp_path / name
        left.mkdir()
        (left / "encoder.onnx").write_bytes(b"half")
        os.utime(left, (time.time() - age,) * 2)
    assert export(run, "--format", "pt2", "--out", tmp_path) == 0
    assert {each.name for each in tmp_path.iterdir()} == {".export-new", "encoder.pt2", "export.json", "README.md"}

"""The commands through `cli.main`: what they print, write and return; a few in a process of their own."""

import dataclasses
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import lookalike
from lookalike import cli, places
from lookalike.cli.dispatch import VERBS
from lookalike.cli.run_parsing import parse_run
from lookalike.evaluation import protocols
from lookalike.methods import SELF_SUPERVISED
from lookalike.runs import Folder

pytestmark = pytest.mark.long(10)

SMALL = ["--batch-size", "16", "--backbone", "test_byobnet", "--image-size", "32", "--workers", "0"]


@pytest.fixture(scope="module")
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cli") / "run"
    small = ["test_resnet" if word == "test_byobnet" else word for word in SMALL]  # has a stem for small images
    assert cli.main(["pretrain", "simclr", str(photos), "--out", str(out), "--epochs", "2", *small]) == 0
    return out


def printed(capsys: pytest.CaptureFixture[str], argv: list[str], code: int) -> str:
    """Runs a command, checks its exit code, and returns what it printed on either stream."""
    capsys.readouterr()
    assert cli.main(argv) == code
    captured = capsys.readouterr()
    assert "Traceback" not in captured.out + captured.err
    return captured.out + captured.err


FIRST = ("demo", "check", "pretrain", "evaluate", "report", "help")
"""The commands that the overview lists first, for a newcomer."""
GROUPS = {
    "Train": ("demo", "pretrain", "distill", "finetune", "compare", "estimate", "slurm"),
    "Evaluate": ("evaluate", "predict", "embed", "export", "serve"),
    "Look at data and results": ("check", "views", "show", "report", "plot"),
    "Housekeeping": ("list", "thin", "doctor"),
}


def test_the_overview_lists_first_commands_then_all_by_group(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, [], 0)
    assert printed(capsys, ["--help"], 0) == printed(capsys, ["-h"], 0) == printed(capsys, ["help"], 0) == text
    assert all(len(line) <= 80 for line in text.splitlines())
    first, *groups = [block.splitlines() for block in text.split("\n\n")[1:-1]]
    for line, verb in zip(first, FIRST, strict=True):
        command, description = re.split(" {2,}", line.strip(), maxsplit=1)
        assert command.split()[:2] == ["lookalike", verb]
        assert len(description) > 10
    listed = {head: tuple(line.split()[0] for line in lines) for head, *lines in groups}
    assert listed == GROUPS
    assert {verb for verbs in listed.values() for verb in verbs} == set(VERBS)
    assert all(len(re.split(" {2,}", line.strip())) == 2 for _, *lines in groups for line in lines)


def test_lists(capsys: pytest.CaptureFixture[str]) -> None:
    assert [line.split()[0] for line in printed(capsys, ["list", "methods"], 0).splitlines()] == list(SELF_SUPERVISED)
    rows = [line.split() for line in printed(capsys, ["list", "backbones", "resnet18"], 0).splitlines()]
    assert ["resnet18", "11.18", "M", "3.63", "512"] in rows  # parameters, GFLOP at 224 pixels, features
    assert "torchvision/alexnet" in {line.split()[0] for line in printed(capsys, ["list", "backbones"], 0).splitlines()}


@pytest.mark.parametrize("verb", ["pretrain", "finetune", "predict", "evaluate", "embed", "views", "list", "doctor"])
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"lookalike {verb}" in printed(capsys, [verb, "--help"], 0)


def test_a_method_shows_its_own_fields_at_top_level(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, ["pretrain", "simclr", "--help"], 0)
    for option in (
        "--temperature",
        "--optim.lr",
        "--views.0.blur",
        "--optim.weight-decay.start",
        "--probe",
        "--no-fit",
    ):
        assert option in text


def test_pretrain_says_what_it_wrote_and_what_comes_next(run: Path) -> None:
    log = Folder(run).log.read_text()
    assert "Next: lookalike evaluate" in log
    assert "fitted" in log
    assert "views.0.blur 0.5 -> 0.0" in log
    assert "test_resnet (small stem)" in log


def test_pretrain_from_file_takes_everything_and_options_win(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [
        "pretrain",
        "--from",
        str(run / "run.yaml"),
        "--epochs",
        "1",
        "--out",
        str(tmp_path / "again"),
        "--optim.lr",
        "0.07",
    ]
    printed(capsys, argv, 0)
    old, new = ((p / "run.yaml").read_text() for p in (run, tmp_path / "again"))
    changed = {line.split(":")[0].strip() for line in set(new.splitlines()) ^ set(old.splitlines())}
    assert changed - {"date"} == {"out", "epochs", "lr"}
    assert "fitted" not in Folder(tmp_path / "again").log.read_text()


@pytest.mark.parametrize(
    ("stated", "sizes"),
    [
        (["--image-size", "64"], (64, None, 32)),
        (["--views.0.size", "64"], (None, None, 64)),
        (["--image-size", "64", "--decode-size", "70"], (64, 70, 32)),
        (["--epochs", "3"], (32, 64, 32)),
    ],
)
def test_sizes_of_a_file_give_way_to_stated_ones(
    run: Path, stated: list[str], sizes: tuple[int | None, int | None, int]
) -> None:
    parsed = parse_run("pretrain", ["--from", str(run / "run.yaml"), "--out", "elsewhere", *stated])
    assert (parsed.image_size, parsed.decode_size, parsed.method.views[0].size) == sizes


def test_a_stated_field_is_not_fitted(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [
        "pretrain",
        "simclr",
        str(photos),
        "--out",
        str(tmp_path / "run"),
        "--epochs",
        "1",
        *SMALL,
        "--views.0.blur",
        "0.5",
    ]
    assert "views.0.hue 0.2 -> 0.1" in printed(capsys, argv, 0)
    assert "views.0.blur" not in Folder(tmp_path / "run").log.read_text()


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["pretran"], 2, "Did you mean pretrain"),
        (["pretrain", "simcrl", "PHOTOS"], 2, "Unknown method 'simcrl'. Did you mean simclr"),
        (["pretrain", "PHOTOS", "--epochs", "3"], 2, "METHOD comes before DATA"),
        (["pretrain", "simclr", "PHOTOS", "--probe", "LABELLED"], 2, "--probe TRAIN TEST"),
        (
            ["pretrain", "simclr", "PHOTOS", "--init", "DAMAGED", *SMALL],
            1,
            "its tensors do not match their checksum",
        ),
        (["evaluate", "DAMAGED", "LABELLED", "LABELLED"], 1, "Copy it again"),
        (["pretrain", "simclr", "PHOTOS", "--init", "TRUNCATED", *SMALL], 1, "not a complete safetensors file"),
        (
            ["pretrain", "simclr", "PHOTOS", "--init", "RUN", *SMALL, "--backbone", "test_vit"],
            1,
            "unexpected: ",
        ),
        (["views", "simclr", "PHOTOS", "--out", "RUN/views.png"], 1, "or --overwrite"),
        (["list", "backbones", "resnet19"], 1, "Did you mean resnet"),
        (["pretrain", "--epochs", "3", "simclr", "PHOTOS"], 2, "The method is missing"),
        (["pretrain", "simclr"], 2, "DATA"),
        (["pretrain", "simclr", "PHOTOS", "--epochs", "three"], 2, "three"),
        (["pretrain", "simclr", "PHOTOS", "--temperatur", "1"], 2, "temperatur"),
        (["pretrain", "simclr", "PHOTOS", "--epochs", "0"], 2, "epochs is 0"),
        (["pretrain", "simclr", "PHOTOS", "--temperature", "-1"], 2, "temperature is -1.0; it must be above 0"),
        (["pretrain", "simclr", "PHOTOS", "--views.0.count", "1"], 2, "compares 2 views"),
        (["pretrain", "bylo", "PHOTOS", "--from", "RUN/run.yaml"], 2, "Unknown method 'bylo'"),
        (["pretrain", "byol", "PHOTOS", "--from", "RUN/run.yaml"], 2, "is a run of simclr, but the command names byol"),
        (["pretrain", "simclr", "PHOTOS", "--out", "RUN/log.txt/x"], 1, "log.txt is a file"),
        (["embed", "RUN", "PHOTOS", "--batch-size", "0"], 1, "at least 1"),
        (["evaluate", "RUN", "LABELLED", "LABELLED", "--out", "PHOTOS"], 1, "is a folder"),
        (["pretrain", "simclr", "NOWHERE"], 1, "NOWHERE"),
        (["pretrain", "simclr", "EMPTY"], 1, "no files at all"),
        (["pretrain", "simclr", "TEXTS"], 1, "2 .txt"),
        (["pretrain", "simclr", "PHOTOS", "--backbone", "resnet19"], 1, "resnet18"),
        (
            ["pretrain", "simclr", "PHOTOS", "--batch-size", "64", "--backbone", "test_resnet", "--image-size", "32"],
            1,
            "64",
        ),
        (["pretrain", "simclr", "PHOTOS", "--backbone", "densenet121", "--image-size", "4"], 1, "4"),
        (["pretrain", "simclr", "PHOTOS", "--out", "RUN"], 1, "--resume to continue it"),
        (["pretrain", "--resume", "--out", "RUN", "--temperature", "0.9"], 1, "temperature: 0.5 in the run, 0.9 now"),
        (["pretrain", "--resume", "--out", "NOWHERE"], 1, "holds no run to resume"),
        (["pretrain", "simclr", "--from", "OTHER"], 2, "is a run of my.module:Mine, but the command names simclr"),
        (["pretrain", "--from", "OTHER"], 1, "Run it from Python"),
        (["evaluate", "NOWHERE", "A", "B"], 1, "No encoder at"),
        (["evaluate", "RUN", "NOWHERE", "B"], 1, "NOWHERE"),
        (["evaluate", "RUN", "PHOTOS", "PHOTOS"], 1, "class folder"),
        (["evaluate", "RUN", "A", "B", "--protocols", "knnn"], 2, "knnn"),
        (["embed", "RUN", "PHOTOS", "--out", "x.txt"], 1, ".npz"),
        (["views", "simclr", "PHOTOS", "--out", "x.pdf"], 2, ".png"),
    ],
)
def test_mistakes_are_named(
    argv: list[str],
    code: int,
    message: str,
    run: Path,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "other.yaml").write_text(f"method: my.module:Mine\ndata: {photos}\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    for i in range(2):
        (tmp_path / f"texts/{i}.txt").write_text("words")
    weights = (run / "encoder.safetensors").read_bytes()
    (tmp_path / "damaged.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    (tmp_path / "truncated.safetensors").write_bytes(weights[:4])
    places = {
        "DAMAGED": tmp_path / "damaged.safetensors",
        "TRUNCATED": tmp_path / "truncated.safetensors",
        "PHOTOS": photos,
        "LABELLED": photos.parent,
        "RUN": run,
        "EMPTY": tmp_path / "empty",
        "TEXTS": tmp_path / "texts",
        "NOWHERE": tmp_path / "no",
        "OTHER": tmp_path / "other.yaml",
    }
    argv = [re.sub("|".join(places), lambda m: str(places[m.group()]), a) for a in argv]
    message = re.sub("NOWHERE", str(tmp_path / "no"), message)
    if argv[0] == "pretrain" and "--out" not in argv:
        argv += ["--out", str(tmp_path / "run")]
    assert message in printed(capsys, argv, code).replace("\n", " ")
    assert not (tmp_path / "run").exists()


def test_a_misspelt_key_in_a_file(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.yaml").write_text((run / "run.yaml").read_text().replace("temperature", "temprature"))
    text = printed(capsys, ["pretrain", "--from", str(tmp_path / "run.yaml")], 1)
    assert "unknown key 'temprature'. Did you mean temperature" in text


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        cli.main(["pretrain", "simclr", str(tmp_path / "no"), "--debug"])


def test_evaluate_writes_the_contract(
    run: Path, labelled: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocols, "DINOV2", dataclasses.replace(protocols.DINOV2, least_steps=20))  # for time
    argv = ["evaluate", str(run), str(labelled / "train"), str(labelled / "test"), "--workers", "0"]
    text = printed(capsys, argv, 0)
    assert "knn" in text
    assert "evaluation.json" in text
    printed(capsys, argv, 0)
    entries = json.loads((run / "evaluation.json").read_text())
    assert [e["protocol"] for e in entries] == ["knn", "linear"]
    for e in entries:
        assert e.keys() >= {
            "protocol", "top1", "top5", "interval", "settings", "train_images", "test_images", "classes",
            "encoder_sha256", "data_fingerprint", "seed", "seconds", "date", "history", "format",
        }  # fmt: skip
        assert 0 <= e["interval"][0] <= e["top1"] <= e["interval"][1] <= 1
        assert (e["train_images"], e["test_images"], e["classes"]) == (32, 16, 4)
    assert entries[0]["settings"]["k"] == 20
    assert entries[0]["encoder_sha256"] == json.loads((run / "encoder.json").read_text())["sha256"]
    one = labelled.parent / "one"
    if not one.exists():
        one.mkdir()
        (one / "only").symlink_to(labelled / "train/class0")
    assert "one class" in printed(capsys, ["evaluate", str(run), str(one), str(one)], 1)
    argv = ["evaluate", str(run), *[str(labelled / "test")] * 2, "--workers", "0", "--out", str(one / "e.json")]
    assert "are the same folder" in printed(capsys, argv, 0)


def test_evaluate_takes_the_weights_file_alone(
    run: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = tmp_path / "encoder.safetensors"
    alone.write_bytes((run / "encoder.safetensors").read_bytes())
    argv = ["evaluate", str(alone), str(labelled / "train"), str(labelled / "test"), "--workers", "0"]
    argv += ["--protocols", "knn", "--out", str(tmp_path / "evaluation.json")]
    printed(capsys, argv, 0)
    (entry,) = json.loads((tmp_path / "evaluation.json").read_text())
    again = next(e for e in json.loads((run / "evaluation.json").read_text()) if e["protocol"] == "knn")
    assert {k: entry[k] for k in ("top1", "encoder_sha256", "data_fingerprint")} == {
        k: again[k] for k in ("top1", "encoder_sha256", "data_fingerprint")
    }


def test_load_gives_the_same_features_from_folder_and_file(run: Path) -> None:
    x = torch.randn(2, 3, 32, 32)
    encoder = lookalike.load(run)
    assert not encoder.training
    with torch.no_grad():
        assert torch.equal(encoder(x), lookalike.load(run / "encoder.safetensors")(x))
    card = json.loads((run / "encoder.json").read_text())
    assert encoder(x).shape == (2, card["dim"])
    assert encoder.mean == tuple(card["mean"])
    assert card["epochs"] == 2


@pytest.mark.parametrize("suffix", [".npz", ".parquet", ".csv"])
def test_embed_writes_names_and_numbers(
    run: Path, photos: Path, tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / f"e{suffix}"
    argv = ["embed", str(run), str(photos), "--out", str(out), "--workers", "0"]
    assert "40 images x 96 dimensions" in printed(capsys, argv, 0)
    assert "exists" in printed(capsys, argv, 1)
    printed(capsys, [*argv, "--overwrite"], 0)
    if suffix == ".npz":
        content = np.load(out, allow_pickle=False)
        assert content["features"].shape == (40, 96)
        assert "image 0.jpg" in content["names"]
        assert "nested/deeper/image 1.jpg" in content["names"]


def test_views_draws_a_sheet(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    out = tmp_path / "views.png"
    printed(
        capsys,
        ["views", "simclr", str(photos), "--out", str(out), "--image-size", "32", "--backbone", "test_resnet"],
        0,
    )
    picture = Image.open(out)
    assert picture.size == (3 * 33 - 1, 8 * 33 - 1)


def test_probe_shows_the_knn_from_the_untrained_encoder_on(
    photos: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["pretrain", "simclr", str(photos), "--out", str(tmp_path / "run"), "--epochs", "2", *SMALL,
            "--probe", str(labelled / "train"), str(labelled / "test")]  # fmt: skip
    text = printed(capsys, argv, 0)
    assert "k-NN of the untrained encoder" in text
    rows = Folder(tmp_path / "run").rows()
    assert [(r["step"], "knn_top1" in r) for r in rows] == [(0, True), (2, True), (4, True)]
    plain = tmp_path / "plain"
    printed(capsys, ["pretrain", "simclr", str(photos), "--out", str(plain), "--epochs", "2", *SMALL], 0)
    assert [r["loss"] for r in Folder(plain).rows()] == [r["loss"] for r in rows[1:]]


def test_tensorboard_gets_the_rows(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [
        "pretrain",
        "simclr",
        str(photos),
        "--out",
        str(tmp_path / "run"),
        "--epochs",
        "1",
        *SMALL,
        "--logger",
        "tensorboard",
    ]
    printed(capsys, argv, 0)
    written = tmp_path / "run/tensorboard"
    assert list(written.glob("events*"))
    foreign = written / "events.out.tfevents.1.host.1.0"
    foreign.write_bytes(b"of another program")
    printed(capsys, [*argv[:-2], "--overwrite"], 0)
    assert list(written.iterdir()) == [foreign]


def test_a_logger_that_is_not_installed_names_its_extra(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "find_spec", lambda name: None)
    argv = [
        "pretrain",
        "simclr",
        str(photos),
        "--out",
        str(tmp_path / "run"),
        "--epochs",
        "1",
        *SMALL,
        "--logger",
        "wandb",
    ]
    assert "pip install 'lookalike[wandb]'" in printed(capsys, argv, 1)
    assert not (tmp_path / "run").exists()


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_help_imports_nothing_heavy() -> None:
    code = "import sys, lookalike.cli as c; c.main({argv}); print(sorted({heavy} & set(sys.modules)), file=sys.stderr)"
    heavy = {"torch", "lightning", "timm", "torchvision", "numpy"}
    for argv in (["--help"], ["list", "methods"], ["pretrain", "--help"], ["evaluate", "--help"], ["doctor", "--help"]):
        done = subprocess.run(
            [sys.executable, "-c", code.format(argv=argv, heavy=heavy)], capture_output=True, text=True, check=True
        )
        assert done.stderr.strip() == "[]"
    done = subprocess.run(
        [sys.executable, "-c", code.format(argv=["pretrain", "simclr", "--help"], heavy=heavy - {"torch", "numpy"})],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stderr.strip() == "[]"


def test_ctrl_c_in_a_process_of_its_own_exits_130_and_resumes(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "lookalike", "pretrain", "simclr", str(photos), "--out", str(out)]
    command += ["--epochs", "500", *SMALL, "--workers", "1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    metrics = Folder(out).metrics
    deadline = time.monotonic() + 90
    while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 130, text
    assert "Resume with: lookalike pretrain --resume" in text
    content = torch.load(Folder(out).last, weights_only=True)
    assert content["global_step"] >= 2


TINY = ["--backbone", "test_byobnet", "--image-size", "32", "--epochs", "1", "--workers", "0"]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["moco_v2", "--queue", "100", "--batch-size", "8"], "not a multiple of --batch-size 8.*Give --queue 96"),
        (
            ["moco_v2", "--batch-size", "2", "--devices", "2"],
            "leaves 1 image per micro-batch to each of 2.*--batch-size 4",
        ),
        (["byol", "--batch-size", "1"], "the loss needs other images to compare with"),
        (["byol", "--batch-size", "4", "--accumulate", "4"], "the loss needs other images to compare with"),
        (["supcon", "--batch-size", "8"], "SupCon learns from labels.*is not in a class folder.*/CLASS/"),
        (["moco_v3", "--momentum.start", "1.5"], r"momentum.start is 1.5; it must lie between 0"),
        (["simsiam", "--out-dim", "0"], "out_dim is 0; it must be above 0"),
        (["byol", "--views.0.count", "2"], "BYOL compares 2 views of each image, and views make 3"),
        (
            ["swav", "--prototypes", "41", "--batch-size", "8"],
            "--prototypes 41 for 40 images.*Give about --prototypes 2, or",
        ),
        (["swav", "--queue", "20", "--batch-size", "8"], "not a multiple of --batch-size 8.*Give --queue 16"),
        (["swav", "--views.1.size", "300"], r"first two views for the global ones \(224 and 224.*another has 300"),
        (
            ["swav", "--views.0.size", "96", "--views.1.size", "224"],
            r"takes the first two views for the global ones \(96 and 96 pixels\), and another has 224",
        ),
        (["lejepa", "--lamb", "2"], "lamb is 2.0"),
        (["deepcluster_v2", "--prototypes", "4", "33", "--batch-size", "32"], "--prototypes 33 for 32 images"),
        (["deepcluster_v2", "--bank", "30", "--batch-size", "8"], "--bank 30 has no room for 40 images.*--bank 40"),
        (["deepcluster_v2", "--bank", "1000000000", "--batch-size", "8"], "takes 954 GiB, more than half.*--out-dim"),
        (["deepcluster_v2", "--batch-size", "50"], "batch of 50 cannot be drawn from 40 images"),
        (["dino", "--drop-path", "1"], "drop_path is 1.0; it is a probability"),
        (["dino", "--teacher-temp.start", "0"], "teacher_temp goes down to 0"),
        (["dino", "--views.2.size", "300"], "another has 300"),
        (["vicreg", "--std-coeff", "-1"], "std_coeff is -1.0; it must not be negative"),
    ],
)
def test_what_a_method_cannot_be_given(
    argv: list[str], words: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    method, *options = argv
    code = cli.main(["pretrain", method, str(photos), *TINY, "--out", str(tmp_path / "run"), *options])
    captured = capsys.readouterr()
    assert code in (1, 2)
    assert re.search(words, captured.err, re.DOTALL), captured.err
    assert "Traceback" not in captured.err
    assert not (tmp_path / "run").exists()


def test_a_batch_smaller_than_the_embedding_is_said(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Correlations of 16 numbers from micro-batches of 4 images."""
    options = ["--batch-size", "8", "--hidden-dim", "16", "--out-dim"]
    for out, words in (
        ("16", "WARNING     the batch size 4 is smaller than the embedding dimension 16.*rank at most 3"),
        ("4", ""),
    ):
        argv = ["pretrain", "vicreg", str(photos), *TINY, *options, out, "--accumulate", "2"]
        assert cli.main([*argv, "--out", str(tmp_path / out)]) == 0
        said = capsys.readouterr().out
        assert re.search(words, said)
        assert ("smaller than the embedding dimension" in said) is bool(words)


def test_classes_of_one_image_and_one_class_alone(
    classed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    shutil.copytree(classed, data)
    (data / "rare").mkdir()
    (data / "class0/0.jpg").rename(data / "rare/0.jpg")
    common = [*TINY, "--batch-size", "8"]
    assert cli.main(["pretrain", "supcon", str(data), *common, "--out", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert "labels      5 classes of 1 to 10 images" in said
    assert "1 of the classes have a single image (rare): its only positive is its own other view" in said
    only = tmp_path / "only"
    shutil.copytree(classed / "class0", only / "class0")
    assert cli.main(["pretrain", "supcon", str(only), *common, "--out", str(tmp_path / "other")]) == 1
    assert "are of one class" in capsys.readouterr().err

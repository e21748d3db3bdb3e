"""What a command says before and after its work: commands to paste, the batch, compilation, checkpoints."""

import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest
import torch
from support.tiny import CNN
from torch import nn
from torch.utils import cpp_extension

from lookalike import cli, load, places, training
from lookalike.backbones import names
from lookalike.cli import outlines
from lookalike.core import Method
from lookalike.data.order import Order
from lookalike.methods import METHODS, get_method
from lookalike.printing import pasteable
from lookalike.runs import Folder, Options, Run, dotted, kinds_of, plain
from lookalike.training import model, resolved, stages

NET = ["--backbone", CNN, "--image-size", "32", "--workers", "0", "--no-report"]
TINY = [*NET, "--batch-size", "8"]
Say = pytest.CaptureFixture[str]


def done(capsys: Say, *argv: object) -> str:
    capsys.readouterr()
    code = cli.main(list(map(str, argv)))
    said = capsys.readouterr()
    assert code == 0, said.err
    return said.out


def refused(capsys: Say, *argv: object, code: int = 1) -> str:
    capsys.readouterr()
    assert cli.main(list(map(str, argv))) == code
    return capsys.readouterr().err


# ---------------------------------------------------------------- before torch is imported

IMPORTED = "torch was imported"
"""Said where nothing is wrong."""
MISTAKES = [
    (["pretran"], 2, "Did you mean pretrain"),
    (["pretrain", "simclrr", "DATA"], 2, "Did you mean simclr"),
    (["pretrain", "simclr", "nowhere"], 1, "nowhere does not exist"),
    (["pretrain", "dinov2", "DATA", "--teacher-tmp.start", "1"], 2, "--teacher-temp.start"),
    (["pretrain", "simclr", "DATA", "--views.1.blurr", "1"], 2, "--views.1.blur"),
    (["pretrain", "simclr", "DATA", "--optim.shape", "cosin"], 2, "invalid choice 'cosin'"),
    (["pretrain", "simclr", "DATA", "--optim.name", "admaw"], 1, "The nearest names: adanw"),
    (["pretrain", "simclr", "DATA", "--epochs", "ten"], 2, "'ten'"),
    (["pretrain", "simclr", "DATA", "--backbone", "resnet19"], 1, "resnet18"),
    (["pretrain", "simclr", "DATA", "--backbone", "torchvision/swin_tt"], 1, "swin_t"),
    (["pretrain", "simclr", "DATA", "--init", "nowhere"], 1, "No weights at nowhere"),
    (["pretrain", "simclr", "DATA", "--probe", "DATA", "nowhere"], 1, "nowhere does not exist"),
    (["pretrain", "simclr", "DATA", "--out", "DATA/a.txt"], 1, "is a file"),
    (["pretrain", "--resume", "--out", "nowhere"], 1, "holds no run to resume"),
    (["pretrain", "--from", "FILE"], 1, "unknown key 'temprature'. Did you mean temperature"),
    (["pretrain", "simclr"], 2, "DATA"),
    (["pretrain", "simclr", "DATA", "--from"], 2, "Missing value for argument '--from'"),
    (["pretrain", "simclr", "DATA", "--probe", "DATA", "--epochs", "2"], 2, "needs two labelled folders"),
    (["pretrain", "--from", "VALUE"], 1, "'hot' is not a number, at temperature. Correct it"),
    (["pretrain", "--from", "VIEW"], 1, "unknown key 'views.1.blurr'. Did you mean views.1.blur?"),
    (["distill", "--teacher", "timm/resnet18"], 2, "DATA"),
    (["distill", "DATA", "--teacher-tmp", "1"], 2, "Unrecognized options: --teacher-tmp"),
    (["finetune", "timm/resnet18"], 2, "TRAIN"),
    (["finetune", "timm/resnet18", "DATA", "DATA", "--backbone", "resnet18"], 2, "Unrecognized options: --backbone"),
    (["distill", "DATA", "--teacher", "torchhub/dino_vits17"], 1, "Did you mean dino_vits16"),
    (["finetune", "timm/resnet18", "DATA", "nowhere"], 1, "nowhere does not exist"),
    (["finetune", "nowhere", "DATA", "DATA"], 1, "No encoder at nowhere"),
    (["views", "simclr", "nowhere"], 1, "nowhere does not exist"),
    (["pretrain", "simclr", "DATA", "--cache", "disk", "--cache-dir", "FILE"], 1, "is a file. Give --cache-dir"),
    (["distill", "DATA", "--cache-dir", "DATA/a.txt"], 1, "a.txt is a file. Give --cache-dir another folder."),
    (["compare", "DATA", "simclr", "--train", "DATA", "--test", "DATA", "--cache-dir", "FILE"], 1, "Give --cache-dir"),
    (["evaluate", "nowhere", "DATA", "DATA"], 1, "No encoder at nowhere"),
    (["evaluate", "timm/resnet19", "DATA", "DATA"], 1, "resnet18"),
    (["evaluate", "DATA", "DATA", "DATA"], 1, "holds no encoder.safetensors"),
    (["evaluate", "timm/resnet18", "DATA", "DATA", "--also", "DATA", "nowhere"], 1, "nowhere does not exist"),
    (["evaluate", "--features", "nowhere.npz"], 1, "nowhere.npz does not exist"),
    (["embed", "timm/resnet18", "nowhere"], 1, "nowhere does not exist"),
    (["embed", "timm/resnet18", "DATA", "--out", "b.txt"], 1, ".npz"),
    (["show", "timm/resnet18", "nowhere"], 1, "nowhere does not exist"),
    (["predict", "nowhere", "DATA"], 1, "No classifier at nowhere"),
    (["report", "nowhere"], 1, "nowhere is not a folder"),
    (["plot", "nowhere", "--out", "a.png"], 1, "nowhere is not a folder"),
    (["thin", "nowhere"], 1, "nowhere is not a folder"),
    (["check", "nowhere"], 1, "nowhere does not exist"),
    (["compare", "DATA", "simclr", "--train", "DATA", "--test", "nowhere"], 1, "nowhere does not exist"),
    (["pretrain", "--from", "OPTIM"], 1, "There is no optimizer 'lambb'. The nearest names: lamb"),
    (["pretrain", "--from", "OWN"], 1, "is a Python object, <mine.Net>, which the command line cannot create"),
    (["pretrain", "--from", "ITEMS"], 1, "is a Python object, <mine.Items>, which the command line cannot create"),
    (["pretrain", "DATA", "--from", "ITEMS"], 1, IMPORTED),
    (["distill", "DATA", "--teacher", "FILE", "--teacher-backbone", "resnet19"], 1, "resnet18"),
    (["evaluate", "FILE", "DATA", "DATA", "--encoder-backbone", "torchvision/resnet19"], 1, "torchvision/resnet18"),
    (["embed", "FILE", "DATA", "--encoder-backbone", "resnet19"], 1, "resnet18"),
    (["show", "FILE", "DATA", "--encoder-backbone", "resnet19"], 1, "resnet18"),
    (["evaluate", "timm/resnet18", "DATA", "DATA", "--labels", "nowhere"], 1, "nowhere does not exist. Give a text"),
    (["evaluate", "timm/resnet18", "DATA", "DATA", "--shares", "10"], 1, "shares is [10.0]"),
    (["evaluate", "timm/resnet18", "DATA", "DATA", "--seeds", "0"], 1, "seeds is 0; it must be at least 1"),
    (["evaluate", "timm/resnet18", "DATA", "DATA", "--out", "DATA"], 1, "is a folder. Give a file, such as"),
    (["embed", "timm/resnet18", "DATA", "--image-size", "0"], 1, "image_size is 0; it must be at least 1"),
    (["show", "timm/resnet18", "DATA", "--out", "FILE"], 1, "is a file. Give another --out"),
    (["compare", "DATA", "simclr", "--train", "DATA", "--test", "DATA", "--out", "FILE"], 1, "is a file"),
    (["predict", "DATA", "DATA"], 1, "holds no classifier.safetensors. Train one: lookalike finetune"),
    (["report", "DATA"], 1, "holds no run (no run.yaml)"),
    (["report", "DATA", "--points", "0"], 1, "points is 0; it must be at least 1 image"),
    (["pretrain", "simclr", "DATA", "--views.0.blur", "0.1", "--backbone", "timm/resnet50.a1_in1k"], 1, IMPORTED),
    (["pretrain", "dino", "DATA", "--init", "timm/resnet18", "--optim.name", "adopt"], 1, IMPORTED),
    (["distill", "DATA"], 1, IMPORTED),
    (["finetune", "torchhub/dino_vits16", "DATA", "DATA", "--frozen"], 1, IMPORTED),
    (["evaluate", "torchvision/alexnet", "DATA", "DATA", "--protocols", "knn", "semi"], 1, IMPORTED),
    (["compare", "DATA", "simclr", "--train", "DATA", "--test", "DATA", "--backbone", "resnet18"], 1, IMPORTED),
    (["compare", "DATA", "simclrr", "--train", "DATA", "--test", "DATA"], 2, "Did you mean simclr"),
    (["compare", "DATA", "simclr", "--train", "DATA", "--test", "DATA", "--protocols", "knnn"], 1, "Did you mean knn"),
]  # fmt: skip


def test_a_typo_is_answered_before_torch_is_imported(photos: Path, tmp_path: Path) -> None:
    """All in one process, in which torch cannot be imported."""
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "run.yaml").write_text(f"method: simclr\ndata: {photos}\ntemprature: 1.0\n")
    for name, more in {"optim": "optim: {name: lambb}", "own": "backbone: <mine.Net>", "items": ""}.items():
        data = photos if more else "<mine.Items>"
        (tmp_path / f"{name}.yaml").write_text(f"method: simclr\ndata: {data}\n{more}\n")
    (tmp_path / "value.yaml").write_text(f"method: simclr\ndata: {photos}\ntemperature: hot\n")
    (tmp_path / "view.yaml").write_text(f"method: simclr\ndata: {photos}\nviews: [{{blur: 0.1}}, {{blurr: 0.1}}]\n")
    words = {"DATA": str(photos), "FILE": str(tmp_path / "run.yaml"), "DATA/a.txt": str(tmp_path / "a.txt/x")}
    words |= {name.upper(): f"{name}.yaml" for name in ("optim", "own", "items", "value", "view")}
    argvs = [[words.get(word, word) for word in argv] for argv, _, _ in MISTAKES]
    code = (
        "import sys\nfrom lookalike import cli\n"
        "class Refusing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'torch':\n"
        "            raise RuntimeError('torch was imported')\n"
        "sys.meta_path.insert(0, Refusing())\n"
        f"for argv in {argvs!r}:\n"
        "    code = cli.main(argv)\n"
        "    print(f'\\n=== {code}', file=sys.stderr, flush=True)\n"
    )
    env = os.environ | {"COLUMNS": "200"}
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=env, timeout=99
    )
    parts = re.split(r"\n=== (\d)\n", found.stderr)
    assert len(parts) == 2 * len(MISTAKES) + 1, found.stderr
    for (argv, wanted, message), said, exit_code in zip(MISTAKES, parts[::2], parts[1::2]):
        assert message in said, (argv, said)
        assert int(exit_code) == wanted, (argv, said)


@pytest.mark.parametrize("method", list(METHODS))
def test_an_outline_has_the_options_of_its_method(method: str) -> None:
    """Names, types and choices are read from the source, and those of the source are meant."""
    cls = get_method(method).Config
    made = outlines.outline(method)
    assert made is not None
    found = {re.sub(r"\.\d+\.", ".*.", name) for name in dotted(plain(cls()))}  # type: ignore[call-arg]
    assert made.keys() >= found - {"classes"}
    assert {name: each.kind for name, each in made.items()} == kinds_of(cls)


def test_every_backbone_stands_in_the_source_that_names_are_looked_for_in() -> None:
    known = names()
    for name in [*known[::100], "timm/resnet50.a1_in1k", "torchvision/alexnet", "resnet18", "test_vit"]:
        places.check_backbone(name)
    with pytest.raises(ValueError, match="The nearest names: resnet18"):
        places.check_backbone("resnet19")


# ---------------------------------------------------------------- commands to paste


def pasted(said: str) -> list[list[str]]:
    """The commands that were said, as a shell takes them: comments go."""
    found = re.findall(r"(?:Next|Resume with|resume with|Try): (lookalike .*)", said)
    return [shlex.split(line, comments=True)[1:] for line in found]


def test_what_is_said_to_be_pasted_works(
    classed: Path, tmp_path: Path, capsys: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From each command to the next, in folders whose names a shell would part."""
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "my images; $HOME"
    data.symlink_to(classed)
    fill = {"DATA": str(data), "TRAIN": str(data), "TEST": str(data)}

    def follow(said: str, verb: str, *more: str) -> str:
        (command,) = [each for each in pasted(said) if each[0] == verb]
        return done(capsys, *(fill.get(word, word) for word in command), *more)

    said = done(capsys, "check", data, "--channels", "1", "--image-size", "32", "--workers", "0", "--no-timing")
    follow(said, "pretrain", *TINY[4:], "--backbone", CNN, "--epochs", "1", "--out", "a lejepa's")
    said = done(capsys, "views", "simclr", data, "--channels", "1", "--image-size", "32", "--backbone", CNN)
    said = follow(said, "pretrain", *TINY[4:], "--epochs", "1", "--out", "a run's")
    card = Folder("a run's").card.read_text()
    assert '"channels": 1' in card  # as the first command had it
    log = Folder("a run's").log.read_text()
    typed = shlex.split(re.search(r"^lookalike \S+  (.*)", log, re.MULTILINE)[1])  # type: ignore[index]
    assert typed[1:] == sys.argv[1:]
    small = done(capsys, "show", "a run's", data, "--what", "neighbours", "--image-size", "16", "--workers", "0")
    (command,) = pasted(small)
    assert command == ["evaluate", "a run's", "TRAIN", "TEST", "--image-size", "16"]
    file, named = Path("weights.pth"), ["--encoder-backbone", CNN]
    torch.save({name: value.clone() for name, value in load("a run's").export_state().items()}, file)
    said = done(capsys, "show", file, data, "--what", "neighbours", *named, "--out", "seen", "--workers", "0")
    said = follow(said, "evaluate", "--protocols", "knn", "--workers", "0")
    assert pasted(said) == [["embed", str(file), "DATA", *named, "--out", "embeddings.npz"]]
    said = done(capsys, "evaluate", "a run's", data, data, "--protocols", "knn", "--pool", "average", "--workers", "0")
    said = follow(said, "embed", "--workers", "0")
    done(capsys, "finetune", "a run's", data, data, *TINY[4:], "--epochs", "1", "--out", "a classifier")
    said = follow(Folder("a classifier").log.read_text(), "predict", "--workers", "0")
    assert pasted(said) == [["show", "a classifier", str(data), "--out", "show"]]


def test_one_function_quotes_commands() -> None:
    words = ["lookalike", "embed", Path("a b/it's"), "--channels", 1, "$HOME", "*"]
    assert shlex.split(pasteable(*words)) == list(map(str, words))


# ---------------------------------------------------------------- few images


@pytest.mark.parametrize(
    ("images", "batch"), [(2, 2), (9, 2), (36, 9), (120, 30), (255, 63), (256, 256), (10**6, 256)]
)  # fmt: skip
def test_a_batch_of_few_images_is_a_quarter_of_them(images: int, batch: int) -> None:
    assert resolved.batch_for(Options(), images, 1, False) == batch
    assert resolved.batch_for(Options(batch_size=300), images, 1, False) == 300
    assert resolved.batch_for(Options(), images, 1, True) == 256
    if images > 40:
        shared = resolved.batch_for(Options(accumulate=2), images, 4, False)
        assert Order(images, shared, 0, 3, 4, 2).rows * 8 == shared


@pytest.mark.parametrize("method", ["simclr", "moco_v2", "swav", "deepcluster_v2", "dino", "vicreg", "lejepa"])
def test_every_method_takes_the_batch_of_few_images(method: str, photos: Path) -> None:
    run = Run(data=str(photos), method=get_method(method).Config(), backbone=CNN, image_size=32)  # type: ignore[call-arg]
    assert training.resolve(run, 40)[0].batch_size == 10


def test_few_images_train_in_every_command_and_it_is_said(
    photos: Path, labelled: Path, tmp_path: Path, capsys: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    line = "batch       10 images, as 40 images are fewer than the default batch of 256 (change it with --batch-size)"
    assert line in done(capsys, "pretrain", "simclr", photos, *NET, "--epochs", "1", "--out", "e")
    assert "batch" not in done(capsys, "pretrain", "--resume", "--out", "e", "--epochs", "2").split("steps  ")[0]
    assert [row["step"] for row in Folder("e").rows()] == [4, 8]
    train, test = labelled / "train", labelled / "test"
    tuned = ["finetune", "e", train, test, "--workers", "0", "--no-report", "--epochs", "1", "--out", "f"]
    assert "batch       8 images, as 32 images are fewer" in done(capsys, *tuned)
    taught = ["distill", photos, "--teacher", "e", "--patch-weight", "0", *NET, "--epochs", "1", "--out", "d"]
    assert line in done(capsys, *taught)
    compared = ["compare", photos, "simclr", "--train", train, "--test", test, "--epochs", "1", "--seeds", "1", *NET]
    assert line in done(capsys, *compared, "--protocols", "knn", "--out", "c")
    for argv in ([*tuned[:-1], "g"], [*compared, "--out", "h"]):
        said = refused(capsys, *argv, "--batch-size", "256")
        assert re.search(r"A batch of 256 cannot be drawn from \d+ images. Give a --batch-size of at most \d+", said)


# ---------------------------------------------------------------- compilation, checkpoints


def test_of_a_comparison_only_its_own_trainings_are_thinned(tmp_path: Path, capsys: Say) -> None:
    here = shutil.copytree(Path(__file__).parent / "golden/compare", tmp_path / "c")
    shutil.copytree(here / "simclr-seed0", here / "mine")
    assert "c/simclr-seed0: removed 1 checkpoint of single epochs" in done(capsys, "thin", here)
    assert (here / "mine/checkpoints/epoch=2.ckpt").is_file()
    for run in here.glob("*/run.yaml"):
        run.unlink()
    assert "c: none of its trainings has started." in done(capsys, "thin", here)


def test_compilation_is_announced_and_timed(
    photos: Path, tmp_path: Path, capsys: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "compile_parts", lambda method: None)
    said = done(capsys, "pretrain", "simclr", photos, *TINY, "--epochs", "1", "--out", tmp_path / "r", "--compile")
    assert re.search(r"compiling   .*\n(.*\n)*compiled    in 0:00:\d\d, with the first batch\n(.*\n)*epoch 1/1", said)


def test_that_there_is_no_gpu_is_not_said_by_torch_while_it_compiles(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It says so where CUDA_HOME is set; all else that its compiler says is heard."""
    monkeypatch.setenv("CUDA_HOME", "/usr/local/cuda")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    logger = logging.getLogger("torch.utils.cpp_extension")
    monkeypatch.setattr(logger, "filters", [])
    assert cpp_extension._find_cuda_home() == "/usr/local/cuda"
    assert "No CUDA runtime is found" in caplog.text  # else there would be nothing to silence
    caplog.clear()
    model.compile_parts(cast(Method, nn.Sequential(nn.Linear(2, 2))))
    cpp_extension._find_cuda_home()
    logger.warning("Your compiler is too old.")
    assert caplog.messages == ["Your compiler is too old."]


def test_checkpoints_of_single_epochs_are_thinned_while_training_and_afterwards(
    photos: Path, tmp_path: Path, capsys: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    begin = ["pretrain", "simclr", photos, *TINY, "--save-every", "1"]

    def kept(run: str) -> list[str]:
        return sorted(path.name for path in Folder(run).checkpoints.iterdir())

    both = ["last.before.ckpt", "last.ckpt"]
    said = done(capsys, *begin, "--epochs", "4", "--out", "a b")
    assert kept("a b") == [*(f"epoch={i}.ckpt" for i in range(1, 5)), *both]
    found = re.search(r"Checkpoints take (\S+) MB, .* To remove them: (lookalike thin .*)", said)
    assert found is not None
    size = sum({p.stat().st_ino: p.stat().st_size for p in Folder("a b").checkpoints.iterdir()}.values())
    assert float(found[1]) == pytest.approx(size / 1e6, abs=0.06)
    assert "removed 2 checkpoints" in done(capsys, *shlex.split(found[2])[1:], "--keep-checkpoints", "2")
    assert kept("a b") == ["epoch=3.ckpt", "epoch=4.ckpt", *both]
    assert "removed 2 checkpoints" in done(capsys, *shlex.split(found[2])[1:])
    assert kept("a b") == both
    done(capsys, "pretrain", "--resume", "--out", "a b", "--epochs", "6", "--keep-checkpoints", "1")
    assert kept("a b") == ["epoch=6.ckpt", *both]
    for path in (Folder("a b").last, Folder("a b").before):
        path.unlink()
    assert "removed 0 checkpoints" in done(capsys, "thin", "a b")  # the only one to go on from
    assert "keep_checkpoints is -1" in refused(capsys, "thin", "a b", "--keep-checkpoints", "-1", code=2)
    said = done(capsys, *begin, "--epochs", "2", "--out", "none", "--keep-checkpoints", "0")
    assert kept("none") == both
    assert "Checkpoints take" not in said
    shown = done(capsys, *begin[:-2], "--epochs", "1", "--out", "one")
    assert "Checkpoints take" not in shown  # its only one is the last, by another name
    assert "holds no run" in refused(capsys, "thin", ".")

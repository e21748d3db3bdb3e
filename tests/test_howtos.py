"""The commands and Python of the documentation run as they stand, on small images, networks and trainings."""

import json
import re
import secrets
import shlex
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from support.images import draw
from support.scans import geotiff, scan
from support.serving import Process

from lookalike import backbones, cli, encoders
from lookalike.runs import Folder

DOCS = Path(__file__).parents[1] / "docs"
PAGES = [
    "quickstart", "resume", *(pytest.param(page, marks=pytest.mark.slow) for page in (
        "data", "checking", "gray-and-16-bit", "medical", "satellite", "inspection", "evaluation",
        "finetuning", "distillation", "comparing", "report",
        "exporting", "triton",
    )),
]  # fmt: skip
TRAINING = ["--image-size", "80", "--epochs", "1", "--batch-size", "8"]
NETWORK = {"distill": "test_byobnet", "pretrain": "test_byobnet", "pretrain dinov2": "test_vit"}
TEACHERS = {"timm/vit_base_patch14_dinov2.lvd142m": "teacher", "dinov2_vits14_pretrain.pth": "teacher"}
"""Published weights, and what stands for them here: nothing is downloaded."""
PYTHON = {"mobilenetv3_small_050": "test_byobnet", "Resize(110": "Resize(91", "CenterCrop(96": "CenterCrop(80",
          "3, 96, 96)": "3, 80, 80)"}  # fmt: skip
"""The network and the image size of the pages' Python, and the small ones of these tests."""


def blocks(page: str, language: str = "") -> list[str]:
    """The code blocks of a page in a language."""
    text = (DOCS / f"{page}.md").read_text()
    return [
        code for name, code in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE) if name == language
    ]


def commands(page: str) -> Iterator[list[str]]:
    """The `lookalike` commands in a page's code blocks, without what follows a `#`."""
    for block in blocks(page):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("lookalike "):
                yield shlex.split(line, comments=True)[1:]


def small(words: list[str]) -> list[str]:
    """The same command on a network and a training of seconds."""
    words = [TEACHERS.get(word, word) for word in words]
    verb = words[0]
    if verb in ("pretrain", "distill", "finetune"):
        words += TRAINING if "--resume" not in words else ["--epochs", "2"] if "--epochs" in words else []
        network = NETWORK.get(f"{verb} {words[1]}", NETWORK.get(verb))
        if network and "--resume" not in words and "--from" not in words:
            words += ["--backbone", network]
        words += [] if "--resume" in words else ["--overwrite"]
    if verb == "check":
        words += ["--no-timing"]
    if verb == "compare":
        words += [*TRAINING, "--backbone", "test_byobnet", "--overwrite"]
        at = words.index("--budget")
        del words[at : at + 2]
    if verb in ("check", "embed", "show", "predict", "report", "views", "export"):
        words += ["--overwrite"]
    takes_no_workers = verb in ("doctor", "report", "views", "export") or "--features" in words
    return words if takes_no_workers else [*words, "--workers", "0"]


@pytest.fixture(scope="module")
def workspace(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders that the pages name, and a first run."""
    root = tmp_path_factory.mktemp("documentation")
    for name in ("labelled", "pets", "cars"):
        shutil.copytree(labelled, root / name)
    for i, path in enumerate(sorted((root / "labelled").rglob("*.jpg"))):
        path.rename(path.with_name(f"case{50 + i}_000.jpg"))
    images = sorted(path.relative_to(root) for path in (root / "labelled").rglob("*.jpg"))
    (root / "patients.csv").write_text(
        "path,diagnosis,patient\n" + "".join(f"{path},{path.parent.name},{i // 3}\n" for i, path in enumerate(images))
    )
    (root / "tags.csv").write_text(
        "path,label,split\n"
        + "".join(f"{path},{path.parent.name}{';also' * (i % 2)},{path.parts[1]}\n" for i, path in enumerate(images))
    )
    for i in range(40):  # as many as the verification of int8 needs
        draw(root / "photos" / f"case{i:02d}_000.jpg", i % 4, i, (96, 80))
        (root / "scans").mkdir(exist_ok=True)
        Image.open(root / "photos" / f"case{i:02d}_000.jpg").convert("L").save(root / "scans" / f"{i}.png")
    for i in range(10):
        gray = np.asarray(Image.open(root / "scans" / f"{i}.png")).astype("u2")
        for folder in ("dicom", "dicom-test"):
            scan(root / folder / f"patient{i % 3 + 5 * (folder != 'dicom')}" / f"{i}.dcm", gray * 8,
                 RescaleIntercept=-1024, RescaleSlope=1)  # fmt: skip
        (root / "frames").mkdir(exist_ok=True)
        tifffile.imwrite(root / "frames" / f"{i}.tif", np.tile(gray * 16, (2, 2)), photometric="minisblack")
        geotiff(root / "satellite" / f"{i}.tif", np.stack([gray * factor for factor in (2, 3, 5, 7, 11)]))
    shutil.copy(root / "photos" / "case00_000.jpg", root / "photos" / "first.jpg")
    shutil.copytree(root / "photos", root / "FOLDER")  # in the place of one of `datasets`
    with tarfile.open(root / "photos.tar", "w") as archive:
        archive.add(root / "photos", ".")
    teacher = backbones.create("test_vit", image_size=80)
    encoders.save(Folder(root / "teacher"), teacher, method="none", epochs=0, dtype=torch.uint8)
    return root


@pytest.mark.slow
def test_the_page_of_the_server_works(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its commands in their order; servers take a free port each, and what calls them finds it."""
    monkeypatch.chdir(workspace)
    if not Path("runs/first").is_dir():
        assert cli.main([*small(["pretrain", "simclr", "photos", "--out", "runs/first"]), "--no-report"]) == 0
    servers: list[Process] = []
    try:
        for block in re.findall(
            r"^```(?:python)?\n.*?^```", (DOCS / "serving.md").read_text(), re.DOTALL | re.MULTILINE
        ):
            language, _, text = block.removeprefix("```").removesuffix("```").partition("\n")
            text = text.replace("127.0.0.1:8000", servers[-1].url.removeprefix("http://")) if servers else text
            if language == "python":
                exec(text, {})
                continue
            for line in text.splitlines():
                words = shlex.split(line, comments=True)
                if words[:2] == ["lookalike", "serve"]:
                    servers.append(Process(Path(words[2]), *("127.0.0.1" if w == "0.0.0.0" else w for w in words[3:])))
                elif words[0] == "lookalike":
                    assert cli.main(small(words[1:])) == 0, line
                elif words[0] == "curl":
                    line = line.replace("127.0.0.1:8000", servers[-1].url.removeprefix("http://"))
                    answer = json.loads(subprocess.check_output(line, shell=True, text=True))
                    assert len(answer.get("embeddings", answer.get("predictions", []))) == line.count("images=@"), (
                        answer
                    )
                elif words[0] == "openssl":
                    Path("token").write_text(secrets.token_hex(32))
        assert len(servers) == 2
        assert [server.stop() for server in servers] == [0, 0]
    finally:
        for server in servers:
            server.kill()


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_work(
    page: str, workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workspace)
    for run in () if page in ("quickstart", "comparing") else ("runs/first", "runs/second", "runs/dino"):
        if not Path(run).is_dir():  # another page trains it
            assert cli.main([*small(["pretrain", "simclr", "photos", "--out", run]), "--no-report"]) == 0
    found = list(commands(page))
    assert found
    for words in found:
        assert cli.main(small(words)) == 0, f"{shlex.join(words)}\n{capsys.readouterr().err}"
    if page in ("quickstart", "exporting"):
        for code in blocks(page, "python"):
            for text, small_one in PYTHON.items():
                code = code.replace(text, small_one)
            exec(code, {})

"""The README's commands and Python work as they are written, on small data and a small backbone."""

import ast
import dataclasses
import re
import shlex
from pathlib import Path

import pytest

from lookalike import cli
from lookalike.evaluation import protocols

pytestmark = pytest.mark.page

README = (Path(__file__).parents[1] / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.fixture
def here(photos: Path, labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder where photos/ and labelled/ are what the README says."""
    (tmp_path / "photos").symlink_to(photos)
    (tmp_path / "labelled").symlink_to(labelled)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_commands_of_the_first_blocks(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocols, "DINOV2", dataclasses.replace(protocols.DINOV2, least_steps=20))  # for time
    assert blocks("")[0].startswith("make demo ")  # tests/test_demo.py runs it
    lines = [line.split("#")[0].strip() for line in blocks("")[1].splitlines()]
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("lookalike")]
    assert [c[0] for c in commands] == ["check", "pretrain", "evaluate", "embed"]
    commands[0] += ["--no-timing"]
    commands[1] += ["--backbone", "test_byobnet", "--image-size", "32", "--epochs", "1", "--batch-size", "8"]
    for command in commands:
        assert cli.main([*command, "--workers", "0"]) == 0, capsys.readouterr().err
    for name in ("runs/first/encoder.safetensors", "runs/first/evaluation.json", "embeddings.npz"):
        assert (here / name).is_file()


def test_the_python_block(here: Path) -> None:
    (code,) = blocks("python")
    (line,) = re.findall(r"^network = .*$", code, re.MULTILINE)
    small = {"backbone": "test_byobnet", "image_size": 32, "batch_size": 8, "epochs": 1}
    assert ast.literal_eval(line.removeprefix("network = ")).keys() == small.keys()
    names: dict[str, object] = {}
    exec(code.replace(line, f"network = {small | {'workers': 0}}"), names)
    assert (here / "runs/first/encoder.safetensors").is_file()
    assert names["encoder"].dim == 256  # type: ignore[attr-defined]


def test_every_command_of_the_table_exists(capsys: pytest.CaptureFixture[str]) -> None:
    verbs = set(re.findall(r"`lookalike (\w+)", README))
    assert verbs >= {"demo", "pretrain", "evaluate", "embed", "check", "views", "list"}
    for verb in verbs:
        assert cli.main([verb, "--help"]) == 0


def test_the_bare_loop_trains(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import runpy

    monkeypatch.chdir(tmp_path)
    example = Path(__file__).parents[1] / "examples" / "bare_loop.py"
    assert len(example.read_text().splitlines()) <= 60
    module = runpy.run_path(str(example))
    losses = [module["main"](str(photos), backbone="test_byobnet", epochs=e, batch_size=16) for e in (1, 8)]
    assert losses[1] < losses[0]

"""What messages advise: each piece of advice is taken from the message itself, followed, and works.

A row of `REMEDIES` in support/remedies is a command that fails, what its message advises, and the command that follows
the advice. New messages that advise something get a row. Two sweeps over the source make sure that no message names a
command or an option that does not exist.
"""

import dataclasses
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
from support.advice import VERBS, literals
from support.place import Place
from support.remedies.commands import REMEDIES

from lookalike import cli
from lookalike.cli.command import Command
from lookalike.methods import METHODS, get_method
from lookalike.runs import Options

pytestmark = pytest.mark.long(22)


@pytest.fixture(autouse=True)
def _there_already(place: Place) -> None:
    for name in ("there.npz", "there.png", "there.json", "neighbours.png"):
        (place.out / name).write_text("old")


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("lookalike.commands.teacher_student.TIMING_SECONDS", 0.0)
    monkeypatch.setattr("lookalike.training.timing.WARM_STEPS", 1)
    monkeypatch.setattr("lookalike.training.timing.TIMED_STEPS", 1)
    monkeypatch.setattr(
        "lookalike.commands.compare.cost_meter.gc.collect", lambda: 0
    )  # seconds in a process of many tests


@pytest.mark.parametrize("case", REMEDIES)
def test_what_a_message_advises_works(case: str, place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    remedy = REMEDIES[case]
    if "fetched" in case:
        torch.save(timm.create_model("test_resnet").state_dict(), place.out / "hand.pth")
    argv = remedy.argv(place)
    assert cli.main(argv) == remedy.code
    said = capsys.readouterr()
    message = re.sub(r"\s*\n[│ ]*", " ", said.err + said.out).strip()
    found = re.search(remedy.advice, message)
    assert found, message
    for follow in remedy.follow if isinstance(remedy.follow, tuple) else (remedy.follow,):
        after = follow(place, found, argv)
        assert after is None or cli.main(after) == 0, capsys.readouterr().err
        again = capsys.readouterr()
        if not remedy.advice.startswith("Next: "):  # what was said is not said again
            assert not re.search(remedy.advice, re.sub(r"\s*\n[│ ]*", " ", again.err + again.out))


# ---------------------------------------------------------------- what is named exists


def fields_of(cls: type, before: str = "") -> Iterator[str]:
    """The options of a dataclass, those of the dataclasses within it included."""
    for f in dataclasses.fields(cls):
        name = f"{before}{f.name.replace('_', '-')}"
        yield name
        default = f.default if f.default is not dataclasses.MISSING else None
        for part in default if isinstance(default, tuple) else (default,):
            if dataclasses.is_dataclass(part):
                number = "0." if isinstance(default, tuple) else ""
                yield from fields_of(type(part), f"{name}.{number}")


def options() -> set[str]:
    """Every option that a command takes."""
    modules = [module for name, module in sys.modules.items() if name.startswith("lookalike.cli.")]
    values = [value for module in modules for value in vars(module).values()]
    verbs = {value for value in values if dataclasses.is_dataclass(value) and isinstance(value, type)}
    found = {name for cls in (*verbs, Options) for name in fields_of(cls)}
    commands = [value for value in values if isinstance(value, Command)]
    found |= {name.replace("_", "-") for command in commands for name in command.options()}
    for name in METHODS:
        found |= set(fields_of(get_method(name).Config))
    return found | {f"no-{name}" for name in found} | {"help", "version", "debug", "from", "no-report"}


OF_OTHERS = {
    "force-reinstall", "option", "nnodes", "shm-size", "mlp", "moco-t", "aug-plus", "cos", "gpus", "rm", "model",
    "one-size", "url", "grpc-address", "http-address", "load-model", "model-control-mode", "model-repository",
    "kill-on-bad-exit", "requeue", "upgrade",
}  # fmt: skip
"""A word for any; torchrun's, srun's, pip's, docker's, tritonserver's, an exported client's, and those of
facebookresearch/moco."""


def test_no_text_names_an_option_that_no_command_has() -> None:
    known, strange = options(), []
    for file, _, text in literals():
        if " " not in text:  # what is given to git, and names that are looked for
            continue
        for name in re.findall(r"(?<![\w-])--([a-z][a-z0-9]*(?:[-.][a-z0-9]+)*)(?![\w\0-])", text):
            if re.sub(r"\.\d+\.", ".0.", name) not in known:
                strange.append((file, name, text[:80]))
    assert not [row for row in strange if row[1] not in OF_OTHERS]


def test_no_text_names_a_command_that_there_is_not() -> None:
    verbs = {*VERBS, "COMMAND"}
    found = {
        (file, verb)
        for file, _, text in literals()
        for verb in re.findall(r"(?:`|: |Try: |^  )lookalike ([a-zA-Z]+)", text)
    }
    assert {verb for _, verb in found} >= {"evaluate", "finetune", "list", "report"}
    assert not [row for row in found if row[1] not in verbs]


def test_the_sweep_finds_an_option_that_is_not_there() -> None:
    known = options()
    assert {"encoder-backbone", "teacher-backbone", "optim.lr", "views.0.size", "overwrite", "no-report"} <= known
    assert "backbone-of-the-encoder" not in known

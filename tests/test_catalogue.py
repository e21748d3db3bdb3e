"""What `lookalike list backbones` shows: a table of what networks cost, which holds what they really cost."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from lookalike import backbones, cli
from lookalike.commands import catalogue
from lookalike.commands.catalogue import Cost, chosen, lines
from lookalike.commands.teacher_student import gflops


@pytest.mark.parametrize("name", ["resnet18", "pit_ti_224", "test_vit", "torchvision/squeezenet1_1"])
def test_the_table_holds_what_a_network_costs(name: str) -> None:
    _, rows = catalogue.table()
    made = backbones.create(name, image_size=224)
    assert rows[name].parameters == sum(p.numel() for p in made.net.parameters())
    assert rows[name].dim == made.dim
    learns = [p.requires_grad for p in made.parameters()]
    assert rows[name].gflop == pytest.approx(
        gflops(made, 224), rel=1e-3
    )  # a class token is no parameter to stumble over
    assert [p.requires_grad for p in made.parameters()] == learns


def test_the_table_has_every_name_but_those_of_networks_that_cannot_be_made() -> None:
    """Only where the installed versions are those of the table: another timm has other names."""
    versions, rows = catalogue.table()
    known = {name for name in backbones.names() if not name.startswith("lookalike_golden")}
    if versions == catalogue.installed():
        assert len(known - rows.keys()) < 20
        assert not rows.keys() - known
    numbers = [dataclasses.astuple(cost) for cost in rows.values()]
    assert all(parameters and dim for _, parameters, _, dim in numbers)
    assert sum(gflop is not None for *_, gflop, _ in numbers) > 0.8 * len(numbers)


def test_names_that_the_table_does_not_know_have_no_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "backbones.csv"
    file.write_text("# timm 0.1, torchvision 0.1\nname,parameters,gflop,dim\nresnet18,11176512,3.628,512\ngone,1,,2\n")
    found = {cost.name: cost for cost in catalogue.catalogue(file)}
    assert found["resnet18"] == Cost("resnet18", 11176512, 3.628, 512)
    assert found["resnet34"] == Cost("resnet34")
    assert "gone" not in found
    monkeypatch.setattr("lookalike.commands.catalogue.table", lambda path=file: ("timm 0.1, torchvision 0.1", {}))
    assert cli.main(["list", "backbones", "resnet34"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert ["resnet34"] in [line.split() for line in said]
    assert said[-1].startswith("The costs are those of timm 0.1, torchvision 0.1; with timm ")


A, B, C, D = Cost("a", 10_000_000, 5.0, 512), Cost("b", 2_000_000, 0.5, 192), Cost("c"), Cost("d", 90_000_000, None, 64)


def test_backbones_are_ordered_and_what_is_not_known_comes_last() -> None:
    found = [A, B, C, D]
    assert chosen(found) == found
    assert chosen(found, order="parameters") == [B, A, D, C]
    assert chosen(found, order="gflop") == [B, A, C, D]
    assert chosen(found, order="dim") == [D, B, A, C]
    assert chosen(found, pattern="d") == chosen(found, pattern="D") == chosen(found, pattern="timm/d") == [D]
    assert chosen(found, small=True) == [B]  # the others are too large, or it is not known
    assert [line.split() for line in lines([A, C, D])] == [
        ["backbone", "parameters", "GFLOP", "at", "224", "px", "features"],
        ["a", "10.00", "M", "5.00", "512"],
        ["c"],
        ["d", "90.00", "M", "64"],
    ]


def test_the_list_needs_no_torch() -> None:
    """It answers within half a second: the table is a file."""
    program = (
        "import sys; from lookalike.cli import main; "
        "main(['list', 'backbones', 'resnet1', '--small', '--sort', 'dim']); "
        "print(sorted({'torch', 'timm', 'torchvision'} & sys.modules.keys()))"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    *rows, heavy = out.splitlines()
    if catalogue.table()[0] == catalogue.installed():
        assert heavy == "[]"
    names = [row.split()[0] for row in rows[1:]]
    assert {"resnet10t", "resnet18"} <= set(names)
    assert "resnet101" not in names


def test_a_training_step_is_timed_here(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "MEASURED_SECONDS", 0.0)
    assert cli.main(["list", "backbones", "test_", "--measure", "--image-size", "32", "--sort", "gflop"]) == 0
    head, *rows, note = capsys.readouterr().out.splitlines()
    assert head.endswith("images/s here")
    speeds = {row.split()[0]: row.split()[-1] for row in rows}
    assert float(speeds["test_resnet"].replace(",", "")) > 1
    assert "a forward and a backward pass of one view, batch size 16, 32 px" in note
    assert cli.main(["list", "backbones", "resnet", "--measure"]) == 1
    assert "backbones would take long to measure; at most 20 are allowed. Narrow the PATTERN" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["list", "methods", "--small"], 2, "--small applies to backbones only. Leave it out."),
        (["list", "methods", "--sort", "dim"], 2, "--sort applies to backbones only"),
        (["list", "backbones", "resnet152", "--small"], 1, "No small backbone's name contains 'resnet152'."),
        (
            ["list", "backbones", "test_vit", "--measure", "--image-size", "0"],
            1,
            "image_size is 0; it must be at least 1.",
        ),
        (["list", "methods", "simcrl"], 1, "No method's name contains 'simcrl'. Did you mean simclr"),
        (["list", "backbones", "resnte18"], 1, "No backbone's name contains 'resnte18'."),
    ],
)
def test_a_list_that_cannot_be(argv: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(argv) == code
    assert words in capsys.readouterr().err

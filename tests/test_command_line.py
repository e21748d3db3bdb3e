"""Each command is its function: options and parameters have the same names and defaults, and each says what it is."""

import inspect
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from support.advice import VERBS

import lookalike
from lookalike import cli
from lookalike.cli.command import Command, Option
from lookalike.cli.comparison import HIDDEN, MARKS
from lookalike.cli.fields import registry, some_fields
from lookalike.cli.parsing import options_in, parse, parse_first
from lookalike.cli.run_arguments import Training
from lookalike.commands.compare.spec import Comparison

if TYPE_CHECKING:
    from lookalike.data import Data

COMMANDS = {
    name.lower(): value
    for module in [module for path, module in sys.modules.items() if path.startswith("lookalike.cli.")]
    for name, value in vars(module).items()
    if isinstance(value, Command)
}

PYTHON_ONLY = {"say", "trainings"}
"""Parameters that take a function."""
OWN_DEFAULTS: dict[str, dict[str, object]] = {
    "embed": {"out": "embeddings.npz", "workers": None},
    "evaluate": {"encoder": "", "train": "", "test": "", "workers": None},
    "predict": {"out": "predictions.csv", "workers": None},
    "report": {"workers": None},
    "show": {"out": "show", "workers": None},
}
"""Where the command line has others: files for what Python returns, a machine's free cores, places that --features
replaces."""
OWN_OPTIONS = {
    "demo": {"report"},
    "doctor": {"json"},
    "embed": {"overwrite"},
    "evaluate": {"features"},
    "predict": {"overwrite"},
    "slurm": {"check"},
}
"""Options of the command line alone."""


def test_all_but_trainings_and_comparisons_are_functions() -> None:
    assert {*COMMANDS} == {*VERBS} - {"pretrain", "distill", "finetune", "views", "estimate", "compare"}


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_options_are_the_parameters(name: str) -> None:
    command, known = COMMANDS[name], inspect.signature(COMMANDS[name].function).parameters
    assert {*command.options()} == (known.keys() - PYTHON_ONLY) | OWN_OPTIONS.get(name, set())
    own = OWN_DEFAULTS.get(name, {})
    for option, stated in command.options().items():
        if option in known and option not in own:
            default = known[option].default
            assert (
                not isinstance(stated.default, str | int | float | tuple)
                if default is inspect.Parameter.empty
                else (stated.default == default)
            ), option
        elif option in own:
            assert stated.default == own[option] != known[option].default, option


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_places_are_what_python_takes_by_position(name: str) -> None:
    known = inspect.signature(COMMANDS[name].function).parameters.values()
    assert COMMANDS[name].positionals() == [p.name for p in known if p.kind is p.POSITIONAL_OR_KEYWORD]


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_says_what_each_option_is(name: str) -> None:
    assert not [option for option, stated in COMMANDS[name].options().items() if not stated.help]


def test_commands_are_what_python_has() -> None:
    public = {name for name in COMMANDS if name in lookalike.__all__}
    assert public == {"embed", "evaluate", "export", "plot", "predict", "report", "serve", "show"}
    for name in public:
        assert COMMANDS[name].function is getattr(lookalike, name)


def test_compare_is_its_comparison() -> None:
    rules = registry(some_fields(Comparison, HIDDEN, MARKS))
    argv = ["DATA", "simclr", "byol", "--train", "T", "--test", "A", "--test", "B"]
    asked = parse(Comparison, argv, "compare", None, rules)
    assert asked == Comparison(data="DATA", methods=("simclr", "byol"), train=("T",), test=("A", "B"))


def made(a: "Data", *, b: "tuple[Data, Data] | None" = None, say: Callable[[str], object] = print) -> object:
    """Does it.

    Args:
        a: what it
            takes.
        b: two
            of it: both.
        say: called.

    Raises:
        ValueError: never.
    """
    return a, b, say


def test_a_function_is_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    command = Command(function=made, metavars={"a": "IMAGES"}, extra={"c": Option(int, 3, "A number.")})
    assert {name: stated.help for name, stated in command.options().items()} == {
        "a": "What it takes.", "b": "Two of it: both.", "c": "A number.",
    }  # fmt: skip
    asked = command.read(["x", "--b", "y", "z"])
    assert vars(asked) == {"a": "x", "b": ("y", "z"), "c": 3}
    assert command.call(asked, say=len) == ("x", ("y", "z"), len)
    with pytest.raises(SystemExit):
        command.read(["--help"])
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("lookalike made", "IMAGES", "Does it.", "A number."))
    assert "--say" not in printed


def test_a_command_that_is_not_complete_says_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["embed"]) == 2
    assert "ENCODER" in capsys.readouterr().err


def test_what_is_read_first_leaves_all_else_as_it_stands() -> None:
    rest = ["simclr", "--views.0.size=32", "DATA", "--batch_size", "8", "--", "--from"]
    first, others = parse_first(Training, ["--from=run.yaml", *rest[:3], "--no-report", *rest[3:]], "pretrain")
    assert first == Training("run.yaml", report=False)
    assert others == rest
    assert options_in(rest) == {"views.0.size", "batch_size"}


@pytest.mark.parametrize("argv", [["pretrain"], ["pretrain", "simclr"], ["distill"], ["finetune"], ["views", "simclr"]])
def test_help_of_trainings_shows_what_is_read_first(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*argv, "--help"]) == 0
    options = capsys.readouterr().out.split("usage:")[1]
    assert "--from FILE" in options
    assert options.count("--out STR") == 1
    assert ("--no-report" in options) is (argv[0] != "views")
    assert ("default: views.png" in options) is (argv[0] == "views")


def test_help_of_a_comparison_shows_the_report(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compare", "--help"]) == 0
    assert "--report, --no-report" in capsys.readouterr().out.split("usage:")[1]

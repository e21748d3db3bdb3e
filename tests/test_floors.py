"""Which module may import which: imports inside functions and under TYPE_CHECKING count."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import lookalike

SOURCE = Path(lookalike.__file__).parent
MODULES = {
    ".".join(("lookalike", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in SOURCE.rglob("*.py")
}


@cache
def imports(module: str) -> frozenset[str]:
    """The modules of the package that one imports, wherever in its source."""
    return frozenset(_imports(module)) - {module}


def _imports(module: str) -> Iterator[str]:
    path = MODULES[module]
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name in MODULES)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found = {f"{base}.{name.name}" for name in node.names} & MODULES.keys() or {base} & MODULES.keys()
            yield from found


def needed(module: str) -> set[str]:
    """A module, and all that it imports, directly or not."""
    seen: set[str] = set()
    todo = [module]
    while todo:
        if (next_one := todo.pop()) not in seen:
            seen.add(next_one)
            todo += imports(next_one)
    return {name.removeprefix("lookalike.") for name in seen}


def test_imports_of_all_kinds_are_seen() -> None:
    assert "lookalike.encoders" in imports("lookalike.runs.result")  # within a function
    assert "lookalike.core" in imports("lookalike.runs.options")  # for types alone
    assert {"lookalike.runs.folder", "lookalike.backbones.official"} <= imports("lookalike.encoders.loader")


@pytest.mark.parametrize(
    "module",
    ["cores", "files", "foreign", "metric_names", "names", "devices", "progress", "printing", "random", "processes"],
)
def test_the_ground_floor_imports_nothing_of_the_package(module: str) -> None:
    assert needed(f"lookalike.{module}") == {module}


@pytest.mark.parametrize("module", ["core", "data", "backbones", "optim", "places", "tensor_file"])
def test_what_lies_below_runs_does_not_know_them(module: str) -> None:
    assert not [name for name in needed(f"lookalike.{module}") if name.startswith("runs")]


def test_the_contract_knows_the_face_of_networks_and_not_what_makes_them() -> None:
    found = {name for name in needed("lookalike.core") if name.startswith("backbones")}
    assert found == {"backbones.base", "backbones.image_sizes"}


def test_a_face_knows_none_of_its_kinds() -> None:
    assert needed("lookalike.backbones.base") == {
        "backbones.base", "backbones.image_sizes", "foreign", "image_options", "printing",
    }  # fmt: skip
    assert needed("lookalike.data.sources.source") == {
        "data.sources.categorical", "data.sources.source", "image_options", "printing",
    }  # fmt: skip


def test_a_saved_encoder_needs_the_folder_of_a_run_and_not_the_run() -> None:
    found = {name for name in needed("lookalike.encoders") if name.startswith("runs")}
    assert found == {"runs.environment", "runs.folder", "runs.lookup", "runs.old_names", "runs.yaml"}


def test_the_folder_of_a_run_knows_no_method_but_by_name() -> None:
    assert {name for name in needed("lookalike.runs.folder") if name.startswith("methods")} == {"methods.table"}


COMMANDS = {name for name in MODULES if name.startswith("lookalike.commands")}
CLI = {name for name in MODULES if name.startswith("lookalike.cli")}


@pytest.mark.parametrize("module", sorted(MODULES.keys() - COMMANDS - CLI - {"lookalike"}))
def test_commands_are_the_top_floor(module: str) -> None:
    """The command line alone imports them; the tables of `lookalike` and `lookalike.evaluation` name them as texts."""
    assert not imports(module) & COMMANDS


def test_the_command_line_alone_knows_tyro() -> None:
    tyro = re.compile(r"^\s*(import|from) tyro", re.MULTILINE)
    found = {name for name, path in MODULES.items() if tyro.search(path.read_text(encoding="utf-8"))}
    assert found
    assert found <= CLI


@pytest.mark.parametrize("module", sorted(MODULES.keys() - CLI))
def test_only_what_starts_the_program_knows_the_command_line(module: str) -> None:
    assert module == "lookalike.__main__" or not imports(module) & CLI


@pytest.mark.parametrize(
    "module",
    sorted(m for m in MODULES if m.startswith(("lookalike.cli", "lookalike.commands.", "lookalike.evaluation."))),
)
def test_neither_commands_nor_evaluation_form_a_circle(module: str) -> None:
    above = {name for each in imports(module) for name in needed(each)}
    assert module.removeprefix("lookalike.") not in above


TESTS = Path(__file__).parent


def test_no_test_file_imports_another() -> None:
    """What they share lies in `tests/support`, which imports none of them either."""
    files = {path.stem for path in TESTS.glob("*.py")}
    found = {
        f"{path.relative_to(TESTS)} imports {name}"
        for path in TESTS.rglob("*.py")
        for name in re.findall(r"^ *(?:from|import) (\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
        if name in files
    }
    assert not found


# ---------------------------------------------------------------- sizes

ROOT = Path(__file__).parents[1]
KERNELS = "views/cpu.py", "views/gpu.py"


def test_the_path_of_the_idea_is_short_and_the_map_says_how_long() -> None:
    loss = next(n for n in ast.parse((SOURCE / "losses.py").read_text()).body if getattr(n, "name", "") == "nt_xent")
    assert isinstance(loss, ast.FunctionDef)
    lines = {
        "`examples/bare_loop.py`": len((ROOT / "examples/bare_loop.py").read_text().splitlines()),
        "`core.py`": len((SOURCE / "core.py").read_text().splitlines()),
        "`methods/simclr.py`": len((SOURCE / "methods/simclr.py").read_text().splitlines()),
        "`losses.py`, `nt_xent`": (loss.end_lineno or 0) - loss.lineno + 1,
    }
    assert sum(lines.values()) <= 400
    assert lines["`core.py`"] <= 220
    text = (ROOT / "docs/architecture.md").read_text()
    assert f"Four files, {sum(lines.values())} lines" in text
    for name, count in lines.items():
        assert f"| {name} | {count} |" in text


@pytest.mark.parametrize("module", sorted(MODULES))
def test_no_file_is_longer_than_600_lines(module: str) -> None:
    path = MODULES[module]
    if str(path.relative_to(SOURCE)) not in KERNELS:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 600

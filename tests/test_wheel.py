"""The wheel holds all that the package needs, and works in an environment that knows nothing of the source tree."""

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src/lookalike"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True)
    (found,) = folder.glob("*.whl")
    return found


@pytest.mark.slow
def test_it_holds_every_file_of_the_package_and_nothing_else(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if not name.endswith("/")}
    files = {path.relative_to(SOURCE.parent).as_posix() for path in SOURCE.rglob("*") if path.is_file()}
    files = {name for name in files if "__pycache__" not in name}
    assert {"lookalike/py.typed", "lookalike/commands/doctor.py"} <= files
    assert {Path(name).suffix for name in files} >= {".js", ".css", ".csv"}  # the page's, and the catalogue's
    about = {name for name in names if name.split("/")[0].endswith(".dist-info")}
    assert names - about == files
    assert {name.split("/", 1)[1] for name in about} == {
        "METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE",
    }  # fmt: skip


@pytest.mark.slow
def test_the_demo_runs_where_it_alone_is_installed(wheel: Path, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "env")], check=True)
    python = tmp_path / "env/bin/python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True, env=environment, capture_output=True, text=True)
    # its dependencies are those of this environment; what that has of lookalike is a .pth, which is not followed there
    (packages,) = (tmp_path / "env/lib").glob("python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run(str(python), "-c", "import lookalike; print(lookalike.__file__)").startswith(str(packages))
    program = str(tmp_path / "env/bin/lookalike")
    assert run(program, "--version").strip() == metadata.version("lookalike")
    assert "trained encoder" in run(program, "demo", "--epochs", "1")
    run_folder = elsewhere / "runs/demo"
    for name in ("encoder.safetensors", "evaluation.json", "result.png", "report.html"):
        assert (run_folder / name).is_file()
    assert "color-scheme: light dark" in (run_folder / "report.html").read_text(encoding="utf-8")  # the page's style
    facts = json.loads(run(program, "doctor", "--json"))["facts"]
    assert {each["name"] for each in facts["extras"]} >= {"tables", "plots"}
    assert facts["commit"] is None

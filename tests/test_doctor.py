"""`lookalike doctor`: what it reports, of what is broken, too, and what to do about the problems that it knows."""

import json
import os
import resource
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from lookalike import cli
from lookalike.commands import doctor as module
from lookalike.commands.doctor import Diagnosis, Facts, Gpu, Library, Place, doctor
from lookalike.numba_cache import kept_in

Say = pytest.CaptureFixture[str]
GIB = 2**30


@pytest.fixture(scope="module")
def here() -> Diagnosis:
    return doctor()


@pytest.fixture
def sound(here: Diagnosis) -> Facts:
    """This machine, as if it had room and no GPU."""
    room = Place("/somewhere", 100 * GIB, 50 * GIB, True)
    return replace(
        here.facts, shared_memory=room, current_folder=room, cache_folder=room, free_memory=8 * GIB, driver_gpus=(),
        driver_error=None, gpus=(), warnings=(), visible_gpus=None,
    )  # fmt: skip


def problems(facts: Facts) -> str:
    """What is said of such a machine, in one text."""
    return "\n".join(f"{each.found} {each.advice}" for rule in module.RULES for each in rule(facts))


def command(*argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "lookalike", "doctor", *argv], capture_output=True, text=True,
        env=os.environ | environment,
    )  # fmt: skip


def test_it_prints_what_a_bug_report_needs(here: Diagnosis, capsys: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "doctor", lambda: here)
    assert cli.main(["doctor"]) == 0
    text = capsys.readouterr().out
    for name in ("torch", "timm", "lightning", "pillow"):
        assert f"  {name:<14} {metadata.version(name)}\n" in text
    for part in ("lookalike", "Python", "system", "CPU", "memory", "GPU", "CUDA", "current folder", "cache folder"):
        assert any(line.startswith(part) for line in text.splitlines()), part


def test_json_holds_the_same_as_data(here: Diagnosis, capsys: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "doctor", lambda: here)
    assert cli.main(["doctor", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["format"] == 1
    facts = content["facts"]
    assert {each["name"]: each["version"] for each in facts["libraries"]}["torch"] == metadata.version("torch")
    assert facts["usable_cores"] <= facts["cores"] == os.cpu_count()
    assert 0 < facts["free_memory"] < facts["memory"]
    assert facts["current_folder"]["free"] <= shutil.disk_usage(".").total
    assert [each["command"] for each in facts["extras"] if each["name"] == "wandb"] == [
        "pip install 'lookalike[wandb]'"
    ]
    assert [each["found"] for each in content["problems"]] == [each.found for each in here.problems]


def test_what_this_installation_has_is_found(here: Diagnosis) -> None:
    libraries = {each.name: each for each in here.facts.libraries}
    assert {"torch", "numba", "scikit-learn", "pillow"} <= {name.lower() for name in libraries}
    assert not [each for each in libraries.values() if each.version is None or each.error is not None]
    assert here.facts.tried
    assert here.facts.numba_cache
    extras = {each.name: each for each in here.facts.extras}
    of_exports = {"onnx", "tensorrt", "transformers"}
    of_data = {"tables", "datasets", "hdf5", "zarr"}
    assert {*of_data, "tensorboard", "wandb", "plots", "umap", "serve", "dev", "docs", *of_exports} == extras.keys()
    for name, package in (
        ("umap", "umap-learn"), ("wandb", "wandb"), ("tables", "pyarrow"), ("transformers", "transformers"),
    ):  # fmt: skip
        assert bool(extras[name].missing) == (module._installed(package) is None)


def test_a_process_of_its_own_says_the_same_and_tells_no_secret() -> None:
    done = command("--json", SECRET_TOKEN="xyzzy-1234")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["facts"]["tried"]
    assert "xyzzy" not in done.stdout + done.stderr
    assert done.stderr == ""


def test_help_imports_no_torch_and_answers_at_once() -> None:
    script = (
        "import sys; from lookalike import cli; code = cli.main(['doctor', '--help']); assert code == 0; "
        "assert not {'torch', 'numba', 'lightning', 'packaging'} & sys.modules.keys()"
    )
    seconds = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
        assert done.returncode == 0, done.stderr
        assert "--json" in done.stdout
    assert min(seconds) < 1  # of a CPU, 0.3 where nothing else runs: the tests' machine is busy


def test_a_torch_that_cannot_be_imported_is_reported(tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    broken = tmp_path / "torch/__init__.py"
    broken.write_text("raise ImportError('libcudnn.so.9: cannot open shared object file')")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = command(PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    assert "cannot be imported: ImportError: libcudnn.so.9: cannot open shared object file" in done.stdout
    assert "Reinstall it: pip install --force-reinstall torch torchvision" in done.stdout
    assert done.stdout.count("cannot be imported: ") == 1  # what needs torch is not blamed
    assert "Traceback" not in done.stdout + done.stderr
    shutil.rmtree(tmp_path / "torch")  # as another installation takes its place
    assert "cannot be imported" not in command(PYTHONPATH=path).stdout


def test_a_library_that_ends_the_process_is_named(tmp_path: Path) -> None:
    (tmp_path / "timm.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGILL)")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    facts = json.loads(command("--json", PYTHONPATH=path).stdout)["facts"]
    errors = {each["name"]: each["error"] for each in facts["libraries"] if each["error"]}
    assert errors == {"timm": "the process was killed by SIGILL"}
    assert not facts["tried"]


def test_without_torch_all_commands_that_need_none_answer(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('broken')")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    for argv in (["--help"], ["doctor", "--help"], ["list", "methods"]):
        done = subprocess.run(
            [sys.executable, "-m", "lookalike", *argv], capture_output=True, text=True,
            env=os.environ | {"PYTHONPATH": path},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


def test_a_missing_extra_is_named_with_its_command(
    capsys: Say, monkeypatch: pytest.MonkeyPatch, here: Diagnosis
) -> None:
    real = metadata.version

    def version(name: str) -> str:
        if name == "pyarrow":
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(module, "_tried", lambda facts: replace(facts, tried=True, numba_cache="/somewhere"))
    assert cli.main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "  tables         lacks pyarrow>=18: pip install 'lookalike[tables]'" in text
    assert "pyarrow>=18" in next(
        line for line in text.splitlines() if line.startswith("  dev ")
    )  # which has tables, too
    assert "  tables         installed" in "\n".join(here.lines())


def test_a_missing_library_and_one_that_is_too_old(sound: Facts) -> None:
    lightning = Library("lightning", ">=2.6.4", "2.6.1")
    text = problems(replace(sound, libraries=(Library("timm", ">=1.0.21", None), lightning)))
    assert "timm is not installed. Install it: pip install 'timm>=1.0.21'" in text
    assert (
        "lightning is 2.6.1, but lookalike needs >=2.6.4. Install a supported version: pip install 'lightning>=2.6.4'"
        in text
    )
    assert not problems(replace(sound, libraries=(replace(lightning, version="2.6.4"),)))


def test_a_vendors_build_of_torch_counts_as_its_release() -> None:
    assert module._suits("2.11.0a0+6ddf5cf85e.nv26.02", ">=2.11")
    assert not module._suits("2.10.0+cu130", ">=2.11")


def test_a_source_tree_that_is_not_installed_is_told(sound: Facts, monkeypatch: pytest.MonkeyPatch) -> None:
    def metadata_of(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "metadata", metadata_of)
    assert module._packages() == ((), ())
    assert "Install it: pip install -e ." in problems(replace(sound, libraries=(), extras=()))


def test_a_small_shared_memory_is_a_problem(
    capsys: Say, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sound: Facts
) -> None:
    class Usage:
        total, used, free = 2**26, 0, 2**26  # what docker gives

    real = shutil.disk_usage
    monkeypatch.setattr(module, "SHARED", tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage if Path(path) == tmp_path else real(path))
    monkeypatch.setattr(module, "_tried", lambda facts: replace(facts, tried=True, numba_cache="/somewhere"))
    assert cli.main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert f"shared memory  {tmp_path}: 64 MiB of 64 MiB free" in text
    assert f"{tmp_path} has 64 MiB free of 64 MiB" in text
    assert "docker run --shm-size 8g" in text
    assert not problems(replace(sound, shared_memory=Place("/dev/shm", 8 * GIB, 8 * GIB, True)))  # as advised
    assert not problems(replace(sound, shared_memory=None))  # macOS has none


def test_little_memory_and_disk_are_problems(sound: Facts) -> None:
    assert "Only 1 GiB of memory is free. Stop other programs" in problems(replace(sound, free_memory=GIB))
    full, closed = (replace(sound.current_folder, free=GIB), replace(sound.current_folder, writable=False))
    assert "has only 1 GiB free. Free some space, or choose a folder on another disk with --out." in problems(
        replace(sound, current_folder=full)
    )
    text = problems(replace(sound, cache_folder=closed))
    assert "The cache folder, /somewhere, is not writable. Choose another folder with --cache-dir." in text
    assert not problems(sound)


DRIVER = Gpu("NVIDIA H200", 140 * GIB, 139 * GIB, "570.86.15")


def test_a_gpu_that_torch_does_not_see_is_explained(sound: Facts) -> None:
    seen = replace(sound, driver_gpus=(DRIVER,), cuda="13.0")
    old = replace(seen, warnings=("The NVIDIA driver on your system is too old.",))
    text = problems(old)
    assert "nvidia-smi lists 1 GPU (NVIDIA H200), but torch detects none. It was built for CUDA 13.0" in text
    assert "torch reports: The NVIDIA driver on your system is too old. Update NVIDIA's driver" in text
    assert "was built without CUDA" in problems(replace(seen, cuda=None))
    assert "CUDA_VISIBLE_DEVICES is ''. Unset it" in problems(replace(seen, visible_gpus=""))
    assert not problems(replace(seen, gpus=(replace(DRIVER, capability="9.0"),)))
    assert "cannot be used: no kernel image" in problems(
        replace(seen, gpus=(replace(DRIVER, error="no kernel image"),))
    )


def test_nvidia_smi_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sound: Facts) -> None:
    program = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    program.write_text(
        "#!/bin/sh\necho 'NVIDIA H200, 143360, 142336, 570.86.15'\necho 'MIG 1g, [N/A], [N/A], 570.86.15'\n"
    )
    program.chmod(0o755)
    assert module._driver_gpus() == ((DRIVER, Gpu("MIG 1g", None, None, "570.86.15")), None)
    program.write_text("#!/bin/sh\necho 'Failed to initialize NVML: Driver/library version mismatch'\nexit 18\n")
    gpus, error = module._driver_gpus()
    assert gpus == ()
    assert "nvidia-smi is installed but fails: Failed to initialize NVML" in problems(
        replace(sound, driver_error=error)
    )


def test_compiled_code_that_cannot_be_kept_is_a_problem(sound: Facts, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "export NUMBA_CACHE_DIR=/tmp/numba" in problems(replace(sound, numba_cache=None))
    from numba.core import caching

    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])  # what is left where nothing can be written to
    assert kept_in() is None


def test_compiled_code_is_kept_where_it_is_told(tmp_path: Path) -> None:
    facts = json.loads(command("--json", NUMBA_CACHE_DIR=str(tmp_path)).stdout)["facts"]
    assert facts["numba_cache"].startswith(str(tmp_path))


def test_places_that_are_not_there_are_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert module._place(tmp_path / "not/yet").free == module._place(tmp_path).free
    (tmp_path / "file").write_text("")
    assert module._place(tmp_path / "file/below").writable
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert module._facts().current_folder.path == "/"


def test_the_users_name_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert module._homely("/home/somebody/.cache/lookalike") == "~/.cache/lookalike"
    assert module._homely("/home/somebody2/x") == "/home/somebody2/x"


def test_every_dependency_is_known_by_what_it_is_imported_as() -> None:
    import importlib.util

    for text in metadata.requires("lookalike") or []:
        requirement = Requirement(text)
        if requirement.marker is None:
            assert importlib.util.find_spec(module.module_of(requirement.name).partition(".")[0]), requirement.name

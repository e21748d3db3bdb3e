"""`benchmarks/gpu.py`: all parts run, on a CPU here, and none of them can cost another one its rows."""

import argparse
import importlib
import io
import json
import os
import subprocess
import sys
import tarfile
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lookalike.runs import version

pytestmark = pytest.mark.long(3)

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Laid out as CIFAR-10's, with four classes of ten and five images."""
    rng, path = np.random.default_rng(0), tmp_path / "images.tar.xz"
    with tarfile.open(path, "w:xz") as file:
        for split, count in (("train", 10), ("test", 5)):
            for name in (f"{split}/class{k}/{i}.jpg" for k in range(4) for i in range(count)):
                content = io.BytesIO()
                Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(content, "JPEG")
                member = tarfile.TarInfo(name)
                member.size = content.tell()
                content.seek(0)
                file.addfile(member, content)
    return path


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module; what it does to the environment is undone."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name in ("CUDA_VISIBLE_DEVICES", "PYTORCH_NVML_BASED_CUDA_CHECK", "PYTHONUNBUFFERED", "TMPDIR"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    monkeypatch.delenv("TMPDIR")
    return importlib.import_module("gpu")


def rows(record: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in record.read_text().splitlines()]


WITHOUT = """
import sys

class Hides:
    '''Finds what the other finders find, but for some packages, as if they were not installed.'''
    def __init__(self, finders):
        self.finders, self.hidden = finders, set()
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in self.hidden:
            for finder in self.finders:
                if (spec := finder.find_spec(name, path, target)) is not None:
                    return spec
    def find_distributions(self, context):
        for finder in self.finders:
            if context.name not in self.hidden and hasattr(finder, "find_distributions"):
                yield from finder.find_distributions(context)

finder = Hides(list(sys.meta_path))
sys.meta_path[:] = [finder]
OPTIONAL = {"tyro", "cattrs", "cattr", "simplejpeg", "jaxtyping", "rich", "kornia", "pyarrow", "tensorboard", "wandb",
            "matplotlib", "umap", "lookalike"}
sys.path.insert(0, sys.argv.pop(1))
import gpu
gpu._prepare("cpu", True)
finder.hidden = OPTIONAL - {"lookalike"} | {"threadpoolctl"}
import lookalike.training
from lookalike.methods import METHODS, get_method
for name in METHODS:
    get_method(name)
assert not finder.hidden & sys.modules.keys()
finder.hidden = OPTIONAL - {"lookalike"}  # scikit-learn itself needs threadpoolctl
finder.find_distributions = lambda context, found=finder.find_distributions: (
    () if context.name == "lookalike" else found(context))
sys.exit(gpu.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_all_parts_run_where_optional_packages_are_missing(archive: Path, tmp_path: Path) -> None:
    """As on a machine without network: neither lookalike nor what it can do without is installed."""
    record = tmp_path / "gpu.jsonl"
    command = [sys.executable, "-c", WITHOUT, str(BENCHMARKS), str(archive), "--device", "cpu", "--tiny"]
    command += ["--minutes", "20", "--record", str(record), "--commit", "0123456789ab"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-3000:]
    made = rows(record)
    parts = ["views", "correct", "step", "distil", "files", "neighbours", "cifar"]
    assert list(dict.fromkeys(row["part"] for row in made)) == parts
    for row in made:
        assert row["benchmark"] == "gpu"
        assert row["tiny"] is True
        assert row["lookalike"] == "0123456789ab"
        assert {"run", "date", "device", "cuda", "python", "versions", "cores", "case"} <= row.keys()
        assert row["versions"]["torch"] == torch.__version__.split("+")[0]
        assert "failed" not in row or not row["failed"]
        assert ("figures" in row) != ("skipped" in row)
    measured = {(row["part"], row["case"]): row["figures"] for row in made if "figures" in row}
    skipped = {row["case"]: row["skipped"] for row in made if "skipped" in row}
    assert list(skipped) == ["simclr, resumed, deterministic algorithms"]
    assert "cattrs" in skipped["simclr, resumed, deterministic algorithms"]
    step = measured["step", "dino, test_byobnet, eager"]
    assert {"images_per_s", "bare_images_per_s", "shares", "flop_share", "peak_gib"} <= step.keys()
    assert set(step["shares"]) == {"views", "data", "logging", "health"}
    assert step["shares"]["views"] > 0
    assert 0 < sum(step["shares"].values()) < 1
    made_views = next(row for row in made if row["part"] == "views" and "missing" in row)
    assert "kornia" in made_views["missing"]
    assert made_views["figures"]["views_per_s"].keys() == {"numba", "torch", "planning", "torchvision"}
    for deviation in measured["views", f"{made_views['case']}, between the engines"]["largest_deviation"].values():
        assert deviation < 1e-3
    assert measured["correct", "dino, this device and the CPU"]["largest_relative_deviation"] == 0  # both are the CPU
    assert measured["correct", "distill, bf16"]["finite"] is True
    assert {"its own stream", "before the student"} == measured["distil", "a batch of 4"].keys()
    assert measured["files", "decoding by workers"]["images_per_s"][0] > 0
    assert measured["neighbours", "200 x 5000, 16 dimensions"]["agreement"]["in_common"] == 1
    for method in ("simclr", "vicreg"):
        assert set(measured["cifar", method]["time_to"]) == {"80%", "85%", "90%"}
        assert 0 <= measured["cifar", f"{method}, linear probe"]["top1"] <= 1
        assert measured["cifar", method]["knn_over_time"][-1][2] == measured["cifar", method]["knn"]
    table = done.stdout[done.stdout.index("TINY: no measurement") :]
    assert all(f"\n{part:<11}" in table for part in parts)
    assert "skipped: to resume a run needs cattrs" in table


BODIES = {
    "good": "bench.row('it', {'seconds': [1.5, 1.0, 2.0]}, repeats=3)",
    "raises": "bench.row('before', {}); raise RuntimeError('no luck')",
    "hangs": "bench.row('before', {}); time.sleep(600)",
    "dies": "bench.row('before', {}); os.kill(os.getpid(), signal.SIGKILL)",
    "one_case": "\n with bench.trying('a case'): 1 / 0\n bench.row('after', {})",
}


@pytest.fixture
def parts(gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Parts that fail in all ways, before one that is good."""
    monkeypatch.syspath_prepend(str(tmp_path))
    made = {}
    for name in ("hangs", "raises", "dies", "one_case", "missing", "good"):
        if name in BODIES:
            body = BODIES[name]
            (tmp_path / f"part_{name}.py").write_text(f"import os, signal, time\ndef run(bench):\n {body}\n")
        made[name] = gpu.Part(f"part_{name}", 1.0, name)
    monkeypatch.setattr(gpu, "PARTS", made)
    monkeypatch.setattr(gpu, "PRELOADED", ())
    importlib.import_module("gpu_bench")  # which takes no time in the processes then
    return made


def test_a_part_that_hangs_raises_or_dies_costs_the_others_nothing(
    gpu: ModuleType, parts: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    record = tmp_path / "rows.jsonl"
    assert gpu.main(["--device", "cpu", "--minutes", "0.4", "--record", str(record)]) == 1
    found = {name: [row for row in rows(record) if row["part"] == name] for name in parts}
    cases = {name: [row["case"] for row in made] for name, made in found.items()}
    assert cases["hangs"] == ["before", "hangs"]
    assert found["hangs"][1]["failed"].startswith("killed at its limit of")
    assert cases["raises"] == ["before", "raises"]
    assert found["raises"][1]["failed"] == "RuntimeError: no luck"
    assert cases["dies"] == ["before", "dies"]
    assert found["dies"][1]["failed"] == "ended by signal 9"
    assert cases["one_case"] == ["a case", "after"]
    assert found["one_case"][0]["failed"] == "ZeroDivisionError: division by zero"
    assert found["missing"][0]["failed"] == "ModuleNotFoundError: No module named 'part_missing'"
    assert found["good"][0]["figures"] == {"seconds": [1.5, 1.0, 2.0]}
    out = capfd.readouterr().out
    assert "seconds: 1.5 (1 to 2)" in out
    assert "failed: killed at its limit of" in out


def test_only_the_parts_that_are_asked_for_run(gpu: ModuleType, parts: dict[str, Any], tmp_path: Path) -> None:
    record = tmp_path / "rows.jsonl"
    assert gpu.main(["--device", "cpu", "--only", "good", "--record", str(record)]) == 0
    assert [row["part"] for row in rows(record)] == ["good"]
    with pytest.raises(SystemExit):
        gpu.main(["--device", "cpu", "--only", "good,bad", "--record", str(record)])


def test_a_process_in_which_cuda_fails_is_replaced_by_a_new_program(
    gpu: ModuleType, parts: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, commands = tmp_path / "rows.jsonl", []
    monkeypatch.setattr(gpu, "_usable", lambda: False)
    monkeypatch.setattr(gpu.os, "setpgid", lambda *_: None)

    class Replaced(Exception):
        pass

    def execv(program: str, command: list[str]) -> None:
        commands.append(command)
        raise Replaced

    monkeypatch.setattr(gpu.os, "execv", execv)
    args = argparse.Namespace(device="cuda", archive=None, record=record, tiny=True)
    with pytest.raises(Replaced):
        gpu._begin("good", parts["good"], args, 30.0, {"run": "one", "lookalike": "abc"})
    program, *rest = commands[0][1:]
    assert Path(program) == BENCHMARKS / "gpu.py"
    ended = []
    monkeypatch.setattr(gpu, "_end_with", lambda work: ended.append(work()))
    monkeypatch.setattr(gpu, "measure", lambda *_: 0)
    gpu.main([*rest, "--device", "cpu"])
    assert ended == [0]
    (row,) = rows(record)
    assert (row["part"], row["run"], row["lookalike"], row["repeats"]) == ("good", "one", "abc", 3)


def test_a_resumed_run_is_compared_with_a_whole_one(gpu: ModuleType, tmp_path: Path) -> None:
    """The one case that needs cattrs."""
    correct, bench = importlib.import_module("gpu_correct"), importlib.import_module("gpu_bench")
    made = bench.Bench("correct", None, tmp_path / "rows.jsonl", "cpu", tiny=True, limit=600, same={"lookalike": "abc"})
    images = bench.InMemory(torch.randint(0, 256, (16, 3, 32, 32), dtype=torch.uint8))
    correct.resumed(made, "resumed", "simclr", images, True)
    (row,) = rows(made.record)
    assert row["figures"] == {"same_weights": True, "same_losses": True, "largest_difference_of_a_weight": 0.0}
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_row_after_one_that_was_cut_short_is_whole(gpu: ModuleType, tmp_path: Path) -> None:
    record = tmp_path / "rows.jsonl"
    keep = importlib.import_module("rows")
    keep.append(record, {"a": 1})
    record.write_text(record.read_text() + '{"b": ')
    keep.append(record, {"c": 3})
    assert gpu.rows_of(record) == [{"a": 1}, {"c": 3}]


def test_a_package_that_is_not_installed_has_no_version() -> None:
    assert find_spec("surely_not_there") is None
    assert version("surely_not_there") == "not installed"

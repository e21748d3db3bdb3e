"""Fixtures: small images that are made here, the real ones of ../shared/data where they are at hand, and runs."""

import dataclasses
import gc
import os
import shutil
import sys
import tarfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

gc.disable()  # until all tests are collected: 1 million objects that stay are looked through a third of that time
sys.dont_write_bytecode = False  # else every process of a test compiles all sources again
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
pytest.register_assert_rewrite("support")  # before its first import: what it asserts explains itself, too

from support.images import draw, save  # noqa: E402

if TYPE_CHECKING:
    from support.place import Place

os.environ.setdefault("OMP_NUM_THREADS", "1")
"""For the workers of pytest-xdist and all other processes, which start after this: they share the cores already."""

os.environ["ONEDNN_MAX_CPU_ISA"] = "AVX512_CORE_VNNI"
"""Without the bf16 instructions of some processors, the default precision and so all results are the same on all."""

if not torch.cuda.is_available():
    # Triton's kernels are carried out by its interpreter; it reads this when they are defined
    os.environ["TRITON_INTERPRET"] = "1"

os.fsync = os.fstat  # type: ignore[assignment]
"""No test cuts the power: a flush takes 10 ms, 15 times in each run. Tests of what is flushed put their own here."""

ARCHIVES = Path(__file__).parents[2] / "shared" / "data"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "lookalike-tests"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take longest go first, so that no process has one for itself in the end."""
    marks = [item.get_closest_marker("long") for item in items]
    ranks = {item: mark.args[0] if mark else len(items) for item, mark in zip(items, marks)}
    items.sort(key=ranks.__getitem__)


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()  # what is there stays, and each of Python's searches for garbage would take half a second
    gc.enable()


@pytest.fixture(autouse=True)
def _no_page(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings end without a page, which would only take time, where no test asks for one."""
    if request.node.get_closest_marker("page") is None:
        monkeypatch.setattr("lookalike.cli.pages.write_report", lambda folder, workers: None)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """The tests' networks are tiny: on a busy machine threads would wait for each other longer than they compute."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 unlabelled images, nested and flat."""
    root = tmp_path_factory.mktemp("photos")
    for i in range(40):
        draw(root / ("nested/deeper" if i % 3 else ".") / f"image {i}.jpg", i % 4, i)
    return root


@pytest.fixture(scope="session")
def classed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 images in four class folders, for methods with and without labels."""
    root = tmp_path_factory.mktemp("classed")
    for i in range(40):
        draw(root / f"class{i % 4}" / f"{i}.jpg", i % 4, i)
    return root


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """23 images of three sizes and two suffixes, of which b/05, b/06, b/07 and c/13 are broken."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(1)
    for i in range(23):
        size = [(8, 8), (6, 9), (12, 5)][i % 3]
        path = root / "abc"[i % 3] / f"{i:02d}.{'png' if i % 2 else 'jpg'}"
        save(path, rng.integers(0, 256, (*size, 3), np.uint8))
        if i in (5, 6, 7):
            path.write_bytes(path.read_bytes()[:40])
        if i == 13:
            path.write_bytes(b"")
    return root


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train/ and test/ with four classes of 8 and 4 images."""
    root = tmp_path_factory.mktemp("labelled")
    for split, count in (("train", 8), ("test", 4)):
        for kind in range(4):
            for i in range(count):
                draw(root / split / f"class{kind}" / f"{i}.jpg", kind, 1000 * len(split) + 100 * kind + i)
    return root


@pytest.fixture(scope="session")
def cifar10() -> Path:
    """Images of CIFAR-10 as JPEG files, drawn at random: train/ and test/ with ten classes, in the order of their list.

    10,000 for training and 2,000 for tests, which takes a fifth of the time that all take.
    """
    archive = ARCHIVES / "cifar10-jpeg.tar.xz"
    if not archive.is_file():
        pytest.skip(f"needs {archive.resolve()}")
    from lookalike.random import permutation

    folder = CACHE / "part-of-cifar10"
    if not folder.is_dir():
        temporary = folder.with_suffix(f".{os.getpid()}")  # several processes may be at it
        temporary.mkdir(parents=True)
        chosen: set[str] = set()
        with tarfile.open(archive) as file:
            names = sorted(name for name in file.getnames() if name.endswith(".jpg"))
            for split, count in (("train", 10_000), ("test", 2000)):
                of_split = [name for name in names if name.startswith(f"{split}/")]
                drawn = [of_split[i] for i in permutation(len(of_split), 0, split)[:count].tolist()]
                (temporary / f"{split}.txt").write_text("\n".join(name.removeprefix(f"{split}/") for name in drawn))
                chosen |= {*drawn}
            file.extractall(temporary, [each for each in file.getmembers() if each.name in chosen], filter="data")
        with suppress(OSError):  # another was faster
            temporary.rename(folder)
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


@pytest.fixture(scope="session")
def finished(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """An uninterrupted run of `tiny_run`, 3 epochs of 5 steps, for one accumulation. No test writes into it."""
    from support.runs import tiny_run

    from lookalike import training

    made: dict[int, Path] = {}

    def run(accumulate: int) -> Path:
        if accumulate not in made:
            made[accumulate] = tmp_path_factory.mktemp("whole") / "run"
            training.pretrain(tiny_run(photos, made[accumulate], accumulate=accumulate))
        return made[accumulate]

    return run


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A linear probe of few steps."""
    from lookalike.evaluation.linear import Settings

    short = Settings(rates=(0.5, 1.0), least_steps=60, epochs=1, batch_size=64)
    monkeypatch.setattr("lookalike.evaluation.protocols.DINOV2", short)
    monkeypatch.setattr("lookalike.evaluation.multi_label.DINOV2", short)


@pytest.fixture
def short_probe(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Comparisons whose linear probe takes few steps, and whose speed is measured over one."""
    from lookalike.evaluation.linear import DINOV2

    monkeypatch.setattr("lookalike.evaluation.protocols.DINOV2", dataclasses.replace(DINOV2, least_steps=20))
    if "labelled" in request.fixturenames:  # trainings, whose speed is measured
        monkeypatch.setattr("lookalike.training.timing.WARM_STEPS", 1)
        monkeypatch.setattr("lookalike.training.timing.TIMED_STEPS", 1)


@pytest.fixture(scope="module")
def _place(labelled: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> "Place":
    from support.place import made  # it imports all there is

    return made(tmp_path_factory.mktemp("there"), labelled, photos)


@pytest.fixture
def place(_place: "Place", tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Place":
    """What the rows of support/remedies work on, in a directory of their own."""
    from support.place import copied

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    return copied(_place, tmp_path)

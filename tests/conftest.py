"""Fixtures: small images that are made here, the real ones of ../shared/data where they are at hand, and runs."""

import dataclasses
import os
import shutil
import tarfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

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

ARCHIVES = Path(__file__).parents[2] / "shared" / "data"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "lookalike-tests"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take longest go first, so that no process has one for itself in the end."""
    marks = [item.get_closest_marker("long") for item in items]
    ranks = {item: mark.args[0] if mark else len(items) for item, mark in zip(items, marks)}
    items.sort(key=ranks.__getitem__)


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
    """CIFAR-10 as JPEG files: train/ and test/ with ten classes."""
    archive = ARCHIVES / "cifar10-jpeg.tar.xz"
    if not archive.is_file():
        pytest.skip(f"needs {archive.resolve()}")
    folder = CACHE / "cifar10-jpeg"
    if not folder.is_dir():
        temporary = folder.with_suffix(f".{os.getpid()}")  # several processes may be at it
        with tarfile.open(archive) as file:
            file.extractall(temporary, filter="data")
        inner = temporary if (temporary / "train").is_dir() else next(temporary.iterdir())
        with suppress(OSError):  # another was faster
            inner.rename(folder)
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

"""Images for the tests: small ones made here, and the real ones of ../shared/data where they are at hand."""

import os
import shutil
import tarfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image

if TYPE_CHECKING:
    from support.place import Place

os.environ.setdefault("OMP_NUM_THREADS", "1")
"""For the workers of pytest-xdist and all other processes, which start after this: they share the cores already."""

if not torch.cuda.is_available():
    # Triton's kernels are carried out by its interpreter; it reads this when they are defined
    os.environ["TRITON_INTERPRET"] = "1"

ARCHIVES = Path(__file__).parents[2] / "shared" / "data"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "lookalike-tests"


LONG = (
    "distributed", "health", "gpu_benchmark", "methods", "reliability", "report_browser", "training", "compare", "cli",
    "backbones", "augment", "distill", "finetune", "learning", "distributed_parts", "remedies", "remedies_of_runs",
)  # fmt: skip
"""Files that take longest. They go first, so that no process has one for itself in the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {f"test_{name}.py": place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path.name, len(LONG)))


PAGES = ("test_report", "test_report_browser", "test_demo", "test_readme", "test_compare")
"""Files whose trainings end with their page; elsewhere it would only take time."""


@pytest.fixture(autouse=True)
def _no_page(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.path.stem not in PAGES:
        monkeypatch.setattr("lookalike.cli.pages.write_report", lambda folder, workers: None)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """The tests' networks are tiny: on a busy machine threads would wait for each other longer than they compute."""
    torch.set_num_threads(1)


def draw(path: Path, kind: int, seed: int, side: tuple[int, int] = (24, 20)) -> None:
    """A noisy picture whose colours and stripes depend on its kind."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: side[1], : side[0]]
    stripes = np.sin((x if kind % 2 else y) * (0.5 + 0.4 * kind) + rng.uniform(0, 6))[..., None]
    colour = np.eye(3)[kind % 3] * 0.5 + 0.25
    pixels = 0.5 + 0.3 * stripes * colour + 0.3 * (colour - 0.5) + rng.normal(0, 0.05, (*side[::-1], 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((pixels.clip(0, 1) * 255).astype(np.uint8)).save(path, quality=92)


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


@pytest.fixture(scope="module")
def _place(labelled: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> "Place":
    from support.place import made  # it imports all there is

    return made(tmp_path_factory.mktemp("there"), labelled, photos)


@pytest.fixture
def place(_place: "Place", tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Place":
    """What the rows of test_remedies*.py work on, in a directory of their own."""
    from support.place import copied

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    return copied(_place, tmp_path)

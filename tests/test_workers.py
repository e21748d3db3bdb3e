"""Loading processes that cannot begin, under start methods that import the script anew."""

import multiprocessing
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from torch.utils.data import Dataset

from lookalike.data import Loader, open_source
from lookalike.data.workers import IMPORTING

SCRIPT = """
import multiprocessing
from lookalike.data import Loader, open_source


def load(workers):
    multiprocessing.set_start_method("spawn", force=True)
    for batch in Loader(open_source({photos!r}), 4, 0, workers=workers):
        print(len(batch.index), "images")


"""


def test_a_script_without_a_main_guard_is_told_what_to_do(photos: Path, tmp_path: Path) -> None:

    def ran(call: str) -> subprocess.CompletedProcess[str]:
        script = tmp_path / "script.py"
        script.write_text(SCRIPT.format(photos=str(photos)) + call)
        return subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=200)

    last = ran("load(1)").stderr.strip().splitlines()[-1]
    assert last.startswith("RuntimeError: A loading process ended before its first batch. Under the start method spawn")
    advice = re.search(r"put the call under (if __name__ == '__main__'), or use (workers=0)\.", last)
    assert advice
    for call in (f"{advice[1]}:\n    load(1)", f"load({advice[2]})"):
        assert ran(call).stdout.count("4 images") == 10, call


@pytest.fixture(params=IMPORTING)
def method(request: pytest.FixtureRequest) -> Iterator[str]:
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method(request.param, force=True)
    yield request.param
    multiprocessing.set_start_method(before, force=True)


class AtTheTop(Dataset[object]):
    """Images that another process can make, too."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, i: int) -> Image.Image:
        return Image.new("RGB", (8, 8))


def test_a_dataset_that_cannot_be_sent_says_where_its_class_must_stand(method: str) -> None:
    class Within(AtTheTop):
        pass

    with pytest.raises(RuntimeError, match=rf"start method {method} the class of a Dataset must stand at the top"):
        next(iter(Loader(open_source(Within()), 4, 0, workers=1)))
    for data, workers in ((AtTheTop(), 1), (Within(), 0)):
        loader = Loader(open_source(data), 4, 0, workers=workers)
        assert len(next(iter(loader)).index) == 4
        loader.close()

"""Loading processes that cannot begin, under start methods that import the script anew."""

import multiprocessing
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from torch.utils.data import Dataset

from lookalike.data import Loader, open_source
from lookalike.data.reading import IMPORTING

SCRIPT = """
import multiprocessing
from lookalike.data import Loader, open_source

multiprocessing.set_start_method("spawn", force=True)
for batch in Loader(open_source({photos!r}), 4, 0, workers=1):
    print(len(batch.index), "images")
"""


def test_a_script_without_a_main_guard_is_told_what_to_do(photos: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(photos=str(photos)))
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=200)
    last = ended.stderr.strip().splitlines()[-1]
    assert last.startswith("RuntimeError: A loading process ended before its first batch. Under the start method spawn")
    assert "put the call under if __name__ == '__main__', or use workers=0" in last


@pytest.fixture(params=IMPORTING)
def method(request: pytest.FixtureRequest) -> Iterator[str]:
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method(request.param, force=True)
    yield request.param
    multiprocessing.set_start_method(before, force=True)


def test_a_dataset_that_cannot_be_sent_says_where_its_class_must_stand(method: str) -> None:
    class Within(Dataset[object]):
        def __len__(self) -> int:
            return 8

        def __getitem__(self, i: int) -> Image.Image:
            return Image.new("RGB", (8, 8))

    with pytest.raises(RuntimeError, match=rf"start method {method} the class of a Dataset must stand at the top"):
        next(iter(Loader(open_source(Within()), 4, 0, workers=1)))

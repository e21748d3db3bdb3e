"""Loading processes: what they say that cannot begin, die or fail, and that they end with whoever started them."""

import gc
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from support.datasets import Numbers
from support.processes import is_running
from torch import Tensor
from torch.utils.data import Dataset

from lookalike.data import Loader, open_source
from lookalike.data import workers as workers_module
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
    assert last.startswith("RuntimeError: A loading process exited before its first batch. With the start method spawn")
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

    with pytest.raises(RuntimeError, match=rf"start method {method} the class of a Dataset must be defined at the top"):
        next(iter(Loader(open_source(Within()), 4, 0, workers=1)))
    for data, workers in ((AtTheTop(), 1), (Within(), 0)):
        loader = Loader(open_source(data), 4, 0, workers=workers)
        assert len(next(iter(loader)).index) == 4
        loader.close()


# ---------------------------------------------------------------- how processes end


class Dying(Numbers):
    def read(self, i: int, decode_size: int | None) -> Tensor:
        if multiprocessing.parent_process() is not None:
            os._exit(9)
        return super().read(i, decode_size)


class Failing(Numbers):
    def read(self, i: int, decode_size: int | None) -> Tensor:
        raise TypeError("this image is a teapot")


def test_a_worker_that_dies_or_fails_is_named() -> None:
    with pytest.raises(RuntimeError, match=r"loading process died.*/dev/shm.*--workers \(now 1\)"):
        next(iter(Loader(Dying(20), 4, 0, workers=1)))
    with pytest.raises(RuntimeError, match=r"^A loading process failed: TypeError: this image is a teapot$"):
        next(iter(Loader(Failing(20), 4, 0, workers=1)))
    with pytest.raises(TypeError, match="teapot"):
        next(iter(Loader(Failing(20), 4, 0)))


def test_shared_memory_of_another_container_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Containers that share /dev/shm have processes of one number."""
    foreign, own = (tmp_path / f"torch_{os.getpid()}_{i}_0" for i in (1, 2))
    foreign.touch()
    monkeypatch.setattr(workers_module, "_SHARED", tmp_path)
    monkeypatch.setattr(workers_module, "_no_sharing", False)
    with open(own, "wb"):

        def full(x: Tensor) -> Tensor:
            raise RuntimeError("no room")

        monkeypatch.setattr(Tensor, "share_memory_", full)
        workers_module._shared(torch.zeros(1))
    assert foreign.exists()
    assert not own.exists()


def test_workers_leave_signals_to_the_main_process() -> None:
    """Ctrl-C and a batch system's SIGTERM reach the workers, too; the main process may still want a batch from them."""
    loader, plain = Loader(Numbers(40), 4, 0, workers=1), Loader(Numbers(40), 4, 0)
    before = set(multiprocessing.active_children())
    batches = iter(loader)
    got = [next(batches)]
    (worker,) = set(multiprocessing.active_children()) - before
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(worker.pid or 0, number)
    got += batches
    assert [b.index.tolist() for b in got] == [b.index.tolist() for b in plain]
    assert worker.is_alive()
    del loader, batches
    gc.collect()
    assert not worker.is_alive()


LEAVES = """
import sys, torch
from torch.utils.data import Dataset
from lookalike.data import Loader, open_source

class Items(Dataset):
    def __len__(self):
        return 40

    def __getitem__(self, i):
        if "failed" in sys.argv:
            return "a teapot"
        return torch.zeros(3, 4, 4)

loader = Loader(open_source(Items()), 4, 0, workers=2)
try:
    next(iter(loader))
except RuntimeError as error:
    kept = error  # and with it the frames that were running
"""


@pytest.mark.parametrize("how", ["busy", "failed"])
def test_a_process_with_workers_ends(how: str) -> None:
    command = [sys.executable, "-W", "ignore::UserWarning", "-c", LEAVES, how]  # torch warns where there is one core
    done = subprocess.run(command, check=True, timeout=60, capture_output=True, text=True)
    assert done.stderr == ""


DIES = """
import multiprocessing, os, signal, sys, time, torch
from torch.utils.data import Dataset
from lookalike.data import Loader, open_source, workers

class Items(Dataset):
    def __len__(self):
        return 40

    def __getitem__(self, i):
        return torch.zeros(3, 256, 256)

workers._no_sharing = True
batches = iter(Loader(open_source(Items()), 8, 0, workers=2))
next(batches)
print(*[process.pid for process in multiprocessing.active_children()], flush=True)
time.sleep(2)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_workers_end_with_a_main_process_that_was_killed() -> None:
    """Even while they send through a pipe, for want of shared memory, that nobody empties any more."""
    command = [sys.executable, "-W", "ignore::UserWarning", "-c", DIES]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        workers = [int(pid) for pid in process.stdout.readline().split()]
        assert len(workers) == 2
        deadline = time.monotonic() + 60
        while any(map(is_running, workers)) and time.monotonic() < deadline:
            time.sleep(0.1)
        left = [pid for pid in workers if is_running(pid)]
        for pid in left:
            os.kill(pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert left == []


def test_a_failure_ends_its_workers() -> None:
    before = set(multiprocessing.active_children())
    with pytest.raises(RuntimeError, match="teapot") as caught:
        next(iter(Loader(Failing(20), 4, 0, workers=2)))
    assert caught.value.__cause__ is not None
    assert set(multiprocessing.active_children()) <= before

"""Files: what a new one may be read by, and what is said while another process holds a lock."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from lookalike.files import atomic, locked, not_through_links, write_json

NO_UMASK = """
import os
def umask(mask):
    raise AssertionError("for a moment, every file that another thread makes can be written by everyone")
os.umask = umask
import lookalike.encoders, lookalike.files, lookalike.runs
lookalike.files.write_json(lookalike.files.Path({path!r}), 1)
"""


def test_nothing_changes_the_umask_of_the_process(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    subprocess.run([sys.executable, "-c", NO_UMASK.format(path=str(path))], check=True, timeout=120)
    assert path.read_text() == "1\n"


@pytest.mark.parametrize("mask", [0o000, 0o002, 0o022, 0o077])
def test_files_get_the_permissions_that_the_umask_leaves(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        write_json(tmp_path / "a.json", 1)
        with atomic(tmp_path / "b.txt") as temporary:
            temporary.unlink()
            os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600))  # as safetensors does
        with open(tmp_path / "c.txt", "a", opener=not_through_links):
            pass
        with locked(tmp_path / "d.lock", wait=None):
            pass
    finally:
        os.umask(before)
    found = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert found == dict.fromkeys(("a.json", "b.txt", "c.txt", "d.lock"), 0o666 & ~mask)


HOLDS = """
import sys
from pathlib import Path
from lookalike.files import locked
with locked(Path(sys.argv[1]), wait=None):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_wait_for_a_lock_is_told_once(tmp_path: Path) -> None:
    lock = tmp_path / "x.lock"
    command = [sys.executable, "-c", HOLDS, str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(BlockingIOError, match="Another process is working in"), locked(lock, wait=None):
            pass
        lines: list[str] = []

        def told(line: str) -> None:
            lines.append(line)
            other.stdin.close()  # the other process ends, and with it its lock

        with locked(lock, wait=told) as held:
            assert held
    assert lines == [f"Waiting for another process that holds {lock}"]

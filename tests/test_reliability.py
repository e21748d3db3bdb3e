"""What a machine does to a run: full disks, missing permissions, data that change, little shared memory; all for real.

Each test works in a process of its own, so that it can mount small disks and give up root's right to everything.
"""

import ctypes
import io
import multiprocessing
import os
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import nullcontext, redirect_stderr, redirect_stdout
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch
from support.runs import assert_same_run, forkserver, state

from lookalike import cli
from lookalike.cli import pages
from lookalike.core import Method, Outputs, Progress
from lookalike.data import Source, workers
from lookalike.methods.simclr import SimCLR
from lookalike.runs import Folder
from lookalike.training import inputs

pytestmark = pytest.mark.long(5)

OPTIONS = [
    "--backbone", "test_byobnet", "--image-size", "32", "--batch-size", "16", "--hidden-dim", "16", "--save-every", "1",
    "--epochs", "3",
]  # fmt: skip
PAGE = 4096
"""What a file in a tmpfs grows by."""


def command(*argv: object) -> tuple[int, str]:
    """Runs `lookalike ...`: the exit code and what it printed, which is never a traceback."""
    printed = io.StringIO()
    with redirect_stdout(printed), redirect_stderr(printed):
        code = cli.main([str(a) for a in argv])
    assert "Traceback" not in printed.getvalue()
    assert "Exception ignored" not in printed.getvalue()
    return code, printed.getvalue()


def pretrain(photos: Path, out: Path, *more: object, workers: int = 0) -> tuple[int, str]:
    """A training of 3 epochs of 2 steps, with a checkpoint after each."""
    return command("pretrain", "simclr", photos, "--out", out, *OPTIONS, "--workers", workers, *more)


def refused(found: tuple[int, str], *words: str) -> str:
    """Checks that a command failed and what it said last."""
    code, text = found
    said = text[text.rfind("error: ") :]
    assert code == 1, text
    for word in words:
        assert word in said, said
    return said


def resumed(out: Path, whole: Path, *more: object) -> None:
    """Checks that a run goes on and ends as one that nothing happened to."""
    code, text = command("pretrain", "--resume", "--out", out, *more)
    assert code == 0, text
    assert_same_run(out, whole)
    assert not list(out.rglob(".*tmp*"))


def meanwhile(happens: Callable[[], object], step: int = 3) -> None:
    """Lets something happen once, during that step of a training, before anything is written after it."""

    def after_step(self: Method, at: Progress, outputs: Sequence[Outputs]) -> None:
        if at.step + 1 == step:
            del SimCLR.after_step
            happens()

    SimCLR.after_step = after_step  # type: ignore[method-assign]


@pytest.fixture(scope="module")
def whole(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing happened to."""
    torch.set_num_threads(1)  # other sums round differently
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    code, text = pretrain(photos, out)
    assert code == 0, text
    return out


# ---------------------------------------------------------------- a process apart


class _Impossible(Exception):
    """This machine does not allow what a test needs."""


def _apart(work: Callable[..., None], args: tuple[object, ...], answer: Connection) -> None:
    torch.set_num_threads(1)
    multiprocessing.set_start_method(None, force=True)  # the loading processes of a run are started as a user's are
    pages.write_report = lambda folder, workers: None  # as in all tests, for time
    said = ""
    try:
        work(*args)
    except _Impossible as error:
        said = f"impossible: {error}"
    except BaseException:
        said = traceback.format_exc()
    workers._end_processes()  # a forked process has no exit handlers
    answer.send(said)


def apart(work: Callable[..., None], *args: object, seconds: float = 120) -> None:
    """Runs a function of this module in another process; a run that hangs is a failure, too."""
    context = forkserver()
    here, there = context.Pipe()
    process = context.Process(target=_apart, args=(work, args, there))
    process.start()
    there.close()
    try:
        said = here.recv() if here.poll(seconds) else f"it still runs after {seconds} s"
        process.join(10)  # what it left running would keep it
        said = said or ("it does not end" if process.is_alive() else "")
    finally:
        process.kill()
    if said.startswith("impossible: "):
        pytest.skip(said.removeprefix("impossible: "))
    assert not said, said


def mount(place: Path, size: str) -> None:
    """Puts a small disk in memory at a folder, for this process and its children alone."""
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    new_mounts, new_user = 0x00020000, 0x10000000
    if not hasattr(libc, "unshare"):
        raise _Impossible("mounting a small disk needs Linux")
    if libc.unshare(new_mounts):
        if libc.unshare(new_mounts | new_user):
            raise _Impossible("mounting a small disk needs root or user namespaces")
        for name, content in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
            Path(f"/proc/self/{name}").write_text(content)
    for arguments in (["--make-rprivate", "/"], ["-t", "tmpfs", "-o", f"size={size}", "tmpfs", place]):
        done = subprocess.run(["mount", *arguments], capture_output=True, text=True)
        if done.returncode:
            raise _Impossible(f"a small disk cannot be mounted: {done.stderr.strip()}")


def remount(place: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", place], check=True)


def unprivileged() -> None:
    """Makes root an ordinary user, who may not do what a file's mode forbids."""
    if os.getuid() == 0:
        head, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
        if ctypes.CDLL(None).capset(head, none):
            raise _Impossible("root cannot give up its capabilities here")


# ---------------------------------------------------------------- full disks


def fill(disk: Path, leave: int) -> None:
    """Takes all room but `leave` bytes."""
    free = os.statvfs(disk)
    (disk / "filler").write_bytes(bytes(free.f_bavail * free.f_frsize - -(-leave // PAGE) * PAGE))


def pad(path: Path) -> None:
    """Lets the last line end where a page ends, so that one more takes room."""
    content = path.read_bytes().removesuffix(b"\n")
    path.write_bytes(content + b" " * (-(len(content) + 1) % PAGE) + b"\n")


def _full_disk(photos: Path, whole: Path, disk: Path, moment: str) -> None:
    mount(disk, "64m")
    out = disk / "run"
    folder, encoder, checkpoint = Folder(out), *(p.stat().st_size for p in (Folder(whole).weights, Folder(whole).last))
    if moment in ("run.yaml", "log.txt", "views.png", "start.json", "inputs.zip"):
        first = [Folder(whole).run, Folder(whole).views, Folder(whole).start, Folder(whole).inputs]
        sizes = [-(-path.stat().st_size // PAGE) * PAGE for path in first]
        before = {path.name: sum(sizes[:i]) for i, path in enumerate(first)} | {"log.txt": sum(sizes)}
        fill(disk, before[moment])
        refused(pretrain(photos, out), f"{moment} could not be written (No space left on device", "Make room")
        (disk / "filler").unlink()
        if folder.run.is_file():
            return resumed(out, whole)
        code, text = pretrain(photos, out)
        assert code == 0, text
        return assert_same_run(out, whole)
    leave = {"metrics.jsonl": 0, "encoder": encoder // 2, "checkpoint": encoder + checkpoint // 2,
             "epoch": encoder + checkpoint // 2}[moment]  # fmt: skip
    if moment == "metrics.jsonl":
        meanwhile(lambda: (pad(folder.metrics), fill(disk, 0)))
    else:
        meanwhile(lambda: fill(disk, leave))
    said = refused(pretrain(photos, out), "No space left on device", "MiB are free", "ake room", "last.ckpt is intact")
    assert f"lookalike pretrain --resume --out {out}" in said
    assert ("checkpoint of step 4" if moment != "metrics.jsonl" else "metrics.jsonl could not") in said
    assert state(out)["global_step"] == 2
    (disk / "filler").unlink()
    resumed(out, whole)


@pytest.mark.parametrize(
    "moment", ["run.yaml", "log.txt", "views.png", "start.json", "inputs.zip", "metrics.jsonl", "encoder", "checkpoint"]
)
def test_a_full_disk_loses_nothing(photos: Path, whole: Path, tmp_path: Path, moment: str) -> None:
    """Full when the file is written; with room again the run ends as if nothing had happened."""
    apart(_full_disk, photos, whole, tmp_path, moment)


def _no_more_files(photos: Path, whole: Path, disk: Path) -> None:
    mount(disk, "64m")
    out = disk / "run"
    meanwhile(lambda: remount(disk, f"nr_inodes={len(list(disk.rglob('*'))) + 1}"))
    refused(pretrain(photos, out), "No space left on device, no more files can be created", "last.ckpt is intact")
    remount(disk, "nr_inodes=1000")
    Folder.held = lambda self: nullcontext()  # type: ignore[method-assign]  # what is open for writing cannot be remounted
    meanwhile(lambda: remount(disk, "ro"), step=5)
    refused(command("pretrain", "--resume", "--out", out), "Read-only file system", "after a fault of the disk")
    remount(disk, "rw")
    resumed(out, whole)


def test_a_disk_without_inodes_and_one_that_turns_read_only(photos: Path, whole: Path, tmp_path: Path) -> None:
    apart(_no_more_files, photos, whole, tmp_path)


# ---------------------------------------------------------------- permissions


def _no_reading(photos: Path, whole: Path, place: Path) -> None:
    unprivileged()
    data, run, list_ = place / "photos", place / "run", place / "list.txt"
    shutil.copytree(photos, data)
    shutil.copytree(whole, run)
    list_.write_text("photos/image 0.jpg\n")
    new = place / "new"
    init = pretrain, data, new, "--init", run
    for path, mode, (verb, *argv) in [
        (data, 0, (pretrain, data, new)),
        (data / "nested", 0o400, (pretrain, data, new)),  # its names can be listed, its files not be read
        (list_, 0, (pretrain, list_, new)),
        (Folder(run).weights, 0, init),
        (Folder(run).weights, 0, (command, "embed", run, data, "--out", place / "e.npz")),
        (Folder(run).run, 0, (command, "pretrain", "--from", Folder(run).run, "--out", new)),
        (Folder(run).run, 0, (command, "pretrain", "--resume", "--out", run)),
    ]:
        before = path.stat().st_mode
        path.chmod(mode)
        refused(verb(*argv), f"{path}", ": Permission denied. Give this user the permission")
        path.chmod(before)
        assert not new.exists()
    assert command("check", list_, "--workers", 0)[0] == 0  # the permission is given
    (data / "image 0.jpg").chmod(0)
    assert pretrain(data, new)[0] == 0
    assert "broken image image 0.jpg: Permission denied" in Folder(new).log.read_text()
    code, text = command("embed", run, data, "--out", place / "e.npz", "--workers", 0)
    assert (code, "  image 0.jpg: Permission denied" in text) == (0, True)


def test_what_may_not_be_read_is_named(photos: Path, whole: Path, tmp_path: Path) -> None:
    apart(_no_reading, photos, whole, tmp_path)


def _no_writing_at_first(photos: Path, whole: Path, labelled: Path, place: Path) -> None:
    unprivileged()
    run = place / "run"
    shutil.copytree(whole, run)
    resume = "pretrain", "--resume", "--out", run, "--epochs", 4
    for path, argv in [
        (run, ("pretrain", "simclr", photos, "--out", run / "new", *OPTIONS)),
        (run, resume),
        (run / "checkpoints", resume),
        (run / "log.txt", resume),
        (run, ("evaluate", run, labelled / "train", labelled / "test")),
        (run, ("embed", run, photos, "--out", run / "missing/e.npz")),
        (run, ("check", photos, "--out", run / "c.json")),
        (run, ("views", "simclr", photos, "--out", run / "v.png", *OPTIONS)),
    ]:
        before = path.stat().st_mode
        path.chmod(0o555 if path.is_dir() else 0o444)
        code, text = command(*argv)
        path.chmod(before)
        assert text.startswith("error: "), text  # before any work is done
        refused((code, text), "cannot be written", f"{path}", "--out")
    (run / "evaluation.json").write_text("[]")
    (run / "evaluation.json").chmod(0)
    code, text = command("evaluate", run, labelled / "train", labelled / "test")
    assert text.startswith(f"error: {run}/evaluation.json: Permission denied"), text


def test_what_may_not_be_written_is_named_before_the_work(
    photos: Path, whole: Path, labelled: Path, tmp_path: Path
) -> None:
    apart(_no_writing_at_first, photos, whole, labelled, tmp_path)


def _no_writing_later(photos: Path, whole: Path, place: Path, name: str) -> None:
    unprivileged()
    out = place / "run"
    path = out / name
    meanwhile(lambda: path.chmod(path.stat().st_mode & 0o555))
    said = refused(pretrain(photos, out), "Permission denied", "last.ckpt is intact", f"--resume --out {out}")
    assert f"{out / (name or 'encoder.safetensors')}" in said
    path.chmod(path.stat().st_mode | 0o200)
    assert state(out)["global_step"] == 2
    resumed(out, whole)


@pytest.mark.parametrize("name", ["", "checkpoints", "metrics.jsonl"])
def test_a_run_that_becomes_read_only(photos: Path, whole: Path, tmp_path: Path, name: str) -> None:
    apart(_no_writing_later, photos, whole, tmp_path, name)


def test_a_run_whose_folder_vanishes(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    meanwhile(lambda: shutil.rmtree(out))
    refused(
        pretrain(photos, out), "metrics.jsonl could not be written (No such file", "Its folder was moved or removed"
    )


# ---------------------------------------------------------------- data that change


def _changing_data(photos: Path, data: Path, out: Path, workers: int) -> None:
    shutil.copytree(photos, data)
    files = sorted(data.rglob("*.jpg"))
    opened = inputs.open_source

    def open_source(*args: object, **options: object) -> Source:
        source = opened(*args, **options)  # type: ignore[arg-type]
        files[0].unlink()
        files[1].write_bytes(files[1].read_bytes()[:300])
        files[2].write_bytes(b"")
        files[3].write_bytes(files[9].read_bytes())
        files[4].unlink()
        files[4].mkdir()
        shutil.copy(files[9], data / "new.jpg")
        return source

    inputs.open_source = open_source
    code, text = pretrain(data, out, "--max-broken", 0.5, workers=workers)
    inputs.open_source = opened
    assert code == 0, text
    assert "4 images could not be read and were replaced" in text
    log = Folder(out).log.read_text()
    for file, reason in zip((0, 1, 2, 4), ("no such file", "Truncated", "empty file", "not a regular file")):
        assert f"broken image {files[file].relative_to(data)}: {reason}" in log
    refused(
        command("pretrain", "--resume", "--out", out, "--epochs", 4),
        "holds other images than when",
        "1 is new (new.jpg)",
    )


@pytest.mark.parametrize("workers", [0, 1])
def test_files_that_change_before_they_are_read(photos: Path, tmp_path: Path, workers: int) -> None:
    apart(_changing_data, photos, tmp_path / "photos", tmp_path / "run", workers)


def _vanishing_files(photos: Path, whole: Path, data: Path, out: Path, workers: int) -> None:
    shutil.copytree(photos, data)
    meanwhile(lambda: [file.unlink() for file in sorted(data.rglob("*.jpg"))[:30]])
    said = refused(
        pretrain(data, out, "--epochs", 5, workers=workers), "more than the allowed fraction of 0.1", "no such file"
    )
    assert "restore them" in said
    assert "--resume" in said
    shutil.copytree(photos, data, dirs_exist_ok=True)
    assert command("pretrain", "--resume", "--out", out)[0] == 0


def _vanishing_folder(photos: Path, whole: Path, data: Path, out: Path, workers: int) -> None:
    shutil.copytree(photos, data)
    meanwhile(lambda: shutil.rmtree(data))
    # a worker has read some batches before
    said = refused(pretrain(data, out, "--epochs", 5, workers=workers), f"{data} is no longer readable")
    assert "No such file or directory). Restore or remount it" in said
    refused(command("pretrain", "--resume", "--out", out), f"{data} does not exist")
    shutil.copytree(photos, data)
    assert command("pretrain", "--resume", "--out", out)[0] == 0


@pytest.mark.parametrize("work", [_vanishing_files, _vanishing_folder])
@pytest.mark.parametrize("workers", [0, 1])
def test_data_that_vanish_during_the_run(
    photos: Path, whole: Path, tmp_path: Path, work: Callable[..., None], workers: int
) -> None:
    apart(work, photos, whole, tmp_path / "photos", tmp_path / "run", workers)


# ---------------------------------------------------------------- shared memory


def _little_shared_memory(photos: Path, whole: Path, place: Path, kibibytes: int) -> None:
    mount(Path("/dev/shm"), f"{kibibytes}k")
    found = pretrain(photos, place / "run", workers=1)
    if kibibytes == 16:  # not enough to start a process
        refused(found, "loading processes cannot be started: No space left on device", "--workers 0", "--shm-size")
        assert not multiprocessing.active_children()
        assert pretrain(photos, place / "without", workers=0)[0] == 0
        return
    code, text = found
    assert code == 0, text
    assert text.count("does not fit in shared memory") == (kibibytes == 64)
    assert "docker run --shm-size" in text or kibibytes > 64
    assert_same_run(place / "run", whole)
    assert not list(Path("/dev/shm").glob("torch_*"))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems keep shared memory elsewhere")
@pytest.mark.parametrize("kibibytes", [16, 64, 4096])
def test_little_shared_memory(photos: Path, whole: Path, tmp_path: Path, kibibytes: int) -> None:
    """As in a container. torch alone waits for ever for a batch that has no room."""
    apart(_little_shared_memory, photos, whole, tmp_path, kibibytes)


def _second_process(whole: Path) -> None:
    refused(
        command("pretrain", "--resume", "--out", whole, "--epochs", 9),
        "Another process is working in",
        "another folder",
    )


def test_two_processes_do_not_train_into_one_folder(photos: Path, whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    with Folder(run).held():
        apart(_second_process, run)
    resumed(run, whole)  # the lock is gone with its holder

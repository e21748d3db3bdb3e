"""Processes of a training that wait for each other: the one that does not arrive is named, and all end.

Also what must be the same on all of them, and how many they are when a run resumes.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.processes import Training, is_running, named
from support.runs import interrupt_after, tiny_run

import lookalike
from lookalike import cli, training
from lookalike.data import open_source
from lookalike.runs import Folder, Resolved
from lookalike.training.meeting import Facts, Meeting, difference_of, facts_of
from lookalike.training.meeting import compare as compare_facts
from lookalike.training.watchdog import Beat, blamed, explained, seconds_allowed, stacks

pytestmark = pytest.mark.long(3)

TINY = ["--backbone", "test_byobnet", "--image-size", "32", "--batch-size", "8", "--workers", "0", "--epochs", "5000"]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]

# ---------------------------------------------------------------- who is to blame


def beat(batch: int = 5, idle: float = 11.0, computes: bool = True, **more: object) -> Beat:
    whole = {"count": 3, "batch": batch, "computes": computes, "begun": True, "alone": "", "idle": idle}
    return Beat(**(whole | {"step": batch + 1, "host": "here", "pid": 7} | more))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("beats", "silent", "late"),
    [
        ([beat(), beat(idle=9)], [], None),  # one has just moved
        ([beat(), beat(computes=False)], [], [1]),  # waits for its images
        ([beat(), beat(batch=4), beat(), beat(batch=4)], [], [1, 3]),
        ([beat(), beat(batch=4, alone="it evaluates the probe")], [], None),  # the others wait for it
        ([beat(idle=61), beat(batch=4, alone="it evaluates the probe", idle=61)], [], [1]),
        ([beat(), beat(batch=4, begun=False)], [], None),  # the first step may take longer
        ([beat(), beat()], [], None),  # a large batch
        ([beat(idle=61), beat(idle=61)], [], []),
        ([beat(), beat(idle=0)], [1], [1]),  # it reports nothing any more
        ([beat(idle=9), beat(idle=0)], [1], None),  # but nobody waits for it
        ([beat(), beat(idle=9), beat(idle=0)], [2], None),
    ],
)
def test_the_process_that_the_others_wait_for_is_blamed(
    beats: list[Beat], silent: list[int], late: list[int] | None
) -> None:
    assert blamed(dict(enumerate(beats)), silent, 10.0) == late


@pytest.mark.parametrize(
    ("beats", "late", "silent", "text"),
    [
        (
            [beat(), beat(computes=False)], [1], [],
            "Process 1 of 2 (process 7 on here) did not arrive in step 6 within 10 s: it waits for the images of "
            "step 6.",
        ),
        (
            [beat(batch=6), beat(alone="it evaluates the probe")], [1], [],
            "Process 1 of 2 (process 7 on here) did not arrive in step 7 within 1 min: it evaluates the probe.",
        ),
        (
            [beat(), beat()], [1], [1],
            "Process 1 of 2 (process 7 on here) did not arrive in step 6 within 10 s, and does not answer: it was "
            "stopped, or its machine is lost. When it was last seen, it computes step 6.",
        ),
        (
            [beat(), beat(batch=3), beat(batch=3)], [1, 2], [],
            "2 processes of 3 (1, 2) did not arrive in step 6 within 10 s: it computes step 4.",
        ),
        ([beat(idle=61), beat(idle=62)], [], [], "None of the 2 processes moved for 1 min: all are in step 6."),
    ],
)  # fmt: skip
def test_the_reason_names_it_and_what_it_does(beats: list[Beat], late: list[int], silent: list[int], text: str) -> None:
    assert explained(dict(enumerate(beats)), late, silent, 10.0) == text


@pytest.mark.parametrize("text", ["soon", "0", "-1", "nan", "1e9"])
def test_a_limit_that_is_no_time_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOKALIKE_TIMEOUT", text)
    with pytest.raises(ValueError, match=f"LOOKALIKE_TIMEOUT is '{text}'; expected 1 to 1000000"):
        seconds_allowed()
    monkeypatch.setenv("LOOKALIKE_TIMEOUT", "90")
    assert seconds_allowed() == 90


def test_stacks_name_the_function_that_waits() -> None:
    assert "test_stacks_name_the_function_that_waits" in stacks()


# ---------------------------------------------------------------- what all have in common


SAME = Facts("a", "c0de", {"lookalike": "0.2", "torch": "2.11"}, {"seed": "0", "lr": "0.1"}, "40-ab", "d1", 5)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({}, ""),
        ({"versions": {"lookalike": "0.2", "torch": "2.12"}}, "has lookalike 0.2 and torch 2.12, but process 0 (on a)"),
        ({"code": "0ther"}, "has another source of lookalike than process 0 (on a). Install the same version"),
        ({"settings": {"seed": "1", "lr": "0.1"}}, "has other settings than process 0 (on a): seed 1 there, 0 here."),
        ({"images": "39-cd"}, "has 39 images, but process 0 (on a) has 40 images. Give all the same images."),
        ({"images": "40-cd"}, "has other images than process 0 (on a). Give all the same images."),
        ({"content": "d2"}, "has files with the names of process 0 (on a), but another content."),
        ({"step": 0}, "found the checkpoint of step 0, but process 0 (on a) that of step 5. Give all the same --out"),
    ],
)
def test_a_process_that_trains_something_else_is_told_apart(change: dict[str, object], text: str) -> None:
    found = difference_of(replace(SAME, host="b", **change), SAME)  # type: ignore[arg-type]
    assert found.startswith(text)
    assert bool(found) is bool(text)


def test_facts_are_compared_and_a_process_that_does_not_arrive_is_named() -> None:
    store = torch.distributed.HashStore()
    other = Meeting(1, 3, store)
    other.put("facts", replace(SAME, host="b").to_json())
    with pytest.raises(RuntimeError, match=r"^Process 2 of 3 did not arrive within 0 s of the others\.$"):
        compare_facts(Meeting(0, 3, store), SAME, 0.1)
    Meeting(2, 3, store).put("facts", replace(SAME, host="c", step=3).to_json())
    with pytest.raises(ValueError, match=r"^Process 2 of 3 \(on c\) found the checkpoint of step 3"):
        compare_facts(Meeting(0, 3, store), SAME, 5)
    Meeting(2, 3, store).put("facts", SAME.to_json())
    compare_facts(Meeting(0, 3, store), SAME, 5)


def test_facts_depend_on_settings_and_images_and_on_no_path(photos: Path, tmp_path: Path) -> None:
    def facts(data: Path, **changes: object) -> Facts:
        run = tiny_run(data, tmp_path / "run", **changes)
        known = {"image_size": 16, "precision": "fp32", "workers": 0, "decode_size": 32, "frozen_epochs": 0.0}
        return facts_of(Resolved(**(vars(run) | known)), open_source(data), 0)  # type: ignore[arg-type]

    own = Path(shutil.copytree(photos, tmp_path / "photos"))
    assert difference_of(facts(own), facts(photos)) == ""
    assert "seed 1 there, 0 here" in difference_of(facts(photos, seed=1), facts(photos))
    image = own / "image 0.jpg"
    image.write_bytes((own / "image 3.jpg").read_bytes())
    assert "another content" in difference_of(facts(own), facts(photos))
    image.unlink()
    assert "has 39 images, but process 0" in difference_of(facts(own), facts(photos))


# ---------------------------------------------------------------- processes that stop


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setenv("LOOKALIKE_TIMEOUT", "4")
    return 4


def simclr(photos: Path, out: Path, *more: object, launcher: Sequence[str] = ()) -> Training:
    return Training(out, "pretrain", "simclr", photos, "--devices", 2, *TINY, *more, launcher=launcher)


def stopped(run: Training, number: int) -> int:
    pid = run.starts(number)
    os.kill(pid, signal.SIGSTOP)
    return pid


def test_a_process_that_stops_is_named_and_all_end(photos: Path, tmp_path: Path, limit: int) -> None:
    with simclr(photos, tmp_path / "run", "--save-every", 1) as run:
        run.trains()
        pid = stopped(run, 1)
        text = run.ends(1)
    where = rf"process {pid} on {re.escape(socket.gethostname())}"
    assert re.search(rf"error: Process 1 of 2 \({where}\) did not arrive in step \d+ within 4 s, and does not", text)
    assert "LOOKALIKE_TIMEOUT sets another limit, in seconds." in text
    assert f"last.ckpt is intact: resume with lookalike pretrain --resume --out {run.out.path}" in text
    log = run.out.log.read_text()
    assert "Python stacks of process 0 (" in log
    assert f"Python stacks of process 1 ({pid} on {socket.gethostname()}):\nnone: it does not answer" in log
    assert "trainer.fit" not in text  # stacks are in the log only


@pytest.mark.slow
def test_the_first_process_is_named_too(photos: Path, tmp_path: Path, limit: int) -> None:
    """It holds the store, so nobody can ask the others."""
    with simclr(photos, tmp_path / "run", "--save-every", 1) as run:
        run.trains()
        second = run.starts(1)
        os.kill(run.process.pid, signal.SIGSTOP)
        deadline = time.monotonic() + 120
        while is_running(second) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not is_running(second)
        assert "error: Process 0 of 2 did not answer within" in run.said.read_text()
        os.kill(run.process.pid, signal.SIGCONT)
        run.ends(1)
    assert "Python stacks of process 1 (" in run.out.log.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1])
def test_a_process_of_torchrun_that_stops_is_named(photos: Path, tmp_path: Path, limit: int, number: int) -> None:
    with simclr(photos, tmp_path / "run", "--save-every", 1, launcher=TORCHRUN) as run:
        run.trains()
        stopped(run, number)
        text = run.ends(1)
    assert re.search(rf"error: Process {number} of 2 \(.+\) did not arrive in step \d+ within 4 s, and does not", text)
    assert f"Python stacks of process {1 - number} (" in run.out.log.read_text()


@pytest.mark.slow
def test_a_training_that_is_suspended_continues(photos: Path, tmp_path: Path, limit: int) -> None:
    """As by Ctrl-Z and fg: all of its processes stop for longer than they may wait."""
    with simclr(photos, tmp_path / "run") as run:
        run.trains(checkpoint=False)
        pids = [run.process.pid, run.starts(1)]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(2 * limit)
        before = len(run.out.rows())
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        run.await_(lambda: len(run.out.rows()) > before)
        time.sleep(2 * limit)
        assert run.process.poll() is None


@pytest.mark.slow
def test_a_killed_loading_process_of_one_rank_ends_all(photos: Path, tmp_path: Path) -> None:
    with simclr(photos, tmp_path / "run", "--workers", 1) as run:
        run.trains(checkpoint=False)
        second = run.starts(1)
        (worker,) = (pid for pid in run.started_by(second) if "multiprocessing" not in named(pid))
        os.kill(worker, signal.SIGKILL)
        text = run.ends(1)
    assert "error: A loading process died: " in text
    assert "error: Process 1 of 2 failed (exit code 1); its own message has the reason." in text


SLEEPS = """
import sys, time
import lookalike
from lightning.pytorch import Callback
from lookalike import cli, distributed
from lookalike.training import stages

class Sleeps(Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if distributed.rank() == 1 and batch_idx == 30:
            self.never_returns()

    def never_returns(self):
        time.sleep(1e6)

make = stages.make_trainer
stages.make_trainer = lambda run, folder, callbacks, watchdog: make(run, folder, [Sleeps(), *callbacks], watchdog)
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_process_that_waits_without_end_is_named_with_the_line_that_waits(
    photos: Path, tmp_path: Path, limit: int
) -> None:
    """As for a file system that does not answer. It is alive and sends its stack."""
    script = tmp_path / "sleeps.py"
    script.write_text(SLEEPS)
    out = tmp_path / "run"
    command = ["pretrain", "simclr", str(photos), "--devices", "2", *TINY, "--out", str(out), "--no-report"]
    done = subprocess.run(
        [sys.executable, *TORCHRUN, str(script), *command], capture_output=True, text=True, timeout=300
    )
    text = done.stdout + done.stderr
    assert done.returncode == 1, text
    expected = (
        r"error: Process 1 of 2 \(.+\) did not arrive in step 31 within 4 s: it waits for the images of step 31\."
    )
    assert re.search(expected, text), text
    log = Folder(out).log.read_text()
    assert "never_returns" in log.split("Python stacks of process 1")[1]


# ---------------------------------------------------------------- processes that differ


def each(tmp_path: Path, command: str, **environment: str) -> str:
    """What two processes print that torchrun starts with a shell command of their own, which must fail."""
    launch = [sys.executable, *TORCHRUN, "--no-python", "bash", "-c", command]
    done = subprocess.run(launch, capture_output=True, text=True, timeout=300, env=os.environ | environment)
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("own", "says"),
    [
        ("data", "Process 1 of 2 (on HOST) has 39 images, but process 0 (on HOST) has 40 images."),
        ("--seed $RANK", "Process 1 of 2 (on HOST) has other settings than process 0 (on HOST): seed 1 there, 0 here."),
        ("code", "Process 1 of 2 (on HOST) has another source of lookalike than process 0 (on HOST)."),
    ],
)
def test_a_process_with_other_data_settings_or_code_is_named(photos: Path, tmp_path: Path, own: str, says: str) -> None:
    data = f"{tmp_path}/photos$RANK"
    for rank in range(2):
        copy = Path(shutil.copytree(photos, tmp_path / f"photos{rank}"))
        code = tmp_path / f"code{rank}"
        shutil.copytree(Path(lookalike.__file__).parent, code / "lookalike")
        if rank == 1 and own == "data":
            (copy / "image 0.jpg").unlink()
        if rank == 1 and own == "code":
            with open(code / "lookalike/losses.py", "a") as file:
                file.write("# changed\n")
    words = [
        sys.executable,
        "-m",
        "lookalike",
        "pretrain",
        "simclr",
        data,
        "--devices 2",
        *TINY,
        f"--out {tmp_path}/run",
    ]
    words += [own] if own.startswith("--") else []
    text = each(tmp_path, f'PYTHONPATH="{tmp_path}/code$RANK" {" ".join(words)}')
    assert f"error: {says.replace('HOST', socket.gethostname())}" in text
    # on a busy machine process 0 may need longer than the other one waits for it before it reports the same
    assert len({line for line in text.splitlines() if "error: " in line}) == 1, text
    assert not (tmp_path / "run/run.yaml").exists()


@pytest.mark.slow
def test_a_port_in_use_is_named(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        monkeypatch.setenv("MASTER_PORT", port)
        with simclr(photos, tmp_path / "run") as run:
            text = run.ends(1)
    assert f"error: Port {port} of this machine is in use" in text
    assert "Traceback" not in text
    assert not run.out.run.exists()
    with simclr(photos, tmp_path / "run") as run:  # it is free now
        run.trains(checkpoint=False)


def test_an_odd_batch_is_refused_before_processes_start(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["pretrain", "simclr", str(photos), *TINY, "--batch-size", "9", "--devices", "2", "--out", str(tmp_path)]
    assert cli.main(argv) == 1
    assert "A batch of 9 is not divisible into 1 micro-batches for each of 2 processes." in capsys.readouterr().err


# ---------------------------------------------------------------- another number of processes


def trains(count: int, seen: Path, stop: int, *arguments: str, code: int = 0) -> None:
    """A training by so many processes."""
    seen.mkdir()
    script = [str(Path(__file__).with_name("some_processes.py")), str(seen), str(stop)]
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)] if count > 1 else []
    command = [sys.executable, *launch, *script, *arguments, "--devices", str(count), "--no-report"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode in ((code,) if count == 1 else (code, min(code, 1))), done.stdout + done.stderr


def images(*folders: Path) -> list[list[int]]:
    """The images of each step, over all processes."""
    steps: dict[int, list[int]] = {}
    for file in (file for folder in folders for file in folder.glob("*.jsonl")):
        for step, index in map(json.loads, file.read_text().splitlines()):
            steps.setdefault(step, []).extend(index)
    return [sorted(steps[step]) for step in sorted(steps)]


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (4, 2)])
def test_a_run_resumes_on_another_number_of_processes(photos: Path, tmp_path: Path, before: int, after: int) -> None:
    """In the middle of an epoch. No image is lost or repeated, and in float64 the weights are those of one process."""
    new = ["pretrain", "simclr", str(photos), *TINY[:-1], "3", "--precision", "fp64", "--out"]
    trains(1, tmp_path / "all", 0, *new, str(tmp_path / "whole"))
    out = str(tmp_path / "run")
    trains(before, tmp_path / "first", 7, *new, out, code=143)
    trains(after, tmp_path / "second", 0, "pretrain", "--resume", "--out", out)
    assert images(tmp_path / "first", tmp_path / "second") == images(tmp_path / "all")
    assert [len(step) for step in images(tmp_path / "all")] == [8] * 15
    assert f"PROCESSES   changed from {before} to {after}: the batches are the same" in Folder(out).log.read_text()
    one, two = (
        torch.load(Folder(place).last, weights_only=True)["state_dict"] for place in (tmp_path / "whole", Path(out))
    )
    for name, value in one.items():
        # steps of this length double a difference in rounding again and again; another image would change a digit
        assert float((value - two[name]).double().abs().max()) <= 1e-5 * max(float(value.double().abs().max()), 1), name


def test_the_log_says_that_the_number_of_processes_has_changed(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2)
        with suppress(KeyboardInterrupt):
            training.pretrain(tiny_run(photos, out))
    training.pretrain(replace(tiny_run(photos, out), resume=True, epochs=4))
    assert "PROCESSES" not in capsys.readouterr().out
    file = Folder(out).last
    content = torch.load(file, weights_only=True)
    content["lookalike"]["run"]["devices"] = 2
    torch.save(content, file)
    training.pretrain(replace(tiny_run(photos, out), resume=True, epochs=5))
    assert "PROCESSES   changed from 2 to 1: the batches are the same, but bits may differ" in capsys.readouterr().out
